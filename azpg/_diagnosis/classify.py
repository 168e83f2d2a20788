"""Classify an error message: its kind, its error class, whether it is transient, and a hint."""

from __future__ import annotations

import re
from typing import NamedTuple

from azpg.errors import KINDS, ConfigError, ConnectError

from .hints import HintContext, is_address, write_hint
from .patterns import PATTERNS, SQLSTATES, Pattern, compile_pattern


class Diagnosis(NamedTuple):
    """The meaning of an error message."""

    kind: str = "unknown"
    error: type[ConnectError | ConfigError] = ConnectError
    hint: str = ""
    transient: bool = False


UNKNOWN = Diagnosis()

BAD_TOKEN_KINDS = frozenset({"token-audience", "token-expired", "token-invalid"})
"""Kinds of the errors by which a server rejects the token itself."""

_SEVERAL_ATTEMPTS = "all failures were:"
_QUOTED = r'"[^"\n]*"'
_ATTEMPT = r"- host: '([^'\n]*)', port: '(\d+)'"
_SERVER_ADDRESS = r"""(?:server at "|hostaddr: ')([0-9a-f.:]+)"""
_CLIENT_ADDRESS = r'for host "([0-9a-f.:]+)"'


def classify(message: str, context: HintContext, sqlstate: str = "") -> Diagnosis:
    """Return the meaning of an error message, or `UNKNOWN`.

    Args:
        message: the message of libpq, psycopg or the server.
        context: what is known of the attempt.
        sqlstate: the error's SQLSTATE; empty for an error of a connect, which has none.
    """
    if sqlstate and sqlstate not in SQLSTATES:
        return UNKNOWN
    if found := match(message, context.host):
        pattern, matched = found
        rest_of_line = message[matched.end() :].partition("\n")[0]
        context = _attempt_context(message[: matched.end()] + rest_of_line, context)
        # Only the error of a query may name objects. In that of a connect, a name may be a secret
        # that the server repeats.
        named = matched.groupdict()
        names = {name: value for name, value in named.items() if sqlstate or name == "setting"}
        return _diagnosis(pattern, context, names)
    for pattern in PATTERNS:
        if sqlstate and pattern.kind == SQLSTATES[sqlstate]:
            return _diagnosis(pattern, context, {})
    return UNKNOWN


def match(message: str, hosts: str = "") -> tuple[Pattern, re.Match[str]] | None:
    """Return the most specific pattern that a message matches, and its match.

    Args:
        message: the message.
        hosts: the hosts that the caller named, separated by commas, if they are known.
    """
    # If several attempts failed, psycopg repeats the last one's message before the list of all
    # failures, without its host.
    several = compile_pattern(_SEVERAL_ATTEMPTS).search(message)
    start = several.end() if several else 0
    # Quoted names can contain any text. They are masked in their length, so that the match's
    # position is valid in the message.
    masked = compile_pattern(_QUOTED).sub(lambda quoted: f'"{"." * (len(quoted[0]) - 2)}"', message)
    for pattern in PATTERNS:
        regex = compile_pattern(pattern.regex)
        if matched := regex.search(masked, start) or regex.match(masked):
            if pattern.every_host and not _every_host_matches(regex, masked[start:], hosts):
                continue
            return pattern, matched
    return None


def _every_host_matches(regex: re.Pattern[str], failures: str, hosts: str) -> bool:
    """Return whether each host has an address whose failure matches.

    psycopg tries each address of each host, and skips a host whose name cannot be resolved.
    """
    named = hosts.split(",")
    attempts = [*compile_pattern(_ATTEMPT).finditer(failures)]
    if not attempts:
        return len(named) == 1
    ends = [*(each.start() for each in attempts[1:]), len(failures)]
    tried = [each.groups() for each in attempts]
    answered = [
        address
        for each, end, address in zip(attempts, ends, tried, strict=True)
        if regex.search(failures, each.end(), end)
    ]
    if set(answered) != set(tried):
        return False
    # A host may be named twice, with two addresses
    return len(named) == 1 or (
        len(answered) >= len(named) and {host for host, _ in answered}.issuperset(named)
    )


def _diagnosis(pattern: Pattern, context: HintContext, names: dict[str, str | None]) -> Diagnosis:
    hint = write_hint(pattern.hint, context, names)
    kind = KINDS[pattern.kind]
    return Diagnosis(pattern.kind, kind.error, hint, bool(kind.transient))


def _attempt_context(message: str, context: HintContext) -> HintContext:
    """Return the context of the last attempt in a message."""
    if attempts := compile_pattern(_ATTEMPT).findall(message):
        host, port = attempts[-1]
        if host in context.host.split(","):
            context = context._replace(host=host, port=port)
    servers = compile_pattern(_SERVER_ADDRESS).findall(message)
    clients = compile_pattern(_CLIENT_ADDRESS).findall(message)
    is_client_known = clients and is_address(clients[-1])
    return context._replace(
        server_address=servers[-1] if servers else "",
        client_address=clients[-1] if is_client_known else "this machine's address",
    )
