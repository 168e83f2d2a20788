"""Parse psql's arguments, and reject those that connect it to another server. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHORT_WITH_VALUE = "cdFfhLoPpRTUv"
_LONG_WITH_VALUE = (
    *("cluster", "command", "dbname", "field-separator", "file", "host", "log-file", "output"),
    *("port", "pset", "record-separator", "set", "table-attr", "username", "variable"),
)
"""psql's options that take a value; Debian's wrapper has `--cluster`."""

_HOST_OPTIONS = {"-h", "-p", "--host", "--port", "--cluster"}


def is_conninfo(text: str) -> bool:
    """Return whether libpq's programs take a database name for a connection string."""
    return "=" in text or text.startswith(("postgresql://", "postgres://"))


def parse_psql_args(arguments: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Separate the database and user in psql's arguments from the others.

    azpg passes the database and the user to psql in one connection string with the host.

    Returns:
        The defaults that the arguments imply, the database and user that they name, both by
        keyword of libpq, and the other arguments.

    Raises:
        ConfigError: Arguments would connect psql to another server; it lists all of them.

    >>> parse_psql_args(["-X", "mydb"])
    ({}, {'dbname': 'mydb'}, ['-X'])
    >>> parse_psql_args(["-h", "elsewhere.example"])
    Traceback (most recent call last):
    azpg.ConfigError: -h leads psql to another server: ...
    """
    problems: list[str] = []
    defaults: dict[str, str] = {}
    named: dict[str, str] = {}
    positional: list[str] = []
    rest: list[str] = []
    for option, value, words in _split_options(arguments):
        if _selects_server(option):
            problems.append(
                f"{option} leads psql to another server: name the server to azpg, before psql's "
                f"own arguments (azpg psql --server myserver …)"
            )
        elif option not in {"", "-d"} and not _is_option(option, "--dbname"):
            if option == "-U" or _is_option(option, "--username"):
                named["user"] = value
                continue
            if option == "-l" or _is_option(option, "--list"):
                defaults["dbname"] = "postgres"
            rest += words
        elif is_conninfo(value):
            problems.append(
                f"{option or 'an argument'} is a connection string, which can lead psql to another "
                f"server: give it to azpg, as the first argument"
            )
        elif option:
            named["dbname"] = value
        else:
            positional.append(value)
    for keyword in ("dbname", "user"):
        if positional and keyword not in named:
            named[keyword] = positional.pop(0)
    problems += [
        f"{word!r} is one argument too many: psql takes a database and a user"
        for word in positional
    ]
    if problems:
        raise ConfigError(problems)
    return defaults, named, rest


def _selects_server(option: str) -> bool:
    return any(_is_option(option, each) for each in _HOST_OPTIONS)


def _is_option(option: str, name: str) -> bool:
    """Return whether psql takes an option for this one; a long name may be abbreviated."""
    return option == name or (option.startswith("--") and name.startswith(option))


def _split_options(arguments: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each option, its value, and both as arguments; other arguments have the option ""."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield from (("", each, [each]) for each in words)
        elif word.startswith("--"):
            option, equals, value = word.partition("=")
            takes = any(_is_option(option, f"--{each}") for each in _LONG_WITH_VALUE)
            after = [*_next_word(words)] if takes and not equals else []
            yield option, "".join(after) or value, [word, *after]
        elif word.startswith("-") and word != "-":
            letters = iter(word[1:])
            for letter in letters:
                takes = letter in _SHORT_WITH_VALUE
                attached = "".join(letters) if takes else ""
                after = [attached] if attached else [*_next_word(words)] if takes else []
                yield f"-{letter}", "".join(after), [f"-{letter}", *after]
        else:
            yield "", word, [word]


def _next_word(words: Iterator[str]) -> Iterator[str]:
    """Yield the next argument, if there is one."""
    if (word := next(words, None)) is not None:
        yield word
