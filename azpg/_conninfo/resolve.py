"""The rules of a connection: which hosts, how they are verified, who authenticates. Pure.

The merged parameters come in (`sources`), a `ResolvedConfig` comes out: exactly what libpq will be
given, without any secret. The rules do not stop at the first problem: they return all of them.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from azpg import _libpq
from azpg._clouds import (
    AZURE_PUBLIC,
    AZURE_ROOTS,
    CLOUDS,
    FULL_NAMES,
    Cloud,
    cloud_by_name,
    cloud_for_host,
    is_dns_label,
    is_socket,
    no_scope_error,
    normalize_hostname,
    short_name_in,
    token_host_error,
)
from azpg._redact import quote

from .pgbouncer_settings import refused_setting_warnings, settings_in
from .ssl_option import SSLMODES
from .suggestions import host_error

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .sources import Parameters, Source

    Auth = Literal["entra", "token", "password", "callback", "none"]
    """how a connection authenticates; "token" is a Microsoft Entra token passed as a password"""

_PLAIN_VALUES = frozenset(SSLMODES)
PGBOUNCER_PORTS = {"5432": "6432", "7432": "8432"}
"""Azure's ports, each with the port of its PgBouncer (7432 and 8432: an elastic cluster).

Source: MicrosoftDocs/azure-databases-docs, articles/postgresql, connectivity/concepts-pgbouncer.md
and elastic-clusters/concepts-elastic-clusters.md (checked 2026-11-27).
"""

DEFAULTS = {
    "connect_timeout": "15",
    "fallback_application_name": "azpg",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
TCP_USER_TIMEOUT_MS = "60000"
"""A smaller value cuts the keepalive count short, and ends queries that outlive a pause of the
virtual machine."""


class OptionSummary(NamedTuple):
    """azpg's own options without objects and secrets: all that the rules need to know of them."""

    server: str | None = None
    cloud: Cloud | str | None = None
    pgbouncer: bool | None = None
    has_credential: bool = False
    has_client_id: bool = False
    password_kind: Literal["text", "empty", "callback"] | None = None
    """of the password argument"""
    password_source: Source | None = None
    """which other source has a password"""
    password_where: str = ""
    """the variable or the place of that source"""
    password_is_token: bool = False
    """the password is a Microsoft Entra token"""
    hosts_unreadable: bool = False
    """the conninfo, or the hosts in it, cannot be read: a missing host is not a second problem"""
    root_file_replaceable_by: Literal["owner", "anyone"] | None = None
    """who else could exchange the file of sslrootcert, as `_tls.roots.replaceable_by` returns"""
    emulator_host: str = ""
    """the host that the environment redirects to an emulator that is running; empty if none is"""
    problems: tuple[str, ...] = ()
    """what is wrong with the options and parameters themselves"""


class Platform(NamedTuple):
    """What the rules need to know about libpq and this machine."""

    keywords: Collection[str]
    """the keywords that the libpq in use has"""
    libpq_version: int
    """its major version"""
    defaults: Mapping[str, str]
    """keyword -> the value that libpq takes for "nothing given\""""
    is_linux: bool
    has_user_root_crt: bool
    """libpq's own ~/.postgresql/root.crt exists"""


class ResolvedConfig(NamedTuple):
    """What libpq is given, except for secrets, the user of a token, and the root file's path."""

    params: dict[str, str]
    defaults: dict[str, str]
    """the keywords that no source gives, with libpq's own defaults: libpq is given these too, so
    that an environment or service file that changes later has no effect"""
    sources: dict[str, Source]
    """keyword -> the source of its value, for the keywords that a source gives"""
    places: dict[str, str]
    """keyword -> where the user finds its value; empty for a keyword argument"""
    auth: Auth
    cloud: Cloud
    token_problems: tuple[str, ...]
    """what is wrong if the password, once it is known, is a Microsoft Entra token"""
    roots: frozenset[str] | Literal["certifi"] | None
    """the fingerprints to pin, or all roots of certifi; None if the caller's or libpq's own root
    file counts"""
    lookup_hosts: tuple[str, ...]
    """the hosts to connect to under the name of `server`, resolved for every attempt"""
    pgbouncer: bool
    warnings: tuple[str, ...]
    pgbouncer_warnings: tuple[str, ...]
    """about what Azure's PgBouncer refuses with its defaults, which the caller may have changed"""
    log_messages: tuple[str, ...]


