"""The managed identity endpoint, in the form of App Service and, if asked for, of IMDS."""

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azpg.emulator._counters import Counters

from .tenant import Tenant

_APP_SERVICE_PATH = "/msi/token"
_IMDS_PATH = "/metadata/identity/oauth2/token"
_MAX_REQUEST_BYTES = 16_384
_REQUEST_TIMEOUT_SECONDS = 60
# A client that goes away, or that does not speak HTTP.
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

    Every user of the machine can connect to it. App Service's requests carry a secret; those of
    IMDS do not, so that it answers them only if `imds` says so.
    """

    def __init__(self, address: str, tenant: Tenant, counters: Counters, *, imds: bool) -> None:
        self.header = secrets.token_hex(16)
        self._imds = imds
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
        """Listen; after a `close`, on the same port as before."""
        if self._server is None:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self._address)
            self._address = sock.getsockname()
            self._server = await asyncio.start_server(
                self._serve_connection, sock=sock, limit=_MAX_REQUEST_BYTES
            )

    def close(self) -> None:
        """Stop listening: clients find their connection refused."""
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
                status, body = self._build_response(request)
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

    def _build_response(self, request: _Request) -> tuple[int, bytes]:
        if self._tenant.faults.identity == "garbage":
            return 200, b"<html><body>Welcome</body></html>"
        try:
            answer, status = self._issue_token(request), 200
        except _HTTPError as error:
            status = error.status
            message = error.message
            answer = (
                {"error": "invalid_request", "error_description": message}
                if request.path == _IMDS_PATH
                else {"statusCode": status, "message": message}
            )
        return status, json.dumps(answer).encode()

    def _issue_token(self, request: _Request) -> dict[str, Any]:
        if isinstance(fault := self._tenant.faults.identity, int):
            raise _HTTPError(fault, "The emulator was told to answer so.")
        self._check_request(request)
        if not (resource := request.query.get("resource")):
            raise _HTTPError(400, "Required parameter 'resource' is missing.")
        bearer = self._tenant.find_principal(
            client_id=request.query.get("client_id", ""),
            object_id=request.query.get("object_id", ""),
            resource_id=request.query.get("mi_res_id") or request.query.get("msi_res_id", ""),
        )
        if bearer is None:
            raise _HTTPError(400, "Identity not found")
        token = self._tenant.issue_token(bearer, resource)
        self._counters["tokens_issued"] += 1
        now, lifetime = self._tenant.now(), self._tenant.token_lifetime
        answer = {
            "access_token": token,
            "client_id": bearer.client_id or "",
            "expires_on": str(int(now + lifetime)),
            "resource": resource,
            "token_type": "Bearer",
        }
        if request.path == _IMDS_PATH:
            answer |= {"expires_in": str(int(lifetime)), "not_before": str(int(now))}
        return answer

    def _check_request(self, request: _Request) -> None:
        # A web page whose own name was made to lead here names itself.
        if request.headers.get("host") != self._host:
            raise _HTTPError(400, f"The Host header must be {self._host}.")
        if request.path == _APP_SERVICE_PATH:
            given = request.headers.get("x-identity-header", "")
            if not hmac.compare_digest(given.encode(), self.header.encode()):
                raise _HTTPError(401, "The identity header is missing or wrong.")
            api_version = "2019-08-01"
        elif request.path == _IMDS_PATH and self._imds:
            if "x-forwarded-for" in request.headers:
                raise _HTTPError(400, "IMDS answers no forwarded requests.")
            if request.headers.get("metadata", "").lower() != "true":
                raise _HTTPError(400, "Required metadata header not specified")
            api_version = "2018-02-01"
        else:
            raise _HTTPError(404, f"There is nothing at {request.path}.")
        if request.query.get("api-version") != api_version:
            raise _HTTPError(400, f"api-version must be {api_version}.")


def _parse_request(head: bytes) -> _Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    target = urlsplit(first.split(" ")[1])
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if colon:
            # A header that is sent twice is one with both values.
            values = (headers.get(name.lower()), text.strip())
            headers[name.lower()] = ", ".join(value for value in values if value is not None)
    return _Request(target.path, query, headers)
