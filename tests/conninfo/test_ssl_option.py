"""The option ssl, which other drivers and their URLs have, is libpq's sslmode."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from asyncpg.connect_utils import SSLMode
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from fix_conninfo import Handed, Problems

HOST = "myserver.postgres.database.azure.com"
MEANINGS = {
    "true": "verify-full",
    "1": "verify-full",
    "On": "verify-full",
    "require": "require",
    "Require": "require",
    "prefer": "prefer",
    "verify-full": "verify-full",
    "verify_full": "verify-full",
    "false": "disable",
    "DISABLE": "disable",
}
URL = "postgresql://app@db.example.net/shop"


@pytest.mark.parametrize("ssl", MEANINGS)
@pytest.mark.parametrize("form", ["keyword", "pairs", "quoted", "uri", "uri-later"])
def test_a_value_means_an_sslmode(handed: Handed, ssl: str, form: str) -> None:
    """A keyword, a key/value string and a URI agree, in any letter case."""
    forms = {
        "keyword": ("host=db.example.net", {"ssl": ssl}),
        "pairs": (f"host=db.example.net ssl={ssl}", {}),
        "quoted": (f"ssl = '{ssl}' host=db.example.net", {}),
        "uri": (f"{URL}?ssl={quote(ssl)}", {}),
        "uri-later": (f"{URL}?application_name=a&ssl={ssl}&connect_timeout=3", {}),
    }
    conninfo, options = forms[form]
    assert handed(conninfo, password="x", **options)["sslmode"] == MEANINGS[ssl]


@pytest.mark.parametrize("ssl", [True, "true", "require", "prefer", SSLMode.require, None])
def test_an_azure_host_is_verified_all_the_same(handed: Handed, ssl: object) -> None:
    """As for a weaker sslmode."""
    assert handed(host=HOST, ssl=ssl)["sslmode"] == "verify-full"


@pytest.mark.parametrize("text", ["a ssl=disable", " ssl=disable", "a'b ssl='disable"])
def test_ssl_in_a_value_is_no_option(handed: Handed, text: str) -> None:
    """A password or a name may contain the text."""
    found = handed(make_conninfo(host="db.example.net", password="x", application_name=text))
    assert (found["application_name"], found["sslmode"]) == (text, "verify-full")


@pytest.mark.parametrize(
    ("conninfo", "options"),
    [
        (f"{URL}?ssl=require&sslmode=verify-full", {}),
        (f"{URL}?ssl=true&sslmode=disable", {}),
        ("host=db.example.net sslmode=prefer ssl=false", {}),
        ("host=db.example.net", {"ssl": "verify-ca", "sslmode": "verify-full"}),
    ],
)
def test_two_values_that_differ_are_an_error(
    problems: Problems, conninfo: str, options: dict[str, str]
) -> None:
    """The message has both, and which one to leave out."""
    (problem,) = problems(conninfo, password="x", **options)
    assert "contradict each other: leave out ssl" in problem


def test_a_misread_sslmode_is_not_quoted(problems: Problems) -> None:
    """Next to another ssl, what may hold a password does not get into the error."""
    (problem,) = (
        each
        for each in problems(ssl="require", sslmode="prefer password=hunter2")
        if "contradict" in each
    )
    assert "hunter2" not in problem


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_true_says_less_than_an_sslmode(handed: Handed, mode: str) -> None:
    """Both ask for TLS, so the sslmode counts."""
    found = handed(f"{URL}?ssl=true&sslmode={mode}", password="x")
    assert found["sslmode"] == mode


def test_a_keyword_beats_the_connection_string(handed: Handed) -> None:
    """Different sources do not contradict each other: the keyword wins, as every keyword."""
    found = handed(f"{URL}?sslmode=require", ssl="disable", password="x")
    assert found["sslmode"] == "disable"


@pytest.mark.parametrize("value", ["yes please", "tls", "x" * 40])
def test_another_value_is_an_error(problems: Problems, value: str) -> None:
    """It says what to write, and a long value is not repeated."""
    (problem,) = problems(host=HOST, ssl=value)
    assert "write sslmode='verify-full'" in problem
    assert "x" * 40 not in problem


@pytest.mark.parametrize("value", [ssl.create_default_context(), {"ca": "root.pem"}])
def test_an_object_is_an_error(problems: Problems, value: object) -> None:
    """A context or a dict of another driver is told what to write in its place."""
    (problem,) = problems(host=HOST, ssl=value)
    assert "leave out ssl=" in problem
    assert type(value).__name__ in problem
