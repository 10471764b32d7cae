"""The figure of the seeds: its numbers against SciPy and torch, and what it alone shows."""

from __future__ import annotations

import math
from itertools import chain, product

import figures
import pytest
import torch
from scipy import special, stats

from nfbook.explorables import SeedsExplorable

START = {"effect": 0.3, "spread": 0.5, "seeds": "3", "draw": 0}
CASES = [
    dict(zip(START, values, strict=True))
    for values in product((0.0, 0.07, 0.3, 2.0), (0.1, 0.43, 2.0), ("1", "2", "3", "5", "20"), (0,))
]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return SeedsExplorable


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# ---- the arithmetic ------------------------------------------------------------------------------


def test_normal_probabilities(module):
    t = torch.linspace(-12, 8, 401, dtype=torch.float64)
    got = tensor(module("({ below }, places) => places.map(below)", t.tolist()))
    torch.testing.assert_close(got, torch.from_numpy(special.ndtr(t.numpy())), rtol=1e-9, atol=0)


def test_bounds_of_the_test(module):
    got = module("({ CRITICAL }) => CRITICAL", None)
    assert got.pop("1") == math.inf
    for seeds, bound in got.items():
        assert bound == pytest.approx(stats.t.ppf(0.975, int(seeds) - 1), rel=1e-9)


def test_probabilities_of_the_order_and_of_the_test(module):
    got = module("({ right, power }, cases) => cases.map((c) => [right(c), power(c)])", CASES)
    for case, (right, power) in zip(CASES, got, strict=True):
        n = int(case["seeds"])
        shift = n**0.5 * case["effect"] / case["spread"]
        assert right == pytest.approx(special.ndtr(shift), rel=1e-9)
        found = 0.0 if n == 1 else stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift)
        assert power == pytest.approx(found, abs=1e-6), case


def test_the_noise_is_normal_and_of_each_set_its_own(module):
    sets, repeats = module("({ noise, REPEATS }) => [[0, 1, 7, 20].map(noise), REPEATS]", None)
    for numbers in sets:
        assert len(numbers) == repeats == 40
        assert stats.kstest(list(chain(*numbers)), "norm").pvalue > 0.01
    assert len({row[0] for numbers in sets for row in numbers}) == 4 * repeats


def test_means_and_intervals_of_the_repeats(module):
    got, numbers = module("({ repeats, noise }, cases) => [cases.map(repeats), noise(0)]", CASES)
    for case, rows in zip(CASES, got, strict=True):
        n = int(case["seeds"])
        differences = case["effect"] + case["spread"] * tensor(numbers)[:, :n]
        means = tensor([row["mean"] for row in rows])
        torch.testing.assert_close(means, differences.mean(1), rtol=1e-9, atol=1e-12)
        if n == 1:
            assert {row["half"] for row in rows} == {math.inf}
            continue
        halves = stats.t.ppf(0.975, n - 1) * differences.std(1) / n**0.5
        torch.testing.assert_close(tensor([row["half"] for row in rows]), halves, rtol=1e-8, atol=0)


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    assert figure.values() == START
    numbers = figure.numbers()
    assert numbers["right"] == "85.1 %"
    assert numbers["power"] == "9.5 %"


def test_more_seeds_make_both_likelier(figure):
    shown = []
    for seeds in ("2", "3", "5", "10", "20"):
        figure.show(seeds=seeds)
        numbers = figure.numbers()
        shown.append([float(numbers[name].removesuffix(" %")) for name in ("right", "power")])
    assert shown == sorted(shown)
    assert [row[1] for row in shown] == sorted(row[1] for row in shown)


def test_what_is_counted_is_what_is_drawn(figure):
    for values in ({}, {"seeds": "10"}, {"effect": 0.0, "draw": 4}, {"seeds": "1", "spread": 1.0}):
        figure.show(**values)
        found, only, wrong = figure.place.evaluate(
            """(place) => ["posterior", "guide-soft", "likelihood"].map((kind) => {
                const d = place.querySelector(`[role=img] path.nfbook-thin.nfbook-${kind}`)
                    .getAttribute("d");
                return d.split("H").length - 1;
            })"""
        )
        numbers = figure.numbers()
        assert found + only + wrong == 40
        assert int(numbers["counted"]) == found + only
        assert int(numbers["found"]) == found


def test_in_words(figure):
    for words, values in {
        "are expected. The test finds the difference in": {},
        "None of them knows its own spread.": {"seeds": "1"},
        "There is no difference.": {"effect": 0.0},
    }.items():
        figure.show(**values)
        assert words in figure.place.get_by_role("status").inner_text()
