"""The root file that libpq reads, and that no other user can replace it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import psycopg
import pytest

import azpg
from azpg._clouds import AZURE_ROOTS
from azpg._tls import roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_roots import Fingerprints, HoldsTheRoots
    from fix_subprocess import Program

    from azpg.emulator import Emulator

NOBODY = 65534
FEWER = frozenset(sorted(AZURE_ROOTS)[1:])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users may enter, which they may not for pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def printed(code: str, **environ: str) -> str:
    """Return what Python prints for code that has `made`, a RootFile of fewer roots."""
    before = """
        import os, sys
        from pathlib import Path
        from azpg import AZURE_PUBLIC
        from azpg._tls import roots
        fewer = frozenset(sorted(AZURE_PUBLIC.roots)[1:])
        made = roots.RootFile(fewer)
        content = roots.pem(fewer)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(before) + textwrap.dedent(code)]
    env = {**os.environ, **environ}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


# The default roots


def test_the_default_roots_are_the_packages_own_file(holds_the_roots: HoldsTheRoots) -> None:
    """They are the file that is installed with azpg, and libpq reads it."""
    path = roots.root_file(AZURE_ROOTS)
    assert Path(path) == Path(azpg.__file__).parent / "_tls" / "roots.pem"
    assert holds_the_roots(path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_default_roots_are_not_written(tmp_path: Path, umask: int) -> None:
    """No cache folder and no copy is made, whatever the umask and the home folder allow."""
    code = f"""
        os.umask({umask})
        import azpg
        azpg.conninfo(server="myserver", password="secret")
    """
    (tmp_path / "tmp").mkdir()
    printed(code, TMPDIR=str(tmp_path / "tmp"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_program_writes_nothing(
    program: Program, azure: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Logins, failures, pools, and a service file with a key log write no file."""
    (tmp_path / "services").write_text(f"[s]\nsslkeylogfile={tmp_path / 'keys'}\n")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def main() -> None:
        import os
        import sys

        import azpg

        def report(event: str, arguments: tuple[Any, ...]) -> None:
            changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if event == "open" and isinstance(arguments[0], str) and arguments[2] & changing:
                sys.stdout.write(f"{arguments[0]}\n")

        sys.dont_write_bytecode = True
        azpg.connect().close()  # azure-identity's imports do not count
        sys.addaudithook(report)
        azpg.connect("service=s").close()
        azpg.create_pool("service=s", min_size=1).close()
        try:
            azpg.connect("service=s", user="nobody")
        except azpg.LoginError:
            del os.environ["PGSSLROOTCERT"]
            azpg.conninfo("service=s")

    assert not program(main)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {tmp_path / "services", tmp_path / "program.py"}


def test_a_missing_vendored_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A frozen program without azpg's and certifi's data raises an error with the fix."""
    monkeypatch.setattr(roots, "PEM_FILE", tmp_path / "roots.pem")
    monkeypatch.setattr(roots, "_vendored_pem", (tmp_path / "roots.pem").read_bytes)
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "cacert.pem"))
    roots._has_pem_file.cache_clear()
    try:
        with pytest.raises(azpg.TLSError, match="collect azpg's data files") as caught:
            azpg.conninfo(server="myserver", password="secret")
    finally:
        monkeypatch.undo()
        roots._has_pem_file.cache_clear()
    assert caught.value.kind == "root-file"


def test_a_zipped_package(tmp_path: Path) -> None:
    """If azpg is in a zip file, its certificates are written as any other set of roots."""
    archive = shutil.make_archive(
        str(tmp_path / "zipped"), "zip", Path(azpg.__file__).parent.parent, "azpg"
    )
    code = f"""
        import sys; sys.path.insert(0, {archive!r})
        import azpg
        from azpg._tls import roots
        path = roots.root_file(azpg.AZURE_PUBLIC.roots)
        assert ".zip" in azpg.__file__
        print(open(path, "rb").read() == roots.pem(azpg.AZURE_PUBLIC.roots))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


# Other roots


def test_other_roots_are_exactly_the_given_ones(fingerprints: Fingerprints) -> None:
    """A cloud with some of the roots, or with one more from certifi, has exactly those."""
    other = next(name for name in fingerprints(certifi.contents()) if name not in FEWER)
    for wanted in (FEWER, FEWER | {other}, frozenset({other})):
        assert set(fingerprints(Path(roots.root_file(wanted)))) == wanted


def test_libpq_verifies_with_other_roots(azure: Emulator) -> None:
    """A server whose root is not in it is rejected."""
    cloud = azpg.Cloud("own", azpg.AZURE_PUBLIC.suffixes, "s", "l", FEWER)
    with pytest.raises(azpg.TLSError) as caught:
        azpg.connect(cloud=cloud, user="app", password="secret", sslrootcert="", retry_timeout=0)
    assert caught.value.kind == "certificate"


def test_other_roots_cannot_be_changed() -> None:
    """The file in memory is sealed: nobody can write to it, not even this process."""
    path = roots.root_file(FEWER)
    with pytest.raises(PermissionError):
        Path(path).write_bytes(b"")
    with pytest.raises(PermissionError):
        os.truncate(path, 0)


def test_other_roots_need_no_disk(tmp_path: Path) -> None:
    """Nothing is written to disk, so a read-only file system makes no difference."""
    printed("made.path()", TMPDIR=str(tmp_path))
    printed("made.path()", TMPDIR="/proc/nothing")
    assert not list(tmp_path.glob("azpg*"))


def test_another_file_under_the_same_descriptor_is_not_read(tmp_path: Path) -> None:
    """If a daemon closes all descriptors and opens other files, those are not used as roots."""
    output = printed(
        """
        path = made.path()
        number = int(path.rpartition("/")[2])
        os.closerange(3, 256)
        while (opened := os.open("/etc/hostname", os.O_RDONLY)) < number: pass
        assert opened == number
        print(Path(path).read_bytes() != content, Path(made.path()).read_bytes() == content)
        """
    )
    assert output.split() == ["True", "True"]


def test_other_roots_outlive_a_fork_and_a_drop_of_privileges() -> None:
    """A forked child reads the same certificates, also as another user."""
    output = printed(
        """
        path = made.path()
        if (child := os.fork()) == 0:
            if os.geteuid() == 0:
                os.setgid(65534); os.setuid(65534)
            os._exit(Path(made.path()).read_bytes() != content)
        print(os.waitpid(child, 0)[1], Path(path).read_bytes() == content)
        """
    )
    assert output.split() == ["0", "True"]


def test_another_process_finds_other_roots_by_the_shared_path() -> None:
    """`/proc/self` differs in another process; the path with this process's ID is the same file."""
    path = roots.root_file(FEWER)
    shared = roots.shared_path(path)
    read = subprocess.run(["cat", shared], check=True, capture_output=True).stdout
    assert read == roots.pem(FEWER)
    assert roots.shared_path("/etc/roots.pem") == "/etc/roots.pem"


def test_conninfo_names_other_roots_by_the_shared_path(fingerprints: Fingerprints) -> None:
    """Another process may use what azpg.conninfo() returns, while this process runs."""
    dsn = azpg.conninfo(server="myserver", cloud=azpg.AZURE_PUBLIC.replace(roots=FEWER))
    path = str(psycopg.conninfo.conninfo_to_dict(dsn)["sslrootcert"])
    assert path.startswith(f"/proc/{os.getpid()}/")
    assert set(fingerprints(Path(path))) == FEWER


# Without memfd


WITHOUT_MEMFD = "del os.memfd_create\n"


def test_without_memfd_a_private_folder_is_used_and_removed(tmp_path: Path) -> None:
    """Other users cannot enter it, and it is removed when the process that made it exits."""
    output = printed(
        WITHOUT_MEMFD
        + textwrap.dedent(
            """
            path = made.path()
            if (child := os.fork()) == 0:
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0
            print(path, oct(os.stat(Path(path).parent).st_mode & 0o777),
                  Path(path).read_bytes() == content)
            """
        ),
        TMPDIR=str(tmp_path),
    )
    path, mode, whole = output.split()
    assert (mode, whole) == ("0o700", "True")
    assert Path(path).parent.parent == tmp_path
    assert not Path(path).parent.exists()


def test_a_private_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    """A cleaner of temporary files does not break a long-running process."""
    output = printed(
        WITHOUT_MEMFD
        + textwrap.dedent(
            """
            import shutil
            shutil.rmtree(Path(made.path()).parent)
            print(Path(made.path()).read_bytes() == content)
            """
        ),
        TMPDIR=str(tmp_path),
    )
    assert output == "True\n"


def test_roots_that_cannot_be_written_are_an_error() -> None:
    """Without memfd and without a writable folder it is a TLSError, not the default roots."""
    output = printed(
        WITHOUT_MEMFD
        + textwrap.dedent(
            """
            import azpg, tempfile
            tempfile.tempdir = "/proc/nothing"
            try:
                azpg.conninfo(server="x", cloud=azpg.AZURE_PUBLIC.replace(roots=fewer))
            except azpg.TLSError as error:
                print(error.kind, "sslrootcert=" in error.hint)
            """
        )
    )
    assert output.split() == ["root-file", "True"]


@pytest.mark.root
def test_a_folder_that_others_could_replace_is_not_used(open_folder: Path) -> None:
    """A private folder below another user's folder could be replaced by that user."""
    os.chown(open_folder, NOBODY, NOBODY)
    output = printed(
        WITHOUT_MEMFD
        + textwrap.dedent(
            """
            try:
                print(made.path())
            except Exception as error:
                print(error.kind)
            """
        ),
        TMPDIR=str(open_folder),
    )
    assert output == "root-file\n"


# Files that another user could replace


def owned_by_nobody(path: Path) -> None:
    """Change the owner of a file to another user."""
    os.chown(path, NOBODY, NOBODY)


def in_nobodys_folder(path: Path) -> None:
    """Change the owner of a file's folder to another user."""
    os.chown(path.parent, NOBODY, NOBODY)


def behind_nobodys_link(path: Path) -> None:
    """Replace a file by another user's link to it."""
    path.rename(path.with_suffix(".own"))
    path.symlink_to(path.with_suffix(".own"))
    os.lchown(path, NOBODY, NOBODY)


@pytest.mark.root
@pytest.mark.parametrize("change", [owned_by_nobody, in_nobodys_folder, behind_nobodys_link])
@pytest.mark.parametrize("source", ["environment", "service file", "conninfo", "keyword"])
def test_a_root_file_that_another_user_can_replace_is_rejected(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], source: str
) -> None:
    """Below a world-writable folder, such as /tmp, another user's root file is a ConfigError."""
    path = open_folder / "exports" / "root.crt"
    path.parent.mkdir(mode=0o755)
    shutil.copy(roots.PEM_FILE, path)
    call: dict[str, Any] = {"server": "myserver", "password": "secret"}
    if source == "environment":
        monkeypatch.setenv("PGSSLROOTCERT", str(path))
    elif source == "service file":
        (open_folder / "services").write_text(f"[s]\nsslrootcert={path}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(open_folder / "services"))
        call["service"] = "s"
    elif source == "conninfo":
        call["conninfo"] = f"sslrootcert={path}"
    else:
        call["sslrootcert"] = str(path)
    azpg.conninfo(**call)
    change(path)
    with pytest.raises(azpg.ConfigError, match=str(path)):
        azpg.conninfo(**call)
    # For non-Azure hosts the caller decides
    azpg.conninfo("host=db.example.net user=app password=secret", sslrootcert=str(path))


@pytest.mark.root
def test_another_users_root_file_elsewhere_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Below a folder that only its owner may write to, such as a CI workspace, it is used."""
    folder = Path(tempfile.mkdtemp(dir="/opt"))
    try:
        path = folder / "root.crt"
        shutil.copy(roots.PEM_FILE, path)
        os.chown(path, NOBODY, NOBODY)
        monkeypatch.setenv("PGSSLROOTCERT", str(path))
        for _ in range(2):
            assert str(path) in azpg.conninfo(server="myserver", password="secret")
        warnings = [record for record in caplog.records if "another user" in record.getMessage()]
        assert len(warnings) == 1
        assert str(path) in warnings[0].getMessage()
    finally:
        shutil.rmtree(folder)


def test_the_users_own_root_file_is_used(tmp_path: Path) -> None:
    """A root file of this user or of root is used in any folder."""
    path = tmp_path / "root.crt"
    shutil.copy(roots.PEM_FILE, path)
    assert roots.replaceable_by(str(path)) is None
    assert roots.replaceable_by("/etc/passwd") is None
    assert roots.replaceable_by("system") is None
    assert stat.S_ISREG(path.stat().st_mode)
