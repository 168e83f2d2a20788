"""Other spellings of a connection, each told in libpq's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import azpg
from azpg import _sources, _spelling

HOST = "myserver.postgres.database.azure.com"


def told(conninfo: str, **options: Any) -> str:
    """Return the first problem of a call by password."""
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.conninfo(conninfo, password="x", **options)
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (
            f"Server={HOST};Database=mydb;Port=5432;User Id=app;Password=s3cret;Ssl Mode=Require;",
            f"host={HOST} dbname=mydb port=5432 user=app password=… sslmode=verify-full",
        ),
        (
            f"Host={HOST};Username=app@server;Pwd=s3cret",
            f"host={HOST} user=app@server password=…",
        ),
        (
            "Data Source=db; Initial Catalog=my db; UID=app; Trust Server Certificate=true;",
            "host=db dbname=… user=app",
        ),
    ],
)
def test_an_ado_net_string_is_shown_in_libpqs_form(text: str, form: str) -> None:
    """The portal's ADO.NET string becomes the conninfo to paste."""
    assert told(text) == f"this is an ADO.NET string; libpq's form is: {form}"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (
            f"jdbc:postgresql://{HOST}:5432/mydb?user=app&password=s3cret&sslmode=require",
            f"host={HOST} port=5432 dbname=mydb user=app password=… sslmode=verify-full",
        ),
        (f"JDBC:postgresql://{HOST}/mydb", f"host={HOST} dbname=mydb"),
        ("jdbc:postgresql://h:port/mydb", "host=… port=… dbname=… user=…"),
        ("jdbc:postgresql://app:s3cret@h/mydb", "host=… port=… dbname=… user=…"),
        ("jdbc:postgresql://app:3/s3cret@h/mydb", "host=… port=… dbname=… user=…"),
    ],
)
def test_a_jdbc_url_is_shown_in_libpqs_form(text: str, form: str) -> None:
    """The portal's JDBC URL becomes the conninfo to paste."""
    assert told(text) == f"this is a JDBC URL; libpq's form is: {form}"


@pytest.mark.parametrize("rest", ["", "?sslmode=require", "/x?ssl=true&x"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg", "psycopg2"])
def test_a_sqlalchemy_url_loses_its_driver(driver: str, rest: str) -> None:
    """SQLAlchemy's URL is libpq's with the driver's name in it."""
    text = told(f"postgresql+{driver}://app:s3cret@{HOST}/mydb{rest}")
    assert text == (
        "this is a SQLAlchemy URL; libpq's begins with 'postgresql://', without the '+driver'"
    )


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("database", "dbname"),
        ("db", "dbname"),
        ("username", "user"),
        ("hostname", "host"),
        ("passwd", "password"),
        ("pasword", "password"),
        ("ssl_mode", "sslmode"),
        ("sslmod", "sslmode"),
        ("SSLMODE", "sslmode"),
        ("credentials", "credential"),
        ("pg_bouncer", "pgbouncer"),
        ("timeout", "connect_timeout"),
    ],
)
@pytest.mark.parametrize("form", ["keyword", "key/value", "uri"])
def test_a_misspelt_keyword_is_told_with_the_right_one(name: str, right: str, form: str) -> None:
    """Other drivers' words and slips of the finger, in any form of a call."""
    if form == "keyword":
        text = told("", **{name: "x"})
    else:
        text = told(f"{name}=x" if form == "key/value" else f"postgresql://db/?{name}=x")
    assert text == f"{name!r} is no keyword of libpq's or azpg's: write {right!r}"


@pytest.mark.parametrize("name", ["server", "credential", "cloud", "pgbouncer"])
def test_an_option_of_azpgs_stands_beside_the_conninfo(name: str) -> None:
    """In a conninfo only libpq's keywords have a place."""
    assert told(f"{name}=x dbname=y").endswith(f"which stands beside the conninfo ({name}=…)")


