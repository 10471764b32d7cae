"""The figure of the ranks: its arithmetic against SciPy and torch, and what it alone shows."""

from __future__ import annotations

from itertools import product

import figures
import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.distributions import Categorical, MixtureSameFamily, Normal

from nfbook.estimators import effective_sample_size, log_mean_exp
from nfbook.explorables import RanksExplorable

START = {"apart": 2.0, "shift": 0.0, "width": 1.0, "right": 0.5}
CASES = [
    {"apart": apart, "shift": shift, "width": width, "right": right}
    for apart, shift, width, right in product((0.0, 2.3), (0.0, -0.7), (0.5, 1.8), (0.5, 0.9))
]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return RanksExplorable


def mixtures(case: dict[str, float]) -> list[MixtureSameFamily]:
    """Return the exact posterior and q, by torch."""

    def mixture(weights, means, width):
        parts = Normal(torch.tensor(means, dtype=torch.float64), width)
        return MixtureSameFamily(Categorical(torch.tensor(weights, dtype=torch.float64)), parts)

    a, at = case["apart"], case["shift"]
    return [
        mixture([0.5, 0.5], [-a, a], 1.0),
        mixture([1 - case["right"], case["right"]], [at - a, at + a], case["width"]),
    ]


def value(function, z: float) -> float:
    return float(function(torch.tensor(z, dtype=torch.float64)))


def root(q: MixtureSameFamily, level: float) -> float:
    return optimize.brentq(lambda z: value(q.cdf, z) - level, -30, 30, xtol=1e-12)


def both(module, function: str, case: dict[str, float]):
    return module(
        "({ exact, approximate, cdf, density, logDensity, quantiles, rankShares, coverage, gap, "
        f"weights }}, values) => {{ const p = exact(values), q = approximate(values); "
        f"return {function}; }}",
        case,
    )


# ---- the arithmetic ------------------------------------------------------------------------------


def test_the_normal_distribution_function(module):
    points = [-8.0, -2.5, -0.3, 0.0, 0.4, 1.7, 6.0]
    got = module("({ normalCdf }, xs) => xs.map(normalCdf)", points)
    assert got == pytest.approx(stats.norm.cdf(points).tolist(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("case", CASES[::3])
def test_densities_and_quantiles(module, case):
    _, q = mixtures(case)
    for z in (-3.1, 0.2, 2.4):
        got = both(module, f"[cdf(q, {z}), density(q, {z}), logDensity(q, {z})]", case)
        log_q = value(q.log_prob, z)
        assert got[0] == pytest.approx(value(q.cdf, z), abs=1e-6)
        assert got[1:] == pytest.approx([np.exp(log_q), log_q], abs=1e-8)
    levels = [0.02, 0.4, 0.97]
    got = both(module, f"quantiles(q, {levels})", case)
    assert got == pytest.approx([root(q, level) for level in levels], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_rank_shares(module, case):
    """Against an integral of the binomial probabilities, by another rule."""
    p, q = mixtures(case)
    got = both(module, "rankShares(p, q)", case)
    z = torch.linspace(-14, 14, 20_001, dtype=torch.float64)
    below, height = q.cdf(z).numpy(), p.log_prob(z).exp().numpy()
    expected = [
        integrate.trapezoid(height * stats.binom.pmf(rank, 9, below), z.numpy())
        for rank in range(10)
    ]
    assert got == pytest.approx(expected, abs=1e-6)
    assert sum(got) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_coverage_and_gap(module, case):
    p, q = mixtures(case)
    low, high = root(q, 0.05), root(q, 0.95)
    got = both(module, "[coverage(p, q, 0.9), gap(p, q)]", case)
    z = torch.linspace(-25, 25, 40_001, dtype=torch.float64)
    log_q = q.log_prob(z)
    kl = torch.trapezoid(log_q.exp() * (log_q - p.log_prob(z)), z)
    expected = [value(p.cdf, high) - value(p.cdf, low), float(kl)]
    assert got == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("case", CASES[::3])
def test_weights(module, case):
    p, q = mixtures(case)
    got = both(module, "weights(p, q)", case)
    z = torch.tensor([root(q, (k + 0.5) / 1000) for k in range(1000)], dtype=torch.float64)
    log_w = p.log_prob(z) - q.log_prob(z)
    assert got["share"] == pytest.approx(float(effective_sample_size(log_w)) / 1000, abs=1e-4)
    assert got["logMean"] == pytest.approx(float(log_mean_exp(log_w)), abs=1e-4)


def test_one_width_in_closed_form(module):
    """With components that coincide, q holds the truth as a Gaussian of another width does."""
    case = {"apart": 0.0, "shift": 0.0, "width": 0.5, "right": 0.5}
    expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.95)) - 1
    assert both(module, "coverage(p, q, 0.9)", case) == pytest.approx(expected, abs=1e-6)


# ---- what the figure shows -----------------------------------------------------------------------


def status(figure: figures.Figure) -> str:
    return figure.place.get_by_role("status").inner_text()


def test_first_sight(figure):
    assert figure.values() == START
    assert figure.numbers() == {
        "gap": "0.00",
        "coverage": "90 %",
        "share": "100 %",
        "evidence": "0.00",
    }
    assert "The ranks are uniform" in status(figure)


def test_a_lost_mode_is_seen_by_the_ranks_alone(figure):
    figure.show(right=1.0, apart=3.0)
    numbers = figure.numbers()
    assert numbers["gap"] == "0.69"
    assert numbers["coverage"] == "45 %"
    assert numbers["evidence"] == "−0.69"
    assert numbers["share"] == "97 %"
    assert "look good all the same" in status(figure)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 0.5}, "q is too narrow"),
        ({"width": 2.0}, "q is too wide"),
        ({"shift": 0.5}, "too far to the right"),
        ({"shift": -0.5}, "too far to the left"),
        ({"right": 0.2}, "too far to the left"),
    ],
)
def test_in_words(figure, values, words):
    figure.show(**values)
    assert words in status(figure)
