"""`azpg roots`: list the pinned root certificates, or write them as PEM."""

from __future__ import annotations

import sys

from azpg._clouds import AZURE_ROOTS
from azpg._doctor.tls import read_certificates
from azpg._tls.roots import certificates, pem


def print_roots(*, as_pem: bool) -> int:
    """Print the pinned roots; return the exit status."""
    if as_pem:
        sys.stdout.write(pem(AZURE_ROOTS).decode("ascii"))
        return 0
    roots = certificates(AZURE_ROOTS)
    parsed = read_certificates([root.der for root in roots.values()])
    for certificate in sorted(parsed, key=lambda each: each.subject):
        print(  # noqa: T201
            f"{certificate.subject}\n"
            f"  SHA-256  {certificate.sha256}\n"
            f"  expires  {certificate.not_after:%Y-%m-%d}, in {certificate.days_left()} days\n"
            f"  from     {roots[certificate.sha256].source}"
        )
    return 0
