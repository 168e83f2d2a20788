"""FastAPI on Azure Database for PostgreSQL: `uvicorn fastapi_app:app --workers 2`."""

from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

import azpg


@asynccontextmanager
async def lifespan(_app):
    # Each worker's own, on the event loop that serves: made after the fork, closed with the worker.
    # A server that cannot be reached ends the start here, with the reason.
    async with azpg.create_pool_async(server="myserver", min_size=1, max_size=10) as pool:
        yield {"pool": pool}


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def who(request: Request):
    # Inside the function: it is committed before the client hears that all is well.
    async with request.state.pool.connection() as conn:
        (user,) = await (await conn.execute("select current_user")).fetchone()
    return {"user": user}
