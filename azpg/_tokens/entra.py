"""EntraPassword: a Microsoft Entra access token as the password, acquired once and refreshed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Self

from azpg._clouds import AZURE_PUBLIC, CLOUDS, Cloud, cloud_by_name, no_scope_error
from azpg._redact import quote
from azpg.errors import ConfigError

from .acquire import TokenSource
from .cache import TOKEN_CACHE, TokenStats
from .wait import TokenWait

if TYPE_CHECKING:
    from azpg._deadline import Deadline
    from azpg.abc import Credential

    from .token import Token


class EntraPassword:
    """A password callback for any driver, which returns a valid Microsoft Entra access token.

    Call the object, or `call_async()` in an event loop. All threads, tasks, event loops and
    connection pools that use the same credential and cloud share one token, from the token cache of
    the process. A sync credential is called in a thread, and needs no aiohttp.

    Args:
        credential: An azure-identity credential, sync or async, or a function that returns one or
            the text of a token. A function that returns text is called for each new token.
            Default: one `DefaultAzureCredential` per process. Pass one object per user, and no
            proxy, because the object is the key of the token cache.
        cloud: An `azpg.Cloud` or its name. Default: the public cloud.
        client_id: Client ID of the managed or workload identity that the default credential uses.
            Default: the one that azure-identity chooses.
        timeout: Seconds that a call waits for one token. Default: 30.

    Raises:
        ConfigError: The cloud is unknown or has no scope, the credential is a proxy, or `client_id`
            is given with a credential.

    Every call raises `CredentialError` if no token can be acquired.

    >>> token = azpg.EntraPassword(azure.identity.ManagedIdentityCredential())
    >>> token.user()
    'myapp'
    >>> dsn = azpg.conninfo(server="myserver", user="myapp")
    >>> psycopg.connect(dsn, password=token()).close()
    """

    __module__ = "azpg"

    def __init__(
        self,
        credential: Credential | None = None,
        *,
        cloud: Cloud | str = AZURE_PUBLIC,
        client_id: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.cloud = cloud if isinstance(cloud, Cloud) else _require_cloud(cloud)
        if not self.cloud.scope:
            raise ConfigError(no_scope_error(self.cloud))
        self.timeout = timeout
        if credential is not None and client_id is not None:
            raise ConfigError("client_id is for the default credential: give it to the credential")
        chosen: object = credential
        if chosen is None:
            chosen = TOKEN_CACHE.default_credential(self.cloud.authority, client_id)
        self._source = TokenSource(chosen, self.cloud.scope)
        self._entry = TOKEN_CACHE.entry(chosen, self.cloud.scope)

    def __repr__(self) -> str:
        return f"<azpg.EntraPassword of {self._source.name} for {self.cloud.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an azpg.EntraPassword is not pickled: make one in each process")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # frameworks copy their settings: there is still one token

    def __call__(self) -> str:
        """Return a valid token, waiting for one at most `timeout` seconds.

        Raises:
            CredentialError: No token can be acquired.
        """
        return self.token().text

    async def call_async(self) -> str:
        """Return a valid token without blocking the event loop.

        Raises:
            CredentialError: No token can be acquired.
        """
        return (await self.token_async()).text

    def user(self) -> str:
        """Return the PostgreSQL role name derived from the token's claims.

        Raises:
            CredentialError: No token can be acquired, or it holds no name, as a service
                principal's does.
        """
        return self.token().role()

    def invalidate(self) -> None:
        """Forget the cached token, so that the next call asks the credential."""
        self._entry.invalidate()

    def stats(self) -> TokenStats:
        """Return the token requests that succeeded (`fetched`) and failed (`failed`).

        `seconds_to_expiry` is None without a cached token.
        """
        return self._entry.stats()

    # Below: what azpg itself calls.

    def credential_name(self) -> str:
        """Return the name of the credential and, for a chain, of the member that succeeded."""
        return self._source.credential_name(self._entry.holder)

    def request_age(self) -> float:
        """Return for how many seconds a token request has been in progress; 0 if none is."""
        return self._entry.request_age()

    def token(self, deadline: Deadline | None = None) -> Token:
        """Return a valid token with what its claims say.

        Args:
            deadline: When the caller stops waiting. Default: after `timeout` seconds, which is
                also the limit for an interactive credential.
        """
        wait = TokenWait(self._entry, self._source, None, self.timeout, deadline)
        while (token := wait.token()) is None:
            with suppress(TimeoutError):
                wait.answer.result(wait.seconds())
        return token

    async def token_async(self, deadline: Deadline | None = None) -> Token:
        """Return a valid token as `token()` does, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        wait = TokenWait(self._entry, self._source, loop, self.timeout, deadline)
        while (token := wait.token()) is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(wait.answer), wait.seconds())
        return token

    def reject(self, text: str) -> None:
        """Forget a token that the server rejected, so that the next call asks for another."""
        self._entry.reject(text)


def _require_cloud(name: str) -> Cloud:
    if (found := cloud_by_name(name)) is not None:
        return found
    names = ", ".join(repr(known.name) for known in CLOUDS)
    raise ConfigError(f"⟦cloud={quote(name)}⟧ is none of {names}, nor an azpg.Cloud")
