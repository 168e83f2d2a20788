"""Create an `ssl.SSLContext` from libpq's TLS keywords, for drivers that do not use libpq."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg

from .roots import user_root_crt

if TYPE_CHECKING:
    from collections.abc import Mapping


class ServerNameContext(ssl.SSLContext):
    """A context that verifies the server's name if the connection goes to an address."""

    server_names: Mapping[str, str]
    """address -> the name to verify"""

    def wrap_bio(  # type: ignore[override]  # asyncio and uvloop name all but the first two
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_hostname: str | None = None,
        **kwargs: Any,
    ) -> ssl.SSLObject:
        """Start TLS with the server's name; asyncio passes the address that it connected to."""
        name = self.server_names.get(server_hostname or "") or server_hostname
        return super().wrap_bio(incoming, outgoing, server_hostname=name, **kwargs)


def create_ssl_context(
    params: Mapping[str, str], server_names: Mapping[str, str]
) -> ServerNameContext:
    """Return a context that does what libpq does with these parameters.

    Args:
        params: Keywords of libpq; `sslmode` is `require` or stricter.
        server_names: The name to verify for each address.

    Raises:
        psycopg.OperationalError: A file does not exist, or a TLS version is invalid.
    """
    root_file = params.get("sslrootcert") or user_root_crt()
    if params.get("sslcert"):
        # Not cached: a cached context would keep the decrypted private key
        return _build_context(params, server_names, root_file)
    keywords = frozenset((name, params.get(name, "")) for name in _CONTEXT_KEYWORDS)
    signatures = (_stat_signature(root_file), _stat_signature(params.get("sslcrl", "")))
    return _cached_context(keywords, frozenset(server_names.items()), root_file, signatures)


_CONTEXT_KEYWORDS = (
    "sslmode",
    "sslcrl",
    "sslkeylogfile",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)


@lru_cache(maxsize=32)
def _cached_context(
    keywords: frozenset[tuple[str, str]],
    server_names: frozenset[tuple[str, str]],
    root_file: str,
    _signatures: tuple[object, ...],
) -> ServerNameContext:
    # Loading the root certificates takes milliseconds, during which the event loop waits
    return _build_context(dict(keywords), dict(server_names), root_file)


def _stat_signature(path: str) -> tuple[int, ...] | None:
    """Return a value that changes when the file changes."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _build_context(
    params: Mapping[str, str], server_names: Mapping[str, str], root_file: str
) -> ServerNameContext:
    # Not ssl.create_default_context(), which logs keys to the file that SSLKEYLOGFILE names
    context = ServerNameContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_names = server_names
    context.check_hostname = _verifies_name(params)
    context.minimum_version = _tls_version(params, "ssl_min_protocol_version", "TLSv1.2")
    context.maximum_version = _tls_version(params, "ssl_max_protocol_version", "MAXIMUM_SUPPORTED")
    context.set_alpn_protocols(["postgresql"])
    if root_file == "system":
        context.load_default_certs()
    elif os.path.exists(root_file):
        context.load_verify_locations(root_file)
    elif params["sslmode"] == "require":
        # As in libpq, which treats require as verify-ca if there is a root file
        context.verify_mode = ssl.CERT_NONE
    else:
        raise psycopg.OperationalError(f'root certificate file "{root_file}" does not exist')
    if crl_file := params.get("sslcrl"):
        context.load_verify_locations(crl_file)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    if cert_file := params.get("sslcert"):
        key_password = params.get("sslpassword", "")
        context.load_cert_chain(cert_file, params.get("sslkey") or None, lambda: key_password)
    if log_file := params.get("sslkeylogfile"):
        context.keylog_filename = log_file
    return context


def _verifies_name(params: Mapping[str, str]) -> bool:
    return params["sslmode"] == "verify-full"


def _tls_version(params: Mapping[str, str], name: str, default: str) -> ssl.TLSVersion:
    version = params.get(name) or default
    try:
        return ssl.TLSVersion[version.replace(".", "_")]
    except KeyError:
        raise psycopg.OperationalError(f'invalid "{name}" value: "{version}"') from None


def insecure_reason(context: ssl.SSLContext) -> str | None:
    """Return why a caller's context must not be used with a secret, or None if it may be."""
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        return "it does not verify the server"
    if context.keylog_filename:
        return "it writes its keys to a file (SSLKEYLOGFILE)"
    return None
