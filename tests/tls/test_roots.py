"""The pinned root certificates: which ones they are, and where their bytes come from."""

from __future__ import annotations

import re
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from psycopg.conninfo import conninfo_to_dict

import azpg
from azpg._tls import roots

if TYPE_CHECKING:
    from fix_roots import Fingerprints, HoldsTheRoots

# Microsoft's list: azure-certificate-authority-details.md in its azure-docs. It lacks the last one
AZURE = {
    "DigiCert Global Root CA": "4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161",
    "DigiCert Global Root G2": "cb3ccbb76031e5e0138f8dd39a23f9de47ffc35e43c1144cea27d46a5ab1cb5f",
    "DigiCert Global Root G3": "31ad6648f8104138c738f39ea4320133393e3a18cc02296ef97c2ac9ef6731d0",
    "DigiCert TLS ECC P384 Root G5": (
        "018e13f0772532cf809bd1b17281867283fc48c6e13be9c69812854a490c1b05"
    ),
    "DigiCert TLS RSA4096 Root G5": (
        "371a00dc0533b3721a7eeb40e8419e70799d2b0a0f2c1d80693165f7cec4ad75"
    ),
    "Microsoft ECC Root Certificate Authority 2017": (
        "358df39d764af9e1b766e9c972df352ee15cfac227af6ad1d70e8e4a6edcba02"
    ),
    "Microsoft RSA Root Certificate Authority 2017": (
        "c741f70f4b2a8d88bf2e71c14122ef53ef10eba0cfa5e64cfa20f418853073e0"
    ),
    "Microsoft TLS RSA Root G2": "6a170583db584151e1c454eeca2a64cc5d8e484a5bd1156e720b4458654ee9e5",
}
ROOTS = frozenset(AZURE.values())
ISSUING = Path(__file__).parent.parent / "data" / "microsoft-tls-g2-rsa-ca-ocsp-02.pem"
ISSUING_SHA1 = "f8a408b8fbeea077b75738658641be77154720eb"
"""its thumbprint on Microsoft's list of Azure's subordinate authorities"""
UNKNOWN = "ab" * 32


# Certificates


def test_the_vendored_file_is_azures_list() -> None:
    """It contains each with its name, and no other certificate."""
    own = x509.load_pem_x509_certificates(roots.PEM_FILE.read_bytes())
    names = {
        str(each.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value): (
            each.fingerprint(hashes.SHA256()).hex()
        )
        for each in own
    }
    assert names == AZURE
    assert len(own) == len(AZURE)
    assert roots.PEM_FILE.read_bytes() == roots.pem(ROOTS)  # the format of a written file


def test_an_issuing_certificate_of_azure_is_verified() -> None:
    """Microsoft TLS RSA Root G2 has signed one of the authorities on Microsoft's list."""
    issuing = x509.load_pem_x509_certificate(ISSUING.read_bytes())
    assert issuing.fingerprint(hashes.SHA1()).hex() == ISSUING_SHA1  # as listed
    signers = []
    for root in x509.load_pem_x509_certificates(roots.PEM_FILE.read_bytes()):
        with suppress(ValueError, TypeError, InvalidSignature):
            issuing.verify_directly_issued_by(root)
            root.verify_directly_issued_by(root)
            signers.append(root.fingerprint(hashes.SHA256()).hex())
    assert signers == [AZURE["Microsoft TLS RSA Root G2"]]


def test_the_clouds_have_the_same_list() -> None:
    """AZURE_ROOTS is the same list."""
    assert azpg.AZURE_PUBLIC.roots == ROOTS


def test_the_root_file_contains_exactly_the_pinned_roots(fingerprints: Fingerprints) -> None:
    """Each once, in PEM that OpenSSL reads."""
    pem = roots.pem(ROOTS)
    assert sorted(fingerprints(pem)) == sorted(ROOTS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem.decode())
    assert len(context.get_ca_certs()) == len(ROOTS)


