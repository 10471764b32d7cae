"""A training step of the NF-VAE, by posterior and length, in four libraries and compiled."""

from __future__ import annotations

from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import torch
from apart import Apart
from matplotlib.figure import Figure
from stopwatch import (
    compare,
    milliseconds,
    one_core,
    ratios,
    seconds_of_first_call,
    seconds_per_call,
    spread,
    summary,
    take_turns,
)
from vae_peers import BATCH, FREE, LATENT_DIM, PACKAGES, PIXELS, WIDTHS, Eager, Jitted, contestant

from nfbook.data.minibatches import Minibatches
from nfbook.plotting import use_style

TITLE = "A training step of the NF-VAE"
SETTINGS = {
    "pixels": PIXELS,
    "hidden layers": [*WIDTHS],
    "D": LATENT_DIM,
    "batch": BATCH,
    "samples": 1,
    "training images": 50_000,
    "dtype": "float32",
    "cores": 1,
}
PEERS = PACKAGES
ROUNDS = 15
OURS, COMPILED, FLOOR = "nfbook", "nfbook, compiled", "networks alone"
# What compiles as a whole runs in a process of its own.
APART = (COMPILED, "flowjax")
LABELS = {
    "planar": "planar",
    FREE: "planar with free parameters",
    "nice": "NICE",
    "iaf": "IAF",
    "sylvester-orthogonal": "orthogonal Sylvester",
}
# What takes part for each posterior, beside nfbook and the networks alone. The compiler unrolls the
# turns of a stack, so the time that it takes grows with K.
ROWS: dict[tuple[str, int], tuple[str, ...]] = {
    ("planar", 0): ("Pyro", "normflows", "flowjax", COMPILED),
    ("planar", 10): ("Pyro", "flowjax", COMPILED),
    ("planar", 20): ("Pyro", "flowjax"),
    ("planar", 40): ("Pyro", "flowjax"),
    ("planar", 80): ("Pyro", "flowjax"),
    (FREE, 10): ("normflows",),
    (FREE, 80): ("normflows",),
    ("nice", 10): (),
    ("nice", 80): (),
    ("iaf", 4): (),
    ("sylvester-orthogonal", 4): (),
}
# Colour and marker of each, where the plot shows it.
LOOKS = {
    OURS: ("C0", "o"),
    COMPILED: ("C0", "P"),
    "Pyro": ("C4", "v"),
    "flowjax": ("#000000", "*"),
    FLOOR: ("#8C8C8C", "s"),
}
ALT = (
    "Time of a step against the number of planar layers, one line a contestant, the networks alone "
    "at the bottom."
)


def measure() -> dict[str, Any]:
    """Let all contestants take turns, for each posterior."""
    with one_core():
        return {
            "rows": {label(*row): _measure(*row) for row in ROWS},
            "loader": _measure_loader(),
        }


def label(family: str, length: int) -> str:
    """Return a posterior's name and length, as the tables show them."""
    return f"{LABELS[family]}, K = {length}" if length else "none"


def _measure(family: str, length: int) -> dict[str, Any]:
    names = [OURS, FLOOR, *ROWS[family, length]]
    here = {name: contestant(name, family, length) for name in names if name not in APART}
    apart = {name: Apart(contestant, name, family, length) for name in names if name in APART}
    first = {name: one.ask(first_step) for name, one in apart.items()}
    runs = {
        **{name: partial(step_seconds, one) for name, one in here.items()},
        **{name: partial(one.ask, step_seconds) for name, one in apart.items()},
    }
    counts = {
        **{name: one.count() for name, one in here.items()},
        **{name: one.ask(count) for name, one in apart.items()},
    }
    found = compare(take_turns(runs, ROUNDS))
    for one in apart.values():
        one.close()
    return {
        "parameters": counts,
        "first": first,
        "difference": _difference(family, length),
        **found,
    }


def first_step(one: Eager | Jitted) -> float:
    """Return the time of the first update, with all that it brings about."""
    return seconds_of_first_call(one.step)


def step_seconds(one: Eager | Jitted) -> float:
    """Return the time of an update."""
    return seconds_per_call(one.step)


def count(one: Eager | Jitted) -> int:
    """Return the number of parameters."""
    return one.count()


def _difference(family: str, length: int) -> float:
    """Return how far the others' bounds are from nfbook's, with its weights, layers and noise.

    What torch compiles draws another noise.
    """
    ours = contestant(OURS, family, length).negative_bound()
    theirs = [_bound(name, family, length) for name in ROWS[family, length] if name != COMPILED]
    largest = max((abs(one - ours) / abs(ours) for one in theirs), default=0.0)
    if largest > 1e-5:
        raise RuntimeError(
            f"the bounds of {label(family, length)} differ by {largest:.0e} of their value"
        )
    return largest


def _bound(name: str, family: str, length: int) -> float:
    """Return the bound of another library's model that has nfbook's layers."""
    if name not in APART:
        return negative_bound(contestant(name, family, length, same=True))
    one = Apart(contestant, name, family, length, True)
    found: float = one.ask(negative_bound)
    one.close()
    return found


