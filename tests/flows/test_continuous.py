"""Continuous flows: known solutions, the solvers' promises, traces, gradients, and their limits."""

from __future__ import annotations

import functools
import itertools
import pickle
import subprocess
import sys
from dataclasses import replace

import contract
import pytest
import torch
from draws import number, rand, seeded
from families import Case, make, spread

from nfbook.flows import CNF, TanhField
from nfbook.networks import MLP
from nfbook.transforms import Compose, Continuous, VectorField, rademacher

F64 = torch.float64
FIXED = Case("cnf", options=(("steps", 3),))


class Linear(VectorField):
    """dz/dt = A z, whose flow over a time t is exp(t A), with ladj t tr A."""

    def __init__(self, a):
        self.a = a
        self.calls = 0

    def __call__(self, t, z):
        self.calls += 1
        return (self.a @ z.unsqueeze(-1)).squeeze(-1)

    @property
    def parameters(self):
        return (self.a,)


class Power(VectorField):
    """dz/dt = z^n."""

    def __init__(self, n):
        self.n = n

    def __call__(self, t, z):
        return z**self.n


class Clock(VectorField):
    """dz/dt = 2 t z, so z(t) = z(0) exp(t²)."""

    def __call__(self, t, z):
        return 2 * t * z


class Bend(VectorField):
    """A nonlinear field without a divergence of its own."""

    def __call__(self, t, z):
        return torch.sin(z.roll(1, -1) + t) * z.square().sum(-1, keepdim=True).sqrt()


def off(value, expected):
    return float((value - expected).detach().abs().max())


def tanh_field(features=3, hidden=(7, 6), context=None, scale=0.7, seed=0):
    size = 0 if context is None else context.shape[-1]
    network = MLP(features + 1, features, hidden, context=size, generator=seeded(seed)).double()
    bound = spread(network, scale, seed).bind(context)
    return TanhField(zip(bound.weights, [bound.start, *bound.biases], strict=True))


# ---- known solutions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        # About three times the largest error over eight draws.
        ({"tolerance": 1e-6}, 5e-6),
        ({"tolerance": 1e-10}, 1e-9),
        ({"tolerance": 1e-6, "method": "dopri8"}, 5e-7),
        ({"tolerance": 1e-10, "method": "dopri8"}, 5e-11),
        ({"tolerance": 1e-10, "adjoint": True}, 1e-9),
        ({"steps": 64}, 3e-7),
    ],
)
def test_a_linear_field_is_the_matrix_exponential(options, tolerance):
    a, z = 0.7 * rand(3, 3, seed=1), rand(20, 3, seed=2)
    flow = Continuous(Linear(a), **options)
    exponential = torch.matrix_exp(a)
    y, ladj = flow.call_and_ladj(z)
    assert off(y, z @ exponential.mT) < tolerance
    assert off(ladj, a.trace()) < 1e-12  # the trace is constant
    back, inverse_ladj = flow.inverse_and_ladj(z)
    assert off(back, z @ torch.linalg.inv(exponential).mT) < tolerance
    assert off(inverse_ladj, -a.trace()) < 1e-12


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"tolerance": 1e-11, "method": "dopri8"}, 1e-9), ({"steps": 200}, 1e-9)],
)
def test_time_counts(options, tolerance):
    z = rand(5, 2)
    for start, end in ((0.0, 1.0), (0.25, 0.75), (1.0, -0.5)):
        flow = Continuous(Clock(), start=start, end=end, **options)
        y, ladj = flow.call_and_ladj(z)
        assert off(y, z * torch.exp(number(end**2 - start**2))) < tolerance
        assert off(ladj, number(2 * (end**2 - start**2))) < tolerance
        assert off(flow.inv(y), z) < tolerance


def test_parts_of_the_time_make_the_whole():
    z, bend = rand(5, 3), Bend()
    cuts = (0.0, 0.3, 0.8, 1.0)
    options = {"tolerance": 1e-12, "method": "dopri8"}
    whole = Continuous(bend, **options)
    parts = Compose(
        [Continuous(bend, start=s, end=e, **options) for s, e in itertools.pairwise(cuts)]
    )
    for value, expected in zip(parts.call_and_ladj(z), whole.call_and_ladj(z), strict=True):
        assert off(value, expected) < 1e-10


