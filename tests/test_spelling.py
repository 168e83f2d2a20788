"""Messages spell an option as the caller's entry point does."""

from __future__ import annotations

import contextvars
import re
from typing import TYPE_CHECKING, Any

import pytest
from fix_entry_points import everywhere

import azpg
from azpg import _spelling
from azpg._spelling import (
    as_asyncpg_arguments,
    as_django_settings,
    as_flags,
    as_keywords,
    as_url_parameters,
    spelled,
    used,
)

if TYPE_CHECKING:
    from fix_api import Api
    from fix_entry_points import EntryPoint, Integrations

SPELLINGS = {
    'server="myserver"': (
        "--server myserver",
        "?server=myserver",
        'OPTIONS["server"] = "myserver"',
        'server="myserver"',
    ),
    'server="myserver", host="localhost", port=15432': (
        "--server myserver --host localhost --port 15432",
        "?server=myserver&host=localhost&port=15432",
        'OPTIONS["server"] = "myserver", HOST = "localhost", PORT = 15432',
        'server="myserver", host="localhost", port=15432',
    ),
    "user='alice@contoso.com'": (
        "--user alice@contoso.com",
        "?user=alice%40contoso.com",
        "USER = 'alice@contoso.com'",
        "user='alice@contoso.com'",
    ),
    'user="<the group\'s role>"': (
        '--user "<the group\'s role>"',
        "?user=<the group's role>",
        'USER = "<the group\'s role>"',
        'user="<the group\'s role>"',
    ),
    "user=": ("--user", "the URL's user", "USER", "user="),
    "server=": ("--server", "?server=", 'OPTIONS["server"]', "server="),
    "password=": ("PGPASSWORD", "the URL's password", "PASSWORD", "password="),
    "dbname=": ("--dbname", "the URL's dbname", "NAME", "dbname="),
    "client_id": ("--client-id", "?client_id=", 'OPTIONS["client_id"]', "client_id="),
    "pgbouncer=True": (
        "--pgbouncer",
        "?pgbouncer=true",
        'OPTIONS["pgbouncer"] = True',
        "pgbouncer=True",
    ),
    "pgbouncer=False": (
        "--no-pgbouncer",
        "?pgbouncer=false",
        'OPTIONS["pgbouncer"] = False',
        "pgbouncer=False",
    ),
    "prepare_threshold=None": (
        "prepare_threshold=None",
        "?prepare_threshold=none",
        'OPTIONS["prepare_threshold"] = None',
        "statement_cache_size=0",
    ),
    'sslmode="verify-full"': (
        "sslmode=verify-full",
        "?sslmode=verify-full",
        'OPTIONS["sslmode"] = "verify-full"',
        'sslmode="verify-full"',
    ),
    "credential=azpg.EntraPassword(timeout=60)": (
        "credential=azpg.EntraPassword(timeout=60)",
        'connect_args["credential"] = azpg.EntraPassword(timeout=60)',
        'OPTIONS["credential"] = azpg.EntraPassword(timeout=60)',
        "credential=azpg.EntraPassword(timeout=60)",
    ),
    "options=": ("options=", "?options=", 'OPTIONS["options"]', "server_settings="),
    "max_size=": ("max_size=", "?max_size=", 'OPTIONS["pool"]["max_size"]', "max_size="),
}


@pytest.mark.parametrize("marked", SPELLINGS)
def test_an_option_is_spelled_for_the_entry_point(marked: str) -> None:
    """For the command, a URL, Django's settings and asyncpg; for the rest it is as it is marked."""
    others = (as_flags, as_url_parameters, as_django_settings, as_asyncpg_arguments)
    message = f"write ⟦{marked}⟧, or not"
    assert spelled(message) == f"write {marked}, or not"
    for spelling, expected in zip(others, SPELLINGS[marked], strict=True):
        with used(spelling):
            assert spelled(message) == f"write {expected}, or not"
    assert spelled(message) == f"write {marked}, or not"


@pytest.mark.parametrize("text", ["", "⟦", "⟧⟦", "⟦no option⟧", '⟦host="a\nb"⟧', "⟦=⟧", "⟦a=b, ,⟧"])
@pytest.mark.parametrize("spelling", [as_flags, as_url_parameters, as_django_settings])
def test_any_text_is_spelled(text: str, spelling: _spelling.Spelling) -> None:
    """A role or a database may have any name: nothing is raised."""
    with used(spelling):
        spelled(text)


def test_a_task_spells_for_itself() -> None:
    """What one entry point does has no effect on another one at the same time."""
    context = contextvars.copy_context()
    context.run(_spelling.use, as_flags)
    assert context.run(spelled, "⟦user=⟧") == "--user"
    assert spelled("⟦user=⟧") == "user="
    assert _spelling.use(None) is as_keywords


@everywhere
def test_a_message_spells_an_option_as_its_entry_point_does(
    using: Integrations, entry: EntryPoint, request: pytest.FixtureRequest
) -> None:
    """A problem with the arguments says what to write there, and a hint does too."""
    options: dict[str, Any] = {"host": "myserver:5432", "port": "5432", "user": "app"}
    options |= {"dbname": "db", "password": "s3cret-word"}
    with pytest.raises(Exception, match="contains a port") as caught:
        entry(using, options)
    (name,) = re.findall(r"\[(?:a?sync-)?(\w+)", request.node.name)
    expected = {
        "sqlalchemy": "write ?host=myserver&port=5432",
        "django": 'write HOST = "myserver", PORT = 5432',
        "command": "write --host myserver --port 5432",
        "doctor": "write --host myserver --port 5432",
    }
    wanted = expected.get(name, 'write host="myserver", port=5432')
    assert wanted in str(caught.value)
    assert "⟦" not in str(caught.value)


def test_an_error_has_no_marks(api: Api) -> None:
    """A ConfigError, its problems and a ConnectError are spelled when they are created."""
    error = azpg.ConfigError(["write ⟦server=⟧", "leave out ⟦user⟧"])
    assert error.problems == ("write server=", "leave out user")
    assert str(azpg.ConnectError("⟦user=⟧", hint="⟦host=⟧")) == "user=\nHINT: host="
    with pytest.raises(azpg.ConfigError, match="leave out password") as caught:
        api.open(server="myserver", password="x", credential=azpg.EntraPassword())
    assert "⟦" not in str(caught.value)
