"""The figure of the evidence: its integrals against closed forms, and what it alone shows."""

from __future__ import annotations

import math
from itertools import pairwise

import figures
import pytest
import torch
from figures import centre, drag
from scipy.integrate import quad
from scipy.stats import norm

from nfbook.explorables import EvidenceExplorable
from nfbook.latent import PPCA

START = {"curve": "bent", "z": 0.2, "noise": 0.5}

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return EvidenceExplorable


# ---- the arithmetic ------------------------------------------------------------------------------

NOISES = [0.2, 0.5, 1.5]
XS = [-5.0, -3.02, -1.1, 0.0, 0.7, 2.6, 3.3]


def by_scipy(curve: str, noise: float, z: float, x: float) -> float:
    """Integrate the joint density piece by piece, so that no narrow peak is overlooked."""

    def joint(t: float) -> float:
        mean = 3 * math.tanh(2 * t) if curve == "bent" else 1.5 * t
        exponent = t**2 + ((x - mean) / noise) ** 2
        return math.exp(-exponent / 2) / (2 * math.pi * noise)

    ends = [-9.0 + k * (z + 9.0) / 60 for k in range(61)]
    return sum(quad(joint, a, b)[0] for a, b in pairwise(ends))


@pytest.mark.parametrize("curve", ["bent", "straight"])
@pytest.mark.parametrize("z", [-2.9, -0.31, 0.2, 3.0])
def test_what_has_built_up(module, curve, z):
    got = module(
        """({ CURVES, builtUp }, [curve, z, noises, xs]) =>
            noises.map((noise) => xs.map(builtUp(CURVES[curve], noise, z)))""",
        [curve, z, NOISES, XS],
    )
    for noise, row in zip(NOISES, got, strict=True):
        expected = [by_scipy(curve, noise, z, x) for x in XS]
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_straight_curve_is_probabilistic_pca(module):
    got = module(
        """({ CURVES, evidence }, [noises, xs]) =>
            noises.map((noise) => xs.map(evidence(CURVES.straight, noise)))""",
        [NOISES, XS],
    )
    for noise, row in zip(NOISES, got, strict=True):
        model = PPCA(torch.tensor([[1.5]]), torch.zeros(1), noise**2)
        expected = model.log_prob(torch.tensor(XS).unsqueeze(1)).exp()
        torch.testing.assert_close(torch.tensor(row), expected, rtol=1e-5, atol=1e-8)


def test_the_prior_passed_and_the_normal_density(module):
    zs = [-3.0, -1.2, 0.0, 0.44, 3.0]
    passed, density = module(
        "({ normal, passed }, zs) => [zs.map(passed), zs.map((z) => normal(z, 0.3, 0.7))]", zs
    )
    assert passed == pytest.approx(norm.cdf(zs).tolist(), abs=1e-8)
    assert density == pytest.approx(norm.pdf(zs, 0.3, 0.7).tolist(), rel=1e-12)


# ---- what the figure shows -----------------------------------------------------------------------


def numbers_of(figure: figures.Figure) -> dict[str, float]:
    return {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}


def test_first_sight(figure):
    assert figure.values() == START
    at = 3 * math.tanh(0.4)
    assert numbers_of(figure) == pytest.approx(
        {
            "passed": norm.cdf(0.2),
            "centre": at,
            "built": by_scipy("bent", 0.5, 0.2, at),
            "evidence": by_scipy("bent", 0.5, 9.0, at),
        },
        abs=5.1e-3,
    )


def test_the_area_grows_to_the_whole(figure):
    """In pixels: the grey area lies within the line, grows with z, and meets it at the end."""
    reach = []
    for z in (-3.0, -0.5, 0.0, 0.5, 3.0):
        figure.show(z=z)
        built, whole = figure.place.evaluate(
            """(place) => ["built", "whole"].map((name) =>
                [...place.querySelector(`[role=img] path.nfbook-${name}`).getAttribute("d")
                    .matchAll(/([\\d.]+),/g)].map((pair) => Number(pair[1])))"""
        )
        built = built[: len(whole)]
        assert all(part <= full + 0.11 for part, full in zip(built, whole, strict=True))
        reach.append(sum(built) - len(built) * min(whole))
    assert reach == sorted(reach)
    assert built == pytest.approx(whole, abs=1.0)


# ---- what its handle and its button mean ---------------------------------------------------------


def test_the_ring(figure):
    """Sideways it moves z; 80 px upwards divide the noise by e."""
    ring = figure.place.locator(".nfbook-handle")
    drag(figure.page, centre(ring), 0, -40)
    assert figure.values() == START | {"noise": 0.3}
    figure.show()
    drag(figure.page, centre(ring), 3000, 3000)
    assert figure.values() == START | {"z": 3.0, "noise": 1.5}
    drag(figure.page, centre(ring), -3000, -3000)
    assert figure.values() == START | {"z": -3.0, "noise": 0.2}


def test_the_button_moves_z_from_end_to_end(figure):
    seen = figure.place.evaluate(
        """async (place) => {
            const seen = [];
            place.model.on("change:z", (sender, z) => seen.push(z));
            place.querySelector("button").click();
            while (seen.at(-1) !== 3 && seen.length < 200) {
                await new Promise((done) => setTimeout(done, 100));
            }
            return seen;
        }"""
    )
    assert seen[0] == -3.0
    assert seen[-1] == 3.0
    assert len(seen) > 50, "one sees it move"
    assert seen == sorted(seen)


def test_a_reader_stops_it(figure):
    first, later = figure.place.evaluate(
        """async (place) => {
            place.querySelector("button").click();
            const slider = place.querySelector("input[type=range]");
            slider.value = 1;
            slider.dispatchEvent(new Event("input"));
            const stopped = place.model.get("z");
            await new Promise((done) => setTimeout(done, 150));
            return [stopped, place.model.get("z")];
        }"""
    )
    assert first == later == 1
