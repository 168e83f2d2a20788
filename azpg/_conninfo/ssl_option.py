"""The option `ssl`, which other drivers and their URLs have, as libpq's `sslmode`. Pure.

`ssl=true` means a verified server, as in asyncpg and in JDBC. libpq reads it in a URI too, as
`sslmode=require`, which on a host that is not Azure's would be less than azpg's default.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import unquote

from azpg._redact import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_TRUE = frozenset({"1", "on", "true", "yes"})
_FALSE = frozenset({"0", "false", "no", "off"})


def replace_ssl(values: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return the keywords of a call with `sslmode` in place of `ssl`, and the problems."""
    replaced = {name: value for name, value in values.items() if name != "ssl"}
    ssl, sslmode = values.get("ssl"), values.get("sslmode")
    if ssl is None:
        return replaced, []
    if not isinstance(ssl, bool | int | str):
        return replaced, [_not_text_error(ssl)]
    text = ssl.name if isinstance(ssl, Enum) else str(ssl)  # asyncpg's SSLMode
    given = None if sslmode is None else str(sslmode)
    replaced["sslmode"], problem = _to_sslmode(text, given)
    return replaced, [problem] if problem else []


def replace_ssl_in_conninfo(conninfo: str) -> tuple[str, str | None]:
    """Return a connection string with `sslmode` in place of `ssl`, and the problem if there is one.

    What cannot be read is left as it is, so that libpq's own reading decides.
    """
    if "ssl" not in conninfo:
        return conninfo, None
    is_uri = re.match("postgres(?:ql)?://", conninfo) is not None
    pattern, read = (_URI_PARAMETER, unquote) if is_uri else (_PAIR, _unquote_value)
    given: dict[str, str] = {}
    for found in re.finditer(pattern, conninfo):
        if found["name"] in ("ssl", "sslmode"):
            given[found["name"]] = read(found["value"])
    if "ssl" not in given:
        return conninfo, None
    sslmode, problem = _to_sslmode(given["ssl"], given.get("sslmode"))
    if problem:
        return conninfo, problem

    def replace(found: re.Match[str]) -> str:
        return f"{found['before']}sslmode={sslmode}" if found["name"] == "ssl" else found[0]

    return re.sub(pattern, replace, conninfo), None


_URI_PARAMETER = r"(?P<before>[?&])(?P<name>[^=&]*)=(?P<value>[^&]*)"
_PAIR = (
    r"(?P<before>\s*)(?P<name>[^\s=]+)\s*=\s*"
    r"(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*|)"
)
"""A parameter of a key/value string. Quoted values are matched whole, whatever is in them."""


def _unquote_value(value: str) -> str:
    if value.startswith("'"):
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)


def _to_sslmode(ssl: str, sslmode: str | None) -> tuple[str, str | None]:
    """Return the sslmode that a value of `ssl` means, and the problem with it.

    Args:
        ssl: The value.
        sslmode: The value of `sslmode` in the same place, which may say more.
    """
    value = ssl.strip().lower().replace("_", "-")
    given = None if sslmode is None else sslmode.strip().lower()
    if value in _TRUE:
        meant = "verify-full" if given in (None, "disable") else given
    elif value in _FALSE:
        meant = "disable"
    elif value in SSLMODES:
        meant = value
    else:
        shown = quote(ssl, r"[\w.+-]{1,30}")
        return "verify-full", f"⟦ssl={shown}⟧ is not a value of ssl: write ⟦sslmode='verify-full'⟧"
    if given is not None and given != meant:
        shown = given if given in SSLMODES else "…"  # of a misread string it may hold a password
        return given, (
            f"ssl={ssl.strip()} and sslmode={shown} contradict each other: leave out ⟦ssl=⟧"
        )
    return meant, None


def _not_text_error(ssl: object) -> str:
    if type(ssl).__name__ == "SSLContext":
        return (
            "⟦ssl⟧ is an SSLContext, which libpq cannot use: leave out ⟦ssl=⟧, because azpg "
            'verifies Azure servers by itself, and write ⟦sslrootcert="<file>"⟧ for roots of your '
            "own. azpg.asyncpg.connect() takes a context"
        )
    return (
        f"⟦ssl⟧ is {type(ssl).__name__}: leave out ⟦ssl=⟧, because azpg verifies Azure servers by "
        f'itself, or write ⟦sslmode="verify-full"⟧'
    )
