"""The figure of coupling flows: its numbers against the package's, and what it alone shows."""

from __future__ import annotations

from functools import partial

import figures
import pytest
import torch
from figures import centre, drag
from torch.distributions import Normal

from nfbook.cases import two_moons
from nfbook.explorables import CouplingExplorable
from nfbook.explorables.coupling import LENGTH, MASKS, UNITS, new_flow, trained_flow
from nfbook.quadrature import grid

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

double = partial(torch.tensor, dtype=torch.float64)

POINTS = [[0.0, 0.0], [0.5, 1.0], [-2.9, 3.0], [1.35, -0.4], [3.0, -3.0]]


@pytest.fixture
def kind():
    return CouplingExplorable


# ---- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_the_way_is_that_of_the_package(module, mask):
    """`way` equals nfbook's RealNVP with the stored weights, layer by layer."""
    stages = module(
        "({ way }, [mask, points]) => points.map((point) => way(mask, point))", [mask, POINTS]
    )
    layers = trained_flow(mask)().transform
    z, total = double(POINTS), torch.zeros(len(POINTS), dtype=torch.float64)
    parts = getattr(layers, "transforms", None) or layers.layers.transforms
    for k in range(LENGTH + 1):
        found = double([stage[k]["point"] for stage in stages])
        torch.testing.assert_close(found, z.detach(), rtol=1e-9, atol=1e-9)
        ladj = double([stage[k]["ladj"] for stage in stages])
        torch.testing.assert_close(ladj, total.detach(), rtol=1e-9, atol=1e-9)
        if k < LENGTH:
            z, step = parts[k].call_and_ladj(z)
            total = total + step
    whole, ladj = layers.call_and_ladj(double(POINTS))
    torch.testing.assert_close(z, whole)
    torch.testing.assert_close(total, ladj)


def test_a_part_of_a_layer(module):
    """`after` equals `way` at whole numbers, and a layer with a part of both parameters between."""
    point, mask = [0.7, -1.2], "taking turns"
    found = module(
        "({ after, way }, [mask, point]) => [way(mask, point), [0, 1, 2.25, 6].map((layers) => "
        "after(mask, point, layers))]",
        [mask, point],
    )
    stages, (none, one, part, every) = found
    for stage, same in ((stages[0], none), (stages[1], one), (stages[6], every)):
        assert stage["point"] == pytest.approx(same["point"], abs=1e-12)
        assert stage["ladj"] == pytest.approx(same["ladj"], abs=1e-12)
    (before, after), step = stages[2:4], 0.25
    scale = after["ladj"] - before["ladj"]
    shift = after["point"][1] - torch.tensor(scale).double().exp() * before["point"][1]
    moved = torch.tensor(step * scale).double().exp() * before["point"][1] + step * shift
    assert part["point"] == pytest.approx([before["point"][0], float(moved)], abs=1e-9)
    assert part["ladj"] == pytest.approx(before["ladj"] + step * scale, abs=1e-12)


def test_which_coordinate_stays(module):
    """The figure's `MASKS` count from 0, the package's from 1."""
    masks = module("({ MASKS }) => MASKS", None)
    assert {name: tuple(k + 1 for k in stays) for name, stays in masks.items()} == MASKS


def test_densities(module):
    noise, moons = module(
        "({ logNormal, logMoons }, points) => [points.map(logNormal), points.map(logMoons)]", POINTS
    )
    x = double(POINTS)
    torch.testing.assert_close(double(noise), Normal(0.0, 1.0).log_prob(x).sum(1))
    truth = two_moons()
    in_double = type(truth)(
        truth.weights.double(), truth.means.double(), truth.covariances.double()
    )
    torch.testing.assert_close(double(moons), in_double.log_prob(x), rtol=1e-5, atol=1e-5)


# ---- the trained flows ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "low", "high"),
    [
        ("taking turns", 0.0, 0.08),
        ("x1 stays", 0.416, 0.43),
        ("x2 stays", 0.519, 0.53),
    ],
)
def test_how_far_each_flow_is_from_the_moons(mask, low, high):
    """One mask cannot do better than its floor, see the chapter; both came down to it."""
    truth = two_moons()
    corner = torch.full((2,), 4.0, dtype=torch.float64)
    x, weights = grid(-corner, corner, 161)
    log_pi = type(truth)(
        truth.weights.double(), truth.means.double(), truth.covariances.double()
    ).log_prob(x)
    with torch.no_grad():
        divergence = weights @ (log_pi.exp() * (log_pi - trained_flow(mask)().log_prob(x)))
    assert low < divergence < high


def test_an_unknown_mask_is_named():
    for make in (new_flow, trained_flow):
        with pytest.raises(ValueError, match="mask must be one of 'taking turns', 'x1 stays'"):
            make("x3 stays")


def test_the_networks_have_the_stored_width():
    (network, *_) = new_flow("x1 stays").conditioners
    assert sum(p.numel() for p in network.parameters()) == 4 * UNITS + 2


# ---- what the figure shows -----------------------------------------------------------------------


def test_one_coordinate_stays(figure):
    """With one mask the point moves up and down alone, however many layers it goes through."""
    figure.show(mask="x1 stays", z1=1.25, z2=-0.5, layers=LENGTH)
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "It lies at 1.25, " in label
    assert "Layer 6: the first coordinate stays" in figure.place.inner_text()


def test_the_numbers_add_up(figure):
    figure.show(mask="taking turns", z1=0.7, z2=-1.3, layers=4)
    numbers = {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}
    assert numbers["density"] == pytest.approx(numbers["base"] - numbers["ladj"], abs=0.011)
    figure.show(mask="taking turns", z1=0.7, z2=-1.3, layers=0)
    assert figure.numbers()["ladj"] == "0.00"


def test_the_ring_moves_the_point(figure):
    (ring,) = figure.all(".nfbook-handle")
    before = figure.values()
    drag(figure.page, centre(ring), 30, 0)
    after = figure.values()
    assert after["z1"] > before["z1"]
    assert after["z2"] == before["z2"]
