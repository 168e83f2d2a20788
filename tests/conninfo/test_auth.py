"""Who signs in, as whom, and what is filled in where the caller is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg._conninfo.resolve import OptionSummary, Platform, resolve
from azpg._conninfo.sources import Parameter
from azpg._libpq import NONEXISTENT_FILE, libpq_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_conninfo import Handed, Planned, Problems, Reading

HOST = "myserver.postgres.database.azure.com"


class Credential:
    """A credential that must not be asked."""

    def get_token(self, *scopes: str) -> Any:
        """Fail the test."""
        raise AssertionError(scopes)


# Sign-in

WAYS: dict[str, dict[str, Any]] = {
    "credential": {"credential": Credential()},
    "factory": {"credential": Credential},
    "client_id": {"client_id": "an-id"},
    "text": {"password": "x"},
    "empty": {"password": ""},
    "callback": {"password": lambda: "x"},
    "conninfo": {"conninfo": "password=x"},
    "uri": {"conninfo": "postgresql://u:x@/"},
    "variable": {"PGPASSWORD": "x"},
    "service file": {"PGSERVICE": "s"},
    "passfile": {"passfile": "/nowhere"},
    "passfile in conninfo": {"conninfo": "passfile=/nowhere"},
    "PGPASSFILE": {"PGPASSFILE": "/nowhere"},
    "empty in conninfo": {"conninfo": "password=''"},
}


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that says these ways of signing in, and returns connect()'s options."""

    def say(*ways: str) -> dict[str, Any]:
        (tmp_path / "s").write_text("[s]\npassword=x\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
        options: dict[str, Any] = {}
        for way in ways:
            for name, value in WAYS[way].items():
                if name.startswith("PG"):
                    monkeypatch.setenv(name, value)
                else:
                    options[name] = value
        return {"host": HOST, **options}

    return say


@pytest.mark.parametrize(
    ("ways", "sign_in"),
    [
        ([], "entra"),
        (["credential"], "entra"),
        (["factory"], "entra"),
        (["client_id"], "entra"),
        (["text"], "password"),
        (["conninfo"], "password"),
        (["uri"], "password"),
        (["variable"], "password"),
        (["service file"], "password"),
        (["callback"], "callback"),
        (["empty"], "none"),
        (["passfile"], "none"),
        (["passfile in conninfo"], "none"),
        (["PGPASSFILE"], "entra"),
        (["empty in conninfo"], "entra"),
        # A keyword beats what is further away
        (["credential", "variable"], "entra"),
        (["credential", "service file"], "entra"),
        (["credential", "PGPASSFILE"], "entra"),
        (["credential", "passfile"], "entra"),
        (["client_id", "variable"], "entra"),
        (["client_id", "service file"], "entra"),
        (["callback", "variable"], "callback"),
        (["callback", "conninfo"], "callback"),
        (["text", "variable"], "password"),
        (["text", "conninfo"], "password"),
        (["empty", "variable"], "none"),
        (["empty", "conninfo"], "none"),
        (["empty", "PGPASSFILE"], "none"),
        (["passfile", "variable"], "password"),
        (["passfile", "conninfo"], "password"),
        (["variable", "empty in conninfo"], "entra"),
    ],
    ids=lambda value: "+".join(value) or "nothing" if isinstance(value, list) else value,
)
def test_what_was_given_says_who_signs_in(
    planned: Planned, say: Callable[..., dict[str, Any]], ways: list[str], sign_in: str
) -> None:
    """A password means PostgreSQL's sign-in, nothing means Entra, a keyword beats the rest."""
    assert planned(**say(*ways)).auth == sign_in


ENTRA = ["credential", "client_id"]
GIVEN = ["text", "empty", "callback", "conninfo", "uri"]


@pytest.mark.parametrize("entra", ENTRA)
@pytest.mark.parametrize("given", GIVEN)
def test_entra_and_a_password_exclude_each_other(
    problems: Problems, say: Callable[..., dict[str, Any]], entra: str, given: str
) -> None:
    """Both given by the caller: the error says which to leave out."""
    (problem,) = problems(**say(entra, given))
    assert entra in problem
    assert "password" in problem
    assert "leave out" in problem


def test_client_id_is_for_the_default_credential(
    problems: Problems, say: Callable[..., dict[str, Any]]
) -> None:
    """A credential has its own client id."""
    (problem,) = problems(**say("credential", "client_id"))
    assert problem.startswith("client_id chooses the identity of the default credential")


def test_an_empty_password_keeps_every_other_out(
    monkeypatch: pytest.MonkeyPatch, sent: Callable[..., bytes], reading: Reading
) -> None:
    """password="" signs in without one: neither PGPASSWORD nor any password file counts."""
    monkeypatch.setenv("PGPASSWORD", "x")
    monkeypatch.setenv("PGPASSFILE", "/nowhere/.pgpass")
    theirs = reading(sent(host=HOST, password=""))
    assert theirs["password"] == ""
    assert theirs["passfile"] == NONEXISTENT_FILE


@pytest.mark.parametrize("conninfo", ["", "passfile=/own/.pgpass"])
def test_a_named_password_file_is_handed_over(handed: Handed, conninfo: str) -> None:
    """A passfile that the caller names, as a keyword or in the conninfo, is libpq's to read."""
    options = {} if conninfo else {"passfile": "/own/.pgpass"}
    assert handed(conninfo, host=HOST, **options)["passfile"] == "/own/.pgpass"


@pytest.mark.parametrize("kind", ["text", "callback", "variable"])
def test_a_password_signs_in_without_azure_identity(
    planned: Planned, say: Callable[..., dict[str, Any]], kind: str
) -> None:
    """A password sign-in asks no credential: it goes to any host."""
    assert planned(**say(kind) | {"host": "db"}).auth != "entra"


# User and database


@pytest.mark.parametrize("user", ["alice@contoso.com", "A Group", "user@server", "x' y\\"])
def test_a_user_is_passed_untouched(handed: Handed, user: str) -> None:
    """Exactly the name that was given, whatever it looks like."""
    assert handed(host=HOST, user=user)["user"] == user
    assert handed(host=HOST, user=user, password="x")["user"] == user


@pytest.mark.parametrize("conninfo", ["", "user=''"])
def test_without_a_user_the_tokens_counts(
    monkeypatch: pytest.MonkeyPatch, planned: Planned, conninfo: str
) -> None:
    """No user, or an empty one, is left open for the token to fill."""
    assert "user" not in planned(conninfo, host=HOST).params
    monkeypatch.setenv("PGUSER", "alice")
    assert planned(host=HOST).params["user"] == "alice"


@pytest.mark.parametrize("conninfo", ["", "dbname=''", "user=alice", "user=postgres dbname="])
def test_entras_database_is_postgres_where_none_is_named(handed: Handed, conninfo: str) -> None:
    """Every Azure server has it; libpq's guess, the user's name, it has not."""
    assert handed(conninfo, host=HOST)["dbname"] == "postgres"


def test_a_named_database_is_kept(monkeypatch: pytest.MonkeyPatch, handed: Handed) -> None:
    """From any source."""
    assert handed("dbname=a", host=HOST)["dbname"] == "a"
    monkeypatch.setenv("PGDATABASE", "b")
    assert handed(host=HOST)["dbname"] == "b"


def test_a_password_sign_in_has_libpqs_database(handed: Handed) -> None:
    """There libpq's own guess stays, as in psycopg."""
    assert "dbname" not in handed(host=HOST, password="x")


# What is filled in

DEFAULTS = {
    "connect_timeout": "15",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
    "fallback_application_name": "azpg",
}


@pytest.mark.parametrize("options", [{}, {"password": "x"}, {"password": "x", "host": "db"}])
def test_timeouts_are_filled_in_everywhere(handed: Handed, options: dict[str, Any]) -> None:
    """A dead peer is noticed, whoever signs in and wherever."""
    assert handed(**{"host": HOST, **options}).items() >= DEFAULTS.items()


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("form", ["keyword", "conninfo"])
def test_the_caller_beats_what_is_filled_in(handed: Handed, name: str, form: str) -> None:
    """What the caller says always wins."""
    words: dict[str, Any] = {name: "7"} if form == "keyword" else {"conninfo": f"{name}=7"}
    assert handed(host=HOST, **words)[name] == "7"


def test_the_environment_beats_what_is_filled_in(
    monkeypatch: pytest.MonkeyPatch, handed: Handed
) -> None:
    """The environment is the caller's too."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert handed(host=HOST)["connect_timeout"] == "7"


@pytest.mark.parametrize("linux", [True, False])
def test_tcp_user_timeout_is_linux_own(linux: bool) -> None:
    """Elsewhere libpq refuses, or ignores, what the system lacks."""
    machine = Platform(
        libpq_version=18,
        defaults={},
        keywords=libpq_info().variables,
        is_linux=linux,
        has_user_root_crt=False,
    )
    said = {"host": Parameter(HOST, "keyword")}
    plan, _ = resolve(said, OptionSummary(), machine)
    assert ("tcp_user_timeout" in plan.params) is linux


@pytest.mark.parametrize("keyword", sorted(DEFAULTS))
def test_a_default_needs_a_libpq_that_knows_it(keyword: str) -> None:
    """Where the libpq in use lacks a keyword it is not handed over."""
    machine = Platform(
        libpq_version=18,
        defaults={},
        keywords=frozenset(libpq_info().variables) - {keyword},
        is_linux=True,
        has_user_root_crt=False,
    )
    said = {"host": Parameter(HOST, "keyword")}
    plan, problems = resolve(said, OptionSummary(), machine)
    assert not problems
    assert plan.params.keys().isdisjoint({keyword})
    assert plan.params.keys() >= DEFAULTS.keys() - {keyword}


def test_everything_else_is_passed_untouched(handed: Handed) -> None:
    """Other keywords of libpq's go through as they are."""
    others = {
        "application_name": "app",
        "options": "-c search_path=a",
        "target_session_attrs": "read-write",
        "load_balance_hosts": "random",
        "client_encoding": "utf8",
        "channel_binding": "disable",
        "replication": "database",
    }
    assert handed(host=HOST, **others).items() >= others.items()


# Values that cannot be meant


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (
            {"user": "{your_user}"},
            "user is still the placeholder {your_user}",
        ),
        ({"dbname": "<your-database>"}, "placeholder <your-database>"),
        ({"conninfo": "user={your_user_name}"}, "user (connection string)"),
        ({"password": "{your_password}"}, "is still a placeholder"),
        ({"conninfo": "password={your_password}"}, "is still a placeholder"),
        ({"conninfo": "postgresql://u:%7Byour-password%7D@/"}, "is still a placeholder"),
    ],
)
def test_a_portals_placeholder_is_refused(
    problems: Problems, words: dict[str, Any], left: str
) -> None:
    """A string that was copied and not filled in is told by its placeholder."""
    assert left in "\n".join(problems(**{"host": HOST, "client_id": None, **words}))


