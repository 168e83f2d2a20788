"""Where a token may go, and the way there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

import azpg
from azpg._clouds import AZURE_ROOTS, CLOUDS
from azpg._conninfo.resolve import OptionSummary, Platform, resolve, with_addresses
from azpg._conninfo.sources import Parameter

if TYPE_CHECKING:
    from fix_conninfo import Handed, Planned, Problems


class Untouched:
    """A credential that must not be asked."""

    def get_token(self, *scopes: str) -> Any:
        """Fail the test."""
        raise AssertionError(scopes)


HOST = "myserver.postgres.database.azure.com"
KNOWN = {cloud.name: cloud for cloud in CLOUDS}
OWN = azpg.Cloud("own", (".pg.example.net",), "https://own/.default", "login.example.net")


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        (HOST, azpg.AZURE_PUBLIC),
        ("MyServer.Postgres.Database.AZURE.com", azpg.AZURE_PUBLIC),
        (HOST + ".", azpg.AZURE_PUBLIC),
        ("a.privatelink.postgres.database.azure.com", azpg.AZURE_PUBLIC),
        ("ve.writer.postgres.database.azure.com", azpg.AZURE_PUBLIC),
        ("c.cluster.postgres.database.azure.com", azpg.AZURE_PUBLIC),
        ("a.postgres.database.usgovcloudapi.net", azpg.AZURE_US_GOV),
        ("a.postgres.database.chinacloudapi.cn", azpg.AZURE_CHINA),
        ("c-a.x.postgres.cosmos.azure.com", azpg.COSMOS_POSTGRES),
        ("a.postgres.database.sovcloud-api.fr", KNOWN["bleu"]),
        ("c.1a2b.westus3.horizondb.azure.com", KNOWN["horizondb"]),
        ("pool.c.1a2b.westus3.horizondb.azure.com", KNOWN["horizondb"]),
        (f"{HOST},b.postgres.database.azure.com", azpg.AZURE_PUBLIC),
    ],
)
def test_a_token_goes_to_a_host_under_a_known_suffix(
    planned: Planned, host: str, cloud: azpg.Cloud
) -> None:
    """The host's suffix, in any case and with a trailing dot, says whose token it takes."""
    plan = planned(host=host)
    assert plan.auth == "entra"
    assert plan.cloud is cloud
    assert plan.params["host"] == host.lower().removesuffix(".")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("evil.example", "a token never goes to 'evil.example'"),
        ("evil.postgres.database.azure.com.example.net", "a token never goes to"),
        ("evilpostgres.database.azure.com", "a token never goes to"),
        ("postgres.database.azure.com", "a token never goes to"),
        (".postgres.database.azure.com", "a token never goes to"),
        ("a..postgres.database.azure.com", "a token never goes to"),
        (HOST + "..", "a token never goes to"),
        (f" {HOST}", "host contains white space"),
        (f"{HOST}\n", "host ends in a line break"),
        (f"{HOST}:5432", f'write host="{HOST}", port=5432'),
        (f"user@{HOST}", "host contains a user"),
        (f"evil.example/{HOST}", "host contains a path"),
        ("a.postgres.database.azure\u3002com", "a character that no host name has"),
        ("\u212a.postgres.database.azure.com", "a token never goes to"),
        ("a.postgres.databa\u017fe.azure.com", "a token never goes to"),
        ("db", "a token never goes to 'db'"),
        ("192.0.2.1", "'192.0.2.1' is not one"),
        ("::1", "'::1' is not one"),
        ("localhost", "server=\"myserver\", host='localhost'"),
        ("/run/postgresql", "never goes through a Unix socket"),
        (f"/tmp/{HOST}", "never goes through a Unix socket"),
        (f"@{HOST}", "never goes through a Unix socket"),
        (f"C:\\{HOST}", "never goes through a Unix socket"),
        (f"{HOST},evil.example", "a token never goes to 'evil.example'"),
        (f"evil.example,{HOST}", "a token never goes to 'evil.example'"),
        (f"{HOST},a.postgres.database.chinacloudapi.cn", "hosts of one cloud only"),
        (f"{HOST},a.postgres.cosmos.azure.com", "hosts of one cloud only"),
        (f"a.postgres.cosmos.azure.com,{HOST}", "hosts of one cloud only"),
        (f"{HOST},", "has an empty entry"),
        (f",{HOST}", "has an empty entry"),
        (",", "has an empty entry"),
    ],
)
def test_a_token_goes_nowhere_else(problems: Problems, host: str, told: str) -> None:
    """Any other host is refused before a token is asked for."""
    assert told in "\n".join(problems(host=host))


