"""The roles of Microsoft Entra identities in PostgreSQL, and Azure's SQL functions for them.

As at Azure, a security label of a role contains its identity. Labels are in a catalog that all
databases share, belong to transactions, and go with the role.
"""

from pathlib import Path

from azpg.emulator._entra_role import EntraRole
from azpg.emulator._errors import ServerError
from azpg.emulator._protocol import Streams

from .admin_session import Login, fetch, open_session, quote_literal

_LABELS_QUERY = """
SELECT roles.rolname, labels.label FROM pg_catalog.pg_shseclabel AS labels
JOIN pg_catalog.pg_authid AS roles ON roles.oid = labels.objoid
WHERE labels.provider = 'pgaadauth' ORDER BY roles.rolname
"""

# PostgreSQL has the command SECURITY LABEL only for providers that are loaded libraries.
_INSERT_LABEL = """
SET allow_system_table_mods = on;
INSERT INTO pg_catalog.pg_shseclabel (objoid, classoid, provider, label)
SELECT roles.oid, 'pg_catalog.pg_authid'::pg_catalog.regclass, 'pgaadauth', {label}
FROM pg_catalog.pg_authid AS roles WHERE roles.rolname = {name};
"""

_INSERT_IDENTITY = """
INSERT INTO pg_catalog.pgaadauth_directory VALUES (pg_catalog.lower({}), {}, {})
ON CONFLICT (object_id) DO UPDATE SET name = excluded.name, type = excluded.type
"""

# Sources: the functions, their arguments and results are documented in MicrosoftDocs/
# azure-databases-docs, articles/postgresql/security/security-manage-entra-users.md (October 2025;
# the column is called `rolname` in its earlier versions and in deployed scripts). The message
# about the object type is from MicrosoftDocs/azure-docs#102814, that about a name which is not in
# the tenant from its pull request 117206. The refusal of other callers is an assumption.
_FUNCTIONS = """
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pgaadauth_directory (
    object_id text PRIMARY KEY, name text NOT NULL, type text NOT NULL
);

CREATE FUNCTION pg_catalog.pgaadauth_check_administrator() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM pg_shseclabel AS labels JOIN pg_authid AS roles ON roles.oid = labels.objoid
    WHERE labels.provider = 'pgaadauth' AND roles.rolname = session_user
        AND 'admin' = ANY (string_to_array(labels.label, ','));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Only a Microsoft Entra administrator can manage Microsoft Entra roles'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

CREATE FUNCTION pg_catalog.pgaadauth_create_principal_with_oid(
    rolename text, objectid text, objecttype text, isadmin boolean, ismfa boolean
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER STRICT
SET search_path = pg_catalog, pg_temp SET allow_system_table_mods = on AS $$
DECLARE
    oid_text text := lower(objectid::uuid::text);
    actual_type text;
    admin_option text := 'WITH ADMIN OPTION';
BEGIN
    PERFORM pgaadauth_check_administrator();
    IF objecttype NOT IN ('user', 'group', 'service') THEN
        RAISE EXCEPTION 'incorrect object type provided for principal: %', objecttype
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is user, group or service.';
    END IF;
    SELECT entries.type INTO actual_type FROM pgaadauth_directory AS entries
    WHERE entries.object_id = oid_text;
    IF actual_type <> objecttype THEN
        RAISE EXCEPTION 'incorrect object type provided for principal, given object type: ''%'', '
            'actual object type: ''%''', objecttype, actual_type USING ERRCODE = 'internal_error';
    END IF;
    IF isadmin THEN
        EXECUTE format('CREATE ROLE %I LOGIN CREATEDB CREATEROLE IN ROLE azure_pg_admin', rolename);
    ELSE
        EXECUTE format('CREATE ROLE %I LOGIN', rolename);
    END IF;
    -- Its creator can alter and drop it, as with CREATE ROLE. Before 16 CREATEROLE is enough.
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE format(
            'GRANT %I TO %I WITH ADMIN TRUE, INHERIT FALSE, SET FALSE', rolename, session_user
        );
    END IF;
    INSERT INTO pg_shseclabel (objoid, classoid, provider, label)
    SELECT roles.oid, 'pg_authid'::regclass, 'pgaadauth',
        'aadauth,oid=' || oid_text || ',type=' || objecttype
        || CASE WHEN isadmin THEN ',admin' ELSE '' END || CASE WHEN ismfa THEN ',mfa' ELSE '' END
    FROM pg_authid AS roles WHERE roles.rolname = rolename;
    RETURN 'Created role for "' || replace(rolename, '"', '""') || '"';
END $$;

CREATE FUNCTION pg_catalog.pgaadauth_create_principal(
    rolename text, isadmin boolean, ismfa boolean
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_ids text[];
    found_types text[];
BEGIN
    PERFORM pgaadauth_check_administrator();
    SELECT array_agg(entries.object_id), array_agg(entries.type) INTO found_ids, found_types
    FROM pgaadauth_directory AS entries WHERE entries.name = rolename;
    IF cardinality(found_ids) > 1 THEN
        RAISE EXCEPTION '% identities in the tenant have the name %',
            cardinality(found_ids), quote_ident(rolename)
            USING HINT = 'Use pgaadauth_create_principal_with_oid.';
    END IF;
    IF found_ids IS NULL THEN
        RAISE WARNING 'the emulator had no identity %, so it has made one', quote_ident(rolename)
            USING HINT = 'Azure refuses a name that is not found in the tenant.';
        found_ids := ARRAY[gen_random_uuid()::text];
        found_types := ARRAY['service'];
        IF position('@' IN rolename) > 0 THEN
            found_types := ARRAY['user'];
        END IF;
    END IF;
    RETURN pgaadauth_create_principal_with_oid(
        rolename, found_ids[1], found_types[1], isadmin, ismfa
    );
END $$;

CREATE FUNCTION pg_catalog.pgaadauth_list_principals(isadminvalue boolean)
RETURNS TABLE (
    rolname name, principaltype text, objectid text, tenantid text, ismfa integer, isadmin integer
)
LANGUAGE plpgsql SECURITY DEFINER STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgaadauth_check_administrator();
    RETURN QUERY
    SELECT found.rolname, found.type, found.oid_text, {tenant_id}::text, found.mfa, found.admin
    FROM (
        SELECT roles.rolname, substring(labels.label FROM 'type=([^,]*)') AS type,
            substring(labels.label FROM 'oid=([^,]*)') AS oid_text,
            ('mfa' = ANY (string_to_array(labels.label, ',')))::integer AS mfa,
            ('admin' = ANY (string_to_array(labels.label, ',')))::integer AS admin
        FROM pg_shseclabel AS labels JOIN pg_authid AS roles ON roles.oid = labels.objoid
        WHERE labels.provider = 'pgaadauth'
    ) AS found WHERE found.admin = 1 OR NOT isadminvalue ORDER BY found.rolname;
END $$;

REVOKE EXECUTE ON FUNCTION pg_catalog.pgaadauth_check_administrator() FROM PUBLIC;
"""


