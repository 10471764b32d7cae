"""What every transform promises beyond its numbers, whatever its family."""

import gc
import io
import pickle
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from draws import number, rand, seeded
from families import CASES, make, spread
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

from nfbook.flows import (
    CNF,
    FAMILIES,
    IAF,
    MAF,
    NICE,
    HamiltonianFlow,
    NeuralSplineCoupling,
    RealNVP,
    TanhField,
    Transformed,
)
from nfbook.networks import MLP, MaskedMLP, Snapshot
from nfbook.transforms import (
    PLU,
    QR,
    Affine,
    Box,
    Compose,
    Exp,
    Householder,
    MaskedAffineStack,
    Permutation,
    Planar,
    PlanarStack,
    Radial,
    RationalQuadratic,
    Softplus,
    Sylvester,
    plain_forms,
)

F64 = torch.float64
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Those whose layers have networks of their own, with the setting in which a layer is looked at.
NETWORKS = ["nice", "realnvp", "spline-coupling", "maf", "iaf", "spline-autoregressive"]
with_networks = pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in NETWORKS], ids=lambda case: case.name
)


def near(value, expected, tolerance=1e-10):
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)


def both_ways(t, z):
    return *t.call_and_ladj(z), *t.inverse_and_ladj(z)


# ---- the fast forms -----------------------------------------------------------------------------


def fast_transforms():
    """Return one transform of each kind that has a fast form."""
    masked = [MaskedMLP(3, 2, (6,), generator=seeded(k)).double() for k in range(2)]
    flow = make(next(c for c in CASES if c.name == "realnvp"), 3, scale=0.3)
    return {
        "planar": PlanarStack(rand(4, 3), rand(4, 3, seed=1), rand(4, seed=2)),
        "masked affine": MaskedAffineStack(masked),
        "coupling": flow.transform(),
        "spline": NeuralSplineCoupling(3, length=2, generator=seeded()).double().transform(),
    }


class FailOnce(torch.overrides.TorchFunctionMode):
    """Let the first call of one of torch's functions fail."""

    def __init__(self, error):
        self.error, self.failed = error, False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.addcmul and not self.failed:
            self.failed = True
            raise self.error
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["planar", "masked affine", "coupling", "spline"])
def test_a_fault_inside_a_fast_form_reaches_the_user(kind):
    """Only where torch says that it has no such derivative does the plain form take over."""
    t, z = fast_transforms()[kind], rand(5, 3)
    for error in (RuntimeError("a fault"), ValueError("a fault")):
        with pytest.raises(type(error), match="a fault"), FailOnce(error):
            t(z)
    with FailOnce(NotImplementedError()) as mode:
        value = t(z)
    assert mode.failed
    near(value, t(z))


@pytest.mark.parametrize("kind", ["planar", "masked affine", "coupling", "spline"])
def test_plain_forms_take_the_place_of_the_fast_ones(kind):
    t, z = fast_transforms()[kind], rand(5, 3)
    fast = both_ways(t, z)
    with plain_forms():
        plain = both_ways(t, z)
    for a, b in zip(fast, plain, strict=True):
        near(a, b)
    z.requires_grad_()
    by_hand = any_by_hand(t(z))
    with plain_forms():
        plainly = any_by_hand(t(z))
    assert by_hand
    assert not plainly
    assert any_by_hand(t(z)), "the switch is off again"


