"""The certificates of one run: a root of its own, an intermediate, the server's, and wrong ones."""

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
from azpg.emulator._faults import CertificateFault

_ROOT_NAME = "azpg emulator, do not trust"
_VALIDITY = dt.timedelta(hours=24)
# A client whose clock is a little behind still finds the certificates valid.
_BACKDATING = dt.timedelta(minutes=5)


class CertificateAuthority:
    """Sign certificates below one root through one intermediate; keys never leave the memory."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._issuing_key = ec.generate_private_key(ec.SECP256R1())
        self.root = _build_certificate(
            _name(_ROOT_NAME), self._root_key, _name(_ROOT_NAME), self._root_key, ca_path_length=1
        )
        self.intermediate = _build_certificate(
            _name("azpg emulator issuing CA"),
            self._issuing_key,
            self.root.subject,
            self._root_key,
            ca_path_length=0,
        )

    def issue_chain(self, *names: str, expired: bool = False) -> bytes:
        """Return key, server certificate and intermediate in PEM, as a server sends them."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _build_certificate(
            _name(names[0]),
            key,
            self.intermediate.subject,
            self._issuing_key,
            names=names,
            expired=expired,
        )
        return _pem(key) + _pem(leaf) + _pem(self.intermediate)

    @property
    def root_pem(self) -> bytes:
        return _pem(self.root)


class ServerCertificates:
    """Hold the TLS side of the front door: the right certificate and each wrong one."""

    def __init__(self, azure_host: AzureHost) -> None:
        self._authority = CertificateAuthority()
        self._dns_names = (f"*{azure_host.suffix}", azure_host.name, azure_host.reader_host)
        self._wrong_dns_names = (f"another-server{azure_host.suffix}",)
        self._contexts: dict[CertificateFault | None, ssl.SSLContext] = {}

    @property
    def root_pem(self) -> bytes:
        return self._authority.root_pem

    def tls_context(self, fault: CertificateFault | None) -> ssl.SSLContext:
        """Return what to serve: the right certificate, or the wrong one that is named."""
        if fault not in self._contexts:
            self._contexts[fault] = create_server_context(self._chain(fault))
        return self._contexts[fault]

    def _chain(self, fault: CertificateFault | None) -> bytes:
        match fault:
            case None:
                return self._authority.issue_chain(*self._dns_names)
            case "expired":
                return self._authority.issue_chain(*self._dns_names, expired=True)
            case "other-name":
                return self._authority.issue_chain(*self._wrong_dns_names)
            case "other-root":
                return CertificateAuthority().issue_chain(*self._dns_names)
            case "self-signed":
                key = ec.generate_private_key(ec.SECP256R1())
                name = _name(self._dns_names[0])
                return _pem(key) + _pem(
                    _build_certificate(name, key, name, key, names=self._dns_names)
                )


def create_server_context(chain: bytes) -> ssl.SSLContext:
    """Return a server's TLS context for a PEM of key and certificates."""
    tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls_context.minimum_version = ssl.TLSVersion.TLSv1_2
    tls_context.set_alpn_protocols(["postgresql"])
    # ssl reads keys from files only: this one exists for the moment of reading.
    with tempfile.TemporaryDirectory(prefix="azpg-emulator-key-") as folder:
        path = Path(folder, "chain.pem")
        path.write_bytes(chain)
        tls_context.load_cert_chain(path)
    return tls_context


def _build_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca_path_length: int | None = None,
    names: tuple[str, ...] = (),
    expired: bool = False,
) -> x509.Certificate:
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
        .add_extension(
            x509.BasicConstraints(ca=ca_path_length is not None, path_length=ca_path_length),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(_key_usage(is_ca=ca_path_length is not None), critical=True)
    )
    if subject == issuer and ca_path_length is not None:
        builder = builder.add_extension(_azure_name_constraints(), critical=True)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in dict.fromkeys(names)]),
            critical=False,
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _azure_name_constraints() -> x509.NameConstraints:
    """Make the root worthless beyond Azure's names, should it ever be trusted by mistake."""
    return x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(suffix.removeprefix(".")) for suffix in HOST_SUFFIXES],
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
    # A common name has at most 64 characters; clients look at the alternative names anyway.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _pem(thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
