"""Servers that mean no good: real sockets that play a script and record all that reaches them."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "db.postgres.database.azure.com"


class Peer:
    """One client, as the server sees it; what it says is recorded for its `Hostile`."""

    def __init__(self, sock: socket.socket, server: Hostile) -> None:
        self._sock = sock
        self._server = server

    def read(self, count: int) -> bytes:
        """Return `count` bytes, fewer at the end of the stream."""
        data = b""
        while len(data) < count and (more := self._receive(count - len(data))):
            data += more
        return data

    def read_all(self) -> None:
        """Listen until the client goes."""
        while self._receive(1 << 16):
            pass

    def finish(self) -> None:
        """Say no more, and listen until the client goes."""
        self._sock.shutdown(socket.SHUT_WR)
        self.read_all()

    def packet(self) -> bytes:
        """Return one packet without a type, such as the startup packet."""
        return self.read(int.from_bytes(self.read(4)) - 4)

    def message(self) -> tuple[bytes, bytes]:
        """Return the type and the body of one message, such as a password."""
        return self.read(1), self.packet()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.sendall(data)

    def say(self, kind: bytes, body: bytes) -> None:
        """Send one message."""
        self.send(kind + (len(body) + 4).to_bytes(4) + body)

    def ask(self, method: int, rest: bytes = b"") -> None:
        """Ask for a way of authentication by its number."""
        self.say(b"R", method.to_bytes(4) + rest)

    def refuse(self, text: str, sqlstate: str = "28000") -> None:
        """Send a fatal error."""
        fields = ("SFATAL", "VFATAL", f"C{sqlstate}", f"M{text}")
        self.say(b"E", b"".join(field.encode() + b"\0" for field in fields) + b"\0")

    def start_tls(self, context: ssl.SSLContext, after: bytes = b"") -> None:
        """Take the client's request for TLS and shake hands, `after` put behind the answer."""
        self.read(8)
        self.send(b"S" + after)
        self._sock = context.wrap_socket(self._sock, server_side=True)

    def _receive(self, most: int) -> bytes:
        data = self._sock.recv(most)
        secure = isinstance(self._sock, ssl.SSLSocket)
        (self._server.decrypted if secure else self._server.clear).extend(data)
        return data


Script: TypeAlias = Callable[[Peer], Any]


class Hostile:
    """A server on a free port of loopback that plays one script to every client."""

    def __init__(self, script: Script, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.clear = bytearray()
        """what clients sent before TLS"""
        self.decrypted = bytearray()
        """what they sent inside TLS"""
        self.connections = 0
        self._script = script
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((host, port))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def address(self, name: str = NAME) -> dict[str, Any]:
        """Return the keywords that lead here under a name."""
        return {"host": name, "hostaddr": self.host, "port": self.port, "retry_timeout": 0}

    def close(self) -> None:
        """Cut every client and wait for the scripts to end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            # A second descriptor: wrapping in TLS takes the first one away.
            self._open.append(sock.dup())
            thread = threading.Thread(target=self._play, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket) -> None:
        peer = Peer(sock, self)
        with contextlib.suppress(OSError):  # the client went
            self._script(peer)
        for end in (peer._sock, sock):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def ask_in_clear(peer: Peer) -> None:
    """Play a server without TLS that asks for the password in clear."""
    while peer.packet() == (80877103).to_bytes(4):  # a request for TLS
        peer.send(b"N")
    peer.ask(3)
    peer.message()
    peer.refuse("thank you")


@pytest.fixture
def hostile() -> Iterator[Callable[..., Hostile]]:
    """Start servers that play a script, and stop them at the end."""
    with contextlib.ExitStack() as servers:

        def start(script: Script, host: str = "127.0.0.1", port: int = 0) -> Hostile:
            server = Hostile(script, host, port)
            servers.callback(server.close)
            return server

        yield start


@dataclass(frozen=True)
class Certificates:
    """TLS of a server called `NAME`: the right one, and wrong ones by name."""

    root: str
    """the PEM file that verifies the right one"""
    right: ssl.SSLContext
    wrong: dict[str, ssl.SSLContext]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make certificates under a root of the tests' own, and some that it must not verify."""
    ca, stranger = trustme.CA(), trustme.CA()
    folder: Path = tmp_path_factory.mktemp("hostile")
    ca.cert_pem.write_to_path(str(folder / "root.pem"))
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    return Certificates(
        root=str(folder / "root.pem"),
        right=_context(ca.issue_cert(NAME)),
        wrong={
            "other-name": _context(ca.issue_cert("other.postgres.database.azure.com")),
            "other-root": _context(stranger.issue_cert(NAME)),
            "expired": _context(ca.issue_cert(NAME, not_after=yesterday)),
        },
    )


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context
