"""The cache of resolved configurations: what each connect reads again; it holds no secret."""

from __future__ import annotations

import gc
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg import _connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fix_conninfo import Handed

SECRET = "s3cret-that-no-one-keeps"
HOST = "myserver.postgres.database.azure.com"


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Start with an empty cache."""
    _connect._cached_config.cache_clear()
    yield
    _connect._cached_config.cache_clear()


def cached_objects() -> list[Any]:
    """Return all that the caches refer to."""
    waiting: list[Any] = [_connect._cached_config, _connect._warn_once]
    seen: dict[int, Any] = {}
    while waiting:
        each = waiting.pop()
        if id(each) not in seen and not isinstance(each, type | FunctionType):
            seen[id(each)] = each
            waiting += gc.get_referents(each)
    return list(seen.values())


def test_invalid_options_raise_each_time() -> None:
    """A mistake is not remembered as something valid, and the same mistake is an error again."""
    for _ in range(2):
        with pytest.raises(azpg.ConfigError, match="databse"):
            azpg.conninfo(server="myserver", databse="x")
    azpg.conninfo(server="myserver", password="x")
    with pytest.raises(azpg.ConfigError, match="placeholder"):
        azpg.conninfo(server="myserver", password="{your_password}")


def test_a_variable_counts_from_the_next_connect_on(
    monkeypatch: pytest.MonkeyPatch, handed: Handed
) -> None:
    """Set, changed and deleted."""
    for name in ("one", "two"):
        monkeypatch.setenv("PGDATABASE", name)
        assert handed(server="myserver")["dbname"] == name
    monkeypatch.delenv("PGDATABASE")
    assert handed(server="myserver")["dbname"] == "postgres"


@pytest.mark.parametrize("named", ["service=s", "postgres:///?s%65rvice=s", "keyword", "variable"])
def test_a_service_file_is_read_for_each_connect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """However the service is named."""
    services = tmp_path / "services"
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    options: dict[str, Any] = {"keyword": {"service": "s"}, "variable": {}}.get(
        named, {"conninfo": named}
    )
    if named == "variable":
        monkeypatch.setenv("PGSERVICE", "s")
    for name in ("one", "two"):
        services.write_text(f"[s]\nhost={HOST}\ndbname={name}\n")
        assert f"dbname={name}" in azpg.conninfo(**options)


def exported(patch: pytest.MonkeyPatch, name: str, value: str = SECRET) -> dict[str, str]:
    """Set a variable, and return no options."""
    patch.setenv(name, value)
    return {}


SECRETS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "argument": lambda _: {"password": SECRET},
    "conninfo": lambda _: {"conninfo": f"user=app password={SECRET}"},
    "URI": lambda _: {"conninfo": f"postgresql://app:{SECRET}@{HOST}/shop", "server": None},
    "variable": lambda patch: exported(patch, "PGPASSWORD"),
    "keyword": lambda _: {"sslkey": "/k", "sslcert": "/c", "sslpassword": SECRET},
    "callback": lambda _: {"password": lambda: SECRET},
    "conninfo, overridden": lambda _: {"conninfo": f"password={SECRET}", "password": "other"},
    "variable, overridden": lambda patch: exported(patch, "PGPASSWORD") | {"password": "other"},
    "connector": lambda patch: exported(patch, "AZURE_POSTGRESQL_PASSWORD"),
    "connector's client": lambda patch: exported(patch, "AZURE_POSTGRESQL_CLIENTSECRET"),
    "connector's string": lambda patch: exported(
        patch, "AZURE_POSTGRESQL_CONNECTIONSTRING", f"host={HOST} password={SECRET}"
    ),
}


@pytest.mark.parametrize("source", SECRETS)
def test_no_secret_is_cached(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Wherever it comes from, and whether it counts or not."""
    azpg.conninfo(**({"server": "myserver"} | SECRETS[source](monkeypatch)))
    assert _connect._cached_config.cache_info().currsize == 1
    texts = [str(each) for each in cached_objects() if isinstance(each, str | bytes)]
    assert texts
    assert not [text for text in texts if SECRET in text]


def test_the_cache_is_bounded() -> None:
    """A program that generates its connection strings does not grow."""
    for number in range(_connect.CACHE_SIZE + 10):
        azpg.conninfo(server="myserver", application_name=str(number))
    assert _connect._cached_config.cache_info().currsize == _connect.CACHE_SIZE
