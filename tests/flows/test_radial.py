"""Radial layers: the paper's map, its inverse in closed form, and nothing lost at the centre."""

import math

import pytest
import torch
from draws import number, rand, seeded

from nfbook.flows import RadialFlow
from nfbook.transforms import Radial
from nfbook.transforms.radial import shrinkage

F64 = torch.float64


def some_layer(*batch, features=3, scale=1.0, seed=0):
    center = rand(*batch, features, seed=seed)
    log_alpha, log_slope = (scale * rand(*batch, seed=seed + i) for i in (1, 2))
    return Radial(center, log_alpha, log_slope)


def log_det(function, point):
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(function, point)).logabsdet


# ---- the map ------------------------------------------------------------------------------------


def test_against_numbers_by_hand():
    """Centre 0, α = 2, β = 1, z = (3, 4): r = 5, so 1 + β h = 8/7 and 1 + β h + β h' r = 51/49."""
    layer = Radial(torch.zeros(2, dtype=F64), number(math.log(2)), number(math.log(1.5)))
    assert layer.alpha.item() == pytest.approx(2, rel=1e-15)
    assert layer.beta.item() == pytest.approx(1, rel=1e-15)
    y, ladj = layer.call_and_ladj(torch.tensor([3.0, 4.0], dtype=F64))
    assert y.tolist() == pytest.approx([24 / 7, 32 / 7], rel=1e-15)
    assert ladj.item() == pytest.approx(math.log(8 / 7 * 51 / 49), rel=1e-13)


def test_it_is_the_papers_equation():
    layer, z = some_layer(20), rand(20, 3, seed=5)
    r = (z - layer.center).norm(dim=-1)
    h = 1 / (layer.alpha + r)
    expected = z + (layer.beta * h).unsqueeze(-1) * (z - layer.center)
    torch.testing.assert_close(layer(z), expected, rtol=0, atol=1e-14)
    assert (layer.beta > -layer.alpha).all()
    slope = 1 + layer.beta * h - layer.beta * r * h**2
    expected = (2 * (1 + layer.beta * h).log()) + slope.log()
    torch.testing.assert_close(layer.call_and_ladj(z)[1], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
def test_ladj_is_autograds(features, scale):
    for seed in range(20):
        layer = some_layer(features=features, scale=scale, seed=3 * seed)
        z = rand(features, seed=seed + 100)
        y, ladj = layer.call_and_ladj(z)
        assert ladj.item() == pytest.approx(log_det(layer, z).item(), rel=1e-9, abs=1e-11)
        # So far off the centre that the image still tells where it comes from.
        if scale == 1:
            back = layer.inverse_and_ladj(y)[1]
            assert back.item() == pytest.approx(log_det(layer.inv, y).item(), rel=1e-9, abs=1e-11)


def test_a_slope_of_one_is_the_identity():
    z = rand(20, 3)
    layer = Radial(rand(3, seed=1), number(0.7), number(0.0))
    torch.testing.assert_close(layer(z), z, rtol=0, atol=1e-15)
    assert torch.equal(layer.call_and_ladj(z)[1].abs() < 1e-15, torch.ones(20, dtype=torch.bool))
    assert layer.beta.item() == 0


def test_in_one_dimension_it_is_odd_about_the_centre():
    layer = some_layer(features=1)
    d = torch.linspace(0, 5, 11, dtype=F64).unsqueeze(-1)
    right, left = layer(layer.center + d), layer(layer.center - d)
    torch.testing.assert_close(right + left, (2 * layer.center).expand(11, 1), rtol=0, atol=1e-14)
    assert (right[1:] > right[:-1]).all()


# ---- the centre ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("features", [1, 3])
def test_at_the_centre_it_is_a_multiple_of_the_identity(dtype, features):
    layer = Radial(rand(features).to(dtype), number(-0.4).to(dtype), number(math.log(3)).to(dtype))
    center = layer.center.clone()
    for function, slope in ((layer, 3.0), (layer.inv, 1 / 3)):
        assert torch.equal(function(center), center)
        jacobian = torch.autograd.functional.jacobian(function, center)
        torch.testing.assert_close(jacobian, slope * torch.eye(features, dtype=dtype))
        ladj = function.call_and_ladj(center)[1]
        assert ladj.item() == pytest.approx(features * math.log(slope), rel=1e-6)


def test_no_nan_in_any_derivative_at_the_centre():
    given = [rand(3), number(0.3), number(-0.5)]
    values = [value.clone().requires_grad_() for value in given]
    point = given[0].clone().requires_grad_()
    for direction in (Radial.call_and_ladj, Radial.inverse_and_ladj):
        value, ladj = direction(Radial(*values), point)
        total = value.sin().sum() + ladj
        first = torch.autograd.grad(total, [point, *values], create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), [point, *values])
        assert all(torch.isfinite(g).all() for g in (*first, *second))


