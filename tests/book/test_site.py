"""The built book in a real browser, with the network cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlparse

import pytest
import run_notebooks
from pages import Page, pages
from playwright.sync_api import Browser

from conftest import ROOT, Site

NAMES = [page.name for page in pages()]
# What Sphinx and its extensions add: the search, the index and the index of theorems.
ADDED = ["genindex", "prf-prf", "search"]
SCRIPT = (Path(__file__).resolve().parents[1] / "support" / "visit.js").read_text(encoding="utf-8")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

# What would be left of a page whose source was not understood.
RAW = {
    "TeX": re.compile(r"\\[(\[]|\$\$|\\(?:frac|mathbf|mathcal|begin|left|theta|log)\b"),
    "a directive or role": re.compile(r"\{[a-z:_-]+\}`|^:{3,}|^```", re.M),
    "an option": re.compile(r"^:(label|name|class):", re.M),
}

FIRST_VISIT = 1_200_000  # bytes transferred, without pictures
NEXT_VISIT = 200_000


@dataclass
class Visit:
    """What happened while a page was loaded, and what is on it."""

    address: str
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def visit(browser: Browser, site: Site) -> Callable[..., Visit]:
    """Open a page once for each address, theme and width."""

    @cache
    def load(name: str, *, dark: bool = False, phone: bool = False, file: bool = False) -> Visit:
        base = site.folder.as_uri() if file else site.url
        seen = Visit(f"{base}/{name}.html")
        context = browser.new_context(
            viewport=PHONE if phone else DESKTOP, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("requestfailed", lambda request: seen.failed.append(request.url))
        page.on(
            "response",
            lambda answer: seen.failed.append(answer.url) if answer.status >= 400 else None,
        )
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on(
            "console",
            lambda said: seen.errors.append(said.text) if said.type == "error" else None,
        )
        page.goto(seen.address, wait_until="load")
        seen.facts = page.evaluate(SCRIPT)
        context.close()
        return seen

    return load


each_page = pytest.mark.parametrize("name", NAMES)
every_page = pytest.mark.parametrize("name", [*NAMES, *ADDED])
either_way = pytest.mark.parametrize("file", [False, True], ids=["http", "file"])


def test_the_built_book_has_the_pages_of_its_contents(site: Site):
    assert {f"{name}.html" for name in [*NAMES, *ADDED, "index"]} == set(site.pages)
    assert "url=book/index.html" in (site.folder / "index.html").read_text(encoding="utf-8")


@every_page
@either_way
def test_nothing_is_asked_of_another_host(visit: Callable[..., Visit], name: str, file: bool):
    seen = visit(name, file=file)
    host = urlparse(seen.address)[:2]
    outside = [
        url
        for url in seen.requests
        if urlparse(url)[:2] != host and not url.startswith(("data:", "blob:"))
    ]
    assert outside == []
    assert len(seen.requests) > 5


@every_page
@either_way
def test_no_error_and_nothing_missing(visit: Callable[..., Visit], name: str, file: bool):
    seen = visit(name, file=file)
    assert seen.errors == []
    assert seen.failed == []
    assert seen.facts["brokenImages"] == []


@each_page
@either_way
def test_every_formula_is_rendered(visit: Callable[..., Visit], name: str, file: bool):
    facts = visit(name, file=file).facts
    assert facts["unrendered"] == []
    assert facts["formulaErrors"] == []


@each_page
def test_no_source_is_left_on_the_page(visit: Callable[..., Visit], name: str):
    prose = visit(name).facts["prose"]
    for what, pattern in RAW.items():
        found = pattern.search(prose)
        assert not found, f"{what}: {prose[found.start() - 40 : found.end() + 40]!r}"


def test_chapters_hold_formulas(visit: Callable[..., Visit], book: list[Page]):
    """So that the tests above look at something, and that no equation is numbered unseen."""
    for page in book:
        facts = visit(page.name).facts
        assert facts["numbered"] == len(page.equations), page.name
        assert facts["formulas"] >= len(page.equations)
    assert sum(len(page.equations) for page in book) > 20


def test_every_internal_link_leads_somewhere(visit: Callable[..., Visit], site: Site):
    ids: dict[str, set[str]] = {}
    for name in NAMES:
        ids[f"/{name}.html"] = set(visit(name).facts["ids"])
    checked = 0
    for name in NAMES:
        for link in visit(name).facts["links"]:
            target = urlparse(urljoin(f"{site.url}/{name}.html", link))
            if f"{target.scheme}://{target.netloc}" != site.url:
                assert target.scheme in {"http", "https"}, link
                continue
            path = unquote(target.path)
            assert (site.folder / path.lstrip("/")).is_file(), f"{name}: {link}"
            if target.fragment and path in ids:
                assert unquote(target.fragment) in ids[path], f"{name}: {link}"
            checked += 1
    assert checked > 100


@every_page
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_legible(visit: Callable[..., Visit], name: str, dark: bool):
    assert visit(name, dark=dark).facts["faint"] == []


@every_page
def test_phone_needs_no_sideways_scrolling(visit: Callable[..., Visit], name: str):
    facts = visit(name, phone=True).facts
    assert facts["widthOfWindow"] == PHONE["width"]
    assert facts["widthOfPage"] <= facts["widthOfWindow"]
    assert facts["cutOff"] == []


@each_page
def test_pictures_have_alternative_text(visit: Callable[..., Visit], name: str):
    assert visit(name).facts["imagesWithoutAlt"] == []


@each_page
def test_there_is_one_search_box(visit: Callable[..., Visit], name: str):
    assert visit(name).facts["searchBoxes"] == 1


@each_page
def test_every_icon_is_there(visit: Callable[..., Visit], name: str):
    facts = visit(name).facts
    assert facts["icons"] > 5
    assert facts["missingIcons"] == []


@each_page
def test_thebe_is_declared_once_and_loaded_on_demand(site: Site, name: str):
    text = (site.folder / f"{name}.html").read_text(encoding="utf-8")
    assert text.count("const THEBE_JS_URL") == 1
    assert not re.search(r'<script[^>]*src="https?:', text)


@each_page
@either_way
def test_interactive_figures_are_drawn(visit: Callable[..., Visit], name: str, file: bool):
    facts = visit(name, file=file).facts
    assert facts["drawnExplorables"] >= facts["explorables"]


def test_the_book_has_an_interactive_figure(visit: Callable[..., Visit]):
    assert visit("book/bayes").facts["explorables"] >= 1


def test_launch_buttons_come_from_the_one_setting(visit: Callable[..., Visit], book: list[Page]):
    owner = run_notebooks.repository_url().removeprefix("https://github.com/")
    for page in book:
        links = visit(page.name).facts["links"]
        path = f"{page.name}.ipynb"
        binder = f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{path}"
        colab = f"https://colab.research.google.com/github/{owner}/blob/main/{path}"
        assert (binder in links) == (colab in links) == page.is_notebook


def test_the_address_stands_in_no_other_place():
    """Pages, tools and extension take the repository's address from _config.yml."""
    url = run_notebooks.repository_url().removeprefix("https://")
    for folder in ("book", "nfbook", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".md", ".py", ".js", ".mjs", ".css", ".html"}:
                assert url not in path.read_text(encoding="utf-8"), path


