"""What was judged is what is sent, and no source of words opens a way round the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

import azpg
from azpg._conninfo.resolve import OptionSummary, Platform, ResolvedConfig, resolve
from azpg._conninfo.sources import Parameter
from azpg._conninfo.ssl_option import SSLMODES
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_conninfo import Handed, Planned, Problems, Reading
    from fix_sources import Sources

    from azpg._conninfo.sources import Source

# What libpq derives after its merge where nothing is said
DERIVED = {"user", "dbname", "passfile", "sslcertmode"}

NAME = "a.postgres.database.azure.com"
PLACES = st.sampled_from(
    [
        "",
        NAME,
        NAME.upper() + ".",
        "b.postgres.database.chinacloudapi.cn",
        "c.postgres.cosmos.azure.com",
        "c.d.postgres.database.azure.com",
        ".postgres.database.azure.com",
        "evil.example",
        NAME + ".evil.example",
        "localhost",
        "192.0.2.1",
        "::1",
        "/run/postgresql",
        "@" + NAME,
    ]
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
LISTS = st.lists(PLACES | TEXTS, min_size=1, max_size=3).map(",".join)
TLS = st.sampled_from([*SSLMODES, "", "Require", "verify_full", "1"])
WORDS = st.fixed_dictionaries(
    {"host": LISTS},
    optional={
        "hostaddr": st.sampled_from(["", "192.0.2.1", "192.0.2.1,192.0.2.2"]) | TEXTS,
        "port": st.sampled_from(["", "5432", "6432", "5432,6432", "1" * 5000]) | TEXTS,
        "sslmode": TLS,
        "gssencmode": st.sampled_from(["", "disable", "prefer", "require"]),
        "sslrootcert": st.sampled_from(["", "/nowhere/root.pem", "system"]),
        "dbname": st.sampled_from(["", f"host={NAME}", "postgresql://evil.example"]),
    },
)
# Keywords that mend what the random sources break, all but a few of them, so that most are sent
MENDED = st.builds(
    lambda said, left_out: {name: said[name] for name in said if name not in left_out},
    st.fixed_dictionaries(
        {
            "connect_timeout": st.just("3"),
            "gssencmode": st.just("prefer"),
            "host": st.sampled_from([NAME, "db.example.net", "/run/postgresql"]),
            "hostaddr": st.sampled_from(["", "192.0.2.1"]),
            "port": st.sampled_from(["", "5433"]),
            "sslmode": st.sampled_from(["require", "verify-ca", "verify-full"]),
        }
    ),
    st.sets(st.sampled_from(["gssencmode", "host", "hostaddr", "port", "sslmode"]), max_size=2),
)
SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=["Cc"]), min_size=8
).map(lambda text: text[:40])


@settings(max_examples=250)
@given(data=st.data(), mended=MENDED)
def test_libpq_reads_what_azpg_judged(
    data: st.DataObject,
    mended: dict[str, str],
    sources: st.SearchStrategy[Sources],
    sent: Callable[..., bytes],
    reading: Reading,
) -> None:
    """Nothing in the environment or a service file changes what was decided, or adds to it."""
    words = data.draw(sources)
    defaults = reading(b"")
    with words.exported():
        try:
            ours = sent(words.conninfo, password="s3cret", **mended)
        except azpg.ConfigError:
            event("refused")
            return
        event("sent")
        theirs = reading(ours)
    handed = conninfo_to_dict(ours.decode())
    handed.pop("service", None)
    if handed.get("sslrootcert") == "system":  # to libpq that means verify-full, unless it is told
        defaults["sslmode"] = "verify-full"
    for name in libpq_info().variables.keys() - {"service", "min_protocol_version"}:
        if handed.get(name) or name not in DERIVED:
            assert theirs.get(name, "") == handed.get(name, defaults.get(name, "")), name


# All but those that the reading itself needs, or that mostly name nothing
LEFT_OUT = {"", "PGMINPROTOCOLVERSION", "PGSERVICE"}
VARIABLES = st.sampled_from(sorted({*libpq_info().variables.values()} - LEFT_OUT))
PIECES = st.sampled_from(
    [NAME, "evil.example", "host", "=", "'", "\\", " ", "/", "@", ":", ",", "%"]
)
ANY_TEXT = st.lists(PIECES | TEXTS, max_size=6).map("".join)


@settings(max_examples=150)
@given(conninfo=st.just("") | ANY_TEXT, environ=st.dictionaries(VARIABLES, ANY_TEXT, max_size=5))
@example(conninfo="", environ={"PGHOST": NAME, "PGPORT": "'", "PGSSLMODE": "\\"})
def test_any_words_are_refused_or_sent_as_they_were_judged(
    conninfo: str, environ: dict[str, str], reading: Reading
) -> None:
    """No text in a conninfo or a variable breaks azpg, or out of the place where it was said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGHOST", NAME)
        for name, value in environ.items():
            patch.setenv(name, value)
        try:
            ours = azpg.conninfo(conninfo)
        except azpg.ConfigError:
            event("refused")
            return
        event("sent")
        theirs = reading(ours.encode())
    handed = {name: str(value) for name, value in conninfo_to_dict(ours).items()}
    for name, value in handed.items():
        assert theirs.get(name, "") == value or (name in DERIVED and not value), name


