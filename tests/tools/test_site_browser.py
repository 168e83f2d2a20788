"""What a browser makes of the built site: `nox -s docs` builds it and runs this."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

BUILT = Path(__file__).parents[2] / "docs" / "_build"
PAGES = sorted(str(path.relative_to(BUILT)) for path in BUILT.rglob("*.html"))
READ = [page for page in PAGES if page != "search.html"]
RESULTS_READ = 5
"""The pages of a search that a reader looks at."""
PHONE, DESK = (390, 844), (1280, 800)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# Furo lets its content scroll sideways, which hides what is too wide from the page itself
WIDER = """[...document.querySelectorAll("html, .content")]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.tagName)"""

CUT_OFF = """[...document.querySelectorAll("pre, .highlight")]
    .filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText)"""


class Quiet(SimpleHTTPRequestHandler):
    """Serve files, and print nothing of it."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Serve the site on loopback, and give its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(BUILT))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start Debian's Chromium, or Chrome, without a window and without a past."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert browser, "to look at the site: apt-get install chromium chromium-driver"
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options, Service(driver))
    yield chrome
    chrome.quit()


class Look:
    """One page as a reader sees it."""

    def __init__(self, chromium: Chrome, site: str) -> None:
        self.chromium, self.site = chromium, site

    def at(
        self,
        page: str,
        size: tuple[int, int] = PHONE,
        *,
        scheme: str = "light",
        scripts: bool = True,
    ) -> None:
        """Open a page on a screen of this many pixels."""
        width, height = size
        self._tell("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        self.prefers(scheme)
        self.said()
        self.chromium.get(self.site + page)

    def said(self) -> list[str]:
        """Return what the console has been told since it was last asked."""
        return [each["message"] for each in self.chromium.get_log("browser")]  # type: ignore[no-untyped-call]

    def prefers(self, scheme: str) -> None:
        """Be a reader who likes pages "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._tell("Emulation.setEmulatedMedia", features=[feature])

    def sees(self, selector: str) -> bool:
        """Tell whether the first element of this kind is to be seen."""
        element = self.chromium.find_element(By.CSS_SELECTOR, selector)
        left, width = element.rect["x"], element.rect["width"]
        return element.is_displayed() and left >= 0 and width > 0

    def _tell(self, command: str, **arguments: object) -> None:
        self.chromium.execute_cdp_cmd(command, arguments)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression, whether the page's own scripts run or not."""
        asked = {"expression": expression, "returnByValue": True}
        return self.chromium.execute_cdp_cmd("Runtime.evaluate", asked)["result"].get("value")

    def brightness(self, of: str) -> float:
        """Return how bright the page's `color` or `backgroundColor` is, from 0.0 to 1.0."""
        colour = self.ask(f"getComputedStyle(document.body).{of}")
        red, green, blue = (int(part) for part in colour.strip("rgb()").split(","))
        return (red + green + blue) / (3 * 255)


@pytest.fixture
def look(chromium: Chrome, site: str) -> Look:
    """Look at pages."""
    return Look(chromium, site)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone_and_says_nothing_to_the_console(look: Look, page: str) -> None:
    """A page is no wider than a phone, runs without errors, and fetches from nowhere else."""
    look.at(page)
    assert look.ask(WIDER) == []
    fetched = look.ask("performance.getEntriesByType('resource').map(each => each.name)")
    assert fetched
    assert all(address.startswith((look.site, "data:")) for address in fetched)
    assert look.said() == []


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("page", READ)
def test_no_code_is_cut_off(look: Look, page: str, size: tuple[int, int]) -> None:
    """Code and messages wrap on a phone and on a desktop."""
    look.at(page, size)
    assert look.ask(CUT_OFF) == []


@pytest.mark.parametrize("page", READ)
def test_a_page_is_read_without_scripts_by_day_and_by_night(look: Look, page: str) -> None:
    """Without JavaScript the text is there, dark on light or light on dark as the reader likes."""
    look.at(page, scripts=False)
    assert look.sees("article h1")
    assert look.brightness("backgroundColor") > 0.9
    assert look.brightness("color") < 0.3
    look.prefers("dark")
    assert look.brightness("backgroundColor") < 0.1
    assert look.brightness("color") > 0.7


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_menu_leads_everywhere_without_scripts(look: Look, size: tuple[int, int]) -> None:
    """Without JavaScript the menu opens, and names every page but what only scripts need."""
    look.at("index.html", size, scripts=False)
    if size == PHONE:
        assert not look.sees(".sidebar-tree a")
        look.chromium.find_element(By.CSS_SELECTOR, "header .nav-overlay-icon").click()
    WebDriverWait(look.chromium, 10).until(lambda _: look.sees(".sidebar-tree a"))
    links = look.ask("[...document.querySelectorAll('.sidebar-tree a')].map(each => each.href)")
    named = {link.removeprefix(look.site).partition("#")[0] for link in links}
    assert named == set(READ) - {"index.html"}


@pytest.mark.parametrize(
    ("query", "page"),
    {
        "elastic": "how-to/elastic-clusters",
        "retry": "how-to/failover",
        "backoff": "how-to/failover",
        "health check": "how-to/failover",
        "connection pool": "how-to/failover",
        "kubernetes": "how-to/containers",
        "AKS": "how-to/managed-identity",
        "thread-safe": "how-to/wrapping",
        "token cache": "explanation/tokens",
        "connection string": "explanation/connection",
        "pgAdmin": "how-to/token",
        "langchain": "how-to/ai-frameworks",
    }.items(),
    ids=str,
)
def test_the_search_finds_a_page(look: Look, query: str, page: str) -> None:
    """A term that people search for leads to the page about it, among the first results."""
    look.at(f"search.html?{urlencode({'q': query})}")
    links = "[...document.querySelectorAll('#search-results li a')].map(each => each.pathname)"
    summary = "document.querySelector('#search-results .search-summary')"
    done = f"{summary}?.textContent.includes('found')"
    WebDriverWait(look.chromium, 10).until(lambda _: look.ask(done))
    found = list(dict.fromkeys(look.ask(links)))
    assert f"/{page}.html" in found[:RESULTS_READ], found[:10]


def test_every_link_leads_somewhere() -> None:
    """A link inside the site has its page and its place there; one to elsewhere is well-formed."""
    read = {page: Page((BUILT / page).read_text()) for page in PAGES}
    broken = []
    for page, found in read.items():
        for link in found.links:
            parts = urlsplit(urljoin(page, link))
            target = unquote(parts.path) or page
            if parts.scheme:
                good = parts.scheme == "https" and "." in parts.netloc
            elif target in read:
                good = unquote(parts.fragment) in {"", *read[target].places}
            else:
                good = (BUILT / target).is_file()
            if not good:
                broken.append(f"{page}: {link}")
    assert sum(len(found.links) for found in read.values()) > 1000
    assert not broken


class Page(HTMLParser):
    """The links of a page, and the places that a link may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """Take what links and what can be linked to."""
        of = dict(attrs)
        self.links |= {link for name in ("href", "src") if (link := of.get(name))}
        self.places |= {place for name in ("id", "name") if (place := of.get(name))}
