"""Make a record of what a server does, without secrets and names, that anyone can publish.

A record contains only values that this module has chosen, and messages of the server in which
names are replaced. Nothing else of the configuration, the token or this machine is in it.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg

import azpg
from azpg._clouds import AZURE_ROOTS, CLOUDS
from azpg._conninfo.resolve import PGBOUNCER_PORTS
from azpg._redact import redact

from .facts import Observations, check_facts
from .session import pool_mode, round_trip_ms, tracks_prepared_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from psycopg import Connection

    from azpg._conninfo.resolve import ResolvedConfig

    from .result import Step
    from .tls import Certificate, Handshake

FORMAT_VERSION = 1

_NOBODY = "azpg-record-nobody"
"""The role that the wrong-role probe asks for; no server has it."""

_ANNOUNCED_PARAMETERS = (
    *("server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle"),
    *("integer_datetimes", "standard_conforming_strings", "is_superuser"),
    *("in_hot_standby", "default_transaction_read_only", "scram_iterations"),
)
_ANNOUNCED_NAMES = ("application_name", "session_authorization", "search_path", "TimeZone")
"""Parameters of which a record tells only that they are announced."""

_SETTINGS_QUERY = """
select name, setting from pg_catalog.pg_settings where name in (
    'max_connections', 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count',
    'ssl_min_protocol_version', 'password_encryption') order by name
"""

_FUNCTIONS_QUERY = """
select proname, pg_catalog.pg_get_function_result(oid) from pg_catalog.pg_proc
where proname in ('pgaadauth_create_principal', 'pgaadauth_create_principal_with_oid',
    'pgaadauth_list_principals') order by proname
"""

_OTHER_ROLE_QUERY = """
select objname from pg_catalog.pg_seclabels
where provider = 'pgaadauth' and label not like '%type=group%'
    and objname <> pg_catalog.quote_ident(session_user) order by objname limit 1
"""

_PUBLIC_AUTHORITIES = ("DigiCert", "Microsoft", "azpg emulator")
"""Certificate authorities whose names a record contains; another one can name a company."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+#-]+@[\w.-]+")
_HOST = re.compile(r"\b(?:[a-z0-9_-]+\.)+[a-z][a-z-]+\b", re.IGNORECASE)
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|(?<![\w:])[0-9a-f]*:[0-9a-f:]*:[0-9a-f.:]*")
_SERVER_ERROR = re.compile(r"(?:FATAL|ERROR|PANIC): +([^\n]+)")


@dataclass
class Findings:
    """What the checks have found, of which a record is made."""

    options: Mapping[str, Any]
    """the arguments of `azpg.connect`"""
    config: ResolvedConfig | None = None
    ip_addresses: tuple[str, ...] = ()
    handshake: Handshake | None = None
    connection: Connection[Any] | None = None
    secrets: list[str] = field(default_factory=list)


