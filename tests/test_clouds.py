"""The clouds: what Azure documents of them, and which host names they cover."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import azpg
from azpg import _clouds

ROOT = "ab" * 32

LABELS = st.text("aZ09_-", max_size=3)
TEXTS = st.text() | st.lists(LABELS, max_size=4).map(".".join)
"""Any text, and texts that are almost host names."""


@pytest.mark.parametrize(
    ("name", "suffix", "scope", "authority"),
    [
        (
            "public",
            ".postgres.database.azure.com",
            "https://ossrdbms-aad.database.windows.net/.default",
            "login.microsoftonline.com",
        ),
        (
            "usgov",
            ".postgres.database.usgovcloudapi.net",
            "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
            "login.microsoftonline.us",
        ),
        (
            "china",
            ".postgres.database.chinacloudapi.cn",
            "https://ossrdbms-aad.database.chinacloudapi.cn/.default",
            "login.chinacloudapi.cn",
        ),
        (
            "cosmos",
            ".postgres.cosmos.azure.com",
            "https://token.postgres.cosmos.azure.com/.default",
            "login.microsoftonline.com",
        ),
        ("cosmos-china", ".postgres.cosmos.chinacloudapi.cn", "", "login.chinacloudapi.cn"),
        (
            "horizondb",
            ".horizondb.azure.com",
            "https://ossrdbms-aad.database.windows.net/.default",
            "login.microsoftonline.com",
        ),
        (
            "bleu",
            ".postgres.database.sovcloud-api.fr",
            "https://ossrdbms-aad.database.sovcloud-api.fr/.default",
            "login.sovcloud-identity.fr",
        ),
    ],
)
def test_clouds_match_azures_documentation(
    name: str, suffix: str, scope: str, authority: str
) -> None:
    """Each cloud has the suffix, scope and authority that Azure documents."""
    cloud = _clouds.cloud_by_name(name)
    assert cloud is not None
    assert (cloud.suffixes[0], cloud.scope, cloud.authority) == (suffix, scope, authority)


def test_every_cloud_trusts_all_roots_of_azure() -> None:
    """Each cloud trusts the same root certificates, but for those whose roots are not known."""
    roots = {cloud.name: cloud.roots for cloud in _clouds.CLOUDS}
    assert roots.pop("bleu") is None
    assert set(roots.values()) == {_clouds.AZURE_ROOTS}


@pytest.mark.parametrize("cloud", _clouds.CLOUDS, ids=lambda cloud: cloud.name)
def test_the_cloud_of_a_host(cloud: azpg.Cloud) -> None:
    """A cloud is found by the suffix of a host, and by its name."""
    assert _clouds.cloud_for_host("a.b" + cloud.suffixes[0]) is cloud
    assert _clouds.cloud_by_name(cloud.name) is cloud


def test_a_shared_suffix_means_the_public_cloud() -> None:
    """Old Cosmos clusters have the public cloud's suffix, and need cloud="cosmos"."""
    assert _clouds.cloud_for_host("c.x.postgres.database.azure.com") is azpg.AZURE_PUBLIC
    assert azpg.COSMOS_POSTGRES.covers("c.x.postgres.database.azure.com")


@pytest.mark.parametrize("name", ["Public", "azure", ""])
def test_names_of_clouds_are_exact(name: str) -> None:
    """A name in other letter case, or an empty one, finds no cloud."""
    assert _clouds.cloud_by_name(name) is None


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
def test_a_hostname_is_ascii_labels(host: str, name: str | None) -> None:
    """What libpq or the resolver could read in another way is not a host name."""
    assert _clouds.normalize_hostname(host) == name


