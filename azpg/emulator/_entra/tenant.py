"""The imitated Entra tenant: its principals, the tokens it issues and how they are checked."""

import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from azpg.emulator import _azure_messages
from azpg.emulator._azure_host import AzureHost
from azpg.emulator._entra_role import EntraRole
from azpg.emulator._errors import EmulatorError
from azpg.emulator._faults import Faults

from .principals import Principal, identity_claims, principal_of

_ISSUER = "https://sts.windows.net/{tenant}/"
_OTHER_AUDIENCE = "https://management.azure.com"
_RSA_KEY_BITS = 2048
# The "expired" fault issues tokens of one hour that were issued two hours ago.
_EXPIRED_AGE_SECONDS = 7200
_EXPIRED_LIFETIME_SECONDS = 3600


class Tenant:
    """Issue tokens and check them by the same clock.

    Args:
        azure_host: The emulated server, whose resource is the default audience.
        token_lifetime: The lifetime of new tokens, in seconds.
        clock_skew: How far Azure's clock is ahead of this machine's, in seconds.
    """

    def __init__(self, azure_host: AzureHost, *, token_lifetime: float, clock_skew: float) -> None:
        self.token_lifetime = token_lifetime
        self.clock_skew = clock_skew
        self.faults = Faults()
        self._azure_host = azure_host
        self._default_principal: Principal | None = None
        # The identities by their object IDs, and the roles by their names.
        self._principals: dict[str, Principal] = {}
        self._roles: dict[str, EntraRole] = {}
        self.tenant_id = str(uuid.uuid4())
        self._key = _generate_key()
        self._untrusted_key: rsa.RSAPrivateKey | None = None
        self._key_id = secrets.token_urlsafe(20)
        # Tokens are numbered from 1. The last ones that are treated as expired or revoked:
        self._issued_count = 0
        self._last_expired = 0
        self._last_revoked = 0

    def now(self) -> float:
        """Return the time by Azure's clock, in seconds since the epoch."""
        return time.time() + self.clock_skew

    def add_principal(self, principal: Principal) -> None:
        self._principals[principal.object_id] = principal

    def set_roles(self, roles: Iterable[EntraRole]) -> None:
        """Set the roles that accept tokens; identities that it does not know are created.

        Roles whose names are invalid accept none.
        """
        self._roles = {}
        for role in roles:
            principal = principal_of(role)
            if principal is not None:
                self._roles[role.name] = role
                self._principals.setdefault(role.object_id, principal)

    def sign_in_as(self, principal: Principal) -> None:
        """Set the principal that gets a token if a request names none."""
        _check_has_tokens(principal)
        self._default_principal = principal

    def password_check_for(self, role_name: str) -> Callable[[str], None] | None:
        """Return the function that checks a token for an Entra role.

        Returns None for any other role, whose password PostgreSQL checks.
        """
        role = self._roles.get(role_name)
        return None if role is None else partial(self.authorize, role=role)

    @property
    def role_names(self) -> list[str]:
        return list(self._roles)

    def find_principal(
        self, *, client_id: str, object_id: str, resource_id: str
    ) -> Principal | None:
        """Return the identity with one of these IDs, or the default one if all are empty."""
        if not (client_id or object_id or resource_id):
            return self._default_principal
        for principal in self._token_bearers():
            if (
                (client_id and principal.client_id == client_id)
                or (object_id and principal.object_id == object_id)
                or (resource_id and (principal.resource_id or "").lower() == resource_id.lower())
            ):
                return principal
        return None

    def expire_tokens(self) -> None:
        """Treat every token issued until now as expired."""
        self._last_expired = self._issued_count

    def revoke_tokens(self) -> None:
        """Treat every token issued until now as invalid, although it has not expired."""
        self._last_revoked = self._issued_count

    def issue_token(
        self, bearer: Principal, resource: str | None = None, lifetime: float | None = None
    ) -> str:
        """Return a signed token, with the token fault that applies.

        Args:
            bearer: The principal that the token is issued to.
            resource: The token's audience (default: the resource of the emulated server).
            lifetime: The token's lifetime in seconds (default: `token_lifetime`).

        Raises:
            EmulatorError: If there are no tokens for this kind of principal.
        """
        _check_has_tokens(bearer)
        fault = self.faults.token
        now = int(self.now())
        lifetime = self.token_lifetime if lifetime is None else lifetime
        if fault == "expired":
            now -= _EXPIRED_AGE_SECONDS
            lifetime = _EXPIRED_LIFETIME_SECONDS
        self._issued_count += 1
        claims: dict[str, Any] = {
            "aud": resource or self._azure_host.resource,
            "iss": _ISSUER.format(tenant=self.tenant_id),
            "iat": now,
            "nbf": now,
            "exp": int(now + lifetime),
            "idp": _ISSUER.format(tenant=self.tenant_id),
            "tid": self.tenant_id,
            "uti": f"{self._issued_count:022d}",
            "ver": "1.0",
            "rh": f"1.{secrets.token_urlsafe(40)}.",
        } | identity_claims(bearer, self._groups_of(bearer))
        if fault == "wrong-audience":
            claims["aud"] = _OTHER_AUDIENCE
        elif fault == "no-oid":
            del claims["oid"]
        key = self._get_untrusted_key() if fault == "wrong-signature" else self._key
        token = self._sign(claims, key)
        missing_characters = bearer.token_size - len(token)
        if missing_characters > 0:
            # An opaque claim pads the token. Base64 encodes three bytes as four characters.
            padding = secrets.token_urlsafe(missing_characters)
            claims["aio"] = padding[: missing_characters * 3 // 4]
            token = self._sign(claims, key)
        return token.replace(".", "-") if fault == "malformed" else token

    def authorize(self, token: str, role: EntraRole) -> None:
        """Check that a token allows its bearer to use a role.

        Raises:
            RejectionError: If it does not, with the message that Azure returns.
        """
        try:
            jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _azure_messages.token_malformed() from None
        try:
            # The expiry is checked below, by Azure's clock. PyJWT would use this machine's clock.
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidTokenError:
            raise _azure_messages.token_invalid() from None
        number = int(claims["uti"])
        if claims["exp"] <= self.now() or number <= self._last_expired:
            raise _azure_messages.token_expired()
        if number <= self._last_revoked:
            raise _azure_messages.token_invalid()
        if claims["aud"].rstrip("/") != self._azure_host.resource:
            raise _azure_messages.wrong_audience(self._azure_host.resource)
        object_id = claims.get("oid")
        if not object_id:
            raise _azure_messages.no_object_id()
        if object_id not in self._allowed_object_ids(role):
            raise _azure_messages.wrong_role(role.name, is_app=claims["idtyp"] == "app")
        if role.requires_mfa and "mfa" not in claims.get("amr", ()):
            # Azure's message is not known.
            raise _azure_messages.token_invalid()

    def _allowed_object_ids(self, role: EntraRole) -> list[str]:
        """Return the object IDs of the identities that may use a role."""
        if role.type != "group":
            return [role.object_id]
        group = self._principals.get(role.object_id)
        return [member.object_id for member in group.members] if group else []

    def _sign(self, claims: dict[str, Any], key: rsa.RSAPrivateKey) -> str:
        headers = {"kid": self._key_id, "x5t": self._key_id}
        return jwt.encode(claims, key, algorithm="RS256", headers=headers)

    def _get_untrusted_key(self) -> rsa.RSAPrivateKey:
        if self._untrusted_key is None:
            self._untrusted_key = _generate_key()
        return self._untrusted_key

    def _groups_of(self, bearer: Principal) -> list[str]:
        return [
            group.object_id
            for group in self._principals.values()
            if any(member.object_id == bearer.object_id for member in group.members)
        ]

    def _token_bearers(self) -> Iterator[Principal]:
        for principal in self._principals.values():
            if principal.kind == "group":
                yield from principal.members
            else:
                yield principal


def _generate_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_KEY_BITS)


def _check_has_tokens(principal: Principal) -> None:
    if principal.kind in {"group", "native"}:
        raise EmulatorError(
            f"There are no tokens for a {principal.kind} role; "
            "a group's members sign in with their own."
        )
