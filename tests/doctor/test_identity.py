"""What the doctor makes of the identity that signs in: variables, claims, audience, clock."""

from __future__ import annotations

from typing import Any

import pytest

from azpg._clouds import AZURE_PUBLIC, AZURE_US_GOV, CLOUDS
from azpg._doctor import token

NOW = 1_800_000_000.0


def test_only_what_decides_is_shown_and_no_secret_of_it() -> None:
    """Variables that name an identity are shown, those that hold a secret are masked."""
    environ = {
        "AZURE_CLIENT_ID": "an id",
        "AZURE_CLIENT_SECRET": "geheim",
        "HTTPS_PROXY": "http://u:geheim@proxy",
        "IDENTITY_HEADER": "geheim",
        "MSI_ENDPOINT": "",
        "PATH": "/bin",
    }
    shown = list(token.variables(environ))
    assert shown == ["AZURE_CLIENT_ID=an id", "AZURE_CLIENT_SECRET=…", "HTTPS_PROXY=…"]


def test_a_service_principal_has_no_name() -> None:
    """A token that names nobody says so, beside its application."""
    facts = token.facts({"appid": "an app", "oid": "an object", "sub": "x"})
    assert facts == {
        "user": "the token names none",
        "object_id": "an object",
        "application_id": "an app",
    }


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.name)
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_right_audience(cloud: Any, slash: str) -> None:
    """Each cloud's own audience is right, with its slash or without."""
    audience = cloud.scope.removesuffix("/.default") + slash
    assert token.judged({"aud": audience}, cloud, NOW).status == "ok"


@pytest.mark.parametrize("claims", [{}, {"aud": "123cd850-d9df-40bd-94d5-c9f07b7fa203"}], ids=str)
def test_an_audience_that_cannot_be_told(claims: dict[str, object]) -> None:
    """A GUID, or none at all, is not guessed about."""
    assert token.judged(claims, AZURE_PUBLIC, NOW).status == "ok"


@pytest.mark.parametrize(
    ("audience", "hint"),
    [
        ("https://ossrdbms-aad.database.usgovcloudapi.net", "cloud='usgov'"),
        ("https://token.postgres.cosmos.azure.com/", "cloud='cosmos'"),
        ("https://management.azure.com", "give another credential"),
    ],
)
def test_the_wrong_audience(audience: str, hint: str) -> None:
    """A token for something else fails, and another cloud's is named."""
    found = token.judged({"aud": audience}, AZURE_PUBLIC, NOW)
    assert found.status == "failed"
    assert audience.rstrip("/") in found.problem
    assert AZURE_PUBLIC.scope.removesuffix("/.default") in found.problem
    assert found.hint.endswith(hint)


@pytest.mark.parametrize(
    ("begins", "status"), [(-300, "ok"), (0, "ok"), (59, "ok"), (61, "warning"), (3600, "warning")]
)
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_clock_that_is_behind(begins: int, status: str, claim: str) -> None:
    """A token that begins in the future betrays the clock of this machine."""
    claims = {"aud": AZURE_US_GOV.scope.removesuffix("/.default"), claim: int(NOW) + begins}
    found = token.judged(claims, AZURE_US_GOV, NOW)
    assert found.status == status
    assert ("timedatectl" in found.hint) is (status == "warning")
