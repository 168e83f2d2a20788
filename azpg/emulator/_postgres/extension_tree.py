"""A PostgreSQL whose extension folder is the emulator's own, with Azure's rules about extensions.

PostgreSQL finds its files relative to its program. A copy of the program in a tree of symbolic
links therefore runs with the files of the installation, except for those that the tree replaces.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from azpg.emulator import _os_processes
from azpg.emulator._azure_extensions import SUPPORTED_EXTENSIONS
from azpg.emulator._errors import EmulatorError
from azpg.emulator._os_user import OSUser

from .admin_session import quote_literal
from .installation import Installation

_ADMIN_ROLE = "azure_pg_admin"
# It is part of every new database, and PostgreSQL itself trusts it.
_PREINSTALLED = "plpgsql"
_STUB_VERSION = "1.0"

# Source: MicrosoftDocs/azure-databases-docs, articles/postgresql/extensions/errors-extensions.md
# (February 2025); the hint and the SQLSTATE 0A000 are from a public report of 2026.
_NOT_ADMIN = f'Only members of "{_ADMIN_ROLE}" are allowed to use CREATE EXTENSION'
_NOT_ALLOWED = (
    'extension "{}" is not allow-listed for "'
    + _ADMIN_ROLE
    + '" users in Azure Database for PostgreSQL'
)
_NOT_ALLOWED_HINT = (
    "to learn how to allow an extension or see the list of allowed extensions, please refer to "
    "https://go.microsoft.com/fwlink/?linkid=2301063"
)

# A trusted extension's script runs as the superuser, in a schema that the client chooses.
_RULES = """\
DO $azpg$ BEGIN
IF NOT pg_catalog.pg_has_role(session_user, '{admin_role}', 'member') THEN
    RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = {not_admin};
END IF;
{allow_list_rule}
END $azpg$;
"""
_ALLOW_LIST_RULE = "RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = {message}, HINT = {hint};"


async def make_server_program(
    installation: Installation, os_user: OSUser, folder: Path, allow_list: Collection[str]
) -> tuple[Path, Path]:
    """Return a server program with which `CREATE EXTENSION` follows Azure's rules.

    Administrators can create the extensions in the allow list, all others are refused with Azure's
    message. The rules are in the extensions' scripts; no statement of a client is read.

    Args:
        installation: The PostgreSQL to run.
        os_user: The operating system user to run it as.
        folder: The folder to make for the tree.
        allow_list: The names of the extensions that may be created.

    Returns:
        The program, and the SHAREDIR that it has to find.

    Raises:
        EmulatorError: If this PostgreSQL cannot run from another folder.
        OSError: If the folder cannot be written.
    """
    output = await _os_processes.run_program(
        [installation.initdb, "--show", "--pgdata", folder], os_user=os_user, folder=folder.parent
    )
    match = re.search(r"^share_path=(.+)$", output, re.MULTILINE)
    if match is None:
        raise EmulatorError("initdb does not show where PostgreSQL's files are.")
    # Not in a thread: it would go on after a cancellation, while the folder is being removed.
    program, extensions = _make_tree(
        installation.postgres.resolve(), Path(match[1], "extension"), folder, allow_list
    )
    if not os_user.can_run(program):
        raise EmulatorError(f"PostgreSQL cannot run in {folder}.")
    return program, extensions.parent


def _make_tree(
    program: Path, extensions: Path, folder: Path, allow_list: Collection[str]
) -> tuple[Path, Path]:
    """Make the tree and return its program and its folder of extensions."""
    common = Path(os.path.commonpath([program, extensions]))
    _link_all(common, folder, except_for=(program, extensions))
    copy = folder / program.relative_to(common)
    shutil.copyfile(program, copy)
    copy.chmod(0o755)
    tree_extensions = folder / extensions.relative_to(common)
    _make_folder(tree_extensions)
    _write_extensions(extensions, tree_extensions, allow_list)
    return copy, tree_extensions


def _link_all(source: Path, target: Path, *, except_for: tuple[Path, ...]) -> None:
    """Make a folder with links to all entries of another, in folders above the exceptions too."""
    _make_folder(target)
    for entry in source.iterdir():
        if entry in except_for:
            continue
        if any(entry in path.parents for path in except_for):
            _link_all(entry, target / entry.name, except_for=except_for)
        else:
            (target / entry.name).symlink_to(entry)


def _write_extensions(source: Path, target: Path, allow_list: Collection[str]) -> None:
    """Write the control files and the scripts of all extensions."""
    missing = set(SUPPORTED_EXTENSIONS)
    for control in source.glob("*.control"):
        name, _, is_version = control.stem.partition("--")
        if is_version:
            continue
        missing.discard(name)
        if name == _PREINSTALLED:
            for path in (control, *_scripts(control)):
                (target / path.name).symlink_to(path)
        elif name in allow_list:
            _write_allowed(control, target)
        else:
            _write_refused(name, target, _versions(control))
    # A server at Azure refuses these too. If they are allowed, PostgreSQL says that they are
    # not installed.
    for name in missing.difference(allow_list):
        _write_refused(name, target, {_STUB_VERSION})


def _write_allowed(control: Path, target: Path) -> None:
    """Write an extension that administrators can create."""
    name = control.stem
    for path in (control, *control.parent.glob(f"{name}--*.control")):
        settings = re.sub(r"(?m)^\s*(superuser|trusted|directory)\s*=.*$", "", _read(path))
        _write(target / path.name, f"{settings}\ntrusted = true\n")
    for script in _scripts(control):
        is_update = script.stem.removeprefix(f"{name}--").count("--")
        if is_update:
            (target / script.name).symlink_to(script)
        else:
            _write(target / script.name, _rules("") + _read(script))


def _write_refused(name: str, target: Path, versions: set[str]) -> None:
    """Write an extension that nobody can create, whichever of its versions is asked for."""
    default_version = max(versions)
    control = f"default_version = '{default_version}'\ntrusted = true\n"
    _write(target / f"{name}.control", control)
    rule = _ALLOW_LIST_RULE.format(
        message=quote_literal(_NOT_ALLOWED.format(name)), hint=quote_literal(_NOT_ALLOWED_HINT)
    )
    for version in versions:
        _write(target / f"{name}--{version}.sql", _rules(rule))


def _rules(allow_list_rule: str) -> str:
    return _RULES.format(
        admin_role=_ADMIN_ROLE,
        not_admin=quote_literal(_NOT_ADMIN),
        allow_list_rule=allow_list_rule,
    )


def _scripts(control: Path) -> Iterator[Path]:
    """Yield an extension's scripts, which are next to its control file or in another folder."""
    match = re.search(r"(?m)^\s*directory\s*=\s*'(.*)'", _read(control))
    folder = control.parent.parent / match[1] if match else control.parent
    return folder.glob(f"{control.stem}--*.sql")


def _versions(control: Path) -> set[str]:
    """Return every version that an extension's files name."""
    match = re.search(r"(?m)^\s*default_version\s*=\s*'(.*)'", _read(control))
    versions = {match[1]} if match else set()
    for script in _scripts(control):
        versions.update(script.stem.removeprefix(f"{control.stem}--").split("--"))
    return versions or {_STUB_VERSION}


def _make_folder(path: Path) -> None:
    # The servers' user has to read it, whatever this process's umask is.
    path.mkdir()
    path.chmod(0o755)


def _read(path: Path) -> str:
    # Scripts can be in any encoding; these functions change only ASCII.
    return path.read_text(encoding="latin-1")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    path.chmod(0o644)
