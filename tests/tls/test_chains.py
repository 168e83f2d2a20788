"""A chain that ends in no trusted root: what the doctor and a failed connect say of it."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import certifi
import pytest
import trustme
from fix_doctor import details, run_steps

import azpg
import azpg.asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_api import Api
    from fix_asyncpg import Run
    from fix_hostile import Hostile, Peer, Script

NAME = "db.postgres.database.azure.com"
CERTIFI_HELPS = "PGSSLROOTCERT=$(python -m certifi)"


class Server(NamedTuple):
    """A server with a chain of its own, and the root that the chain ends in."""

    hostile: Hostile
    root: trustme.CA

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return self.hostile.address() | {"user": "app", "password": "secret", "dbname": "db"}


@pytest.fixture
def serve(hostile: Callable[[Script], Hostile], tmp_path: Path) -> Callable[..., Server]:
    """Start a server whose chain has a root, an intermediate and its own certificate."""

    def start(organization: str, *, sends: str) -> Server:
        root = trustme.CA(organization_name=organization)
        issuing = trustme.CA(parent_cert=root, organization_name=organization)
        leaf = issuing.issue_cert(NAME)
        pems = {
            "own": [leaf.cert_chain_pems[0]],
            "chain": leaf.cert_chain_pems,
            "root": [*leaf.cert_chain_pems, root.cert_pem],
            "mixed": [leaf.cert_chain_pems[0], root.cert_pem, leaf.cert_chain_pems[1]],
        }[sends]
        path = tmp_path / "chain.pem"
        path.write_bytes(b"".join(each.bytes() for each in [leaf.private_key_pem, *pems]))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)

        def script(peer: Peer) -> None:
            peer.start_tls(context)
            peer.read_all()

        return Server(hostile(script), root)

    return start


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[trustme.CA], str]:
    """Let certifi have a root more, and return its fingerprint."""

    def add(root: trustme.CA) -> str:
        path = tmp_path / "certifi.pem"
        path.write_bytes(certifi.contents().encode() + root.cert_pem.bytes())
        monkeypatch.setattr(certifi, "where", lambda: str(path))
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(root.cert_pem.bytes().decode())).hexdigest()

    return add


def cause(**options: Any) -> tuple[Any, str, str]:
    """Return the cause that the doctor found, its message and its hint."""
    options.pop("retry_timeout")
    steps = run_steps(**{name: v if name == "cloud" else str(v) for name, v in options.items()})
    result = steps["TLS"].result
    assert result.status == "failed", result
    return result.details.get("cause"), result.problem, result.hint


# The doctor


def test_an_incomplete_chain(
    serve: Callable[..., Server], public: Callable[[trustme.CA], str]
) -> None:
    """A known organization has issued the last certificate sent: its issuer's is missing."""
    server = serve("Microsoft Corporation", sends="own")
    public(server.root)
    found, problem, hint = cause(**server.options)
    assert found == "incomplete chain", problem
    assert "did not send the certificate of" in problem
    assert "azpg roots --pem" in hint
    assert CERTIFI_HELPS not in hint


@pytest.mark.parametrize("sends", ["chain", "root"])
def test_a_public_root_that_is_not_pinned(
    serve: Callable[..., Server], public: Callable[[trustme.CA], str], sends: str
) -> None:
    """Certifi verifies the chain, the pinned roots do not."""
    server = serve("Some Public CA", sends=sends)
    public(server.root)
    found, problem, hint = cause(**server.options)
    assert found == "unpinned root"
    assert "that certifi has and azpg does not pin" in problem
    assert CERTIFI_HELPS in hint


@pytest.mark.parametrize("sends", ["own", "chain", "root", "mixed"])
def test_a_proxy_that_inspects_tls(serve: Callable[..., Server], sends: str) -> None:
    """The root is neither public nor pinned: its name tells whose it is."""
    found, problem, hint = cause(**serve("Zscaler Inc.", sends=sends).options)
    assert found == "private root"
    assert "Zscaler Inc." in problem
    assert "TLS inspection" in hint
    assert CERTIFI_HELPS not in hint


