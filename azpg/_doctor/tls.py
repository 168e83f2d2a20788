"""Inspect a server's TLS in a handshake of its own, over which nothing is sent."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

# A dependency of azure-identity. It reads untrusted certificates, which `ssl` does not.
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from azpg._redact import sanitized

if TYPE_CHECKING:
    from collections.abc import Sequence

SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
"""PostgreSQL's message that asks a server for TLS."""


class Certificate(NamedTuple):
    """The content of a certificate, unverified."""

    subject: str
    issuer: str
    issuer_organization: str
    is_self_signed: bool
    names: tuple[str, ...]
    not_after: dt.datetime
    sha256: str

    def days_left(self) -> int:
        """Return the whole days until it expires; negative if it has."""
        return (self.not_after - dt.datetime.now(dt.UTC)).days


@dataclass(frozen=True, slots=True)
class Handshake:
    """The result of a TLS handshake."""

    version: str
    cipher: str
    chain: tuple[Certificate, ...]
    """as the server sends it, the server's own certificate first"""
    root: Certificate | None
    """the trusted root that the chain ends in; None if the chain could not be verified"""
    problem: str = ""
    """OpenSSL's message, if the chain could not be verified"""
    has_unknown_issuer: bool = False
    """that message is about the end of the chain, not about a date or a name"""


class NoTLSError(Exception):
    """The server did not start TLS."""


def inspect_tls(
    address: tuple[str, int],
    server_name: str,
    *,
    roots: str | None,
    check_name: bool,
    direct: bool,
    timeout: float,
) -> Handshake:
    """Do the handshake that libpq would do; if it fails, do one that verifies nothing.

    Args:
        address: the IP address and port to connect to.
        server_name: the name that the certificate is verified against.
        roots: a PEM file, or "system"; None verifies nothing.
        check_name: whether the certificate's name is verified.
        direct: whether TLS starts at once, without PostgreSQL's request (sslnegotiation=direct).
        timeout: in seconds.

    Raises:
        NoTLSError: the server does not start TLS.
        OSError: the connection or the handshake failed.
    """
    problem = ""
    has_unknown_issuer = False
    if roots is not None:
        try:
            context = _ssl_context(roots)
            context.check_hostname = check_name
            return _handshake(context, address, server_name, direct=direct, timeout=timeout)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code not in _NAME_MISMATCH_CODES:
                problem = f"certificate verify failed: {error.verify_message}"
                has_unknown_issuer = error.verify_code in _UNKNOWN_ISSUER_CODES
        except _RootsError as error:
            problem = str(error)
    context = _ssl_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to read the rejected certificate; nothing is sent
    handshake = _handshake(context, address, server_name, direct=direct, timeout=timeout)
    if roots is not None and not problem:
        certificate_name = ""
        if handshake.chain:
            certificate = handshake.chain[0]
            certificate_name = next(iter(certificate.names or [certificate.subject]))
        problem = (
            f'server certificate for "{certificate_name}" does not match host name "{server_name}"'
        )
    return replace(handshake, problem=problem, has_unknown_issuer=has_unknown_issuer)


def root_of(
    address: tuple[str, int], server_name: str, *, roots: str, direct: bool, timeout: float
) -> Certificate | None:
    """Return the root that a server's chain ends in, or None if these roots do not verify it.

    Args:
        address: the IP address and port to connect to.
        server_name: the name that TLS asks for; the certificate may have another one.
        roots: a PEM file.
        direct: whether TLS starts at once.
        timeout: in seconds.
    """
    try:
        context = _ssl_context(roots)
        context.check_hostname = False
        return _handshake(context, address, server_name, direct=direct, timeout=timeout).root
    except (NoTLSError, OSError, _RootsError):
        return None


_UNKNOWN_ISSUER_CODES = (2, 18, 19, 20, 21)
"""OpenSSL's error codes for a chain that ends in no trusted root."""

_NAME_MISMATCH_CODES = (62, 64)
"""OpenSSL's error codes for a certificate of another host name or IP address."""


class _RootsError(Exception):
    """The root certificates cannot be read."""


def _ssl_context(roots: str = "") -> ssl.SSLContext:
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


def _handshake(
    context: ssl.SSLContext,
    address: tuple[str, int],
    server_name: str,
    *,
    direct: bool,
    timeout: float,
) -> Handshake:
    with socket.create_connection(address, timeout) as sock:
        if not direct:
            sock.sendall(SSL_REQUEST)
            answer = sock.recv(1)
            if answer != b"S":
                byte = sanitized(answer.decode("latin-1"))
                unexpected = f"received invalid response to SSL negotiation: {byte}"
                raise NoTLSError(_NO_TLS_PROBLEMS.get(answer, unexpected))
        with context.wrap_socket(sock, server_hostname=server_name or None) as tls:
            cipher = tls.cipher()
            verified = _chain(tls, "verified") if context.verify_mode else ()
            return Handshake(
                version=tls.version() or "",
                cipher=cipher[0] if cipher else "",
                chain=_chain(tls, "unverified"),
                root=verified[-1] if verified else None,
            )


# libpq's messages
_NO_TLS_PROBLEMS = {
    b"N": "server does not support SSL, but SSL was required",
    b"": "server closed the connection unexpectedly",
}


def _chain(tls: ssl.SSLSocket, which: Literal["verified", "unverified"]) -> tuple[Certificate, ...]:
    socket_with_chain: Any = tls
    if not hasattr(tls, "get_verified_chain"):  # public since Python 3.13
        socket_with_chain = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    certificates = getattr(socket_with_chain, f"get_{which}_chain")() or ()
    return read_certificates(
        [
            each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes())
            for each in certificates
        ]
    )


def read_certificates(certificates: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Return the content of certificates in DER form, without those that cannot be read."""
    found = []
    for der in certificates:
        with suppress(ValueError):
            found.append(_read_certificate(x509.load_der_x509_certificate(der)))
    return tuple(found)


def _read_certificate(certificate: x509.Certificate) -> Certificate:
    names: tuple[str, ...] = ()
    with suppress(x509.ExtensionNotFound):
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(extension.value.get_values_for_type(x509.DNSName))
    return Certificate(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        issuer_organization=_organization(certificate.issuer),
        is_self_signed=certificate.subject == certificate.issuer,
        names=names,
        not_after=certificate.not_valid_after_utc,
        sha256=certificate.fingerprint(SHA256()).hex(),
    )


def _organization(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value) if found else ""


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else str(name.rfc4514_string())
