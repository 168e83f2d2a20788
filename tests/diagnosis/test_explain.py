"""Explain any exception: of azpg, psycopg, a pool, or of a library that wraps theirs."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from fix_pools import until
from psycopg import errors as e

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_servers import Postgres

pytestmark = pytest.mark.compat

REFUSED = psycopg.OperationalError("connection failed: Connection refused")
KNOWN = azpg.LoginError("no", kind="login", hint="do this")


def linked(outer: BaseException, **links: object) -> BaseException:
    """Return an error with its `__cause__`, `__context__` or `orig` set."""
    for name, link in links.items():
        setattr(outer, name, link)
    return outer


@pytest.mark.parametrize(
    ("error", "explanation"),
    [
        (KNOWN, azpg.Explanation(kind="login", hint="do this")),
        (
            azpg.UnreachableError("no", kind="cut", hint="x", transient=True),
            azpg.Explanation(kind="cut", hint="x", transient=True),
        ),
        (azpg.ConfigError("no host"), azpg.Explanation(kind="config")),
        (azpg.ConnectError("something new"), azpg.Explanation()),
        (ValueError("Connection refused"), azpg.Explanation()),
        (psycopg.OperationalError(""), azpg.Explanation()),
        (e.UniqueViolation("key (connection refused) exists"), azpg.Explanation()),
    ],
)
def test_an_error_of_azpg_keeps_its_kind_and_hint(
    error: BaseException, explanation: azpg.Explanation
) -> None:
    """An error of azpg has its attributes, an unknown one the kind "unknown" and no hint."""
    assert azpg.explain(error) == explanation


@pytest.mark.parametrize(
    ("error", "kind", "transient", "hint"),
    [
        (REFUSED, "refused", True, "nothing listens"),
        (e.AdminShutdown("terminating connection"), "starting", True, "failing over"),
        (e.ReadOnlySqlTransaction("cannot execute"), "read-only", False, "pg_is_in_recovery"),
        (e.TooManyConnections("sorry, too many clients"), "too-many-connections", True, "pools"),
        (e.InsufficientPrivilege("permission denied"), "permission", False, "grant"),
        (e.InvalidPassword("password authentication failed"), "login", False, "password"),
        (e.InvalidSqlStatementName('"x"'), "prepared-statement", False, "prepare_threshold=None"),
        (e.DuplicatePreparedStatement('"x"'), "prepared-statement", False, "pgbouncer=True"),
        (e.ProtocolViolation("query_wait_timeout"), "too-many-connections", True, "PgBouncer"),
        (e.ProtocolViolation("something new"), "unknown", False, ""),
    ],
)
def test_psycopgs_errors_are_classified(
    error: psycopg.Error, kind: str, transient: bool, hint: str
) -> None:
    """The errors of a query by their SQLSTATE, those of a connect by their message."""
    found = azpg.explain(error)
    assert (found.kind, found.transient) == (kind, transient)
    assert hint in found.hint


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda error: linked(RuntimeError(), __cause__=error),
        lambda error: linked(RuntimeError(), __context__=error),
        lambda error: linked(RuntimeError(), orig=error),
        lambda error: linked(RuntimeError(), __cause__=linked(KeyError(), __context__=error)),
        lambda error: linked(e.OperationalError("the connection is closed"), __cause__=error),
        lambda error: linked(e.OperationalError("couldn't get a connection"), __cause__=error),
        lambda error: linked(e.OperationalError("something new"), __cause__=error),
        lambda error: ExceptionGroup("", [ValueError(), ExceptionGroup("", [error])]),
    ],
    ids=["from", "context", "orig", "deep", "closed", "pool", "unknown", "group"],
)
def test_the_error_behind_a_wrapper_is_explained(
    wrapped: Callable[[BaseException], BaseException],
) -> None:
    """Also behind an error of psycopg that is less specific."""
    assert azpg.explain(wrapped(KNOWN)) == azpg.Explanation(kind="login", hint="do this")


def test_a_known_error_is_explained_before_its_causes() -> None:
    """The same holds for psycopg's errors, and a suppressed context is ignored."""
    assert azpg.explain(linked(copy.copy(KNOWN), __cause__=REFUSED)).kind == "login"
    assert azpg.explain(linked(e.UniqueViolation(), __context__=REFUSED)).kind == "unknown"
    hidden = linked(RuntimeError(), __context__=REFUSED, __suppress_context__=True)
    assert azpg.explain(hidden).kind == "unknown"


