"""Azure's SQL functions for the roles of Microsoft Entra identities, and who can then sign in."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psycopg
import pytest

from azpg.emulator import Emulator, EmulatorError, Principal

Connect = Callable[..., psycopg.Connection[Any]]
Errors = Callable[..., str]

WRONG_ROLE = "cannot generate AAD_AUTH_TOKENTYPE_APP_USER"


@pytest.fixture(scope="module")
def emulator(emulator_of_each_installation: Emulator) -> Emulator:
    """Run these tests with each PostgreSQL of this machine in turn."""
    return emulator_of_each_installation


@pytest.fixture
def session(connect: Connect) -> Iterator[psycopg.Connection[Any]]:
    """Connect as myapp, a Microsoft Entra administrator."""
    with connect(autocommit=True) as session:
        yield session


@pytest.fixture
def name() -> str:
    """Return a name that no role has yet."""
    return f"app-{secrets.token_hex(4)}"


def call(session: psycopg.Connection[Any], function: str, *arguments: Any) -> Any:
    """Call a function as Azure's pages do and return its one value."""
    markers = ", ".join(["%s"] * len(arguments))
    row = session.execute(f"select * from {function}({markers})".encode(), arguments).fetchone()
    assert row is not None
    return row[0]


def principals(session: psycopg.Connection[Any], *, admins: bool) -> dict[str, tuple[Any, ...]]:
    """Return the listed principals by name."""
    rows = session.execute("select * from pgaadauth_list_principals(%s)", [admins]).fetchall()
    return {name: tuple(rest) for name, *rest in rows}


def test_a_created_principal_signs_in(
    emulator: Emulator,
    connect: Connect,
    get_connect_error: Errors,
    session: psycopg.Connection[Any],
    name: str,
    port: int,
) -> None:
    """The role exists when the function has returned, and accepts its identity's tokens only."""
    app = emulator.add_identity(name, kind="user-assigned")
    assert get_connect_error(name, emulator.token(app), port=port)
    assert call(session, "pgaadauth_create_principal", name, False, False) == (
        f'Created role for "{name}"'
    )
    with connect(name, emulator.token(app), port=port) as connection:
        row = connection.execute(
            "select session_user, rolcreaterole from pg_roles where rolname=%s", [name]
        )
        assert row.fetchone() == (name, False)
    assert WRONG_ROLE in get_connect_error(name, emulator.token(), port=port)
    assert principals(session, admins=False)[name][:2] == ("service", app.object_id)
    assert name not in principals(session, admins=True)


def test_an_object_id_takes_a_role_of_another_name(
    emulator: Emulator, connect: Connect, session: psycopg.Connection[Any], name: str
) -> None:
    """With the object ID the role can have a name of its own."""
    alice = emulator.add_identity(f"{name}@contoso.com")
    function = "pgaadauth_create_principal_with_oid"
    with pytest.raises(psycopg.errors.InternalError_, match="actual object type: 'user'"):
        call(session, function, name, alice.object_id, "service", False, False)
    call(session, function, name, alice.object_id.upper(), "user", True, True)
    with connect(name, emulator.token(alice), autocommit=True) as connection:
        assert call(connection, "pgaadauth_list_principals", True)
    assert principals(session, admins=True)[name][-2:] == (1, 1)
    for wrong in ("application", ""):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="object type"):
            call(session, function, f"{name}-2", str(uuid.uuid4()), wrong, False, False)


def test_a_member_signs_in_as_its_group(
    emulator: Emulator, connect: Connect, get_connect_error: Errors, name: str
) -> None:
    """A group's role accepts the tokens of the group's members."""
    alice, bob = (emulator.add_identity(f"{each}@{name}.com") for each in ("alice", "bob"))
    emulator.add_identity(name, kind="group", members=[alice])
    with connect(autocommit=True) as session:
        call(session, "pgaadauth_create_principal", name, False, False)
    with connect(name, emulator.token(alice)):
        pass
    assert "AAD_AUTH_TOKENTYPE" in get_connect_error(name, emulator.token(bob))


def test_a_second_factor_can_be_required(
    emulator: Emulator, get_connect_error: Errors, session: psycopg.Connection[Any], name: str
) -> None:
    """A role with isMfa rejects a token without that claim, such as a managed identity's."""
    app = emulator.add_identity(name, kind="user-assigned")
    call(session, "pgaadauth_create_principal", name, False, True)
    assert "validating the access token" in get_connect_error(name, emulator.token(app))


def test_an_unknown_name_becomes_an_identity(
    emulator: Emulator, connect: Connect, session: psycopg.Connection[Any], name: str
) -> None:
    """An unknown name gets an identity, whose tokens the endpoint issues, and a warning."""
    warnings: list[str] = []
    session.add_notice_handler(lambda notice: warnings.append(str(notice.message_hint)))
    call(session, "pgaadauth_create_principal", name, False, False)
    assert any("Azure refuses" in warning for warning in warnings)
    query = urlencode(
        {
            "api-version": "2019-08-01",
            "resource": "https://ossrdbms-aad.database.windows.net",
            "object_id": principals(session, admins=False)[name][1],
        }
    )
    request = Request(
        f"{emulator.env['IDENTITY_ENDPOINT']}?{query}",
        headers={"X-IDENTITY-HEADER": emulator.env["IDENTITY_HEADER"]},
    )
    with urlopen(request) as response:
        token = json.load(response)["access_token"]
    with connect(name, token):
        pass


