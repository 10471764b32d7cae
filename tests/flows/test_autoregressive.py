"""Autoregressive transforms and flows: known cases, both directions, and the pass by hand."""

import io
import math

import pytest
import torch
from draws import rand, seeded
from torch import nn
from torch.distributions import MultivariateNormal
from torch.func import grad, jvp, vmap

from nfbook.flows import IAF, MAF, AutoregressiveFlow, NeuralSplineAutoregressive
from nfbook.networks import MaskedMLP
from nfbook.transforms import (
    Additive,
    Autoregressive,
    MaskedAffineStack,
    ScaleAndShift,
    Spline,
)
from nfbook.transforms.fast import masked_affine

F64 = torch.float64
# Features, hidden widths, context.
SHAPES = [
    (5, (8, 9), 0),
    (5, (8,), 3),
    (4, (), 2),
    (4, (), 0),
    (6, (2, 3), 2),
    (1, (4,), 2),
    (1, (), 0),
]
each_shape = pytest.mark.parametrize(("features", "hidden", "context"), SHAPES)
each_tau = pytest.mark.parametrize(
    "tau", [Additive(), ScaleAndShift(3.0), Spline(5)], ids=["additive", "affine", "spline"]
)


def network(features, hidden=(8,), context=0, *, outputs=2, seed=0, scale=0.3):
    """Return a network in float64, in a random order, with noise on all its parameters."""
    generator = seeded(seed)
    order = torch.randperm(features, generator=generator).tolist()
    net = MaskedMLP(
        features, outputs, hidden, context=context, order=order, zero=True, generator=generator
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=F64)
    return net


def stack(features, hidden=(8,), context=0, *, batch=(7,), length=3, bound=3.0, scale=0.3):
    """Return a stack, and points and context that require gradients."""
    nets = [network(features, hidden, context, seed=k, scale=scale) for k in range(length)]
    c = rand(*batch, context, seed=1).requires_grad_() if context else None
    t = MaskedAffineStack(nets, c, bound)
    t.nets = nets
    return t, rand(*batch, features, seed=2).requires_grad_(), c


def leaves(t, z, c):
    """Return all that the values of a stack depend on."""
    parameters = [p for net in t.nets for p in net.parameters()]
    return [z, *parameters] if c is None else [z, c, *parameters]


def close(value, expected, tolerance=1e-12):
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


# ---- known cases --------------------------------------------------------------------------------


def test_against_numbers_by_hand():
    """D = 2, no hidden layer: y_1 = e^a z_1 + b, y_2 = e^(s z_1) z_2 + m z_1, unbounded."""
    net = MaskedMLP(2, 2, (), zero=True).double()
    with torch.no_grad():
        weight = [[9.0, 9], [0.5, 9], [9, 9], [0.4, 9]]  # shifts, then log-scales; 9 is hidden
        net.first.weight.copy_(torch.tensor(weight, dtype=F64))
        net.first.bias.copy_(torch.tensor([0.7, 0.0, -0.2, 0.0], dtype=F64))
    z = torch.tensor([1.5, -2.0], dtype=F64)
    y_1, y_2 = math.exp(-0.2) * 1.5 + 0.7, math.exp(0.4 * 1.5) * -2 + 0.5 * 1.5
    for t in (
        Autoregressive(net, ScaleAndShift(math.inf)),
        MaskedAffineStack([net], bound=math.inf),
    ):
        y, ladj = t.call_and_ladj(z)
        assert y.tolist() == pytest.approx([y_1, y_2], rel=1e-14)
        assert ladj.item() == pytest.approx(-0.2 + 0.4 * 1.5, rel=1e-14)
        close(t.inv(y), z, 1e-14)


def test_a_linear_maf_of_constant_scales_is_gaussian():
    """z = T y + b with T triangular: y has the precision TᵀT and the mean -T⁻¹ b."""
    flow = MAF(4, length=1, hidden_features=(), bound=math.inf).double()
    (net,) = flow.networks
    with torch.no_grad():
        net.first.weight.copy_(rand(8, 4) * torch.tensor([[1.0]] * 4 + [[0.0]] * 4))
        net.first.bias.copy_(0.5 * rand(8, seed=1))
        layer, (shift, log_scale) = net.first, net.first.bias.split(4)
        t = (layer.weight * layer.mask)[:4] + log_scale.exp().diag()
    mean = -torch.linalg.solve_triangular(t, shift.unsqueeze(-1), upper=False).squeeze(-1)
    gaussian = MultivariateNormal(mean.detach(), precision_matrix=(t.mT @ t).detach())
    y = rand(50, 4, seed=2)
    close(flow().log_prob(y), gaussian.log_prob(y))


