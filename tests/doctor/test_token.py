"""The doctor's check of a token: variables, claims, audience, clock."""

from __future__ import annotations

from typing import Any

import pytest

from azpg._clouds import AZURE_PUBLIC, AZURE_US_GOV, CLOUDS
from azpg._doctor.token import check_token, credential_variables, token_details
from azpg._spelling import spelled

NOW = 1_800_000_000.0


def test_variables_of_the_identity_are_shown_without_secrets() -> None:
    """A variable that holds a secret is masked, one that has no effect is left out."""
    environ = {
        "AZURE_CLIENT_ID": "an id",
        "AZURE_CLIENT_SECRET": "secret",
        "HTTPS_PROXY": "http://u:secret@proxy",
        "IDENTITY_HEADER": "secret",
        "MSI_ENDPOINT": "",
        "PATH": "/bin",
    }
    shown = list(credential_variables(environ))
    assert shown == ["AZURE_CLIENT_ID=an id", "AZURE_CLIENT_SECRET=…", "HTTPS_PROXY=…"]


def test_a_token_of_a_service_principal_has_no_user() -> None:
    """The details say so, and have the application's id."""
    assert token_details({"appid": "an app", "oid": "an object", "sub": "x"}) == {
        "user": "not in the token",
        "object_id": "an object",
        "application_id": "an app",
    }


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_audience_of_the_cloud_is_right(cloud: Any, slash: str) -> None:
    """With a trailing slash or without."""
    audience = cloud.scope.removesuffix("/.default") + slash
    assert check_token({"aud": audience}, cloud, NOW).status == "ok"


@pytest.mark.parametrize("claims", [{}, {"aud": "123cd850-d9df-40bd-94d5-c9f07b7fa203"}], ids=str)
def test_an_unknown_audience_is_no_failure(claims: dict[str, object]) -> None:
    """A GUID, or no audience at all, does not show the resource."""
    assert check_token(claims, AZURE_PUBLIC, NOW).status == "ok"


@pytest.mark.parametrize(
    ("audience", "hint"),
    [
        ("https://ossrdbms-aad.database.usgovcloudapi.net", "cloud='usgov'"),
        ("https://token.postgres.cosmos.azure.com/", "cloud='cosmos'"),
        ("https://management.azure.com", "give another credential"),
    ],
)
def test_a_wrong_audience_fails(audience: str, hint: str) -> None:
    """If it is another cloud's, the hint names that cloud."""
    result = check_token({"aud": audience}, AZURE_PUBLIC, NOW)
    assert result.status == "failed"
    assert audience.rstrip("/") in result.problem
    assert AZURE_PUBLIC.scope.removesuffix("/.default") in result.problem
    assert spelled(result.hint).endswith(hint)


@pytest.mark.parametrize(
    ("valid_in", "status"),
    [(-300, "ok"), (0, "ok"), (59, "ok"), (61, "warning"), (3600, "warning")],
)
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_that_is_not_valid_yet_is_a_warning(valid_in: int, status: str, claim: str) -> None:
    """The clock of this machine is then behind."""
    claims = {"aud": AZURE_US_GOV.scope.removesuffix("/.default"), claim: int(NOW) + valid_in}
    result = check_token(claims, AZURE_US_GOV, NOW)
    assert result.status == status
    assert ("timedatectl" in result.hint) is (status == "warning")
