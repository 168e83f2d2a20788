"""AKS identity bindings: the default credential requests its tokens from the cluster's proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from azure import identity

import azpg

if TYPE_CHECKING:
    from fix_api import Api
    from fix_authority import Authority, Cli
    from fix_credentials import Credentials

    from azpg.emulator import Emulator

WHO = "select current_user"


def test_a_pod_with_an_identity_binding_signs_in(
    api: Api, token_proxy: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """azure-identity's own class sends the pod's token to the proxy that the variable names."""
    caplog.set_level("INFO", logger="azpg")
    for _ in range(2):
        with api.connect() as conn:
            assert api.row(conn, WHO) == ("myapp",)
    (form,) = token_proxy.forms
    assert form["client_assertion"] == "the pod's own"
    assert (form["client_id"], form["scope"]) == ("the-app", azpg.AZURE_PUBLIC.scope)
    assert "token from WorkloadIdentityCredential" in caplog.text


def test_a_client_id_chooses_the_bound_identity(api: Api, token_proxy: Authority) -> None:
    """client_id= of azpg beats AZURE_CLIENT_ID."""
    with api.connect(client_id="another-app") as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert [form["client_id"] for form in token_proxy.forms] == ["another-app"]


def test_a_chosen_credential_beats_the_variable(
    api: Api, token_proxy: Authority, azure: Emulator, credentials: Credentials
) -> None:
    """The proxy is for the default credential alone."""
    with api.connect(credential=credentials.of(azure)) as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert token_proxy.forms == []


def test_azure_token_credentials_beats_the_variable(
    api: Api, token_proxy: Authority, az: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sets it has chosen a member of the default credential's chain."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    with api.connect() as conn:
        assert api.row(conn, WHO) == ("myapp",)
    assert token_proxy.forms == []
    assert az.starts


def test_an_older_azure_identity_says_so(
    api: Api, token_proxy: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ignore the option, and ask Microsoft Entra, which does not know the pod."""
    monkeypatch.setattr(identity, "__version__", "1.26.0b2")
    with pytest.raises(azpg.CredentialError, match=r"pip install 'azure-identity>=1\.27'"):
        api.open(retry_timeout=0)
    assert token_proxy.forms == []


def test_a_proxy_that_refuses_is_not_told_to_run_az_login(api: Api, token_proxy: Authority) -> None:
    """The error names the credential and what the proxy answered."""

    def refuse(_form: dict[str, str]) -> str:
        raise token_proxy.refusal("unauthorized_client", "AADSTS700016: no such application")

    token_proxy.give = refuse
    with pytest.raises(azpg.CredentialError, match="AADSTS700016") as caught:
        api.open(retry_timeout=0)
    assert str(caught.value).startswith("no token from WorkloadIdentityCredential: ")
    assert "the pod's own" not in str(caught.value)
