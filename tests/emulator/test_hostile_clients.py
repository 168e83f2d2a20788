"""Clients that send what no driver sends cannot authenticate without a token or password."""

from __future__ import annotations

import secrets
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fix_raw_client import (
    CANCEL_REQUEST,
    GSSENC_REQUEST,
    PROTOCOL_3_0,
    SSL_REQUEST,
    Answers,
    RawClient,
    is_in,
    message,
    packet,
    password,
    query,
    sqlstates,
)

from azpg.emulator import Emulator

Connect = Callable[..., psycopg.Connection[Any]]
Attempt = Callable[..., Answers]

# The superuser, an Entra role and a role that does not exist.
USERS = ["azuresu", "myapp", "nobody-here"]


def startup(**parameters: str) -> bytes:
    """Return a well-formed startup packet."""
    fields = "".join(f"{name}\0{value}\0" for name, value in parameters.items())
    return packet(fields.encode() + b"\0")


@pytest.fixture
def attempt(emulator: Emulator, port: int, connect: Connect) -> Iterator[Attempt]:
    """Send packets and a statement, return the answers; check that the statement did not run."""
    role_name = f"intruder-{secrets.token_hex(4)}"

    def attempt(*packets: bytes) -> Answers:
        with RawClient(emulator, port).start_tls() as client:
            client.send(*packets, query(f'CREATE ROLE "{role_name}"'))
            return client.answers(all_is_sent=True)

    yield attempt
    with connect() as observer:
        found = observer.execute(
            "SELECT 1 FROM pg_roles WHERE rolname = %s", [role_name]
        ).fetchone()
    assert found is None, "a statement ran"


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "more parameters behind the terminator": lambda user: packet(
        b"user\0" + user + b"\0database\0postgres\0\0x\0user\0nobody\0\0"
    ),
    "the user behind the terminator": lambda user: packet(
        b"user\0nobody\0database\0postgres\0\0user\0" + user + b"\0\0"
    ),
    "two terminators": lambda user: packet(b"user\0" + user + b"\0\0\0"),
    "a byte behind the terminator": lambda user: packet(b"user\0" + user + b"\0\0x"),
    "no terminator": lambda user: packet(b"user\0" + user + b"\0database\0postgres\0"),
    "cut in a value": lambda user: packet(b"database\0postgres\0user\0" + user),
    "a name without a value": lambda user: packet(b"user\0" + user + b"\0database\0\0"),
    "an odd number of fields": lambda user: packet(b"user\0" + user + b"\0x\0\0"),
    "an empty name": lambda user: packet(b"\0\0user\0" + user + b"\0\0"),
    "two users, the first is nobody": lambda user: packet(b"user\0nobody\0user\0" + user + b"\0\0"),
    "two users, the last is nobody": lambda user: packet(b"user\0" + user + b"\0user\0nobody\0\0"),
    "two databases": lambda user: packet(
        b"user\0" + user + b"\0database\0postgres\0database\0pgbouncer\0\0"
    ),
    "another parameter twice": lambda user: packet(
        b"user\0" + user + b"\0options\0\0options\0-c role=azuresu\0\0"
    ),
    "no user": lambda _: packet(b"database\0postgres\0\0"),
    "an empty user": lambda user: packet(b"user\0\0database\0" + user + b"\0\0"),
    "nothing": lambda _: packet(b""),
    "a terminator alone": lambda _: packet(b"\0"),
    "a user that is not UTF-8": lambda user: packet(b"user\0" + user + b"\xff\0\0"),
    "a parameter that is not UTF-8": lambda user: packet(
        b"user\0" + user + b"\0application_name\0\xc3\0\0"
    ),
    "a user of 64 bytes": lambda user: packet(b"user\0" + user.ljust(64, b"x") + b"\0\0"),
    "a user of 33 characters and 66 bytes": lambda _: packet(
        b"user\0" + b"\xc3\xbc" * 33 + b"\0\0"
    ),
    "a database of 64 bytes": lambda user: packet(
        b"user\0" + user + b"\0database\0" + b"x" * 64 + b"\0\0"
    ),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("form", MALFORMED)
