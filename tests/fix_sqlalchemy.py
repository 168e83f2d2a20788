"""SQLAlchemy's sync and async engines with one interface, for `postgresql+azpg://`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_api import Api

HERE = "postgresql+azpg://?server=myserver"


class Engines:
    """Make engines of one API, and use them as a test does."""

    def __init__(self, api: Api, closing: contextlib.ExitStack) -> None:
        self.api = api
        self._closing = closing

    def make(self, url: Any = HERE, **options: Any) -> Any:
        """Return an engine, which is disposed of at the end."""
        create = create_engine if self.api.kind == "sync" else create_async_engine
        engine: Any = create(url, **options)
        self._closing.callback(lambda: self.api.run(engine.dispose()))
        return engine

    def open(self, engine: Any) -> Any:
        """Check out a connection, which is given back at the end."""
        connecting = engine.connect()
        conn = connecting if self.api.kind == "sync" else self.api.run(connecting)
        self._closing.callback(lambda: self.close(conn))
        return conn

    def close(self, conn: Any) -> None:
        """Give a connection back."""
        self.api.run(conn.close())

    def ask(self, conn: Any, query: str) -> Any:
        """Return the first value that a query gives on a connection."""
        return self.api.run(conn.exec_driver_sql(query)).scalar_one()

    def scalar(self, engine: Any, query: str) -> Any:
        """Return the first value that a query gives on a connection of its own."""
        conn = self.api.run(engine.connect())
        try:
            return self.ask(conn, query)
        finally:
            self.close(conn)

    def driver(self, conn: Any) -> Any:
        """Return the driver's connection below a SQLAlchemy connection."""
        raw = self.api.run(conn.get_raw_connection()) if self.api.kind == "async" else conn
        return (
            raw.driver_connection if self.api.kind == "async" else conn.connection.driver_connection
        )


@pytest.fixture
def engines(api: Api) -> Iterator[Engines]:
    """Make engines, and dispose of them at the end."""
    with contextlib.ExitStack() as closing:
        yield Engines(api, closing)