def resolve(
    params: Parameters, summary: OptionSummary, platform: Platform
) -> tuple[ResolvedConfig, tuple[str, ...]]:
    """Apply the rules to the merged parameters.

    Returns:
        The configuration, and every problem with it; it is usable only if there is none.
    """
    resolver = _Resolver(params, summary, platform)
    return resolver.resolve(), tuple(resolver.problems)


def with_addresses(params: Mapping[str, str], addresses: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the parameters with the addresses that the `lookup_hosts` of a config resolved to.

    Each name and port is repeated for each of its addresses, as libpq wants its lists.
    """
    ports = params["port"].split(",")
    if len(ports) == 1:
        ports *= len(addresses)
    hosts = params["host"].split(",")
    entries = [
        (host, port, address)
        for host, port, found in zip(hosts, ports, addresses, strict=True)
        for address in found
    ]
    columns = (",".join(column) for column in zip(*entries, strict=True))
    return {**params, **dict(zip(("host", "port", "hostaddr"), columns, strict=True))}


class _Resolver:
    """Apply the rules once. `params` starts as the given values; each rule changes its part."""

    def __init__(self, given: Parameters, summary: OptionSummary, platform: Platform) -> None:
        self.given = given
        self.summary = summary
        self.platform = platform
        self.params = {keyword: each.value for keyword, each in given.items()}
        self.problems = list(summary.problems)
        self.warnings: list[str] = []
        self.log_messages: list[str] = []
        self.token_problems: list[str] = []

    def resolve(self) -> ResolvedConfig:
        self.check_values()
        auth = self.auth()
        requested = self.requested_cloud()
        clouds = CLOUDS if requested is None else (requested, *CLOUDS)
        names, lookup_hosts = self.resolve_hosts(clouds)
        azure_clouds = [cloud for name in names if (cloud := cloud_for_host(name, clouds))]
        cloud = requested or (azure_clouds[0] if azure_clouds else AZURE_PUBLIC)
        self.check_token_hosts(names, cloud, is_requested=requested is not None)
        uses_token = auth in ("entra", "token")
        if uses_token:
            self.problems += self.token_problems
        if azure_clouds or uses_token:
            roots = self.tls_for_azure(auth, [cloud, *azure_clouds])
        else:
            roots = self.tls_for_other(names)
        pgbouncer = self.resolve_ports(len(names))
        self.apply_defaults(auth)
        return ResolvedConfig(
            params=self.params,
            defaults=self.libpq_defaults(),
            sources={keyword: each.source for keyword, each in self.given.items()},
            places={
                keyword: "" if each.source == "keyword" else each.where
                for keyword, each in self.given.items()
            },
            auth=auth,
            cloud=cloud,
            token_problems=tuple(self.token_problems),
            roots=roots,
            lookup_hosts=lookup_hosts,
            pgbouncer=pgbouncer,
            warnings=tuple(self.warnings),
            pgbouncer_warnings=self.pgbouncer_warnings() if pgbouncer and azure_clouds else (),
            log_messages=tuple(self.log_messages),
        )

    def has(self, keyword: str) -> bool:
        return bool(self.params.get(keyword))

    def source_of(self, keyword: str) -> Source | None:
        return self.given[keyword].source if keyword in self.given else None

    def named(self, keyword: str) -> str:
        """Return how to name a parameter in a message: by its variable, or with its place."""
        given = self.given.get(keyword)
        return f"⟦{keyword}⟧" if given is None else given.named(keyword)

    def shown(self, keyword: str) -> str:
        """Return a parameter with its value, such as `PGPORT='x'`, for a message."""
        value = self.params[keyword]
        text = value if value in _PLAIN_VALUES else quote(value, r"[\w.,+-]{0,30}")
        if self.source_of(keyword) in (None, "keyword"):
            return f"⟦{keyword}={text}⟧"
        name, _, place = self.named(keyword).partition(" ")
        return f"{name}={text} {place}".rstrip()

    def check_values(self) -> None:
        mode = self.params.get("sslmode")
        if mode is not None and mode.lower() in SSLMODES:
            self.params["sslmode"] = mode.lower()
        elif mode is not None:
            self.problems.append(
                f"{self.shown('sslmode')} is not an sslmode: write one of {', '.join(SSLMODES)}"
                + _did_you_mean(mode, SSLMODES)
            )
        timeout = self.params.get("connect_timeout")
        if timeout is not None and not re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", timeout, re.ASCII):
            self.problems.append(f"{self.shown('connect_timeout')} is not a number of seconds")

    # Authentication

    def auth(self) -> Auth:
        summary = self.summary
        self.check_conflicts()
        if summary.has_credential or summary.has_client_id:
            return "entra"
        if summary.password_kind == "callback":
            return "callback"
        from_other_source = summary.password_kind is None and summary.password_source is not None
        if summary.password_kind == "text" or from_other_source:
            if not summary.password_is_token:
                return "password"
            self.warn_of_stored_token()
            return "token"
        if summary.password_kind == "empty" or self.uses_passfile():
            return "none"
        return "entra"

    def check_conflicts(self) -> None:
        summary = self.summary
        has_password = summary.password_kind is not None or summary.password_source == "conninfo"
        if summary.has_credential and has_password:
            self.problems.append(
                "⟦credential⟧ and ⟦password⟧ are both given: leave out ⟦password⟧ to use Microsoft "
                "Entra, or ⟦credential⟧ to authenticate as a PostgreSQL role"
            )
        if summary.has_client_id and summary.has_credential:
            self.problems.append(
                "⟦client_id⟧ chooses the identity of the default credential and has no effect with "
                "⟦credential⟧: pass the client id to the credential itself"
            )
        elif summary.has_client_id and has_password:
            self.problems.append(
                "⟦client_id⟧ is for Microsoft Entra and ⟦password⟧ for a PostgreSQL role: leave "
                "out one"
            )

    def warn_of_stored_token(self) -> None:
        """Warn of a token from a DSN or the environment: nobody renews it within the hour."""
        source = self.summary.password_source if self.summary.password_kind is None else None
        if source is not None:
            where = self.summary.password_where
            where = f"the {where}" if source == "conninfo" else where
            is_variable = source == "environment"
            self.warnings.append(
                f"the password came from {where} and is a Microsoft Entra token, which expires "
                f"within the hour: {'unset it' if is_variable else 'leave it out there'}, azpg "
                f"acquires tokens itself"
            )

    def uses_passfile(self) -> bool:
        return self.has("passfile") and self.source_of("passfile") != "environment"

    # Hosts

    def requested_cloud(self) -> Cloud | None:
        cloud = self.summary.cloud
        if not isinstance(cloud, str):
            return cloud
        found = cloud_by_name(cloud)
        if found is None:
            names = ", ".join(repr(known.name) for known in CLOUDS)
            self.problems.append(
                f"⟦cloud={quote(cloud)}⟧ is not a cloud: write one of {names}, or pass an "
                f"azpg.Cloud"
            )
        return found

    def resolve_hosts(self, clouds: Sequence[Cloud]) -> tuple[list[str], tuple[str, ...]]:
        """Set host and hostaddr; return the names to verify and the hosts to look up."""
        server = self.server_host(clouds)
        hosts = _split(self.params.get("host", ""))
        if server and self.source_of("host") == "environment":
            hosts = []
        addresses = _split(self.params.get("hostaddr", ""))
        if server and hosts and self.source_of("hostaddr") == "environment":
            addresses = []
        lookup_hosts: tuple[str, ...] = ()
        if server:
            if not addresses and any(host != server for host in hosts):
                lookup_hosts = tuple(hosts)
            names = [server] * max(1, len(addresses or lookup_hosts))
        else:
            # Under a cloud's suffix as in the certificate: lower case, no trailing dot
            names = [
                (normalize_hostname(host) or host) if cloud_for_host(host, clouds) else host
                for host in hosts
            ]
        self.check_hosts(names, addresses, lookup_hosts)
        self.set_places(names, addresses)
        self.warn_of_redirection(names, clouds)
        return names or [""] * len(addresses), lookup_hosts

    def set_places(self, names: Sequence[str], addresses: Sequence[str]) -> None:
        # A place that does not count is given as empty: libpq would look it up if it were absent
        for keyword, values in (("host", names), ("hostaddr", addresses)):
            if values or keyword in self.params:
                self.params[keyword] = ",".join(values)

    def server_host(self, clouds: Sequence[Cloud]) -> str | None:
        server = self.summary.server
        if server is None:
            return None
        if is_dns_label(server) and "_" not in server:
            suffix = clouds[0].suffixes[0]
            if suffix in FULL_NAMES:
                self.problems.append(
                    f"⟦server={server!r}⟧ is a short name, which hosts of the cloud "
                    f"{clouds[0].name!r} do not have: write the full name, "
                    f'⟦server="{FULL_NAMES[suffix]}"⟧'
                )
                return None
            return server.lower() + suffix
        if cloud_for_host(server, clouds):
            return normalize_hostname(server)
        if problem := host_error("server", server):
            self.problems.append(f"server {problem}")
            return None
        shown = quote(server, r"[\w.-]{1,253}")
        if shown == "…" or not server:
            self.problems.append('server is not a name: write ⟦server="myserver"⟧')
            return None
        self.problems.append(
            f"⟦server={shown}⟧ is not the name of an Azure server: write "
            f'⟦server="{short_name_in(server) or "myserver"}"⟧, or its full name. '
            f" If {shown} is a tunnel, a proxy or your own DNS name of the server, "
            f'write ⟦server="myserver", host="{server}"⟧. If it is not on Azure, write '
            f'⟦host="{server}"⟧ with ⟦password=⟧'
        )
        return None

    def check_hosts(
        self, names: Sequence[str], addresses: Sequence[str], lookup_hosts: Sequence[str]
    ) -> None:
        if names and addresses and len(names) != len(addresses):
            self.problems.append(
                f"host has {len(names)} entries and hostaddr {len(addresses)}: write one address "
                f"for each host"
            )
        if any(is_socket(host) or not host for host in lookup_hosts):
            self.problems.append(
                f"⟦host={','.join(lookup_hosts)!r}⟧ is not a name or an address: next to "
                f"server, host is what azpg connects to over TCP"
            )
        summary = self.summary
        if not (names or addresses or summary.server is not None or summary.hosts_unreadable):
            self.problems.append(
                'no host is given: write ⟦server="myserver"⟧ (or ⟦host="…"⟧), or set PGHOST'
            )
        if not addresses and not all(names):
            self.problems.append(
                f"⟦host={','.join(names)!r}⟧ has an empty entry, for which libpq takes its default "
                f"socket: write every host"
            )

    def warn_of_redirection(self, names: Sequence[str], clouds: Sequence[Cloud]) -> None:
        """Warn of variables that a test may have left, which lead an Azure host elsewhere."""
        variables = [
            variable
            for keyword, variable in (("hostaddr", "PGHOSTADDR"), ("sslrootcert", "PGSSLROOTCERT"))
            if self.has(keyword) and self.source_of(keyword) == "environment"
        ]
        expected = self.summary.emulator_host
        redirected = next(
            (name for name in names if cloud_for_host(name, clouds) and name != expected), None
        )
        if redirected and variables:
            verb, them = ("decide", "them") if len(variables) > 1 else ("decides", "it")
            self.warnings.append(
                f"{' and '.join(variables)} {verb} how {redirected} is reached and verified: unset "
                f"{them} unless you set {them} on purpose, as azpg's emulator does"
            )

    def check_token_hosts(self, names: Sequence[str], cloud: Cloud, *, is_requested: bool) -> None:
        """Record the hosts to which a token of the cloud must not be sent."""
        if not cloud.scope:
            self.token_problems.append(no_scope_error(cloud))
        for name in dict.fromkeys(names):
            if not name and self.summary.hosts_unreadable:
                continue  # the address of a host that is a problem itself
            if not _belongs_to(name, cloud, is_requested=is_requested):
                self.token_problems.append(token_host_error(name, cloud))

    # TLS

    def tls_for_azure(
        self, auth: Auth, clouds: Sequence[Cloud]
    ) -> frozenset[str] | Literal["certifi"] | None:
        self.check_encryption()
        self.disable_gss_encryption()
        if self.keeps_verify_ca(auth):
            self.allow_verify_ca()
        else:
            self.require_verify_full()
        self.set_protection("ssl_min_protocol_version", "TLSv1.2", "a connection to Azure")
        if not self.has("sslcert"):
            self.set_default("sslcertmode", "disable")
            if "sslcertmode" not in self.platform.keywords:
                self.params["sslcert"] = _libpq.NONEXISTENT_FILE
        if not self.has("sslrootcert"):
            return _roots_of(clouds)
        self.check_root_file()
        return None

    def check_encryption(self) -> None:
        """Refuse a connection without TLS."""
        if self.params.get("sslmode") == "disable":
            self.problems.append(
                f"{self.shown('sslmode')} turns off TLS, which Azure requires: leave it out"
            )
        if self.params.get("gssencmode") == "require":
            self.problems.append(
                f"{self.shown('gssencmode')} replaces TLS by GSS encryption, which Azure does not "
                f"have: leave it out"
            )

    def disable_gss_encryption(self) -> None:
        self.params.pop("gssencmode", None)
        self.set_default("gssencmode", "disable")

    def keeps_verify_ca(self, auth: Auth) -> bool:
        """Return whether sslmode=verify-ca counts: only in code, and never with a token."""
        mode, source = self.params.get("sslmode"), self.source_of("sslmode")
        return mode == "verify-ca" and source == "keyword" and auth not in ("entra", "token")

    def require_verify_full(self) -> None:
        if self.params.get("sslmode") not in (None, "verify-full"):
            self.log_messages.append(f"{self.shown('sslmode')} raised to verify-full")
        self.params["sslmode"] = "verify-full"

    def allow_verify_ca(self) -> None:
        self.token_problems.append(
            "⟦sslmode=verify-ca⟧ does not verify the server's name, and a Microsoft Entra token "
            "goes only to a verified server: leave out ⟦sslmode⟧"
        )
        self.warnings.append(
            "⟦sslmode=verify-ca⟧ accepts every server with a certificate from Azure's authorities, "
            "whatever its name"
        )
        # With SCRAM the password itself does not reach a server that does not know it
        self.set_protection("require_auth", "scram-sha-256", "⟦sslmode=verify-ca⟧")

    def check_root_file(self) -> None:
        """Refuse a root file that another user could exchange, or warn if only its owner can."""
        file, source = self.params["sslrootcert"], self.source_of("sslrootcert")
        name = self.named("sslrootcert")
        remedy = f"Unset {name}" if name.startswith("PG") else "Leave it out"
        other = self.summary.root_file_replaceable_by
        if other == "anyone":
            self.problems.append(
                f"{name}={file} belongs to another user, or is in another user's folder below a "
                f"folder that everyone may write to: that user could replace it and impersonate "
                f"the server. {remedy} for Azure's own roots, or copy it to a folder of yours"
            )
        elif other == "owner" and source in ("environment", "service file"):
            self.warnings.append(
                f"{name}={file} belongs to another user, who decides which servers are trusted: "
                f"{remedy.lower()} unless you trust that user"
            )

    def tls_for_other(self, names: Sequence[str]) -> frozenset[str] | None:
        if not (names and all(map(is_socket, names))):
            self.set_default("sslmode", "verify-full")
        # With a weaker sslmode a root file would turn libpq's "prefer" into plaintext
        if self.params.get("sslmode") != "verify-full":
            return None
        has_root_file = self.has("sslrootcert") or self.platform.has_user_root_crt
        return None if has_root_file else AZURE_ROOTS

    # Ports

    def resolve_ports(self, host_count: int) -> bool:
        """Set the port; return whether the connection goes to PgBouncer."""
        ports = [port.strip() or port or "5432" for port in self.params.get("port", "").split(",")]
        source = self.source_of("port")
        for port in ports:
            if not _is_port(port.lstrip("0")):
                self.problems.append(
                    f"{self.shown('port')} is not a port: write a number from 1 to 65535"
                )
        if len(ports) not in (1, host_count):
            self.problems.append(
                f"port has {len(ports)} entries for {host_count} hosts: write one port, or one for "
                f"each host"
            )
        requested = self.summary.pgbouncer
        if requested and not (self.has("port") and source == "keyword"):
            ports = [PGBOUNCER_PORTS.get(port, port) for port in ports]
            if not all(map(_is_pgbouncer_port, ports)):
                self.problems.append(
                    f"⟦pgbouncer=True⟧ means port 6432, but {self.shown('port')} is "
                    f"given: leave it out there, or pass ⟦port=⟧ by itself"
                )
        self.params["port"] = ",".join(ports)
        return any(map(_is_pgbouncer_port, ports)) if requested is None else requested

    def pgbouncer_warnings(self) -> tuple[str, ...]:
        settings = settings_in(self.params.get("options", ""))
        return tuple(refused_setting_warnings(settings, self.named("options")))

    # Defaults

    def apply_defaults(self, auth: Auth) -> None:
        self.check_key_log()
        if auth in ("entra", "token"):
            self.params["dbname"] = self.params.get("dbname") or "postgres"
            if not self.has("user"):
                self.params.pop("user", None)
        if auth == "none" and not self.uses_passfile():
            self.params["passfile"] = _libpq.NONEXISTENT_FILE
        for keyword, value in DEFAULTS.items():
            self.set_default(keyword, value)
        if self.platform.is_linux:
            self.set_default("tcp_user_timeout", TCP_USER_TIMEOUT_MS)

    def check_key_log(self) -> None:
        """Empty sslkeylogfile, to which libpq writes the TLS keys, unless code asks for it."""
        source = self.source_of("sslkeylogfile")
        if source is not None and source != "keyword":
            # Given as empty: if it were absent, libpq could read it from PGSERVICE's file again
            self.params["sslkeylogfile"] = ""
            self.warnings.append(
                f"{self.named('sslkeylogfile')} is ignored: azpg takes sslkeylogfile only as a "
                f"keyword in code"
            )

    def libpq_defaults(self) -> dict[str, str]:
        """Return libpq's own defaults for the keywords that nothing was given for."""
        # An empty application_name would hide the fallback
        name = self.params.get("fallback_application_name", "")
        defaults = {**self.platform.defaults, "application_name": name}
        return {keyword: v for keyword, v in defaults.items() if keyword not in self.params}

    def set_protection(self, keyword: str, value: str, purpose: str) -> None:
        """Set a keyword that protects the connection; an older libpq would go without it."""
        if keyword in self.platform.keywords:
            self.params.setdefault(keyword, value)
        else:
            self.problems.append(
                f"{purpose} needs {keyword}, which libpq has since version "
                f"{_libpq.SINCE_VERSION[keyword]}, and this is libpq "
                f"{self.platform.libpq_version}: {_libpq.INSTALL}"
            )

    def set_default(self, keyword: str, value: str) -> None:
        if keyword in self.platform.keywords:
            self.params.setdefault(keyword, value)


def _belongs_to(host: str, cloud: Cloud, *, is_requested: bool) -> bool:
    """Return whether a host belongs to a cloud.

    Two clouds may share a suffix. Its hosts belong to the first one, unless the caller requested
    the other one.
    """
    return cloud.covers(host) if is_requested else cloud_for_host(host) is cloud


def _roots_of(clouds: Sequence[Cloud]) -> frozenset[str] | Literal["certifi"]:
    """Return the first pins of some clouds: a cloud without pins must not loosen the others'."""
    return next((cloud.roots for cloud in clouds if cloud.roots is not None), "certifi")


def _split(value: str) -> list[str]:
    return value.split(",") if value else []


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65536


def _is_pgbouncer_port(port: str) -> bool:
    return port in PGBOUNCER_PORTS.values()


def _did_you_mean(value: str, choices: Collection[str]) -> str:
    close = difflib.get_close_matches(value.lower(), choices, n=1)
    return f": did you mean {close[0]!r}?" if close else ""
