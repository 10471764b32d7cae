"""Probabilistic PCA: EM against the closed form, which is the answer and the faster way."""

from __future__ import annotations

from typing import Any

import torch
from problems import subspace
from stopwatch import ratios, seconds_per_iteration, summary, take_turns

from nfbook.latent import PPCA

TITLE = "PPCA: EM against the closed form"
SETTINGS = {"n": 100_000, "D": [16, 64, 256], "d": 8, "dtype": "float64", "tolerance": 1e-9}
ITERATIONS, ROUNDS = 5, 5


def measure() -> dict[str, Any]:
    """Fit both ways for each D; EM must end at the closed form's log-likelihood."""
    return {str(dim): _measure(dim) for dim in SETTINGS["D"]}


def _measure(dim: int) -> dict[str, Any]:
    x, latent_dim = subspace(SETTINGS["n"], dim, SETTINGS["d"]), SETTINGS["d"]

    def em(iterations: int, tolerance: float = 0.0) -> Any:
        g = torch.Generator().manual_seed(0)
        return PPCA.fit(
            x,
            latent_dim,
            method="em",
            generator=g,
            tolerance=tolerance,
            max_iterations=iterations,
            progress=False,
        )

    exact = PPCA.fit(x, latent_dim)
    climbed = em(10_000, SETTINGS["tolerance"])
    seconds = take_turns(
        {
            "EM, one iteration": lambda: seconds_per_iteration(em, ITERATIONS),
            "closed form": lambda: PPCA.fit(x, latent_dim) and None,
        },
        ROUNDS,
    )
    gap = exact.history.after_e_step[-1] - climbed.history.after_e_step[-1]
    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratio": ratios(seconds["EM, one iteration"], seconds["closed form"]),
        "iterations": climbed.history.iterations,
        "gap": float(gap),
    }


def table(result: dict[str, Any]) -> str:
    """One row a dimension."""
    rows = [
        "| D | closed form | one EM iteration | iterations | gap at the end |",
        "|---:|---:|---:|---:|---:|",
    ]
    for dim, row in result.items():
        em, exact = (1e3 * row["seconds"][name]["median"] for name in row["seconds"])
        rows.append(
            f"| {dim} | {exact:.0f} ms | {em:.0f} ms | {row['iterations']} "
            f"| {row['gap']:.1e} nats |"
        )
    rows.append(
        "\nEM stops when an iteration gains no more than "
        f"{SETTINGS['tolerance']:.0e} nats per observation; the gap is that of the whole data set."
    )
    return "\n".join(rows)
