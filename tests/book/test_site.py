"""The built book in a real browser, with the network cut."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlparse

import pytest
import run_notebooks
from pages import Page, pages
from playwright.sync_api import Browser
from playwright.sync_api import Page as OpenPage

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
    "a dollar beside a formula": re.compile(r"\$(?!\d)"),
    "a directive or role": re.compile(r"\{[a-z:_-]+\}`|^:{3,}|^```", re.M),
    "an option": re.compile(r"^:(label|name|class):", re.M),
}

# From a file the same script renders the formulas as from a server, so a few stand for all.
FEW_FORMULAS = """document.addEventListener("readystatechange", () => {
  [...document.querySelectorAll(".math")].slice(10).forEach((formula) => formula.remove());
}, { once: true });"""

FIRST_VISIT = 1_200_000  # bytes transferred, without pictures
NEXT_VISIT = 200_000


# What is asked of a page that was opened from a file, and of any page.
DRAWN = ["brokenImages", "unrendered", "formulaErrors", "explorables", "drawnExplorables"]
FACTS = [*DRAWN, "formulas", "numbered", "prose", "ids", "links", "imagesWithoutAlt", "icons"]
FACTS += ["missingIcons", "searchBoxes", "faint", "faces", "paleCaptions", "headings", "bells"]
FACTS += ["ledgerRows", "chapterCards", "sections", "otherSizes", "partedPercents"]
NARROW = ["cutOff", "widthOfPage", "widthOfWindow", "ledgerRows"]


@dataclass
class Visit:
    """What happened while a page was loaded, and what is on it."""

    address: str
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sizes: dict[str, float] = field(default_factory=dict)  # bytes transferred, without pictures
    facts: dict[str, Any] = field(default_factory=dict)
    dark: dict[str, Any] = field(default_factory=dict)
    phone: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def visit(browser: Browser, site: Site) -> Callable[..., Visit]:
    """Open each page twice with an empty cache, on the server and from its file.

    Loading takes most of the time, so what is served is then looked at in either theme and width,
    and only a few formulas are rendered from the file.
    """

    @cache
    def load(name: str, file: bool) -> Visit:
        base = site.folder.as_uri() if file else site.url
        seen = Visit(f"{base}/{name}.html")
        context = browser.new_context(viewport=DESKTOP, color_scheme="light")
        context.set_default_timeout(120_000)  # milliseconds, for long pages on a busy machine
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
        if file:
            page.add_init_script(FEW_FORMULAS)
        else:
            measure(page, seen.sizes)
        page.goto(seen.address, wait_until="load")
        seen.facts = page.evaluate(SCRIPT, DRAWN if file else FACTS)
        if not file:
            page.emulate_media(color_scheme="dark")
            page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
            seen.dark = page.evaluate(SCRIPT, ["faint", "paleCaptions"])
            page.set_viewport_size(PHONE)
            seen.phone = page.evaluate(SCRIPT, NARROW)
        context.close()
        return seen

    # One key for each load, however it is asked for.
    return lambda name, *, file=False: load(name, file)


def measure(page: OpenPage, sizes: dict[str, float]) -> None:
    """Note the bytes transferred for each address that a page loads, pictures left out."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    addresses: dict[str, str] = {}

    def answered(event: dict[str, Any]) -> None:
        if event["type"] != "Image":
            addresses[event["requestId"]] = event["response"]["url"]

    def finished(event: dict[str, Any]) -> None:
        if address := addresses.get(event["requestId"]):
            sizes[address] = event["encodedDataLength"]

    session.on("Network.responseReceived", answered)
    session.on("Network.loadingFinished", finished)


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
    seen = visit(name)
    assert (seen.dark if dark else seen.facts)["faint"] == []


@each_page
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_captions_look_like_the_text(visit: Callable[..., Visit], name: str, dark: bool):
    seen = visit(name)
    assert (seen.dark if dark else seen.facts)["paleCaptions"] == []


@each_page
def test_text_is_set_in_the_sites_own_face(visit: Callable[..., Visit], name: str):
    assert "STIX Two Text" in visit(name).facts["faces"]


@each_page
def test_a_deeper_heading_is_smaller_and_no_heavier(visit: Callable[..., Visit], name: str):
    headings = visit(name).facts["headings"]
    for (size, weight), (deeper_size, deeper_weight) in pairwise(headings):
        assert deeper_size < size
        assert deeper_weight <= weight


@each_page
def test_optional_text_is_as_large_as_the_rest(visit: Callable[..., Visit], name: str):
    assert visit(name).facts["otherSizes"] == []


@each_page
def test_no_line_ends_before_a_per_cent_sign(visit: Callable[..., Visit], name: str):
    assert visit(name).facts["partedPercents"] == []


