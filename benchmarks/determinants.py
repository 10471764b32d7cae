"""The log-determinant of a Jacobian of any form against that of a planar layer, as D grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from stopwatch import exponent, one_core, processor_seconds, ratios, summary, take_turns
from torch import Tensor

from nfbook.plotting import COLORS, use_style

TITLE = "Two log-determinants of a Jacobian"
GENERAL, PLANAR = "elimination", "planar formula"
# In a call there are so many points that its start does not count, and at most so many that vectors
# fit in the cache and matrices in memory.
SETTINGS = {
    "D": [10, 40, 160, 640, 2560],
    "points in a call, planar formula": [1000, 1000, 1000, 1000, 250],
    "points in a call, elimination": [1000, 1000, 1000, 100, 10],
    "dtype": "float32",
    "cores": 1,
}
ROUNDS = 9
LOOKS = {GENERAL: ("s--", "estimate"), PLANAR: ("o-", "variational")}
ALT = (
    "One plot with logarithmic axes, time for each point against the dimension: a steep line for "
    "elimination and, below it, one for the planar formula, which is nearly flat at first."
)


def measure() -> dict[str, Any]:
    """Let both take turns at all D, and fit exponents to their least times."""
    runs, differences = {}, []
    sizes = (SETTINGS["D"], *(SETTINGS[f"points in a call, {name}"] for name in (PLANAR, GENERAL)))
    with one_core(), torch.no_grad():
        for dim, many, few in zip(*sizes, strict=True):
            layers, jacobians = contestants(dim, many, few)
            for name, count, run in (
                (GENERAL, few, partial(by_elimination, jacobians)),
                (PLANAR, many, partial(by_formula, *layers)),
            ):
                runs[name, dim] = partial(_seconds_of_a_point, run, count)
            short, long = by_formula(*layers)[:few], by_elimination(jacobians)
            differences.append(float((short - long).abs().max()))
        seconds = take_turns(runs, ROUNDS)
    rows = {name: [summary(seconds[name, dim]) for dim in SETTINGS["D"]] for name in LOOKS}
    return {
        "seconds": rows,
        "ratio": [ratios(seconds[GENERAL, dim], seconds[PLANAR, dim]) for dim in SETTINGS["D"]],
        "exponent": {
            name: exponent(SETTINGS["D"], [one["min"] for one in row]) for name, row in rows.items()
        },
        "difference": max(differences),
    }


def contestants(dim: int, many: int, few: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return points with a planar layer each, as z, w, u and b, and the first Jacobians."""
    g = torch.Generator().manual_seed(0)
    z, w, u = torch.randn(3, many, dim, generator=g)
    w, u = w / dim**0.5, u / dim**0.5
    b = torch.randn(many, generator=g)
    slope = 1 - torch.tanh((w * z).sum(-1) + b) ** 2
    moved = torch.einsum("ni,nj->nij", u[:few], slope[:few, None] * w[:few])
    return (z, w, u, b), torch.eye(dim) + moved


def by_elimination(jacobians: Tensor) -> Tensor:
    """Return the logarithms of the absolute values of the determinants."""
    return torch.linalg.slogdet(jacobians).logabsdet


def by_formula(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
    r"""Return the same for planar layers, :math:`\log |1 + w^\top u\, h'(w^\top z + b)|`."""
    h = torch.tanh((w * z).sum(-1) + b)
    return torch.log(torch.abs(1 + (w * u).sum(-1) * (1 - h**2)))


def _seconds_of_a_point(run: Callable[[], object], count: int) -> float:
    return processor_seconds(run) / count


def table(result: dict[str, Any]) -> str:
    """One row a contestant, with the exponents, and one of ratios."""
    heads = [*(f"D = {dim}" for dim in SETTINGS["D"]), "exponent"]
    lines = [f"| | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, row in result["seconds"].items():
        times = map(_microseconds, row)
        lines.append(f"| {name} | {' | '.join(times)} | {result['exponent'][name]:.2f} |")
    lines += [
        f"| ratio | {' | '.join(map(_whole, result['ratio']))} | |",
        "",
        f"Processor time for one point, the least of {ROUNDS} rounds in which all take turns, and "
        "the ratio with its quartiles over the rounds. The Jacobians are given; to fill them is "
        f"not counted. Both find the same to within {result['difference']:.0e}.",
    ]
    return "\n".join(lines)


def _microseconds(seconds: dict[str, float]) -> str:
    value = 1e6 * seconds["min"]
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f} µs"


def _whole(ratio: dict[str, float]) -> str:
    median, lower, upper = (f"{ratio[name]:,.0f}" for name in ("median", "lower", "upper"))
    return f"{median} ({lower}–{upper})"


def plot(result: dict[str, Any]) -> Figure:
    """Time of a point against D on logarithmic axes."""
    use_style()
    figure, ax = plt.subplots(figsize=(6, 3.6))
    for name, row in result["seconds"].items():
        look, color = LOOKS[name]
        least = [1e6 * one["min"] for one in row]
        ax.loglog(SETTINGS["D"], least, look, color=COLORS[color], label=name)
    ax.set(xlabel="dimension $D$", ylabel="microseconds for a point")
    ax.set_xticks(SETTINGS["D"], map(str, SETTINGS["D"]))
    ax.minorticks_off()
    ax.legend()
    return figure
