"""The identities that can authenticate with a token, and the claims that identify them."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from azpg.emulator._entra_role import EntraRole, RoleType
from azpg.emulator._errors import EmulatorError

PrincipalKind = Literal[
    "user",
    "guest",
    "group",
    "user-assigned",
    "system-assigned",
    "slot",
    "service-principal",
    "native",
]

# Tokens of managed identities have 1,300 to 1,700 characters, those of users up to 7,000.
DEFAULT_TOKEN_SIZE_CHARACTERS = 1400

_MAX_ROLE_NAME_BYTES = 63
# How a user has signed in: with a password and a second factor.
_USER_METHODS = ["pwd", "mfa"]
_GROUP_MEMBER_KINDS = "users, guests, managed identities and service principals"
_RESOURCE_GROUP = "/subscriptions/11111111-2222-4333-8444-555555555555/resourcegroups/emulator"
_USER_ASSIGNED_TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities"
_WEB_APP_TYPE = "Microsoft.Web/sites"


@dataclass(frozen=True, slots=True)
class Principal:
    """A PostgreSQL role and the identity that authenticates as it.

    Args:
        name: The name of the PostgreSQL role.
        kind: The kind of identity, or "native" for a role that authenticates with a password.
        object_id: What the server compares with the token's `oid` claim; empty for a native role.
        client_id: The client ID by which an identity is requested; None if the kind has none.
        resource_id: The Azure resource ID of a managed identity; None for other kinds.
        members: The members of a group.
        token_size: The minimum length of its tokens, in characters.
    """

    name: str
    kind: PrincipalKind
    object_id: str = ""
    client_id: str | None = None
    resource_id: str | None = None
    members: tuple["Principal", ...] = ()
    token_size: int = DEFAULT_TOKEN_SIZE_CHARACTERS

    @property
    def is_app(self) -> bool:
        """Return whether the identity is an application and not a user."""
        return self.client_id is not None

    @property
    def role_type(self) -> RoleType:
        """Return the type by which Azure's SQL functions name it."""
        match self.kind:
            case "user" | "guest":
                return "user"
            case "group":
                return "group"
            case _:
                return "service"

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Principal":
        """Create a principal from the dictionary that `dataclasses.asdict` returned for it."""
        members = tuple(cls.from_json(member) for member in fields["members"])
        return cls(**{**fields, "members": members})


def create_principal(
    name: str,
    kind: PrincipalKind,
    *,
    object_id: str | None = None,
    resource_type: str | None = None,
    members: tuple[Principal, ...] = (),
    token_size: int = DEFAULT_TOKEN_SIZE_CHARACTERS,
) -> Principal:
    """Create a principal with the IDs that its kind has.

    Args:
        name: The name of the PostgreSQL role.
        kind: The kind of identity.
        object_id: Its object ID (default: a random one).
        resource_type: The Azure resource type that a "system-assigned" identity belongs to
            (default: a web app).
        members: The members of a "group".
        token_size: The minimum length of its tokens, in characters.

    Raises:
        EmulatorError: If the arguments are invalid or contradict each other.
    """
    _check_name(name)
    if members and kind != "group":
        raise EmulatorError(f"members= is for kind='group', not for kind={kind!r}.")
    if any(member.kind in {"group", "native"} for member in members):
        raise EmulatorError(f"A group may hold {_GROUP_MEMBER_KINDS}.")
    object_id = object_id or str(uuid.uuid4())
    client_id = str(uuid.uuid4())
    match kind:
        case "native":
            return Principal(name, kind)
        case "user" | "guest":
            return Principal(name, kind, object_id, token_size=token_size)
        case "group":
            return Principal(name, kind, object_id, members=members)
        case "service-principal":
            return Principal(name, kind, object_id, client_id, token_size=token_size)
        case "user-assigned":
            resource_id = _resource_id(_USER_ASSIGNED_TYPE, name)
        case "system-assigned":
            resource_id = _resource_id(resource_type or _WEB_APP_TYPE, name)
        case "slot":
            parts = name.split("/slots/")
            if len(parts) != 2 or not all(parts):
                raise EmulatorError(f"A slot's role is called '<app>/slots/<slot>', not {name!r}.")
            resource_id = _resource_id(_WEB_APP_TYPE, name)
        case _:
            raise EmulatorError(f"kind={kind!r} is none of {', '.join(get_args(PrincipalKind))}.")
    return Principal(name, kind, object_id, client_id, resource_id, token_size=token_size)


def principal_of(role: EntraRole) -> Principal | None:
    """Return the identity of a role that SQL has created, or None if its name is invalid.

    A client can rename a role, so the name is checked as that of a new one.
    """
    try:
        match role.type:
            case "group":
                kind: PrincipalKind = "group"
            case "user":
                kind = "guest" if "#EXT#" in role.name else "user"
            case _:
                kind = "user-assigned"
        return create_principal(role.name, kind, object_id=role.object_id)
    except EmulatorError:
        return None


def identity_claims(bearer: Principal, groups: list[str]) -> dict[str, Any]:
    """Return the claims that identify the bearer of a token.

    Args:
        bearer: The principal that the token is issued to.
        groups: The object IDs of the groups that it is a member of.
    """
    claims: dict[str, Any] = {"oid": bearer.object_id, "sub": bearer.object_id}
    if bearer.kind == "guest":
        home = bearer.name.partition("#EXT#")[0].replace("_", "@")
        claims |= {"idtyp": "user", "upn": bearer.name, "unique_name": home, "name": home}
        claims |= {"amr": _USER_METHODS}
    elif bearer.kind == "user":
        display_name = bearer.name.partition("@")[0].replace(".", " ").title()
        claims |= {"idtyp": "user", "upn": bearer.name, "unique_name": bearer.name}
        claims |= {"name": display_name, "amr": _USER_METHODS}
    else:
        claims |= {"idtyp": "app", "appid": bearer.client_id, "appidacr": "2"}
        if bearer.resource_id:
            claims |= {"xms_mirid": bearer.resource_id}
    if groups:
        claims |= {"groups": groups}
    return claims


def _resource_id(resource_type: str, name: str) -> str:
    return f"{_RESOURCE_GROUP}/providers/{resource_type}/{name}"


def _check_name(name: str) -> None:
    if not name or "\0" in name or "\n" in name:
        raise EmulatorError(f"{name!r} is not a valid role name.")
    if len(name.encode()) > _MAX_ROLE_NAME_BYTES:
        raise EmulatorError(
            f"PostgreSQL names have at most {_MAX_ROLE_NAME_BYTES} bytes; {name!r} is longer."
        )
    if _is_hba_pattern(name):
        raise EmulatorError(
            f"pg_hba.conf takes {name!r} for a pattern; start the name with another character."
        )


def _is_hba_pattern(name: str) -> bool:
    # In pg_hba.conf PostgreSQL 16 and newer read such a name as a regular expression, even in
    # quotes. Every role that matches it would be let in without a password.
    return name.startswith("/")
