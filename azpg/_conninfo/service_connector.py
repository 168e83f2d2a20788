"""The AZURE_POSTGRESQL_* variables that Service Connector sets for an app on Azure. Pure.

Source: https://learn.microsoft.com/azure/service-connector/how-to-integrate-postgres (checked
2026-11-27)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "AZURE_POSTGRESQL_"
CONNECTION_STRING = PREFIX + "CONNECTIONSTRING"

# NAME and USER are for Django. There is an SSL too: it is always true, as azpg's own default.
_KEYWORDS = {
    "HOST": "host",
    "PORT": "port",
    "DATABASE": "dbname",
    "NAME": "dbname",
    "USER": "user",
    "USERNAME": "user",
    "PASSWORD": "password",
}

_IDENTITY = {"client_id": "CLIENTID", "client_secret": "CLIENTSECRET", "tenant_id": "TENANTID"}

VARIABLES = (CONNECTION_STRING, *(PREFIX + name for name in (*_KEYWORDS, *_IDENTITY.values())))

INCOMPLETE_PRINCIPAL = (
    f"{PREFIX}CLIENTSECRET belongs to a service principal, which also needs {PREFIX}CLIENTID and "
    f"{PREFIX}TENANTID: set them, or unset {PREFIX}CLIENTSECRET"
)


class ServiceIdentity(NamedTuple):
    """The identity that Service Connector's variables name; a field that is not set is empty."""

    client_id: str
    client_secret: str
    tenant_id: str

    def __repr__(self) -> str:
        return f"<ServiceIdentity {self.client_id!r}>"


def params_from_environ(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the parameters of the separate variables, each with its variable.

    There are none if they name no host.
    """
    if not environ.get(PREFIX + "HOST"):
        return {}
    params: dict[str, tuple[str, str]] = {}
    for variable, keyword in _KEYWORDS.items():
        if value := environ.get(PREFIX + variable):
            params.setdefault(keyword, (value, PREFIX + variable))
    return params


def identity_from_environ(environ: Mapping[str, str]) -> ServiceIdentity:
    """Return the identity that the variables name."""
    values = {field: environ.get(PREFIX + name, "") for field, name in _IDENTITY.items()}
    return ServiceIdentity(**values)