@pytest.mark.parametrize("order", ["alternating", "random"])
def test_iaf_is_maf_the_other_way_round(order):
    maf = MAF(5, context=2, order=order, generator=seeded(1)).double()
    iaf = IAF(5, context=2, order=order, generator=seeded(2)).double()
    with torch.no_grad():
        for parameter in maf.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(3), dtype=F64)
    iaf.load_state_dict(maf.state_dict())
    z, c = rand(6, 5), rand(6, 2, seed=1)
    y, ladj = iaf.transform(c).call_and_ladj(z)
    back, more = maf.transform(c).inverse_and_ladj(z)
    assert torch.equal(y, back)
    assert torch.equal(ladj, more)
    close(maf.transform(c)(y), z, 1e-9)


def test_additive_layers_preserve_volume():
    flow = AutoregressiveFlow(4, length=2, univariate=Additive(), generator=seeded()).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3
    t = flow().transform
    z = rand(5, 4)
    y, ladj = t.call_and_ladj(z)
    assert ladj.count_nonzero() == 0
    assert not torch.allclose(y, z)
    close(t.inv(y), z, 1e-9)


def test_a_spline_flow_leaves_what_is_outside():
    flow = NeuralSplineAutoregressive(3, bound=2.0, generator=seeded()).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=seeded(1), dtype=F64)
    t, z = flow().transform, torch.tensor([[5.0, -3.0, 2.5], [0.5, -0.1, 1.0]], dtype=F64)
    assert torch.equal(t.inv(z)[0], z[0])
    assert (t.inv(z)[1] - z[1]).abs().min() > 1e-3
    close(t(t.inv(z)), z, 1e-9)


# ---- one layer, both ways -----------------------------------------------------------------------


@each_tau
@pytest.mark.parametrize("context", [0, 2])
def test_jacobian_is_triangular_and_ladj_its_diagonal(tau, context):
    net = network(5, (50, 40), context, outputs=tau.size, scale=0.1)
    t = Autoregressive(net, tau, rand(context, seed=1) if context else None)
    seen = torch.zeros(5, 5, dtype=torch.bool)
    for z in rand(10, 5, seed=2):
        jacobian = torch.autograd.functional.jacobian(t, z)[net.order][:, net.order]
        assert torch.equal(jacobian, jacobian.tril())
        close(t.call_and_ladj(z)[1], jacobian.diagonal().log().sum())
        seen |= jacobian != 0
    assert torch.equal(seen, torch.ones(5, 5).tril().bool())


def one_pass_per_coordinate(t, y):
    """Go back as other libraries do: each pass makes one more coordinate right."""
    z = torch.zeros_like(y)
    for _ in range(y.shape[-1]):
        z, ladj = t.univariate(t.network(z)).inverse_and_ladj(y)
    return z, ladj


@each_tau
@each_shape
def test_inverse_is_that_of_many_passes(tau, features, hidden, context):
    net = network(features, hidden, context, outputs=tau.size)
    t = Autoregressive(net, tau, rand(6, context, seed=1) if context else None)
    y = rand(6, features, seed=2)
    z, ladj = t.inverse_and_ladj(y)
    expected, more = one_pass_per_coordinate(t, y)
    close(z, expected)
    close(ladj, more)
    close(t(z), y)


def test_inverse_has_derivatives():
    """By points, context and parameters, first and second, against differences."""
    t, y, c = stack(3, (6,), 2, batch=(2,), length=2)

    # gradcheck moves the tensors that it is given in place, so the parameters move too.
    def inverse(*_):
        return MaskedAffineStack(t.nets, c).inverse_and_ladj(y)

    assert torch.autograd.gradcheck(inverse, leaves(t, y, c), fast_mode=True)
    assert torch.autograd.gradgradcheck(inverse, (y, c), fast_mode=True)


