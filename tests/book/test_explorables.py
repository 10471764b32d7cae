"""What every interactive figure promises, whatever it shows, in a real browser and in Python.

A figure is found by its folder. What only one of them promises, and its arithmetic, has a file of
its own: ``test_explorable_<folder>.py``.
"""

from __future__ import annotations

import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import figures
import pytest
import torch
import traitlets
from figures import (
    DRAWN,
    FIGURES,
    PHONE,
    TWO_FRAMES,
    Figure,
    centre,
    contrast,
    drag,
    grid,
    rgb,
    swipe,
    write_page,
)
from IPython.core.formatters import DisplayFormatter

from nfbook import explorables
from nfbook.data import old_faithful
from nfbook.explorables import static_scripts
from nfbook.explorables._source import css, esm
from nfbook.explorables.base import WITHOUT_SCRIPT, Choice, Count, Explorable, Real
from nfbook.plotting import COLORS

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
EVERY_FIGURE = "".join(kind()._repr_html_() for kind in FIGURES.values())

# Fixtures: pytest looks for them among a module's names.
visit, figure = figures.visit, figures.figure


@pytest.fixture(params=FIGURES.values(), ids=FIGURES)
def kind(request):
    return request.param


# ---- what a figure is made of --------------------------------------------------------------------


def test_it_has_a_test_of_its_arithmetic(kind):
    """Whatever its module exports is compared with something else in a file of its own."""
    source = Path(explorables.__file__).parent / kind.module / "figure.mjs"
    exported = re.findall(r"^export (?:function|const) (\w+)", source.read_text("utf-8"), re.M)
    test = Path(__file__).with_name(f"test_explorable_{kind.module}.py").read_text("utf-8")
    assert exported
    assert [name for name in exported if not re.search(rf"\b{name}\b", test)] == []


def test_the_module_imports_nothing(kind):
    text = esm(kind.module)
    assert "import" not in re.sub(r"//.*|/\*.*?\*/", "", text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text + css())


@pytest.mark.parametrize("name", ["em", "polynomial"])
def test_the_data_are_those_of_the_package(name):
    rows = re.search(r"^const OLD_FAITHFUL = (.+);$", esm(name), re.M)
    assert rows
    assert json.loads(rows[1]) == old_faithful().tolist()


def test_scripts_carry_the_module(kind):
    scripts = static_scripts()
    assert list(scripts) == [f"{name}.js" for name in FIGURES]
    name = kind.module
    head, _, content = scripts[f"{name}.js"].partition(f'window.nfbookModules["{name}"] = ')
    assert head == "window.nfbookModules = window.nfbookModules || {};\n"
    assert json.loads(content.rstrip(";\n")) == {"esm": esm(name), "css": css()}


def test_nothing_moves_by_itself():
    assert not re.search(r"transition|animation|@keyframes", css())


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Coin'"):
        _ = explorables.Coin


# ---- what it shows -------------------------------------------------------------------------------


def test_the_sentence_without_scripts_gives_way(figure):
    assert figure.values() == figure.start
    assert figure.place.get_by_text(WITHOUT_SCRIPT).count() == 0
    assert figure.place.locator("[role=img]").count() == 1


def test_every_setting_is_drawn_and_put_in_words(figure):
    settings = grid(figure.kind)
    shown = figure.place.evaluate(
        """(place, settings) => settings.map((values) => {
            for (const name in values) place.model.set(name, values[name]);
            return [place.innerHTML, place.querySelector("[role=img]").ariaLabel];
        })""",
        settings,
    )
    for values, (html, _) in zip(settings, shown, strict=True):
        assert not re.search("NaN|Infinity|undefined|null", html), values
    assert len({label for _, label in shown}) == len(settings), "the label tells them apart"


def test_a_setting_is_read_out_as_it_is(figure):
    """A value between the slider's steps, as Python may set it, is not rounded to them."""

    def read_out(**values: float) -> list[tuple[str, str]]:
        figure.show(**values)
        return figure.place.evaluate(
            """(place) => [...place.querySelectorAll("input[type=range]")]
                .map((slider) => [slider.ariaValueText, slider.parentElement.innerText])"""
        )

    for name, trait in figure.kind.class_traits().items():
        if isinstance(trait, Count):
            value = trait.high // 3
        elif isinstance(trait, Real):
            value = round(trait.low + 0.377 * (trait.high - trait.low), 2) + 0.003
        else:
            continue
        both = zip(read_out(), read_out(**{name: value}), strict=True)
        (changed,) = (now for before, now in both if now != before)
        for text in changed:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", text.replace("−", "-"))]
            assert numbers == [pytest.approx(value, abs=1e-9)], (name, text)


