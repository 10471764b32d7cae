"""Figures whose sliders call Python: what they check, draw, store and leave behind."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image

from nfbook.live import Controls, LiveFigure

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def bars(height: int, shade: float = 0.5) -> Figure:
    """A black and grey picture that tells its arguments by its pixels."""
    if height == 7:
        raise ValueError("seven <is> too high")
    figure, axes = plt.subplots(figsize=(1, 1), dpi=50)
    axes.set_axis_off()
    axes.bar([0], [height], color=str(shade))
    axes.set_ylim(0, 10)
    return figure


def make(**changes: object) -> LiveFigure:
    arguments = {
        "draw": bars,
        "still": {"height": 3, "shade": 0.5},
        "height": range(1, 10),
        "shade": [0.0, 0.5, 0.75],
    }
    return LiveFigure(**(arguments | changes))


def dark_pixels(png: bytes) -> int:
    return int((np.asarray(Image.open(BytesIO(png)).convert("L")) < 200).sum())


def live_png(live: LiveFigure) -> bytes:
    """The picture that a live session shows."""
    return b64decode(re.search(r"base64,([^\"]+)", live.picture.value)[1])


@pytest.fixture(autouse=True)
def nothing_left_open():
    # What other tests of this process left open is not this one's.
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def test_a_slider_redraws():
    live = make()
    before = live.png
    assert dark_pixels(before) > 0
    live.sliders["height"].value = 6
    assert dark_pixels(live.png) == pytest.approx(2 * dark_pixels(before), rel=0.1)
    assert live_png(live) == live.png
    assert "height = 6 and shade = 0.5" in live.picture.value
    assert live.values == {"height": 6, "shade": 0.5}
    live.sliders["height"].value = 3
    assert live.png == before, "the same values draw the same picture, byte by byte"


def test_every_slider_redraws():
    live = make()
    before = live.png
    live.sliders["shade"].value = 0.0
    assert live.png != before
    assert live.sliders["shade"].label == "0"


def test_first_picture_is_the_still_one():
    for height in (2, 9):
        live = make(still={"height": height, "shade": 0.0})
        assert live.png == make_png(height)
        assert live_png(live) == live.png


def make_png(height: int) -> bytes:
    figure = bars(height, 0.0)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def test_an_error_is_shown_and_passes():
    live = make()
    good = live.png
    live.sliders["height"].value = 7
    assert 'role="alert"' in live.picture.value
    assert "ValueError: seven &lt;is&gt; too high" in live.picture.value
    assert "in bars" in live.picture.value, "the line in draw is named"
    assert "<img" not in live.picture.value
    assert live.png == good
    live.sliders["height"].value = 3
    assert "alert" not in live.picture.value
    assert live_png(live) == good


def test_an_error_in_the_first_picture_is_raised():
    with pytest.raises(ValueError, match="seven"):
        make(still={"height": 7, "shade": 0.5})


def test_figures_are_closed_even_after_an_error():
    def half(height: int) -> Figure:
        figure, _ = plt.subplots()
        plt.subplots()
        if height == 2:
            raise RuntimeError
        return figure

    live = LiveFigure(half, still={"height": 1}, height=[1, 2])
    assert plt.get_fignums() == []
    live.sliders["height"].value = 2
    assert plt.get_fignums() == []


def test_a_figure_that_was_open_stays_open():
    mine = plt.figure()
    make()
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"draw": 3}, TypeError, "draw must be a function, got int"),
        ({"draw": lambda height: None}, TypeError, "draw must take the sliders by name: .*shade"),
        (
            {"draw": lambda height, shade, more: None},
            TypeError,
            "draw must take the sliders by name: .*more",
        ),
        (
            {"draw": lambda height, shade: None},
            TypeError,
            "draw's result must be a matplotlib Figure, got NoneType",
        ),
        ({"draw": dict}, TypeError, "draw must take the sliders by name: no signature"),
        ({"height": 9}, TypeError, "height must be a list, tuple or range of values, got int"),
        ({"height": "123"}, TypeError, "height must be a list, tuple or range of values, got str"),
        ({"height": [3]}, ValueError, "height must hold at least two values, got 1"),
        ({"height": [3, 3, 4]}, ValueError, r"height must hold each value once, got \[3, 3, 4\]"),
        (
            {"height": [[3], [4]]},
            TypeError,
            "every value of height must be a number or a string, got list",
        ),
        (
            {"height": [3, None]},
            TypeError,
            "every value of height must be a number or a string, got NoneType",
        ),
        ({"height": [3, float("nan")]}, ValueError, "height must not hold NaN"),
        ({"still": {1: 3, "shade": 0.5}}, ValueError, "still must give .*, got 1, shade"),
        (
            {"still": {"height": np.array([3, 4]), "shade": 0.5}},
            ValueError,
            r"still: height must be one of range\(1, 10\), got array\(\[3, 4\]\)",
        ),
        ({"still": 3}, TypeError, "still must be a dictionary, got int"),
        ({"still": {}}, ValueError, "still must give a value to height and shade, got none"),
        (
            {"still": {"height": 3, "width": 1}},
            ValueError,
            "still must give a value to height and shade, got height, width",
        ),
        (
            {"still": {"height": 30, "shade": 0.5}},
            ValueError,
            r"still: height must be one of range\(1, 10\), got 30",
        ),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_controls_of_no_figure():
    with pytest.raises(TypeError, match="figure must be a LiveFigure, got NoneType"):
        Controls(None)


def test_without_sliders():
    with pytest.raises(ValueError, match="at least one slider must be given"):
        LiveFigure(lambda: None, still={})


def stored(shown: object) -> dict[str, object]:
    """Return what a notebook stores of a cell that ends with this."""
    bundle, _ = DisplayFormatter().format(shown)
    return bundle


def test_stored_picture():
    live = make()
    bundle = stored(live)
    assert bundle.pop(WIDGET_VIEW)["model_id"] == live.picture.model_id
    assert b64decode(bundle.pop("image/png")) == live.png
    assert bundle == {"text/plain": "LiveFigure(height=3, shade=0.5)"}


def test_stored_controls():
    live = make()
    bundle = stored(live.controls)
    assert bundle.pop(WIDGET_VIEW)["model_id"] == live.controls.widget.model_id
    assert bundle == {
        "text/plain": "Sliders: height and shade",
        "text/markdown": "*The picture shows height = 3 and shade = 0.5. The sliders for height "
        "and shade need Python: open this page in a [live session](#live-sessions), "
        "by its Binder or Colab button or on your own machine, and run its cells.*",
    }


def test_one_slider_in_words():
    live = LiveFigure(bars, still={"height": 3}, height=(2, 3))
    text = stored(live.controls)["text/markdown"]
    assert "The picture shows height = 3. The slider for height needs Python" in text


def test_names_are_words():
    live = LiveFigure(
        lambda bar_height: bars(bar_height), still={"bar_height": 3}, bar_height=(2, 3)
    )
    assert live.sliders["bar_height"].description == "bar height"