def test_a_keyword_like_no_other_is_told_by_its_name() -> None:
    """Nothing is suggested where nothing is near."""
    assert told("zzzz=1") == "'zzzz' is no keyword of libpq's or azpg's"


@pytest.mark.parametrize(
    "text",
    [
        "host=db password=it s3cret=x",
        "host=db pass='x' s3cret=y",
        "postgresql://app:pw?x@db/?s3cret=y",
        "postgresql://app:pw/s?3cret=1@db",
    ],
)
def test_a_word_that_may_be_of_a_password_is_not_named(text: str) -> None:
    """A password with a space, '=' or '/' in it is misread: the error says what to quote."""
    problem = told(text)
    assert "3cret" not in problem
    assert "password" in problem


@pytest.mark.parametrize("text", ["nonsense", "host='db", "host=db port", "mysql://db", "host"])
def test_an_unreadable_conninfo_is_told_how_to_write(text: str) -> None:
    """What is neither pairs nor URI."""
    assert told(text).startswith("conninfo cannot be read")


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://alice@contoso.com@{HOST}/db",
        f"postgresql://app:p@ss@{HOST}/db",
        f"postgres://app:p/ss@{HOST}/db",
        f"postgresql://app:1/ss@{HOST}/db?sslmode=require",
        f"postgresql://app:p@ss:word@{HOST}",
    ],
)
def test_a_uri_that_is_misread_is_told_what_to_encode(text: str) -> None:
    """An '@' or '/' in name or password moves the host: libpq would read a piece of it as one."""
    problem = told(text)
    assert "percent-encode" in problem
    assert "ss" not in problem.replace("password", "")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://",
        "postgresql:///db",
        "postgresql://db/?user=alice@contoso.com",
        "postgresql://alice%40contoso.com@db/x",
        "postgresql://app:a?b:c,d@db:5432,db2/x?sslmode=require&options=-c%20a%3Db",
        "postgresql://[::1]:5432/x",
        "postgresql://%2Frun%2Fpostgresql/x",
        "host=db user=alice@contoso.com password=a@b/c",
        "",
    ],
)
def test_a_good_conninfo_is_no_problem(text: str) -> None:
    """What libpq reads as it was meant stays untouched."""
    assert _sources.merge(text, {}, {})[1] == []


@pytest.mark.parametrize("text", ["{your_password}", "{your-host}", "<your db>", "{Your Name}"])
def test_a_placeholder_is_seen(text: str) -> None:
    """In the manners of the portal and of its pages, alone or inside a value."""
    assert _spelling.placeholder(text) == text
    assert _spelling.placeholder(f"a{text}b") == text


@pytest.mark.parametrize("text", ["", "your_password", "{pw}", "a<b>c", "{your", "<yourself"])
def test_another_value_is_no_placeholder(text: str) -> None:
    """A password may hold braces."""
    assert _spelling.placeholder(text) is None


# A password of letters no message has: any of them in a message is a piece of the password
PIECES = st.text(st.sampled_from("ЖЩЮЯ =;&@/:'\"\\?%#,"), min_size=1, max_size=14)
FORMS = (
    "host=db password={} port=1",
    "password={}",
    "password='{}' host=db",
    "postgresql://app:{}@db:1/x?a=1",
    "postgresql://{}@db",
    "postgresql://db/x?password={}&port=1",
    "postgresql+psycopg://app:{}@db/x?a=1",
    "Server=db;Password={};Database=x",
    "Password={};Server=db",
    "Host=db;Pwd='{}'",
    "jdbc:postgresql://db/x?user=u&password={}&ssl=true",
    "jdbc:postgresql://u:{}@db/x",
)


@settings(max_examples=400)
@given(secret=PIECES, form=st.sampled_from(FORMS))
def test_no_piece_of_a_password_is_quoted(secret: str, form: str) -> None:
    """However it was written, and wherever it was cut, nothing of it is in any problem."""
    _, problems = _sources.merge(form.format(secret), {}, {})
    assert not set("ЖЩЮЯ") & set("".join(problems))
