"""The figure of the bridge: its numbers against torch, and what it alone shows."""

from __future__ import annotations

import math
import re
from itertools import pairwise, product

import figures
import pytest
import torch
from figures import centre, drag
from scipy import special
from scipy.optimize import brentq
from torch.distributions import Normal

from nfbook.explorables import BridgeExplorable
from nfbook.quadrature import grid

START = {"peaks": 3.0, "width": 0.5, "layers": 3, "scale": "linear"}
CASES = [
    dict(zip(START, (*values, "linear"), strict=True))
    for values in product((2.0, 3.3, 5.0), (0.25, 0.43, 1.0), (0, 3, 7, 10, 16))
]
STANDARD = Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return BridgeExplorable


def tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_target(case: dict[str, float], x: torch.Tensor) -> torch.Tensor:
    places = tensor([-case["peaks"], case["peaks"]])
    return Normal(places, case["width"]).log_prob(x.unsqueeze(-1)).logsumexp(-1) - tensor(2).log()


def share_below(case: dict[str, float], x: torch.Tensor) -> torch.Tensor:
    places = tensor([-case["peaks"], case["peaks"]])
    # SciPy's function keeps its digits far out, where torch's becomes zero.
    return torch.from_numpy(
        special.ndtr(((x.unsqueeze(-1) - places) / case["width"]).numpy())
    ).mean(-1)


def to_noise(case: dict[str, float], x: torch.Tensor) -> torch.Tensor:
    """The flow from data to noise: on the left the exact map is found with more digits."""
    far = -torch.from_numpy(special.ndtri(share_below(case, -x.abs()).numpy()))
    return x.sign() * torch.maximum(x.abs() / 2 ** case["layers"], far)


# ---- the arithmetic ------------------------------------------------------------------------------


def test_probabilities_of_tails(module):
    t = torch.linspace(-8, 12, 401, dtype=torch.float64)
    got = tensor(module("({ above }, places) => places.map(above)", t.tolist()))
    torch.testing.assert_close(got, torch.special.erfc(t / 2**0.5) / 2, rtol=1e-9, atol=0)


