"""Take out one guard of the library after the other, and see that the tests that hold it fail.

    python tests/tools/mutate_guards.py [WORD]   all of them, or those with a word in their promise

Each works on a copy: nothing in the checkout changes.
"""

# ruff: noqa: T201  # a command prints

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[2]

DECIDED = 'self.params["sslmode"] = "verify-full"'


class Guard(NamedTuple):
    """One place in the source, what is left of it when it is taken out, and who must notice."""

    promise: str
    module: str
    source: str
    without: str
    tests: tuple[str, ...]


GUARDS = (
    # Where a token may go
    Guard(
        "a token goes to Azure alone",
        "_conninfo/resolve",
        "            self.problems += self.token_problems\n",
        "            pass\n",
        (
            "test_conninfo_sent::test_a_token_goes_only_to_verified_hosts_of_one_cloud",
            "test_hostile_servers::test_no_token_goes_to_a_foreign_host_however_it_asks",
        ),
    ),
    Guard(
        "a token goes to hosts of one cloud",
        "_conninfo/resolve",
        "[name for name in names if cloud_for_host(name) is not cloud]",
        "()",
        ("test_conninfo_hosts::test_a_token_goes_nowhere_else",),
    ),
    Guard(
        "a name that only looks like Azure's is none",
        "_clouds",
        "return name.lower() if _HOSTNAME.fullmatch(name) else None",
        "return name.lower()",
        ("test_clouds::test_a_hostname_is_ascii_labels",),
    ),
    Guard(
        "a cloud of your own cannot cover the world",
        "_clouds",
        "if not _SUFFIX.fullmatch(suffix):",
        "if not suffix:",
        ("test_clouds::test_a_cloud_with_an_unsafe_suffix_or_root_is_rejected",),
    ),
    Guard(
        "a cancel request is encrypted",
        "_cancel",
        "if psycopg.capabilities.has_cancel_safe():",
        "if False:",
        ("test_cancel::test_a_cancel_request_is_encrypted",),
    ),
    Guard(
        "a server holds no connection attempt",
        "_connect_steps",
        "pgconn.nonblocking = 1",
        "pass",
        (
            "test_connect_steps::test_a_server_cannot_block_a_connect",
            "test_connect_steps::test_a_server_cannot_block_the_event_loop",
        ),
    ),
    Guard(
        "server= is Azure's name or none",
        "_conninfo/resolve",
        "if cloud_for_host(server, clouds):",
        "if normalize_hostname(server):",
        ("test_conninfo_hosts::test_server_takes_no_other_name",),
    ),
    Guard(
        "a refused call asks for no token",
        "_settled",
        "    if problems:\n        raise ConfigError(problems)\n",
        "",
        ("test_conninfo_sent::test_problems_come_before_a_token_or_a_network",),
    ),
    Guard(
        "psql is led nowhere else",
        "_psql",
        "    if problems:\n        raise ConfigError(problems)\n",
        "",
        ("test_psql::test_psql_is_not_connected_to_another_host",),
    ),
    Guard(
        "a command's password is for one host, port and user",
        "_passfile",
        "{host}:{port}:*:{user}:",
        "*:*:*:*:",
        (
            "test_psql::test_a_script_cannot_send_the_token_elsewhere",
            "test_passfile_commands::test_a_command_cannot_send_the_token_elsewhere",
            "integrations/test_django_project::test_a_script_in_dbshell_cannot_send_the_token_elsewhere",
        ),
    ),
    Guard(
        "psql gives no other address the server's name",
        "_child_env",
        "self.variables.pop(v)",
        "self.variables[v]",
        ("test_psql::test_a_script_cannot_send_the_token_elsewhere",),
    ),
    Guard(
        "a command's own password comes before the lines of the user's file",
        "_passfile",
        'return "".join(lines).encode() + (_USER_LINES_HEADER + user_lines if user_lines else b"")',
        'return user_lines + "".join(lines).encode()',
        ("test_passfile::test_libpq_finds_the_password_for_its_key_only",),
    ),
    Guard(
        "a command's password is one line",
        "_passfile",
        "    if problems:\n        raise ConfigError(problems)\n",
        "",
        ("test_passfile::test_a_password_with_a_line_break_is_rejected",),
    ),
    Guard(
        "no other password file counts in a command",
        "_conninfo/sources",
        'if not path or path != environ.get("PGPASSFILE"):',
        "if not path:",
        ("test_passfile_commands::test_another_password_file_is_ignored",),
    ),
    Guard(
        "a database's name leads no command elsewhere",
        "_child_env",
        'is_conninfo(call.plan.params.get("dbname", ""))',
        "False",
        ("test_child_env::test_a_dbname_that_is_a_conninfo_is_rejected",),
    ),
    Guard(
        "a token given as text is a token",
        "_settled",
        "    token = _jwt.entra_claims(text, resources) if text else None\n",
        "    token = None\n",
        (
            "test_entra_text::test_a_token_goes_only_to_verified_azure_hosts",
            "test_entra_text::test_a_token_for_another_service_goes_nowhere",
        ),
    ),
    Guard(
        "a token that a callback returns is a token",
        "_settled",
        "    if token is None:\n        return False\n",
        "    return False\n",
        ("test_entra_text::test_a_token_goes_only_to_verified_azure_hosts",),
    ),
    Guard(
        "a token is never sent with verify-ca",
        "_conninfo/resolve",
        'by == "keyword" and sign_in not in ("entra", "token")',
        'by == "keyword" and sign_in != "entra"',
        ("test_entra_text::test_a_token_is_never_sent_with_verify_ca",),
    ),
    Guard(
        "an EntraPassword is known behind a wrapper",
        "_conninfo/options",
        "    for _ in range(MAX_WRAPPERS):",
        "    for _ in range(1):",
        ("test_entra_text::test_an_entra_password_is_known_through_its_wrappers",),
    ),
    # Never in clear
    Guard(
        "nothing is said in clear",
        "_conninfo/resolve",
        DECIDED,
        'self.params["sslmode"] = "prefer"',
        ("test_hostile_servers::test_nothing_but_the_request_for_tls_is_said_in_clear",),
    ),
    Guard(
        "a server is verified before anything is said",
        "_conninfo/resolve",
        DECIDED,
        'self.params["sslmode"] = "require"',
        ("test_hostile_servers::test_a_bad_certificate_ends_before_anything_is_said",),
    ),
    Guard(
        "a weaker sslmode is raised",
        "_conninfo/resolve",
        DECIDED,
        'self.default("sslmode", "verify-full")',
        (
            "test_conninfo_tls::test_a_weaker_sslmode_is_raised_for_a_token",
            "test_conninfo_tls::test_a_weaker_sslmode_is_raised_for_a_password",
        ),
    ),
    Guard(
        "no encryption is refused",
        "_conninfo/resolve",
        'if mode == "disable":',
        "if False:",
        ("test_conninfo_tls::test_no_encryption_is_refused",),
    ),
    Guard(
        "GSS encryption does not take the place of TLS",
        "_conninfo/resolve",
        'self.default("gssencmode", "disable")',
        "pass",
        ("test_conninfo_tls::test_gss_encryption_is_never_tried",),
    ),
    Guard(
        "asyncpg verifies the name too",
        "_tls/ssl_context",
        'context.check_hostname = params["sslmode"] == "verify-full"',
        "context.check_hostname = False",
        ("integrations/test_asyncpg_errors::test_a_server_with_another_name_gets_no_token",),
    ),
    # Whom it believes
    Guard(
        "a pool's connections are azpg's",
        "pool/_arguments",
        "    if isinstance(cls, type) and issubclass(cls, required):\n        return\n",
        "    return\n",
        ("pool/test_classes::test_a_connection_class_that_is_not_azpgs_is_rejected",),
    ),
    Guard(
        "an engine's connections are azpg's",
        "sqlalchemy",
        "            _require_azpg_connection(conn)\n",
        "",
        ("integrations/test_sqlalchemy::test_a_connection_made_without_azpg_is_rejected",),
    ),
    Guard(
        "only the pinned roots are trusted",
        "_tls/roots",
        "parse_pem(text) if name in fingerprints",
        "parse_pem(text)",
        (
            "tls/test_roots::test_the_root_file_contains_exactly_the_pinned_roots",
            "tls/test_roots_file::test_other_roots_are_exactly_the_given_ones",
        ),
    ),
    Guard(
        "other roots are sealed",
        "_memfd",
        "fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)",
        "pass",
        ("tls/test_roots_file::test_other_roots_cannot_be_changed",),
    ),
    Guard(
        "another file under the same descriptor is not read",
        "_tls/roots",
        "if identity is None or _identity(path) != identity:",
        "if identity is None:",
        ("tls/test_roots_file::test_another_file_under_the_same_descriptor_is_not_read",),
    ),
    Guard(
        "roots that cannot be written are never a wider set",
        "_tls/roots",
        '            raise TLSError(\n                f"the root certificates of this cloud',
        '            return str(PEM_FILE)\n            raise TLSError(\n                f"the root',
        ("tls/test_roots_file::test_roots_that_cannot_be_written_are_an_error",),
    ),
    Guard(
        "no root file lies where another user could exchange it",
        "_tls/roots",
        "    if replaceable_by(path) is not None:\n",
        "    if False:\n",
        ("tls/test_roots_file::test_a_folder_that_others_could_replace_is_not_used",),
    ),
    Guard(
        "a root file that another user could exchange is refused",
        "_conninfo/resolve",
        'if self.wishes.replaceable == "anyone":',
        "if False:",
        ("tls/test_roots_file::test_a_root_file_that_another_user_can_replace_is_rejected",),
    ),
    # What was judged is what is sent
    Guard(
        "what was emptied stays empty",
        "_conninfo/sources",
        "        said.setdefault(keyword, Said(value=value, by=by))",
        "        _ = value and said.setdefault(keyword, Said(value=value, by=by))",
        ("test_conninfo_sent::test_an_empty_word_keeps_the_environment_out",),
    ),
    Guard(
        "what was set aside stays aside",
        "_conninfo/resolve",
        "if places or keyword in self.params:",
        "if places:",
        ("test_conninfo_sent::test_a_place_set_aside_for_server_stays_aside",),
    ),
    Guard(
        "libpq finds nothing that azpg did not judge",
        "_conninfo/sources",
        '    _add(said, variables, "environment")\n',
        "",
        ("test_conninfo_sent::test_libpq_reads_what_azpg_judged",),
    ),
    Guard(
        "a service is read as libpq reads it",
        "_conninfo/sources",
        "            values.setdefault(keyword, value)",
        "            values[keyword] = value",
        ("test_sources::test_reads_every_source_as_libpq_does",),
    ),
    Guard(
        "nothing that changes meanwhile reaches libpq",
        "_connect",
        "params = self.plan.defaults | self.params(answer, addresses)",
        "params = self.params(answer, addresses)",
        ("test_libpq::test_later_changes_of_the_environment_are_ignored",),
    ),
    Guard(
        "what libpq rejects asks for no token",
        "_settled",
        "if message := validation_error(plan.params | given):",
        "if message := None:",
        ("test_libpq::test_what_libpq_rejects_requests_no_token",),
    ),
    Guard(
        "a guard that libpq lacks is an error",
        "_conninfo/resolve",
        "            self.params.setdefault(keyword, value)\n        else:",
        "            self.params.setdefault(keyword, value)\n        elif False:",
        ("test_libpq::test_verify_ca_needs_a_libpq_with_require_auth",),
    ),
    # One user's token is never another's
    Guard(
        "a token belongs to its credential",
        "_tokens/cache",
        "entry = self._slots.get(key)\n        if entry is not None and",
        "entry = next(iter(self._slots.values()), None)\n        if False and",
        (
            "test_entra::test_two_credentials_never_share",
            "test_credentials::test_identities_of_one_process_never_mix",
        ),
    ),
    Guard(
        "an id that is used again opens nothing",
        "_tokens/cache",
        "if entry is not None and entry[0]() is not credential:",
        "if False:",
        ("test_entra::test_an_entry_of_a_dead_credential_is_never_taken",),
    ),
    Guard(
        "a token dies with its credential",
        "_tokens/cache",
        "return weakref.ref(credential, forget)",
        "return lambda: credential",
        ("test_entra::test_a_token_dies_with_its_credential",),
    ),
    Guard(
        "a default credential is one identity's",
        "_tokens/cache",
        "key = authority, client_id",
        "key = authority, None",
        ("test_credentials::test_a_default_credential_is_made_once_for_each_identity",),
    ),
    Guard(
        "a proxy is no credential",
        "_tokens/credentials",
        "    if is_proxy(value):\n",
        "    if False:\n",
        ("test_proxies::test_a_proxy_is_refused_when_connecting",),
    ),
    Guard(
        "another user's token is not cached",
        "_tokens/cache",
        "        self.many_users = True\n",
        "        self.many_users = False\n",
        ("test_shared_credential::test_another_users_refreshed_token_is_not_shared",),
    ),
    Guard(
        "a claim does nothing to a terminal",
        "_tokens/token",
        '        f"{name} {sanitized(value)}" for name',
        '        f"{name} {value}" for name',
        ("test_claims::test_a_nameless_tokens_ids_are_sanitized",),
    ),
    Guard(
        "a role's name is printable",
        "_tokens/token",
        "    if role is not None and role.isprintable():\n",
        "    if role is not None:\n",
        ("test_claims::test_a_user_name_that_is_not_printable_is_an_error",),
    ),
    Guard(
        "a token is for one cloud",
        "_tokens/cache",
        "return entry[1].get(scope) or entry[1].setdefault(scope, Slot())",
        'return entry[1].setdefault("", Slot())',
        ("test_entra::test_two_clouds_have_two_tokens",),
    ),
    # A fork never shares a session
    Guard(
        "a child has no session of its parent's",
        "_fork",
        "_CONNECTIONS[conn.pgconn.socket] = ref(conn)",
        "pass",
        ("pool/test_fork::test_a_forked_child_cannot_use_a_connection",),
    ),
    Guard(
        "a child has no pool of its parent's",
        "_fork",
        "pool.close_after_fork()",
        "pass",
        ("pool/test_fork::test_a_forked_child_cannot_use_a_pool",),
    ),
    # No secret in any reachable object
    Guard(
        "an error has no frames with a secret",
        "errors",
        "return error.with_traceback(None)",
        "return error",
        ("test_leaks::test_an_interrupt_holds_no_token",),
    ),
    Guard(
        "an error's connection has no secret",
        "_connect",
        'changed = dataclasses.replace(pgconn, password=b"", info=info, error_message=said)',
        "changed = pgconn",
        (
            "test_leaks::test_a_failure_holds_no_token",
            "test_leaks::test_a_refused_password_is_in_no_error",
        ),
    ),
    Guard(
        "a secret that a server throws back is masked",
        "_redact",
        'redacted = redacted.replace(secret, "…")',
        "pass",
        ("test_redact::test_a_secret_in_a_message_is_masked",),
    ),
    Guard(
        "a server's text does nothing to a terminal",
        "_redact",
        'c if c.isprintable() or c == "\\n" else " "',
        "c",
        ("test_hostile_servers::test_a_servers_text_reaches_no_terminal_as_it_is",),
    ),
    Guard(
        "a conninfo that cannot be read is not quoted",
        "_conninfo/sources",
        "[unreadable_conninfo(conninfo, str(error), libpq_info().variables)]",
        "[str(error) + conninfo]",
        (
            "test_conninfo_sent::test_no_piece_of_a_password_is_in_a_message",
            "test_leaks::test_a_config_error_quotes_no_password",
        ),
    ),
    Guard(
        "a conninfo that is shown has no secret",
        "_settled",
        "hidden = libpq_info().secrets & said.keys()",
        "hidden: set[str] = set()",
        (
            "test_conninfo_sent::test_no_secret_is_in_plan_or_conninfo",
            "test_connection::test_conninfo_holds_no_secret",
        ),
    ),
    Guard(
        "a token is in no repr",
        "_tokens/token",
        'f"<Token of {len(self.text)} characters',
        'f"<Token {self.text}',
        (
            "test_token_life::test_a_tokens_text_is_in_no_repr",
            "test_leaks::test_what_holds_a_token_does_not_show_it",
        ),
    ),
    Guard(
        "a token is not pickled",
        "_tokens/token",
        'raise TypeError("a token is not pickled")',
        "return (str, (self.text,))",
        ("test_leaks::test_what_holds_a_token_does_not_show_it",),
    ),
    Guard(
        "a token is in no log",
        "_tokens/cache",
        '"token from %s, good for %.0f s", name,',
        '"token from %s, good for %.0f s", outcome.text,',
        ("test_leaks::test_nothing_is_logged_of_a_token",),
    ),
    Guard(
        "the doctor prints no secret",
        "_doctor/token",
        "value if name in _SHOWN_VARIABLES else '…'",
        "value",
        ("doctor/test_checks::test_secrets_are_masked",),
    ),
    Guard(
        "a short secret is masked where it is a whole word",
        "_redact",
        "redacted = _mask_word(redacted, secret)",
        "pass",
        ("test_redact::test_a_short_secret_is_masked_as_a_whole_word",),
    ),
    Guard(
        "a text that may be a password is in no frame of others",
        "_conninfo/options",
        "return value if plain and not _MAY_HOLD_SECRET.search(value) else Secret(value)",
        "return value",
        (
            "test_leaks_frames::test_a_password_is_in_no_frame_of_an_integration",
            "test_leaks_sentry::test_sentry_is_sent_no_password",
        ),
    ),
    Guard(
        "a slice of a secret is masked too",
        "_redact",
        "        return type(self)(super().__getitem__(key))",
        "        return super().__getitem__(key)",
        ("test_redact::test_a_slice_of_a_secret_is_a_secret",),
    ),
    Guard(
        "a command has the token in no variable",
        "_child_env",
        'omitted = {"service", "servicefile", *libpq_info().secrets}',
        'omitted = {"service", "servicefile"}',
        (
            "test_passfile_commands::test_the_token_is_only_in_the_password_file",
            "integrations/test_django_project::test_the_token_of_dbshell_is_in_no_variable_or_argument",
        ),
    ),
    # Nothing is written
    Guard(
        "a command's password file is in memory",
        "_memfd",
        'if sys.platform != "linux" or not hasattr(os, "memfd_create"):',
        "if True:",
        (
            "test_passfile_commands::test_the_token_is_only_in_the_password_file",
            "test_passfile::test_a_password_file_is_in_memory_and_sealed",
        ),
    ),
    Guard(
        "a command's password file is deleted with it",
        "_child_env",
        "            shutil.rmtree(folder, ignore_errors=True)\n",
        "",
        ("test_child_env::test_no_file_is_left",),
    ),
    Guard(
        "no file is written",
        "_conninfo/resolve",
        'if keylog is not None and keylog != "keyword":',
        "if False:",
        (
            "tls/test_roots_file::test_a_program_writes_nothing",
            "test_conninfo_tls::test_a_key_log_counts_nowhere_else",
        ),
    ),
    # The emulator
    Guard(
        "the emulator reads a startup packet to its terminator",
        "emulator/_protocol",
        "if terminator or rest or len(fields) % 2 or not all(names):",
        "if len(fields) % 2:",
        (
            "emulator/test_protocol::test_every_server_reads_an_accepted_packet_alike",
            "emulator/test_hostile_clients::test_a_malformed_startup_packet_is_rejected",
        ),
    ),
    Guard(
        "the emulator sends on a packet of its own",
        "emulator/_proxy/proxy_session",
        "writer.write(startup.packet)",
        "writer.write(packet)",
        (
            "emulator/test_upstream_messages::test_the_startup_packet_is_rebuilt_from_what_was_checked",
        ),
    ),
    Guard(
        "the emulator rejects its own users by name",
        "emulator/_proxy/proxy_session",
        "if startup.user in self._reserved_users:",
        "if False:",
        ("emulator/test_hostile_clients::test_clients_cannot_use_the_emulators_own_users",),
    ),
    Guard(
        "the emulator's PostgreSQL asks the superuser for a password",
        "emulator/_postgres/cluster",
        "{SUPERUSER} password\\n",
        "{SUPERUSER} trust\\n",
        ("emulator/test_hostile_clients::test_private_sockets_require_a_password",),
    ),
    Guard(
        "the emulator closes PgBouncer's console",
        "emulator/_proxy/proxy_session",
        "if startup.database == self._reserved_database:",
        "if False:",
        ("emulator/test_hostile_clients::test_the_pgbouncer_console_rejects_its_own_system_user",),
    ),
    Guard(
        "the emulator trusts no pattern",
        "emulator/_entra/principals",
        'if name.startswith("/"):',
        "if False:",
        ("emulator/test_administrator::test_a_role_name_that_is_a_pattern_is_rejected",),
    ),
    Guard(
        "the emulator's administrator runs no program",
        "emulator/_postgres/cluster",
        "if self._installation.major < 16:",
        "if False:",
        ("emulator/test_administrator::test_an_administrator_cannot_reach_the_machine",),
    ),
    Guard(
        "the emulator's superuser calls no function of a client",
        "emulator/_postgres/cluster",
        "await execute(self.socket_path, self._superuser, _MAINTENANCE_DATABASE, statement)",
        'await execute(self.socket_path, self._superuser, "postgres", '
        'statement.replace("pg_catalog.", ""))',
        ("emulator/test_administrator::test_client_functions_do_not_run_as_the_superuser",),
    ),
    Guard(
        "the emulator has no IMDS unless asked for",
        "emulator/_entra/identity_endpoint",
        "elif request.path == _IMDS_PATH and self._imds:",
        "elif request.path == _IMDS_PATH:",
        ("emulator/test_identity_access::test_imds_is_off_by_default",),
    ),
    Guard(
        "the emulator's identity endpoint checks the Host header",
        "emulator/_entra/identity_endpoint",
        'if request.headers.get("host") != self._host:',
        "if False:",
        ("emulator/test_identity_access::test_another_host_header_is_rejected",),
    ),
    Guard(
        "the emulator's tokens need this run's secret",
        "emulator/_entra/identity_endpoint",
        "if not hmac.compare_digest(secret.encode(), self.header.encode()):",
        "if False:",
        ("emulator/test_identity_access::test_app_service_requires_this_runs_secret",),
    ),
    Guard(
        "the emulator's root certificate is where no other user can make it",
        "emulator/_process/certificate_folder",
        "if _only_user_can_write(resolved):",
        "if True:",
        ("emulator/test_certificate_folder::test_a_folder_that_others_can_write_to_is_not_used",),
    ),
    Guard(
        "the name of the emulator's certificate folder cannot be guessed",
        "emulator/_process/certificate_folder",
        "private / secrets.token_hex(16)",
        'private / "root"',
        ("emulator/test_certificate_folder::test_without_a_private_folder_the_name_is_random",),
    ),
)


