"""Bounded supports: Box, Exp, Softplus, and flows that end in them."""

from __future__ import annotations

import copy
import math

import contract
import pytest
import torch
from draws import rand, seeded
from families import Case, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import constraints
from torch.func import functional_call

from nfbook.flows import FAMILIES, AffineFlow, Fixed, RadialFlow, Transformed
from nfbook.transforms import Affine, Box, Compose, Exp, Permutation, Softplus

F32, F64 = torch.float32, torch.float64
DTYPES = pytest.mark.parametrize("dtype", [F32, F64], ids=str)


def box_2d():
    return Box(torch.tensor([-1.0, 2.0], dtype=F64), torch.tensor([1.0, 7.0], dtype=F64))


TRANSFORMS = {
    "box of numbers": lambda: Box(-2.0, 3),
    "box of tensors": box_2d,
    "box with a margin": lambda: Box(0.0, 1.0, margin=0.1),
    "exp": Exp,
    "softplus": Softplus,
}
each = pytest.mark.parametrize("name", TRANSFORMS)


# ---- the transforms -----------------------------------------------------------------------------


@each
def test_ladj_is_autograds(name):
    transform, z = TRANSFORMS[name](), 2 * rand(20, 2)
    y, ladj = transform.call_and_ladj(z)
    back, inverse_ladj = transform.inverse_and_ladj(y)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(inverse_ladj, -ladj)
    torch.testing.assert_close(ladj, contract.jacobian_log_dets(transform, z))
    torch.testing.assert_close(inverse_ladj, contract.jacobian_log_dets(transform.inv, y))
    assert transform.codomain.check(y).all()
    assert transform.codomain.event_dim == 1


@each
def test_first_and_second_derivatives(name):
    transform, z = TRANSFORMS[name](), rand(3, 2).requires_grad_()
    y = transform(z).detach().requires_grad_()
    for function, point in ((transform.call_and_ladj, z), (transform.inverse_and_ladj, y)):
        assert torch.autograd.gradcheck(function, (point,))
        assert torch.autograd.gradgradcheck(function, (point,))


def test_gradients_for_the_ends_of_a_box():
    low, high = rand(2).requires_grad_(), (rand(2, seed=1).abs() + 3).requires_grad_()
    z = rand(4, 2, seed=2)

    def both(low, high):
        box = Box(low, high)
        y, ladj = box.call_and_ladj(z)
        back, inverse_ladj = box.inverse_and_ladj(torch.full_like(z, 2.5))
        return y, ladj, back, inverse_ladj

    assert torch.autograd.gradcheck(both, (low, high))


def test_known_values():
    zero = torch.zeros(2, dtype=F64)
    assert box_2d()(zero).tolist() == [0.0, 4.5]
    _, ladj = Box(0.0, 4.0).call_and_ladj(zero)
    assert ladj.item() == pytest.approx(0.0, abs=1e-15)
    assert Softplus()(zero)[0].item() == pytest.approx(math.log(2))
    assert Exp().call_and_ladj(zero + 2)[1].item() == 4.0


@each
@pytest.mark.parametrize("given", [F32, F64], ids=str)
@DTYPES
def test_the_dtype_is_that_of_the_point(name, given, dtype):
    transform = TRANSFORMS[name]()
    if name == "box of tensors":
        transform = Box(transform.low.to(given), transform.high.to(given))
    for result in (
        *transform.call_and_ladj(rand(5, 2).to(dtype)),
        *transform.inverse_and_ladj(torch.full((5, 2), 0.5, dtype=dtype)),
    ):
        assert result.dtype == dtype
        assert torch.isfinite(result).all() or name == "box of tensors"


def test_ends_have_batch_dimensions():
    low = rand(4, 1, 2)
    box, z = Box(low, low + 1), rand(5, 2)
    y, ladj = box.call_and_ladj(z)
    assert y.shape == (4, 5, 2)
    assert ladj.shape == (4, 5)
    torch.testing.assert_close(box.inv(y), z.expand(4, 5, 2))


