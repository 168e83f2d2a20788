"""psql's arguments: which database and user they name, and which lead elsewhere. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHORT = "cdFfhLoPpRTUv"
_LONG = (
    *("cluster", "command", "dbname", "field-separator", "file", "host", "log-file", "output"),
    *("port", "pset", "record-separator", "set", "table-attr", "username", "variable"),
)
"""psql's options that take a value; `cluster` is of Debian's wrapper."""

_LEADING = {"-h", "-p", "--host", "--port", "--cluster"}


def is_conninfo(text: str) -> bool:
    """Tell whether libpq's programs take the name of a database for a connection string."""
    return "=" in text or text.startswith(("postgresql://", "postgres://"))


def read_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return what psql's arguments default to, the database and user they name, and the others.

    azpg hands psql the database and the user in one connection string with the host, so the
    others do not contain them.

    Raise `ConfigError` for arguments that lead psql to another server, with all of them.

    >>> read_arguments(["-X", "mydb"])
    ({}, {'dbname': 'mydb'}, ['-X'])
    >>> read_arguments(["-h", "elsewhere.example"])
    Traceback (most recent call last):
    azpg.ConfigError: -h leads psql to another server: ...
    """
    problems: list[str] = []
    defaults: dict[str, str] = {}
    named: dict[str, str] = {}
    positional: list[str] = []
    rest: list[str] = []
    for option, value, words in _read(arguments):
        if any(_means(option, each) for each in _LEADING):
            problems.append(
                f"{option} leads psql to another server: name the server to azpg, before psql's "
                f"own arguments (azpg psql --server myserver …)"
            )
        elif option not in {"", "-d"} and not _means(option, "--dbname"):
            if option == "-U" or _means(option, "--username"):
                named["user"] = value
                continue
            if option == "-l" or _means(option, "--list"):
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


def _means(option: str, name: str) -> bool:
    """Tell whether psql takes an option for this one: any beginning of a long name will do."""
    return option == name or (option.startswith("--") and name.startswith(option))


def _read(arguments: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield psql's options with their values and as words of their own; with no option the rest."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield from (("", each, [each]) for each in words)
        elif word.startswith("--"):
            option, equals, value = word.partition("=")
            takes = any(_means(option, f"--{each}") for each in _LONG)
            after = [*_next(words)] if takes and not equals else []
            yield option, "".join(after) or value, [word, *after]
        elif word.startswith("-") and word != "-":
            letters = iter(word[1:])
            for letter in letters:
                takes = letter in _SHORT
                attached = "".join(letters) if takes else ""
                after = [attached] if attached else [*_next(words)] if takes else []
                yield f"-{letter}", "".join(after), [f"-{letter}", *after]
        else:
            yield "", word, [word]


def _next(words: Iterator[str]) -> Iterator[str]:
    """Yield the next word, if there is one."""
    if (word := next(words, None)) is not None:
        yield word
