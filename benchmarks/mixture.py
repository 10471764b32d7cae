"""The mixture of Gaussians against scikit-learn's: time of an iteration, and peak memory."""

from __future__ import annotations

from typing import Any

from problems import clusters, mixture_start, scikit_mixture
from stopwatch import peak_memory, ratios, seconds_per_iteration, summary, take_turns

from nfbook.latent import GaussianMixture

TITLE = "GaussianMixture against scikit-learn"
SETTINGS = {"n": 100_000, "D": 16, "K": 16, "structure": "full", "dtype": "float64"}
ITERATIONS, ROUNDS = 5, 7

SETUP = """
from problems import clusters, mixture_start, scikit_mixture
from nfbook.latent import GaussianMixture
x = clusters({n}, {D}, {K})
start = mixture_start(x, {K})
def ours(x):
    GaussianMixture.fit(x, {K}, start=start, floor=0.0, tolerance=0.0, max_iterations=3,
                        progress=False)
def theirs(x):
    scikit_mixture(start, 3).fit(x.numpy())
{who}(x[:1000])
"""


def measure() -> dict[str, Any]:
    """Alternate both fits; the same start and number of iterations must give the same result."""
    n, dim, count = SETTINGS["n"], SETTINGS["D"], SETTINGS["K"]
    x = clusters(n, dim, count)
    start = mixture_start(x, count)

    def ours(iterations: int) -> Any:
        return GaussianMixture.fit(
            x,
            count,
            start=start,
            floor=0.0,
            tolerance=0.0,
            max_iterations=iterations,
            progress=False,
        )

    def theirs(iterations: int) -> Any:
        return scikit_mixture(start, iterations).fit(x.numpy())

    end = float(ours(ITERATIONS).model.log_prob(x).mean())
    difference = abs(end - theirs(ITERATIONS).score(x.numpy()))
    seconds = take_turns(
        {
            "nfbook": lambda: seconds_per_iteration(ours, ITERATIONS),
            "scikit-learn": lambda: seconds_per_iteration(theirs, ITERATIONS),
        },
        ROUNDS,
    )
    memory = {
        name: peak_memory(SETUP.format(**SETTINGS, who=who), f"{who}(x)")[0]
        for name, who in (("nfbook", "ours"), ("scikit-learn", "theirs"))
    }
    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ratio": ratios(seconds["nfbook"], seconds["scikit-learn"]),
        "memory": memory,
        "difference": difference,
    }


def table(result: dict[str, Any]) -> str:
    """One row a contestant."""
    rows = ["| | one iteration | peak memory beyond the data |", "|---|---:|---:|"]
    for name, seconds in result["seconds"].items():
        memory = result["memory"][name] / 1e6
        rows.append(f"| {name} | {1e3 * seconds['median']:.0f} ms | {memory:.0f} MB |")
    ratio, difference = result["ratio"], result["difference"]
    verdict = f"differ by {difference:.0e}" if difference else "agree to the last digit"
    rows.append(
        f"\nRatio of the times: {ratio['median']:.2f}, between {ratio['min']:.2f} and "
        f"{ratio['max']:.2f} in {ROUNDS} rounds. After {ITERATIONS} iterations the log-likelihoods "
        f"per observation {verdict}."
    )
    return "\n".join(rows)
