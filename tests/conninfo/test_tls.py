"""How a server is verified: the TLS table of the rules, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import certifi
import pytest

import azpg
from azpg._clouds import AZURE_ROOTS, CLOUDS
from azpg._conninfo.resolve import OptionSummary, Platform, ResolvedConfig, resolve
from azpg._conninfo.sources import Parameter
from azpg._libpq import NONEXISTENT_FILE, libpq_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_conninfo import Handed, Planned, Problems, Reading

HOST = "myserver.postgres.database.azure.com"
WEAKER = ["allow", "prefer", "require", "verify-ca"]
SIGN_INS: dict[str, dict[str, Any]] = {
    "entra": {},
    "password": {"password": "x"},
    "callback": {"password": lambda: "x"},
    "passfile": {"passfile": "/nowhere/.pgpass"},
    "none": {"password": ""},
}
PASSWORDS = [name for name in SIGN_INS if name != "entra"]


@pytest.fixture(params=SIGN_INS)
def sign_in(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Sign in each of the ways."""
    return SIGN_INS[request.param]


@pytest.fixture(params=PASSWORDS)
def password(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Sign in each of the ways that need no token."""
    return SIGN_INS[request.param]


def judged(root_crt: bool, *, known: set[str] | None = None, **words: str) -> ResolvedConfig:
    """Resolve a password connection on a machine with or without libpq's own root.crt."""
    keywords = frozenset(known or libpq_info().variables)
    said = {name: Parameter(value, "keyword") for name, value in words.items()}
    machine = Platform(
        libpq_version=18, defaults={}, keywords=keywords, is_linux=True, has_user_root_crt=root_crt
    )
    plan, problems = resolve(said, OptionSummary(password_kind="text"), machine)
    assert not problems
    return plan


# Azure, any sign-in


def test_azure_is_verified_in_full(handed: Handed, sign_in: dict[str, Any]) -> None:
    """Nothing asked: verify-full on the pinned roots, TLS 1.2, no GSS, no client certificate."""
    params = handed(host=HOST, **sign_in)
    assert params["sslmode"] == "verify-full"
    assert params["ssl_min_protocol_version"] == "TLSv1.2"
    assert params["gssencmode"] == "disable"
    assert params["sslcertmode"] == "disable"
    assert params["sslrootcert"].endswith(".pem")
    assert "require_auth" not in params


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)
@pytest.mark.parametrize("mode", WEAKER)
def test_every_cloud_of_azure_is_verified_in_full(
    planned: Planned, cloud: azpg.Cloud, mode: str
) -> None:
    """A host under any known suffix is raised to verify-full, on the cloud's roots."""
    for suffix in cloud.suffixes:
        plan = planned(f"host=a.b{suffix} sslmode={mode} password=x")
        assert plan.params["sslmode"] == "verify-full"
        assert plan.roots == (cloud.roots or "certifi")


def test_a_cloud_whose_roots_are_not_known(handed: Handed) -> None:
    """Its servers are verified in full, with all roots of certifi."""
    params = handed(host="a.postgres.database.sovcloud-api.fr", password="x", sslmode="require")
    assert (params["sslmode"], params["sslrootcert"]) == ("verify-full", certifi.where())
    own = azpg.Cloud("own", (".pg.example.net",), "https://own/.default", "login", roots=None)
    params = handed(host="a.pg.example.net", cloud=own)
    assert (params["sslmode"], params["sslrootcert"]) == ("verify-full", certifi.where())


@pytest.mark.parametrize("cloud", [None, "bleu"])
def test_unknown_roots_do_not_loosen_the_other_hosts(planned: Planned, cloud: str | None) -> None:
    """In a list with hosts of another cloud, that cloud's pinned roots hold for all of them."""
    hosts = f"a.postgres.database.sovcloud-api.fr,{HOST}"
    assert planned(host=hosts, cloud=cloud, password="x").roots == AZURE_ROOTS


def test_without_certifi_nothing_is_verified_by_another_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If certifi's file is missing, the connect fails: libpq would use ~/.postgresql/root.crt."""
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "missing.pem"))
    with pytest.raises(azpg.TLSError, match="certifi's file") as caught:
        azpg.conninfo(host="a.postgres.database.sovcloud-api.fr", password="x")
    assert caught.value.kind == "root-file"


