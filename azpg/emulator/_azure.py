"""What Azure's servers are called, which tokens they take and in which words they refuse."""

from dataclasses import dataclass

from ._errors import EmulatorError, RefusalError

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


def expired() -> RefusalError:
    return RefusalError("The access token has expired. Please acquire a new token and retry.")


def malformed() -> RefusalError:
    return RefusalError(
        "The access token has invalid format. "
        "Please ensure the token is passed exactly as returned by the token provider."
    )


def unverifiable() -> RefusalError:
    return RefusalError(
        "An error occurred while validating the access token. Please acquire a new token and retry."
    )


def wrong_audience(resource: str) -> RefusalError:
    return RefusalError(
        "The access token does not have a valid audience claim. "
        f"Please acquire a new token for the resource {resource}"
    )


def no_object_id() -> RefusalError:
    return RefusalError(
        "The access token doesn't have a valid oid claim. Please acquire a new token and retry."
    )


def wrong_role(role: str, *, of_an_app: bool) -> RefusalError:
    if of_an_app:
        return RefusalError(
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens "
            f"for role[{role}]"
        )
    return RefusalError(
        f"Azure AD user token for role[{role}] is neither an AAD_AUTH_TOKENTYPE_APP_USER "
        "or an AAD_AUTH_TOKENTYPE_APP_OBO token."
    )


def wrong_password(role: str) -> RefusalError:
    return RefusalError(f'password authentication failed for user "{role}"', "28P01")


def no_console() -> RefusalError:
    # PgBouncer's own message for a user who may not use its console.
    return RefusalError("not allowed", "08P01")


def no_encryption(address: str, role: str, database: str) -> RefusalError:
    return RefusalError(
        f'no pg_hba.conf entry for host "{address}", user "{role}", '
        f'database "{database}", no encryption'
    )
