"""What a density and a sample cost, for one flow of each kind, as the dimension grows."""

from __future__ import annotations

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from stopwatch import exponent, milliseconds, one_core, seconds_per_call, summary, take_turns

from nfbook.flows import FAMILIES, Flow
from nfbook.plotting import COLORS, use_style

TITLE = "A density and a sample, by family and dimension"
# Layers in a stack; two linear layers would be one, and the field of a CNF takes its place.
LENGTHS = {
    "plu": 1,
    "maf": 4,
    "iaf": 4,
    "spline-autoregressive": 4,
    "nice": 4,
    "realnvp": 4,
    "spline-coupling": 4,
    "planar": 4,
    "radial": 4,
    "sylvester-orthogonal": 4,
    "cnf": 1,
    "transformer": 4,
}
PATCH = 2
SETTINGS = {
    "D": [4, 8, 16, 32, 64],
    "points": 1000,
    "layers": LENGTHS,
    "hidden layers": [64, 64],
    "coordinates of a transformer's patch": PATCH,
    "dtype": "float32",
    "cores": 1,
}
ROUNDS = 5
# A colour and a mark each; relatives share the colour.
LOOKS = {
    "plu": ("truth", "o"),
    "maf": ("prior", "s"),
    "iaf": ("data", "D"),
    "spline-autoregressive": ("prior", "^"),
    "nice": ("estimate", "X"),
    "realnvp": ("estimate", "v"),
    "spline-coupling": ("estimate", "<"),
    "planar": ("posterior", ">"),
    "radial": ("posterior", "P"),
    "sylvester-orthogonal": ("variational", "p"),
    "cnf": ("muted", "*"),
    "transformer": ("prior", "h"),
}
ALT = (
    "Two plots with logarithmic axes, of the time for the densities of 1,000 points and for 1,000 "
    "samples against the dimension, one line a family."
)


def measure() -> dict[str, Any]:
    """Let the families take turns at every dimension."""
    with one_core():
        turns = {dim: take_turns(_runs(dim), ROUNDS) for dim in SETTINGS["D"]}
    return {
        name: {
            what: [summary(turns[dim][f"{name} {what}"]) for dim in SETTINGS["D"]]
            for what in ("density", "samples")
        }
        for name in LENGTHS
    }


def _runs(dim: int) -> dict[str, Any]:
    runs = {}
    for name in LENGTHS:
        flow = _flow(name, dim)
        x = flow().sample((SETTINGS["points"],), generator=torch.Generator().manual_seed(0))
        runs[f"{name} density"] = partial(_seconds_of_density, flow, x)
        runs[f"{name} samples"] = partial(_seconds_of_samples, flow)
    return runs


def _flow(name: str, dim: int) -> Flow:
    """Return a flow that bends, since the roots of a new one, which does not, are found at once."""
    generator = torch.Generator().manual_seed(0)
    options = {"patch": PATCH} if name == "transformer" else {}
    flow = FAMILIES[name](
        dim, 0, LENGTHS[name], SETTINGS["hidden layers"], **options, generator=generator
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 / dim**0.5 * torch.randn(parameter.shape, generator=generator)
    return flow


@torch.no_grad()
def _seconds_of_density(flow: Flow, x: torch.Tensor) -> float:
    return seconds_per_call(lambda: flow().log_prob(x))


@torch.no_grad()
def _seconds_of_samples(flow: Flow) -> float:
    return seconds_per_call(lambda: flow().sample((SETTINGS["points"],)))


def table(result: dict[str, Any]) -> str:
    """One row a family: both times at the largest dimensions, and how they grow."""
    dims = SETTINGS["D"]
    heads = [f"{what}, D = {dim}" for what in ("density", "samples") for dim in (dims[0], dims[-1])]
    heads = [*heads[:2], "exponent", *heads[2:], "exponent"]
    lines = [f"| | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, times in result.items():
        cells = []
        for what in ("density", "samples"):
            ends = (milliseconds(times[what][place]) for place in (0, -1))
            cells += [*ends, f"{_exponent(times[what]):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Median time of {SETTINGS['points']:,} points over {ROUNDS} rounds, on one core. The "
        f"exponent is the slope of the time against D on logarithmic axes, from D = {dims[-3]}.",
    ]
    return "\n".join(lines)


def _exponent(times: list[dict[str, float]]) -> float:
    return exponent(SETTINGS["D"][-3:], [one["median"] for one in times[-3:]])


def plot(result: dict[str, Any]) -> Figure:
    """Time against D, densities on the left and samples on the right."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
    for ax, what in zip(axes, ("density", "samples"), strict=True):
        for name, times in result.items():
            medians = [1e3 * one["median"] for one in times[what]]
            colour, mark = LOOKS[name]
            ax.loglog(SETTINGS["D"], medians, f"{mark}-", color=COLORS[colour], label=name)
        ax.set(title=what, xlabel="dimension $D$")
        ax.set_xticks(SETTINGS["D"], labels=[str(dim) for dim in SETTINGS["D"]])
        ax.minorticks_off()
    axes[0].set_ylabel("milliseconds for 1,000 points")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure
