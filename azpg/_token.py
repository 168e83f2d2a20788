"""What a Microsoft Entra token says, and how long it may be used. Pure: clocks come in."""

from __future__ import annotations

import json
from binascii import a2b_base64
from dataclasses import dataclass
from typing import TypeAlias

Claims: TypeAlias = dict[str, object]

MARGIN = 20.0
"""Seconds of life that a token must have left when it is handed out: more than a connect's own
time on a good day, and the server looks at the clock only once, at sign-in."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; its text is in no repr."""

    text: str
    expires_on: float
    """seconds since 1970, as the credential says"""
    dead_at: float
    """on the monotonic clock, when it is no longer handed out"""

    def __repr__(self) -> str:
        return f"<Token of {len(self.text)} characters, expires_on={self.expires_on:.0f}>"

    def usable(self, now: float) -> bool:
        """Tell whether there is life enough left at `now`, on the monotonic clock."""
        return now < self.dead_at


def received(text: str, expires_on: float, *, now: float, wall: float) -> Token:
    """Return a token as it came at `now` (monotonic) and `wall` (since 1970).

    From here on the monotonic clock counts, so that a clock set while running changes nothing.
    """
    return Token(text, expires_on, now + (expires_on - wall) - MARGIN)


def claims(text: str) -> Claims:
    """Return the claims of a JWT, unverified; none where it cannot be read."""
    try:
        body = text.split(".")[1]
        read = json.loads(a2b_base64(body.translate(_URL_SAFE) + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


_URL_SAFE = str.maketrans("-_", "+/")


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


def nameless(claims: Claims) -> str:
    """Return the sentence for a token that holds no name."""
    if not claims:
        return "the token is no JWT that can be read, so it names no user"
    ids = ", ".join(f"{name} {value}" for name in ("appid", "oid") if (value := claims.get(name)))
    kind = (
        "a service principal's" if claims.get("appid") or claims.get("azp") else "of no known kind"
    )
    return f"the token is {kind} and holds no name" + (f" ({ids})" if ids else "")
