"""The imitated Entra tenant: who exists, the tokens they get, and whom a token lets in."""

import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from azpg.emulator import _azure_messages
from azpg.emulator._azure_host import AzureHost
from azpg.emulator._errors import EmulatorError
from azpg.emulator._faults import Faults

from .principals import Principal, identity_claims

_ISSUER = "https://sts.windows.net/{tenant}/"


class Tenant:
    """Hand out tokens and check them, both by the same clock."""

    def __init__(self, azure_host: AzureHost, *, token_lifetime: float, clock_skew: float) -> None:
        self.token_lifetime = token_lifetime
        self.clock_skew = clock_skew
        self.faults = Faults()
        self._azure_host = azure_host
        self._default_principal: Principal | None = None
        self._principals: dict[str, Principal] = {}
        self._tenant_id = str(uuid.uuid4())
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._untrusted_key: rsa.RSAPrivateKey | None = None
        self._key_id = secrets.token_urlsafe(20)
        self._issued_count = 0
        self._last_expired = 0
        self._last_revoked = 0

    def now(self) -> float:
        """Return the time by Azure's clock, which may differ from this machine's."""
        return time.time() + self.clock_skew

    def add_principal(self, principal: Principal) -> None:
        self._principals[principal.name] = principal

    def sign_in_as(self, bearer: Principal) -> None:
        """Choose who gets a token when none is asked for by id."""
        _check_has_tokens(bearer)
        self._default_principal = bearer

    def password_check_for(self, role_name: str) -> Callable[[str], None] | None:
        """Return the check of a token for an Entra role, or None for any other role."""
        role = self._principals.get(role_name)
        return None if role is None else partial(self.authorize, role=role)

    @property
    def role_names(self) -> list[str]:
        return list(self._principals)

    def find_principal(
        self, *, client_id: str, object_id: str, resource_id: str
    ) -> Principal | None:
        """Return the identity that is asked for, or the signed-in one when none is."""
        if not (client_id or object_id or resource_id):
            return self._default_principal
        for known in self._token_bearers():
            if (
                (client_id and known.client_id == client_id)
                or (object_id and known.object_id == object_id)
                or (resource_id and (known.resource_id or "").lower() == resource_id.lower())
            ):
                return known
        return None

    def expire_tokens(self) -> None:
        """Treat every token handed out until now as expired."""
        self._last_expired = self._issued_count

    def revoke_tokens(self) -> None:
        """Find every token handed out until now invalid, though its time has not run out."""
        self._last_revoked = self._issued_count

    def issue_token(
        self, bearer: Principal, resource: str | None = None, lifetime: float | None = None
    ) -> str:
        """Make a signed token, or what the token fault in force makes of it."""
        _check_has_tokens(bearer)
        fault = self.faults.token
        now = int(self.now())
        lifetime = self.token_lifetime if lifetime is None else lifetime
        if fault == "expired":
            now, lifetime = now - 7200, 3600
        self._issued_count += 1
        payload: dict[str, Any] = {
            "aud": resource or self._azure_host.resource,
            "iss": _ISSUER.format(tenant=self._tenant_id),
            "iat": now,
            "nbf": now,
            "exp": int(now + lifetime),
            "idp": _ISSUER.format(tenant=self._tenant_id),
            "tid": self._tenant_id,
            "uti": f"{self._issued_count:022d}",
            "ver": "1.0",
            "rh": f"1.{secrets.token_urlsafe(40)}.",
        } | identity_claims(bearer, self._groups_of(bearer))
        if fault == "wrong-audience":
            payload["aud"] = "https://management.azure.com"
        elif fault == "no-oid":
            del payload["oid"]
        key = self._get_untrusted_key() if fault == "wrong-signature" else self._key
        text = self._sign(payload, key)
        if (missing := bearer.token_size - len(text)) > 0:
            # An opaque claim fills what the others leave; three bytes make four characters.
            payload["aio"] = secrets.token_urlsafe(missing)[: missing * 3 // 4]
            text = self._sign(payload, key)
        return text.replace(".", "-") if fault == "malformed" else text

    def authorize(self, token: str, role: Principal) -> None:
        """Return when the token lets its bearer sign in as the role, or raise the refusal."""
        try:
            jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _azure_messages.token_malformed() from None
        try:
            # The times are judged by Azure's clock below; PyJWT knows only this machine's.
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
        if claims["exp"] <= self.now() or int(claims["uti"]) <= self._last_expired:
            raise _azure_messages.token_expired()
        if int(claims["uti"]) <= self._last_revoked:
            raise _azure_messages.token_invalid()
        if claims["aud"].rstrip("/") != self._azure_host.resource:
            raise _azure_messages.wrong_audience(self._azure_host.resource)
        if not (oid := claims.get("oid")):
            raise _azure_messages.no_object_id()
        admitted = role.members if role.kind == "group" else (role,)
        if oid not in (principal.object_id for principal in admitted):
            raise _azure_messages.wrong_role(role.name, is_app=claims["idtyp"] == "app")

    def _sign(self, payload: dict[str, Any], key: rsa.RSAPrivateKey) -> str:
        headers = {"kid": self._key_id, "x5t": self._key_id}
        return jwt.encode(payload, key, algorithm="RS256", headers=headers)

    def _get_untrusted_key(self) -> rsa.RSAPrivateKey:
        if self._untrusted_key is None:
            self._untrusted_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
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


def _check_has_tokens(principal: Principal) -> None:
    if principal.kind in {"group", "native"}:
        raise EmulatorError(
            f"There are no tokens for a {principal.kind} role; "
            "a group's members sign in with their own."
        )
