"""A pool of asyncpg's on Azure Database for PostgreSQL: `python asyncpg_pool.py`."""

import asyncio
from functools import partial

import asyncpg

import azpg.asyncpg

# Every new connection of the pool signs in with a fresh Microsoft Entra token.
connect = partial(azpg.asyncpg.connect, server="myserver", database="postgres")


async def main() -> None:
    async with asyncpg.create_pool(connect=connect, min_size=1, max_size=5) as pool:
        numbers = await asyncio.gather(
            *(pool.fetchval("select $1::int * 2", number) for number in range(5))
        )
        print(await pool.fetchval("select current_user"), *numbers)


if __name__ == "__main__":
    asyncio.run(main())
