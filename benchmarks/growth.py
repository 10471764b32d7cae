"""How the time of one iteration grows with the number of observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from problems import clusters, mixture_start
from stopwatch import exponent, seconds_per_iteration, summary
from torch import Tensor

from nfbook.latent import PPCA, GaussianMixture, KMeans
from nfbook.plotting import use_style

TITLE = "Time of one iteration against n"
SETTINGS = {
    "n": [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "D": 16,
    "K": 16,
    "d": 4,
    "dtype": "float64",
}
ROUNDS = 3
ALT = (
    "Three nearly straight lines on logarithmic axes, "
    "parallel to a line of slope 1 above 30,000 observations."
)


def measure() -> dict[str, Any]:
    """Time each fit at each n, and fit the exponent over all of them."""
    seconds: dict[str, list[dict[str, float]]] = {}
    x = clusters(SETTINGS["n"][-1], SETTINGS["D"], SETTINGS["K"])
    for n in SETTINGS["n"]:
        # Enough iterations to last well beyond the clock's resolution.
        iterations = max(3, 30_000 // n)
        for name, fit in _fits(x[:n]).items():
            fit(1)
            runs = [seconds_per_iteration(fit, iterations) for _ in range(ROUNDS)]
            seconds.setdefault(name, []).append(summary(runs))
    return {
        name: {
            "seconds": rows,
            "exponent": exponent(SETTINGS["n"], [row["median"] for row in rows]),
            "exponent from 30000": exponent(SETTINGS["n"][3:], [r["median"] for r in rows[3:]]),
        }
        for name, rows in seconds.items()
    }


def _fits(x: Tensor) -> dict[str, Callable[[int], object]]:
    count, latent_dim = SETTINGS["K"], SETTINGS["d"]
    start = mixture_start(x, count)
    common = {"tolerance": 0.0, "progress": False}

    def mixture(iterations: int) -> object:
        return GaussianMixture.fit(x, count, start=start, max_iterations=iterations, **common)

    def ppca(iterations: int) -> object:
        g = torch.Generator().manual_seed(0)
        return PPCA.fit(
            x, latent_dim, method="em", generator=g, max_iterations=iterations, **common
        )

    model = KMeans(x[:count], torch.ones((), dtype=x.dtype))

    def k_means(iterations: int) -> object:
        # Steps by hand: a fit would end as soon as no assignment changes.
        for _ in range(iterations):
            moved = model.m_step(model.e_step(x))
        return moved

    return {"GaussianMixture": mixture, "PPCA by EM": ppca, "KMeans": k_means}


def table(result: dict[str, Any]) -> str:
    """One row a size."""
    rows = ["| n | " + " | ".join(result) + " |", "|---:" * (1 + len(result)) + "|"]
    for i, n in enumerate(SETTINGS["n"]):
        times = (1e3 * family["seconds"][i]["median"] for family in result.values())
        rows.append(f"| {n:,} | " + " | ".join(f"{t:.2f} ms" for t in times) + " |")
    for name in ("exponent", "exponent from 30000"):
        values = (f"{family[name]:.2f}" for family in result.values())
        label = name.replace("30000", "30,000")
        rows.append(f"| {label} | " + " | ".join(values) + " |")
    return "\n".join(rows)


def plot(result: dict[str, Any]) -> Figure:
    """Time against n on logarithmic axes, beside a line of slope 1."""
    use_style()
    figure, ax = plt.subplots()
    for (name, family), marker in zip(result.items(), "os^", strict=True):
        times = [row["median"] for row in family["seconds"]]
        ax.loglog(SETTINGS["n"], times, marker=marker, label=f"{name}: {family['exponent']:.2f}")
    top = max(family["seconds"][-1]["median"] for family in result.values())
    ax.loglog([1e3, 1e6], [2e-3 * top, 2 * top], ls=":", color="#8C8C8C", label="slope 1")
    ax.set(xlabel="observations n", ylabel="seconds for one iteration")
    ax.legend(title="exponent")
    return figure
