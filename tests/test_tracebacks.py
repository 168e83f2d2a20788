"""An error keeps its traceback and its history, and only secrets leave it."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import azpg
from azpg import _connect
from azpg._tracebacks import redact_exception

if TYPE_CHECKING:
    from types import FrameType

    from fix_api import Api
    from fix_credentials import Credentials
    from fix_leaks import Leaks
    from fix_servers import Postgres

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat

SECRET = "hunter2hunter2"
NOWHERE: dict[str, Any] = {
    "server": "myserver",
    "hostaddr": "127.0.0.1",
    "port": 1,
    "user": "app",
    "retry_timeout": 0,
}
"""a closed port"""


def frames(error: BaseException) -> list[FrameType]:
    """Return the frames of an error's traceback."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def frame_of(error: BaseException, name: str) -> FrameType:
    """Return the frame of a function in an error's traceback."""
    return next(frame for frame in frames(error) if frame.f_code.co_name == name)


def test_the_drivers_error_is_the_context(api: Api, leaks: Leaks) -> None:
    """It is kept for `explain` and error reports, redacted, and printed once, not twice."""
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(**NOWHERE, password=SECRET)
    context = caught.value.__context__
    assert type(context) is psycopg.OperationalError
    assert context.__traceback__ is not None
    assert caught.value.__suppress_context__
    assert "".join(traceback.format_exception(caught.value)).count("Connection refused") == 1
    assert context.pgconn is not None
    assert context.pgconn.password == b""
    leaks.none_held(caught.value, SECRET)


def test_the_traceback_reaches_the_line_that_failed(api: Api) -> None:
    """The lines of azpg and psycopg are in it."""
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(**NOWHERE, password=SECRET)
    assert caught.value.__context__ is not None
    modules = {each.f_globals["__name__"] for each in frames(caught.value.__context__)}
    assert "azpg.connection" in modules
    assert any(module.startswith("psycopg.connection") for module in modules)


def test_a_bug_in_a_callback_shows_its_own_line_and_variables(api: Api) -> None:
    """It is the cause of azpg's error; the caller's frames are not cleared."""

    def look_up() -> str:
        vault = "production"
        return str(int(vault))

    with pytest.raises(azpg.CredentialError) as caught:
        api.open(**NOWHERE, password=api.callback(look_up))
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert frame_of(cause, "look_up").f_locals["vault"] == "production"
    assert "return str(int(vault))" in "".join(traceback.format_exception(caught.value))


def test_a_bug_in_a_credential_shows_its_own_line_and_variables(
    api: Api, credentials: Credentials
) -> None:
    """It is the cause, for each connect that the failure is raised for."""

    def acquire() -> str:
        vault = "production"
        return str(int(vault))

    credential = credentials.with_get_token(acquire)
    for _ in range(2):
        with pytest.raises(azpg.CredentialError) as caught:
            api.open(**NOWHERE, credential=credential)
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        assert frame_of(cause, "acquire").f_locals["vault"] == "production"
        assert "return str(int(vault))" in "".join(traceback.format_exception(caught.value))
        assert frames(cause)[0].f_globals["__name__"] != "azpg._tokens.acquire"


@pytest.mark.parametrize("fault", [400, "garbage"])
def test_an_error_of_azure_identity_is_only_quoted(
    api: Api, azure: Emulator, credentials: Credentials, fault: Any
) -> None:
    """Its response and its frames may hold a secret, and none of its lines is the caller's."""
    with azure.fault(identity=fault), pytest.raises(azpg.CredentialError) as caught:
        api.open(server="myserver", credential=credentials.managed_identity(), retry_timeout=0)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("source", ["callback", "credential"])
def test_an_error_that_quotes_a_token_is_not_kept(
    api: Api, credentials: Credentials, source: str
) -> None:
    """Its message is quoted without the token; a traceback would print it whole."""
    token = f"eyJhbGciOiJub25lIn0.{'x' * 40}"

    def fail() -> str:
        raise ValueError(f"unexpected answer {token}")

    options: dict[str, Any] = {"password": api.callback(fail)}
    if source == "credential":
        options = {"credential": credentials.with_get_token(fail)}
    with pytest.raises(azpg.CredentialError, match="unexpected answer …") as caught:
        api.open(**NOWHERE, **options)
    assert token not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None


