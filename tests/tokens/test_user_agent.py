"""Token requests carry azpg's name and version, if azpg made the credential."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from azure.identity import ClientSecretCredential

import azpg
from azpg._tokens.credentials import service_principal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_authority import Authority

TENANT = "11111111-2222-4333-8444-555555555555"
OURS = f"azpg/{azpg.__version__} azsdk-python-identity/"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Be a machine of App Service, and return what its endpoint is asked with."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Write nothing to stderr."""

        def do_GET(self) -> None:
            asked.append(self.headers["User-Agent"])
            answer = {
                "access_token": "token",
                "expires_on": str(int(time.time()) + 3600),
                "resource": "r",
                "token_type": "Bearer",
            }
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("IDENTITY_HEADER", "header")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        yield asked
        server.shutdown()
        thread.join()


def test_a_managed_identitys_request_names_azpg(endpoint: list[str]) -> None:
    """The default credential of a machine on Azure."""
    azpg.EntraPassword(cloud=azpg.AZURE_PUBLIC.replace(authority="login.user-agent.example"))()
    assert len(endpoint) == 1
    assert endpoint[0].startswith(OURS)


def test_an_applications_request_names_azpg(authority: Authority) -> None:
    """The credential that azpg makes from Service Connector's variables."""
    made = service_principal(azpg.AZURE_PUBLIC.authority, TENANT, "user-agent", "secret")
    azpg.EntraPassword(made)()  # type: ignore[arg-type]  # as azpg itself passes it
    assert [each.startswith(OURS) for each in authority.user_agents] == [True]


def test_a_bound_pods_request_names_azpg(token_proxy: Authority) -> None:
    """The credential for an AKS identity binding."""
    azpg.EntraPassword(client_id="user-agent")()
    assert [each.startswith(OURS) for each in token_proxy.user_agents] == [True]


def test_a_callers_credential_is_left_as_it_is(authority: Authority) -> None:
    """Its requests are the caller's."""
    with ClientSecretCredential(TENANT, "the-app", "secret") as credential:
        azpg.EntraPassword(credential)()
    assert [each.startswith("azsdk-python-identity/") for each in authority.user_agents] == [True]
