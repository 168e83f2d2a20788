"""Kind and hint for any exception: azpg's, psycopg's, a pool's, and what wraps them."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors as e

import azpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_servers import Postgres

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
def test_an_error_means_what_it_says(error: BaseException, explanation: azpg.Explanation) -> None:
    """An error of azpg's is repeated, and what is not known is no guess."""
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
def test_psycopgs_errors_are_known(
    error: psycopg.Error, kind: str, transient: bool, hint: str
) -> None:
    """Those of a query by their SQLSTATE, those of a connect by their text."""
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
    ids=["from", "beside", "orig", "deep", "closed", "pool", "unknown", "group"],
)
def test_a_wrapper_is_looked_through(
    wrapped: Callable[[BaseException], BaseException],
) -> None:
    """What says less than the error behind it gives way to that."""
    assert azpg.explain(wrapped(KNOWN)) == azpg.Explanation(kind="login", hint="do this")


def test_a_wrappers_own_meaning_comes_first() -> None:
    """The error behind one that is known is another matter, as is one that was only beside it."""
    assert azpg.explain(linked(copy.copy(KNOWN), __cause__=REFUSED)).kind == "login"
    assert azpg.explain(linked(e.UniqueViolation(), __context__=REFUSED)).kind == "unknown"
    hidden = linked(RuntimeError(), __context__=REFUSED, __suppress_context__=True)
    assert azpg.explain(hidden).kind == "unknown"


def test_the_vague_is_told_where_nothing_is_behind() -> None:
    """A connection that is closed, or a pool that has none, for no reason that is known."""
    closed = psycopg.OperationalError("the connection is closed")
    assert azpg.explain(linked(RuntimeError(), __cause__=closed)).kind == "closed"


def test_errors_that_lead_to_each_other_end() -> None:
    """A chain may be a ring."""
    first, second = RuntimeError(), RuntimeError()
    linked(first, __cause__=second)
    linked(second, __cause__=first, orig=first)
    assert azpg.explain(first) == azpg.Explanation()


def test_another_drivers_sqlstate_counts() -> None:
    """As asyncpg's errors have; an attribute that is none is passed over."""
    error = linked(RuntimeError("terminating connection"), sqlstate="57P01")
    assert azpg.explain(error).kind == "starting"
    assert azpg.explain(linked(RuntimeError("Connection refused"), sqlstate=3)).kind == "unknown"


# For real


def test_psycopgs_own_connect_is_explained(free_port: int) -> None:
    """With the port and the name it was tried with, and the way round PgBouncer's limit."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(host="127.0.0.1", port=free_port, user="o'b", password="eyJ" + "x" * 3000)
    found = azpg.explain(caught.value)
    assert found.hint.startswith(f"nothing listens on port {free_port} of 127.0.0.1")
    error = type(caught.value)("password authentication failed", pgconn=caught.value.pgconn)
    assert "pgaadauth_create_principal('o''b', false, false)" in azpg.explain(error).hint


def test_a_password_is_in_no_explanation(postgres: Postgres) -> None:
    """It is left in psycopg's error, where its length and form alone are looked at."""
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(
            host=postgres.hostaddr, port=postgres.port, user="app", password="s3cret-s3cret"
        )
    found = azpg.explain(caught.value)
    assert found.kind == "login"
    assert "s3cret" not in repr(found)


def test_a_pools_cause_is_explained(free_port: int) -> None:
    """It stands behind the PoolTimeout of an azpg pool."""
    pool = azpg.ConnectionPool(
        kwargs={"host": "localhost", "sslmode": "disable", "password": "x", "port": free_port},
        open=False,
    )
    with pytest.raises(psycopg.OperationalError) as caught:
        pool.open(wait=True, timeout=0.1)
    assert type(caught.value).__name__ == "PoolTimeout"
    assert azpg.explain(caught.value).kind == "refused"


def test_sqlalchemys_error_is_explained(free_port: int) -> None:
    """It keeps the driver's as `orig`."""
    engine = sa.create_engine(f"postgresql+psycopg://u:p@127.0.0.1:{free_port}/d")
    with pytest.raises(sa.exc.OperationalError) as caught:
        engine.connect()
    assert azpg.explain(caught.value).kind == "refused"


# What it returns


def test_an_explanation_is_a_frozen_value() -> None:
    """It can be compared, copied, pickled and shown, and not be changed."""
    found = azpg.explain(KNOWN)
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    assert repr(found) == "Explanation(kind='login', hint='do this', transient=False)"
    with pytest.raises(AttributeError):
        found.kind = "x"  # type: ignore[misc]
