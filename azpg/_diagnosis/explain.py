"""Explain any psycopg exception, also one that another library has wrapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import FinishedPGconn

from azpg._spelling import as_asyncpg_arguments, used
from azpg.errors import ConfigError, ConnectError

from .classify import classify
from .hints import HintContext, password_note

if TYPE_CHECKING:
    from collections.abc import Iterator

_PINNED_ROOTS = ("azpg", "_tls", "roots.pem")
"""The end of the path that `azpg.conninfo()` returns."""

_UNSPECIFIC_KINDS = {"unknown", "closed", "pool-timeout"}
"""Kinds that say less than an error behind them may."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The meaning of an error, as `explain` returns it.

    Attributes:
        kind: a short word to branch on, such as `"read-only"`; `"unknown"` if azpg does not know
            the error.
        hint: what to type; empty if azpg has no hint.
        transient: whether another attempt on a new connection may succeed without any change.
    """

    __module__ = "azpg"

    kind: str = "unknown"
    hint: str = ""
    transient: bool = False


def explain(error: BaseException) -> Explanation:
    """Explain an exception: its kind, a hint, and whether it is transient.

    Args:
        error: An error of azpg, psycopg or psycopg_pool, from a connect, a query (classified by its
            SQLSTATE) or a connection pool. It may be wrapped, as SQLAlchemy and Django do, or in an
            exception group.

    Returns:
        The `Explanation`. An unknown error has the kind `"unknown"` and no hint.

    >>> error = psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only ...")
    >>> azpg.explain(error).kind
    'read-only'
    """
    unspecific = Explanation()
    for cause in _causes(error):
        explanation = _classify(cause)
        if explanation.kind not in _UNSPECIFIC_KINDS:
            return explanation
        if unspecific.kind == "unknown":
            unspecific = explanation
    return unspecific


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors behind it, the nearest first."""
    pending: list[object] = [error]
    seen: set[int] = set()
    for cause in pending:  # grows while it is read
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [getattr(cause, "orig", None), cause.__cause__]
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
        # The context of a driver's own error is an unrelated error that was being handled
        if not isinstance(cause, psycopg.Error) and not cause.__suppress_context__:
            pending.append(cause.__context__)


def _classify(error: BaseException) -> Explanation:
    if isinstance(error, ConnectError | ConfigError) and error.kind != "unknown":
        return Explanation(kind=error.kind, hint=error.hint, transient=error.transient)
    sqlstate = getattr(error, "sqlstate", None)  # asyncpg's errors have it too
    if isinstance(error, psycopg.Error):
        found = classify(str(error), _hint_context(error), sqlstate or "")
    elif isinstance(sqlstate, str):
        with used(as_asyncpg_arguments):
            found = classify(str(error), HintContext(), sqlstate)
    else:
        return Explanation()
    return Explanation(kind=found.kind, hint=found.hint, transient=found.transient)


def _hint_context(error: BaseException) -> HintContext:
    pgconn = getattr(error, "pgconn", None)
    if not isinstance(pgconn, FinishedPGconn):
        return HintContext()
    options = {option.keyword: option.val for option in pgconn.info}
    root_file = _decode(options.get(b"sslrootcert"))
    return HintContext(
        host=_decode(pgconn.host or pgconn.hostaddr) or "the server",
        port=_decode(pgconn.port) or "5432",
        user=_decode(pgconn.user),
        dbname=_decode(pgconn.db),
        entra=pgconn.password.startswith(b"eyJ"),  # as every JWT does
        secret_length=len(pgconn.password),
        password_note=password_note(_decode(pgconn.password)),
        root_file="" if Path(root_file).parts[-3:] == _PINNED_ROOTS else root_file,
    )


def _decode(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