def any_by_hand(value):
    """Return whether a function of nfbook's own is in a value's graph."""
    seen, todo = set(), [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        todo += [parent for parent, _ in node.next_functions]
    return False


@each
def test_batched_gradients(case):
    """jacobian(vectorize=True) batches the gradients of one graph."""
    if not case.vmaps:
        return
    flow = make(case, 2, context=2, scale=0.3)
    context = rand(3, 2)
    t = flow(context).transform

    def function(z):
        return t.call_and_ladj(z)

    z = rand(3, 2)
    slow = torch.autograd.functional.jacobian(function, z)
    fast = torch.autograd.functional.jacobian(function, z, vectorize=True)
    for a, b in zip(fast, slow, strict=True):
        near(a, b)


# ---- what a transform is made of ----------------------------------------------------------------


@each
def test_a_gradient_after_an_optimisers_step_is_that_before_it(case):
    """Also by the context, as where an encoder makes it."""
    flow, gradients = make(case, 2, 2, scale=0.3), []
    x, optimiser = rand(4, 2), torch.optim.SGD(flow.parameters(), lr=0.1)
    for parameter in flow.parameters():
        parameter.grad = torch.ones_like(parameter)
    context = rand(4, 2).requires_grad_()
    parameters = list(flow.parameters())
    for step in (False, True):
        q = flow(context)
        if step:
            optimiser.step()
        gradients.append(torch.autograd.grad(q.log_prob(x).sum(), [context, *parameters]))
    for a, b in zip(*gradients, strict=True):
        near(a, b)


@each
def test_loading_leaves_a_distribution_as_it_was(case):
    options = {"order": "random"} if case.name in ("maf", "iaf", "spline-autoregressive") else {}
    if case.name in ("nice", "realnvp", "spline-coupling"):
        options = {"mask": "halves"}
    case = replace(case, options=(*case.options, *options.items()))
    flow, other = (make(case, 3, scale=0.3, seed=seed) for seed in (0, 1))
    changed = {
        name: value.flip(0) if value.dim() == 1 and not value.is_floating_point() else value
        for name, value in other.state_dict().items()
    }
    z, q = rand(4, 3), flow()
    with torch.no_grad():
        before = q.transform(z), q.log_prob(z)
        flow.load_state_dict(changed)
        near((q.transform(z), q.log_prob(z)), before, 0)
        assert not torch.allclose(flow().transform(z), before[0])


def test_loading_leaves_what_is_fixed_and_what_is_called_as_it_was():
    for make_one in (
        lambda shift: Transformed(RealNVP(2), Affine(torch.full((2,), shift))),
        lambda shift: HamiltonianFlow(Shifted(shift), 1),
    ):
        flow, other = make_one(1.0), make_one(2.0)
        z, q = torch.ones(2), flow()
        before = q.transform(z)
        flow.load_state_dict(other.state_dict())
        assert torch.equal(q.transform(z), before)
        assert not torch.equal(flow().transform(z), before)


class Shifted(nn.Module):
    """A Gaussian whose mean is a buffer."""

    def __init__(self, mean):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, z):
        return -0.5 * (z - self.mean).square().sum(-1)


def test_a_batch_norm_goes_on_counting_where_it_is():
    def conditioner(inputs, outputs, context):
        return Last(nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)))

    flow = NICE(2, length=1, conditioner=conditioner)
    flow().log_prob(torch.randn(5, 2, generator=seeded()))
    assert flow.conditioners[0].network[1].num_batches_tracked == 1


class Last(nn.Module):
    """A conditioner that takes no context."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, kept, context):
        return self.network(kept)


class Waiting(nn.Module):
    """An activation that waits within its call until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def forward(self, x):
        self.entered.set()
        self.go_on.wait(5)
        return x


