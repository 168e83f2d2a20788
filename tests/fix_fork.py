"""Functions for programs that fork; each one imports what it needs, to be copied as source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def forked(work: Callable[[], object]) -> int:
    """Fork, do the work in the child, and return the child's process ID."""
    import os
    import traceback

    if pid := os.fork():
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # any error must set the exit status
        traceback.print_exc()
    finally:
        os._exit(status)


def ended_well(pid: int) -> None:
    """Wait for a child, which must exit with status 0."""
    import os

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def connect() -> None:
    """Connect with the default credential."""
    import azpg

    with azpg.connect() as conn:
        assert conn.execute("select current_user").fetchone() == ("myapp",)


def connect_in_both_ways() -> None:
    """Connect with the default credential and a new token, in both APIs."""
    import asyncio

    import azpg

    async def main() -> None:
        async with await azpg.connect_async() as conn:
            assert conn.info.user == "myapp"

    azpg.EntraPassword().invalidate()
    connect()
    azpg.EntraPassword().invalidate()
    asyncio.run(main())
