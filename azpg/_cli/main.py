"""The command `azpg`: doctor, psql, exec, conninfo, token, roots, demo, emulator."""

# ruff: noqa: T201, PLC0415  # a command prints; what a subcommand needs is imported by it alone

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

import azpg
from azpg._conninfo.suggestions import on_command_line
from azpg._redact import quote

if TYPE_CHECKING:
    from collections.abc import Callable

DESCRIPTION = "The correct connection from Python to Azure Database for PostgreSQL."

EXAMPLES = """\
examples:
  azpg doctor --server myserver
  azpg psql --server myserver --dbname mydb -c "select now()"
  azpg exec --server myserver -- pg_dump --file mydb.sql mydb
  azpg COMMAND --help"""

COMMANDS = {
    "doctor": "say what is wrong with a connection, step by step",
    "psql": "run psql, signed in",
    "exec": "run pg_dump, pgbench or any program that uses libpq, signed in",
    "conninfo": "show what libpq would be handed, without any secret",
    "token": "print a fresh token, for programs that take a password only",
    "roots": "show the pinned root certificates, or write them as PEM",
    "demo": "show the main job against an emulator of Azure",
    "emulator": "run an emulator of Azure, or a command inside one",
}

OF_EACH = {
    "doctor": """\
Walk the way of a connection: configuration, name, TCP, TLS, identity, sign-in,
PgBouncer, speed. It prints no secret, so its output can be shown to others.

The exit status is 0, 1 where a step fails, 2 where the command cannot be read.

examples:
  azpg doctor --server myserver
  azpg doctor "host=myserver.postgres.database.azure.com dbname=mydb"
  azpg doctor --server myserver --pgbouncer --json""",
    "psql": """\
Run psql with a fresh token in a password file of its own, over verified TLS.

Name the server and the user first; what follows are psql's arguments. Its -h,
its -p and a connection string are refused there: azpg has to know the server.

examples:
  azpg psql --server myserver --dbname mydb
  azpg psql --server myserver --user team -At -c "select current_user\"""",
    "exec": """\
Run a command that uses libpq, with a fresh token in a password file that is
good for this server, port and user, and for this command only.

The command gets none of your own PG* variables: host, port, user and TLS are
set. It needs no -h, -p or -U: for another spelling there is no password.

examples:
  azpg exec --server myserver -- pg_dump --file mydb.sql mydb
  azpg exec --server myserver --dbname mydb -- pgbench --client 4 --time 10""",
    "conninfo": """\
Show what azpg.connect would hand to libpq, without any secret. It connects to
nothing.

example:
  azpg conninfo --server myserver --dbname mydb""",
    "token": """\
Print a fresh Microsoft Entra token and nothing else, for a program that takes
its password from PGPASSWORD only. Name a server, or a cloud with --cloud.

A token is a password: it is good for an hour or more on every server where its
identity has a role.

examples:
  PGPASSWORD=$(azpg token --server myserver) ./report.sh
  PGPASSWORD=$(azpg token --cloud public) ./report.sh""",
    "roots": """\
Show the root certificates that Azure's servers are verified by: the SHA-256
that they are pinned by, their end, and where their bytes come from.

examples:
  azpg roots
  azpg roots --pem > azure.pem
  PGSSLMODE=verify-full PGSSLROOTCERT=azure.pem psql --host "$HOST\"""",
    "demo": """\
Show the main job against an emulator of Azure on this machine: it needs the
extra azpg[emulator].

example:
  azpg demo""",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        status = _run(words)
        sys.stdout.flush()  # here, to hear of a reader that has gone
    except azpg.ConfigError as error:
        for problem in error.problems:
            print(f"azpg: {on_command_line(problem)}", file=sys.stderr)
        return 2
    except azpg.ConnectError as error:
        print(f"azpg: {on_command_line(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Its reader has gone; Python would say so once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _run(words: list[str]) -> int:
    name, rest = words[:1], words[1:]
    if name == ["emulator"]:
        from azpg.emulator import _command

        return _command.main(rest)
    command: list[str] = []
    if name == ["psql"]:
        rest, command = _split_psql(rest)
    elif name == ["exec"] and "--" in rest:
        at = rest.index("--")
        rest, command = rest[:at], rest[at + 1 :]
    parser, parsers = _parsers()
    given = vars(parser.parse_args([*name, *rest]))
    run: Callable[..., int] = given.pop("run")
    if name in (["psql"], ["exec"]):
        given["command"] = command
    if name == ["exec"] and not command:
        parsers["exec"].error("no command is given: azpg exec --server myserver -- pg_dump mydb")
    word = given.get("conninfo")
    if word and "=" not in word and "://" not in word:
        shown = quote(word, r"[A-Za-z0-9.-]{1,253}").strip("'")
        parsers[name[0]].error(
            f"the argument is no connection string; a server's name is --server {shown}"
        )
    return run(**{key: value for key, value in given.items() if value is not None})


def _doctor(*, json: bool, **options: Any) -> int:
    from azpg._doctor import report

    return report.print_report(options, as_json=json)


def _psql(*, command: list[str], **options: Any) -> int:
    from azpg import _child_env

    return _child_env.run_in_place(*_child_env.psql("psql", command, options))


def _exec(*, command: list[str], **options: Any) -> int:
    from azpg import _child_env

    return _child_env.run_in_place(command, _child_env.environment(**options))


def _conninfo(**options: Any) -> int:
    print(azpg.conninfo(**options))
    return 0


def _token(*, cloud: str | None = None, client_id: str | None = None, **options: Any) -> int:
    from azpg import _passfile
    from azpg._connect import Call

    for name in ("PGPASSWORD", _passfile.VARIABLE):
        os.environ.pop(name, None)  # often the token of an earlier run: no sign-in by password
    named = not options.keys().isdisjoint(("conninfo", "server", "host"))
    if cloud is not None and not named:
        entra = azpg.EntraPassword(cloud=cloud, client_id=client_id)
    else:
        call = Call(
            options.pop("conninfo", ""),
            options,
            server=options.pop("server", None),
            credential=None,
            client_id=client_id,
            password=None,
            pgbouncer=options.pop("pgbouncer", None),
            cloud=cloud,
            is_async=False,
        )
        if isinstance(call.error, azpg.ConfigError):
            other = () if named else ("or name the cloud that the token is for: --cloud public",)
            raise azpg.ConfigError([*call.error.problems, *other])
        if call.entra is None:
            raise azpg.ConfigError(
                "a password is given, and a token is for who signs in without: leave out password "
                "and passfile"
            )
        entra = call.entra
    token = entra()
    if sys.stdout.isatty():
        print("azpg: the token below is a password: do not share it", file=sys.stderr)
    print(token)
    return 0


def _roots(*, pem: bool) -> int:
    from . import roots

    return roots.print_roots(as_pem=pem)


def _demo() -> int:
    from . import demo

    return demo.main()


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="azpg", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=form
    )
    parser.add_argument("--version", action="version", version=f"azpg {azpg.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parsers = {}
    for name, purpose in COMMANDS.items():
        parsers[name] = each = commands.add_parser(
            name,
            help=purpose,
            description=OF_EACH.get(name),
            formatter_class=form,
            allow_abbrev=False,
            usage=_USAGES.get(name),
        )
        each.set_defaults(run=globals()[f"_{name}"] if name != "emulator" else None)
        if name in ("doctor", "psql", "exec", "conninfo", "token"):
            _connection(each)
    parsers["doctor"].add_argument("--json", action="store_true", help="print data for machines")
    parsers["roots"].add_argument("--pem", action="store_true", help="write the certificates")
    return parser, parsers


_USAGES = {
    "doctor": "azpg doctor [CONNECTION] [--json]",
    "conninfo": "azpg conninfo [CONNECTION]",
    "token": "azpg token [CONNECTION]",
    "psql": "azpg psql [CONNECTION] [PSQL'S ARGUMENTS]",
    "exec": "azpg exec [CONNECTION] -- COMMAND [ARGUMENTS]",
}

_VALUED = {
    "server": ("NAME", "the server's short name, or its full one"),
    "host": ("NAME", "a full host name; beside --server the way there, such as a tunnel"),
    "hostaddr": ("ADDRESS", "the address to go to; the name is verified all the same"),
    "port": ("PORT", "5432 where nothing else is said"),
    "dbname": ("NAME", "postgres where nothing else is said"),
    "user": ("ROLE", "the token's own name where nothing else is said"),
    "client-id": ("ID", "which user-assigned or workload identity signs in"),
    "cloud": ("NAME", "public, usgov, china or cosmos: by default the host's"),
}


def _connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "connection", "as azpg.connect takes it; PG* variables and service files count as well"
    )
    group.add_argument(
        "conninfo", nargs="?", metavar="CONNINFO", help="a key=value string or postgresql:// URI"
    )
    for name, (metavar, text) in _VALUED.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)
    group.add_argument(
        "--pgbouncer",
        action=argparse.BooleanOptionalAction,
        help="go to PgBouncer's port 6432",
    )


def _split_psql(words: list[str]) -> tuple[list[str], list[str]]:
    """Return what comes first and is azpg's, and what follows and is psql's."""
    from azpg._psql import is_conninfo

    at = 0
    while at < len(words):
        option, equals, _ = words[at].partition("=")
        if option.removeprefix("--") in _VALUED and option.startswith("--"):
            at += 1 if equals else 2
        elif option in ("--pgbouncer", "--no-pgbouncer", "--help") or (
            is_conninfo(words[at]) and not option.startswith("-")
        ):
            at += 1
        else:
            break
    rest = words[at:]
    return words[:at], rest[1:] if rest[:1] == ["--"] else rest
