"""Print the results of the doctor's checks: as text for the terminal, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import textwrap
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psycopg

import azpg
from azpg._redact import Secret

from .checks import run_checks
from .record import Findings, make_record
from .result import SourcedValue, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .result import Detail, Status


def print_report(options: Mapping[str, Any], *, as_json: bool) -> int:
    """Run the checks for the arguments of `azpg.connect` and print their results.

    Returns:
        The exit status of the command: 1 if a check failed, 0 otherwise.
    """
    steps: list[Step] = []
    with _warnings_hidden():
        if as_json:
            steps = [each for each in run_checks(options) if isinstance(each, Step)]
            data = {
                "ok": not _failed(steps),
                "versions": _versions(),
                "steps": [step.to_json() for step in steps],
            }
            print(json.dumps(data, indent=2))  # noqa: T201
        else:
            report = TextReport(sys.stdout, environ=os.environ)
            report.print_versions()
            for each in run_checks(options):
                if isinstance(each, Step):
                    report.print_step(each)
                    steps.append(each)
                else:
                    report.print_running(each)
            report.print_summary(steps)
    return 1 if _failed(steps) else 0


def write_record(
    options: Mapping[str, Any], file: str, *, probe_refusals: bool, expired_token_file: str = ""
) -> int:
    """Run the checks, write a record without secrets and names, and print it.

    Args:
        options: The arguments of `azpg.connect`.
        file: The file to write.
        probe_refusals: Whether to send a token of another audience as well.
        expired_token_file: A file with an expired token to send as well; empty for none.

    Returns:
        The exit status of the command: 1 if a check failed, 2 if a file is not accessible.
    """
    try:
        expired_token = Secret(
            Path(expired_token_file).read_text("ascii").strip() if expired_token_file else ""
        )
        # Before the checks: nobody wants to run them again because of a wrong path
        Path(file).touch()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it contains no token"
        name = error.filename if isinstance(error, OSError) else expired_token_file
        print(f"azpg doctor: {name}: {reason}", file=sys.stderr)  # noqa: T201
        return 2
    steps: list[Step] = []
    record: dict[str, Any] = {}

    def use_findings(findings: Findings) -> None:
        record.update(
            make_record(
                findings,
                steps,
                versions=_versions(),
                probe_refusals=probe_refusals,
                expired_token=expired_token,
            )
        )

    with _warnings_hidden():
        # `use_findings` reads the steps before the loop ends
        for each in run_checks(options, use_findings):
            if isinstance(each, Step):
                steps.append(each)  # noqa: PERF401
    text = json.dumps(record, indent=2)
    Path(file).write_text(f"{text}\n", "utf-8")
    print(text)  # noqa: T201
    print(f"written to {file}; read it before you publish it", file=sys.stderr)  # noqa: T201
    return 1 if _failed(steps) else 0


@contextmanager
def _warnings_hidden() -> Iterator[None]:
    # The report has what the libraries warn of. Python prints warnings that no handler takes.
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
    return [step for step in steps if step.result.status == "failed"]


def _versions() -> dict[str, str]:
    libpq_version = psycopg.pq.version()
    return {
        "azpg": azpg.__version__,
        "psycopg": psycopg.__version__,
        "libpq": f"{libpq_version // 10000}.{libpq_version % 10000}",
        "azure-identity": metadata.version("azure-identity"),
        "Python": platform.python_version(),
    }


MARKS: dict[Status, str] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
ASCII_MARKS: dict[Status, str] = {"ok": "+", "warning": "!", "failed": "x", "skipped": "-"}
COLORS: dict[Status, str] = {"ok": "32", "warning": "33", "failed": "31", "skipped": "2"}
DIM = "2"

MAX_WIDTH, DEFAULT_WIDTH, NARROW_WIDTH = 100, 80, 60
"""In columns; below `NARROW_WIDTH` a detail is not next to its label."""

LABEL_WIDTH = 19

LONG_PROBLEM_LINES = 4
"""From this many lines on, a hint follows the first one."""

LABELS = {"sign_in": "authentication"}
"""Labels that are not the detail's own name."""

JSON_ONLY = {"root_sha256"}
"""Details that are too long for the text."""

ALWAYS_SHOWN = {"host", "hostaddr", "port", "dbname", "user", "sslmode", "sslrootcert"}
"""Parameters that the text contains even if they are azpg's defaults."""


