"""Microsoft Entra as a credential meets it: authorities over HTTPS, an `az`, a person's browser."""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
import time
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from azpg.emulator import Emulator

KNOWN = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.sovcloud-identity.fr",
)
"""The authorities that Microsoft vouches for."""
PRIVATE = "login.example.net"
"""The authority of a private cloud, which it does not."""


@dataclass
class Authority:
    """What the authorities hand out, and what they were asked."""

    ca: str
    give: Callable[[dict[str, str]], str]
    """makes the token for a form; what it raises is answered as a refusal"""
    lifetime: int = 3600
    """of a token, in seconds; azure-identity asks again under 300"""
    forms: list[dict[str, str]] = field(default_factory=list)
    """the requests for a token, with the host that each was sent to and the port it came from"""
    user_agents: list[str] = field(default_factory=list)
    """of the same requests"""

    @staticmethod
    def refusal(error: str, description: str) -> Exception:
        """Make what `give` raises to refuse."""
        return _RefusalError(error, description)

    def asked(self) -> list[tuple[str, str]]:
        """Return host and scope of each request for a token."""
        return [(form["host"], form["scope"].partition(" ")[0]) for form in self.forms]


class _RefusalError(Exception):
    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.answer = {"error": error, "error_description": description}


def _of_a_person(form: dict[str, str]) -> dict[str, str]:
    """Return who has signed in; the code that the browser brought is the nonce."""
    person = {
        "iss": f"https://{form['host']}/tenant/v2.0",
        "aud": form["client_id"],
        "sub": "subject",
        "tid": "tenant",
        "preferred_username": "alice@contoso.com",
        "nonce": form["code"],
    }
    return {
        "id_token": f"e30.{_base64(person)}.",
        "client_info": _base64({"uid": "user", "utid": "tenant"}),
    }


def _base64(value: dict[str, str]) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self,
        authority: Authority,
        tls: ssl.SSLContext,
        handler: type[BaseHTTPRequestHandler] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler or _Handler)
        self.authority = authority
        self.tls = tls


class _Handler(BaseHTTPRequestHandler):
    """A proxy that is itself whatever host a client asks it to connect to."""

    protocol_version = "HTTP/1.1"
    host = ""

    def log_message(self, *_args: object) -> None:
        """Write nothing to stderr."""

    def do_CONNECT(self) -> None:
        """Become the host that is asked for."""
        self.host = self.path.rpartition(":")[0]
        self.send_response(200)
        self.end_headers()
        tls = cast("_Server", self.server).tls.wrap_socket(self.connection, server_side=True)
        self.connection = tls
        self.rfile, self.wfile = tls.makefile("rb"), tls.makefile("wb")
        self.close_connection = False

    def do_GET(self) -> None:
        """Answer the two discoveries that go before a request for a token."""
        url = urlsplit(self.path)
        if url.path != "/common/discovery/instance":
            tenant = url.path.split("/")[1]
            base = f"https://{self.host}/{tenant}"
            return self._answer(
                200,
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                },
            )
        asked = urlsplit(parse_qs(url.query)["authorization_endpoint"][0])
        if asked.hostname not in KNOWN:
            return self._answer(400, {"error": "invalid_instance"})
        base = f"https://{asked.netloc}/{asked.path.split('/')[1]}"
        endpoint = f"{base}/v2.0/.well-known/openid-configuration"
        return self._answer(200, {"tenant_discovery_endpoint": endpoint, "metadata": []})

    def do_POST(self) -> None:
        """Hand out a token."""
        authority = cast("_Server", self.server).authority
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        form |= {"host": self.host, "port": str(self.client_address[1])}
        authority.user_agents.append(self.headers["User-Agent"])
        authority.forms.append(form)
        try:
            token = authority.give(form)
        except _RefusalError as refusal:
            return self._answer(400, refusal.answer)
        answer = {
            "token_type": "Bearer",
            "expires_in": authority.lifetime,
            "access_token": token,
        }
        if form["grant_type"] == "authorization_code":
            answer |= _of_a_person(form)
        return self._answer(200, answer)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def finish(self) -> None:
        """End, also the TLS that was begun."""
        with suppress(OSError):
            super().finish()
        self.connection.close()


