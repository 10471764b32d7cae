"""Planar layers: the paper's map made safe, its inverse, and the stack against the plain layers."""

import math

import pytest
import torch
from draws import rand

from nfbook.flows import PlanarFlow
from nfbook.transforms import Planar, PlanarStack
from nfbook.transforms._tanh_layers import determinant, excess, slope_at_zero
from nfbook.transforms.fast import planar

F64 = torch.float64


def some_stack(*batch, length=6, features=4, scale=1.0, seed=0):
    w, u = (scale * rand(*batch, length, features, seed=seed + i) for i in range(2))
    return w, u, scale * rand(*batch, length, seed=seed + 2)


def gradients(transform, z, parameters):
    y, ladj = transform.call_and_ladj(z)
    return torch.autograd.grad((y.sin().sum() + ladj.square().sum()), [z, *parameters])


# ---- one layer ----------------------------------------------------------------------------------


def test_against_numbers_by_hand():
    """D = 1, w = 1, u = 2, b = 0: û = 2 + √5 - 1."""
    one = torch.ones(1, dtype=F64)
    layer = Planar(one, 2 * one, torch.zeros((), dtype=F64))
    u_hat = 1 + math.sqrt(5)
    assert layer.u_hat.item() == pytest.approx(u_hat, rel=1e-14)
    y, ladj = layer.call_and_ladj(0.3 * one)
    assert y.item() == pytest.approx(0.3 + u_hat * math.tanh(0.3), rel=1e-14)
    slope = 1 + u_hat / math.cosh(0.3) ** 2
    assert ladj.item() == pytest.approx(math.log(slope), rel=1e-13)


def test_excess_is_exact_around_zero_and_far_off():
    """m(a) - a against a²/2 for small a, and -1 - 2a and -1 far off, up to 1/(2|a|)."""
    a = torch.tensor([-1e-12, -1e-6, 0.0, 1e-6, 1e-12], dtype=F64)
    torch.testing.assert_close(excess(a), 0.5 * a**2, rtol=1e-11, atol=0)
    for dtype in (torch.float32, F64):
        far = torch.tensor([-1e30, 1e30], dtype=dtype)
        torch.testing.assert_close(excess(far), far.abs())
    middle = torch.linspace(-5, 5, 41, dtype=F64)
    torch.testing.assert_close(excess(middle), (1 + middle**2).sqrt() - 1, rtol=0, atol=1e-14)


@pytest.mark.parametrize("a", [-1e8, -700.0, -25.0, 0.0, 19.0, 21.0, 1e8])
def test_slope_at_zero_to_all_digits(a):
    slope = slope_at_zero(torch.tensor(a, dtype=F64)).item()
    root = math.hypot(1, a)
    expected = a + root if a > 0 else 1 / (root - a)
    assert slope == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize("x", [0.0, 0.3, -2.0, 9.0, -18.0])
def test_det_loses_no_digits(x):
    """1 - tanh² would have lost them all at x = 9 in float32."""
    for s in (1e-6, 1.0, 1e6):
        expected = math.tanh(x) ** 2 + s / math.cosh(x) ** 2
        for dtype, rel in ((torch.float32, 1e-6), (F64, 1e-14)):
            value = determinant(torch.tensor(x, dtype=dtype), torch.tensor(s, dtype=dtype))
            assert value.item() == pytest.approx(expected, rel=rel, abs=0)


@pytest.mark.parametrize("norm", [1e-2, 1e-6, 1e-10, 1e-15])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_the_gradient_by_a_short_w_is_that_of_its_direction(norm, dtype):
    """û - u is (ŵ·u)² w / (1 + √(1 + a²)), whose derivative does not depend on the length of w."""
    direction, u = torch.tensor([0.6, 0.8], dtype=dtype), torch.tensor([1.0, 1.0], dtype=dtype)
    z, b = torch.tensor([1.0, 1.0], dtype=dtype), torch.tensor(0.3, dtype=dtype)

    def gradient(norm, transform):
        w = (norm * direction).requires_grad_()
        (slope,) = torch.autograd.grad(transform(w)(z).sum(), w)
        return slope

    for transform in (lambda w: Planar(w, u, b), lambda w: PlanarStack(w[None], u[None], b[None])):
        limit = gradient(1e-5 if dtype == F64 else 1e-3, transform)
        tolerance = 20 * max(norm, 1e-3) if norm > 1e-3 or dtype != F64 else 1e-4
        torch.testing.assert_close(gradient(norm, transform), limit, rtol=tolerance, atol=0)


