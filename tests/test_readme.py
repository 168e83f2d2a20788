"""The README's code, run as it stands."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azpg
from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from fix_tunnel import Tunnel

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_cheat_sheet(monkeypatch: pytest.MonkeyPatch, dig: Callable[..., Tunnel]) -> None:
    """Each line of the cheat sheet does what it says, on a server that has what it names."""
    with Emulator() as emulator:
        dig((emulator.hostaddr, emulator.port), ("127.0.0.1", 15432))
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        with azpg.connect(server="myserver", autocommit=True) as conn:
            conn.execute("create database mydb")
        identity = emulator.add_role("another", kind="user-assigned")
        emulator.add_role("team", kind="group", members=[identity])
        emulator.add_role("app", password="secret")
        names: dict[str, Any] = {"CLIENT_ID": identity.client_id}
        with warnings.catch_warnings():
            # Its lines drop their connections: each stands for a program.
            warnings.simplefilter("ignore", ResourceWarning)
            asyncio.run(execute(block("python"), names))
            gc.collect()
        assert emulator.counts.refused_sign_ins == 0


def test_it_is_short() -> None:
    """Two screens, and no more."""
    assert len(README.splitlines()) <= 90


async def execute(code: str, names: dict[str, Any]) -> None:
    """Run code that may await, and end what it leaves open."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(waiting := eval(compiled, names)):
        await waiting
    assert len(await names["token"]()) > 1000
    await names["conn"].close()
    names["pool"].close()


def block(language: str) -> str:
    """Return the README's one block of code in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)