def test_an_address_alone_gets_no_token(problems: Problems) -> None:
    """An address has no name to verify: the server's name is asked for."""
    (problem,) = problems(hostaddr="192.0.2.1")
    assert 'add server="myserver"' in problem


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "/tmp", "evil.example"])
def test_a_refused_host_tells_of_the_password(problems: Problems, host: str) -> None:
    """A developer's own server needs no token: the error names password=."""
    assert "pass password=" in problems(host=host)[0]


def test_a_refused_host_tells_where_a_token_goes(problems: Problems) -> None:
    """The suffixes of the cloud that is meant are in the error."""
    (problem,) = problems(host="evil.example", cloud="cosmos")
    assert "under .postgres.cosmos.azure.com or .postgres.database.azure.com: write" in problem


@pytest.mark.parametrize("credential", ["credential", "client_id"])
def test_the_rule_holds_however_entra_was_chosen(problems: Problems, credential: str) -> None:
    """A credential or a client id opens no other host."""
    options: dict[str, Any] = {credential: Untouched() if credential == "credential" else "an-id"}
    (problem,) = problems(host="evil.example", **options)
    assert "a token never goes to" in problem


@pytest.mark.parametrize("source", ["keyword", "key/value", "uri", "variable", "service"])
def test_the_rule_holds_for_every_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, problems: Problems, source: str
) -> None:
    """A foreign host is refused wherever it was written."""
    conninfo, options = "", {}
    if source == "keyword":
        options["host"] = "evil.example"
    elif source == "key/value":
        conninfo = "host=evil.example"
    elif source == "uri":
        conninfo = "postgresql://evil%2Eexample/db"
    elif source == "variable":
        monkeypatch.setenv("PGHOST", "evil.example")
    else:
        (tmp_path / "s").write_text("[s]\nhost=evil.example\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "s"))
        monkeypatch.setenv("PGSERVICE", "s")
    (problem,) = problems(conninfo, **options)
    assert "a token never goes to 'evil.example'" in problem


def test_no_host_at_all_is_a_problem(problems: Problems) -> None:
    """The default socket of libpq is never taken: server= and PGHOST are named."""
    (problem,) = problems("dbname=x")
    assert 'server="myserver"' in problem
    assert "PGHOST" in problem


def test_no_host_at_all_is_a_problem_for_a_password_too(problems: Problems) -> None:
    """The default socket is not taken for a password either."""
    (problem,) = problems(password="x")
    assert "no host is given" in problem


# Clouds


def test_a_cloud_of_the_users_own_opens_its_suffix(planned: Planned) -> None:
    """A Cloud's suffix is where its token may go, verified by its own roots."""
    root = frozenset(sorted(AZURE_ROOTS)[:1])
    own = azpg.Cloud("own", OWN.suffixes, OWN.scope, OWN.authority, root)
    plan = planned(host="a.pg.example.net", cloud=own)
    assert (plan.auth, plan.cloud, plan.roots) == ("entra", own, root)
    assert plan.params["sslmode"] == "verify-full"


@pytest.mark.parametrize("host", [HOST, "a.pg.example.net.example.org", "pg.example.net"])
def test_a_named_cloud_covers_its_own_suffixes_alone(problems: Problems, host: str) -> None:
    """With cloud= given, a host of any other suffix is refused, Azure's public one too."""
    assert problems(host=host, cloud=OWN)


@pytest.mark.parametrize("name", ["public", "usgov", "china", "cosmos", "bleu"])
def test_a_cloud_is_known_by_its_name(planned: Planned, name: str) -> None:
    """cloud= takes a name, and completes a short server name with its first suffix."""
    plan = planned(server="My-Server", cloud=name)
    assert plan.cloud.name == name
    assert plan.params["host"] == "my-server" + plan.cloud.suffixes[0]


def test_an_unknown_clouds_error_lists_the_known(problems: Problems) -> None:
    """A misspelt cloud is refused with the good names."""
    (problem,) = problems(server="x", cloud="azure")
    assert problem == (
        "cloud='azure' is not a cloud: write one of 'public', 'usgov', 'china', 'cosmos', "
        "'cosmos-china', 'horizondb', 'bleu', or pass an azpg.Cloud"
    )


@pytest.mark.parametrize("host", ["evil.horizondb.azure.com.example.net", "horizondb.azure.com"])
def test_a_token_goes_to_no_other_host_of_a_new_cloud(problems: Problems, host: str) -> None:
    """A name that only contains or equals the domain of HorizonDB gets no token."""
    (problem,) = problems(host=host)
    assert "a token never goes to" in problem


@pytest.mark.parametrize("options", [{}, {"password": "x"}], ids=["entra", "password"])
@pytest.mark.parametrize("cloud", ["horizondb", KNOWN["horizondb"].replace(name="mine")])
def test_a_horizondb_server_has_no_short_name(
    problems: Problems, options: dict[str, Any], cloud: Any
) -> None:
    """Three labels stand before the suffix, so that a short name cannot be completed."""
    (problem,) = problems(server="myserver", cloud=cloud, **options)
    assert "server='myserver' is a short name" in problem
    assert "<cluster>.<cluster id>.<region>.horizondb.azure.com" in problem


def test_a_horizondb_server_has_a_full_name(planned: Planned) -> None:
    """With it the cloud need not be named."""
    host = "c.1a2b.westus3.horizondb.azure.com"
    plan = planned(server=host)
    assert (plan.params["host"], plan.cloud.name, plan.auth) == (host, "horizondb", "entra")


NO_SCOPE_HOST = "c.postgres.cosmos.chinacloudapi.cn"
UNKNOWN_SCOPE = azpg.Cloud("mine", (".pg.example.net",), "", "login.example.net")


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        (NO_SCOPE_HOST, None),
        (NO_SCOPE_HOST, "cosmos-china"),
        ("a.pg.example.net", UNKNOWN_SCOPE),
    ],
)
def test_a_cloud_without_a_scope_gets_no_token(problems: Problems, host: str, cloud: Any) -> None:
    """The error says how to give the scope."""
    (problem,) = problems(host=host, cloud=cloud)
    name = "cosmos-china" if cloud is None or isinstance(cloud, str) else cloud.name
    assert f"cloud=azpg.Cloud({name!r}" in problem
    assert "scope='https://" in problem
    with pytest.raises(azpg.ConfigError, match="scope='https://"):
        azpg.EntraPassword(cloud=cloud or "cosmos-china")


