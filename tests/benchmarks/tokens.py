"""How often a token is asked for, and who waits for it."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
from azure.core.credentials import AccessTokenInfo
from azure.identity import AzureCliCredential, ManagedIdentityCredential
from azure.identity.aio import ManagedIdentityCredential as AsyncManagedIdentityCredential
from azure_postgresql_auth.psycopg3 import AsyncEntraConnection, EntraConnection

import azpg

from .measure import share
from .results import Row
from .servers import ADDRESS, ANY
from .starts import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .servers import Servers

AT_ONCE = 200
OTHER = "azure-postgresql-auth"


def rows(servers: Servers, turns: int) -> Iterator[Row]:
    """Measure, and yield the rows of the table."""
    yield from _cold(servers)
    yield from _az(servers)
    yield _refresh(servers)
    yield _stall(servers, turns)


# One for all


def _cold(servers: Servers) -> Iterator[Row]:
    whole = servers.whole(ANY)

    def in_threads(connect: Callable[[], Any], number: int = AT_ONCE) -> None:
        ready = threading.Barrier(number)

        def one() -> None:
            ready.wait()
            connect().close()

        with ThreadPoolExecutor(number) as pool:
            for each in [pool.submit(one) for _ in range(number)]:
                each.result()

    async def all_at_once(connect: Callable[[], Any], number: int = AT_ONCE) -> None:
        async def one() -> None:
            await (await connect()).close()

        await asyncio.gather(*(one() for _ in range(number)))

    def in_tasks(connect: Callable[[], Any], number: int = AT_ONCE) -> None:
        asyncio.run(all_at_once(connect, number))

    def cold() -> Any:
        return servers.keywords(ANY, credential=ManagedIdentityCredential())

    def threads() -> None:
        told = cold()
        in_threads(lambda: azpg.connect(**told))

    def tasks() -> None:
        told = cold()
        in_tasks(lambda: azpg.connect_async(**told))

    def both() -> None:
        told, half = cold(), AT_ONCE // 2
        beside = threading.Thread(target=in_tasks, args=(lambda: azpg.connect_async(**told), half))
        beside.start()
        in_threads(lambda: azpg.connect(**told), half)
        beside.join()

    def their_threads() -> None:
        credential = ManagedIdentityCredential()
        in_threads(lambda: EntraConnection.connect(credential=credential, **whole))

    def their_tasks() -> None:
        credential = AsyncManagedIdentityCredential()

        async def connects() -> None:
            async with credential:
                await all_at_once(
                    lambda: AsyncEntraConnection.connect(credential=credential, **whole)
                )

        asyncio.run(connects())

    def asked(connects: Callable[[], None]) -> int:
        before = servers.entra.counts
        connects()
        return (servers.entra.counts - before).token_requests

    for what, own, others in (
        ("threads", threads, their_threads),
        ("tasks", tasks, their_tasks),
        ("threads and tasks", both, None),
    ):
        yield Row(
            f"token requests of {AT_ONCE} connects at once without a cached token ({what})",
            "",
            asked(own),
            OTHER if others else "",
            asked(others) if others else None,
            "itself",
            1,
        )


_AZ = """\
#!/bin/sh
echo started >> {log}
echo '{{"accessToken": "{token}", "expiresOn": "2100-01-01 00:00:00.000000", "expires_on": {end}}}'
"""


def _az(servers: Servers) -> Iterator[Row]:
    folder, log = servers.folder / "bin", servers.folder / "az.log"
    folder.mkdir()
    program = folder / "az"
    program.write_text(
        _AZ.format(log=log, token=servers.tokens["myapp"], end=int(time.time()) + 3600)
    )
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    whole = servers.whole(ANY)
    ours = servers.keywords(ANY, credential=AzureCliCredential())

    def starts(connect: Callable[[], Any]) -> int:
        log.write_text("")
        for _ in range(20):
            connect().close()
        return len(log.read_text().splitlines())

    yield Row(
        "`az` processes started by 20 connects",
        "",
        starts(lambda: azpg.connect(**ours)),
        OTHER,
        starts(lambda: EntraConnection.connect(credential=AzureCliCredential(), **whole)),
        "itself",
        1,
    )


# Nobody waits


class Slow:
    """A credential whose first token is due for renewal at once, and whose second takes 2 s."""

    def __init__(self) -> None:
        self.asked = 0
        self.asks = threading.Event()
        self.answered = threading.Event()

    def get_token_info(self, *_scopes: str, **_options: Any) -> AccessTokenInfo:
        """Return a token."""
        self.asked += 1
        now = int(time.time())
        if self.asked == 1:
            return AccessTokenInfo("first", now + 30, refresh_on=now + 1)
        self.asks.set()
        time.sleep(2.0)
        self.answered.set()
        return AccessTokenInfo("second", now + 3600)


def _refresh(servers: Servers) -> Row:
    slowest, usual = [], []
    for _ in range(3):
        quiet = servers.keywords(ANY, credential=ManagedIdentityCredential())
        usual.append(share(_connects(quiet, 2.0), 0.99))
        credential = Slow()
        renewed = servers.keywords(ANY, credential=credential)
        while not credential.asks.is_set():
            azpg.connect(**renewed).close()
        slowest.append(max(_connects(renewed, 1.9)))
        assert not credential.answered.is_set()
        credential.answered.wait()
    return Row(
        "slowest connect during a token refresh of 2 s",
        "ms",
        statistics.median(slowest),
        "the 99th percentile without a refresh",
        statistics.median(usual),
        goal=1.5,
    )


def _connects(told: Any, seconds: float) -> list[float]:
    """Return how long each connect took that was made in so many seconds."""
    took = []
    end = time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        azpg.connect(**told).close()
        took.append((time.perf_counter() - before) * 1e3)
    return took


_STALL = """
import asyncio, certifi, sys, time
certifi.where = lambda: sys.argv[1]
import azpg, psycopg

