"""A Microsoft Entra access token: its lifetime, its PostgreSQL role, its user. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias

from azpg._jwt import Claims, claims
from azpg._redact import sanitized
from azpg.errors import CredentialError

if TYPE_CHECKING:
    Subject: TypeAlias = dict[str, str]
    """the claims that say whose a token is"""

MIN_REMAINING_SECONDS = 20.0
"""Lifetime that a token must have left to be handed out: more than a connect takes, because the
server checks the expiry only once, when the connection authenticates."""

ISSUED_AT_SKEW_SECONDS = 300.0
"""How far Microsoft Entra dates a token back: its `iat` is earlier than the moment it was issued.

An assumption, from the sample response in learn.microsoft.com/entra/identity/
managed-identities-azure-resources/how-to-use-vm-token (copy of 07/2026), whose token is valid for
3599 s and spans 3900.
"""

EXPIRY_TOLERANCE_SECONDS = 30.0
"""Difference in the expiry that a credential returns with the same token, for example because it
rounds the seconds or because the clock was adjusted."""

MAX_LIFETIME_SECONDS = 2**31
"""A longer lifetime is ignored: the claims may hold any number."""


class ClockReading(NamedTuple):
    """Both clocks of the machine at one moment, in seconds."""

    monotonic: float
    wall: float
    """since 1970"""

    def seconds_since(self, earlier: ClockReading) -> float:
        """Return the time that has passed since an earlier reading.

        The wall clock may have been set back, and the monotonic clock may stand still while the
        machine sleeps: the clock that advanced further is right.
        """
        return max(self.monotonic - earlier.monotonic, self.wall - earlier.wall)


class Token:
    """An access token with what its claims say. Its text is in no repr.

    Attributes:
        text: The token itself.
        expires_on: Expiry that the credential returned, in seconds since 1970.
        received: Both clocks when the token was received.
        ttl: Seconds that it had left when it was received.
        refresh_in: Seconds after it was received when the credential can refresh it, if known.
        claimed_role: PostgreSQL role name derived from the claims, if they name one.
        subject: The claims that say whose token it is; empty if there are none.
    """

    def __init__(
        self,
        text: str,
        expires_on: float,
        received: ClockReading,
        ttl: float,
        *,
        refresh_in: float | None = None,
        claimed_role: str | None = None,
        subject: Subject | None = None,
    ) -> None:
        self.text = text
        self.expires_on = expires_on
        self.received = received
        self.ttl = ttl
        self.refresh_in = refresh_in
        self.claimed_role = claimed_role
        self.subject: Subject = subject or {}

    @classmethod
    def from_response(
        cls, text: str, expires_on: float, refresh_on: float | None, now: ClockReading
    ) -> Token:
        """Return a token that a credential has just returned.

        If the machine's clock is wrong by an hour, a new token seems to have expired, or to live
        longer than any token does. Its own lifetime (`exp` minus `iat`) is the upper limit, and
        replaces a time to live that is not positive.

        Args:
            text: The token itself.
            expires_on: When it expires, in seconds since 1970.
            refresh_on: When the credential can refresh it, in seconds since 1970, if it says so.
            now: Both clocks.
        """
        ttl = expires_on - now.wall
        its_claims = claims(text)
        given = lifetime(its_claims)
        if given is not None and not 0.0 < ttl <= given:
            backdated = given > 2 * ISSUED_AT_SKEW_SECONDS
            ttl = given - ISSUED_AT_SKEW_SECONDS if backdated else given
        return cls(
            text,
            expires_on,
            now,
            ttl,
            refresh_in=None if refresh_on is None else refresh_on - now.wall,
            claimed_role=claimed_role(its_claims),
            subject=subject(its_claims),
        )

    def __repr__(self) -> str:
        return f"<Token of {len(self.text)} characters, expires_on={self.expires_on:.0f}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled")

    def role(self) -> str:
        """Return the PostgreSQL role of its user.

        Raises:
            CredentialError: The token names no role, or one that libpq must not be given.
        """
        if self.claimed_role is not None and self.claimed_role.isprintable():
            return self.claimed_role
        return require_role(claims(self.text))

    def remaining(self, now: ClockReading) -> float:
        """Return the seconds until it expires; negative if it has expired."""
        return self.ttl - now.seconds_since(self.received)

    def is_usable(self, now: ClockReading) -> bool:
        """Return whether enough of its lifetime remains to hand it out."""
        return self.remaining(now) > MIN_REMAINING_SECONDS

    def is_newer_than(self, other: Token, now: ClockReading) -> bool:
        """Return whether it is another token, and expires later."""
        return not self.is_same_as(other) and self.remaining(now) > other.remaining(now)

    def is_same_as(self, other: Token) -> bool:
        """Return whether this is the other token again, from the credential's own cache."""
        latest = other.expires_on + EXPIRY_TOLERANCE_SECONDS
        return self.text == other.text and self.expires_on <= latest


