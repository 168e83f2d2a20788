"""The certificates of one run: a root, an intermediate, the server's and the wrong ones."""

import datetime as dt
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from azpg.emulator._azure_host import HOST_SUFFIXES, AzureHost
from azpg.emulator._faults import CertificateFault, ListenerName

_ROOT_NAME = "azpg emulator, do not trust"
_ISSUING_CA_NAME = "azpg emulator issuing CA"
_MAX_COMMON_NAME_CHARACTERS = 64
_VALIDITY = dt.timedelta(hours=24)
# Certificates are backdated so that a client whose clock is a little behind accepts them.
_BACKDATING = dt.timedelta(minutes=5)


class CertificateAuthority:
    """Issue certificates under one root through one intermediate; keys stay in memory.

    Args:
        internal_names: The names outside the suffixes of Azure servers that the root may sign.
    """

    def __init__(self, *internal_names: str) -> None:
        self._root_key = _generate_key()
        self._issuing_key = _generate_key()
        self.root = _build_certificate(
            _name(_ROOT_NAME),
            self._root_key,
            _name(_ROOT_NAME),
            self._root_key,
            ca_path_length=1,
            permitted_names=(*(each.removeprefix(".") for each in HOST_SUFFIXES), *internal_names),
        )
        self.intermediate = _build_certificate(
            _name(_ISSUING_CA_NAME),
            self._issuing_key,
            self.root.subject,
            self._root_key,
            ca_path_length=0,
        )

    def issue_chain(self, *dns_names: str, expired: bool = False) -> bytes:
        """Issue a server certificate.

        Args:
            dns_names: The names that the certificate is for.
            expired: Whether the certificate has expired.

        Returns:
            The key, the certificate and the intermediate certificate, in PEM.
        """
        key = _generate_key()
        certificate = _build_certificate(
            _name(dns_names[0]),
            key,
            self.intermediate.subject,
            self._issuing_key,
            dns_names=dns_names,
            expired=expired,
        )
        return _key_pem(key) + _certificate_pem(certificate) + _certificate_pem(self.intermediate)

    @property
    def root_pem(self) -> bytes:
        return _certificate_pem(self.root)


class ServerCertificates:
    """The TLS contexts of a server and its replica, with the right and with wrong certificates.

    As at Azure, a certificate is for the exact name of its server and one internal name (reported
    in 05/2026; Azure documents no names). The replica is a server of its own.
    """

    def __init__(self, azure_host: AzureHost) -> None:
        server_names = (azure_host.name, azure_host.new_internal_name())
        replica_names = (azure_host.reader_host, azure_host.new_internal_name())
        self._internal_names = (server_names[1], replica_names[1])
        self._authority = CertificateAuthority(*self._internal_names)
        self._dns_names: dict[ListenerName, tuple[str, ...]] = {
            "postgres": server_names,
            "pgbouncer": server_names,
            "reader": replica_names,
        }
        self._wrong_dns_names = (f"another-server{azure_host.suffix}",)
        self._contexts: dict[tuple[tuple[str, ...], CertificateFault | None], ssl.SSLContext] = {}

    @property
    def root_pem(self) -> bytes:
        return self._authority.root_pem

    def tls_context(self, listener: ListenerName, fault: CertificateFault | None) -> ssl.SSLContext:
        """Return a listener's TLS context with the right certificate or a fault's wrong one."""
        dns_names = self._dns_names[listener]
        key = (dns_names, fault)
        if key not in self._contexts:
            self._contexts[key] = create_server_context(self._chain(dns_names, fault))
        return self._contexts[key]

    def _chain(self, dns_names: tuple[str, ...], fault: CertificateFault | None) -> bytes:
        match fault:
            case None:
                return self._authority.issue_chain(*dns_names)
            case "expired":
                return self._authority.issue_chain(*dns_names, expired=True)
            case "other-name":
                return self._authority.issue_chain(*self._wrong_dns_names)
            case "other-root":
                return CertificateAuthority(*self._internal_names).issue_chain(*dns_names)
            case "self-signed":
                key = _generate_key()
                name = _name(dns_names[0])
                certificate = _build_certificate(name, key, name, key, dns_names=dns_names)
                return _key_pem(key) + _certificate_pem(certificate)


def create_server_context(chain: bytes) -> ssl.SSLContext:
    """Return a server's TLS context.

    Args:
        chain: The key and the certificates, in PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["postgresql"])
    # The ssl module can only read keys from a file, so a private file exists during the call.
    with tempfile.TemporaryDirectory(prefix="azpg-emulator-key-") as folder:
        path = Path(folder, "chain.pem")
        path.write_bytes(chain)
        context.load_cert_chain(path)
    return context


def _build_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca_path_length: int | None = None,
    permitted_names: tuple[str, ...] = (),
    dns_names: tuple[str, ...] = (),
    expired: bool = False,
) -> x509.Certificate:
    """Return a signed certificate; it is a CA's if it has a path length.

    A CA with permitted names can sign no other names and no IP addresses.
    """
    is_ca = ca_path_length is not None
    start = dt.datetime.now(dt.UTC) - _BACKDATING
    if expired:
        start -= 2 * _VALIDITY
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _VALIDITY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=ca_path_length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
    )
    if permitted_names:
        builder = builder.add_extension(_name_constraints(permitted_names), critical=True)
    if dns_names:
        unique_names = [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
        builder = builder.add_extension(
            x509.SubjectAlternativeName(unique_names), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name_constraints(names: tuple[str, ...]) -> x509.NameConstraints:
    """Return constraints that limit a root to these names, in case somebody trusts it."""
    return x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(name) for name in names],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # Clients verify the alternative names, so the common name can be truncated.
    truncated = common_name[:_MAX_COMMON_NAME_CHARACTERS]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, truncated)])


def _generate_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