@pytest.mark.parametrize("timeout", ["", "soon", "1m", "1e3x", "\u0661"])
def test_a_timeout_that_is_no_number_is_refused(problems: Problems, timeout: str) -> None:
    """connect_timeout is in seconds."""
    (problem,) = problems(host=HOST, connect_timeout=timeout)
    assert problem == f"connect_timeout={timeout!r} is not a number of seconds"


@pytest.mark.parametrize("timeout", ["0", "-1", " 5 ", "2.5", 7])
def test_a_timeout_that_is_a_number_passes(handed: Handed, timeout: object) -> None:
    """In any way that psycopg reads."""
    assert handed(host=HOST, connect_timeout=timeout)["connect_timeout"] == str(timeout)


@pytest.mark.parametrize("name", ["database", "hots", "ssl_mode", "application"])
def test_an_unknown_keyword_is_refused(problems: Problems, name: str) -> None:
    """Neither libpq's nor azpg's: refused before anything is asked or reached."""
    (problem,) = problems(host=HOST, **{name: "x"})
    assert problem.startswith(f"{name!r} is not a libpq or azpg keyword")


def test_an_async_credential_or_callback_needs_the_async_api(problems: Problems) -> None:
    """The sync API says so, with what to use."""

    class AsyncCredential:
        async def get_token(self, *scopes: str) -> Any:
            raise AssertionError(scopes)

    async def callback() -> str:
        raise AssertionError

    for options in ({"credential": AsyncCredential()}, {"password": callback}):
        (problem,) = problems(host=HOST, **options)
        assert "connect_async()" in problem


@pytest.mark.parametrize("options", [{"credential": object()}, {"credential": 1}, {"password": 1}])
def test_an_object_of_no_use_is_refused(problems: Problems, options: dict[str, Any]) -> None:
    """What is neither credential nor password is told by its type."""
    (problem,) = problems(host=HOST, **options)
    (value,) = options.values()
    assert f"is {type(value).__name__}" in problem


def test_conninfo_refuses_as_connect_does() -> None:
    """azpg.conninfo() raises the same error."""
    with pytest.raises(azpg.ConfigError, match="a token never goes to"):
        azpg.conninfo(host="evil.example")
