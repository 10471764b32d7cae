"""Coupling layers and their flows: known values, any mask, any conditioner, and the fast stack."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.utils.checkpoint
from draws import rand, seeded
from families import spread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import vmap

from nfbook.flows import NICE, CouplingFlow, NeuralSplineCoupling, RealNVP
from nfbook.networks import MLP
from nfbook.transforms import Additive, Compose, Coupling, Partition, ScaleAndShift, Spline
from nfbook.transforms.fast.coupling import AffineCouplingStack

F64 = torch.float64
ELEMENTWISE = [Additive(), ScaleAndShift(), Spline(4)]


def near(value, expected, tolerance):
    off = (value - expected).detach().abs().max()
    assert off <= tolerance, f"off by {float(off):.3g}"


def mask_of(*stays):
    return torch.tensor(stays, dtype=torch.bool)


class Counted(nn.Module):
    """A conditioner of the user's own, which counts its calls."""

    def __init__(self, inputs, outputs, context):
        super().__init__()
        self.linear = nn.Linear(inputs + context, outputs, dtype=F64)
        self.calls = 0

    def forward(self, kept, context):
        self.calls += 1
        both = kept if context is None else torch.cat([kept, context.expand(len(kept), -1)], -1)
        return self.linear(both).sin()


# ---- one layer ------------------------------------------------------------------------------


def test_known_values_of_an_additive_layer():
    """Dinh et al.'s (2015) layer by hand: y2 = z2 + m(z1), and no change of volume."""
    layer = Coupling(mask_of(True, False), lambda kept, _: kept**2, Additive())
    y, ladj = layer.call_and_ladj(torch.tensor([3.0, 1.0]))
    assert (y.tolist(), float(ladj)) == ([3.0, 10.0], 0.0)
    z, ladj = layer.inverse_and_ladj(y)
    assert (z.tolist(), float(ladj)) == ([3.0, 1.0], 0.0)


def test_known_values_of_an_affine_layer():
    """Shifts come first in the parameters, then the raw log-scales."""
    # The soft bound r / (1 + |r|) of these is ±1/2.
    parameters = torch.tensor([10.0, 20.0, 1.0, -1.0], dtype=F64)
    layer = Coupling(mask_of(False, True, False), lambda *_: parameters, ScaleAndShift(1.0))
    y, ladj = layer.call_and_ladj(torch.tensor([2.0, 7.0, 3.0], dtype=F64))
    half = torch.tensor(0.5, dtype=F64).exp()
    near(y, torch.stack([10 + 2 * half, 0 * half + 7, 20 + 3 / half]), 1e-14)
    near(ladj, torch.zeros(()), 1e-15)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_mask(data):
    """What stays, stays; the Jacobian is that of a coupling; the inverse is one."""
    stays = data.draw(st.lists(st.booleans(), min_size=1, max_size=6).filter(lambda m: not all(m)))
    univariate = data.draw(st.sampled_from(ELEMENTWISE))
    context = data.draw(st.sampled_from([0, 2] if any(stays) else [2]))
    seed = data.draw(st.integers(0, 100))
    mask, count = mask_of(*stays), stays.count(False)
    network = MLP(
        sum(stays), count * univariate.size, (8,), context=context, generator=seeded(seed)
    )
    c = rand(2, seed=seed) if context else None
    layer = Coupling(mask, network.double(), univariate, c)
    z = rand(5, len(stays), seed=seed + 1)
    y, ladj = layer.call_and_ladj(z)
    assert torch.equal(y[:, mask], z[:, mask])
    back, inverse_ladj = layer.inverse_and_ladj(y)
    near(back, z, 1e-10)
    near(inverse_ladj, -ladj, 1e-10)
    jacobian = torch.autograd.functional.jacobian(layer, z[0])
    assert torch.equal(jacobian[mask][:, mask], torch.eye(sum(stays), dtype=F64))
    assert torch.equal(jacobian[mask][:, ~mask], torch.zeros(sum(stays), count, dtype=F64))
    moved = jacobian[~mask][:, ~mask]
    assert torch.equal(moved, torch.diag(moved.diagonal()))
    near(moved.diagonal().log().sum(), ladj[0], 1e-12)


