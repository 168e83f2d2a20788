"""The file of the pinned roots: where it is safe, and what happens where it is not."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest

from azpg._tls import roots as _roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_program import Program
    from fix_roots import HoldsTheRoots

    from azpg.emulator import Emulator

NOBODY = 65534


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the folder in the user's cache, which does not exist yet."""
    folder = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    return tmp_path / "home" / folder / "azpg"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users may enter, as pytest's own they may not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def python(code: str, **environ: str) -> subprocess.Popen[str]:
    """Start Python on code that finds `made`, an unsettled bundle, and may become nobody."""
    before = """
        import os, sys
        from azpg import _clouds; from azpg._tls import roots as _roots
        made = _roots.Bundle(_clouds.AZURE_ROOTS)
        text = _roots.pem(made.roots)
        _roots.pem = lambda roots: text  # nobody may be unable to read where azpg lies
        def be_nobody():
            if os.geteuid() == 0:
                os.setegid(65534)
                os.seteuid(65534)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code)],
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def printed(code: str, **environ: str) -> str:
    """Return what the code prints, once it has ended well."""
    process = python(code, **environ)
    out, _ = process.communicate()
    assert process.returncode == 0
    return out.strip()


def test_the_file_is_the_users_own(
    made: _roots.Bundle, cache: Path, holds_the_roots: HoldsTheRoots
) -> None:
    """In the user's cache, closed to others, under a name that its roots decide."""
    path = Path(made.path())
    assert path.parent == cache
    assert re.fullmatch("roots-[0-9a-f]{32}.pem", path.name)
    fewer = _roots.Bundle(frozenset(sorted(made.roots)[1:]))
    assert Path(fewer.path()).name != path.name
    Path(fewer.path()).unlink()
    assert holds_the_roots(str(path))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in cache.iterdir()] == [path.name]


def test_the_cache_may_be_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    made: _roots.Bundle,
    holds_the_roots: HoldsTheRoots,
) -> None:
    """XDG_CACHE_HOME counts; one that is no absolute path does not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Path(made.path()).parent == tmp_path / "xdg" / "azpg"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    path = Path(_roots.Bundle(made.roots).path())
    assert path.parent.parent == Path(tempfile.gettempdir())
    assert holds_the_roots(str(path))


def test_another_process_finds_the_same_file(made: _roots.Bundle) -> None:
    """It is written once, and not touched again while it is right."""
    path = made.path()
    before = os.stat(path)
    assert printed("print(made.path())") == path
    assert os.stat(path).st_ino == before.st_ino
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns


def test_an_earlier_processes_file_is_enough(made: _roots.Bundle) -> None:
    """Who finds it right does not read certifi."""
    made.path()
    code = "import azpg, sys; azpg.conninfo(server='x', password='y'); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert "certifi" not in loaded.stdout.split()


def test_a_warm_look_is_one_lstat() -> None:
    """Nothing is opened on the second connect: libpq alone reads the file."""
    seen = printed(
        """
        path = made.path()
        seen, lstat = [], os.lstat
        def counted(path):
            seen.append("lstat")
            return lstat(path)
        os.lstat = counted
        sys.addaudithook(lambda event, args: seen.append(event))
        again = made.path()
        told, seen = list(seen), []
        print(told, again == path)
        """
    )
    assert seen == "['lstat'] True"


def _tamper(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text[:-40].swapcase() + text[-40:])


def _link(path: Path) -> None:
    same = path.rename(path.parent.parent / "same.pem")
    path.symlink_to(same)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


_OTHER = certifi.contents()[certifi.contents().index("-----BEGIN") :].split("\n\n")[0]

CHANGES: dict[str, Callable[[Path], Any]] = {
    "tampered": _tamper,
    "whole of certifi": lambda path: shutil.copyfile(certifi.where(), path),
    "one more": lambda path: path.write_bytes(path.read_bytes() + _OTHER.encode()),
    "a line more": lambda path: path.write_bytes(path.read_bytes() + b"# mine\n"),
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, 100),
    "linked": _link,
    "made a folder": _folder,
    "open to others": lambda path: path.chmod(0o666),
    "folder deleted": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "anew"])
def test_a_file_that_was_touched_is_made_anew(
    made: _roots.Bundle, change: str, warm: bool, holds_the_roots: HoldsTheRoots
) -> None:
    """Whatever happened to it, in this process's life or before: the roots are what is used."""
    path = Path(made.path())
    CHANGES[change](path)
    again = (made if warm else _roots.Bundle(made.roots)).path()
    assert holds_the_roots(again)
    assert stat.S_ISREG(os.lstat(again).st_mode)
    assert stat.S_IMODE(os.lstat(again).st_mode) == 0o600
    if change != "made a folder":
        assert again == str(path)


@pytest.mark.root
def test_a_file_of_somebody_elses_is_not_used(
    made: _roots.Bundle, holds_the_roots: HoldsTheRoots
) -> None:
    """Its owner could change it after the look."""
    path = Path(made.path())
    before = path.stat().st_ino
    os.chown(path, NOBODY, NOBODY)
    again = os.stat(made.path())
    assert again.st_ino != before
    assert holds_the_roots(made.path())


