"""Images as vectors with a density: noise, logit, and bits for each dimension."""

from __future__ import annotations

import math

import pytest
import torch
from draws import rand, seeded

from nfbook.flows import AffineFlow, FlowDistribution, Transformed
from nfbook.objectives import bits_per_dimension
from nfbook.transforms import DataUnits, dequantise, dequantise_table, pixel_box, quantise
from nfbook.transforms.dequantise import within_cell

F64 = torch.float64
ALPHAS = [0.0, 1e-6, 0.05, 0.25]


def every_pixel(dtype):
    """Return all 256 numbers, with u over [0, 1) and at its very ends."""
    last = 1 - torch.finfo(dtype).eps / 2
    ends = torch.tensor([0.0, torch.finfo(dtype).tiny, last], dtype=dtype)
    if dtype == torch.float32:
        # One u for each part of the cell: there are no others.
        inner = torch.arange(2048, dtype=dtype) / 2048
    else:
        inner = torch.rand(2000, generator=seeded(), dtype=dtype)
        inner = torch.cat([inner, inner * 2**-38, 1 - inner * 2**-38])
    u = torch.cat([ends, inner]).clamp(max=last)
    return torch.arange(256).unsqueeze(-1).expand(256, len(u)), u


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_every_pixel_comes_back_for_every_noise(dtype):
    k, u = every_pixel(dtype)
    x = within_cell(k, u)
    assert x.dtype == dtype
    assert x.min() > 0
    assert x.max() < 1
    assert torch.equal(quantise(x), k)
    for alpha in ALPHAS:
        box = pixel_box(alpha)
        y = box.inv(x)
        assert torch.isfinite(y).all()
        assert torch.equal(quantise(box(y)), k)


def test_the_plain_sum_would_leave_its_cell():
    """Which is why the noise is moved a little."""
    last = torch.tensor(1 - 2**-24)
    assert 255 + last == 256
    assert within_cell(torch.tensor(255), last) == (255 + 1 - 2**-12) / 256


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_noise_is_moved_less_than_it_matters(dtype):
    u = torch.rand(10_000, generator=seeded(), dtype=dtype)
    moved = within_cell(torch.tensor(0), u) * 256 - u
    half_a_part = 2048 * torch.finfo(dtype).eps
    assert moved.abs().max() <= half_a_part
    # Uniform over a part: its mean is zero with a standard deviation of 1 / sqrt(3 n) parts.
    assert moved.mean().abs() < 4 * half_a_part / math.sqrt(3 * 10_000)


@pytest.mark.parametrize("levels", [2, 3, 32, 100, 65536])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_other_numbers_of_levels(levels, dtype):
    k = torch.arange(levels)
    for u in (0.0, 0.3, 1 - torch.finfo(dtype).eps / 2):
        x = within_cell(k, torch.full((levels,), u, dtype=dtype), levels)
        assert torch.equal(quantise(x, levels), k)
        assert torch.equal(quantise(pixel_box(0.05)(pixel_box(0.05).inv(x)), levels), k)


def test_dequantise_draws_from_its_generator():
    k = torch.randint(256, (4, 28, 28), generator=seeded(1), dtype=torch.uint8)
    x = dequantise(k, generator=seeded())
    assert (x.shape, x.dtype) == (k.shape, torch.float32)
    assert torch.equal(dequantise(k, generator=seeded()), x)
    assert not torch.equal(dequantise(k, generator=seeded(2)), x)
    assert dequantise(k, dtype=F64).dtype == F64
    assert torch.equal(quantise(x), k.long())


def test_the_noise_is_uniform():
    x = dequantise(torch.full((50_000,), 7), generator=seeded(), dtype=F64)
    counts = torch.bincount(((256 * x - 7) * 20).long(), minlength=20).double()
    # Chi-squared with 19 degrees of freedom is above 50.8 once in ten thousand times.
    assert ((counts - 2500) ** 2 / 2500).sum() < 50.8


def test_the_nearest_level_takes_what_lies_outside():
    assert quantise(torch.tensor([-0.05, 0.0, 1.0, 1.05])).tolist() == [0, 0, 255, 255]
    assert quantise(torch.tensor([0.5], dtype=F64), 2).dtype == torch.int64


