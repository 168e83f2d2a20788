"""What a Microsoft Entra token says, how long it may be used, and when the next is asked for. Pure.

received          ask ahead                     300 s left        20 s left   expires
|--------------------|==============================|=================|----------|
   handed out           handed out, and renewed in the background        not handed out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from azpg._jwt import Claims, claims
from azpg._record import Record
from azpg._redact import sanitized
from azpg.errors import CredentialError

if TYPE_CHECKING:
    from collections.abc import Callable

    Chance: TypeAlias = Callable[[float, float], float]
    Subject: TypeAlias = dict[str, str]
    """the claims that say whose a token is"""

MARGIN = 20.0
"""Seconds of life that a token must have left when it is handed out: more than a connect takes,
as the server looks at the clock only once, at sign-in."""

LATE = 300.0
"""Seconds left under which azure-identity renews a token that has no refresh time of its own."""

DATED_BACK = 300.0
"""Seconds by which Microsoft Entra dates a token back: its `iat` lies before it was issued. (The
answer shown in the documentation of managed identities lives 3599 s and spans 3900.)"""

AGAIN = 30.0
"""Seconds between two asks for a token that is not yet to be had."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds to pause after a refresh that failed; doubled each time, up to the longest."""

ONE_REPLACEMENT = 60.0
"""Seconds in which a refused token is replaced once at most."""

LONGEST_LIFETIME_SECONDS = 2**31
"""A lifetime above this is not believed: the claims may hold any number."""


class Clocks:
    """One look at both clocks, in seconds."""

    # No Record: one is made for each connect
    def __init__(self, monotonic: float, wall: float) -> None:
        self.monotonic = monotonic
        self.wall = wall
        """since 1970"""

    def since(self, before: Clocks) -> float:
        """Return the time gone by: the wall clock may have been set, the other may have slept."""
        return max(self.monotonic - before.monotonic, self.wall - before.wall)


class Token:
    """One token; its text is in no repr."""

    def __init__(
        self,
        text: str,
        expires_on: float,
        received: Clocks,
        life: float,
        ahead: float,
        user: str | None = None,
        subject: Subject | None = None,
    ) -> None:
        self.text = text
        self.expires_on = expires_on
        """seconds since 1970, as the credential says"""
        self.received = received
        self.life = life
        """seconds it had left when it was received"""
        self.ahead = ahead
        """seconds after which the next one is asked for"""
        self.user = user
        """the role that its owner has by custom"""
        self.subject: Subject = subject or {}
        """whose it is; empty if it does not say"""

    def __repr__(self) -> str:
        return f"<Token of {len(self.text)} characters, expires_on={self.expires_on:.0f}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled")

    def role(self) -> str:
        """Return the PostgreSQL role of its owner.

        Raise `CredentialError` if the token has no name, or one that libpq must not be given.
        """
        if self.user is not None and self.user.isprintable():
            return self.user
        return require_role(claims(self.text))

    def left(self, now: Clocks) -> float:
        """Return its seconds left."""
        return self.life - now.since(self.received)

    def usable(self, now: Clocks) -> bool:
        """Tell whether it has life enough left to be handed out."""
        return self.left(now) > MARGIN

    def same(self, other: Token) -> bool:
        """Tell whether it is the other one once more, out of the credential's own cache."""
        return self.text == other.text and self.expires_on <= other.expires_on + AGAIN


def received(
    text: str, expires_on: float, refresh_on: float | None, *, now: Clocks, chance: Chance
) -> Token:
    """Return a token as it came in.

    A machine's clock may be wrong by an hour, and the token then seem dead, or to live longer
    than any: the lifetime that it was given (`exp` less `iat`) is the most it can have left, and
    what it is taken to have if by the clock it came in dead.
    """
    life = expires_on - now.wall
    read = claims(text)
    given = lifetime(read)
    if given is not None and not 0.0 < life <= given:
        life = given - DATED_BACK if given > 2 * DATED_BACK else given
    ahead = life - LATE + chance(0.0, LATE / 5) if life > 2 * LATE else life * chance(0.5, 0.6)
    if refresh_on is not None and 0.0 < (early := refresh_on - now.wall) < ahead:
        ahead = early + chance(0.0, (ahead - early) / 10)
    return Token(text, expires_on, now, life, ahead, user(read), subject(read))


