"""What a JSON web token says of itself, unverified. Pure."""

from __future__ import annotations

import json
from binascii import a2b_base64
from typing import TypeAlias

Claims: TypeAlias = dict[str, object]


def claims(text: str) -> Claims:
    """Return the claims of a JWT, unverified; none where it cannot be read."""
    try:
        body = text.split(".")[1]
        read = json.loads(a2b_base64(body.translate(_URL_SAFE) + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


_URL_SAFE = str.maketrans("-_", "+/")
