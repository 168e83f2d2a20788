"""The page of refusals: each call on it is refused, in the words that stand under it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import azure.identity
import pytest

import azpg

if TYPE_CHECKING:
    from azpg.emulator import Emulator

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "refusals.md"
CALLS, ON_THE_WAY = PAGE.read_text("utf-8").split("\n## On the network\n")
REFUSED = re.findall(r"```py\n(.*?)\n```\n\n```text\n(.*?)\n```", CALLS, re.DOTALL)
FAULTS: list[dict[str, Any]] = [
    {"tls": "stripped"},
    {"certificate": "other-name"},
    {"certificate": "other-root"},
]
SAID = re.findall(r"```text\n(.*?)\n```", ON_THE_WAY, re.DOTALL)


@pytest.mark.parametrize(("code", "words"), REFUSED, ids=lambda part: part[:60])
def test_a_call_is_refused_as_the_page_says(code: str, words: str) -> None:
    """Word for word, as a ConfigError."""
    with pytest.raises(azpg.ConfigError) as caught:
        eval(code, {"azpg": azpg, "DefaultAzureCredential": azure.identity.DefaultAzureCredential})
    assert str(caught.value) == words


def test_every_call_has_its_words() -> None:
    """No block of the page stands alone."""
    assert len(REFUSED) == CALLS.count("```py\n") == CALLS.count("```text\n")


@pytest.mark.parametrize(("fault", "words"), list(zip(FAULTS, SAID, strict=True)))
def test_a_server_is_refused_as_the_page_says(
    azure: Emulator, fault: dict[str, Any], words: str
) -> None:
    """A TLSError with these words, and the server is sent no token."""
    before = azure.counts
    with azure.fault(**fault), pytest.raises(azpg.TLSError) as caught:
        azpg.connect(server="myserver")
    assert words.rstrip(".") in str(caught.value)
    assert (azure.counts - before).sign_ins == (azure.counts - before).refused_sign_ins == 0
