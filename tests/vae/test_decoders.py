"""Likelihoods of pixels: densities that integrate to one, and from whole numbers to bits."""

import math
from itertools import product

import pytest
import torch
from draws import rand, seeded
from torch.distributions import Bernoulli, Normal, SigmoidTransform, TransformedDistribution
from torch.nn.functional import softplus

from nfbook.networks import Feedforward
from nfbook.objectives import bits_per_dimension
from nfbook.transforms import DataUnits, dequantise, quantise
from nfbook.vae import BernoulliDecoder, GaussianDecoder, LogitNormalDecoder


def network(inputs: int, outputs: int, seed: int = 0) -> Feedforward:
    return Feedforward(inputs, (8,), outputs, generator=seeded(seed)).double()


def units(features: int) -> DataUnits:
    return DataUnits(3 * rand(features, seed=1), rand(features, seed=2))


# ---- each density ------------------------------------------------------------------------------


def test_bernoulli_probabilities_sum_to_one_over_all_images():
    decoder, z = BernoulliDecoder(network(2, 3)), rand(5, 2)
    images = torch.tensor(list(product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    log_prob = decoder(z).log_prob(images.unsqueeze(1))
    torch.testing.assert_close(log_prob.exp().sum(0), torch.ones(5, dtype=torch.float64))
    reference = Bernoulli(decoder.network(z).sigmoid()).log_prob(images.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(log_prob, reference)
    torch.testing.assert_close(decoder.centre(z), decoder.network(z).sigmoid())


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("with_units", [False, True])
def test_gaussian_is_torchs(scale: float | None, with_units: bool):
    data_units = units(4) if with_units else None
    net = network(2, 4 if scale else 8)
    decoder = GaussianDecoder(net, scale, units=data_units).double()
    z, x = rand(5, 2), rand(5, 4, seed=3)
    mean, deviation = net(z), torch.full((4,), scale or 0.0, dtype=torch.float64)
    if scale is None:
        mean, raw = mean[:, :4], mean[:, 4:]
        deviation = 1e-3 + softplus(raw)
    if data_units is not None:
        mean, deviation = data_units(mean), data_units.log_scale.exp() * deviation
    expected = Normal(mean, deviation).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(z).log_prob(x), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(decoder.centre(z), mean)
    assert decoder.data_dim == 4


@pytest.mark.parametrize("make", ["gaussian", "gaussian in units", "logit-normal", "with a margin"])
def test_a_density_of_one_pixel_integrates_to_one(make: str):
    decoder = {
        "gaussian": lambda: GaussianDecoder(network(2, 2), None),
        "gaussian in units": lambda: GaussianDecoder(network(2, 2), None, units=units(1)),
        "logit-normal": lambda: LogitNormalDecoder(network(2, 2), alpha=0.0),
        "with a margin": lambda: LogitNormalDecoder(network(2, 2), alpha=0.05),
    }[make]().double()
    q = decoder(rand(2))
    ends = (-60.0, 60.0) if "gaussian" in make else (-0.06, 1.06)
    x = torch.linspace(*ends, 200_001, dtype=torch.float64)
    density = q.log_prob(x.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-5)


def test_logit_normal_is_torchs():
    net = network(2, 6)
    decoder = LogitNormalDecoder(net, alpha=0.0).double()
    z, x = rand(5, 2), torch.rand(5, 3, generator=seeded(4), dtype=torch.float64)
    mean, raw = net(z).chunk(2, -1)
    base = Normal(mean, 1e-3 + softplus(raw))
    expected = TransformedDistribution(base, SigmoidTransform()).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(z).log_prob(x), expected)
    torch.testing.assert_close(decoder.centre(z), mean.sigmoid())
    draws = decoder(z).sample((20_000,))
    torch.testing.assert_close(draws.median(0).values, mean.sigmoid(), atol=0.02, rtol=0.05)


@pytest.mark.parametrize("decoder", [GaussianDecoder, LogitNormalDecoder])
def test_the_scale_is_bounded_from_below_and_starts_where_it_is_told(decoder: type):
    free = decoder(network(2, 3), scale=0.25).double()
    start = torch.full((3,), 0.25, dtype=torch.float64)
    torch.testing.assert_close(free.gaussian(rand(2)).stddev, start, rtol=1e-6, atol=0)
    with torch.no_grad():
        free.raw_scale.fill_(-1e4)
    tiny = free.gaussian(rand(2))
    torch.testing.assert_close(tiny.stddev, torch.full((3,), 1e-3, dtype=torch.float64))
    x = torch.full((3,), 0.5, dtype=torch.float64)
    assert free(rand(2)).log_prob(x).isfinite()


def test_a_decoder_in_data_units_keeps_them_in_its_state():
    first = GaussianDecoder(network(2, 3), units=units(3)).double()
    second = GaussianDecoder(network(2, 3, seed=1)).double()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.centre(rand(2)), first.centre(rand(2)))


@pytest.mark.parametrize("decoder", [GaussianDecoder, LogitNormalDecoder])
def test_the_least_scale_is_the_one_that_is_given(decoder: type):
    free = decoder(network(2, 3), scale=0.5, minimum=0.1).double()
    start = torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(free.gaussian(rand(2)).stddev, start, rtol=1e-6, atol=0)
    with torch.no_grad():
        free.raw_scale.fill_(-1e4)
    torch.testing.assert_close(free.gaussian(rand(2)).stddev, start / 5)
    with pytest.raises(ValueError, match=r"scale must be above minimum, 0.1, got 0.05"):
        decoder(network(2, 3), scale=0.05, minimum=0.1)


def test_the_centre_of_a_pixel_lies_where_pixels_do():
    """With a margin the median itself may lie outside: here at -1/3, 1/2 and 4/3."""
    decoder = LogitNormalDecoder(network(2, 6), alpha=0.2).double()
    with torch.no_grad():
        decoder.network[-1].weight.zero_()
        decoder.network[-1].bias[:3] = torch.tensor([-50.0, 0.0, 50.0])
    expected = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(decoder.centre(rand(5, 2)), expected.expand(5, 3))


# ---- from whole numbers to bits, and back ------------------------------------------------------


@pytest.mark.parametrize("decoder", [GaussianDecoder, LogitNormalDecoder])
def test_the_average_over_noise_is_at_most_the_probability_of_a_cell(decoder: type):
    """And so bits for a dimension are at least the code length of the whole numbers."""
    levels = 8
    model = decoder(network(2, 2), None).double()
    q = model(rand(2))
    k = torch.arange(levels).unsqueeze(-1)
    x = dequantise(k.expand(levels, 4_000), levels, dtype=torch.float64, generator=seeded(1))
    log_density = q.log_prob(x.unsqueeze(-1))
    probability = log_density.exp().mean(1) / levels
    assert probability.sum() < 1.02
    if decoder is LogitNormalDecoder:  # the Gaussian puts some outside
        assert probability.sum() > 0.98
    bits = bits_per_dimension(log_density.mean(1), features=1, levels=levels)
    assert bool((bits >= -probability.log2() - 1e-9).all())


def test_dequantised_pixels_are_within_range_and_come_back():
    k = torch.arange(256, dtype=torch.uint8)
    x = dequantise(k, generator=seeded())
    decoder = LogitNormalDecoder(network(2, 512).float())
    decoder.check_range(x)
    assert torch.equal(quantise(x), k.to(torch.int64))
    assert decoder(torch.zeros(2)).log_prob(x).isfinite()
    drawn = quantise(decoder(torch.zeros(5, 2)).sample())
    assert drawn.min() >= 0
    assert drawn.max() <= 255


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BernoulliDecoder(torch.tanh), TypeError, r"network must be a torch.nn.Module"),
        (
            lambda: BernoulliDecoder(torch.nn.Tanh()),
            TypeError,
            r"network.in_features must be an int, got NoneType",
        ),
        (lambda: GaussianDecoder(network(2, 3), 0.0), ValueError, "scale must be above minimum"),
        (lambda: GaussianDecoder(network(2, 3), math.nan), ValueError, "scale must be finite"),
        (lambda: GaussianDecoder(network(2, 3), "2"), TypeError, "scale must be a number"),
        (lambda: GaussianDecoder(network(2, 3), minimum=0), ValueError, "minimum must be positive"),
        (lambda: GaussianDecoder(network(2, 3), None), ValueError, "even number of outputs.*got 3"),
        (
            lambda: GaussianDecoder(network(2, 3), units=units(4)),
            ValueError,
            r"units must be those of 3 columns, of shape \(3,\), got \(4,\)",
        ),
        (lambda: GaussianDecoder(network(2, 3), units=1.0), TypeError, "units must be nfbook"),
        (lambda: LogitNormalDecoder(network(2, 6), alpha=0.4), ValueError, "alpha must lie"),
        (
            lambda: BernoulliDecoder(network(2, 3)).check_range(torch.tensor([0.0, 0.5, 1.0])),
            ValueError,
            "x must hold only 0 and 1, got 0.5",
        ),
        (
            lambda: LogitNormalDecoder(network(2, 6)).check_range(torch.tensor([0.0, 0.5, 7.0])),
            ValueError,
            "x must lie strictly between 0 and 1, as dequantise gives it, got 0.0 to 7.0",
        ),
    ],
)
def test_refusals(make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("pixel", [-0.5, 0.0, 1.0])
def test_a_pixel_at_an_end_or_below_is_refused(pixel: float):
    with pytest.raises(ValueError, match="x must lie strictly between 0 and 1"):
        LogitNormalDecoder(network(2, 4)).check_range(torch.tensor([0.5, pixel]))


def test_units_without_a_scale_are_refused():
    with pytest.raises(ValueError, match="units must have a scale, got a shift alone"):
        GaussianDecoder(network(2, 3), units=DataUnits(rand(3)))