# ---- handling ------------------------------------------------------------------------------------


def test_keyboard(figure):
    """Tab stops at each control in the page's order; keys reach whatever Python accepts."""
    page = figure.page
    page.emulate_media(reduced_motion="reduce")
    page.focus("#before")
    moved = set()
    for stop in tab_stops(figure):
        page.keyboard.press("Tab")
        focus = focused(figure)
        assert focus["stop"] == stop
        assert focus["outline"] == "solid 2px"
        # Without this JupyterLab takes the arrow keys to move between cells.
        assert focus["suppress"] or focus["type"] == "button"
        if focus["type"] == "range":
            moved.add(slide(figure))
        elif focus["type"] == "radio":
            moved.add(choose(figure))
        else:
            before = figure.drawn()
            page.keyboard.press("Enter")
            assert figure.drawn() != before
            figure.values()
    assert moved == set(figure.start), "every value has a control"


def tab_stops(figure: Figure) -> list[str]:
    """Return what Tab should stop at: each control, but only one radio button of a group."""
    stops = figure.place.evaluate(
        """(place) => [...place.querySelectorAll("a[href], button, input, select, [tabindex]")]
            .map((e) => (e.type === "radio" ? e.name : e.ariaLabel ?? e.textContent))"""
    )
    return list(dict.fromkeys(stops))


def focused(figure: Figure) -> dict[str, object]:
    return figure.place.evaluate(
        """(place) => {
            const e = document.activeElement;
            const { outlineStyle, outlineWidth } = getComputedStyle(e);
            return {
                stop: e.type === "radio" ? e.name : e.ariaLabel ?? e.textContent, type: e.type,
                outline: `${outlineStyle} ${outlineWidth}`,
                suppress: e.dataset.lmSuppressShortcuts === "true",
            };
        }"""
    )


def press(figure: Figure, key: str) -> dict[str, object]:
    """Press a key that must change the drawing, and return the values then."""
    before = figure.drawn()
    figure.page.keyboard.press(key)
    assert figure.drawn() != before, key
    return figure.values()


def slide(figure: Figure) -> str:
    """Move the focused slider to both ends and a step back from them; return its value's name."""
    figure.page.keyboard.press("Home")
    low = figure.values()
    above = press(figure, "ArrowRight")
    (name,) = (name for name in low if low[name] != above[name])
    trait = figure.kind.class_traits()[name]
    assert low[name] == getattr(trait, "low", 0) < above[name]
    high = press(figure, "End")
    assert high == low | {name: trait.high}
    below = press(figure, "ArrowLeft")
    assert above[name] < below[name] < high[name]
    assert below == low | {name: below[name]}
    return name


def choose(figure: Figure) -> str:
    """Walk through the focused group of radio buttons; return its value's name."""
    first = figure.values()
    second = press(figure, "ArrowRight")
    (name,) = (name for name in first if first[name] != second[name])
    words = figure.kind.class_traits()[name].words
    seen = [second[name]] + [press(figure, "ArrowRight")[name] for _ in words[1:]]
    assert sorted(seen) == sorted(words)
    return name


def test_mouse(figure):
    """Each handle and each slider follows the mouse, and its main button only."""
    for handle in figure.all(".nfbook-handle"):
        for dx, dy in ((60, 0), (0, -60)):
            before, drawing = figure.values(), figure.drawn()
            drag(figure.page, centre(handle), dx, dy)
            assert figure.values() != before
            assert figure.drawn() != drawing
        before = figure.values()
        drag(figure.page, centre(handle), 60, -60, button="right")
        assert figure.values() == before
        for far in ((-3000, 3000), (3000, -3000)):
            drag(figure.page, centre(handle), *far)
            figure.values()
        figure.show()
    for slider in figure.all("input[type=range]"):
        before, drawing = figure.values(), figure.drawn()
        drag(figure.page, centre(slider), 40)
        assert figure.values() != before
        assert figure.drawn() != drawing