def test_an_unspecific_error_without_a_cause_is_explained() -> None:
    """Such as a closed connection."""
    closed = psycopg.OperationalError("the connection is closed")
    assert azpg.explain(linked(RuntimeError(), __cause__=closed)).kind == "closed"


def test_a_cycle_of_causes_ends() -> None:
    """Two errors can be each other's cause."""
    first, second = RuntimeError(), RuntimeError()
    linked(first, __cause__=second)
    linked(second, __cause__=first, orig=first)
    assert azpg.explain(first) == azpg.Explanation()


def test_the_sqlstate_of_another_driver_is_read() -> None:
    """Errors of asyncpg have one; an attribute `sqlstate` that is no text is ignored."""
    error = linked(RuntimeError("terminating connection"), sqlstate="57P01")
    assert azpg.explain(error).kind == "starting"
    assert azpg.explain(linked(RuntimeError("Connection refused"), sqlstate=3)).kind == "unknown"


# Real errors


def test_an_error_of_psycopgs_connect_is_explained(free_port: int) -> None:
    """The hint has the port, host and user of the attempt."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(host="127.0.0.1", port=free_port, user="o'b", password="eyJ" + "x" * 3000)
    found = azpg.explain(caught.value)
    assert found.hint.startswith(f"nothing listens on port {free_port} of 127.0.0.1")
    error = type(caught.value)("password authentication failed", pgconn=caught.value.pgconn)
    assert "pgaadauth_create_principal('o''b', false, false)" in azpg.explain(error).hint


def test_an_explanation_contains_no_password(postgres: Postgres) -> None:
    """The error of psycopg has the password, of which only length and form are read."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(
            host=postgres.hostaddr, port=postgres.port, user="app", password="s3cret-s3cret"
        )
    found = azpg.explain(caught.value)
    assert found.kind == "login"
    assert "s3cret" not in repr(found)


def test_the_cause_of_a_pools_timeout_is_explained(free_port: int) -> None:
    """It is the cause of the PoolTimeout that an azpg pool raises."""
    pool = azpg.ConnectionPool(
        kwargs={"host": "localhost", "sslmode": "disable", "password": "x", "port": free_port},
        open=False,
    )
    pool.open()
    until(lambda: pool.get_stats().get("connections_errors"))
    with pytest.raises(psycopg.OperationalError) as caught:
        pool.wait(timeout=0.1)
    assert type(caught.value).__name__ == "PoolConnectError"
    assert azpg.explain(caught.value).kind == "refused"


def test_an_error_of_sqlalchemy_is_explained(free_port: int) -> None:
    """It has the driver's error as `orig`."""
    engine = sa.create_engine(f"postgresql+psycopg://u:p@127.0.0.1:{free_port}/d")
    with pytest.raises(sa.exc.OperationalError) as caught:
        engine.connect()
    assert azpg.explain(caught.value).kind == "refused"


# Explanation


def test_an_explanation_is_immutable() -> None:
    """It can be compared, copied, pickled and printed, and its fields are its signature."""
    found = azpg.explain(KNOWN)
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    assert repr(found) == "Explanation(kind='login', hint='do this', transient=False)"
    with pytest.raises(AttributeError):
        found.kind = "x"  # type: ignore[misc]
    assert str(inspect.signature(azpg.Explanation)) == (
        "(*, kind: 'str' = 'unknown', hint: 'str' = '', transient: 'bool' = False) -> None"
    )