# ---- the inverse --------------------------------------------------------------------------------


def test_round_trip_to_the_last_digits():
    layer, z = some_layer(200), rand(200, 3, seed=5)
    y, ladj = layer.call_and_ladj(z)
    back, inverse_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, z, rtol=0, atol=2e-14)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer(layer.inv(z)), z, rtol=0, atol=2e-14)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_root_loses_no_digits(dtype):
    """s / s' against the relative error of the quadratic equation, over 24 orders of magnitude."""
    wide = torch.logspace(-12, 12, 97, dtype=dtype)
    image, rho = torch.meshgrid(wide, wide, indexing="ij")
    s = shrinkage(image, rho).double() * image.double()
    image, rho = image.double(), rho.double()
    # Plain evaluation of s (s + ρ) / (1 + s) has only positive terms, so it can be trusted.
    recovered = s * (s + rho) / (1 + s)
    error = (recovered / image - 1).abs().max()
    assert error < 8 * torch.finfo(dtype).eps


def test_the_root_where_both_forms_meet():
    """At s' = ρ = 1 the root is 1, and so is its slope."""
    image, rho = (torch.ones(1, dtype=F64, requires_grad=True) for _ in range(2))
    s = shrinkage(image, rho) * image
    by_image, by_rho = torch.autograd.grad(s.sum(), [image, rho])
    assert s.item() == pytest.approx(1, rel=1e-15)
    # ds'/ds = (s (s + 2) + ρ) / (1 + s)² = 1 and ds'/dρ = s / (1 + s) = 1/2.
    assert by_image.item() == pytest.approx(1, rel=1e-15)
    assert by_rho.item() == pytest.approx(-0.5, rel=1e-15)


def test_extreme_slopes_about_the_origin():
    """Parameters of scale 20 are slopes from e⁻⁶⁰ to e⁶⁰; the origin hides no digits.

    Where the layer compresses that much, an image has many points within rounding error. So what
    comes back need not be z, but its image has to be y.
    """
    log_alpha, log_slope = 20 * rand(500), 20 * rand(500, seed=1)
    layer = Radial(torch.zeros(3, dtype=F64), log_alpha, log_slope)
    y = layer(rand(500, 3, seed=2))
    back, inverse_ladj = layer.inverse_and_ladj(y)
    again, ladj = layer.call_and_ladj(back)
    torch.testing.assert_close(again, y, rtol=1e-14, atol=0)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=1e-13, atol=1e-14)


# ---- the flow -----------------------------------------------------------------------------------


def test_starts_with_slopes_of_one_and_moves():
    flow = RadialFlow(3, length=4, generator=seeded(0)).double()
    z = rand(7, 3)
    torch.testing.assert_close(flow().transform(z), z, rtol=0, atol=1e-14)
    flow().log_prob(z).sum().backward()
    assert (flow.parameters_of.start.grad[-4:].abs() > 1e-3).all()


def test_parameters_have_any_size_in_float32():
    z = rand(100, 4).float()
    for scale in (20.0, 1e6):
        flow = RadialFlow(4, context=2, length=6, hidden_features=(), generator=seeded(0))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.copy_(scale * rand(*parameter.shape, seed=parameter.ndim))
        q = flow(rand(100, 2, seed=3).float())
        y, ladj = q.transform.call_and_ladj(z)
        log_prob = q.log_prob(z)
        for value in (y, ladj, log_prob):
            assert torch.isfinite(value).all()
        (ladj.sum() + log_prob.clamp(min=-1e3).sum()).backward()
        gradients = [p.grad for p in flow.parameters() if p.numel()]
        assert all(torch.isfinite(g).all() for g in gradients)


def test_a_steep_contraction_keeps_its_digits():
    layer = Radial(torch.zeros(3), torch.tensor(0.0), torch.tensor(-50.0))
    assert layer.call_and_ladj(torch.zeros(3))[1].item() == pytest.approx(-150)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_no_distance_is_too_short_or_too_long(size):
    layer = Radial(torch.zeros(2), torch.tensor(0.0), torch.tensor(1.0))
    z = torch.tensor([3.0, 4.0]) * size
    y, ladj = layer.call_and_ladj(z)
    assert ladj.item() == pytest.approx(2.0 if size < 1 else 0.0, abs=1e-6)
    torch.testing.assert_close(layer.inv(y), z, rtol=1e-6, atol=0)
