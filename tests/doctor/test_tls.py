"""The doctor's check of TLS: modes, root certificates, and nothing sent to a wrong server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest
from fix_doctor import details, run_steps

from azpg._clouds import AZURE_ROOTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_command import Command
    from fix_hostile import Certificates, Hostile, Peer, Script
    from fix_servers import Postgres
    from fix_tunnel import Dig

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

HOST = "myserver.postgres.database.azure.com"


def test_direct_tls(azure: Emulator) -> None:
    """With sslnegotiation=direct the handshake starts without PostgreSQL's request."""
    steps = run_steps(server="myserver", conninfo="sslnegotiation=direct")
    assert HOST in details(steps, "TLS")["names"]
    assert details(steps, "sign-in")["user"] == "myapp"


@pytest.mark.parametrize(
    ("sslmode", "status"), [("require", "warning"), ("disable", "skipped")], ids=str
)
def test_a_weak_sslmode_is_reported(
    postgres: Postgres, dig: Dig, sslmode: str, status: str
) -> None:
    """A host that is not Azure's may use a mode that verifies nothing, with a password."""
    tunnel = dig((postgres.hostaddr, postgres.port))
    options = postgres.conninfo(host="localhost", hostaddr="127.0.0.1", port=str(tunnel.port))
    steps = run_steps(**options | {"sslmode": sslmode, "sslrootcert": None})
    assert steps["TLS"].result.status == status
    assert f"sslmode={sslmode}" in steps["TLS"].result.problem
    assert details(steps, "sign-in")["tls"] is (sslmode == "require")


def test_the_users_root_file_is_read(postgres: Postgres, command: Command, tmp_path: Path) -> None:
    """If libpq verifies by ~/.postgresql/root.crt, the check does too."""
    root_crt = tmp_path / "home" / ".postgresql" / "root.crt"
    root_crt.parent.mkdir()
    root_crt.write_bytes(Path(postgres.root).read_bytes())
    conninfo = f"host=localhost hostaddr={postgres.hostaddr} port={postgres.port} dbname=postgres"
    ran = command(
        "doctor", conninfo, "--user", postgres.user, "--json", PGPASSWORD=postgres.password
    )
    tls = next(step for step in json.loads(ran.out)["steps"] if step["name"] == "TLS")
    assert (tls["status"], tls["problem"]) == ("ok", "")
    assert "trustme" in tls["facts"]["root"]


def test_nothing_is_sent_to_a_server_with_a_wrong_certificate(
    certificates: Certificates, hostile: Callable[[Script], Hostile]
) -> None:
    """The handshake that reads the certificate carries not one byte."""

    def script(peer: Peer) -> None:
        peer.start_tls(certificates.wrong["other-root"])
        peer.read_all()

    server = hostile(script)
    steps = run_steps(**{k: str(v) for k, v in server.address().items() if k != "retry_timeout"})
    assert steps["TLS"].result.status == "failed"
    assert steps["TLS"].result.details["chain"]
    assert not server.decrypted


def test_the_roots_that_certifi_lacks_are_named(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A release of certifi may drop a pinned root."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    monkeypatch.setattr(certifi, "where", lambda: str(empty))
    lacking = details(run_steps(server="myserver"), "TLS")["certifi_lacks"]
    assert len(lacking) == len(AZURE_ROOTS)
    assert "DigiCert Global Root G2" in lacking