def test_libpqs_root_file_contains_the_pinned_roots(holds_the_roots: HoldsTheRoots) -> None:
    """The file that azpg.conninfo() names is the package's, with all roots."""
    params = conninfo_to_dict(azpg.conninfo(server="myserver"))
    assert params["sslrootcert"] == str(roots.PEM_FILE)
    assert holds_the_roots(str(params["sslrootcert"]))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\x00\xff" * 1000,
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n" * 2,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE---",
    ],
)
def test_without_certifis_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: bytes | None,
    fingerprints: Fingerprints,
) -> None:
    """If it is missing, empty or damaged, azpg's own certificates are used."""
    path = tmp_path / "cacert.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(certifi, "where", lambda: str(path))
    assert sorted(fingerprints(roots.pem(ROOTS))) == sorted(ROOTS)


def test_without_certifi(monkeypatch: pytest.MonkeyPatch, fingerprints: Fingerprints) -> None:
    """If certifi cannot be imported, azpg's own certificates are used."""
    monkeypatch.setitem(sys.modules, "certifi", None)
    assert sorted(fingerprints(roots.pem(ROOTS))) == sorted(ROOTS)


@pytest.mark.parametrize("dropped", sorted(ROOTS))
def test_a_root_that_certifi_has_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dropped: str, fingerprints: Fingerprints
) -> None:
    """The copy of azpg is used, as for the DigiCert Global Root CA, and later for G2."""
    blocks = re.findall("-----BEGIN.*?-----END CERTIFICATE-----\n", certifi.contents(), re.DOTALL)
    left = [block for block in blocks if fingerprints(block) != [dropped]]
    (tmp_path / "cacert.pem").write_text("".join(left))
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "cacert.pem"))
    assert sorted(fingerprints(roots.pem(ROOTS))) == sorted(ROOTS)


def test_a_cloud_may_trust_a_root_of_certifi(fingerprints: Fingerprints) -> None:
    """A fingerprint that azpg does not have is found in certifi."""
    other = next(name for name in fingerprints(certifi.contents()) if name not in ROOTS)
    assert sorted(fingerprints(roots.pem(ROOTS | {other}))) == sorted(ROOTS | {other})


def test_without_the_vendored_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fingerprints: Fingerprints
) -> None:
    """If azpg's own file cannot be read, certifi's certificates are used."""
    monkeypatch.setattr(roots, "_vendored_pem", (tmp_path / "missing.pem").read_bytes)
    some = ROOTS & set(fingerprints(certifi.contents()))
    assert sorted(fingerprints(roots.pem(frozenset(some)))) == sorted(some)


def test_the_source_of_a_root(fingerprints: Fingerprints) -> None:
    """The source is certifi if it has the certificate, otherwise azpg."""
    theirs = fingerprints(certifi.contents())
    sources = {name: root.source for name, root in roots.certificates(ROOTS).items()}
    assert sources == {name: "certifi" if name in theirs else "azpg" for name in ROOTS}


def test_an_unknown_fingerprint_is_a_config_error() -> None:
    """All of them are named; a file that lacks a root is never written."""
    with pytest.raises(azpg.ConfigError) as caught:
        roots.pem(ROOTS | {UNKNOWN, "cd" * 32})
    assert caught.value.problems == tuple(
        f"no certificate with the SHA-256 {name} is in certifi or azpg"
        for name in (UNKNOWN, "cd" * 32)
    )


def test_a_cloud_with_an_unknown_root_cannot_connect() -> None:
    """The error is raised before a token is requested or anything is connected to."""
    cloud = azpg.Cloud("own", (".pg.example.net",), "scope", "login", frozenset({UNKNOWN}))
    with pytest.raises(azpg.ConfigError, match=UNKNOWN):
        azpg.conninfo(host="a.pg.example.net", cloud=cloud)


def test_the_path_of_the_users_root_file(tmp_path: Path) -> None:
    """It is where libpq looks for the user's root certificates."""
    assert roots.user_root_crt() == str(tmp_path / "home" / ".postgresql" / "root.crt")