def test_touch(figure):
    """A finger on a handle drags it and does not scroll the page; a tap reaches each control."""
    page = figure.page
    page.emulate_media(reduced_motion="reduce")
    figure.resize(PHONE)
    for handle in figure.all(".nfbook-handle"):
        before, (x, y) = figure.values(), centre(handle)
        scrolled = page.evaluate("scrollY")
        swipe(page, (x, y), (x + 20, y), (x + 30, y - 20))
        short = figure.values()
        figure.show()
        # A browser that scrolled instead would cancel the drag after its first steps.
        swipe(page, (x, y), (x + 20, y), (x + 30, y - 20), (x + 40, y - 80))
        assert page.evaluate("scrollY") == scrolled
        assert before != short != figure.values()
        figure.show()
    for slider in figure.all("input[type=range]"):
        x, y = centre(slider)
        page.touchscreen.tap(x - 40, y)
        before = figure.values()
        page.touchscreen.tap(x + 40, y)
        assert figure.values() != before
    for word in figure.all("label:has(input[type=radio])"):
        page.touchscreen.tap(*centre(word))
        assert word.inner_text() in figure.values().values()
    for button in figure.all("button"):
        before = figure.drawn()
        page.touchscreen.tap(*centre(button))
        assert figure.drawn() != before


def test_redrawn_within_50_ms(figure):
    times = figure.place.evaluate(
        """async (place) => {
            const picture = place.querySelector("[role=img]");
            const times = [];
            for (const slider of place.querySelectorAll("input[type=range]")) {
                for (let k = 1; k < 16; k += 1) {
                    const before = picture.innerHTML;
                    const start = performance.now();
                    slider.value = Number(slider.min) + (slider.max - slider.min) * k / 16;
                    slider.dispatchEvent(new Event("input"));
                    // A task after the next frame's callbacks runs when the frame is drawn.
                    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                    const time = performance.now() - start;
                    if (picture.innerHTML !== before) times.push(time);
                }
            }
            return times.sort((a, b) => a - b);
        }"""
    )
    print(
        f"a slider's event is drawn after {times[len(times) // 2]:.1f} ms, at most {times[-1]:.1f}"
    )
    assert len(times) > 14 * len(figure.all("input[type=range]")), "one may be the first value"
    assert times[len(times) // 2] < 50


# ---- the page around it --------------------------------------------------------------------------


def test_colours_follow_the_theme(figure):
    light, dark = colours(figure, "light"), colours(figure, "dark")
    curves = [name for name in COLORS if name in light]
    assert curves
    for name in curves:
        assert light[name] == rgb(COLORS[name]), f"{name} differs from nfbook.plotting"
        assert contrast(dark[name], dark["ground"]) > 6, name
    for found in light, dark:
        # What can be dragged comes with a hint, which says so.
        assert ("hint" in found) == bool(figure.place.locator(".nfbook-handle").count())
        for name in {"axes", "words", "hint"} & found.keys():
            assert contrast(found[name], found["ground"]) > (4.5 if name == "hint" else 7), name
    assert light["ground"] != dark["ground"]
    # JupyterLab says it on the body.
    figure.page.evaluate(
        """() => {
            delete document.documentElement.dataset.theme;
            document.body.dataset.jpThemeLight = "false";
        }"""
    )
    laboratory = colours(figure)
    assert [laboratory[name] for name in curves] == [dark[name] for name in curves]


def colours(figure: Figure, theme: str | None = None) -> dict[str, tuple[float, ...]]:
    """Return the colours of curves by their meaning, of words, and of what lies behind them."""
    found = figure.place.evaluate(
        """(place, [theme, meanings]) => {
            if (theme) document.documentElement.dataset.theme = theme;
            const color = (selector, name) => {
                const node = place.querySelector(selector);
                return node && getComputedStyle(node)[name];
            };
            const curves = meanings.map((name) =>
                [name, color(`[role=img] path.nfbook-${name}`, "stroke")]);
            return {
                ...Object.fromEntries(curves.filter(([, stroke]) => stroke)),
                ground: getComputedStyle(document.body).backgroundColor,
                axes: color(".nfbook-axes text", "fill"),
                words: color(".nfbook-figure", "color"),
                hint: color(".nfbook-hint", "color"),
            };
        }""",
        [theme, list(COLORS)],
    )
    return {name: rgb(color) for name, color in found.items() if color}


def test_fits_every_width_and_follows_a_new_one(figure):
    drawn = figure.drawn()
    for width in (360, 320, 1280):
        figure.resize({"width": width, "height": 740})
        assert figure.page.evaluate("document.documentElement.scrollWidth") <= width
        assert figure.texts_in_trouble(*grid(figure.kind)) == []
        figure.show()
        before, drawn = drawn, figure.drawn()
        assert drawn != before, "it is drawn for the new width"


def test_two_on_a_page_are_independent(figure):
    look = "(place) => [place.innerHTML, place.querySelector(':checked')?.value]"
    before = figure.other.evaluate(look)
    for slider in figure.all("input[type=range]"):
        slider.press("End")
    for button in figure.all("input[type=radio], button"):
        button.click()
    for handle in figure.all(".nfbook-handle"):
        drag(figure.page, centre(handle), -30, 30)
    assert figure.other.evaluate(look) == before
    assert figure.values() != figure.start == figure.values(figure.other)
    ids, styles = figure.page.evaluate(
        """() => [[...document.querySelectorAll("[id]")].map((node) => node.id),
            [...document.querySelectorAll("head style")].map((node) => node.textContent)]"""
    )
    assert len(ids) == len(set(ids))
    assert styles.count(css()) == 1, "one style for both"


def test_it_can_be_undone(figure):
    """Undone, it follows neither values nor width, and whatever it had begun has come to an end."""
    for button in figure.all("button"):
        button.click()
    first, later, drawn, redrawn = figure.place.evaluate(
        f"""async (place, names) => {{
            const values = () => names.map((name) => place.model.get(name));
            place.undo();
            const [first, drawn] = [values(), place.innerHTML];
            await new Promise((done) => setTimeout(done, 150));
            const later = values();
            for (const name of names) place.model.set(name, place.model.get(name) + "?");
            place.style.width = "300px";
            await {TWO_FRAMES};
            return [first, later, drawn, place.innerHTML];
        }}""",
        list(figure.start),
    )
    assert first == later
    assert drawn == redrawn


def test_nothing_is_asked_of_another_place(figure):
    assert figure.asked
    assert [url for url in figure.asked if not url.startswith(("file:///", "blob:", "data:"))] == []


def test_served(visit, tmp_path):
    asked: list[str] = []
    write_page(tmp_path, EVERY_FIGURE)
    page = visit("")
    page.on("request", lambda request: asked.append(request.url))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        page.goto(f"{home}page.html")
        page.wait_for_function(DRAWN)
        server.shutdown()
    assert asked
    assert [url for url in asked if not url.startswith((home, "blob:", "data:"))] == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_one_global_name(visit):
    names = visit(EVERY_FIGURE).evaluate(
        """() => {
            const bare = document.createElement("iframe");
            document.body.append(bare);
            const known = new Set(Object.getOwnPropertyNames(bare.contentWindow));
            return Object.getOwnPropertyNames(window).filter((name) => !known.has(name));
        }"""
    )
    assert [name for name in names if not name.isdigit()] == ["nfbookModules"]


def test_without_scripts_a_sentence(visit):
    page = visit(EVERY_FIGURE, java_script_enabled=False)
    assert page.locator("body").inner_text().split("\n\n") == [WITHOUT_SCRIPT] * len(FIGURES)


def test_the_model_of_a_page(visit):
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
    log, x, absent = json.loads(page.locator(".nfbook-explorable").inner_text())
    assert log == [
        ["once"], ["first", True, 2], ["second", True, 2], ["any", True, None],
        ["second", True, 3], ["any", True, None],
        ["any", True, None],
    ]  # fmt: skip
    assert (x, absent) == (5, None)


def test_a_broken_figure_spares_the_others(browser, tmp_path):
    broken = '<div class="nfbook-explorable" data-module="none"><script>{}</script>words</div>'
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text))
    page.goto(write_page(tmp_path, broken, EVERY_FIGURE).as_uri())
    page.wait_for_function(
        "(count) => document.querySelectorAll('[role=img]').length === count", arg=len(FIGURES)
    )
    assert page.get_by_text("words").is_visible()
    assert len(complaints) == 1
    assert complaints[0].startswith("nfbook:")
    page.close()