# ---- large parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
def test_inverse_leaves_no_residual(dtype, scale):
    """However ill-conditioned: t(z) differs from y by the rounding of the terms that make it."""
    eps = torch.finfo(dtype).eps
    for seed in range(5):
        net = network(5, (8,), seed=seed, scale=scale).to(dtype)
        y = rand(50, 5, seed=seed).to(dtype)
        for t in (Autoregressive(net, ScaleAndShift(3.0)), MaskedAffineStack([net])):
            for grads in (True, False):
                with torch.set_grad_enabled(grads):
                    z = t.inv(y)
                    assert torch.isfinite(z).all()
                    shift, raw = net(z).unbind(-1)
                    # The size of the terms that are summed up for the shift and the log-scale.
                    size = z.abs()
                    for layer in (net.first, *net.layers):
                        weight = (layer.weight * layer.mask).abs()
                        size = size @ weight.mT + layer.bias.abs()
                    summed = size.unflatten(-1, (2, 5))
                    terms = summed[:, 0] + y.abs() + shift.abs()
                    # An error of the raw log-scale is damped by the derivative of the bound.
                    slope = (1 + raw.abs() / 3).pow(-2)
                    terms = terms + (y - shift).abs() * (1 + slope * summed[:, 1])
                    assert ((t(z) - y).abs() <= 30 * eps * terms).all()


@pytest.mark.parametrize("family", [MAF, IAF, NeuralSplineAutoregressive])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_raw_parameters_of_scale_twenty(family, dtype):
    """Draws, densities and their gradients are finite; draws have the density that they say."""
    flow = family(6, generator=seeded()).to(dtype)
    with torch.no_grad():
        for net in flow.networks:
            bias = net.layers[-1].bias
            bias += 20 * torch.randn(bias.shape, generator=seeded(1), dtype=F64).to(dtype)
    y, log_prob = flow().rsample_and_log_prob((200,))
    again = flow().log_prob(3 * rand(200, 6).to(dtype))
    for value in (y, log_prob, again):
        assert torch.isfinite(value).all()
    for value in (y, log_prob, again):
        flow.zero_grad()
        value.sum().backward(retain_graph=True)
        assert all(torch.isfinite(p.grad).all() for p in flow.parameters())
    if dtype == F64 and family is not NeuralSplineAutoregressive:
        close(flow().log_prob(y), log_prob, 1e-7)


def test_a_log_scale_has_its_bound():
    net = network(3, (8,), scale=100.0)
    for t in (MaskedAffineStack([net], bound=2.0), MaskedAffineStack([net], bound=2.0).layers):
        ladj = t.call_and_ladj(10 * rand(500, 3))[1]
        assert 5 < ladj.abs().max() < 6
    assert MAF(2, bound=1.5).transform().inv.univariate.bound == 1.5


# ---- the pass by hand ---------------------------------------------------------------------------


@pytest.fixture
def by_hand_only(monkeypatch):
    """Make the plain layers out of reach."""

    def layers(self):
        raise AssertionError("the plain layers were taken")

    monkeypatch.setattr(MaskedAffineStack, "layers", property(layers))


def values_and_gradients(t, z, c):
    y, ladj = t.call_and_ladj(z)
    weights = [rand(*value.shape, seed=5 + i) for i, value in enumerate((y, ladj))]
    total = (y * weights[0]).sum() + (ladj * weights[1]).sum()
    inputs = leaves(t.stack if hasattr(t, "stack") else t, z, c)
    return y, ladj, *torch.autograd.grad(total, inputs, retain_graph=True)


@each_shape
@pytest.mark.parametrize("batch", [(7,), (), (2, 3), (0,)])
def test_by_hand_is_what_the_layers_are(features, hidden, context, batch):
    t, z, c = stack(features, hidden, context, batch=batch)
    plain = t.layers
    plain.stack = type("_", (), {"nets": t.nets})
    for a, b in zip(values_and_gradients(t, z, c), values_and_gradients(plain, z, c), strict=True):
        close(a, b, 1e-11)
    y = t(z).detach()
    expected = plain.inverse_and_ladj(y)
    with torch.no_grad():
        for a, b in zip(t.inverse_and_ladj(y), expected, strict=True):
            close(a, b.detach(), 1e-11)
        for a, b in zip(t.call_and_ladj(z), plain.call_and_ladj(z), strict=True):
            close(a, b, 1e-13)