def path_of(test: str) -> str:
    """Return a test as pytest is told it."""
    return "tests/{}.py::{}".format(*test.split("::"))


def failed(tests: Collection[str], without: Guard | None = None) -> set[str]:
    """Return which of the tests fail in a copy of the source, with all guards or without one."""
    with tempfile.TemporaryDirectory(prefix="azpg-guards-") as folder:
        copy = Path(folder)
        for name in ("azpg", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if without is not None:
            module = copy / "azpg" / f"{without.module}.py"
            module.write_text(module.read_text().replace(without.source, without.without))
        command = (sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider")
        ran = subprocess.run(
            [*command, "-p", "no:xdist", *map(path_of, tests)],
            check=False,
            capture_output=True,
            text=True,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stdout + ran.stderr)
    lines = re.findall(r"^FAILED (\S+?::\w+)", ran.stdout, re.MULTILINE)
    return {test for test in tests if path_of(test) in lines}


def main(word: str = "") -> int:
    """Try every guard; return the exit status."""
    tried = [guard for guard in GUARDS if word in guard.promise]
    tests = sorted({test for guard in tried for test in guard.tests})
    for test in (broken := failed(tests)):
        print(f"fails with every guard in its place: {test}")
    left = 0
    for guard in tried:
        passed = set(guard.tests) - failed(guard.tests, guard)
        left += bool(passed)
        print(f"{'NOT HELD' if passed else 'held':8}  {guard.promise}", flush=True)
        for test in passed:
            print(f"{'':10}passes without it: {test}")
    noticed = len(tried) - left
    print(f"{len(tried)} guards, {len(tests)} tests: {noticed} taken out and noticed, {left} not")
    return 1 if left or broken else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
