"""The opt-in pytest fixtures, in a separate pytest run."""

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import os
import psycopg
from azure.identity import DefaultAzureCredential

def test_main_job(azpg_emulator, azpg_emulator_env):
    assert os.environ["PGHOST"] == azpg_emulator_env["PGHOST"] == azpg_emulator.host
    with DefaultAzureCredential() as credential:
        token = credential.get_token("https://ossrdbms-aad.database.windows.net/.default").token
    identity = {"user": "myapp", "password": token, "dbname": "postgres"}
    with psycopg.connect(**identity, sslmode="verify-full") as conn:
        assert conn.execute("select current_user").fetchone() == ("myapp",)

def test_environment_is_restored():
    assert "IDENTITY_ENDPOINT" not in os.environ
    assert os.environ["AZURE_CLIENT_ID"] == "from the CI"
"""


def test_fixtures(tmp_path: Path) -> None:
    """The fixtures run an emulator, and set the environment for one test."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["azpg.emulator.pytest"]\n')
    (tmp_path / "test_it.py").write_text(
        "import os\nos.environ['AZURE_CLIENT_ID'] = 'from the CI'\n" + TEST
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
