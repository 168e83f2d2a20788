"""Credentials of every shape: the real one of a managed identity, and objects that count."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessToken, AccessTokenInfo
from azure.identity import ManagedIdentityCredential

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from azpg.emulator import Emulator

SECRET = "eyJzZWNyZXQtdG9rZW4"
"""part of every token below that no one may see"""


class Counting:
    """A credential of one's own: counts its calls, and gives what `answer` returns."""

    def __init__(self, answer: Callable[[], str] = lambda: SECRET, lifetime: float = 3600) -> None:
        self.calls = 0
        self.scopes: set[str] = set()
        self.threads: set[int] = set()
        self._answer = answer
        self._lifetime = lifetime
        self._lock = threading.Lock()

    def answer(self, scopes: tuple[str, ...]) -> tuple[str, int]:
        """Count a call, and return a token with its expiry."""
        with self._lock:
            self.calls += 1
            self.scopes.update(scopes)
            self.threads.add(threading.get_ident())
        return self._answer(), int(time.time() + self._lifetime)


class WithGetToken(Counting):
    """Has get_token only, as credentials had until 2024."""

    def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """Return a token."""
        return AccessToken(*self.answer(scopes))


class WithGetTokenInfo(Counting):
    """Has get_token_info only."""

    def get_token_info(self, *scopes: str, **_options: Any) -> AccessTokenInfo:
        """Return a token."""
        return AccessTokenInfo(*self.answer(scopes))


class AsyncWithGetToken(Counting):
    """Is awaited."""

    async def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """Return a token."""
        return AccessToken(*self.answer(scopes))


class Credentials:
    """Make credentials."""

    secret = SECRET
    with_get_token = WithGetToken
    with_get_token_info = WithGetTokenInfo
    async_with_get_token: Any = AsyncWithGetToken

    def __init__(self, closing: contextlib.ExitStack) -> None:
        self._closing = closing

    def managed_identity(
        self, client_id: str | None = None, retry_total: int = 0
    ) -> ManagedIdentityCredential:
        """Make azure-identity's own, without its retries and their pauses."""
        made = ManagedIdentityCredential(client_id=client_id, retry_total=retry_total)
        return self._closing.enter_context(made)

    def of(self, emulator: Emulator) -> WithGetToken:
        """Make one that hands out the emulator's tokens for `myapp`."""
        return WithGetToken(emulator.token)


@pytest.fixture
def credentials() -> Iterator[Credentials]:
    """Make credentials, and close the real ones at the end."""
    with contextlib.ExitStack() as closing:
        yield Credentials(closing)
