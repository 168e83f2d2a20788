"""Which requests get a token: every process of the machine can connect to the endpoint."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from azpg.emulator import Emulator, EmulatorError

QUERY = "?api-version={}&resource=https://ossrdbms-aad.database.windows.net"
APP_SERVICE = "/msi/token" + QUERY.format("2019-08-01")
IMDS = "/metadata/identity/oauth2/token" + QUERY.format("2018-02-01")


@pytest.fixture(scope="module")
def imds_emulator() -> Iterator[Emulator]:
    """Run an emulator with IMDS."""
    with Emulator(imds=True, pgbouncer=False) as emulator:
        yield emulator


def address_of(emulator: Emulator) -> str:
    """Return the address and the port of the endpoint."""
    return urlsplit(emulator.env["IDENTITY_ENDPOINT"]).netloc


def send_request(emulator: Emulator, target: str, *headers: str) -> tuple[int, dict[str, Any]]:
    """Send a request with only these headers and return the status and the content."""
    address, _, port = address_of(emulator).partition(":")
    with socket.create_connection((address, int(port)), timeout=30) as sock:
        sock.sendall("\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode("latin-1"))
        with sock.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def secret_of(emulator: Emulator) -> str:
    """Return the header with this run's secret."""
    return f"X-IDENTITY-HEADER: {emulator.env['IDENTITY_HEADER']}"


def test_a_valid_request_gets_a_token(emulator: Emulator, imds_emulator: Emulator) -> None:
    """With the right headers each form returns a token."""
    host = f"host: {address_of(emulator)}"
    assert "access_token" in send_request(emulator, APP_SERVICE, host, secret_of(emulator))[1]
    host = f"Host:{address_of(imds_emulator)}"
    assert "access_token" in send_request(imds_emulator, IMDS, host, "Metadata: true")[1]


def test_imds_is_off_by_default(emulator: Emulator) -> None:
    """By default there is no IMDS, which has no secret."""
    host = f"Host: {address_of(emulator)}"
    before = emulator.counts
    for headers in (("Metadata: true",), ("Metadata: true", secret_of(emulator))):
        assert send_request(emulator, IMDS, host, *headers)[0] == 404
    assert (emulator.counts - before).tokens_issued == 0
    with pytest.raises(EmulatorError, match=r"Emulator\(imds=True\)"):
        emulator.imds_env  # noqa: B018  # the access raises the error


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["evil.example"],
        ["evil.example:{port}"],
        ["localhost:{port}"],
        ["127.0.0.1"],
        ["{address}"],
        ["{netloc}."],
        ["{netloc}@evil.example"],
        ["169.254.169.254"],
        ["evil.example", "{netloc}"],
        ["{netloc}", "evil.example"],
    ],
)
@pytest.mark.parametrize("form", ["app-service", "imds"])
def test_another_host_header_is_rejected(
    imds_emulator: Emulator, form: str, hosts: list[str]
) -> None:
    """A web page that rebinds its host name to the endpoint's address gets no token."""
    netloc = address_of(imds_emulator)
    address, _, port = netloc.partition(":")
    host_headers = [
        f"Host: {host.format(netloc=netloc, address=address, port=port)}" for host in hosts
    ]
    target, header = (
        (APP_SERVICE, secret_of(imds_emulator))
        if form == "app-service"
        else (IMDS, "Metadata: true")
    )
    before = imds_emulator.counts
    status, content = send_request(imds_emulator, target, *host_headers, header)
    assert status == 400
    assert netloc in json.dumps(content)
    assert (imds_emulator.counts - before).tokens_issued == 0


@pytest.mark.parametrize("header", ["", "x", "{secret}x", "{secret}, {secret}", "ü"])
def test_app_service_requires_this_runs_secret(emulator: Emulator, header: str) -> None:
    """Without exactly the secret of this run there is no token."""
    host = f"Host: {address_of(emulator)}"
    guess = header.format(secret=emulator.env["IDENTITY_HEADER"])
    status, content = send_request(emulator, APP_SERVICE, host, f"X-IDENTITY-HEADER: {guess}")
    assert (status, "access_token" in content) == (401, False)
    assert send_request(emulator, APP_SERVICE, host)[0] == 401
    assert send_request(emulator, APP_SERVICE, host, "Metadata: true")[0] == 401
    # The header of an older version of App Service's protocol
    assert send_request(emulator, APP_SERVICE, host, f"secret: {guess}")[0] == 401


@pytest.mark.parametrize(
    "headers", [[], ["Metadata: false"], ["Metadata: true", "X-Forwarded-For: 192.0.2.1"]]
)
def test_imds_rejects_invalid_requests(imds_emulator: Emulator, headers: list[str]) -> None:
    """IMDS rejects requests without its header and requests that a proxy forwards."""
    host = f"Host: {address_of(imds_emulator)}"
    assert send_request(imds_emulator, IMDS, host, *headers)[0] == 400
