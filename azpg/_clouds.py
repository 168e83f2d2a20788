"""Azure's clouds: their host names, token scopes and root certificates. Pure."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# SHA-256 fingerprints of all root certificates of Azure. Source, except for the last one:
# MicrosoftDocs/azure-docs, articles/security/fundamentals/azure-certificate-authority-details.md
# (copy of 07/2026, checked 2026-11-27)
AZURE_ROOTS = frozenset(
    {
        # DigiCert Global Root CA (G1): China, rotation extensions, some read replicas
        "4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161",
        # DigiCert Global Root G2
        "cb3ccbb76031e5e0138f8dd39a23f9de47ffc35e43c1144cea27d46a5ab1cb5f",
        # DigiCert Global Root G3
        "31ad6648f8104138c738f39ea4320133393e3a18cc02296ef97c2ac9ef6731d0",
        # DigiCert TLS ECC P384 Root G5
        "018e13f0772532cf809bd1b17281867283fc48c6e13be9c69812854a490c1b05",
        # DigiCert TLS RSA4096 Root G5
        "371a00dc0533b3721a7eeb40e8419e70799d2b0a0f2c1d80693165f7cec4ad75",
        # Microsoft ECC Root Certificate Authority 2017
        "358df39d764af9e1b766e9c972df352ee15cfac227af6ad1d70e8e4a6edcba02",
        # Microsoft RSA Root Certificate Authority 2017
        "c741f70f4b2a8d88bf2e71c14122ef53ef10eba0cfa5e64cfa20f418853073e0",
        # Microsoft TLS RSA Root G2, self-signed. Servers send the certificate of the same key that
        # DigiCert Global Root G2 has signed, but some of Microsoft's front ends leave it out
        # (reported: Azure/azhpc-images#539, taskcluster/taskcluster#8569; 2026-11-27).
        # docs/explanation/roots.md says why it can be trusted.
        "6a170583db584151e1c454eeca2a64cc5d8e484a5bd1156e720b4458654ee9e5",
    }
)

_DNS_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_HOSTNAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SUFFIX = re.compile(r"(\.[a-z0-9_-]+)+\.[a-z][a-z0-9-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_dns_label(text: str) -> bool:
    """Return whether a text is one label of a DNS name.

    ASCII only: libpq resolves and verifies the same text. So Unix sockets (/, @), lists and
    characters that only look like ASCII letters are not labels.
    """
    return _DNS_LABEL.fullmatch(text) is not None


def normalize_hostname(host: str) -> str | None:
    """Return a DNS name in lower case without its trailing dot, or None if it is not a DNS name."""
    name = host.removesuffix(".")
    return name.lower() if _HOSTNAME.fullmatch(name) else None


def _is_suffix(text: str) -> bool:
    """Return whether a text can be a cloud's suffix: no whole top-level domain."""
    return _SUFFIX.fullmatch(text) is not None


