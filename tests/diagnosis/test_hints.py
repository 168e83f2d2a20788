"""Hints: what to type next, with the names of the attempt and nothing unprintable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg._diagnosis import classify, hints
from azpg._diagnosis.patterns import PATTERNS, SQLSTATES, Pattern
from azpg._spelling import as_flags, used

HOST = "myserver.postgres.database.azure.com"
FATAL = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: FATAL:  '
CONTEXT = hints.HintContext(
    host=HOST,
    port="5432",
    user="alice",
    dbname="shop",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)


def hint(message: str, **changes: Any) -> str:
    """Return the hint for a message."""
    return classify.classify(message, CONTEXT._replace(**changes)).hint


# Users and passwords


def test_the_hint_for_an_unknown_role_creates_it() -> None:
    """It has the administrator's statements, by name and by object id, with the name quoted."""
    found = hint(FATAL + "password authentication failed", user="o'brien@x")
    assert "pgaadauth_create_principal('o''brien@x', false, false)" in found
    assert "pgaadauth_create_principal_with_oid('o''brien@x', '<object id>', 'service'" in found


def test_the_hint_for_a_wrong_password_mentions_tokens() -> None:
    """The role may be one of Microsoft Entra, which has no password."""
    found = hint(FATAL + "password authentication failed", entra=False)
    assert found.startswith("check user='alice' and its password")
    assert "leave out password=" in found


@pytest.mark.parametrize(
    ("place", "thing_to_type"),
    [
        ("PGUSER", "leave out user= (here from PGUSER: unset PGUSER)"),
        ("connection string", "leave out user= (here from the connection string)"),
        ("section [shop] of /etc/pg", "leave out user= (here from section [shop] of /etc/pg)"),
        ("", "leave out user=."),
    ],
)
@pytest.mark.parametrize(
    "message",
    [
        "password authentication failed",
        "Microsoft Entra user token for role[root] is neither",
        'role "root" does not exist',
        'oid mismatch for role "root"',
    ],
)
def test_the_hint_for_a_wrong_user_names_the_tokens_own(
    message: str, place: str, thing_to_type: str
) -> None:
    """The token's name is first, with where the wrong user comes from."""
    changes = {"user": "root", "token_role": "Alice@contoso.com", "token_kind": "user"}
    found = hint(FATAL + message, places={"user": place}, **changes)
    assert found.startswith(f"the token is for 'Alice@contoso.com' (a user): {thing_to_type}")
    if "oid" not in message:
        assert 'user="<the group\'s role>"' in found


def test_the_command_writes_an_option_as_its_own() -> None:
    """Also an option that is named without a value."""
    with used(as_flags):
        found = hint(FATAL + "password authentication failed", token_role="bob", places={})
    assert "leave out --user. " in found


def test_the_hint_for_a_user_in_another_case_says_that_case_counts() -> None:
    """PostgreSQL's role names are case-sensitive, sign-in names are not."""
    message = FATAL + "password authentication failed"
    found = hint(message, token_role="Alice@contoso.com", user="alice@contoso.com", places={})
    assert "case-sensitive: leave out user=" in found


def test_the_hint_for_an_id_as_user_asks_for_the_name() -> None:
    """A service principal's token holds no name, so its id is taken for one."""
    user = "11111111-2222-3333-4444-555555555555"
    message = FATAL + "password authentication failed"
    found = hint(message, user=user, token_kind="service principal", places={})
    assert found.startswith(f"user='{user}' is an id")
    assert 'user="<the display name' in found


def test_the_role_to_create_has_the_tokens_own_object_id() -> None:
    """It is known if the token names the same role."""
    token = {"token_kind": "user", "token_object_id": "an-id"}
    found = hint(FATAL + "password authentication failed", token_role="alice", **token)
    assert "'an-id', 'user'" in found
    assert "aadauth,oid=an-id,type=user" in hint(FATAL + "oid mismatch for role", **token)


@pytest.mark.parametrize(
    "message",
    ["The access token has expired", "The access token has invalid format", "valid audience claim"],
)
def test_the_hint_for_a_rejected_token_names_its_source_first(message: str) -> None:
    """A stored token is removed where it is stored."""
    found = hint(FATAL + message, places={"password": "PGPASSWORD"})
    assert "the password came from PGPASSWORD: unset PGPASSWORD, because azpg" in found
    found = hint(FATAL + message, places={"password": "connection string"})
    assert "came from the connection string: leave it out there" in found
    assert "leave it out, because azpg" in hint(FATAL + message, places={"password": ""})
    found = hint(FATAL + message, places={"password": ""}, password_is_callback=True)
    assert "password callback: leave out password=" in found
    assert "fetches" not in hint(FATAL + message, places={})


