"""TLS on one accepted connection, closed at once and in good order as PostgreSQL does it.

asyncio's own TLS transports wait for the client's goodbye before they close, which would hide the
end of a server from a client that is idle; and they cannot tell when all is sent.
"""

import asyncio
import contextlib
import socket
import ssl

_CHUNK_BYTES = 1 << 16


class TLSConnection:
    """Encrypt one non-blocking socket from the server's side."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self._send_lock = asyncio.Lock()

    async def handshake(self) -> str | None:
        """Agree with the client and return the protocol that ALPN chose."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            else:
                await self._flush()
                return self._tls.selected_alpn_protocol()

    async def partial_handshake(self) -> None:
        """Answer the client's hello with the first half of what belongs there, and no more."""
        while not self._outgoing.pending:
            await self._receive()
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
        answer = self._outgoing.read()
        await self._loop.sock_sendall(self._sock, answer[: len(answer) // 2])

    async def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes, none at the end of the stream."""
        while True:
            try:
                return self._tls.read(limit)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    def close(self) -> None:
        """Say goodbye without waiting for an answer; what was written before is on its way."""
        with contextlib.suppress(OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._sock.send(self._outgoing.read())
        self._sock.close()

    async def _receive(self) -> None:
        if data := await self._loop.sock_recv(self._sock, _CHUNK_BYTES):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        # Reading can have something to send as well; records must not mix.
        async with self._send_lock:
            if data := self._outgoing.read():
                await self._loop.sock_sendall(self._sock, data)