def judged(said: dict[str, str], **wishes: Any) -> tuple[ResolvedConfig, tuple[str, ...]]:
    """Judge words that were said in a conninfo."""
    machine = Platform(
        libpq_version=18,
        defaults={},
        keywords=frozenset(libpq_info().variables),
        is_linux=True,
        has_user_root_crt=False,
    )
    merged = {name: Parameter(value, "conninfo") for name, value in said.items()}
    return resolve(merged, OptionSummary(**wishes), machine)


@settings(max_examples=300)
@given(said=WORDS, by=st.sampled_from(["keyword", "conninfo", "service file", "environment"]))
@example(said={"host": f"{NAME},{NAME}", "port": "5432,5432"}, by="conninfo")
@example(said={"host": "c.postgres.cosmos.azure.com," + NAME}, by="conninfo")
@example(said={"host": NAME, "sslmode": "verify-ca"}, by="keyword")
def test_a_token_goes_only_to_verified_hosts_of_one_cloud(said: dict[str, str], by: Source) -> None:
    """Whatever is said, it is refused, or every host is one cloud's and verified by its name."""
    machine = Platform(
        libpq_version=18,
        defaults={},
        keywords=frozenset(libpq_info().variables),
        is_linux=True,
        has_user_root_crt=True,
    )
    merged = {name: Parameter(value, by) for name, value in said.items()}
    plan, problems = resolve(merged, OptionSummary(), machine)
    assert plan.auth == "entra"
    if problems:
        return
    hosts = plan.params["host"].split(",")
    assert plan.params["sslmode"] == "verify-full"
    assert plan.params["gssencmode"] == "disable"
    assert all(
        any(host.endswith(suffix) and host != suffix for suffix in plan.cloud.suffixes)
        for host in hosts
    )
    assert len({azpg._clouds.cloud_for_host(host) for host in hosts}) == 1
    assert all(host == host.lower() and host.isascii() for host in hosts)


@settings(max_examples=200)
@given(said=WORDS, server=PLACES | TEXTS, sign_in=st.sampled_from([None, "text", "callback"]))
def test_server_is_the_name_that_is_verified(
    said: dict[str, str], server: str, sign_in: Any
) -> None:
    """With server given every host handed over is that name, whatever host says."""
    plan, problems = judged(said, server=server, password_kind=sign_in)
    if not problems:
        (host,) = set(plan.params["host"].split(","))
        assert host.partition(".")[0] == server.partition(".")[0].lower()
        assert plan.params["sslmode"] == "verify-full"


