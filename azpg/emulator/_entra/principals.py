"""Who can sign in with a token, and what such a token says about its bearer."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

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

# Tokens of managed identities have 1,300 to 1,700 characters, people's up to 7,000.
DEFAULT_TOKEN_SIZE_CHARACTERS = 1400

_GROUP_MEMBER_KINDS = "users, guests, managed identities and service principals"
_RESOURCE_GROUP = "/subscriptions/11111111-2222-4333-8444-555555555555/resourcegroups/emulator"
_USER_ASSIGNED_TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities"
_WEB_APP_TYPE = "Microsoft.Web/sites"


@dataclass(frozen=True, slots=True)
class Principal:
    """Name a role and the identity behind it.

    `name` is the PostgreSQL role, `object_id` what the server compares with the token's `oid`,
    `client_id` what an identity is asked for by (None where the kind has none), `resource_id` the
    Azure resource of a managed identity. A native role has neither. `token_size` is how long its
    tokens are at least, in characters.
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
        """Tell whether tokens of this principal are an application's, not a person's."""
        return self.client_id is not None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Principal":
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
    """Make a principal of a kind, with an object id of its own unless one is given."""
    _check_name(name)
    if members and kind != "group":
        raise EmulatorError(f"members= is for kind='group', not for kind={kind!r}.")
    if any(member.kind in {"group", "native"} for member in members):
        raise EmulatorError(f"A group may hold {_GROUP_MEMBER_KINDS}.")
    oid = object_id or str(uuid.uuid4())
    app = str(uuid.uuid4())
    match kind:
        case "native":
            return Principal(name, kind)
        case "user" | "guest":
            return Principal(name, kind, oid, token_size=token_size)
        case "group":
            return Principal(name, kind, oid, members=members)
        case "service-principal":
            return Principal(name, kind, oid, app, token_size=token_size)
        case "user-assigned":
            resource_id = _resource_id(_USER_ASSIGNED_TYPE, name)
        case "system-assigned":
            resource_id = _resource_id(resource_type or _WEB_APP_TYPE, name)
        case "slot":
            if len(parts := name.split("/slots/")) != 2 or not all(parts):
                raise EmulatorError(f"A slot's role is called '<app>/slots/<slot>', not {name!r}.")
            resource_id = _resource_id(_WEB_APP_TYPE, name)
        case _:
            raise EmulatorError(f"kind={kind!r} is none of {', '.join(get_args(PrincipalKind))}.")
    return Principal(name, kind, oid, app, resource_id, token_size=token_size)


def identity_claims(bearer: Principal, groups: list[str]) -> dict[str, Any]:
    """Return what a token says about who bears it; the time and the audience come on top."""
    claims: dict[str, Any] = {"oid": bearer.object_id, "sub": bearer.object_id}
    if bearer.kind == "guest":
        home = bearer.name.partition("#EXT#")[0].replace("_", "@")
        claims |= {"idtyp": "user", "upn": bearer.name, "unique_name": home, "name": home}
    elif bearer.kind == "user":
        display_name = bearer.name.partition("@")[0].replace(".", " ").title()
        claims |= {"idtyp": "user", "upn": bearer.name, "unique_name": bearer.name}
        claims |= {"name": display_name}
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
        raise EmulatorError(f"{name!r} is no name for a role.")
    if len(name.encode()) > 63:
        raise EmulatorError(f"PostgreSQL names have at most 63 bytes; {name!r} is longer.")
    if name.startswith("/"):
        # From PostgreSQL 16 on, quotes do not change that in pg_hba.conf: it would let in every
        # role that matches, without a password.
        raise EmulatorError(
            f"pg_hba.conf takes {name!r} for a pattern; start the name with another character."
        )
