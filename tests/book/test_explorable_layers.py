"""The figure of the NF-VAE: its numbers against the package's, and what it alone shows."""

from __future__ import annotations

from functools import partial

import figures
import pytest
import torch
from figures import centre, drag

from nfbook.explorables import LayersExplorable
from nfbook.explorables.layers import LENGTH, OBSERVATIONS, trained_layers
from nfbook.flows import FlowDistribution, StandardNormal
from nfbook.quadrature import grid
from nfbook.transforms import Affine, Compose, Planar
from nfbook.vae import Parabola

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

double = partial(torch.tensor, dtype=torch.float64)

POINTS = [[0.0, 0.0], [0.5, 1.0], [-2.1, 0.7], [1.9, -0.8], [3.5, -3.0]]
# Observation, layers, width and what is added to the last u.
SETTINGS = [
    ("−1", 0, 1.0, (0.0, 0.0)),
    ("1", 2, 0.4, (0.5, -1.0)),
    ("3", 3, 2.5, (-2.0, 2.0)),
    ("5", 4, 1.0, (0.0, 0.0)),
    ("5", 4, 1.5, (1.5, 2.0)),
]


@pytest.fixture
def kind():
    return LayersExplorable


def posterior(word: str, layers: int, width: float, change: tuple[float, float]):
    """Return the package's q for settings with a whole number of layers."""
    flow = trained_layers(OBSERVATIONS[word])
    u = flow["u"].clone()
    if layers:
        u[layers - 1] += double(change)
    steps = [Planar(flow["w"][k], u[k], flow["b"][k]) for k in range(layers)]
    log_std = flow["log_std"] + double(width).log()
    base = StandardNormal(2, like=u)
    return FlowDistribution(base, Compose([Affine(flow["mean"], log_std), *steps]))


