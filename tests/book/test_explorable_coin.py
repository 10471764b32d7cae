"""The figure of the coin: its numbers against the package's, and what it alone shows."""

from __future__ import annotations

import re
from functools import partial

import figures
import pytest
import torch
from figures import centre, drag
from torch.distributions import Beta

from nfbook.bayes import BetaBernoulli
from nfbook.explorables import CoinExplorable

START = {"prior_a": 2.0, "prior_b": 2.0, "heads": 7, "tails": 3}

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

double = partial(torch.tensor, dtype=torch.float64)


@pytest.fixture
def kind():
    return CoinExplorable


# ---- the arithmetic ------------------------------------------------------------------------------

CASES = [
    (a, b, heads, tails)
    for a in (0.1, 0.5, 1.0, 2.0, 20.0)
    for b in (0.1, 1.0, 3.0, 20.0)
    for heads, tails in ((0, 0), (1, 0), (0, 1), (7, 3), (13, 50), (50, 50))
]
THETAS = [0.001, 0.05, 0.3, 0.5, 0.77, 0.999]


def test_numbers_equal_those_of_the_package(module):
    got = module("({ coin }, cases) => cases.map((c) => coin(...c))", CASES)
    compared = {"evidence": 0, "map": 0}
    for (a, b, heads, tails), numbers in zip(CASES, got, strict=True):
        if heads + tails == 0:
            # The package refuses an empty data set; without data the evidence is 1.
            assert numbers["mle"] is None
            assert numbers["logEvidence"] == 0
            assert numbers["mean"] == pytest.approx(a / (a + b), rel=1e-12)
            continue
        model, data = BetaBernoulli(double(a), double(b)), double([1.0] * heads + [0.0] * tails)
        assert numbers["logEvidence"] == pytest.approx(float(model.log_evidence(data)), rel=1e-10)
        assert numbers["mean"] == pytest.approx(float(model.posterior(data).mean), rel=1e-10)
        assert numbers["mle"] == pytest.approx(float(model.mle(data)), rel=1e-10)
        compared["evidence"] += 1
        if numbers["unbounded"]:
            with pytest.raises(ValueError, match="no mode"):
                model.map(data)
        else:
            (place,) = numbers["modes"]
            assert place == pytest.approx(float(model.map(data)), rel=1e-10, abs=1e-12)
            compared["map"] += 1
    assert compared == {"evidence": 100, "map": 87}


def test_densities_equal_those_of_torch(module):
    arguments = [(t, a + h, b + k) for a, b, h, k in CASES for t in THETAS]
    got = module("({ density }, cases) => cases.map((c) => density(...c))", arguments)
    theta, a, b = double(arguments).T
    torch.testing.assert_close(double(got), Beta(a, b).log_prob(theta).exp(), rtol=1e-9, atol=0)


def test_log_gamma(module):
    points = torch.logspace(-3, 3, 400, dtype=torch.float64)
    got = module("({ logGamma }, xs) => xs.map(logGamma)", points.tolist())
    # Near its zeros, at 1 and 2, only the absolute error can be small.
    torch.testing.assert_close(double(got), torch.lgamma(points), rtol=1e-13, atol=1e-13)


def test_modes_at_the_borders(module):
    cases = {
        (1, 1): [],
        (0.5, 0.5): [0, 1],
        (1, 0.5): [1],
        (0.5, 1): [0],
        (1, 3): [0],
        (3, 1): [1],
        (0.5, 3): [0],
        (3, 2): [pytest.approx(2 / 3)],
    }
    got = module("({ modes }, cases) => cases.map((c) => modes(...c))", list(cases))
    assert got == list(cases.values())


