"""Write a hint from a pattern's template and from what is known of the attempt."""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from psycopg.pq import ConnStatus

from azpg._redact import redact
from azpg._spelling import spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

_PGBOUNCER_PORTS = ("6432", "8432")
_VIRTUAL_ENDPOINT = re.compile(r"[^.,]+\.(writer|reader)(\.postgres\.database\.[a-z.-]+)")
"""Source: MicrosoftDocs/azure-databases-docs, articles/postgresql/read-replica (2026-11-27)."""


class HintContext(NamedTuple):
    """What is known of the attempt that failed."""

    host: str = "the server"
    port: str = "5432"
    user: str = ""
    dbname: str = ""
    entra: bool = False
    """the password is a Microsoft Entra token"""
    scope: str = ""
    """the scope that the token was requested for"""
    assumed_scope_of: str = ""
    """the name of the cloud, if its scope is an assumption"""
    secret_length: int = 0
    """of the token or password, in bytes"""
    root_file: str = ""
    """the caller's own sslrootcert"""
    has_azure_root: bool | None = None
    """whether that file has any of the Azure root certificates; None if that is not known"""
    has_pinned_roots: bool = True
    """the roots are azpg's pinned ones, if the caller named no file"""
    server_address: str = ""
    """the IP address that was tried, if the message contains it"""
    reached: int | None = None
    """the `ConnStatus` of a connection that did not answer in time, if it is known"""
    client_address: str = ""
    """this machine's IP address as the server saw it, if the message contains it"""
    places: Mapping[str, str] | None = None
    """keyword -> the variable, file or string that its value comes from, empty for an argument;
    None if nothing is known of them"""
    password_note: str = ""
    """what is odd about the password, as `password_note` returns it"""
    password_is_callback: bool = False
    """the password, or the token, came from the caller's own function"""
    token_role: str = ""
    """the role that the token names"""
    token_kind: str = ""
    """what it belongs to: a "user", "managed identity" or "service principal"; empty if unknown"""
    token_object_id: str = ""
    settings: tuple[str, ...] = ()
    """the names of the settings in the caller's `options`"""
    lookup_host: str = ""
    """the host that is connected to under the name of `server`, such as the end of a tunnel"""
    hostaddr: str = ""
    """the address that is connected to under the name of `host`"""

    @property
    def address(self) -> str:
        """Return the host or address that was tried."""
        given = self.lookup_host or self.hostaddr
        if not given or ("," in given and not self.server_address):
            return self.host
        return self.server_address if "," in given else given

    @property
    def place(self) -> str:
        """Return the host or address that was tried, and the port."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @property
    def token_is_given(self) -> bool:
        """Whether azpg did not acquire the token: it was a password."""
        place = (self.places or {}).get("password")
        return self.entra and (self.password_is_callback or place is not None)


_EXAMPLE_PASSWORDS = frozenset(
    {
        *("admin", "changeit", "changeme", "changethis", "default", "dummy", "example", "foobar"),
        *("fixme", "mypassword", "mysecretpassword", "mysecretpw", "pass", "passw0rd", "passwd"),
        *("password", "password1", "password123", "placeholder", "postgres", "replaceme", "root"),
        *("secret", "secretpassword", "supersecret", "test", "todo", "topsecret", "yourpassword"),
        *("yoursecret", "yourstrongpassword"),
    }
)
"""Letters and digits of passwords in examples, compose files and templates."""


def is_example_password(password: str) -> bool:
    """Return whether a password is one of examples and templates, such as CHANGE_ME."""
    word = "".join(filter(str.isalnum, password.lower()))
    return word in _EXAMPLE_PASSWORDS or (len(password) > 2 and set(password.lower()) <= {"x", "*"})


def password_note(password: str) -> str:
    """Return what is odd about a password that a server has rejected, or an empty text."""
    if password != password.strip():
        return "has white space around it, as `set NAME=value && …` adds on Windows: leave it out"
    if _without_quotes(password) != password:
        return "has quotes around it, which an env file of docker keeps: leave them out"
    if is_example_password(password):
        return "is a word of examples and templates: write the real one"
    return ""


def _without_quotes(value: str) -> str:
    is_quoted = len(value) > 2 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value


def _hint_odd_value(context: HintContext, keyword: str, value: str) -> str:
    """Return what is odd about the name of a user or a database, or an empty text."""
    meant = _without_quotes(value.strip()).strip()
    if meant in ("", value):
        return ""
    place = (context.places or {}).get(keyword, "")
    write = f"{place}={meant}" if _is_variable(place) else f"⟦{keyword}={meant!r}⟧"
    return (
        f"the value of ⟦{keyword}⟧{_from(context, keyword)} has quotes or white space around it: "
        f"write {write}. Otherwise "
    )


def write_hint(template: str, context: HintContext, names: Mapping[str, str | None]) -> str:
    """Return a hint: the template of a pattern, filled in.

    Args:
        template: the pattern's `hint`.
        context: what is known of the attempt.
        names: `object_type`, `object_name` and `setting` from the message, if a pattern matched
            them.
    """
    context = context._replace(user=context.user or "…")
    privilege, or_more = _PRIVILEGES.get((names.get("object_type") or "").lower(), ("…", ""))
    values = {
        "host": context.host,
        "port": context.port,
        "address": context.address,
        "place": context.place,
        "user": repr(context.user),
        "role": _identifier(context.user),
        "database": _identifier(context.dbname or "…"),
        "odd_database": _hint_odd_value(context, "dbname", context.dbname),
        "client_address": context.client_address,
        "secret": "token" if context.entra else "password",
        "secret_length": context.secret_length,
        "object_type": names.get("object_type") or "…",
        "privilege": privilege,
        "or_more": or_more,
        "startup_parameter": _hint_startup_parameter(context, names.get("setting") or ""),
        "ulimit": "" if sys.platform == "win32" else ", or raise ulimit -n",
        "timedatectl": " (timedatectl)" if sys.platform == "linux" else "",
        "object_name": _identifier(names.get("object_name") or "…"),
        "expired": _hint_expired(context),
        "wrong_role": _hint_wrong_role(context),
        "no_role": _hint_no_role(context),
        "object_id": _hint_object_id(context),
        "audience": _hint_audience(context),
        "token": _hint_token(context),
        "login": _hint_login(context),
        "certificate_name": _hint_certificate_name(context),
        "roots": _hint_roots(context),
        "new_root": _hint_new_root(context),
        "port_closed": _hint_port_closed(context),
        "no_answer": _hint_no_answer(context),
        "own_machine": _hint_own_machine(context),
    }
    return spelled(redact(template.format_map(values)))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


_PRIVILEGES = {
    "table": ("SELECT", " (for a query that writes: INSERT, UPDATE or DELETE)"),
    "schema": ("USAGE", " (to create tables in it: CREATE)"),
    "sequence": ("USAGE", ""),
    "function": ("EXECUTE", ""),
    "database": ("CONNECT", " (to create schemas in it: CREATE)"),
}
"""The least that reads an object, and what more a query may need."""

_SETTINGS = frozenset(
    {
        "search_path",
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "extra_float_digits",
        "jit",
        "role",
        "timezone",
        "work_mem",
    }
)
"""Settings that clients send. A server could repeat a secret in the place of any other name."""


def _hint_startup_parameter(context: HintContext, named: str) -> str:
    direct = "go to the server itself with ⟦pgbouncer=False⟧"
    if named == "replication":
        return f"PgBouncer does not take ⟦replication=⟧: leave it out, or {direct}"
    if named == "geqo":
        return f"PgBouncer does not take the variable PGGEQO: unset it, or {direct}"
    known = [*context.settings, *_SETTINGS]
    if named in known:
        setting = named
    elif context.settings:
        setting = context.settings[0]
    else:
        setting = "<setting>"
    what = "this setting" if setting == "<setting>" else f"the setting {setting}"
    return (
        f"PgBouncer does not take {what} from a connection: leave it out of ⟦options=⟧ "
        f"and set it once for the role, ALTER ROLE {_identifier(context.user)} IN "
        f"DATABASE {_identifier(context.dbname or '…')} SET {setting} = …, or {direct}"
    )


def _leave_out(context: HintContext, keyword: str, variable: str = "") -> str:
    """Return the instruction not to give an option, with the place where it is given."""
    if context.places is None:
        return f"leave out ⟦{keyword}=⟧" + (f" (or unset {variable})" if variable else "")
    place = context.places.get(keyword)
    if not place:
        return f"leave out ⟦{keyword}=⟧"
    remedy = f": unset {place}" if _is_variable(place) else ""
    return f"leave out ⟦{keyword}=⟧ (here from {_with_article(place)}{remedy})"


def _from(context: HintContext, keyword: str) -> str:
    """Return where a value comes from, in parentheses, if it is not an argument."""
    place = (context.places or {}).get(keyword)
    return f" (from {_with_article(place)})" if place else ""


def _with_article(place: str) -> str:
    return f"the {place}" if place == "connection string" else place


def _is_variable(place: str) -> bool:
    return place.replace("_", "").isalnum() and place.isupper()


def _principal_type(context: HintContext) -> str:
    return "user" if context.token_kind == "user" else "service"


def _hint_given_token(context: HintContext) -> str:
    """Return what to do about a token that azpg did not acquire; empty for azpg's own."""
    if not context.token_is_given:
        return ""
    if context.password_is_callback:
        return (
            "the token came from the password callback: leave out ⟦password=⟧, because azpg "
            "acquires tokens itself, or return a new token at each call"
        )
    place = (context.places or {})["password"]
    if not place:
        return "the token came from ⟦password=⟧: leave it out, because azpg acquires tokens itself"
    remedy = f"unset {place}" if _is_variable(place) else "leave it out there"
    came_from = f"the password came from {_with_article(place)}"
    return f"{came_from}: {remedy}, because azpg acquires tokens itself"


