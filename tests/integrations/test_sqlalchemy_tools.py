"""Tools that take an SQLAlchemy URL or engine, with azpg: Alembic and pandas."""

from __future__ import annotations

import functools
import logging.config
from typing import TYPE_CHECKING

import alembic.command
import pandas as pd  # type: ignore[import-untyped]
import pytest
from alembic.config import Config
from sqlalchemy import NullPool, create_engine, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

URL = "postgresql+azpg:///postgres?server=myserver"

REVISION = '''
"""Sell apples."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None


def upgrade():
    op.create_table("apples", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("apples")
'''


@pytest.fixture
def engine(azure: Emulator) -> Iterator[Engine]:
    """Make an engine that keeps no connection."""
    engine = create_engine(URL, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def loggers_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the loggers of this process, which Alembic's environments disable."""
    configure = functools.partial(logging.config.fileConfig, disable_existing_loggers=False)
    monkeypatch.setattr("logging.config.fileConfig", configure)


@pytest.mark.usefixtures("loggers_enabled")
@pytest.mark.parametrize("template", ["generic", "async"])
def test_alembic(engine: Engine, tmp_path: Path, template: str) -> None:
    """The environments of `alembic init` upgrade and downgrade, sync and async."""
    config = Config(tmp_path / "alembic.ini")
    config.stdout = (tmp_path / "out").open("w")
    with config.stdout:
        alembic.command.init(config, str(tmp_path / "alembic"), template=template)
        config.set_main_option("sqlalchemy.url", URL)
        (tmp_path / "alembic" / "versions" / "1_apples.py").write_text(REVISION)
        alembic.command.upgrade(config, "head")
        assert inspect(engine).has_table("apples")
        alembic.command.downgrade(config, "base")
        assert not inspect(engine).has_table("apples")


def test_pandas(engine: Engine) -> None:
    """to_sql writes a frame and read_sql reads it, with an engine or a URL."""
    fruit = pd.DataFrame({"name": ["apple", "pear"], "weight": [0.25, None]})
    try:
        fruit.to_sql("fruit", engine, index=False)
        pd.testing.assert_frame_equal(pd.read_sql("select * from fruit", engine), fruit)
        query = "select * from fruit where name = %(name)s"
        assert len(pd.read_sql(query, URL, params={"name": "pear"})) == 1
    finally:
        with engine.begin() as conn:
            conn.exec_driver_sql("drop table if exists fruit")
