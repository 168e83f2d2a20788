"""Fingerprints of certificates, computed without azpg's code."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import Protocol

import pytest

from azpg._clouds import AZURE_ROOTS


class Fingerprints(Protocol):
    """Return the SHA-256 of each certificate in PEM text, or in a PEM file."""

    def __call__(self, pem: bytes | str | Path) -> list[str]:
        """Return the fingerprints in the order of the certificates."""


class HoldsTheRoots(Protocol):
    """Return whether a file contains exactly the pinned roots, each once."""

    def __call__(self, path: str) -> bool:
        """Read it."""


@pytest.fixture(scope="session")
def fingerprints() -> Fingerprints:
    """Return the SHA-256 of each certificate in PEM text, or in a PEM file."""

    def fingerprints(pem: bytes | str | Path) -> list[str]:
        if isinstance(pem, Path):
            pem = pem.read_bytes()
        text = pem.decode() if isinstance(pem, bytes) else pem
        found = re.findall("-----BEGIN CERTIF.*?-----END CERTIFICATE-----", text, re.DOTALL)
        return [hashlib.sha256(ssl.PEM_cert_to_DER_cert(each)).hexdigest() for each in found]

    return fingerprints


@pytest.fixture(scope="session")
def holds_the_roots(fingerprints: Fingerprints) -> HoldsTheRoots:
    """Return whether a file contains exactly the pinned roots, each once."""

    def holds_the_roots(path: str) -> bool:
        return sorted(fingerprints(Path(path))) == sorted(AZURE_ROOTS)

    return holds_the_roots
