"""The interactive figures: arithmetic, handling in a real browser, and what Python stores."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import figures
import nbformat
import pytest
import torch
import traitlets
from figures import centre, contrast, drag, median_redraw, rgb, run, swipe, write_page
from nbclient import NotebookClient
from playwright.sync_api import Page, expect

from nfbook.bayes import BetaBernoulli
from nfbook.explorables import BoundExplorable, CoinExplorable, static_scripts
from nfbook.explorables._source import css, esm
from nfbook.explorables.base import Explorable
from nfbook.plotting import COLORS

ROOT = Path(__file__).resolve().parents[2]
START = {"prior_a": 2.0, "prior_b": 2.0, "heads": 7, "tails": 3}
EVERY_FIGURE = pytest.mark.parametrize("figure", [BoundExplorable, CoinExplorable])

troubles, visit = (
    figures.troubles,
    figures.visit,
)  # pytest looks for fixtures among a module's names


# ---- pages ------------------------------------------------------------------------------------


def coin_html(**values: float) -> str:
    return CoinExplorable(**(START | values))._repr_html_()


def values_of(page: Page, nth: int = 0) -> dict[str, float]:
    """Read a figure's values where the reader sees them."""
    sliders = page.locator(".nfbook-coin").nth(nth).get_by_role("slider")
    expect(sliders).to_have_count(4)
    texts = [sliders.nth(k).get_attribute("aria-valuetext") for k in range(4)]
    numbers = [float(re.search(r"[\d.]+", text)[0]) for text in texts]
    return dict(zip(START, numbers, strict=True))


def shown(page: Page, nth: int = 0) -> dict[str, str]:
    cells = page.locator(".nfbook-coin").nth(nth).locator("[data-number]")
    return {c.get_attribute("data-number"): c.inner_text() for c in cells.all()}


def curve(page: Page, name: str, nth: int = 0) -> str:
    return page.locator(f".nfbook-coin > svg path.nfbook-{name}").nth(nth).get_attribute("d")


# ---- the arithmetic ---------------------------------------------------------------------------

CASES = [
    (a, b, heads, tails)
    for a in (0.1, 0.5, 1.0, 2.0, 7.3, 20.0)
    for b in (0.1, 1.0, 3.0, 20.0)
    for heads, tails in ((0, 0), (1, 0), (0, 1), (0, 4), (7, 3), (50, 0), (13, 50), (50, 50))
]
THETAS = [0.001, 0.05, 0.3, 0.5, 0.77, 0.999]


@pytest.fixture
def module(visit):
    """Run a JavaScript function with the coin's module as its first argument."""
    return partial(run, visit(""), "coin")


def test_numbers_equal_those_of_the_package(module):
    got = module("({ coin }, cases) => cases.map((c) => coin(...c))", CASES)
    compared = {"evidence": 0, "map": 0}
    for (a, b, heads, tails), numbers in zip(CASES, got, strict=True):
        if heads + tails == 0:
            # The package refuses an empty data set; without data the evidence is 1.
            assert numbers["mle"] is None
            assert numbers["logEvidence"] == 0
            assert numbers["mean"] == pytest.approx(a / (a + b), rel=1e-12)
            continue
        double = partial(torch.tensor, dtype=torch.float64)
        model, data = BetaBernoulli(double(a), double(b)), double([1.0] * heads + [0.0] * tails)
        assert numbers["logEvidence"] == pytest.approx(float(model.log_evidence(data)), rel=1e-10)
        assert numbers["mean"] == pytest.approx(float(model.posterior(data).mean), rel=1e-10)
        assert numbers["mle"] == pytest.approx(float(model.mle(data)), rel=1e-10)
        compared["evidence"] += 1
        if numbers["unbounded"]:
            with pytest.raises(ValueError, match="no mode"):
                model.map(data)
        else:
            (place,) = numbers["modes"]
            assert place == pytest.approx(float(model.map(data)), rel=1e-10, abs=1e-12)
            compared["map"] += 1
    assert compared == {"evidence": 168, "map": 140}


