"""The table of Azure's clouds: which hosts are Azure's, and which token opens them. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ._record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

# Microsoft's complete list of Azure's roots, by the SHA-256 of the certificate. Source:
# MicrosoftDocs/azure-docs, articles/security/fundamentals/azure-certificate-authority-details.md
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
    }
)

_HEX = "0123456789abcdef"
_LABEL = "abcdefghijklmnopqrstuvwxyz0123456789_-"


def is_label(text: str) -> bool:
    """Tell whether it is one label of a DNS name.

    In ASCII only: what is judged here is what libpq will resolve and verify. It keeps out Unix
    sockets (/, @), lists, IDNA look-alikes and anything else libpq reads in a way of its own.
    """
    return text.isascii() and text != "" and not text.lower().strip(_LABEL)


def plain(host: str) -> str | None:
    """Return a DNS name without its trailing dot and in lower case; None if it is no DNS name."""
    name = host.removesuffix(".")
    return name.lower() if all(map(is_label, name.split("."))) else None


def _is_suffix(text: str) -> bool:
    nothing, *labels = text.split(".")
    whole = not nothing and len(labels) > 1 and all(map(is_label, labels))
    return whole and text == text.lower() and labels[-1][0].isalpha() and "_" not in labels[-1]


class Cloud(Record):
    """Describe one Azure cloud: its hosts, the token they take, and the roots they chain to.

    `suffixes` are what its hosts end in, each with its leading dot; `server="name"` is completed
    with the first. `scope` is what a token is asked for, `authority` the host of the cloud's
    Microsoft Entra, `roots` the SHA-256 fingerprints (hex, lower case) of the trusted roots.
    `replace(roots=...)` returns a copy in which one of them, or several, are others.

    Raise ValueError when a suffix or a fingerprint is not of that form.

    >>> Cloud("stack", (".postgres.example.net",), "https://db.example.net/.default", "login.example.net")
    Cloud(name='stack', suffixes=('.postgres.example.net',), ...)
    """  # noqa: E501  # one example, one line

    name: str
    suffixes: tuple[str, ...]
    scope: str
    authority: str
    roots: frozenset[str]

    def __init__(
        self,
        name: str,
        suffixes: tuple[str, ...],
        scope: str,
        authority: str,
        roots: frozenset[str] = AZURE_ROOTS,
    ) -> None:
        # Out of JSON or YAML they come as lists
        suffixes, roots = tuple(suffixes), frozenset(roots)
        super().__init__(
            name=name, suffixes=suffixes, scope=scope, authority=authority, roots=roots
        )
        for suffix in self.suffixes:
            if not _is_suffix(suffix):
                raise ValueError(
                    f"a Cloud's suffix is a dot and a lower-case domain of two labels or "
                    f"more, such as '.postgres.example.net', not {suffix!r}"
                )
        if not self.suffixes:
            raise ValueError("a Cloud needs at least one suffix")
        if not self.roots:
            raise ValueError("a Cloud needs at least one root")
        for root in self.roots:
            if len(root) != 64 or root.strip(_HEX):
                raise ValueError(f"a root is pinned by 64 lower-case hex digits, not {root!r}")

    def __repr__(self) -> str:
        return (
            f"Cloud(name={self.name!r}, suffixes={self.suffixes!r}, scope={self.scope!r}, "
            f"authority={self.authority!r})"
        )

    def covers(self, host: str) -> bool:
        """Tell whether a host's name lies under one of this cloud's suffixes."""
        name = plain(host)
        return name is not None and any(
            name.endswith(suffix) and len(name) > len(suffix) for suffix in self.suffixes
        )


# Hosts, scopes and authorities: MicrosoftDocs/azure-databases-docs, articles/postgresql
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
# Clusters made before 2023-06-06 are c.<cluster>.postgres.database.azure.com: that suffix alone
# means the public cloud, so those take cloud="cosmos".
COSMOS_POSTGRES = Cloud(
    "cosmos",
    (".postgres.cosmos.azure.com", ".postgres.database.azure.com"),
    "https://token.postgres.cosmos.azure.com/.default",
    "login.microsoftonline.com",
)

CLOUDS = (AZURE_PUBLIC, AZURE_US_GOV, AZURE_CHINA, COSMOS_POSTGRES)


def cloud_of(host: str, clouds: Iterable[Cloud] = CLOUDS) -> Cloud | None:
    """Return the first cloud that covers a host."""
    return next((cloud for cloud in clouds if cloud.covers(host)), None)


def cloud_named(name: str) -> Cloud | None:
    """Return the known cloud of that name."""
    return next((cloud for cloud in CLOUDS if cloud.name == name), None)


def is_socket(name: str) -> bool:
    """Tell whether libpq takes a host for a Unix socket: a path, also with a drive, or an `@`."""
    drive = name[:1].isascii() and name[:1].isalpha() and name[1:3] in {":\\", ":/"}
    return drive or name.startswith(("/", "@"))


def no_token_for(name: str, cloud: Cloud) -> str:
    """Return the sentence for a host that gets no token of a cloud."""
    without = " To sign in without Microsoft Entra, give password=."
    if not name:
        return (
            "Microsoft Entra needs the server's name to verify it, and hostaddr gives only an "
            'address: add server="myserver".' + without
        )
    if is_socket(name):
        return (
            f"a token never goes through a Unix socket (host={name!r}), where libpq has no TLS: "
            f'write server="myserver".' + without
        )
    if _is_local(name):
        return (
            f"Microsoft Entra needs the server's name to verify it, and {name!r} is none: for a "
            f'tunnel write server="myserver", host={name!r}.' + without + " "
            '(password="" where the server asks for none)'
        )
    if other := cloud_of(name):
        return (
            f"host {name!r} belongs to the cloud {other.name!r} and the sign-in to {cloud.name!r}: "
            f"a token goes to hosts of one cloud only"
        )
    suffixes = " or ".join(cloud.suffixes)
    return (
        f"a token never goes to {name!r}, which is not under {suffixes}: write the server's Azure "
        f"name as server= (with host={name!r} beside it if that is the way there), or pass "
        f"cloud=azpg.Cloud(...) with its suffix." + without
    )


def _is_local(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True
