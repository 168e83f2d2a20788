"""Other spellings of a connection, each told in libpq's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

import azpg
from azpg._conninfo.options import ConnectOptions
from azpg._conninfo.sources import merge
from azpg._conninfo.suggestions import placeholder
from azpg._libpq import libpq_info

if TYPE_CHECKING:
    from pathlib import Path

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
    assert (
        told(text)
        == f"the connection string is in ADO.NET's form: write it in libpq's form, {form}"
    )


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
    assert told(text) == f"the connection string is a JDBC URL: write it in libpq's form, {form}"


@pytest.mark.parametrize("rest", ["", "?sslmode=require", "/x?ssl=true&x"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg", "psycopg2"])
def test_a_sqlalchemy_url_loses_its_driver(driver: str, rest: str) -> None:
    """SQLAlchemy's URL is libpq's with the driver's name in it."""
    text = told(f"postgresql+{driver}://app:s3cret@{HOST}/mydb{rest}")
    assert text.endswith("SQLAlchemy URL: write 'postgresql://' without the '+driver'")


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
    assert text == f"{name!r} is not a libpq or azpg keyword: write {right!r}"


@pytest.mark.parametrize("name", ["server", "credential", "cloud", "pgbouncer"])
def test_an_option_of_azpgs_stands_beside_the_conninfo(name: str) -> None:
    """In a conninfo only libpq's keywords have a place."""
    assert told(f"{name}=x dbname=y").endswith(f"not in the conninfo ({name}=…)")


def test_a_keyword_like_no_other_is_told_by_its_name() -> None:
    """Nothing is suggested where nothing is near."""
    assert told("zzzz=1") == "'zzzz' is not a libpq or azpg keyword"


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


@pytest.mark.parametrize("text", ["nonsense", "host='db", "host=db port", "host"])
def test_an_unreadable_conninfo_is_told_how_to_write(text: str) -> None:
    """What is neither pairs nor URI."""
    assert told(text).startswith("the connection string is invalid")


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
    assert merge(ConnectOptions(text), {})[1] == []


@pytest.mark.parametrize("text", ["{your_password}", "{your-host}", "<your db>", "{Your Name}"])
def test_a_placeholder_is_seen(text: str) -> None:
    """In the manners of the portal and of its pages, alone or inside a value."""
    assert placeholder(text) == text
    assert placeholder(f"a{text}b") == text


@pytest.mark.parametrize(
    "text", ["[password]", "<PASSWORD>", "{your-password}", "${PASSWORD}", "{{ password }}", "%PW%"]
)
@pytest.mark.parametrize("source", ["password", "conninfo", "PGPASSWORD"])
def test_a_bracketed_word_is_no_password(
    monkeypatch: pytest.MonkeyPatch, text: str, source: str
) -> None:
    """A password that is wholly one bracketed word is refused, and not quoted."""
    options: dict[str, str] = {}
    conninfo = f"password='{text}'" if source == "conninfo" else ""
    if source == "password":
        options["password"] = text
    elif source == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", text)
    (problem,) = problems_of(conninfo, server="myserver", user="u", **options)
    assert problem.startswith(f"{'password (connection string)' if conninfo else source} is still")
    assert text not in problem


@pytest.mark.parametrize("text", ["changeme", "CHANGE_ME", "password", "{ab12}", "<a1>", "x[a]"])
def test_a_password_that_may_be_real_is_used(text: str) -> None:
    """What compose files really use, and brackets in or around other text."""
    assert azpg.conninfo(server="myserver", user="u", password=text)