@pytest.mark.parametrize("bind", [MLP.bind, MaskedMLP.bind, Snapshot])
def test_what_a_snapshot_lends_is_seen_in_no_other_thread(bind):
    kind = MaskedMLP if bind is MaskedMLP.bind else MLP
    network, found = kind(2, 2, (4,), activation=Waiting, generator=seeded()), []
    waiting = next(each for each in network.modules() if isinstance(each, Waiting))
    snapshot, x = Snapshot(network), torch.ones(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    one = threading.Thread(target=lambda: snapshot(x))
    two = threading.Thread(target=lambda: found.append(bind(network)))
    one.start()
    assert waiting.entered.wait(5)
    two.start()
    two.join(0.05)
    waiting.go_on.set()
    one.join(5)
    two.join(5)
    near(found[0](x), network(x))


class Own(nn.Module):
    """A conditioner of one's own."""

    def __init__(self, inputs, outputs, context):
        super().__init__()
        self.one = nn.Linear(inputs + context, outputs)

    def forward(self, kept, context):
        return self.one(torch.cat([kept, context.expand(*kept.shape[:-1], -1)], -1)).tanh()


@pytest.mark.parametrize("family", [NICE, RealNVP, NeuralSplineCoupling])
def test_conditioners_of_ones_own_are_held_too(family):
    flow = family(3, 2, length=2, conditioner=Own).double()
    x, context = rand(4, 3), rand(2)
    q = flow(context)
    before = q.log_prob(x).detach()
    given = {n: (p + 0.1).detach().requires_grad_() for n, p in flow.named_parameters()}
    value = functional_call(flow, given, (context,)).log_prob(x)
    own = [g for n, g in given.items() if "one" in n]
    assert all(g.count_nonzero() for g in torch.autograd.grad(value.sum(), own))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1
    assert torch.equal(q.log_prob(x), before)
    near(flow(context).log_prob(x), value)


# ---- layers that someone has changed ------------------------------------------------------------


def last_layers(flow):
    networks = flow.conditioners if hasattr(flow, "conditioners") else flow.networks
    return [(net.layers, net.layers[-1]) for net in networks]


class Doubled(nn.Module):
    def forward(self, value):
        return 2 * value


class Adapter(nn.Module):
    """A layer in the place of another one, that adds one to what comes out."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


class PlusOne:
    """With the class of a layer, an adapter that is a subclass."""

    def forward(self, x):
        return super().forward(x) + 1


@with_networks
@pytest.mark.parametrize(
    "change", ["hook", "pre-hook", "parametrization", "pruning", "adapter", "subclass"]
)
def test_what_was_done_to_a_layer_is_honoured(case, change):
    """Each change equals one of the parameters, for which the flow is known to be right."""
    flow, twin = (make(case, 3, context=2, scale=0.3) for _ in range(2))
    x, context = rand(4, 3), rand(4, 2)
    with torch.no_grad():
        for layers, (_, twins) in zip(last_layers(flow), last_layers(twin), strict=True):
            where, layer = layers
            if change == "hook":
                layer.register_forward_hook(lambda module, args, output: output + 1)
                twins.bias += 1
            elif change == "pre-hook":
                layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
                twins.weight *= 2
            elif change == "parametrization":
                parametrize.register_parametrization(layer, "weight", Doubled())
                twins.weight *= 2
            elif change == "pruning":
                prune.l1_unstructured(layer, "weight", amount=0.5)
                twins.weight.copy_(layer.weight)
            elif change == "subclass":
                layer.__class__ = type("Adapted", (PlusOne, type(layer)), {})
                twins.bias += 1
            else:
                where[-1] = Adapter(layer)
                twins.bias += 1
    t, expected = flow(context).transform, twin(context).transform
    for a, b in zip(both_ways(t, x), both_ways(expected, x), strict=True):
        near(a, b)
    with torch.no_grad():
        near(t.inv(x), expected.inv(x))


@pytest.mark.parametrize(
    "change", ["hook", "global hook", "activation's hook", "pruning", "adapter", "activation"]
)
def test_what_was_done_to_a_layer_of_a_continuous_flow_is_honoured(change):
    flow, twin = (CNF(2, 2, steps=4, generator=seeded()).double() for _ in range(2))
    for each in (flow, twin):
        spread(each, 0.3)
    x, context, calls = rand(4, 2), rand(4, 2), []
    layers, others = (each.networks[0].layers for each in (flow, twin))
    handle = None
    with torch.no_grad():
        if change == "hook":
            layers[1].register_forward_hook(lambda module, args, output: output + 1)
            others[1].bias += 1
        elif change == "global hook":
            handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
        elif change == "activation's hook":
            layers[0].register_forward_hook(lambda *_: calls.append(1))
        elif change == "pruning":
            prune.l1_unstructured(layers[1], "weight", amount=0.5)
            others[1].weight.copy_(layers[1].weight)
            layers[1].weight_orig *= 2
            others[1].weight *= 2
        elif change == "adapter":
            layers[1] = Adapter(layers[1])
            others[1].bias += 1
        else:
            layers[0] = nn.Identity()
            network = twin.networks[0]
            by_hand = nn.Linear(5, 64).double()
            by_hand.weight.copy_(
                torch.cat([network.first.weight, network.first.context_weight], -1)
            )
            by_hand.bias.copy_(network.first.bias)
            t = number(0.3)
            given = torch.cat([x, t.expand(4, 1), context], -1)
            for layer in (by_hand, others[1], others[2], others[3]):
                given = layer(given)
            near(flow.velocity(t.expand(4), x, context), given)
            return
    try:
        q, expected = flow(context), twin(context)
        value, wanted = q.log_prob(x), expected.log_prob(x)
        near(value, wanted)
        near(q.sample(generator=seeded()), expected.sample(generator=seeded()))
        assert calls or change not in ("global hook", "activation's hook")
    finally:
        if handle:
            handle.remove()


def test_the_adjoint_method_reaches_a_network_that_must_be_called():
    flows = [CNF(2, 2, adjoint=adjoint, generator=seeded()).double() for adjoint in (True, False)]
    x, gradients = rand(4, 2), []
    for flow in flows:
        spread(flow, 0.3)
        flow.networks[0].layers[1].register_forward_hook(lambda module, args, output: output + 1)
        context = rand(4, 2).requires_grad_()
        inputs = [context, *flow.parameters()]
        gradients.append(torch.autograd.grad(flow(context).log_prob(x).sum(), inputs))
    for a, b in zip(*gradients, strict=True):
        near(a, b, 1e-4)


def test_a_hook_on_a_masked_networks_activation_sees_whole_layers():
    flow, shapes = MAF(3, generator=seeded()), []
    flow.networks[0].activation.register_forward_hook(
        lambda module, args, output: shapes.append(output.shape)
    )
    flow().sample((5,))
    assert set(shapes) == {torch.Size([5, 64])}


@pytest.mark.parametrize("family", [RealNVP, MAF, IAF])
def test_global_hooks_and_backward_hooks_are_called(family):
    flow, x = family(3), torch.ones(2, 3)
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        flow().transform(x)
    finally:
        handle.remove()
    assert len(calls) > 10
    layer = last_layers(flow)[0][1]
    layer.register_full_backward_hook(lambda *_: calls.append(2))
    flow().transform(x).sum().backward()
    assert 2 in calls


# ---- points -------------------------------------------------------------------------------------


@each
def test_points_of_another_size_kind_or_layout(case):
    size = 5
    t = make(case, size).transform()
    for name, function in (("z", t.call_and_ladj), ("y", t.inverse_and_ladj), ("z", t)):
        with pytest.raises(ValueError, match=rf"{name} must have shape \(\*, 5\), got \(5, 4\)"):
            function(torch.zeros(5, 4))
        with pytest.raises(ValueError, match=rf"{name} must have shape \(\*, 5\), got \(\)"):
            function(torch.tensor(0.0))
        with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got list"):
            function([0.0] * 5)
        with pytest.raises(TypeError, match=f"{name} must be a floating-point tensor, got torch.i"):
            function(torch.zeros(5, dtype=torch.int64))
        with pytest.raises(TypeError, match=f"{name} must be a dense tensor, got one with the lay"):
            function(torch.zeros(2, 5).to_sparse())


@each
def test_a_point_at_infinity_has_density_zero(case):
    flow = make(case, 2, context=2, scale=0.3)
    x, context = rand(5, 2), rand(5, 2)
    far = x.clone()
    far[0, 0], far[2], far[3, 1] = torch.inf, -torch.inf, torch.inf
    parameters = list(flow.parameters())
    value, expected = flow(context).log_prob(far), flow(context).log_prob(x)
    near(value[[1, 4]], expected[[1, 4]], 1e-6 if case.name == "cnf" else 1e-12)
    assert (value[[0, 2, 3]] == -torch.inf).all()
    for a, b in zip(
        torch.autograd.grad(value[[1, 4]].sum(), parameters, retain_graph=True),
        torch.autograd.grad(expected[[1, 4]].sum(), parameters),
        strict=True,
    ):
        near(a, b, 1e-5 if case.name == "cnf" else 1e-10)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), parameters))


# ---- parameters ---------------------------------------------------------------------------------

BAD_SIZES = [
    (lambda: Planar(rand(3), rand(2), rand()), r"u must have shape \(\*, 3\), got \(2,\)"),
    (lambda: Planar(rand(4, 3), rand(3), rand(5)), r"b must have batch dimensions that fit"),
    (lambda: PlanarStack(rand(4, 3), rand(4, 3), rand(3)), r"b must have shape \(\*, 4\), got"),
    (lambda: Radial(rand(), rand(), rand()), r"center must have shape \(\*, D\), got \(\)"),
    (lambda: Householder(rand(3)), r"vectors must have shape \(\*, K, D\), got \(3,\)"),
    (lambda: PLU(rand(3, 2), rand(3)), r"weights must have shape \(\*, D, D\), got \(3, 2\)"),
    (lambda: PLU(rand(3, 3), rand(2)), r"shift must have shape \(\*, 3\), got \(2,\)"),
    (lambda: QR(rand(3, 3), rand(2)), r"shift must have shape \(\*, 3\), got \(2,\)"),
    (lambda: Affine(rand(3), rand(2)), r"log_scale must have shape \(\*, 3\), got \(2,\)"),
    (
        lambda: Sylvester(rand(3, 2), rand(2, 2), rand(3, 3), rand(2)),
        r"r_tilde must have shape \(\*, 2, 2\), got \(3, 3\)",
    ),
]


@pytest.mark.parametrize(("make_one", "message"), BAD_SIZES)
def test_parameters_of_wrong_sizes(make_one, message):
    with pytest.raises(ValueError, match=message):
        make_one()


def test_parameters_of_wrong_types():
    for wrong, message in (
        ([1.0, 2.0], "must be a torch.Tensor, got list"),
        (torch.ones(2, dtype=torch.int64), "must be a floating-point tensor, got torch.int64"),
    ):
        for make_one in (
            lambda w: Planar(w, rand(2), rand()),
            lambda w: Radial(w, rand(), rand()),
            Householder,
            lambda w: PLU(w, rand(2)),
            lambda w: QR(w, rand(2)),
            Affine,
            lambda w: Sylvester(w, rand(2, 2), rand(2, 2), rand(2)),
        ):
            with pytest.raises(TypeError, match=message):
                make_one(wrong)
    with pytest.raises(TypeError, match="w and u must have the same dtype"):
        Planar(rand(2), rand(2).float(), rand())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_where_matrices_are_solved_for(dtype):
    half = rand(2, 2).to(dtype)
    for make_one in (
        lambda: PLU(half, half[0]),
        lambda: QR(half, half[0]),
        lambda: Sylvester(half, half, half, half[0]),
    ):
        with pytest.raises(TypeError, match=f"torch.float32 or torch.float64, got {dtype}"):
            make_one()


# ---- inverses and equality ----------------------------------------------------------------------


@each
def test_inverses_are_kept(case):
    t = make(case, 2, scale=0.3).transform()
    inverse = t.inv
    assert inverse.inv is t
    assert t.inv is inverse
    assert t.inv == t.inv
    assert hash(t.inv) == hash(t.inv)
    assert t.cache_size == 0
    assert t.with_cache(1) is t


def test_an_inverse_is_kept_weakly():
    t = Affine(torch.ones(2))
    inverse = weakref.ref(t.inv)
    gc.collect()
    assert inverse() is None, "something holds an inverse that is not in use"
    inverse = t.inv
    del t
    assert inverse.inv.shift.equal(torch.ones(2))
    again = pickle.loads(pickle.dumps(inverse))
    assert again == inverse
    buffer = io.BytesIO()
    torch.save(inverse.inv, buffer)


@each
@pytest.mark.parametrize("context", [None, rand(3, 2)], ids=["free", "given a context"])
def test_transforms_of_one_flow_are_equal(case, context):
    flow = make(case, 2, 0 if context is None else 2, scale=0.3)
    one, two = (flow(context).transform for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one.inv == two.inv
    with torch.no_grad():
        next(flow.parameters()).add_(0.1)
    assert one != flow(context).transform


def test_transforms_of_networks_that_must_be_called_are_equal():
    for flow in (RealNVP(2), MAF(2), CNF(2), HamiltonianFlow(Shifted(1.0), 1)):
        for layer in [each for each in flow.modules() if isinstance(each, nn.Linear)]:
            layer.register_forward_hook(lambda module, args, output: output)
        assert flow().transform == flow().transform


def test_equality_is_that_of_torchs_transforms():
    """The same class and equal parameters."""
    one, two = torch.ones(2), torch.full((2,), 2.0)
    assert Affine(one) == Affine(torch.ones(2))
    assert Affine(one) != Affine(two)
    assert Affine(one) != Affine(one, two)
    assert Affine(one) != Affine(one).inv
    assert Affine(one).inv == Affine(one).inv
    assert Exp() == Exp()
    assert Exp() != Softplus()
    assert Compose([Exp(), Affine(one)]) == Compose([Exp(), Affine(one)])
    assert Compose([Exp(), Affine(one)]) != Compose([Affine(one), Exp()])
    assert Box(0.0, one) == Box(0.0, torch.ones(2))
    assert Permutation.reversal(2) != Permutation(torch.arange(2))
    assert len({Affine(one), Affine(torch.ones(2)), Affine(two)}) == 2
    assert RationalQuadratic(rand(2, 5), 5.0, 1e-3) != RationalQuadratic(rand(2, 5), 4.0, 1e-3)


# ---- autocast, export and devices ---------------------------------------------------------------


@each
def test_autocast(case):
    """Forward within it, backward outside or inside: values and gradients are those without."""
    flow = make(case, 4 if 5 in case.dims else 2, context=2, scale=0.3).float()
    x, context = rand(6, flow.features).float(), rand(6, 2).float()
    parameters = list(flow.parameters())

    def values():
        q = flow(context)
        draws, log_prob = q.rsample_and_log_prob(generator=seeded())
        return torch.stack([q.log_prob(x), draws.square().sum(-1) + log_prob])

    expected = values()
    slopes = torch.autograd.grad(expected.sum(), parameters)
    for inside in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = values()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            gradients = torch.autograd.grad(value.sum(), parameters)
        assert value.dtype == torch.float32
        near(value, expected, 1e-4)
        # Within it torch rounds the products of its own backward passes.
        tolerance = 5e-2 if inside else 1e-3
        for a, b in zip(gradients, slopes, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() <= tolerance * (1 + b.norm())


@pytest.mark.parametrize("family", ["planar", "realnvp", "iaf"])
def test_backward_passes_by_hand_are_exact_within_autocast(family):
    flow = make(next(c for c in CASES if c.name == family), 3, scale=0.3).float()
    z, parameters = rand(6, 3).float(), list(flow.parameters())

    def gradients():
        y, ladj = flow().transform.call_and_ladj(z)
        return torch.autograd.grad(y.square().sum() + ladj.sum(), parameters)

    expected = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = gradients()
    for a, b in zip(within, expected, strict=True):
        near(a, b, 1e-6)


def test_values_alone_take_no_log_determinant(monkeypatch):
    flow = CNF(3, generator=seeded())
    z, t = rand(5, 3).float(), Compose([flow.transform(), Permutation.reversal(3)])
    expected = t(z), t.inv(z)

    def refuse(*_):
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(TanhField, "with_divergence", refuse)
    near((t(z), t.inv(z)), expected)
    near((t.inv(z), t.inv.inv(z)), expected[::-1])
    assert flow().sample((2,)).shape == (2, 3)


FAST = ["planar", "realnvp", "maf", "spline-coupling"]


@pytest.mark.parametrize("case", [c for c in CASES if c.name in FAST], ids=lambda case: case.name)
def test_export(case):
    """Of the flows with hand-written fast forms: export follows plain torch as compile does."""

    class LogProb(nn.Module):
        def __init__(self, flow):
            super().__init__()
            self.flow = flow

        def forward(self, x, context):
            return self.flow(context).log_prob(x)

    module = LogProb(make(case, 2, context=2, length=1, scale=0.3))
    x, context = rand(4, 2), rand(4, 2)
    exported = torch.export.export(module, (x, context))
    near(exported.module()(x, context), module(x, context))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("context", [0, 1])
def test_all_is_made_on_the_default_device(name, context):
    with torch.device("meta"):
        flow = FAMILIES[name](2, context=context, length=2)
    tensors = [*flow.parameters(), *flow.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    here = FAMILIES[name](2, context=context, length=2)
    assert {k: v.shape for k, v in flow.state_dict().items()} == {
        k: v.shape for k, v in here.state_dict().items()
    }


def test_sizes_are_printed():
    assert "in_features=2, out_features=5, context=3" in repr(MLP(2, 5, context=3))
    masked = repr(MaskedMLP(3, 2, (8,), context=4))
    assert "features=3, outputs=2, context=4" in masked
    assert "in_features=8, out_features=6" in masked


def test_networks_of_different_sizes_make_no_stack():
    with pytest.raises(ValueError, match=r"must all have the same features, got \[2, 3\]"):
        MaskedAffineStack([MaskedMLP(2, 2), MaskedMLP(3, 2)])
