"""Random words in every source that libpq knows: key/value, URI, environment, service file."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Words: TypeAlias = dict[str, str]

VALUES = {
    "application_name": ("", "app", "naïve app"),
    "channel_binding": ("disable", "require"),
    "client_encoding": ("", "utf8"),
    "connect_timeout": ("", "3"),
    "dbname": ("", "db", "host=evil.example user=eve", "postgresql://evil.example"),
    "gssencmode": ("disable", "prefer", "require"),
    "host": (
        "",
        "a.postgres.database.azure.com",
        "A.Postgres.Database.Azure.Com.",
        "a.postgres.database.azure.com,b.postgres.database.azure.com",
        "db.example.net",
        "/run/postgresql",
    ),
    "hostaddr": ("", "192.0.2.1", "192.0.2.1,192.0.2.2"),
    "keepalives_idle": ("", "7"),
    "load_balance_hosts": ("disable", "random"),
    "options": ("", "-c search_path=a"),
    "passfile": ("", "/nowhere/.pgpass"),
    "password": ("", "s3cret", "it's a \\ secret"),
    "port": ("", "5432", "6432", "5432,6432", "none"),
    "require_auth": ("", "scram-sha-256"),
    "ssl_min_protocol_version": ("", "TLSv1.3"),
    "sslcert": ("", "/nowhere/client.crt"),
    "sslcertmode": ("allow", "disable"),
    "sslkeylogfile": ("", "/nowhere/keys"),
    "sslmode": ("", "disable", "prefer", "require", "requir", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "sslrootcert": ("", "/nowhere/root.pem", "system"),
    "target_session_attrs": ("any", "read-write"),
    "user": ("", "alice", "alice@contoso.com", "o'brien \\"),
}
SERVICES = ("a", "ab", "c d")


@dataclass(frozen=True)
class Sources:
    """What a program and its machine say of one connection."""

    conninfo: str
    environ: Words
    service_file: bytes

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Stand in the environment, with the service file in its place."""
        with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
            Path(file.name).write_bytes(self.service_file)
            patch.setenv("PGSERVICEFILE", file.name)
            for name, value in self.environ.items():
                patch.setenv(name, value)
            yield


def pair(names: Iterable[str] = VALUES) -> st.SearchStrategy[tuple[str, str]]:
    """Return a keyword with a value that is often good."""
    known = [name for name in names if name in libpq_info().variables]
    return st.sampled_from(known).flatmap(
        lambda name: st.tuples(st.just(name), st.sampled_from(VALUES[name]))
    )


def key_value(said: Words) -> st.SearchStrategy[str]:
    """Write them as libpq's key/value string, in any of its manners."""

    def pair(name: str, value: str, space: str) -> str:
        text = value.replace("\\", "\\\\").replace("'", "\\'")
        bare = text and not any(c.isspace() for c in text) and "'" not in text
        return f"{name}{space}={space}{text}" if bare else f"{name}{space}={space}'{text}'"

    return st.sampled_from(("", " ", "\n")).map(
        lambda space: "  ".join(pair(name, value, space) for name, value in said.items())
    )


def uri(said: Words) -> st.SearchStrategy[str]:
    """Write them as a URI, the usual ones before the question mark."""
    rest = dict(said)
    user, password = (quote(rest.pop(name, ""), safe="") for name in ("user", "password"))
    place = f"{user}:{password}@" if password else f"{user}@" if user else ""
    host, port = rest.get("host", ""), rest.get("port", "")
    if host and "/" not in host and "," not in host + port:
        place += rest.pop("host") + (f":{rest.pop('port')}" if port else "")
    path = quote(rest.pop("dbname", ""), safe="")
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in rest.items())
    return st.just(f"postgresql://{place}/{path}" + (f"?{query}" if query else ""))


def conninfo() -> st.SearchStrategy[str]:
    """Write a conninfo, which may name a service."""
    service = st.none() | st.sampled_from(SERVICES)
    words = st.lists(pair(), max_size=6).map(dict)
    said = st.builds(lambda said, name: said | ({"service": name} if name else {}), words, service)
    return said.flatmap(lambda said: key_value(said) | uri(said))


def environ() -> st.SearchStrategy[Words]:
    """Export a few variables."""
    variables = libpq_info().variables
    exported = pair(name for name in VALUES if variables.get(name))
    named = st.lists(exported, max_size=5).map(
        lambda said: {variables[name]: value for name, value in said}
    )
    more = st.fixed_dictionaries(
        {},
        optional={
            "PGREQUIRESSL": st.sampled_from(("0", "1", "10", "")),
            "PGSERVICE": st.sampled_from(SERVICES),
        },
    )
    return st.builds(lambda one, two: one | two, named, more)


def service_file() -> st.SearchStrategy[bytes]:
    """Write a service file, with all that libpq skips and refuses."""
    good = pair().map("=".join)
    odd = st.sampled_from(
        ("", "# sslmode=disable", "; no", "port = 1", "service=a", "user=x\rdbname=y", "user=u\0v")
    )
    head = st.sampled_from(
        [f"[{name}]" for name in SERVICES] + ["[a]behind", "[a", "x[a]", " [a] "]
    )
    line = st.one_of(good, good, good, head, head, odd)
    ends = st.sampled_from(("\n", "\r\n", " \t\n", "\n  "))
    tidy = st.lists(good, max_size=4)
    every = tidy.map(lambda lines: "".join(f"[{n}]\n" + "\n".join(lines) + "\n" for n in SERVICES))
    wild = st.lists(st.tuples(line, ends).map("".join), max_size=12).map("".join)
    return st.one_of(every, wild).map(str.encode)


@pytest.fixture(scope="session")
def sources() -> st.SearchStrategy[Sources]:
    """Return random words in every source at once."""
    return st.builds(Sources, conninfo(), environ(), service_file())
