"""The weekly comparison with Microsoft's lists: it notices what azpg lacks. No list is fetched."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import check_azure_lists as lists
import pytest

from azpg._clouds import AZURE_ROOTS
from azpg._tls.roots import certificates

if TYPE_CHECKING:
    from collections.abc import Callable


def page(*, without: str = "", more: str = "") -> str:
    """Return a page in the form of Microsoft's list."""
    rows = [
        f"| [A root](https://a.example/root.crt) | 0x0123<br>{sha1(der).upper()} |"
        for name, der in pinned().items()
        if name != without
    ]
    return "\n".join(
        [
            "### Root Certificate Authorities",
            "",
            "| Certificate Authority | Serial Number /<br>Thumbprint |",
            "|---- |---- |",
            *rows,
            more,
            "",
            "### Subordinate Certificate Authorities",
            f"| [An intermediate](https://a.example/x.crt) | 0x1<br>{'F' * 40} |",
        ]
    )


def pinned() -> dict[str, bytes]:
    """Return the pinned roots that the list has."""
    found = certificates(AZURE_ROOTS - lists.UNLISTED_ROOTS)
    return {name: root.der for name, root in found.items()}


def sha1(der: bytes) -> str:
    """Return a thumbprint as the list has it."""
    return hashlib.sha1(der, usedforsecurity=False).hexdigest()


def source(*domains: str) -> str:
    """Return clouds in the form of azure-cli's source."""
    return "".join(
        f"ossrdbms_resource_id='https://ossrdbms-aad.database{domain}',\n"
        f"sql_server_hostname='.database{domain}',\n"
        for domain in domains
    )


KNOWN = (".usgovcloudapi.net", ".chinacloudapi.cn", ".sovcloud-api.fr", ".cloudapi.de")


def reading(page: str, source: str) -> Callable[[str], str]:
    """Return a function that reads these lists."""
    return lambda url: page if url == lists.ROOTS_PAGE else source


def test_equal_lists_differ_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Closed clouds and the root that is pinned for another reason are no difference."""
    assert lists.main(reading(page(), source(*KNOWN))) == 0
    assert "azpg has all" in capsys.readouterr().out


def test_a_new_root_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named with its thumbprint."""
    row = f"| [Microsoft TLS RSA Root G9](https://a.example/9.crt) | 0x9<br>{'A' * 40} |"
    assert lists.main(reading(page(more=row), source(*KNOWN))) == 3
    assert f"Microsoft TLS RSA Root G9, SHA-1 {'a' * 40}" in capsys.readouterr().out


def test_a_root_that_left_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    """It is named by its SHA-256."""
    name = min(pinned())
    assert lists.main(reading(page(without=name), source(*KNOWN))) == 3
    assert name in capsys.readouterr().out


def test_a_new_cloud_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    """Its suffix and its token resource are named."""
    assert lists.main(reading(page(), source(*KNOWN, ".sovcloud-api.de"))) == 3
    printed = capsys.readouterr().out
    assert "new host suffix: .postgres.database.sovcloud-api.de\n" in printed
    assert "new token resource: https://ossrdbms-aad.database.sovcloud-api.de\n" in printed


@pytest.mark.parametrize(("page", "source"), [("", source(*KNOWN)), (page(), "")])
def test_a_list_of_another_form_is_an_error(
    capsys: pytest.CaptureFixture[str], page: str, source: str
) -> None:
    """An empty comparison would find no difference."""
    assert lists.main(reading(page, source)) == 4
    assert "check_azure_lists.py" in capsys.readouterr().out