@dataclass(frozen=True)
class Cloud:
    """One Azure cloud: its host names, the scope of its tokens, and its root certificates.

    Args:
        name: Name of the cloud, which `cloud=` takes too.
        suffixes: What its host names end in, each with a leading dot. `server="myserver"` is
            completed with the first one.
        scope: Scope of its tokens, such as "https://ossrdbms-aad.database.windows.net/.default".
            Empty if it is not known: then no token is requested or sent, and only passwords work.
        authority: Host name of the cloud's Microsoft Entra ID.
        roots: SHA-256 fingerprints, in lower-case hex digits, of the root certificates that its
            servers are verified with. Default: the roots that Azure documents. None if they are
            not known: then servers are verified with all roots of certifi.

    Raises:
        ValueError: A suffix or a fingerprint has another form, or there is none.

    >>> Cloud("stack", (".postgres.example.net",), "https://db.example.net/.default", "login.example.net")
    Cloud(name='stack', suffixes=('.postgres.example.net',), ...)
    """  # noqa: E501  # one example, one line

    name: str
    suffixes: tuple[str, ...]
    scope: str
    authority: str
    roots: frozenset[str] | None = field(default=AZURE_ROOTS, repr=False)

    def __post_init__(self) -> None:
        # JSON and YAML have lists only
        object.__setattr__(self, "suffixes", tuple(self.suffixes))
        if self.roots is not None:
            object.__setattr__(self, "roots", frozenset(self.roots))
        for suffix in self.suffixes:
            if not _is_suffix(suffix):
                raise ValueError(
                    f"a Cloud's suffix is a dot and a lower-case domain of two labels or "
                    f"more, such as '.postgres.example.net', not {suffix!r}"
                )
        if not self.suffixes:
            raise ValueError("a Cloud needs at least one suffix")
        if self.roots is not None and not self.roots:
            raise ValueError("a Cloud needs at least one root; None means all roots of certifi")
        for root in self.roots or ():
            if not _SHA256.fullmatch(root):
                raise ValueError(f"a root is pinned by 64 lower-case hex digits, not {root!r}")

    def replace(self, **changes: Any) -> Cloud:
        """Return a copy with the given fields changed.

        Args:
            **changes: The new values by field name.

        >>> azpg.AZURE_PUBLIC.replace(name="mine").name
        'mine'
        """
        return dataclasses.replace(self, **changes)

    def covers(self, host: str) -> bool:
        """Return whether a host name is below one of the suffixes.

        Args:
            host: Full host name, in upper or lower case, with or without a trailing dot.

        >>> azpg.AZURE_PUBLIC.covers("myserver.postgres.database.azure.com")
        True
        """
        name = normalize_hostname(host)
        return name is not None and any(
            name.endswith(suffix) and len(name) > len(suffix) for suffix in self.suffixes
        )


# Source of the three clouds: MicrosoftDocs/azure-databases-docs, articles/postgresql (copy of
# 07/2026, checked 2026-11-27)
AZURE_PUBLIC = Cloud(
    "public",
    (".postgres.database.azure.com",),
    "https://ossrdbms-aad.database.windows.net/.default",
    "login.microsoftonline.com",
)
AZURE_US_GOV = Cloud(
    "usgov",
    (".postgres.database.usgovcloudapi.net",),
    "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
    "login.microsoftonline.us",
)
AZURE_CHINA = Cloud(
    "china",
    (".postgres.database.chinacloudapi.cn",),
    "https://ossrdbms-aad.database.chinacloudapi.cn/.default",
    "login.chinacloudapi.cn",
)
# Source: MicrosoftDocs/azure-databases-docs, articles/cosmos-db/postgresql (checked 2026-11-27).
# Clusters created before 2023-06-06 are c.<cluster>.postgres.database.azure.com. That suffix means
# the public cloud, so for these clusters users pass cloud="cosmos".
COSMOS_POSTGRES = Cloud(
    "cosmos",
    (".postgres.cosmos.azure.com", ".postgres.database.azure.com"),
    "https://token.postgres.cosmos.azure.com/.default",
    "login.microsoftonline.com",
)

CLOUDS = (
    AZURE_PUBLIC,
    AZURE_US_GOV,
    AZURE_CHINA,
    COSMOS_POSTGRES,
    # Source of hosts and roots: MicrosoftDocs/azure-databases-docs, articles/cosmos-db/postgresql
    # (checked 2026-11-27). The resource of its tokens is not published. The authority is an
    # assumption: that of Azure China.
    Cloud(
        "cosmos-china",
        (".postgres.cosmos.chinacloudapi.cn",),
        "",
        "login.chinacloudapi.cn",
    ),
    # A preview. Source of hosts and roots: azure-mgmt-horizondb 1.0.0b3 and
    # MicrosoftDocs/azure-databases-docs, articles/horizondb (checked 2026-11-27). The scope is an
    # assumption: that of the public cloud, for which Microsoft's JDBC plug-in requests its tokens.
    Cloud(
        "horizondb",
        (".horizondb.azure.com",),
        "https://ossrdbms-aad.database.windows.net/.default",
        "login.microsoftonline.com",
    ),
    # Source of hosts, scope and authority: azure-cli-core 2.91.0 (checked 2026-11-27). Its roots
    # are not published, and a wrong pin would refuse every connection.
    Cloud(
        "bleu",
        (".postgres.database.sovcloud-api.fr",),
        "https://ossrdbms-aad.database.sovcloud-api.fr/.default",
        "login.sovcloud-identity.fr",
        roots=None,
    ),
)
"""Every cloud that azpg knows: the one list that decides which hosts are Azure's."""

