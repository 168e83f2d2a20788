"""The facts about Azure that a record confirms or contradicts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Verdict = Literal["confirmed", "contradicted", "not seen"]


@dataclass(frozen=True, slots=True)
class Observations:
    """The parts of a record that facts are about; a part that was not reached is empty."""

    addresses: list[str]
    tls: Mapping[str, Any]
    server: Mapping[str, Any]
    pgbouncer: Mapping[str, Any]
    refusals: Mapping[str, Any]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Observations:
        """Return the observations of a record."""
        parts = ("addresses", "tls", "server", "pgbouncer", "refusals")
        return cls(*(record[part] for part in parts))


class Fact(NamedTuple):
    """A fact about Azure's servers."""

    statement: str
    holds: Callable[[Observations], bool]
    """raises LookupError if the record does not tell"""


def _message(seen: Observations, refusal: str) -> str:
    return str(seen.refusals[refusal]["messages"][0]).lower()


def _seen(values: list[str]) -> list[str]:
    """Return the values, or raise LookupError if the record has none."""
    if not values:
        raise LookupError
    return values


FACTS = {
    "ipv4": Fact("connections are IPv4 only", lambda seen: _seen(seen.addresses) == ["IPv4"]),
    "tls-version": Fact(
        "TLS 1.2 or 1.3", lambda seen: seen.tls["version"] in ("TLSv1.2", "TLSv1.3")
    ),
    "certificate-names": Fact(
        "the certificate has exact names and no wildcard",
        lambda seen: not any("*" in name for name in _seen(seen.tls["certificate_names"])),
    ),
    "internal-name": Fact(
        "the certificate has a second name, hexadecimal digits under the suffix without .postgres",
        lambda seen: _seen(seen.tls["certificate_names"])[-1].startswith("HEX."),
    ),
    "pinned-root": Fact(
        "the chain ends in a pinned root", lambda seen: bool(seen.tls["root_pinned"])
    ),
    "bridge-certificate": Fact(
        "the server sends Microsoft TLS RSA Root G2 as an intermediate certificate",
        lambda seen: any(
            each["subject"].startswith("Microsoft TLS RSA Root G2")
            for each in seen.tls["intermediates"]
        ),
    ),
    "keepalives": Fact(
        "server keepalives are 120, 30 and 9",
        lambda seen: (
            [
                seen.server["settings"][f"tcp_keepalives_{name}"]
                for name in ("idle", "interval", "count")
            ]
            == ["120", "30", "9"]
        ),
    ),
    "azure-extensions": Fact(
        "the parameter azure.extensions exists",
        lambda seen: bool(seen.server["has_azure_extensions"]),
    ),
    "list-principals": Fact(
        "pgaadauth_list_principals returns the column rolname",
        lambda seen: bool(
            re.search(r"\brolname\b", seen.server["entra_functions"]["pgaadauth_list_principals"])
        ),
    ),
    "pgbouncer-version": Fact(
        "PgBouncer is 1.25.1", lambda seen: "1.25.1" in seen.pgbouncer["console"]["version"]
    ),
    "pgbouncer-pooling": Fact(
        "PgBouncer pools transactions", lambda seen: seen.pgbouncer["pool_mode"] == "transaction"
    ),
    "pgbouncer-prepared-statements": Fact(
        "PgBouncer does not keep prepared statements",
        lambda seen: seen.pgbouncer["prepared_statements"] is False,
    ),
    "wrong-role": Fact(
        "a role that does not exist is refused with: password authentication failed for user",
        lambda seen: (
            "password authentication failed for user" in _message(seen, "wrong_role_postgres")
        ),
    ),
    "wrong-entra-role": Fact(
        "a token is refused for another identity's role with a text that has AAD_AUTH_TOKENTYPE",
        lambda seen: "aad_auth_tokentype" in _message(seen, "wrong_entra_role"),
    ),
    "other-audience": Fact(
        "a token of another audience is refused with: does not have a valid audience claim",
        lambda seen: "audience claim" in _message(seen, "other_audience"),
    ),
    "expired": Fact(
        "an expired token is refused with: the access token has expired",
        lambda seen: "access token has expired" in _message(seen, "expired"),
    ),
}


def check_facts(seen: Observations) -> list[dict[str, str]]:
    """Return each fact with its verdict."""
    return [
        {"id": name, "fact": fact.statement, "verdict": _verdict(fact, seen)}
        for name, fact in FACTS.items()
    ]


def _verdict(fact: Fact, seen: Observations) -> Verdict:
    try:
        return "confirmed" if fact.holds(seen) else "contradicted"
    except LookupError:
        return "not seen"
