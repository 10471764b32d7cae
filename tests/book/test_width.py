"""What is wider than its box on the built pages, on a desk's screen and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pages import pages
from playwright.sync_api import Browser

from conftest import ROOT, Site

NAMES = [page.name for page in pages()]
SCRIPT = (Path(__file__).resolve().parents[1] / "support" / "widths.js").read_text(encoding="utf-8")
BREAKER = (ROOT / "book" / "_static" / "formulas.js").read_text(encoding="utf-8")

DESK = 1280
PHONE = 390

# On a phone at most this share of a page's displayed formulas may scroll.
SHARE = 1 / 5

each_page = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="session")
def widths(browser: Browser, site: Site) -> Callable[[str, int], dict[str, Any]]:
    """Open each page once at each width, everything unfolded."""

    @cache
    def measure(name: str, width: int) -> dict[str, Any]:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(300_000)  # milliseconds, for long pages on a busy machine
        page.goto(f"{site.url}/{name}.html", wait_until="load")
        found = page.evaluate(SCRIPT)
        page.close()
        return found

    return measure


@each_page
def test_formulas_fit_a_desks_screen(widths: Callable[[str, int], dict[str, Any]], name: str):
    found = widths(name, DESK)
    assert found["broken"] == found["scrolling"] == found["inline"] == []


@each_page
def test_tables_fit_a_desks_screen(widths: Callable[[str, int], dict[str, Any]], name: str):
    assert widths(name, DESK)["tables"] == []


@each_page
def test_few_formulas_scroll_on_a_phone(widths: Callable[[str, int], dict[str, Any]], name: str):
    found = widths(name, PHONE)
    assert len(found["scrolling"]) <= SHARE * found["displayed"], found["scrolling"]
    # None got its room by being set smaller than can be read.
    assert all(size > 0.79 for size in found["sizes"])


@each_page
def test_what_scrolls_on_a_phone_shows_it(widths: Callable[[str, int], dict[str, Any]], name: str):
    assert widths(name, PHONE)["unmarked"] == []


@each_page
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_only_what_scrolls_is_marked(
    widths: Callable[[str, int], dict[str, Any]], name: str, width: int
):
    assert widths(name, width)["falselyMarked"] == []


@pytest.fixture(scope="module")
def broken(browser: Browser) -> Callable[[str, int], str]:
    """Break a formula's lines as the page's script does."""
    page = browser.new_page()
    page.add_script_tag(content=BREAKER)
    return lambda tex, level: re.sub(
        r"\s+",
        " ",
        page.evaluate("([tex, level]) => nfbookFormulas.broken(tex, level)", [tex, level]),
    )


DERIVATION = r"""
\begin{split}\begin{aligned}
\log p(\mathbf{x}) &= a + \Bigl( b + c \Bigr) && \text{product rule} \\
 &= -d - \begin{cases} 1 & k = 1 \\ 0 & k < 1 \end{cases} && \text{(2) as } a = 1
\end{aligned}\end{split}"""


def test_reasons_go_under_their_lines(broken: Callable[[str, int], str]):
    assert broken(DERIVATION, 1) == (
        r"\begin{aligned}\log p(\mathbf{x}) & = a + \Bigl( b + c \Bigr) \\ "
        r"& \quad {\small \text{product rule}} \\ "
        r"& = -d - \begin{cases} 1 & k = 1 \\ 0 & k < 1 \end{cases} \\ "
        r"& \quad {\small \text{(2) as } a = 1}\end{aligned}"
    )


def test_lines_end_at_signs_outside_brackets(broken: Callable[[str, int], str]):
    assert broken(DERIVATION, 3) == (
        r"\begin{aligned}& \log p(\mathbf{x}) = a \\ & \quad + \Bigl( b + c \Bigr) \\ "
        r"& \quad {\small \text{product rule}} \\ "
        r"& \quad = -d \\ & \quad - \begin{cases} 1 & k = 1 \\ 0 & k < 1 \end{cases} \\ "
        r"& \quad {\small \text{(2) as } a = 1}\end{aligned}"
    )


def test_formulas_in_a_row_get_a_line_each(broken: Callable[[str, int], str]):
    assert broken(r"a_k = \frac{1}{n}, \qquad \theta \le \left[ 1 = 2 \right)", 2) == (
        r"\begin{aligned}& a_k = \frac{1}{n}, \\ & \theta \le \left[ 1 = 2 \right)\end{aligned}"
    )


def test_a_formula_without_reasons_stays_as_it_is(broken: Callable[[str, int], str]):
    assert broken("a &= b", 1) == "a &= b"
