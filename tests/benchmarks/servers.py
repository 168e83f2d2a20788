"""The servers: a PostgreSQL with its own TLS, a PgBouncer, and an identity endpoint."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import psycopg
import trustme
from azure.identity import ManagedIdentityCredential
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from psycopg import sql

import azpg
from azpg._clouds import AZURE_ROOTS
from azpg._tls import roots
from azpg.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS = "127.7.7.7"
HOST = "bench.postgres.database.azure.com"
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
ANY = "anytoken"
"""the role that authenticates with any token"""
ACCESS = f"local all all trust\nhostssl all {ANY} all trust\nhostssl all all all password\n"
IDENTITY = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
BIG = 5000
"""characters of the token of an identity with many groups"""


@dataclass(frozen=True)
class Servers:
    """The servers, and the parameters to connect to them."""

    entra: Emulator
    cloud: azpg.Cloud
    """Azure's roots, and the one that this server's certificate is from"""
    folder: Path
    credentials: dict[str, ManagedIdentityCredential]
    """by role; azure-identity keeps the token that is each one's password here"""
    tokens: dict[str, str] = field(repr=False)
    whole_bundle: str
    """certifi's file, with that one root more"""
    own_roots: Path
    """azpg's own copies of Azure's roots, with that one more"""

    def keywords(self, user: str = "myapp", **changes: object) -> dict[str, Any]:
        """Return the arguments of azpg: server and user, without TLS parameters."""
        told = {"server": "bench", "cloud": self.cloud, "hostaddr": ADDRESS, "dbname": "postgres"}
        return {**told, "user": user, "credential": self.credentials.get(user), **changes}

    def final(self, user: str = "myapp", **changes: object) -> dict[str, Any]:
        """Return what libpq is handed in the end, with the password ready."""
        said = psycopg.conninfo.conninfo_to_dict(azpg.conninfo(**self.keywords(user, **changes)))
        return said | {"password": self.tokens.get(user, "")}

    def whole(self, user: str = "myapp") -> dict[str, Any]:
        """Return what a careful user of another library says: verify-full, by certifi's bundle."""
        told = {"host": HOST, "hostaddr": ADDRESS, "port": "5432", "dbname": "postgres"}
        return told | {"user": user, "sslmode": "verify-full", "sslrootcert": self.whole_bundle}


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Start them all, and stop them at the end."""
    with tempfile.TemporaryDirectory(prefix="azpg-bench-") as name, Emulator() as entra:
        folder = Path(name)
        folder.chmod(0o755)
        authority = trustme.CA()
        whole = folder / "certifi.pem"
        whole.write_bytes(Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
        certifi.where = lambda: str(whole)
        cloud = _cloud(authority)
        own = folder / "own.pem"
        own.write_bytes(roots.pem(cloud.roots or AZURE_ROOTS))
        big = entra.add_role("mybigapp", kind="user-assigned", token_size=BIG)
        for variable in IDENTITY:
            os.environ[variable] = entra.env[variable]
        credentials = {
            "myapp": ManagedIdentityCredential(),
            "mybigapp": ManagedIdentityCredential(client_id=big.client_id),
        }
        scope = azpg.AZURE_PUBLIC.scope
        tokens = {role: credentials[role].get_token(scope).token for role in credentials}
        with _postgres(folder, authority, tokens), _pgbouncer(folder, tokens):
            yield Servers(entra, cloud, folder, credentials, tokens, str(whole), own)


def _cloud(authority: trustme.CA) -> azpg.Cloud:
    der = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).public_bytes(Encoding.DER)
    public = azpg.AZURE_PUBLIC
    roots = AZURE_ROOTS | {hashlib.sha256(der).hexdigest()}
    return azpg.Cloud("bench", public.suffixes, public.scope, public.authority, roots)


@contextlib.contextmanager
def _postgres(folder: Path, authority: trustme.CA, tokens: dict[str, str]) -> Iterator[None]:
    data = folder / "data"
    _own(folder)
    _run(POSTGRES / "initdb", "--no-sync", "--auth=trust", "-U", "admin", "-D", data)
    certificate = data / "server.pem"
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
    certificate.chmod(0o600)
    _own(certificate)
    (data / "pg_hba.conf").write_text(ACCESS)
    settings = {
        "listen_addresses": ADDRESS,
        "port": 5432,
        "unix_socket_directories": folder,
        "max_connections": 600,
        "ssl": "on",
        "ssl_cert_file": "server.pem",
        "ssl_key_file": "server.pem",
        "fsync": "off",
        # What the server does with a password is no part of what is measured
        "password_encryption": "md5",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    pg_ctl = (POSTGRES / "pg_ctl", "-D", data)
    _run(*pg_ctl, "-w", "-l", folder / "postgres.log", "-o", options, "start")
    try:
        with psycopg.connect(host=str(folder), user="admin", dbname="postgres") as admin:
            for role, token in {**tokens, ANY: ""}.items():
                statement = sql.SQL("create role {} login password {}")
                admin.execute(statement.format(sql.Identifier(role), sql.Literal(token)))
        yield
    finally:
        _run(*pg_ctl, "-m", "immediate", "stop")


@contextlib.contextmanager
def _pgbouncer(folder: Path, tokens: dict[str, str]) -> Iterator[None]:
    # PgBouncer 1.18 takes passwords of up to 2,048 characters
    users = {role: token for role, token in tokens.items() if len(token) < 2000}
    (folder / "users.txt").write_text("".join(f'"{r}" "{t}"\n' for r, t in users.items()))
    settings = folder / "pgbouncer.ini"
    settings.write_text(f"""\
[databases]
* = host={folder} port=5432
[pgbouncer]
listen_addr = {ADDRESS}
listen_port = 6432
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 50
max_client_conn = 2000
client_tls_sslmode = require
client_tls_cert_file = {folder}/data/server.pem
client_tls_key_file = {folder}/data/server.pem
logfile = {folder}/pgbouncer.log
log_connections = 0
log_disconnections = 0
""")
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    started = subprocess.Popen(
        [str(program), "-q", str(settings)], cwd="/", **_account(), stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(6432)
        yield
    finally:
        started.terminate()
        started.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((ADDRESS, port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {ADDRESS}:{port}")


def _account() -> dict[str, Any]:
    """Return whom servers run as: they refuse to be root's."""
    return {"user": "postgres"} if os.geteuid() == 0 else {}


def _own(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, pwd.getpwnam("postgres").pw_uid, -1)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **_account())
