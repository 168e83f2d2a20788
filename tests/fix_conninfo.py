"""What azpg makes of a call: the parameters for libpq, the plan, or the problems; no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import azpg
from azpg._connect import ConnectRequest
from azpg._conninfo.options import ConnectOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from azpg._conninfo.resolve import ResolvedConfig

Problems: TypeAlias = "Callable[..., tuple[str, ...]]"


class Handed(Protocol):
    """Return what libpq is handed, without secrets, as azpg.conninfo() tells it."""

    def __call__(self, conninfo: str = "", **options: Any) -> dict[str, str]:
        """Take what connect() takes."""


class Planned(Protocol):
    """Return the plan of a call, for what azpg.conninfo() does not show."""

    def __call__(self, conninfo: str = "", **options: Any) -> ResolvedConfig:
        """Take what connect() takes."""


class Reading(Protocol):
    """Return libpq's own reading of a conninfo, of the environment and the service file."""

    def __call__(self, conninfo: bytes) -> dict[str, str]:
        """Raise ValueError, with libpq's words, where it cannot be read."""


class Untouched:
    """A credential that must not be asked."""

    def get_token(self, *scopes: str, **_options: Any) -> Any:
        """Fail the test."""
        raise AssertionError(f"a token was asked for: {scopes}")


def connect_request(conninfo: str, **options: Any) -> ConnectRequest:
    """Return the request for a connection with these options; nothing is sent."""
    given = ConnectOptions.from_mapping({"conninfo": conninfo, **options})
    return ConnectRequest(given, is_async=True)


@pytest.fixture(scope="session")
def handed() -> Handed:
    """Return what libpq is handed, without secrets, as azpg.conninfo() tells it."""

    def handed(conninfo: str = "", **options: Any) -> dict[str, str]:
        params = conninfo_to_dict(azpg.conninfo(conninfo, **options))
        return {name: str(value) for name, value in params.items()}

    return handed


@pytest.fixture(scope="session")
def planned() -> Planned:
    """Return the plan of a call, for what azpg.conninfo() does not show."""

    def planned(conninfo: str = "", **options: Any) -> ResolvedConfig:
        return connect_request(conninfo, **options).config

    return planned


@pytest.fixture(scope="session")
def sent() -> Callable[..., bytes]:
    """Return exactly what libpq is handed for a sign-in by password, with its secrets."""

    def sent(conninfo: str = "", **options: Any) -> bytes:
        request = connect_request(conninfo, **options)
        params = request.params(request.login(), request.resolve_hosts())
        return make_conninfo("", **params).encode()

    return sent


@pytest.fixture(scope="session")
def problems() -> Problems:
    """Return the problems that connect() finds before it asks for a token or reaches a network."""

    def problems(conninfo: str = "", **options: Any) -> tuple[str, ...]:
        if options.keys().isdisjoint(("credential", "client_id", "password")):
            options["credential"] = Untouched()
        with pytest.raises(azpg.ConfigError) as caught:
            azpg.connect(conninfo, retry_timeout=0, **options)
        return caught.value.problems

    return problems


@pytest.fixture(scope="session")
def reading() -> Reading:
    """Return libpq's own reading of a conninfo, of the environment and the service file."""

    def reading(conninfo: bytes) -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            # A bad value that libpq finds after the merge and before it reaches for the network
            patch.setenv("PGMINPROTOCOLVERSION", "no")
            conn = pq.PGconn.connect_start(conninfo)
        merged = {o.keyword.decode(): o.val.decode() for o in conn.info if o.val is not None}
        if not merged:
            raise ValueError(conn.get_error_message())
        del merged["min_protocol_version"]
        return merged

    return reading