def test_an_unused_password_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPASSWORD may hold a placeholder if another password or identity is given."""
    monkeypatch.setenv("PGPASSWORD", "<password>\n")
    assert azpg.conninfo(server="myserver", user="u", password="hunter2")
    assert azpg.conninfo(server="myserver", user="u", client_id="an-id")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"user": "<user>"}, "user is still the placeholder <user>"),
        ({"dbname": "[database]"}, "dbname is still the placeholder [database]"),
        ({"port": "{port}"}, "port is still the placeholder {port}"),
        ({"client_id": "<client-id>"}, "client_id is still the placeholder <client-id>"),
        ({"client_id": "an-id\n"}, "client_id ends in a line break"),
    ],
)
def test_other_placeholders_are_named(options: dict[str, str], found: str) -> None:
    """A name in brackets is one of a parameter, not of a user or database."""
    (problem,) = problems_of("", server="myserver", **options)
    assert problem.startswith(found)


@pytest.mark.parametrize("user", ["[Developers]", "{sales}", "[AZ] Database Admins"])
def test_a_group_may_have_brackets(user: str) -> None:
    """A role is named as its Entra group, whose name may have any character."""
    assert azpg.conninfo(server="myserver", user=user)


@pytest.mark.parametrize("text", ["", "your_password", "{pw}", "a<b>c", "{your", "<yourself"])
def test_another_value_is_no_placeholder(text: str) -> None:
    """A password may hold braces."""
    assert placeholder(text) is None


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
    # Separators that libpq reads as part of the value before them
    "host=db;port=5432;user=u;password={}",
    "host=db, port=5432, user=u, password={}",
    "host=db,password={}",
    "port=5432;password={} host=db",
    "user=u;pwd={} host=db",
    "dbname=x;password={} host=db",
    "sslmode=require;password={} host=db",
    "connect_timeout=3;password={} host=db",
    "target_session_attrs=any&password={} host=db",
    "hostaddr=192.0.2.1;password={} host=db",
    "service=x;password={}",
    # Texts that are no connection string
    "postgresql:/u:{}@db/x",
    "postgresql:/u:{}@db/x?sslmode=require",
    "PostgreSQL://u:{}@db/x?sslmode=require",
    "postgis://u:{}@db/x?a=b",
    'psql "host=db user=u password={}"',
    "PGPASSWORD={} psql -h db",
    "export PGPASSWORD={}",
    "db:5432:x:u:{}",
    "{}=",
    "{}==",
    "{}",
    "'host=db password={}'",
)


@settings(max_examples=600)
@given(secret=PIECES, form=st.sampled_from(FORMS))
def test_no_piece_of_a_password_is_quoted(secret: str, form: str) -> None:
    """However it was written, and wherever it was cut, nothing of it is in any problem."""
    try:
        shown = azpg.conninfo(form.format(secret), client_id="an-id")
    except azpg.ConfigError as error:
        shown = str(error)
    assert not set("ЖЩЮЯ") & set(shown)


SEPARATED = [
    *("host=db;port=5432;user=u;password=x", "host=db, port=5432, user=u", "host=db,user=u"),
    *("dbname=x;user=u host=db", "sslmode=require;user=u host=db", "user=u&host=db port=1"),
]


@pytest.mark.parametrize("text", SEPARATED)
def test_separators_of_other_drivers_are_named(text: str) -> None:
    """';', ',' and '&' between parameters are named, before any rule looks at the values."""
    found = problems_of(text)
    assert re.search("between|ADO.NET|other parameters", found[0])


def problems_of(conninfo: str, **options: Any) -> tuple[str, ...]:
    """Return every problem of a call by Microsoft Entra."""
    with pytest.raises(azpg.ConfigError) as caught:
        azpg.conninfo(conninfo, **options)
    return caught.value.problems


@pytest.mark.parametrize(
    "text",
    [
        'psql "host=db user=u"',
        "psql postgresql://db/x",
        "$ psql -h db",
        "PGPASSWORD=x psql -h db",
        "export PGHOST=db",
        "pg_dump host=db",
        "psql.exe -h db",
        "pgcli postgresql://db/x",
        "sudo -u postgres psql",
        "docker exec -it db psql -U postgres",
        "az postgres flexible-server connect -n db",
        "$env:PGHOST = 'db'",
    ],
)
def test_a_command_line_is_named(text: str) -> None:
    """A command that was pasted whole is no connection string."""
    (problem,) = problems_of(text)
    assert "command line" in problem


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("PostgreSQL://db/x", "lower case"),
        (" postgresql://db/x", "white space"),
        ("postgres:/db/x", "postgresql://"),
        ("postgis://db/x", "'postgresql://', not with 'postgis://'"),
        ("pgsql://db/x", "not with 'pgsql://'"),
        ("DATABASE_URL=postgresql://u:hunter2@db/x", "pass only the URL"),
        ("url = 'postgresql://u:hunter2@db/x'", "pass only the URL"),
        ("mysql://db/x?a=b", "postgresql://"),
        ('"host=db"', "quotes"),
        ("'postgresql://db/x'", "quotes"),
        ("<postgresql://db/x>", "brackets"),
    ],
)
def test_a_url_or_quotes_are_named(text: str, right: str) -> None:
    """Another scheme, a scheme in capitals, one slash, or a shell's quotes."""
    (problem,) = problems_of(text)
    assert right in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("source", ["keyword", "conninfo", "environment"])