def ways(secret: str) -> dict[str, str]:
    """Write a secret into a conninfo as people do, right and wrong."""
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    return {
        "quoted": f"host=db.example.net password='{quoted}'",
        "bare": f"host=db.example.net password={secret}",
        "first": f"password={secret} host=db.example.net port=x",
        "uri": f"postgresql://u:{secret}@db.example.net:x/db",
        "uri without a name": f"postgresql://:{secret}@db.example.net/db?sslmode=x",
        "uri query": f"postgresql://db.example.net:x/db?password={secret}",
        "sqlalchemy": f"postgresql+psycopg://u:{secret}@db.example.net:x/db",
        "ado.net": f"Server=db.example.net;User Id=u;Password={secret};Port=x",
        "jdbc": f"jdbc:postgresql://db.example.net/db?user=u&password={secret}",
        "jdbc userinfo": f"jdbc:postgresql://u:{secret}@db.example.net/db",
    }


@settings(max_examples=300)
@given(secret=SECRETS, at=st.integers(1, 7), cut=st.sampled_from(" =@/:;&?'\"%#,"), data=st.data())
def test_no_piece_of_a_password_is_in_a_message(
    secret: str, at: int, cut: str, data: st.DataObject
) -> None:
    """However a password was written, readable or not, no error quotes any part of it."""
    # Letters that no message has, so that any three of them in a row are the password's
    secret = "".join(chr(0x400 + ord(c)) if c.isalnum() else c for c in secret)
    secret = secret[:at] + cut + secret[at:]
    text = ways(secret)[data.draw(st.sampled_from(sorted(ways(""))))]
    try:
        told = azpg.conninfo(text)
    except azpg.ConfigError as error:
        told = f"{error!r} {error} {error.args} {error.problems}"
    assert not any(0x400 <= ord(c) < 0x600 for c in told), text


@pytest.mark.parametrize("secret", ["ж@щ", "ж/щ", "ж@щ/", "ж?щ@ю", "ж?щ@ю/", "ж?щ/ю@", "@", "/@"])
def test_a_uri_whose_password_libpq_would_cut_is_refused(secret: str) -> None:
    """What follows its '@' or '/' would be the host's name, and be told as such."""
    with pytest.raises(azpg.ConfigError, match="percent-encode") as caught:
        azpg.conninfo(f"postgresql://u:{secret}@db.example.net/db")
    assert not set("жщю") & set(str(caught.value))


def test_a_question_mark_in_a_uris_password_is_no_query() -> None:
    """As to libpq: all before the first '@' is the user's."""
    told = conninfo_to_dict(azpg.conninfo("postgresql://u:a?b@db.example.net/db?sslmode=require"))
    assert (told["host"], told["user"], told["dbname"]) == ("db.example.net", "u", "db")


@pytest.mark.parametrize("way", sorted(ways("")))
def test_no_plain_password_is_in_a_message(way: str) -> None:
    """A plain password is not quoted either, and libpq's own error, which may, is not behind."""
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.conninfo(ways("s3cretpiece")[way] + (" port=x" if way in ("quoted", "bare") else ""))
    assert "s3cret" not in f"{caught.value!r}{caught.value}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["password", "sslpassword", "scram_client_key"])
@pytest.mark.parametrize("form", ["keyword", "key/value", "uri"])
def test_no_secret_is_in_plan_or_conninfo(
    handed: Handed, planned: Planned, name: str, form: str
) -> None:
    """A secret from any source is handed to libpq, and shown nowhere."""
    options: dict[str, Any] = {"host": NAME, "password": "other-secret"}
    conninfo = {"key/value": f"{name}=s3cret", "uri": f"postgresql:///?{name}=s3cret"}.get(form, "")
    if name == "password":
        del options["password"]
    if form == "keyword":
        options[name] = "s3cret"
    assert "s3cret" not in repr(planned(conninfo, **options))
    assert handed(conninfo, **options).keys().isdisjoint({"password", name})
    assert "s3cret" not in azpg.conninfo(conninfo, **options)


