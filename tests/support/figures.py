"""What the tests of the interactive figures share: pages that hold them, pointers, contrasts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from nfbook import explorables
from nfbook.explorables import static_scripts
from nfbook.explorables._source import esm
from nfbook.explorables.base import Choice, Count, Explorable, Real

ROOT = Path(__file__).resolve().parents[2]
FIGURES: dict[str, type[Explorable]] = {
    name: getattr(explorables, f"{name.title().replace('_', '')}Explorable")
    for name in explorables.names()
}
WIDE = {"width": 800, "height": 900}
PHONE = {"width": 360, "height": 740}

# Lets each place on a page keep its figure's model, and how the figure is drawn anew and undone.
# mount.js runs these modules as any others.
SPY = """<script>
for (const module of Object.values(nfbookModules)) {
  const address = URL.createObjectURL(new Blob([module.esm], { type: "text/javascript" }));
  module.esm = `import figure from "${address}";
    export default { render({ model, el }) {
      const place = el.parentElement;
      place.model = model;
      place.mount = () => {
        el.replaceChildren();
        place.undo = figure.render({ model, el });
      };
      place.mount();
    } };`;
}
</script>"""

# A figure is drawn once its place knows its width, which is after the page has loaded.
DRAWN = """() => [...document.querySelectorAll(".nfbook-explorable")].every((place) =>
    !place.querySelector("script")
    && [...place.querySelectorAll(".nfbook-axes")].every((axes) => axes.hasChildNodes()))"""

# A new width is followed in the frame after it.
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def write_page(folder: Path, *bodies: str) -> Path:
    """Write a static page as the book's builder makes one: figures, their scripts, mount.js."""
    for name, text in static_scripts().items():
        (folder / name).write_text(text, encoding="utf-8")
    mount = (ROOT / "book" / "_static" / "mount.js").read_text(encoding="utf-8")
    (folder / "mount.js").write_text(mount, encoding="utf-8")
    scripts = "".join(f'<script src="{name}"></script>' for name in static_scripts())
    page = folder / "page.html"
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        "<style>:root { --pst-color-background: #fff; --pst-color-text-base: #222832; }"
        'html[data-theme="dark"] { --pst-color-background: #14181e; '
        "--pst-color-text-base: #ced6dd; } "
        "body { background: var(--pst-color-background); font-family: sans-serif }</style>"
        f'{scripts}{SPY}<script defer src="mount.js"></script></head>'
        f"<body>{''.join(bodies)}</body></html>",
        encoding="utf-8",
    )
    return page


def listen(page: Page, troubles: list[str]) -> None:
    """Note whatever a page complains about."""
    page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
    page.on("pageerror", lambda e: troubles.append(str(e)))
    page.on("requestfailed", lambda r: troubles.append(r.url))


# ---- fixtures, each of which a module of tests names as its own ----------------------------------


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a page with the given bodies in a fresh context, and wait until figures are drawn."""
    contexts = []
    troubles: list[str] = []

    def open_page(*bodies: str, url: str | None = None, **options: Any) -> Page:
        context = browser.new_context(**({"viewport": WIDE} | options))
        contexts.append(context)
        page = context.new_page()
        listen(page, troubles)
        page.goto(url or write_page(tmp_path, *bodies).as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function(DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == [], troubles


@pytest.fixture
def figure(
    kind: type[Explorable], browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Figure]:
    """Show a figure of the wanted kind as it was first drawn, and see that no error came of it."""
    shown = open_figure(kind, browser, tmp_path_factory.getbasetemp() / kind.module)
    shown.reset()
    yield shown
    assert shown.troubles == [], shown.troubles


@pytest.fixture
def module(kind: type[Explorable], browser: Browser) -> Callable[..., Any]:
    """Run a JavaScript function with the figure's module as its first argument."""
    return import_module(kind.module, browser)


# A browser's pages close with it.
@cache
def open_figure(kind: type[Explorable], browser: Browser, folder: Path) -> Figure:
    """Open one page of a kind, which all tests share: loading a page costs more than a test."""
    folder.mkdir()
    page = browser.new_context(has_touch=True, viewport=WIDE).new_page()
    return Figure(page, kind, folder)


@cache
def import_module(name: str, browser: Browser) -> Callable[..., Any]:
    """Import a figure's module into a bare page, and return how to run functions of it."""
    page = browser.new_page()
    handle = page.evaluate_handle(
        """(text) => {
            const blob = new Blob([text], { type: "text/javascript" });
            return import(URL.createObjectURL(blob));
        }""",
        esm(name),
    )
    return handle.evaluate


# ---- a figure on its page -----------------------------------------------------------------------