@pytest.mark.parametrize("univariate", ELEMENTWISE, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_layer_at_parameters_of_scale_20(univariate, dtype):
    """The inverse has the very same parameters, so it loses no more than one step's rounding."""
    mask = mask_of(True, False, True, False, False)
    network = MLP(2, 3 * univariate.size, (8, 8), generator=seeded()).to(dtype)
    layer = Coupling(mask, spread(network, 20.0), univariate)
    z = rand(1000, 5).to(dtype)
    (_, ladj), (_, inverse_ladj) = layer.call_and_ladj(z), layer.inverse_and_ladj(layer(z))
    # What stays and the network's outputs are the same, so only these differ by rounding.
    y, back = layer(z), layer.inv(layer(z))
    assert torch.equal(back[:, mask], z[:, mask])
    size = 1 + y[:, ~mask].abs()
    if isinstance(univariate, ScaleAndShift):
        # y and its terms are rounded; a term that cancels in y is as large as what it is of z.
        size = size / layer.given(z[:, mask]).log_scale.exp() + z[:, ~mask].abs()
    if isinstance(univariate, Spline):
        size = (size + univariate.bound) / univariate.slope
    assert bool(((back - z)[:, ~mask].abs() <= 4 * torch.finfo(dtype).eps * size).all())
    if not isinstance(univariate, Spline):
        assert torch.equal(inverse_ladj, -ladj)


def test_the_conditioner_is_called_once():
    conditioner = Counted(1, 2 * 2, 3)
    layer = Coupling(mask_of(False, True, False), conditioner, ScaleAndShift(), rand(3))
    layer.call_and_ladj(rand(4, 3))
    assert conditioner.calls == 1
    layer.inverse_and_ladj(rand(4, 3))
    assert conditioner.calls == 2


def test_a_point_may_have_many_contexts():
    network = MLP(1, 1, (4,), context=2, generator=seeded()).double()
    layer = Coupling(mask_of(True, False), network, Additive(), rand(6, 2))
    y = layer(rand(2))
    assert y.shape == (6, 2)
    near(layer.inv(y), rand(2).expand(6, 2), 1e-14)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False], TypeError, "mask must be a torch.Tensor, got list"),
        (torch.tensor([1, 0]), TypeError, "mask must be a tensor of booleans, got torch.int64"),
        (torch.zeros(2, 2) > 0, ValueError, r"mask must have shape \(D,\), got \(2, 2\)"),
        (torch.zeros(0) > 0, ValueError, r"mask must have shape \(D,\), got \(0,\)"),
        (mask_of(True, True), ValueError, "mask must be False somewhere, got True everywhere"),
    ],
)
def test_bad_masks(mask, error, message):
    with pytest.raises(error, match=message):
        Coupling(mask, lambda kept, _: kept, Additive())


def test_a_conditioner_must_be_a_function():
    with pytest.raises(TypeError, match="conditioner must be a function, got NoneType"):
        Coupling(mask_of(True, False), None, Additive())


def test_a_partition_follows_its_module():
    layer = nn.Module()
    layer.partition = Partition(mask_of(True, False, True))
    assert layer.to("meta").partition.kept.device.type == "meta"
    split = Partition(mask_of(True, False, True)).groups.split(torch.arange(3.0))
    assert [part.tolist() for part in split] == [[0.0, 2.0], [1.0]]


# ---- flows ----------------------------------------------------------------------------------


def stays_in(flow):
    return [partition.kept.tolist() for partition in flow.partitions]


def test_masks_by_name():
    assert stays_in(NICE(5, length=3)) == [[0, 2, 4], [1, 3], [0, 2, 4]]
    assert stays_in(NICE(5, length=3, mask="halves")) == [[0, 1, 2], [3, 4], [0, 1, 2]]
    assert stays_in(NICE(1, length=2)) == [[], []]
    assert stays_in(NICE(1, length=2, mask="halves")) == [[], []]


def test_masks_as_tensors_take_turns():
    given = [mask_of(True, False, False), mask_of(False, True, True)]
    assert stays_in(RealNVP(3, length=3, mask=given)) == [[0], [1, 2], [0]]


@pytest.mark.parametrize("family", [NICE, RealNVP, NeuralSplineCoupling])
def test_a_loaded_flow_has_the_masks_it_was_saved_with(family):
    saved = spread(family(4, length=2, mask="halves").double(), 0.3)
    loaded = family(4, length=2, mask="alternating").double()
    loaded.load_state_dict(saved.state_dict())
    near(loaded().log_prob(rand(5, 4)), saved().log_prob(rand(5, 4)), 0.0)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ("thirds", ValueError, "mask must be 'alternating', 'halves' or tensors, got 'thirds'"),
        ([], ValueError, "mask must hold at least one tensor, got none"),
        ([None], TypeError, "every mask must be a torch.Tensor, got NoneType"),
        ([mask_of(True)], ValueError, r"every mask must have shape \(2,\), got \(1,\)"),
        ([mask_of(True, True)], ValueError, "mask must be False somewhere"),
    ],
)
def test_bad_masks_of_a_flow(mask, error, message):
    with pytest.raises(error, match=message):
        RealNVP(2, mask=mask)