# ---- the logit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_inverse_is_the_logit(alpha):
    x = torch.linspace(0.001, 0.999, 50, dtype=F64).unsqueeze(-1)
    y, ladj = pixel_box(alpha).inverse_and_ladj(x)
    v = alpha + (1 - 2 * alpha) * x
    torch.testing.assert_close(y, torch.logit(v), rtol=1e-12, atol=1e-12)
    slope = (1 - 2 * alpha) / (v * (1 - v))
    torch.testing.assert_close(ladj, slope.log().sum(-1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_float32_keeps_its_digits_in_black_and_in_white(alpha):
    k = torch.tensor([0, 255]).unsqueeze(-1)
    x = within_cell(k, torch.arange(2048) / 2048).reshape(-1, 1)
    y, ladj = pixel_box(alpha).inverse_and_ladj(x)
    x = x.double()
    low = (alpha + (1 - 2 * alpha) * x).log()
    high = (alpha + (1 - 2 * alpha) * (1 - x)).log()
    torch.testing.assert_close(y.double(), low - high, rtol=3e-7, atol=3e-7)
    expected = (math.log(1 - 2 * alpha) - low - high).sum(-1)
    torch.testing.assert_close(ladj.double(), expected, rtol=5e-7, atol=5e-7)


def test_black_and_white_are_finite_and_inside():
    x = torch.tensor([[0.0], [1.0]])
    flow = Transformed(AffineFlow(1), pixel_box(1e-6))
    assert torch.isfinite(flow().log_prob(x)).all()
    assert flow().support.check(x).all()


# ---- bits for each dimension --------------------------------------------------------------------


def test_a_uniform_density_needs_eight_bits():
    assert bits_per_dimension(torch.tensor(0.0), 10) == 8
    assert bits_per_dimension(torch.zeros(3), 10, levels=2).tolist() == [1, 1, 1]


def test_a_density_that_is_constant_in_each_cell_needs_the_entropy():
    """Then the bound is tight: bits for each dimension are -log2 of the probability."""
    probability = torch.softmax(3 * rand(256), 0)
    k = torch.multinomial(probability, 40, replacement=True, generator=seeded())
    x = dequantise(k, generator=seeded(), dtype=F64)
    log_density = (256 * probability[quantise(x)]).log().sum()
    expected = -probability[k].log2().mean()
    torch.testing.assert_close(bits_per_dimension(log_density, 40), expected)


def test_the_units_of_the_pixels_do_not_matter():
    """A density on [0, 256] is 256 times smaller, and its cells have volume one."""
    x = dequantise(torch.tensor([[3, 200]]), generator=seeded(), dtype=F64)
    flow = Transformed(AffineFlow(2).to(F64), pixel_box(0.05))
    in_units_of_levels = flow().log_prob(x) - 2 * math.log(256)
    expected = -in_units_of_levels / (2 * math.log(2))
    torch.testing.assert_close(bits_per_dimension(flow().log_prob(x), 2), expected)


def test_the_mean_over_the_noise_is_an_upper_bound():
    """A flow's bits, averaged over u, exceed the code length of its own cells' probabilities."""
    flow = Transformed(AffineFlow(1).to(F64), pixel_box(0.05))
    u = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    for k in (0, 3, 128, 255):
        log_prob = flow().log_prob(within_cell(torch.tensor(k), u).unsqueeze(-1))
        code_length = -(log_prob.exp().mean() / 256).log2()
        bits = bits_per_dimension(log_prob, 1).mean()
        assert code_length - 1e-12 <= bits < code_length + 0.05


def test_the_log_probability_of_the_logit_is_another_one():
    x = torch.full((1, 1), 0.25, dtype=F64)
    flow = AffineFlow(1).to(F64)
    of_x = Transformed(flow, pixel_box(0.05))().log_prob(x)
    y, ladj = pixel_box(0.05).inverse_and_ladj(x)
    torch.testing.assert_close(of_x, flow().log_prob(y) + ladj)
    assert isinstance(flow(), FlowDistribution)


# ---- tables -------------------------------------------------------------------------------------

SPACING = torch.tensor([0.01, 0.18, 10.0], dtype=F64)


def on_a_grid(rows, reach=2000):
    cells = torch.randint(-reach, reach, (rows, 3), generator=seeded())
    return cells * SPACING


def test_a_row_with_noise_is_nearest_to_its_own_grid_point():
    x = on_a_grid(3000)
    y = dequantise_table(x, SPACING, generator=seeded(1))
    assert y.dtype == F64
    assert torch.equal((y / SPACING).round(), (x / SPACING).round())
    assert torch.equal(dequantise_table(x, SPACING, generator=seeded(1)), y)
    assert not torch.equal(dequantise_table(x, SPACING, generator=seeded(2)), y)


def test_in_float32_too_as_far_as_it_can_tell_cells_apart():
    x, spacing = on_a_grid(3000).float(), SPACING.float()
    y = dequantise_table(x, spacing, generator=seeded(1))
    assert y.dtype == torch.float32
    assert torch.equal((y / spacing).round(), (x / spacing).round())


def test_the_noise_of_a_table_is_uniform_over_each_cell():
    x = torch.full((50_000, 3), 7.0, dtype=F64) * SPACING
    u = (dequantise_table(x, SPACING, generator=seeded()) - x) / SPACING + 0.5
    for column in u.T:
        counts = torch.bincount((column * 20).long(), minlength=20).double()
        # As for pixels.
        assert ((counts - 2500) ** 2 / 2500).sum() < 50.8


def test_the_density_of_a_table_is_a_bound_on_the_probabilities_of_its_rows():
    """In the data's own units, with a flow that sees standardised data."""
    spacing = torch.tensor([0.5], dtype=F64)
    x = (3 + 2 * rand(500, 1)).div(spacing).round() * spacing
    units = DataUnits.from_data(x)
    flow = Transformed(AffineFlow(1).to(F64), units)
    # A normal distribution with the data's mean and variance: each cell's probability is known.
    normal = torch.distributions.Normal(x.mean(0), x.var(0, correction=0).sqrt())
    probability = normal.cdf(x + spacing / 2) - normal.cdf(x - spacing / 2)
    noisy = [dequantise_table(x, spacing, generator=seeded(i)) for i in range(200)]
    bound = torch.stack([flow().log_prob(y) for y in noisy]).mean() + spacing.log().sum()
    gap = probability.log().mean() - bound
    # Half the variance of the log-density within a cell: s^2 (x - mean)^2 / 24 sigma^4 on average,
    # 0.0026 for a sigma of 2.
    assert 0.001 < gap < 0.005


def test_a_table_that_does_not_fit_its_spacing_is_refused():
    x = on_a_grid(4)
    with pytest.raises(ValueError, match=r"spacing must have shape \(3,\), got \(2,\)"):
        dequantise_table(x, SPACING[:2])
    with pytest.raises(ValueError, match=r"x must have shape \(n, D\), got \(3,\)"):
        dequantise_table(x[0], SPACING)
    with pytest.raises(ValueError, match=r"spacing must be positive, got 0.0"):
        dequantise_table(x, SPACING * 0)
    with pytest.raises(TypeError, match=r"x and spacing must have the same dtype"):
        dequantise_table(x, SPACING.float())
    with pytest.raises(ValueError, match=r"told apart in torch.float32, got 1e\+06 of them"):
        dequantise_table(torch.full((1, 1), 1e6), torch.ones(1))


def test_a_density_of_pixels_integrates_to_one_with_each_alpha():
    """In the units of the image: the log-determinants of logit and standardisation are in it."""
    x = ((torch.arange(200_000, dtype=F64) + 0.5) / 200_000).unsqueeze(-1)
    for alpha in (1e-6, 0.05, 0.25):
        box = pixel_box(alpha)
        y = box.inv(torch.tensor([[0.2], [0.4], [0.5]], dtype=F64))
        flow = Transformed(Transformed(AffineFlow(1).to(F64), DataUnits.from_data(y)), box)
        outside = 1 - flow().log_prob(x).detach().exp().mean()
        # What little the flow puts beyond [0, 1], where the box reaches.
        assert abs(outside.item() - beyond(alpha, y)) < 1e-6


def beyond(alpha, y):
    """The mass that a normal distribution of the logit has where x is outside of [0, 1]."""
    normal = torch.distributions.Normal(y.mean(), y.var(correction=0).sqrt())
    edge = torch.logit(torch.tensor(alpha, dtype=F64))
    return float(normal.cdf(edge) + 1 - normal.cdf(-edge))


# ---- errors -------------------------------------------------------------------------------------


def test_bad_images_are_refused():
    with pytest.raises(TypeError, match=r"k must be a torch.Tensor, got list"):
        dequantise([1])
    with pytest.raises(TypeError, match=r"k must hold integers, got torch.float32"):
        dequantise(torch.tensor([1.0]))
    with pytest.raises(TypeError, match=r"k must hold integers, got torch.bool"):
        dequantise(torch.tensor([True]))
    with pytest.raises(ValueError, match=r"k must not be empty, got shape \(0,\)"):
        dequantise(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="k must lie between 0 and 255, got 3 to 256"):
        dequantise(torch.tensor([3, 256]))
    with pytest.raises(ValueError, match="k must lie between 0 and 15, got -1 to 3"):
        dequantise(torch.tensor([3, -1]), levels=16)
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        dequantise(torch.tensor([0]), levels=1)
    with pytest.raises(
        ValueError, match=r"levels must be few enough to be told apart in torch.float32"
    ):
        dequantise(torch.tensor([0]), levels=2**20, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0.25, got 0.5"):
        pixel_box(0.5)
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0.25, got -0.1"):
        pixel_box(-0.1)
    with pytest.raises(TypeError, match="alpha must be a number, got str"):
        pixel_box("small")
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        bits_per_dimension(torch.tensor(0.0), 0)


@pytest.mark.parametrize(
    ("x", "levels", "error", "message"),
    [
        (torch.tensor([0.5, math.nan]), 256, ValueError, "x must be finite, got 1 NaN or infinite"),
        (torch.zeros(0), 256, ValueError, r"x must not be empty, got shape \(0,\)"),
        (torch.tensor([1]), 256, TypeError, "x must be a floating-point tensor, got torch.int64"),
        ([0.5], 256, TypeError, "x must be a torch.Tensor, got list"),
        (torch.tensor([0.5]), 0, ValueError, "levels must be at least 2, got 0"),
        (torch.tensor([0.5]), 2.0, TypeError, "levels must be an int, got float"),
    ],
)
def test_what_has_no_level_is_refused(x, levels, error, message):
    with pytest.raises(error, match=message):
        quantise(x, levels)
