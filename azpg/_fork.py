"""Protect the connections and pools of a process from its forked children."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet, ref

import psycopg

if TYPE_CHECKING:
    from psycopg._connection_base import BaseConnection

    class Pool(Protocol):
        """A pool that can be closed in a forked child."""

        def close_after_fork(self) -> None:
            """Close the pool without waiting for its threads or writing to a server."""


C = TypeVar("C", bound="BaseConnection[Any]")

OPEN_POOLS: WeakSet[Pool] = WeakSet()
"""The pools of this process; a pool adds itself when it opens."""

_CONNECTIONS: dict[int, ref[BaseConnection[Any]]] = {}
"""Each connection by its socket's number. The system reuses numbers, so the dict is as long as the
most connections that were open at a time."""


def track_connection(conn: C) -> C:
    """Return a connection, and invalidate its copy in each child that this process forks."""
    _CONNECTIONS[conn.pgconn.socket] = ref(conn)
    return conn


def _after_fork_in_child() -> None:
    _replace_inherited_sockets()
    _close_inherited_pools()


def _replace_inherited_sockets() -> None:
    """Replace the socket of each inherited connection by a closed one.

    libpq cannot close the child's copies: it would send a Terminate message over the parent's
    socket, and another thread may have held one of the copies during the fork.
    """
    inherited = [conn for known in _CONNECTIONS.values() if (conn := known()) is not None]
    if inherited:
        closed_socket, peer = socket.socketpair()
        peer.close()
        with closed_socket:
            for conn in inherited:
                with suppress(psycopg.Error):  # the connection is closed
                    os.dup2(closed_socket.fileno(), conn.pgconn.socket, inheritable=False)


def _close_inherited_pools() -> None:
    for pool in OPEN_POOLS:
        pool.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