def test_the_built_page(browser, site, kind):
    """It is on a page of the book, and works there; the theme puts no light card behind it."""
    here = f'data-module="{kind.module}"'
    pages = [p for p in (site.folder / "book").glob("*.html") if here in p.read_text("utf-8")]
    assert pages, "no reader meets it"
    page = browser.new_page()
    # The theme's scripts, icons and formulas take seconds, and the figure needs none of them.
    others = re.compile(r"^(?!.*/(explorables/|mount)).*\.js")
    page.route(others, lambda route: route.fulfill(body=""))
    page.goto(f"{site.url}/book/{pages[0].name}")
    page.wait_for_function(DRAWN)
    place = page.locator(f"[{here}]").first
    before = place.inner_html()
    place.get_by_role("slider").first.press("End")
    assert place.inner_html() != before
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    card = page.locator(f".text_html:has([{here}])").first
    background = card.evaluate("(node) => getComputedStyle(node).backgroundColor")
    assert background == "rgba(0, 0, 0, 0)"
    page.close()


def test_scripts_only_where_a_figure_is(site):
    for path in (site.folder / "book").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        has_figure = 'class="nfbook-explorable"' in text
        assert ("mount.js" in text) == has_figure, path.name
        for script in static_scripts():
            has_this = f'data-module="{Path(script).stem}"' in text
            assert (f"explorables/{script}" in text) == has_this, (path.name, script)


