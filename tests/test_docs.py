"""The code in the documentation, run as it stands."""

from __future__ import annotations

import ast
import asyncio
import inspect
import socket
import ssl
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fix_docs import blocks

from azpg.emulator import Emulator, Principal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_asyncpg import Run

BLOCKS = [pytest.param(code, id=name) for name, code in blocks("python")]


class Vault:
    """Stand in for a Key Vault's client."""

    def get_secret(self, name: str) -> SimpleNamespace:
        """Return a secret of that name."""
        return SimpleNamespace(value=f"value of {name}")


@pytest.fixture(scope="module")
def site() -> Iterator[Emulator]:
    """Run a server for all pages."""
    with Emulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def roles(site: Emulator) -> dict[str, Principal]:
    """Make the roles that the pages name."""
    members = [site.principal]
    return {
        "app": site.add_role("app", password="value of app-password"),
        "reporting": site.add_role("reporting", kind="service-principal"),
        "team": site.add_role("team", kind="group", members=members),
    }


@pytest.fixture
def azure(
    site: Emulator, roles: dict[str, Principal], monkeypatch: pytest.MonkeyPatch, code: str
) -> Iterator[Emulator]:
    """Lead to the server, or to one of the cloud that a block names."""
    with ExitStack() as stack:
        if '"usgov"' in code:
            host = "myserver.postgres.database.usgovcloudapi.net"
            site = stack.enter_context(Emulator(host=host, pgbouncer=False))
        for name, value in site.env.items():
            monkeypatch.setenv(name, value)
        yield site


@pytest.fixture
def way(azure: Emulator, request: pytest.FixtureRequest, code: str) -> None:
    """Open the way that a block takes: a tunnel, or Microsoft Entra itself."""
    if "15432" in code:
        request.getfixturevalue("dig")((azure.hostaddr, azure.port), (azure.hostaddr, 15432))
    if "ClientSecretCredential" in code:
        reporting = request.getfixturevalue("roles")["reporting"]
        request.getfixturevalue("authority").give = lambda _form: azure.token(reporting)


@pytest.mark.parametrize("code", BLOCKS)
@pytest.mark.usefixtures("way")
def test_documented_code_runs(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch, run: Run, code: str
) -> None:
    """Each block of code does what its page says, on a server that has what it names."""

    def look_up(host: str | None, *args: Any, **options: Any) -> Any:
        """Find the emulator by its names, for drivers that know no hostaddr."""
        return getaddrinfo(addresses.get(host, host), *args, **options)

    here = (azure.host, "localhost", "db.corp.example")
    addresses: dict[str | None, str] = dict.fromkeys(here, azure.hostaddr)
    if "READER" in code:
        addresses[azure.reader_host] = azure.reader_hostaddr
        monkeypatch.delenv("PGHOSTADDR")
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    # What the page leaves to the reader's own program
    names: dict[str, Any] = {
        "HOST": azure.host,
        "READER": azure.reader_host,
        "CLIENT_ID": azure.principal.client_id,
        "asyncio": asyncio,
        "ssl_context": ssl.create_default_context(cafile=azure.root_certificate),
        "vault": Vault(),
    }
    run(execute(code, names, azure))


async def execute(code: str, names: dict[str, Any], azure: Emulator) -> None:
    """Run code that may await, and close what it opens."""
    before = azure.counts
    compiled = compile(code, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(waiting := eval(compiled, names)):
        await waiting
    for name, close in (("conn", "close"), ("pool", "close"), ("engine", "dispose")):
        if inspect.isawaitable(closing := getattr(names.get(name), close, lambda: None)()):
            await closing
    assert (azure.counts - before).connections > 0
