"""The background: a credential that answers when it is let, and the threads that ask it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from azure.core.credentials import AccessTokenInfo
    from fix_clock import Clock
    from fix_credentials import Credentials

    from azpg.emulator import Emulator


class Gated:
    """A credential that answers only while its gate is open."""

    def __init__(self, inner: Any) -> None:
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self._inner = inner
        self._asked = threading.Condition()

    def get_token_info(self, *scopes: str, **_options: Any) -> AccessTokenInfo:
        """Wait at the gate, then return a token of the credential inside."""
        with self._asked:
            self.calls += 1
            self._asked.notify_all()
        assert self.gate.wait(30)
        token: AccessTokenInfo = self._inner.get_token_info(*scopes)
        return token

    def was_asked(self, times: int) -> bool:
        """Wait until it was asked so often, and tell whether it was not asked more."""
        with self._asked:
            self._asked.wait_for(lambda: self.calls >= times, 30)
        return self.calls == times


class Background:
    """The threads that fetch tokens, but for those that an earlier test left hanging."""

    def __init__(self) -> None:
        self._before = threading.enumerate()

    def threads(self) -> list[threading.Thread]:
        """Return those at work."""
        new = [each for each in threading.enumerate() if each not in self._before]
        return [each for each in new if each.name == "azpg-token"]

    def landed(self) -> None:
        """Wait until no token is on its way, and see that no thread is left."""
        for thread in self.threads():
            thread.join(30)
        assert not self.threads()


@pytest.fixture
def background() -> Background:
    """Look at the threads that fetch tokens."""
    return Background()


@pytest.fixture
def gated(azure: Emulator, clock: Clock, credentials: Credentials) -> Any:
    """Make the real credential behind a gate, with Azure's clock going on with ours."""
    clock.of(azure)
    return Gated(credentials.managed_identity())