# ---- near the bounds ----------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (-3.0, 0.0), (2.0, 5.0), (-7e3, 1e4)])
def test_float32_keeps_its_digits_near_both_ends(ends):
    """The numbers next to an end are measured from it, as float64 would."""
    low, high = (torch.tensor(end, dtype=F32) for end in ends)
    # Next to zero are numbers below the normal ones, which not all processors keep.
    tiny = torch.finfo(F32).tiny
    near = [torch.maximum(torch.nextafter(low, high), low + tiny)]
    near += [torch.minimum(torch.nextafter(high, low), high - tiny)]
    near += [low + 1e-5 * (high - low), high - 1e-5 * (high - low)]
    y = torch.stack(near).unsqueeze(-1)
    z, ladj = Box(*ends).inverse_and_ladj(y)
    left, right = y.double() - ends[0], ends[1] - y.double()
    torch.testing.assert_close(z.double(), left.log() - right.log(), rtol=1e-6, atol=0)
    expected = (math.log(ends[1] - ends[0]) - left.log() - right.log()).sum(-1)
    torch.testing.assert_close(ladj.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (-3.0, 0.0), (2.0, 5.0)])
def test_round_trips_in_float32_as_far_as_floats_tell(ends):
    z = torch.linspace(-10, 10, 201).unsqueeze(-1)
    y = Box(*ends)(z)
    # A rounding of y moves z by the inverse's slope.
    slope = (ends[1] - ends[0]) / ((y - ends[0]) * (ends[1] - y)).double()
    spacing = 2.0**-23 * y.abs().double() + 1e-45
    allowed = slope * spacing + 1e-6 * (1 + z.abs())
    assert ((Box(*ends).inv(y) - z).abs() <= allowed).all()


def test_towards_an_end_at_zero_nothing_is_lost():
    """There floats are dense, on the side of either end."""
    z = torch.linspace(-80, 0, 161).unsqueeze(-1)
    torch.testing.assert_close(Box(0.0, 1.0).inv(Box(0.0, 1.0)(z)), z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(Box(-1.0, 0.0).inv(Box(-1.0, 0.0)(-z)), -z, rtol=1e-6, atol=1e-6)
    for transform in (Exp(), Softplus()):
        torch.testing.assert_close(transform.inv(transform(z)), z, rtol=1e-6, atol=1e-6)


@DTYPES
def test_softplus_is_right_far_out(dtype):
    z = torch.tensor([-80.0, -30.0, 15.0, 25.0, 40.0, 1e4], dtype=dtype).unsqueeze(-1)
    y, ladj = Softplus().call_and_ladj(z)
    exact = torch.log1p(torch.exp(-z.double().abs())) + z.double().clamp(min=0)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=4 * eps, atol=0)
    torch.testing.assert_close(Softplus().inv(y), z, rtol=8 * eps, atol=0)
    assert torch.isfinite(ladj).all()


@each
@DTYPES
def test_extreme_points_stay_inside_and_finite(name, dtype):
    transform = TRANSFORMS[name]()
    reach = 80.0 if name == "exp" else 1e4
    z = torch.tensor([[-reach, reach], [reach, -reach]], dtype=dtype)
    y, ladj = transform.call_and_ladj(z)
    assert transform.codomain.check(y).all()
    back, inverse_ladj = transform.inverse_and_ladj(y)
    for value in (y, ladj, back, inverse_ladj):
        assert torch.isfinite(value).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    margin=st.sampled_from([0.0, 1e-9, 1e-6, 0.05, 3.0]),
    z=st.floats(-200, 200),
    dtype=st.sampled_from([F32, F64]),
)
def test_every_image_lies_inside(low, width, margin, z, dtype):
    """Rounding carries no sample over an end, where its density would be zero."""
    box = Box(low, low + max(width, 1e-3 * abs(low)), margin=margin)
    z = torch.tensor([[z], [-z], [200.0], [-200.0]], dtype=dtype)
    assert box.codomain.check(box(z)).all()


