"""libpq's TLS keywords as Python's `ssl.SSLContext`, for drivers that are not on libpq."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg

from .roots import user_root_crt

if TYPE_CHECKING:
    from collections.abc import Mapping


class Context(ssl.SSLContext):
    """A context that verifies the name of a server that is reached by its address."""

    names: Mapping[str, str]
    """the name to verify for each address"""

    def wrap_bio(  # type: ignore[override]  # asyncio and uvloop name all but the first two
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_hostname: str | None = None,
        **kwargs: Any,
    ) -> ssl.SSLObject:
        """Wrap a connection for asyncio, which knows only where it went."""
        name = self.names.get(server_hostname or "") or server_hostname
        return super().wrap_bio(incoming, outgoing, server_hostname=name, **kwargs)


def context(params: Mapping[str, str], names: Mapping[str, str]) -> Context:
    """Return the context that libpq's keywords ask for; `sslmode` is `require` or stricter."""
    roots = params.get("sslrootcert") or user_root_crt()
    if params.get("sslcert"):
        return _made(params, names, roots)  # not kept, as a password may open its key
    asked = frozenset((name, params.get(name, "")) for name in _READ)
    seen = tuple(map(_look, (roots, params.get("sslcrl", ""))))
    return _kept(asked, frozenset(names.items()), roots, seen)


_READ = (
    *("sslmode", "sslcrl", "sslkeylogfile"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)


@lru_cache(maxsize=32)
def _kept(
    asked: frozenset[tuple[str, str]],
    names: frozenset[tuple[str, str]],
    roots: str,
    _seen: tuple[object, ...],
) -> Context:
    # Milliseconds of work, while the event loop waits
    return _made(dict(asked), dict(names), roots)


def _look(path: str) -> tuple[int, ...] | None:
    """Return what changes with a file."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _made(params: Mapping[str, str], names: Mapping[str, str], roots: str) -> Context:
    # Bare: ssl.create_default_context lets SSLKEYLOGFILE name a file for the keys.
    made = Context(ssl.PROTOCOL_TLS_CLIENT)
    made.names = names
    made.check_hostname = params["sslmode"] == "verify-full"
    made.minimum_version = _version(params, "ssl_min_protocol_version", "TLSv1.2")
    made.maximum_version = _version(params, "ssl_max_protocol_version", "MAXIMUM_SUPPORTED")
    made.set_alpn_protocols(["postgresql"])
    if roots == "system":
        made.load_default_certs()
    elif os.path.exists(roots):
        made.load_verify_locations(roots)
    elif params["sslmode"] == "require":
        made.verify_mode = ssl.CERT_NONE  # as in libpq: beside a root file it is verify-ca
    else:
        raise psycopg.OperationalError(f'root certificate file "{roots}" does not exist')
    if file := params.get("sslcrl"):
        made.load_verify_locations(file)
        made.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    if file := params.get("sslcert"):
        secret = params.get("sslpassword", "")
        made.load_cert_chain(file, params.get("sslkey") or None, lambda: secret)
    if file := params.get("sslkeylogfile"):
        made.keylog_filename = file
    return made


def _version(params: Mapping[str, str], name: str, default: str) -> ssl.TLSVersion:
    asked = params.get(name) or default
    try:
        return ssl.TLSVersion[asked.replace(".", "_")]
    except KeyError:
        raise psycopg.OperationalError(f'invalid "{name}" value: "{asked}"') from None


def unfit(made: ssl.SSLContext) -> str | None:
    """Say why a context of the caller's own must not carry a secret."""
    if made.verify_mode != ssl.CERT_REQUIRED or not made.check_hostname:
        return "it does not verify the server"
    if made.keylog_filename:
        return "it writes its keys to a file (SSLKEYLOGFILE)"
    return None
