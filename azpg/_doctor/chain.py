"""Why a server's chain of certificates ends in no trusted root, and what to do about it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

from azpg._tls.roots import certifi_certificates, certificates, root_file

from .tls import read_certificates, root_of

if TYPE_CHECKING:
    from .tls import Certificate


class Cause(NamedTuple):
    """Why a chain is not verified."""

    name: str
    """for programs: "stale root file", "unpinned root", "incomplete chain" or "private root\""""
    problem: str
    hint: str


def find_cause(
    chain: tuple[Certificate, ...],
    pins: frozenset[str],
    *,
    address: tuple[str, int],
    server_name: str,
    own_file: str,
    direct: bool,
    timeout: float,
) -> Cause | None:
    """Return why a chain that the server sent ends in no trusted root.

    It does more handshakes, each with other roots, over which nothing is sent.

    Args:
        chain: what the server sent, its own certificate first.
        pins: the fingerprints of the pinned roots.
        address: the IP address and port of the server.
        server_name: the name of the server.
        own_file: the root file that the caller named; empty if azpg's roots are used.
        direct: whether TLS starts at once.
        timeout: of each handshake, in seconds.
    """
    if not chain:
        return None

    def root_in(roots: str) -> Certificate | None:
        return root_of(address, server_name, roots=roots, direct=direct, timeout=timeout)

    if own_file and (root := root_in(root_file(pins))):
        return _stale_root_file(root, own_file)
    if root := root_in(root_file("certifi")):
        return _unpinned_root(root)
    last = _last(chain)
    if not last.is_self_signed and last.issuer_organization in _known_organizations(pins):
        return _incomplete_chain(last)
    return _private_root(last, own_file)


def _last(chain: tuple[Certificate, ...]) -> Certificate:
    """Return the last certificate of a chain by its issuers; servers send them in any order."""
    by_subject = {each.subject: each for each in chain[1:]}
    last = chain[0]
    while not last.is_self_signed and last.issuer in by_subject:
        last = by_subject.pop(last.issuer)
    return last


def _known_organizations(pins: frozenset[str]) -> set[str]:
    """Return the organizations of the pinned roots and of certifi's."""
    ders = [*(root.der for root in certificates(pins).values()), *certifi_certificates()]
    with warnings.catch_warnings():
        # cryptography warns of an old root whose serial number is zero
        warnings.simplefilter("ignore")
        known = read_certificates(ders)
    return {each.issuer_organization for each in known} - {""}


def _stale_root_file(root: Certificate, file: str) -> Cause:
    return Cause(
        "stale root file",
        f"the chain ends in {root.subject}, a pinned root that {file} lacks",
        "leave out sslrootcert (or unset PGSSLROOTCERT): azpg has Azure's roots itself",
    )


def _unpinned_root(root: Certificate) -> Cause:
    return Cause(
        "unpinned root",
        f"the chain ends in {root.subject}, a public root that certifi has and azpg does not pin",
        "upgrade azpg, or until then set PGSSLROOTCERT=$(python -m certifi). If Microsoft has not "
        "announced this root, make sure that this is your server",
    )


def _incomplete_chain(last: Certificate) -> Cause:
    return Cause(
        "incomplete chain",
        f"the server did not send the certificate of {last.issuer}, which issued {last.subject}",
        "report it to the server's operator (Azure's support). Until then pass a file with that "
        "certificate and the output of azpg roots --pem as ⟦sslrootcert=⟧",
    )


def _private_root(last: Certificate, file: str) -> Cause:
    where = "pass a file with it as ⟦sslrootcert=⟧"
    if file and file != "system":
        where = f"add it to {file}"
    return Cause(
        "private root",
        f"the chain ends in {last.issuer}, which is neither pinned nor public: a TLS-inspecting "
        f"proxy, or a private root",
        f"ask your network's administrator to exempt the server from TLS inspection. If you trust "
        f"that root, {where}",
    )