def test_a_cloud_without_a_scope_takes_a_password(planned: Planned) -> None:
    """Its hosts are Azure's all the same: verified in full, by the pinned roots."""
    plan = planned(host=NO_SCOPE_HOST, password="x", sslmode="require")
    assert (plan.params["sslmode"], plan.roots) == ("verify-full", AZURE_ROOTS)


def test_a_scope_of_ones_own_opens_the_cloud_without_one(planned: Planned) -> None:
    """A Cloud with the same suffix and a scope gets its token there."""
    own = KNOWN["cosmos-china"].replace(scope="https://token.example.cn/.default")
    plan = planned(host=NO_SCOPE_HOST, cloud=own)
    assert (plan.auth, plan.cloud, plan.roots) == ("entra", own, AZURE_ROOTS)


def test_an_old_cosmos_cluster_is_told_by_cloud(planned: Planned) -> None:
    """A cluster of before 2023 has a public name: cloud="cosmos" gives it the right token."""
    plan = planned(host="c.cluster.postgres.database.azure.com", cloud="cosmos")
    assert plan.cloud is azpg.COSMOS_POSTGRES


def test_a_cosmos_clusters_hosts_may_have_either_suffix(planned: Planned) -> None:
    """Named by the caller, that cloud covers a list over both of its suffixes."""
    hosts = "c.a.postgres.database.azure.com,c.b.postgres.cosmos.azure.com"
    assert planned(host=hosts, cloud="cosmos").cloud is azpg.COSMOS_POSTGRES