def test_rotation_keeps_volume():
    a = torch.tensor([[0.0, -3.0], [3.0, 0.0]], dtype=F64)
    y, ladj = Continuous(Linear(a), tolerance=1e-10).call_and_ladj(rand(10, 2))
    assert off(ladj, number(0.0)) == 0
    assert off(y.norm(dim=-1), rand(10, 2).norm(dim=-1)) < 1e-8


def test_a_network_without_hidden_layers_is_affine():
    flow = make(replace(FIXED, options=(("tolerance", 1e-11), ("method", "dopri8"))), 3, length=1)
    flow = spread(CNF(3, hidden_features=(), tolerance=1e-11, method="dopri8").double(), 0.5)
    weight, shift = flow.networks[0].weight.detach(), flow.networks[0].first.bias.detach()
    # Time and the constant are two more coordinates of a linear equation.
    a = torch.zeros(5, 5, dtype=F64)
    a[:3, :4], a[:3, 4], a[3, 4] = weight, shift, 1
    exponential = torch.matrix_exp(a)
    y, ladj = flow.transform().call_and_ladj(rand(4, 3))
    assert off(y, rand(4, 3) @ exponential[:3, :3].mT + exponential[:3, 4]) < 1e-9
    assert off(ladj, weight[:, :3].trace()) < 1e-9


# ---- what the solvers promise -------------------------------------------------------------------


@functools.cache
def bent():
    """Return where ten points end in the bent field, with as many digits as there are."""
    return Continuous(Bend(), tolerance=1e-12, method="dopri8").solve(rand(10, 3))


def test_fixed_steps_have_order_four():
    z, exact = rand(10, 3), bent()
    errors = []
    for steps in (20, 40):
        coarse = Continuous(Bend(), steps=steps).solve(z)
        errors.append((off(coarse.value, exact.value), off(coarse.ladj, exact.ladj)))
    for coarse, fine in zip(*errors, strict=True):
        assert 12 < coarse / fine < 20


@pytest.mark.parametrize(("method", "factor"), [("dopri5", 100), ("dopri8", 3)])
def test_the_tolerance_bounds_the_error(method, factor):
    z, exact = rand(10, 3), bent()
    evaluations = []
    for tolerance in (1e-5, 1e-7, 1e-9):
        solution = Continuous(Bend(), tolerance=tolerance, method=method).solve(z)
        assert off(solution.value, exact.value) < factor * tolerance
        assert off(solution.ladj, exact.ladj) < factor * tolerance
        evaluations.append(solution.evaluations)
    assert evaluations == sorted(set(evaluations))


def test_one_hard_point_among_many_easy_ones_is_as_exact_as_alone():
    """An average over the points would hide it, and take fewer steps."""
    hard, easy = torch.full((1, 1), -40.0, dtype=F64), torch.zeros(10_000, 1, dtype=F64)
    flow = Continuous(Power(2), tolerance=1e-6)
    among, alone = flow.solve(torch.cat([easy, hard])), flow.solve(hard)
    assert among.evaluations == alone.evaluations
    assert off(among.value[-1], alone.value[0]) == 0
    assert off(alone.value, hard / (1 - hard)) < 1e-5


def test_evaluations_are_counted():
    linear = Linear(rand(2, 2))
    for options in ({}, {"steps": 5}, {"method": "dopri8"}):
        for reverse in (False, True):
            linear.calls = 0
            solution = Continuous(linear, **options).solve(rand(3, 2), reverse=reverse)
            assert solution.evaluations == linear.calls
    assert Continuous(linear, steps=5).solve(rand(3, 2)).evaluations == 1 + 4 * 5