def create_functions(tenant_id: str) -> str:
    """Return the statements that create the functions, for the database `postgres`."""
    return _FUNCTIONS.replace("{tenant_id}", quote_literal(tenant_id))


def insert_label(role: EntraRole) -> str:
    """Return the statements that link an existing role with its identity."""
    return _INSERT_LABEL.format(label=quote_literal(role.label), name=quote_literal(role.name))


def insert_identity(object_id: str, name: str, role_type: str) -> str:
    """Return the statement that makes an identity known to the functions."""
    return _INSERT_IDENTITY.format(*map(quote_literal, (object_id, name, role_type)))


class EntraRoleReader:
    """Read the roles in a session that stays open, because each authentication needs them.

    Args:
        superuser: The user to authenticate as.
        database: The database to connect to.
    """

    def __init__(self, superuser: Login, database: str) -> None:
        self._superuser = superuser
        self._database = database
        self._socket_path: Path | None = None
        self._session: Streams | None = None

    async def read(self, socket_path: Path) -> list[EntraRole]:
        """Return the roles of a server.

        Raises:
            ServerError, OSError or EOFError: If the server does not answer.
        """
        if self._session is not None and socket_path == self._socket_path:
            try:
                return await self._read(self._session)
            except (ServerError, OSError, EOFError):
                pass  # the server has ended the session, for example in a restart
        self.close()
        self._session, _ = await open_session(socket_path, self._superuser, self._database)
        self._socket_path = socket_path
        return await self._read(self._session)

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            _, writer = self._session
            writer.close()
            self._session = None

    async def _read(self, session: Streams) -> list[EntraRole]:
        return [EntraRole.from_label(*row) for row in await fetch(session, _LABELS_QUERY)]
