"""The examples for web frameworks and task queues, served by real servers that fork."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
from fix_pools import idle, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azpg.emulator import Emulator

EXAMPLES = Path(__file__).parent.parent / "examples"
TIMEOUT = 60
FORKED = "Create the pool in each process"

# The examples' own apps, with a pool beside theirs that is open before the server forks.
WRONG = """
import atexit

import azpg
from flask_app import app

pool = azpg.create_pool(server="myserver", min_size=1)
atexit.register(pool.close)

@app.get("/wrong")
def wrong():
    with pool.connection() as conn:
        conn.execute("select 1")
"""
WRONG_TASK = """
import atexit

import azpg
from celery_tasks import app

pool = azpg.create_pool(server="myserver", min_size=1)
atexit.register(pool.close)

@app.task
def wrong():
    with pool.connection() as conn:
        conn.execute("select 1")
"""


class Server:
    """A server in a process group of its own, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self._lines: Queue[str] = Queue()
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said so, that many times."""
        while self.said.count(text) < times:
            line = self._lines.get(timeout=TIMEOUT)
            self.said += line
            assert line, f"never said {text!r}: {self.said}"

    def stop(self) -> None:
        """End it in its own way."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0, self.said

    def close(self) -> None:
        """End what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()
        while not self._lines.empty():
            self.said += self._lines.get()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """Run a module as a server, in a folder and with the examples to import."""
    server = Server(
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    )
    try:
        yield server
    finally:
        server.close()


def environment(folder: Path) -> dict[str, str]:
    """Return the test's environment, with the folder and the examples to import from."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(EXAMPLES)])}


def get(port: int, path: str = "/") -> dict[str, Any]:
    """Return what a server's page says."""
    url = f"http://127.0.0.1:{port}{path}"
    with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT) as page:
        said: dict[str, Any] = json.load(page)
    return said


@pytest.mark.parametrize("name", ["celery_tasks", "fastapi_app", "flask_app", "gunicorn_conf"])
def test_they_are_short(name: str) -> None:
    """Each example has under 40 lines, and begins with how it is run."""
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    assert "`" in path.read_text().splitlines()[0]


def load(name: str) -> Any:
    """Import an example, as a module of its own each time."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flask_gives_each_request_one_connection(azure: Emulator) -> None:
    """A request's connection goes back to the pool with its context, also when the view fails."""
    example = load("flask_app")

    def fail() -> None:
        conn = example.connection()
        assert example.connection() is conn
        with conn.transaction():
            conn.execute("create table never_kept ()")
            raise ZeroDivisionError

    example.app.add_url_rule("/fail", view_func=fail)
    try:
        client = example.app.test_client()
        assert client.get("/").json == {"user": "myapp"}
        assert client.get("/fail").status_code == 500
        # The first to wait lets the pool grow
        until(lambda: idle(example.pool) == example.pool.get_stats()["pool_size"])
        with example.app.app_context():
            found = example.connection().execute("select to_regclass('never_kept')").fetchone()
        assert found == (None,)
    finally:
        example.pool.close()


def test_flask_behind_gunicorn_that_forks(azure: Emulator, tmp_path: Path, free_port: int) -> None:
    """Two workers of an app loaded once each open its pool; one opened before the fork says so."""
    (tmp_path / "wrong.py").write_text(WRONG)
    begun = azure.counts.sign_ins
    told = ("--no-control-socket", "--graceful-timeout=3", "--bind", f"127.0.0.1:{free_port}")
    conf = str(EXAMPLES / "gunicorn_conf.py")
    with serving(tmp_path, "gunicorn", *told, "--config", conf, "wrong:app") as server:
        server.says("Booting worker", times=2)
        with ThreadPoolExecutor(4) as clients:
            assert list(clients.map(get, [free_port] * 8)) == [{"user": "myapp"}] * 8
        with pytest.raises(HTTPError, match="500") as caught:
            get(free_port, "/wrong")
        caught.value.close()
        server.says(FORKED)
        # The open pool's one in the parent, and one or more of each worker's
        until(lambda: azure.counts.sign_ins >= begun + 3)
        server.stop()


def test_fastapi_opens_its_pool_on_the_loop_that_serves(
    azure: Emulator, tmp_path: Path, free_port: int
) -> None:
    """The lifespan opens a pool before the first request, and closes it after the last."""
    begun = azure.counts.sign_ins
    with serving(tmp_path, "uvicorn", "fastapi_app:app", "--port", str(free_port)) as server:
        server.says("Uvicorn running on")
        assert azure.counts.sign_ins == begun + 1
        with ThreadPoolExecutor(4) as clients:
            assert list(clients.map(get, [free_port] * 8)) == [{"user": "myapp"}] * 8
        server.process.send_signal(signal.SIGTERM)
        server.says("Application shutdown complete")
    assert "Traceback" not in server.said
    assert "Warning" not in server.said


SEND = """
from celery_tasks import who
from wrong import wrong

print(*[sent.get(timeout=30) for sent in [who.delay() for _ in range(8)]])
wrong.delay().get(timeout=30)
"""


def test_celery_opens_a_pool_in_each_process(
    azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process of a prefork worker has one connection; a pool opened before it says so."""
    (tmp_path / "wrong.py").write_text(WRONG_TASK)
    (tmp_path / "data_in").mkdir()
    (tmp_path / "data_out").symlink_to("data_in")  # what senders put out, the worker takes in
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("CELERY_BROKER_URL", "filesystem://")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", f"file://{tmp_path}/results")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    told = ("worker", "--pool=prefork", "--concurrency=2", "--loglevel=INFO", *quiet)
    begun = azure.counts.sign_ins
    with serving(tmp_path, "celery", "-A", "wrong", *told) as server:
        server.says("ready.")
        sent = subprocess.run(
            [sys.executable, "-c", SEND],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        assert sent.stdout.count("myapp") == 8, sent.stderr
        assert FORKED in sent.stderr
        # One for each process; the wrong pool's are its parent's and the sender's
        assert azure.counts.sign_ins == begun + 4
        server.stop()
