"""The command `azpg`: doctor, psql, exec, conninfo, token, roots, demo, emulator."""

# ruff: noqa: T201, PLC0415  # a command prints; a subcommand imports what only it needs

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import azpg
from azpg._redact import quote
from azpg._spelling import as_flags, used

from .wrap import wrap, wrap_usage

DESCRIPTION = "Verified, authenticated connections to Azure Database for PostgreSQL."

EXAMPLES = """\
examples:
  azpg doctor --server myserver
  azpg psql --server myserver --dbname mydb -c "select now()"
  azpg exec --server myserver -- pg_dump --file mydb.sql mydb
  azpg COMMAND --help"""

COMMANDS = {
    "doctor": "check a connection step by step, and say what to fix",
    "psql": "run psql with a fresh token",
    "exec": "run pg_dump, pgbench or any libpq program with a fresh token",
    "conninfo": "print the connection string that libpq gets, without secrets",
    "token": "print a fresh token, for programs that need a password",
    "roots": "list the pinned root certificates, or write them as PEM",
    "demo": "try azpg without Azure, against an emulator",
    "emulator": "run an emulator of Azure, or a command inside one",
}

DESCRIPTIONS = {
    "doctor": """\
Check a connection step by step: configuration, DNS, TCP, TLS, identity,
authentication, PgBouncer, round-trip time. The output contains no secrets.

The exit status is 0 if all steps succeed, 1 if a step fails, and 2 if the
arguments are invalid.

examples:
  azpg doctor --server myserver
  azpg doctor "host=myserver.postgres.database.azure.com dbname=mydb"
  azpg doctor --server myserver --pgbouncer --json""",
    "psql": """\
Run psql with a fresh token, over verified TLS.

Put the options of azpg first and the arguments of psql after them. Do not pass
-h, -p or a connection string to psql: use --server or --host.

examples:
  azpg psql --server myserver --dbname mydb
  azpg psql --server myserver --user team -At -c "select current_user\"""",
    "exec": """\
Run a libpq program with a fresh token, over verified TLS. The token is in a
password file for this server, port and user only.

azpg replaces your PG* variables with its own. Do not pass -h, -p or -U to the
command: it would not find its password.

examples:
  azpg exec --server myserver -- pg_dump --file mydb.sql mydb
  azpg exec --server myserver --dbname mydb -- pgbench --client 4 --time 10""",
    "conninfo": """\
Print the connection string that azpg.connect passes to libpq, without secrets.
It does not connect.

example:
  azpg conninfo --server myserver --dbname mydb""",
    "token": """\
Print a fresh Microsoft Entra token and nothing else, for programs that run a
command for the password, such as pgAdmin, or read PGPASSWORD. Pass --server or
--cloud.

A token is a password: it is valid for an hour or more, on every server where
its identity has a role.

examples:
  azpg token --server myserver
  PGPASSWORD=$(azpg token --server myserver) ./report.sh
  PGPASSWORD=$(azpg token --cloud public) ./report.sh""",
    "roots": """\
List the root certificates that azpg trusts for Azure: the SHA-256 fingerprint
that is pinned, the expiry date, and the source of the certificate.

examples:
  azpg roots
  azpg roots --pem > azure.pem
  PGSSLMODE=verify-full PGSSLROOTCERT=azure.pem psql --host "$HOST\"""",
    "demo": """\
Show what azpg does, step by step, against an emulator of Azure on this
machine. It needs the extra azpg[emulator].

example:
  azpg demo""",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    # Without a handler, Python prints what azure-identity warns of, which the error repeats
    logging.getLogger("azure").addHandler(_NO_OUTPUT)
    try:
        with used(as_flags):
            status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # raises BrokenPipeError here, and not at exit, if the reader has gone
    except azpg.ConfigError as error:
        for problem in error.problems:
            print(f"azpg: {problem}", file=sys.stderr)
        return 2
    except azpg.ConnectError as error:
        print(f"azpg: {_with_hint_first(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Python flushes stdout at exit, and would print the error again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


_NO_OUTPUT = logging.NullHandler()


def _with_hint_first(error: azpg.ConnectError) -> str:
    """Return the message of an error; if azure-identity's part is long, the hint comes first."""
    hint = f"\nHINT: {error.hint}"
    head, colon, details = str(error).removesuffix(hint).partition(": ")
    is_long = isinstance(error, azpg.CredentialError) and "\n" in details
    if not (error.hint and colon and is_long):
        return str(error)
    return f"{head}{hint}\n{details}"


def _run(argv: list[str]) -> int:
    name, options = argv[:1], argv[1:]
    if name == ["emulator"]:
        return _emulator(options)
    command: list[str] = []
    if name == ["psql"]:
        options, command = _split_psql_args(options)
    elif name == ["exec"] and "--" in options:
        separator = options.index("--")
        options, command = options[:separator], options[separator + 1 :]
    parser, subparsers = _make_parsers()
    if not argv:
        parser.print_help()
        return 0
    parsed = vars(parser.parse_args([*name, *options]))
    run: Callable[..., int] = parsed.pop("run")
    if name in (["psql"], ["exec"]):
        parsed["command"] = command
    if name == ["exec"] and not command:
        subparsers["exec"].error("no command is given: azpg exec --server myserver -- pg_dump mydb")
    conninfo = parsed.get("conninfo")
    if conninfo and "=" not in conninfo and "://" not in conninfo:
        server = quote(conninfo, r"[A-Za-z0-9.-]{1,253}").strip("'")
        subparsers[name[0]].error(
            f"the argument is not a connection string; for a server's name, use --server {server}"
        )
    return run(**{key: value for key, value in parsed.items() if value is not None})


def _doctor(
    *,
    json: bool,
    record: str = "",
    probe_refusals: bool = False,
    expired_token: str = "",
    **options: Any,
) -> int:
    from azpg._doctor import report

    if record:
        return report.write_record(
            options, record, probe_refusals=probe_refusals, expired_token_file=expired_token
        )
    if probe_refusals or expired_token:
        print("azpg doctor: --probe-refusals and --expired-token need --record", file=sys.stderr)
        return 2
    return report.print_report(options, as_json=json)


def _psql(*, command: list[str], **options: Any) -> int:
    from azpg import _child_env

    from .exec import exec_command

    return exec_command(*_child_env.psql_command("psql", command, options))


def _exec(*, command: list[str], **options: Any) -> int:
    from azpg import _child_env

    from .exec import exec_command

    return exec_command(command, _child_env.child_environment(**options))


def _conninfo(**options: Any) -> int:
    print(azpg.conninfo(**options))
    return 0


def _token(*, cloud: str | None = None, client_id: str | None = None, **options: Any) -> int:
    from azpg import _passfile
    from azpg._connect import ConnectRequest
    from azpg._conninfo.options import ConnectOptions

    for name in ("PGPASSWORD", _passfile.VARIABLE):
        os.environ.pop(name, None)  # often the token of an earlier run, not a password
    has_server = not options.keys().isdisjoint(("conninfo", "server", "host"))
    if cloud is not None and not has_server:
        entra = azpg.EntraPassword(cloud=cloud, client_id=client_id)
    else:
        given = {**options, "client_id": client_id, "cloud": cloud}
        try:
            request = ConnectRequest(ConnectOptions.from_mapping(given), is_async=False)
        except azpg.ConfigError as error:
            if has_server:
                raise
            problem = "or name the cloud that the token is for: --cloud public"
            raise azpg.ConfigError([*error.problems, problem]) from None
        if request.entra is None:
            raise azpg.ConfigError(
                "a token is not needed with a password: leave out password and passfile"
            )
        entra = request.entra
    token = entra()
    if sys.stdout.isatty():
        print("azpg: the token below is a password: do not share it", file=sys.stderr)
    print(token)
    return 0


def _roots(*, pem: bool) -> int:
    from . import roots

    return roots.print_roots(as_pem=pem)


def _demo() -> int:
    if (error := _emulator_import_error()) is not None:
        print(f"azpg demo: {error}", file=sys.stderr)
        return 1
    from . import demo

    return demo.run_demo()


def _emulator(argv: list[str]) -> int:
    if (error := _emulator_import_error()) is not None:
        print(f"azpg emulator: {error}", file=sys.stderr)
        return 1
    from azpg.emulator import _command

    return _command.main(argv)


def _emulator_import_error() -> ImportError | None:
    """Return why there is no emulator on this platform, or None."""
    try:
        importlib.import_module("azpg.emulator")
    except ImportError as error:
        if error.name != "azpg.emulator":
            raise
        return error
    return None


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "doctor": _doctor,
    "psql": _psql,
    "exec": _exec,
    "conninfo": _conninfo,
    "token": _token,
    "roots": _roots,
    "demo": _demo,
}
"""Each subcommand but `emulator`, which parses its own arguments."""

_CONNECTING_COMMANDS = ("doctor", "psql", "exec", "conninfo", "token")
"""The subcommands that take the arguments of `azpg.connect`."""


def _make_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="azpg",
        description=wrap(DESCRIPTION),
        epilog=wrap(EXAMPLES),
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"azpg {azpg.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    subparsers = {}
    for name, summary in COMMANDS.items():
        subparsers[name] = subparser = commands.add_parser(
            name,
            help=summary,
            description=wrap(DESCRIPTIONS.get(name, "")),
            formatter_class=formatter,
            allow_abbrev=False,
            usage=wrap_usage(_USAGES[name]) if name in _USAGES else None,
        )
        subparser.set_defaults(run=_FUNCTIONS.get(name))
        if name in _CONNECTING_COMMANDS:
            _add_connect_options(subparser)
    subparsers["doctor"].add_argument("--json", action="store_true", help="print JSON")
    subparsers["doctor"].add_argument(
        "--record",
        metavar="FILE",
        help="write how the server behaves, without names and secrets, for a report to the project",
    )
    subparsers["doctor"].add_argument(
        "--probe-refusals",
        action="store_true",
        help="with --record: also send a token for another audience, and record the error",
    )
    subparsers["doctor"].add_argument(
        "--expired-token",
        metavar="FILE",
        help="with --record: also send the expired token in this file, and record the error",
    )
    subparsers["roots"].add_argument(
        "--pem", action="store_true", help="print the certificates as PEM"
    )
    return parser, subparsers


_USAGES = {
    "doctor": "azpg doctor [CONNECTION] [--json | --record FILE [--probe-refusals] "
    "[--expired-token FILE]]",
    "conninfo": "azpg conninfo [CONNECTION]",
    "token": "azpg token [CONNECTION]",
    "psql": "azpg psql [CONNECTION] [PSQL'S ARGUMENTS]",
    "exec": "azpg exec [CONNECTION] -- COMMAND [ARGUMENTS]",
}

_CONNECT_OPTIONS = {
    "server": ("NAME", "the server's short name or full name"),
    "host": (
        "NAME",
        "the server's full name; with --server, the host to connect to, such as a tunnel's",
    ),
    "hostaddr": ("ADDRESS", "the IP address to connect to; the server's name is still verified"),
    "port": ("PORT", "default: 5432"),
    "dbname": ("NAME", "default: postgres"),
    "user": ("ROLE", "default: the name in the token"),
    "client-id": ("ID", "the client id of the user-assigned or workload identity"),
    "cloud": ("NAME", "public, usgov, china, cosmos, horizondb or bleu (default: from the host)"),
}


def _add_connect_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "connection",
        wrap("arguments of azpg.connect; PG* variables and service files count too", indent=2),
    )
    group.add_argument(
        "conninfo",
        nargs="?",
        metavar="CONNINFO",
        help="a connection string: key=value pairs or a postgresql:// URI",
    )
    for name, (metavar, help_text) in _CONNECT_OPTIONS.items():
        group.add_argument(f"--{name}", metavar=metavar, help=help_text)
    group.add_argument(
        "--pgbouncer",
        action=argparse.BooleanOptionalAction,
        help="connect to PgBouncer (port 6432)",
    )


def _split_psql_args(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return azpg's own options, which come first, and the arguments of psql."""
    from azpg._psql import is_conninfo

    end = 0
    while end < len(argv):
        option, equals, _ = argv[end].partition("=")
        if option.startswith("--") and option.removeprefix("--") in _CONNECT_OPTIONS:
            end += 1 if equals else 2
        elif option in ("--pgbouncer", "--no-pgbouncer", "--help") or (
            is_conninfo(argv[end]) and not option.startswith("-")
        ):
            end += 1
        else:
            break
    psql_args = argv[end:]
    return argv[:end], psql_args[1:] if psql_args[:1] == ["--"] else psql_args
