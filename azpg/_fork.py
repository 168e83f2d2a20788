"""What a forked child must not touch: the sessions and the pools of its parent."""

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
        """A pool that is open, and knows what to do when it finds itself in a child."""

        def end_in_child(self) -> None:
            """Be closed, without a word to a thread or a server."""


S = TypeVar("S", bound="BaseConnection[Any]")

POOLS: WeakSet[Pool] = WeakSet()
_SESSIONS: dict[int, ref[BaseConnection[Any]]] = {}
"""by the number of the socket: as numbers are used again, no more than were open at once"""


def opened(session: S) -> S:
    """Return a session that is to stay its process's own."""
    _SESSIONS[session.pgconn.socket] = ref(session)
    return session


def _after_fork_in_child() -> None:
    """Put a dead socket in the place of each of the parent's.

    The child's copies are all that is lost. They are not closed by libpq, which would say goodbye
    on them to the parent's servers, and in which another thread may have been at the fork.
    """
    if sessions := [session for known in _SESSIONS.values() if (session := known()) is not None]:
        dead, peer = socket.socketpair()
        peer.close()
        with dead:
            for session in sessions:
                with suppress(psycopg.Error):  # closed
                    os.dup2(dead.fileno(), session.pgconn.socket, inheritable=False)
    for pool in POOLS:
        pool.end_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