@each
@DTYPES
def test_an_end_is_finite_and_what_lies_beyond_has_no_density(name, dtype):
    transform = TRANSFORMS[name]()
    ends = (transform(torch.full((2, 2), side, dtype=dtype)) for side in (-1e6, 50.0))
    for end, outward in zip(ends, (-1, 1), strict=True):
        z, ladj = transform.inverse_and_ladj(end)
        assert torch.isfinite(z).all()
        assert torch.isfinite(ladj).all()
        if name in ("exp", "softplus") and outward > 0:
            continue
        for beyond in (end + outward * 1e-3, end + outward * torch.tensor([0.0, 1e5])):
            z, ladj = transform.inverse_and_ladj(beyond.to(dtype))
            assert torch.isfinite(z).all()
            assert (ladj == -math.inf).all()


# ---- flows --------------------------------------------------------------------------------------


def over(low, high, n):
    """Return nodes between two ends, dense at both, and the weights of their quadrature."""
    t = torch.linspace(-30, 30, n, dtype=F64)
    share = torch.sigmoid(t)
    return low + (high - low) * share, (high - low) * share * torch.sigmoid(-t) * (t[1] - t[0])


@pytest.mark.parametrize("inner", ["affine", "planar"])
@pytest.mark.parametrize(
    ("transform", "low", "high"),
    [
        (Box(-2.0, 3.0), -2.0, 3.0),
        (Box(0.0, 1.0, margin=0.1), -0.1, 1.1),
        (Exp(), 0.0, 1e4),
        (Softplus(), 0.0, 1e3),
    ],
    ids=["box", "margin", "exp", "softplus"],
)
def test_the_density_integrates_to_one_over_its_support(transform, low, high, inner):
    flow = FAMILIES[inner](1, length=2, generator=seeded())
    flow = Transformed(spread(flow.to(F64), 0.4), transform)
    nodes, weights = over(low, high, 20_001)
    total = (flow().log_prob(nodes.unsqueeze(-1)).exp() * weights).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("inner", ["affine", "planar", "plu"])
def test_a_density_in_two_dimensions_integrates_to_one(inner):
    flow = FAMILIES[inner](2, length=2, generator=seeded())
    flow = Transformed(spread(flow.to(F64), 0.4), box_2d())
    (x, of_x), (y, of_y) = over(-1.0, 1.0, 400), over(2.0, 7.0, 400)
    density = flow().log_prob(torch.cartesian_prod(x, y)).exp()
    total = (density * torch.cartesian_prod(of_x, of_y).prod(-1)).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_a_share_of_samples_is_the_integral():
    """Of 20000 samples, as many lie in a part of the box as the density says."""
    flow = Transformed(spread(AffineFlow(1).to(F64), 0.5), Box(-2.0, 3.0))
    nodes, weights = over(-2.0, 0.3, 20_001)
    share = (flow().log_prob(nodes.unsqueeze(-1)).exp() * weights).sum().item()
    samples = flow().sample((20_000,), generator=seeded())
    deviation = math.sqrt(share * (1 - share) / 20_000)
    assert (samples < 0.3).double().mean().item() == pytest.approx(share, abs=4 * deviation)


@DTYPES
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_all_samples_lie_inside(scale, dtype):
    for transform in (box_2d(), Softplus()):
        flow = Transformed(spread(AffineFlow(2).to(dtype), scale), transform)
        y, log_prob = flow().rsample_and_log_prob((5000,), generator=seeded())
        assert y.dtype == dtype
        assert flow().support.check(y).all()
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(flow().log_prob(y)).all()


def test_outside_the_density_is_zero_and_no_gradient_is_nan():
    flow = Transformed(spread(AffineFlow(2), 20.0), box_2d())
    points = torch.tensor([[0.0, 3.0], [1.5, 3.0], [0.0, -3.0], [-1.0, 7.0], [math.inf, 3.0]])
    points.requires_grad_()
    log_prob = flow().log_prob(points)
    assert torch.isfinite(log_prob[[0, 3]]).all()
    assert (log_prob[[1, 2, 4]] == -math.inf).all()
    log_prob[[0, 3]].sum().backward()
    log_prob = flow().log_prob(points)
    torch.where(torch.isfinite(log_prob), log_prob, 0).sum().backward()
    for tensor in (points, *flow.parameters()):
        assert torch.isfinite(tensor.grad).all()