def source(
    kind: str, value: str, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> tuple[str, dict[str, str]]:
    """Say an sslmode in one of the places it can be said in."""
    if kind == "keyword":
        return "", {"sslmode": value}
    if kind == "PGSSLMODE":
        monkeypatch.setenv("PGSSLMODE", value)
        return "", {}
    if kind == "service file":
        (folder / "s").write_text(f"[s]\nsslmode={value}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(folder / "s"))
        return "service=s", {}
    return {"key/value": f"sslmode={value}", "uri": f"postgresql:///?sslmode={value}"}[kind], {}


SOURCES = ["keyword", "key/value", "uri", "PGSSLMODE", "service file"]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("mode", WEAKER)
def test_a_weaker_sslmode_is_raised_for_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planned: Planned, kind: str, mode: str
) -> None:
    """Whoever says less than verify-full: a token goes over verify-full, and the plan tells."""
    conninfo, words = source(kind, mode, monkeypatch, tmp_path)
    plan = planned(conninfo, host=HOST, **words)
    assert plan.params["sslmode"] == "verify-full"
    (decision,) = plan.log_messages
    assert f"={mode}" in decision
    assert decision.endswith("raised to verify-full")


@pytest.mark.parametrize("kind", SOURCES[1:])
@pytest.mark.parametrize("mode", WEAKER)
def test_a_weaker_sslmode_is_raised_for_a_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, handed: Handed, kind: str, mode: str
) -> None:
    """The portal's sslmode=require is raised to verify-full, verify-ca outside of code too."""
    conninfo, words = source(kind, mode, monkeypatch, tmp_path)
    params = handed(conninfo, host=HOST, password="x", **words)
    assert params["sslmode"] == "verify-full"
    assert "require_auth" not in params


def test_pgrequiressl_is_raised_too(monkeypatch: pytest.MonkeyPatch, planned: Planned) -> None:
    """The old variable means require, and is raised."""
    monkeypatch.setenv("PGREQUIRESSL", "1")
    plan = planned(host=HOST)
    assert plan.params["sslmode"] == "verify-full"
    assert plan.log_messages == ("PGREQUIRESSL=require raised to verify-full",)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("mode", ["Require", "VERIFY-CA", "Verify-Full"])
def test_sslmode_is_read_in_any_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planned: Planned, kind: str, mode: str
) -> None:
    """The lower case that libpq requires is handed over."""
    conninfo, words = source(kind, mode, monkeypatch, tmp_path)
    plan = planned(conninfo, host="db", password="x", **words)
    assert plan.params["sslmode"] == mode.lower()


@pytest.mark.parametrize("kind", SOURCES)
def test_no_encryption_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    problems: Problems,
    sign_in: dict[str, Any],
    kind: str,
) -> None:
    """sslmode=disable towards Azure is a ConfigError, wherever it was said."""
    conninfo, words = source(kind, "disable", monkeypatch, tmp_path)
    (problem,) = problems(conninfo, host=HOST, **sign_in, **words)
    assert "=disable" in problem


def test_gss_encryption_is_refused(problems: Problems, sign_in: dict[str, Any]) -> None:
    """gssencmode=require towards Azure is a ConfigError."""
    (problem,) = problems(host=HOST, gssencmode="require", **sign_in)
    assert problem.startswith("gssencmode=require")


def test_gss_encryption_is_never_tried(
    monkeypatch: pytest.MonkeyPatch, handed: Handed, sign_in: dict[str, Any]
) -> None:
    """gssencmode=prefer, libpq's own default, is turned off: it would come before TLS."""
    monkeypatch.setenv("PGGSSENCMODE", "prefer")
    assert handed(host=HOST, **sign_in)["gssencmode"] == "disable"


def test_verify_ca_in_code_is_obeyed_for_a_password(
    planned: Planned, password: dict[str, Any]
) -> None:
    """A name that no certificate has: verify-ca, said in code, with SCRAM and one warning."""
    plan = planned(host=HOST, sslmode="verify-ca", **password)
    assert plan.params["sslmode"] == "verify-ca"
    assert plan.params["require_auth"] == "scram-sha-256"
    assert plan.roots == azpg.AZURE_PUBLIC.roots
    (warning,) = plan.warnings
    assert warning.startswith("⟦sslmode=verify-ca⟧")


