"""The doctor's report: in a terminal, wide and narrow, in a pipe, and as JSON."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from fix_doctor import STEPS

import azpg
from azpg._cli.main import main
from azpg._doctor.checks import run_checks
from azpg._doctor.report import TextReport
from azpg._doctor.result import CheckResult, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_command import Screen, Terminal

    from azpg.emulator import Emulator

HOST = "myserver.postgres.database.azure.com"
COLOR = re.compile(r"\x1b\[\d+m")


def reporting(**options: Any) -> Callable[..., None]:
    """Return a function that writes the report to a stream."""

    def write(stream: TextIO, **environ: str) -> None:
        report = TextReport(stream, {"TERM": "xterm"} | environ)
        report.print_versions()
        steps = []
        for each in run_checks(options):
            if isinstance(each, Step):
                report.print_step(each)
                steps.append(each)
            else:
                report.print_running(each)
        report.print_summary(steps)

    return write


def final_lines(output: str) -> list[str]:
    """Return the lines that a terminal shows in the end, without colors."""
    lines = COLOR.sub("", output).split("\n")
    return [line.rpartition("\r\x1b[K")[2] for line in lines]


# In a terminal


@pytest.mark.parametrize("columns", [40, 80, 132])
@pytest.mark.parametrize("certificate", [None, "other-name"])
def test_lines_are_as_wide_as_the_terminal(
    azure: Emulator, screen: Screen, columns: int, certificate: Any
) -> None:
    """They have at most 100 columns."""
    with azure.fault(certificate=certificate):
        output = screen(columns, reporting(server="myserver"))
    width = min(columns, 100)
    lines = final_lines(output)
    assert len(next(line for line in lines if line.endswith(" ms"))) == width
    # Except for a long word of a hint
    assert not [line for line in lines if len(line) > width and " " in line.strip()]
    assert azure.host in output  # in one piece, to be copied


def test_words_of_a_hint_are_not_broken(azure: Emulator, screen: Screen) -> None:
    """The SQL of a hint can be copied from the narrowest terminal."""
    output = screen(40, reporting(server="myserver", user="nobody"))
    assert "pgaadauth_create_principal_with_oid('nobody'," in output


def test_the_command_in_a_terminal(azure: Emulator, terminal: Terminal) -> None:
    """It uses the terminal's width and colors."""
    ran = terminal(60, "doctor", "--server", "myserver")
    assert ran.status == 0
    assert max(map(len, final_lines(ran.out))) == 60
    assert "\x1b[32m✓ TCP\x1b[0m" in ran.out


def test_the_running_step_is_shown(azure: Emulator, screen: Screen) -> None:
    """Its result replaces it."""
    output = screen(80, reporting(server="myserver"))
    assert "  TCP …\r\x1b[K" in output
    assert output.index("✓ TCP") < output.index("  TLS …")
    assert not [line for line in final_lines(output) if "…" in line]


@pytest.mark.parametrize(
    ("variables", "has_colors", "shows_running_step"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, False, True),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
    ],
    ids=str,
)
def test_colors(
    azure: Emulator,
    screen: Screen,
    variables: dict[str, str],
    has_colors: bool,
    shows_running_step: bool,
) -> None:
    """A terminal has colors unless it is dumb or NO_COLOR is set."""
    write = reporting(server="myserver", port="1")
    output = screen(80, lambda stream: write(stream, **variables))
    assert bool(COLOR.search(output)) is has_colors
    assert ("\x1b[31m✗ TCP\x1b[0m" in output) is has_colors
    assert ("\r\x1b[K" in output) is shows_running_step


# Not in a terminal