def test_a_cloud_mismatch_names_both(problems: Problems) -> None:
    """A host of one cloud with the name of another is refused in their names."""
    (problem,) = problems(host=HOST, cloud="china")
    assert "'public'" in problem
    assert "'china'" in problem


# server


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("myserver", HOST),
        ("MyServer", HOST),
        ("my-server-1", "my-server-1.postgres.database.azure.com"),
        (HOST, HOST),
        (HOST.upper() + ".", HOST),
        ("a.postgres.database.chinacloudapi.cn", "a.postgres.database.chinacloudapi.cn"),
    ],
)
def test_server_is_a_short_name_or_a_full_one(handed: Handed, server: str, host: str) -> None:
    """A short name is completed, a full one taken as it is."""
    assert handed(server=server)["host"] == host


@pytest.mark.parametrize("server", ["", "my_server", "a.b", "evil.example", "k\u212a", "a."])
def test_server_takes_no_other_name(problems: Problems, server: str) -> None:
    """Anything else as server is refused, also with a password, and named."""
    for options in ({}, {"password": "x"}):
        (problem,) = problems(server=server, **options)
        assert problem.startswith(f"server={server!r} is not" if server else "server is not")
        assert 'server="myserver"' in problem


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("my server", "contains white space"),
        ("/tmp", "contains a path"),
        ("a,b", "a character that no host name has"),
        (f"{HOST}:5432", f'write server="{HOST}", port=5432'),
        (f"postgresql://{HOST}/db", "a URL"),
        (f"app@{HOST}", "contains a user"),
    ],
)
def test_a_server_that_is_nearly_right_is_named(problems: Problems, server: str, told: str) -> None:
    """A port, a scheme, a path or a user in server= is named for what it is."""
    for options in ({}, {"password": "x"}):
        (problem,) = problems(server=server, **options)
        assert told in problem


def test_host_is_never_expanded(handed: Handed) -> None:
    """A host without a dot is the compose file's, not Azure's."""
    assert handed(host="db", password="x")["host"] == "db"


# server and host: the name and the way


def test_host_beside_server_is_looked_up_and_reached(handed: Handed) -> None:
    """An ssh tunnel: the server's name is verified, localhost is where it is reached."""
    params = handed(server="myserver", host="127.0.0.1", port=15432)
    assert params["host"] == HOST
    assert params["hostaddr"] == "127.0.0.1"
    assert params["port"] == "15432"
    assert params["sslmode"] == "verify-full"


def test_every_host_beside_server_stands_for_it(handed: Handed) -> None:
    """A list of ways is spread: the name once for each, ports kept beside their hosts."""
    params = handed(server="myserver", host="127.0.0.1,127.0.0.2", port="5433,5434")
    assert params["host"] == f"{HOST},{HOST}"
    assert params["hostaddr"] == "127.0.0.1,127.0.0.2"
    assert params["port"] == "5433,5434"