def test_no_velocity_is_the_identity_at_little_cost():
    flow = CNF(2, length=2).double()
    z = rand(5, 2)
    for part in flow.transform().transforms:
        solution = part.solve(z)
        assert solution.evaluations < 20
        assert off(solution.value, z) < 1e-14
        assert off(solution.ladj, number(0.0)) == 0
    flow().log_prob(z).sum().backward()
    assert flow.networks[0].layers[-1].weight.grad.abs().max() > 0.01


# ---- the trace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (5,), (7, 6), (4, 5, 6)])
def test_the_divergence_by_hand_is_autograds(hidden):
    velocity = tanh_field(hidden=hidden)
    t, z = number(0.3), rand(6, 3)
    for directions in (torch.eye(3, dtype=F64), rand(6, 2, 3, seed=5)):
        by_hand = velocity.with_divergence(t, z, directions)
        by_autograd = VectorField.with_divergence(velocity, t, z, directions)
        for value, expected in zip(by_hand, by_autograd, strict=True):
            assert off(value, expected) < 1e-13
    traces = [
        torch.autograd.functional.jacobian(lambda z: velocity(t, z), point).trace() for point in z
    ]
    value, trace = velocity.with_divergence(t, z, torch.eye(3, dtype=F64))
    assert off(value, velocity(t, z)) < 1e-14
    assert off(trace, torch.stack(traces)) < 1e-13


@pytest.mark.parametrize("options", [{"tolerance": 1e-9, "method": "dopri8"}, {"steps": 10}])
def test_hutchinsons_estimate_is_unbiased(options):
    """The mean over all sign vectors is the exact trace, without any sampling error."""
    z, velocity = rand(4, 3), tanh_field()
    exact = Continuous(velocity, **options).solve(z)
    estimates = []
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        flow = Continuous(velocity, probe=torch.tensor(signs, dtype=F64), **options)
        solution = flow.solve(z)
        assert off(solution.value, exact.value) < 1e-8
        assert (
            off(flow.solve(solution.value, reverse=True).ladj, -solution.ladj)
            < 1e-3 * ("steps" in options) + 1e-7
        )
        estimates.append(solution.ladj)
    assert off(torch.stack(estimates).mean(0), exact.ladj) < 1e-8
    assert torch.stack(estimates).std(0).min() > 0.01


def test_probes():
    z, velocity = rand(4, 3), tanh_field()
    a, b = (rademacher(z, generator=seeded(seed)) for seed in (0, 1))
    assert torch.equal(a, rademacher(z, generator=seeded(0)))
    assert not torch.equal(a, b)
    assert a.abs().eq(1).all()
    first, again, other = (Continuous(velocity, probe=e).solve(z).ladj for e in (a, a, b))
    assert off(first, again) == 0
    assert off(first, other) > 0.01
    # In one dimension a sign estimates nothing.
    one = Bend()
    exact, estimate = (Continuous(one, probe=e).solve(rand(4, 1)) for e in (None, a[:, :1]))
    assert off(exact.ladj, estimate.ladj) < 1e-12


def test_a_flow_with_a_probe():
    flow = make(FIXED, 3, 2, scale=0.5)
    context, y = rand(4, 2), rand(4, 3)
    probes = rademacher(y.expand(400, 4, 3), generator=seeded())
    with torch.no_grad():
        estimates = flow(context, probe=probes).log_prob(y)
    error = estimates.std(0) / len(probes) ** 0.5
    assert ((estimates.mean(0) - flow(context).log_prob(y)).abs() < 5 * error).all()
    q = flow(context, probe=probes[0])
    # Both directions take fixed steps, and their error.
    sample, log_prob = q.rsample_and_log_prob((5,), generator=seeded(1))
    assert 1e-9 < off(q.log_prob(sample), log_prob) < 1e-4


