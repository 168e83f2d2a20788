"""Wrap text at the words, for a terminal of any width."""

from __future__ import annotations

import shutil
import textwrap


def wrap(text: str, *, indent: int = 0) -> str:
    """Return the text with each paragraph filled, and each indented line wrapped by itself.

    Args:
        text: Paragraphs that are separated by empty lines. In one with an indented line, each line
            stays a line.
        indent: The number of columns by which the text is indented later.
    """
    columns = shutil.get_terminal_size().columns - indent
    return "\n\n".join(_wrap_paragraph(each, columns) for each in text.split("\n\n"))


def wrap_line(line: str, *, width: int | None = None) -> str:
    """Return one line, wrapped at words; what follows its first line is indented once more.

    A word that is longer than a line, such as a path, stays whole, so that it can be copied.
    """
    columns = width or shutil.get_terminal_size().columns
    indent = line[: len(line) - len(line.lstrip())]
    is_command = line.lstrip().startswith("azpg ")
    wrapped = textwrap.wrap(
        line,
        max(columns, 20) - 2 * is_command,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    # A shell reads a command that is wrapped like this as one
    return (" \\\n" if is_command else "\n").join(wrapped)


def _wrap_paragraph(paragraph: str, columns: int) -> str:
    lines = paragraph.splitlines()
    if any(line.startswith(" ") for line in lines):
        return "\n".join(wrap_line(line, width=columns) for line in lines)
    return textwrap.fill(
        " ".join(lines), max(columns, 20), break_long_words=False, break_on_hyphens=False
    )


def wrap_usage(usage: str) -> str:
    """Return the usage of a command, wrapped to follow "usage: " on its first line."""
    columns = shutil.get_terminal_size().columns
    prefix = "usage: "
    return textwrap.fill(
        usage,
        max(columns, 20),
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
    ).removeprefix(prefix)
