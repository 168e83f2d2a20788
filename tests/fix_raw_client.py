"""A client of the emulator that sends bytes as they are, over verified TLS or in clear."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from azpg.emulator import Emulator

SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
PROTOCOL_3_0 = 3 << 16

Answers = list[tuple[bytes, bytes]]


def packet(body: bytes, code: int = PROTOCOL_3_0) -> bytes:
    """Return a first packet: its length, its version or code, and what follows."""
    return struct.pack("!iI", len(body) + 8, code) + body


def message(kind: bytes, body: bytes) -> bytes:
    """Return a later message: its kind, its length and its body."""
    return kind + struct.pack("!i", len(body) + 4) + body


def query(statement: str) -> bytes:
    """Return the message that runs a statement."""
    return message(b"Q", statement.encode() + b"\0")


def password(text: str) -> bytes:
    """Return the message that answers a request for a password."""
    return message(b"p", text.encode() + b"\0")


class RawClient:
    """One connection to a port of the emulator, encrypted by `start_tls`."""

    def __init__(self, emulator: Emulator, port: int) -> None:
        self._emulator = emulator
        self._sock = socket.create_connection((emulator.hostaddr, port), timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def start_tls(self) -> Self:
        """Ask for TLS and verify the server."""
        self.send(packet(b"", SSL_REQUEST))
        assert self.receive(1) == b"S"
        context = ssl.create_default_context(cafile=self._emulator.root_certificate)
        self._sock = context.wrap_socket(self._sock, server_hostname=self._emulator.host)
        return self

    def send(self, *parts: bytes) -> None:
        """Send bytes; a server that has hung up meanwhile is no failure."""
        with contextlib.suppress(OSError):
            self._sock.sendall(b"".join(parts))

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, fewer at the end."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while len(data) < count and (part := self._sock.recv(count - len(data))):
                data += part
        return data

    def answers(self, *, all_is_sent: bool = False) -> Answers:
        """Return the messages up to one that awaits a statement, or a password not sent yet."""
        answers: Answers = []
        while len(head := self.receive(5)) == 5:
            kind, body = head[:1], self.receive(struct.unpack("!i", head[1:])[0] - 4)
            answers.append((kind, body))
            asked = kind == b"R" and body[:4] != bytes(4)
            if kind == b"Z" or (asked and not all_is_sent):
                break
        return answers


def sqlstates(answers: Answers) -> list[str]:
    """Return the SQLSTATE of each error."""
    fields = (body.split(b"\0") for kind, body in answers if kind == b"E")
    return [next(text[1:].decode() for text in each if text[:1] == b"C") for each in fields]


def is_in(answers: Answers) -> bool:
    """Tell whether the client was let in."""
    return (b"R", bytes(4)) in answers
