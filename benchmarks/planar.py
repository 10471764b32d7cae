"""A stack of planar layers, forward and backward, against the same layers one by one."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from peers import LOOKS, planar_contestants
from stopwatch import compare, milliseconds, ratios, seconds_per_call, spread, take_turns

from nfbook.plotting import use_style

TITLE = "Planar layers, forward and backward"
SETTINGS = {"K": [10, 32, 80], "D": 40, "batch": 100, "dtype": "float32"}
PEERS = ("pyro-ppl", "normflows")
ROUNDS = 31
PARTS = {"amortised": "Parameters of its own for each point", "free": "Free parameters"}
ALT = (
    "Two plots with logarithmic axes, with parameters for each point and with free ones: time "
    "against the number of layers, one line a contestant."
)


def measure() -> dict[str, Any]:
    """Let all contestants at all lengths take turns, for amortised and for free parameters."""
    return {"amortised": _measure((SETTINGS["batch"],)), "free": _measure(())}


def _measure(sets: tuple[int, ...]) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    dim = SETTINGS["D"]
    z = torch.randn(SETTINGS["batch"], dim, generator=g).requires_grad_()
    runs, counts, differences = {}, {}, []
    for length in SETTINGS["K"]:
        w, u = (0.3 * torch.randn(*sets, length, dim, generator=g) for _ in "wu")
        b = torch.randn(*sets, length, generator=g)
        made = planar_contestants(w, u, b)
        for name, one in made.items():
            runs[name, length] = lambda one=one: seconds_per_call(lambda: one.step(z))
            counts.setdefault(name, []).append(sum(p.numel() for p in one.parameters))
        stack, layers = (made[name].call_and_ladj(z) for name in ("nfbook", "layer by layer"))
        differences += [
            float((a - b).detach().abs().max() / b.detach().abs().max())
            for a, b in zip(stack, layers, strict=True)
        ]
    seconds = take_turns(runs, ROUNDS)
    names = list(counts)
    first, last = SETTINGS["K"][0], SETTINGS["K"][-1]
    return {
        "parameters": counts,
        "times": {
            str(length): compare({name: seconds[name, length] for name in names})
            for length in SETTINGS["K"]
        },
        "growth": {name: ratios(seconds[name, last], seconds[name, first]) for name in names},
        "difference": max(differences),
    }


def table(result: dict[str, Any]) -> str:
    """One row a contestant and one a ratio, for each kind of parameters."""
    tables = "\n\n".join(_table(label, result[part]) for part, label in PARTS.items())
    difference = max(result[part]["difference"] for part in PARTS)
    return (
        f"{tables}\n\nMedian time of one pass through all layers and back; ratio of nfbook's time "
        f"to the other's, with its quartiles over {ROUNDS} rounds. The results of the stack and of "
        f"its layers differ by at most {difference:.0e} of the largest value."
    )


def _table(label: str, result: dict[str, Any]) -> str:
    lengths = list(result["times"])
    heads = [*(f"K = {length}" for length in lengths), f"{lengths[-1]} over {lengths[0]}"]
    rows = [f"{label}:", "", f"| | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name in result["parameters"]:
        times = [milliseconds(row["seconds"][name]) for row in result["times"].values()]
        rows.append(f"| {name} | {' | '.join(times)} | {spread(result['growth'][name])} |")
    for name in result["parameters"]:
        if name not in ("nfbook", "layer by layer"):
            ratio = [spread(row["ratio"][name]) for row in result["times"].values()]
            rows.append(f"| ratio to {name} | {' | '.join(ratio)} | |")
    counts = [
        " or ".join(f"{n:,}" for n in sorted(set(each)))
        for each in zip(*result["parameters"].values(), strict=True)
    ]
    rows.append(f"| parameters | {' | '.join(counts)} | |")
    return "\n".join(rows)


def plot(result: dict[str, Any]) -> Figure:
    """Time against length on logarithmic axes."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True)
    for ax, (part, label) in zip(axes, PARTS.items(), strict=True):
        times = result[part]["times"]
        lengths = [int(length) for length in times]
        for name in result[part]["parameters"]:
            medians = [1e3 * row["seconds"][name]["median"] for row in times.values()]
            color, marker = LOOKS[name]
            ax.loglog(lengths, medians, marker=marker, color=color, label=name)
        ax.set(title=label, xlabel="layers K")
        ax.set_xticks(lengths, map(str, lengths))
        ax.minorticks_off()
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100]
    low, high = axes[0].get_ylim()
    axes[0].set_yticks([tick for tick in ticks if low <= tick <= high])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("milliseconds")
    axes[1].legend()
    return figure
