"""The figure of EM: its numbers against the package's, and what it alone shows."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import figures
import pytest
import torch
from figures import centre, drag
from torch.distributions import Categorical

from nfbook.data import old_faithful
from nfbook.explorables import EmExplorable
from nfbook.latent import GaussianMixture

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

double = partial(torch.tensor, dtype=torch.float64)

STARTS = [
    [[3.0, 85.0], [3.5, 60.0]],
    [[2.0, 55.0], [4.3, 80.0]],
    [[3.4, 70.0], [3.6, 71.0]],
    [[1.0, 100.0], [6.0, 100.0]],
]


@pytest.fixture
def kind():
    return EmExplorable


def heights(mixture: GaussianMixture, x: torch.Tensor, q: torch.Tensor) -> list[float]:
    probs = torch.stack([q, 1 - q], 1).clamp(0, 1)
    return [float(mixture.elbo(x, Categorical(probs)).sum()), float(mixture.log_prob(x).sum())]


# ---- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_a_run_equals_that_of_the_package(module, start):
    stages = module("({ run }, start) => run(start, 30)", start)
    x = old_faithful().double()
    mixture = GaussianMixture(
        double([0.5, 0.5]), double(start), x.T.cov(correction=0).repeat(2, 1, 1)
    )
    q = torch.full((len(x),), 0.5, dtype=torch.float64)
    assert len(stages) == 31
    for t, stage in enumerate(stages):
        if t % 2:
            q = mixture.posterior(x).probs[:, 0]
        elif t:
            statistics = mixture.e_step(x, Categorical(torch.stack([q, 1 - q], 1).clamp(0, 1)))
            mixture = mixture.m_step(statistics, floor=1e-6 * x.var(0, correction=0))
        torch.testing.assert_close(double(stage["q"]), q, rtol=1e-7, atol=1e-9)
        bound, log_likelihood = heights(mixture, x, q)
        assert stage["bound"] == pytest.approx(bound, rel=1e-9)
        assert stage["logLikelihood"] == pytest.approx(log_likelihood, rel=1e-9)
        assert stage["bound"] <= stage["logLikelihood"] + 1e-9
    ends = [stage["logLikelihood"] for stage in stages]
    assert all(later >= sooner - 1e-9 for sooner, later in pairwise(ends))


def test_the_floor(module):
    """A matrix without variance in one direction gets the floor there, and nowhere else."""
    a, b, c = module("({ lifted }) => lifted([1, 0, 0])", None)
    x = old_faithful().double()
    assert (a, b) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    assert c == pytest.approx(1e-6 * float(x[:, 1].var(correction=0)))
    assert module("({ lifted }) => lifted([1, 3, 40])", None) == pytest.approx([1, 3, 40])


# ---- what the figure shows -----------------------------------------------------------------------


def test_half_steps_by_button(figure):
    """The button takes E- and M-steps in turn; the bound touches after the first kind."""
    button = figure.place.get_by_role("button").first
    assert button.inner_text() == "E-step"
    before = figure.numbers()
    button.click()
    touched = figure.numbers()
    assert button.inner_text() == "M-step"
    assert touched["gap"] == "0.00"
    assert touched["bound"] == touched["evidence"] == before["evidence"]
    button.click()
    numbers = {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}
    assert numbers["gap"] > 0
    assert numbers["evidence"] > float(touched["evidence"].replace("−", "-"))
    assert figure.values()["half_steps"] == 2


def test_a_ring_moves_its_own_start(figure):
    first, _ = figure.all(".nfbook-handle")
    before = figure.values()
    drag(figure.page, centre(first), 40, 0)
    after = figure.values()
    assert after["first_eruption"] > before["first_eruption"]
    assert {name for name in before if before[name] != after[name]} == {"first_eruption"}


def test_equal_starts_stay_equal(figure):
    """Twins are a fixed point, and no number of half-steps parts them."""
    same = {"first_eruption": 3.0, "first_wait": 70.0, "second_eruption": 3.0, "second_wait": 70.0}
    figure.show(**same, half_steps=2)
    early = figure.numbers()["evidence"]
    figure.show(**same, half_steps=80)
    assert figure.numbers()["evidence"] == early == "−1289.80"
