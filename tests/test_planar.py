"""Planar layers: the paper's map made safe, its inverse, and the stack against the plain layers."""

import math

import pytest
import torch
from draws import rand
from torch.nn.functional import softplus

from nfbook.flows import PlanarFlow
from nfbook.transforms import Planar, PlanarStack, planar
from nfbook.transforms.planar import excess

F64 = torch.float64


def some_stack(*batch, length=6, features=4, scale=1.0, seed=0):
    w, u = (scale * rand(*batch, length, features, seed=seed + i) for i in range(2))
    return w, u, scale * rand(*batch, length, seed=seed + 2)


def gradients(transform, z, parameters):
    y, ladj = transform.call_and_ladj(z)
    return torch.autograd.grad((y.sin().sum() + ladj.square().sum()), [z, *parameters])


# ---- one layer ----------------------------------------------------------------------------------


def test_against_numbers_by_hand():
    """D = 1, w = 1, u = 2, b = 0: û = log(1 + (e - 1) e²) - 1."""
    one = torch.ones(1, dtype=F64)
    layer = Planar(one, 2 * one, torch.zeros((), dtype=F64))
    u_hat = math.log(1 + (math.e - 1) * math.exp(2)) - 1
    assert layer.u_hat.item() == pytest.approx(u_hat, rel=1e-14)
    y, ladj = layer.call_and_ladj(0.3 * one)
    assert y.item() == pytest.approx(0.3 + u_hat * math.tanh(0.3), rel=1e-14)
    slope = 1 + u_hat / math.cosh(0.3) ** 2
    assert ladj.item() == pytest.approx(math.log(slope), rel=1e-13)


def test_excess_is_exact_around_zero_and_far_off():
    """m(a) - a against 1 - 1/e times a for small a, and its limits -1 - a and log(1 - 1/e)."""
    a = torch.tensor([-1e-12, -1e-6, 0.0, 1e-6, 1e-12], dtype=F64)
    second = 0.5 * (1 / math.e) * (1 - 1 / math.e) * a**2
    torch.testing.assert_close(excess(a), -a / math.e + second, rtol=1e-11, atol=0)
    assert excess(torch.tensor(-800.0, dtype=F64)).item() == pytest.approx(799, rel=1e-15)
    far = excess(torch.tensor(800.0, dtype=F64)).item()
    assert far == pytest.approx(math.log(1 - 1 / math.e), rel=1e-14)
    middle = torch.linspace(-5, 5, 41, dtype=F64)
    direct = softplus(middle + math.log(math.e - 1)) - 1 - middle
    torch.testing.assert_close(excess(middle), direct, rtol=0, atol=1e-14)


@pytest.mark.parametrize("a", [-700.0, -25.0, 0.0, 19.0, 21.0, 25.0])
def test_slope_at_zero_to_all_digits(a):
    slope = planar.slope_at_zero(torch.tensor(a, dtype=F64)).item()
    assert slope == pytest.approx(math.log1p((math.e - 1) * math.exp(a)), rel=2e-13, abs=0)