def test_verify_ca_leaves_the_callers_require_auth(handed: Handed) -> None:
    """What the caller says of require_auth wins."""
    params = handed(host=HOST, sslmode="verify-ca", password="x", require_auth="md5")
    assert params["require_auth"] == "md5"


@pytest.mark.parametrize("hosts", [f"{HOST},db.example.net", f"db.example.net,{HOST}"])
def test_the_strictest_row_holds_for_a_whole_list(handed: Handed, hosts: str) -> None:
    """One Azure host in a list, and all of it is verified in full."""
    params = handed(host=hosts, sslmode="prefer", password="x")
    assert params["sslmode"] == "verify-full"
    assert params["gssencmode"] == "disable"


def test_one_azure_host_in_a_list_refuses_no_encryption(problems: Problems) -> None:
    """sslmode=disable for a list with an Azure host is refused."""
    (problem,) = problems(host=f"localhost,{HOST}", sslmode="disable", password="x")
    assert "=disable" in problem


# Other hosts, by password


@pytest.mark.parametrize("mode", ["disable", *WEAKER])
@pytest.mark.parametrize("kind", SOURCES)
def test_another_hosts_sslmode_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, handed: Handed, kind: str, mode: str
) -> None:
    """A developer's own server gets the sslmode that was asked for, and no root file."""
    conninfo, words = source(kind, mode, monkeypatch, tmp_path)
    params = handed(conninfo, host="db", password="x", **words)
    assert params["sslmode"] == mode
    assert params.keys().isdisjoint(
        {"sslrootcert", "gssencmode", "sslcertmode", "ssl_min_protocol_version", "require_auth"}
    )


def test_another_host_is_verified_in_full_where_nothing_is_asked(
    handed: Handed, password: dict[str, Any]
) -> None:
    """Nothing asked: verify-full, on the pinned roots."""
    params = handed(host="db", **password)
    assert params["sslmode"] == "verify-full"
    assert params["sslrootcert"].endswith(".pem")


@pytest.mark.parametrize("host", ["/run/postgresql", "@abstract", "/a,/b"])
def test_a_unix_socket_needs_no_tls(handed: Handed, password: dict[str, Any], host: str) -> None:
    """There is no TLS on a Unix socket in libpq, so nothing is asked for there."""
    assert handed(host=host, **password).keys().isdisjoint({"sslmode", "sslrootcert"})


def test_a_list_with_one_socket_is_verified(handed: Handed) -> None:
    """The other host of the list still is verified."""
    assert handed(host="/tmp,db", password="x")["sslmode"] == "verify-full"


def test_libpqs_own_root_file_counts_for_other_hosts() -> None:
    """~/.postgresql/root.crt is the user's choice for their own servers, not for Azure's."""
    assert judged(root_crt=False, host="db").roots == azpg.AZURE_PUBLIC.roots
    assert judged(root_crt=True, host="db").roots is None
    assert judged(root_crt=True, host=HOST).roots == azpg.AZURE_PUBLIC.roots


def test_a_callers_root_file_is_the_only_one(planned: Planned) -> None:
    """Beside it nothing is pinned, for any host."""
    for host in (HOST, "db"):
        assert planned(host=host, sslrootcert="/own/root.pem", password="x").roots is None


@pytest.mark.parametrize("mode", ["disable", *WEAKER])
def test_no_root_file_beside_a_weaker_mode(mode: str) -> None:
    """A root file would turn libpq's "prefer" into plaintext."""
    assert judged(root_crt=False, host="db", sslmode=mode).roots is None


# What the caller says of certificates


@pytest.mark.parametrize("host", [HOST, "db"])
@pytest.mark.parametrize("root", ["/own/root.pem", "system"])
def test_a_callers_root_file_wins(
    handed: Handed, sign_in: dict[str, Any], host: str, root: str
) -> None:
    """The file is taken as it is; the mode stays verify-full."""
    if host == "db" and not sign_in:
        host = HOST
    params = handed(host=host, sslrootcert=root, **sign_in)
    assert (params["sslrootcert"], params["sslmode"]) == (root, "verify-full")


