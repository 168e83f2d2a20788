"""The password file of a command: its content, who can read it, and its cleanup."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fix_hostile import Hostile, Peer
from hypothesis import given, settings
from hypothesis import strategies as st

import azpg
from azpg import _child_env, _passfile
from azpg._passfile import PasswordKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_command import Command
    from fix_leaks import Leaks

HOST = "myserver.postgres.database.azure.com"


@pytest.fixture(scope="module")
def received() -> list[bytes]:
    """Return the passwords that the listener received."""
    return []


@pytest.fixture(scope="module")
def listener(received: list[bytes]) -> Iterator[Hostile]:
    """Run a server without TLS that requests a password in clear text."""

    def ask(peer: Peer) -> None:
        peer.packet()
        peer.ask(3)
        received.append(peer.message()[1])
        peer.refuse("thank you")

    server = Hostile(ask)
    yield server
    server.close()


TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\n\r") | st.sampled_from(":\\*#' "),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60)
@given(host=TEXT, user=TEXT, password=TEXT | st.just("eyJ" + "x" * 27_000), own=st.booleans())
def test_libpq_finds_the_password_for_its_key_only(
    listener: Hostile, received: list[bytes], host: str, user: str, password: str, own: bool
) -> None:
    """The real libpq reads the exact password, for this host, port and user only."""
    host = host.replace("/", "").replace("@", "").replace(",", "") or "h"
    port = str(listener.port)
    lines = b"*:*:*:*:mine\n" if own else b""
    data = _passfile.format_passfile([PasswordKey(host, port, user)], password, lines)

    def sent(**changes: str) -> bytes:
        received.clear()
        known: dict[str, Any] = {"host": host, "hostaddr": listener.host, "port": port}
        known |= {"user": user, "dbname": "any", "sslmode": "disable"} | changes
        with _child_env._password_file(data, in_place=False) as path, pytest.raises(psycopg.Error):
            psycopg.connect(passfile=path, **known)
        return b"".join(received)

    assert sent() == password.encode() + b"\0"
    for other in ({"host": f"{host}x"}, {"host": ""}, {"user": f"{user}x"}):
        assert sent(**other) == (b"mine\0" if own else b"")
    assert _passfile.parse_passfile(data) == {PasswordKey(host, port, user): password}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"host": "a", "port": "1"}, [("a", "1")]),
        ({"host": "a,b", "port": "1,2"}, [("a", "1"), ("b", "2")]),
        ({"host": "a,b", "port": "1"}, [("a", "1"), ("b", "1")]),
        ({"host": "a,a", "port": "1", "hostaddr": "192.0.2.1,192.0.2.2"}, [("a", "1")]),
        ({"hostaddr": "::1,192.0.2.2", "port": "1"}, [("::1", "1"), ("192.0.2.2", "1")]),
        ({"host": "/tmp", "port": "1"}, [("/tmp", "1"), ("localhost", "1")]),
        ({"host": "/elsewhere", "port": "1"}, [("/elsewhere", "1")]),
    ],
    ids=str,
)
def test_each_host_has_a_line_with_its_port(
    params: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    """Each host of a list has a line; for its default socket libpq looks up `localhost`."""
    places = _passfile.password_keys({**params, "user": "app"})
    assert places == [PasswordKey(host, port, "app") for host, port in expected]
    assert _passfile.format_passfile(places, "p", b"").count(b"\n") == len(expected)


@pytest.mark.parametrize("password", ["one\ntwo", "one\r\ntwo", "one\rtwo"], ids=repr)
def test_a_password_with_a_line_break_is_rejected(
    command: Command, leaks: Leaks, password: str
) -> None:
    """No command is started with it; the password is not in the error."""
    with pytest.raises(azpg.ConfigError, match="password contains a line break") as caught:
        _child_env.child_environment(server="myserver", user="app", password=lambda: password)
    leaks.none_held(caught.value, password)
    words = ("--server", "myserver", "--user", "app", "--", "echo", "never")
    ran = command("exec", *words, PGPASSWORD=password)
    assert (ran.status, ran.out) == (2, "")
    assert "line break" in ran.err
    assert "two" not in ran.err


def test_a_user_with_a_line_break_is_rejected() -> None:
    """All values with a line break are reported at once."""
    with pytest.raises(azpg.ConfigError) as caught:
        _child_env.child_environment(server="myserver", user="a\nb", password=lambda: "c\nd")
    assert [problem.split()[0] for problem in caught.value.problems] == ["user", "password"]


def made(**options: Any) -> bytes:
    """Return the password file of a command."""
    with _child_env.child_environment(
        server="myserver", user="app", password="secret", **options
    ).exported() as environ:
        return Path(environ["PGPASSFILE"]).read_bytes()


OURS = f"{HOST}:5432:*:app:secret\n".encode()


@pytest.mark.parametrize("named", [True, False])
def test_the_users_own_lines_follow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: bool
) -> None:
    """PGPASSFILE or ~/.pgpass still works for other servers, after the command's own lines."""
    path = tmp_path / ("mine" if named else "home/.pgpass")
    path.write_bytes(b"*:*:*:*:mine \xff\n")
    path.chmod(0o600)
    if named:
        monkeypatch.setenv("PGPASSFILE", str(path))
    assert made().startswith(OURS)
    assert made().endswith(b"\n*:*:*:*:mine \xff\n")
    path.chmod(0o640)  # libpq does not read it
    assert made() == OURS


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_a_file_that_libpq_would_not_read_is_omitted(tmp_path: Path, kind: str) -> None:
    """Only a regular file is read: a named pipe would block the command."""
    path = tmp_path / "home" / ".pgpass"
    if kind == "folder":
        path.mkdir(mode=0o700)
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    assert made() == OURS


def test_a_password_file_is_in_memory_and_sealed() -> None:
    """It is not on disk, open to this user only, cannot be changed, and ends with the block."""
    with _child_env._password_file(b"content", in_place=False) as path:
        assert os.readlink(path).startswith("/memfd:")
        seen = os.stat(path)
        assert (seen.st_mode & 0o777, seen.st_uid) == (0o600, os.geteuid())
        with pytest.raises(PermissionError), open(path, "r+b", buffering=0) as file:
            file.write(b"x")
        # A script opens descriptors up to 9 itself
        assert int(path.rpartition("/")[2]) > 9
    assert not os.path.exists(path)


@pytest.fixture
def without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a system without files in memory."""
    monkeypatch.delattr(os, "memfd_create")


def test_without_memfd(without_memfd: None) -> None:
    """The password file is in its own private folder, which is deleted with it."""
    with _child_env._password_file(b"content", in_place=False) as path:
        assert Path(path).read_bytes() == b"content"
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    assert not os.path.exists(os.path.dirname(path))


def test_if_no_file_can_be_written(without_memfd: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to do."""
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with pytest.raises(azpg.ConnectError, match="TMPDIR"):
        made()