def test_the_hint_for_a_wrong_password_names_both_sources() -> None:
    """The variable that was forgotten is the one to unset."""
    places = {"user": "PGUSER", "password": "PGPASSWORD"}
    found = hint(FATAL + "password authentication failed", entra=False, places=places)
    assert found.startswith("check user='alice' (from PGUSER) and its password (from PGPASSWORD)")


def test_the_server_in_single_servers_user_is_removed() -> None:
    """Single Server took user@server, and Flexible Server does not."""
    message = FATAL + "password authentication failed"
    expected = "Flexible Server does not use @myserver: user='alice'"
    assert expected in hint(message, entra=False, user="alice@myserver").partition(";")[2]
    assert hint(message, user="alice@myserver").startswith(expected)
    for entra in (False, True):
        assert "does not use @" not in hint(message, entra=entra, user="alice@contoso.com")


def test_the_hint_for_a_password_of_an_entra_role_is_to_leave_it_out() -> None:
    """The server says only that the token's format is invalid."""
    message = FATAL + "The access token has invalid format."
    assert "leave out password=" in hint(message, entra=False)
    assert "az login --tenant" in hint(message)


@pytest.mark.parametrize(
    ("message", "statement"),
    [
        ("oid mismatch for role", """ON ROLE "o""b" IS 'aadauth,oid=<object id>,type=service'"""),
        ('role "x" is not permitted to log in', 'ALTER ROLE "o""b" LOGIN'),
        (
            'permission denied for database "x"\nDETAIL: User does not have CONNECT privilege.',
            'GRANT CONNECT ON DATABASE "sh""op" TO "o""b"',
        ),
        ('database "x" does not exist', 'CREATE DATABASE "sh""op"'),
        (
            "unsupported startup parameter in options: search_path",
            'ALTER ROLE "o""b" IN DATABASE "sh""op" SET search_path',
        ),
        ('too many connections for role "x"', 'ALTER ROLE "o""b" (or DATABASE "sh""op")'),
    ],
)
def test_names_in_statements_are_quoted(message: str, statement: str) -> None:
    """As SQL identifiers, whatever characters they have."""
    assert statement in hint(FATAL + message, user='o"b', dbname='sh"op')


def test_the_hint_for_a_query_names_the_object_to_grant() -> None:
    """The error of a connect repeats no name of the server's message."""
    message = "permission denied for table my orders\nLINE 1: select"
    of_query = classify.classify(message, CONTEXT, sqlstate="42501").hint
    assert 'GRANT SELECT ON table "my orders" TO "alice"' in of_query
    assert "orders" not in hint(message)


def test_the_hint_for_a_wrong_audience_has_the_requested_resource() -> None:
    """It is the resource as the server names it, if it is known."""
    found = hint(FATAL + "no valid audience claim")
    assert "https://ossrdbms-aad.database.windows.net;" in found
    assert "cloud=" in found
    assert hint("valid audience claim", scope="").startswith("name the cloud")


def test_the_hint_for_a_wrong_audience_says_that_the_scope_is_an_assumption() -> None:
    """Where Azure does not publish it, a Cloud of one's own changes it."""
    found = hint("valid audience claim", assumed_scope_of="horizondb")
    assert "https://ossrdbms-aad.database.windows.net, which is an assumption" in found
    assert "cloud=azpg.Cloud(" in found


# PgBouncer


def test_the_hint_for_a_closed_pgbouncer_port_turns_it_on() -> None:
    """PgBouncer's ports have the parameter and the tier, any other port the server's name."""
    for port in ("6432", "8432"):
        found = hint("Connection refused", port=port)
        assert "pgbouncer.enabled" in found
        assert "Burstable" in found
    assert hint("Connection refused").startswith(f"nothing listens on port 5432 of {HOST}")