def _hint_expired(context: HintContext) -> str:
    if given := _hint_given_token(context):
        return f"the token has expired, and {given}"
    if context.places is not None:
        return (
            "set this machine's clock, because azpg had just acquired the token; or the credential "
            "returns old tokens"
        )
    return (
        "acquire a new token for each connection, as azpg.connect and azpg.create_pool do: a token "
        "is valid for about an hour, and the server checks it when a connection is made. If it was "
        "new, set this machine's clock"
    )


def _hint_audience(context: HintContext) -> str:
    if given := _hint_given_token(context):
        return given
    requested = ""
    if context.scope:
        requested = f"the token was requested for {context.scope.removesuffix('/.default')}"
    if context.assumed_scope_of:
        return (
            f"{requested}, which is an assumption: Azure does not publish the resource for the "
            f"cloud {context.assumed_scope_of!r}. Take it from the server's message or from the "
            f"portal (Connect), and pass ⟦cloud=azpg.Cloud(…, scope='<resource>/.default', …)⟧"
        )
    return (
        f"{requested}{'; ' if requested else ''}name the cloud of the server: "
        '⟦cloud="usgov"⟧, "china", "bleu", or "cosmos" for Azure Cosmos DB for PostgreSQL. If you '
        "acquire the token yourself, request it for the resource in the server's message"
    )


