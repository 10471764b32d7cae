"""The comparison of pictures: it forgives another processor and nothing that a reader sees."""

from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from pictures import difference, load
from PIL import Image, ImageFilter

from nfbook.plotting import COLORS, use_style


def draw(*, shift=0.0, color="prior", legend=True, label="time in minutes", points=200) -> bytes:
    """Draw a typical figure of the book."""
    rng = np.random.default_rng(0)
    x = np.linspace(-3, 3, points)
    with plt.rc_context():
        use_style()
        figure, ax = plt.subplots()
        ax.plot(x, np.exp(-((x - shift) ** 2) / 2), color=COLORS[color], label="density")
        ax.scatter(rng.normal(size=60), rng.random(60), s=8, color=COLORS["data"], label="data")
        ax.set(xlabel=label, ylabel="density")
        if legend:
            ax.legend()
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    return buffer.getvalue()


def soften(png: bytes, radius: float) -> bytes:
    """Blur every edge a little, as another font renderer would."""
    buffer = BytesIO()
    load(png).filter(ImageFilter.GaussianBlur(radius)).save(buffer, format="png")
    return buffer.getvalue()


def test_the_same_figure_agrees():
    assert difference(draw(), draw()) is None


@pytest.mark.parametrize("shift", [1e-12, 1e-6, 1e-3])
def test_rounding_is_forgiven(shift):
    assert difference(draw(), draw(shift=shift)) is None


def test_softer_edges_are_forgiven():
    assert difference(draw(), soften(draw(), 0.7)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"shift": 0.05},
        {"color": "posterior"},
        {"legend": False},
        {"label": "time in seconds"},
        {"points": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_visible_change_is_noticed(change):
    assert "differ visibly" in difference(draw(), draw(**change))


def test_another_size_is_noticed():
    wide = Image.new("RGB", (900, 400), "white")
    narrow = Image.new("RGB", (800, 400), "white")
    first, second = BytesIO(), BytesIO()
    wide.save(first, format="png")
    narrow.save(second, format="png")
    assert "pixels" in difference(first.getvalue(), second.getvalue())
