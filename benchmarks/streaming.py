"""Fits of data that are never in memory at once."""

from __future__ import annotations

import time
from typing import Any

from stopwatch import peak_memory

TITLE = "Streamed fits"
SETTINGS = {"n": 10_000_000, "D": 8, "K": 8, "d": 2, "dtype": "float64", "batch": 100_000}
# The centres have the first one, and each batch its own.
SEEDS = range(1 + SETTINGS["n"] // SETTINGS["batch"])

SETUP = """
import torch
from problems import Stream
from nfbook.latent import GaussianMixture, PPCA
def mixture(x):
    g = torch.Generator().manual_seed(0)
    return GaussianMixture.fit(x, {K}, restarts=1, max_iterations=3, tolerance=0.0, generator=g,
                               progress=False)
def ppca(x):
    return PPCA.fit(x, {d})
def ppca_em(x):
    g = torch.Generator().manual_seed(0)
    return PPCA.fit(x, {d}, method="em", max_iterations=3, tolerance=0.0, generator=g,
                    progress=False)
def nothing(x):
    for batch in x:
        pass
{work}(Stream(1000, {D}, 500))
"""

FITS = {
    "making the data, no fit": "nothing",
    "GaussianMixture, 3 iterations": "mixture",
    "PPCA, closed form": "ppca",
    "PPCA by EM, 3 iterations": "ppca_em",
}


def measure() -> dict[str, Any]:
    """Fit each model in a process of its own, and keep its seconds and its peak memory."""
    result = {}
    stream = "Stream({n}, {D}, {batch})".format(**SETTINGS)
    for name, work in FITS.items():
        started = time.perf_counter()
        added, peak = peak_memory(SETUP.format(**SETTINGS, work=work), f"{work}({stream})")
        seconds = time.perf_counter() - started
        result[name] = {"seconds": seconds, "added": added, "peak": peak}
    return result


def table(result: dict[str, Any]) -> str:
    """One row a fit."""
    rows = ["| | seconds | peak of the process | beyond its start |", "|---|---:|---:|---:|"]
    for name, row in result.items():
        rows.append(
            f"| {name} | {row['seconds']:.0f} | {row['peak'] / 1e6:.0f} MB | "
            f"{row['added'] / 1e6:.0f} MB |"
        )
    size = SETTINGS["n"] * SETTINGS["D"] * 8 / 1e6
    rows.append(f"\nThe data, held at once, would take {size:.0f} MB.")
    return "\n".join(rows)