def _hint_token(context: HintContext) -> str:
    if given := _hint_given_token(context):
        return (
            f"the server cannot read the token, and {given}. If you must pass one, pass all of it, "
            "exactly as it was printed, without quotes"
        )
    if context.entra:
        return (
            "the server cannot read the token: pass it exactly as the credential returned it, and "
            "acquire it in the server's tenant (az login --tenant …, or AZURE_TENANT_ID)"
        )
    return (
        f"role {context.user!r} is an Entra role, which needs a token: "
        f"{_leave_out(context, 'password', 'PGPASSWORD')}, and azpg acquires one"
    )


def _hint_login(context: HintContext) -> str:
    server = context.host.partition(".")[0]
    # Single Server took user@server
    name = context.user.removesuffix(f"@{server}")
    has_server_suffix = name != context.user
    suffix_hint = f"Flexible Server does not use @{server}: ⟦user={name!r}⟧"
    if context.entra:
        hint = _hint_no_role_for_token(context)
        if has_server_suffix:
            hint = f"{suffix_hint}. Otherwise {hint}"
    else:
        user, password = _from(context, "user"), _from(context, "password")
        odd = _hint_odd_value(context, "user", context.user)
        if context.password_note:
            odd += f"the password{password} {context.password_note}. Otherwise "
        hint = (
            f"{odd}check ⟦user={context.user!r}⟧{user} and its password{password}; an Entra "
            f"role has no password: {_leave_out(context, 'password', 'PGPASSWORD')}, and azpg "
            f"acquires a token"
        )
        if has_server_suffix:
            hint = f"{hint}; {suffix_hint}"
    return hint