def test_no_number_has_no_density():
    """A NaN is neither inside nor outside, and is not to be taken for a point of density zero."""
    flow = Transformed(AffineFlow(2), Box(0.0, 1.0))
    log_prob = flow().log_prob(torch.tensor([[0.5, math.nan], [0.5, 2.0], [math.nan, 2.0]]))
    assert log_prob.isnan().tolist() == [True, False, True]


def test_a_map_after_a_box_moves_the_box_without_a_leak():
    """The last transform's codomain is all vectors, but the box's points have no other images."""
    move = Affine(torch.full((1,), 10.0, dtype=F64), torch.full((1,), math.log(2), dtype=F64))
    flow = Transformed(Transformed(AffineFlow(1).to(F64), Box(0.0, 1.0)), move)
    points = torch.tensor([[9.9], [10.0], [11.0], [12.0], [12.1]], dtype=F64)
    assert (flow().log_prob(points) == -math.inf).tolist() == [True, False, False, False, True]
    nodes, weights = over(10.0, 12.0, 20_001)
    total = (flow().log_prob(nodes.unsqueeze(-1)).exp() * weights).sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_the_supports_are_torchs():
    assert Transformed(AffineFlow(2), Exp())().support.base_constraint is constraints.nonnegative
    support = Transformed(AffineFlow(2), Box(-1.0, 2.0))().support
    assert support.event_dim == 1
    assert support.check(torch.tensor([[-1.0, 2.0], [-1.1, 0.0]])).tolist() == [True, False]


# ---- the contract, for what has another constructor ---------------------------------------------


class Boxed(Transformed):
    """A flow onto a wide box, with the constructor of a family."""

    def __init__(self, features, context=0, length=1, hidden_features=(64, 64), *, generator=None):
        inner = RadialFlow(features, context, length, hidden_features, generator=generator)
        super().__init__(inner, Box(torch.full((features,), -30.0), 40.0))


@pytest.fixture
def boxed(monkeypatch):
    monkeypatch.setitem(FAMILIES, "boxed", Boxed)
    return Case("boxed")


@pytest.mark.parametrize("features", [1, 2, 5])
def test_contract_of_values(boxed, features):
    flow = contract.make(boxed, features, 2, scale=0.1)
    contract.check_ladj(flow, 1e-7)
    contract.check_round_trips(flow, 1e-9)
    contract.check_round_trips(flow.float(), 1e-3)


@pytest.mark.parametrize("features", [1, 3])
def test_contract_of_shapes_and_copies(boxed, features, monkeypatch):
    monkeypatch.setattr(contract, "rand", lambda *shape, seed=0: rand(*shape, seed=seed))
    contract.check_shapes(boxed, features)
    contract.check_context_rows(boxed)
    contract.check_copies(boxed)
    for dtype in (F32, F64):
        contract.check_dtype(boxed, dtype)


def test_contract_of_derivatives(boxed):
    flow = contract.make(boxed, 2, 2, 1, scale=0.3)
    contract.check_gradients(flow)
    contract.check_vmap(boxed)
    contract.check_compile(boxed)


# ---- fixed transforms in flows ------------------------------------------------------------------


def nested():
    affine = Affine(torch.ones(2), torch.zeros(2))
    return Compose([affine.inv, Permutation.reversal(2), Box(torch.zeros(2), 1.0, margin=0.5)])


def test_the_tensors_of_a_transform_are_buffers_at_any_depth():
    flow = Transformed(AffineFlow(2), nested())
    buffers = dict(flow.named_buffers())
    assert {name: value.dtype for name, value in buffers.items() if value.numel()} == {
        "flows.1.constants.transform.constants.shift": F32,
        "flows.1.constants.transform.constants.log_scale": F32,
        "flows.2.constants.order": torch.int64,
        "flows.3.constants.low": F32,
    }
    z = rand(5, 2).float()
    for result, expected in zip(
        flow.transform().call_and_ladj(z), nested().call_and_ladj(z), strict=True
    ):
        assert torch.equal(result, expected)
    assert flow.double().transform().transforms[1].transform.shift.dtype == F64


