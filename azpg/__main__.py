"""The command `azpg`: demo and emulator."""

from __future__ import annotations

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="azpg",
        description="The correct connection from Python to Azure Database for PostgreSQL.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="show the main job against an emulator of Azure")
    commands.add_parser("emulator", help="run an emulator of Azure, or a command inside one")
    given, rest = parser.parse_known_args(argv)
    if given.command == "emulator":
        from .emulator import _command  # noqa: PLC0415  # only who asks for it needs its extra

        return _command.main(rest)
    parser.parse_args(argv)  # refuses what demo does not know
    from . import _demo  # noqa: PLC0415  # as above

    return _demo.main()


if __name__ == "__main__":
    sys.exit(main())
