"""What each source says, held against libpq's own merge of the same words."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from azpg._conninfo.options import ConnectOptions
from azpg._conninfo.sources import merge
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from fix_conninfo import Reading
    from fix_sources import Sources

# What libpq derives after its merge, from other keywords or the machine, where nothing is said
DERIVED = {"user", "dbname", "passfile", "sslcertmode", "sslmode"}


def merged(conninfo: str = "", **keywords: object) -> dict[str, tuple[str, str]]:
    """Return what was said, without a problem."""
    said, problems = merge(ConnectOptions(conninfo, keywords), os.environ)
    assert not problems
    return {name: (each.value, each.source) for name, each in said.items()}


def wrong(conninfo: str = "", **keywords: object) -> list[str]:
    """Return the problems."""
    return merge(ConnectOptions(conninfo, keywords), os.environ)[1]


@settings(max_examples=250)
@given(data=st.data())
def test_reads_every_source_as_libpq_does(
    data: st.DataObject, sources: st.SearchStrategy[Sources], reading: Reading
) -> None:
    """Whatever conninfo, environment and service file say, libpq merges them the same."""
    words = data.draw(sources)
    defaults = reading(b"")
    with words.exported():
        said, problems = merge(ConnectOptions(words.conninfo), os.environ)
        try:
            theirs = reading(words.conninfo.encode())
        except ValueError:
            assert problems
            event("both refuse")
            return
    if problems:
        event("azpg alone refuses")
        return
    event("both read")
    ours = {name: each.value for name, each in said.items() if name != "service"}
    theirs.pop("service", None)
    for name in ours.keys() | theirs.keys():
        if ours.get(name) or name not in DERIVED:
            assert theirs.get(name, "") == ours.get(name, defaults.get(name, "")), name


# What conninfos are made of, right and wrong
WORDS = ["host", "hostaddr", "port", "user", "password", "dbname", "sslmode", "service", "require"]
PLACES = ["5432", "localhost", "[::1]", "a.postgres.database.azure.com", "é", "%2F", "%00", "%zz"]
SIGNS = [*" \n\t\v='\\@:/?&%[],;#", "postgresql://", "postgres://", "jdbc:postgresql://"]
PIECES = st.sampled_from([*WORDS, *PLACES, *SIGNS]) | st.text(max_size=2)
BEGINNINGS = st.sampled_from(["", "host=", "user=a password='", "postgresql://", "postgres://a/b?"])
ANY_TEXT = st.tuples(BEGINNINGS, st.lists(PIECES, max_size=8).map("".join)).map("".join)


@settings(max_examples=200)
@given(text=ANY_TEXT)
@example(text="postgresql://: ")
def test_any_text_is_read_as_libpq_reads_it_or_refused(text: str, reading: Reading) -> None:
    """However a conninfo is broken, nothing is read out of it that libpq would not read."""
    said, problems = merge(ConnectOptions(text), {})
    if problems:
        event("refused")
        return
    event("read")
    theirs = reading(text.encode())
    defaults = reading(b"")
    for name in said.keys() | theirs.keys():
        ours = said[name].value if name in said else ""
        if ours or name not in DERIVED:
            # libpq takes its default for an empty value, and keeps the empty one in what it reports
            default = defaults.get(name, "")
            assert (theirs.get(name) or default) == (ours or default), name


def test_keyword_beats_conninfo_beats_service_file_beats_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The order is libpq's, keywords on top."""
    (tmp_path / "services").write_text("[s]\nuser=service\ndbname=service\nport=1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for name in ("PGUSER", "PGDATABASE", "PGPORT", "PGHOST"):
        monkeypatch.setenv(name, "2")
    assert merged("service=s user=conninfo dbname=conninfo", user="keyword") == {
        "user": ("keyword", "keyword"),
        "dbname": ("conninfo", "conninfo"),
        "port": ("1", "service file"),
        "host": ("2", "environment"),
    }


def test_a_keyword_of_none_says_nothing() -> None:
    """None leaves the conninfo's word, as in psycopg."""
    assert merged("user=a", user=None) == {"user": ("a", "conninfo")}


def test_values_that_are_no_text_are_written_out() -> None:
    """A number is handed over in digits."""
    assert merged(port=5433) == {"port": ("5433", "keyword")}


@pytest.mark.parametrize("sslmode", [None, "allow"])
def test_pgrequiressl_counts_where_pgsslmode_is_silent(
    monkeypatch: pytest.MonkeyPatch, sslmode: str | None
) -> None:
    """The old variable means require, unless the new one speaks."""
    monkeypatch.setenv("PGREQUIRESSL", "1")
    if sslmode:
        monkeypatch.setenv("PGSSLMODE", sslmode)
    assert merged() == {"sslmode": (sslmode or "require", "environment")}


def test_a_service_named_twice_stays_where_the_environment_names_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With PGSERVICE set libpq would read that one: the conninfo's stays in what it is handed."""
    (tmp_path / "services").write_text("[one]\nuser=one\n[two]\nuser=two\nport=2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert merged("service=one") == {"user": ("one", "service file")}
    monkeypatch.setenv("PGSERVICE", "two")
    assert merged()["user"] == ("two", "service file")
    assert merged("service=one") == {
        "service": ("one", "conninfo"),
        "user": ("one", "service file"),
    }


def test_service_files_are_looked_for_where_libpq_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The user's own file comes first, then that of PGSYSCONFDIR."""
    (tmp_path / "pg_service.conf").write_text("[s]\nuser=system\n[only]\nuser=system\n")
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert merged("service=s")["user"] == ("system", "service file")
    (tmp_path / "home" / ".pg_service.conf").write_text("[s]\nuser=own\n")
    assert merged("service=s")["user"] == ("own", "service file")
    assert merged("service=only")["user"] == ("system", "service file")


def test_the_systems_service_file_is_in_the_folder_compiled_into_libpq() -> None:
    """Without PGSYSCONFDIR libpq looks in a folder of its own; the error names both files."""
    maps = Path("/proc/self/maps").read_text("utf-8")
    (loaded,) = set(re.findall(r"/\S*/libpq\S*", maps))
    assert b"\0/etc/postgresql-common\0" in Path(loaded).read_bytes()
    (found,) = wrong("service=none")
    assert "'/etc/postgresql-common/pg_service.conf'" in found


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"[other]\nuser=x\n", "no service 's'"),
        (b"[s]\nhots=x\n", "('hots')"),
        (b"[s]\npass word\n", "is not keyword=value"),
        (b"[s]\nservice=other\n", "('service')"),
        (b"[s]\nuser=\xff\n", "cannot be read"),
        (b"[s]\nuser=a\0b\n", "contains a NUL"),
    ],
)
def test_a_service_file_that_cannot_serve_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """A missing file, section or keyword is said; the line itself, maybe a password, is not."""
    path = tmp_path / "services"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    (found,) = wrong("service=s")
    assert problem in found
    assert "pass word" not in found