def test_the_hosts_that_are_reached_are_in_the_plan(planned: Planned) -> None:
    """They are looked up on each attempt, so the plan holds the names, not the addresses."""
    plan = planned(server="myserver", host="bastion.example.net", password="x")
    assert plan.lookup_hosts == ("bastion.example.net",)
    assert "hostaddr" not in plan.params


def test_a_host_of_many_addresses_is_spread_with_its_port() -> None:
    """Each name and port stands once for each address it was found at."""
    params = {"host": "a,a", "port": "1,2", "user": "u"}
    assert with_addresses(params, [["192.0.2.1", "::1"], ["192.0.2.3"]]) == {
        "host": "a,a,a",
        "port": "1,1,2",
        "hostaddr": "192.0.2.1,::1,192.0.2.3",
        "user": "u",
    }
    assert with_addresses({"host": "a,a", "port": "1"}, [["::1"], ["::2"]])["port"] == "1,1"


def test_hostaddr_beside_server_is_the_way(handed: Handed) -> None:
    """An address does what host does, with nothing to look up."""
    params = handed(server="myserver", hostaddr="192.0.2.1,192.0.2.2", port=1)
    assert params["host"] == f"{HOST},{HOST}"
    assert params["hostaddr"] == "192.0.2.1,192.0.2.2"


def test_pghost_does_not_lead_server_astray(
    monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    """A PGHOST that lies about counts for nothing beside server=."""
    monkeypatch.setenv("PGHOST", "evil.example")
    plan = planned(server="myserver")
    assert plan.params["host"] == HOST
    assert not plan.lookup_hosts


def test_pghostaddr_leads_server_and_warns(
    monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    """PGHOSTADDR redirects, as the emulator's export does, and one warning says so."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.77")
    plan = planned(server="myserver")
    assert plan.params["hostaddr"] == "127.0.0.77"
    (warning,) = plan.warnings
    assert warning.startswith(f"PGHOSTADDR decides how {HOST} is reached")


def test_a_redirection_of_another_host_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, planned: Planned
) -> None:
    """Only Azure hosts are warned of."""
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.77")
    assert not planned(host="db", password="x").warnings


@pytest.mark.parametrize("host", ["/tmp", "@abstract", "a,", "/tmp,127.0.0.1"])
def test_server_is_never_reached_through_a_socket(problems: Problems, host: str) -> None:
    """Beside server only a name or an address is a way."""
    (problem,) = problems(server="myserver", host=host)
    assert "is not a name or an address" in problem


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": f"{HOST},{HOST}", "hostaddr": "192.0.2.1"}, "host has 2 entries and hostaddr 1"),
        (
            {"server": "a", "hostaddr": "192.0.2.1,192.0.2.2", "port": "1,2,3"},
            "3 entries for 2 hosts",
        ),
        ({"server": "a", "host": "127.0.0.1,127.0.0.2", "port": "1,2,3"}, "3 entries for 2 hosts"),
        ({"host": f"{HOST},{HOST}", "port": "1,2,3"}, "port has 3 entries for 2 hosts"),
    ],
)
def test_lists_have_to_match(problems: Problems, options: dict[str, Any], told: str) -> None:
    """Hosts, addresses and ports are lists of one length."""
    (problem,) = problems(**options)
    assert re.search(told, problem)


def test_hosts_may_be_given_with_an_address_each(handed: Handed) -> None:
    """An empty address is looked up, as in libpq."""
    params = handed(host=f"{HOST},b.postgres.database.azure.com", hostaddr="192.0.2.1,")
    assert params["hostaddr"] == "192.0.2.1,"


def test_the_rule_needs_no_libpq() -> None:
    """The rules are pure: a machine that knows no more than host and port is judged the same."""
    said = {"host": Parameter("evil.example", "conninfo")}
    machine = Platform(
        libpq_version=18,
        defaults={},
        keywords=frozenset({"host", "port"}),
        is_linux=False,
        has_user_root_crt=False,
    )
    _, problems = resolve(said, OptionSummary(), machine)
    assert "a token never goes to" in problems[0]
