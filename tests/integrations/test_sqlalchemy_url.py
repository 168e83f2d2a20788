"""SQLAlchemy URLs: azpg's options with their types, and invalid URLs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

import azpg
from azpg.sqlalchemy import Dialect

pytestmark = pytest.mark.compat


def read(query: str) -> dict[str, Any]:
    """Return what a URL with this query hands to azpg.connect."""
    dialect = Dialect()  # type: ignore[no-untyped-call]
    args, options = dialect.create_connect_args(make_url(f"postgresql+azpg://{query}"))
    assert not args
    return dict(options)


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("", {}),
        ("/mydb?server=myserver", {"dbname": "mydb", "server": "myserver"}),
        ("?client_id=1234&cloud=usgov", {"client_id": "1234", "cloud": "usgov"}),
        ("?pgbouncer=true", {"pgbouncer": True}),
        ("?pgbouncer=Off", {"pgbouncer": False}),
        ("?autocommit=0", {"autocommit": False}),
        ("?retry_timeout=2.5", {"retry_timeout": 2.5}),
        ("?prepare_threshold=3", {"prepare_threshold": 3}),
        ("?prepare_threshold=None", {"prepare_threshold": None}),
        ("?sslmode=require&keepalives=1", {"sslmode": "require", "keepalives": "1"}),
        ("u%40d:p%2Fw@h:1/d", {"user": "u@d", "password": "p/w", "host": "h", "port": 1,
                               "dbname": "d"}),
        ("/d?host=a:1&host=b:2", {"dbname": "d", "host": "a,b", "port": "1,2"}),
    ],
)  # fmt: skip
def test_options_of_a_url_are_converted(query: str, meant: dict[str, Any]) -> None:
    """A URL's options get the types that azpg takes; libpq's keywords stay text."""
    assert read(query) == meant


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("pgbouncer=maybe", "pgbouncer='maybe' in the URL is not true or false"),
        ("autocommit=2", "autocommit='2' in the URL is not true or false"),
        ("retry_timeout=soon", "retry_timeout='soon' in the URL is not a number of seconds"),
        ("retry_timeout=-1", "retry_timeout='-1' in the URL is not a number of seconds"),
        ("retry_timeout=inf", "retry_timeout='inf' in the URL is not a number of seconds"),
        ("prepare_threshold=.5", "prepare_threshold='.5' in the URL is not a whole number or None"),
        ("server=a&server=b", "server is in the URL 2 times: write it once"),
        ("pgbouncer=1&pgbouncer=1", "pgbouncer is in the URL 2 times: write it once"),
        (
            "credential=DefaultAzureCredential",
            "credential in a URL is text: pass connect_args={'credential': …}",
        ),
        (
            "row_factory=dict_row",
            "row_factory in a URL is text: pass connect_args={'row_factory': …}",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("create", [create_engine, create_async_engine])
def test_an_invalid_url(create: Any, query: str, problem: str) -> None:
    """create_engine raises the problems of a URL before it connects."""
    with pytest.raises(azpg.ConfigError) as caught:
        create(f"postgresql+azpg://?{query}")
    assert caught.value.problems == (problem,)


def test_all_problems_of_a_url_are_reported() -> None:
    """Two problems are two lines."""
    with pytest.raises(azpg.ConfigError) as caught:
        read("?pgbouncer=maybe&retry_timeout=soon")
    assert len(caught.value.problems) == 2


@given(st.text())
def test_any_text_is_converted_or_rejected(text: str) -> None:
    """A number is finite and not negative, a boolean is true or false; else it is a ConfigError."""
    url = make_url("postgresql+azpg://").update_query_dict(
        {"retry_timeout": text, "pgbouncer": text, "prepare_threshold": text}
    )
    try:
        _, options = Dialect().create_connect_args(url)  # type: ignore[no-untyped-call]
    except azpg.ConfigError as error:
        assert error.problems  # noqa: PT017  # rejected or accepted
    else:
        if options:  # without any the first connect raises the error
            assert 0 <= options["retry_timeout"] < math.inf
            assert isinstance(options["pgbouncer"], bool)


SECRETS = [
    "sslpassword=hunter2",
    "scram_client_key=hunter2",
    "passwrd=hunter2",
    "passwrd=hunter2&passwrd=hunter2",
    "host=app:hunter2@db",
]


@pytest.mark.parametrize("query", SECRETS)
def test_a_secret_of_the_query_is_masked(query: str) -> None:
    """What may be a secret is masked in an engine's repr and in its connects' arguments."""
    url = f"postgresql+azpg://app:hunter2@/mydb?{query}&application_name=shop"
    engine = create_engine(url)
    options = read(url.removeprefix("postgresql+azpg://"))
    for shown in (repr(engine), str(engine.url), repr(options)):
        assert "hunter2" not in shown
        assert "shop" in shown or not options
    assert make_url(engine.url) == make_url(url)
    assert engine.url.render_as_string(hide_password=False).count("hunter2") == url.count("hunter2")
