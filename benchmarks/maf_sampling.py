"""Samples of a masked autoregressive flow, whose coordinates come one after the other."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import LOOKS, PACKAGES, WIDTHS, contestants
from stopwatch import compare, milliseconds, seconds_per_call, spread, take_turns

from nfbook.plotting import use_style

TITLE = "Sampling from a MAF"
SETTINGS = {
    "D": 64,
    "points": [100, 1000],
    "transforms": 5,
    "hidden layers": [*WIDTHS],
    "dtype": "float32",
}
PEERS = PACKAGES
ROUNDS = 15
ALT = "Two bar plots, for each number of points: milliseconds for one call, one bar a library."


def measure() -> dict[str, Any]:
    """Let all libraries take turns, for each number of points."""
    made = contestants("maf", SETTINGS["D"], SETTINGS["transforms"])
    x = torch.zeros(1, SETTINGS["D"])
    result: dict[str, Any] = {"parameters": {name: one.count(x) for name, one in made.items()}}
    with torch.no_grad():
        for count in SETTINGS["points"]:
            runs = {
                name: lambda one=one, n=count: seconds_per_call(lambda: one.sample(n))
                for name, one in made.items()
            }
            result[str(count)] = compare(take_turns(runs, ROUNDS))
    return result


def table(result: dict[str, Any]) -> str:
    """One row a library."""
    counts = [str(count) for count in SETTINGS["points"]]
    heads = [f"{int(count):,} points | nfbook over it" for count in counts]
    rows = [f"| | parameters | {' | '.join(heads)} |", "|---|---:" + "|---:|---:" * 2 + "|"]
    for name, parameters in result["parameters"].items():
        cells = []
        for count in counts:
            ratio = result[count]["ratio"].get(name)
            cells += [milliseconds(result[count]["seconds"][name]), spread(ratio) if ratio else ""]
        rows.append(f"| {name} | {parameters:,} | {' | '.join(cells)} |")
    rows.append(
        "\nMedian time of one call; nfbook's time over the library's, with its quartiles "
        f"over {ROUNDS} rounds."
    )
    return "\n".join(rows)


def plot(result: dict[str, Any]) -> Figure:
    """Time of a call, one bar a library."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
    names = list(result["parameters"])
    for ax, count in zip(axes, SETTINGS["points"], strict=True):
        seconds = result[str(count)]["seconds"]
        widths = [1e3 * seconds[name]["median"] for name in names]
        ax.barh(names, widths, color=[LOOKS[name][0] for name in names])
        ax.set(title=f"{count:,} points", xlabel="milliseconds")
    axes[0].invert_yaxis()
    return figure
