"""Keep secrets out of what is printed, logged or raised: redacted messages and `Secret`."""

from __future__ import annotations

import re
from typing import SupportsIndex

CLAIM_CHARACTERS = 400
"""Characters of a claim that are shown; the id of a resource in Azure has up to 350."""

# How every JWT begins: an endpoint's answer may be quoted that was cut in the middle of a token.
_TOKEN = r"eyJ[\w.-]{16,}"

MIN_SECRET_LENGTH = 6
"""Characters. A shorter secret is masked only as a whole word: inside of words it would garble the
message, and the gaps would tell what it is."""


class Secret(str):
    """Text that no repr shows: error reports and debuggers print the variables of frames.

    A slice is masked too, because rich and structlog cut a long text before they print its repr.
    Formatting, `str()`, `encode()`, JSON and pickling still give the text: drivers need it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"

    def __getitem__(self, key: SupportsIndex | slice) -> Secret:
        return type(self)(super().__getitem__(key))


def redact(message: str, *secrets: str | None) -> str:
    """Return a message without secrets in it and without control characters.

    A secret of fewer than `MIN_SECRET_LENGTH` characters is masked only as a whole word: where no
    letter, digit or underscore is next to it.
    """
    shown = _printable(message)
    # The longest first, so that nothing is left of a secret that begins as another one does. No
    # regular expression holds a secret: Python keeps those it has compiled.
    hidden = sorted({_printable(secret) for secret in secrets if secret}, key=len, reverse=True)
    for secret in hidden:
        if len(secret) >= MIN_SECRET_LENGTH:
            shown = shown.replace(secret, "…")
    shown = re.sub(_TOKEN, "…", shown, flags=re.ASCII)
    short = [each for each in hidden if len(each) < MIN_SECRET_LENGTH and not each.isspace()]
    before = None
    while shown != before:  # a mask makes a whole word of what is next to it
        before = shown
        for secret in short:
            shown = _mask_word(shown, secret)
    return shown.strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _mask_word(text: str, word: str) -> str:
    start = 0
    while (at := text.find(word, start)) >= 0:
        start, end = at + 1, at + len(word)
        neighbors = text[at - 1 : at] + text[end : end + 1]
        if not any(c.isalnum() or c == "_" for c in neighbors):
            text = f"{text[:at]}…{text[end:]}"
    return text


def sanitized(claim: object) -> str:
    """Return a value of a token's claims as one short line of printable text.

    Nobody has verified the claims: they may hold line breaks, terminal escapes, or anything of
    any length. Of a list or an object only its type is shown.
    """
    text = str(claim) if isinstance(claim, str | int | float) else type(claim).__name__
    line = redact(text).replace("\n", " ")
    return line if len(line) <= CLAIM_CHARACTERS else f"{line[:CLAIM_CHARACTERS]}…"


def quote(value: str, pattern: str = r"[\w.+-]{0,30}") -> str:
    """Return a value for a message, or "…" if it may be more than it should be.

    A misread string holds several values, and a password may be one of them.
    """
    return repr(value) if re.fullmatch(pattern, value) else "…"
