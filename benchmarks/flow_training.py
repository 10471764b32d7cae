"""A training step of coupling and autoregressive flows in six libraries, and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from apart import Apart
from matplotlib.figure import Figure
from peers import (
    BINS,
    BOUND,
    COMPILED_PACKAGES,
    FAMILIES,
    LOOKS,
    PACKAGES,
    WIDTHS,
    Contestant,
    Jitted,
    Network,
    clear,
    compiled_contestant,
    compiled_names,
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
BUSY_ROUNDS = 7
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
    length = SETTINGS["transforms"]
    here = contestants(family, dim, length)
    apart = {
        name: Apart(compiled_contestant, name, family, dim, length)
        for name in compiled_names(family)
    }
    first = {name: one.ask(first_step, dim) for name, one in apart.items()}
    runs = {
        **{name: partial(step_seconds, one, dim) for name, one in here.items()},
        **{name: partial(one.ask, step_seconds, dim) for name, one in apart.items()},
    }
    counts = {
        **{name: count(one, dim) for name, one in here.items()},
        **{name: one.ask(count, dim) for name, one in apart.items()},
    }
    if family in ("realnvp", "maf"):
        networks = bare_networks(family, dim)
        runs[BARE] = partial(seconds_per_call, bare_step(networks, points(dim)))
        counts[BARE] = sum(p.numel() for network in networks for p in network.parameters())
    quiet = compare(take_turns(runs, ROUNDS))
    with busy_machine():
        busy = compare(take_turns(runs, BUSY_ROUNDS))
    for one in apart.values():
        one.close()
    return {"parameters": counts, "first": first, **quiet, "busy": busy}


def points(dim: int) -> Tensor:
    """Return a batch of points."""
    return torch.randn(SETTINGS["batch"], dim, generator=torch.Generator().manual_seed(0))


def step_seconds(one: Contestant | Jitted, dim: int) -> float:
    """Return the time of a contestant's step."""
    x = one.prepare(points(dim))
    return seconds_per_call(lambda: one.step(x))


def first_step(one: Contestant | Jitted, dim: int) -> float:
    """Return the time of a contestant's first step, with all that it brings about."""
    x = one.prepare(points(dim))
    return seconds_of_first_call(lambda: one.step(x))


def count(one: Contestant | Jitted, dim: int) -> int:
    """Return the number of a contestant's parameters."""
    return one.count(one.prepare(points(dim)))


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
    """Times and ratios, one table a family, and what belongs to all of them."""
    blocks = [
        "Median time of the forward and the backward pass, and nfbook's time over it, with "
        f"quartiles over {ROUNDS} rounds. The networks alone are nfbook's:"
    ]
    blocks += [_family_table(label, result[family]) for family, label in FAMILIES.items()]
    blocks += [
        "The ratios while a second process keeps two threads busy with matrix products, over "
        f"{BUSY_ROUNDS} rounds:"
    ]
    blocks += [_busy_table(label, result[family]) for family, label in FAMILIES.items()]
    for text, key, cell in (
        ("The first step of what is compiled, with its compilation:", "first", "{:.1f} s"),
        ("Number of parameters:", "parameters", "{:,}"),
    ):
        blocks += [text, _wide_table(result, key, cell)]
    return "\n\n".join(blocks)


def _family_table(label: str, rows: dict[str, dict[str, Any]]) -> str:
    """One row a contestant; its time and ratio for each dimension."""
    first = next(iter(rows.values()))
    heads = [each for dim in rows for each in (f"D = {dim}", "nfbook over it")]
    return _table(
        [label, *heads],
        {
            name: [
                text
                for row in rows.values()
                for text in (milliseconds(row["seconds"][name]), _ratio(row["ratio"], name))
            ]
            for name in first["seconds"]
        },
    )


def _busy_table(label: str, rows: dict[str, dict[str, Any]]) -> str:
    """One row a contestant; its ratio for each dimension."""
    ratios = [row["busy"]["ratio"] for row in rows.values()]
    return _table(
        [label, *(f"D = {dim}" for dim in rows)],
        {name: [_ratio(row, name) for row in ratios] for name in ratios[0]},
    )


def _wide_table(result: dict[str, Any], key: str, cell: str) -> str:
    """One row a family and dimension, one number a contestant, and a dash for who took no part."""
    rows = {
        f"{label}, {dim}": row[key]
        for family, label in FAMILIES.items()
        for dim, row in result[family].items()
    }
    names = list(next(iter(rows.values())))
    if key == "parameters":
        # What torch compiles has those that it has without, and the networks alone have nfbook's.
        names = [name for name in names if name != BARE and not name.endswith(", compiled")]
    return _table(
        ["family, D", *names],
        {
            label: [cell.format(row[name]) if name in row else "–" for name in names]
            for label, row in rows.items()
        },
    )


def _ratio(ratios: dict[str, dict[str, float]], name: str) -> str:
    return spread(ratios[name]) if name in ratios else ""


def _table(heads: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    lines += [f"| {label} | {' | '.join(row)} |" for label, row in rows.items()]
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
