"""The link between a PostgreSQL role and a Microsoft Entra identity, a security label at Azure."""

from dataclasses import dataclass
from typing import Literal

RoleType = Literal["user", "group", "service"]


@dataclass(frozen=True, slots=True)
class EntraRole:
    """A PostgreSQL role that accepts the tokens of an identity.

    Args:
        name: The name of the role.
        object_id: The object ID of the identity.
        type: Its type as Azure's SQL functions name it.
        is_admin: Whether it can manage other such roles.
        requires_mfa: Whether its tokens need the claim of a second factor.
    """

    name: str
    object_id: str
    type: str
    is_admin: bool = False
    requires_mfa: bool = False

    @property
    def label(self) -> str:
        """Return the security label.

        Source: MicrosoftDocs/azure-databases-docs,
        articles/postgresql/security/security-manage-entra-users.md (October 2025).
        """
        flags = ",admin" * self.is_admin + ",mfa" * self.requires_mfa
        return f"aadauth,oid={self.object_id},type={self.type}{flags}"

    @classmethod
    def from_label(cls, name: str, label: str) -> "EntraRole":
        """Return the link that a security label describes."""
        parts = label.split(",")
        values = dict(part.partition("=")[::2] for part in parts)
        return cls(name, values["oid"], values["type"], "admin" in parts, "mfa" in parts)