def test_densities_equal_those_of_the_package(module):
    arguments = [(t, a + h, b + k) for a, b, h, k in CASES for t in THETAS]
    got = module("({ density }, cases) => cases.map((c) => density(...c))", arguments)
    theta, a, b = torch.tensor(arguments, dtype=torch.float64).T
    expected = torch.distributions.Beta(a, b).log_prob(theta).exp()
    torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected, rtol=1e-9, atol=0)


def test_log_gamma(module):
    points = torch.logspace(-3, 3, 400, dtype=torch.float64)
    got = module("({ logGamma }, xs) => xs.map(logGamma)", points.tolist())
    expected = torch.lgamma(points)
    # Near its zeros, at 1 and 2, only the absolute error can be small.
    torch.testing.assert_close(
        torch.tensor(got, dtype=torch.float64), expected, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize(
    ("a", "b", "modes"),
    [
        (1, 1, []),
        (0.5, 0.5, [0, 1]),
        (1, 0.5, [1]),
        (0.5, 1, [0]),
        (1, 3, [0]),
        (3, 1, [1]),
        (0.5, 3, [0]),
        (3, 2, [2 / 3]),
    ],
)
def test_modes_at_the_borders(module, a, b, modes):
    assert module("({ modes }, c) => modes(...c)", [a, b]) == pytest.approx(modes)


def test_density_at_the_borders(module):
    cases = [(0, 1, 1), (0, 1, 3), (1, 3, 1), (0, 2, 2), (0, 0.5, 2), (1, 2, 0.5)]
    got = module(
        "({ density }, cases) => cases.map((c) => String(Math.round(1e9 * density(...c)) / 1e9))",
        cases,
    )
    assert got == ["1", "3", "3", "0", "Infinity", "Infinity"]


# ---- what the figure shows ---------------------------------------------------------------------


def test_first_sight(visit):
    page = visit(coin_html())
    assert values_of(page) == START
    assert shown(page) == {"map": "0.667", "mean": "0.643", "mle": "0.700", "evidence": "−6.978"}
    picture = page.get_by_role("img", name=re.compile("7 heads and 3 tails. MAP 0.667"))
    expect(picture).to_have_count(1)
    assert page.locator(".nfbook-explorable > p").count() == 0, "the sentence without scripts"
    # The MAP's mark stands on the top of the drawn posterior.
    top = page.evaluate(
        """() => {
            const path = document.querySelector(".nfbook-coin > svg path.nfbook-posterior");
            const pairs = path.getAttribute("d").slice(1).split("L");
            const points = pairs.map((pair) => pair.split(",").map(Number));
            return points.reduce((best, p) => (p[1] < best[1] ? p : best));
        }"""
    )
    mark = page.locator("circle.nfbook-mark").get_attribute("transform")
    x, y = map(float, re.findall(r"[\d.]+", mark))
    assert abs(x - top[0]) < 4
    assert abs(y - top[1]) < 0.5


@pytest.mark.parametrize(
    ("values", "map_text", "mle_text", "marks", "infinities"),
    [
        ({"heads": 0, "tails": 0}, "0.500", "–", 1, 0),
        ({"prior_a": 1.0, "prior_b": 1.0, "heads": 0, "tails": 0}, "every θ", "–", 0, 0),
        ({"prior_a": 1.0, "heads": 0, "tails": 4}, "0.000", "0.000", 1, 0),
        ({"prior_b": 1.0, "heads": 4, "tails": 0}, "1.000", "1.000", 1, 0),
        ({"prior_a": 0.5, "heads": 0, "tails": 4}, "none: ∞ at 0", "0.000", 0, 1),
        ({"prior_b": 0.1, "heads": 4, "tails": 0}, "none: ∞ at 1", "1.000", 0, 1),
        (
            {"prior_a": 0.5, "prior_b": 0.5, "heads": 0, "tails": 0},
            "none: ∞ at 0 and 1",
            "–",
            0,
            2,
        ),
    ],
)
def test_edges(visit, values, map_text, mle_text, marks, infinities):
    page = visit(coin_html(**values))
    numbers = shown(page)
    assert (numbers["map"], numbers["mle"]) == (map_text, mle_text)
    assert page.locator("circle.nfbook-mark:visible").count() == marks
    assert page.locator(".nfbook-infinity:visible").count() == infinities
    assert page.locator(".nfbook-mle:visible").count() == (mle_text != "–")
    drawn = page.locator(".nfbook-coin > svg").evaluate("(node) => node.outerHTML")
    assert not re.search(r"NaN|Infinity|undefined", drawn)


def test_keyboard(visit):
    page = visit(coin_html())
    heads = page.get_by_role("slider", name="heads")
    before = curve(page, "posterior"), curve(page, "likelihood")
    for _ in range(4):  # a, b, heads: in the order of the page
        page.keyboard.press("Tab")
        if heads.evaluate("(node) => node === document.activeElement"):
            break
    expect(heads).to_be_focused()
    assert heads.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    # Without this JupyterLab takes the arrow keys to move between cells.
    assert heads.get_attribute("data-lm-suppress-shortcuts") == "true"
    page.keyboard.press("ArrowRight")
    assert values_of(page) == START | {"heads": 8}
    assert shown(page)["mle"] == "0.727"
    assert curve(page, "posterior") != before[0]
    assert curve(page, "likelihood") != before[1]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert values_of(page) == START | {"heads": 6}
    page.keyboard.press("End")
    assert values_of(page) == START | {"heads": 50}
    page.keyboard.press("Home")
    assert values_of(page) == START | {"heads": 0}
    expect(heads).to_have_attribute("aria-valuetext", "0 heads")
    page.keyboard.press("ArrowRight")
    expect(heads).to_have_attribute("aria-valuetext", "1 head")
    page.get_by_role("slider", name="prior a").press("ArrowRight")
    assert values_of(page) == START | {"heads": 1, "prior_a": 2.1}


def test_sliders_reach_what_python_accepts(visit):
    page = visit(coin_html())
    for name, label in zip(START, ("prior a", "prior b", "heads", "tails"), strict=True):
        slider = page.get_by_role("slider", name=label)
        trait = CoinExplorable.class_traits()[name]
        assert float(slider.get_attribute("min")) == getattr(trait, "low", 0)
        assert float(slider.get_attribute("max")) == trait.high


def test_a_weight_between_the_sliders_steps_is_shown_as_it_is(visit):
    page = visit(coin_html(prior_a=2.25))
    assert values_of(page)["prior_a"] == 2.25
    assert shown(page)["mean"] == "0.649"  # 9.25 / 14.25


def test_mouse_on_a_slider(visit):
    page = visit(coin_html())
    slider = page.get_by_role("slider", name="tails")
    before = curve(page, "posterior")
    box = slider.bounding_box()
    # The middle of the thumb runs 9 px from either end.
    thumb = box["x"] + 9 + (box["width"] - 18) * 3 / 50, box["y"] + box["height"] / 2
    drag(page, thumb, (box["width"] - 18) * 20 / 50)
    assert values_of(page) == START | {"tails": 23}
    assert curve(page, "posterior") != before
    assert shown(page)["mean"] == "0.265"


def test_mouse_on_the_prior(visit):
    page = visit(coin_html())
    ring = page.locator(".nfbook-handle-prior")
    before = curve(page, "prior"), curve(page, "likelihood")
    x, y = centre(ring)
    drag(page, (x, y), 100)
    moved = values_of(page)
    assert moved["prior_a"] > 2.4
    assert moved["prior_a"] + moved["prior_b"] == pytest.approx(4, abs=0.11)
    drag(page, centre(ring), 0, -80)  # e times as many tosses
    grown = values_of(page)
    assert grown["prior_a"] + grown["prior_b"] == pytest.approx(4 * 2.71828, abs=0.3)
    assert (grown["heads"], grown["tails"]) == (7, 3)
    assert curve(page, "prior") != before[0]
    # The likelihood has the same shape, on another vertical axis.
    assert shown(page)["mle"] == "0.700"
    drag(page, centre(ring), 3000, -3000)
    assert values_of(page)["prior_a"] == 20.0


def test_mouse_on_the_likelihood(visit):
    page = visit(coin_html())
    ring = page.locator(".nfbook-handle-likelihood")
    drag(page, centre(ring), 0, -50)  # ten tosses more
    assert values_of(page) == START | {"heads": 14, "tails": 6}
    drag(page, centre(ring), -3000)
    assert values_of(page) == START | {"heads": 0, "tails": 20}
    drag(page, centre(ring), 0, 3000)
    assert values_of(page) == START | {"heads": 0, "tails": 0}
    drag(page, centre(ring), 0, -20)
    assert values_of(page) == START | {"heads": 2, "tails": 2}


def test_only_the_main_button_drags(visit):
    page = visit(coin_html())
    page.mouse.move(*centre(page.locator(".nfbook-handle-prior")))
    page.mouse.down(button="right")
    page.mouse.move(0, 0)
    page.mouse.up(button="right")
    assert values_of(page) == START


def test_touch(visit):
    page = visit(coin_html(), has_touch=True, viewport={"width": 360, "height": 740})
    ring = page.locator(".nfbook-handle-prior")
    x, y = centre(ring)
    swipe(page, (x, y), (x + 20, y), (x + 80, y - 40))
    # A browser that scrolled instead would have cancelled the drag after its first step.
    dragged = values_of(page)
    assert dragged["prior_a"] / (dragged["prior_a"] + dragged["prior_b"]) > 0.7
    assert dragged["prior_a"] + dragged["prior_b"] > 6
    slider = page.get_by_role("slider", name="heads").bounding_box()
    page.touchscreen.tap(slider["x"] + slider["width"] / 2, slider["y"] + slider["height"] / 2)
    assert values_of(page)["heads"] == 25


def test_redrawn_within_50_ms(visit):
    page = visit(coin_html())
    expect(page.get_by_role("slider")).to_have_count(4)
    median = median_redraw(page, "heads", range(51), ".nfbook-coin > svg path.nfbook-posterior")
    assert median < 50


# ---- the page around it ------------------------------------------------------------------------


def colours(page: Page) -> dict[str, tuple[float, ...]]:
    style = "(node, name) => getComputedStyle(node)[name]"
    found = {
        name: rgb(page.locator(f".nfbook-coin > svg path.nfbook-{name}").evaluate(style, "stroke"))
        for name in ("prior", "likelihood", "posterior")
    }
    found["text"] = rgb(page.locator(".nfbook-axes text").first.evaluate(style, "fill"))
    found["ground"] = rgb(page.locator("body").evaluate(style, "backgroundColor"))
    return found


def test_colours_follow_the_theme(visit):
    page = visit(coin_html())
    light = colours(page)
    for name in ("prior", "likelihood", "posterior"):
        expected = tuple(int(COLORS[name][k : k + 2], 16) for k in (1, 3, 5))
        assert light[name] == expected, f"{name} differs from nfbook.plotting"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    dark = colours(page)
    for name in ("prior", "likelihood", "posterior"):
        assert contrast(dark[name], dark["ground"]) > 6, name
    assert contrast(light["text"], light["ground"]) > 7
    assert contrast(dark["text"], dark["ground"]) > 7
    # JupyterLab says it on the body.
    page.evaluate(
        """() => {
            delete document.documentElement.dataset.theme;
            document.body.dataset.jpThemeLight = "false";
        }"""
    )
    assert colours(page)["prior"] == dark["prior"]


def test_two_on_a_page_are_independent(visit):
    page = visit(coin_html(), coin_html(heads=0, tails=0, prior_a=5.0))
    before = shown(page, 1), curve(page, "posterior", 1)
    page.get_by_role("slider", name="heads").first.press("End")
    assert values_of(page, 0) == START | {"heads": 50}
    assert values_of(page, 1) == START | {"prior_a": 5.0, "heads": 0, "tails": 0}
    assert (shown(page, 1), curve(page, "posterior", 1)) == before
    names = page.locator("clipPath").evaluate_all("(nodes) => nodes.map((node) => node.id)")
    assert len(set(names)) == 2
    styles = page.locator("head style").evaluate_all("(nodes) => nodes.map((n) => n.textContent)")
    assert styles.count(css()) == 1, "one style for both"


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_served_and_from_a_file(visit, tmp_path, scheme):
    asked: list[str] = []
    page = visit("")
    page.on("request", lambda r: asked.append(r.url))
    address = write_page(tmp_path, coin_html())
    if scheme == "file":
        page.goto(address.as_uri())
        expect(page.get_by_role("slider")).to_have_count(4)
        home = "file:///"
    else:
        handler = partial(Quiet, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            home = f"http://127.0.0.1:{server.server_port}/"
            page.goto(f"{home}page.html")
            expect(page.get_by_role("slider")).to_have_count(4)
            server.shutdown()
    assert asked
    assert [url for url in asked if not url.startswith((home, "blob:", "data:"))] == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_one_global_name(visit, tmp_path):
    page = visit(coin_html(), BoundExplorable()._repr_html_())
    expect(page.get_by_role("slider")).to_have_count(6)
    (tmp_path / "bare.html").write_text("<!doctype html><title>bare</title>", encoding="utf-8")
    bare = page.context.new_page()
    bare.goto((tmp_path / "bare.html").as_uri())
    names = "() => Object.getOwnPropertyNames(window)"
    assert set(page.evaluate(names)) - set(bare.evaluate(names)) == {"nfbookModules"}


def test_without_scripts_a_sentence(visit):
    page = visit(coin_html(), java_script_enabled=False)
    expect(page.get_by_text("The interactive figure appears here")).to_be_visible()
    assert page.get_by_text("prior_a").count() == 0, "the values are not for reading"


@EVERY_FIGURE
@pytest.mark.parametrize("width", [320, 360, 1280])
def test_fits_the_screen(visit, figure, width):
    page = visit(figure()._repr_html_(), viewport={"width": width, "height": 740})
    page.wait_for_selector(".nfbook-axes text")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for text in page.locator(".nfbook-figure svg text:not(:empty)").all():
        assert text.evaluate("(node) => parseFloat(getComputedStyle(node).fontSize)") >= 12
        box = text.bounding_box()
        if text.is_visible():
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_follows_a_new_width(visit):
    page = visit(coin_html())
    before = curve(page, "prior")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function(
        """(old) => old !==
            document.querySelector(".nfbook-coin > svg path.nfbook-prior").getAttribute("d")""",
        arg=before,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_nothing_moves_by_itself():
    assert not re.search(r"transition|animation|@keyframes", css())


@EVERY_FIGURE
def test_render_can_be_undone(visit, figure):
    left = run(
        visit(""),
        figure.module,
        """(module, values) => {
            const listeners = [];
            const model = {
                get: (name) => values[name], set() {}, save_changes() {},
                on: (event, f) => listeners.push([event, f]),
                off(event, f) {
                    const at = listeners.findIndex(([e, g]) => e === event && g === f);
                    if (at >= 0) listeners.splice(at, 1);
                },
            };
            const undo = module.default.render({ model, el: document.createElement("div") });
            const during = listeners.length;
            undo();
            return [during, listeners.length];
        }""",
        figure().values(),
    )
    assert left == [len(figure().values()), 0]


def test_the_model_of_a_page(visit, tmp_path):
    # A module that plays through what modules may rely on, instead of drawing.
    text = """export default { render({ model, el }) {
        const log = [];
        const note = (name) => (sender, value) => log.push([name, sender === model, value ?? null]);
        const first = note("first"), second = note("second"), any = note("any");
        const once = () => { log.push(["once"]); model.off("change:x", once); };
        model.on("change:x", once);
        model.on("change:x", first);
        model.on("change:x", second);
        model.on("change", any);
        model.set("x", 1);              // as before: nobody is told
        model.set("x", 2);
        model.off("change:x", first);
        model.set("x", 3);
        model.off("change:x");
        model.set("x", 4);
        model.off();
        model.set("x", 5);
        model.save_changes();
        el.textContent = JSON.stringify([log, model.get("x"), model.get("absent") ?? null]);
    } };"""
    body = (
        f"<script>nfbookModules.play = {{esm: {json.dumps(text)}, css: ''}}</script>"
        '<div class="nfbook-explorable" data-module="play">'
        '<script type="application/json">{"x": 1}</script></div>'
    )
    page = visit(body)
    page.wait_for_selector(".nfbook-explorable > div:not(:empty)")
    log, x, absent = json.loads(page.locator(".nfbook-explorable").inner_text())
    assert log == [
        ["once"], ["first", True, 2], ["second", True, 2], ["any", True, None],
        ["second", True, 3], ["any", True, None],
        ["any", True, None],
    ]  # fmt: skip
    assert (x, absent) == (5, None)


def test_a_broken_figure_spares_the_others(browser, tmp_path):
    broken = '<div class="nfbook-explorable" data-module="none"><script>{}</script>words</div>'
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text))
    page.goto(write_page(tmp_path, broken, coin_html()).as_uri())
    expect(page.get_by_role("slider")).to_have_count(4)
    assert page.get_by_text("words").is_visible()
    assert len(complaints) == 1
    assert complaints[0].startswith("nfbook:")
    context.close()


def test_the_built_page(visit, site):
    page = visit(url=f"{site.url}/book/bayes.html")
    expect(page.locator(".nfbook-coin").first).to_be_visible()
    before = shown(page)
    page.get_by_role("slider", name="heads").first.press("End")
    assert shown(page)["mle"] != before["mle"]
    background = "(node) => getComputedStyle(node).backgroundColor"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    card = page.locator(".text_html:has(.nfbook-coin)").first
    assert card.evaluate(background) == "rgba(0, 0, 0, 0)", "no light card in the dark"


def test_the_built_page_from_a_file(visit, site):
    page = visit(url=(site.folder / "book" / "bayes.html").as_uri())
    expect(page.locator(".nfbook-coin").first.get_by_role("slider")).to_have_count(4)


def test_scripts_only_where_a_figure_is(site):
    for path in (site.folder / "book").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        has_figure = 'class="nfbook-explorable"' in text
        assert ("mount.js" in text) == has_figure, path.name
        for script in static_scripts():
            has_this = f'data-module="{Path(script).stem}"' in text
            assert (f"explorables/{script}" in text) == has_this, (path.name, script)


# ---- Python's side -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"prior_a": "2"}, TypeError, "prior_a must be a number, got str"),
        ({"prior_a": True}, TypeError, "prior_a must be a number, got bool"),
        ({"prior_a": torch.tensor(2.0)}, TypeError, "prior_a must be a number, got Tensor"),
        ({"prior_a": 0.0}, ValueError, "prior_a must lie between 0.1 and 20, got 0"),
        ({"prior_b": -1.0}, ValueError, "prior_b must lie between 0.1 and 20, got -1"),
        ({"prior_b": float("nan")}, ValueError, "prior_b must lie between 0.1 and 20, got nan"),
        ({"prior_b": float("inf")}, ValueError, "prior_b must lie between 0.1 and 20, got inf"),
        ({"heads": 7.0}, TypeError, "heads must be an int, got float"),
        ({"heads": True}, TypeError, "heads must be an int, got bool"),
        ({"heads": 51}, ValueError, "heads must be at most 50, got 51"),
        ({"tails": -1}, ValueError, "tails must be at least 0, got -1"),
        ({"tosses": 1}, TypeError, "tosses"),
    ],
)
def test_bad_values(values, error, message):
    with pytest.raises(error, match=message):
        CoinExplorable(**values)
    if "tosses" not in values:
        coin = CoinExplorable()
        with pytest.raises(error, match=message):
            setattr(coin, *next(iter(values.items())))
        assert coin.values() == START