def test_the_inverse_of_a_composition_can_be_fixed():
    flow, y = Transformed(AffineFlow(2), shifted().inv), rand(5, 2).float()
    for result, expected in zip(
        flow.transform().call_and_ladj(y), shifted().inv.call_and_ladj(y), strict=True
    ):
        assert torch.equal(result, expected)
    assert len(flow.transform().transforms) == 3


def shifted():
    return Compose([Affine(torch.ones(2), torch.full((2,), 0.5)), Permutation.reversal(2)])


def test_a_flow_has_its_own_copy_of_them():
    low = torch.zeros(2)
    flow = Transformed(AffineFlow(2), Box(low, 1.0))
    twin, before = copy.deepcopy(flow), flow().log_prob(torch.full((2,), 0.5))
    low -= 5
    twin.state_dict()["flows.1.constants.low"].sub_(7)
    assert torch.equal(flow().log_prob(torch.full((2,), 0.5)), before)
    assert not torch.equal(twin().log_prob(torch.full((2,), 0.5)), before)


def test_other_buffers_can_stand_in():
    flow, z = Fixed(2, Box, torch.zeros(2), 10.0), torch.full((2,), -1e3)

    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, z):
            return self.flow.transform()(z)

    result = functional_call(Image(), {"flow.constants.low": torch.full((2,), 7.0)}, (z,))
    assert result.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("of_flow", [F32, F64], ids=str)
@pytest.mark.parametrize("of_box", [F32, F64], ids=str)
def test_the_flow_decides_the_dtype(of_flow, of_box):
    box = Box(torch.zeros(2, dtype=of_box), torch.ones(2, dtype=of_box))
    flow = Transformed(AffineFlow(2).to(of_flow), box)
    assert flow().sample((3,)).dtype == of_flow
    assert {buffer.dtype for buffer in flow.buffers()} == {of_flow}


@each
def test_nothing_is_made_on_another_device(name):
    """Which the device without memory shows on any machine: it mixes with no other."""
    flow = Transformed(RadialFlow(2, context=3), Compose([Permutation.reversal(2)]))
    flow = Transformed(flow, TRANSFORMS[name]()).to("meta")
    q = flow(torch.zeros(5, 3, device="meta"))
    y, log_prob = q.rsample_and_log_prob((4,))
    for value in (y, log_prob, q.log_prob(y), *q.transform.inverse_and_ladj(y)):
        assert value.device.type == "meta"


# ---- errors -------------------------------------------------------------------------------------


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match=r"low must be below high, got 1.0 and 1.0"):
        Box(1.0, 1.0)
    with pytest.raises(ValueError, match="low must be below high"):
        Box(torch.tensor([0.0, 2.0]), 1.0)
    with pytest.raises(
        ValueError, match=r"high must have a shape that fits low's, \(2,\), got \(3,"
    ):
        Box(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="low must be finite, got -inf"):
        Box(-math.inf, 1.0)
    with pytest.raises(ValueError, match="high must be finite, got 1 NaN or infinite of 2"):
        Box(0.0, torch.tensor([1.0, math.inf]))
    with pytest.raises(TypeError, match=r"high must be a number or a torch.Tensor, got str"):
        Box(0.0, "one")
    with pytest.raises(TypeError, match="low must be a floating-point tensor"):
        Box(torch.tensor([0]), 1.0)
    with pytest.raises(ValueError, match=r"margin must not be negative, got -0.1"):
        Box(0.0, 1.0, margin=-0.1)
    with pytest.raises(TypeError, match="transform must be an nfbook Transform, got AffineFlow"):
        Transformed(AffineFlow(2), AffineFlow(2))
    with pytest.raises(TypeError, match="flow must be an nfbook Flow, got Exp"):
        Transformed(Exp(), Exp())
