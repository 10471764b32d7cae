"""One style, and helpers that draw what they say."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from nfbook.plotting import COLORS, draw_density, draw_images, use_style

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def ax():
    with mpl.rc_context():
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def luminance(colour):
    """The relative luminance of WCAG 2."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [
        0.2126,
        0.7152,
        0.0722,
    ]


def test_colours_are_distinct_and_visible_on_white():
    assert len(set(COLORS.values())) == len(COLORS)
    for colour in COLORS.values():
        assert (1 + 0.05) / (luminance(colour) + 0.05) > 2


def test_importing_changes_nothing_and_use_style_does():
    with mpl.rc_context():
        mpl.rcdefaults()
        before = mpl.rcParams["axes.spines.top"]
        use_style()
        assert before
        assert not mpl.rcParams["axes.spines.top"]
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_density_contours_enclose_the_stated_probability(ax):
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]])
    gaussian = MultivariateNormal(torch.tensor([1.0, -1.0]), covariance)
    ax.set(xlim=(-6, 8), ylim=(-9, 7))
    draw_density(ax, gaussian.log_prob, color="k", contents=(0.5, 0.95), points=400)
    (contours,) = ax.collections
    # The region of probability p is an ellipse: its squared Mahalanobis radius is -2 log(1 - p).
    radii = []
    for path in contours.get_paths():
        offset = torch.tensor(path.vertices - [1.0, -1.0]).float()
        radii.append(torch.einsum("nd,de,ne->n", offset, torch.linalg.inv(covariance), offset))
    for found, content in zip(sorted(radii, key=torch.mean), (0.5, 0.95), strict=True):
        assert torch.allclose(found, torch.tensor(-2 * math.log(1 - content)), rtol=0.02)


@pytest.mark.parametrize(
    ("limits", "options", "error", "message"),
    [
        ((-1, 1), {}, ValueError, "contents must be at most 0.46"),
        ((-6, 6), {"contents": (1.5,)}, ValueError, "contents must lie strictly between 0 and 1"),
        ((-6, 6), {"contents": ("half",)}, TypeError, "contents must be a number"),
        ((-6, 6), {"points": 2}, ValueError, "points must be at least 10"),
        ((-6, 6), {"points": 20.0}, TypeError, "points must be an int"),
        ((-6, 6), {"contents": ()}, ValueError, "contents must hold at least one probability"),
        ((-6, 6), {"contents": 0.5}, TypeError, "contents must be a sequence of numbers"),
        ((-6, 6), {"color": "no colour"}, ValueError, "color must be a colour .* got 'no colour'"),
        ((-6, 6), {"color": None}, ValueError, "color must be a colour .* got None"),
        ((-6, 6), {"ax": None}, TypeError, "ax must be matplotlib Axes, got NoneType"),
        ((-6, 6), {"log_prob": None}, TypeError, "log_prob must be a function, got NoneType"),
    ],
)
def test_density_refuses_what_it_cannot_draw(ax, limits, options, error, message):
    gaussian = MultivariateNormal(torch.zeros(2), torch.eye(2))
    ax.set(xlim=limits, ylim=limits)
    good = {"ax": ax, "log_prob": gaussian.log_prob, "color": "k"}
    with pytest.raises(error, match=message):
        draw_density(**(good | options))


@pytest.mark.parametrize(
    ("log_prob", "error", "message"),
    [
        (lambda x: x, ValueError, r"log_prob's result must have shape \(40000,\)"),
        (lambda x: 0.0, TypeError, r"log_prob's result must be a torch\.Tensor, got float"),
        (lambda x: x[:, 0] * math.nan, ValueError, "log_prob's result must be finite or minus"),
        (lambda x: x[:, 0] + 1e9, ValueError, "exp of log_prob's result must be finite"),
    ],
)
def test_density_wants_one_logarithm_for_each_point(ax, log_prob, error, message):
    with pytest.raises(error, match=message):
        draw_density(ax, log_prob, color="k")


def test_density_may_vanish_and_probabilities_may_share_a_contour(ax):
    """Uniform on a small square: one grid point bounds both regions."""
    ax.set(xlim=(-2, 2), ylim=(-2, 2))
    draw_density(
        ax,
        lambda x: torch.where(x.abs().amax(1) < 1, -math.log(4), -math.inf),
        color="k",
        contents=(0.5, 0.5001),
    )
    assert len(ax.collections[0].get_paths()) == 1


def test_images_are_tiled_row_by_row(ax):
    images = torch.arange(5.0).unsqueeze(1).expand(5, 4)
    draw_images(ax, images, columns=3, limits=(0, 5))
    sheet = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert sheet.shape == (5, 8)
    for i in range(5):
        row, column = divmod(i, 3)
        assert (sheet[3 * row : 3 * row + 2, 3 * column : 3 * column + 2] == i).all()
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[3:, 6:]).all()
    assert ax.images[0].get_clim() == (0, 5)


def test_images_are_not_transposed(ax):
    draw_images(ax, torch.arange(9.0).unsqueeze(0), columns=1)
    assert (ax.images[0].get_array() == np.arange(9).reshape(3, 3)).all()


@pytest.mark.parametrize(
    ("images", "columns", "error", "message"),
    [
        (None, 2, TypeError, "images must be a torch.Tensor, got NoneType"),
        (torch.zeros(3, 5), 2, ValueError, r"images must be square, so \(n, side²\), got \(3, 5\)"),
        (torch.zeros(4), 2, ValueError, r"images must have shape \(n, pixels\)"),
        (torch.zeros(0, 4), 2, ValueError, "images must not be empty"),
        (torch.full((1, 4), math.nan), 2, ValueError, "images must be finite"),
        (torch.zeros(3, 4).int(), 2, TypeError, "images must be a floating-point tensor"),
        (torch.zeros(3, 4), 0, ValueError, "columns must be at least 1"),
    ],
)
def test_images_refuse_what_is_no_picture(ax, images, columns, error, message):
    with pytest.raises(error, match=message):
        draw_images(ax, images, columns=columns)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ax": None}, TypeError, "ax must be matplotlib Axes, got NoneType"),
        ({"limits": None}, TypeError, r"limits must be a pair of numbers \(low, high\), got None"),
        ({"limits": (1, 2, 3)}, TypeError, r"limits must be a pair .*, got \(1, 2, 3\)"),
        ({"limits": (0, "1")}, TypeError, "each of limits must be a number, got str"),
        ({"limits": (0, math.inf)}, ValueError, "each of limits must be finite, got inf"),
        ({"limits": (5, 0)}, ValueError, r"limits must be increasing, got \(5, 0\)"),
        ({"limits": (5, 5)}, ValueError, r"limits must be increasing, got \(5, 5\)"),
        ({"cmap": "no map"}, ValueError, "cmap must be the name of .*, got 'no map'"),
        ({"cmap": ["gray"]}, ValueError, "cmap must be the name of .*, got"),
    ],
)
def test_images_refuse_what_they_cannot_be_drawn_with(ax, options, error, message):
    good = {"ax": ax, "images": torch.zeros(3, 4), "columns": 2}
    with pytest.raises(error, match=message):
        draw_images(**(good | options))
