"""The figure of the VAE: its decoder against torch's, and what it alone shows."""

from __future__ import annotations

import csv
from functools import partial

import figures
import pytest
import torch
from figures import centre, drag
from torch.distributions import Bernoulli, Normal

from nfbook.data import split_digits
from nfbook.explorables import DigitExplorable
from nfbook.explorables.digit import DATA, UNITS, black_and_white, new_vae, trained_vae

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

double = partial(torch.tensor, dtype=torch.float64)

POINTS = [[0.0, 0.0], [0.5, 1.0], [-2.9, 3.0], [1.35, -0.4], [3.0, -3.0]]


@pytest.fixture
def kind():
    return DigitExplorable


def map_of_the_file():
    with (DATA / "digits_map.csv").open(encoding="utf-8", newline="") as file:
        return double([[float(value) for value in row] for row in list(csv.reader(file))[1:]])


# ---- the arithmetic ------------------------------------------------------------------------------


def test_the_decoder_is_the_trained_one(module):
    found = module("({ decode }, points) => points.map(decode)", POINTS)
    torch.testing.assert_close(
        double(found), trained_vae().decode(double(POINTS)), rtol=1e-9, atol=1e-9
    )


def test_log_prior_and_entropy(module):
    prior, entropy = module(
        "({ decode, logPrior, entropy }, points) => "
        "[points.map(logPrior), points.map((z) => entropy(decode(z)))]",
        POINTS,
    )
    z = double(POINTS)
    torch.testing.assert_close(double(prior), Normal(0.0, 1.0).log_prob(z).sum(1))
    pixels = Bernoulli(trained_vae().decode(z))
    torch.testing.assert_close(double(entropy), pixels.entropy().sum(1))
    assert module("({ entropy }) => entropy([0, 1])", None) == 0


def test_the_nearest_test_digit(module):
    found = module("({ nearest }, points) => points.map(nearest)", POINTS)
    rows = map_of_the_file()
    rank = torch.cdist(double(POINTS), rows[:, 1:]).argmin(1)
    assert found == rows[rank, 0].tolist()


def test_the_noise_of_a_draw_is_even(module):
    noise = double(module("({ NOISE }) => NOISE", None)).sort().values
    assert len(noise) == 64
    torch.testing.assert_close(noise, (torch.arange(64) + 0.5).double() / 64, rtol=0, atol=0.03)


# ---- the trained model ---------------------------------------------------------------------------


def test_the_map_is_that_of_the_encoder():
    images, labels = split_digits()
    rows = map_of_the_file()
    assert rows[:, 0].tolist() == labels.test.tolist()
    means = trained_vae().latent_means(black_and_white(images.test))
    torch.testing.assert_close(rows[:, 1:], means, rtol=0, atol=6e-4)


def test_what_the_model_is_worth():
    """Far better than independent pixels, whose log-likelihood is -25.3 nats."""
    test = black_and_white(split_digits()[0].test)
    found = trained_vae().evaluate(
        test, 200, generator=torch.Generator().manual_seed(1), progress=False
    )
    assert -20.4 < found.bound.value.mean() < -19.9
    assert -19.6 < found.log_prob.value.mean() < -19.1


def test_the_networks_have_the_stored_widths():
    sizes = [parameter.numel() for parameter in new_vae().decoder.parameters()]
    first, second = UNITS[1:]
    assert sizes == [2 * first, first, first * second, second, second * 64, 64]


# ---- what the figure shows -----------------------------------------------------------------------


def opacities(figure):
    return figure.place.evaluate(
        """(place) => [...place.querySelectorAll("[role=img] rect[fill-opacity]")]
            .map((node) => Number(node.getAttribute("fill-opacity")))"""
    )


def test_pixels_are_as_dark_as_ink_is_probable(figure):
    figure.show(z1=0.7, z2=-1.3)
    expected = trained_vae().decode(double([[0.7, -1.3]]))[0]
    assert opacities(figure) == pytest.approx(expected.tolist(), abs=6e-4)
    figure.show(z1=0.7, z2=-1.3, pixels="a draw")
    drawn = opacities(figure)
    assert set(drawn) == {0.0, 1.0}
    assert sum(drawn) == pytest.approx(float(expected.sum()), abs=5)


def test_the_numbers_are_those_of_the_point(figure):
    figure.show(z1=1.0, z2=1.0)
    expected = trained_vae().decode(double([[1.0, 1.0]])).sum()
    assert figure.numbers()["ink"] == f"{expected:.1f}"
    assert figure.numbers()["prior"] == "−2.84"


def test_the_ring_moves_the_point(figure):
    (ring,) = figure.all(".nfbook-handle")
    before = figure.values()
    drag(figure.page, centre(ring), 30, 0)
    after = figure.values()
    assert after["z1"] > before["z1"]
    assert after["z2"] == before["z2"]