def lifetime(claims: Claims) -> float | None:
    """Return the seconds between issue and expiry of a token, or None if it does not say."""
    issued, expires = claims.get("iat"), claims.get("exp")
    if isinstance(issued, int) and isinstance(expires, int):
        given = expires - issued
        return float(given) if 0 < given <= MAX_LIFETIME_SECONDS else None
    return None


def claimed_role(claims: Claims) -> str | None:
    """Return the PostgreSQL role name derived from the claims, or None if they name nobody.

    A user's name is in `upn`, `preferred_username` or `unique_name`; a managed identity's is the
    end of the resource in `xms_mirid`, where an App Service slot is called `<app>/slots/<slot>`.
    A service principal's token holds no name.
    """
    for name in ("upn", "preferred_username", "unique_name"):
        value = claims.get(name)
        if isinstance(value, str) and value:
            return value
    resource = claims.get("xms_mirid")
    if not isinstance(resource, str):
        return None
    path = resource.rstrip("/").split("/")
    if len(path) < 3:
        return None
    if path[-2].lower() == "slots":
        return "/".join(path[-3:])
    return path[-1] or None


def require_role(claims: Claims) -> str:
    """Return the PostgreSQL role of a token's user.

    Raises:
        CredentialError: The claims name no role, or one that libpq must not be given, because it
            reads text only up to the first NUL.
    """
    role = claimed_role(claims)
    if role is not None and role.isprintable():
        return role
    raise CredentialError(
        no_role_message(claims) if role is None else unprintable_role_message(role),
        kind="no-user",
        hint='write ⟦user="…"⟧ with the name of its PostgreSQL role, for a service principal its '
        "display name in Microsoft Entra",
    )


class TokenOwner(NamedTuple):
    """Whose a token is, as far as its claims say; not verified, in printable characters."""

    role: str = ""
    """the PostgreSQL role that its claims name; empty if they name none"""
    kind: str = ""
    """"user", "managed identity" or "service principal"; empty if it is not known"""
    object_id: str = ""


def token_owner(claims: Claims) -> TokenOwner:
    """Return whose token it is."""
    object_id = sanitized(claims.get("oid") or "")
    if "xms_mirid" in claims:
        kind = "managed identity"
    elif claims.get("idtyp") == "user" or "upn" in claims or "unique_name" in claims:
        kind = "user"
    elif claims.get("idtyp") == "app" or "appid" in claims or "azp" in claims:
        kind = "service principal"
    else:
        kind = ""
    return TokenOwner(
        sanitized(claimed_role(claims) or ""),
        kind,
        object_id if re.fullmatch(r"[0-9A-Fa-f-]{36}", object_id) else "",
    )


def no_role_message(claims: Claims) -> str:
    """Return the message for a token that names no role."""
    if not claims:
        return "the token is not a readable JWT, so it names no user"
    ids = ", ".join(
        f"{name} {sanitized(value)}" for name in ("appid", "oid") if (value := claims.get(name))
    )
    kind = (
        "a service principal's" if claims.get("appid") or claims.get("azp") else "of no known kind"
    )
    return f"the token is {kind} and holds no name" + (f" ({ids})" if ids else "")


def unprintable_role_message(role: str) -> str:
    """Return the message for a token whose role name no PostgreSQL role can have."""
    what = "a NUL" if "\0" in role else "characters that cannot be printed"
    return f"the user name in the token has {what} in it: {sanitized(role)}"


def subject(claims: Claims) -> Subject:
    """Return the claims that say whose token it is; none if it does not say.

    They are its tenant and the ids of its user or application, or its names if it has no ids.
    """
    found = _texts({name: claims.get(name) for name in ("tid", "oid", "sub")})
    if found.keys() <= {"tid"}:
        application = claims.get("appid") or claims.get("azp")
        found |= _texts({"user": claimed_role(claims), "application": application})
    return found


def _texts(claims: Claims) -> Subject:
    return {name: value for name, value in claims.items() if isinstance(value, str) and value}


def is_same_subject(one: Subject, other: Subject) -> bool:
    """Return whether two tokens are the same user's, as far as both say.

    Tokens that say nothing are taken for the same user's. If only one of them says whose it is,
    or they have no id in common, they are not.
    """
    common = one.keys() & other.keys()
    if any(one[name] != other[name] for name in common):
        return False
    return one == other or not common <= {"tid"}
