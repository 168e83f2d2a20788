"""The tree of errors, which is part of psycopg's, and their attributes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import psycopg
import pytest

import azpg
from azpg import errors

pytestmark = pytest.mark.compat

CONNECT = [
    azpg.ConnectError,
    azpg.CredentialError,
    azpg.LoginError,
    azpg.TLSError,
    azpg.UnreachableError,
    azpg.ConnectTimeoutError,
]
COPIES = [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]


@pytest.mark.parametrize(
    ("error", "parents"),
    [
        (azpg.ConnectError, (psycopg.OperationalError,)),
        (azpg.CredentialError, (azpg.ConnectError,)),
        (azpg.LoginError, (azpg.ConnectError,)),
        (azpg.TLSError, (azpg.ConnectError,)),
        (azpg.UnreachableError, (azpg.ConnectError,)),
        (azpg.ConnectTimeoutError, (azpg.UnreachableError, psycopg.errors.ConnectionTimeout)),
        (azpg.ConfigError, (psycopg.ProgrammingError, ValueError)),
    ],
)
def test_the_tree_is_as_drawn(error: type[Exception], parents: tuple[type, ...]) -> None:
    """Every error is a psycopg error too."""
    assert error.__bases__ == parents
    assert issubclass(error, psycopg.Error)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_errors_module_is_azpg(name: str) -> None:
    """A traceback names what the user imports."""
    error = getattr(azpg, name)
    assert (error.__module__, error.__qualname__) == ("azpg", name)
    assert f" {name} " in (errors.__doc__ or "")


@pytest.mark.parametrize("error", CONNECT)
def test_existing_except_clauses_hold(error: type[azpg.ConnectError]) -> None:
    """Code that catches psycopg.OperationalError catches azpg's connect errors."""
    with pytest.raises(psycopg.OperationalError, match=r"\Ano\Z"):
        raise error("no")


def test_a_hint_ends_the_message() -> None:
    """What happened, then what to type."""
    assert (azpg.TLSError("no").kind, azpg.TLSError("no").hint) == ("unknown", "")
    error = azpg.TLSError("no", kind="certificate", hint="do this")
    assert str(error) == "no\nHINT: do this"
    assert (error.kind, error.hint, error.pgconn) == ("certificate", "do this", None)


def test_a_config_error_lists_its_problems() -> None:
    """One in each line, and one by one."""
    error = azpg.ConfigError(["a", "b"])
    assert str(error) == "a\nb"
    assert (error.problems, error.kind, error.hint) == (("a", "b"), "config", "")
    assert azpg.ConfigError("a").problems == ("a",)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
@pytest.mark.parametrize("error", CONNECT)
def test_a_copy_keeps_the_attributes(copied: Any, error: type[azpg.ConnectError]) -> None:
    """Copying and pickling, as process pools do, lose nothing and double nothing."""
    made = copied(error("no", kind="k", hint="h", transient=True))
    assert type(made) is error
    assert (str(made), made.kind, made.hint) == ("no\nHINT: h", "k", "h")
    assert made.transient


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_a_copy_keeps_the_problems(copied: Any) -> None:
    """One by one, as they were."""
    made = copied(azpg.ConfigError(["a", "b"]))
    assert (made.problems, str(made)) == (("a", "b"), "a\nb")