class TextReport:
    """Print the results step by step, as wide as the terminal, and each problem before details."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty() and environ.get("TERM") != "dumb"
        self.has_colors = self.is_terminal and not environ.get("NO_COLOR")
        self.width = min(_terminal_width(stream, environ), MAX_WIDTH)
        self.marks, self.arrow = MARKS, "→"
        try:
            "✓✗→…←".encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            self.marks, self.arrow = ASCII_MARKS, "->"
        self._printed_hints: set[str] = set()

    def print_versions(self) -> None:
        versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
        self._write_wrapped(versions, DIM)

    def print_running(self, name: str) -> None:
        """Print the step that is running; its result replaces it."""
        if self.is_terminal:
            self._write(f"  {name} …")

    def print_step(self, step: Step) -> None:
        """Print a step: its problem, its hint, and its details."""
        result = step.result
        mark, color = self.marks[result.status], COLORS[result.status]
        if self.is_terminal:
            self._write("\r\x1b[K")
        if result.status == "skipped":
            text = f"{step.name}: skipped: {result.problem}"
            self._write_wrapped(text, color, prefix=f"{mark} ")
        else:
            title = f"{mark} {step.name}"
            duration = _format_seconds(step.seconds)
            gap = " " * (self.width - len(title) - len(duration))
            self._write_line(f"{self._colored(title, color)}{gap}{duration}")
            lines = result.problem.splitlines()
            # The hint comes before a long message, such as azure-identity's
            count = 1 if len(lines) >= LONG_PROBLEM_LINES else len(lines)
            for line in lines[:count]:
                self._write_wrapped(line, color, indent="  ")
            self._print_hint(result.hint)
            for line in lines[count:]:
                self._write_wrapped(line, DIM, indent="    ")
        if result.status == "skipped":
            self._print_hint(result.hint)
        for name, detail in result.details.items():
            if _is_shown(name, detail):
                self._print_detail(name, detail)

    def _print_hint(self, hint: str) -> None:
        if hint:
            self._write_hint("as above" if hint in self._printed_hints else hint, indent="  ")
            self._printed_hints.add(hint)

    def _print_detail(self, name: str, detail: Detail) -> None:
        label = LABELS.get(name, name.replace("_", " "))
        if self.width >= NARROW_WIDTH:
            for line in _format_detail(name, detail, self.width - LABEL_WIDTH - 5):
                self._write_line(f"    {self._colored(f'{label:{LABEL_WIDTH}}', DIM)} {line}")
                label = ""
            return
        for line in _format_detail(name, detail, self.width - 4):
            if label and len(label) + len(line) + 4 <= self.width:
                self._write_line(f"  {self._colored(label, DIM)}  {line}")
            else:
                if label:
                    self._write_line(f"  {self._colored(label, DIM)}")
                self._write_line(f"    {line}")
            label = ""

    def print_summary(self, steps: list[Step]) -> None:
        """Print whether the connection works, and repeat the first hint if it is far above."""
        failed = _failed(steps)
        self._write_line("")
        if not failed:
            warned = [step.name for step in steps if step.result.status == "warning"]
            summary = f"It works; see {', '.join(warned)}." if warned else "It works."
            self._write_wrapped(summary, COLORS["warning" if warned else "ok"])
            return
        names = ", ".join(step.name for step in failed)
        self._write_wrapped(f"Failed: {names}.", COLORS["failed"])
        later = steps[steps.index(failed[0]) + 1 :]
        if failed[0].result.hint and any(step.result.status != "skipped" for step in later):
            self._write_hint(failed[0].result.hint)

    def _write_hint(self, hint: str, indent: str = "") -> None:
        self._write_wrapped(hint, "", indent, prefix=f"{self.arrow} ", break_words=False)

    def _write_wrapped(
        self,
        text: str,
        color: str,
        indent: str = "",
        prefix: str = "",
        *,
        break_words: bool = True,
    ) -> None:
        width = self.width - len(indent) - len(prefix)
        for i, line in enumerate(_wrap(text, width, break_words=break_words)):
            self._write_line(
                indent + (" " * len(prefix) if i else prefix) + self._colored(line, color)
            )

    def _colored(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self.has_colors and color else text

    def _write_line(self, text: str) -> None:
        encoding = self.stream.encoding or "ascii"
        self._write(text.encode(encoding, "replace").decode(encoding) + "\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int:
    columns = environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_WIDTH
    except OSError:  # not a terminal, or not a file
        return DEFAULT_WIDTH


def _format_seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _wrap(text: str, width: int, *, break_words: bool = True) -> list[str]:
    """Return the lines of a text; without `break_words` a long word is wider than the line."""
    width = max(width, 10)
    lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=break_words)
    return lines or [""]


def _days_ago(days: int) -> str:
    # The whole days until a moment in the past are rounded down
    return "today" if days == 1 else f"{days - 1} day{'s' * (days > 2)} ago"


def _is_shown(name: str, detail: Detail) -> bool:
    if isinstance(detail, SourcedValue):
        return bool(detail.value) and (detail.source != "azpg" or name in ALWAYS_SHOWN)
    return name not in JSON_ONLY


def _format_detail(name: str, detail: Detail, width: int) -> list[str]:
    if isinstance(detail, SourcedValue):
        return _wrap(f"{detail.value} ({detail.source})", width)
    if isinstance(detail, bool):
        return ["yes" if detail else "no"]
    if name in {"days_left", "root_days_left"} and isinstance(detail, int) and detail <= 0:
        return ["less than 1" if detail == 0 else f"none: expired {_days_ago(-detail)}"]
    if not isinstance(detail, list):
        return _wrap(str(detail), width)
    if name == "chain":
        return _wrap(" ← ".join(detail), width)
    one_line = ", ".join(detail) or "none"
    if len(one_line) <= width:
        return [one_line]
    return [line for each in detail for line in _wrap(each, width)]
