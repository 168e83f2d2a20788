"""Keep secrets out of what is printed, logged or raised: redacted messages and `Secret`."""

from __future__ import annotations

import re
from typing import SupportsIndex

# How every JWT begins: an endpoint's answer may be quoted that was cut in the middle of a token.
_TOKEN = r"eyJ[\w.-]{16,}"


class Secret(str):
    """Text that no repr shows: error reports and debuggers print the variables of frames.

    A slice is masked too, because rich and structlog cut a long text before they print its repr.
    Formatting, `encode()`, JSON and pickling still give the text: drivers need it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"

    def __getitem__(self, key: SupportsIndex | slice) -> Secret:
        return type(self)(super().__getitem__(key))


def redact(message: str, *secrets: str | None) -> str:
    """Return a message without secrets in it and without control characters."""
    message = re.sub(_TOKEN, "…", message, flags=re.ASCII)
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = message.replace(secret, "…")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in message).strip()
