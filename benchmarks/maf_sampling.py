"""Samples of a masked autoregressive flow, whose coordinates come one after the other."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import COMPILED_PACKAGES, LOOKS, PACKAGES, WIDTHS, compiled_samplers, contestants
from stopwatch import (
    busy_machine,
    compare,
    milliseconds,
    seconds_of_first_call,
    seconds_per_call,
    spread,
    take_turns,
)

from nfbook.plotting import use_style

TITLE = "Sampling from a MAF"
SETTINGS = {
    "D": 64,
    "points": [100, 1000],
    "transforms": 5,
    "hidden layers": [*WIDTHS],
    "dtype": "float32",
}
PEERS = (*PACKAGES, *COMPILED_PACKAGES)
ROUNDS = 15
BUSY_ROUNDS = 7
ALT = "Two bar plots, for each number of points: milliseconds for one call, one bar a library."


def measure() -> dict[str, Any]:
    """Let all libraries take turns, for each number of points."""
    dim, length = SETTINGS["D"], SETTINGS["transforms"]
    compiled = compiled_samplers(dim, length)
    made = {**contestants("maf", dim, length), **compiled}
    x = torch.zeros(1, dim)
    result: dict[str, Any] = {
        "parameters": {name: one.count(one.prepare(x)) for name, one in made.items()}
    }
    with torch.no_grad():
        for count in SETTINGS["points"]:
            calls = {name: lambda one=one, n=count: one.sample(n) for name, one in made.items()}
            first = {name: seconds_of_first_call(calls[name]) for name in compiled}
            runs = {name: lambda call=call: seconds_per_call(call) for name, call in calls.items()}
            quiet = compare(take_turns(runs, ROUNDS))
            with busy_machine():
                busy = compare(take_turns(runs, BUSY_ROUNDS))
            result[str(count)] = {"first": first, **quiet, "busy": busy}
    return result


def table(result: dict[str, Any]) -> str:
    """One row a library."""
    counts = [str(count) for count in SETTINGS["points"]]
    over = ["nfbook over it", "on a busy machine"]
    heads = [" | ".join([f"{int(count):,} points", *over]) for count in counts]
    rows = [
        f"| | parameters | {' | '.join(heads)} |",
        "|---|---:" + "|---:" * (1 + len(over)) * len(counts) + "|",
    ]
    for name, parameters in result["parameters"].items():
        cells = []
        for count in counts:
            ratio = [one["ratio"].get(name) for one in (result[count], result[count]["busy"])]
            cells += [
                milliseconds(result[count]["seconds"][name]),
                *(spread(one) if one else "" for one in ratio),
            ]
        rows.append(f"| {name} | {parameters:,} | {' | '.join(cells)} |")
    rows.append(
        "\nMedian time of one call; nfbook's time over the library's, with its quartiles "
        f"over {ROUNDS} rounds, and over {BUSY_ROUNDS} while a second process keeps two threads "
        f"busy. The first call, with its compilation, took {_first(result)}."
    )
    return "\n".join(rows)


def _first(result: dict[str, Any]) -> str:
    return " and ".join(
        f"{', '.join(f'{s:.1f} s with {name}' for name, s in result[str(count)]['first'].items())} "
        f"for {count:,} points"
        for count in SETTINGS["points"]
    )


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
