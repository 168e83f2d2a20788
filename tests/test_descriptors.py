"""A process that has no file descriptor left is told so, in azpg's own errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.compat

FULL = """
import asyncio, os, resource, sys
import azpg

loop = asyncio.SelectorEventLoop()
told = {"server": "myserver", "hostaddr": "127.0.0.1", "port": 1, "password": "p4ss-phrase"}
def connect():
    if sys.argv[1] == "sync":
        return azpg.connect(**told, retry_timeout=0)
    return loop.run_until_complete(azpg.connect_async(**told, retry_timeout=0))

azpg.connect
if sys.argv[2] == "warm":
    azpg.conninfo(**told)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
try:
    connect()
except azpg.ConnectError as error:
    print(type(error).__name__, error.kind, error, sep="\\n")
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("cold", ["ConnectError", "file-descriptors"], "ulimit -n"),
        ("warm", ["ConnectError", "file-descriptors"], "ulimit -n"),
    ],
)
def test_a_process_without_a_descriptor_is_told(
    kind: str, state: str, error: list[str], said: str
) -> None:
    """In a first connect and in a later one."""
    command = [sys.executable, "-c", FULL, kind, state]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert lines[:2] == error
    assert "Too many open files" in told.stdout
    assert said in told.stdout
    assert "p4ss-phrase" not in told.stdout + told.stderr
