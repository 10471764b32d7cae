"""The figure of the matrix: its numbers against torch's and the package's, and what it shows."""

from __future__ import annotations

import math
from itertools import product

import figures
import pytest
import torch

from nfbook.explorables import MatrixExplorable
from nfbook.transforms import PLU

START = MatrixExplorable().values()

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

CASES = [
    {"rotation": rotation, "angle": angle, "lower": low, "first": s, "second": t, "upper": up}
    for rotation, angle, (low, up), (s, t) in product(
        ("last", "first"),
        (-180.0, -37.0, 0.0, 90.0),
        ((0.0, 0.0), (-1.0, 0.35), (0.6, 1.0)),
        ((0.0, 0.0), (0.7, -0.3), (-0.7, -0.7)),
    )
]


@pytest.fixture
def kind():
    return MatrixExplorable


def by_torch(case: dict[str, object]) -> torch.Tensor:
    """Return the matrix: the package's product of triangles, and torch's exponential of a turn."""
    s, t, up, low = (float(case[name]) for name in ("first", "second", "upper", "lower"))
    weights = torch.tensor([[s, up], [low, t]], dtype=torch.float64)
    triangular = PLU(weights, torch.zeros(2, dtype=torch.float64)).matrix
    turn = math.radians(float(case["angle"])) * torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    rotation = torch.linalg.matrix_exp(turn)
    return rotation @ triangular if case["rotation"] == "last" else triangular @ rotation


# ---- the arithmetic ------------------------------------------------------------------------------


def test_the_matrix_equals_that_of_the_package(module):
    got = module("({ matrixOf }, cases) => cases.map(matrixOf)", CASES)
    for case, matrix in zip(CASES, got, strict=True):
        expected = by_torch(case)
        torch.testing.assert_close(torch.tensor(matrix).double(), expected, rtol=1e-6, atol=1e-6)


def test_area_and_stretches(module):
    got = module(
        """({ matrixOf, areaOf, stretches, SQUARE }, cases) => cases.map((c) => {
            const [[p, q], [r, s]] = matrixOf(c);
            const image = SQUARE.map(([x, y]) => [p * x + q * y, r * x + s * y]);
            return [areaOf(image), ...stretches(matrixOf(c))];
        })""",
        CASES,
    )
    for case, (area, long, short) in zip(CASES, got, strict=True):
        matrix = by_torch(case)
        assert area == pytest.approx(float(matrix.det().abs()), rel=1e-9)
        assert area == pytest.approx(math.exp(case["first"] + case["second"]), rel=1e-9)
        assert [long, short] == pytest.approx(torch.linalg.svdvals(matrix).tolist(), rel=1e-7)


# ---- what the figure shows -----------------------------------------------------------------------


def numbers_of(figure: figures.Figure) -> dict[str, float]:
    return {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}


def ellipse(figure: figures.Figure) -> torch.Tensor:
    """Return the points of the data's inner curve, in pixels."""
    path = figure.place.evaluate(
        """(place) => [...place.querySelectorAll("path.nfbook-likelihood")]
            .filter((node) => node.closest("[role=img]"))[0].getAttribute("d")"""
    )
    points = path.removeprefix("M").removesuffix("Z").split("L")
    return torch.tensor([[float(n) for n in point.split(",")] for point in points])


def test_first_sight(figure):
    assert figure.values() == START
    matrix = by_torch(START)
    values = torch.linalg.svdvals(matrix)
    assert numbers_of(figure) == pytest.approx(
        {
            "sum": 0.2,
            "logdet": float(matrix.det().abs().log()),
            "area": float(matrix.det().abs()),
            "peak": float(1 / (2 * math.pi * matrix.det().abs())),
            "condition": float(values[0] / values[1]),
        },
        abs=5.1e-3,
    )


def test_angle_and_shears_keep_the_area(figure):
    area = numbers_of(figure)["area"]
    for values in ({"angle": -120.0}, {"lower": -1.0}, {"upper": 0.9}, {"rotation": "first"}):
        figure.show(**values)
        assert numbers_of(figure)["area"] == area
    figure.show(first=0.7)
    assert numbers_of(figure)["area"] > area


def test_a_rotation_that_comes_first_leaves_the_ellipse_where_it_is(figure):
    """The standard normal density does not change, so the curve is the same set of points."""

    def moments() -> list[float]:
        x, y = (ellipse(figure) - ellipse(figure).mean(0)).T
        return [float((x * x).mean()), float((x * y).mean()), float((y * y).mean())]

    figure.show(rotation="first", angle=0.0)
    before = moments()
    figure.show(rotation="first", angle=60.0)
    assert moments() == pytest.approx(before, abs=2.0)
    figure.show(rotation="last", angle=60.0)
    assert moments() != pytest.approx(before, abs=50.0)


def test_in_words(figure):
    status = figure.place.get_by_role("status")
    figure.show(first=0.3, second=-0.3)
    assert status.inner_text().endswith("It preserves areas, and with them densities.")
    figure.show(first=0.7, second=0.0)
    assert "enlarges every area by the factor 2.014" in status.inner_text()
    figure.show(first=-0.7, second=0.0)
    assert "shrinks every area by the factor 0.497" in status.inner_text()


def test_both_pictures_have_one_scale(figure):
    """A distance of two units is as long in both, across and upwards."""
    ticks = figure.place.evaluate(
        """(place) => [...place.querySelectorAll(".nfbook-pair > svg")].map((picture) =>
            [...picture.querySelectorAll(".nfbook-axes text[x]")]
                .filter((text) => /^.?[02]$/.test(text.textContent))
                .map((text) => ["x", "y"].map((k) => Number(text.getAttribute(k)))))"""
    )
    lengths = []
    for places in ticks:
        across, up = places[:3], places[3:]
        lengths += [across[2][0] - across[0][0], up[0][1] - up[2][1]]
    assert lengths == pytest.approx([lengths[0]] * 4, abs=0.01)