# ---- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_are_those_of_the_exact_solution(adjoint):
    a = (0.7 * rand(3, 3, seed=1)).requires_grad_()
    z = rand(6, 3).requires_grad_()
    flow = Continuous(Linear(a), tolerance=1e-10, method="dopri8", adjoint=adjoint)

    def loss(y, ladj):
        return y.sin().sum() + ladj.cos().sum()

    for direction, sign in ((flow.call_and_ladj, 1), (flow.inverse_and_ladj, -1)):
        value = loss(*direction(z))
        exact = loss(z @ torch.matrix_exp(sign * a).mT, sign * a.trace().expand(6))
        for gradient, expected in zip(
            torch.autograd.grad(value, (a, z)), torch.autograd.grad(exact, (a, z)), strict=True
        ):
            assert off(gradient, expected) < 1e-10


def test_the_adjoint_gradient_is_that_through_the_solver():
    y, context = rand(5, 2), rand(5, 2, seed=3).requires_grad_()
    gradients = []
    for adjoint in (False, True):
        options = {"tolerance": 1e-9, "method": "dopri8", "adjoint": adjoint}
        case = replace(FIXED, options=tuple(options.items()))
        flow = make(case, 2, 2, scale=0.5)
        flow(context).log_prob(y).sum().backward()
        gradients.append([context.grad, *(p.grad for p in flow.parameters())])
        context.grad = None
    for through, adjoint in zip(*gradients, strict=True):
        assert off(through, adjoint) < 1e-7 * (1 + float(through.abs().max()))


def test_the_adjoint_needs_no_memory_for_the_steps():
    kept = {}
    for adjoint in (False, True):
        for tolerance in (1e-4, 1e-10):
            count = 0

            def pack(tensor):
                nonlocal count
                count += tensor.numel()
                return tensor

            flow = spread(CNF(2, tolerance=tolerance, adjoint=adjoint).double(), 0.1)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                flow().log_prob(rand(50, 2))
            kept[adjoint, tolerance] = count
    assert kept[True, 1e-4] == kept[True, 1e-10]
    assert kept[False, 1e-10] > 3 * kept[False, 1e-4] > 10 * kept[True, 1e-4]


def test_second_derivatives_through_the_solver():
    z = rand(2, 2).requires_grad_()
    for options in ({"tolerance": 1e-8, "method": "dopri8"}, {"steps": 2}):
        flow = Continuous(tanh_field(2, (4,)), **options)
        contract.check_derivatives(flow.inverse_and_ladj, [z])


def test_second_derivatives_of_the_adjoint_are_refused():
    """The library would leave out their part, and say nothing."""
    z = rand(3, 2).requires_grad_()
    ladj = Continuous(tanh_field(2), adjoint=True).call_and_ladj(z)[1]
    loss = (ladj * z.sum(-1)).sum()
    with pytest.raises(RuntimeError, match="second derivatives need adjoint=False"):
        torch.autograd.grad(loss, z, create_graph=True)
    torch.autograd.grad(loss, z)


# ---- the contract, where the registry's case does not reach -------------------------------------


# torch's own forward mode warns of torch's own compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_fixed_steps_keep_the_contract():
    case = replace(FIXED, options=(("steps", 2),))
    contract.check_vmap(case)
    contract.check_compile(case)
    contract.check_context_rows(case)
    contract.check_gradients(make(case, 2, length=1, scale=0.5))


def test_default_tolerances_in_float32():
    flow = make(replace(FIXED, options=()), 3, scale=0.5, dtype=torch.float32)
    contract.check_round_trips(flow, 1e-4)
    exact = make(replace(FIXED, options=(("tolerance", 1e-12), ("method", "dopri8"))), 3, scale=0.5)
    y = rand(50, 3)
    assert off(flow().log_prob(y.float()), exact().log_prob(y)) < 1e-3


def test_steep_networks():
    """Weights of size 5 squeeze areas by factors beyond 1e6. What comes out is still right."""
    z = 3 * rand(20, 2)

    def ladj(dtype, **options):
        flow = spread(CNF(2, hidden_features=(8,), generator=seeded(0), **options).to(dtype), 5.0)
        with torch.no_grad():
            return flow.transform().call_and_ladj(z.to(dtype))[1]

    exact = ladj(F64, tolerance=1e-9, method="dopri8")
    assert exact.min() < -14
    assert off(ladj(F64), exact) < 1e-3
    assert off(ladj(torch.float32), exact) < 1e-2