@given(TEXTS)
@example("\u212aelvin.b\n")
def test_a_hostname_matches_its_grammar(text: str) -> None:
    """Exactly the texts that consist of ASCII labels, separated by dots, are host names."""
    grammar = re.fullmatch(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?", text)
    assert _clouds.normalize_hostname(text) == (grammar and grammar[1].lower())


@settings(max_examples=400)
@given(TEXTS.map(".{}".format) | TEXTS)
@example(".example.net")
@example(".0.net")
@example(".example.0")
@example(".a_b.net")
@example(".example.a_b")
def test_a_suffix_matches_its_grammar(text: str) -> None:
    """A suffix is a dot and a lower-case domain of two or more labels, the last not a number."""
    if re.fullmatch(r"(?:\.[a-z0-9_-]+)+\.[a-z][a-z0-9-]*", text):
        assert azpg.AZURE_PUBLIC.replace(suffixes=(text,)).suffixes == (text,)
    else:
        with pytest.raises(ValueError, match="suffix"):
            azpg.AZURE_PUBLIC.replace(suffixes=(text,))


@pytest.mark.parametrize(
    ("changes", "message"),
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
def test_a_cloud_with_an_unsafe_suffix_or_root_is_rejected(
    changes: dict[str, Any], message: str
) -> None:
    """A suffix or a fingerprint of the wrong form is a ValueError."""
    valid: dict[str, Any] = {
        "name": "own",
        "suffixes": (".pg.example.net",),
        "scope": "https://own/.default",
        "authority": "login.example.net",
    }
    assert azpg.Cloud(**valid).covers("a.pg.example.net")
    with pytest.raises(ValueError, match=message):
        azpg.Cloud(**valid | changes)


def test_a_cloud_is_a_value() -> None:
    """A cloud is frozen and hashable, equal by its fields, and can be copied and pickled."""
    public = azpg.AZURE_PUBLIC
    copies = [public.replace(), copy.deepcopy(public), pickle.loads(pickle.dumps(public))]
    assert copies == [public] * 3
    assert {hash(each) for each in copies} == {hash(public)}
    assert dataclasses.replace(public, name="other") == public.replace(name="other") != public
    with pytest.raises(dataclasses.FrozenInstanceError):
        public.name = "other"  # type: ignore[misc]  # what is tested


def test_the_repr_of_a_cloud_omits_the_roots() -> None:
    """The fingerprints would make it unreadable."""
    assert repr(azpg.AZURE_PUBLIC).startswith("Cloud(name='public', suffixes=('.postgres")
    assert "roots" not in repr(azpg.AZURE_PUBLIC)


def test_the_roots_of_a_cloud_may_be_unknown() -> None:
    """roots=None is kept, and an empty set is none: it would trust nothing or everything."""
    assert azpg.AZURE_PUBLIC.replace(roots=None).roots is None
    assert azpg.AZURE_PUBLIC.replace(roots=None) != azpg.AZURE_PUBLIC


def test_a_cloud_without_a_scope_has_no_resource() -> None:
    """An empty scope does not make every token without an audience one of its own."""
    assert "" not in _clouds.token_resources()
    assert "https://ossrdbms-aad.database.sovcloud-api.fr" in _clouds.token_resources()


def test_a_cloud_takes_lists() -> None:
    """Lists of suffixes and roots are accepted, as JSON has them."""
    public = azpg.AZURE_PUBLIC
    roots = sorted(_clouds.AZURE_ROOTS)
    fields = json.loads(json.dumps({"suffixes": public.suffixes, "roots": roots}))
    own = azpg.Cloud(public.name, scope=public.scope, authority=public.authority, **fields)
    assert own == public
    assert hash(own) == hash(public)


@pytest.mark.parametrize(
    ("name", "socket"),
    [
        *((path, True) for path in ("/tmp", "@x", "C:\\x", "c:/x", "/", "@", "z:/")),
        *((name, False) for name in ("db", "::1", "", "c:", "1:/x", "cc:/x", "\u00e9:/x", "a/b")),
    ],
)
def test_a_socket_is_recognized_by_its_first_characters(name: str, socket: bool) -> None:
    """A host that is a path, or begins with @, is a Unix socket, as in libpq."""
    assert _clouds.is_socket(name) is socket
