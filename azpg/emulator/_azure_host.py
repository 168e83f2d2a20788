"""What Azure's servers are called and which tokens they take."""

from dataclasses import dataclass

from ._errors import EmulatorError

# Host suffix to the resource whose tokens its servers accept.
_RESOURCE_BY_SUFFIX = {
    ".postgres.database.azure.com": "https://ossrdbms-aad.database.windows.net",
    ".postgres.database.usgovcloudapi.net": "https://ossrdbms-aad.database.usgovcloudapi.net",
    ".postgres.database.chinacloudapi.cn": "https://ossrdbms-aad.database.chinacloudapi.cn",
    ".postgres.cosmos.azure.com": "https://token.postgres.cosmos.azure.com",
}
HOST_SUFFIXES = tuple(_RESOURCE_BY_SUFFIX)


@dataclass(frozen=True, slots=True)
class AzureHost:
    """Hold the name of the imitated server and what follows from its suffix."""

    name: str
    suffix: str
    resource: str

    @property
    def reader_host(self) -> str:
        """Return the name of a read replica, which is a server's own: one label, as this one's."""
        name, _, rest = self.name.partition(".")
        return f"{name}-replica.{rest}"


def parse_host(host: str) -> AzureHost:
    """Return what follows from a server's full name, or refuse a name outside Azure."""
    name = host.lower().removesuffix(".")
    for suffix, resource in _RESOURCE_BY_SUFFIX.items():
        if name.endswith(suffix) and all(name.split(".")):
            return AzureHost(name, suffix, resource)
    raise EmulatorError(
        f"host={host!r} is no name of Azure's. Give one that ends in "
        + ", ".join(HOST_SUFFIXES)
        + "."
    )
