"""A program that connects in each of azpg's ways, for `nox -s frozen` to freeze."""

from __future__ import annotations

import asyncio
import os

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

import azpg
import azpg.sqlalchemy  # named, because PyInstaller sees no URL

SELECT = "select current_user"
EXPECTED = "myapp"


def main() -> None:
    """Connect in each way; an AssertionError says what is wrong."""
    # Of the program itself, and not the emulator's
    without = {name: os.environ.pop(name) for name in ("PGSSLROOTCERT",)}
    roots = conninfo_to_dict(azpg.conninfo(server="myserver"))["sslrootcert"]
    assert "_internal" in str(roots), roots
    assert os.path.isfile(str(roots)), roots
    os.environ |= without

    with azpg.connect(server="myserver") as conn:
        assert conn.execute(SELECT).fetchone() == (EXPECTED,)
    with azpg.create_pool(server="myserver", min_size=1) as pool, pool.connection() as pooled:
        assert pooled.execute(SELECT).fetchone() == (EXPECTED,)
    asyncio.run(connect_async())
    with create_engine("postgresql+azpg:///postgres?server=myserver").connect() as connection:
        assert connection.execute(text(SELECT)).scalar_one() == EXPECTED
    print("connected in every way")  # noqa: T201


async def connect_async() -> None:
    """Connect asynchronously."""
    async with await azpg.connect_async(server="myserver") as conn:
        cursor = await conn.execute(SELECT)
        assert await cursor.fetchone() == (EXPECTED,)


if __name__ == "__main__":
    main()
