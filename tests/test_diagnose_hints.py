"""What to type next, and words that are fit to print."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg._diagnosis import classify, hints
from azpg._diagnosis.patterns import STATES, TABLE, Row

HOST = "myserver.postgres.database.azure.com"
FATAL = 'connection failed: connection to server at "192.0.2.1", port 5432 failed: FATAL:  '
CONTEXT = hints.Context(
    host=HOST,
    port="5432",
    user="alice",
    dbname="shop",
    entra=True,
    scope=azpg.AZURE_PUBLIC.scope,
    secret_length=5000,
)


def hint(text: str, **changes: Any) -> str:
    """Return the hint for a text."""
    return classify.diagnose(text, CONTEXT.replace(**changes)).hint


def test_an_unknown_role_is_told_how_to_make_it() -> None:
    """The statements for its administrator, by name and by object id, the name quoted as SQL."""
    told = hint(FATAL + "password authentication failed", user="o'brien@x")
    assert "pgaadauth_create_principal('o''brien@x', false, false)" in told
    assert "pgaadauth_create_principal_with_oid('o''brien@x', '<object id>', 'service'" in told


def test_a_wrong_password_is_told_of_tokens() -> None:
    """It may be that of a Microsoft Entra role, which has none."""
    told = hint(FATAL + "password authentication failed", entra=False)
    assert told.startswith("check user='alice' and its password")
    assert "leave out password=" in told


def test_single_servers_user_is_told_apart() -> None:
    """user@server is what Single Server took, and Flexible Server does not."""
    text = FATAL + "password authentication failed"
    told = "Flexible Server takes no @myserver: user='alice'"
    assert told in hint(text, entra=False, user="alice@myserver").partition(";")[2]
    assert hint(text, user="alice@myserver").startswith(told)
    for entra in (False, True):
        assert "takes no @" not in hint(text, entra=entra, user="alice@contoso.com")


def test_a_password_for_an_entra_role_is_told_so() -> None:
    """The server that finds no token there says only that its format is wrong."""
    text = FATAL + "The access token has invalid format."
    assert "leave out password=" in hint(text, entra=False)
    assert "az login --tenant" in hint(text)


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("oid mismatch for role", """ON ROLE "o""b" IS 'aadauth,oid=<object id>,type=service'"""),
        ('role "x" is not permitted to log in', 'ALTER ROLE "o""b" LOGIN'),
        (
            'permission denied for database "x"\nDETAIL: User does not have CONNECT privilege.',
            'GRANT CONNECT ON DATABASE "sh""op" TO "o""b"',
        ),
        ('database "x" does not exist', 'CREATE DATABASE "sh""op"'),
        (
            "unsupported startup parameter: options",
            'ALTER ROLE "o""b" IN DATABASE "sh""op" SET search_path',
        ),
        ('too many connections for role "x"', 'ALTER ROLE "o""b" (or DATABASE "sh""op")'),
    ],
)
def test_names_in_statements_are_quoted(text: str, statement: str) -> None:
    """As SQL wants it, whatever is in them."""
    assert statement in hint(FATAL + text, user='o"b', dbname='sh"op')


def test_a_querys_error_tells_what_to_grant() -> None:
    """The relation that the server named; at a connect nothing that a server says is repeated."""
    text = "permission denied for table my orders\nLINE 1: select"
    told = classify.diagnose(text, CONTEXT, state="42501").hint
    assert 'GRANT ALL ON table "my orders" TO "alice"' in told
    assert "orders" not in hint(text)


def test_a_refused_pgbouncer_is_told_how_to_turn_on() -> None:
    """PgBouncer's ports say which parameter, and in which tier; any other port names the server."""
    for port in ("6432", "8432"):
        told = hint("Connection refused", port=port)
        assert "pgbouncer.enabled" in told
        assert "Burstable" in told
    assert hint("Connection refused").startswith(f"nothing listens on port 5432 of {HOST}")


def test_a_wrong_audience_tells_the_scope() -> None:
    """What was asked for, as the server would name it, where it is known."""
    told = hint(FATAL + "no valid audience claim")
    assert "https://ossrdbms-aad.database.windows.net;" in told
    assert "cloud=" in told
    assert hint("valid audience claim", scope="").startswith("name the cloud")


def test_a_long_token_is_told_by_its_bytes() -> None:
    """And by the way round PgBouncer."""
    told = hint(FATAL + "client sent partial pkt in startup phase")
    assert "5000 bytes" in told
    assert "pgbouncer=False" in told


@pytest.mark.parametrize("text", ["password authentication failed", "server closed the connection"])
def test_a_long_token_under_pgbouncer_is_suspected(text: str) -> None:
    """Where PgBouncer's own words do not blame its length, but it may be cut off."""
    assert "5000 bytes" in hint(FATAL + text, port="6432")
    assert "bytes" not in hint(FATAL + text, port="6432", secret_length=2047)
    assert "bytes" not in hint(FATAL + text, port="5432")