@pytest.mark.parametrize("variable", [False, True], ids=["sslrootcert", "PGSSLROOTCERT"])
def test_a_stale_root_file(
    serve: Callable[..., Server],
    public: Callable[[trustme.CA], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: bool,
) -> None:
    """The pinned roots verify the chain, the caller's file does not."""
    server = serve("DigiCert Inc", sends="chain")
    cloud = azpg.AZURE_PUBLIC.replace(roots={public(server.root)})
    old = tmp_path / "baltimore.pem"
    trustme.CA().cert_pem.write_to_path(str(old))
    options = server.options | {"cloud": cloud}
    if variable:
        monkeypatch.setenv("PGSSLROOTCERT", str(old))
    else:
        options["sslrootcert"] = str(old)
    found, problem, hint = cause(**options)
    assert found == "stale root file"
    assert str(old) in problem
    assert "unset PGSSLROOTCERT" in hint
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    options.pop("sslrootcert", None)
    del options["retry_timeout"]
    options["connect_timeout"] = 2
    steps = run_steps(**{name: v if name == "cloud" else str(v) for name, v in options.items()})
    assert details(steps, "TLS")["root_days_left"] > 0


def test_nothing_is_sent_to_find_the_cause(serve: Callable[..., Server]) -> None:
    """Each of the handshakes carries not one byte."""
    server = serve("Zscaler Inc.", sends="chain")
    cause(**server.options)
    assert server.hostile.connections > 2
    assert not server.hostile.decrypted


# A connect that fails


def test_a_failed_connect_makes_no_second_connection(
    api: Api, serve: Callable[..., Server]
) -> None:
    """It names the doctor, which does."""
    server = serve("Zscaler Inc.", sends="root")
    with pytest.raises(azpg.TLSError) as caught:
        api.open(**server.options)
    assert "azpg doctor" in caught.value.hint
    assert server.hostile.connections == 1


@pytest.mark.parametrize(
    ("sends", "words", "certifi_helps"),
    [
        ("root", "self-signed certificate in certificate chain", False),
        ("chain", "unable to get local issuer certificate", True),
        ("own", "unable to get local issuer certificate", True),
    ],
)
def test_the_words_of_openssl_decide(
    run: Run, serve: Callable[..., Server], sends: str, words: str, certifi_helps: bool
) -> None:
    """Asyncpg reports them; libpq does not."""
    server = serve("Zscaler Inc.", sends=sends)
    with pytest.raises(azpg.TLSError, match=words) as caught:
        run(azpg.asyncpg.connect(**server.options))
    assert "azpg doctor" in caught.value.hint
    assert (CERTIFI_HELPS in caught.value.hint) is certifi_helps


def test_the_root_file_is_named_by_what_azpg_knows_of_it(
    api: Api, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where it comes from, and that it contains no Azure root."""
    old = tmp_path / "baltimore.pem"
    trustme.CA().cert_pem.write_to_path(str(old))
    monkeypatch.setenv("PGSSLROOTCERT", str(old))
    with pytest.raises(azpg.TLSError) as caught:
        api.open(**serve("DigiCert Inc", sends="chain").options)
    assert f"{old} (PGSSLROOTCERT), which has no Azure root" in caught.value.hint
    assert CERTIFI_HELPS not in caught.value.hint


def test_certifis_own_roots_are_not_advised_again(api: Api, serve: Callable[..., Server]) -> None:
    """A cloud whose roots are not known is verified with them already."""
    server = serve("Some Private CA", sends="chain")
    cloud = azpg.AZURE_PUBLIC.replace(roots=None)
    with pytest.raises(azpg.TLSError) as caught:
        api.open(**server.options, cloud=cloud)
    assert CERTIFI_HELPS not in caught.value.hint
