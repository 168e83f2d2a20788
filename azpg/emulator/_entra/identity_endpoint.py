"""The managed identity endpoint, in the form of App Service and optionally also of IMDS."""

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azpg.emulator._counters import Counters

from .principals import Principal
from .tenant import Tenant

_APP_SERVICE_PATH = "/msi/token"
_APP_SERVICE_API_VERSION = "2019-08-01"
_IMDS_PATH = "/metadata/identity/oauth2/token"
_IMDS_API_VERSION = "2018-02-01"
_MAX_REQUEST_BYTES = 16_384
_REQUEST_TIMEOUT_SECONDS = 60
# Raised if a client disconnects or does not send an HTTP request.
_NO_HTTP_REQUEST = (OSError, EOFError, ValueError, LookupError, asyncio.LimitOverrunError)


@dataclass(frozen=True, slots=True)
class _Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class _HTTPError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class IdentityEndpoint:
    """Answer token requests over plain HTTP on loopback.

    Every user of the machine can connect to it. Requests in App Service's form carry a secret.
    Requests in IMDS's form do not, so they are answered only if `imds` is true.

    Args:
        address: The loopback address to listen on; the port is a free one.
        tenant: The tenant that issues the tokens.
        counters: Counts requests and issued tokens.
        imds: Whether to answer requests in IMDS's form as well.
        update_identities: Adds the identities to the tenant that SQL has created.
    """

    def __init__(
        self,
        address: str,
        tenant: Tenant,
        counters: Counters,
        *,
        imds: bool,
        update_identities: Callable[[], Awaitable[None]],
    ) -> None:
        self.header = secrets.token_hex(16)
        self._imds = imds
        self._update_identities = update_identities
        self._tenant = tenant
        self._counters = counters
        self._address = (address, 0)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}"

    @property
    def _host(self) -> str:
        address, port = self._address
        return f"{address}:{port}"

    async def open(self) -> None:
        """Listen, after `close` on the same port as before."""
        if self._server is None:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self._address)
            self._address = sock.getsockname()
            self._server = await asyncio.start_server(
                self._serve_connection, sock=sock, limit=_MAX_REQUEST_BYTES
            )

    def close(self) -> None:
        """Stop listening, so that connections are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(*_NO_HTTP_REQUEST):
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                    request = _parse_request(await reader.readuntil(b"\r\n\r\n"))
                self._counters["token_requests"] += 1
                if self._tenant.faults.identity == "hang":
                    await reader.read()
                    return
                status, body = await self._build_response(request)
                head = (
                    f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                    "Content-Type: application/json; charset=utf-8\r\n"
                    f"Content-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
            finally:
                writer.close()

    async def _build_response(self, request: _Request) -> tuple[int, bytes]:
        """Return the status and the body of the response."""
        if self._tenant.faults.identity == "garbage":
            return 200, b"<html><body>Welcome</body></html>"
        content: dict[str, Any]
        try:
            status = 200
            content = await self._issue_token(request)
        except _HTTPError as error:
            status = error.status
            if request.path == _IMDS_PATH:
                content = {"error": "invalid_request", "error_description": error.message}
            else:
                content = {"statusCode": status, "message": error.message}
        return status, json.dumps(content).encode()

    async def _issue_token(self, request: _Request) -> dict[str, Any]:
        fault = self._tenant.faults.identity
        if isinstance(fault, int):
            raise _HTTPError(fault, "A fault of the emulator requests this status.")
        self._check_request(request)
        resource = request.query.get("resource")
        if not resource:
            raise _HTTPError(400, "Required parameter 'resource' is missing.")
        bearer = self._find_bearer(request)
        if bearer is None:
            await self._update_identities()
            bearer = self._find_bearer(request)
        if bearer is None:
            raise _HTTPError(400, "Identity not found")
        token = self._tenant.issue_token(bearer, resource)
        self._counters["tokens_issued"] += 1
        now = self._tenant.now()
        lifetime = self._tenant.token_lifetime
        content = {
            "access_token": token,
            "client_id": bearer.client_id or "",
            "expires_on": str(int(now + lifetime)),
            "resource": resource,
            "token_type": "Bearer",
        }
        if request.path == _IMDS_PATH:
            content |= {"expires_in": str(int(lifetime)), "not_before": str(int(now))}
        return content

    def _find_bearer(self, request: _Request) -> Principal | None:
        return self._tenant.find_principal(
            client_id=request.query.get("client_id", ""),
            object_id=request.query.get("object_id", ""),
            resource_id=request.query.get("mi_res_id") or request.query.get("msi_res_id", ""),
        )

    def _check_request(self, request: _Request) -> None:
        self._check_host(request)
        if request.path == _APP_SERVICE_PATH:
            self._check_secret(request)
            api_version = _APP_SERVICE_API_VERSION
        elif self._is_imds_request(request):
            if "x-forwarded-for" in request.headers:
                raise _HTTPError(400, "IMDS answers no forwarded requests.")
            if request.headers.get("metadata", "").lower() != "true":
                raise _HTTPError(400, "Required metadata header not specified")
            api_version = _IMDS_API_VERSION
        else:
            raise _HTTPError(404, f"There is nothing at {request.path}.")
        if request.query.get("api-version") != api_version:
            raise _HTTPError(400, f"api-version must be {api_version}.")

    def _check_host(self, request: _Request) -> None:
        # A web page can point its own host name at this address (DNS rebinding), but its requests
        # then have that name in the Host header.
        if request.headers.get("host") != self._host:
            raise _HTTPError(400, f"The Host header must be {self._host}.")

    def _check_secret(self, request: _Request) -> None:
        secret = request.headers.get("x-identity-header", "")
        if not hmac.compare_digest(secret.encode(), self.header.encode()):
            raise _HTTPError(401, "The identity header is missing or wrong.")

    def _is_imds_request(self, request: _Request) -> bool:
        return self._imds and request.path == _IMDS_PATH


def _parse_request(head: bytes) -> _Request:
    request_line, *header_lines = head.decode("latin-1").split("\r\n")
    target = urlsplit(request_line.split(" ")[1])
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    headers: dict[str, str] = {}
    for line in header_lines:
        name, colon, value = line.partition(":")
        if colon:
            # A header that is sent twice is the same as one with both values.
            values = (headers.get(name.lower()), value.strip())
            headers[name.lower()] = ", ".join(value for value in values if value is not None)
    return _Request(target.path, query, headers)
