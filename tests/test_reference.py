"""The reference: every name and option stands there, with the default that it has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict

import azpg
import azpg.asyncpg
from azpg import _retry
from azpg._tls.roots import PEM_FILE
from azpg._tokens.refresh_policy import (
    NEXT_REQUEST_AFTER_SECONDS,
    REFRESH_THRESHOLD_SECONDS,
    REJECTION_COOLDOWN_SECONDS,
    REQUEST_BACKOFF_INITIAL_SECONDS,
    REQUEST_BACKOFF_MAX_SECONDS,
)
from azpg._tokens.token import MIN_REMAINING_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
PAGE = REFERENCE / "options.md"
API = (REFERENCE / "api.md").read_text()
PSYCOPGS = {*inspect.signature(psycopg.connect).parameters, "conninfo"}


def table(heading: str) -> dict[str, str]:
    """Return the first two columns of the table under a heading."""
    (chapter,) = re.findall(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    _, *rows = re.findall(r"^\| (.*?) \| (.*?) \|", chapter, re.MULTILINE)
    return {name.strip("`"): value for name, value in rows}


def defaults(function: Callable[..., Any], without: Collection[str]) -> dict[str, str]:
    """Return the defaults of a function's options, written as on the page."""
    return {
        name: f"`{getattr(option.default, '__name__', repr(option.default))}`"
        for name, option in inspect.signature(function).parameters.items()
        if name not in without
    }


def test_azpgs_own_options_are_all_there() -> None:
    """The page has azpg.connect's options, apart from psycopg's, with their defaults."""
    assert table("azpg's own") == defaults(azpg.connect, PSYCOPGS)


def test_a_pools_options_are_all_there() -> None:
    """The page has create_pool's further options with their defaults, also of the async one."""
    connects = {*inspect.signature(azpg.connect).parameters, "keywords"} - {"kwargs"}
    assert table("Pools") == defaults(azpg.create_pool, connects)
    assert table("Pools") == defaults(azpg.create_pool_async, connects)


def test_a_pools_options_have_the_defaults_of_psycopg_pool() -> None:
    """A pool keeps psycopg_pool's defaults, but for two."""
    theirs = inspect.signature(psycopg_pool.ConnectionPool).parameters
    ours = inspect.signature(azpg.create_pool).parameters
    shared = theirs.keys() & ours.keys() - {"conninfo", "connection_class"}
    changed = {name for name in shared if ours[name].default != theirs[name].default}
    assert len(shared) > 10
    # None is psycopg_pool's 4, or 0 in a pool that keeps none; its open=None is an old False
    assert changed == {"min_size", "open"}


def test_asyncpgs_options_are_all_there() -> None:
    """The page has what azpg.asyncpg.connect reads itself, with its defaults."""
    read = defaults(azpg.asyncpg.connect, inspect.signature(azpg.connect).parameters)
    assert table("asyncpg") == read


def test_the_options_of_entra_password_are_all_there() -> None:
    """The page has EntraPassword's options with their defaults."""
    public = {"cloud": f"`{azpg.AZURE_PUBLIC!r}`"}
    assert table("EntraPassword") | public == defaults(azpg.EntraPassword, ())


def test_what_libpq_is_handed_is_all_there() -> None:
    """The page has each keyword that azpg fills in, with its value."""
    handed = conninfo_to_dict(azpg.conninfo(server="myserver"))
    del handed["host"]
    assert handed.pop("sslrootcert") == str(PEM_FILE)
    shown = table("What libpq is handed")
    assert shown.pop("sslrootcert") == "azpg's file of root certificates"
    assert shown == {name: f"`{value}`" for name, value in handed.items()}


def test_the_times_are_those_of_the_code() -> None:
    """The page has the seconds that cannot be set."""
    section = PAGE.read_text().split("## Times that cannot be set")[1]
    seconds = [float(value) for value in re.findall(r"^\| ([\d.]+) \|", section, re.MULTILINE)]
    assert seconds == [
        MIN_REMAINING_SECONDS,
        REFRESH_THRESHOLD_SECONDS,
        REJECTION_COOLDOWN_SECONDS,
        NEXT_REQUEST_AFTER_SECONDS,
        REQUEST_BACKOFF_INITIAL_SECONDS,
        REQUEST_BACKOFF_MAX_SECONDS,
        _retry.INITIAL_DELAY_SECONDS,
        _retry.MAX_DELAY_SECONDS,
        _retry.POOL_MAX_DELAY_SECONDS,
        _retry.TOO_MANY_CONNECTIONS_DELAY_SECONDS,
    ]


def test_every_public_name_is_in_the_reference() -> None:
    """The page of the library names all that azpg exports, and nothing else of azpg's own."""
    named = re.findall(
        r"^\.\. (?!automodule)(?:auto)?\w+:: azpg\.(\w+)(?:\(.*\))?$", API, re.MULTILINE
    )
    assert sorted(named) == sorted(azpg.__all__)


def test_each_cloud_is_told_by_its_name_and_its_hosts() -> None:
    """The page of the library says what each cloud is called, and what its hosts end in."""
    entries = re.findall(r"data:: azpg\.(\w+)\n\n((?: +.*\n)+)", API)
    assert len(entries) == 4
    for constant, text in entries:
        cloud = getattr(azpg, constant)
        named, *suffixes = re.findall("`(.*?)`", text)
        assert (named, tuple(suffixes)) == (f'cloud="{cloud.name}"', cloud.suffixes)
