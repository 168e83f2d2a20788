"""What azpg leans on inside psycopg and psycopg_pool: one test for each private hook."""

from __future__ import annotations

import dataclasses
import inspect
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_pool
import psycopg_pool.pool
import psycopg_pool.pool_async
import pytest
from psycopg import generators, pq, waiting
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

PAIRS = [
    (azpg.Connection, psycopg.Connection),
    (azpg.AsyncConnection, psycopg.AsyncConnection),
    (azpg.ConnectionPool, psycopg_pool.ConnectionPool),
    (azpg.AsyncConnectionPool, psycopg_pool.AsyncConnectionPool),
    (azpg.NullConnectionPool, psycopg_pool.NullConnectionPool),
    (azpg.AsyncNullConnectionPool, psycopg_pool.AsyncNullConnectionPool),
]


def parent(api: Api, kind: str) -> Any:
    """Return the host library's own class for the API."""
    return {
        ("sync", "connection"): psycopg.Connection,
        ("async", "connection"): psycopg.AsyncConnection,
        ("sync", "pool"): psycopg_pool.ConnectionPool,
        ("async", "pool"): psycopg_pool.AsyncConnectionPool,
    }[api.kind, kind]


def make_pool(api: Api, pool_class: Any, emulator: Emulator, **options: Any) -> Any:
    """Open a pool of psycopg's own connections, on the API's loop."""
    kwargs = {"user": "myapp", "dbname": "postgres", "password": emulator.token()}

    async def construct() -> Any:
        return pool_class(kwargs=kwargs, open=False, **options)

    if api.kind == "sync":
        return pool_class(kwargs=kwargs, open=False, **options)
    return api.run(construct())


