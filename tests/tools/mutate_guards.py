"""Replace one function after the other that holds a promise, and see that its tests then fail.

    python tests/tools/mutate_guards.py [WORD]   all of them, or those with a word in their promise

Each works on a copy: nothing in the checkout changes. `docs/security.md` lists the promises.
"""

# ruff: noqa: T201  # a command prints

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

ROOT = Path(__file__).parents[2]


class Guard(NamedTuple):
    """A function that decides whether a promise is kept, and how to break the promise."""

    promise: str
    function: str
    """its dotted name"""
    replacement: str
    """a body with which it breaks the promise; the signature stays"""
    tests: tuple[str, ...]
    """the tests that must then fail, each as `<file>::<name>`"""


GUARDS = (
    # Where a token may go
    Guard(
        "a token goes to Azure alone",
        "azpg._conninfo.resolve._Resolver.check_token_hosts",
        "pass",
        (
            "conninfo/test_roundtrip::test_a_token_goes_only_to_verified_hosts_of_one_cloud",
            "test_hostile_servers::test_no_token_goes_to_a_foreign_host_however_it_asks",
        ),
    ),
    Guard(
        "a token goes to hosts of one cloud",
        "azpg._conninfo.resolve._belongs_to",
        "return cloud_for_host(host) is not None",
        ("conninfo/test_hosts::test_a_token_goes_nowhere_else",),
    ),
    Guard(
        "a name that only looks like Azure's is none",
        "azpg._clouds.normalize_hostname",
        'return host.removesuffix(".").lower()',
        ("test_clouds::test_a_hostname_is_ascii_labels",),
    ),
    Guard(
        "a cloud of your own cannot cover the world",
        "azpg._clouds._is_suffix",
        "return bool(text)",
        ("test_clouds::test_a_cloud_with_an_unsafe_suffix_or_root_is_rejected",),
    ),
    Guard(
        "a cancel request is encrypted",
        "azpg._cancel.cancel",
        "unencrypted()",
        ("test_cancel::test_a_cancel_request_is_encrypted",),
    ),
    Guard(
        "a server holds no connection attempt",
        "azpg._attempt._make_nonblocking",
        'return ""',
        (
            "test_attempts::test_a_server_cannot_block_a_connect",
            "test_attempts::test_a_server_cannot_block_the_event_loop",
        ),
    ),
    Guard(
        "server= is Azure's name or none",
        "azpg._conninfo.resolve._Resolver.server_host",
        """
            server = self.summary.server or ""
            if is_dns_label(server):
                return server.lower() + clouds[0].suffixes[0]
            return normalize_hostname(server)
        """,
        ("conninfo/test_hosts::test_server_takes_no_other_name",),
    ),
    Guard(
        "a refused call asks for no token",
        "azpg._connect._cached_config",
        "return resolve(dict(sorted(params)), summary, _platform())[0]",
        ("conninfo/test_roundtrip::test_problems_come_before_a_token_or_a_network",),
    ),
    Guard(
        "psql is led nowhere else",
        "azpg._psql._selects_server",
        "return False",
        ("test_psql::test_psql_is_not_connected_to_another_host",),
    ),
    Guard(
        "a command's password is for one host, port and user",
        "azpg._passfile._format_line",
        'return f"*:*:*:*:{_escape(password)}\\n"',
        (
            "test_psql::test_a_script_cannot_send_the_token_elsewhere",
            "test_passfile_commands::test_a_command_cannot_send_the_token_elsewhere",
            "integrations/test_django_project::test_a_script_in_dbshell_cannot_send_the_token_elsewhere",
        ),
    ),
    Guard(
        "psql gives no other address the server's name",
        "azpg._child_env.ChildEnvironment.pop_conninfo",
        """
            named = {"port": "PGPORT", **_CONNINFO_VARIABLES}
            params = {k: self.variables[v] for k, v in named.items() if v in self.variables}
            return make_conninfo("", **params)
        """,
        ("test_psql::test_a_script_cannot_send_the_token_elsewhere",),
    ),
    Guard(
        "a command's own password comes before the lines of the user's file",
        "azpg._passfile._join",
        'return user_lines + "".join(lines).encode()',
        ("test_passfile::test_libpq_finds_the_password_for_its_key_only",),
    ),
    Guard(
        "a command's password is one line",
        "azpg._passfile._has_line_break",
        "return False",
        ("test_passfile::test_a_password_with_a_line_break_is_rejected",),
    ),
    Guard(
        "no other password file counts in a command",
        "azpg._conninfo.sources._command_passfile",
        "return environ.get(_passfile.VARIABLE)",
        ("test_passfile_commands::test_another_password_file_is_ignored",),
    ),
    Guard(
        "a database's name leads no command elsewhere",
        "azpg._child_env._check_dbname",
        "pass",
        ("test_child_env::test_a_dbname_that_is_a_conninfo_is_rejected",),
    ),
    Guard(
        "a token given as text is a token",
        "azpg._connect._given_token",
        "return None",
        (
            "tokens/test_token_as_password::test_a_token_goes_only_to_verified_azure_hosts",
            "tokens/test_token_as_password::test_a_token_for_another_service_goes_nowhere",
        ),
    ),
    Guard(
        "a token that a callback returns is a token",
        "azpg._connect._is_token_for",
        "return False",
        ("tokens/test_token_as_password::test_a_token_goes_only_to_verified_azure_hosts",),
    ),
    Guard(
        "a token is never sent with verify-ca",
        "azpg._conninfo.resolve._Resolver.keeps_verify_ca",
        'return self.params.get("sslmode") == "verify-ca" and auth != "entra"',
        ("tokens/test_token_as_password::test_a_token_is_never_sent_with_verify_ca",),
    ),
    Guard(
        "an EntraPassword is known behind a wrapper",
        "azpg._connect.find_entra_password",
        "return password if is_entra_password(password) else None",
        ("tokens/test_token_as_password::test_an_entra_password_is_known_through_its_wrappers",),
    ),
    # Never in clear
    Guard(
        "nothing is said in clear",
        "azpg._conninfo.resolve._Resolver.require_verify_full",
        'self.params["sslmode"] = "prefer"',
        ("test_hostile_servers::test_nothing_but_the_request_for_tls_is_said_in_clear",),
    ),
    Guard(
        "a server is verified before anything is said",
        "azpg._conninfo.resolve._Resolver.require_verify_full",
        'self.params["sslmode"] = "require"',
        ("test_hostile_servers::test_a_bad_certificate_ends_before_anything_is_said",),
    ),
    Guard(
        "a weaker sslmode is raised",
        "azpg._conninfo.resolve._Resolver.require_verify_full",
        'self.set_default("sslmode", "verify-full")',
        (
            "conninfo/test_tls::test_a_weaker_sslmode_is_raised_for_a_token",
            "conninfo/test_tls::test_a_weaker_sslmode_is_raised_for_a_password",
        ),
    ),
    Guard(
        "no encryption is refused",
        "azpg._conninfo.resolve._Resolver.check_encryption",
        "pass",
        ("conninfo/test_tls::test_no_encryption_is_refused",),
    ),
    Guard(
        "GSS encryption does not take the place of TLS",
        "azpg._conninfo.resolve._Resolver.disable_gss_encryption",
        "pass",
        ("conninfo/test_tls::test_gss_encryption_is_never_tried",),
    ),
    Guard(
        "asyncpg verifies the name too",
        "azpg._tls.ssl_context._verifies_name",
        "return False",
        ("integrations/test_asyncpg_errors::test_a_server_with_another_name_gets_no_token",),
    ),
    # Whom it believes
    Guard(
        "a pool's connections are azpg's",
        "azpg.pool._arguments.check_connection_class",
        "pass",
        ("pool/test_classes::test_a_connection_class_that_is_not_azpgs_is_rejected",),
    ),
    Guard(
        "an engine's connections are azpg's",
        "azpg.sqlalchemy._require_azpg_connection",
        "pass",
        ("integrations/test_sqlalchemy::test_a_connection_made_without_azpg_is_rejected",),
    ),
    Guard(
        "only the pinned roots are trusted",
        "azpg._tls.roots._select",
        "return parse_pem(text)",
        (
            "tls/test_roots::test_the_root_file_contains_exactly_the_pinned_roots",
            "tls/test_roots_file::test_other_roots_are_exactly_the_given_ones",
        ),
    ),
    Guard(
        "unknown roots loosen no other host",
        "azpg._conninfo.resolve._roots_of",
        'return clouds[0].roots or "certifi"',
        ("conninfo/test_tls::test_unknown_roots_do_not_loosen_the_other_hosts",),
    ),
    Guard(
        "a cloud without pins is verified with certifi's roots",
        "azpg._tls.roots._certifi_file",
        'return "system"',
        ("conninfo/test_tls::test_a_cloud_whose_roots_are_not_known",),
    ),
    Guard(
        "other roots are sealed",
        "azpg._memfd._seal",
        "pass",
        ("tls/test_roots_file::test_other_roots_cannot_be_changed",),
    ),
    Guard(
        "another file under the same descriptor is not read",
        "azpg._tls.roots.RootFile._exists",
        "return self._written[1] is not None",
        ("tls/test_roots_file::test_another_file_under_the_same_descriptor_is_not_read",),
    ),
    Guard(
        "roots that cannot be written are never a wider set",
        "azpg._tls.roots.RootFile._write",
        """
            try:
                return _write_private_file(pem(self.fingerprints))
            except OSError:
                return str(PEM_FILE)
        """,
        ("tls/test_roots_file::test_roots_that_cannot_be_written_are_an_error",),
    ),
    Guard(
        "no root file lies where another user could exchange it",
        "azpg._tls.roots._check_private",
        "pass",
        ("tls/test_roots_file::test_a_folder_that_others_could_replace_is_not_used",),
    ),
    Guard(
        "a root file that another user could exchange is refused",
        "azpg._conninfo.resolve._Resolver.check_root_file",
        "pass",
        ("tls/test_roots_file::test_a_root_file_that_another_user_can_replace_is_rejected",),
    ),
    # What was judged is what is sent
    Guard(
        "what was emptied stays empty",
        "azpg._conninfo.sources._add_missing",
        """
            for keyword, value in values.items():
                if value:
                    params.setdefault(keyword, Parameter(value, source))
        """,
        ("conninfo/test_roundtrip::test_an_empty_word_keeps_the_environment_out",),
    ),
    Guard(
        "what was set aside stays aside",
        "azpg._conninfo.resolve._Resolver.set_places",
        """
            for keyword, values in (("host", names), ("hostaddr", addresses)):
                if values:
                    self.params[keyword] = ",".join(values)
        """,
        ("conninfo/test_roundtrip::test_a_place_set_aside_for_server_stays_aside",),
    ),
    Guard(
        "libpq finds nothing that azpg did not judge",
        "azpg._conninfo.sources._from_environment",
        "return {}",
        ("conninfo/test_roundtrip::test_libpq_reads_what_azpg_judged",),
    ),
    Guard(
        "a service is read as libpq reads it",
        "azpg._conninfo.sources._service_params",
        'return dict(line.split("=", 1) for line in lines), []',
        ("conninfo/test_sources::test_reads_every_source_as_libpq_does",),
    ),
    Guard(
        "nothing that changes meanwhile reaches libpq",
        "azpg._connect.ConnectRequest.libpq_params",
        "return with_native_paths(self.params(login, addresses))",
        ("test_libpq::test_later_changes_of_the_environment_are_ignored",),
    ),
    Guard(
        "what libpq rejects asks for no token",
        "azpg._libpq.validation_error",
        "return None",
        ("test_libpq::test_what_libpq_rejects_requests_no_token",),
    ),
    Guard(
        "a guard that libpq lacks is an error",
        "azpg._conninfo.resolve._Resolver.set_protection",
        "self.set_default(keyword, value)",
        ("test_libpq::test_verify_ca_needs_a_libpq_with_require_auth",),
    ),
    # One user's token is never another's
    Guard(
        "a token belongs to its credential",
        "azpg._tokens.cache.TokenCache.entry",
        """
            entries = next(iter(self._entries.values()), None)
            if entries is None:
                entries = self._entries[id(credential)] = self._reference(credential), {}
            return entries[1].setdefault(scope, CacheEntry())
        """,
        (
            "tokens/test_entra::test_two_credentials_never_share",
            "tokens/test_credentials::test_identities_of_one_process_never_mix",
        ),
    ),
    Guard(
        "an id that is used again opens nothing",
        "azpg._tokens.cache.TokenCache.entry",
        """
            key = id(credential)
            entries = self._entries.setdefault(key, (self._reference(credential), {}))
            return entries[1].setdefault(scope, CacheEntry())
        """,
        ("tokens/test_entra::test_an_entry_of_a_dead_credential_is_never_taken",),
    ),
    Guard(
        "a token dies with its credential",
        "azpg._tokens.cache.TokenCache._reference",
        "return lambda: credential",
        ("tokens/test_entra::test_a_token_dies_with_its_credential",),
    ),
    Guard(
        "a default credential is one identity's",
        "azpg._tokens.cache.TokenCache.default_credential",
        """
            key = authority, None
            return self._defaults.setdefault(key, DefaultCredential(authority, client_id))
        """,
        ("tokens/test_credentials::test_a_default_credential_is_made_once_for_each_identity",),
    ),
    Guard(
        "a proxy is no credential",
        "azpg._tokens.credentials.is_proxy",
        "return False",
        ("tokens/test_proxies::test_a_proxy_is_refused_when_connecting",),
    ),
    Guard(
        "another user's token is not cached",
        "azpg._tokens.cache.CacheEntry._is_another_users",
        "return False",
        ("tokens/test_shared_credential::test_another_users_refreshed_token_is_not_shared",),
    ),
    Guard(
        "a claim does nothing to a terminal",
        "azpg._redact.sanitized",
        "return str(claim)",
        ("test_claims::test_a_nameless_tokens_ids_are_sanitized",),
    ),
    Guard(
        "a role's name is printable",
        "azpg._tokens.token.require_role",
        "return str(claimed_role(claims))",
        ("test_claims::test_a_user_name_that_is_not_printable_is_an_error",),
    ),
    Guard(
        "a token is for one cloud",
        "azpg._tokens.cache.TokenCache.entry",
        """
            key = id(credential)
            entries = self._entries.get(key)
            if entries is None or entries[0]() is not credential:
                entries = self._entries[key] = self._reference(credential), {}
            return entries[1].setdefault("", CacheEntry())
        """,
        ("tokens/test_entra::test_two_clouds_have_two_tokens",),
    ),
    # A fork never shares a session
    Guard(
        "a child has no session of its parent's",
        "azpg._fork.track_connection",
        "return conn",
        ("pool/test_fork::test_a_forked_child_cannot_use_a_connection",),
    ),
    Guard(
        "a child has no pool of its parent's",
        "azpg._fork._close_inherited_pools",
        "pass",
        ("pool/test_fork::test_a_forked_child_cannot_use_a_pool",),
    ),
    # No secret in any reachable object
    Guard(
        "an error has no frames with a secret",
        "azpg._tracebacks._clear_frames",
        "pass",
        ("test_leaks::test_an_interrupt_holds_no_token",),
    ),
    Guard(
        "an error's connection has no secret",
        "azpg._tracebacks._redact_pgconn",
        "pass",
        (
            "test_leaks::test_a_failure_holds_no_token",
            "test_leaks::test_a_refused_password_is_in_no_error",
        ),
    ),
    Guard(
        "a secret that a server throws back is masked",
        "azpg._redact.redact",
        'return re.sub(_TOKEN, "…", _printable(message), flags=re.ASCII).strip()',
        ("test_redact::test_a_secret_in_a_message_is_masked",),
    ),
    Guard(
        "a server's text does nothing to a terminal",
        "azpg._redact._printable",
        "return text",
        ("test_hostile_servers::test_a_servers_text_reaches_no_terminal_as_it_is",),
    ),
    Guard(
        "a conninfo that cannot be read is not quoted",
        "azpg._conninfo.suggestions.unreadable_conninfo_error",
        "return reason + conninfo",
        (
            "conninfo/test_roundtrip::test_no_piece_of_a_password_is_in_a_message",
            "test_leaks::test_a_config_error_quotes_no_password",
        ),
    ),
    Guard(
        "a conninfo that is shown has no secret",
        "azpg._connect.ConnectRequest.public_params",
        "return self.config.params | self._secrets",
        (
            "conninfo/test_roundtrip::test_no_secret_is_in_plan_or_conninfo",
            "test_connection::test_conninfo_holds_no_secret",
        ),
    ),
    Guard(
        "a token is in no repr",
        "azpg._tokens.token.Token.__repr__",
        'return f"<Token {self.text}>"',
        (
            "tokens/test_refresh_policy::test_a_tokens_text_is_in_no_repr",
            "test_leaks::test_what_holds_a_token_does_not_show_it",
        ),
    ),
    Guard(
        "a token is not pickled",
        "azpg._tokens.token.Token.__reduce__",
        "return str, (self.text,)",
        ("test_leaks::test_what_holds_a_token_does_not_show_it",),
    ),
    Guard(
        "a token is in no log",
        "azpg._tokens.cache._log",
        'logger.info("token from %s: %s", name, getattr(outcome, "text", ""))',
        ("test_leaks::test_nothing_is_logged_of_a_token",),
    ),
    Guard(
        "the doctor prints no secret",
        "azpg._doctor.token.credential_variables",
        """
            for name in (*_SHOWN_VARIABLES, *_MASKED_VARIABLES):
                if value := environ.get(name):
                    yield f"{name}={value}"
        """,
        ("doctor/test_checks::test_secrets_are_masked",),
    ),
    Guard(
        "a short secret is masked where it is a whole word",
        "azpg._redact._mask_word",
        "return text",
        ("test_redact::test_a_short_secret_is_masked_as_a_whole_word",),
    ),
    Guard(
        "a text that may be a password is in no frame of others",
        "azpg._conninfo.options.hide_secret",
        "return value",
        (
            "test_leaks_frames::test_a_password_is_in_no_frame_of_an_integration",
            "test_leaks_sentry::test_sentry_is_sent_no_password",
        ),
    ),
    Guard(
        "a slice of a secret is masked too",
        "azpg._redact.Secret.__getitem__",
        "return super().__getitem__(key)",
        ("test_redact::test_a_slice_of_a_secret_is_a_secret",),
    ),
    Guard(
        "a command has the token in no variable",
        "azpg._child_env.to_pg_variables",
        """
            variables = libpq_info().variables
            return {variables[name]: value for name, value in params.items() if variables.get(name)}
        """,
        (
            "test_passfile_commands::test_the_token_is_only_in_the_password_file",
            "integrations/test_django_project::test_the_token_of_dbshell_is_in_no_variable_or_argument",
        ),
    ),
    # Nothing is written
    Guard(
        "a command's password file is in memory",
        "azpg._memfd.create_sealed_file",
        "return None",
        (
            "test_passfile_commands::test_the_token_is_only_in_the_password_file",
            "test_passfile::test_a_password_file_is_in_memory_and_sealed",
        ),
    ),
    Guard(
        "a command's password file is deleted with it",
        "azpg._child_env._delete_at_exit",
        "pass",
        ("test_child_env::test_no_file_is_left",),
    ),
    Guard(
        "no file is written",
        "azpg._conninfo.resolve._Resolver.check_key_log",
        "pass",
        (
            "tls/test_roots_file::test_a_program_writes_nothing",
            "conninfo/test_tls::test_a_key_log_counts_nowhere_else",
        ),
    ),
    # The emulator
    Guard(
        "the emulator reads a startup packet to its terminator",
        "azpg.emulator._protocol._is_parameter_list",
        "return len(fields) % 2 == 0",
        (
            "emulator/test_protocol::test_every_server_reads_an_accepted_packet_alike",
            "emulator/test_hostile_clients::test_a_malformed_startup_packet_is_rejected",
        ),
    ),
    Guard(
        "the emulator sends on a packet of its own",
        "azpg.emulator._proxy.proxy_session.ProxySession._connect_upstream",
        """
            packet = await read_startup_packet(client.read)
            await self._authenticate(parse_startup(packet), client)
            reader, writer = await asyncio.open_unix_connection(self._upstream_socket)
            writer.write(packet)
            return reader, writer
        """,
        (
            "emulator/test_upstream_messages::test_the_startup_packet_is_rebuilt_from_what_was_checked",
        ),
    ),
    Guard(
        "the emulator rejects its own users by name",
        "azpg.emulator._proxy.proxy_session.ProxySession._is_reserved_user",
        "return False",
        ("emulator/test_hostile_clients::test_clients_cannot_use_the_emulators_own_users",),
    ),
    Guard(
        "the emulator's PostgreSQL asks the superuser for a password",
        "azpg.emulator._postgres.cluster.Cluster.trust_roles",
        """
            rules = f"local all,replication {SUPERUSER} trust\\n" + hba_rules(roles)
            self._os_user.write_file(self._data / "pg_hba.conf", rules)
        """,
        ("emulator/test_hostile_clients::test_private_sockets_require_a_password",),
    ),
    Guard(
        "the emulator closes PgBouncer's console",
        "azpg.emulator._proxy.proxy_session.ProxySession._is_admin_console",
        "return False",
        ("emulator/test_hostile_clients::test_the_pgbouncer_console_rejects_its_own_system_user",),
    ),
    Guard(
        "the emulator trusts no pattern",
        "azpg.emulator._entra.principals._is_hba_pattern",
        "return False",
        (
            "emulator/test_administrator::test_a_role_name_that_is_a_pattern_is_rejected",
            "emulator/test_principals::test_a_role_that_is_renamed_to_a_pattern_lets_nobody_in",
        ),
    ),
    Guard(
        "the emulator forgets roles that have been dropped",
        "azpg.emulator._entra.tenant.Tenant.set_roles",
        """
            for role in roles:
                principal = principal_of(role)
                if principal is not None:
                    self._roles[role.name] = role
                    self._principals.setdefault(role.object_id, principal)
        """,
        ("emulator/test_principals::test_a_dropped_role_accepts_no_token",),
    ),
    Guard(
        "the emulator's extensions are for administrators",
        "azpg.emulator._postgres.extension_tree._rules",
        'return ""',
        (
            "emulator/test_extensions::test_only_administrators_create_extensions",
            "emulator/test_extensions::test_other_extensions_are_refused",
        ),
    ),
    Guard(
        "a record has no names",
        "azpg._doctor.record.Aliases.replace",
        "return text",
        (
            "doctor/test_record::test_no_name_or_secret_is_in_a_record",
            "doctor/test_record::test_names_in_a_failed_sign_in_are_replaced",
        ),
    ),
    Guard(
        "the emulator's administrator runs no program",
        "azpg.emulator._postgres.cluster.Cluster._remove_server_roles",
        "pass",
        ("emulator/test_administrator::test_an_administrator_cannot_reach_the_machine",),
    ),
    Guard(
        "the emulator's superuser calls no function of a client",
        "azpg.emulator._postgres.cluster.Cluster.execute",
        """
            statement = statement.replace("pg_catalog.", "")
            await execute(self.socket_path, self._superuser, "postgres", statement)
        """,
        ("emulator/test_administrator::test_client_functions_do_not_run_as_the_superuser",),
    ),
    Guard(
        "the emulator has no IMDS unless asked for",
        "azpg.emulator._entra.identity_endpoint.IdentityEndpoint._is_imds_request",
        "return request.path == _IMDS_PATH",
        ("emulator/test_identity_access::test_imds_is_off_by_default",),
    ),
    Guard(
        "the emulator's identity endpoint checks the Host header",
        "azpg.emulator._entra.identity_endpoint.IdentityEndpoint._check_host",
        "pass",
        ("emulator/test_identity_access::test_another_host_header_is_rejected",),
    ),
    Guard(
        "the emulator's tokens need this run's secret",
        "azpg.emulator._entra.identity_endpoint.IdentityEndpoint._check_secret",
        "pass",
        ("emulator/test_identity_access::test_app_service_requires_this_runs_secret",),
    ),
    Guard(
        "the emulator's root certificate is where no other user can make it",
        "azpg.emulator._process.certificate_folder._only_user_can_write",
        "return True",
        ("emulator/test_certificate_folder::test_a_folder_that_others_can_write_to_is_not_used",),
    ),
    Guard(
        "the name of the emulator's certificate folder cannot be guessed",
        "azpg.emulator._process.certificate_folder._random_name",
        'return "root"',
        ("emulator/test_certificate_folder::test_without_a_private_folder_the_name_is_random",),
    ),
)


