"""Service Connector's AZURE_POSTGRESQL_* variables, which an app on Azure is given. Pure.

Source: MicrosoftDocs/azure-docs, articles/service-connector/how-to-integrate-postgres.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from azpg._record import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "AZURE_POSTGRESQL_"
CONNECTION_STRING = PREFIX + "CONNECTIONSTRING"

# NAME and USER are for Django; _SSL=true says nothing that is not so anyway.
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

INCOMPLETE = (
    f"{PREFIX}CLIENTSECRET is a service principal's, which needs {PREFIX}CLIENTID and "
    f"{PREFIX}TENANTID beside it: set them, or leave it out"
)


class Identity(Record):
    """Whom a connector names: an identity, or a service principal; what it does not is empty."""

    client_id: str
    client_secret: str
    tenant_id: str

    def __repr__(self) -> str:
        return f"<Identity {self.client_id!r}>"


def keywords(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the plain variables say, as libpq's keywords; nothing without a host."""
    if not environ.get(PREFIX + "HOST"):
        return {}
    said: dict[str, str] = {}
    for variable, keyword in _KEYWORDS.items():
        if value := environ.get(PREFIX + variable):
            said.setdefault(keyword, value)
    return said


def identity(environ: Mapping[str, str]) -> Identity:
    """Return whom the variables name."""
    return Identity(**{field: environ.get(PREFIX + name, "") for field, name in _IDENTITY.items()})
