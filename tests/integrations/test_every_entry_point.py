"""What means the same at every entry point: connect, pools, integrations and the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fix_entry_points import everywhere

if TYPE_CHECKING:
    from fix_entry_points import EntryPoint, Integrations
    from fix_servers import Postgres

HOST = "myserver.postgres.database.azure.com"
AZURE = {"host": HOST, "port": "5432", "user": "app", "dbname": "db", "password": "s3cret-word"}


# ssl=


@pytest.mark.parametrize("ssl", ["disable", "FALSE"])
@everywhere
def test_ssl_turned_off_is_refused_for_an_azure_host(
    using: Integrations, entry: EntryPoint, ssl: str
) -> None:
    """It is the sslmode of the same name, which Azure does not have."""
    with pytest.raises(Exception, match=r"disable.* turns off TLS"):
        entry(using, AZURE | {"ssl": ssl})


@everywhere
def test_ssl_is_taken_as_an_sslmode(
    using: Integrations, entry: EntryPoint, postgres: Postgres
) -> None:
    """In any letter case: it is no unknown option, and the server is asked to authenticate."""
    options = postgres.conninfo(password="s3cret-word", ssl="Require")
    with pytest.raises(Exception, match="password authentication failed"):
        entry(using, options)


@everywhere
def test_ssl_and_another_sslmode_contradict_each_other(
    using: Integrations, entry: EntryPoint
) -> None:
    """Neither of them is taken."""
    with pytest.raises(Exception, match="contradict each other"):
        entry(using, AZURE | {"ssl": "require", "sslmode": "verify-full"})


# Nearly right values

SECRET = "s3cret-word"
NEARLY_RIGHT = {
    "port": ({"host": f"{HOST}:5432"}, "contains a port"),
    "scheme": ({"host": f"https://{HOST}/"}, "contains the beginning of a URL"),
    "path": ({"host": f"{HOST}/mydb"}, "contains a path"),
    "user": ({"host": f"app:{SECRET}@{HOST}"}, "contains a user"),
    "line-break": ({"host": f"{HOST}\n"}, "ends in a line break"),
    "spaces": ({"host": f" {HOST}"}, "contains white space"),
    "semicolon": (
        {"host": f"{HOST};port=5432"},
        "contains (another|other) parameter|in ADO.NET's form",
    ),
    "placeholder": ({"host": "<server>"}, "still the placeholder <server>"),
    "user-placeholder": ({"user": "{your_username}"}, "still the placeholder {your_username}"),
    "dbname-line-break": ({"dbname": "db\n"}, "ends in a line break"),
    "bracketed-password": ({"password": "[password]"}, "still a placeholder"),
    "curly-password": ({"password": "{your-password}"}, "still a placeholder"),
    "angled-password": ({"password": "<PASSWORD>"}, "still a placeholder"),
    "password-line-break": ({"password": f"{SECRET}\n"}, "ends in a line break"),
}


@pytest.mark.parametrize("case", NEARLY_RIGHT)
@everywhere
def test_a_value_that_is_nearly_right_is_named_for_what_it_is(
    using: Integrations, entry: EntryPoint, case: str
) -> None:
    """Before any other rule looks at it, and without a secret."""
    changes, problem = NEARLY_RIGHT[case]
    with pytest.raises(Exception, match=problem) as caught:
        entry(using, AZURE | changes)
    assert SECRET not in str(caught.value)


@everywhere
def test_a_password_of_examples_is_named_when_the_server_rejects_it(
    using: Integrations, entry: EntryPoint, postgres: Postgres
) -> None:
    """Many a compose file really has it, so it is tried; the hint does not repeat it."""
    with pytest.raises(Exception, match="is a word of examples") as caught:
        entry(using, postgres.conninfo(password="CHANGE_ME"))
    assert "change_me" not in str(caught.value).lower()
