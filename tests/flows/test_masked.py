"""Masked networks: who sees whom, at what scale, and the same network coordinate by coordinate."""

import pytest
import torch
from draws import rand, seeded
from torch import nn

from nfbook.flows import MAF
from nfbook.networks import MLP, ConditionalParameters, MaskedLinear, MaskedMLP
from nfbook.networks.masked import Steps, units_by_degree
from nfbook.transforms import Permutation, dequantise

F64 = torch.float64
# Features, widths, context: wide, narrow, very narrow, uneven, none, a single coordinate.
SHAPES = [
    (5, (16,), 0),
    (5, (16, 11), 3),
    (6, (3,), 0),
    (6, (3, 4), 2),
    (7, (2, 9, 3), 2),
    (4, (1,), 0),
    (4, (1, 1), 2),
    (6, (), 0),
    (6, (), 2),
    (1, (4,), 0),
    (1, (4, 3), 2),
]
each_shape = pytest.mark.parametrize(("features", "hidden", "context"), SHAPES)


def network(features, hidden, context, *, outputs=2, order=None, activation=nn.Tanh, seed=0):
    """Return a network in float64 whose units are all at work."""
    if order == "random":
        order = torch.randperm(features, generator=seeded(seed)).tolist()
    return MaskedMLP(
        features,
        outputs,
        hidden,
        context=context,
        order=order,
        activation=activation,
        generator=seeded(seed),
    ).double()


def layers_of(net):
    return [net.first, *net.layers]


def influences(net, seed=3):
    """Return |derivatives| of the outputs by x, `(D, P, D)`, coordinates as they come in order."""
    x = rand(net.features, seed=seed)
    c = rand(net.context, seed=seed + 1) if net.context else None
    jacobian = torch.autograd.functional.jacobian(lambda value: net(value, c), x).abs()
    return jacobian[net.order][:, :, net.order]


def check_autoregressive(net):
    """No parameter of a coordinate depends on that coordinate or on a later one, not even a bit."""
    below = influences(net).permute(1, 0, 2)
    assert torch.equal(below, below.tril(-1)), "a coordinate's parameters see too much"


# ---- who sees whom ------------------------------------------------------------------------------


@each_shape
@pytest.mark.parametrize("order", [None, "random"])
def test_jacobian_is_strictly_triangular(features, hidden, context, order):
    check_autoregressive(network(features, hidden, context, order=order))


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("hidden", [(), (4,), (5, 4)])
def test_any_wrong_entry_of_a_mask_is_caught(hidden, context):
    """Each zero of each mask in turn becomes a one."""
    net = network(4, hidden, context, order="random")
    for layer in layers_of(net):
        for row, column in (layer.mask == 0).nonzero().tolist():
            layer.mask[row, column] = 1
            with pytest.raises(AssertionError, match="see too much"):
                check_autoregressive(net)
            layer.mask[row, column] = 0
    check_autoregressive(net)


@pytest.mark.parametrize("hidden", [(20,), (8, 13), ()])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("order", [None, "random"])
def test_wide_networks_see_all_they_may(hidden, context, order):
    below = influences(network(6, hidden, context, order=order))
    seen = torch.ones(6, 6).tril(-1).bool().unsqueeze(1).expand(6, 2, 6)
    assert torch.equal(below > 0, seen)


def test_narrow_networks_see_what_their_degrees_allow():
    """Two units for D = 7 have the degrees 1 and 6: of x_1, and of all but the last coordinate."""
    below = influences(network(7, (2,), 0))[:, 0] > 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[1:, 0] = True
    expected[6, :6] = True
    assert torch.equal(below, expected)


@each_shape
def test_all_parameters_see_the_context(features, hidden, context):
    if not context:
        return
    net = network(features, hidden, context, order="random")
    x = rand(features)
    jacobian = torch.autograd.functional.jacobian(lambda c: net(x, c), rand(context, seed=1))
    if min(hidden, default=2) > 1:
        assert (jacobian != 0).all()
    else:
        assert (jacobian[net.order[0]] != 0).all()