@pytest.mark.parametrize("norm", [1.0, 1e-4, 1e-12, 1e-30, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_no_shift_is_the_identity_and_u_hat_at_most_twice_u(norm, dtype):
    """The paper's own constraint sends the origin to 14 where |w| = 0.01, u = 0 and b = 0.5."""
    w = (norm * torch.tensor([0.6, 0.8])).to(dtype)
    half = torch.tensor(0.5, dtype=dtype)
    still = Planar(w, torch.zeros(2, dtype=dtype), half)
    assert torch.equal(still(torch.zeros(2, dtype=dtype)), torch.zeros(2, dtype=dtype))
    for u in 3 * rand(20, 2).to(dtype):
        u_hat = Planar(w, u, half).u_hat
        assert u_hat.norm() <= 2 * u.norm()
        limit = 0.5 * u.norm() ** 2 * norm + 4 * torch.finfo(dtype).eps * u.norm()
        assert (u_hat - u).norm() <= limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("length", "along"), [(0.2, 2.0), (0.031, -40.0)])
def test_a_short_w_in_half_precision_has_the_determinant_of_its_map(dtype, length, along):
    w, u = torch.tensor([length, 0.0], dtype=dtype), torch.tensor([along, 0.0], dtype=dtype)
    b, z = torch.zeros((), dtype=dtype), torch.zeros(2, dtype=dtype)
    exact = math.asinh(float(w.double() @ u.double()))
    stack = PlanarStack(w.unsqueeze(0), u.unsqueeze(0), b.unsqueeze(0))
    for layer in (Planar(w, u, b), stack):
        slopes = torch.autograd.functional.jacobian(layer, z).double()
        for value in (layer.call_and_ladj(z)[1].item(), slopes.det().log().item()):
            assert value == pytest.approx(exact, abs=4 * torch.finfo(dtype).eps)


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


@pytest.mark.parametrize("size", [11.0, 80.0, 1e4])
def test_nearly_singular_layers_keep_a_finite_ladj(size):
    """wᵀu = -size²: 1 + wᵀû is 1/(2 size²), and in float32 the paper's formula has lost it."""
    w, b = torch.tensor([size, 0.0], requires_grad=True), torch.tensor(0.0)
    layer = Planar(w, torch.tensor([-size, 0.0]), b)
    ladj = layer.call_and_ladj(torch.zeros(2))[1]
    assert ladj.item() == pytest.approx(-math.log(2 * size**2), rel=1e-4)
    (slope,) = torch.autograd.grad(ladj, w)
    assert slope.isfinite().all()


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


def test_a_graph_of_the_gradient_where_only_some_inputs_want_one():
    """As for noise that is not differentiated, in an evidence lower bound."""
    w, u, b = some_stack()
    z = rand(7, 4, seed=8)
    for wanted in ((w,), (u, b), (w, u, b)):
        for value in (w, u, b):
            value.requires_grad_(any(value is one for one in wanted))
        stack = PlanarStack(w, u, b)
        for transform in (stack, stack.layers):
            slopes = torch.autograd.grad(
                transform.call_and_ladj(z)[1].sum(), wanted, create_graph=True
            )
            second = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), wanted)
            if transform is stack:
                kept = second
        for value, expected in zip(kept, second, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_no_contexts_and_no_points():
    for context in (torch.zeros(0, 2), torch.zeros(1, 2)):
        y, log_prob = PlanarFlow(3, context=2)(context).rsample_and_log_prob((0,))
        assert (y.shape, log_prob.shape) == ((0, len(context), 3), (0, len(context)))
    assert PlanarFlow(3, context=2)(torch.zeros(0, 2)).sample((2,)).shape == (2, 0, 3)
    # Each parameter may have batch dimensions of its own.
    w, u, b = rand(4, 8, 2), rand(8, 2, seed=1), rand(8, seed=2)
    stack = PlanarStack(w, u, b)
    torch.testing.assert_close(stack(torch.ones(2).double()), stack.layers(torch.ones(2).double()))


def test_a_normal_vector_of_zeros_in_a_stack():
    w, u, b, z = rand(6, 4), rand(6, 4, seed=1), rand(6, seed=2), rand(5, 4, seed=8)
    w[2] = 0
    given = [value.requires_grad_() for value in (z, w, u, b)]
    stack, found = PlanarStack(w, u, b), []
    for transform in (stack, stack.layers):
        y, ladj = transform.call_and_ladj(z)
        slopes = torch.autograd.grad(y.sin().sum() + ladj.square().sum(), given)
        found.append((y, ladj, *slopes))
    for value, expected in zip(*found, strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_normal_vectors_start_with_length_one():
    flow = PlanarFlow(400, length=50, generator=torch.Generator().manual_seed(0))
    assert flow.parameters_of()["w"].detach().norm(dim=-1).mean().item() == pytest.approx(
        1, abs=0.05
    )