def test_a_malformed_startup_packet_is_rejected(attempt: Attempt, form: str, user: str) -> None:
    """A startup packet that could be read in two ways gets one error, for every user."""
    answers = attempt(MALFORMED[form](user.encode()))
    assert [kind for kind, _ in answers] == [b"E"]
    assert sqlstates(answers)[0] in {"08P01", "28000", "42622"}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "code",
    [0, 1, 1 << 16, 2 << 16, 4 << 16, 0xFFFF_FFFF, SSL_REQUEST - 2, SSL_REQUEST + 3],
)
def test_an_unknown_protocol_version_is_rejected(attempt: Attempt, code: int, user: str) -> None:
    """Only version 3 of the protocol is accepted."""
    answers = attempt(packet(f"user\0{user}\0\0".encode(), code))
    assert sqlstates(answers) == ["0A000"]
    assert not is_in(answers)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("request_code", [SSL_REQUEST, GSSENC_REQUEST])
def test_an_encryption_request_within_tls_is_rejected(
    attempt: Attempt, request_code: int, user: str
) -> None:
    """An encryption request within TLS never reaches a server, which would restart the startup."""
    answers = attempt(packet(b"", request_code), startup(user=user, database="postgres"))
    assert sqlstates(answers) == ["0A000"]


@pytest.mark.parametrize("size", [-1, 0, 4, 7, 10_001, 0x7FFF_FFFF])
def test_a_wrong_packet_length_ends_the_connection(attempt: Attempt, size: int) -> None:
    """A length that no startup packet has ends the connection."""
    assert attempt(struct.pack("!iI", size, PROTOCOL_3_0) + b"user\0azuresu\0\0") == []


@pytest.mark.parametrize("user", USERS)
def test_a_second_startup_packet_is_not_read(attempt: Attempt, user: str) -> None:
    """What follows the startup packet is never read as a second one."""
    # It is longer than any length that its first bytes could encode.
    second = startup(user=user, database="postgres") + bytes(1 << 16)
    assert not is_in(attempt(startup(user="nobody-here", database="postgres"), second))
    assert not is_in(attempt(startup(user="myapp", database="postgres"), second))


@pytest.mark.parametrize("password_message", [b"", password(""), password("x")])
@pytest.mark.parametrize("user", ["azuresu", "azpg_console"])
@pytest.mark.parametrize("database", ["postgres", "azure_maintenance", "pgbouncer", "x", ""])
def test_clients_cannot_use_the_emulators_own_users(
    attempt: Attempt, user: str, database: str, password_message: bytes
) -> None:
    """The users that administer the servers are rejected by name, whatever the password."""
    ((kind, body),) = attempt(startup(user=user, database=database), password_message)
    assert sqlstates([(kind, body)]) == ["28P01"]
    assert f'password authentication failed for user "{user}"'.encode() in body


@pytest.mark.parametrize("user", ["AZURESU", '"azuresu"', "azuresu ", " azuresu", "azuresu\n"])
@pytest.mark.parametrize("replication", ["", "true", "database"])
def test_other_spellings_do_not_name_the_superuser(
    attempt: Attempt, user: str, replication: str
) -> None:
    """User names are compared exactly, with case, quotes and spaces, for replication as well."""
    answers = attempt(startup(user=user, database="postgres", replication=replication))
    assert not is_in(answers)


@pytest.mark.parametrize(
    "startup_parameters",
    [
        {"user": "pgbouncer"},
        {"user": "pgbouncer", "database": ""},
        {"user": "pgbouncer", "database": "pgbouncer"},
        {"user": "myapp", "database": "pgbouncer"},
        {"database": "pgbouncer", "user": "nobody-here", "replication": "database"},
        {"user": "pgbouncer", "database": "PgBouncer"},
        {"user": "pgbouncer", "database": '"pgbouncer"'},
        {"user": "pgbouncer", "database": "pgbouncer "},
        {"user": "PGBOUNCER", "database": "postgres"},
    ],
)
def test_the_pgbouncer_console_rejects_every_user(
    attempt: Attempt, startup_parameters: dict[str, str]
) -> None:
    """No user and no spelling of the database name opens PgBouncer's console."""
    assert not is_in(attempt(startup(**startup_parameters)))


