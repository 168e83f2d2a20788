"""The code in the documentation, run as it stands."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fix_asyncpg import Run

    from azpg.emulator import Emulator

DOCS = Path(__file__).parent.parent / "docs"
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


class Vault:
    """Stand in for a Key Vault's client."""

    def get_secret(self, name: str) -> SimpleNamespace:
        """Return a secret of that name."""
        return SimpleNamespace(value=f"value of {name}")


@pytest.mark.parametrize("code", BLOCKS)
def test_documented_code_runs(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch, run: Run, code: str
) -> None:
    """Each block of code does what its page says, on a server that has what it names."""
    if '"app"' in code:
        azure.add_role("app", password="value of app-password")

    def look_up(host: str | None, *args: Any, **options: Any) -> Any:
        """Find the emulator by its names, for drivers that know no hostaddr."""
        return getaddrinfo(addresses.get(host, host), *args, **options)

    addresses: dict[str | None, str] = {azure.host: azure.hostaddr}
    if "READER" in code:
        addresses[azure.reader_host] = azure.reader_hostaddr
        monkeypatch.delenv("PGHOSTADDR")
    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    # What the page leaves to the reader's own program
    names: dict[str, Any] = {
        "HOST": azure.host,
        "READER": azure.reader_host,
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
