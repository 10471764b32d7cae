"""The figure of the planar layer: its arithmetic against the package's, and what it alone shows."""

from __future__ import annotations

import math
from itertools import product

import figures
import pytest
import torch
from figures import PHONE, WIDE, centre, drag
from scipy.optimize import brentq

from nfbook.explorables import PlanarExplorable
from nfbook.transforms import Planar

START = {"w1": 2.0, "w2": 0.0, "u1": 1.0, "u2": 1.0, "b": 0.0, "vector": "u"}
VECTORS = [(2.0, 0.0), (-1.0, 2.5), (0.3, -0.7), (3.0, 3.0), (0.0, 0.0)]
CASES = [(w, u, b) for w, u, b in product(VECTORS, VECTORS, (0.0, -1.3))]
FOLDS = [((2.0, 0.0), (-1.5, 1.0), 0.4), ((1.0, 2.0), (-3.0, -1.0), -1.0)]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return PlanarExplorable


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---- the arithmetic ------------------------------------------------------------------------------


def test_u_hat_is_that_of_the_package(module):
    got = module("({ uHat }, cases) => cases.map(([w, u]) => uHat(w, u))", CASES)
    for (w, u, b), there in zip(CASES, got, strict=True):
        expected = Planar(torch.tensor(w), torch.tensor(u), torch.tensor(b)).u_hat
        assert there == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_layer_and_its_determinant(module):
    points = [(0.0, 0.0), (1.2, -0.4), (-2.0, 3.0)]
    got = module(
        """({ layer, uHat }, [cases, points]) => cases.map(([w, u, b]) =>
            points.map((z) => layer(w, uHat(w, u), b, z)))""",
        [CASES, points],
    )
    for (w, u, b), there in zip(CASES, got, strict=True):
        layer = Planar(torch.tensor(w), torch.tensor(u), torch.tensor(b))
        y, ladj = layer.call_and_ladj(torch.tensor(points))
        for k, one in enumerate(there):
            assert one["y"] == pytest.approx(y[k].tolist(), abs=1e-12)
            assert math.log(one["det"]) == pytest.approx(float(ladj[k]), abs=1e-10)


@pytest.mark.parametrize("a", [-6.0, -1.5, -1.0, -0.4, 0.0, 2.0])
@pytest.mark.parametrize("b", [0.0, -1.3])
def test_preimages(module, a, b):
    """All roots, against a search for changes of sign on a fine grid."""
    targets = [-4.03, -1.1, 0.031, 0.2, 0.9, 3.01]
    got = module(
        "({ preimages }, [a, b, ss]) => ss.map((s) => preimages(a, b, s))", [a, b, targets]
    )
    nodes = torch.linspace(-12, 12, 40_003)
    for s, there in zip(targets, got, strict=True):

        def miss(t: float, s: float = s) -> float:
            return t + a * math.tanh(t + b) - s

        values = nodes + a * torch.tanh(nodes + b) - s
        places = (values[:-1].sign() != values[1:].sign()).nonzero().squeeze(1)
        roots = [brentq(miss, float(nodes[k]), float(nodes[k + 1]), xtol=1e-13) for k in places]
        assert there == pytest.approx(roots, abs=1e-8)
        assert len(there) in ((1, 2, 3) if a < -1 else (1,))


def test_density_is_that_of_the_package(module):
    points = [(0.0, 0.0), (1.2, -0.4), (-2.0, 3.0)]
    got = module(
        """({ density, uHat }, [cases, points]) => cases.map(([w, u, b]) =>
            points.map((y) => density(w, uHat(w, u), b, y)))""",
        [CASES, points],
    )
    for (w, u, b), there in zip(CASES, got, strict=True):
        layer = Planar(torch.tensor(w), torch.tensor(u), torch.tensor(b))
        z, ladj = layer.inv.call_and_ladj(torch.tensor(points))
        expected = (ladj - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)).exp()
        assert there == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("w", "u", "b"), FOLDS)
def test_a_folded_density_is_the_sum_over_all_preimages(module, w, u, b):
    """Against autograd's determinants at the points that a search on a fine grid finds."""
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).tolist()
    got = module(
        "({ density }, [w, u, b, ys]) => ys.map((y) => density(w, u, b, y))", [w, u, b, points]
    )
    w, u = torch.tensor(w), torch.tensor(u)
    a, nodes = float(w @ u), torch.linspace(-25, 25, 200_001)

    def image(z: torch.Tensor) -> torch.Tensor:
        return z + u * torch.tanh(w @ z + b)

    several = 0
    for y, there in zip(torch.tensor(points), got, strict=True):
        values = nodes + a * torch.tanh(nodes + b) - w @ y
        places = (values[:-1].sign() != values[1:].sign()).nonzero().squeeze(1)
        several += len(places) > 1
        expected = 0.0
        for k in places:
            miss = lambda t, y=y: t + a * math.tanh(t + b) - float(w @ y)  # noqa: E731
            t = brentq(miss, float(nodes[k]), float(nodes[k + 1]), xtol=1e-13)
            z = y - u * math.tanh(t + b)
            det = torch.linalg.det(torch.func.jacrev(image)(z)).abs()
            expected += float(torch.exp(-0.5 * z @ z) / (2 * math.pi * det))
        assert there == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert several > 5