def test_values_can_be_read_and_set():
    coin = CoinExplorable(prior_a=1)
    assert coin.prior_a == 1.0
    assert isinstance(coin.prior_a, float)
    seen = []
    coin.observe(lambda change: seen.append(change.new), "heads")
    coin.heads = 8
    assert seen == [8]
    assert coin.values() == {"prior_a": 1.0, "prior_b": 2.0, "heads": 8, "tails": 3}
    # What a moved slider sends: JavaScript has one kind of number.
    coin.set_state({"prior_b": 3, "tails": 0})
    assert coin.values() == {"prior_a": 1.0, "prior_b": 3.0, "heads": 8, "tails": 0}


def test_stored_form():
    bundle, _ = CoinExplorable()._repr_mimebundle_()
    assert bundle.pop("application/vnd.jupyter.widget-view+json")["model_id"]
    assert bundle == {
        "text/plain": "CoinExplorable(prior_a=2.0, prior_b=2.0, heads=7, tails=3)",
        "text/html": '<div class="nfbook-explorable" data-module="coin">'
        '<script type="application/json">'
        '{"prior_a": 2.0, "prior_b": 2.0, "heads": 7, "tails": 3}</script>'
        "<p>The interactive figure appears here when the cell is run, or when scripts are on.</p>"
        "</div>",
    }


