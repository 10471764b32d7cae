"""The figure of the stretched plane: its numbers against torch, and what it alone shows."""

from __future__ import annotations

import math
import re
from itertools import product

import figures
import pytest
import torch
from figures import centre, drag
from torch.distributions import Normal
from torch.func import jacrev

from nfbook.explorables import StretchExplorable

START = {"stretch": 0.4, "bend": 0.4, "across": 0.5, "up": 1.0, "side": 0.5}
CASES = [
    dict(zip(START, values, strict=True))
    for values in product(
        (-0.5, 0.0, 0.3), (-0.4, 0.5), (-1.5, 0.2), (-2.0, 0.0, 1.7), (0.1, 0.45, 1.0)
    )
]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return StretchExplorable


def image(case: dict[str, float], z: torch.Tensor) -> torch.Tensor:
    first = 2 ** (case["stretch"] * z[1]) * z[0] + case["bend"] * z[1] ** 2
    return torch.stack([first, z[1]])


def point(case: dict[str, float]) -> torch.Tensor:
    return torch.tensor([case["across"], case["up"]], dtype=torch.float64)


# ---- the arithmetic ------------------------------------------------------------------------------


def test_the_map(module):
    got = module("({ forward }, cases) => cases.map((c) => forward(c, c.across, c.up))", CASES)
    expected = torch.stack([image(case, point(case)) for case in CASES])
    torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected)


def test_determinant_and_densities_are_those_of_torch(module):
    got = module("({ measure }, cases) => cases.map(measure)", CASES)
    normal = Normal(0.0, 1.0)
    for case, numbers in zip(CASES, got, strict=True):
        z, half = point(case), case["side"] / 2
        jacobian = jacrev(lambda z, case=case: image(case, z))(z)
        noise = normal.log_prob(z).sum().exp()
        assert numbers["det"] == pytest.approx(float(jacobian.det()), rel=1e-10)
        assert numbers["noise"] == pytest.approx(float(noise), rel=1e-10)
        assert numbers["data"] == pytest.approx(float(noise / jacobian.det()), rel=1e-10)
        inside = (normal.cdf(z + half) - normal.cdf(z - half)).prod()
        assert numbers["probability"] == pytest.approx(float(inside), rel=1e-6)


def test_areas_are_those_of_polygons(module):
    """The image's outline is followed by many points, whose polygon has nearly its area."""
    got = module("({ measure }, cases) => cases.map(measure)", CASES)
    t = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    half = torch.full_like(t, 0.5)
    outline = torch.cat(
        [torch.stack(side) for side in ((t, -half), (half, t), (-t, half), (-half, -t))], 1
    )
    for case, numbers in zip(CASES, got, strict=True):
        x, y = image(case, point(case)[:, None] + case["side"] * outline)
        area = 0.5 * (x * y.roll(-1) - y * x.roll(-1)).sum()
        assert numbers["square"] == pytest.approx(case["side"] ** 2)
        assert numbers["image"] == pytest.approx(float(area), rel=1e-5)


# ---- what the figure shows -----------------------------------------------------------------------


def test_first_sight(figure):
    assert figure.values() == START
    assert figure.numbers() == {
        "square": "0.250", "image": "0.330", "ratio": "1.321", "det": "1.320",
        "noise": "0.0852", "data": "0.0646",
    }  # fmt: skip
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "has the area 0.250, and its image 0.330." in label


def test_the_drawn_outlines_have_the_stated_areas(figure):
    """Both planes have one scale, so that an area can be compared by eye."""
    for values in ({}, {"stretch": -0.5, "up": 1.5, "side": 1.0}, {"bend": -0.5, "up": -1.5}):
        figure.show(**values)
        areas = figure.place.evaluate(
            """(place) => ["prior", "variational"].map((name) => {
                const d = place.querySelector(`[role=img] path.nfbook-${name}`).getAttribute("d");
                const points = d.slice(1, -1).split("L").map((pair) => pair.split(",").map(Number));
                return Math.abs(points.reduce((sum, [x, y], k) => {
                    const [nextX, nextY] = points[(k + 1) % points.length];
                    return sum + (x * nextY - y * nextX) / 2;
                }, 0));
            })"""
        )
        shown = {name: float(text) for name, text in figure.numbers().items()}
        assert areas[1] / areas[0] == pytest.approx(shown["image"] / shown["square"], rel=0.03)


def test_in_words(figure):
    for words, values in {
        "At its centre g stretches areas, so the density of x is lower by the factor 1.320.": {},
        "At its centre g squeezes areas, so the density of x is higher by the factor 1.741.": {
            "up": -2.0
        },
        "At its centre g keeps areas, so the density stays as it is.": {"stretch": 0.0},
        "because g is not linear over the square.": {"side": 1.0},
    }.items():
        figure.show(**values)
        assert words in figure.place.get_by_role("status").inner_text()


def test_a_bend_alone_changes_no_area(figure):
    for bend in (-0.5, 0.3):
        figure.show(stretch=0.0, bend=bend)
        numbers = figure.numbers()
        assert numbers["image"] == numbers["square"]
        assert numbers["data"] == numbers["noise"]


# ---- what its handle means -----------------------------------------------------------------------


def test_the_ring_moves_the_square(figure):
    handle = figure.place.locator(".nfbook-handle")
    picture = figure.place.locator(".nfbook-pair > svg").first
    unit = (picture.bounding_box()["width"] - 58) / 6
    for dx, dy, across, up in (
        (unit / 2, 0, 1.0, 1.0),
        (0, unit, 0.5, 0.0),
        (-3000, -3000, -1.5, 2.0),
        (3000, 3000, 1.5, -2.0),
    ):
        drag(figure.page, centre(handle), dx, dy)
        moved = figure.values()
        assert moved == START | {
            "across": pytest.approx(across, abs=0.021),
            "up": pytest.approx(up, abs=0.021),
        }
        figure.show()


def test_the_ring_stands_at_the_centre_of_the_square(figure):
    figure.show(across=-1.0, up=-1.5)
    outline, ring = figure.place.evaluate(
        """(place) => [place.querySelector("[role=img] path.nfbook-prior").getAttribute("d"),
            place.querySelector(".nfbook-handle").getAttribute("transform")]"""
    )
    points = [tuple(map(float, pair.split(","))) for pair in outline[1:-1].split("L")]
    x, y = map(float, re.findall(r"[\d.]+", ring))
    assert math.isclose(x, (min(p[0] for p in points) + max(p[0] for p in points)) / 2, abs_tol=0.2)
    assert math.isclose(y, (min(p[1] for p in points) + max(p[1] for p in points)) / 2, abs_tol=0.2)