@pytest.mark.parametrize(
    ("features", "hidden", "context"), [s for s in SHAPES if min(s[1], default=2) > 1]
)
def test_no_parameter_is_dead(features, hidden, context):
    """Each weight that its mask lets through has a gradient, and each bias has one."""
    net = network(features, hidden, context, order="random")
    c = rand(5, context, seed=1) if context else None
    net(rand(5, features), c).sin().sum().backward()
    for layer in layers_of(net):
        assert torch.equal(layer.weight.grad != 0, layer.mask != 0)
        assert (layer.bias.grad != 0).all()
    if context:
        assert (net.first.context_weight.grad != 0).all()


def test_first_coordinate_has_free_parameters():
    net = network(3, (8,), 0)
    values = net(rand(10, 3))[:, 0]
    assert (values == values[0]).all()
    assert torch.equal(values[0], net.layers[-1].bias.view(2, 3)[:, 0])


@pytest.mark.parametrize("lowest", [0, 1])
def test_degrees_are_shared_out_evenly(lowest):
    for features in range(2, 9):
        wanted = features - lowest
        for width in range(1, 30):
            sizes = units_by_degree(width, lowest, features)
            assert len(sizes) == features
            assert sum(sizes) == width
            assert sum(sizes[:lowest]) == 0
            used = sizes[lowest:]
            if width >= wanted:
                assert max(used) - min(used) <= 1
            else:
                assert set(used) == {0, 1}
                assert used[0] == 1
                assert used[-1] == 1 or width == 1
                gaps = torch.diff(torch.tensor([i for i, n in enumerate(used) if n]))
                assert width == 1 or gaps.max() - gaps.min() <= 1


# ---- where they start ---------------------------------------------------------------------------


def test_weights_start_at_the_scale_of_what_is_seen():
    net = MaskedMLP(8, 2, (4000, 40), generator=seeded())
    first, second, _ = layers_of(net)
    for layer in (first, second):
        seen = layer.mask.sum(-1, keepdim=True)
        assert (layer.weight.abs() <= 1 / seen.sqrt() + 1e-7).all()
    weights = (first.weight * first.mask).detach()
    variance = (weights.square().sum(-1)).view(-1)
    for part in variance.split([n for n in net.sizes[0] if n]):
        assert part.mean() == pytest.approx(1 / 3, rel=0.1)  # of uniform numbers on ±1/√n, n times


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_zero_starts_at_zero(hidden):
    net = MaskedMLP(4, 3, hidden, context=2, zero=True, generator=seeded())
    assert net(rand(7, 4).float(), rand(7, 2).float()).count_nonzero() == 0