def _open_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o770)


def _linked_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


def _file_for_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("")


@pytest.mark.parametrize("prepare", [_open_folder, _linked_folder, _file_for_folder])
def test_a_folder_that_is_not_safe_is_not_used(
    made: _roots.Bundle,
    cache: Path,
    prepare: Callable[[Path], None],
    holds_the_roots: HoldsTheRoots,
) -> None:
    """Open to a group, a link, no folder: a private temporary one is taken instead."""
    prepare(cache)
    path = Path(made.path())
    assert cache.resolve() not in path.resolve().parents
    assert holds_the_roots(str(path))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.root
def test_a_folder_of_somebody_elses_is_not_used(
    made: _roots.Bundle,
    cache: Path,
    holds_the_roots: HoldsTheRoots,
) -> None:
    """As with sudo and a HOME that was kept."""
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, NOBODY, NOBODY)
    path = Path(made.path())
    assert cache not in path.parents
    assert holds_the_roots(str(path))


def test_a_read_only_home_leaves_a_private_folder(open_folder: Path) -> None:
    """A container's read-only file system: the file lies in a folder that ends with the process."""
    home, tmp = open_folder / "home", open_folder / "tmp"
    home.mkdir()
    home.chmod(0o555)
    tmp.mkdir()
    tmp.chmod(0o777)
    path, content = printed(
        "be_nobody(); print(made.path(), open(made.path(), 'rb').read() == _roots.pem(made.roots))",
        HOME=str(home),
        TMPDIR=str(tmp),
    ).split()
    assert Path(path).parent.parent == tmp
    assert content == "True"
    assert not list(tmp.iterdir())


def test_no_home_at_all_leaves_a_private_folder(tmp_path: Path) -> None:
    """A user without an entry and without HOME."""
    code = "os.environ.pop('HOME'); os.path.expanduser = str; print(made.path())"
    path = printed(code, TMPDIR=str(tmp_path))
    assert Path(path).parent.parent == tmp_path


def test_a_full_disk_leaves_azpgs_own_file(tmp_path: Path, cache: Path) -> None:
    """Nothing can be written: the package's file serves, and nothing half written is left."""
    path = printed(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        print(made.path(), made.path())
        """,
        TMPDIR=str(tmp_path),
    )
    assert path.split() == [str(_roots.OWN)] * 2
    assert list(cache.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["home"]


def test_processes_that_start_together_agree(cache: Path) -> None:
    """Each finds a whole file at every moment, and no temporary one is left."""
    processes = [
        python(
            """
            print("ready", flush=True)
            sys.stdin.readline()
            paths = {made.path() for made in [_roots.Bundle(made.roots) for _ in range(50)]}
            assert all(open(path, "rb").read() == _roots.pem(made.roots) for path in paths)
            print(*paths)
            """
        )
        for _ in range(4)
    ]
    assert all(each.stdout and each.stdout.readline() == "ready\n" for each in processes)
    paths = {each.communicate("go\n")[0].strip() for each in processes}
    assert [each.returncode for each in processes] == [0] * 4
    assert len(paths) == 1
    assert [str(each) for each in cache.iterdir()] == list(paths)


def test_a_private_folder_outlives_a_forked_child(tmp_path: Path) -> None:
    """Only the process that made it removes it, at its end."""
    told = printed(
        """
        path = made.path()
        if (child := os.fork()) == 0:
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        print(path, os.path.exists(path))
        """,
        XDG_CACHE_HOME=os.path.join(os.devnull, "none"),
        TMPDIR=str(tmp_path),
    )
    path, there = told.split()
    assert there == "True"
    assert Path(path).parent.parent == tmp_path
    assert not Path(path).parent.exists()


def test_a_program_writes_nothing_but_the_bundle(
    program: Program, azure: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sign-ins that work and that fail, pools, and a file that says where keys should be logged."""
    (tmp_path / "services").write_text(f"[s]\nsslkeylogfile={tmp_path / 'keys'}\n")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    def main() -> None:
        import os
        import sys

        import azpg

        def told(event: str, arguments: tuple[Any, ...]) -> None:
            changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
            if event == "open" and isinstance(arguments[0], str) and arguments[2] & changing:
                sys.stdout.write(f"{arguments[0]}\n")

        sys.dont_write_bytecode = True
        azpg.connect().close()  # what azure-identity imports is no concern here
        sys.addaudithook(told)
        azpg.connect("service=s").close()
        azpg.create_pool("service=s", min_size=1).close()
        try:
            azpg.connect("service=s", user="nobody")
        except azpg.LoginError:
            del os.environ["PGSSLROOTCERT"]
            azpg.conninfo("service=s")

    (written,) = program(main)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    (left,) = files - {tmp_path / "services", tmp_path / "program.py"}
    assert Path(written).parent == left.parent == tmp_path / "home" / ".cache" / "azpg"
