"""The host names of Azure servers and the tokens that the servers of each cloud accept."""

import secrets
from dataclasses import dataclass

from ._errors import EmulatorError

# Each host suffix with the resource (audience) of the tokens that its servers accept. Those of
# HorizonDB, a preview, and of Cosmos DB in China are assumptions. Source of Bleu's (France):
# azure-cli-core 2.91.0 (2026-11-27); of the others: MicrosoftDocs/azure-databases-docs,
# articles/postgresql and articles/cosmos-db/postgresql (checked 2026-11-27).
_RESOURCE_BY_SUFFIX = {
    ".postgres.database.azure.com": "https://ossrdbms-aad.database.windows.net",
    ".postgres.database.usgovcloudapi.net": "https://ossrdbms-aad.database.usgovcloudapi.net",
    ".postgres.database.chinacloudapi.cn": "https://ossrdbms-aad.database.chinacloudapi.cn",
    ".postgres.database.sovcloud-api.fr": "https://ossrdbms-aad.database.sovcloud-api.fr",
    ".horizondb.azure.com": "https://ossrdbms-aad.database.windows.net",
    ".postgres.cosmos.azure.com": "https://token.postgres.cosmos.azure.com",
    ".postgres.cosmos.chinacloudapi.cn": "https://token.postgres.cosmos.chinacloudapi.cn",
}
HOST_SUFFIXES = tuple(_RESOURCE_BY_SUFFIX)


_INTERNAL_NAME_BYTES = 6


@dataclass(frozen=True, slots=True)
class AzureHost:
    """The host name of the emulated server, its suffix and its tokens' resource."""

    name: str
    suffix: str
    resource: str

    @property
    def reader_host(self) -> str:
        """Return the host name of the read replica.

        At Azure a read replica is a server with a name of its own under the same suffix
        (MicrosoftDocs/azure-databases-docs, articles/postgresql/read-replica, 2026-11-27).
        """
        server, _, domain = self.name.partition(".")
        return f"{server}-replica.{domain}"

    def new_internal_name(self) -> str:
        """Return a name of the form that Azure's certificates have next to the server's own.

        Source: a certificate of a flexible server seen in May 2026 has the name of the server and
        `<hexadecimal digits>.database.azure.com`, and no wildcard. For the other suffixes the form
        is an assumption.
        """
        _, _, domain = self.suffix.removeprefix(".").partition(".")
        return f"{secrets.token_hex(_INTERNAL_NAME_BYTES)}.{domain}"


def parse_host(host: str) -> AzureHost:
    """Return the parts of a server's full host name.

    Raises:
        EmulatorError: If the host name is not under one of the Azure suffixes.
    """
    name = host.lower().removesuffix(".")
    for suffix, resource in _RESOURCE_BY_SUFFIX.items():
        if name.endswith(suffix) and all(name.split(".")):
            return AzureHost(name, suffix, resource)
    raise EmulatorError(
        f"host={host!r} is not an Azure host name. Use one that ends in {', '.join(HOST_SUFFIXES)}."
    )