@pytest.mark.parametrize("family", [NICE, RealNVP, NeuralSplineCoupling])
def test_a_conditioner_of_ones_own(family):
    flow = family(3, 2, length=2, conditioner=Counted).double()
    assert [type(network) for network in flow.conditioners] == [Counted, Counted]
    c = rand(2)
    y, log_prob = flow(c).rsample_and_log_prob((7,))
    near(flow(c).log_prob(y), log_prob, 1e-9)
    assert [network.calls for network in flow.conditioners] == [2, 2]
    assert pickle.loads(pickle.dumps(flow))(c).log_prob(y).equal(flow(c).log_prob(y))


def test_a_conditioner_must_be_made_as_a_module():
    with pytest.raises(TypeError, match="conditioner must be a function, got int"):
        NICE(2, conditioner=5)
    with pytest.raises(TypeError, match="the result of conditioner must be a torch"):
        NICE(2, conditioner=lambda inputs, outputs, context: torch.sin)


@pytest.mark.parametrize("univariate", ELEMENTWISE, ids=lambda e: type(e).__name__)
def test_one_coordinate_has_free_parameters_or_those_of_the_context(univariate):
    flow = spread(CouplingFlow(1, length=2, univariate=univariate).double(), 0.5)
    # One set of parameters for each layer, and nothing else.
    assert [tuple(p.shape) for p in flow.parameters()] == [(univariate.size,)] * 2
    assert bool(((flow().transform(rand(5, 1)) - rand(5, 1)).abs() > 1e-3).all())
    bound = spread(CouplingFlow(1, 2, length=2, univariate=univariate).double(), 0.5)
    y = bound(rand(4, 2)).transform(torch.zeros(4, 1, dtype=F64))
    assert len(y.detach().unique()) == 4


def test_nice_changes_volume_by_its_scales_alone():
    flow = spread(NICE(3, length=4).double(), 0.5)
    z = rand(6, 3)
    y, ladj = flow().transform.call_and_ladj(z)
    raw = flow.scaling()["log_scale"]
    near(ladj, ScaleAndShift()(torch.stack([0 * raw, raw], -1)).log_scale.sum(), 1e-14)
    # The paper's order: the layers first on the way from data to noise, the scales last.
    scales = (raw / (1 + raw.abs() / torch.tensor(1000.0, dtype=F64).log())).exp()
    layers = CouplingFlow.transform(flow)
    near(flow().transform.inv(y), layers.inv(y) / scales, 1e-12)


def test_thirty_layers_do_not_overflow():
    flow = spread(RealNVP(4, length=30).float(), 0.2)
    for scale in (1.0, 100.0):
        y = scale * rand(100, 4).float()
        log_prob = flow().log_prob(y)
        z, ladj = flow().transform.inverse_and_ladj(y)
        assert bool(ladj.isfinite().all())
        assert bool(z.isfinite().all())
        assert bool((ladj.abs() <= 30 * 4 * 3).all())
        assert not bool(log_prob.isnan().any())


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_spline_flow_does_not_break_in_float32(scale):
    """Networks whose outputs are of scale 20: finite values and gradients, and a round trip."""
    flow = NeuralSplineCoupling(6, length=3, generator=seeded())
    with torch.no_grad():
        for network in flow.conditioners:
            noise = torch.randn(network.layers[-1].bias.shape, generator=seeded(1))
            network.layers[-1].bias.copy_(scale * noise)
    y = 2 * rand(2000, 6).float()
    log_prob = flow().log_prob(y)
    assert bool(log_prob.isfinite().all())
    log_prob.mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters() if p.numel())
    one_layer = Compose(flow().transform.transforms[:1])
    near(one_layer.inv(one_layer(y)), y, 1e-3)


# ---- the stack ------------------------------------------------------------------------------


