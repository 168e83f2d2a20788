"""The connection slots of a null pool and the queue of the clients that wait for one. No I/O."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg._connection_base import BaseConnection


class Slot:
    """The right to open a connection."""


SLOT: Final = Slot()

Given: TypeAlias = "Slot | BaseConnection[Any] | Exception"
"""What a client gets: a free slot, a connection that holds a slot, or the error to raise."""

Client: TypeAlias = "Future[Given]"
"""A client's place in the queue."""


class Slots:
    """A number of slots, each free, taken by a client or passed on to the next client.

    No method waits, so none can be interrupted by a cancellation. All are safe to call from any
    thread and any event loop.

    Args:
        size: Number of slots; 0 for unlimited.
        waiting: An empty queue.
    """

    def __init__(self, size: int, waiting: deque[Client] | None = None) -> None:
        self.size = size
        self.taken = 0
        self.waiting: deque[Client] = deque() if waiting is None else waiting
        self._closed: Callable[[], Exception] | None = None
        self._lock = threading.Lock()

    def enter(self, max_waiting: int = 0) -> Client | None:
        """Take a free slot, or else join the queue.

        Args:
            max_waiting: Maximum number of clients in the queue; 0 for unlimited.

        Returns:
            The client's place, which is done at once if a slot is free; None if the queue is full.
        """
        client: Client = Future()
        with self._lock:
            if self._closed is not None:
                client.set_result(self._closed())
            elif self._is_free():
                self.taken += 1
                client.set_result(SLOT)
            elif max_waiting and len(self.waiting) >= max_waiting:
                return None
            else:
                self.waiting.append(client)
        return client

    def leave(self, client: Client) -> Given | None:
        """End a client's wait and return what it was given, or None."""
        with self._lock:
            if client.done():
                return client.result()
            if client in self.waiting:
                self.waiting.remove(client)
            return None

    def give(self, given: Slot | BaseConnection[Any]) -> bool:
        """Pass a slot, or a connection with its slot, on to the next client.

        Returns:
            False if nobody gets it: the slot is free, and the caller closes the connection.
        """
        with self._lock:
            if self.waiting and (self.size == 0 or self.taken <= self.size):
                self.waiting.popleft().set_result(given)
                return True
            self.taken -= 1
            return False

    def fail(self, make_error: Callable[[], Exception]) -> int:
        """End the wait of all clients, each with an error of its own; return their number."""
        with self._lock:
            failed = len(self.waiting)
            while self.waiting:
                self.waiting.popleft().set_result(make_error())
            return failed

    def close(self, make_error: Callable[[], Exception]) -> None:
        """End the wait of all clients, and of those that enter later."""
        with self._lock:
            self._closed = make_error
        self.fail(make_error)

    def resize(self, size: int) -> None:
        """Change the number of slots; surplus ones that are taken end when they are given back."""
        with self._lock:
            self.size = size
            while self.waiting and self._is_free():
                self.taken += 1
                self.waiting.popleft().set_result(SLOT)

    def _is_free(self) -> bool:
        return self.size == 0 or self.taken < self.size
