"""The reference: every name and option stands there, with the default that it has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import psycopg
import psycopg_pool
from psycopg.conninfo import conninfo_to_dict

import azpg
import azpg.asyncpg
from azpg import _retry
from azpg._diagnosis.patterns import PATTERNS
from azpg._tls.roots import PEM_FILE
from azpg._tokens.refresh_policy import (
    NEXT_REQUEST_AFTER_SECONDS,
    REFRESH_THRESHOLD_SECONDS,
    REJECTION_COOLDOWN_SECONDS,
    REQUEST_BACKOFF_INITIAL_SECONDS,
    REQUEST_BACKOFF_MAX_SECONDS,
)
from azpg._tokens.token import MIN_REMAINING_SECONDS
from azpg.errors import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SOURCE = Path(azpg.__file__).parent
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
    assert table("azpg's options") == defaults(azpg.connect, PSYCOPGS)


def test_a_pools_options_are_all_there() -> None:
    """The page has create_pool's further options with their defaults, also of the async one."""
    connects = {*inspect.signature(azpg.connect).parameters, "keywords"} - {"kwargs"}
    assert table("Connection pools") == defaults(azpg.create_pool, connects)
    assert table("Connection pools") == defaults(azpg.create_pool_async, connects)


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
    shown = table("Connection parameters")
    assert shown.pop("sslrootcert") == "azpg's file of root certificates"
    assert shown == {name: f"`{value}`" for name, value in handed.items()}


def test_the_times_are_those_of_the_code() -> None:
    """The page has the seconds that cannot be set."""
    section = PAGE.read_text().split("## Fixed times")[1].split("\n## ")[0]
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
    """The page of the library names all that azpg exports, and no other azpg name."""
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


ERROR_KINDS = """
    config file-descriptors event-loop credential credential-timeout interaction-required no-user
    callback token-expired token-audience token-invalid login no-role wrong-role wrong-object-id
    no-login no-connect no-database firewall no-tls auth-method startup-parameter server-option
    server-fault pgbouncer-password-length certificate certificate-name client-certificate root-file
    tls tls-refused direct-tls resolver unknown-host timeout refused no-route no-socket cut
    too-many-connections starting pgbouncer-server no-replica session-attrs protocol read-only
    storage-full idle query-timeout prepared-statement extension permission closed configure
    pool-timeout pool-closed unknown
"""
"""Programs branch on them. docs/reference/support.md says how one may be renamed or removed."""


def test_no_error_kind_is_renamed() -> None:
    """The kinds are those that were published; a new one is added to this list."""
    assert sorted(KINDS) == sorted(ERROR_KINDS.split())


def test_each_error_kind_is_in_the_reference() -> None:
    """The page has each kind with its class, whether it is transient, and its meaning."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| `(\w+)` \| (\w+) \| (.*) \|$",
        (REFERENCE / "errors.md").read_text(),
        re.MULTILINE,
    )
    transient = {True: "yes", False: "no", None: "depends"}
    assert rows == [
        (name, kind.error.__name__, transient[kind.transient], kind.meaning)
        for name, kind in KINDS.items()
    ]


def test_every_error_kind_that_azpg_raises_is_listed() -> None:
    """The table of patterns has listed kinds only, and so has every error with a kind of its own.

    An error that is raised in the code has the class and the transience of its kind.
    """
    assert {pattern.kind for pattern in PATTERNS} <= KINDS.keys()
    raised = set()
    for path in SOURCE.rglob("*.py"):
        if "emulator" not in path.parts:
            for call in filter(_has_kind, ast.walk(ast.parse(path.read_text()))):
                given = {each.arg: each.value for each in call.keywords}
                kind = ast.literal_eval(given["kind"])
                raised.add(kind)
                assert call.func.id.removeprefix("Pool") == KINDS[kind].error.__name__  # type: ignore[attr-defined]
                if KINDS[kind].transient is not None:
                    transient = given.get("transient", ast.Constant(value=False))
                    assert ast.literal_eval(transient) == KINDS[kind].transient
    assert raised >= {"callback", "configure", "no-user", "pool-timeout", "root-file"}


def _has_kind(node: ast.AST) -> TypeGuard[ast.Call]:
    """Return whether a node constructs an error with a literal kind."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.endswith("Error")
        and any(
            each.arg == "kind" and isinstance(each.value, ast.Constant) for each in node.keywords
        )
    )