def recording(base: Any, name: str, calls: list[Any], *, is_async: bool) -> Any:
    """Return a subclass that records the arguments and the result of one method."""
    method = getattr(base, name)
    plain = inspect.getattr_static(base, name)

    def record(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        calls.append((args, kwargs, result))
        return result

    def sync_hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = method if isinstance(plain, classmethod) else method.__get__(self)
        return record(args, kwargs, call(*args, **kwargs))

    async def async_hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = method if isinstance(plain, classmethod) else method.__get__(self)
        return record(args, kwargs, await call(*args, **kwargs))

    hook: Any = async_hook if is_async else sync_hook
    if isinstance(plain, classmethod):
        hook = classmethod(hook)
    return type("Recording", (base,), {name: hook})


# psycopg


def test_get_connection_params_is_called_once_with_all_there_is(api: Api, free_port: int) -> None:
    """A connect of psycopg asks the hook once, however many hosts it then tries."""
    calls: list[Any] = []
    base = parent(api, "connection")
    own = recording(base, "_get_connection_params", calls, is_async=api.kind == "async")
    given = {"host": "127.0.0.1,127.0.0.1", "port": f"{free_port},{free_port}", "user": "me"}
    with pytest.raises(psycopg.OperationalError, match="Multiple connection attempts"):
        api.run(own.connect("", **given))
    assert [(args, kwargs) for args, kwargs, _ in calls] == [(("",), given)]


def test_get_connection_params_is_obeyed(api: Api, azure: Emulator) -> None:
    """What _get_connection_params returns is what libpq is handed."""

    class Base(parent(api, "connection")):  # type: ignore[misc]  # a class by parameter
        pass

    params = {"user": "myapp", "dbname": "postgres", "password": azure.token()}

    def settled(cls: Any, conninfo: str, **kwargs: Any) -> Any:
        return params

    async def settled_async(cls: Any, conninfo: str, **kwargs: Any) -> Any:
        return params

    hook: Any = settled if api.kind == "sync" else settled_async
    own: Any = type("Own", (Base,), {"_get_connection_params": classmethod(hook)})
    conn = api.run(own.connect("user=somebody", port=1))
    assert conn.info.user == "myapp"
    api.run(conn.close())


def test_a_finished_pgconn_is_a_dataclass_with_the_secret(api: Api, free_port: int) -> None:
    """A failed connect's pgconn is a FinishedPGconn that holds the password in two places."""
    with pytest.raises(psycopg.OperationalError) as caught:
        api.run(
            parent(api, "connection").connect(
                host="127.0.0.1", port=free_port, user="me", password="hunter2"
            )
        )
    pgconn = caught.value.pgconn
    assert isinstance(pgconn, psycopg.errors.FinishedPGconn)
    assert {"password", "info", "error_message"} <= {
        field.name for field in dataclasses.fields(pgconn)
    }
    assert pgconn.password == b"hunter2"
    assert b"hunter2" in [option.val for option in pgconn.info]
    assert all(isinstance(option, pq.ConninfoOption) for option in pgconn.info)


def test_a_dbname_is_not_expanded() -> None:
    """A dbname that looks like a conninfo, or a URI, goes through psycopg as a name."""
    for name in ("host=evil.example sslmode=disable", "postgresql://evil.example/"):
        assert conninfo_to_dict("", dbname=name) == {"dbname": name}
        assert conninfo_to_dict(make_conninfo("", dbname=name)) == {"dbname": name}


def test_psycopg_looks_up_hosts_in_words_of_its_own(api: Api) -> None:
    """A name that does not resolve is told in the words that azpg uses for its own look-up."""
    with pytest.raises(
        psycopg.OperationalError, match=r"failed to resolve host 'no-such\.invalid'"
    ):
        api.run(parent(api, "connection").connect(host="no-such.invalid", user="me"))


def test_libpq_marks_its_secrets() -> None:
    """get_defaults() marks each password with a star, and names each keyword's variable."""
    options = {option.keyword: option for option in pq.Conninfo.get_defaults()}
    assert {name for name, option in options.items() if option.dispchar == b"*"} >= {
        b"password",
        b"sslpassword",
    }
    assert options[b"password"].envvar == b"PGPASSWORD"
    assert options[b"host"].envvar == b"PGHOST"


# Signatures


@pytest.mark.parametrize(("own", "base"), PAIRS[2:], ids=lambda value: value.__qualname__)
def test_the_pools_take_what_their_parents_take(own: Any, base: Any) -> None:
    """A new option of psycopg_pool is noticed here, and so is a changed default."""
    ours, theirs = inspect.signature(own).parameters, inspect.signature(base).parameters
    assert list(ours) == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind, name
        if name not in ("connection_class", "min_size"):
            assert ours[name].default == parameter.default, name
    assert theirs["min_size"].default == own._MIN_SIZE


@pytest.mark.parametrize(("own", "base"), PAIRS[:2], ids=["sync", "async"])
def test_the_connections_take_what_their_parents_take(own: Any, base: Any) -> None:
    """connect() has psycopg's own parameters with its defaults, and azpg's beside them."""
    ours = inspect.signature(own.connect).parameters
    for name, parameter in inspect.signature(base.connect).parameters.items():
        assert ours[name].kind is parameter.kind, name
        if name != "prepare_threshold":
            assert ours[name].default == parameter.default, name
    assert inspect.signature(base.connect).parameters["prepare_threshold"].default == 5


OWN_METHODS = {
    *("__init__", "__await__", "_open_if_awaited", "_finish", "_return_at_once"),
    *("_checkout", "_check_failure", "_connect_in_time", "_give", "_reset_and_give", "_take_back"),
    *("_sleep", "_check_new", "_try_to_add"),
    *("_is_foreign", "_check_own_loop", "_close_from_other_loop", "_give_up_task"),
}
"""azpg's own methods: psycopg_pool has none of these names, but for the first"""


@pytest.mark.parametrize(("own", "base"), PAIRS, ids=lambda value: value.__qualname__)
def test_overridden_methods_have_the_parents_parameters(own: Any, base: Any) -> None:
    """Each hook that azpg overrides exists in the parent, with the same parameters."""
    for name, value in vars(own).items():
        if not callable(value) or name in OWN_METHODS:
            continue
        ours, theirs = inspect.signature(value), inspect.signature(getattr(base, name))
        assert list(ours.parameters) == list(theirs.parameters), name
        assert inspect.iscoroutinefunction(value) == inspect.iscoroutinefunction(
            getattr(base, name)
        ), name


# psycopg_pool


def test_every_new_connection_goes_through_connect(api: Api, azure: Emulator) -> None:
    """_connect() is called for each physical connection, and its result is what is pooled."""
    calls: list[Any] = []
    own = recording(parent(api, "pool"), "_connect", calls, is_async=api.kind == "async")
    pool = make_pool(api, own, azure, min_size=2)
    api.run(pool.open(wait=True))
    assert len(calls) == 2
    conn = api.run(pool.getconn())
    assert conn in [result for _, _, result in calls]
    api.run(pool.putconn(conn))
    api.run(pool.close())


def test_a_failed_connect_ends_in_add_connection(api: Api, azure: Emulator) -> None:
    """_add_connection(attempt, growing) swallows a failure of _connect, and comes back later."""
    calls: list[Any] = []
    own = recording(parent(api, "pool"), "_add_connection", calls, is_async=api.kind == "async")

    def fail(self: Any, *_: Any) -> Any:
        raise psycopg.OperationalError("no")

    async def fail_async(self: Any, *_: Any) -> Any:
        raise psycopg.OperationalError("no")

    own._connect = fail if api.kind == "sync" else fail_async
    pool = make_pool(api, own, azure, min_size=1)
    with pytest.raises(psycopg_pool.PoolTimeout, match="incomplete after"):
        api.run(pool.open(wait=True, timeout=0.05))
    (args, kwargs, result), *_ = calls
    assert args == (None,)
    assert kwargs == {"growing": False}
    assert result is None


def test_the_keywords_of_a_connect_are_resolved_for_each(api: Api, azure: Emulator) -> None:
    """_resolve_kwargs() is called for each connect, and its result is handed over."""
    calls: list[Any] = []
    own = recording(parent(api, "pool"), "_resolve_kwargs", calls, is_async=api.kind == "async")
    pool = make_pool(api, own, azure, min_size=2)
    api.run(pool.open(wait=True))
    assert [result for _, _, result in calls] == [pool.kwargs] * 2
    api.run(pool.close())


def test_the_full_event_ends_the_wait(api: Api, azure: Emulator) -> None:
    """wait() returns when _pool_full_event is set, whether the pool is full or not."""
    base = parent(api, "pool")

    def give_up(self: Any, *_: Any) -> Any:
        self._pool_full_event.set()
        raise psycopg.OperationalError("no")

    async def give_up_async(self: Any, *_: Any) -> Any:
        give_up(self)

    own: Any = type("Own", (base,), {})
    own._connect = give_up if api.kind == "sync" else give_up_async
    pool = make_pool(api, own, azure, min_size=1)
    api.run(pool.open(wait=True, timeout=20))
    assert pool._pool_full_event is None
    assert pool.get_stats()["pool_available"] == 0
    api.run(pool.close())


def test_pools_have_a_lock_around_the_event(api: Api, azure: Emulator) -> None:
    """_lock guards _pool_full_event: a context of the API's own kind."""
    pool = make_pool(api, parent(api, "pool"), azure, min_size=1)
    api.run(pool.open(wait=True))
    assert hasattr(pool._lock, "__enter__" if api.kind == "sync" else "__aenter__")
    assert pool._pool_full_event is None
    api.run(pool.close())


def test_a_checkout_takes_its_connection_from_one_hook(api: Api, azure: Emulator) -> None:
    """_get_ready_connection(timeout) gives the idle connection, or None for who must wait."""
    calls: list[Any] = []
    is_async = api.kind == "async"
    own = recording(parent(api, "pool"), "_get_ready_connection", calls, is_async=is_async)
    pool = make_pool(api, own, azure, min_size=1)
    api.run(pool.open(wait=True))
    conn = api.run(pool.getconn(timeout=5))
    with pytest.raises(psycopg_pool.PoolTimeout):
        api.run(pool.getconn(timeout=0.01))
    assert [result for _, _, result in calls] == [conn, None]
    api.run(pool.putconn(conn))
    api.run(pool.close())


def test_a_client_waits_in_one_hook(api: Api, azure: Emulator) -> None:
    """getconn() calls _getconn_unchecked() with the seconds that are left."""
    calls: list[Any] = []
    is_async = api.kind == "async"
    own = recording(parent(api, "pool"), "_getconn_unchecked", calls, is_async=is_async)
    pool = make_pool(api, own, azure, min_size=1)
    api.run(pool.open(wait=True))
    conn = api.run(pool.getconn(timeout=20))
    api.run(pool.putconn(conn))
    api.run(pool.close())
    (((timeout,), kwargs, found),) = calls
    assert 10 < timeout <= 20
    assert not kwargs
    assert found is conn
    assert set(psycopg_pool.pool.WaitingClient.__slots__) == {"conn", "error", "_cond"}


def test_a_returned_connection_is_looked_at_in_one_hook(api: Api, azure: Emulator) -> None:
    """What _check_pool_putconn() leaves finished is replaced, and handed to nobody."""

    def finish(self: Any, conn: Any) -> None:
        assert conn._pool is self
        conn.pgconn.finish()

    own: Any = type("Own", (parent(api, "pool"),), {"_check_pool_putconn": finish})
    pool = make_pool(api, own, azure, min_size=1)
    api.run(pool.open(wait=True))
    first = api.run(pool.getconn())
    api.run(pool.putconn(first))
    second = api.run(pool.getconn())
    assert first.closed
    assert not second.closed
    api.run(pool.close())
    api.run(second.close())


def test_a_waiting_client_can_be_failed(api: Api, azure: Emulator) -> None:
    """Who waits in `_waiting` raises what its fail() is given."""
    pool = make_pool(api, parent(api, "pool"), azure, min_size=1)
    api.run(pool.open(wait=True))
    conn = api.run(pool.getconn())

    def fail() -> None:
        while not pool._waiting:
            pass
        (client,) = pool._waiting
        pool._waiting.clear()
        api.run(client.fail(psycopg.OperationalError("own")))

    failing = threading.Thread(target=fail)
    failing.start()
    with pytest.raises(psycopg.OperationalError, match="own"):
        api.run(pool.getconn())
    failing.join()
    api.run(pool.putconn(conn))
    api.run(pool.close())


@pytest.mark.parametrize("kind", ["notification", "last words"])
def test_what_waits_on_an_idle_connection_reaches_its_handlers(azure: Emulator, kind: str) -> None:
    """consume_input() and notifies() outside a query call libpq's handler of notices."""
    with azpg.connect(autocommit=True) as conn, azpg.connect(autocommit=True) as other:
        told: list[Any] = []
        conn.pgconn.notice_handler = lambda result: told.append(
            result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        )
        conn.execute("listen news")
        if kind == "notification":
            other.execute("notify news")
        else:
            other.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
        while not told:
            conn.pgconn.consume_input()
            if (notification := conn.pgconn.notifies()) is not None:
                told.append(notification.relname)
        assert told == [b"news" if kind == "notification" else b"FATAL"]


# What the pools' own methods stand on


def test_a_wait_resumes_its_generator_at_each_interval(api: Api, postgres: Postgres) -> None:
    """psycopg.waiting runs the steps of generators.execute(), with 0 if nothing has come."""
    wait: Any = waiting.wait if api.kind == "sync" else waiting.wait_async
    conn = psycopg.connect(host=postgres.socket, user="admin", dbname="postgres")

    def steps() -> Any:
        conn.pgconn.send_query(b"select pg_sleep(60)")
        inner = generators.execute(conn.pgconn)
        asked = next(inner)
        while ready := (yield asked):
            asked = inner.send(ready)
        return "nothing has come"

    assert api.run(wait(steps(), conn.pgconn.socket, 0.02)) == "nothing has come"
    conn.cancel()
    conn.close()


@pytest.mark.parametrize(
    "pools", [psycopg_pool.pool, psycopg_pool.pool_async], ids=["sync", "async"]
)
def test_the_tasks_of_a_pool_have_these_arguments(pools: Any) -> None:
    """Add and return tasks are made with these arguments, run by run(), and know their pool."""
    add = inspect.signature(pools.AddConnection).parameters
    assert list(add) == ["pool", "attempt", "growing"]
    returning = inspect.signature(pools.ReturnConnection).parameters
    assert list(returning) == ["pool", "conn", "from_getconn"]
    for task in (pools.AddConnection, pools.ReturnConnection, pools.StopWorker):
        assert issubclass(task, pools.MaintenanceTask)
        assert list(inspect.signature(task.run).parameters) == ["self"]


def test_the_workers_end_by_a_task(api: Api, azure: Emulator) -> None:
    """_signal_stop_worker() returns all that close() waits for, and is called once."""
    calls: list[Any] = []
    is_async = api.kind == "async"
    own = recording(parent(api, "pool"), "_signal_stop_worker", calls, is_async=is_async)
    pool = make_pool(api, own, azure, min_size=1, num_workers=2)
    api.run(pool.open(wait=True))
    api.run(pool.close())
    ((_, _, workers),) = calls
    assert len(workers) == 3  # with the scheduler


def test_a_connection_is_returned_through_these_hooks(api: Api, azure: Emulator) -> None:
    """putconn() calls _putconn(), which calls _return_connection() and _add_to_pool()."""
    base: Any = parent(api, "pool")
    calls: list[str] = []
    is_async = api.kind == "async"

    def record(name: str) -> Any:
        plain = getattr(base, name)

        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return plain(self, *args, **kwargs)

        async def hook_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return await plain(self, *args, **kwargs)

        return hook_async if is_async else hook

    names = ("_putconn", "_return_connection", "_reset_connection", "_add_to_pool")
    own: Any = type("Own", (base,), {name: record(name) for name in names})
    pool = make_pool(api, own, azure, min_size=1)
    api.run(pool.open(wait=True))
    calls.clear()
    conn = api.run(pool.getconn())
    assert conn._pool is pool
    assert conn._expire_at > conn._created_at > pool._drained_at
    api.run(pool.putconn(conn))
    assert calls == list(names)
    assert conn._pool is None
    api.run(conn.close())
    api.run(pool.close())


def test_pools_count_in_these_attributes(api: Api, azure: Emulator) -> None:
    """The numbers and flags that azpg's own methods read and set exist, with their meaning."""
    pool = make_pool(api, parent(api, "pool"), azure, min_size=1, max_size=2)
    assert (pool._opened, pool._closed, pool._growing) == (False, True, False)
    api.run(pool.open(wait=True))
    assert (pool._opened, pool._closed) == (True, False)
    assert (pool._min_size, pool._max_size, pool._nconns, len(pool._pool)) == (1, 2, 1, 1)
    assert not pool._waiting
    api.run(pool.close())


def test_the_scheduler_takes_a_task_and_a_delay(api: Api) -> None:
    """schedule_task(task, delay) and run_task(task) are public methods of a pool."""
    base = parent(api, "pool")
    assert list(inspect.signature(base.schedule_task).parameters) == ["self", "task", "delay"]
    assert list(inspect.signature(base.run_task).parameters) == ["self", "task"]
    assert list(inspect.signature(base._check_connection).parameters) == ["self", "conn"]


def test_an_async_pool_has_a_worker_for_its_queue() -> None:
    """worker(q) is a public classmethod, which reads tasks from a queue."""
    plain = inspect.getattr_static(psycopg_pool.AsyncConnectionPool, "worker")
    assert isinstance(plain, classmethod)
    assert list(inspect.signature(psycopg_pool.AsyncConnectionPool.worker).parameters) == ["q"]


def test_null_pools_set_these_numbers_in_their_constructor() -> None:
    """psycopg_pool's constructor sets _nconns, _max_size and _waiting, which azpg's slots hold."""
    pool = azpg.NullConnectionPool(kwargs={"server": "myserver"}, max_size=3, open=False)
    assert not {"_nconns", "_max_size", "_waiting"} & vars(pool).keys()
    assert (pool._nconns, pool.max_size, len(pool._waiting)) == (0, 3, 0)
    theirs = psycopg_pool.NullConnectionPool(max_size=3, open=False)
    assert {"_nconns", "_max_size", "_waiting"} <= vars(theirs).keys()
