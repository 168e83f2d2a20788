"""Faults of asyncpg that azpg cannot prevent: a test fails here once its fault is fixed."""

from __future__ import annotations

import signal
import subprocess
import sys

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


def test_a_sasl_message_out_of_order_ends_the_process() -> None:
    """A process dies of SIGSEGV, without azpg too, if a server continues SASL that never began.

    It does for at least one of the two messages, SASLContinue and SASLFinal: on Python 3.15 the
    first one is an InternalClientError. If this fails, asyncpg is fixed: raise its lowest version,
    and take the lines about it out of docs/security.md, docs/reference/support.md and
    docs/how-to/asyncpg.md.
    """
    statuses = [
        subprocess.run([sys.executable, "-c", PROGRAM, method], check=False, timeout=60).returncode
        for method in ("11", "12")
    ]
    assert -signal.SIGSEGV in statuses
