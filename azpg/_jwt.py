"""What a JSON web token says of itself, unverified, and whether Microsoft Entra issued it. Pure."""

from __future__ import annotations

import json
from binascii import a2b_base64
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

Claims: TypeAlias = dict[str, object]

APPLICATION_ID = "123cd850-d9df-40bd-94d5-c9f07b7fa203"
"""The application "Azure OSSRDBMS Database", which a token may name instead of its resource."""

# Microsoft Entra's own, and each national cloud's: what the documentation of each shows
_ISSUERS = frozenset(
    {
        "sts.windows.net",
        "sts.chinacloudapi.cn",
        "login.microsoftonline.com",
        "login.microsoftonline.us",
        "login.windows.net",
        "login.chinacloudapi.cn",
        "login.partner.microsoftonline.cn",
        "login.sovcloud-identity.fr",
        "login.sovcloud-identity.de",
        "login.sovcloud-identity.sg",
    }
)

_OTHER_SERVICES = ("management.", "graph.", "vault.", "storage.", "kusto.")


def claims(text: str) -> Claims:
    """Return the claims of a JWT, unverified; none where it cannot be read."""
    try:
        body = text.split(".")[1]
        read = json.loads(a2b_base64(body.translate(_URL_SAFE) + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


_URL_SAFE = str.maketrans("-_", "+/")


def entra_claims(text: str, resources: Collection[str]) -> Claims | None:
    """Return the claims of a Microsoft Entra token, or None for any other text.

    It is one if it is for a known database resource, or if Microsoft Entra issued it: a token for
    another resource, such as Azure's management, is worth even more to a thief.
    """
    text = text.strip().removeprefix("Bearer ").strip(" \t\r\n\"'")
    if not text.startswith("eyJ") or text.count(".") != 2:
        return None
    found = claims(text)
    audience, issuer = _text(found.get("aud")), _host(_text(found.get("iss")))
    known = {APPLICATION_ID, *(resource.rstrip("/").lower() for resource in resources)}
    return found if audience.rstrip("/").lower() in known or issuer in _ISSUERS else None


def other_service(found: Claims) -> str | None:
    """Return the audience of a token that is for another service of Azure's, or None."""
    audience = _text(found.get("aud"))
    host = _host(audience)
    return host if host.startswith(_OTHER_SERVICES) or ".vault." in host else None


def _host(url: str) -> str:
    """Return the host of a URL in lower case, or nothing if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _text(value: object) -> str:
    if isinstance(value, list):  # RFC 7519 allows several audiences
        value = next((each for each in value if isinstance(each, str)), "")
    return value if isinstance(value, str) else ""