@pytest.mark.parametrize(
    ("message", "thing_to_type"),
    [
        ("unsupported startup parameter in options: statement_timeout", "SET statement_timeout ="),
        ("unsupported startup parameter: jit", "SET jit ="),
        ("unsupported startup parameter: options", "SET app.tenant ="),
        ("unsupported startup parameter in options: app.tenant", "SET app.tenant ="),
        ("unsupported startup parameter: replication", "leave it out, or go to the server"),
    ],
)
def test_the_hint_for_a_setting_that_pgbouncer_rejects_names_it(
    message: str, thing_to_type: str
) -> None:
    """It is the setting of the message, or the caller's own if the message names none."""
    found = hint(FATAL + message, settings=("app.tenant",))
    assert thing_to_type in found
    assert "pgbouncer=False" in found


def test_the_name_of_an_unknown_setting_is_not_repeated() -> None:
    """A server could repeat a secret there."""
    assert "hunter" not in hint(FATAL + "unsupported startup parameter: hunter")


@pytest.mark.parametrize(
    ("message", "sqlstate", "kind", "thing_to_type"),
    [
        ("client connections dropped, exiting", "08P01", "starting", "connect again"),
        ("admin forced disconnect", "08P01", "starting", "connect again"),
        ('database "shop" is disabled', "", "no-database", "pgbouncer=False"),
        (
            'bind message supplies 6 parameters, but prepared statement "" requires 0',
            *("08P01", "prepared-statement", "prepare_threshold=None"),
        ),
        ('type "vector" does not exist', "42704", "extension", "CREATE EXTENSION vector"),
        ("vector type not found in the database", "", "extension", "azure.extensions"),
        ("terminating connection due to administrator command", "57P01", "starting", "pg_term"),
    ],
)
def test_further_messages_have_a_kind_and_a_thing_to_type(
    message: str, sqlstate: str, kind: str, thing_to_type: str
) -> None:
    """They are PgBouncer's, pgvector's, and those of a session that an administrator ended."""
    found = classify.classify(message, CONTEXT, sqlstate=sqlstate)
    assert found.kind == kind
    assert thing_to_type in found.hint


