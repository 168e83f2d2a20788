"""SQLAlchemy's async engine on Azure Database for PostgreSQL: `python sqlalchemy_async.py`."""

import asyncio

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


async def who(engine: AsyncEngine) -> str:
    async with engine.connect() as conn:
        user = (await conn.execute(text("select current_user"))).scalar_one()
    return str(user)


async def main() -> None:
    # Neither the sign-in nor a slow credential holds up the event loop.
    engine = create_async_engine("postgresql+azpg:///postgres?server=myserver", pool_pre_ping=True)
    try:
        print(*await asyncio.gather(*(who(engine) for _ in range(3))))
    except DBAPIError as error:
        print(error.orig)  # azpg's own, with what to type next
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