def test_a_pipe_gets_no_control_characters(
    azure: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The running steps are not printed either."""
    main(["doctor", "--server", "myserver"])
    output = capsys.readouterr().out
    assert not [c for c in output if not c.isprintable() and c != "\n"]
    assert "TCP …" not in output


def test_an_ascii_stream_gets_ascii_marks(azure: Emulator) -> None:
    """Its encoding has neither check marks nor arrows."""
    written = io.BytesIO()
    write = reporting(server="myserver", port="1")
    with io.TextIOWrapper(written, encoding="ascii") as stream:
        write(stream)
        stream.flush()
        output = written.getvalue().decode("ascii")
    assert "\nx TCP" in output
    assert "\n  -> " in output


def test_columns_sets_the_width(azure: Emulator) -> None:
    """The variable COLUMNS counts before the terminal's width."""
    stream = io.StringIO()
    reporting(server="myserver", port="1")(stream, COLUMNS="50")
    assert max(map(len, stream.getvalue().splitlines())) == 50


# Content


def test_problem_and_hint_come_before_the_details(
    azure: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the name of the step that failed."""
    with azure.fault(certificate="expired"):
        assert main(["doctor", "--server", "myserver"]) == 1
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("✗ TLS"))
    assert lines[start + 1] == "  certificate verify failed: certificate has expired"
    assert lines[start + 2].startswith("  → ")
    details = next(i for i, line in enumerate(lines) if line.startswith("    version"))
    assert all(line.startswith("    ") for line in lines[start + 3 : details])


def test_the_summary_repeats_the_first_hint(
    azure: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """But not if nothing was printed after it."""
    assert main(["doctor", "--server", "myserver", "--port", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Failed: TCP.")
    assert lines[start + 1].startswith("→ ")
    assert f"  {lines[start + 1]}" in lines
    assert main(["doctor", "--server", "myserver", "--user", "nobody"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "Failed: sign-in."


def test_the_same_hint_is_printed_once(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """A later step with the same hint refers to it."""
    with azure.fault(tls="stripped"):
        main(["doctor", "--server", "myserver"])
    assert capsys.readouterr().out.count("  → as above\n") == 1


def test_the_summary_of_a_working_connection(
    azure: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the steps with a warning, and stderr is empty."""
    assert main(["doctor", "--server", "myserver"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "It works."
    monkeypatch.delenv("AZPG_EMULATOR")
    assert main(["doctor", "--server", "myserver"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "It works; see configuration."
    assert printed.err == ""


def test_the_hint_comes_before_a_long_message(
    azure: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token: one line, what to type, and azure-identity's message once."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    assert main(["doctor", "--server", "myserver"]) == 1
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("✗ identity"))
    assert lines[start + 1] == "  no token from DefaultAzureCredential"
    assert lines[start + 2].startswith("  → run `az login`")
    assert "\n".join(lines).count("AzureCliCredential: ") == 1
    assert "- sign-in: skipped: no token" in lines


@pytest.mark.parametrize("certificate", ["other-root", "self-signed", "expired"])
def test_one_cause_of_a_rejected_certificate(
    azure: Emulator, capsys: pytest.CaptureFixture[str], certificate: Any
) -> None:
    """The TLS check has the hint, and authentication, which fails too, refers to it."""
    with azure.fault(certificate=certificate):
        assert main(["doctor", "--server", "myserver"]) == 1
    _, _, sign_in = capsys.readouterr().out.partition("✗ sign-in")
    assert sign_in.splitlines()[2] == "  → as above"


def test_a_certificate_that_is_about_to_expire(
    azure: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last day is not printed as 0 days left."""
    assert main(["doctor", "--server", "myserver"]) == 0
    assert re.search(r" days left +less than 1\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("days", "shown"), [(-1, "today"), (-2, "1 day ago"), (-3, "2 days ago")], ids=str
)
def test_a_certificate_that_has_expired(days: int, shown: str) -> None:
    """The text has no negative count of days."""
    stream = io.StringIO()
    step = Step("TLS", 0.1, CheckResult({"days_left": days}))
    TextReport(stream, {}).print_step(step)
    assert f" none: expired {shown}\n" in stream.getvalue()


def test_json(azure: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one document with every step, its seconds and its details, and no token."""
    assert main(["doctor", "--server", "myserver", "--json"]) == 0
    output = capsys.readouterr().out
    data = json.loads(output)
    assert data["ok"] is True
    assert [step["name"] for step in data["steps"]] == STEPS
    assert all(step["seconds"] > 0 for step in data["steps"])
    assert data["steps"][0]["facts"]["host"] == {"value": HOST, "source": "--server"}
    assert data["versions"]["azpg"] == azpg.__version__
    assert "eyJ" not in output
    assert main(["doctor", "--server", "myserver", "--port", "1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_ctrl_c(azure: Emulator) -> None:
    """The command ends without a traceback, with status 130 as in a shell."""
    program = [sys.executable, "-m", "azpg", "doctor", "--server", "myserver"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with azure.fault(identity="hang"), subprocess.Popen(program, text=True, **pipes) as process:  # type: ignore[call-overload]  # mypy joins the values' types
        for line in process.stdout:
            if "certifi lacks" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "")
