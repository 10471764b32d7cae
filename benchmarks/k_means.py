"""K-means against scikit-learn's, with few and with many clusters."""

from __future__ import annotations

from typing import Any

import torch
from problems import clusters, scikit_k_means
from stopwatch import ratios, seconds_per_iteration, summary, take_turns

from nfbook.latent import KMeans

TITLE = "KMeans against scikit-learn"
SETTINGS = {"n": 100_000, "D": 16, "K": [8, 16, 64, 256], "dtype": "float64"}
ITERATIONS, ROUNDS = 10, 7


def measure() -> dict[str, Any]:
    """Alternate both fits for each K; the same start must lead to the same distortion."""
    return {str(count): _measure(count) for count in SETTINGS["K"]}


def _measure(count: int) -> dict[str, Any]:
    # Twice as many clusters as the data have, so that no fit ends before its iterations do.
    x = clusters(SETTINGS["n"], SETTINGS["D"], max(2, count // 2))
    means = x[:count]
    start = KMeans(means, torch.ones_like(means[0, 0]))

    def ours(iterations: int) -> Any:
        return KMeans.fit(x, count, start=start, max_iterations=iterations, progress=False)

    def theirs(iterations: int) -> Any:
        return scikit_k_means(means, iterations).fit(x.numpy())

    end = float(ours(ITERATIONS).model.distortion(x))
    difference = abs(end / theirs(ITERATIONS).inertia_ - 1)
    seconds = take_turns(
        {
            "nfbook": lambda: seconds_per_iteration(ours, ITERATIONS),
            "scikit-learn": lambda: seconds_per_iteration(theirs, ITERATIONS),
        },
        ROUNDS,
    )
    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratio": ratios(seconds["nfbook"], seconds["scikit-learn"]),
        "difference": difference,
    }


def table(result: dict[str, Any]) -> str:
    """One row a number of clusters."""
    rows = ["| K | nfbook | scikit-learn | ratio | difference |", "|---:|---:|---:|---:|---:|"]
    for count, row in result.items():
        ours, theirs = (1e3 * row["seconds"][name]["median"] for name in row["seconds"])
        ratio = row["ratio"]
        rows.append(
            f"| {count} | {ours:.1f} ms | {theirs:.1f} ms | {ratio['median']:.2f} "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}) | {row['difference']:.0e} |"
        )
    rows.append(
        "\nTime of one iteration, median; ratio of the times with its spread over "
        f"{ROUNDS} rounds; relative difference of the distortions after {ITERATIONS} iterations."
    )
    return "\n".join(rows)
