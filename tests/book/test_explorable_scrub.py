"""The figure of the trained planar flows: its arithmetic against the package's."""

from __future__ import annotations

import math

import figures
import pytest
import torch

from nfbook.data import stored_result
from nfbook.explorables import ScrubExplorable
from nfbook.explorables.scrub import ENERGIES, LENGTH, planar_flow
from nfbook.reproduce.energies import trained_flow
from nfbook.targets import TARGETS

START = {"energy": "U1", "layers": 0}
COUNTS = [0, 1, 5, 31, 32]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return ScrubExplorable


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noise(count=60):
    return 1.5 * torch.randn(count, 2, generator=torch.Generator().manual_seed(0))


def log_base(z):
    return -0.5 * z.square().sum(-1) - math.log(2 * math.pi)


def midpoints(reach=7.0, count=350):
    """Return the nodes of the midpoint rule in the plane, and the area of a cell."""
    width = 2 * reach / count
    line = width * (torch.arange(count) + 0.5) - reach
    return torch.cartesian_prod(line, line), width**2


# ---- the arithmetic ------------------------------------------------------------------------------


def test_the_energies_are_those_of_the_package(module):
    assert module("({ ENERGIES, LENGTH }) => [ENERGIES, LENGTH]", None) == [list(ENERGIES), LENGTH]
    assert list(TARGETS) == list(ENERGIES)
    points = 8 * torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) - 4
    for energy in ENERGIES:
        got = module(
            "({ logTarget }, [energy, points]) => points.map((point) => logTarget(energy, point))",
            [energy, points.tolist()],
        )
        expected = TARGETS[energy]().log_prob(points)
        assert got == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
def test_points_and_densities_after_any_number_of_layers(module, energy):
    z = noise()
    for count in COUNTS:
        got = module(
            """({ through }, [energy, count, points]) =>
                points.map((point) => through(energy, count, point))""",
            [energy, count, z.tolist()],
        )
        x, ladj = planar_flow(energy, count).call_and_ladj(z)
        expected = torch.cat([x, (log_base(z) - ladj).unsqueeze(1)], 1)
        assert torch.allclose(torch.tensor(got), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_density_is_normalised(module, energy):
    """What the figure calls log q, at points of the square, integrates to one."""
    x, cell = midpoints(4.0, 200)
    z, _ = planar_flow(energy).inv.call_and_ladj(x)
    got = module(
        "({ through }, [energy, points]) => points.map((point) => through(energy, 32, point)[2])",
        [energy, z.tolist()],
    )
    assert float(torch.tensor(got).exp().sum() * cell) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_divergences(module, energy):
    """Against another rule, with the package's flow and target."""
    got = module("({ DIVERGENCES }, energy) => DIVERGENCES[energy]", energy)
    assert len(got) == LENGTH + 1
    z, cell = midpoints()
    for count in COUNTS:
        x, ladj = planar_flow(energy, count).call_and_ladj(z)
        log_q = log_base(z) - ladj
        inside = x.abs().amax(1) < 4  # in floats the last of the noise reaches the edge
        log_ratio = torch.where(inside, log_q - TARGETS[energy]().log_prob(x), 0.0)
        expected = float((log_base(z).exp() * log_ratio).sum() * cell)
        assert got[count] == pytest.approx(expected, abs=2e-3, rel=5e-3)


def test_the_flows_are_those_of_the_stored_result():
    """The tables have five digits; what the rounding does to points is small."""
    z = noise(200)
    wanted = {"family": "planar", "length": LENGTH, "seed": 0, "variant": ""}
    runs = {
        run["settings"]["target"]: run
        for run in stored_result("energies")["result"]["runs"]
        if wanted.items() <= run["settings"].items()
    }
    assert sorted(runs) == sorted(ENERGIES)
    for energy, run in runs.items():
        with torch.no_grad():
            x, ladj = trained_flow(run)().transform.call_and_ladj(z)
        rounded = planar_flow(energy).call_and_ladj(z)
        assert torch.allclose(x, rounded[0], atol=5e-3)
        assert torch.allclose(ladj, rounded[1], atol=5e-2)


def test_unknown_energy():
    with pytest.raises(ValueError, match=r"energy must be one of 'U1', .*, got 'U5'"):
        planar_flow("U5")


# ---- what the figure shows -----------------------------------------------------------------------


def status(figure: figures.Figure) -> str:
    return figure.place.get_by_role("status").inner_text()


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_numbers_are_the_divergences(figure, module, energy):
    kl = [f"{value:.3f}" for value in module("({ DIVERGENCES }, e) => DIVERGENCES[e]", energy)]
    for layers in (0, 7, 32):
        figure.show(energy=energy, layers=layers)
        assert figure.numbers() == {"first": kl[0], "now": kl[layers], "last": kl[32]}
        assert kl[layers] in status(figure)


def test_in_words(figure):
    assert figure.values() == START
    assert "Before the first layer" in status(figure)
    figure.show(layers=32)
    assert "After all layers" in status(figure)
    figure.show(layers=9)
    assert "Layer 9 " in status(figure)


def test_every_point_is_drawn_in_the_square(figure):
    for layers in (0, 16, 32):
        figure.show(layers=layers)
        places, frame = figure.place.evaluate(
            """(place) => {
                const cut = place.querySelector("clipPath rect");
                const box = ["x", "y", "width", "height"].map((k) => Number(cut.getAttribute(k)));
                const d = place.querySelector(".nfbook-dust").getAttribute("d");
                const places = d.slice(1).split("M").map((p) => p.slice(0, -2).split(","));
                return [places.map((p) => p.map(Number)), box];
            }"""
        )
        assert len(places) == 350
        x, y, width, height = frame
        assert all(x <= a <= x + width and y <= b <= y + height for a, b in places)
