"""Rational-quadratic splines: the published formulas, the bounds, and the fused version."""

from __future__ import annotations

import pickle

import pytest
import torch
from draws import rand, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev, vmap

from nfbook.transforms import FusedRationalQuadratic, RationalQuadratic, Spline
from nfbook.transforms.spline import evaluate, knots, solve_bin

BOTH = pytest.mark.parametrize("kind", [RationalQuadratic, FusedRationalQuadratic])
SLOPE = 1e-3


def spline(kind, raw, bound=5.0, slope=SLOPE):
    return kind(raw, bound, slope)


def both_ways(t):
    return (("forward", t.call_and_ladj), ("inverse", t.inverse_and_ladj))


def near(value, expected, tolerance):
    off = (value - expected).detach().abs().max()
    assert off <= tolerance, f"off by {float(off):.3g}"


# ---- the published formulas -----------------------------------------------------------------


def durkan(z, x, y, d):
    """Durkan et al.'s value and derivative, as printed, one point in one bin."""
    k = min(int((x <= z).sum()) - 1, len(x) - 2)
    s = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
    xi = (z - x[k]) / (x[k + 1] - x[k])
    beta = s + (d[k + 1] + d[k] - 2 * s) * xi * (1 - xi)
    value = y[k] + (y[k + 1] - y[k]) * (s * xi**2 + d[k] * xi * (1 - xi)) / beta
    top = s**2 * (d[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + d[k] * (1 - xi) ** 2)
    return value, top / beta**2


@BOTH
def test_it_is_the_published_spline(kind):
    raw = 2 * rand(23)
    x, y, d = knots(raw, SLOPE)
    z = torch.linspace(-4.99, 4.99, 201, dtype=torch.float64)
    expected = [durkan(point, 5 * x, 5 * y, d) for point in z]
    t = spline(kind, raw.expand(1, 23))
    value, ladj = t.call_and_ladj(z.unsqueeze(-1))
    near(value.squeeze(-1), torch.stack([v for v, _ in expected]), 1e-13)
    near(ladj, torch.stack([slope for _, slope in expected]).log(), 1e-12)


def test_the_root_is_the_published_one():
    eta = torch.linspace(0, 1, 101, dtype=torch.float64)
    a, b = torch.tensor(0.4, dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)
    # In units of the bin, s = 1: a ξ² + b ξ + c = 0 of the paper.
    two, one, zero = 1 - a + eta * (a + b - 2), a - eta * (a + b - 2), -eta
    published = 2 * zero / (-one - (one**2 - 4 * two * zero).sqrt())
    p, q = solve_bin(eta, a, b)
    near(p, published, 1e-14)
    near(p + q, torch.ones(()), 1e-15)
    assert (p[0], q[0], p[-1], q[-1]) == (0, 1, 1, 0)


@BOTH
def test_a_point_on_a_knot_goes_to_its_knot(kind):
    raw = 3 * rand(2, 23)
    x, y, d = knots(raw, SLOPE)
    t = spline(kind, raw)
    for k in range(9):
        near(t(5 * x[:, k]), 5 * y[:, k], 1e-13)
        near(t.inv(5 * y[:, k]), 5 * x[:, k], 1e-11)
        near(t.call_and_ladj(5 * x[:, k])[1], d[:, k].log().sum(), 1e-10)


# ---- the ends -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_are_the_identity(kind, dtype):
    z = (4 * rand(500, 3)).to(dtype)
    t = spline(kind, torch.zeros(3, 23, dtype=dtype))
    eps = torch.finfo(dtype).eps
    for _, direction in both_ways(t):
        y, ladj = direction(z)
        near(y, z, 4 * eps)
        near(ladj, torch.zeros((), dtype=dtype), 12 * eps)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_identity_outside(kind, dtype):
    """All points beyond ±B stay exactly, and no parameter has a say there."""
    z = torch.tensor([[-1e30, -5.001, 5.001], [7.0, -300.0, 1e6]], dtype=dtype, requires_grad=True)
    raw = (20 * rand(3, 23)).to(dtype).requires_grad_()
    for _, direction in both_ways(spline(kind, raw)):
        y, ladj = direction(z)
        assert torch.equal(y, z)
        assert torch.equal(ladj, torch.zeros(2, dtype=dtype))
        by_z, by_raw = torch.autograd.grad(y.sum() + 3 * ladj.sum(), (z, raw))
        assert torch.equal(by_z, torch.ones_like(z))
        assert torch.equal(by_raw, torch.zeros_like(raw))


@BOTH
@pytest.mark.parametrize("scale", [1, 20])
def test_value_and_slope_are_continuous_at_the_ends(kind, scale):
    t = spline(kind, scale * rand(200, 1, 23))
    for end in (-5.0, 5.0):
        for _, direction in both_ways(t):
            y, ladj = direction(torch.full((200, 1), end, dtype=torch.float64))
            near(y, torch.tensor(end), 1e-14)
            near(ladj, torch.zeros(()), 1e-13)
            # The slope changes by at most 1e3 times itself within the narrowest bin.
            y, ladj = direction(torch.full((200, 1), end * (1 - 1e-12), dtype=torch.float64))
            near(y, torch.tensor(end), 1e-8)
            near(ladj, torch.zeros(()), 1e-5)


@BOTH
def test_value_and_slope_are_continuous_at_the_knots(kind):
    raw = 3 * rand(50, 23)
    x, _, _ = knots(raw, SLOPE)
    t = spline(kind, raw.unsqueeze(1))
    for k in range(1, 8):
        at = 5 * x[:, k : k + 1]
        (y0, ladj0), (y1, ladj1) = t.call_and_ladj(at - 1e-11), t.call_and_ladj(at + 1e-11)
        near(y0, y1, 1e-7)
        near(ladj0, ladj1, 1e-5)


# ---- bounds ---------------------------------------------------------------------------------


def test_slopes_lie_between_those_of_the_docstring():
    """In a bin with mean slope 1: between the extremes of a, b, 1/a and 1/b."""
    p = torch.linspace(0, 1, 401, dtype=torch.float64)
    ends = torch.logspace(-3, 3, 41, dtype=torch.float64)
    a, b = ends[:, None, None], ends[None, :, None]
    *_, log_slope = evaluate(p, 1 - p, torch.ones(()), a, b)
    limit = torch.maximum(a.log().abs(), b.log().abs())
    assert bool((log_slope.abs() <= limit * (1 + 1e-12) + 1e-12).all())
    # Both bounds are reached.
    near(log_slope.abs().amax(), ends[-1].log(), 1e-12)


@pytest.mark.parametrize("slope", [1e-3, 0.2])
@pytest.mark.parametrize("scale", [1, 20, 1e4])
def test_no_slope_is_beyond_the_bound(slope, scale):
    raw = scale * rand(2000, 23)
    x, y, d = knots(raw, slope)
    s = y.diff() / x.diff()
    p = torch.linspace(0, 1, 101, dtype=torch.float64).view(-1, 1, 1)
    *_, log_slope = evaluate(p, 1 - p, s, d[:, :-1] / s, d[:, 1:] / s)
    limit = -torch.tensor(slope, dtype=torch.float64).log()
    assert bool((log_slope.abs() <= limit).all())
    if scale > 1:
        assert bool((log_slope.abs() > 0.8 * limit).any()), "the range should be used"
    assert bool((x.diff() > 0).all())
    assert bool((y.diff() > 0).all())


@BOTH
def test_nothing_breaks_in_float32_at_logits_of_scale_20(kind):
    """30 batches of 2000, both ways: finite, and back where they began within 1e-3."""
    generator = seeded(0)
    for _ in range(30):
        raw = 20 * torch.randn(2000, 1, 23, generator=generator)
        z = 10 * torch.rand(2000, 1, generator=generator) - 5
        t = spline(kind, raw)
        y, ladj = t.call_and_ladj(z)
        x, inverse_ladj = t.inverse_and_ladj(z)
        for value in (y, ladj, x, inverse_ladj):
            assert bool(value.isfinite().all())
        near(t.inv(y), z, 1e-3)
        near(t(x), z, 1e-3)


@BOTH
def test_gradients_in_float32_at_logits_of_scale_20(kind):
    raw = (20 * rand(2000, 1, 23)).float().requires_grad_()
    z = (10 * torch.rand(2000, 1, generator=seeded(1)) - 5).requires_grad_()
    for _, direction in both_ways(spline(kind, raw)):
        y, ladj = direction(z)
        by_z, by_raw = torch.autograd.grad(y.sum() + ladj.sum(), (z, raw))
        assert bool(by_z.isfinite().all())
        assert bool(by_raw.isfinite().all())
        # Soft bounds do not kill them: widths and slopes of all bins matter for every point.
        assert bool((by_raw[..., :16] != 0).any(0).all())


@BOTH
@pytest.mark.parametrize("scale", [1, 20])
def test_the_density_integrates_to_one_over_wide_limits(kind, scale):
    """The trapezoidal rule from -1e6 to 1e6, with nodes that are dense where the density is."""
    places = torch.sinh(torch.linspace(-14, 14, 200_001, dtype=torch.float64)).unsqueeze(-1)
    for seed in range(3):
        s = spline(kind, scale * rand(1, 23, seed=seed))
        nodes = s(places)
        z, ladj = s.inverse_and_ladj(nodes)
        density = (-0.5 * z.squeeze(-1) ** 2 + ladj).exp() / (2 * torch.pi) ** 0.5
        near(torch.trapezoid(density, nodes.squeeze(-1)), torch.ones(()), 1e-5)


# ---- the fused version ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_fused_version_is_the_plain_one(data):
    """Values and first derivatives, for any shapes that broadcast."""
    bins = data.draw(st.integers(2, 9), "bins")
    shapes = data.draw(
        st.sampled_from(
            [((4,), (4,)), ((6, 4), (4,)), ((4,), (6, 4)), ((5, 6, 4), (6, 1)), ((1,), (6, 1))]
        ),
        "shapes",
    )
    scale = data.draw(st.sampled_from([0.0, 0.3, 2.0, 20.0, 1e4]), "scale")
    bound = data.draw(st.sampled_from([0.5, 1.0, 5.0]), "bound")
    seed = data.draw(st.integers(0, 1000), "seed")
    z = (0.5 * bound * rand(*shapes[0], seed=seed)).requires_grad_()
    raw = (scale * rand(*shapes[1], 3 * bins - 1, seed=seed + 1)).requires_grad_()
    for way in (0, 1):
        found = []
        for kind in (RationalQuadratic, FusedRationalQuadratic):
            y, ladj = both_ways(spline(kind, raw, bound))[way][1](z)
            weight = rand(*y.shape, seed=seed + 2)
            total = (y * weight).sum() + (ladj * weight[..., 0]).sum()
            found.append((y, ladj, *torch.autograd.grad(total, (z, raw))))
        for plain, fused in zip(*found, strict=True):
            assert fused.shape == plain.shape
            near(fused, plain, 1e-9 * (1 + plain.detach().abs().max()))


@pytest.mark.parametrize("scale", [0.5, 4])
@BOTH
def test_derivatives_are_those_of_differences(kind, scale):
    z = torch.tensor([[-4.0, -0.7], [0.3, 2.2], [4.6, 6.0]], dtype=torch.float64)
    inputs = z.requires_grad_(), (scale * rand(3, 2, 11)).requires_grad_()
    for way in (0, 1):

        def function(z, raw, way=way):
            return both_ways(spline(kind, raw))[way][1](z)

        assert torch.autograd.gradcheck(function, inputs, atol=1e-6, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-5, fast_mode=True)


def test_it_can_be_mapped_over_points_or_parameters_alone():
    z, raw = rand(6, 4), rand(6, 4, 11)
    for way in (0, 1):

        def function(z, raw, way=way):
            return both_ways(spline(FusedRationalQuadratic, raw))[way][1](z)

        one_raw = vmap(function, (0, None))(z, raw[0])
        one_z = vmap(function, (None, 0))(z[0], raw)
        for i in range(6):
            for mapped, expected in ((one_raw, (z[i], raw[0])), (one_z, (z[0], raw[i]))):
                for value, single in zip(mapped, function(*expected), strict=True):
                    near(value[i], single, 1e-14)
        by_raw = vmap(jacrev(lambda z, raw: function(z, raw)[1], argnums=1), (0, None))(z, raw[0])
        parameter = raw[0].clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(z[2], parameter)[1], parameter)
        near(by_raw[2], expected, 1e-12)