# ---- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_flow_is_that_of_the_package(module, setting):
    """`forward` and `logDensity` equal nfbook's planar layers, from base to target and back."""
    word, layers, width, change = setting
    there, back = module(
        """({ flowOf, forward, logDensity }, [x, layers, width, change, points]) => {
            const flow = flowOf(x, layers, width, change);
            return [points.map((point) => forward(flow, point)),
                points.map((point) => logDensity(flow, point))];
        }""",
        [OBSERVATIONS[word], layers, width, change, POINTS],
    )
    q = posterior(*setting)
    z, ladj = q.transform.call_and_ladj(double(POINTS))
    torch.testing.assert_close(double([one["z"] for one in there]), z, rtol=1e-9, atol=1e-9)
    found = double([one["logQ"] for one in there])
    torch.testing.assert_close(found, q.base.log_prob(double(POINTS)) - ladj, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(double(back), q.log_prob(double(POINTS)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_bound(module, setting):
    """`bound` equals the package's by the same rule, and nearly that on a finer, wider grid."""
    word, layers, width, change = setting
    x = OBSERVATIONS[word]
    found = module(
        "({ bound, flowOf }, [x, layers, width, change]) => "
        "bound(x, flowOf(x, layers, width, change))",
        [x, layers, width, change],
    )
    q, model = posterior(*setting), Parabola()

    def by_quadrature(reach: float, points: int, least: float = 0.0) -> float:
        corner = torch.full((2,), reach, dtype=torch.float64)
        noise, weights = grid(-corner, corner, points)
        z, ladj = q.transform.call_and_ladj(noise)
        log_base = q.base.log_prob(noise)
        log_joint = q.base.log_prob(z) + model(z).log_prob(double([x]))
        chance = weights * log_base.exp()
        return float((chance * (chance >= least)) @ (log_joint - log_base + ladj))

    assert found == pytest.approx(by_quadrature(5.5, 177, 1e-9), rel=1e-6)
    assert found == pytest.approx(by_quadrature(7.5, 301), rel=1e-2)
    assert found < float(model.log_evidence(double([x]))) + 1e-6


def test_a_part_of_a_layer(module):
    """A fraction of a layer moves each point by that fraction of what the layer does."""
    two, part, three = module(
        "({ flowOf, forward }, point) => [2, 2.25, 3].map((layers) => "
        "forward(flowOf(3, layers, 1, [0.3, -0.4]), point).z)",
        [0.7, -1.2],
    )
    before = module(
        "({ flowOf, forward }, p) => forward(flowOf(3, 2, 1, [0, 0]), p).z", [0.7, -1.2]
    )
    assert two != before  # the change belongs to the layer that came last
    wanted = [a + 0.25 * (b - a) for a, b in zip(before, three, strict=True)]
    assert part == pytest.approx(wanted, abs=1e-9)


def test_the_safe_vector(module):
    pairs = [[[0.3, 0.0], [-30.0, 0.0]], [[1.0, 2.0], [0.4, -1.0]], [[0.0, 0.0], [1.0, 1.0]]]
    found = module("({ uHat }, pairs) => pairs.map(([w, u]) => uHat(w, u))", pairs)
    for (w, u), one in zip(pairs, found, strict=True):
        expected = Planar(double(w), double(u), double(0.0)).u_hat
        torch.testing.assert_close(double(one), expected, rtol=1e-9, atol=1e-9)


def test_the_model(module):
    """`logJoint`, `logEvidence`, `NOISE` and `OBSERVATIONS` are those of the package."""
    model = Parabola()
    noise, observations, joint, evidence = module(
        """({ NOISE, OBSERVATIONS, logEvidence, logJoint }, points) => [NOISE, OBSERVATIONS,
            points.map((point) => logJoint(3, point)), Object.values(OBSERVATIONS)
                .map(logEvidence)]""",
        POINTS,
    )
    assert noise == model.noise
    assert observations == OBSERVATIONS
    z = double(POINTS)
    expected = StandardNormal(2, like=z).log_prob(z) + model(z).log_prob(double([3.0]))
    torch.testing.assert_close(double(joint), expected, rtol=1e-10, atol=1e-10)
    exact = model.log_evidence(double(list(observations.values())).unsqueeze(1))
    torch.testing.assert_close(double(evidence), exact, rtol=1e-10, atol=1e-10)


# ---- the trained flows ---------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "most"), [("−1", 0.02), ("1", 0.06), ("3", 0.1), ("5", 0.2)])
def test_how_far_each_flow_is_from_the_posterior(word, most):
    q, x = posterior(word, LENGTH, 1.0, (0.0, 0.0)), double([OBSERVATIONS[word]])
    corner = torch.full((2,), 7.5, dtype=torch.float64)
    noise, weights = grid(-corner, corner, 201)
    z, ladj = q.transform.call_and_ladj(noise)
    log_q = q.base.log_prob(noise) - ladj
    gap = (weights * q.base.log_prob(noise).exp()) @ (log_q - Parabola().log_posterior(x, z))
    assert 0 < gap < most


def test_an_unknown_observation_is_named():
    with pytest.raises(ValueError, match=r"x must be one of -1, 1, 3, 5, got 2\.0"):
        trained_layers(2.0)


# ---- what the figure shows -----------------------------------------------------------------------


def test_the_bars_add_up(figure):
    for values in ({"x": "5"}, {"x": "3", "layers": 2, "width": 2.0}, {"x": "−1", "layers": 0}):
        figure.show(**values)
        numbers = {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}
        assert numbers["bound"] + numbers["gap"] == pytest.approx(numbers["evidence"], abs=1e-9)
        assert numbers["gap"] > 0
        same, gap = figure.place.evaluate(
            """(place) => ["[class$=energy]:nth-of-type(2)", "[class$=bar-variational]"]
                .map((one) => Number(place.querySelector(one).getAttribute("width")))"""
        )
        assert gap / same == pytest.approx(
            numbers["gap"] / -numbers["evidence"], rel=0.05, abs=5e-3
        )


def test_the_ring_changes_the_last_vector(figure):
    (ring,) = figure.all(".nfbook-handle")
    before = figure.values()
    drag(figure.page, centre(ring), -20, 0)
    after = figure.values()
    assert after["across"] < before["across"]
    assert after["up"] == before["up"]
