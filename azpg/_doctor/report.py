"""The doctor's findings as a person reads them: as wide as the terminal, the problem first."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import textwrap
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any, TextIO

import psycopg

import azpg
from azpg._clouds import AZURE_ROOTS
from azpg._tls.roots import certificates, pem

from .checks import examine
from .result import Setting, Step
from .tls import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .result import Fact, Status


def main(options: Mapping[str, Any], *, as_json: bool) -> int:
    """Print what the doctor finds for the arguments of `azpg.connect`; return the exit status."""
    steps: list[Step] = []
    with _quiet():
        if as_json:
            steps = [each for each in examine(options) if isinstance(each, Step)]
            data = {
                "ok": not _failed(steps),
                "versions": _versions(),
                "steps": [step.as_data() for step in steps],
            }
            print(json.dumps(data, indent=2))  # noqa: T201
        else:
            report = Report(sys.stdout, environ=os.environ)
            report.begin()
            for each in examine(options):
                if isinstance(each, Step):
                    report.step(each)
                    steps.append(each)
                else:
                    report.under_way(each)
            report.end(steps)
    return 1 if _failed(steps) else 0


def roots(*, as_pem: bool) -> int:
    """Print the pinned roots, or write them as PEM; return the exit status."""
    if as_pem:
        sys.stdout.write(pem(AZURE_ROOTS).decode("ascii"))
        return 0
    found = certificates(AZURE_ROOTS)
    seen = {each.sha256: each for each in read([root.der for root in found.values()])}
    for sha256, each in sorted(seen.items(), key=lambda item: item[1].subject):
        print(  # noqa: T201
            f"{each.subject}\n"
            f"  SHA-256  {sha256}\n"
            f"  ends     {each.ends:%Y-%m-%d}, in {each.days_left()} days\n"
            f"  from     {found[sha256].source}"
        )
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    # What they warn of is found; where nothing handles it, it would be printed between the lines.
    loggers = [logging.getLogger(name) for name in ("azpg", "azure", "msal")]
    handler = logging.NullHandler()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _failed(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.found.status == "failed"]


def _versions() -> dict[str, str]:
    number = psycopg.pq.version()
    return {
        "azpg": azpg.__version__,
        "psycopg": psycopg.__version__,
        "libpq": f"{number // 10000}.{number % 10000}",
        "azure-identity": metadata.version("azure-identity"),
        "Python": platform.python_version(),
    }


MARKS: dict[Status, str] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
ASCII_MARKS: dict[Status, str] = {"ok": "+", "warning": "!", "failed": "x", "skipped": "-"}
COLOURS: dict[Status, str] = {"ok": "32", "warning": "33", "failed": "31", "skipped": "2"}

WIDEST, PLAIN, NARROW = 100, 80, 60
LABEL = 19

ONLY_DATA = {"root_sha256"}
"""Facts too long to be read."""

ALWAYS = {"host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert"}
"""Settings worth reading also where azpg has filled them in."""


class Report:
    """Print steps one by one."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self.stream = stream
        self.live = stream.isatty() and environ.get("TERM") != "dumb"
        self.colour = self.live and not environ.get("NO_COLOR")
        self.width = min(_columns(stream, environ), WIDEST)
        self.marks, self.arrow = MARKS, "→"
        try:
            "✓✗→…←".encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            self.marks, self.arrow = ASCII_MARKS, "->"
        self._hints: set[str] = set()

    def begin(self) -> None:
        """Print what runs."""
        self._wrapped(", ".join(map(" ".join, _versions().items())), "2")

    def under_way(self, name: str) -> None:
        """Show on a terminal what is waited for."""
        if self.live:
            self._write(f"  {name} …")

    def step(self, step: Step) -> None:
        """Print a step: its problem, what to do about it, and its facts."""
        found = step.found
        mark, colour = self.marks[found.status], COLOURS[found.status]
        if self.live:
            self._write("\r\x1b[K")
        if found.status == "skipped":
            self._wrapped(f"{step.name}: {found.problem}", colour, "", f"{mark} ")
        else:
            took = _took(step.seconds)
            head = f"{mark} {step.name}"
            gap = " " * (self.width - len(head) - len(took))
            self._line(f"{self._painted(head, colour)}{gap}{took}")
            for line in found.problem.splitlines():
                self._wrapped(line, colour, "  ")
        if found.hint:
            again = found.hint in self._hints
            self._hints.add(found.hint)
            self._wrapped("as above" if again else found.hint, "", "  ", f"{self.arrow} ")
        for name, fact in found.facts.items():
            if _is_read(name, fact):
                self._fact(name, fact)

    def _fact(self, name: str, fact: Fact) -> None:
        label = name.replace("_", " ")
        if self.width < NARROW:
            for line in _lines(name, fact, self.width - 4):
                if label and len(label) + len(line) + 4 <= self.width:
                    self._line(f"  {self._painted(label, '2')}  {line}")
                else:
                    if label:
                        self._line(f"  {self._painted(label, '2')}")
                    self._line(f"    {line}")
                label = ""
            return
        for line in _lines(name, fact, self.width - LABEL - 5):
            self._line(f"    {self._painted(f'{label:{LABEL}}', '2')} {line}")
            label = ""

    def end(self, steps: list[Step]) -> None:
        """Print what it comes to."""
        failed = _failed(steps)
        self._line("")
        if not failed:
            warned = [step.name for step in steps if step.found.status == "warning"]
            said = f"It works; see {', '.join(warned)}." if warned else "It works."
            self._wrapped(said, COLOURS["warning" if warned else "ok"])
            return
        self._wrapped(f"Failed: {', '.join(step.name for step in failed)}.", COLOURS["failed"])
        after = steps[steps.index(failed[0]) + 1 :]
        if failed[0].found.hint and any(step.found.status != "skipped" for step in after):
            self._wrapped(failed[0].found.hint, "", "", f"{self.arrow} ")

    def _wrapped(self, text: str, colour: str, indent: str = "", mark: str = "") -> None:
        hint = mark == f"{self.arrow} "
        lines = _fill(text, self.width - len(indent) - len(mark), whole=hint)
        for i, line in enumerate(lines):
            self._line(indent + (" " * len(mark) if i else mark) + self._painted(line, colour))

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour and colour else text

    def _line(self, text: str) -> None:
        encoding = self.stream.encoding or "ascii"
        self._write(text.encode(encoding, "replace").decode(encoding) + "\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _columns(stream: TextIO, environ: Mapping[str, str]) -> int:
    asked = environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or PLAIN
    except OSError:  # no terminal, or no file at all
        return PLAIN


def _took(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _fill(text: str, width: int, *, whole: bool = False) -> list[str]:
    """Return lines of a width; words too long for it stay `whole` where they are to be copied."""
    width = max(width, 10)
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=not whole) or [""]


def _is_read(name: str, fact: Fact) -> bool:
    if isinstance(fact, Setting):
        return bool(fact.value) and (fact.source != "azpg" or name in ALWAYS)
    return name not in ONLY_DATA


def _lines(name: str, fact: Fact, width: int) -> list[str]:
    if isinstance(fact, Setting):
        return _fill(f"{fact.value} ({fact.source})", width)
    if isinstance(fact, bool):
        return ["yes" if fact else "no"]
    if not isinstance(fact, list):
        return _fill(str(fact), width)
    if name == "chain":
        return _fill(" ← ".join(fact), width)
    together = ", ".join(fact) or "none"
    return (
        [together]
        if len(together) <= width
        else [line for each in fact for line in _fill(each, width)]
    )
