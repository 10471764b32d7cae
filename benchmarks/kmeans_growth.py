"""How the time of one assignment grows: a loop over observations and clusters, and one product.

The loop is plain Python: floats in lists, each squared distance added up dimension by dimension.
The vectorised version is ``KMeans.assign``. Both are given the same observations and means, and
must return the same index for every observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from problems import clusters
from stopwatch import exponent, one_core, seconds_per_call, summary, take_turns
from torch import Tensor

from nfbook.latent import KMeans
from nfbook.plotting import use_style

TITLE = "One assignment of k-means against n and K"
SETTINGS: dict[str, Any] = {
    "n, loop": [1_000, 3_000, 10_000, 30_000],
    "n, product": [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "K where n grows": 8,
    "K, loop": [2, 4, 8, 16, 32, 64, 128, 256],
    "K, product": [2, 4, 8, 16, 32, 64, 128, 256],
    "n where K grows, loop": 1_000,
    "n where K grows, product": 100_000,
    "D": 16,
    "dtype": "float64",
    "cores": 1,
}
ROUNDS = 5
# From here on the work outweighs what any call costs, however small.
FITTED = {("loop", "n"): 1_000, ("product", "n"): 30_000, ("loop", "K"): 8, ("product", "K"): 32}
ALT = (
    "Two plots with logarithmic axes, time against n and against K. The loop is a line of slope 1 "
    "in both; the product lies far below, flat at first and parallel to it at the end."
)

Assign = Callable[[Tensor, Tensor], Tensor]


def loop(x: Tensor, means: Tensor) -> Tensor:
    """Return the index of the nearest mean of each observation, one distance after the other."""
    centres = means.tolist()
    assignment = []
    for row in x.tolist():
        nearest, least = 0, math.inf
        for k, centre in enumerate(centres):
            distance = 0.0
            for a, b in zip(row, centre, strict=True):
                distance += (a - b) * (a - b)
            if distance < least:
                nearest, least = k, distance
        assignment.append(nearest)
    return torch.tensor(assignment)


def product(x: Tensor, means: Tensor) -> Tensor:
    """Return the same indices by one matrix product."""
    return KMeans(means, torch.ones((), dtype=means.dtype)).assign(x)


VERSIONS: dict[str, Assign] = {"loop": loop, "product": product}


def measure() -> dict[str, Any]:
    """Time both versions over n and over K, and compare their assignments wherever both ran."""
    largest = max(SETTINGS["n, product"])
    count = SETTINGS["K where n grows"]
    x = clusters(largest, SETTINGS["D"], count)
    means = x[:: largest // 256][:256]
    result: dict[str, Any] = {}
    for version in VERSIONS:
        n = SETTINGS[f"n where K grows, {version}"]
        result[version] = {
            "n": _grow(version, "n", lambda size: (x[:size], means[:count])),
            "K": _grow(version, "K", lambda size, n=n: (x[:n], means[:size])),
        }
    few = SETTINGS["n where K grows, loop"]
    cases = [(x[:n], means[:count]) for n in SETTINGS["n, loop"]]
    cases += [(x[:few], means[:k]) for k in SETTINGS["K, loop"]]
    result["compared"] = sum(len(rows) for rows, _ in cases)
    result["equal"] = all(torch.equal(loop(*case), product(*case)) for case in cases)
    return result


def _grow(version: str, axis: str, case: Callable[[int], tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Time one version at all sizes in turn, and fit the exponent of its growth.

    A turn is the median of several calls: one alone would find the caches as a size a thousand
    times as large has left them.
    """
    sizes = SETTINGS[f"{axis}, {version}"]

    def timed(size: int) -> Callable[[], float]:
        return lambda: seconds_per_call(partial(VERSIONS[version], *case(size)))

    with one_core():
        seconds = take_turns({str(size): timed(size) for size in sizes}, ROUNDS)
    times = [summary(seconds[str(size)]) for size in sizes]
    medians = [time["median"] for time in times]
    start = sizes.index(FITTED[version, axis])
    return {
        "sizes": sizes,
        "seconds": times,
        "slopes": slopes(sizes, medians),
        "fitted from": sizes[start],
        "exponent": exponent(sizes[start:], medians[start:]),
    }


def slopes(sizes: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Return the exponent of the growth from each size to the next."""
    points = list(zip(sizes, seconds, strict=True))
    return [math.log(t / s) / math.log(b / a) for (a, s), (b, t) in pairwise(points)]


def in_words(settings: dict[str, Any]) -> str:
    """Say what stayed the same; the sizes that grow are in the tables."""
    few, many = (settings[f"n where K grows, {version}"] for version in VERSIONS)
    return (
        f"D = {settings['D']}; {settings['dtype']}; one core; "
        f"n grows at K = {settings['K where n grows']}; "
        f"K grows at n = {few:,} (loop) and {many:,} (product)"
    )


def table(result: dict[str, Any]) -> str:
    """One row a size, for n and for K, with the exponent from the size before."""
    parts = []
    for axis in ("n", "K"):
        heads = [f"{version}, {_other(version, axis)} | slope" for version in VERSIONS]
        rows = [f"| {axis} | {heads[0]} | {heads[1]} |", "|---:|---:|---:|---:|---:|"]
        columns = [_column(result[version][axis]) for version in VERSIONS]
        for size in sorted({size for column in columns for size in column}):
            cells = [column.get(size, " | ") for column in columns]
            rows.append(f"| {size:,} | {cells[0]} | {cells[1]} |")
        fits = (result[version][axis] for version in VERSIONS)
        cells = [f" | {fit['exponent']:.2f} from {fit['fitted from']:,}" for fit in fits]
        rows.append(f"| exponent | {cells[0]} | {cells[1]} |")
        parts.append("\n".join(rows))
    verdict = "are equal" if result["equal"] else "differ"
    parts.append(f"The assignments of both versions {verdict}: {result['compared']:,} compared.")
    return "\n\n".join(parts)


def _other(version: str, axis: str) -> str:
    """Say what stayed the same while n or K grew."""
    if axis == "n":
        return f"K = {SETTINGS['K where n grows']}"
    return f"n = {SETTINGS[f'n where K grows, {version}']:,}"


def _column(growth: dict[str, Any]) -> dict[int, str]:
    """Return the time at each size, and the slope that led there."""
    steps = ["", *(f"{slope:.2f}" for slope in growth["slopes"])]
    times = (f"{1e3 * time['median']:.2f} ms" for time in growth["seconds"])
    return {
        size: f"{time} | {step}"
        for size, time, step in zip(growth["sizes"], times, steps, strict=True)
    }


def plot(result: dict[str, Any]) -> Figure:
    """Time against n, and time of one observation against K, on logarithmic axes."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.5))
    for version, marker in zip(VERSIONS, "os", strict=True):
        for ax, axis in ((left, "n"), (right, "K")):
            growth = result[version][axis]
            shared = SETTINGS[f"n where K grows, {version}"] if axis == "K" else 1
            times = [time["median"] / shared for time in growth["seconds"]]
            label = f"{version}: {growth['exponent']:.2f}"
            ax.plot(growth["sizes"], times, marker=marker, label=label)
    left.set(xscale="log", yscale="log", ylabel="seconds for one assignment")
    left.set_xlabel(f"observations n, at K = {SETTINGS['K where n grows']}")
    right.set(yscale="log", xlabel="clusters K", ylabel="seconds for one observation")
    right.set_xscale("log", base=2)
    for ax in (left, right):
        ax.legend(title="exponent")
    return figure