def test_no_secret_of_the_environment_is_in_plan_or_conninfo(
    monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    """PGPASSWORD is shown nowhere."""
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    assert "s3cret" not in repr(planned(host=NAME)) + azpg.conninfo(host=NAME)


@pytest.mark.parametrize(
    ("conninfo", "variable"),
    [
        (f"host='' hostaddr=192.0.2.1 server={NAME}", ("PGHOST", "evil.example")),
        (f"host={NAME} hostaddr=''", ("PGHOSTADDR", "192.0.2.1")),
        (f"host={NAME} user=''", ("PGUSER", "eve")),
        (f"host={NAME} dbname=''", ("PGDATABASE", "evil")),
        (f"host={NAME} sslrootcert=''", ("PGSSLROOTCERT", "/evil.pem")),
    ],
)
def test_an_empty_word_keeps_the_environment_out(
    monkeypatch: pytest.MonkeyPatch,
    sent: Callable[..., bytes],
    reading: Reading,
    conninfo: str,
    variable: tuple[str, str],
) -> None:
    """What the caller emptied, and azpg set aside, libpq does not find in the environment."""
    monkeypatch.setenv(*variable)
    conninfo, _, server = conninfo.partition(" server=")
    options = {"server": server} if server else {}
    theirs = reading(sent(conninfo, password="x", **options))
    assert variable[1] not in theirs.values()


def test_a_place_set_aside_for_server_stays_aside(
    monkeypatch: pytest.MonkeyPatch, sent: Callable[..., bytes], reading: Reading
) -> None:
    """PGHOSTADDR does not lead elsewhere where host, beside server, says the way there."""
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.66")
    theirs = reading(sent(server="a", host=NAME, password="x"))
    assert theirs["host"] == NAME
    assert not theirs["hostaddr"]


def test_a_dbname_is_never_expanded(sent: Callable[..., bytes], reading: Reading) -> None:
    """A dbname that looks like a conninfo stays a name: psycopg's way into libpq expands none."""
    name = "host=evil.example sslmode=disable"
    theirs = reading(sent(host=NAME, dbname=name, password="x"))
    assert theirs["dbname"] == name
    assert (theirs["host"], theirs["sslmode"]) == (NAME, "verify-full")


def test_connect_start_does_not_expand_a_dbname() -> None:
    """The contract of the test above, held of libpq itself."""
    options = pq.Conninfo.parse(b"dbname='postgresql://evil.example/x'")
    assert {o.keyword: o.val for o in options if o.val} == {
        b"dbname": b"postgresql://evil.example/x"
    }


def test_a_service_named_beside_pgservice_is_the_one_sent(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    sent: Callable[..., bytes],
    reading: Reading,
) -> None:
    """Of the conninfo's service and PGSERVICE only the first has a say, in libpq too."""
    (tmp_path / "s").write_text(
        f"[one]\nhost={NAME}\nuser=one\n[two]\nuser=two\nhostaddr=192.0.2.66\nsslkeylogfile=/x\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
    monkeypatch.setenv("PGSERVICE", "two")
    theirs = reading(sent("service=one", password="x"))
    assert (theirs["host"], theirs["user"]) == (NAME, "one")
    assert "hostaddr" not in theirs
    assert "sslkeylogfile" not in theirs


def test_problems_come_before_a_token_or_a_network(problems: Problems) -> None:
    """A refused call asks no credential: the one of this test would fail it."""
    (problem,) = problems(host="evil.example")
    assert "a token never goes to 'evil.example'" in problem


def test_every_problem_of_a_call_is_listed(problems: Problems) -> None:
    """One ConfigError holds them all, each in a line of its message."""
    found = problems("host=localhost sslmode=requir port=x", cloud="pubic", hots="y", passwd="z")
    assert len(found) == 6
    for word in ("'hots'", "'passwd'", "sslmode='requir'", "'pubic'", "'localhost'", "port='x'"):
        assert sum(word in problem for problem in found) == 1
