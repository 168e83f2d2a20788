"""Compare Microsoft's published lists of roots and host suffixes with what azpg has.

The exit status is 3 if they differ, and 4 if a list cannot be read because its form has changed.
"""

# ruff: noqa: T201  # a command prints

from __future__ import annotations

import hashlib
import re
import sys
from typing import TYPE_CHECKING
from urllib.request import urlopen

from azpg._clouds import AZURE_ROOTS, CLOUDS, token_resources
from azpg._tls.roots import certificates

if TYPE_CHECKING:
    from collections.abc import Callable

ROOTS_PAGE = (
    "https://raw.githubusercontent.com/MicrosoftDocs/azure-docs/main/articles/security/"
    "fundamentals/azure-certificate-authority-details.md"
)
CLOUDS_SOURCE = (
    "https://raw.githubusercontent.com/Azure/azure-cli/dev/src/azure-cli-core/azure/cli/core/"
    "cloud.py"
)
UNLISTED_ROOTS = {"6a170583db584151e1c454eeca2a64cc5d8e484a5bd1156e720b4458654ee9e5"}
"""Pinned for another reason: docs/explanation/roots.md, Microsoft TLS RSA Root G2."""

CLOSED_SUFFIXES = {".database.cloudapi.de"}
"""Azure Germany closed in 2021; azure-cli still lists it."""


class FormError(Exception):
    """A list has another form than expected."""


def listed_roots(page: str) -> dict[str, str]:
    """Return the roots of Microsoft's page: the SHA-1 and the name of each."""
    table = page.partition("### Root Certificate Authorities")[2].partition("\n#")[0]
    rows = re.findall(r"^\| *\[(.+?)\].*?\b([0-9A-Fa-f]{40})\b", table, re.MULTILINE)
    if not rows:
        raise FormError("no root is found in the list of certificate authorities")
    return {sha1.lower(): name for name, sha1 in rows}


def listed_clouds(source: str) -> tuple[set[str], set[str]]:
    """Return the suffixes and token resources of the clouds in azure-cli's source."""
    suffixes = re.findall(r"""sql_server_hostname=["']([^"']+)["']""", source)
    resources = re.findall(r"""ossrdbms_resource_id=["']([^"']+)["']""", source)
    if not (suffixes and resources):
        raise FormError("no cloud is found in the source of azure-cli")
    return {f".postgres{each}" for each in {*suffixes} - CLOSED_SUFFIXES}, {
        each.rstrip("/")
        for each in resources
        if not any(each.rstrip("/").endswith(closed) for closed in CLOSED_SUFFIXES)
    }


def root_differences(page: str) -> list[str]:
    """Return a line for each root that only one of the lists has."""
    listed = listed_roots(page)
    pinned = {
        hashlib.sha1(root.der, usedforsecurity=False).hexdigest(): sha256
        for sha256, root in certificates(AZURE_ROOTS - UNLISTED_ROOTS).items()
    }
    return [
        *(
            f"new root: {name}, SHA-1 {sha1}. Pin it by its SHA-256"
            for sha1, name in listed.items()
            if sha1 not in pinned
        ),
        *(
            f"no longer listed: the root with the SHA-256 {sha256}"
            for sha1, sha256 in pinned.items()
            if sha1 not in listed
        ),
    ]


def cloud_differences(source: str) -> list[str]:
    """Return a line for each suffix or resource of azure-cli that azpg does not know."""
    suffixes, resources = listed_clouds(source)
    known = {suffix for cloud in CLOUDS for suffix in cloud.suffixes}
    return [
        *(f"new host suffix: {each}" for each in sorted(suffixes - known)),
        *(f"new token resource: {each}" for each in sorted(resources - token_resources())),
    ]


def read(url: str) -> str:
    """Return the text of a published list."""
    with urlopen(url, timeout=60) as response:
        text: str = response.read().decode()
    return text


def main(read: Callable[[str], str] = read) -> int:
    """Print the differences; return the exit status."""
    try:
        differences = [*root_differences(read(ROOTS_PAGE)), *cloud_differences(read(CLOUDS_SOURCE))]
    except FormError as error:
        print(f"{error}: correct tests/tools/check_azure_lists.py")
        return 4
    print(*(differences or ["azpg has all roots and suffixes that Microsoft lists"]), sep="\n")
    return 3 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