class Figure:
    """The first of two equal figures on a page, opened from a file."""

    def __init__(self, page: Page, kind: type[Explorable], folder: Path) -> None:
        self.page, self.kind = page, kind
        self.start = kind().values()
        self.troubles: list[str] = []
        self.asked: list[str] = []  # the addresses that the page asked for
        listen(page, self.troubles)
        page.on("request", lambda request: self.asked.append(request.url))
        twice = 2 * kind()._repr_html_()
        page.goto(write_page(folder, '<a id="before" href="#">before</a>', twice).as_uri())
        page.wait_for_function(DRAWN)
        self.place, self.other = page.locator(".nfbook-explorable").all()

    def reset(self) -> None:
        """Bring page and figures back to what they were at first."""
        self.troubles.clear()
        self.page.emulate_media(reduced_motion="no-preference")
        self.resize(WIDE)
        self.page.evaluate(
            f"""async (start) => {{
                scrollTo(0, 0);
                document.documentElement.dataset.theme = "light";
                delete document.body.dataset.jpThemeLight;
                for (const place of document.querySelectorAll(".nfbook-explorable")) {{
                    place.removeAttribute("style");
                    place.undo();
                    for (const name in start) place.model.set(name, start[name]);
                    place.mount();
                }}
                await {TWO_FRAMES};
            }}""",
            self.start,
        )

    def resize(self, size: dict[str, int]) -> None:
        """Give the window a size, and the figures time to follow it."""
        if self.page.viewport_size != size:
            self.page.set_viewport_size(size)
            self.page.evaluate(f"() => {TWO_FRAMES}")

    def show(self, **values: Any) -> None:
        """Draw the figure from these values, and the others' first ones."""
        self.place.evaluate(
            "(place, values) => { for (const name in values) place.model.set(name, values[name]) }",
            self.start | values,
        )

    def values(self, place: Locator | None = None) -> dict[str, Any]:
        """Return the values behind the figure, which Python must accept."""
        values = (place or self.place).evaluate(
            """(place, names) =>
                Object.fromEntries(names.map((name) => [name, place.model.get(name)]))""",
            list(self.start),
        )
        assert self.kind(**values).values() == values
        return values

    def drawn(self) -> str:
        """Return the drawing, without the words and controls around it."""
        return self.place.evaluate(
            """(place) => [...place.querySelectorAll("[role=img]")]
                .map((picture) => picture.innerHTML).join()"""
        )

    def numbers(self) -> dict[str, str]:
        """Return the texts of the table of numbers."""
        return self.place.evaluate(
            """(place) => Object.fromEntries([...place.querySelectorAll("[data-number]")]
                .map((cell) => [cell.dataset.number, cell.innerText]))"""
        )

    def all(self, selector: str) -> list[Locator]:
        """Return what a selector finds in the figure."""
        return self.place.locator(selector).all()

    def texts_in_trouble(self, *settings: dict[str, Any]) -> list[str]:
        """Return the texts of the drawing that are too small, cut off or on top of each other."""
        return self.place.evaluate(
            """(place, settings) => {
                const faults = new Set();
                for (const values of settings) {
                    for (const name in values) place.model.set(name, values[name]);
                    const note = (fault, ...texts) => faults.add(
                        [fault, ...texts.map((t) => t.node.textContent), JSON.stringify(values)]
                            .join(" | "));
                    for (const picture of place.querySelectorAll("svg")) {
                        const texts = [...picture.querySelectorAll("text:not(:empty)")]
                            .map((node) => ({ node, box: node.getBoundingClientRect() }))
                            .filter(({ box }) => box.width > 0);
                        texts.forEach((one, k) => {
                            const a = one.box;
                            if (parseFloat(getComputedStyle(one.node).fontSize) < 12) {
                                note("small", one);
                            }
                            if (a.left < 0 || a.right > innerWidth) note("cut off", one);
                            for (const other of texts.slice(k + 1)) {
                                const b = other.box;
                                const spare = 3; // between lines of text
                                if (a.right > b.left && b.right > a.left
                                    && a.bottom > b.top + spare && b.bottom > a.top + spare) {
                                    note("overlap", one, other);
                                }
                            }
                        });
                    }
                }
                return [...faults];
            }""",
            list(settings),
        )


def grid(kind: type[Explorable]) -> list[dict[str, Any]]:
    """Return every combination of the least, a middle and the greatest setting of each value."""

    def some(trait: Any) -> list[Any]:
        if isinstance(trait, Choice):
            return list(trait.words)
        if isinstance(trait, Count):
            return [0, 1, trait.high]
        assert isinstance(trait, Real)
        return [trait.low, (trait.low + trait.high) / 2, trait.high]

    traits = kind.class_traits()
    every = product(*(some(traits[name]) for name in kind.value_names))
    return [dict(zip(kind.value_names, values, strict=True)) for values in every]


# ---- pointers and colours -----------------------------------------------------------------------


def centre(locator: Locator) -> tuple[float, float]:
    """Return the middle of an element in the window, which it is scrolled into."""
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(
    page: Page, start: tuple[float, float], dx: float, dy: float = 0.0, **options: Any
) -> None:
    """Press a button of the mouse at a point, move the mouse, and let go."""
    page.mouse.move(*start)
    page.mouse.down(**options)
    page.mouse.move(start[0] + dx / 2, start[1] + dy / 2)
    page.mouse.move(start[0] + dx, start[1] + dy)
    page.mouse.up(**options)


def swipe(page: Page, *points: tuple[float, float]) -> None:
    """Lay a finger on the first point, move it over the others, and lift it."""
    session = page.context.new_cdp_session(page)
    for k, (x, y) in enumerate(points):
        kind = "touchMove" if k else "touchStart"
        touches = [{"x": x, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def rgb(text: str) -> tuple[float, ...]:
    """Return the three numbers of a colour as the browser or `nfbook.plotting` writes it."""
    if text.startswith("#"):
        return tuple(int(text[k : k + 2], 16) for k in (1, 3, 5))
    return tuple(float(number) for number in re.findall(r"[\d.]+", text)[:3])


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast of two colours, from 1 to 21 (WCAG 2.2)."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