@pytest.mark.parametrize(
    ("points", "contexts"), [((5, 3), (3,)), ((), (3,)), ((3,), ()), ((1, 3), (5, 1))]
)
def test_points_and_contexts_broadcast(points, contexts):
    nets = [network(4, (6,), 2, seed=k) for k in range(2)]
    z, c = rand(*points, 4).requires_grad_(), rand(*contexts, 2, seed=1).requires_grad_()
    t = MaskedAffineStack(nets, c)
    t.nets = nets
    plain = t.layers
    plain.stack = t
    for a, b in zip(values_and_gradients(t, z, c), values_and_gradients(plain, z, c), strict=True):
        close(a, b)
    with torch.no_grad():
        for a, b in zip(t.inverse_and_ladj(z), plain.inverse_and_ladj(z), strict=True):
            close(a, b)


def test_by_hand_is_what_is_used(by_hand_only):
    for context in (0, 2):
        t, z, c = stack(4, (8, 9), context)
        values_and_gradients(t, z, c)
        with torch.no_grad():
            t.inverse_and_ladj(z)
        flow = MAF(4, context=context).double()
        flow(c).log_prob(z).sum().backward()
        flow(c).sample()


def test_gradients_of_only_one_output_or_none():
    t, z, _ = stack(4)
    for i in range(2):
        expected = torch.autograd.grad(t.layers.call_and_ladj(z)[i].sum(), z)
        value = torch.autograd.grad(t.call_and_ladj(z)[i].sum(), z)
        close(value, expected)
    for parameter in t.nets[0].parameters():
        parameter.requires_grad_(False)
    y, ladj = t.call_and_ladj(z.detach())
    (y.sum() + ladj.sum()).backward()
    assert all(p.grad is None for p in t.nets[0].parameters())
    assert all(p.grad is not None for p in t.nets[1].parameters())


def test_gradients_twice_from_one_graph():
    t, z, _ = stack(4)
    loss = t(z).square().sum()
    first = torch.autograd.grad(loss, z, retain_graph=True)
    close(torch.autograd.grad(loss, z), first, 0)


@pytest.mark.parametrize("context", [0, 2])
def test_second_derivatives(context):
    t, z, c = stack(3, (6, 5), context, batch=(2,), length=2)
    plain = t.layers
    plain.stack = t

    def second(transform):
        y, ladj = transform.call_and_ladj(z)
        total = y.square().sum() + (y.sum(-1) * ladj).sum()
        first = torch.autograd.grad(total, leaves(t, z, c), create_graph=True)
        total = sum(g.sin().sum() for g in first)
        return torch.autograd.grad(total, leaves(t, z, c), retain_graph=True)

    for a, b in zip(second(t), second(plain), strict=True):
        close(a, b, 1e-11)


def test_a_wrong_backward_pass_is_caught(monkeypatch):
    right = masked_affine._back

    def wrong(grad, grad_ladj, *others):
        return right(grad, 1.01 * grad_ladj, *others)

    t, z, _ = stack(3, batch=(2,))
    assert torch.autograd.gradcheck(t.call_and_ladj, (z,))
    monkeypatch.setattr(masked_affine, "_back", wrong)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(t.call_and_ladj, (z,))


# ---- where the pass by hand cannot be taken -----------------------------------------------------


@pytest.mark.parametrize("grads", [True, False])
def test_vmap_over_points_and_contexts(grads):
    t, z, c = stack(4, (6,), 2)
    z, c = z.detach(), c.detach()

    def both(point, condition):
        one = MaskedAffineStack(t.nets, condition)
        return *one.call_and_ladj(point), *one.inverse_and_ladj(point)

    with torch.set_grad_enabled(grads):
        expected = *t.call_and_ladj(z), *t.inverse_and_ladj(z)
        for a, b in zip(vmap(both)(z, c), expected, strict=True):
            close(a, b)
        shared = vmap(both, in_dims=(None, 0))(z[0], c)
        for a, b in zip(shared, both(z[0].expand(7, 4), c), strict=True):
            close(a, b)