class Slow:
    def __init__(self):
        from azure.identity import ManagedIdentityCredential
        self.real = ManagedIdentityCredential()
    def get_token_info(self, *scopes, **options):
        time.sleep(0.3)
        return self.real.get_token_info(*scopes, **options)

async def beat(gaps):
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.0005)
        gaps.append(time.perf_counter() - before)

async def main(connect):
    gaps = []
    beating = asyncio.create_task(beat(gaps))
    await asyncio.sleep(0.05)
    gaps.clear()
    await (await connect).close()
    beating.cancel()
    print(max(gaps))
"""
_STALL_OWN = """
roots = frozenset(sys.argv[3].split())
public = azpg.AZURE_PUBLIC
cloud = azpg.Cloud("bench", public.suffixes, public.scope, public.authority, roots)
told = {"server": "bench", "hostaddr": sys.argv[2], "user": sys.argv[4]}
asyncio.run(main(azpg.connect_async(**told, cloud=cloud, credential=Slow)))
"""
_STALL_BARE = """
asyncio.run(main(psycopg.AsyncConnection.connect(sys.argv[2])))
"""


def _stall(servers: Servers, turns: int) -> Row:

    final = psycopg.conninfo.make_conninfo(**servers.final(ANY))
    own, bare = [], []
    for _ in range(turns):
        arguments = (ADDRESS, " ".join(servers.cloud.roots or ()), ANY)
        own.append(float(run(_STALL + _STALL_OWN, servers.whole_bundle, *arguments)) * 1e3)
        bare.append(float(run(_STALL + _STALL_BARE, servers.whole_bundle, final)) * 1e3)
    return Row(
        "longest block of the event loop in a first connect, with a slow credential",
        "ms",
        statistics.median(own),
        "psycopg",
        statistics.median(bare),
        "more",
        20.0,
    )
