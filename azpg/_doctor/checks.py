"""The checks of `azpg doctor`, in the order in which a connection is established."""

from __future__ import annotations

import os
import re
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg.pq import ConnStatus

import azpg
from azpg import _jwt
from azpg._clouds import AZURE_PUBLIC, AZURE_ROOTS, cloud_by_name, has_assumed_scope
from azpg._connect import ConnectRequest
from azpg._conninfo.options import ConnectOptions
from azpg._conninfo.resolve import PGBOUNCER_PORTS
from azpg._conninfo.sources import merge
from azpg._diagnosis.classify import classify
from azpg._diagnosis.hints import HintContext, hint_token_owner
from azpg._libpq import libpq_info
from azpg._pgbouncer import announcement
from azpg._redact import redact
from azpg._spelling import as_flags, spelled, used
from azpg._tls.roots import certificates, root_file, user_root_crt
from azpg._tokens.cache import read_clocks
from azpg._tokens.token import token_owner

from . import network
from .chain import find_cause
from .record import Findings
from .result import CheckResult, SourcedValue, Step
from .session import pool_mode, round_trip_ms, session_details, tracks_prepared_statements
from .tls import Handshake, NoTLSError, inspect_tls, read_certificates
from .token import (
    CLOCK_HINT,
    MAX_CLOCK_SKEW_SECONDS,
    check_token,
    credential_variables,
    token_details,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from azpg._clouds import Cloud
    from azpg._conninfo.resolve import ResolvedConfig
    from azpg._conninfo.sources import Parameters

    from .chain import Cause
    from .network import Address
    from .result import Detail, Status

PGBOUNCER_TIMEOUT_SECONDS = 3.0
"""The longest wait for PgBouncer's port, if the connection does not use it."""


def run_checks(
    options: Mapping[str, Any], use_findings: Callable[[Findings], None] | None = None
) -> Iterator[str | Step]:
    """Run every check for the arguments of `azpg.connect`.

    A check that fails does not end the run: the later ones run as far as they can.

    Args:
        options: The arguments of `azpg.connect`.
        use_findings: Called after the last check, while the connection is still open.

    Yields:
        The name of each step before its check runs, and the `Step` after it has.
    """
    checks = _Checks(options)
    try:
        for name, check in checks.steps.items():
            yield name
            started = time.perf_counter()
            result = checks.run_check(check)
            yield Step(name, time.perf_counter() - started, result)
        if use_findings is not None:
            use_findings(checks.findings())
    finally:
        checks.close()


class _Skipped(Exception):  # noqa: N818  # not an error
    """The check does not run; the message is the reason."""


class _Checks:
    """The checks, and what the earlier ones found for the later ones."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self.steps: dict[str, Callable[[], CheckResult]] = {
            "configuration": self.configuration,
            "name": self.name,
            "TCP": self.tcp,
            "TLS": self.tls,
            "identity": self.identity,
            "sign-in": self.sign_in,
            "PgBouncer": self.pgbouncer,
            "speed": self.speed,
        }
        self._config: ResolvedConfig | None = None
        self._entra: azpg.EntraPassword | None = None
        self._root_file = ""
        self._secrets: list[str] = []
        self._addresses: list[Address] = []
        self._handshake: Handshake | None = None
        self._tls_hint = ""
        self._reached: Address | None = None
        """the first address that answers"""
        self._blocker = ""
        """why no connection can be tried; empty if it can"""
        self._conn: azpg.Connection[Any] | None = None
        self._connect_ms = 0.0

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def findings(self) -> Findings:
        """Return what the checks have found, for a record."""
        return Findings(
            self.options,
            self._config,
            tuple(address.ip for address in self._addresses),
            self._handshake,
            self._conn,
            self._secrets,
        )

    def run_check(self, check: Callable[[], CheckResult]) -> CheckResult:
        """Run one check and return its result, with secrets masked; it raises nothing."""
        with used(as_flags):
            return self._run_check(check)

    def _run_check(self, check: Callable[[], CheckResult]) -> CheckResult:
        try:
            result = check()
        except _Skipped as reason:
            result = CheckResult({}, "skipped", str(reason))
        except azpg.ConnectError as error:
            result = self._error_result(error, {})
        except Exception as error:  # noqa: BLE001  # the other checks still run
            result = CheckResult({}, "failed", self._redact(error) or type(error).__name__)
        return replace(
            result,
            details={name: self._redact_detail(value) for name, value in result.details.items()},
            problem=self._redact(result.problem),
            hint=redact(spelled(result.hint)),
        )

    # Results of failures

    def _error_result(
        self, error: azpg.ConnectError, details: dict[str, Detail], status: Status = "failed"
    ) -> CheckResult:
        message = str(error).removesuffix(f"\nHINT: {error.hint}")
        # The TCP check has already reported the address
        message = re.sub(
            r"\A(connection failed: )?connection to server at [^\n]*? failed: ", "", message
        )
        return CheckResult(details, status, self._redact(message), error.hint)

    def _token_error_result(
        self, error: azpg.ConnectError, details: dict[str, Detail]
    ) -> CheckResult:
        result = self._error_result(error, details)
        # azure-identity's message has a line for each credential, and follows on lines of its own
        if "\n" in result.problem:
            result = replace(result, problem=result.problem.replace(": ", "\n", 1))
        return result

    def _message_result(
        self, message: str, address: Address, details: dict[str, Detail]
    ) -> CheckResult:
        """Return the result of a failure, with the hint that `connect` would have."""
        config = self.config
        context = HintContext(
            host=address.server_name or address.ip,
            port=str(address.port),
            user=config.params.get("user", ""),
            entra=config.auth == "entra",
            scope=config.cloud.scope,
            assumed_scope_of=config.cloud.name if has_assumed_scope(config.cloud) else "",
            root_file=config.params.get("sslrootcert", ""),
            server_address=address.ip,
            hostaddr=config.params.get("hostaddr", ""),
            # The TCP check has ruled a firewall out
            reached=ConnStatus.MADE if address == self._reached else None,
        )
        hint = classify(message, context).hint
        return CheckResult(details, "failed", self._redact(message), hint)

    def _redact(self, text: object) -> str:
        return redact(str(text), *self._secrets)

    def _redact_detail(self, detail: Detail) -> Detail:
        if isinstance(detail, SourcedValue):
            return SourcedValue(self._redact(detail.value), self._redact(detail.source))
        if isinstance(detail, list):
            return [self._redact(each) for each in detail]
        return self._redact(detail) if isinstance(detail, str) else detail

    # The checks

    @property
    def config(self) -> ResolvedConfig:
        if self._config is None:
            raise _Skipped("fix the configuration first")
        return self._config

    def configuration(self) -> CheckResult:
        options = ConnectOptions.from_mapping(self.options)
        given, _ = merge(options, os.environ)
        secret_names = libpq_info().secrets & given.keys()
        self._secrets = [given[name].value for name in secret_names]
        details: dict[str, Detail] = {
            name: SourcedValue("…", _source(name, given)) for name in secret_names
        }
        try:
            request = ConnectRequest(options, is_async=False)
        except azpg.ConfigError as error:
            self._blocker = "fix the configuration first"
            return CheckResult(details, "failed", self._redact(error))
        self._config = config = request.config
        self._entra = request.entra
        params = dict(config.params)
        if config.roots is not None:
            params["sslrootcert"] = root_file(config.roots)
        # Without sslrootcert libpq reads the user's own file
        self._root_file = params.get("sslrootcert") or user_root_crt()
        for name in sorted(params):
            source = _source(name, given)
            if name == "host" and self.options.get("server"):
                source = "--server"
            elif name in given and given[name].value != params[name]:
                source = f"azpg; {source} said {given[name].value}"
            details[name] = SourcedValue(params[name], source)
        details["sign_in"] = _AUTH_LABELS[config.auth]
        details["cloud"] = config.cloud.name
        details["pgbouncer"] = config.pgbouncer
        return CheckResult(
            details, "warning" if config.warnings else "ok", "\n".join(config.warnings)
        )

    def name(self) -> CheckResult:
        addresses: list[str] = []
        names: list[str] = []
        failures: list[str] = []
        targets = list(network.targets(self.config.params, self.config.lookup_hosts))
        for target in targets:
            try:
                canonical_name, ips = network.resolve(target.lookup)
            except OSError as error:
                failures.append(f"failed to resolve host {target.lookup!r}: {error.strerror}")
                continue
            self._addresses += [network.Address(target.server_name, ip, target.port) for ip in ips]
            addresses += [f"{ip} ({network.address_kind(ip)})" for ip in ips]
            if target.lookup not in ips:
                names.append(" → ".join(dict.fromkeys((target.lookup, canonical_name))))
        details: dict[str, Detail] = {"name": names} if names else {}
        if addresses:
            details["addresses"] = addresses
        if not failures and not addresses:
            raise _Skipped("a Unix socket has no host name")
        if failures and not self._addresses:
            self._blocker = "no address"
            address = network.Address(*targets[0])
            return self._message_result("\n".join(failures), address, details)
        return CheckResult(details, "warning" if failures else "ok", "\n".join(failures))

    def tcp(self) -> CheckResult:
        timeout = self._timeout()
        if not self._addresses:
            raise _Skipped(self._blocker or "a Unix socket has no port")
        failures: list[str] = []
        for address in self._addresses:
            try:
                own_address = network.tcp_connect(address, timeout)
            except OSError as error:
                failures.append(f"{address}: {error.strerror or error}")
                continue
            self._reached = address
            details: dict[str, Detail] = {"address": str(address), "from": own_address}
            return CheckResult(details, "warning" if failures else "ok", "\n".join(failures))
        self._blocker = "no server answers on the port"
        return self._message_result("\n".join(failures), self._addresses[0], {})

    def _timeout(self) -> float:
        seconds = float(self.config.params.get("connect_timeout") or 0)
        return max(seconds, 2.0) if seconds > 0 else 15.0

    def tls(self) -> CheckResult:
        params = self.config.params
        mode = params.get("sslmode", "prefer")
        if self._reached is None:
            raise _Skipped(self._blocker or "a Unix socket has no TLS")
        if mode == "disable":
            raise _Skipped("sslmode=disable")
        address = self._reached
        try:
            handshake = inspect_tls(
                (address.ip, address.port),
                address.server_name,
                roots=self._root_file if mode in {"verify-full", "verify-ca"} else None,
                check_name=mode == "verify-full",
                direct=params.get("sslnegotiation") == "direct",
                timeout=self._timeout(),
            )
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return self._message_result("SSL error: unexpected eof while reading", address, {})
        except (NoTLSError, OSError) as error:
            return self._message_result(str(error), address, {})
        self._handshake = handshake
        details = _handshake_details(handshake)
        if handshake.has_unknown_issuer and (cause := self._chain_cause(handshake, address)):
            problem = f"{handshake.problem}: {cause.problem}"
            details["cause"] = cause.name
            self._tls_hint = cause.hint
            return CheckResult(details, "failed", self._redact(problem), cause.hint)
        if handshake.problem:
            result = self._message_result(handshake.problem, address, details)
            self._tls_hint = result.hint
            return result
        if handshake.root is None:
            return CheckResult(details, "warning", f"sslmode={mode} accepts any certificate")
        return CheckResult(details)

    def _chain_cause(self, handshake: Handshake, address: Address) -> Cause | None:
        config = self.config
        return find_cause(
            handshake.chain,
            AZURE_ROOTS if config.cloud.roots is None else config.cloud.roots,
            address=(address.ip, address.port),
            server_name=address.server_name,
            own_file=self._root_file if config.roots is None else "",
            direct=config.params.get("sslnegotiation") == "direct",
            timeout=self._timeout(),
        )

    def identity(self) -> CheckResult:
        if self._config is not None and self._config.auth != "entra":
            raise _Skipped(f"{_AUTH_LABELS[self._config.auth]}: no token is needed")
        cloud = self._config.cloud if self._config else _requested_cloud(self.options)
        client_id = self.options.get("client_id")
        password = self._entra or azpg.EntraPassword(cloud=cloud, client_id=client_id)
        details: dict[str, Detail] = {"environment": list(credential_variables(os.environ))}
        try:
            token = password.token()
        except azpg.CredentialError as error:
            self._blocker = self._blocker or "no token"
            return self._token_error_result(error, details)
        self._secrets.append(token.text)
        claims = _jwt.claims(token.text)
        details["credential"] = password.credential_name()
        details |= token_details(claims)
        details["characters"] = len(token.text)
        details["minutes_left"] = int(token.remaining(read_clocks()) / 60)
        result = check_token(claims, cloud, read_clocks().wall)
        if result.status == "ok":
            result = self._check_user(claims)
        return replace(result, details=details)

    def _check_user(self, claims: _jwt.Claims) -> CheckResult:
        """Compare the token's name with the user, which may be a group that it is a member of."""
        user = "" if self._config is None else self._config.params.get("user", "")
        owner = token_owner(claims)
        if self._config is None or not user or owner.role in ("", user):
            return CheckResult()
        hint = hint_token_owner(
            HintContext(
                user=user,
                token_role=owner.role,
                token_kind=owner.kind,
                places=self._config.places,
            )
        )
        return CheckResult(
            status="warning",
            problem=f"the user is {user!r}, and the token is for {owner.role!r}",
            hint=f"{hint}It is right if {user!r} is a group of which the token's identity is a "
            f"member",
        )

    def sign_in(self) -> CheckResult:
        if self._blocker:
            raise _Skipped(self._blocker)
        started = time.perf_counter()
        try:
            self._conn = conn = azpg.connect(**self._connect_options(), autocommit=True)
        except azpg.TLSError as error:
            result = self._error_result(error, {})
            # The TLS check knows more about the cause
            return replace(result, hint=self._tls_hint or result.hint)
        self._connect_ms = 1000 * (time.perf_counter() - started)
        details = session_details(conn)
        ahead = float(str(details["clock_ahead_seconds"]))
        if abs(ahead) > MAX_CLOCK_SKEW_SECONDS:
            return CheckResult(
                details,
                "warning",
                f"the server's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}",
                f"{CLOCK_HINT}: the server checks tokens with its own",
            )
        return CheckResult(details)

    def _connect_options(self, **changes: object) -> dict[str, Any]:
        return {**self.options, "retry_timeout": 0.0, **changes}

    def pgbouncer(self) -> CheckResult:
        conn = self._open_connection()
        if self.config.pgbouncer or announcement(conn.pgconn) is not None:
            return self._pgbouncer_result(conn, conn.info.port, self._connect_options())
        port = PGBOUNCER_PORTS.get(str(conn.info.port))
        if port is None or self._reached is None:
            raise _Skipped(f"its port is unknown for port {conn.info.port}")
        address = self._reached._replace(port=int(port))
        try:
            network.tcp_connect(address, min(self._timeout(), PGBOUNCER_TIMEOUT_SECONDS))
        except OSError as error:
            return CheckResult(
                {},
                "skipped",
                f"not on port {port} ({error.strerror or error})",
                "to use it, set the server parameter pgbouncer.enabled (not in the Burstable tier)",
            )
        options = self._connect_options(pgbouncer=True, port=port)
        try:
            with azpg.connect(**options, autocommit=True) as pooled:
                return self._pgbouncer_result(pooled, int(port), options)
        except azpg.ConnectError as error:
            return self._error_result(error, {"port": int(port)}, "warning")

    def _pgbouncer_result(
        self, conn: azpg.Connection[Any], port: int, options: Mapping[str, Any]
    ) -> CheckResult:
        announced = announcement(conn.pgconn)
        if announced is not None and announced.max_prepared_statements is not None:
            return CheckResult(
                {
                    "port": port,
                    "version": announced.version,
                    "pool_mode": announced.pool_mode,
                    "prepared_statements": announced.max_prepared_statements > 0,
                }
            )
        with azpg.connect(**options, autocommit=True) as second:
            mode = pool_mode(conn, second)
        details: dict[str, Detail] = {"port": port, "pool_mode": mode}
        if mode != "statement":
            details["prepared_statements"] = tracks_prepared_statements(conn)
        return CheckResult(details)

    def speed(self) -> CheckResult:
        round_trip = round_trip_ms(self._open_connection())
        # A clock may be too coarse for a fast network
        count = round(self._connect_ms / round_trip) if round_trip else 0
        details: dict[str, Detail] = {
            "round_trip_ms": round(round_trip, 2),
            "connect_ms": round(self._connect_ms, 1),
        }
        if count > 1:
            details["a_connect_takes"] = f"as long as {count} round trips"
        return CheckResult(details)

    def _open_connection(self) -> azpg.Connection[Any]:
        if self._conn is None:
            raise _Skipped("not authenticated")
        return self._conn


_AUTH_LABELS = {
    "entra": "Microsoft Entra",
    "token": "a Microsoft Entra token given as the password",
    "password": "password",
    "callback": "password",
    "none": "no password",
}


def _handshake_details(handshake: Handshake) -> dict[str, Detail]:
    details: dict[str, Detail] = {"version": handshake.version, "cipher": handshake.cipher}
    if handshake.chain:
        server, last = handshake.chain[0], handshake.chain[-1]
        details["names"] = list(server.names or [server.subject])
        details["days_left"] = server.days_left()
        details["chain"] = [*(each.subject for each in handshake.chain), last.issuer]
    if handshake.root is not None:
        details["root"] = handshake.root.subject
        details["root_sha256"] = handshake.root.sha256
        details["root_pinned"] = handshake.root.sha256 in AZURE_ROOTS
        details["root_days_left"] = handshake.root.days_left()
    roots = certificates(AZURE_ROOTS).values()
    if missing := [root.der for root in roots if root.source != "certifi"]:
        details["certifi_lacks"] = [each.subject for each in read_certificates(missing)]
    return details


def _source(name: str, given: Parameters) -> str:
    """Return the source of a parameter as the user wrote it; "azpg" for azpg's own defaults."""
    if name not in given:
        return "azpg"
    source = given[name].source
    if source == "environment":
        return libpq_info().variables[name]
    return f"--{name}" if source == "keyword" else source


def _requested_cloud(options: Mapping[str, Any]) -> Cloud:
    return cloud_by_name(options.get("cloud", "")) or AZURE_PUBLIC
