"""Django: no password and no token is in the settings' repr, in frames or on error pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.views.debug import ExceptionReporter

if TYPE_CHECKING:
    from fix_django import Databases
    from fix_leaks import Leaks, Tokens

    from azpg.emulator import Emulator

pytestmark = pytest.mark.compat


@pytest.mark.parametrize("pool", [False, {"min_size": 1}])
def test_settings_and_parameters_contain_no_token(
    tokens: Tokens, databases: Databases, leaks: Leaks, pool: object
) -> None:
    """The token is in no setting, no parameter, no attribute and no log of a connection."""
    connection = databases(OPTIONS={"credential": tokens.credential, "pool": pool})
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        shown = [settings.DATABASES, connection.settings_dict, connection.get_connection_params()]
        shown += [vars(connection), vars(connection.client), vars(connection.pool or cursor)]
    (token,) = set(tokens.given)
    assert token not in repr(shown)
    leaks.none_in_logs(token)


def test_error_pages_show_no_token(tokens: Tokens, databases: Databases, leaks: Leaks) -> None:
    """Django's page for a failed authentication, with all variables of all frames, has no token."""
    connection = databases(USER="nobody", OPTIONS={"credential": tokens.credential})
    with pytest.raises(OperationalError) as caught:
        connection.ensure_connection()
    (token,) = set(tokens.given)
    leaks.none_shown(caught.value, token)
    assert token not in error_page(caught)


SECRET = "p4ss-phrase"
HOLDERS: dict[str, dict[str, Any]] = {
    "PASSWORD": {"PASSWORD": SECRET},
    "password": {"OPTIONS": {"password": SECRET}},
    "conninfo": {"OPTIONS": {"conninfo": f"password={SECRET}"}},
    "uri": {"OPTIONS": {"conninfo": f"postgresql://nobody:{SECRET}@/"}},
    "dict": {"OPTIONS": {"conninfo": {"password": SECRET}}},
    "sslpassword": {"OPTIONS": {"sslpassword": SECRET}},
    "misspelled": {"OPTIONS": {"passwrd": SECRET}},
    "pool": {"OPTIONS": {"pool": {"conninfo": f"password={SECRET}"}}},
    "pool-kwargs": {"OPTIONS": {"pool": {"kwargs": {"password": SECRET}}}},
    "pool-option": {"OPTIONS": {"pool": {"password": SECRET}}},
}


@pytest.mark.parametrize("pool", [{}, {"min_size": 1, "timeout": 5}], ids=["alone", "pool"])
@pytest.mark.parametrize("given", HOLDERS.values(), ids=HOLDERS)
def test_error_pages_show_no_password(
    azure: Emulator, databases: Databases, leaks: Leaks, given: dict[str, Any], pool: dict[str, Any]
) -> None:
    """A password in any setting is masked in all frames, and where Django shows the settings."""
    options = dict(given.get("OPTIONS", {}))
    if pool:
        options["pool"] = pool | options.get("pool", {})
    connection = databases(**given | {"USER": "nobody", "OPTIONS": options})
    with pytest.raises((OperationalError, ImproperlyConfigured, TypeError)) as caught:
        connection.ensure_connection()
    leaks.none_shown(caught.value, SECRET)
    assert SECRET not in error_page(caught)


@pytest.mark.parametrize(
    "wrong",
    [
        {"NAME": "x" * 64},
        {"OPTIONS": {"isolation_level": 99, "conninfo": f"password={SECRET}"}},
    ],
    ids=["NAME", "isolation_level"],
)
def test_settings_that_django_rejects_show_no_password(
    databases: Databases, leaks: Leaks, wrong: dict[str, Any]
) -> None:
    """An error about another setting shows no password in Django's frames."""
    connection = databases(**{"PASSWORD": SECRET, "HOST": "x", **wrong})
    with pytest.raises(ImproperlyConfigured) as caught:
        connection.ensure_connection()
    leaks.none_shown(caught.value, SECRET)


def test_a_mirror_that_cannot_be_used_shows_no_password(databases: Databases, leaks: Leaks) -> None:
    """An error about a test mirror shows no password of its primary."""
    mirror = databases(HOST="localhost")
    with pytest.raises(ImproperlyConfigured) as caught:
        mirror.creation.set_as_test_mirror({"NAME": "shop", "PASSWORD": SECRET})
    leaks.none_shown(caught.value, SECRET)


def test_other_code_reads_the_password_of_the_settings(databases: Databases) -> None:
    """DATABASES["default"]["PASSWORD"] keeps its value for other code."""
    connection = databases(PASSWORD=SECRET, HOST="x")
    params = connection.get_connection_params()
    assert params["password"] == SECRET
    assert SECRET not in repr(params)
    assert type(settings.DATABASES["default"]["PASSWORD"]) is str


def error_page(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """Return what Django shows a developer of an error, or mails to one."""
    inner = caught.tb.tb_next  # the test's own frame contains the secret
    error = caught.value.with_traceback(inner)
    reporter = ExceptionReporter(None, caught.type, error, inner)
    page = reporter.get_traceback_html()
    assert "get_new_connection" in page
    return page + reporter.get_traceback_text()