@pytest.mark.parametrize("value", ["a\0b", "\udcff"])
def test_a_value_that_libpq_cannot_be_handed_is_a_problem(value: str) -> None:
    """Text is never cut at a NUL, where the TLS keywords behind it would be lost."""
    (found,) = wrong(user=value)
    assert found.startswith("⟦user⟧ contains a NUL")


@pytest.mark.parametrize("conninfo", ["user=a\0b sslmode=disable", "user=\udcff"])
def test_a_conninfo_that_libpq_cannot_be_handed_is_a_problem(conninfo: str) -> None:
    """A conninfo is never cut at a NUL either."""
    (found,) = wrong(conninfo)
    assert "is invalid" in found


def test_every_unknown_keyword_is_a_problem() -> None:
    """All are listed, each with the right word."""
    assert wrong(hots="x", database="y") == [
        "'hots' is not a libpq or azpg keyword: write 'host'",
        "'database' is not a libpq or azpg keyword: write 'dbname'",
    ]


def test_secrets_are_libpqs_passwords_and_keys() -> None:
    """What libpq marks as a password, and its SCRAM keys, is never shown."""
    secrets = libpq_info().secrets
    assert {"password", "sslpassword", "scram_client_key", "scram_server_key"} <= secrets
    assert not secrets & {"user", "host", "sslmode", "passfile", "sslkey"}


def test_a_service_files_lines_end_where_libpqs_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lone carriage return ends no line, and a section ends where the next begins."""
    text = b"[other]\nuser=o\n[s]junk\r\n  user=a\rdbname=b \n#port=1\n[t]\nport=2\n[s]\nport=3\n"
    (tmp_path / "services").write_bytes(text)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert merged("service=s") == {"user": ("a\rdbname=b", "service file")}