# ---- the factory ----------------------------------------------------------------------------


def test_the_factory_knows_its_size():
    assert (Spline().size, Spline(bins=2).size) == (23, 5)
    made = Spline(4, 2.0, 0.1)(torch.zeros(3, 11))
    assert (made.bound, made.slope) == (2.0, 0.1)
    assert repr(made) == "FusedRationalQuadratic(bound=2.0, slope=0.1)"
    assert pickle.loads(pickle.dumps(Spline(4))) == Spline(4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bins": 1}, ValueError, "bins must be at least 2, got 1"),
        ({"bins": 2.0}, TypeError, "bins must be an int, got float"),
        ({"bound": 0.0}, ValueError, "bound must be positive, got 0.0"),
        ({"bound": "five"}, TypeError, "bound must be a number, got str"),
        ({"slope": 1.0}, ValueError, "slope must be at least 1e-6 and below 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Spline(**arguments)


@BOTH
@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (
            torch.zeros(2, 22),
            ValueError,
            r"raw must have shape \(\*, D, 3 K - 1\) .* got \(2, 22\)",
        ),
        (torch.zeros(2, 2), ValueError, r"with K at least 2, got \(2, 2\)"),
        (torch.zeros(23), ValueError, r"raw must have shape .* got \(23,\)"),
        (torch.zeros(2, 23).int(), TypeError, "raw must be a floating-point tensor, got torch.int"),
        ([0.0] * 23, TypeError, "raw must be a torch.Tensor, got list"),
    ],
)
def test_bad_parameters(kind, raw, error, message):
    with pytest.raises(error, match=message):
        spline(kind, raw)
