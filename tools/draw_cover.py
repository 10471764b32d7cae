"""Draw the picture of the landing page: a flow bends a Gaussian into two moons.

    python tools/draw_cover.py

The flow is exact, not trained. A point starts at z ~ N(0, I) and moves on average as if on a
straight line to a point of the target, a mixture of Gaussians N(m_k, s^2 I) along two arcs. At
time t the density is then the mixture of N(t m_k, v_t I) with v_t = (1 - t)^2 + t^2 s^2, and the
velocity that carries the points there is a weighted mean of the components' own velocities
(Lipman et al., 2023, "Flow Matching for Generative Modeling", theorems 1 and 3).
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from nfbook.plotting import COLORS, use_style

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"

SPREAD = 0.16
TIMES = (0.0, 0.5, 0.8, 1.0)
VIEW = (-2.6, 2.6)
EXTENT = 2.1


def moons(points: int = 24) -> Tensor:
    """Return the target's component means, with shape `(2 points, 2)`."""
    angle = torch.linspace(0, math.pi, points, dtype=torch.float64)
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], dim=1)
    return 1.45 * torch.cat([upper, lower])


MEANS = moons()


def variance(t: float) -> float:
    """Return v_t, the variance of each component at time t."""
    return (1 - t) ** 2 + (t * SPREAD) ** 2


def log_terms(x: Tensor, t: float) -> Tensor:
    """Return log N(x; t m_k, v_t I) for every component, with shape `(*, K)`."""
    # |x - t m|^2, multiplied out: no difference is held for each pair of point and component.
    squared = x.square().sum(-1, keepdim=True) - 2 * t * x @ MEANS.T + t**2 * MEANS.square().sum(-1)
    return -squared / (2 * variance(t)) - math.log(2 * math.pi * variance(t))


def log_density(x: Tensor, t: float) -> Tensor:
    """Return the log density of the flow's points at time t."""
    return log_terms(x, t).logsumexp(-1) - math.log(len(MEANS))


def velocity(x: Tensor, t: float) -> Tensor:
    """Return the mean velocity of the points that are at x at time t."""
    mean = log_terms(x, t).softmax(-1) @ MEANS
    stretch = (t * SPREAD**2 - (1 - t)) / variance(t)
    return mean + stretch * (x - t * mean)


def flow(z: Tensor, until: float, steps: int = 40) -> Tensor:
    """Return where the points z at time 0 are at time ``until`` (Runge-Kutta, fourth order)."""
    h = until / steps
    for i in range(steps):
        t = i * h
        k1 = velocity(z, t)
        k2 = velocity(z + h / 2 * k1, t + h / 2)
        k3 = velocity(z + h / 2 * k2, t + h / 2)
        k4 = velocity(z + h * k3, t + h)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z


def grid(lines: int = 13, points: int = 121) -> Tensor:
    """Return horizontal and vertical lines, with shape `(2 lines, points, 2)`."""
    level = torch.linspace(-EXTENT, EXTENT, lines, dtype=torch.float64)
    along = torch.linspace(-EXTENT, EXTENT, points, dtype=torch.float64)
    rows = torch.stack(torch.meshgrid(along, level, indexing="xy"), dim=-1)
    return torch.cat([rows, rows.flip(-1)])


def draw_panel(ax: Axes, t: float) -> None:
    """Draw the density at time t and the grid that started as straight lines."""
    axis = torch.linspace(*VIEW, 240, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    blend = LinearSegmentedColormap.from_list("density", ["#FFFFFF", "#9CCBE8", COLORS["prior"]])
    density = log_density(plane, t).exp().numpy()
    ax.imshow(density, extent=(*VIEW, *VIEW), origin="lower", cmap=blend, interpolation="bilinear")
    for line in flow(grid(), t).numpy():
        ax.plot(line[:, 0], line[:, 1], color=COLORS["estimate"], linewidth=0.6, alpha=0.8)
    ax.set(xlim=VIEW, ylim=VIEW, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def draw(folder: Path = STATIC) -> Path:
    """Draw the picture into a folder and return its path."""
    with plt.rc_context():
        use_style()
        figure, axes = plt.subplots(1, len(TIMES), figsize=(6.6, 2.1))
        for ax, t in zip(axes, TIMES, strict=True):
            draw_panel(ax, t)
            ax.set_xlabel(f"$t = {t:g}$")
        axes[0].set_title("a Gaussian")
        axes[-1].set_title("the target")
        path = folder / "cover.png"
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)
    return path


if __name__ == "__main__":
    draw()
