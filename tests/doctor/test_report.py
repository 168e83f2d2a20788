"""The doctor as a person reads it: in a terminal, wide and narrow, and not in one."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from azpg._cli.main import main
from azpg._doctor.checks import examine
from azpg._doctor.report import Report
from azpg._doctor.result import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_command import Screen, Terminal

    from azpg.emulator import Emulator

pytestmark = pytest.mark.once

PAINTED = re.compile(r"\x1b\[\d+m")


def showing(**options: Any) -> Callable[..., None]:
    """Return what shows the doctor's steps on a stream."""

    def show(stream: TextIO, **environ: str) -> None:
        report = Report(stream, {"TERM": "xterm"} | environ)
        report.begin()
        steps = []
        for each in examine(options):
            if isinstance(each, Step):
                report.step(each)
                steps.append(each)
            else:
                report.under_way(each)
        report.end(steps)

    return show


def standing(said: str) -> list[str]:
    """Return what stands on the screen in the end, without colours."""
    lines = PAINTED.sub("", said).split("\n")
    return [line.rpartition("\r\x1b[K")[2] for line in lines]


@pytest.mark.parametrize("columns", [40, 80, 132])
@pytest.mark.parametrize("certificate", [None, "other-name"])
def test_the_width_is_respected(
    azure: Emulator, screen: Screen, columns: int, certificate: Any
) -> None:
    """No line is wider than the terminal, nor than can be read with ease."""
    with azure.fault(certificate=certificate):
        said = screen(columns, showing(server="myserver"))
    width = min(columns, 100)
    lines = standing(said)
    assert len(next(line for line in lines if line.endswith(" ms"))) == width
    # But for a word of a hint's that is too long
    assert not [line for line in lines if len(line) > width and " " in line.strip()]
    assert azure.host in said  # whole, to be copied


def test_what_is_to_be_typed_stays_whole(azure: Emulator, screen: Screen) -> None:
    """In the narrowest terminal a hint's SQL can be copied: no word of it is broken."""
    said = screen(40, showing(server="myserver", user="nobody"))
    assert "pgaadauth_create_principal_with_oid('nobody'," in said


def test_the_command_in_a_terminal(azure: Emulator, terminal: Terminal) -> None:
    """The command finds the terminal's width and colours by itself."""
    ran = terminal(60, "doctor", "--server", "myserver")
    assert ran.status == 0
    assert max(map(len, standing(ran.out))) == 60
    assert "\x1b[32m✓ TCP\x1b[0m" in ran.out


def test_the_problem_comes_first(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """Below a step that failed is why, then what to do, then the rest."""
    with azure.fault(certificate="expired"):
        assert main(["doctor", "--server", "myserver"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("✗ TLS"))
    assert lines[at + 1] == "  certificate verify failed: certificate has expired"
    assert lines[at + 2].startswith("  → ")
    facts = next(i for i, line in enumerate(lines) if line.startswith("    version"))
    assert all(line.startswith("    ") for line in lines[at + 3 : facts])


def test_the_end_says_what_failed(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines name what failed, and what to do where that has scrolled away."""
    assert main(["doctor", "--server", "myserver", "--port", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("Failed: TCP.")
    assert lines[at + 1].startswith("→ ")
    assert f"  {lines[at + 1]}" in lines
    assert main(["doctor", "--server", "myserver", "--user", "nobody"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Failed: sign-in."


def test_a_hint_is_not_said_twice(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """A step that fails for the reason of one before says so in two words."""
    with azure.fault(tls="stripped"):
        main(["doctor", "--server", "myserver"])
    assert capsys.readouterr().out.count("  → as above\n") == 1


def test_where_all_is_well_it_says_so(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line tells that it works, and where a warning is to be read."""
    assert main(["doctor", "--server", "myserver"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "It works; see configuration."
    assert printed.err == ""


def test_steps_are_shown_as_they_are_walked(azure: Emulator, screen: Screen) -> None:
    """A terminal shows what is waited for, and then the step in its place."""
    said = screen(80, showing(server="myserver"))
    assert "  TCP …\r\x1b[K" in said
    assert said.index("✓ TCP") < said.index("  TLS …")
    assert not [line for line in standing(said) if "…" in line]


@pytest.mark.parametrize(
    ("variables", "coloured", "live"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=str,
)
def test_colour(
    azure: Emulator, screen: Screen, variables: dict[str, str], coloured: bool, live: bool
) -> None:
    """A terminal has colours, unless it cannot, or NO_COLOR says no."""
    show = showing(server="myserver", port="1")
    said = screen(80, lambda stream: show(stream, **variables))
    assert bool(PAINTED.search(said)) is coloured
    assert ("\x1b[31m✗ TCP\x1b[0m" in said) is coloured
    assert ("\r\x1b[K" in said) is live


def test_plain_where_there_is_no_terminal(
    azure: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe gets no control character at all, and nothing that was only waited for."""
    main(["doctor", "--server", "myserver"])
    said = capsys.readouterr().out
    assert not [c for c in said if not c.isprintable() and c != "\n"]
    assert "TCP …" not in said


def test_ascii(azure: Emulator) -> None:
    """An output that has no marks gets plain ones."""
    written = io.BytesIO()
    show = showing(server="myserver", port="1")
    with io.TextIOWrapper(written, encoding="ascii") as stream:
        show(stream)
        stream.flush()
        said = written.getvalue().decode("ascii")
    assert "\nx TCP" in said
    assert "\n  -> " in said


def test_columns_can_be_said(azure: Emulator) -> None:
    """COLUMNS decides the width where there is no terminal to ask."""
    stream = io.StringIO()
    showing(server="myserver", port="1")(stream, COLUMNS="50")
    assert max(map(len, stream.getvalue().splitlines())) == 50


def test_ctrl_c(azure: Emulator) -> None:
    """Ctrl-C in the middle ends it in silence, with a shell's status."""
    program = [sys.executable, "-m", "azpg", "doctor", "--server", "myserver"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with azure.fault(identity="hang"), subprocess.Popen(program, text=True, **pipes) as process:  # type: ignore[call-overload]  # mypy joins the values' types
        for line in process.stdout:
            if "certifi lacks" in line:
                break
        process.send_signal(2)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "")