def stack_and_inputs(features, context, length, mask, shapes, seed=0, family=RealNVP):
    flow = family(features, context, length, (8, 8), mask=mask, generator=seeded(seed))
    flow = spread(flow.double(), 0.4, seed)
    c = rand(*shapes[1], context, seed=seed).requires_grad_() if context else None
    z = rand(*shapes[0], features, seed=seed + 1).requires_grad_()
    stack = flow.transform(c)
    if family is NICE:
        stack = stack.transforms[1]
    assert isinstance(stack, AffineCouplingStack)
    used = [p for p in flow.conditioners.parameters() if p.numel()]
    return stack, z, [z, *used, *([c] if context else [])]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_stack_is_its_layers(data):
    """Values and first derivatives, for any batch shapes."""
    shapes = data.draw(
        st.sampled_from([((6,), (6,)), ((5, 6), (6,)), ((), (6,)), ((6,), ()), ((), ())])
    )
    stack, z, inputs = stack_and_inputs(
        data.draw(st.integers(2, 5), "features"),
        data.draw(st.sampled_from([0, 3]), "context"),
        data.draw(st.integers(1, 4), "length"),
        data.draw(st.sampled_from(["alternating", "halves"]), "mask"),
        shapes,
        data.draw(st.integers(0, 100), "seed"),
        data.draw(st.sampled_from([RealNVP, NICE]), "family"),
    )
    for way in ("call_and_ladj", "inverse_and_ladj"):
        found = []
        for transform in (stack, stack.layers):
            y, ladj = getattr(transform, way)(z)
            total = (y * rand(*y.shape, seed=3)).sum() + (ladj * rand(*ladj.shape, seed=4)).sum()
            gradients = torch.autograd.grad(total, inputs, retain_graph=True)
            found.append((y, ladj, *gradients))
        for fast, plain in zip(*found, strict=True):
            assert fast.shape == plain.shape
            near(fast, plain, 1e-10 * (1 + plain.detach().abs().max()))


@pytest.mark.parametrize("family", [RealNVP, NICE])
@pytest.mark.parametrize("way", ["call_and_ladj", "inverse_and_ladj"])
def test_second_derivatives_of_the_stack(way, family):
    stack, z, _ = stack_and_inputs(3, 2, 2, "alternating", ((3,), (3,)), family=family)
    assert torch.autograd.gradcheck(getattr(stack, way), (z,))
    assert torch.autograd.gradgradcheck(getattr(stack, way), (z,))


def test_the_stack_can_be_mapped_over_contexts_alone():
    flow = spread(RealNVP(3, 2, length=3, hidden_features=(8,)).double(), 0.4)
    contexts, z = rand(6, 2), rand(3)
    mapped = vmap(lambda c: flow(c).transform.call_and_ladj(z))(contexts)
    for i, c in enumerate(contexts):
        for value, single in zip(mapped, flow(c).transform.call_and_ladj(z), strict=True):
            near(value[i], single, 1e-13)


def test_no_stack_where_layers_differ():
    own = RealNVP(3, mask=[mask_of(True, False, False)])
    made = RealNVP(3, conditioner=lambda inputs, outputs, context: MLP(inputs, outputs))
    for flow in (own, made, RealNVP(1)):
        assert isinstance(flow.transform(), Compose)
    # A mask of names has always two groups that take turns.
    assert isinstance(RealNVP(3, length=1).transform(), AffineCouplingStack)


def test_a_stack_refuses_what_it_would_get_wrong():
    first, second = Partition(torch.tensor([True, False])), Partition(torch.tensor([False, True]))
    networks = [MLP(1, 2, (8,)), MLP(1, 2, (8,))]
    make = AffineCouplingStack
    with pytest.raises(TypeError, match=r"every network's activation must be a torch\.nn\.ReLU"):
        make([first, second], [MLP(1, 2, (8,), activation=nn.Tanh)] * 2, bound=3.0)
    with pytest.raises(ValueError, match="networks must be one for each of the partitions, got 0"):
        make([], [], bound=3.0)
    with pytest.raises(ValueError, match="networks must be one for each of the partitions, got 2"):
        make([first], networks, bound=3.0)
    with pytest.raises(ValueError, match=r"must all have the same number of layers, got \[2, 4\]"):
        make([first, second], [networks[0], MLP(1, 2, (8, 8))], bound=3.0)
    with pytest.raises(ValueError, match=r"bound must be positive, got 0\.0"):
        make([first, second], networks, bound=0.0)


def test_checkpoints_of_memory():
    flow, y = RealNVP(3), torch.ones(4, 3)
    for parameter in flow.parameters():
        parameter.data += 0.1
    kept = torch.autograd.grad(flow().log_prob(y).sum(), flow.conditioners[0].first.bias)
    again = torch.utils.checkpoint.checkpoint(
        lambda value: flow().log_prob(value).sum(), y, use_reentrant=False
    )
    assert torch.equal(torch.autograd.grad(again, flow.conditioners[0].first.bias)[0], kept[0])