# ---- Python's side -------------------------------------------------------------------------------


class Values(traitlets.HasTraits):
    weight = Real(0.1, 20.0)
    heads = Count(50)
    word = Choice("one peak", "two peaks")


BAD_REALS = ["2", True, torch.tensor(2.0), None, float("nan"), float("inf"), -float("inf")]
BAD_COUNTS = [7.0, True, -1, "7", None]
BAD_WORDS = [1, None, "no word of any figure"]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"weight": "2"}, TypeError, "weight must be a number, got str"),
        ({"weight": True}, TypeError, "weight must be a number, got bool"),
        ({"weight": torch.tensor(2.0)}, TypeError, "weight must be a number, got Tensor"),
        ({"weight": 0.0}, ValueError, "weight must lie between 0.1 and 20, got 0"),
        ({"weight": 20.1}, ValueError, "weight must lie between 0.1 and 20, got 20.1"),
        ({"weight": float("nan")}, ValueError, "weight must lie between 0.1 and 20, got nan"),
        ({"heads": 7.0}, TypeError, "heads must be an int, got float"),
        ({"heads": True}, TypeError, "heads must be an int, got bool"),
        ({"heads": 51}, ValueError, "heads must be at most 50, got 51"),
        ({"heads": -1}, ValueError, "heads must be at least 0, got -1"),
        ({"word": "one"}, ValueError, "word must be one of 'one peak', 'two peaks', got 'one'"),
        ({"word": 1}, TypeError, "word must be a str, got int"),
    ],
)
def test_bad_values_are_named(values, error, message):
    with pytest.raises(error, match=message):
        Values(**values)


def test_bad_values_are_refused_and_change_nothing(kind):
    figure = kind()
    start = figure.values()
    for name in start:
        trait = kind.class_traits()[name]
        if isinstance(trait, Real):
            bad = [*BAD_REALS, trait.low - 0.01, trait.high + 0.01]
        else:
            bad = [*BAD_COUNTS, trait.high + 1] if isinstance(trait, Count) else BAD_WORDS
        for value in bad:
            with pytest.raises((TypeError, ValueError), match=f"{name} must "):
                kind(**{name: value})
            with pytest.raises((TypeError, ValueError), match=f"{name} must "):
                setattr(figure, name, value)
    with pytest.raises(TypeError, match="nonsense"):
        kind(nonsense=1)
    assert figure.values() == start


def test_values_can_be_read_and_set(kind):
    seen: list[object] = []
    for values in grid(kind)[1], grid(kind)[-1]:
        figure = kind()
        figure.observe(lambda change: seen.append(change.new), list(values))
        for name, value in values.items():
            setattr(figure, name, value)
        assert figure.values() == values
        assert seen == [value for name, value in values.items() if value != kind().values()[name]]
        seen.clear()
    # What a moved slider sends: JavaScript has one kind of number.
    reals = [name for name in values if isinstance(kind.class_traits()[name], Real)]
    whole = {name: int(kind.class_traits()[name].high) for name in reals}
    figure.set_state(whole)
    assert figure.values() == values | {name: float(value) for name, value in whole.items()}
    assert {type(figure.values()[name]) for name in reals} <= {float}


def test_stored_form(kind):
    """What a notebook stores: the values alone, and how to write the figure in Python."""
    for values in kind().values(), grid(kind)[-1]:
        figure = kind(**values)
        bundle, _ = DisplayFormatter().format(figure)
        # Whoever asks the figure itself, and not by way of IPython, is told the same.
        assert figure._repr_mimebundle_()[0].keys() == bundle.keys()
        assert bundle.pop(WIDGET_VIEW)["model_id"]
        assert eval(bundle.pop("text/plain"), {kind.__name__: kind}).values() == values
        assert bundle == {
            "text/html": f'<div class="nfbook-explorable" data-module="{kind.module}">'
            f'<script type="application/json">{json.dumps(values)}</script>'
            "<p>The interactive figure appears here when the cell is run, or when scripts are on."
            "</p></div>",
        }


def test_stored_form_cannot_break_the_page():
    class Wordy(Explorable, module="coin"):
        words = traitlets.Unicode("</script><b>").tag(sync=True)

    html = Wordy()._repr_html_()
    assert html.count("</script>") == 1
    values = re.search(r"json\">(.*)</script>", html)[1]
    assert json.loads(values) == {"words": "</script><b>"}
