"""The figure of the order: its layer against torch's matrices and autograd, and what it shows."""

from __future__ import annotations

from itertools import product

import figures
import pytest
import torch
from torch.autograd.functional import jacobian

from nfbook.explorables import OrderExplorable

ORDERS = OrderExplorable.order.words

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return OrderExplorable


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---- the arithmetic ------------------------------------------------------------------------------


def places(order: str) -> list[int]:
    return [int(word) - 1 for word in order.split()]


def layer(module, order: str):
    """Return the layer as torch computes it: a permuted strictly triangular mask on both tables."""
    shifts, log_scales = (
        torch.tensor(table)
        for table in module("({ SHIFTS, LOG_SCALES }) => [SHIFTS, LOG_SCALES]", None)
    )
    permutation = torch.eye(5)[places(order)]
    mask = permutation.mT @ torch.ones(5, 5).tril(-1) @ permutation

    def forward(u):
        return ((mask * log_scales) @ u.tanh()).exp() * u + (mask * shifts) @ u.sin()

    return forward


CASES = [torch.linspace(-2, 2, 5, dtype=torch.float64), torch.tensor([0.3, -1.7, 0.0, 2.0, 0.9])]


@pytest.mark.parametrize("order", ORDERS)
def test_both_directions_equal_torchs(module, order):
    forward = layer(module, order)
    for case in CASES:
        u = case.double()
        got = module("({ forward }, [order, u]) => forward(order, u)", [order, u.tolist()])
        torch.testing.assert_close(torch.tensor(got["v"]), forward(u), rtol=1e-12, atol=1e-12)
        slope = jacobian(forward, u)
        assert got["ladj"] == pytest.approx(float(slope.slogdet().logabsdet), rel=1e-10, abs=1e-12)
        states = module("({ back }, [order, v]) => back(order, v, 5)", [order, forward(u).tolist()])
        assert len(states) == 6
        for k, state in enumerate(states):
            found = (torch.tensor(state) - u).abs()[places(order)]
            assert bool((found[:k] < 1e-10).all()), "each pass adds the next number in the order"
        torch.testing.assert_close(forward(torch.tensor(states[-1])), forward(u))


@pytest.mark.parametrize("order", ORDERS)
def test_what_depends_on_what_is_autograds(module, order):
    """The pattern of both Jacobians is that of `before` and the diagonal."""
    forward = layer(module, order)
    u = torch.tensor([0.3, -1.7, 0.4, 1.9, 0.9])
    earlier = [module("({ before }, c) => before(...c)", [order, i]) for i in range(5)]
    pattern = torch.eye(5, dtype=torch.bool)
    for i, js in enumerate(earlier):
        pattern[i, js] = True
    slope = jacobian(forward, u)
    assert torch.equal(slope != 0, pattern)
    assert torch.equal(slope.inverse().abs() > 1e-12, pattern)
    made = module("({ network }, [order, u]) => network(order, u)", [order, u.tolist()])
    scales = torch.tensor([one["logScale"] for one in made])
    torch.testing.assert_close(scales, slope.diagonal().log())
    shifts = torch.tensor([one["shift"] for one in made])
    torch.testing.assert_close(shifts, forward(u) - slope.diagonal() * u)


def test_a_story_counts_what_is_right(module):
    for order, passes, number in product(ORDERS, "0135", "14"):
        common = {"order": order, "passes": passes, "number": number, "value": 0.7}
        told = {
            task: module("({ story }, values) => story(values)", common | {"task": task})
            for task in OrderExplorable.task.words
        }
        for task, one in told.items():
            direct = task in ("MAF scores", "IAF samples")
            known = 5 * (passes != "0") if direct else int(passes)
            assert sum(one["right"][-1]) == known
            assert one["needed"] == (1 if direct else 5)
            after = places(order).index(int(number) - 1)
            assert [i for i in range(5) if one["reached"][i]] == sorted(places(order)[after:])
            assert one["given"][int(number) - 1] == 0.7
        # Which side is data is a matter of the name, and not of the arithmetic.
        assert told["MAF scores"] == told["IAF samples"]
        assert told["MAF samples"] == told["IAF scores"]
    inverse = told["MAF samples"]
    forward = layer(module, order)
    u = torch.tensor(inverse["states"][-1])
    assert inverse["ladj"] == pytest.approx(-float(jacobian(forward, u).slogdet().logabsdet))


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    numbers = figure.numbers()
    assert (numbers["needed"], numbers["right"]) == ("1", "5 of 5")
    words = figure.place.get_by_role("status").inner_text()
    assert words.startswith("x₂ reaches z₂, z₃, z₄ and z₅. The network sees the data")
    figure.show(task="MAF samples", passes="2", order="5 4 3 2 1")
    numbers = figure.numbers()
    assert (numbers["needed"], numbers["right"]) == ("5", "2 of 5")
    words = figure.place.get_by_role("status").inner_text()
    assert words.startswith("z₂ reaches x₁ and x₂. The network sees the data")


def test_right_numbers_stay(figure):
    """What has a coloured ground after one pass is the same number after all later ones."""
    figure.show(task="IAF scores", passes="5", order="3 1 5 2 4")
    rows = figure.place.evaluate(
        """(place) => [...place.querySelectorAll("[role=img] svg:nth-child(2) > text")]
            .map((node) => node.textContent)"""
    )
    table = [rows[5 * k : 5 * k + 5] for k in range(6)]
    for place, number in enumerate(places("3 1 5 2 4")):
        found = [row[number] for row in table[place + 1 :]]
        assert len(set(found)) == 1
