"""Hold the pinned roots against certifi's: what has left, what ends soon, what else there is.

The exit status is 1 where certifi has dropped a pinned root that it had at the last review.
"""

# ruff: noqa: T201  # a command prints

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import certifi

from azpg._clouds import AZURE_ROOTS
from azpg._doctor.tls import read_certificates
from azpg._tls import roots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from azpg._doctor.tls import Certificate

# DigiCert Global Root CA, which certifi 2026.4.22 dropped
KNOWN_TO_HAVE_LEFT = {"4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161"}
ORGANISATIONS = re.compile(r"\b(DigiCert|Microsoft)\b")
SOON = 365
"""days"""


def seen(roots: Iterable[roots.Root]) -> dict[str, Certificate]:
    """Return what certificates say, by their SHA-256."""
    return {each.sha256: each for each in read_certificates([root.der for root in roots])}


def show(title: str, found: Iterable[Certificate]) -> None:
    """Print certificates under a title, or that there are none."""
    lines = [
        f"  {each.subject}, ends {each.not_after:%Y-%m-%d}\n    {each.sha256}" for each in found
    ]
    print(f"{title}:", *(lines or ["  none"]), sep="\n")


def main() -> int:
    """Print what has changed; return the exit status."""
    pins = roots.certificates(AZURE_ROOTS)
    theirs = seen(roots.Root(der, "certifi") for _, der in roots.parse_pem(certifi.contents()))
    pinned = seen(pins.values())
    left = pinned.keys() - theirs.keys()
    new = left - KNOWN_TO_HAVE_LEFT
    print(f"certifi {certifi.__version__}: {len(theirs)} roots, {len(pinned) - len(left)} pinned")
    show("pinned, and gone from certifi since the last review", (pinned[each] for each in new))
    show("pinned, and gone before", (pinned[each] for each in left - new))
    show("pinned, and back in certifi", (pinned[each] for each in KNOWN_TO_HAVE_LEFT - left))
    ending = [each for each in pinned.values() if each.days_left() < SOON]
    show(f"pinned, and over within {SOON} days", ending)
    others = [
        each
        for name, each in theirs.items()
        if name not in pinned and ORGANISATIONS.search(each.subject)
    ]
    show("not pinned, of the same organisations: candidates if Microsoft lists them", others)
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
