"""Who gets a token from the identity endpoint: every local process can connect to it."""

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
    """Run an emulator that was asked for IMDS."""
    with Emulator(imds=True, pgbouncer=False) as emulator:
        yield emulator


def place_of(emulator: Emulator) -> str:
    """Return the address and the port of the endpoint."""
    return urlsplit(emulator.env["IDENTITY_ENDPOINT"]).netloc


def answer(emulator: Emulator, target: str, *headers: str) -> tuple[int, dict[str, Any]]:
    """Send a request with these headers and no others; return the status and what was said."""
    address, _, port = place_of(emulator).partition(":")
    with socket.create_connection((address, int(port)), timeout=10) as sock:
        sock.sendall("\r\n".join([f"GET {target} HTTP/1.1", *headers, "", ""]).encode("latin-1"))
        with sock.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def secret_of(emulator: Emulator) -> str:
    """Return App Service's header with this run's secret."""
    return f"X-IDENTITY-HEADER: {emulator.env['IDENTITY_HEADER']}"


def test_a_valid_request_gets_a_token(emulator: Emulator, imds_emulator: Emulator) -> None:
    """With the right headers, each form gives a token."""
    host = f"host: {place_of(emulator)}"
    assert "access_token" in answer(emulator, APP_SERVICE, host, secret_of(emulator))[1]
    host = f"Host:{place_of(imds_emulator)}"
    assert "access_token" in answer(imds_emulator, IMDS, host, "Metadata: true")[1]


def test_imds_is_off_by_default(emulator: Emulator) -> None:
    """IMDS, which asks for no secret, gives nobody a token by default."""
    host = f"Host: {place_of(emulator)}"
    before = emulator.counts
    for headers in (("Metadata: true",), ("Metadata: true", secret_of(emulator))):
        assert answer(emulator, IMDS, host, *headers)[0] == 404
    assert (emulator.counts - before).tokens_issued == 0
    with pytest.raises(EmulatorError, match=r"Emulator\(imds=True\)"):
        emulator.imds_env  # noqa: B018  # asking is what is refused


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["evil.example"],
        ["evil.example:{port}"],
        ["localhost:{port}"],
        ["127.0.0.1"],
        ["{address}"],
        ["{place}."],
        ["{place}@evil.example"],
        ["169.254.169.254"],
        ["evil.example", "{place}"],
        ["{place}", "evil.example"],
    ],
)
@pytest.mark.parametrize("form", ["app-service", "imds"])
def test_another_host_header_is_rejected(
    imds_emulator: Emulator, form: str, hosts: list[str]
) -> None:
    """A web page that has rebound its own name to the endpoint's address gets no token."""
    place = place_of(imds_emulator)
    address, _, port = place.partition(":")
    named = [f"Host: {host.format(place=place, address=address, port=port)}" for host in hosts]
    target, header = (
        (APP_SERVICE, secret_of(imds_emulator))
        if form == "app-service"
        else (IMDS, "Metadata: true")
    )
    before = imds_emulator.counts
    status, said = answer(imds_emulator, target, *named, header)
    assert status == 400
    assert place in json.dumps(said)
    assert (imds_emulator.counts - before).tokens_issued == 0


@pytest.mark.parametrize("header", ["", "x", "{secret}x", "{secret}, {secret}", "ü"])
def test_app_service_requires_this_runs_secret(emulator: Emulator, header: str) -> None:
    """Without the secret of this run, or with more than it, there is no token."""
    host = f"Host: {place_of(emulator)}"
    guess = header.format(secret=emulator.env["IDENTITY_HEADER"])
    status, said = answer(emulator, APP_SERVICE, host, f"X-IDENTITY-HEADER: {guess}")
    assert (status, "access_token" in said) == (401, False)
    assert answer(emulator, APP_SERVICE, host)[0] == 401
    assert answer(emulator, APP_SERVICE, host, "Metadata: true")[0] == 401
    # The header of App Service's older form
    assert answer(emulator, APP_SERVICE, host, f"secret: {guess}")[0] == 401


@pytest.mark.parametrize(
    "headers", [[], ["Metadata: false"], ["Metadata: true", "X-Forwarded-For: 192.0.2.1"]]
)
def test_imds_rejects_invalid_requests(imds_emulator: Emulator, headers: list[str]) -> None:
    """IMDS answers only requests that name it, and none that a proxy forwards."""
    host = f"Host: {place_of(imds_emulator)}"
    assert answer(imds_emulator, IMDS, host, *headers)[0] == 400
