"""Every entry point that takes a password, called with the options of one connection."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

import azpg
from azpg import _child_env
from azpg._cli.main import main
from azpg._doctor.checks import run_checks

if TYPE_CHECKING:
    from fix_api import Api
    from fix_asyncpg import Run
    from fix_django import Databases
    from fix_sqlalchemy import Engines

Options: TypeAlias = dict[str, Any]


class Integrations:
    """What the entry points are called with."""

    def __init__(self, api: Api, engines: Engines, databases: Databases, run: Run) -> None:
        self.api = api
        self.engines = engines
        self.databases = databases
        self.run = run

    def pool(self, *args: Any, **options: Any) -> Any:
        """Construct a pool of the API."""
        from fix_pools import make  # late: pytest rewrites it as a plugin first

        return make(self.api, *args, **options)


EntryPoint: TypeAlias = Callable[[Integrations, Options], None]


@pytest.fixture
def using(api: Api, engines: Engines, databases: Databases, run: Run) -> Integrations:
    """Have what each entry point is called with."""
    return Integrations(api, engines, databases, run)


def _texts(options: Options) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}


def _dsn(options: Options) -> str:
    return " ".join(f"{name}='{value}'" for name, value in options.items())


# The sync and the async API


def _connect(using: Integrations, options: Options) -> None:
    using.api.open(**options, retry_timeout=0)


def _connect_dsn(using: Integrations, options: Options) -> None:
    using.api.open(_dsn(options), retry_timeout=0)


def _create_pool(using: Integrations, options: Options) -> None:
    using.api.open_pool(**options, min_size=1, timeout=2)


def _create_pool_dsn(using: Integrations, options: Options) -> None:
    using.api.open_pool(_dsn(options), min_size=1, timeout=2)


def _pool_kwargs(using: Integrations, options: Options) -> None:
    _check_out(using, using.pool(kwargs=options, min_size=1))


def _pool_dsn(using: Integrations, options: Options) -> None:
    _check_out(using, using.pool(_dsn(options), min_size=1))


def _null_pool(using: Integrations, options: Options) -> None:
    kinds = {"sync": azpg.NullConnectionPool, "async": azpg.AsyncNullConnectionPool}
    pool_class = kinds[using.api.kind]
    _check_out(using, using.pool(kwargs=lambda: options, pool_class=pool_class))


def _check_out(using: Integrations, pool: Any) -> None:
    using.api.run(pool.open())
    try:
        using.api.run(pool.getconn(timeout=2))
    finally:
        using.api.run(pool.close())


def _sqlalchemy(using: Integrations, options: Options) -> None:
    rest = {"retry_timeout": "0"} | _texts(options)
    url = URL.create(
        "postgresql+azpg",
        username=rest.pop("user"),
        password=rest.pop("password"),
        host=rest.pop("host"),
        port=int(rest.pop("port")),
        database=rest.pop("dbname"),
        query=rest,
    )
    using.engines.scalar(using.engines.make(url, poolclass=NullPool), "select 1")


def _sqlalchemy_query(using: Integrations, options: Options) -> None:
    url = URL.create("postgresql+azpg", query={"retry_timeout": "0"} | _texts(options))
    using.engines.scalar(using.engines.make(url), "select 1")


# The sync API alone


def _django(using: Integrations, options: Options, **more: Any) -> None:
    rest = dict(options)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host"}
    given = {setting: rest.pop(name, "") for setting, name in names.items()}
    given["PORT"] = str(rest.pop("port", ""))
    using.databases(**given, OPTIONS=rest | {"retry_timeout": 0} | more).ensure_connection()


def _django_pool(using: Integrations, options: Options) -> None:
    _django(using, options, pool={"min_size": 1, "timeout": 2})


def _django_dsn(using: Integrations, options: Options) -> None:
    _django(using, {}, conninfo=_dsn(options))


def _django_options(using: Integrations, options: Options) -> None:
    _django(using, {}, **options)


def _django_pool_dsn(using: Integrations, options: Options) -> None:
    _django(using, {}, pool={"min_size": 1, "timeout": 2, "conninfo": _dsn(options)})


def _doctor(using: Integrations, options: Options) -> None:
    steps = [*run_checks({"conninfo": _dsn(options)})]
    raise azpg.ConnectError(repr(steps))  # so that what it found is searched


def _command(using: Integrations, options: Options) -> None:
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = main(["doctor", _dsn(options)])
    if status:
        raise azpg.ConnectError(" ".join(output.getvalue().split()))


# The async API alone


def _asyncpg(using: Integrations, options: Options) -> None:
    import azpg.asyncpg

    using.run(azpg.asyncpg.connect(**options, retry_timeout=0))


def _asyncpg_pool(using: Integrations, options: Options) -> None:
    import asyncpg

    import azpg.asyncpg

    async def main() -> None:
        rest: Any = options | {"retry_timeout": 0}
        await asyncpg.create_pool(connect=azpg.asyncpg.connect, min_size=1, **rest)

    using.run(main())


def _asyncpg_sqlalchemy(using: Integrations, options: Options) -> None:
    import azpg.asyncpg

    # connect_args are SQLAlchemy's to show, so that a password is a function there
    secret = options["password"]
    rest = {name: value for name, value in options.items() if value != secret}
    rest |= {"async_creator_fn": azpg.asyncpg.connect, "retry_timeout": 0}
    rest["password"] = lambda: secret

    async def main() -> None:
        async with create_async_engine("postgresql+asyncpg://", connect_args=rest).connect():
            pass

    using.run(main())


# What connects to nothing


def conninfo(using: Integrations, options: Options) -> None:
    """Ask for the connection string."""
    azpg.conninfo(**options)


def environment(using: Integrations, options: Options) -> None:
    """Ask for the environment of `azpg exec`."""
    _child_env.child_environment(**options)


BOTH: dict[str, EntryPoint] = {
    "connect": _connect,
    "connect-dsn": _connect_dsn,
    "create_pool": _create_pool,
    "create_pool-dsn": _create_pool_dsn,
    "pool-kwargs": _pool_kwargs,
    "pool-dsn": _pool_dsn,
    "null-pool": _null_pool,
    "sqlalchemy": _sqlalchemy,
    "sqlalchemy-query": _sqlalchemy_query,
}
SYNC: dict[str, EntryPoint] = {
    "doctor": _doctor,
    "django": _django,
    "django-pool": _django_pool,
    "django-dsn": _django_dsn,
    "django-options": _django_options,
    "django-pool-dsn": _django_pool_dsn,
}
ASYNC: dict[str, EntryPoint] = {
    "asyncpg": _asyncpg,
    "asyncpg-pool": _asyncpg_pool,
    "asyncpg-sqlalchemy": _asyncpg_sqlalchemy,
}
COMMAND: dict[str, EntryPoint] = {"command": _command}

everywhere = pytest.mark.parametrize(
    ("api", "entry"),
    [
        *(
            pytest.param(kind, entry, id=f"{kind}-{name}")
            for kind in ("sync", "async")
            for name, entry in BOTH.items()
        ),
        *(pytest.param("sync", entry, id=name) for name, entry in (SYNC | COMMAND).items()),
        *(pytest.param("async", entry, id=name) for name, entry in ASYNC.items()),
    ],
    indirect=["api"],
)
"""Run a test for each entry point, once for each API that has it."""
