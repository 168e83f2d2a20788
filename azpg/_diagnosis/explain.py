"""Kind and hint for any psycopg exception, also for one that something else has wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import FinishedPGconn

from azpg._record import Record
from azpg.errors import ConfigError, ConnectError

from .classify import diagnose
from .hints import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

_VAGUE = {"unknown", "closed", "pool-timeout"}
"""kinds that say less than an error behind them may"""


class Explanation(Record):
    """Say what an error means.

    `kind` is a short word to branch on, `"unknown"` where azpg does not know the error; `hint` is
    what to type, or empty; `transient` tells whether another try on a new connection may succeed.
    """

    __module__ = "azpg"

    kind: str = "unknown"
    hint: str = ""
    transient: bool = False


def explain(error: BaseException) -> Explanation:
    """Return what an error means, be it azpg's, psycopg's, or one that wraps theirs.

    `error` may be of a connect, of a query (told by its SQLSTATE) or of a pool. SQLAlchemy's,
    Django's and your own wrappers, and exception groups, are looked through for the error behind
    them. Nothing is raised: an error that is not known has the kind `"unknown"` and no hint.

    >>> error = psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only ...")
    >>> azpg.explain(error).kind
    'read-only'
    """
    vague = Explanation()
    for behind in _chain(error):
        found = _judged(behind)
        if found.kind not in _VAGUE:
            return found
        if vague.kind == "unknown":
            vague = found
    return vague


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then what it was made from, nearest first."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    for link in waiting:  # grows on the way
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [getattr(link, "orig", None), link.__cause__]
        if isinstance(link, BaseExceptionGroup):
            waiting += link.exceptions
        # What a driver's error happened to be raised beside is another matter
        if not isinstance(link, psycopg.Error) and not link.__suppress_context__:
            waiting.append(link.__context__)


def _judged(error: BaseException) -> Explanation:
    if isinstance(error, ConnectError | ConfigError) and error.kind != "unknown":
        return Explanation(kind=error.kind, hint=error.hint, transient=error.transient)
    state = getattr(error, "sqlstate", None)  # asyncpg's errors have it too
    if not isinstance(error, psycopg.Error) and not isinstance(state, str):
        return Explanation()
    found = diagnose(str(error), _context(error), state or "")
    return Explanation(kind=found.kind, hint=found.hint, transient=found.transient)


def _context(error: BaseException) -> Context:
    conn = getattr(error, "pgconn", None)
    if not isinstance(conn, FinishedPGconn):
        return Context()
    option = {option.keyword: option.val for option in conn.info}
    return Context(
        host=_text(conn.host or conn.hostaddr) or "the server",
        port=_text(conn.port) or "5432",
        user=_text(conn.user),
        dbname=_text(conn.db),
        entra=conn.password.startswith(b"eyJ"),  # as every JWT does
        secret_length=len(conn.password),
        root_file=_text(option.get(b"sslrootcert")),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