class Aliases:
    """Replace names in texts, each name always by the same alias.

    >>> aliases = Aliases()
    >>> aliases.add("ROLE", "myapp")
    >>> aliases.replace('password authentication failed for user "myapp"')
    'password authentication failed for user "ROLE-1"'
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = list(secrets)
        self._aliases: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        public = {_host_of(cloud.scope) for cloud in CLOUDS} | {each.authority for each in CLOUDS}
        self._public_hosts = public | {"database.windows.net", "go.microsoft.com"}

    def add_secret(self, secret: str) -> None:
        """Mask a secret from now on."""
        self._secrets.append(secret)

    def add(self, kind: str, name: str) -> None:
        """Give a name an alias; a host under an Azure suffix keeps the suffix."""
        if kind == "SERVER":
            host = name.lower().removesuffix(".")
            suffix = _azure_suffix(host)
            self._alias("SERVER", host.removesuffix(suffix), suffix, whole=host)
        elif name:
            self._alias(kind, name)

    def replace(self, text: str) -> str:
        """Return a text without secrets and names, also without ones that were not added."""
        text = redact(text, *self._secrets)
        if self._aliases:
            # One pass, so that no alias is replaced in its turn; the longest name first.
            names = "|".join(map(re.escape, sorted(self._aliases, key=len, reverse=True)))
            text = re.sub(
                rf"(?<!\w)(?:{names})(?!\w)",
                lambda match: self._aliases[match[0].lower()],
                text,
                flags=re.IGNORECASE,
            )
        text = _UUID.sub(lambda match: self._alias("ID", match[0]), text)
        text = _EMAIL.sub(lambda match: self._alias("ROLE", match[0]), text)
        text = _ADDRESS.sub(self._replace_address, text)
        return _HOST.sub(self._replace_host, text)

    def _replace_address(self, match: re.Match[str]) -> str:
        try:
            ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        return self._alias("ADDRESS", match[0])

    def _replace_host(self, match: re.Match[str]) -> str:
        host = match[0].lower()
        if host in self._public_hosts or match[0] in self._aliases.values():
            return match[0]
        if match[0].startswith("SERVER-") or f".{host}" in _SUFFIXES:
            return match[0]
        self.add("SERVER", host)
        return self._aliases[host.removesuffix(".")]

    def _alias(self, kind: str, name: str, suffix: str = "", whole: str = "") -> str:
        key = name.lower()
        if key not in self._aliases:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._aliases[key] = f"{kind}-{self._counts[kind]}"
        if whole:
            self._aliases[whole] = self._aliases[key] + suffix
        return self._aliases[key]


def make_record(
    findings: Findings,
    steps: list[Step],
    *,
    versions: Mapping[str, str],
    probe_refusals: bool,
    expired_token: str = "",
) -> dict[str, Any]:
    """Return the record of a server, in types that JSON has.

    It runs queries that read, and connects again: as a role that does not exist, and to PgBouncer.

    Args:
        findings: What the doctor's checks have found.
        steps: The steps that the doctor has run.
        versions: The versions of azpg and its dependencies.
        probe_refusals: Whether to send a token of another audience as well.
        expired_token: An expired token to send as well; empty for none.
    """
    recorder = _Recorder(findings, expired_token)
    config = findings.config
    record: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "versions": dict(versions),
        "cloud": config.cloud.name if config and config.cloud in CLOUDS else "another",
        "authentication": config.auth if config else "",
        "steps": [
            {"name": step.name, "status": step.result.status, "seconds": round(step.seconds, 3)}
            for step in steps
        ],
        "addresses": sorted(
            {f"IPv{ipaddress.ip_address(ip).version}" for ip in findings.ip_addresses}
        ),
        "tls": recorder.tls(),
        "sign_in_messages": recorder.server_messages(steps),
        "server": recorder.part(recorder.server),
        "pgbouncer": recorder.part(recorder.pgbouncer),
        "refusals": recorder.part(lambda: recorder.refusals(probe_refusals=probe_refusals)),
    }
    record["emulator"] = any("azpg emulator" in each for each in record["tls"].get("issuers", ()))
    record["facts"] = check_facts(Observations.from_record(record))
    return record


class _Recorder:
    """The parts of a record."""

    def __init__(self, findings: Findings, expired_token: str) -> None:
        self._findings = findings
        self._expired_token = expired_token
        self._aliases = Aliases([*findings.secrets, expired_token])
        config = findings.config
        if config is not None:
            for host in (*config.params.get("host", "").split(","), *config.lookup_hosts):
                if host and not host.startswith(("/", "@")):
                    self._aliases.add("SERVER", host)
            self._aliases.add("ROLE", config.params.get("user", ""))
            self._aliases.add("DATABASE", _private(config.params.get("dbname", "")))
        if findings.connection is not None:
            self._aliases.add("ROLE", findings.connection.info.user)
            self._aliases.add("DATABASE", _private(findings.connection.info.dbname))

    def tls(self) -> dict[str, Any]:
        handshake = self._findings.handshake
        if handshake is None:
            return {}
        chain = handshake.chain
        return {
            "version": handshake.version,
            "cipher": handshake.cipher,
            "certificate_names": [self._certificate_name(name) for name in chain[0].names]
            if chain
            else [],
            "certificate_days": chain[0].days_left() if chain else None,
            "issuers": [_authority(each.issuer) for each in chain],
            "intermediates": [_certificate(each) for each in chain[1:]],
            "root": _certificate(handshake.root) if handshake.root else None,
            "root_pinned": handshake.root is not None and handshake.root.sha256 in AZURE_ROOTS,
            "verified": handshake.root is not None,
        }

    def _certificate_name(self, name: str) -> str:
        """Return a name of the server's certificate, of which only the form is public."""
        label, dot, domain = name.partition(".")
        if label == "*":
            return f"*.{domain}" if f".{domain}" in _SUFFIXES else "*.DOMAIN"
        if _azure_suffix(name):
            self._aliases.add("SERVER", name)
            return self._aliases.replace(name)
        if re.fullmatch(r"[0-9a-f]{8,}", label) and any(
            suffix.endswith(f".{domain}") for suffix in _SUFFIXES
        ):
            return f"HEX{dot}{domain}"
        return self._aliases.replace(name)

    def part(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a part that needs a session; it is empty without one."""
        if self._findings.connection is None:
            return {}
        try:
            return make()
        except psycopg.Error as error:
            return {"failed": type(error).__name__}

    def server_messages(self, steps: list[Step]) -> list[str]:
        """Return what the server answered if the sign-in failed."""
        problems = [step.result.problem for step in steps if step.name == "sign-in"]
        return [
            self._aliases.replace(message)
            for problem in problems
            for message in _SERVER_ERROR.findall(problem)
        ]

    def server(self) -> dict[str, Any]:
        connection = self._connection
        with connection.cursor() as cursor:
            settings = dict(cursor.execute(_SETTINGS_QUERY).fetchall())
            functions = dict(cursor.execute(_FUNCTIONS_QUERY).fetchall())
            row = cursor.execute(
                "select current_setting('server_version'),"
                " current_setting('azure.extensions', true) is not null"
            ).fetchone()
        version, has_allow_list = row or ("", False)
        return {
            "version": version,
            "settings": settings,
            "announced": _announced(connection),
            "has_azure_extensions": has_allow_list,
            "entra_functions": functions,
            "round_trip_ms": round(round_trip_ms(connection), 2),
        }

    def pgbouncer(self) -> dict[str, Any]:
        port = str(self._connection.info.port)
        port = port if port in PGBOUNCER_PORTS.values() else PGBOUNCER_PORTS.get(port, "")
        if not port:
            return {}
        options = self._options(pgbouncer=True, port=int(port))
        started = time.perf_counter()
        try:
            with (
                azpg.connect(**options, autocommit=True) as first,
                azpg.connect(**options, autocommit=True) as second,
            ):
                seconds = time.perf_counter() - started
                mode = pool_mode(first, second)
                tracks = None if mode == "statement" else tracks_prepared_statements(first)
                announced = _announced(first)
        except azpg.ConnectError as error:
            return {"reached": False} | self._refusal(error)
        return {
            "reached": True,
            "port": int(port),
            "seconds": round(seconds / 2, 3),
            "pool_mode": mode,
            "prepared_statements": tracks,
            "announced": announced,
            "console": self._pgbouncer_version(options),
        }

    def _pgbouncer_version(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return PgBouncer's version, or the message with which it refuses its console."""
        try:
            with azpg.connect(**{**options, "dbname": "pgbouncer"}, autocommit=True) as console:
                # The console has the simple query protocol only.
                result = console.pgconn.exec_(b"SHOW VERSION")
                value = result.get_value(0, 0) if result.ntuples else None
                shown = value.decode(errors="replace") if value else result.error_message.decode()
                return {"version": self._aliases.replace(shown)}
        except azpg.ConnectError as error:
            return self._refusal(error)

    def refusals(self, *, probe_refusals: bool) -> dict[str, Any]:
        """Return how the server refuses wrong roles and, if asked for, wrong tokens."""
        config = self._findings.config
        if config is None or config.auth != "entra":
            return {}
        ports = {"postgres": {}, "pgbouncer": {"pgbouncer": True}}
        if self._connection.info.port not in (5432, 7432):
            ports = {"given_port": {}}
        found = {
            f"wrong_role_{name}": self._probe(**changes, user=_NOBODY)
            for name, changes in ports.items()
        }
        if row := self._connection.execute(_OTHER_ROLE_QUERY).fetchone():
            other_role = _unquoted(row[0])
            self._aliases.add("ROLE", other_role)
            found["wrong_entra_role"] = self._probe(user=other_role)
        user = self._connection.info.user
        if self._expired_token:
            found["expired"] = self._probe(user=user, password=self._expired_token)
        # A token for Azure SQL allows less than one for the management of Azure
        scope = config.cloud.scope.replace("ossrdbms-aad.", "", 1)
        if probe_refusals and scope != config.cloud.scope:
            cloud = replace(config.cloud, name="another-audience", scope=scope)
            client_id = self._findings.options.get("client_id")
            try:
                token = azpg.EntraPassword(cloud=cloud, client_id=client_id)()
            except azpg.CredentialError:
                found["other_audience"] = {"kind": "no-token"}
            else:
                self._aliases.add_secret(token)
                found["other_audience"] = self._probe(user=user, password=token)
        return found

    def _probe(self, **changes: Any) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            azpg.connect(**self._options(**changes)).close()
        except azpg.ConnectError as error:
            return self._refusal(error) | {"seconds": round(time.perf_counter() - started, 3)}
        return {"accepted": True}

    def _refusal(self, error: azpg.ConnectError) -> dict[str, Any]:
        """Return an error's kind and the server's own message; azpg's text can name local files."""
        messages = _SERVER_ERROR.findall(str(error).removesuffix(f"\nHINT: {error.hint}"))
        # A host list has an error for each host
        return {"kind": error.kind, "messages": [self._aliases.replace(each) for each in messages]}

    def _options(self, **changes: Any) -> dict[str, Any]:
        return {**self._findings.options, "retry_timeout": 0.0, **changes}

    @property
    def _connection(self) -> Connection[Any]:
        connection = self._findings.connection
        assert connection is not None  # noqa: S101  # the callers have checked it
        return connection


_SUFFIXES = tuple(suffix for cloud in CLOUDS for suffix in cloud.suffixes)


def _azure_suffix(host: str) -> str:
    return next((suffix for suffix in _SUFFIXES if host.endswith(suffix)), "")


def _host_of(scope: str) -> str:
    return scope.removeprefix("https://").partition("/")[0]


def _unquoted(identifier: str) -> str:
    """Return a name that PostgreSQL has quoted as an identifier."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier


def _private(database: str) -> str:
    """Return the name of a database unless every server has it."""
    return "" if database == "postgres" else database


def _authority(name: str) -> str:
    return name if name.startswith(_PUBLIC_AUTHORITIES) else "another authority"


def _certificate(certificate: Certificate) -> dict[str, Any]:
    """Describe an authority's certificate; the fingerprint of a private one would identify it."""
    described: dict[str, Any] = {
        "subject": _authority(certificate.subject),
        "issuer": _authority(certificate.issuer),
        "days_left": certificate.days_left(),
    }
    if certificate.subject.startswith(("DigiCert", "Microsoft")):
        described["sha256"] = certificate.sha256
    return described


def _announced(connection: Connection[Any]) -> dict[str, str]:
    """Return the parameters that the server announces without being asked."""
    found = {name: connection.info.parameter_status(name) for name in _ANNOUNCED_PARAMETERS}
    named = {
        name: "…" for name in _ANNOUNCED_NAMES if connection.info.parameter_status(name) is not None
    }
    return {name: value for name, value in found.items() if value is not None} | named