def test_the_map_and_its_density(module):
    x = torch.linspace(-6, 6, 61, dtype=torch.float64)
    got = module(
        """({ noise, density, target, measure }, [cases, places]) => cases.map((c) => [
            places.map((x) => noise(c, x)), places.map((x) => density(c, measure(c).meets, x)),
            places.map((x) => target(c, x))])""",
        [CASES, x.tolist()],
    )
    for case, (noise, density, target) in zip(CASES, got, strict=True):
        torch.testing.assert_close(tensor(noise), to_noise(case, x), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(tensor(target), log_target(case, x).exp(), rtol=1e-9, atol=0)
        # The density is the noise's, times the slope of the map to noise, by differences.
        step = 1e-5
        slope = (to_noise(case, x + step) - to_noise(case, x - step)) / (2 * step)
        by_slope = STANDARD.log_prob(to_noise(case, x)).exp() * slope
        away = (x.abs() - crossing(case)).abs() > 1e-3
        torch.testing.assert_close(tensor(density)[away], by_slope[away], rtol=1e-5, atol=1e-8)


def crossing(case: dict[str, float]) -> float:
    """Where the straight piece ends, by a search of SciPy's."""

    def above_line(x: float) -> float:
        exact = -special.ndtri(share_below(case, tensor([-x])).numpy())
        return float(exact[0]) - x / 2 ** case["layers"]

    if above_line(1e-4) >= 0:
        return 0.0
    return brentq(above_line, 1e-4, 30.0, xtol=1e-12) if above_line(30.0) > 0 else math.inf


def test_numbers(module):
    got = module("({ measure }, cases) => cases.map(measure)", CASES)
    for case, numbers in zip(CASES, got, strict=True):
        gap, slope = case["peaks"] / 2, 2 ** case["layers"]
        ends = tensor([-gap, gap])
        low, high = STANDARD.cdf(to_noise(case, ends))
        assert numbers["gap"] == pytest.approx(gap)
        assert numbers["slope"] == slope
        meets = math.inf if numbers["meets"] is None else numbers["meets"]
        assert meets == pytest.approx(crossing(case), rel=1e-6, abs=1e-9)
        assert numbers["bridge"] == pytest.approx(float(high - low), rel=1e-6)
        low, high = STANDARD.cdf(ends / slope)
        assert numbers["bound"] == pytest.approx(float(high - low), rel=1e-6)
        low, high = share_below(case, ends)
        assert numbers["data"] == pytest.approx(float(high - low), rel=1e-6)
        assert numbers["bridge"] > numbers["bound"] - 1e-9
        if meets < 1e-9:
            assert numbers["divergence"] == pytest.approx(0.0, abs=1e-9)
            continue
        end = min(meets, case["peaks"] + 12 * case["width"])
        x, weights = grid(-end, end, 20_001)
        log_q = STANDARD.log_prob(x / slope) - tensor(slope).log()
        log_p = log_target(case, x)
        divergence = weights.double() @ (log_p.exp() * (log_p - log_q))
        assert numbers["divergence"] == pytest.approx(float(divergence), rel=1e-5, abs=1e-7)


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    assert figure.values() == START
    assert figure.numbers() == {
        "slope": "8", "gap": "1.50", "bridge": "14.9 %", "bound": "14.9 %", "data": "0.135 %",
        "divergence": "0.3229",
    }  # fmt: skip
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "Of a thousand draws 149 fall into the gap" in label


def test_a_layer_halves_the_bridge(figure):
    shares = []
    for layers in (3, 4, 5, 6):
        figure.show(layers=layers)
        shares.append(float(figure.numbers()["bridge"].removesuffix(" %")))
    for one, next_one in pairwise(shares):
        assert next_one == pytest.approx(one / 2, rel=0.03)


def test_in_words(figure):
    for words, values in {
        "has fewer there.": {},
        "The slope 1024 is steep enough to follow the data": {"layers": 10},
    }.items():
        figure.show(**values)
        assert words in figure.place.get_by_role("status").inner_text()


def test_both_tinted_areas_are_the_flows_share(figure):
    """The one under the noise and the one under the flow, in the units of their axes."""
    for values in ({}, {"layers": 1}, {"peaks": 4.0, "layers": 5}):
        figure.show(**values)
        share = float(figure.numbers()["bridge"].removesuffix(" %")) / 100
        area, frame = figure.place.evaluate(
            """(place) => {
                const d = place.querySelector(".nfbook-area-variational").getAttribute("d");
                const points = d.slice(1, -1).split("L").map((pair) => pair.split(",").map(Number));
                const area = Math.abs(points.reduce((sum, [x, y], k) => {
                    const [nextX, nextY] = points[(k + 1) % points.length];
                    return sum + (x * nextY - y * nextX) / 2;
                }, 0));
                const axes = place.querySelectorAll(".nfbook-axes")[1].querySelectorAll("line");
                const [across] = axes, up = axes[axes.length - 1];
                const size = (line, one, two) => Math.abs(line.getAttribute(one)
                    - line.getAttribute(two));
                return [area, [size(across, "x1", "x2"), size(up, "y1", "y2")]];
            }"""
        )
        width, height = frame
        assert area / (width * height) * (2 * 7.2) * 0.86 == pytest.approx(share, rel=0.02)


# ---- what its handle means -----------------------------------------------------------------------


def test_the_ring_moves_and_narrows_the_modes(figure):
    handle = figure.place.locator(".nfbook-handle")
    for scale in ("linear", "logarithmic"):
        figure.show(scale=scale)
        before = centre(handle)
        drag(figure.page, before, 30, 0)
        assert figure.values()["peaks"] > START["peaks"]
        assert figure.values()["width"] == START["width"]
        assert centre(handle)[0] == pytest.approx(before[0] + 30, abs=2)
        figure.show(scale=scale)
        drag(figure.page, before, 0, -12)
        assert figure.values()["width"] < START["width"]
        drag(figure.page, centre(handle), 3000, 3000)
        assert figure.values() == START | {"scale": scale, "peaks": 5.0, "width": 1.0}
        figure.show()


def test_the_ring_stands_on_the_mode(figure):
    figure.show(peaks=4.0, width=0.3)
    curve, ring = figure.place.evaluate(
        """(place) => [
            place.querySelectorAll(".nfbook-pair path.nfbook-whole")[1].getAttribute("d"),
            place.querySelector(".nfbook-handle").getAttribute("transform")]"""
    )
    points = [tuple(map(float, pair.split(","))) for pair in curve[1:].split("L")]
    x, y = map(float, re.findall(r"[\d.]+", ring))
    middle = (points[0][0] + points[-1][0]) / 2
    top = min((point for point in points if point[0] > middle), key=lambda point: point[1])
    assert x == pytest.approx(top[0], abs=1.5)
    assert y == pytest.approx(top[1], abs=1.5)
