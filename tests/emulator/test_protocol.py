"""How startup packets are parsed, compared with how two servers read them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from azpg.emulator._errors import RejectionError
from azpg.emulator._protocol import StartupMessage, parse_startup

# Names and values with a meaning, and strings of every length around PostgreSQL's limit.
NAMES = st.sampled_from(["user", "database", "options", "replication", "User", "_pq_.x"])
VALUES = st.sampled_from(["", "azuresu", "nobody", "postgres", "ü" * 31 + "x", "x" * 64]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=70
)
PAIRS = st.lists(st.tuples(NAMES | VALUES, VALUES), max_size=5)


def packet(body: bytes, version: int = 3 << 16) -> bytes:
    """Return a packet of this version."""
    return struct.pack("!iI", len(body) + 8, version) + body


def body_of(pairs: list[tuple[str, str]]) -> bytes:
    """Return names and values as a driver encodes them."""
    return "".join(f"{name}\0{value}\0" for name, value in pairs).encode() + b"\0"


@st.composite
def damaged_bodies(draw: st.DrawFn) -> bytes:
    """Return a well-formed body in which parts were removed, doubled or inserted."""
    body = body_of([("user", draw(VALUES)), *draw(PAIRS)])
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
        piece = draw(st.sampled_from([b"", b"\0", b"x\0", b"user\0azuresu\0", b"\xff"]))
        body = body[:start] + draw(st.sampled_from([b"", body[start:end] * 2])) + piece + body[end:]
    return body


def read_to_the_terminator(body: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Read like PgBouncer: up to an empty name, the last of two values; return the rest as well."""
    found: dict[bytes, bytes] = {}
    while body:
        name, _, body = body.partition(b"\0")
        if not name:
            break
        found[name], _, body = body.partition(b"\0")
    return found, body


def read_all_fields(body: bytes) -> dict[bytes, bytes]:
    """Read all fields in pairs, also after an empty name."""
    fields = body.split(b"\0")
    return {name: value for name, value in zip(fields[::2], fields[1::2], strict=False) if name}


def encoded_parameters(startup: StartupMessage) -> dict[bytes, bytes]:
    """Return the parameters as bytes."""
    return {name.encode(): value.encode() for name, value in startup.parameters.items()}


@given(st.binary(max_size=60) | damaged_bodies() | PAIRS.map(body_of))
@example(b"user\0azuresu\0database\0postgres\0\0x\0user\0nobody\0\0")
@example(b"user\0nobody\0\0user\0azuresu\0\0")
@example(b"user\0nobody\0user\0azuresu\0\0")
@example(b"user\0azuresu\0\0\0")
@example(b"user\0nobody\0\0x\0y\0z\0\0")
def test_every_server_reads_an_accepted_packet_alike(body: bytes) -> None:
    """A packet is rejected, or every way of reading it and the rebuilt one has the same result."""
    try:
        startup = parse_startup(packet(body))
    except RejectionError:
        return
    checked = encoded_parameters(startup)
    for sent in (body, startup.packet[8:]):
        to_the_terminator, rest = read_to_the_terminator(sent)
        assert rest == b""
        for read in (to_the_terminator, read_all_fields(sent)):
            # Every server uses the user's name if the database is missing or empty.
            assert read | {b"database": read.get(b"database") or read[b"user"]} == checked
    assert read_all_fields(startup.packet[8:]) == checked
    assert parse_startup(startup.packet) == startup
    assert startup.packet[:8] == struct.pack("!iI", len(startup.packet), 3 << 16)
    assert 0 < len(checked[b"user"]) <= 63
    assert 0 < len(checked[b"database"]) <= 63


@given(st.dictionaries(NAMES | VALUES.filter(bool), VALUES, max_size=5), st.integers(0, 0xFFFF))
def test_a_well_formed_packet_is_accepted(parameters: dict[str, str], minor: int) -> None:
    """Every parameter of a well-formed packet is parsed and forwarded, in order."""
    parameters = parameters | {"user": "alice", "database": "shop"}
    version = (3 << 16) + minor
    startup = parse_startup(packet(body_of(list(parameters.items())), version))
    assert list(startup.parameters.items()) == list(parameters.items())
    assert startup.packet == packet(body_of(list(parameters.items())), version)


@given(st.binary(max_size=40))
def test_a_packet_of_a_wrong_length_is_rejected(data: bytes) -> None:
    """A packet with a wrong length, or one that ends before its version, is rejected."""
    if data[:4] == struct.pack("!i", len(data)):
        data += b"x"
    with pytest.raises(RejectionError):
        parse_startup(data)