def test_vmap_over_sets_of_parameters():
    flows = [MAF(3, length=2, hidden_features=(5,), generator=seeded(k)).double() for k in range(4)]
    for k, flow in enumerate(flows):
        with torch.no_grad():
            for p in flow.parameters():
                p += 0.2 * torch.randn(p.shape, generator=seeded(9 + k), dtype=F64)
    stacked = torch.func.stack_module_state(flows)
    skeleton = MAF(3, length=2, hidden_features=(5,)).double()

    class LogProb(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = skeleton

        def forward(self, y):
            return self.flow().log_prob(y)

    def log_prob(parameters, buffers, y):
        state = {f"flow.{name}": value for name, value in (parameters | buffers).items()}
        return torch.func.functional_call(LogProb(), state, (y,))

    y = rand(6, 3)
    values = vmap(log_prob, in_dims=(0, 0, None))(*stacked, y)
    close(values, torch.stack([flow().log_prob(y) for flow in flows]))
    gradients = vmap(grad(lambda *args: log_prob(*args).sum()), in_dims=(0, 0, None))(*stacked, y)
    for k, flow in enumerate(flows):
        flow().log_prob(y).sum().backward()
        for name, parameter in flow.named_parameters():
            close(gradients[name][k], parameter.grad, 1e-11)


# torch's own forward mode warns of torch's own compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_mode():
    t, z, _ = stack(4)
    z, direction = z.detach(), rand(7, 4, seed=8)
    value, derivative = jvp(t, (z,), (direction,))
    close(value, t(z))
    expected = torch.autograd.functional.jvp(t.layers, z, direction)[1]
    close(derivative, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = t(torch.autograd.forward_ad.make_dual(z, direction))
        close(torch.autograd.forward_ad.unpack_dual(dual).tangent, expected)


def test_compile_takes_the_plain_layers():
    t, z, _ = stack(3, (5,), length=1)
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def both(point):
        return *t.call_and_ladj(point), *t.inverse_and_ladj(point)

    with torch.no_grad():
        values = both(z)
        expected = *t.layers.call_and_ladj(z), *t.layers.inverse_and_ladj(z)
    for a, b in zip(values, expected, strict=True):
        close(a, b)


# ---- flows --------------------------------------------------------------------------------------


def test_orders():
    def of(flow):
        return [net.order.tolist() for net in flow.networks]

    assert of(MAF(3, length=3)) == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]
    first, same = (of(IAF(9, length=4, order="random", generator=seeded(1))) for _ in range(2))
    assert first == same
    assert len({tuple(order) for order in first}) == 4
    assert all(sorted(order) == list(range(9)) for order in first)


@pytest.mark.parametrize("family", [MAF, IAF, NeuralSplineAutoregressive])
def test_random_orders_are_saved(family):
    options = {"length": 2, "hidden_features": (9,), "order": "random"}
    flow = family(6, generator=seeded(1), **options)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.2
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    other = family(6, generator=seeded(2), **options)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    z = rand(5, 6).float()
    assert torch.equal(other().log_prob(z), flow().log_prob(z))
    assert torch.equal(other().transform(z), flow().transform(z))


@pytest.mark.parametrize("family", [MAF, IAF, NeuralSplineAutoregressive])
def test_no_draws_and_no_points(family):
    flow = family(3, context=2)
    q = flow(torch.zeros(4, 2))
    assert q.sample((0,)).shape == (0, 4, 3)
    assert q.rsample((0,)).shape == (0, 4, 3)
    assert q.log_prob(torch.zeros(0, 4, 3)).shape == (0, 4)


def test_bad_input():
    with pytest.raises(ValueError, match="order must be 'alternating' or 'random', got 'reversed'"):
        MAF(2, order="reversed")
    net = MaskedMLP(3, 2)
    with pytest.raises(TypeError, match="network must be a MaskedMLP, got Linear"):
        Autoregressive(nn.Linear(3, 6), ScaleAndShift())
    with pytest.raises(ValueError, match="network must have 1 outputs for each coordinate, got 2"):
        Autoregressive(net, Additive())
    with pytest.raises(ValueError, match="networks must hold at least one network, got none"):
        MaskedAffineStack([])
    with pytest.raises(TypeError, match="every network must be a MaskedMLP, got Linear"):
        MaskedAffineStack([nn.Linear(3, 6)])
    with pytest.raises(TypeError, match=r"activation must be a torch.nn.ReLU, got Tanh"):
        MaskedAffineStack([MaskedMLP(3, 2, activation=nn.Tanh)])
    with pytest.raises(ValueError, match="network must have 2 outputs for each coordinate, got 3"):
        MaskedAffineStack([MaskedMLP(3, 3)])
    with pytest.raises(ValueError, match=r"must all have the same number of layers, got \[2, 3\]"):
        MaskedAffineStack([net, MaskedMLP(3, 2, (8,))])
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 2\), got None"):
        MaskedAffineStack([MaskedMLP(3, 2, context=2)])(torch.zeros(3))