def test_ledger_page_lists_every_check(visit: Callable[..., Visit], book: list[Page]):
    facts = visit("book/equations").facts
    prose = facts["prose"].replace("’", "'")
    for page in book:
        for label in page.equations:
            assert f"{Path(page.name).name}.html#equation-{label}" in facts["links"]
        for check in page.checks:
            assert check.line in prose


@either_way
def test_search_finds_a_page(browser: Browser, site: Site, file: bool):
    base = site.folder.as_uri() if file else site.url
    errors: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(f"{base}/search.html?q=evidence")
    page.wait_for_selector("#search-results a")
    found = page.eval_on_selector_all("#search-results a", "all => all.map((a) => a.href)")
    page.close()
    assert any("bayes.html" in link for link in found)
    assert errors == []


def test_ledger_page_starts_with_its_totals(visit: Callable[..., Visit], book: list[Page]):
    equations = sum(len(page.equations) for page in book)
    checks = sum(len(page.checks) for page in book)
    before = visit("book/equations").facts["prose"].split(book[3].title)[0]
    assert f"{equations} numbered equations and {checks} checks" in before


def test_landing_page_leads_to_the_first_chapter(visit: Callable[..., Visit]):
    facts = visit("book/index").facts
    assert "bayes.html" in facts["links"]
    assert "book/how-to-use" in NAMES


def measure(browser: Browser, addresses: list[str]) -> list[int]:
    """Return the bytes transferred for each page in turn, pictures left out."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    kinds: dict[str, str] = {}
    sizes: dict[str, float] = {}
    session.on("Network.responseReceived", lambda e: kinds.update({e["requestId"]: e["type"]}))
    session.on(
        "Network.loadingFinished", lambda e: sizes.update({e["requestId"]: e["encodedDataLength"]})
    )
    found = []
    for address in addresses:
        kinds.clear()
        sizes.clear()
        page.goto(address, wait_until="networkidle")
        found.append(int(sum(n for key, n in sizes.items() if kinds.get(key) != "Image")))
    context.close()
    return found


@each_page
def test_page_is_light(browser: Browser, site: Site, name: str, record_property: Callable):
    start = next(other for other in ("book/index", "book/notation") if other != name)
    (first,) = measure(browser, [f"{site.url}/{name}.html"])
    _, later = measure(browser, [f"{site.url}/{start}.html", f"{site.url}/{name}.html"])
    record_property("first_visit_bytes", first)
    record_property("next_visit_bytes", later)
    assert 0 < first <= FIRST_VISIT
    assert 0 < later <= NEXT_VISIT