def negative_bound(one: Eager | Jitted) -> float:
    """Return the loss before the first update, for the same noise."""
    return one.negative_bound()


def _measure_loader() -> dict[str, Any]:
    """Let a step without a flow, the shortest there is, and the next batch take turns."""
    data = torch.zeros(SETTINGS["training images"], PIXELS)
    batches = Minibatches(data, size=BATCH)
    one = contestant(OURS, "planar", 0)
    seconds = take_turns(
        {OURS: partial(step_seconds, one), "loader": partial(_batch_seconds, batches)}, ROUNDS
    )
    return {
        "seconds": summary(seconds["loader"]),
        "share": ratios(seconds["loader"], seconds[OURS]),
    }


def _batch_seconds(batches: Minibatches) -> float:
    """Return the time of a batch, as the mean over an epoch with its shuffle."""

    def epoch() -> None:
        for _ in range(len(batches)):
            next(batches)

    return seconds_of_first_call(epoch) / len(batches)


def table(result: dict[str, Any]) -> str:
    """Times and ratios, one table for nfbook, one for the others, and what belongs to them."""
    rows = result["rows"]
    first = {
        f"{name}, {row}": seconds
        for row, found in rows.items()
        for name, seconds in found["first"].items()
    }
    loader = result["loader"]
    return "\n\n".join(
        [
            "Median time of one update: loss, gradient and Adam. The networks alone are the floor: "
            "encoder, decoder, a linear map from the encoder's units to as many outputs as the "
            "posterior takes from them, the likelihood, and Adam. Ratios of nfbook's time to "
            f"another's, with quartiles over {ROUNDS} rounds:",
            _table(
                ["posterior", OURS, FLOOR, "nfbook over it"],
                {
                    row: [*_times(found, OURS, FLOOR), spread(found["ratio"][FLOOR])]
                    for row, found in rows.items()
                },
            ),
            "Beside the other libraries:",
            _table(
                ["posterior", OURS, "library", "its time", "nfbook over it"],
                {
                    (row, name): [
                        *_times(found, OURS),
                        name,
                        *_times(found, name),
                        spread(found["ratio"][name]),
                    ]
                    for row, found in rows.items()
                    for name in found["ratio"]
                    if name not in (FLOOR, COMPILED)
                },
            ),
            "The loss compiled by `torch.compile`:",
            _table(
                ["posterior", OURS, "compiled", "uncompiled over it"],
                {
                    row: [*_times(found, OURS, COMPILED), spread(found["ratio"][COMPILED])]
                    for row, found in rows.items()
                    if COMPILED in found["ratio"]
                },
            ),
            "The first update of what is compiled, with its compilation:",
            _table(["", "time"], {name: [f"{value:.1f} s"] for name, value in first.items()}),
            "Number of parameters:",
            _table(
                ["posterior", "nfbook", "the others", FLOOR],
                {row: _counts(found["parameters"]) for row, found in rows.items()},
            ),
            "nfbook has more where the start of its parameters and a bias of the network add up. "
            "With the same weights, layers and noise the bounds differ by at most "
            f"{max(found['difference'] for found in rows.values()):.0e} of their value.",
            f"The next batch takes {1e6 * loader['seconds']['median']:.0f} µs, the shuffle of each "
            f"epoch included: {100 * loader['share']['median']:.2f} % of a step without a flow "
            f"({100 * loader['share']['lower']:.2f}–{100 * loader['share']['upper']:.2f}).",
        ]
    )


def _times(found: dict[str, Any], *names: str) -> list[str]:
    return [milliseconds(found["seconds"][name]) for name in names]


def _counts(parameters: dict[str, int]) -> list[str]:
    """Return nfbook's number, that of all other libraries, and that of the networks alone."""
    others = {n for name, n in parameters.items() if name not in (OURS, COMPILED, FLOOR)}
    theirs = " or ".join(f"{n:,}" for n in sorted(others)) or "–"
    return [f"{parameters[OURS]:,}", theirs, f"{parameters[FLOOR]:,}"]


def _table(heads: list[str], rows: dict[Any, list[str]]) -> str:
    """Return a table whose rows begin with their label, or with its first part."""
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for key, row in rows.items():
        lines.append(f"| {key[0] if isinstance(key, tuple) else key} | {' | '.join(row)} |")
    return "\n".join(lines)


def plot(result: dict[str, Any]) -> Figure:
    """Time against the number of planar layers."""
    use_style()
    figure, ax = plt.subplots()
    found = {
        length: result["rows"][label(*row)]
        for row in ROWS
        for length in row[1:]
        if row[0] == "planar"
    }
    for name, (color, marker) in LOOKS.items():
        shown = {k: row["seconds"][name] for k, row in found.items() if name in row["seconds"]}
        medians = [1e3 * value["median"] for value in shown.values()]
        ends = [
            [1e3 * abs(value[end] - value["median"]) for value in shown.values()]
            for end in ("lower", "upper")
        ]
        ax.errorbar(list(shown), medians, yerr=ends, color=color, marker=marker, label=name)
    ax.set_xticks(list(found))
    ax.set_ylim(bottom=0)
    ax.set(xlabel="planar layers K", ylabel="milliseconds")
    ax.legend()
    return figure