@pytest.mark.parametrize("keyword", ["host", "dbname", "user", "password"])
def test_a_trailing_line_break_is_named(
    monkeypatch: pytest.MonkeyPatch, keyword: str, source: str
) -> None:
    """A file that was read with its line break is named, and a secret is not shown."""
    value = "hunter2hunter2\n"
    name = libpq_info().variables[keyword] if source == "environment" else keyword
    options: dict[str, Any] = {"server": "myserver"} if keyword != "host" else {}
    conninfo = ""
    if source == "keyword":
        options[keyword] = value
    elif source == "conninfo":
        conninfo = make_conninfo("", **{keyword: value})
    else:
        monkeypatch.setenv(libpq_info().variables[keyword], value)
    found = problems_of(conninfo, **options)
    assert any("line break" in problem and name in problem for problem in found)
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_callbacks_line_break_is_named(ending: str) -> None:
    """A password callback that reads a file with its line break is told to strip it."""
    with pytest.raises(azpg.CredentialError, match="line break") as caught:
        azpg.connect(server="myserver", user="u", password=lambda: f"hunter2hunter2{ending}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (f"{HOST}:5432", f'="{HOST}", port=5432'),
        ("myserver:5432", 'write server="myserver", port=5432'),
        ("localhost:15432", 'write server="myserver", host="localhost", port=15432'),
        ("10.0.0.4:5432", 'write server="myserver", host="10.0.0.4", port=5432'),
        ("db.example.net:5432", 'write server="myserver", host="db.example.net", port=5432'),
        ("[::1]:5432", 'server="myserver", host="::1", port=5432'),
        (f"https://{HOST}/x", f'="{HOST}", or pass the whole URL'),
        (f"tcp:{HOST},1433", f'="{HOST}"'),
        (f"postgresql://u:hunter2@{HOST}/x", f'="{HOST}", or pass the whole URL'),
        ("postgresql://u:hunter2@db.example.net/x", "pass the whole URL"),
        ("postgresql://u:12345", "pass the whole URL"),
        (f"u:hunter2@{HOST}", "contains a user: write "),
        ("u:hunter2@db.example.net", 'server="myserver"'),
        (f"{HOST}/mydb", "contains a path: write "),
        (f" {HOST}\t", f'="{HOST}"'),
        (f'"{HOST}"', f'="{HOST}"'),
        (f"{HOST}\r\n", "line break"),
        ("db1 db2", '="a,b"'),
        ("db1;db2", "other parameters"),
        (f"host={HOST} user=u", "connection string"),
        ("db:5432:x:u:hunter2", "more than a name"),
        ("db!", "character"),
        ("{your_server}", "placeholder {your_server}"),
        ("<server-name>", "placeholder <server-name>"),
        ("[host]", "placeholder [host]"),
    ],
)
@pytest.mark.parametrize("source", ["keyword", "conninfo", "environment", "service", "server"])
def test_a_host_that_is_nearly_right_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, told: str, source: str
) -> None:
    """A port, a scheme, a path, a user or white space in a host: the message has what to write."""
    if source == "environment":
        monkeypatch.setenv("PGHOST", host)
        found = problems_of("")
        assert found[0].startswith("PGHOST ")
    elif source == "conninfo":
        found = problems_of(make_conninfo("", host=host))
    elif source == "service":
        if host.strip() != host:
            return  # libpq strips a service file's lines
        file = tmp_path / "services"
        file.write_text(f"[shop]\nhost={host}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(file))
        found = problems_of("service=shop")
    else:
        found = problems_of("", **{"server" if source == "server" else "host": host})
    (problem,) = found
    assert told in problem
    assert "hunter2" not in problem
    assert "12345" not in problem


def test_a_host_for_a_password_is_written_as_host() -> None:
    """Without Entra a host need not be Azure's: the port moves, and the host stays."""
    assert told("", host="db:5432") == 'host contains a port: write host="db", port=5432'
    assert 'host="db2", port=5433' in told("", host="db1,db2:5433")


@pytest.mark.parametrize("name", ["server", "host"])
def test_a_name_outside_azure_needs_one_correction(name: str) -> None:
    """host= and server= do not send to each other: the message has both, and what each is for."""
    (problem,) = problems_of("", **{name: "db.example.net"})
    assert 'server="myserver", host="db.example.net"' in problem


@pytest.mark.parametrize(
    "text",
    [
        "host=db application_name='a;b' user=u",
        "host=/run/postgresql,db user=u",
        "host=::1 user=u",
        "host=db_1.example options='-c search_path=a,b'",
        "host=db password='a;user=b'",
        "host=db,db2 port=1,2",
        "host=xn--mnchen-3ya.example",
    ],
)
def test_values_that_only_look_alike_pass(text: str) -> None:
    """What libpq reads as it was meant is no near miss."""
    assert azpg.conninfo(text, password="x")