def test_pgsslrootcert_wins_and_warns(monkeypatch: pytest.MonkeyPatch, planned: Planned) -> None:
    """A root file in the environment counts, and one warning says so: a test may have left it."""
    monkeypatch.setenv("PGSSLROOTCERT", "/left/root.pem")
    plan = planned(host=HOST)
    assert plan.params["sslrootcert"] == "/left/root.pem"
    assert plan.roots is None
    (warning,) = plan.warnings
    assert warning.startswith("PGSSLROOTCERT decides")


def test_both_redirections_are_one_warning(
    monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    """PGHOSTADDR and PGSSLROOTCERT are named together."""
    monkeypatch.setenv("PGSSLROOTCERT", "/left/root.pem")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.77")
    (warning,) = planned(host=HOST).warnings
    assert warning.startswith("PGHOSTADDR and PGSSLROOTCERT decide")


def test_a_callers_client_certificate_is_sent(handed: Handed) -> None:
    """With sslcert given, sslcertmode is the caller's or libpq's."""
    assert "sslcertmode" not in handed(host=HOST, sslcert="/own/client.crt")


def test_a_callers_tls_words_win(handed: Handed) -> None:
    """Defaults are filled in only where the caller is silent."""
    params = handed(host=HOST, ssl_min_protocol_version="TLSv1.3", sslcertmode="allow")
    assert (params["ssl_min_protocol_version"], params["sslcertmode"]) == ("TLSv1.3", "allow")


def test_direct_tls_passes(handed: Handed) -> None:
    """sslnegotiation=direct is passed on, over verify-full."""
    params = handed(host=HOST, sslnegotiation="direct")
    assert (params["sslnegotiation"], params["sslmode"]) == ("direct", "verify-full")


def test_a_key_log_counts_in_code(handed: Handed) -> None:
    """Parameter as a keyword sslkeylogfile is obeyed."""
    assert handed(host=HOST, sslkeylogfile="/tmp/keys")["sslkeylogfile"] == "/tmp/keys"


@pytest.mark.parametrize("kind", ["key/value", "service"])
def test_a_key_log_counts_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    planned: Planned,
    sent: Callable[..., bytes],
    reading: Reading,
    kind: str,
) -> None:
    """Elsewhere it is handed over empty, for libpq reads PGSERVICE's file once more."""
    conninfo = f"host={HOST}"
    if kind == "service":
        (tmp_path / "s").write_text("[s]\nsslkeylogfile=/tmp/keys\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
        monkeypatch.setenv("PGSERVICE", "s")
    else:
        conninfo += " sslkeylogfile=/tmp/keys"
    assert not reading(sent(conninfo, password="x")).get("sslkeylogfile")
    assert "sslkeylogfile" in planned(conninfo).warnings[0]


def test_nothing_is_filled_in_that_libpq_does_not_know() -> None:
    """An older libpq is handed only keywords of its own."""
    known = {"host", "port", "sslmode", "sslrootcert", "connect_timeout", "dbname", "user"}
    known |= {"ssl_min_protocol_version", "sslcert"}
    plan = judged(root_crt=False, known=known, host=HOST)
    assert plan.params.keys() <= known
    assert plan.params["sslmode"] == "verify-full"
    assert plan.params["sslcert"] == NONEXISTENT_FILE, "sslcertmode=disable for an older libpq"


@pytest.mark.parametrize(
    ("mode", "told"),
    [("verify_full", "did you mean 'verify-full'?"), ("Requir", "did you mean 'require'?")],
)
def test_a_misspelt_sslmode_lists_the_good_ones(problems: Problems, mode: str, told: str) -> None:
    """An sslmode that is none is refused with all that are, and the one that was meant."""
    (problem,) = problems(host=HOST, sslmode=mode)
    assert "disable, allow, prefer, require, verify-ca, verify-full" in problem
    assert problem.endswith(told)


def test_an_sslmode_like_no_other_is_refused_without_a_guess(problems: Problems) -> None:
    """Where none is close the list alone is shown."""
    (problem,) = problems(host=HOST, sslmode="1")
    assert problem.endswith("verify-full")


def test_an_empty_sslmode_is_refused(problems: Problems) -> None:
    """It is refused by libpq too."""
    (problem,) = problems(f"host={HOST} sslmode=''")
    assert problem.startswith("sslmode='' (connection string)")