class Held(Record):
    """A token in hand, and when the next is asked for."""

    token: Token
    ask_after: float
    """seconds since the token was received"""
    failures: int = 0

    def state(self, now: Clocks) -> Literal["fresh", "due", "spent"]:
        """Tell whether it is handed out, handed out and renewed meanwhile, or neither."""
        gone = now.since(self.token.received)
        if self.token.life - gone <= MARGIN:
            return "spent"
        return "due" if gone >= self.ask_after else "fresh"

    def not_yet(self, now: Clocks, chance: Chance) -> Held:
        """Return the state after an answer that was no newer than the token in hand."""
        late = self.token.life - LATE + chance(0.0, LATE / 5)
        gone = now.since(self.token.received)
        ask_after = late if gone < late else gone + AGAIN * chance(0.9, 1.1)
        return Held(token=self.token, ask_after=ask_after)

    def failed(self, now: Clocks, chance: Chance) -> Held:
        """Return the state after a refresh that failed."""
        most = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures, 8))
        gone = now.since(self.token.received)
        ask_after = gone + most * chance(0.5, 1.0)
        return Held(token=self.token, ask_after=ask_after, failures=self.failures + 1)


def answered(held: Held | None, token: Token, now: Clocks, chance: Chance) -> Held | None:
    """Return the state after a token came in, or None where nothing usable is in hand."""
    if held is not None and held.token.usable(now):
        if token.same(held.token) or token.left(now) <= held.token.left(now):
            return held.not_yet(now, chance)
    elif held is not None and token.same(held.token):
        return None
    return Held(token=token, ask_after=token.ahead) if token.usable(now) else None


def lifetime(claims: Claims) -> float | None:
    """Return the seconds that a token was given to live."""
    issued, expires = claims.get("iat"), claims.get("exp")
    if isinstance(issued, int) and isinstance(expires, int):
        given = expires - issued
        return float(given) if 0 < given <= LONGEST_LIFETIME_SECONDS else None
    return None


def user(claims: Claims) -> str | None:
    """Return the PostgreSQL role that a token's owner has by custom, or None where it says none.

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
    """Return the PostgreSQL role of a token's owner.

    Raise `CredentialError` if the token has no name, or one that libpq must not be given: it reads
    a text up to the first NUL.
    """
    role = user(claims)
    if role is not None and role.isprintable():
        return role
    raise CredentialError(
        nameless(claims) if role is None else unprintable(role),
        kind="no-user",
        hint='write user="…" with the name of its PostgreSQL role, for a service principal its '
        "display name in Microsoft Entra",
    )


def nameless(claims: Claims) -> str:
    """Return the sentence for a token that holds no name."""
    if not claims:
        return "the token is no JWT that can be read, so it names no user"
    ids = ", ".join(
        f"{name} {sanitized(value)}" for name in ("appid", "oid") if (value := claims.get(name))
    )
    kind = (
        "a service principal's" if claims.get("appid") or claims.get("azp") else "of no known kind"
    )
    return f"the token is {kind} and holds no name" + (f" ({ids})" if ids else "")


def unprintable(user: str) -> str:
    """Return the sentence for a token whose user name cannot be that of a role."""
    what = "a NUL" if "\0" in user else "characters that cannot be printed"
    return f"the user name in the token has {what} in it: {sanitized(user)}"


def subject(claims: Claims) -> Subject:
    """Return the claims that say whose a token is; none if it does not say.

    They are its tenant and the ids of its user or application, or else the names that it has.
    """
    found = _texts({name: claims.get(name) for name in ("tid", "oid", "sub")})
    if found.keys() <= {"tid"}:
        application = claims.get("appid") or claims.get("azp")
        found |= _texts({"user": user(claims), "application": application})
    return found


def _texts(claims: Claims) -> Subject:
    return {name: value for name, value in claims.items() if isinstance(value, str) and value}


def same_subject(one: Subject, other: Subject) -> bool:
    """Tell whether two tokens are the same user's, as far as both say.

    Tokens that say nothing are taken for the same user's. If only one of them says whose it is,
    or they have no id in common, they are not.
    """
    common = one.keys() & other.keys()
    if any(one[name] != other[name] for name in common):
        return False
    return one == other or not common <= {"tid"}
