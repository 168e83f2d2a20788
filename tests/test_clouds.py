"""The table of clouds, held against Azure's own documents."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import azpg
from azpg import _clouds

CLOUDS = [azpg.AZURE_PUBLIC, azpg.AZURE_US_GOV, azpg.AZURE_CHINA, azpg.COSMOS_POSTGRES]
ROOT = "ab" * 32

LABELS = st.text("aZ09_-", max_size=3)
TEXTS = st.text() | st.lists(LABELS, max_size=4).map(".".join)
"""Any, and such as come close to the name of a host."""


@pytest.mark.parametrize(
    ("cloud", "suffix", "scope", "authority"),
    [
        (
            azpg.AZURE_PUBLIC,
            ".postgres.database.azure.com",
            "https://ossrdbms-aad.database.windows.net/.default",
            "login.microsoftonline.com",
        ),
        (
            azpg.AZURE_US_GOV,
            ".postgres.database.usgovcloudapi.net",
            "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
            "login.microsoftonline.us",
        ),
        (
            azpg.AZURE_CHINA,
            ".postgres.database.chinacloudapi.cn",
            "https://ossrdbms-aad.database.chinacloudapi.cn/.default",
            "login.chinacloudapi.cn",
        ),
        (
            azpg.COSMOS_POSTGRES,
            ".postgres.cosmos.azure.com",
            "https://token.postgres.cosmos.azure.com/.default",
            "login.microsoftonline.com",
        ),
    ],
)
def test_a_cloud_is_what_azure_documents(
    cloud: azpg.Cloud, suffix: str, scope: str, authority: str
) -> None:
    """Suffix, scope and authority of each cloud."""
    assert (cloud.suffixes[0], cloud.scope, cloud.authority) == (suffix, scope, authority)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_pins_all_of_azures_roots(cloud: azpg.Cloud) -> None:
    """The same seven everywhere."""
    assert len(cloud.roots) == 7
    assert cloud.roots == _clouds.AZURE_ROOTS


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_host_is_its_suffixs_cloud(cloud: azpg.Cloud) -> None:
    """Found by suffix, and by name."""
    assert _clouds.cloud_of("a.b" + cloud.suffixes[0]) is cloud
    assert _clouds.cloud_named(cloud.name) is cloud


def test_the_shared_suffix_means_the_public_cloud() -> None:
    """Old Cosmos clusters share it, and are named by the caller."""
    assert _clouds.cloud_of("c.x.postgres.database.azure.com") is azpg.AZURE_PUBLIC
    assert azpg.COSMOS_POSTGRES.covers("c.x.postgres.database.azure.com")


@pytest.mark.parametrize("name", ["Public", "azure", ""])
def test_an_unknown_name_is_no_cloud(name: str) -> None:
    """Names are exact."""
    assert _clouds.cloud_named(name) is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.b", "a.b"),
        ("A.b.", "a.b"),
        ("a_b-c.1", "a_b-c.1"),
        ("a..b", None),
        (".a", None),
        ("a.b..", None),
        ("", None),
        (".", None),
        ("a b", None),
        ("a\n", None),
        ("a/b", None),
        ("@a", None),
        ("a,b", None),
        ("a:1", None),
        ("ä.b", None),
        ("a\u3002b", None),
        ("\u212a", None),
        ("a\0b", None),
    ],
)
def test_a_plain_name_is_ascii_labels(host: str, name: str | None) -> None:
    """Nothing that libpq, or the resolver, might read in another way is a name."""
    assert _clouds.plain(host) == name


@given(TEXTS)
@example("\u212aelvin.b\n")
def test_a_name_is_what_the_grammar_says(text: str) -> None:
    """Whatever is said is a name exactly where it is ASCII labels with dots between, to its end."""
    grammar = re.fullmatch(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?", text)
    assert _clouds.plain(text) == (grammar and grammar[1].lower())


@settings(max_examples=400)
@given(TEXTS.map(".{}".format) | TEXTS)
@example(".example.net")
@example(".0.net")
@example(".example.0")
@example(".a_b.net")
@example(".example.a_b")
def test_a_suffix_is_what_the_grammar_says(text: str) -> None:
    """A dot, and a domain in lower case of two labels or more, the last of which is no number."""
    if re.fullmatch(r"(?:\.[a-z0-9_-]+)+\.[a-z][a-z0-9-]*", text):
        assert azpg.AZURE_PUBLIC.replace(suffixes=(text,)).suffixes == (text,)
    else:
        with pytest.raises(ValueError, match="suffix"):
            azpg.AZURE_PUBLIC.replace(suffixes=(text,))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"suffixes": ()}, "at least one suffix"),
        ({"suffixes": ("pg.example.net",)}, "is a dot and a lower-case domain"),
        ({"suffixes": (".Pg.example.net",)}, "is a dot and a lower-case domain"),
        ({"suffixes": (".net",)}, "is a dot and a lower-case domain"),
        ({"suffixes": (".",)}, "is a dot and a lower-case domain"),
        ({"suffixes": ("",)}, "is a dot and a lower-case domain"),
        ({"suffixes": (".0.2.1",)}, "is a dot and a lower-case domain"),
        ({"suffixes": (".pg.example.net", "")}, "is a dot and a lower-case domain"),
        ({"roots": frozenset()}, "at least one root"),
        ({"roots": frozenset({ROOT.upper()})}, "64 lower-case hex digits"),
        ({"roots": frozenset({ROOT, "ab:cd"})}, "64 lower-case hex digits"),
    ],
)
def test_a_cloud_that_would_cover_too_much_is_refused(changes: dict[str, Any], told: str) -> None:
    """A suffix or a fingerprint of the wrong form is a ValueError."""
    good: dict[str, Any] = {
        "name": "own",
        "suffixes": (".pg.example.net",),
        "scope": "https://own/.default",
        "authority": "login.example.net",
    }
    assert azpg.Cloud(**good).covers("a.pg.example.net")
    with pytest.raises(ValueError, match=told):
        azpg.Cloud(**good | changes)


def test_a_cloud_is_a_value() -> None:
    """Frozen, equal by what it says, its fingerprints not in its repr."""
    copy = azpg.AZURE_PUBLIC.replace()
    assert copy == azpg.AZURE_PUBLIC
    assert hash(copy) == hash(azpg.AZURE_PUBLIC)
    assert "roots" not in repr(copy)
    with pytest.raises(AttributeError, match="frozen"):
        copy.name = "other"  # type: ignore[misc]  # what is tested


def test_a_cloud_may_come_out_of_json() -> None:
    """There its suffixes and roots are lists."""
    public = azpg.AZURE_PUBLIC
    told = json.loads(json.dumps({"suffixes": public.suffixes, "roots": sorted(public.roots)}))
    own = azpg.Cloud(public.name, scope=public.scope, authority=public.authority, **told)
    assert own == public
    assert hash(own) == hash(public)


@pytest.mark.parametrize(
    ("name", "socket"),
    [
        *((path, True) for path in ("/tmp", "@x", "C:\\x", "c:/x", "/", "@", "z:/")),
        *((name, False) for name in ("db", "::1", "", "c:", "1:/x", "cc:/x", "\u00e9:/x", "a/b")),
    ],
)
def test_a_socket_is_told_by_its_first_letters(name: str, socket: bool) -> None:
    """As in libpq."""
    assert _clouds.is_socket(name) is socket
