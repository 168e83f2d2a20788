"""Words that were settled before: what is kept, until when, and that no secret is."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg import _settled
from azpg._conninfo import sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fix_conninfo import Handed

SECRET = "s3cret-that-no-one-keeps"
HOST = "myserver.postgres.database.azure.com"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """Begin with nothing, and return where it is kept."""
    kept: dict[Any, Any] = {}
    monkeypatch.setattr(_settled, "_KEPT", kept)
    return kept


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the conninfos that are merged with all else."""
    merged: list[str] = []
    merge = sources.merge

    def counted(conninfo: str, *args: Any, **options: Any) -> Any:
        """Merge, and note it."""
        merged.append(conninfo)
        return merge(conninfo, *args, **options)

    monkeypatch.setattr(sources, "merge", counted)
    return merged


def test_the_same_words_are_settled_once(merges: list[str]) -> None:
    """Whatever objects they come in."""
    first = azpg.conninfo("dbname=shop", server="myserver", port=5432)
    again = azpg.conninfo(b"dbname=shop".decode(), server="myserver", port="5432")
    assert first == again
    assert merges == ["dbname=shop"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"dbname": "a"}, {"dbname": "b"}),
        ({"dbname": None}, {"dbname": "None"}),
        ({"application_name": "x"}, {"dbname": "x"}),
        ({"pgbouncer": True}, {"pgbouncer": False}),
        ({"cloud": "public"}, {"cloud": "china"}),
        ({"password": "x"}, {"password": lambda: "x"}),
        ({"password": ""}, {}),
        ({"client_id": "x"}, {"password": "x"}),
    ],
)
def test_other_words_are_settled_anew(merges: list[str], one: Any, other: Any) -> None:
    """And so are the same words said in another place."""
    told: Any = {"server": "myserver"}
    for changes in (one, other, one, other):
        azpg.conninfo(**told, **changes)
    assert len(merges) == 2


def test_a_call_that_cannot_be_meant_is_told_so_each_time() -> None:
    """A mistake is no word that was settled."""
    for _ in range(2):
        with pytest.raises(azpg.ConfigError, match="databse"):
            azpg.conninfo(server="myserver", databse="x")
    azpg.conninfo(server="myserver", password="x")
    with pytest.raises(azpg.ConfigError, match="placeholder"):
        azpg.conninfo(server="myserver", password="{your_password}")


@pytest.mark.parametrize("held", ["in the dict below os.environ", "in os.environ alone"])
def test_a_variable_counts_from_the_next_call_on(
    monkeypatch: pytest.MonkeyPatch, handed: Handed, held: str
) -> None:
    """Set, changed and deleted, also where Python keeps its environment in another way."""
    if held.endswith("alone"):
        monkeypatch.setattr("azpg._conninfo.sources.os.name", "other")

    for name in ("one", "two"):
        monkeypatch.setenv("PGDATABASE", name)
        assert handed(server="myserver")["dbname"] == name
    monkeypatch.delenv("PGDATABASE")
    assert handed(server="myserver")["dbname"] == "postgres"


@pytest.mark.parametrize("named", ["service=s", "postgres:///?s%65rvice=s", "keyword", "variable"])
def test_a_service_file_counts_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """Nobody tells when it changes, so its words are not kept."""
    services = tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    told: dict[str, Any] = {"keyword": {"service": "s"}, "variable": {}}.get(
        named, {"conninfo": named}
    )
    if named == "variable":
        monkeypatch.setenv("PGSERVICE", "s")
    for name in ("one", "two"):
        services.write_text(f"[s]\nhost={HOST}\ndbname={name}\n")
        assert f"dbname={name}" in azpg.conninfo(**told)


def exported(patch: pytest.MonkeyPatch, name: str) -> dict[str, str]:
    """Set a variable to the secret, and say nothing else."""
    patch.setenv(name, SECRET)
    return {}


SECRETS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "argument": lambda _: {"password": SECRET},
    "conninfo": lambda _: {"conninfo": f"user=app password={SECRET}"},
    "URI": lambda _: {"conninfo": f"postgresql://app:{SECRET}@{HOST}/shop", "server": None},
    "variable": lambda patch: exported(patch, "PGPASSWORD"),
    "keyword": lambda _: {"sslkey": "/k", "sslcert": "/c", "sslpassword": SECRET},
    "callback": lambda _: {"password": lambda: SECRET},
    "conninfo, outdone": lambda _: {"conninfo": f"password={SECRET}", "password": "other"},
    "variable, outdone": lambda patch: exported(patch, "PGPASSWORD") | {"password": "other"},
    "variable, emptied": lambda patch: exported(patch, "PGPASSWORD") | {"password": ""},
    "connector": lambda patch: exported(patch, "AZURE_POSTGRESQL_PASSWORD"),
    "connector's client": lambda patch: exported(patch, "AZURE_POSTGRESQL_CLIENTSECRET"),
    "connector's string": lambda patch: patch.setenv(
        "AZURE_POSTGRESQL_CONNECTIONSTRING", f"host={HOST} password={SECRET}"
    ),
}


@pytest.mark.parametrize("way", SECRETS)
def test_no_secret_is_kept(
    monkeypatch: pytest.MonkeyPatch, nothing_kept: dict[Any, Any], way: str
) -> None:
    """Whichever way it comes in, and whether it counts or not."""
    told = {"server": "myserver"} | (SECRETS[way](monkeypatch) or {})
    azpg.conninfo(**told)
    if way == "connector":
        azpg.conninfo("dbname=x", server="myserver")
    waiting: list[Any] = [nothing_kept]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, type):
            seen.add(id(each))
            assert not (isinstance(each, str | bytes) and SECRET in str(each)), way
            waiting += gc.get_referents(each)


def test_what_is_kept_is_bounded(nothing_kept: dict[Any, Any]) -> None:
    """A program that makes up its words does not grow for ever."""
    for number in range(_settled.MOST + 10):
        azpg.conninfo(server="myserver", application_name=str(number))
    assert 0 < len(nothing_kept) <= _settled.MOST