def test_density_at_the_borders(module):
    cases = [(0, 1, 1), (0, 1, 3), (1, 3, 1), (0, 2, 2), (0, 0.5, 2), (1, 2, 0.5)]
    got = module(
        "({ density }, cases) => cases.map((c) => String(Math.round(1e9 * density(...c)) / 1e9))",
        cases,
    )
    assert got == ["1", "3", "3", "0", "Infinity", "Infinity"]


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    assert figure.values() == START
    assert figure.numbers() == {
        "map": "0.667", "mean": "0.643", "mle": "0.700", "evidence": "−6.978"
    }  # fmt: skip
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "7 heads and 3 tails. MAP 0.667" in label
    assert "posterior mean 0.643, MLE 0.700, log-evidence −6.978" in label
    # The MAP's mark stands on the top of the drawn posterior.
    line, mark = figure.place.evaluate(
        """(place) => [
            place.querySelector("[role=img] path.nfbook-posterior").getAttribute("d"),
            place.querySelector("circle.nfbook-mark").getAttribute("transform"),
        ]"""
    )
    points = [tuple(map(float, pair.split(","))) for pair in line[1:].split("L")]
    x, y = map(float, re.findall(r"[\d.]+", mark))
    assert (x, y) == (
        pytest.approx(min(points, key=lambda point: point[1])[0], abs=4),
        pytest.approx(min(y for _, y in points), abs=0.5),
    )


def test_edges(figure):
    """Where there is no MLE or no MAP, that is said and no mark pretends it."""
    seen = {}
    for values in (
        {"heads": 0, "tails": 0},
        {"prior_a": 1.0, "prior_b": 1.0, "heads": 0, "tails": 0},
        {"prior_a": 1.0, "heads": 0, "tails": 4},
        {"prior_b": 1.0, "heads": 4, "tails": 0},
        {"prior_a": 0.5, "heads": 0, "tails": 4},
        {"prior_b": 0.1, "heads": 4, "tails": 0},
        {"prior_a": 0.5, "prior_b": 0.5, "heads": 0, "tails": 0},
    ):
        figure.show(**values)
        numbers = figure.numbers()
        marks = figure.place.evaluate(
            """(place) => ["circle.nfbook-mark", ".nfbook-mle", ".nfbook-infinity"].map((kind) =>
                [...place.querySelectorAll(`[role=img] ${kind}`)]
                    .filter((node) => node.checkVisibility()).length)"""
        )
        seen[tuple((START | values).values())] = [numbers["map"], numbers["mle"], *marks]
    assert seen == {
        (2.0, 2.0, 0, 0): ["0.500", "–", 1, 0, 0],
        (1.0, 1.0, 0, 0): ["every θ", "–", 0, 0, 0],
        (1.0, 2.0, 0, 4): ["0.000", "0.000", 1, 1, 0],
        (2.0, 1.0, 4, 0): ["1.000", "1.000", 1, 1, 0],
        (0.5, 2.0, 0, 4): ["none: ∞ at 0", "0.000", 0, 1, 1],
        (2.0, 0.1, 4, 0): ["none: ∞ at 1", "1.000", 0, 1, 1],
        (0.5, 0.5, 0, 0): ["none: ∞ at 0 and 1", "–", 0, 0, 2],
    }


def test_one_head_and_two_heads(figure):
    heads = figure.place.get_by_role("slider", name="heads")
    for count, words in ((0, "0 heads"), (1, "1 head"), (2, "2 heads")):
        figure.show(heads=count)
        assert heads.get_attribute("aria-valuetext") == words


# ---- what its handles mean -----------------------------------------------------------------------


def test_the_ring_of_the_prior(figure):
    """Sideways it moves the prior's mean, and keeps a + b; 80 px upwards multiply a + b by e."""
    ring = figure.place.locator(".nfbook-handle-prior")
    drag(figure.page, centre(ring), 100)
    moved = figure.values()
    assert moved["prior_a"] > 2.4
    assert moved["prior_a"] + moved["prior_b"] == pytest.approx(4, abs=0.11)
    drag(figure.page, centre(ring), 0, -80)
    grown = figure.values()
    assert grown["prior_a"] + grown["prior_b"] == pytest.approx(4 * 2.71828, abs=0.3)
    assert (grown["heads"], grown["tails"]) == (7, 3)
    drag(figure.page, centre(ring), 3000, -3000)
    assert figure.values()["prior_a"] == 20.0


def test_the_ring_of_the_likelihood(figure):
    """Sideways it moves the share of heads; every 5 px upwards are one more toss."""
    ring = figure.place.locator(".nfbook-handle-likelihood")
    for dx, dy, heads, tails in (
        (0, -50, 14, 6),
        (-3000, 0, 0, 20),
        (0, 3000, 0, 0),
        (0, -20, 2, 2),
    ):
        drag(figure.page, centre(ring), dx, dy)
        assert figure.values() == START | {"heads": heads, "tails": tails}
