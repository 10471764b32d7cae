"""A training step of coupling and autoregressive flows in six libraries, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import (
    BINS,
    BOUND,
    COMPILED_PACKAGES,
    FAMILIES,
    LOOKS,
    PACKAGES,
    WIDTHS,
    Network,
    clear,
    compiled_contestants,
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
from torch import Tensor

from nfbook.plotting import use_style

TITLE = "A training step of a flow"
SETTINGS = {
    "D": [16, 43],
    "batch": 512,
    "transforms": 5,
    "hidden layers": [*WIDTHS],
    "bins": BINS,
    "bound": BOUND,
    "dtype": "float32",
}
PEERS = (*PACKAGES, *COMPILED_PACKAGES)
ROUNDS = 31
BUSY_ROUNDS = 11
BARE = "networks alone"
# Where a contestant takes no part, nothing is drawn.
ABSENT = dict.fromkeys(("median", "lower", "upper"), math.nan)
ALT = (
    "One row a family and dimension, on a logarithmic axis: the ratio of nfbook's time to each "
    "other library's, as dots with their quartiles, beside a line at 1."
)


def measure() -> dict[str, Any]:
    """Let all libraries take turns, for each family and each dimension."""
    return {
        family: {str(dim): _measure(family, dim) for dim in SETTINGS["D"]} for family in FAMILIES
    }


def _measure(family: str, dim: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SETTINGS["batch"], dim, generator=g)
    length = SETTINGS["transforms"]
    compiled = compiled_contestants(family, dim, length)
    made = {**contestants(family, dim, length), **compiled}
    steps: dict[str, Callable[[], None]] = {}
    first, counts = {}, {}
    for name, one in made.items():
        own = one.prepare(x)
        steps[name] = lambda one=one, own=own: one.step(own)
        if name in compiled:
            first[name] = seconds_of_first_call(steps[name])
        counts[name] = one.count(own)
    if family in ("realnvp", "maf"):
        networks = bare_networks(family, dim)
        steps[BARE] = bare_step(networks, x)
        counts[BARE] = sum(p.numel() for network in networks for p in network.parameters())
    runs = {name: lambda step=step: seconds_per_call(step) for name, step in steps.items()}
    quiet = compare(take_turns(runs, ROUNDS))
    with busy_machine():
        busy = compare(take_turns(runs, BUSY_ROUNDS))
    return {"parameters": counts, "first": first, **quiet, "busy": busy}


def bare_networks(family: str, dim: int) -> list[Network]:
    """Return the conditioners of all layers, as plain networks without masks."""
    if family == "maf":
        return [Network(dim, 2 * dim) for _ in range(SETTINGS["transforms"])]
    kept = [(dim + 1 - k % 2) // 2 for k in range(SETTINGS["transforms"])]
    return [Network(count, 2 * (dim - count)) for count in kept]


def bare_step(networks: list[Network], x: Tensor) -> Callable[[], None]:
    """Return the forward and the backward pass through all networks, and nothing else.

    In a flow every layer but the one that sees the data passes a gradient on to the layer before.
    So all networks but one have an input that wants a gradient.
    """
    inputs = [x[:, : network[0].in_features].clone() for network in networks]
    gradients = [torch.randn(len(x), network[-1].out_features) for network in networks]

    parameters = [p for network in networks for p in network.parameters()]

    def step() -> None:
        fresh = [value.detach().requires_grad_(k > 0) for k, value in enumerate(inputs)]
        clear(parameters)
        outputs = [network(value) for network, value in zip(networks, fresh, strict=True)]
        torch.autograd.backward(outputs, gradients)

    return step


def table(result: dict[str, Any]) -> str:
    """Times, ratios and numbers of parameters, one row a family and dimension each."""
    names = [name for name in result["realnvp"]["16"]["parameters"] if name != BARE]
    rows = {
        (label, dim): row
        for family, label in FAMILIES.items()
        for dim, row in result[family].items()
    }
    bare = {key: row for key, row in rows.items() if BARE in row["ratio"]}
    blocks = {
        "Median time of the forward and the backward pass:": _table(
            names,
            _cells(names, rows, lambda row: row["seconds"], milliseconds),
        ),
        f"Ratio of nfbook's time to each other's, with its quartiles over {ROUNDS} rounds:": _table(
            names[1:],
            _cells(names[1:], rows, lambda row: row["ratio"], spread),
        ),
        "The same for the networks alone:": _table(
            ["nfbook", BARE, "ratio"],
            {
                key: [
                    *(milliseconds(row["seconds"][n]) for n in ("nfbook", BARE)),
                    spread(row["ratio"][BARE]),
                ]
                for key, row in bare.items()
            },
        ),
        **_beside_another_process(names, rows),
        "Number of parameters, that of the networks alone being nfbook's:": _table(
            names, _cells(names, rows, lambda row: row["parameters"], lambda value: f"{value:,}")
        ),
    }
    return "\n\n".join(f"{text}\n\n{block}" for text, block in blocks.items())


def _beside_another_process(
    names: list[str], rows: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, str]:
    compiled = list(next(iter(rows.values()))["first"])
    return {
        "The ratios while a second process keeps two threads busy with matrix products, over "
        f"{BUSY_ROUNDS} rounds:": _table(
            names[1:],
            _cells(names[1:], rows, lambda row: row["busy"]["ratio"], spread),
        ),
        "The first step of what is compiled, with its compilation:": _table(
            compiled,
            _cells(compiled, rows, lambda row: row["first"], lambda value: f"{value:.1f} s"),
        ),
    }


def _cells(
    names: list[str],
    rows: dict[tuple[str, str], dict[str, Any]],
    values: Callable[[dict[str, Any]], dict[str, Any]],
    text: Callable[[Any], str],
) -> dict[tuple[str, str], list[str]]:
    """Return one text a name, in each row, and a dash for what did not take part."""
    return {
        key: [text(values(row)[name]) if name in values(row) else "–" for name in names]
        for key, row in rows.items()
    }


def _table(heads: list[str], rows: dict[tuple[str, str], list[str]]) -> str:
    lines = [f"| | D | {' | '.join(heads)} |", "|---" + "|---:" * (1 + len(heads)) + "|"]
    lines += [f"| {label} | {dim} | {' | '.join(row)} |" for (label, dim), row in rows.items()]
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> Figure:
    """Ratios to each library, one row a family and dimension."""
    use_style()
    rows = [
        (f"{label}, D = {dim}", row["ratio"])
        for family, label in FAMILIES.items()
        for dim, row in result[family].items()
    ]
    figure, ax = plt.subplots(figsize=(7, 4))
    names = [name for name in rows[0][1] if name != BARE]
    for i, name in enumerate(names):
        color, marker = LOOKS[name]
        heights = [y + 0.6 / len(names) * (i - (len(names) - 1) / 2) for y in range(len(rows))]
        values = [ratio.get(name, ABSENT) for _, ratio in rows]
        median = [value["median"] for value in values]
        ends = [
            [value["median"] - value["lower"] for value in values],
            [value["upper"] - value["median"] for value in values],
        ]
        ax.errorbar(median, heights, xerr=ends, marker=marker, color=color, ls="", lw=1, label=name)
    ax.axvline(1, ls=":", color="#8C8C8C")
    ax.set_yticks(range(len(rows)), [label for label, _ in rows])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="time of nfbook over time of the other")
    ticks = [0.3, 0.5, 0.7, 1, 1.5]
    ax.set_xticks(ticks, map(str, ticks))
    ax.minorticks_off()
    ax.legend()
    return figure
