"""Faults of asyncpg that azpg cannot prevent: a test fails here once its fault is fixed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, asyncpg, socket, sys, threading

listener = socket.create_server(("127.0.0.1", 0))

def serve():
    client, _ = listener.accept()
    client.recv(10_000)
    body = int(sys.argv[1]).to_bytes(4) + b"v=x"
    client.sendall(b"R" + (len(body) + 4).to_bytes(4) + body)
    client.recv(10_000)

threading.Thread(target=serve, daemon=True).start()
options = {"host": "127.0.0.1", "port": listener.getsockname()[1], "ssl": False, "timeout": 20}
asyncio.run(asyncpg.connect(user="me", password="x", database="x", **options))
"""


@pytest.mark.parametrize("method", [11, 12], ids=["SASLContinue", "SASLFinal"])
def test_a_sasl_message_out_of_order_ends_the_process(method: int) -> None:
    """A process dies of SIGSEGV, without azpg too, if a server continues SASL that never began.

    If this fails, asyncpg is fixed: raise its lowest version, and take the lines about it out of
    docs/security.md, docs/reference/support.md and docs/how-to/asyncpg.md.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(method)], check=False, timeout=60)
    assert ran.returncode == -signal.SIGSEGV
