"""The command `azpg emulator`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from azpg.emulator import Emulator
from azpg.emulator._command import main

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from azpg.emulator._command import main; sys.exit(main(sys.argv[1:]))",
]
SHOW_ENVIRONMENT = "import os; print(*(f'{k}={v}' for k, v in os.environ.items()), sep='\\n')"
WAIT = "import os, sys; print(os.environ['PGSSLROOTCERT'], flush=True); sys.stdin.read()"


def test_the_command_runs_in_the_emulators_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command gets the emulator's environment variables, without those that conflict."""
    monkeypatch.setenv("AZURE_CLIENT_ID", "from the CI")
    done = subprocess.run(
        [*COMMAND, "--token-lifetime", "60", "--", sys.executable, "-c", SHOW_ENVIRONMENT],
        capture_output=True,
        text=True,
        check=True,
    )
    env = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert env["PGHOST"] == "myserver.postgres.database.azure.com"
    assert env["AZURE_TOKEN_CREDENTIALS"] == "ManagedIdentityCredential"
    assert "AZURE_CLIENT_ID" not in env
    assert not Path(env["PGSSLROOTCERT"]).exists()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["no-such-command"], 127),
    ],
)
def test_the_exit_status_is_the_commands(command: list[str], status: int) -> None:
    """The exit status is the command's, as in a shell."""
    assert main(["--", *command]) == status


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_signals_are_forwarded_to_the_command(number: signal.Signals) -> None:
    """A signal ends the command first, and then the emulator."""
    with subprocess.Popen(
        [*COMMAND, "--", sys.executable, "-c", WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        root_certificate = Path(process.stdout.readline().strip())
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert not root_certificate.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_without_a_command_it_prints_exports(number: signal.Signals) -> None:
    """Without a command it prints shell commands and runs until it gets a signal."""
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("# when done: unset PGHOST"):
                break
        script = "".join(line for line in lines if line.startswith("export"))
        shown = subprocess.run(
            ["sh", "-c", script + "env"], capture_output=True, text=True, check=True
        ).stdout
        env = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        assert Path(env["PGSSLROOTCERT"]).exists()
        process.send_signal(number)
        assert process.wait(20) == 0
    assert not Path(env["PGSSLROOTCERT"]).exists()
    assert lines[-1].split()[4:] == [
        line.split()[1].split("=")[0] for line in lines if line.startswith("export")
    ]


def test_a_program_in_the_emulator_is_not_warned() -> None:
    """The emulator's variables redirect an Azure host on purpose."""
    program = "import azpg; azpg.connect(server='myserver').close()"
    done = subprocess.run(
        [*COMMAND, "--", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_a_program_with_the_exports_is_warned_once_the_emulator_has_ended() -> None:
    """The exports in another terminal are no mistake as long as the emulator runs."""
    program = [sys.executable, "-c", "import azpg; azpg.conninfo(server='myserver')"]
    other_program = [*program[:2], "import azpg; azpg.conninfo(server='another')"]
    with Emulator(pgbouncer=False) as emulator:
        environ = os.environ | emulator.env
        while_it_runs = subprocess.run(program, env=environ, stderr=subprocess.PIPE, check=True)
        another = subprocess.run(other_program, env=environ, stderr=subprocess.PIPE, check=True)
    afterwards = subprocess.run(program, env=environ, stderr=subprocess.PIPE, check=True)
    assert while_it_runs.stderr == b""
    assert b"PGHOSTADDR and PGSSLROOTCERT decide how another" in another.stderr
    assert b"PGHOSTADDR and PGSSLROOTCERT decide how myserver" in afterwards.stderr


def test_imds_replaces_app_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --imds the command finds the endpoint of virtual machines and no other."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://an.emulator.before")
    monkeypatch.setenv("IDENTITY_HEADER", "its secret")
    program = [sys.executable, "-c", SHOW_ENVIRONMENT]
    done = subprocess.run(
        [*COMMAND, "--imds", "--", *program], capture_output=True, text=True, check=True
    )
    env = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert env["AZURE_POD_IDENTITY_AUTHORITY_HOST"].startswith("http://127.")
    assert not {"IDENTITY_ENDPOINT", "IDENTITY_HEADER"} & env.keys()


def test_an_error_is_printed_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is printed as a sentence, with an exit status."""
    assert main(["--host", "localhost"]) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("azpg emulator: host='localhost' is not an Azure host name")
    )


def test_signal_handlers_are_restored() -> None:
    """The signal handlers are restored when the command has ended."""
    before = signal.getsignal(signal.SIGTERM)
    main(["--host", "localhost"])
    assert signal.getsignal(signal.SIGTERM) is before