# ---- shapes and copies --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"adjoint": True}])
def test_batches_of_fields_meet_batches_of_points(options):
    context, z = rand(4, 1, 2), rand(5, 3)
    together = Continuous(tanh_field(context=context), **options)
    assert together(z).shape == (4, 5, 3)
    y, ladj = together.call_and_ladj(z)
    assert (y.shape, ladj.shape) == ((4, 5, 3), (4, 5))
    one = Continuous(tanh_field(context=context[2, 0]), **options)
    for value, expected in zip(together.solve(z)[:2], one.solve(z)[:2], strict=True):
        assert off(value[2], expected) < 1e-5
    a = rand(4, 3, 3)
    y, ladj = Continuous(Linear(a), **options).call_and_ladj(z[0])
    assert off(y, torch.matrix_exp(a) @ z[0]) < 0.02
    assert off(ladj, a.diagonal(dim1=-2, dim2=-1).sum(-1)) < 1e-10


def test_no_points():
    flow = CNF(2)
    assert flow().sample((0,)).shape == (0, 2)
    assert flow().log_prob(torch.zeros(0, 2)).shape == (0,)


@pytest.mark.parametrize("options", [{}, {"adjoint": True}, {"steps": 2}])
def test_no_points_have_a_gradient_of_zero(options):
    flow = CNF(2, 1, length=2, hidden_features=(3,), **options)
    log_prob = flow(torch.zeros(0, 1)).log_prob(torch.zeros(0, 2))
    for gradient in torch.autograd.grad(log_prob.sum(), list(flow.parameters())):
        assert off(gradient, 0) == 0


@pytest.mark.parametrize("options", [{}, {"adjoint": True}, {"steps": 4}])
def test_a_point_that_is_no_number_leaves_the_others_alone(options):
    flow = spread(CNF(2, length=2, hidden_features=(5,), **options).double(), 0.5)
    y = rand(6, 2)
    y[1, 0], y[3, 1], y[4] = torch.inf, torch.nan, -torch.inf
    good = torch.tensor([0, 2, 5])
    log_prob, alone = flow().log_prob(y), flow().log_prob(y[good])
    assert off(log_prob[good], alone) < 1e-5
    assert (log_prob[[1, 4]] == -torch.inf).all()
    assert log_prob[3].isnan()
    z = flow().transform(y)
    assert off(z[good], flow().transform(y[good])) < 1e-5
    assert torch.equal(z[[1, 4]], y[[1, 4]])
    parameters = list(flow.parameters())
    of_all = torch.autograd.grad(log_prob[good].sum(), parameters, retain_graph=True)
    for some, gradient in zip(of_all, torch.autograd.grad(alone.sum(), parameters), strict=True):
        assert off(some, gradient) < 1e-4
    assert all(g.isfinite().all() for g in torch.autograd.grad(log_prob.sum(), parameters))


def test_a_probe_with_a_batch_gets_noise_of_its_own():
    q = CNF(2)(probe=rademacher(rand(3, 2).float(), generator=seeded()))
    assert q.batch_shape == (3,)
    assert q.sample().unique().numel() == 6


def test_copies():
    flow = make(FIXED, 2, scale=0.5)
    transform = flow.transform()
    z = rand(3, 2)
    with torch.no_grad():
        again = pickle.loads(pickle.dumps(flow.transform()))
    assert off(again(z), transform(z)) == 0


def test_velocity_is_that_of_the_paths():
    flow = make(FIXED, 2, context=2, scale=0.5)
    context, z = rand(2), rand(4, 2)
    h = 1e-4
    for t in (0.3, 0.4, 0.9):
        velocity = flow.velocity(number(t), z, context)
        part = flow.fields(context)[int(3 * t)]
        path = Continuous(part, start=t - h, end=t + h, steps=1)
        before = Continuous(part, start=t, end=t - h, steps=1)(z)
        assert off(velocity, (path(before) - before) / (2 * h)) < 1e-6
    times = torch.tensor([0.3, 0.4, 0.9, 1.0], dtype=F64)
    each = [flow.velocity(t, point, context) for t, point in zip(times, z, strict=True)]
    assert off(flow.velocity(times, z, context), torch.stack(each)) < 1e-14


