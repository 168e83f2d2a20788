"""The unverified claims of a JSON web token, and whether Microsoft Entra ID issued it. Pure."""

from __future__ import annotations

import json
from binascii import a2b_base64
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

Claims: TypeAlias = dict[str, object]

APPLICATION_ID = "123cd850-d9df-40bd-94d5-c9f07b7fa203"
"""The application "Azure OSSRDBMS Database": a token's audience may be its ID.

Source: the ID is in public lists of Microsoft's applications (2026-11-28). That a token's
audience can be the ID instead of the resource is an assumption.
"""

# Issuers in the public cloud and in each national cloud. The form of a token's `iss` is an
# assumption: the names are those of azure-cli-core 2.91.0 and MSAL 1.39.0 (2026-11-27)
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
    """Return the unverified claims of a JWT, or an empty dict if it is invalid."""
    try:
        body = text.split(".")[1]
        read = json.loads(a2b_base64(body.translate(_URL_SAFE) + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


_URL_SAFE = str.maketrans("-_", "+/")


def entra_claims(text: str, resources: Collection[str]) -> Claims | None:
    """Return the claims of a Microsoft Entra access token, or None for any other text.

    A token counts if its audience is one of `resources`, or if Microsoft Entra issued it for
    another one: a token for Azure's management must not leak either.

    Args:
        text: The text, which may begin with "Bearer " or be quoted.
        resources: The resources of databases, without "/.default".
    """
    text = text.strip().removeprefix("Bearer ").strip(" \t\r\n\"'")
    if not text.startswith("eyJ") or text.count(".") != 2:
        return None
    found = claims(text)
    audience, issuer = _text(found.get("aud")), _host(_text(found.get("iss")))
    known = {APPLICATION_ID, *(resource.rstrip("/").lower() for resource in resources)}
    return found if audience.rstrip("/").lower() in known or issuer in _ISSUERS else None


def other_service(found: Claims) -> str | None:
    """Return the host in the audience if a token is for another Azure service, or None."""
    audience = _text(found.get("aud"))
    host = _host(audience)
    return host if host.startswith(_OTHER_SERVICES) or ".vault." in host else None


def _host(url: str) -> str:
    """Return the host of a URL in lower case, or an empty text."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _text(value: object) -> str:
    if isinstance(value, list):  # RFC 7519 allows several audiences
        value = next((each for each in value if isinstance(each, str)), "")
    return value if isinstance(value, str) else ""
