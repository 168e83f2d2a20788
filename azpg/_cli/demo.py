"""`azpg demo`: connect to an emulator of Azure, and print each step."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from azure.identity import ManagedIdentityCredential

import azpg
from azpg import _jwt
from azpg._clouds import AZURE_ROOTS
from azpg._redact import sanitized
from azpg._tls.roots import root_file
from azpg._tokens.token import MIN_REMAINING_SECONDS
from azpg.emulator import Emulator, EmulatorError

from .wrap import wrap, wrap_line

if TYPE_CHECKING:
    from collections.abc import Iterator

NEXT_STEPS = """\
Save this as app.py, and run it in the emulator with azpg emulator -- python app.py:"""

EXAMPLE = """
    import azpg

    with azpg.connect(server="myserver", dbname="postgres") as conn:
        print(conn.execute("select current_user, version()").fetchone())
"""

OWN_SERVER = """\
The same program connects to your own server: put its name into the program, and run az login (or
use a managed identity). Check the connection first with azpg doctor --server myserver."""


class _DemoError(Exception):
    """A step did not do what it should."""


def run_demo() -> int:
    """Run the demo; return the exit status, 0 if every step succeeded."""
    # The output is that of the steps; azpg and azure-identity would warn of what a step breaks
    logging.getLogger("azpg").setLevel(logging.ERROR)
    try:
        emulator = Emulator()
        _print("Starting an emulator of Azure: PostgreSQL and PgBouncer …")
        with emulator, _emulator_environment(emulator):
            _run_steps(emulator)
    except (azpg.ConnectError, azpg.ConfigError, EmulatorError, _DemoError) as error:
        print(f"✗ {error}", file=sys.stderr)  # noqa: T201
        return 1
    for text in ("", wrap(NEXT_STEPS), EXAMPLE.rstrip(), "", wrap(OWN_SERVER)):
        print(text, flush=True)  # noqa: T201
    return 0


def _run_steps(emulator: Emulator) -> None:
    _print(f"The emulator runs: {emulator.host}")
    _print(f"  at {emulator.hostaddr}, PostgreSQL {emulator.postgres_version}, loopback only")
    for note in emulator.notes:
        _print(f"  {note}")
    _roots_step()
    _token_step()
    _connect_step(emulator.port)
    if emulator.pgbouncer_port is None:
        _print("\nPgBouncer is not installed: its step is skipped")
    else:
        _pgbouncer_step(emulator.pgbouncer_port)
    _pool_step(emulator)
    _wrong_certificate_step(emulator)


def _roots_step() -> None:
    with _step("Root certificates, by fingerprint"):
        path = root_file(AZURE_ROOTS)
        _print(f"  {len(AZURE_ROOTS)} Azure root certificates in {path}")
        _print(f"  here PGSSLROOTCERT names the emulator's: {os.environ['PGSSLROOTCERT']}")


def _token_step() -> None:
    with _step("A Microsoft Entra token, from azure-identity over HTTP"):
        password = azpg.EntraPassword()
        claims = _jwt.claims(password())
        for name in ("aud", "oid", "xms_mirid"):
            _print(f"  {name:9} {sanitized(claims.get(name))}")
        _print(f"  the role is {password.user()!r}; seconds left: {_seconds_left(password):.0f}")


def _seconds_left(password: azpg.EntraPassword) -> float:
    return password.stats().seconds_to_expiry or 0.0


def _connect_step(port: int) -> None:
    with _step('azpg.connect(server="myserver")'), azpg.connect(server="myserver") as conn:
        _check_connection(conn, port)


def _pgbouncer_step(port: int) -> None:
    other_port = None if port == 6432 else port  # 6432 may be in use on this machine
    title = 'azpg.connect(server="myserver", pgbouncer=True)'
    with _step(title), azpg.connect(server="myserver", pgbouncer=True, port=other_port) as conn:
        _check_connection(conn, port)
        _check(conn.prepare_threshold is None, "prepared statements are off")


def _check_connection(conn: azpg.Connection[tuple[object, ...]], port: int) -> None:
    row = conn.execute("select current_user").fetchone()
    mode = conn.info.get_parameters()["sslmode"]
    _check(conn.pgconn.ssl_in_use and mode == "verify-full", "TLS is verified")
    _check(conn.info.port == port, f"port {port} is used")
    _print(f"  authenticated as {row and row[0]!r} on port {conn.info.port}, {mode}")


def _pool_step(emulator: Emulator) -> None:
    with _step("A pool that outlives its token"):
        # azpg uses each token for two seconds, since it hands out none that expires sooner
        emulator.token_lifetime = MIN_REMAINING_SECONDS + 2.0
        before = emulator.counts.tokens_issued
        credential = ManagedIdentityCredential()
        with azpg.create_pool(
            server="myserver", credential=credential, min_size=1, max_size=2
        ) as pool:
            with pool.connection() as conn:
                conn.execute("select 1")
            first = emulator.counts.tokens_issued - before
            _print("  one connection, one token; waiting until the token expires")
            time.sleep(2.5)
            with pool.connection(), pool.connection() as conn:
                conn.execute("select 1")
            second = emulator.counts.tokens_issued - before
        _check((first, second) == (1, 2), "the second connection acquired a new token")
        _print("  a second connection, a second token")
        emulator.token_lifetime = 3600.0


def _wrong_certificate_step(emulator: Emulator) -> None:
    with _step("A server with the wrong certificate"), emulator.fault(certificate="other-root"):
        try:
            azpg.connect(server="myserver").close()
        except azpg.TLSError as error:
            # Its hint is for a server on Azure, and would blame the demo's own environment
            _print(f"  azpg.{type(error).__name__}: {str(error).splitlines()[0]}")
            _print("  The connection was rejected before the token was sent")
        else:
            raise _DemoError("a certificate from an unknown root was accepted")


@contextmanager
def _step(title: str) -> Iterator[None]:
    _print(f"\n{title}")
    started = time.perf_counter()
    yield
    _print(f"  ✓ {1000 * (time.perf_counter() - started):.0f} ms")


def _check(is_true: bool, statement: str) -> None:
    if not is_true:
        raise _DemoError(f"it does not hold that {statement}")


def _print(line: str) -> None:
    newlines = line[: len(line) - len(line.lstrip("\n"))]
    print(newlines + wrap_line(line.lstrip("\n")), flush=True)  # noqa: T201


@contextmanager
def _emulator_environment(emulator: Emulator) -> Iterator[None]:
    before = dict(os.environ)
    for name in emulator.env_to_unset:
        os.environ.pop(name, None)
    os.environ.update(emulator.env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
