"""One style for every figure of the book.

Colours are Okabe and Ito's (2008), which stay apart for readers with any common colour vision,
and each one has one meaning throughout: the prior is always blue, the posterior always green.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import torch
from cycler import cycler
from matplotlib.axes import Axes
from torch import Tensor

from nfbook._checks import (
    check_callable,
    check_count,
    check_fraction,
    check_log_values,
    check_real,
    check_tensor,
    check_type,
)

__all__ = ["COLORS", "draw_density", "draw_images", "use_style"]

COLORS = {
    "prior": "#0072B2",  # blue
    "likelihood": "#E69F00",  # orange
    "posterior": "#009E73",  # green
    "estimate": "#D55E00",  # vermilion: whatever approximates
    "variational": "#CC79A7",  # purple: q
    "truth": "#000000",  # black
    "data": "#56B4E9",  # sky blue
    "muted": "#8C8C8C",  # grey: guides and references
}

STYLE: dict[Any, Any] = {
    "figure.figsize": (7.0, 3.4),
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    # Opaque white: a dark notebook shows a white card, the book blends it into its page.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": cycler(
        color=[COLORS[k] for k in ("prior", "estimate", "posterior", "likelihood", "variational")]
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "axes.grid": False,
    "font.size": 10.0,
    # Shipped with matplotlib, so that a figure is the same on every machine.
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "cm",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Give every figure drawn from here on the book's style.

    Example:
        >>> use_style()
        >>> mpl.rcParams["legend.frameon"]
        False
    """
    mpl.rcParams.update(STYLE)


def draw_density(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    *,
    color: str,
    contents: Sequence[float] = (0.5, 0.95),
    points: int = 200,
    **style: Any,
) -> None:
    """Draw the contours of a density in the plane that enclose the stated probabilities.

    Each contour bounds the smallest region with that probability: an ellipse for a Gaussian. Set
    the limits of the axes first: the density is evaluated on a grid between them, with torch's
    default dtype.

    Arguments:
        ax: The axes, with their final limits.
        log_prob: The logarithm of a normalised density: `(points², 2)` to `(points²,)`.
        color: The colour of all contours.
        contents: The probabilities that the contours enclose.
        points: Grid points along each axis.
        **style: Passed on to ``Axes.contour``.

    Raises:
        TypeError: An argument has the wrong type, or log_prob returns no floating-point tensor.
        ValueError: There is no probability, one is not between 0 and 1, or so little of the
            density lies within the limits that a contour would be cut off; log_prob returns
            another shape, NaN or plus infinity; or `color` is not a colour that Matplotlib knows.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> from torch.distributions import Normal
        >>> def log_prob(z):
        ...     return Normal(0.0, 1.0).log_prob(z).sum(-1)
        >>> figure, ax = plt.subplots()
        >>> limits = ax.set(xlim=(-4, 4), ylim=(-4, 4))
        >>> draw_density(ax, log_prob, color=COLORS["truth"], contents=(0.5,))
        >>> (ring,) = ax.collections[0].get_paths()
        >>> round(float(abs(ring.vertices).max()), 2)  # the radius that holds one half
        1.18
        >>> plt.close(figure)
    """
    check_type("ax", ax, Axes, "matplotlib Axes")
    check_callable("log_prob", log_prob)
    if not mpl.colors.is_color_like(color):
        raise ValueError(f"color must be a colour that matplotlib knows, got {color!r}")
    check_count("points", points, minimum=10)
    check_type("contents", contents, Sequence, "a sequence of numbers")
    if not contents:
        raise ValueError(f"contents must hold at least one probability, got {contents}")
    for content in contents:
        check_fraction("contents", content)
    x, y = (torch.linspace(*limits, points) for limits in (ax.get_xlim(), ax.get_ylim()))
    grid = torch.cartesian_prod(x, y)
    log_density = log_prob(grid)
    check_log_values("log_prob's result", log_density, (points**2,))
    density = log_density.detach().exp()
    check_tensor("exp of log_prob's result", density, (points**2,))
    ordered = density.sort(descending=True).values
    cell = abs(float((x[1] - x[0]) * (y[1] - y[0])))
    enclosed = ordered.cumsum(0) * cell
    if enclosed[-1] < max(contents):
        raise ValueError(
            f"contents must be at most {float(enclosed[-1]):.3g}, the probability within the "
            f"limits of the axes, got {max(contents)}"
        )
    levels = [float(ordered[(enclosed < content).sum()]) for content in contents]
    ax.contour(
        x.numpy(),
        y.numpy(),
        density.reshape(points, points).mT.numpy(),
        # Two probabilities may end at the same point of the grid.
        levels=sorted(set(levels)),
        colors=color,
        **style,
    )


def draw_images(
    ax: Axes,
    images: Tensor,
    *,
    columns: int,
    limits: tuple[float, float] = (0.0, 16.0),
    cmap: str = "gray_r",
) -> None:
    """Draw square pictures in rows, separated by one empty pixel, without axes.

    Arguments:
        ax: The axes to fill.
        images: One picture a row, `(n, side²)`, in the units of ``limits``.
        columns: Pictures in one row. The last row may be shorter.
        limits: The values drawn in the first and the last colour; values beyond them look alike.
        cmap: A matplotlib colour map.

    Raises:
        TypeError: An argument has the wrong type, or images is not a floating-point tensor.
        ValueError: The pictures are not square, or hold NaN or infinity; the limits are not
            increasing; or there is no such colour map.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> figure, ax = plt.subplots()
        >>> draw_images(ax, torch.zeros(6, 64), columns=3)
        >>> ax.images[0].get_array().shape
        (17, 26)
        >>> plt.close(figure)
    """
    check_type("ax", ax, Axes, "matplotlib Axes")
    count, pixels = check_tensor("images", images, ("n", "pixels")).values()
    check_count("columns", columns)
    low, high = _check_limits(limits)
    if cmap not in list(mpl.colormaps):
        raise ValueError(f"cmap must be the name of a matplotlib colour map, got {cmap!r}")
    side = math.isqrt(pixels)
    if side**2 != pixels:
        raise ValueError(f"images must be square, so (n, side²), got {tuple(images.shape)}")
    rows = math.ceil(count / columns)
    tiles = torch.full((rows * columns, side + 1, side + 1), math.nan, dtype=images.dtype)
    tiles[:count, :side, :side] = images.detach().reshape(count, side, side)
    sheet = tiles.reshape(rows, columns, side + 1, side + 1).transpose(1, 2)
    sheet = sheet.reshape(rows * (side + 1), columns * (side + 1))[:-1, :-1]
    ax.imshow(sheet.numpy(), cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()


def _check_limits(limits: object) -> tuple[float, float]:
    if not isinstance(limits, tuple) or len(limits) != 2:
        raise TypeError(f"limits must be a pair of numbers (low, high), got {limits!r}")
    low, high = (check_real("each of limits", limit) for limit in limits)
    if low >= high:
        raise ValueError(f"limits must be increasing, got {limits}")
    return low, high
