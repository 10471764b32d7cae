"""How often flows fail in float32 as their raw parameters grow.

The raw parameters are what a conditioner gives, before a flow makes scales, bins or slopes of
them. To have them on the same scale in every library, whatever its masks and its initial weights
are, the last layers' weights are set to zero and their biases drawn anew for every batch. So in
each layer each coordinate has parameters that are exactly normal, with the chosen deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import BINS, BOUND, LOOKS, PACKAGES, Contestant, contestants, planar_contestants
from torch import Tensor

from nfbook.plotting import use_style

TITLE = "Failures in float32"
SETTINGS: dict[str, Any] = {
    "scale of the raw parameters": [1, 5, 10, 20],
    "batches": 100,
    "batch": 2000,
    "D": 16,
    "transforms": 5,
    "transforms on the way there and back": 1,
    "largest error there and back": 1e-3,
    "bins": BINS,
    "bound": BOUND,
    "dtype": "float32",
}
PEERS = PACKAGES
SEEDS = range(SETTINGS["batches"])
WORK = {
    "realnvp": "RealNVP, density",
    "maf": "MAF, density",
    "spline-coupling": "spline, density",
    "round trip": "spline, there and back",
    "planar": "planar, samples",
}
WAYS = ("raised", "not finite", "too large")
ALT = (
    "Five plots, one a kind of work: the share of batches that failed at each scale of the raw "
    "parameters, one bar a library."
)

# One batch, with parameters drawn anew: the values that have to be finite.
Attempt = Callable[[float, torch.Generator], Tensor]


def measure() -> dict[str, Any]:
    """Count failures for each kind of work, each library and each scale."""
    dim, length = SETTINGS["D"], SETTINGS["transforms"]
    short = SETTINGS["transforms on the way there and back"]
    work: dict[str, dict[str, Attempt]] = {
        family: {name: density(one) for name, one in contestants(family, dim, length).items()}
        for family in ("realnvp", "maf", "spline-coupling")
    }
    work["round trip"] = {
        name: round_trip(one) for name, one in contestants("spline-coupling", dim, short).items()
    }
    work["planar"] = {name: planar(name) for name in ("nfbook", "normflows", "Pyro")}
    scales = SETTINGS["scale of the raw parameters"]
    return {
        kind: {
            name: {str(scale): count(attempt, scale) for scale in scales}
            for name, attempt in attempts.items()
        }
        for kind, attempts in work.items()
    }


def count(attempt: Attempt, scale: float) -> dict[str, int | float]:
    """Return in how many batches an attempt raised, gave no finite value, or one too large."""
    g = torch.Generator().manual_seed(0)
    # What fails even with small parameters is no failure but a mistake of this benchmark.
    if not attempt(0.1, g).isfinite().all():
        raise RuntimeError("a value is not finite at scale 0.1")
    limit = SETTINGS["largest error there and back"]
    raised = not_finite = too_large = 0
    largest = 0.0
    for seed in range(SETTINGS["batches"]):
        g = torch.Generator().manual_seed(seed)
        try:
            value = attempt(scale, g)
        except Exception:
            raised += 1
            continue
        if not value.isfinite().all():
            not_finite += 1
        elif value.dim() == 0:
            too_large += int(value > limit)
            largest = max(largest, float(value))
    return {
        "raised": raised,
        "not finite": not_finite,
        "too large": too_large,
        "largest": largest,
    }


def density(one: Contestant) -> Attempt:
    """Attempt the log-densities of standard normal data."""

    def attempt(scale: float, g: torch.Generator) -> Tensor:
        one.redraw(0, scale, g)
        with torch.no_grad():
            return one.log_prob(torch.randn(SETTINGS["batch"], SETTINGS["D"], generator=g))

    return attempt


def round_trip(one: Contestant) -> Attempt:
    """Attempt the way there and back from standard normal points; return the largest error.

    Both orders count, from data to noise and from noise to data. Libraries differ in which of the
    two is a spline and which its inverse, and flat places harm only one of them.
    """

    def attempt(scale: float, g: torch.Generator) -> Tensor:
        one.redraw(0, scale, g)
        x = torch.randn(SETTINGS["batch"], SETTINGS["D"], generator=g)
        with torch.no_grad():
            # Pyro would give back what it remembers, so each way starts from a copy.
            ends = [
                back(there(x.clone()).clone())
                for there, back in ((one.to_noise, one.to_data), (one.to_data, one.to_noise))
            ]
        return (torch.stack(ends) - x).abs().max()

    return attempt


def planar(name: str) -> Attempt:
    """Attempt to send standard normal noise through planar layers; return the log-determinants.

    This way because no peer has the other one, which a density of data would need.
    """

    def attempt(scale: float, g: torch.Generator) -> Tensor:
        one = planar_contestants(*planar_draw(scale, g))[name]
        z = torch.randn(SETTINGS["batch"], SETTINGS["D"], generator=g)
        with torch.no_grad():
            y, ladj = one.call_and_ladj(z)
        return ladj + 0 * y.sum(-1)

    return attempt


def planar_draw(scale: float, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameters for planar layers that all points share."""
    length, dim = SETTINGS["transforms"], SETTINGS["D"]
    w, u = (scale * torch.randn(length, dim, generator=g) for _ in "wu")
    return w, u, scale * torch.randn(length, generator=g)


