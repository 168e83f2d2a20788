"""The server's certificates: what clients accept, and what the root cannot sign."""

import re
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from cryptography import x509

from azpg.emulator import Emulator
from azpg.emulator._proxy.certificates import CertificateAuthority, create_server_context

Connect = Callable[..., psycopg.Connection[Any]]


def presented_certificate(
    emulator: Emulator, address: tuple[str, int] | None = None
) -> x509.Certificate:
    """Return the certificate that a server presents, without verifying it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(address or (emulator.hostaddr, emulator.port)) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=emulator.host) as encrypted:
            certificate = encrypted.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate)


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Return the names that a certificate is for."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("expired", "certificate verify failed"),
        ("self-signed", "certificate verify failed"),
        ("other-name", 'does not match host name "myserver.postgres.database.azure.com"'),
        ("other-root", "certificate verify failed"),
    ],
)
def test_certificate_faults(
    emulator: Emulator, connect: Connect, port: int, fault: Any, message: str
) -> None:
    """verify-full rejects each wrong certificate before the client sends a token."""
    before = emulator.counts
    with emulator.fault(certificate=fault), pytest.raises(psycopg.OperationalError, match=message):
        connect(port=port)
    assert (emulator.counts - before).sign_ins == 0
    with connect(port=port):
        pass


def test_the_intermediate_certificate_is_sent(emulator: Emulator) -> None:
    """The server sends the intermediate certificate, so the root is enough to verify it."""
    context = ssl.create_default_context(cafile=emulator.root_certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["postgresql"])
    with (
        socket.create_connection((emulator.hostaddr, emulator.port)) as plain,
        context.wrap_socket(plain, server_hostname=emulator.host) as encrypted,
    ):
        assert encrypted.selected_alpn_protocol() == "postgresql"
    issuer = presented_certificate(emulator).issuer
    with open(emulator.root_certificate, "rb") as file:
        assert x509.load_pem_x509_certificate(file.read()).subject != issuer


def test_certificates_have_exact_names(emulator: Emulator) -> None:
    """A certificate is for its own server and one internal name, as at Azure, and no wildcard."""
    replica = (emulator.reader_hostaddr, emulator.reader_port)
    names = {
        emulator.host: dns_names(presented_certificate(emulator)),
        emulator.reader_host: dns_names(presented_certificate(emulator, replica)),
    }
    for host, (own, internal) in names.items():
        assert own == host
        assert re.fullmatch(r"[0-9a-f]+\.database\.azure\.com", internal)
    assert len({internal for _, internal in names.values()}) == 2


@pytest.mark.parametrize(
    "name", ["another.postgres.database.azure.com", "myserver-replica.postgres.database.azure.com"]
)
def test_another_servers_name_is_rejected(
    get_connect_error: Callable[..., str], port: int, name: str
) -> None:
    """A wrong name under the right suffix fails verification, as it would at Azure."""
    assert "does not match host name" in get_connect_error(host=name, port=port)


def test_the_replica_has_a_name_of_its_own(
    emulator: Emulator, connect: Connect, get_connect_error: Callable[..., str]
) -> None:
    """The replica is verified against its own name and not against the primary's."""
    replica = {"hostaddr": emulator.reader_hostaddr, "port": emulator.reader_port}
    assert "does not match host name" in get_connect_error(**replica)
    with connect(host=emulator.reader_host, **replica):
        pass


def test_the_root_certificate_is_valid_for_at_most_a_day(emulator: Emulator) -> None:
    """The root's name says not to trust it, and it is valid for at most a day."""
    with open(emulator.root_certificate, "rb") as file:
        root = x509.load_pem_x509_certificate(file.read())
    assert root.subject.rfc4514_string() == "CN=azpg emulator\\, do not trust"
    lifetime = root.not_valid_after_utc - root.not_valid_before_utc
    assert lifetime.total_seconds() <= 24 * 3600


@pytest.mark.parametrize(
    ("name", "is_accepted"),
    [
        ("myserver.postgres.database.azure.com", True),
        ("myserver.postgres.database.usgovcloudapi.net", True),
        ("myserver.postgres.database.chinacloudapi.cn", True),
        ("myserver.postgres.database.sovcloud-api.fr", True),
        ("mycluster.abc.westus.horizondb.azure.com", True),
        ("mycluster.postgres.cosmos.azure.com", True),
        ("mycluster.postgres.cosmos.chinacloudapi.cn", True),
        ("login.microsoftonline.com", False),
        ("database.azure.com", False),
        ("evil-postgres.database.azure.com", False),
        ("example.com", False),
    ],
)
def test_the_root_certificate_is_constrained_to_azure_names(name: str, is_accepted: bool) -> None:
    """The root cannot sign names outside the Azure suffixes, even if its key is stolen."""
    authority = CertificateAuthority()
    client_context = ssl.create_default_context(cadata=authority.root_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = create_server_context(authority.issue_chain(name)).wrap_bio(
        to_server, to_client, server_side=True
    )

    def handshake() -> None:
        for side in (client, server, client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue

    if is_accepted:
        handshake()
        assert client.cipher() is not None
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            handshake()