_ASSUMED_SCOPES = frozenset({"horizondb"})


def has_assumed_scope(cloud: Cloud) -> bool:
    """Return whether the scope of a built-in cloud is an assumption."""
    return cloud.name in _ASSUMED_SCOPES and cloud in CLOUDS


FULL_NAMES = {".horizondb.azure.com": "<cluster>.<cluster id>.<region>.horizondb.azure.com"}
"""The form of the host names under a suffix below which `server=` cannot complete a short name."""


def token_resources(clouds: Iterable[Cloud] = CLOUDS) -> set[str]:
    """Return the resources that the clouds' tokens are for: their scopes without "/.default"."""
    return {cloud.scope.removesuffix("/.default") for cloud in clouds if cloud.scope}


def no_scope_error(cloud: Cloud) -> str:
    """Return why no token can be requested for a cloud without a scope, and what to type."""
    return (
        f"the resource of the tokens for the cloud {cloud.name!r} is not published, so azpg "
        f"requests none. If you know it, pass ⟦cloud=azpg.Cloud({cloud.name!r}, "
        f"suffixes={cloud.suffixes!r}, scope='https://…/.default', "
        f"authority={cloud.authority!r})⟧. To authenticate without Microsoft Entra, pass "
        f"⟦password=⟧"
    )


def cloud_for_host(host: str, clouds: Iterable[Cloud] = CLOUDS) -> Cloud | None:
    """Return the first cloud that covers a host, or None."""
    return next((cloud for cloud in clouds if cloud.covers(host)), None)


def cloud_by_name(name: str) -> Cloud | None:
    """Return the built-in cloud with this name, or None."""
    return next((cloud for cloud in CLOUDS if cloud.name == name), None)


def is_socket(host: str) -> bool:
    """Return whether libpq takes a host for a Unix socket: an absolute path, or `@` and a name."""
    drive = host[:1].isascii() and host[:1].isalpha() and host[1:3] in {":\\", ":/"}
    return drive or host.startswith(("/", "@"))


def token_host_error(host: str, cloud: Cloud) -> str:
    """Return the problem with a host that must not receive a token of a cloud."""
    password_hint = " To authenticate without Microsoft Entra, pass ⟦password=⟧."
    if not host:
        return (
            "Microsoft Entra needs the server's name to verify it, and hostaddr gives only an "
            'address: add ⟦server="myserver"⟧.' + password_hint
        )
    if is_socket(host):
        return (
            f"a token never goes through a Unix socket (⟦host={host!r}⟧), where libpq has no TLS: "
            f'write ⟦server="myserver"⟧.' + password_hint
        )
    if _is_local(host):
        return (
            f"Microsoft Entra needs the server's name to verify it, and {host!r} is not one: for a "
            f'tunnel, write ⟦server="myserver", host={host!r}⟧.' + password_hint + " "
            '(⟦password=""⟧ if the server requires none)'
        )
    if other := cloud_for_host(host):
        return (
            f"host {host!r} belongs to the cloud {other.name!r}, but the token is for "
            f"{cloud.name!r}: a token goes to hosts of one cloud only"
        )
    suffixes = " or ".join(cloud.suffixes)
    name = short_name_in(host) or "myserver"
    return (
        f"a token never goes to {host!r}, which is not under {suffixes}: write the server's Azure "
        f'name, ⟦server="{name}"⟧. If {host!r} is a tunnel, a proxy or your own DNS name of the '
        f'server, write ⟦server="myserver", host="{host}"⟧. For your own cloud, pass '
        f"⟦cloud=azpg.Cloud(...)⟧ with its suffix." + password_hint
    )


def short_name_in(host: str) -> str:
    """Return the server's short name in a host's name under a misspelled suffix, or alone."""
    name, dot, rest = host.partition(".")
    if not is_dns_label(name) or "_" in name:
        return ""
    suffixes = [suffix for cloud in CLOUDS for suffix in cloud.suffixes]
    if dot and not difflib.get_close_matches(f".{rest.lower()}", suffixes, n=1, cutoff=0.8):
        return ""
    return name


def _is_local(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True