def path_of(test: str) -> str:
    """Return a test as pytest is told it."""
    return "tests/{}.py::{}".format(*test.split("::"))


def find_function(name: str, root: Path = ROOT) -> tuple[Path, FunctionNode]:
    """Return the file of a function below a folder, and its definition.

    Args:
        name: Dotted name of the function, such as `azpg._clouds.Cloud.covers`.
        root: Folder that contains the package.

    Raises:
        LookupError: There is no such function, or more than one.
    """
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = root.joinpath(*parts[:count])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            if path.is_file():
                return path, _find_definition(name, path, parts[count:])
    raise LookupError(f"{name}: there is no such module")


def _find_definition(name: str, path: Path, inner: list[str]) -> FunctionNode:
    found: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in inner[:-1]:
        found = [
            each
            for outer in found
            if isinstance(outer, ast.ClassDef) and outer.name == part
            for each in outer.body
        ]
    functions = [
        each
        for each in found
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name == inner[-1]
    ]
    if len(functions) != 1:
        count = len(functions) or "no"
        raise LookupError(f"{name}: {path.name} has {count} functions of this name")
    return functions[0]


def replaced(guard: Guard, root: Path = ROOT) -> tuple[Path, str]:
    """Return the file of a guard's function, and its text with the replacement as the body."""
    path, function = find_function(guard.function, root)
    lines = path.read_text().splitlines(keepends=True)
    first, last = function.body[0], function.body[-1]
    body = textwrap.dedent(guard.replacement).strip() + "\n"
    lines[first.lineno - 1 : last.end_lineno] = [textwrap.indent(body, " " * first.col_offset)]
    return path, "".join(lines)