def test_only_an_entra_administrator_manages_principals(
    emulator: Emulator, connect: Connect, session: psycopg.Connection[Any], name: str
) -> None:
    """A password administrator and an ordinary Entra role can call none of the functions."""
    emulator.add_role(f"{name}-native", password="secret")
    app = emulator.add_identity(name, kind="user-assigned")
    call(session, "pgaadauth_create_principal", name, False, False)
    calls = {
        "pgaadauth_create_principal": ("x", False, False),
        "pgaadauth_create_principal_with_oid": ("x", str(uuid.uuid4()), "user", True, False),
        "pgaadauth_list_principals": (False,),
        "pgaadauth_check_administrator": (),
    }
    for role, password in ((f"{name}-native", "secret"), (name, emulator.token(app))):
        with connect(role, password, autocommit=True) as connection:
            for function, arguments in calls.items():
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    call(connection, function, *arguments)


def test_the_functions_are_in_one_database(
    connect: Connect, session: psycopg.Connection[Any]
) -> None:
    """As at Azure, the functions exist in the database `postgres` only."""
    database = f"db_{secrets.token_hex(4)}"
    session.execute(f"create database {database}".encode())
    with (
        connect(dbname=database) as connection,
        pytest.raises(psycopg.errors.UndefinedFunction),
    ):
        call(connection, "pgaadauth_list_principals", False)


def test_a_rolled_back_principal_does_not_exist(
    emulator: Emulator, connect: Connect, get_connect_error: Errors, name: str
) -> None:
    """A role is created with its transaction, and an existing role is a duplicate object."""
    app = emulator.add_identity(name, kind="user-assigned")
    with connect() as connection:
        call(connection, "pgaadauth_create_principal", name, False, False)
        connection.rollback()
        assert get_connect_error(name, emulator.token(app))
        call(connection, "pgaadauth_create_principal", name, False, False)
        with pytest.raises(psycopg.errors.DuplicateObject):
            call(connection, "pgaadauth_create_principal", name, False, False)


def test_a_dropped_role_accepts_no_token(
    emulator: Emulator,
    get_connect_error: Errors,
    connect: Connect,
    session: psycopg.Connection[Any],
    name: str,
    port: int,
) -> None:
    """After DROP ROLE nothing lets anyone in, not even as a password role of that name."""
    app = emulator.add_identity(name, kind="user-assigned")
    call(session, "pgaadauth_create_principal", name, False, False)
    with connect(name, emulator.token(app), port=port):
        pass
    session.execute(f'drop role "{name}"'.encode())
    assert get_connect_error(name, emulator.token(app), port=port)
    session.execute(f"create role \"{name}\" login password 'secret'".encode())
    for password in ("wrong", emulator.token(app)):
        assert get_connect_error(name, password, port=port)
    with connect(name, "secret"):
        pass


def test_a_role_can_be_recreated_for_another_identity(
    emulator: Emulator, connect: Connect, get_connect_error: Errors, name: str
) -> None:
    """After DROP ROLE the same name can belong to another identity; so with add_role's roles."""
    first = emulator.add_identity(name, kind="user-assigned")
    second = emulator.add_identity(f"{name}-2", kind="user-assigned")
    function = "pgaadauth_create_principal_with_oid"
    with connect(autocommit=True) as session:
        for identity, other in ((first, second), (second, first)):
            call(session, function, name, identity.object_id, "service", False, False)
            with connect(name, emulator.token(identity)):
                pass
            assert WRONG_ROLE in get_connect_error(name, emulator.token(other))
            session.execute(f'drop role "{name}"'.encode())


@pytest.mark.parametrize("renamed", ["/.*", "/myapp|native"])
def test_a_role_that_is_renamed_to_a_pattern_lets_nobody_in(
    emulator: Emulator,
    connect: Connect,
    get_connect_error: Errors,
    session: psycopg.Connection[Any],
    name: str,
    port: int,
    renamed: str,
) -> None:
    """A role whose new name is a pattern in pg_hba.conf accepts no token and trusts no role."""
    app = emulator.add_identity(name, kind="user-assigned")
    call(session, "pgaadauth_create_principal", name, False, False)
    emulator.add_role(f"native-{name}", password="secret")
    session.execute(f'alter role "{name}" rename to "{renamed}"'.encode())
    try:
        assert get_connect_error(renamed, emulator.token(app), port=port)
        assert get_connect_error(f"native-{name}", "wrong", port=port)
        with connect(f"native-{name}", "secret", port=port):
            pass
    finally:
        session.execute(f'drop role "{renamed}"'.encode())


def test_roles_outlive_restarts_and_failovers(
    emulator: Emulator, connect: Connect, name: str
) -> None:
    """A role that SQL has created exists on the standby and after each restart."""
    app = emulator.add_identity(name, kind="user-assigned")
    with connect(autocommit=True) as session:
        call(session, "pgaadauth_create_principal", name, False, False)
    events: tuple[Callable[[], None], ...] = (
        lambda: emulator.restart_postgres("kill-backend"),
        emulator.restart_pgbouncer,
        lambda: emulator.fail_over(refused=0, starting=0),
    )
    for event in events:
        event()
        for port in (emulator.port, emulator.pgbouncer_port):
            with connect(name, emulator.token(app), port=port):
                pass


def test_a_native_role_has_no_identity(emulator: Emulator) -> None:
    """An identity is not native, and a token needs an identity that has tokens."""
    with pytest.raises(EmulatorError, match="add_role"):
        emulator.add_identity("x", kind="native")
    assert isinstance(emulator.add_identity(f"x-{uuid.uuid4()}"), Principal)