def test_importing_the_flows_does_not_import_the_solver():
    code = "import sys, nfbook.flows; sys.exit('torchdiffeq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_one",
    [lambda **options: Continuous(Clock(), **options), lambda **options: CNF(2, **options)],
)
def test_bad_solvers(make_one):
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        make_one(tolerance=0.0)
    with pytest.raises(TypeError, match="tolerance must be a number, got str"):
        make_one(tolerance="small")
    with pytest.raises(ValueError, match="method must be one of dopri5, dopri8, got euler"):
        make_one(method="euler")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make_one(steps=0)
    with pytest.raises(ValueError, match="adjoint must be False with fixed steps, got True"):
        make_one(steps=3, adjoint=True)


def test_bad_fields():
    with pytest.raises(TypeError, match="field must be a VectorField, got function"):
        Continuous(lambda t, z: z)
    with pytest.raises(ValueError, match="end must be finite, got inf"):
        Continuous(Clock(), end=float("inf"))
    with pytest.raises(NotImplementedError, match="Clock must define parameters for adjoint=True"):
        Continuous(Clock(), adjoint=True)(rand(2))


def test_bad_probes():
    with pytest.raises(ValueError, match=r"probe must have shape \(\*, 2\), got \(3,\)"):
        Continuous(Clock(), probe=torch.ones(3)).call_and_ladj(torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"probe must have shape \(\*, 2\), got \(1,\)"):
        Continuous(Clock(), probe=torch.ones(1)).inverse_and_ladj(torch.zeros(5, 2))
    with pytest.raises(TypeError, match=r"probe must be a torch.Tensor, got list"):
        Continuous(Clock(), probe=[1.0, 1.0])
    with pytest.raises(TypeError, match=r"probe must be a floating-point tensor, got torch.int64"):
        Continuous(Clock(), probe=torch.tensor([1, -1]))


def test_a_solution_that_ends_early_is_an_error():
    """From z = 2 the solution of dz/dt = z² is infinite at t = 1/2."""
    with pytest.raises(RuntimeError, match="the adaptive solver cannot go on"):
        Continuous(Power(2))(torch.full((1, 1), 2.0))


def test_what_cannot_follow_the_adaptive_solver_says_so():
    flow, z = CNF(2).double(), rand(3, 2)
    with pytest.raises(RuntimeError, match="give the number of fixed steps"):
        torch.func.vmap(flow().log_prob)(z)
    with pytest.raises(RuntimeError, match="give the number of fixed steps"):
        torch.func.jacrev(flow.transform())(z[0])
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Data-dependent"):
        torch.compile(flow().log_prob, fullgraph=True, backend="eager")(z)


def test_names():
    assert repr(CNF(2).transform()) == "Compose([Continuous(TanhField, start=0, end=1)])"
    assert isinstance(CNF(2).fields()[0], TanhField)


def test_a_field_that_does_not_depend_on_z_is_a_shift():
    class Drift(VectorField):
        def __call__(self, t, z):
            return torch.ones_like(z) * t

    y, ladj = Continuous(Drift()).call_and_ladj(torch.ones(3, 2))
    torch.testing.assert_close(y, torch.full((3, 2), 1.5))
    assert torch.equal(ladj, torch.zeros(3))


def test_signs_are_even():
    assert rademacher(torch.zeros(100_000), generator=seeded()).mean().abs() < 4 / 100_000**0.5


def test_a_tolerance_below_the_dtype_costs_no_endless_steps():
    flow = spread(CNF(2, tolerance=1e-12, generator=seeded()), 0.3)
    solution = flow.transform().transforms[0].solve(rand(5, 2).float())
    assert solution.evaluations < 2000
