"""Classify error messages: each pattern matches a message that was really seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

import azpg
from azpg._diagnosis.classify import classify, match
from azpg._diagnosis.hints import HintContext
from azpg._diagnosis.patterns import PATTERNS

MESSAGES = Path(__file__).parent.parent / "data" / "driver_messages.txt"
HOST = "myserver.postgres.database.azure.com"
LIBPQ_PREFIX = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: '
FATAL = LIBPQ_PREFIX + "FATAL:  "
CONTEXT = HintContext(
    host=HOST,
    port="5432",
    user="alice",
    dbname="shop",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)


class Group(NamedTuple):
    """One kind of `driver_messages.txt` and its messages."""

    kind: str
    error: str
    transient: bool
    messages: list[str]


def read_groups() -> list[Group]:
    """Return the messages of Azure, PostgreSQL, PgBouncer, libpq and psycopg by their kind."""
    groups: list[Group] = []
    for line in MESSAGES.read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"\[([\w-]+) (\w+)( transient)?\]", line):
            groups.append(Group(heading[1], heading[2], bool(heading[3]), []))
        elif line and not line.startswith("#"):
            message = re.sub("^FATAL:", "@ FATAL:", line)
            message = re.sub("^@ ", LIBPQ_PREFIX, message)
            groups[-1].messages.append(message.replace("\\n", "\n").replace("\\t", "\t"))
    return groups


GROUPS = read_groups()
of_each_kind = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.kind)


@of_each_kind
def test_a_known_message_is_classified(group: Group) -> None:
    """It has its kind, its error class and whether it is transient, in any letter case."""
    for message in group.messages:
        for spelling in (message, message.upper(), message.lower()):
            found = classify(spelling, CONTEXT)
            actual = (found.kind, found.error.__name__, found.transient)
            assert actual == (group.kind, group.error, group.transient), spelling


def test_every_pattern_matches_a_message_that_was_seen() -> None:
    """No pattern is a guess, the file lists the kinds in the table's order, and each has a hint."""
    matches = [match(message) for group in GROUPS for message in group.messages]
    assert {found[0].regex for found in matches if found} == {each.regex for each in PATTERNS}
    assert list(dict.fromkeys(each.kind for each in PATTERNS)) == [group.kind for group in GROUPS]
    assert all(each.hint for each in PATTERNS if each.kind != "config")


@pytest.mark.parametrize("message", ["", "something new", FATAL + "bouncer config error"])
def test_an_unknown_message_has_no_hint(message: str) -> None:
    """It is a ConnectError of kind "unknown", and not retried."""
    found = classify(message, CONTEXT)
    assert (found.kind, found.error, found.hint) == ("unknown", azpg.ConnectError, "")
    assert not found.transient


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        (["Connection refused", "SSL error: certificate verify failed"], "certificate"),
        (["Network is unreachable", 'FATAL:  role "x" does not exist'], "no-role"),
        (["timeout expired", "Connection refused"], "timeout"),
        (["FATAL:  the database system is starting up", "Connection refused"], "starting"),
        (["Connection refused", "FATAL:  The access token has expired."], "token-expired"),
    ],
)
def test_the_most_specific_of_several_attempts_decides(messages: list[str], kind: str) -> None:
    """The order in which psycopg joins them does not matter."""
    for order in (messages, messages[::-1]):
        joined = f"{LIBPQ_PREFIX}{order[-1]}\nMultiple connection attempts failed. "
        joined += "All failures were:\n"
        for each in order:
            joined += f"- host: 'a', port: '5432', hostaddr: '192.0.2.1': {each}\n"
        assert classify(joined, CONTEXT).kind == kind


PRIMARY = "session is not read-only"
REFUSED = "Connection refused"


@pytest.mark.parametrize(
    ("hosts", "attempts", "kind"),
    [
        ("a,b", [("a", PRIMARY), ("b", PRIMARY)], "no-replica"),
        ("a,b", [("a", PRIMARY), ("b", REFUSED)], "session-attrs"),
        ("a,b", [("a", REFUSED), ("b", PRIMARY)], "session-attrs"),
        ("a,b", [("a", PRIMARY), ("b", "server is in hot standby mode")], "session-attrs"),
        ("a", [("a", "Network is unreachable"), ("a", PRIMARY)], "no-replica"),
        ("a,b", [("a", PRIMARY), ("a", PRIMARY)], "session-attrs"),  # b cannot be resolved
        ("a,a", [("a", PRIMARY), ("a", PRIMARY)], "no-replica"),
        ("a,a", [("a", PRIMARY), ("a", REFUSED)], "session-attrs"),
        ("a,b", [("a", PRIMARY)], "session-attrs"),
        ("a", [("a", PRIMARY)], "no-replica"),
    ],
)
def test_there_is_no_replica_if_every_host_answered(
    hosts: str, attempts: list[tuple[str, str]], kind: str
) -> None:
    """A host that did not answer may be the replica, so the error is transient."""
    message = LIBPQ_PREFIX + attempts[-1][1]
    if len(attempts) > 1:
        message += "\nMultiple connection attempts failed. All failures were:\n" + "\n".join(
            f"- host: '{host}', port: '5432', hostaddr: '192.0.2.1': {LIBPQ_PREFIX}{failure}"
            for host, failure in attempts
        )
    found = classify(message, CONTEXT._replace(host=hosts))
    assert (found.kind, found.transient) == (kind, kind == "session-attrs")
    last = classify(message, CONTEXT._replace(host=attempts[-1][0]))  # as explain() knows it
    assert (last.kind == kind) or len(hosts.split(",")) > 1


def test_a_servers_message_is_no_config_error() -> None:
    """Only libpq's own message, at the beginning, means an invalid option."""
    assert classify(FATAL + 'invalid foo value: "x"', CONTEXT).kind == "unknown"


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_min_protocol_version": "x"},
        {"keepalives_idle": "x"},
        {"load_balance_hosts": "x"},
        {"sslmode": "require", "sslrootcert": "system"},
        {"sslnegotiation": "direct", "sslmode": "prefer"},
        {"hostaddr": "x"},
    ],
)
def test_an_option_that_libpq_rejects_is_a_config_error(options: dict[str, Any]) -> None:
    """The value is passed on unchanged; azpg raises ConfigError with libpq's message."""
    with pytest.raises(psycopg.OperationalError) as psycopgs:
        psycopg.connect(host="localhost", password="s3cret", **options)
    with pytest.raises(azpg.ConfigError) as azpgs:
        azpg.connect(host="localhost", password="s3cret", **({"sslmode": "disable"} | options))
    reasons = [str(raised.value).split(":")[-1].strip() for raised in (psycopgs, azpgs)]
    assert reasons[0] == reasons[1]


@of_each_kind
def test_a_hint_is_filled_in(group: Group) -> None:
    """No placeholder of a template is left in it."""
    for message in group.messages:
        hint = classify(message, CONTEXT).hint
        assert "{" not in hint, message
        assert "None" not in hint.replace("prepare_threshold=None", ""), message


@of_each_kind
def test_no_hint_repeats_a_secret_of_the_message(group: Group) -> None:
    """A server knows the password, and can put it anywhere in its message."""
    for message in group.messages:
        for secret in ("s3cret-s3cret", "deadbeef.12:34"):
            in_quotes = re.sub(r"""(["'\[])[^"'\]\n]*(["'\]])""", rf"\g<1>{secret}\2", message)
            for leaking in (
                f"{in_quotes} {secret}",
                f"{message}: {secret}",
                message.replace("x", secret),
            ):
                assert secret not in classify(leaking, CONTEXT).hint, leaking
