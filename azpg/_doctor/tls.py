"""A look at a server's TLS: a handshake of its own, over which nothing is ever sent."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

# azure-identity's own; it reads certificates that nobody trusts, which ssl does not.
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
"""PostgreSQL's question whether a server has TLS."""


class Certificate(NamedTuple):
    """What a certificate says of itself; nobody has checked it."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    ends: dt.datetime
    sha256: str

    def days_left(self) -> int:
        """Return the whole days until its end, negative behind it."""
        return (self.ends - dt.datetime.now(dt.UTC)).days


@dataclass(frozen=True, slots=True)
class Handshake:
    """What one handshake showed."""

    version: str
    cipher: str
    sent: tuple[Certificate, ...]
    """the chain as the server sends it, its own certificate first"""
    root: Certificate | None
    """the trusted root that the chain ends in; None where it could not be verified"""
    problem: str = ""
    """why it could not be verified, in OpenSSL's words"""


class NoTLSError(Exception):
    """Tell that the server did not begin TLS."""


def look(
    address: tuple[str, int],
    name: str,
    *,
    roots: str | None,
    check_name: bool,
    direct: bool,
    timeout: float,
) -> Handshake:
    """Shake hands with a server as libpq does, and once more without looking where it fails.

    `roots` is a PEM file, or "system"; None verifies nothing. `timeout` is in seconds.

    Raise `NoTLSError` or `OSError` where there is no TLS to look at.
    """
    problem = ""
    if roots is not None:
        try:
            context = _context(roots)
            context.check_hostname = check_name
            return _shake(context, address, name, direct=direct, timeout=timeout)
        except ssl.SSLCertVerificationError as error:
            problem = f"certificate verify failed: {error.verify_message}"
            if error.verify_code in _OTHER_NAME:
                problem = ""
        except _RootsError as error:
            problem = str(error)
    context = _context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to look at what is refused; nothing is sent
    seen = _shake(context, address, name, direct=direct, timeout=timeout)
    if roots is not None and not problem:
        own = next(iter(seen.sent[0].names or [seen.sent[0].subject])) if seen.sent else ""
        problem = f'server certificate for "{own}" does not match host name "{name}"'
    return replace(seen, problem=problem)


_OTHER_NAME = (62, 64)
"""OpenSSL's codes for a certificate of another name and of another address."""


class _RootsError(Exception):
    """Tell that there are no roots to verify with."""


def _context(roots: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if roots == "system":
            context.load_default_certs()
        elif roots:
            context.load_verify_locations(roots)
    except OSError as error:
        raise _RootsError(f"root certificate file {roots!r} cannot be read: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with suppress(NotImplementedError):
        context.set_alpn_protocols(["postgresql"])
    return context


def _shake(
    context: ssl.SSLContext,
    address: tuple[str, int],
    name: str,
    *,
    direct: bool,
    timeout: float,
) -> Handshake:
    with socket.create_connection(address, timeout) as sock:
        if not direct:
            sock.sendall(SSL_REQUEST)
            if (answer := sock.recv(1)) != b"S":
                raise NoTLSError(_WITHOUT.get(answer, "the server does not speak PostgreSQL"))
        with context.wrap_socket(sock, server_hostname=name or None) as tls:
            cipher = tls.cipher()
            verified = _chain(tls, "verified") if context.verify_mode else ()
            return Handshake(
                version=tls.version() or "",
                cipher=cipher[0] if cipher else "",
                sent=_chain(tls, "unverified"),
                root=verified[-1] if verified else None,
            )


_WITHOUT = {
    b"N": "server does not support SSL, but SSL was required",  # libpq's words
    b"": "server closed the connection unexpectedly",
}


def _chain(tls: ssl.SSLSocket, which: Literal["verified", "unverified"]) -> tuple[Certificate, ...]:
    inner: Any = tls
    if not hasattr(tls, "get_verified_chain"):  # public from Python 3.13 on
        inner = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    sent = getattr(inner, f"get_{which}_chain")() or ()
    return read(
        [
            der if isinstance(der, bytes) else ssl.PEM_cert_to_DER_cert(der.public_bytes())
            for der in sent
        ]
    )


def read(certificates: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Return what certificates in DER say, as far as they can be read."""
    found = []
    for der in certificates:
        with suppress(ValueError):
            found.append(_read(x509.load_der_x509_certificate(der)))
    return tuple(found)


def _read(certificate: x509.Certificate) -> Certificate:
    names: tuple[str, ...] = ()
    with suppress(x509.ExtensionNotFound):
        kind = x509.SubjectAlternativeName
        names = tuple(
            certificate.extensions.get_extension_for_class(kind).value.get_values_for_type(
                x509.DNSName
            )
        )
    return Certificate(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        names=names,
        ends=certificate.not_valid_after_utc,
        sha256=certificate.fingerprint(SHA256()).hex(),
    )


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else str(name.rfc4514_string())