def hint_token_owner(context: HintContext) -> str:
    """Return whose the token is, if it is not that of the user, and how to use its name."""
    if context.token_role and context.token_role != context.user:
        kind = f" (a {context.token_kind})" if context.token_kind else ""
        case = ""
        if context.token_role.casefold() == context.user.casefold():
            case = ", and role names are case-sensitive"
        return (
            f"the token is for {context.token_role!r}{kind}{case}: {_leave_out(context, 'user')}. "
        )
    if _GUID.fullmatch(context.user):
        return (
            f"⟦user={context.user!r}⟧{_from(context, 'user')} is an id, but a role has a name: "
            'pass ⟦user="<the display name of the identity>"⟧. '
        )
    return ""


_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

_GROUP = (
    "a member of a group connects as ⟦user=\"<the group's role>\"⟧ (a managed identity's new "
    "membership may take 24 h to have an effect)"
)


def _hint_wrong_role(context: HintContext) -> str:
    user = repr(context.user)
    if not (hint := hint_token_owner(context)):
        hint = (
            f"role {user} belongs to another identity than the token. Leave out ⟦user=⟧ to use the "
            "name in the token (names are case-sensitive). "
        )
        if context.token_role:
            hint = (
                f"role {user} belongs to another identity than the token, or to one of another "
                "kind. "
            )
    return (
        f"{hint}If {user} is a group: {_GROUP}. If it is the role you want, choose its identity "
        "with ⟦credential=⟧ or ⟦client_id=⟧"
    )


def _hint_no_role_for_token(context: HintContext) -> str:
    role = _literal(context.user)
    is_same = context.token_role == context.user
    object_id = context.token_object_id if is_same else ""
    hint = hint_token_owner(context) or (
        f"the server has no Entra role with exactly the name {role}, or Entra authentication is "
        "off (portal: Authentication). "
    )
    kind = _principal_type(context) if object_id else "service"
    create = _CREATE_ROLE.format(
        role=role,
        kinds="" if object_id else ", with 'user' or 'group' for those",
        object_id=object_id or "<object id>",
        kind=kind,
    )
    return f"{hint}If only a group has a role here, {_GROUP}. {create}"


_CREATE_ROLE = (
    "If role {role} is missing, an Entra administrator creates it, in database postgres: SELECT * "
    "FROM pgaadauth_create_principal({role}, false, false); or by the identity's object id{kinds}: "
    "SELECT * FROM pgaadauth_create_principal_with_oid({role}, '{object_id}', '{kind}', false, "
    "false)"
)


def _hint_object_id(context: HintContext) -> str:
    hint = hint_token_owner(context)
    role = f"role {context.user!r} is bound to another identity"
    hint += f"Otherwise {role}" if hint else role
    return (
        f"{hint}, often one of the same name that was deleted. Bind it to the new one, in database "
        'postgres as an Entra administrator: SECURITY LABEL FOR "pgaadauth" ON ROLE '
        f"{_identifier(context.user)} IS {_security_label(context)}; or choose the right identity "
        "with ⟦client_id=⟧"
    )


def _security_label(context: HintContext) -> str:
    """Return the security label of the token's identity."""
    kind = _principal_type(context)
    label = f"'aadauth,oid={context.token_object_id or '<object id>'},type={kind}'"
    if context.token_object_id:
        return label
    return f"{label}, with the id of az ad sp show --id <client id> --query id"


def _hint_no_role(context: HintContext) -> str:
    if context.entra:
        return _hint_no_role_for_token(context)
    return (
        f"{_hint_odd_value(context, 'user', context.user)}"
        f"correct ⟦user={context.user!r}⟧{_from(context, 'user')} (names are case-sensitive), or "
        f"create the role: CREATE ROLE {_identifier(context.user)} LOGIN"
    )


def _hint_certificate_name(context: HintContext) -> str:
    if endpoint := _VIRTUAL_ENDPOINT.search(context.host):
        kind, suffix = endpoint.groups()
        attrs = "read-write" if kind == "writer" else "prefer-standby"
        return (
            f"the server's certificate does not have the name of the virtual endpoint: give the "
            f'list of servers instead, ⟦host="<server>{suffix},<replica>{suffix}", '
            f'target_session_attrs="{attrs}"⟧, which follows a promotion too'
        )
    return (
        f'pass ⟦server="myserver", host="{context.host}"⟧ (or ⟦hostaddr=⟧): server is the name '
        "that the certificate is verified against, host the address to connect to"
    )


