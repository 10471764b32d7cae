"""What every transform promises beyond its numbers, whatever its family."""

import gc
import io
import pickle
import weakref

import pytest
import torch
from draws import rand, seeded
from families import CASES, make
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune

from nfbook.flows import FAMILIES, IAF, MAF, NICE, NeuralSplineCoupling, RealNVP
from nfbook.networks import MLP, MaskedMLP
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
    if case.name == "cnf":
        return
    size = max(case.dims)
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
    if case.name == "cnf":
        return
    flow = make(case, 4 if 5 in case.dims else 2, context=2, scale=0.3, dtype=torch.float32)
    x, context = rand(6, flow.features).float(), rand(6, 2).float()
    parameters = list(flow.parameters())
    expected = flow(context).log_prob(x)
    slopes = torch.autograd.grad(expected.sum(), parameters)
    for inside in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = flow(context).log_prob(x)
            draws, log_prob = flow(context).rsample_and_log_prob()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            gradients = torch.autograd.grad(value.sum(), parameters)
        assert {value.dtype, draws.dtype, log_prob.dtype} == {torch.float32}
        near(value, expected, 1e-2)
        for a, b in zip(gradients, slopes, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() <= 2e-2 * (1 + b.norm())


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
