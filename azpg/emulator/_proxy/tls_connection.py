"""TLS on one accepted connection, closed the way PostgreSQL closes it.

asyncio's TLS transports wait for the client's close_notify before they close, so an idle client
would not notice that the server has ended. They also cannot tell when everything has been sent.
"""

import asyncio
import contextlib
import socket
import ssl

_CHUNK_BYTES = 1 << 16


class TLSConnection:
    """The server's side of TLS on one non-blocking socket.

    Args:
        sock: The accepted connection.
        context: The TLS context with the server's certificate.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._loop = asyncio.get_running_loop()
        self._send_lock = asyncio.Lock()

    async def handshake(self) -> str | None:
        """Complete the handshake and return the protocol that ALPN selected."""
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
        """Send the first half of the answer to the client's hello, and no more."""
        while not self._outgoing.pending:
            await self._receive()
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
        answer = self._outgoing.read()
        await self._loop.sock_sendall(self._sock, answer[: len(answer) // 2])

    async def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes, or no bytes at the end of the stream."""
        while True:
            try:
                return self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    async def write(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    def close(self) -> None:
        """Send close_notify and close the socket without waiting for the client's answer."""
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
        # A read can have to send something as well, and TLS records must not be interleaved.
        async with self._send_lock:
            if data := self._outgoing.read():
                await self._loop.sock_sendall(self._sock, data)