def test_a_firewall_rule_is_for_the_address_that_the_server_saw() -> None:
    """Which a NAT hides from this machine; what is no address is not repeated."""
    text = 'no pg_hba.conf entry for host "{}", user "u", database "d", SSL encryption'
    assert "does not let 203.0.113.7 in" in hint(FATAL + text.format("203.0.113.7"))
    assert "does not let this machine's address in" in hint(FATAL + text.format("dead.beef"))


def test_no_answer_is_told_by_the_kind_of_address() -> None:
    """A private one needs the network, a public one the firewall; PgBouncer may wait itself."""
    at = 'connection to server at "{}", port 5432 failed: timeout expired'
    private, public = hint(at.format("10.0.0.4")), hint(at.format("20.50.1.2"))
    assert "10.0.0.4 is a private address" in private
    assert "firewall" not in private
    assert "this machine's address (portal: Networking)" in public
    assert "pgbouncer=False" in hint(at.format("10.0.0.4"), port="6432")
    assert "pgbouncer=False" not in public


def test_a_hint_is_about_the_attempt_that_tells() -> None:
    """Of several hosts the one that failed so, by its own port; none that was not tried."""
    text = (
        "connection timeout expired\nMultiple connection attempts failed. All failures were:\n"
        "- host: 'b', port: '6432', hostaddr: '192.0.2.2': Connection refused\n"
        "- host: 'a', port: '5432', hostaddr: '192.0.2.1': Network is unreachable\n"
    )
    assert "pgbouncer.enabled" in hint(text, host="a,b", port="5432,6432")
    assert "evil" not in hint(text.replace("'b'", "'evil'"), host="a,b", port="5432,6432")


@pytest.mark.parametrize("text", ["SSL error: certificate verify failed", "does not support SSL"])
def test_tls_may_be_left_out_on_ones_own_machine_only(text: str) -> None:
    """The way out is told for a password, never for a token."""
    assert "sslmode=disable" in hint(text, entra=False)
    assert "sslmode=disable" not in hint(text)


def test_an_unknown_root_tells_of_certifi() -> None:
    """A new root of Azure's needs no release of azpg."""
    assert "PGSSLROOTCERT=$(python -m certifi)" in hint("unable to get local issuer certificate")


def test_an_unknown_root_names_the_file_of_the_caller() -> None:
    """A file of roots that was set long ago may lack today's; the system's may not be found."""
    told = hint("certificate verify failed", root_file="/etc/BaltimoreCyberTrustRoot.crt")
    assert "/etc/BaltimoreCyberTrustRoot.crt (sslrootcert or PGSSLROOTCERT)" in told
    assert "SSL_CERT_FILE" in hint("certificate verify failed", root_file="system")


@given(name=st.sampled_from(["timeout expired", "access token has expired", "x"]), row=st.data())
def test_quoted_names_decide_nothing(name: str, row: st.DataObject) -> None:
    """A role or database may be called like a failure."""
    kind, text = row.draw(
        st.sampled_from(
            [
                ("login", 'password authentication failed for user "{}"'),
                ("no-database", 'database "{}" does not exist'),
                ("certificate-name", 'certificate for "{}" does not match host name "{}"'),
                ("too-many-connections", 'too many connections for role "{}"'),
            ]
        )
    )
    assert classify.diagnose(FATAL + text.format(name, name), CONTEXT).kind == kind


@given(row=st.sampled_from(TABLE), user=st.text(), dbname=st.text())
def test_a_hint_holds_no_control_character(row: Row, user: str, dbname: str) -> None:
    """Whatever the names are."""
    told = hints.write_hint(row.hint, CONTEXT.replace(user=user, dbname=dbname), {})
    assert all(c.isprintable() or c == "\n" for c in told)


# SQLSTATE


@pytest.mark.parametrize(("state", "kind"), [item for item in STATES.items() if item[1]])
def test_a_sqlstate_tells_what_a_foreign_text_does_not(state: str, kind: str) -> None:
    """A server may speak another language."""
    found = classify.diagnose("das geht nicht", CONTEXT, state=state)
    assert found.kind == kind
    assert found.hint


@pytest.mark.parametrize("state", ["08P01", "28000"])
def test_a_wide_sqlstate_leaves_it_to_the_text(state: str) -> None:
    """PgBouncer says everything under 08P01, Microsoft Entra much under 28000."""
    assert classify.diagnose("das geht nicht", CONTEXT, state=state).kind == "unknown"
    assert classify.diagnose("query_wait_timeout", CONTEXT, state=state).transient


def test_a_sqlstate_of_the_programs_own_is_left_alone() -> None:
    """A query's error may quote anything."""
    text = 'duplicate key: ("connection refused", timeout expired)'
    assert classify.diagnose(text, CONTEXT, state="23505") == classify.UNKNOWN