def test_only_the_generator_is_asked():
    before = torch.get_rng_state()
    first, second = (MaskedMLP(4, 2, (8,), context=2, generator=seeded(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_order_is_saved_with_its_masks():
    net = network(6, (9,), 0, order="random", seed=1)
    other = network(6, (9,), 0, order="random", seed=2)
    assert not torch.equal(net.order, other.order)
    other.load_state_dict(net.state_dict())
    x = rand(3, 6)
    assert torch.equal(net(x), other(x))
    check_autoregressive(other)


# ---- coordinate by coordinate -------------------------------------------------------------------


@each_shape
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_steps_give_the_parameters_of_a_pass(features, hidden, context, batch):
    net = network(features, hidden, context, order="random", outputs=3)
    x, c = rand(*batch, features), rand(*batch, context, seed=1) if context else None
    steps = Steps(net.bind(c), x)
    for i in net.order:
        expected = net(x, c)[..., i, :].reshape(-1, 3).mT
        torch.testing.assert_close(steps.parameters(), expected, rtol=1e-13, atol=1e-14)
        steps.append(x[..., i].reshape(-1))
    assert torch.equal(steps.x(), x)


def test_steps_broadcast_points_and_contexts():
    net = network(4, (6,), 2, order="random")
    for points, contexts in (((5, 3), (3,)), ((), (3,)), ((3,), ()), ((1, 3), (5, 1))):
        x, c = rand(*points, 4), rand(*contexts, 2, seed=1)
        steps, expected = Steps(net.bind(c), x), net(x, c)
        wide = x.expand(*expected.shape[:-1])
        for i in net.order:
            now = steps.parameters().mT.reshape(expected[..., i, :].shape)
            torch.testing.assert_close(now, expected[..., i, :], rtol=1e-13, atol=1e-14)
            steps.append(wide[..., i].reshape(-1))


class CountedReLU(nn.ReLU):
    """Counts the units that pass."""

    units = 0

    def forward(self, x):
        type(self).units += len(x)
        return super().forward(x)


@pytest.mark.parametrize("hidden", [(16, 11), (3, 4)])
def test_each_unit_is_evaluated_once(hidden):
    net = network(6, hidden, 0, activation=CountedReLU)
    CountedReLU.units = 0
    steps = Steps(net.bind(), torch.empty(10, 6, dtype=F64))
    for _ in range(6):
        steps.append(steps.parameters()[0])
    assert CountedReLU.units == sum(hidden)


def test_gradients_flow_through_the_steps():
    net = network(3, (5,), 2, order="random")
    parameters = [p.detach().requires_grad_() for p in net.parameters()]
    names = [name for name, _ in net.named_parameters()]

    class FixedPoint(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, c):
            steps = Steps(self.net.bind(c), torch.empty(2, 3, dtype=F64))
            for _ in range(3):
                steps.append(steps.parameters().sum(0))
            return steps.x()

    def function(c, *values):
        given = {f"net.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(FixedPoint(), given, (c,))

    c = rand(2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(function, (c, *parameters))
    assert torch.autograd.gradgradcheck(function, (c, *parameters), fast_mode=True)


# ---- a layer, and bad input ---------------------------------------------------------------------


def test_layer_against_numbers_by_hand():
    layer = MaskedLinear(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 50.0], [3.0, 4.0]]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    assert layer(torch.tensor([10.0, 100.0])).tolist() == [20.5, 429.0]


def test_bad_input():
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        MaskedMLP(0, 2)
    with pytest.raises(ValueError, match="outputs must be at least 1, got 0"):
        MaskedMLP(2, 0)
    with pytest.raises(TypeError, match="context must be an int, got float"):
        MaskedMLP(2, 2, context=1.0)
    with pytest.raises(ValueError, match="every one of hidden_features must be at least 1, got 0"):
        MaskedMLP(2, 2, (4, 0))
    for order in ([0, 1], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"order must hold each of 0, ..., 2 once, got \["):
            MaskedMLP(3, 2, order=order)
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
        MaskedMLP(2, 2, context=3)(torch.zeros(2))
    with pytest.raises(TypeError, match="context must be None for what was made without one"):
        MaskedMLP(2, 2)(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize(
    "make_one",
    [
        lambda generator: MLP(2, 1, generator=generator),
        lambda generator: MaskedMLP(2, 1, generator=generator),
        lambda generator: ConditionalParameters({"b": torch.zeros(2)}, generator=generator),
        lambda generator: MAF(2, order="random", generator=generator),
        lambda generator: Permutation.random(2, generator=generator),
        lambda generator: dequantise(torch.zeros(2, dtype=torch.int64), generator=generator),
    ],
)
def test_a_generator_that_is_none_is_refused(make_one):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        make_one(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_masks_have_the_default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        network = MaskedMLP(3, 2, (6,))
        tensors = [*network.parameters(), *network.buffers()]
        assert {each.dtype for each in tensors if each.is_floating_point()} == {dtype}
        assert network(torch.zeros(4, 3)).dtype == dtype
    finally:
        torch.set_default_dtype(before)
