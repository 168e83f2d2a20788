"""Several users of one program: their tokens, and credentials that answer for the current one."""

from __future__ import annotations

import base64
import contextvars
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.credentials import AccessTokenInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from fix_api import Api

    import azpg
    from azpg._tokens.request import Answer
    from azpg.emulator import Emulator, Principal

CURRENT: contextvars.ContextVar[str] = contextvars.ContextVar("current user")
"""whose request is served, as web frameworks keep it"""

TENANT = "11111111-2222-4333-8444-555555555555"


def jwt(claims: object) -> str:
    """Write a token with these claims, unsigned."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.signature"


class PerUser:
    """A credential that answers for the user of the context that it is asked in."""

    def __init__(self, token: Callable[[str], str]) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lifetime = 3600
        self.refresh_in: int | None = None
        self._token = token

    def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
        """Wait at the gate, then return a token of the current user."""
        user = CURRENT.get("nobody")
        self.asked.append(user)
        assert self.gate.wait(30)
        now = int(time.time())
        refresh_on = None if self.refresh_in is None else now + self.refresh_in
        return AccessTokenInfo(self._token(user), now + self.lifetime, refresh_on=refresh_on)


class AsyncPerUser(PerUser):
    """The same, awaited."""

    async def get_token_info(self, *scopes: str, **_options: Any) -> AccessTokenInfo:  # type: ignore[override]  # awaited
        """Return a token of the current user."""
        return super().get_token_info(*scopes)


class Users:
    """Act as one of several users, and tell whose a token is."""

    per_user: Any = PerUser
    async_per_user: Any = AsyncPerUser

    def __init__(self, azure: Emulator) -> None:
        self._azure = azure
        self._known: dict[str, Principal] = {}

    def token(self, name: str) -> str:
        """Return a token that the server takes, of a user with a role."""
        if name not in self._known:
            self._known[name] = self._azure.add_role(name)
        return self._azure.token(self._known[name])

    @staticmethod
    def unsigned(name: str) -> str:
        """Return a token that no server takes."""
        return jwt({"tid": TENANT, "oid": f"oid of {name}", "sub": f"sub of {name}", "upn": name})

    @staticmethod
    def begin(api: Api, name: str, password: azpg.EntraPassword) -> Future[str]:
        """Begin to ask for a token, in a context of this user."""

        def ask() -> str:
            CURRENT.set(name)
            return password()

        async def ask_async() -> str:
            CURRENT.set(name)
            return await password.call_async()

        return api.begin(ask if api.kind == "sync" else ask_async)

    def ask(self, api: Api, name: str, password: azpg.EntraPassword) -> str:
        """Return the token that this user is given."""
        return self.begin(api, name, password).result(30)

    @staticmethod
    def wait(password: azpg.EntraPassword, callers: int) -> None:
        """Return once so many callers wait for the request in progress."""
        while (answer := password._entry.answer) is None or _waiting(answer) < callers:
            pass


def _waiting(answer: Future[Answer]) -> int:
    future: Any = answer
    return len(future._condition._waiters) + len(future._done_callbacks)


@pytest.fixture
def users(azure: Emulator) -> Users:
    """Act as several users."""
    return Users(azure)