@pytest.mark.parametrize("value", [-3.0, -1e-9, 0.0, 1e-9, 3.0])
def test_excess_has_its_derivative_at_zero_too(value):
    a = torch.tensor(value, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(excess(a), a)
    expected = torch.sigmoid(a + math.log(math.e - 1)) - 1
    assert slope.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("norm", [1.0, 1e-4, 1e-12, 1e-30, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_no_shift_is_the_identity_and_u_hat_is_no_longer_than_u(norm, dtype):
    """The paper's own constraint sends the origin to 14 where |w| = 0.01, u = 0 and b = 0.5."""
    w = (norm * torch.tensor([0.6, 0.8])).to(dtype)
    half = torch.tensor(0.5, dtype=dtype)
    still = Planar(w, torch.zeros(2, dtype=dtype), half)
    assert torch.equal(still(torch.zeros(2, dtype=dtype)), torch.zeros(2, dtype=dtype))
    for u in 3 * rand(20, 2).to(dtype):
        u_hat = Planar(w, u, half).u_hat
        assert u_hat.norm() <= u.norm() * (1 + 1e-6)


def test_no_normal_vector_is_a_shift():
    w, u = torch.zeros(3, dtype=F64, requires_grad=True), rand(3).requires_grad_()
    layer = Planar(w, u, torch.tensor(0.5, dtype=F64))
    y, ladj = layer.call_and_ladj(torch.ones(3, dtype=F64))
    torch.testing.assert_close(y, 1 + u * math.tanh(0.5))
    assert ladj == 0
    for gradient in torch.autograd.grad(y.sum() + ladj, [w, u]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [0.1, 1, 10, 100])
def test_inverse_solves_to_ten_digits(scale):
    """Where the slope nearly vanishes the point is not determined so well; its image is."""
    w, u, b = some_stack(500, length=1, scale=scale)
    layer = Planar(w[:, 0], u[:, 0], b[:, 0])
    y = 3 * rand(500, 4, seed=9)
    z = layer.inv(y)
    # What rounding w·z, of this size, comes to in the image.
    rounding = (1 + layer.u_hat.norm(dim=-1) * w[:, 0].norm(dim=-1)) * (1 + z.norm(dim=-1))
    assert ((layer(z) - y).abs().amax(-1) < 1e-14 * rounding).all()
    if scale <= 1:
        assert (layer.inv(layer(y)) - y).abs().max() < 1e-10


def test_steep_layers_keep_a_finite_ladj():
    """wᵀu = -80: 1 + wᵀû is 2e-35, and in float32 the paper's formula has lost it."""
    w, b = torch.tensor([1.0, 0.0]), torch.tensor(0.0)
    layer = Planar(w, torch.tensor([-80.0, 0.0]), b)
    ladj = layer.call_and_ladj(torch.zeros(2))[1]
    assert ladj.item() == pytest.approx(-80 + math.log(math.e - 1), rel=1e-6)


# ---- the stack ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "points"),
    [
        ((), ()),
        ((), (7,)),
        ((5,), (5,)),
        ((5,), (3, 5)),
        ((2, 5), (3, 2, 5)),
        ((5,), ()),
        ((1,), (5,)),
        ((4, 1), (4, 5)),
        ((4, 1), (2, 1, 5)),
    ],
)
@pytest.mark.parametrize("block", [2, 4, 40])
def test_stack_equals_layers(parameters, points, block, monkeypatch):
    monkeypatch.setattr(planar, "BLOCK", block)
    given = [value.requires_grad_() for value in some_stack(*parameters)]
    z = rand(*points, 4, seed=8).requires_grad_()
    stack = PlanarStack(*given)
    for value, expected in zip(stack.call_and_ladj(z), stack.layers.call_and_ladj(z), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for value, expected in zip(
        gradients(stack, z, given), gradients(stack.layers, z, given), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_either_result_alone_has_its_gradient():
    given = [value.requires_grad_() for value in some_stack()]
    z = rand(7, 4, seed=8)
    stack = PlanarStack(*given)
    for i in range(2):
        ours = torch.autograd.grad(stack.call_and_ladj(z)[i].sum(), given)
        plain = torch.autograd.grad(stack.layers.call_and_ladj(z)[i].sum(), given)
        for value, expected in zip(ours, plain, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_second_derivatives_are_those_of_the_layers():
    """By the points and by the parameters, also where one result alone is differentiated."""
    given = [value.requires_grad_() for value in some_stack()]
    z = rand(3, 4, seed=8).requires_grad_()

    def curvature(transform, i):
        slopes = torch.autograd.grad(
            transform.call_and_ladj(z)[i].sin().sum(), [z, *given], create_graph=True
        )
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), [z, *given])

    stack = PlanarStack(*given)
    for i in range(2):
        for value, expected in zip(curvature(stack, i), curvature(stack.layers, i), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1, 20, 1000])
def test_float32_at_extreme_parameters(scale):
    w, u, b = (value.float().requires_grad_() for value in some_stack(50, length=32, scale=scale))
    y, ladj = PlanarStack(w, u, b).call_and_ladj(rand(50, 4).float())
    gradient = torch.autograd.grad(y.sum() + ladj.sum(), [w, u, b])
    for value in (y, ladj, *gradient):
        assert value.isfinite().all()


def test_zero_network_gives_the_identity_with_a_gradient():
    """Whatever the context, and however small the normal vectors."""
    flow = PlanarFlow(3, context=2, length=4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow.parameters_of.start[: 4 * 3] *= 1e-6
    z, context = rand(5, 3).float(), rand(5, 2).float()
    y, ladj = flow(context).transform.call_and_ladj(z)
    assert torch.equal(y, z)
    assert torch.equal(ladj, torch.zeros(5))
    fresh = PlanarFlow(3, length=4, generator=torch.Generator().manual_seed(0))
    loss = fresh().transform(z).square().sum()
    loss.backward()
    assert fresh.parameters_of.start.grad.abs().max() > 0.1


@pytest.mark.parametrize("block", [2, 40])
def test_vmap_over_all_of_a_stack(block, monkeypatch):
    """Over points and parameters at once, with a gradient, and more than one block."""
    monkeypatch.setattr(planar, "BLOCK", block)
    w, u, b, z = rand(6, 5, 3), rand(6, 5, 3, seed=1), rand(6, 5, seed=2), rand(6, 4, 3, seed=3)

    def loss(z, w, u, b):
        y, ladj = PlanarStack(w, u, b).call_and_ladj(z)
        return y.sin().sum() + ladj.sum()

    together = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2, 3)))(z, w, u, b)
    for i in range(6):
        alone = torch.func.grad(loss, argnums=(0, 1, 2, 3))(z[i], w[i], u[i], b[i])
        for value, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(value[i], expected, rtol=1e-10, atol=1e-10)