@pytest.mark.parametrize("platform", ["linux", "win32", "darwin"])
def test_a_command_is_named_only_where_it_exists(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """The command timedatectl is of Linux, and Windows has no ulimit."""
    monkeypatch.setattr("sys.platform", platform)
    assert ("timedatectl" in hint("certificate has expired")) is (platform == "linux")
    assert ("ulimit" in hint("Too many open files")) is (platform != "win32")


@pytest.mark.parametrize(
    "message",
    [
        "Connection refused",
        "connection timeout expired",
        "Network is unreachable",
        "server closed the connection unexpectedly",
        "failed to resolve host 'localhost'",
        "SSL error: wrong version number",
    ],
)
@pytest.mark.parametrize("option", ["lookup_host", "hostaddr"])
def test_a_hint_about_a_place_names_the_place_that_was_tried(message: str, option: str) -> None:
    """It is the local end of a tunnel, not the server whose name is verified."""
    found = hint(message, port="15432", places={}, **{option: "localhost"})
    assert "localhost" in found
    if option == "lookup_host":
        assert "portal" not in found
    if "refused" in message:
        assert found.startswith("localhost:15432")


def test_the_hint_for_a_tunnel_that_is_down_says_to_start_it() -> None:
    """Whichever port it is, the server's own portal cannot help."""
    for port in ("15432", "6432"):
        assert "tunnel" in hint("Connection refused", lookup_host="localhost", port=port)


def test_the_hint_for_a_rejected_long_token_has_its_length() -> None:
    """And since when Azure's PgBouncer takes it, and pgbouncer=False, which avoids the limit."""
    found = hint(FATAL + "client sent partial pkt in startup phase")
    assert "5000 bytes" in found
    assert "pgbouncer=False" in found
    assert "2026-04-22" in found


@pytest.mark.parametrize(
    "message", ["password authentication failed", "server closed the connection"]
)
def test_a_long_token_is_not_suspected_otherwise(message: str) -> None:
    """Azure's PgBouncer reads long tokens, so a refused login has other causes."""
    assert "bytes" not in hint(FATAL + message, port="6432")


# Network and TLS


def test_a_firewall_rule_is_for_the_address_that_the_server_saw() -> None:
    """NAT hides that address from this machine; what is no address is not repeated."""
    message = 'no pg_hba.conf entry for host "{}", user "u", database "d", SSL encryption'
    assert "firewall rule for 203.0.113.7" in hint(FATAL + message.format("203.0.113.7"))
    assert "firewall rule for this machine's address" in hint(FATAL + message.format("dead.beef"))


def test_the_hint_for_a_timeout_depends_on_the_address() -> None:
    """A private one needs the network, a public one the firewall; PgBouncer itself may wait."""
    message = 'connection to server at "{}", port 5432 failed: timeout expired'
    private, public = hint(message.format("10.0.0.4")), hint(message.format("20.50.1.2"))
    assert "10.0.0.4 is a private address" in private
    assert "firewall" not in private
    assert "this machine's address (portal: Networking)" in public
    assert "pgbouncer=False" in hint(message.format("10.0.0.4"), port="6432")
    assert "pgbouncer=False" not in public


def test_a_hint_is_about_the_attempt_that_the_pattern_matched() -> None:
    """It has the host and port of that attempt, and never a host that was not tried."""
    message = (
        "connection timeout expired\nMultiple connection attempts failed. All failures were:\n"
        "- host: 'b', port: '6432', hostaddr: '192.0.2.2': Connection refused\n"
        "- host: 'a', port: '5432', hostaddr: '192.0.2.1': Network is unreachable\n"
    )
    assert "pgbouncer.enabled" in hint(message, host="a,b", port="5432,6432")
    assert "evil" not in hint(message.replace("'b'", "'evil'"), host="a,b", port="5432,6432")


@pytest.mark.parametrize(
    "message", ["SSL error: certificate verify failed", "does not support SSL"]
)
def test_sslmode_disable_is_never_suggested_for_a_token(message: str) -> None:
    """It is suggested for a password, for a server on the user's own machine."""
    assert "sslmode=disable" in hint(message, entra=False)
    assert "sslmode=disable" not in hint(message)


UNVERIFIED = {
    "libpq": "SSL error: certificate verify failed",
    "issuer": "certificate verify failed: unable to get local issuer certificate",
    "first": "certificate verify failed: unable to verify the first certificate",
    "self-signed": "certificate verify failed: self-signed certificate in certificate chain",
    "self signed": "certificate verify failed: self signed certificate",
}


@pytest.mark.parametrize("which", UNVERIFIED)
def test_the_hint_for_an_unverified_certificate_names_the_doctor(which: str) -> None:
    """Only its own handshake can tell the causes apart."""
    assert "azpg doctor" in hint(UNVERIFIED[which])


@pytest.mark.parametrize("which", UNVERIFIED)
def test_certifis_file_is_advised_only_if_it_can_help(which: str) -> None:
    """Neither against a proxy's root, nor if other roots than the pinned ones are in use."""
    advice = "PGSSLROOTCERT=$(python -m certifi)"
    assert (advice in hint(UNVERIFIED[which])) is not which.startswith("self")
    assert advice not in hint(UNVERIFIED[which], root_file="/etc/own.pem")
    assert advice not in hint(UNVERIFIED[which], has_pinned_roots=False)


def test_the_hint_for_an_unknown_root_names_the_callers_file() -> None:
    """An old file may lack a new root, and "system" may find no roots."""
    message = "certificate verify failed"
    file = {"root_file": "/etc/BaltimoreCyberTrustRoot.crt"}
    assert f"{file['root_file']} (sslrootcert or PGSSLROOTCERT)" in hint(message, **file)
    places = {"sslrootcert": "PGSSLROOTCERT"}
    old = hint(message, **file, places=places, has_azure_root=False)
    assert "(PGSSLROOTCERT), which has no Azure root: unset PGSSLROOTCERT" in old
    assert "SSL_CERT_FILE" in hint(message, root_file="system")


@pytest.mark.parametrize(
    ("endpoint", "attrs"), [("writer", "read-write"), ("reader", "prefer-standby")]
)
def test_a_virtual_endpoint_whose_name_does_not_match_gets_the_list(
    endpoint: str, attrs: str
) -> None:
    """One server's name would be the wrong one after a promotion."""
    message = 'server certificate for "a" does not match host name "b"'
    host = f"shop.{endpoint}.postgres.database.azure.com"
    found = hint(message, host=host)
    assert 'host="<server>.postgres.database.azure.com,<replica>' in found
    assert f'target_session_attrs="{attrs}"' in found
    assert "server=" not in found
    assert found == hint(message, host=f"{HOST},{host}")
    assert 'server="myserver"' in hint(message, host="db.corp.example")
    assert 'server="myserver"' in hint(message, host="reader.postgres.database.azure.com")


# Any text


@given(
    name=st.sampled_from(["timeout expired", "access token has expired", "x"]),
    of_kind=st.sampled_from(
        [
            ("login", 'password authentication failed for user "{}"'),
            ("no-database", 'database "{}" does not exist'),
            ("certificate-name", 'certificate for "{}" does not match host name "{}"'),
            ("too-many-connections", 'too many connections for role "{}"'),
        ]
    ),
)
def test_quoted_names_are_not_matched(name: str, of_kind: tuple[str, str]) -> None:
    """A role or database can have the name of a failure."""
    kind, message = of_kind
    assert classify.classify(FATAL + message.format(name, name), CONTEXT).kind == kind


@given(pattern=st.sampled_from(PATTERNS), user=st.text(), dbname=st.text())
def test_a_hint_has_no_control_character(pattern: Pattern, user: str, dbname: str) -> None:
    """Whatever the names are."""
    found = hints.write_hint(pattern.hint, CONTEXT._replace(user=user, dbname=dbname), {})
    assert all(c.isprintable() or c == "\n" for c in found)


# SQLSTATE


@pytest.mark.parametrize(("sqlstate", "kind"), [each for each in SQLSTATES.items() if each[1]])
def test_a_sqlstate_classifies_an_unknown_message(sqlstate: str, kind: str) -> None:
    """A server's messages may be in another language than English."""
    found = classify.classify("das geht nicht", CONTEXT, sqlstate=sqlstate)
    assert found.kind == kind
    assert found.hint


@pytest.mark.parametrize("sqlstate", ["08P01", "28000"])
def test_an_unspecific_sqlstate_leaves_it_to_the_message(sqlstate: str) -> None:
    """PgBouncer reports everything as 08P01, Microsoft Entra much as 28000."""
    assert classify.classify("das geht nicht", CONTEXT, sqlstate=sqlstate).kind == "unknown"
    assert classify.classify("query_wait_timeout", CONTEXT, sqlstate=sqlstate).transient


def test_the_error_of_an_ordinary_query_is_unknown() -> None:
    """Its message can quote anything."""
    message = 'duplicate key: ("connection refused", timeout expired)'
    assert classify.classify(message, CONTEXT, sqlstate="23505") == classify.UNKNOWN


@pytest.mark.parametrize("password", ["changeme", "CHANGE-ME", "Password", "secret", "xxxx"])
def test_a_password_of_examples_is_told(password: str) -> None:
    """In any letter case, with or without signs between its words."""
    assert hints.is_example_password(password)
    found = hint(
        FATAL + "password authentication failed",
        entra=False,
        password_note=hints.password_note(password),
    )
    assert found.startswith("the password is a word of examples and templates: write the real one")


@pytest.mark.parametrize("password", ["", "correct horse", "changeme-7f3a", "x", "s3cr3t-9"])
def test_any_other_password_is_not(password: str) -> None:
    """The hint must not lead away from the real cause."""
    assert not hints.is_example_password(password)


@pytest.mark.parametrize(
    ("password", "note"), [("word ", "white space around it"), ("'word'", "quotes around it")]
)
def test_an_odd_password_is_told(password: str, note: str) -> None:
    """cmd.exe keeps the space before "&&", and docker the quotes in an env file."""
    found = hint(
        FATAL + "password authentication failed",
        entra=False,
        places={"password": "PGPASSWORD"},
        password_note=hints.password_note(password),
    )
    assert found.startswith(f"the password (from PGPASSWORD) has {note}")
    assert "word" not in found.partition("Otherwise")[0].replace("password", "")


@pytest.mark.parametrize("name", ['"shop"', "'shop'", "shop ", " shop"])
def test_an_odd_name_is_told(name: str) -> None:
    """With where it comes from, and the name to write."""
    message = FATAL + f'database "{name}" does not exist'
    found = hint(message, dbname=name, places={"dbname": "PGDATABASE"})
    assert "dbname (from PGDATABASE) has quotes or white space around it" in found
    assert "write PGDATABASE=shop." in found
    found = hint(FATAL + f'role "{name}" does not exist', user=name, entra=False)
    assert "write user='shop'" in found


def test_a_setting_of_a_variable_is_told_by_the_variable() -> None:
    """A driver on libpq sends PGGEQO as the setting geqo."""
    found = hint("FATAL: unsupported startup parameter: geqo", port="6432")
    assert found.startswith("PgBouncer does not take the variable PGGEQO: unset it")
