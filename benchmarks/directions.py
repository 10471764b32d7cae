"""Both directions of a MAF and of an IAF against D: one pass, D passes, and D steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from stopwatch import (
    exponent,
    milliseconds,
    one_core,
    processor_seconds,
    summary,
    take_turns,
)
from torch import Tensor

from nfbook.flows import IAF, MAF
from nfbook.plotting import COLORS, use_style
from nfbook.transforms.elementwise import soft_bound

TITLE = "Two directions of an autoregressive layer"
SETTINGS = {
    "D": [4, 8, 16, 32, 64, 128, 192],
    "points": 100,
    "transforms": 1,
    "hidden layers": "two of 4 D units",
    "threads": 1,
    "dtype": "float32",
}
ROUNDS = 3
FROM = 32  # the smallest D that the exponents are fitted to
ALT = (
    "Six lines on logarithmic axes, time against D: two low ones for one pass, two steep ones for "
    "D passes, and two for D steps, which are highest at first and lie between the others later."
)
# How each is drawn: marker and colour.
LOOKS = {
    "MAF density, one pass": ("o", COLORS["posterior"]),
    "IAF samples, one pass": ("x", COLORS["posterior"]),
    "MAF samples, D steps": ("s", COLORS["prior"]),
    "IAF density, D steps": ("^", COLORS["prior"]),
    "MAF samples, D passes": ("s", COLORS["estimate"]),
    "IAF density, D passes": ("^", COLORS["estimate"]),
}


def measure() -> dict[str, Any]:
    """Let all six take turns at each D, and fit exponents to their least times from D = 32 on."""
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in LOOKS}
    difference = 0.0
    with one_core(), torch.no_grad():
        for dim in SETTINGS["D"]:
            runs, apart = contestants(dim)
            difference = max(difference, apart)
            timed = {name: partial(processor_seconds, run) for name, run in runs.items()}
            for name, values in take_turns(timed, ROUNDS).items():
                seconds[name].append(summary(values))
    start = SETTINGS["D"].index(FROM)
    rows = {
        name: {
            "seconds": each,
            "exponent": exponent(SETTINGS["D"][start:], [one["min"] for one in each[start:]]),
        }
        for name, each in seconds.items()
    }
    return {**rows, "difference": difference}


def contestants(dim: int) -> tuple[dict[str, Callable[[], object]], float]:
    """Return the six runs at a dimension, and how far passes and steps are apart."""
    options = {"length": 1, "hidden_features": (4 * dim, 4 * dim)}
    g = torch.Generator().manual_seed(0)
    flows = {"MAF": MAF(dim, **options, generator=g), "IAF": IAF(dim, **options, generator=g)}
    for flow in flows.values():
        flow.requires_grad_(False)
        for parameter in flow.parameters():
            # A flow that was just made is the identity, which would be found at once.
            parameter += 0.3 / dim * torch.randn(parameter.shape, generator=g)
    points = torch.randn(SETTINGS["points"], dim, generator=g)
    maf, iaf = flows["MAF"](), flows["IAF"]()
    runs = {
        "MAF density, one pass": lambda: maf.log_prob(points),
        "IAF samples, one pass": lambda: iaf.transform.call_and_ladj(points),
        "MAF samples, D steps": lambda: maf.transform.call_and_ladj(points),
        "IAF density, D steps": lambda: iaf.log_prob(points),
        "MAF samples, D passes": partial(by_passes, maf.transform.inv, points),
        "IAF density, D passes": partial(by_passes, iaf.transform, points),
    }
    found = by_passes(maf.transform.inv, points), by_passes(iaf.transform, points)
    exact = maf.transform(points), iaf.transform.inv(points)
    apart = max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True))
    return runs, apart


def by_passes(forward: Any, v: Tensor) -> Tensor:
    """Invert an affine autoregressive layer by D passes through its network, from zeros."""
    (network,) = forward.networks
    bound = forward.univariate.bound
    u = torch.zeros_like(v)
    for _ in range(v.shape[-1]):
        shift, raw = network(u).unbind(-1)
        u = (v - shift) * torch.exp(-soft_bound(raw, bound))
    return u


def table(result: dict[str, Any]) -> str:
    """One row a D, one column a contestant, and the exponents."""
    names = list(LOOKS)
    rows = ["| D | " + " | ".join(names) + " |", "|---:" * (1 + len(names)) + "|"]
    for i, dim in enumerate(SETTINGS["D"]):
        times = (milliseconds(_least(result[name]["seconds"][i])) for name in names)
        rows.append(f"| {dim} | " + " | ".join(times) + " |")
    powers = " | ".join(f"{result[name]['exponent']:.2f}" for name in names)
    rows.append(f"| exponent from {FROM} | {powers} |")
    return (
        "\n".join(rows) + f"\n\nProcessor time of one call, the least of {ROUNDS} rounds in which "
        f"all take turns. Passes and steps find the same to within {result['difference']:.0e}."
    )


def _least(row: dict[str, float]) -> dict[str, float]:
    return {"median": row["min"]}


def plot(result: dict[str, Any]) -> Figure:
    """Time against D on logarithmic axes."""
    use_style()
    figure, ax = plt.subplots(figsize=(8, 3.8))
    for name, (marker, color) in LOOKS.items():
        least = [1e3 * row["min"] for row in result[name]["seconds"]]
        style = "-" if name.startswith("MAF") else ":"
        ax.loglog(SETTINGS["D"], least, style, marker=marker, color=color, label=name)
    ax.set(xlabel="dimension D", ylabel="milliseconds")
    ax.set_xticks(SETTINGS["D"], map(str, SETTINGS["D"]))
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
