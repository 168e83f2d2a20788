"""Mask secrets in messages, and in reprs of variables by the type `Secret`."""

from __future__ import annotations

import re
from typing import SupportsIndex

MAX_CLAIM_CHARACTERS = 400
"""A claim is cut after so many characters.

The ID of a managed identity, with the longest names that Azure allows, has about 350: an assumption
from the limits in learn.microsoft.com/azure/azure-resource-manager/management/
resource-name-rules (copy of 07/2026).
"""

# The beginning of any JWT: a quoted response may be cut in the middle of a token
_TOKEN = r"eyJ[\w.-]{16,}"

MIN_SECRET_LENGTH = 6
"""A secret with fewer characters is masked only as a whole word: masked inside of other words it
would make the message unreadable, and the gaps would reveal the secret."""


class Secret(str):
    """A text whose repr is masked, because error reports print the variables of frames.

    A slice is masked too, because rich and structlog cut a long text before they print its repr.
    `str()`, formatting, `encode()`, JSON and pickle give the text, because drivers need it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"

    def __getitem__(self, key: SupportsIndex | slice) -> Secret:
        return type(self)(super().__getitem__(key))


def redact(message: str, *secrets: str | None) -> str:
    """Return a message with secrets and tokens masked, and control characters replaced.

    Args:
        message: The message.
        *secrets: Secrets to mask. One with fewer than `MIN_SECRET_LENGTH` characters is masked
            only if no letter, digit or underscore is next to it.
    """
    redacted = _printable(message)
    # The longest first: one secret may contain another one. No regular expressions: Python caches
    # them, and the cache would keep the secrets.
    printable = sorted({_printable(secret) for secret in secrets if secret}, key=len, reverse=True)
    for secret in printable:
        if len(secret) >= MIN_SECRET_LENGTH:
            redacted = redacted.replace(secret, "…")
    redacted = re.sub(_TOKEN, "…", redacted, flags=re.ASCII)
    short = [each for each in printable if len(each) < MIN_SECRET_LENGTH and not each.isspace()]
    before = None
    while redacted != before:  # the text next to a mask may become a whole word
        before = redacted
        for secret in short:
            redacted = _mask_word(redacted, secret)
    return redacted.strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _mask_word(text: str, word: str) -> str:
    start = 0
    while (found := text.find(word, start)) >= 0:
        start, end = found + 1, found + len(word)
        neighbors = text[found - 1 : found] + text[end : end + 1]
        if not any(c.isalnum() or c == "_" for c in neighbors):
            text = f"{text[:found]}…{text[end:]}"
    return text


def sanitized(claim: object) -> str:
    """Return a claim of a token as one short line of printable text, without secrets.

    The claims are not verified: they may contain line breaks and terminal escapes. A list or an
    object is shown by its type only.
    """
    text = str(claim) if isinstance(claim, str | int | float) else type(claim).__name__
    line = redact(text).replace("\n", " ")
    return line if len(line) <= MAX_CLAIM_CHARACTERS else f"{line[:MAX_CLAIM_CHARACTERS]}…"


def quotes_token(message: str) -> bool:
    """Return whether a message quotes a JSON web token, or the beginning of one."""
    return re.search(_TOKEN, message, re.ASCII) is not None


def quote(value: str, pattern: str = r"[\w.+-]{0,30}") -> str:
    """Return the repr of a value for a message, or "…" if the value does not match a pattern.

    A value of a misread string may contain other values, and a password.
    """
    return repr(value) if re.fullmatch(pattern, value) else "…"
