"""`azpg doctor`: walks the way of a connection step by step; what it finds is data."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import azpg
from azpg import _jwt
from azpg._clouds import AZURE_PUBLIC, AZURE_ROOTS, cloud_named
from azpg._connect import Call
from azpg._conninfo.resolve import PGBOUNCER_PORTS
from azpg._conninfo.sources import merge
from azpg._conninfo.suggestions import on_command_line
from azpg._diagnosis.classify import diagnose
from azpg._diagnosis.hints import Context
from azpg._libpq import libpq_info
from azpg._redact import redact
from azpg._tls.roots import certificates, root_file, user_root_crt
from azpg._tokens.cache import read_clocks

from . import network
from . import token as token_module
from .result import Finding, Setting, Step
from .session import pool_mode, round_trip_ms, session, takes_prepared
from .tls import Handshake, NoTLSError, look, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from azpg._clouds import Cloud
    from azpg._conninfo.resolve import Plan
    from azpg._conninfo.sources import Merged

    from .network import Place
    from .result import Fact, Status


def examine(options: Mapping[str, Any]) -> Iterator[str | Step]:
    """Walk every step for the arguments of `azpg.connect`; yield its name, and then the step.

    A step that fails does not end it: the later ones are walked as far as they can be.
    """
    examination = _Examination(options)
    try:
        for name, walk in examination.steps.items():
            yield name
            started = time.perf_counter()
            found = examination.find(walk)
            yield Step(name, time.perf_counter() - started, found)
    finally:
        examination.end()


class _Skipped(Exception):  # noqa: N818  # no error: there is nothing to walk
    """Say why a step is not walked."""


class _Examination:
    """One walk: what a step has found, the later ones stand on."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        self.steps: dict[str, Callable[[], Finding]] = {
            "configuration": self.configuration,
            "name": self.name,
            "TCP": self.tcp,
            "TLS": self.tls,
            "identity": self.identity,
            "sign-in": self.sign_in,
            "PgBouncer": self.pgbouncer,
            "speed": self.speed,
        }
        self._plan: Plan | None = None
        self._entra: azpg.EntraPassword | None = None
        self._root_file = ""
        self._secrets: list[str] = []
        self._places: list[Place] = []
        self._reached: Place | None = None
        self._blocked = ""
        """why a sign-in cannot be tried"""
        self._conn: azpg.Connection[Any] | None = None
        self._connect_ms = 0.0

    def end(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def find(self, walk: Callable[[], Finding]) -> Finding:
        """Walk a step; whatever goes wrong there is what it has found."""
        try:
            found = walk()
        except _Skipped as reason:
            found = Finding({}, "skipped", str(reason))
        except azpg.ConnectError as error:
            found = self.refused(error, {})
        except Exception as error:  # noqa: BLE001  # a doctor goes on
            found = Finding({}, "failed", self.shown(error) or type(error).__name__)
        facts = {name: self._clean(fact) for name, fact in found.facts.items()}
        hint = redact(on_command_line(found.hint))
        return replace(found, facts=facts, problem=self.shown(found.problem), hint=hint)

    def refused(
        self, error: azpg.ConnectError, facts: dict[str, Fact], status: Status = "failed"
    ) -> Finding:
        """Return what an error of azpg's tells."""
        said = str(error).removesuffix(f"\nHINT: {error.hint}")
        # The place has been told already
        said = re.sub(r"\A(connection failed: )?connection to server at [^\n]*? failed: ", "", said)
        return Finding(facts, status, self.shown(said), error.hint)

    def shown(self, text: object) -> str:
        """Return foreign text fit to print."""
        return redact(str(text), *self._secrets)

    def _clean(self, fact: Fact) -> Fact:
        if isinstance(fact, Setting):
            return Setting(*map(self.shown, fact))
        if isinstance(fact, list):
            return [self.shown(each) for each in fact]
        return self.shown(fact) if isinstance(fact, str) else fact

    def diagnosed(self, said: str, place: Place, facts: dict[str, Fact]) -> Finding:
        """Return what a failure means, by the table that `connect` reads too."""
        plan = self.plan
        context = Context(
            host=place.name or place.address,
            port=str(place.port),
            user=plan.params.get("user", ""),
            entra=plan.sign_in == "entra",
            scope=plan.cloud.scope,
            root_file=plan.params.get("sslrootcert", ""),
        )
        hint = diagnose(said, context).hint
        return Finding(facts, "failed", self.shown(said), hint)

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            raise _Skipped("the configuration is to be mended first")
        return self._plan

    def configuration(self) -> Finding:
        conninfo, own, keywords = _parted(self.options)
        said, _ = merge(conninfo, keywords, os.environ, server=own["server"])
        hidden = libpq_info().secrets & said.keys()
        self._secrets = [said[name].value for name in hidden]
        facts: dict[str, Fact] = {name: Setting("…", _source(name, said)) for name in hidden}
        call = Call(conninfo, keywords, **own, is_async=False)
        if call.error is not None and not isinstance(call.error, azpg.ConfigError):
            raise call.error
        if call.error is not None:
            self._blocked = "the configuration is to be mended first"
            problem = on_command_line(str(call.error))
            return Finding(facts, "failed", self.shown(problem))
        self._plan = plan = call.plan
        self._entra = call.entra
        params = dict(plan.params)
        if plan.roots is not None:
            params["sslrootcert"] = root_file(plan.roots)
        # Where nobody named one, libpq's own
        self._root_file = params.get("sslrootcert") or user_root_crt()
        for name in sorted(params):
            source = _source(name, said)
            if name == "host" and self.options.get("server"):
                source = "--server"
            elif name in said and said[name].value != params[name]:
                source = f"azpg; {source} said {said[name].value}"
            facts[name] = Setting(params[name], source)
        facts |= {"sign_in": _SIGN_INS[plan.sign_in], "cloud": plan.cloud.name}
        facts["pgbouncer"] = plan.pgbouncer
        return Finding(facts, "warning" if plan.warnings else "ok", "\n".join(plan.warnings))

    def name(self) -> Finding:
        addresses: list[str] = []
        names: list[str] = []
        failed: list[str] = []
        for goal in network.goals(self.plan.params, self.plan.reach):
            try:
                real, found = network.look_up(goal.found_at)
            except OSError as error:
                failed.append(f"failed to resolve host {goal.found_at!r}: {error.strerror}")
                continue
            self._places += [network.Place(goal.name, each, goal.port) for each in found]
            addresses += [f"{each} ({network.kind(each)})" for each in found]
            if goal.found_at not in found:
                names.append(" → ".join(dict.fromkeys((goal.found_at, real))))
        facts: dict[str, Fact] = {"name": names} if names else {}
        if addresses:
            facts["addresses"] = addresses
        if not failed and not addresses:
            raise _Skipped("a Unix socket has none")
        if failed and not self._places:
            self._blocked = "no address to go to"
            goal = next(network.goals(self.plan.params, self.plan.reach))
            return self.diagnosed("\n".join(failed), network.Place(*goal), facts)
        return Finding(facts, "warning" if failed else "ok", "\n".join(failed))

    def tcp(self) -> Finding:
        timeout = self._timeout()
        if not self._places:
            raise _Skipped(self._blocked or "a Unix socket has no port")
        failed: list[str] = []
        for place in self._places:
            try:
                own = network.knock(place, timeout)
            except OSError as error:
                failed.append(f"{place}: {error.strerror or error}")
                continue
            self._reached = place
            facts: dict[str, Fact] = {"address": str(place), "from": own}
            return Finding(facts, "warning" if failed else "ok", "\n".join(failed))
        self._blocked = "nothing answers on the port"
        return self.diagnosed("\n".join(failed), self._places[0], {})

    def _timeout(self) -> float:
        asked = float(self.plan.params.get("connect_timeout") or 0)
        return max(asked, 2.0) if asked > 0 else 15.0

    def tls(self) -> Finding:
        params = self.plan.params
        mode = params.get("sslmode", "prefer")
        if self._reached is None:
            raise _Skipped(self._blocked or "a Unix socket has no TLS")
        if mode == "disable":
            raise _Skipped("sslmode=disable")
        place = self._reached
        try:
            seen = look(
                (place.address, place.port),
                place.name,
                roots=self._root_file if mode in {"verify-full", "verify-ca"} else None,
                check_name=mode == "verify-full",
                direct=params.get("sslnegotiation") == "direct",
                timeout=self._timeout(),
            )
        except (NoTLSError, OSError) as error:
            return self.diagnosed(str(error), place, {})
        facts = self._facts_of(seen)
        if seen.problem:
            return self.diagnosed(seen.problem, place, facts)
        if seen.root is None:
            return Finding(facts, "warning", f"sslmode={mode} takes any certificate")
        return Finding(facts)

    def _facts_of(self, seen: Handshake) -> dict[str, Fact]:
        facts: dict[str, Fact] = {"version": seen.version, "cipher": seen.cipher}
        if seen.sent:
            own, last = seen.sent[0], seen.sent[-1]
            facts["names"] = list(own.names or [own.subject])
            facts["days_left"] = own.days_left()
            facts["chain"] = [*(each.subject for each in seen.sent), last.issuer]
        if seen.root is not None:
            facts["root"] = seen.root.subject
            facts["root_sha256"] = seen.root.sha256
            facts["root_pinned"] = seen.root.sha256 in AZURE_ROOTS
            facts["root_days_left"] = seen.root.days_left()
        roots = certificates(AZURE_ROOTS).values()
        if missing := [root.der for root in roots if root.source != "certifi"]:
            facts["certifi_lacks"] = [each.subject for each in read(missing)]
        return facts

    def identity(self) -> Finding:
        if self._plan is not None and self._plan.sign_in != "entra":
            raise _Skipped(f"{_SIGN_INS[self._plan.sign_in]}: no token is asked for")
        cloud = self._plan.cloud if self._plan else _wished_cloud(self.options)
        client_id = self.options.get("client_id")
        password = self._entra or azpg.EntraPassword(cloud=cloud, client_id=client_id)
        facts: dict[str, Fact] = {"environment": list(token_module.variables(os.environ))}
        try:
            token = password.token()
        except azpg.CredentialError as error:
            self._blocked = self._blocked or "there is no token"
            return self.refused(error, facts)
        self._secrets.append(token.text)
        claims = _jwt.claims(token.text)
        facts |= {"credential": password.credential_name(), **token_module.facts(claims)}
        now = read_clocks()
        minutes_left = int(token.remaining(now) / 60)
        facts |= {"characters": len(token.text), "minutes_left": minutes_left}
        return replace(token_module.judged(claims, cloud, now.wall), facts=facts)

    def sign_in(self) -> Finding:
        if self._blocked:
            raise _Skipped(self._blocked)
        started = time.perf_counter()
        self._conn = conn = azpg.connect(**self._once(), autocommit=True)
        self._connect_ms = 1000 * (time.perf_counter() - started)
        facts = session(conn)
        ahead = float(str(facts["clock_ahead_seconds"]))
        if abs(ahead) > token_module.CLOCKS_APART:
            return Finding(
                facts,
                "warning",
                f"the server's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}",
                f"{token_module.SET_THE_CLOCK}: tokens are judged by the server's",
            )
        return Finding(facts)

    def _once(self, **changes: object) -> dict[str, Any]:
        return {**self.options, "retry_timeout": 0.0, **changes}

    def pgbouncer(self) -> Finding:
        conn = self._signed_in()
        if self.plan.pgbouncer:
            return self._pooled(conn, conn.info.port, self._once())
        port = PGBOUNCER_PORTS.get(str(conn.info.port))
        if port is None or self._reached is None:
            raise _Skipped(f"port {conn.info.port} does not tell where it would be")
        place = self._reached._replace(port=int(port))
        try:
            network.knock(place, min(self._timeout(), 3.0))
        except OSError as error:
            return Finding(
                {},
                "skipped",
                f"not on port {port} ({error.strerror or error})",
                "to have it: the server parameter pgbouncer.enabled (not in the Burstable tier)",
            )
        options = self._once(pgbouncer=True, port=port)
        try:
            with azpg.connect(**options, autocommit=True) as pooled:
                return self._pooled(pooled, int(port), options)
        except azpg.ConnectError as error:
            return self.refused(error, {"port": int(port)}, "warning")

    def _pooled(self, conn: azpg.Connection[Any], port: int, options: Mapping[str, Any]) -> Finding:
        with azpg.connect(**options, autocommit=True) as other:
            mode = pool_mode(conn, other)
        facts: dict[str, Fact] = {"port": port, "pool_mode": mode}
        if mode != "statement":
            facts["prepared_statements"] = takes_prepared(conn)
        return Finding(facts)

    def speed(self) -> Finding:
        conn = self._signed_in()
        round_trip = round_trip_ms(conn)
        return Finding(
            {
                "round_trip_ms": round(round_trip, 2),
                "connect_ms": round(self._connect_ms, 1),
                "a_connect_costs": f"{self._connect_ms / round_trip:.0f} round trips",
            }
        )

    def _signed_in(self) -> azpg.Connection[Any]:
        if self._conn is None:
            raise _Skipped("nobody is signed in")
        return self._conn


_SIGN_INS = {
    "entra": "Microsoft Entra",
    "token": "a Microsoft Entra token given as the password",
    "password": "password",
    "callback": "password",
    "none": "no password",
}


def _parted(options: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the conninfo, azpg's own options, and libpq's keywords."""
    names = ("server", "credential", "client_id", "password", "pgbouncer", "cloud")
    own = {name: options.get(name) for name in names}
    rest = {name: value for name, value in options.items() if name not in (*names, "conninfo")}
    return options.get("conninfo", ""), own, rest


def _source(name: str, said: Merged) -> str:
    if name not in said:
        return "azpg"
    by = said[name].by
    if by == "environment":
        return libpq_info().variables[name]
    return f"--{name}" if by == "keyword" else by


def _wished_cloud(options: Mapping[str, Any]) -> Cloud:
    return cloud_named(options.get("cloud", "")) or AZURE_PUBLIC