def test_a_driver_error_of_a_callback_is_not_the_connects(api: Api) -> None:
    """A password that is looked up in another database fails by the callback's own error."""

    def look_up() -> str:
        psycopg.connect(host="127.0.0.1", port=1, connect_timeout=2).close()
        return "never"

    with pytest.raises(azpg.CredentialError) as caught:
        api.open(**NOWHERE, password=api.callback(look_up))
    assert caught.value.kind == "callback"
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_a_bug_of_azpgs_own_shows_its_line(
    api: Api, leaks: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own type, file and line are shown, and no secret."""

    def fail(_roots: frozenset[str]) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(_connect, "root_file", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        api.open(**NOWHERE, password=SECRET)
    names = [each.f_code.co_name for each in frames(caught.value)]
    assert {"public_params", "fail"} <= set(names)
    leaks.none_held(caught.value, SECRET)


def test_what_the_caller_is_handling_stays(api: Api) -> None:
    """Its frames are the caller's, also where azpg's error has it as its context."""

    def fail_first() -> None:
        state = "kept for the error report"
        raise LookupError(state)

    def handle() -> None:
        try:
            fail_first()
        except LookupError:
            with pytest.raises(azpg.ConfigError):
                api.open(server="myserver", sslmode="none")
            raise

    with pytest.raises(LookupError) as first:
        handle()
    assert "state" in frame_of(first.value, "fail_first").f_locals


def test_a_drivers_error_that_the_caller_is_handling_stays(postgres: Postgres) -> None:
    """A connect that fails meanwhile changes neither its message nor psycopg's frames."""

    def handle() -> None:
        options: dict[str, Any] = postgres.conninfo()
        with psycopg.connect(**options) as conn:
            try:
                conn.execute("select no_such_column")
            except psycopg.Error:
                with pytest.raises(azpg.UnreachableError):
                    azpg.connect(**NOWHERE, password="no_such_column")
                raise

    with pytest.raises(psycopg.errors.UndefinedColumn, match="no_such_column") as caught:
        handle()
    assert frame_of(caught.value, "execute").f_locals["query"] == "select no_such_column"


def test_an_exception_raised_in_two_tasks_ends_neither() -> None:
    """A credential may raise one stored exception: another task may be handling it, suspended."""
    stored = RuntimeError("stored")

    async def fail() -> str:
        raise stored

    async def main() -> list[str]:
        handling = asyncio.Event()
        go_on = asyncio.Event()

        async def handle() -> str:
            try:
                await fail()
            except RuntimeError:
                handling.set()
                await go_on.wait()
            return "went on"

        async def connect() -> str:
            with pytest.raises(azpg.CredentialError):
                await azpg.connect_async(**NOWHERE, password=fail)
            go_on.set()
            return "failed"

        task = asyncio.create_task(handle())
        await handling.wait()
        return [await connect(), await task]

    assert asyncio.run(main()) == ["failed", "went on"]


def test_a_suspended_coroutine_of_azpg_is_not_closed() -> None:
    """Before Python 3.13 `frame.clear()` would close it, and its task would end with an error."""
    stored = RuntimeError("stored")
    namespace: dict[str, Any] = {"__name__": "azpg.example", "stored": stored}
    source = """
async def handle(handling, go_on):
    try:
        raise stored
    except RuntimeError:
        handling.set()
        await go_on.wait()
    return "went on"
"""
    exec(compile(source, "example.py", "exec"), namespace)  # a module of azpg's name

    async def main() -> str:
        handling, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(namespace["handle"](handling, go_on))
        await handling.wait()
        redact_exception(stored, None)
        go_on.set()
        result: str = await task
        return result

    assert asyncio.run(main()) == "went on"


def test_no_parameter_of_a_live_frame_is_missing(api: Api) -> None:
    """IPython prints the arguments of each frame, and complains about deleted ones."""
    with pytest.raises(azpg.UnreachableError) as caught:
        api.open(**NOWHERE, password=SECRET)
    live = [each for each in frames(caught.value) if each.f_code.co_name == "connect"]
    assert live
    for frame in live:
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        assert {*frame.f_locals} >= {*names, "password", "conninfo", "kwargs"}
