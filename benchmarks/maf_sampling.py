"""Samples of a masked autoregressive flow, whose coordinates come one after the other."""

from __future__ import annotations

from typing import Any

import torch
from peers import PACKAGES, WIDTHS, contestants
from stopwatch import compare, milliseconds, seconds_per_call, spread, take_turns

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
    heads = [f"{int(count):,} points | ratio" for count in counts]
    rows = [f"| | parameters | {' | '.join(heads)} |", "|---|---:" + "|---:|---:" * 2 + "|"]
    for name, parameters in result["parameters"].items():
        cells = []
        for count in counts:
            ratio = result[count]["ratio"].get(name)
            cells += [milliseconds(result[count]["seconds"][name]), spread(ratio) if ratio else ""]
        rows.append(f"| {name} | {parameters:,} | {' | '.join(cells)} |")
    rows.append(
        "\nMedian time of one call; ratio of nfbook's time to the library's, with its quartiles "
        f"over {ROUNDS} rounds."
    )
    return "\n".join(rows)