@pytest.mark.parametrize(("w", "u", "b"), FOLDS)
def test_the_share_that_is_folded(module, w, u, b):
    """Against counting, for each point of a grid along w, how often its image is met."""
    got = module("({ shared }, [w, u, b]) => shared(w, u, b)", [w, u, b])
    scale = math.hypot(*w)
    a = sum(p * q for p, q in zip(w, u, strict=True))
    t = torch.linspace(-9, 9, 4_001) * scale
    image = t + a * torch.tanh(t + b)
    nodes = torch.linspace(-12 * scale, 12 * scale, 20_001)
    values = nodes + a * torch.tanh(nodes + b)
    low, high = torch.minimum(values[:-1], values[1:]), torch.maximum(values[:-1], values[1:])
    counts = torch.stack([((low < s) & (s <= high)).sum() for s in image])
    weight = torch.exp(-0.5 * (t / scale) ** 2)
    assert got == pytest.approx(float(weight[counts > 1].sum() / weight.sum()), abs=2e-3)
    assert module("({ shared }) => shared([2, 0], [1, 1], 0)", None) == 0


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    assert figure.values() == START
    assert figure.numbers() == {
        "inner": "2.000",
        "used": "2.000",
        "least": "1.000",
        "shared": "0.0 %",
    }
    assert "stretches volume, by up to 3.000" in status(figure)


def status(figure: figures.Figure) -> str:
    return figure.place.get_by_role("status").inner_text()


def test_the_condition_is_violated_and_repaired(figure):
    figure.show(u1=-1.0)
    numbers = figure.numbers()
    assert (numbers["inner"], numbers["least"]) == ("−2.000", "−1.000")
    assert numbers["shared"] != "0.0 %"
    assert "folds the plane" in status(figure)
    assert figure.place.locator(".nfbook-slice").get_attribute("d") != ""
    figure.show(u1=-1.0, vector="û")
    numbers = figure.numbers()
    # -2 + √5 - 1
    assert (numbers["inner"], numbers["used"]) == ("−2.000", "−0.764")
    assert (numbers["least"], numbers["shared"]) == ("0.236", "0.0 %")
    assert "With û it is invertible" in status(figure)
    assert figure.place.locator(".nfbook-slice").get_attribute("d") == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"w1": 0.0}, "With w = 0 the layer moves every point alike"),
        ({"u1": 0.0}, "shears the plane"),
        ({"u1": -0.5}, "its determinant vanishes on a line"),
        ({"u1": -0.25}, "shrinks volume, by down to 0.500"),
    ],
)
def test_in_words(figure, values, words):
    figure.show(**values)
    assert words in status(figure)


def test_the_rings_follow_the_pointer(figure):
    """Each ring moves its vector by what the axes say."""
    box = figure.place.locator(".nfbook-pair > svg").first.bounding_box()
    unit = (box["width"] - 72) / 8
    w, u = figure.all(".nfbook-handle")
    drag(figure.page, centre(w), -unit, -unit)
    assert figure.values() == START | {"w1": 1.0, "w2": 1.0}
    drag(figure.page, centre(u), unit, 2 * unit)
    assert figure.values() == START | {"w1": 1.0, "w2": 1.0, "u1": 2.0, "u2": -1.0}


def test_the_plane_is_drawn_to_scale(figure):
    for size in (WIDE, PHONE):
        figure.resize(size)
        across, up = figure.place.evaluate(
            """(place) => {
                const at = [...place.querySelector(".nfbook-pair > svg")
                    .querySelectorAll(".nfbook-axes text[x]")]
                    .map((t) => ["x", "y"].map((k) => Number(t.getAttribute(k))));
                const low = Math.max(...at.map((p) => p[1]));
                const left = Math.min(...at.map((p) => p[0]));
                const ticks = at.filter((p) => p[1] > low - 25 && p[1] < low - 5);
                const xs = ticks.map((p) => p[0]);
                const ys = at.filter((p) => p[0] === left).map((p) => p[1]);
                return [Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys)];
            }"""
        )
        assert across == pytest.approx(up, abs=0.1)