def test_stored_form_cannot_break_the_page():
    class Wordy(Explorable, module="coin"):
        words = traitlets.Unicode("</script><b>").tag(sync=True)

    html = Wordy()._repr_html_()
    assert html.count("</script>") == 1
    values = re.search(r"json\">(.*)</script>", html)[1]
    assert json.loads(values) == {"words": "</script><b>"}


def test_a_notebook_stores_the_same():
    code = "from nfbook.explorables import CoinExplorable\nCoinExplorable()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    data = dict(output.data)
    assert data.pop("application/vnd.jupyter.widget-view+json")["model_id"]
    bundle, _ = CoinExplorable()._repr_mimebundle_()
    bundle.pop("application/vnd.jupyter.widget-view+json")
    assert data == bundle


@EVERY_FIGURE
def test_the_module_imports_nothing(figure):
    text = esm(figure.module)
    assert "import" not in re.sub(r"//.*|/\*.*?\*/", "", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text + css())


@EVERY_FIGURE
def test_scripts_carry_the_module(figure):
    scripts = static_scripts()
    assert list(scripts) == ["bound.js", "coin.js"]
    name = figure.module
    head, _, content = scripts[f"{name}.js"].partition(f'window.nfbookModules["{name}"] = ')
    assert head == "window.nfbookModules = window.nfbookModules || {};\n"
    assert json.loads(content.rstrip(";\n")) == {"esm": esm(name), "css": css()}


@pytest.mark.parametrize("name", ["nfbook", "nfbook.explorables"])
def test_import_is_light(name):
    code = f"import sys, {name}; print([m for m in ('anywidget', 'torch.nn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "anywidget" not in done.stdout


def test_unknown_name():
    import nfbook.explorables

    with pytest.raises(AttributeError, match="no attribute 'Coin'"):
        _ = nfbook.explorables.Coin
