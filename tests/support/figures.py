"""What the tests of the interactive figures share: a page with figures, a browser, a pointer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from nfbook.explorables import static_scripts
from nfbook.explorables._source import esm

ROOT = Path(__file__).resolve().parents[2]


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
        f'{scripts}<script defer src="mount.js"></script></head>'
        f"<body>{''.join(bodies)}</body></html>",
        encoding="utf-8",
    )
    return page


@pytest.fixture
def troubles():
    """Whatever a page complains about; empty at the end of every test that opens one."""
    found: list[str] = []
    yield found
    assert found == []


# A figure is drawn once its place knows its width, which is after the page has loaded.
DRAWN = """() => [...document.querySelectorAll(".nfbook-explorable")].every((place) =>
    !place.querySelector("script")
    && [...place.querySelectorAll(".nfbook-axes")].every((axes) => axes.hasChildNodes()))"""


@pytest.fixture
def visit(browser, troubles, tmp_path):
    """Open a page with the given figures in a fresh context, and wait until they are drawn."""
    contexts = []

    def open_page(*bodies: str, url: str | None = None, **options: object) -> Page:
        context = browser.new_context(**({"viewport": {"width": 800, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("requestfailed", lambda r: troubles.append(r.url))
        page.goto(url or write_page(tmp_path, *bodies).as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function(DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()


def centre(locator: Locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, start: tuple[float, float], dx: float, dy: float = 0.0) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + dx / 2, start[1] + dy / 2)
    page.mouse.move(start[0] + dx, start[1] + dy)
    page.mouse.up()


def swipe(page: Page, *points: tuple[float, float]) -> None:
    """Lay a finger on the first point, move it over the others, and lift it."""
    session = page.context.new_cdp_session(page)
    for k, (x, y) in enumerate(points):
        kind = "touchMove" if k else "touchStart"
        touches = [{"x": x, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def run(page: Page, module: str, function: str, argument: object = None) -> object:
    """Run a JavaScript function with a figure's module as its first argument."""
    return page.evaluate(
        """async ([text, f, x]) => {
            const blob = new Blob([text], { type: "text/javascript" });
            const module = await import(URL.createObjectURL(blob));
            return (0, eval)(`(${f})`)(module, x);
        }""",
        [esm(module), function, argument],
    )


def rgb(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in re.findall(r"[\d.]+", text)[:3])


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def luminance(colour: tuple[float, ...]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def median_redraw(page: Page, slider: str, values: object, watched: str) -> float:
    """Return the median time in milliseconds from a slider's event to the drawn frame."""
    times = page.evaluate(
        """async ([slider, values, watched]) => {
            const input = document.querySelector(`input[aria-label="${slider}"]`);
            const path = document.querySelector(watched);
            const times = [];
            for (const value of values) {
                const before = path.getAttribute("d");
                const start = performance.now();
                input.value = value;
                input.dispatchEvent(new Event("input"));
                // A task after the next frame's callbacks runs when the frame has been drawn.
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                if (path.getAttribute("d") !== before) times.push(performance.now() - start);
            }
            return times.sort((a, b) => a - b);
        }""",
        [slider, list(values), watched],
    )
    assert len(times) >= 50
    median = times[len(times) // 2]
    print(f"from a slider's event to the drawn frame: {median:.1f} ms, at most {times[-1]:.1f} ms")
    return median
