"""What Azure's servers are called and which tokens they take."""

from dataclasses import dataclass

from ._errors import EmulatorError

# Host suffix to the resource whose tokens its servers accept.
_RESOURCES = {
    ".postgres.database.azure.com": "https://ossrdbms-aad.database.windows.net",
    ".postgres.database.usgovcloudapi.net": "https://ossrdbms-aad.database.usgovcloudapi.net",
    ".postgres.database.chinacloudapi.cn": "https://ossrdbms-aad.database.chinacloudapi.cn",
    ".postgres.cosmos.azure.com": "https://token.postgres.cosmos.azure.com",
}
SUFFIXES = tuple(_RESOURCES)


@dataclass(frozen=True, slots=True)
class Site:
    """Hold the name of the imitated server and what follows from its suffix."""

    host: str
    suffix: str
    resource: str

    @property
    def reader(self) -> str:
        """Return the name of a read replica, which is a server's own: one label, as this one's."""
        name, _, rest = self.host.partition(".")
        return f"{name}-replica.{rest}"


def site(host: str) -> Site:
    """Return what follows from a server's full name, or refuse a name outside Azure."""
    name = host.lower().removesuffix(".")
    for suffix, resource in _RESOURCES.items():
        if name.endswith(suffix) and all(name.split(".")):
            return Site(name, suffix, resource)
    raise EmulatorError(
        f"host={host!r} is no name of Azure's. Give one that ends in " + ", ".join(SUFFIXES) + "."
    )
