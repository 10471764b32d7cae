"""Samples of a masked autoregressive flow, whose coordinates come one after the other."""

from __future__ import annotations

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from apart import Apart
from matplotlib.figure import Figure
from peers import (
    COMPILED_PACKAGES,
    LOOKS,
    PACKAGES,
    WIDTHS,
    Contestant,
    Jitted,
    compiled_sampler,
    contestants,
)
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
COMPILED = ("zuko, compiled", "flowjax")
ROUNDS = 15
BUSY_ROUNDS = 5
ALT = "Two bar plots, for each number of points: milliseconds for one call, one bar a library."


def measure() -> dict[str, Any]:
    """Let all libraries take turns, for each number of points."""
    dim, length = SETTINGS["D"], SETTINGS["transforms"]
    here = contestants("maf", dim, length)
    apart = {name: Apart(compiled_sampler, name, dim, length) for name in COMPILED}
    result: dict[str, Any] = {
        "parameters": {
            **{name: count(one, dim) for name, one in here.items()},
            **{name: one.ask(count, dim) for name, one in apart.items()},
        }
    }
    for number in SETTINGS["points"]:
        first = {name: one.ask(first_call, number) for name, one in apart.items()}
        runs = {
            **{name: partial(call_seconds, one, number) for name, one in here.items()},
            **{name: partial(one.ask, call_seconds, number) for name, one in apart.items()},
        }
        quiet = compare(take_turns(runs, ROUNDS))
        with busy_machine():
            busy = compare(take_turns(runs, BUSY_ROUNDS))
        result[str(number)] = {"first": first, **quiet, "busy": busy}
    for one in apart.values():
        one.close()
    return result


@torch.no_grad()
def call_seconds(one: Contestant | Jitted, number: int) -> float:
    """Return the time that a contestant takes to draw a number of points."""
    return seconds_per_call(lambda: one.sample(number))


@torch.no_grad()
def first_call(one: Contestant | Jitted, number: int) -> float:
    """Return the time of its first call, with all that it brings about."""
    return seconds_of_first_call(lambda: one.sample(number))


def count(one: Contestant | Jitted, dim: int) -> int:
    """Return the number of a contestant's parameters."""
    return one.count(one.prepare(torch.zeros(1, dim)))


def table(result: dict[str, Any]) -> str:
    """One table a number of points, one row a library."""
    blocks = [_table(number, result) for number in SETTINGS["points"]]
    blocks.append(
        "Median time of one call; nfbook's time over the library's, with its quartiles over "
        f"{ROUNDS} rounds, and over {BUSY_ROUNDS} while a second process keeps two threads busy. "
        "The first call is that of what is compiled, with its compilation. Each library has "
        f"{_parameters(result)} parameters."
    )
    return "\n\n".join(blocks)


def _table(number: int, result: dict[str, Any]) -> str:
    row = result[str(number)]
    heads = [f"{number:,} points", "nfbook over it", "on a busy machine", "first call"]
    lines = [f"| | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, seconds in row["seconds"].items():
        ratios = [one["ratio"].get(name) for one in (row, row["busy"])]
        cells = [milliseconds(seconds), *(spread(one) if one else "" for one in ratios)]
        cells.append(f"{row['first'][name]:.1f} s" if name in row["first"] else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parameters(result: dict[str, Any]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(set(result["parameters"].values())))


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