def failed(tests: Collection[str], guard: Guard | None = None) -> set[str]:
    """Return which of the tests fail in a copy of the source, where a guard may be replaced."""
    with tempfile.TemporaryDirectory(prefix="azpg-guards-") as folder:
        copy = Path(folder)
        for name in ("azpg", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if guard is not None:
            path, text = replaced(guard, copy)
            path.write_text(text)
        command = (sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider")
        ran = subprocess.run(
            [*command, "-p", "no:xdist", *map(path_of, tests)],
            check=False,
            capture_output=True,
            text=True,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": folder},
        )
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stdout + ran.stderr)
    lines = re.findall(r"^FAILED (\S+?::\w+)", ran.stdout, re.MULTILINE)
    return {test for test in tests if path_of(test) in lines}


def check_names(guards: Iterable[Guard]) -> None:
    """Exit with a message if a guard names a function that is gone."""
    problems = []
    for guard in guards:
        try:
            find_function(guard.function)
        except LookupError as error:
            problems.append(f"{error.args[0]}: update the guard {guard.promise!r}")
    if problems:
        raise SystemExit("\n".join(problems))


def main(word: str = "") -> int:
    """Try every guard; return the exit status."""
    tried = [guard for guard in GUARDS if word in guard.promise]
    if not tried:
        raise SystemExit(f"no guard has {word!r} in its promise")
    check_names(tried)
    tests = sorted({test for guard in tried for test in guard.tests})
    for test in (broken := failed(tests)):
        print(f"fails although no function is replaced: {test}")
    left = 0
    for guard in tried:
        passed = set(guard.tests) - failed(guard.tests, guard)
        left += bool(passed)
        print(f"{'NOT HELD' if passed else 'held':8}  {guard.promise}", flush=True)
        for test in passed:
            print(f"{'':10}passes although the promise is broken: {test}")
    noticed = len(tried) - left
    print(f"{len(tried)} guards, {len(tests)} tests: {noticed} replaced and noticed, {left} not")
    return 1 if left or broken else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