CONSOLE_PROGRAM = """
import sys
sys.path.append(sys.argv[1])
from fix_raw_client import RawClient, is_in, packet, query
from azpg.emulator import Emulator
with Emulator(postgres=sys.argv[2]) as emulator:
    for names in (b"user\\0pgbouncer\\0\\0", b"user\\0pgbouncer\\0database\\0pgbouncer\\0\\0"):
        with RawClient(emulator, emulator.pgbouncer_port).start_tls() as client:
            client.send(packet(names), query("SHOW CONFIG"))
            print(is_in(client.answers()))
"""


@pytest.mark.root
def test_the_pgbouncer_console_rejects_its_own_system_user() -> None:
    """PgBouncer trusts its own system user, but a client is not that user."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", *caps]
    postgres = max(Path("/usr/lib/postgresql").glob("*"), key=lambda folder: int(folder.name))
    program = [sys.executable, "-c", CONSOLE_PROGRAM, str(Path(__file__).parents[1])]
    done = subprocess.run(
        [*user, *program, str(postgres)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("False\nFalse\n", "")


SESSION = {
    "session_user": b"myapp",
    "current_user": b"myapp",
    "current_setting('is_superuser')": b"off",
}


@pytest.mark.parametrize(
    "parameters",
    [
        {"replication": "true"},
        {"replication": "on"},
        {"replication": "1"},
        {"replication": "database"},
        {"options": "-c role=azuresu"},
        {"options": "-c session_authorization=azuresu"},
        {"options": "--role=azuresu"},
        {"options": "-c session_preload_libraries=x -c role=azuresu"},
        {"role": "azuresu"},
        {"session_authorization": "azuresu"},
        {"ROLE": "azuresu"},
        {"User": "azuresu"},
        {"_pq_.user": "azuresu"},
    ],
)
def test_no_startup_parameter_makes_a_superuser(
    emulator: Emulator, port: int, parameters: dict[str, str]
) -> None:
    """No startup parameter changes the user of a session or makes it a superuser."""
    with RawClient(emulator, port).start_tls() as client:
        client.send(startup(user="myapp", database="postgres", **parameters))
        assert client.answers() == [(b"R", struct.pack("!i", 3))]
        client.send(password(emulator.token()))
        answers = client.answers()
        if (b"Z", b"I") in answers:
            client.send(query(f"select {', '.join(SESSION)}"))
            answers = client.answers()
        if not sqlstates(answers):
            values = b"".join(struct.pack("!i", len(value)) + value for value in SESSION.values())
            assert (b"D", struct.pack("!h", len(SESSION)) + values) in answers


@pytest.mark.parametrize("version", [0, 1, 2, 9, 0xFFFF])
def test_the_server_answers_a_newer_minor_version(
    emulator: Emulator, port: int, version: int
) -> None:
    """The server negotiates or rejects a newer minor version; the token is required either way."""
    with RawClient(emulator, port).start_tls() as client:
        client.send(packet(b"user\0myapp\0database\0postgres\0\0", PROTOCOL_3_0 + version))
        assert client.answers() == [(b"R", struct.pack("!i", 3))]
        client.send(password(emulator.token()))
        answers = client.answers()
        assert is_in(answers) or sqlstates(answers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda token: message(b"p", token + b"\0\0"),
        lambda token: message(b"p", token + b"\0x"),
        lambda token: message(b"p", token + b"\0" + token + b"\0"),
        lambda token: message(b"p", b"\0" + token + b"\0"),
        lambda token: message(b"p", b"x\0" + token + b"\0"),
        lambda token: message(b"p", token),
        lambda token: message(b"p", token + b" \0"),
        lambda _: message(b"p", b""),
        lambda _: message(b"p", b"\0"),
        lambda token: message(b"Q", token + b"\0"),
    ],
)
def test_a_malformed_password_message_is_rejected(
    emulator: Emulator, attempt: Attempt, damage: Callable[[bytes], bytes]
) -> None:
    """A password message is one string with its terminator; anything else is rejected."""
    answers = attempt(startup(user="myapp", database="postgres"), damage(emulator.token().encode()))
    assert not is_in(answers)
    assert sqlstates(answers)


def test_pipelined_messages_are_accepted(emulator: Emulator, port: int) -> None:
    """A client may send its token and a query together with the startup packet."""
    with RawClient(emulator, port).start_tls() as client:
        first = startup(user="myapp", database="postgres")
        client.send(first, password(emulator.token()), query("SELECT current_user"))
        assert client.answers() == [(b"R", struct.pack("!i", 3))]
        assert is_in(client.answers())
        assert (b"D", struct.pack("!hi", 1, 5) + b"myapp") in client.answers()


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("key", [b"", b"abc", b"x" * 257, b"x" * 5000])
def test_a_cancel_request_of_a_wrong_length_is_not_forwarded(
    emulator: Emulator, port: int, encrypted: bool, key: bytes
) -> None:
    """A cancel request with a key of less than 4 or more than 256 bytes is not forwarded."""
    before = emulator.counts
    with RawClient(emulator, port) as client:
        if encrypted:
            client.start_tls()
        client.send(packet(struct.pack("!i", 1) + key, CANCEL_REQUEST))
        assert client.receive(1) == b""
    with RawClient(emulator, port) as client:
        client.send(packet(b"\0\0", CANCEL_REQUEST))
        assert client.receive(1) == b""
    assert (emulator.counts - before).cancel_requests == 0


@pytest.mark.parametrize("key", [b"abcd", b"x" * 32, b"x" * 256])
def test_bytes_after_a_cancel_request_are_ignored(
    emulator: Emulator, port: int, key: bytes
) -> None:
    """A cancel request ends its connection, and what follows it is ignored."""
    before = emulator.counts
    with RawClient(emulator, port) as client:
        request = packet(struct.pack("!i", 1) + key, CANCEL_REQUEST)
        client.send(request, startup(user="azuresu", database="postgres"))
        assert client.receive(1) == b""
    assert (emulator.counts - before).cancel_requests == 1


def test_encryption_is_declined_once(emulator: Emulator, port: int) -> None:
    """Each encryption request is declined once; a second one is rejected."""
    with RawClient(emulator, port) as client:
        client.send(packet(b"", GSSENC_REQUEST))
        assert client.receive(1) == b"N"
        client.send(packet(b"", GSSENC_REQUEST))
        assert sqlstates(client.answers()) == ["0A000"]
    with emulator.fault(tls="stripped"), RawClient(emulator, port) as client:
        for request in (SSL_REQUEST, GSSENC_REQUEST):
            client.send(packet(b"", request))
            assert client.receive(1) == b"N"
        client.send(packet(b"", SSL_REQUEST))
        assert sqlstates(client.answers()) == ["0A000"]


def test_plaintext_after_the_tls_request_is_not_read(emulator: Emulator, port: int) -> None:
    """Plaintext that follows the TLS request is not read as part of the session."""
    before = emulator.counts
    with RawClient(emulator, port) as client:
        client.send(packet(b"", SSL_REQUEST), startup(user="nobody-here", database="postgres"))
        assert client.receive(1) == b"S"
        assert client.answers() == []
    assert (emulator.counts - before).tls_handshakes == 0


@pytest.mark.parametrize("request_code", [SSL_REQUEST, GSSENC_REQUEST])
def test_an_encryption_request_with_a_body_is_rejected(
    emulator: Emulator, port: int, request_code: int
) -> None:
    """An encryption request with a body is rejected."""
    with RawClient(emulator, port) as client:
        client.send(packet(b"user\0myapp\0\0", request_code))
        assert sqlstates(client.answers()) == ["0A000"]


@pytest.mark.parametrize("user", ["azuresu", "azpg_console"])
@pytest.mark.parametrize(
    ("folder", "port"), [("server-1", 5432), (".", 6432)], ids=["postgres", "pgbouncer"]
)
@pytest.mark.parametrize("database", ["postgres", "azure_maintenance", "pgbouncer"])
def test_private_sockets_require_a_password(
    emulator: Emulator, folder: str, port: int, user: str, database: str
) -> None:
    """The servers require a password of their administrators, even on their private sockets."""
    private = Path(emulator._start_info["folders"][0]) / "private" / folder
    for secret in ("", "x"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(
                host=str(private), port=port, user=user, dbname=database, password=secret
            )