def _hint_roots(context: HintContext) -> str:
    if context.root_file == "system":
        return (
            "leave out ⟦sslrootcert=system⟧ to use the pinned roots: it finds the system's roots "
            "only if SSL_CERT_FILE names them. "
        )
    if not context.root_file:
        return ""
    problem = "may be out of date"
    if context.has_azure_root is False:
        problem = "has no Azure root"
    source = "sslrootcert or PGSSLROOTCERT"
    if context.places is not None:
        source = context.places.get("sslrootcert") or "⟦sslrootcert=⟧"
    remedy = f"unset {source}" if _is_variable(source) else "leave it out"
    return (
        f"The root certificates are those of {context.root_file} ({source}), which {problem}: "
        f"{remedy} to use the pinned roots. "
    )


def _hint_new_root(context: HintContext) -> str:
    if context.root_file or not context.has_pinned_roots:
        return ""
    return (
        "If Azure has a new root, upgrade azpg, or until then set PGSSLROOTCERT=$(python -m "
        "certifi). "
    )


def _hint_port_closed(context: HintContext) -> str:
    if context.lookup_host:
        return (
            f"{context.place}, the address for {context.host}, refused the connection: check that "
            "the tunnel (or proxy) is running, or correct ⟦host=⟧ and ⟦port=⟧"
        )
    if context.hostaddr:
        given = _from(context, "hostaddr") or " (⟦hostaddr=⟧)"
        return (
            f"{context.place}{given}, the address for {context.host}, refused the connection: "
            f"correct it, or {_leave_out(context, 'hostaddr')} to connect to {context.host} itself"
        )
    return f"nothing listens on port {context.port}{_hint_azure_port_closed(context)}"


def _hint_azure_port_closed(context: HintContext) -> str:
    if context.port in _PGBOUNCER_PORTS:
        return (
            ": enable PgBouncer (server parameter pgbouncer.enabled; not in the Burstable tier), "
            "or pass ⟦pgbouncer=False⟧"
        )
    return f" of {context.host}: start the server (portal: Overview), or correct ⟦port=⟧"


def _hint_no_answer(context: HintContext) -> str:
    pooled = context.port in _PGBOUNCER_PORTS
    if context.reached in _TCP_STATUSES:
        return (
            "the TCP connection was made, so no firewall blocks it, but TLS was not answered: the "
            "server is overloaded or restarting, or something else listens there"
        )
    if context.reached == ConnStatus.AWAITING_RESPONSE:
        hint = "TLS was set up, so the address is right, but the login was not answered: "
        return hint + (_PGBOUNCER_WAITS if pooled else "the server is overloaded or restarting")
    if context.reached in _LOGIN_STATUSES:
        hint = "the server accepted the login, but started no session: "
        return hint + (_PGBOUNCER_WAITS if pooled else "it is overloaded or restarting")
    if context.lookup_host:
        return (
            f"that is the address for {context.host}: check that the tunnel (or proxy) there is "
            "running and forwards to it, or correct ⟦host=⟧ and ⟦port=⟧"
        )
    if is_address(context.server_address) and _is_private(context.server_address):
        hint = (
            f"{context.server_address} is a private address, which can be reached only from its "
            "virtual network: check VPN, peering and private endpoint"
        )
    else:
        hint = (
            "add a firewall rule for this machine's address (portal: Networking), and allow "
            f"outbound connections to port {context.port} here. A server with private access can "
            "be reached only from its virtual network, by a name that its private DNS zone "
            "resolves"
        )
    if pooled and context.reached is None:
        hint += f". Or {_PGBOUNCER_WAITS}"
    return hint


_TCP_STATUSES = (ConnStatus.MADE, ConnStatus.SSL_STARTUP)
_LOGIN_STATUSES = (
    ConnStatus.AUTH_OK,
    ConnStatus.SETENV,
    ConnStatus.CHECK_WRITABLE,
    ConnStatus.CONSUME,
    ConnStatus.CHECK_TARGET,
    ConnStatus.CHECK_STANDBY,
)
_PGBOUNCER_WAITS = (
    "PgBouncer waits for the server behind it, as for a ⟦dbname=⟧ that does not exist: "
    "⟦pgbouncer=False⟧ tells"
)


def _hint_own_machine(context: HintContext) -> str:
    if context.entra:
        return ""
    return "For a server on your own machine only: ⟦sslmode=disable⟧"


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_private(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip.is_private and not ip.is_loopback
