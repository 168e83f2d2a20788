"""What a token says of its owner."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import azpg
from azpg import _jwt
from azpg._tokens import token as token_module

ALICE = {"tid": "t", "oid": "alice", "sub": "a"}
GROUP = "/subscriptions/0/resourcegroups/rg/providers/"


def jwt(claims: object) -> str:
    """Write a token with these claims, unsigned."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.signature"


def token(claims: object) -> token_module.Token:
    """Return a token with these claims as it came in."""
    now = token_module.ClockReading(0.0, 1_800_000_000.0)
    expires_on = now.wall + 3600
    return token_module.Token.from_response(jwt(claims), expires_on, None, now)


def test_a_token_knows_its_role() -> None:
    """It is read once, when the token comes in."""
    assert token({"upn": "alice@contoso.com"}).role() == "alice@contoso.com"


def test_a_token_that_names_nobody_says_so() -> None:
    """With the ids that it does hold, and what to type."""
    with pytest.raises(azpg.CredentialError, match="appid an-id") as caught:
        token({"appid": "an-id"}).role()
    assert caught.value.kind == "no-user"
    assert 'user="' in caught.value.hint


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"upn": "alice@contoso.com"}, "alice@contoso.com"),
        ({"upn": "bob_example.com#EXT#@contoso.com"}, "bob_example.com#EXT#@contoso.com"),
        ({"preferred_username": "alice@contoso.com"}, "alice@contoso.com"),
        ({"unique_name": "alice@contoso.com"}, "alice@contoso.com"),
        ({"unique_name": "c", "preferred_username": "b", "upn": "a"}, "a"),
        ({"unique_name": "c", "preferred_username": "b"}, "b"),
        ({"upn": "", "preferred_username": "b"}, "b"),
        ({"upn": None, "unique_name": "c"}, "c"),
        ({"upn": ["a"], "unique_name": "c"}, "c"),
        (
            {
                "xms_mirid": GROUP
                + "Microsoft.ManagedIdentity/userAssignedIdentities/myapp-identity"
            },
            "myapp-identity",
        ),
        ({"xms_mirid": GROUP + "Microsoft.Compute/virtualMachines/myvm"}, "myvm"),
        ({"xms_mirid": GROUP + "Microsoft.Compute/virtualMachines/myvm/"}, "myvm"),
        ({"xms_mirid": GROUP + "Microsoft.Web/sites/mysite"}, "mysite"),
        ({"xms_mirid": GROUP + "Microsoft.Web/sites/myfunction"}, "myfunction"),
        (
            {"xms_mirid": GROUP + "Microsoft.Web/sites/mysite/slots/staging"},
            "mysite/slots/staging",
        ),
        ({"xms_mirid": GROUP + "Microsoft.Web/sites/mysite", "upn": "alice"}, "alice"),
        ({"xms_mirid": "garbage", "upn": "alice"}, "alice"),
        ({"xms_mirid": 7, "unique_name": "alice"}, "alice"),
        ({"xms_mirid": "garbage"}, None),
        ({"xms_mirid": "two/parts"}, None),
        ({"xms_mirid": "three/parts/enough"}, "enough"),
        ({"xms_mirid": ""}, None),
        ({"xms_mirid": "///"}, None),
        ({"xms_mirid": 7}, None),
        ({"appid": "an-id", "oid": "another"}, None),
        ({}, None),
    ],
)
def test_the_user_is_in_the_claims(claims: dict[str, Any], user: str | None) -> None:
    """A person's name first, then a managed identity's resource; else nobody."""
    assert token_module.claimed_role(_jwt.claims(jwt(claims))) == user


@pytest.mark.parametrize("text", ["a?>~", "ü" * 3, "x" * 41])
def test_claims_are_read_in_jwts_own_alphabet(text: str) -> None:
    """Base64 of URLs, without padding, of any length."""
    assert _jwt.claims(jwt({"upn": text})) == {"upn": text}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opaque",
        ".",
        "..",
        "a.b",
        "e30.!!!.x",
        "e30.é.x",
        jwt([1]),
        jwt("x"),
        jwt(None),
        "e30." + base64.b64encode(b"\xff\xfe").decode() + ".x",
        "e30." + base64.b64encode(b"[" * 100_000).decode() + ".x",
        "e30." + base64.b64encode(b'{"a":' + b"1" * 5000 + b"}").decode() + ".x",
    ],
    ids=range(13),
)
def test_garbage_has_no_claims(text: str) -> None:
    """A token that cannot be read names no user, and breaks nothing."""
    assert _jwt.claims(text) == {}


@given(st.text() | st.text(alphabet="abcXYZ019-_=.").map(lambda text: f"e30.{text}.x"))
def test_any_text_is_read_or_not(text: str) -> None:
    """Whatever a credential returns, reading it raises nothing."""
    claims = _jwt.claims(text)
    assert isinstance(claims, dict)
    assert isinstance(token_module.no_role_message(claims), str)


def test_a_service_principal_is_told_by_its_ids() -> None:
    """No name: the kind, appid and oid say whose token it is."""
    assert token_module.no_role_message({"appid": "an-id", "oid": "another"}) == (
        "the token is a service principal's and holds no name (appid an-id, oid another)"
    )
    assert "a service principal's" in token_module.no_role_message({"azp": "an-id"})


def test_a_token_of_no_kind_is_told_too() -> None:
    """Neither person nor service principal, or no JWT at all."""
    assert token_module.no_role_message({"oid": "x"}) == (
        "the token is of no known kind and holds no name (oid x)"
    )
    assert (
        token_module.no_role_message({"tid": "x"})
        == "the token is of no known kind and holds no name"
    )
    assert (
        token_module.no_role_message({}) == "the token is not a readable JWT, so it names no user"
    )


# Whose a token is


@pytest.mark.parametrize(
    ("claims", "subject"),
    [
        ({"tid": "t", "oid": "o", "sub": "s", "upn": "u"}, {"tid": "t", "oid": "o", "sub": "s"}),
        ({"oid": "o", "upn": "u"}, {"oid": "o"}),
        ({"tid": "t", "sub": "s", "upn": "u"}, {"tid": "t", "sub": "s"}),
        ({"tid": "t", "upn": "u", "azp": "a"}, {"tid": "t", "user": "u", "application": "a"}),
        ({"appid": "a", "azp": "b"}, {"application": "a"}),
        ({"oid": "", "sub": None, "tid": 7, "appid": ["a"]}, {}),
        ({"oid": {"a": 1}, "upn": "u"}, {"user": "u"}),
        ({}, {}),
    ],
)
def test_a_token_says_whose_it_is(claims: dict[str, Any], subject: dict[str, str]) -> None:
    """By the ids of tenant and user; by its names only if it has neither `oid` nor `sub`."""
    assert token_module.subject(claims) == subject


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (ALICE, True),
        ({"oid": "alice"}, True),
        ({"tid": "t", "sub": "a"}, True),
        (ALICE | {"oid": "bob"}, False),
        (ALICE | {"sub": "b"}, False),
        (ALICE | {"tid": "another"}, False),
        ({"sub": "b"}, False),
        ({"tid": "t"}, False),
        ({"user": "alice"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_two_tokens_are_of_one_user_or_not(other: dict[str, str], same: bool) -> None:
    """They are one user's if they have an id in common and contradict each other in none."""
    assert token_module.is_same_subject(ALICE, other) is same
    assert token_module.is_same_subject(other, ALICE) is same
    assert token_module.is_same_subject(other, other)
