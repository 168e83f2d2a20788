"""What a driver's text means: kind, error class, worth another try, and what to type. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from azpg._record import Record
from azpg.errors import ConnectError

from .hints import Context, is_address, write_hint
from .patterns import STATES, TABLE, compiled

if TYPE_CHECKING:
    from .patterns import Row


class Diagnosis(Record):
    """What one text means."""

    kind: str = "unknown"
    error: type[ConnectError] = ConnectError
    hint: str = ""
    transient: bool = False

    @classmethod
    def of(cls, row: Row, hint: str) -> Diagnosis:
        """Return what a row of the table says."""
        return cls(kind=row.kind, error=row.error, hint=hint, transient=row.transient)


UNKNOWN = Diagnosis()

BAD_TOKEN = frozenset({"token-audience", "token-expired", "token-invalid"})
"""Kinds of refusals that blame the token itself."""

_SEVERAL = "all failures were:"
_QUOTED = r'"[^"\n]*"'
_ATTEMPT = r"- host: '([^'\n]*)', port: '(\d+)'"
_ADDRESS = r"""(?:server at "|hostaddr: ')([0-9a-f.:]+)"""
_CLIENT = r'for host "([0-9a-f.:]+)"'


def diagnose(text: str, context: Context, state: str = "") -> Diagnosis:
    """Return what a text means, as far as it is known; `state` is its SQLSTATE, if it has one."""
    if state and state not in STATES:
        return UNKNOWN
    if found := telling(text):
        row, said = found
        line = text[said.end() :].partition("\n")[0]
        context = _of_attempt(text[: said.end()] + line, context)
        # Only a query's error may give names: at a connect they could be a secret thrown back
        names = said.groupdict() if state else {}
        return Diagnosis.of(row, write_hint(row.hint, context, names))
    for row in TABLE:
        if state and row.kind == STATES[state]:
            return Diagnosis.of(row, write_hint(row.hint, context, {}))
    return UNKNOWN


def telling(text: str) -> tuple[Row, re.Match[str]] | None:
    """Return the row that tells most of a text, and where the text says so."""
    # psycopg puts the last of several failures first, without a word about where it happened
    several = compiled(_SEVERAL).search(text)
    begin = several.end() if several else 0
    # What is quoted are mostly names, which may hold any words
    plain = compiled(_QUOTED).sub(lambda quoted: f'"{"." * (len(quoted[0]) - 2)}"', text)
    for row in TABLE:
        pattern = compiled(row.pattern)
        if said := pattern.search(plain, begin) or pattern.match(plain):
            return row, said
    return None


def _of_attempt(text: str, context: Context) -> Context:
    """Return the context of the attempt that a text ends with, as far as the text tells."""
    if attempts := compiled(_ATTEMPT).findall(text):
        host, port = attempts[-1]
        if host in context.host.split(","):
            context = context.replace(host=host, port=port)
    addresses, clients = compiled(_ADDRESS).findall(text), compiled(_CLIENT).findall(text)
    return context.replace(
        address=addresses[-1] if addresses else "",
        client=clients[-1] if clients and is_address(clients[-1]) else "this machine's address",
    )
