"""The pictures in the documentation: what is drawn is what the code does."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from cryptography import x509

from azpg import _retry
from azpg._tls import roots
from azpg._tokens.refresh_policy import (
    REFRESH_BACKOFF_INITIAL_SECONDS,
    REFRESH_BACKOFF_MAX_SECONDS,
    refresh_delay,
)
from azpg._tokens.token import MIN_REMAINING_SECONDS, ClockReading, Token

ROOT = Path(__file__).parent.parent
EXPLANATION = ROOT / "docs" / "explanation"
PICTURES = sorted(EXPLANATION.glob("*.svg"))
HOUR, DAY = 3600.0, 86400.0
TO = "\N{EN DASH}"


def texts(name: str) -> list[str]:
    """Return the words of a picture, element by element."""
    return [" ".join("".join(each.itertext()).split()) for each in drawn(EXPLANATION / name)]


def drawn(path: Path) -> list[ET.Element]:
    """Return what a picture writes."""
    return list(ET.parse(path).iter("{http://www.w3.org/2000/svg}text"))


def asked_ahead(life: float, refresh_on: float | None) -> list[float]:
    """Return the seconds after which the next token is asked for at the earliest and latest."""
    token = Token.from_response("", life, refresh_on, ClockReading(0.0, 0.0))
    return [refresh_delay(token, jitter) for jitter in (min, max)]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_shown_and_reads_well(path: Path) -> None:
    """Some page shows it with its words, it has a dark mode, and a phone shows it in full size."""
    pages = "".join(page.read_text("utf-8") for page in EXPLANATION.glob("*.md"))
    assert re.search(rf"!\[[^\]]{{40,}}\]\({path.name}\)", pages)
    text = path.read_text("utf-8")
    assert "prefers-color-scheme: dark" in text
    assert ' viewBox="0 0 360 ' in text
    assert min(map(float, re.findall(r"font-size[:=] ?\"?([\d.]+)", text))) > 11


def test_the_life_of_a_token_is_drawn_to_the_second() -> None:
    """An hour's and a day's token: asked for ahead, kept back, ended."""
    words = texts("token.svg")
    earliest, latest = asked_ahead(HOUR, None)
    assert f"{earliest / 60:.0f}:00{TO}" in words
    assert f"{latest / 60:.0f}:00" in words
    earliest, latest = asked_ahead(DAY, DAY / 2)
    assert f"{earliest / 3600:.0f}:00{TO}" in words
    assert f"{latest // 3600:.0f}:{latest % 3600 / 60:.0f}" in words
    assert f"The last {MIN_REMAINING_SECONDS:.0f} s" in words
    assert {
        f"59:{60 - MIN_REMAINING_SECONDS:.0f}",
        f"23:59:{60 - MIN_REMAINING_SECONDS:.0f}",
    } <= set(words)
    initial = REFRESH_BACKOFF_INITIAL_SECONDS
    pauses = (initial, 2 * initial, REFRESH_BACKOFF_MAX_SECONDS)
    assert "within {:.0f} s, then {:.0f} s, and so on up to {:.0f} s".format(*pauses) in " ".join(
        words
    )


def test_the_steps_of_a_connection_name_their_modules() -> None:
    """Each module that is drawn is there, and the page names it too."""
    modules = {word for word in texts("connection.svg") if word.startswith("_")}
    page = (EXPLANATION / "connection.md").read_text("utf-8")
    assert len(modules) == 6
    for module in modules:
        name = module.rstrip("/")
        assert (ROOT / "azpg" / name).is_dir() or (ROOT / "azpg" / f"{name}.py").is_file()
        assert f"`{name}" in page
    assert f"again from 3, for {_retry.DEFAULT_RETRY_TIMEOUT_SECONDS:.0f} s" in " ".join(
        texts("connection.svg")
    )


def test_the_roots_of_the_page_are_the_pinned_ones() -> None:
    """Their names, the years in which they end, and how many there are."""
    certificates = x509.load_pem_x509_certificates(roots.PEM_FILE.read_bytes())
    names = {
        str(each.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value): (
            str(each.not_valid_after_utc.year)
        )
        for each in certificates
    }
    page = (EXPLANATION / "roots.md").read_text("utf-8")
    assert dict(re.findall(r"^\| (\w[\w ]+) \| (\d{4}) \|$", page, re.MULTILINE)) == names
    assert {f"They end between {min(names.values())} and {max(names.values())}"} <= {
        *texts("roots.svg")
    }
