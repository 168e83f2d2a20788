"""The rules of a connection: where it may go, how it is verified, who signs in. Pure.

What was said goes in (`_sources`), a `Plan` comes out: exactly what libpq will be handed, with no
secret in it. Nothing is refused one by one: `judge` collects every problem of a call.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from azpg import _libpq
from azpg._clouds import (
    AZURE_PUBLIC,
    AZURE_ROOTS,
    CLOUDS,
    Cloud,
    cloud_by_name,
    cloud_for_host,
    is_dns_label,
    is_socket,
    normalize_hostname,
    token_host_error,
)
from azpg._record import Record
from azpg._redact import quote

from .suggestions import misread_host, placeholder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Literal

    from .sources import By, Merged

    SignIn = Literal["entra", "token", "password", "callback", "none"]
    """"token" is a Microsoft Entra token that was given as a password"""

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PGBOUNCER_PORTS = {"5432": "6432", "7432": "8432"}
"""Azure's ports with the port of the PgBouncer before each (7432: an elastic cluster)."""

FILLED_IN = {
    "connect_timeout": "15",
    "fallback_application_name": "azpg",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
TCP_USER_TIMEOUT = "60000"
"""Milliseconds. A smaller one cuts the keepalive count short and kills queries that outlive a
pause of the virtual machine."""


class Wishes(Record):
    """azpg's own options of one call; of secrets only what kind they are."""

    server: str | None = None
    cloud: Cloud | str | None = None
    pgbouncer: bool | None = None
    credential: bool = False
    client_id: bool = False
    password: Literal["text", "empty", "callback"] | None = None
    """the password keyword"""
    password_by: By | None = None
    """who else gave a password"""
    token: bool = False
    """the password is a Microsoft Entra token"""
    unread: bool = False
    """the conninfo could not be read"""
    replaceable: Literal["owner", "anyone"] | None = None
    """who else could exchange the file of sslrootcert, as `_tls.roots.replaceable_by` returns"""
    wrong: tuple[str, ...] = ()
    """problems already seen in the objects themselves"""


class Machine(Record):
    """What the rules need to know of the machine."""

    keywords: Collection[str]
    """what the libpq in use supports"""
    libpq: int
    """its major version"""
    defaults: Mapping[str, str]
    """keyword -> the value that libpq takes for "nothing given\""""
    linux: bool
    root_crt: bool
    """libpq's own ~/.postgresql/root.crt exists"""


class Plan(Record):
    """What libpq is handed, but for the secret, the user of a token and the bundle's path."""

    params: dict[str, str]
    defaults: dict[str, str]
    """the keywords that nothing was given for, with libpq's own defaults: given to libpq too, they
    keep out what the environment or a service file says by then"""
    sign_in: SignIn
    cloud: Cloud
    token_problems: tuple[str, ...]
    """what would be wrong if the password, once it is known, is a Microsoft Entra token"""
    roots: frozenset[str] | None
    """the pinned roots; None where the caller's, or libpq's own, count"""
    reach: tuple[str, ...]
    """hosts to be looked up on each attempt, reached under the name of `server`"""
    pgbouncer: bool
    warnings: tuple[str, ...]
    decisions: tuple[str, ...]


def judge(said: Merged, wishes: Wishes, machine: Machine) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan for what was said, and every problem with it."""
    judgement = _Judgement(said, wishes, machine)
    return judgement.plan(), tuple(judgement.problems)


def reached(params: Mapping[str, str], addresses: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the parameters with the addresses that the places of a plan's `reach` were found at.

    Each name and port stands once for each of its addresses, as libpq wants its lists.
    """
    ports = params["port"].split(",")
    if len(ports) == 1:
        ports *= len(addresses)
    found = list(zip(params["host"].split(","), ports, addresses, strict=True))
    spread = [(name, port, each) for name, port, many in found for each in many]
    columns = (",".join(column) for column in zip(*spread, strict=True))
    return {**params, **dict(zip(("host", "port", "hostaddr"), columns, strict=True))}


class _Judgement:
    """One reading of the rules: `params` begins as what was said, each rule changes its part."""

    def __init__(self, said: Merged, wishes: Wishes, machine: Machine) -> None:
        self.said, self.wishes, self.machine = said, wishes, machine
        self.params = {keyword: each.value for keyword, each in said.items()}
        self.problems = list(wishes.wrong)
        self.warnings: list[str] = []
        self.decisions: list[str] = []
        self.token_problems: list[str] = []

    def plan(self) -> Plan:
        self.check_values()
        sign_in = self.sign_in()
        wished = self.wished_cloud()
        clouds = CLOUDS if wished is None else (wished, *CLOUDS)
        names, reach = self.places(clouds)
        azure = [cloud for name in names if (cloud := cloud_for_host(name, clouds))]
        cloud = wished or (azure[0] if azure else AZURE_PUBLIC)
        # Of two clouds that share a suffix the first is meant, unless the caller named one.
        apart = () if wished else [name for name in names if cloud_for_host(name) is not cloud]
        outside = [name for name in names if name in apart or not cloud.covers(name)]
        self.token_problems += [token_host_error(name, cloud) for name in dict.fromkeys(outside)]
        if sign_in in ("entra", "token"):
            self.problems += self.token_problems
        if azure or sign_in in ("entra", "token"):
            roots = self.azure_tls(sign_in, cloud)
        else:
            roots = self.other_tls(names)
        pgbouncer = self.ports(len(names))
        self.fill_in(sign_in)
        return Plan(
            params=self.params,
            defaults=self.unset(),
            sign_in=sign_in,
            token_problems=tuple(self.token_problems),
            cloud=cloud,
            roots=roots,
            reach=reach,
            pgbouncer=pgbouncer,
            warnings=tuple(self.warnings),
            decisions=tuple(self.decisions),
        )

    def given(self, keyword: str) -> bool:
        return bool(self.params.get(keyword))

    def by(self, keyword: str) -> By | None:
        return self.said[keyword].by if keyword in self.said else None

    def check_values(self) -> None:
        for word, said in self.said.items():
            if left := placeholder(said.value):
                what = f"{word} ({said.by})"
                self.problems.append(
                    f"{what} still holds the portal's placeholder {left}: write your own"
                )
        mode = self.params.get("sslmode")
        if mode is not None and mode not in SSLMODES:
            self.problems.append(
                f"sslmode={quote(mode)} ({self.by('sslmode')}) is none of "
                f"{', '.join(SSLMODES)}" + _close(mode, SSLMODES)
            )
        timeout = self.params.get("connect_timeout")
        if timeout is not None and not re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", timeout, re.ASCII):
            self.problems.append(f"connect_timeout={quote(timeout)} is no number of seconds")

    # Who signs in

    def sign_in(self) -> SignIn:
        wishes = self.wishes
        given = wishes.password is not None or wishes.password_by == "conninfo"
        if wishes.credential and given:
            self.problems.append(
                "credential and password are both given: leave out password to sign in with "
                "Microsoft Entra, or credential to sign in as a PostgreSQL role"
            )
        if wishes.client_id and wishes.credential:
            self.problems.append(
                "client_id chooses the identity of the default credential, so it does nothing "
                "beside credential: give the client id to the credential itself"
            )
        elif wishes.client_id and given:
            self.problems.append(
                "client_id is for Microsoft Entra and password for a PostgreSQL role: leave out one"
            )
        if wishes.credential or wishes.client_id:
            return "entra"
        if wishes.password == "callback":
            return "callback"
        if wishes.password == "text" or (wishes.password_by and wishes.password is None):
            if wishes.token:
                self.warn_of_a_kept_token()
            return "token" if wishes.token else "password"
        if wishes.password == "empty" or self.own_passfile():
            return "none"
        return "entra"

    def warn_of_a_kept_token(self) -> None:
        """Warn of a token that is not fetched anew: it expires within the hour."""
        source = self.wishes.password_by if self.wishes.password is None else None
        if source is not None:
            where = "PGPASSWORD" if source == "environment" else f"password ({source})"
            self.warnings.append(
                f"{where} holds a Microsoft Entra token, which expires within the hour: leave it "
                f"out, azpg fetches tokens itself"
            )

    def own_passfile(self) -> bool:
        return self.given("passfile") and self.by("passfile") != "environment"

    # Where to

    def wished_cloud(self) -> Cloud | None:
        cloud = self.wishes.cloud
        if not isinstance(cloud, str):
            return cloud
        found = cloud_by_name(cloud)
        if found is None:
            names = ", ".join(repr(known.name) for known in CLOUDS)
            self.problems.append(f"cloud={quote(cloud)} is none of {names}, nor an azpg.Cloud")
        return found

    def places(self, clouds: Sequence[Cloud]) -> tuple[list[str], tuple[str, ...]]:
        """Settle host and hostaddr; return the names to verify and the hosts to look up."""
        server = self.server_name(clouds)
        hosts = _split(self.params.get("host", ""))
        if server and self.by("host") == "environment":
            hosts = []
        addresses = _split(self.params.get("hostaddr", ""))
        if server and hosts and self.by("hostaddr") == "environment":
            addresses = []
        reach: tuple[str, ...] = ()
        if server:
            if not addresses and any(host != server for host in hosts):
                reach = tuple(hosts)
            names = [server] * max(1, len(addresses or reach))
        else:
            # Under a cloud's suffix the certificate's spelling, without the trailing dot
            names = [
                (normalize_hostname(host) or host) if cloud_for_host(host, clouds) else host
                for host in hosts
            ]
        self.check_places(names, addresses, reach)
        # What was set aside is handed over empty: absent, libpq would find it where it was said.
        for keyword, places in (("host", names), ("hostaddr", addresses)):
            if places or keyword in self.params:
                self.params[keyword] = ",".join(places)
        self.check_redirection(names, clouds)
        return names or [""] * len(addresses), reach

    def server_name(self, clouds: Sequence[Cloud]) -> str | None:
        server = self.wishes.server
        if server is None:
            return None
        if is_dns_label(server) and "_" not in server:
            return server.lower() + clouds[0].suffixes[0]
        if cloud_for_host(server, clouds):
            return normalize_hostname(server)
        if misread := misread_host("server", server):
            self.problems.append(f"server {misread}")
            return None
        shown = quote(server, r"[\w.,-]{0,253}")
        self.problems.append(
            f'server={shown} is neither a short name (server="myserver") nor one under the suffix '
            f"of a known cloud: write any other name as host="
        )
        return None

    def check_places(
        self, names: Sequence[str], addresses: Sequence[str], reach: Sequence[str]
    ) -> None:
        if names and addresses and len(names) != len(addresses):
            self.problems.append(
                f"host names {len(names)} and hostaddr {len(addresses)}: give one address a host"
            )
        if any(is_socket(host) or not host for host in reach):
            self.problems.append(
                f"server is reached over TCP, and host={','.join(reach)!r} beside it is no name "
                f"or address"
            )
        if not (names or addresses or self.wishes.server is not None or self.wishes.unread):
            self.problems.append(
                'no host is given: write server="myserver" (or host="…"), or set PGHOST'
            )
        if not addresses and not all(names):
            self.problems.append(
                f"host={','.join(names)!r} has an empty place, where libpq would take its default "
                f"socket: write every host"
            )

    def check_redirection(self, names: Sequence[str], clouds: Sequence[Cloud]) -> None:
        """Warn of a test's exports that were left behind and lead elsewhere."""
        left = [
            variable
            for keyword, variable in (("hostaddr", "PGHOSTADDR"), ("sslrootcert", "PGSSLROOTCERT"))
            if self.given(keyword) and self.by(keyword) == "environment"
        ]
        redirected = next((name for name in names if cloud_for_host(name, clouds)), None)
        if redirected and left:
            self.warnings.append(
                f"{' and '.join(left)} in the environment {'decide' if left[1:] else 'decides'} "
                f"how {redirected} is reached and verified: unset what a test left behind"
            )

    # How it is verified

    def azure_tls(self, sign_in: SignIn, cloud: Cloud) -> frozenset[str] | None:
        mode, by = self.params.get("sslmode"), self.by("sslmode")
        if mode == "disable":
            self.problems.append(
                f"sslmode=disable ({by}) would send everything in clear, and Azure refuses it: "
                f"leave it out"
            )
        if self.params.get("gssencmode") == "require":
            self.problems.append(
                f"gssencmode=require ({self.by('gssencmode')}) takes the place of TLS, and Azure "
                f"has no GSS encryption: leave it out"
            )
        self.params.pop("gssencmode", None)
        self.default("gssencmode", "disable")
        if mode == "verify-ca" and by == "keyword" and sign_in not in ("entra", "token"):
            self.token_problems.append(
                "sslmode=verify-ca (keyword) does not verify the server's name, and a Microsoft "
                "Entra token goes only to a verified server: leave out sslmode"
            )
            self.warnings.append(
                "sslmode=verify-ca: any server with a certificate from Azure's authorities is "
                "believed, whatever its name"
            )
            # At least the password itself does not reach a server that does not know it.
            self.guard("require_auth", "scram-sha-256", "sslmode=verify-ca")
        else:
            if mode not in (None, "verify-full"):
                self.decisions.append(f"sslmode={mode} ({by}) raised to verify-full")
            self.params["sslmode"] = "verify-full"
        self.guard("ssl_min_protocol_version", "TLSv1.2", "a connection to Azure")
        if not self.given("sslcert"):
            self.default("sslcertmode", "disable")
            if "sslcertmode" not in self.machine.keywords:
                self.params["sslcert"] = _libpq.NONEXISTENT_FILE
        if not self.given("sslrootcert"):
            return cloud.roots
        self.check_root_file()
        return None

    def check_root_file(self) -> None:
        """Refuse a root file that another user could exchange, or warn if only its owner can."""
        file, source = self.params["sslrootcert"], self.by("sslrootcert")
        if self.wishes.replaceable == "anyone":
            self.problems.append(
                f"sslrootcert={file} ({source}) belongs to another user, or lies in a folder of "
                f"another user's, below a folder that everyone may write to: that user could "
                f"exchange it and pass off a server as Azure's. Leave it out (unset PGSSLROOTCERT) "
                f"for Azure's own roots, or copy it to a folder of yours"
            )
        elif self.wishes.replaceable == "owner" and source in ("environment", "service file"):
            self.warnings.append(
                f"sslrootcert={file} ({source}) belongs to another user, who decides which "
                f"servers are trusted: unset PGSSLROOTCERT unless you trust that user"
            )

    def other_tls(self, names: Sequence[str]) -> frozenset[str] | None:
        if not (names and all(map(is_socket, names))):
            self.default("sslmode", "verify-full")
        # Beside a weaker sslmode a root file would turn libpq's "prefer" into plaintext.
        own = self.given("sslrootcert") or self.machine.root_crt
        return AZURE_ROOTS if self.params.get("sslmode") == "verify-full" and not own else None

    # Ports

    def ports(self, hosts: int) -> bool:
        ports = [port or "5432" for port in self.params.get("port", "").split(",")]
        for port in ports:
            if not _is_port(port.lstrip("0")):
                self.problems.append(
                    f"port={quote(port)} ({self.by('port')}) is no number of a port"
                )
        if len(ports) not in (1, hosts):
            self.problems.append(f"port gives {len(ports)} for {hosts} hosts: one a host, or one")
        wished = self.wishes.pgbouncer
        if wished and not (self.given("port") and self.by("port") == "keyword"):
            ports = [PGBOUNCER_PORTS.get(port, port) for port in ports]
            if not all(map(_is_pgbouncer, ports)):
                shown = quote(self.params["port"], "[0-9,]+").strip("'")
                self.problems.append(
                    f"pgbouncer=True means port 6432, and {self.by('port')} says {shown}: write "
                    f"port= as a keyword, or leave it out there"
                )
        self.params["port"] = ",".join(ports)
        return any(map(_is_pgbouncer, ports)) if wished is None else wished

    # What the caller left open

    def fill_in(self, sign_in: SignIn) -> None:
        keylog = self.by("sslkeylogfile")
        if keylog is not None and keylog != "keyword":
            # Empty, not absent: libpq may read a service file of PGSERVICE once more.
            self.params["sslkeylogfile"] = ""
            self.warnings.append(f"sslkeylogfile ({keylog}) counts only as a keyword in code")
        if sign_in in ("entra", "token"):
            self.params["dbname"] = self.params.get("dbname") or "postgres"
            if not self.given("user"):
                self.params.pop("user", None)
        if sign_in == "none" and not self.own_passfile():
            self.params["passfile"] = _libpq.NONEXISTENT_FILE
        for keyword, value in FILLED_IN.items():
            self.default(keyword, value)
        if self.machine.linux:
            self.default("tcp_user_timeout", TCP_USER_TIMEOUT)

    def unset(self) -> dict[str, str]:
        """Return what libpq takes for the keywords that nothing was given for."""
        # An empty application_name would hide the fallback
        name = self.params.get("fallback_application_name", "")
        defaults = {**self.machine.defaults, "application_name": name}
        return {keyword: v for keyword, v in defaults.items() if keyword not in self.params}

    def guard(self, keyword: str, value: str, purpose: str) -> None:
        """Set a keyword that protects the connection; an older libpq would go without."""
        if keyword in self.machine.keywords:
            self.params.setdefault(keyword, value)
        else:
            self.problems.append(
                f"{purpose} is protected by {keyword}, which libpq "
                f"{_libpq.SINCE_VERSION[keyword]} and newer have, and this is libpq "
                f"{self.machine.libpq}: {_libpq.INSTALL}"
            )

    def default(self, keyword: str, value: str) -> None:
        if keyword in self.machine.keywords:
            self.params.setdefault(keyword, value)


def _split(value: str) -> list[str]:
    return value.split(",") if value else []


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65536


def _is_pgbouncer(port: str) -> bool:
    return port in PGBOUNCER_PORTS.values()


def _close(value: str, right: Collection[str]) -> str:
    import difflib  # noqa: PLC0415  # late: only for what is misspelt

    close = difflib.get_close_matches(value.lower(), right, n=1)
    return f": did you mean {close[0]!r}?" if close else ""