@pytest.fixture(scope="session")
def _authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, int]]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*KNOWN, PRIVATE).configure_cert(tls)
    authority = Authority(str(path), lambda _form: "")
    with _Server(authority, tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="authority")
        thread.start()
        try:
            yield authority, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def authority(
    _authorities: tuple[Authority, int], azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Authority:
    """Lead every request to an authority to the stand-in, which gives the emulator's tokens."""
    authority, port = _authorities
    authority.forms.clear()
    authority.user_agents.clear()
    authority.lifetime = 3600
    authority.give = lambda _form: azure.token()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca)
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca)
    for name in ("AZURE_TOKEN_CREDENTIALS", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    return authority


class _TokenProxyHandler(_Handler):
    """The proxy that AKS runs in a cluster: it is connected to directly."""

    host = "aks"

    def do_GET(self) -> None:
        """Answer the discoveries; clients replace the host of the endpoints by the proxy's."""
        self.host = KNOWN[0]
        super().do_GET()


@pytest.fixture
def token_proxy(
    azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Authority]:
    """Be a pod with an AKS identity binding: a token proxy, and what Kubernetes sets of it."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "aks.pem"))
    (tmp_path / "federated-token").write_text("the pod's own", encoding="utf-8")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("token-proxy.aks").configure_cert(tls)
    authority = Authority(str(tmp_path / "aks.pem"), lambda _form: azure.token())
    for name in ("AZURE_TOKEN_CREDENTIALS", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    with _Server(authority, tls, _TokenProxyHandler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="token-proxy")
        thread.start()
        for name, value in {
            "AZURE_KUBERNETES_TOKEN_PROXY": f"https://127.0.0.1:{server.server_address[1]}",
            "AZURE_KUBERNETES_CA_FILE": authority.ca,
            "AZURE_KUBERNETES_SNI_NAME": "token-proxy.aks",
            "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "federated-token"),
            "AZURE_TENANT_ID": "11111111-2222-4333-8444-555555555555",
            "AZURE_CLIENT_ID": "the-app",
        }.items():
            monkeypatch.setenv(name, value)
        try:
            yield authority
        finally:
            server.shutdown()
            thread.join()


class Cli:
    """An `az` that is signed in, and keeps count of its starts."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "starts"
        self._answer = folder / "answer"
        self.program = folder / "bin" / "az"
        self.program.parent.mkdir()
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >> {self._log}\ncat {self._answer} 2>/dev/null && exit\n',
            encoding="utf-8",
        )
        self.program.chmod(0o755)

    def answer(self, token: str, lifetime: float = 3600) -> None:
        """Set what it prints."""
        said = {"accessToken": token, "expires_on": int(time.time() + lifetime)}
        self._answer.write_text(json.dumps(said), encoding="utf-8")

    def refuse(self, said: str) -> None:
        """Make it fail with these words."""
        self._answer.unlink()
        with self.program.open("a", encoding="utf-8") as script:
            script.write(f'echo "{said}" >&2\nexit 1\n')

    @property
    def starts(self) -> list[str]:
        """The arguments of each start."""
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []


@pytest.fixture
def az(tmp_path: Path, azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Put an `az` first on PATH, signed in to the emulator."""
    folder = tmp_path / "az"
    folder.mkdir()
    cli = Cli(folder)
    cli.answer(azure.token())
    monkeypatch.setenv("PATH", f"{cli.program.parent}{os.pathsep}{os.environ['PATH']}")
    return cli


_BROWSER = """\
#!{python} -SE
import http.client, sys
from urllib.parse import parse_qsl, urlencode, urlsplit

asked = dict(parse_qsl(urlsplit(sys.argv[1]).query))
with open({log!r}, "a") as log:
    print(asked["scope"], file=log)
to = urlsplit(asked["redirect_uri"])
there = http.client.HTTPConnection(to.hostname, to.port, timeout=30)
form = urlencode({{"code": asked["nonce"], "state": asked["state"]}})
there.request("POST", "/", form, {{"Content-Type": "application/x-www-form-urlencoded"}})
there.getresponse().read()
"""


class Browser:
    """A browser whose person signs in at once, and its history."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "history"
        self.program = folder / "browser"
        script = _BROWSER.format(python=sys.executable, log=str(self._log))
        self.program.write_text(script, encoding="utf-8")
        self.program.chmod(0o755)

    @property
    def sign_ins(self) -> list[str]:
        """What each sign-in was for."""
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []


@pytest.fixture
def browser(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Browser:
    """Give the programs that a test starts a browser."""
    browser = Browser(tmp_path)
    monkeypatch.setenv("BROWSER", f"{browser.program} %s &")
    return browser