def failed(row: dict[str, int | float]) -> float:
    """Return the share of batches that failed in any way, in percent."""
    return 100 * sum(row[way] for way in WAYS) / SETTINGS["batches"]


def in_words(settings: dict[str, Any]) -> str:
    """Say how the raw parameters were set; the scales are in the table."""
    return (
        f"{settings['batches']} batches of {settings['batch']:,} standard normal points, "
        f"D = {settings['D']}; {settings['dtype']}; for each batch new raw parameters with mean 0 "
        "and the scale as standard deviation, which are the biases of the conditioners' last "
        f"layers, while the weights there are 0; {settings['transforms']} transforms, but "
        f"{settings['transforms on the way there and back']} for the way there and back, in both "
        f"orders, with an error of at most {settings['largest error there and back']}; splines "
        f"with {settings['bins']} bins on ±{settings['bound']:g}"
    )


def table(result: dict[str, Any]) -> str:
    """One row a kind of work and library."""
    scales = [str(scale) for scale in SETTINGS["scale of the raw parameters"]]
    heads = [*scales, *WAYS]
    rows = [f"| | | {' | '.join(heads)} |", "|---|---" + "|---:" * len(heads) + "|"]
    for kind, label in WORK.items():
        for name, row in result[kind].items():
            cells = [f"{failed(row[scale]):.0f} %" for scale in scales]
            cells += [str(row[scales[-1]][way] or "") for way in WAYS]
            rows.append(f"| {label} | {name} | {' | '.join(cells)} |")
    largest = [
        f"{row[scales[-1]]['largest']:.1g} with {name}"
        for name, row in result["round trip"].items()
    ]
    rows.append(
        "\nShare of the batches that failed, for each scale of the raw parameters; and how often "
        f"which way at scale {scales[-1]}: an exception was raised, a value was not finite or, "
        "there and back, an error was too large. The largest errors there and back at that scale "
        f"were {', '.join(largest)}. zuko and nflows have no planar layers."
    )
    return "\n".join(rows)


def plot(result: dict[str, Any]) -> Figure:
    """Share of failures by scale, one panel a kind of work."""
    use_style()
    figure, axes = plt.subplots(1, len(WORK), figsize=(10, 2.8), sharey=True)
    scales = SETTINGS["scale of the raw parameters"]
    libraries = list(result["realnvp"])
    width = 0.8 / len(libraries)
    for ax, (kind, label) in zip(axes, WORK.items(), strict=True):
        for i, name in enumerate(libraries):
            rows = result[kind].get(name)
            shares = [failed(rows[str(scale)]) if rows else 0.0 for scale in scales]
            places = [x + width * (i - 2) for x in range(len(scales))]
            ax.bar(places, shares, width, color=LOOKS[name][0], label=name)
        ax.set_xticks(range(len(scales)), map(str, scales))
        ax.set(title=label.replace(", ", ",\n"), xlabel="scale", ylim=(0, 102))
    axes[0].set_ylabel("batches that failed (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