@each_page
def test_solutions_are_named_as_their_exercises_are(visit: Callable[..., Visit], name: str):
    named = re.findall(r"Solution to.+", visit(name).facts["prose"])
    assert [line for line in named if "'" in line or not line.startswith("Solution to ")] == []


@each_page
def test_theorems_have_no_bell(visit: Callable[..., Visit], name: str):
    assert visit(name).facts["bells"] == []


@every_page
def test_phone_needs_no_sideways_scrolling(visit: Callable[..., Visit], name: str):
    facts = visit(name).phone
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


def test_theorems_page_lists_every_statement(visit: Callable[..., Visit], book: list[Page]):
    facts = visit("book/theorems").facts
    prose = facts["prose"].replace("’", "'")
    for page in book:
        for one in page.statements:
            assert f"{Path(page.name).name}.html#{one.label}" in facts["links"]
            assert "$" in one.title or one.title in prose
    theorems = sum(one.kind == "theorem" for page in book for one in page.statements)
    assert f"There are {theorems} theorems" in prose


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


def test_ledger_page_has_a_row_for_each_equation(visit: Callable[..., Visit], book: list[Page]):
    """With its title; on a phone each row is a card."""
    seen = visit("book/equations")
    rows = seen.facts["ledgerRows"]
    titles = [page.titles[label] for page in book for label in page.equations]
    assert len(rows) == len(titles)
    assert len({number for number, _, _ in rows}) == len(rows)
    plain = [(title, row[1]) for title, row in zip(titles, rows, strict=True) if "$" not in title]
    assert [title.replace("'", "’") for title, _ in plain] == [shown for _, shown in plain]
    assert {display for _, _, display in rows} == {"table-row"}
    assert {display for _, _, display in seen.phone["ledgerRows"]} == {"block"}


def test_landing_page_shows_each_chapter(visit: Callable[..., Visit], book: list[Page]):
    facts = visit("book/index").facts
    chapters = [page for page in book if page.is_notebook]
    assert len(facts["chapterCards"]) == len(chapters)
    for page, card in zip(chapters, facts["chapterCards"], strict=True):
        assert card["pictures"] == 1
        read, run, download = f"{Path(page.name).name}.html", "mybinder.org", f"{page.name}.ipynb"
        for way in (read, run, download):
            assert any(way in link for link in card["links"]), way


def test_landing_page_begins_with_what_the_book_is(visit: Callable[..., Visit]):
    facts = visit("book/index").facts
    assert facts["explorables"] == 1
    sections = facts["sections"]
    assert sections.index("the-chapters") < sections.index("four-promises")


def test_landing_pages_code_computes_what_stands_beside_it():
    text = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    bound, evidence = map(float, re.findall(r"\$(-\d\.\d{3})\$", text))
    assert names["evidence"] == pytest.approx(evidence, abs=5e-4)
    # The exact bound is -log(2 pi)/2 - 1; its estimate has a standard error below 0.006.
    assert bound == pytest.approx(-math.log(2 * math.pi) / 2 - 1, abs=5e-4)
    assert names["bound"] == pytest.approx(bound, abs=0.03)


def test_faces_have_their_licence_and_few_bytes():
    folder = ROOT / "book" / "_static" / "fonts"
    style = (ROOT / "book" / "_static" / "nfbook.css").read_text(encoding="utf-8")
    faces = {path.name for path in folder.glob("*.woff2")}
    assert faces == set(re.findall(r'url\("fonts/([^"]+)"\)', style))
    assert "SIL OPEN FONT LICENSE" in (folder / "OFL.txt").read_text(encoding="utf-8")
    assert sum((folder / name).stat().st_size for name in faces) < 120_000


def next_visit(visit: Callable[..., Visit], name: str) -> float:
    """Return the bytes that a page transfers after another one, whose files the browser keeps."""
    # A page with formulas comes first, and leaves MathJax's fonts too.
    start = "book/index" if name == "book/notation" else "book/notation"
    kept = visit(start).sizes
    return sum(size for address, size in visit(name).sizes.items() if address not in kept)


@each_page
def test_page_is_light(visit: Callable[..., Visit], name: str, record_property: Callable):
    first, later = sum(visit(name).sizes.values()), next_visit(visit, name)
    record_property("first_visit_bytes", first)
    record_property("next_visit_bytes", later)
    assert 0 < first <= FIRST_VISIT
    assert 0 < later <= NEXT_VISIT


def test_browser_keeps_what_pages_share(visit: Callable[..., Visit], browser: Browser, site: Site):
    """A second page transfers what the sizes of two first visits say, but for short answers."""
    page = browser.new_page(viewport=DESKTOP)
    page.goto(f"{site.url}/book/notation.html", wait_until="load")
    sizes: dict[str, float] = {}
    measure(page, sizes)
    page.goto(f"{site.url}/book/index.html", wait_until="load")
    page.close()
    assert 0 < sum(sizes.values()) < next_visit(visit, "book/index") + 30_000
