"""What every flow promises, as functions that raise AssertionError where a promise is broken.

They are functions, and not tests, so that a flow that is wrong on purpose can be given to them.
"""

from __future__ import annotations

import copy
import io
import math
import pickle

import torch
from draws import rand, seeded
from families import Case, make
from scipy import stats
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap

from nfbook.flows import Flow, FlowDistribution, StandardNormal

F64 = torch.float64


def points_and_context(flow: Flow, n: int = 6, seed: int = 7) -> tuple[torch.Tensor, object]:
    """Return n points around the origin and one context for each, or None."""
    like = flow.like
    y = 1.5 * rand(n, flow.features, seed=seed).to(like.dtype)
    context = rand(n, flow.context, seed=seed + 1).to(like.dtype) if flow.context else None
    return y, context


def row(values: object, i: int) -> object:
    return None if values is None else values[i]


# ---- log-determinant ------------------------------------------------------------------------


def jacobian(function, point: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(function, point.detach())


def jacobian_log_det(function, point: torch.Tensor) -> torch.Tensor:
    """Return log |det| of a function's Jacobian at one point, by autograd."""
    return torch.linalg.slogdet(jacobian(function, point)).logabsdet


def rounding(matrix: torch.Tensor) -> torch.Tensor:
    """Return what rounding may come to: some eps times the condition of the map."""
    return 1e-14 * torch.linalg.cond(matrix)


def check_ladj(flow: Flow, tolerance: float) -> None:
    """Both ladj's equal those of autograd's Jacobian; the inverse one is the other's negative."""
    z, context = points_and_context(flow)
    transform = flow(context).transform
    y, ladj = transform.call_and_ladj(z)
    _, inverse_ladj = transform.inverse_and_ladj(y)
    assert torch.isfinite(ladj).all()
    slacks = []
    for i in range(len(z)):
        one = flow.transform(row(context, i))
        for point, of, forward in ((z[i], ladj[i], one), (y[i], inverse_ladj[i], one.inv)):
            matrix = jacobian(forward, point)
            expected = torch.linalg.slogdet(matrix).logabsdet
            slacks.append(tolerance * (1 + expected.abs()) + rounding(matrix))
            assert_near(of, expected, slacks[-1])
    few = torch.stack(slacks).median() < 100 * tolerance
    assert few, "a check at ill-conditioned points only says nothing"
    assert_near(inverse_ladj, -ladj, torch.stack(slacks).view(-1, 2).amax(-1))


def assert_near(value: torch.Tensor, expected: torch.Tensor, tolerance: object) -> None:
    assert value.shape == torch.broadcast_shapes(value.shape, expected.shape)
    off = (value - expected).detach().abs()
    assert (off <= tolerance).all(), f"off by {float(off.max()):.3g}"


# ---- round trips ----------------------------------------------------------------------------


def check_round_trips(flow: Flow, tolerance: float) -> None:
    """Forward then back, and back then forward, end where they began."""
    y, context = points_and_context(flow, n=200)
    transform = flow(context).transform
    scale = 1 + y.abs().max()
    assert_near(transform.inv(transform(y)), y, tolerance * scale)
    assert_near(transform(transform.inv(y)), y, tolerance * scale)


def check_round_trips_as_conditioned(flow: Flow, tolerance: float) -> None:
    """The same at a few points, for maps that stretch and squeeze so much that digits are lost."""
    points, context = points_and_context(flow)
    slacks = []
    for i, start in enumerate(points):
        transform = flow.transform(row(context, i))
        for there in (transform, transform.inv):
            end = there(start)
            scale = 1 + start.abs().max() + end.detach().abs().max()
            slacks.append(tolerance + rounding(jacobian(there, start)))
            assert_near(there.inv(end), start, scale * slacks[-1])
    few = torch.stack(slacks).median() < 1e3 * tolerance
    assert few, "a check at ill-conditioned points only says nothing"


# ---- densities ------------------------------------------------------------------------------


@torch.no_grad()
def masses_on_a_grid(distribution: FlowDistribution) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the edges of cells that cover about ±6e5, and the mass of each cell, by quadrature.

    The nodes are the hyperbolic sines of equidistant numbers, so they are dense around zero. With
    one dimension there are 20,001 cells, with two 601 on each axis.
    """
    (features,) = distribution.event_shape
    t = torch.linspace(-14, 14, {1: 20_001, 2: 601}[features], dtype=F64)
    step = t[1] - t[0]
    grid = torch.cartesian_prod(*[torch.sinh(t)] * features).view(-1, features)
    weights = torch.cartesian_prod(*[torch.cosh(t) * step] * features).view(-1, features).prod(-1)
    density = torch.cat([distribution.log_prob(part) for part in grid.split(100_000)]).exp()
    return torch.sinh(t[:-1] + step / 2), (density * weights).view(*[len(t)] * features)


def check_integrates_to_one(flow: Flow, tolerance: float) -> None:
    """The density's integral over all of R or R² is 1, by quadrature."""
    _, masses = masses_on_a_grid(flow())
    assert_near(masses.sum(), torch.ones((), dtype=F64), tolerance)


def check_samples_agree(flow: Flow, false_alarms: float = 1e-4) -> None:
    """Samples follow the density: a chi-squared test of how many fall into each of some 40 cells.

    Along each coordinate the cells have nearly equal probability, by quadrature. A right flow fails
    with the given probability over the draw of the seed.
    """
    n, distribution = 20_000, flow()
    y = distribution.sample((n,), generator=seeded(3))
    all_edges, masses = masses_on_a_grid(distribution)
    expected, cell = n * masses, torch.zeros(n, dtype=torch.int64)
    levels = torch.linspace(0, 1, {1: 41, 2: 7}[flow.features], dtype=F64)[1:-1]
    for i in range(flow.features):
        below = masses.movedim(i, 0).flatten(1).sum(1) if flow.features > 1 else masses
        at = torch.searchsorted(below.cumsum(0), levels).clamp(max=len(all_edges) - 1).unique()
        of_node = torch.bucketize(torch.arange(len(below)), at)
        shape = [len(at) + 1 if j == i else size for j, size in enumerate(expected.shape)]
        expected = torch.zeros(shape, dtype=F64).index_add_(i, of_node, expected)
        of_sample = torch.bucketize(y[:, i].contiguous(), all_edges[at])
        cell = cell * (len(at) + 1) + of_sample
    expected, counts = expected.flatten(), torch.bincount(cell, minlength=expected.numel())
    statistic = ((counts - expected).square() / expected)[expected > 5].sum()
    p = stats.chi2.sf(float(statistic), int((expected > 5).sum()) - 1)
    assert p > false_alarms, f"samples and density disagree, p = {p:.2g}"


def check_starts_as_the_base(flow: Flow, tolerance: float) -> None:
    """A new flow leaves the base distribution as it is, whatever the context."""
    y, context = points_and_context(flow)
    base = StandardNormal(flow.features, like=flow.like)
    assert_near(flow(context).log_prob(y), base.log_prob(y), tolerance)


# ---- derivatives ----------------------------------------------------------------------------


def check_gradients(flow: Flow) -> None:
    """First and second derivatives, by the point and all parameters, are those of differences."""
    point, context = points_and_context(flow, n=2)
    named = [(name, p.detach().clone()) for name, p in flow.named_parameters()]
    values = [value.requires_grad_() for _, value in named]
    for way in ("call_and_ladj", "inverse_and_ladj"):
        direction = Direction(flow, way)

        def function(point, *values, direction=direction):
            given = {f"flow.{name}": value for (name, _), value in zip(named, values, strict=True)}
            return functional_call(direction, given, (context, point))

        # gradcheck passes over outputs without a gradient, and over inputs that nothing depends on.
        outputs = function(point, *values)
        assert all(output.requires_grad for output in outputs)
        total = sum(output.sum() for output in outputs)
        reached = torch.autograd.grad(total, values, allow_unused=True)
        assert all(gradient is not None for gradient in reached)
        start = point.clone().requires_grad_()
        assert gradcheck(lambda z, f=function: f(z, *values), start, atol=1e-5, rtol=1e-4)
        # The fast mode takes one random direction through all parameters, in place of each of them.
        of_values = lambda *v, f=function: f(point, *v)  # noqa: E731
        assert gradcheck(of_values, values, atol=1e-5, rtol=1e-4, fast_mode=True)
        # By the parameters too, where points are constants, as noise and data are.
        for inputs, of in (
            ((start,), lambda z, f=function: f(z, *values)),
            (values, of_values),
        ):
            assert gradgradcheck(of, inputs, atol=1e-4, rtol=1e-3, fast_mode=True)


class Direction(torch.nn.Module):
    """One direction of a flow's transform, as a module, for functional_call."""

    def __init__(self, flow, way):
        super().__init__()
        self.flow, self.way = flow, way

    def forward(self, context, point):
        return getattr(self.flow.transform(context), self.way)(point)


def check_holds_its_parameters(case: Case) -> None:
    """A distribution uses the parameters that it was made of, whatever becomes of the flow's."""
    for context in (0, 2):
        flow, other = (make(case, context=context, scale=0.3, seed=seed) for seed in (0, 1))
        y, c = points_and_context(flow)
        expected = other(c).log_prob(y)
        own = flow(c)
        before = own.log_prob(y).detach()
        state = {name: value.detach().clone() for name, value in other.state_dict().items()}
        named = {name: state[name].requires_grad_() for name, _ in flow.named_parameters()}
        log_prob = functional_call(flow, state, (c,)).log_prob(y)
        assert_near(log_prob, expected, 1e-9 * (1 + expected.detach().abs().max()))
        slopes = torch.autograd.grad(log_prob.sum(), list(named.values()))
        wanted = torch.autograd.grad(expected.sum(), list(other.parameters()))
        for slope, right in zip(slopes, wanted, strict=True):
            assert_near(slope, right, 1e-8 * (1 + right.abs().max()))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.1
        assert_near(own.log_prob(y), before, 1e-12 * (1 + before.abs().max()))


# ---- shapes and types -----------------------------------------------------------------------


def check_shapes(case: Case, features: int) -> None:
    """Batch, sample and event shapes are those of torch.distributions."""
    for context, batch in ((0, ()), (3, ()), (3, (4,)), (3, (2, 4))):
        flow = make(case, features, context, scale=0.3)
        given = rand(*batch, context) if context else None
        q = flow(given)
        assert isinstance(q, FlowDistribution)
        assert (q.batch_shape, q.event_shape) == (batch, (features,))
        assert q.log_prob(rand(features)).shape == batch
        for sample in ((), (5,), (3, 5), (0,)):
            y, log_prob = q.rsample_and_log_prob(sample, generator=seeded(2))
            assert y.shape == (*sample, *batch, features)
            assert log_prob.shape == (*sample, *batch)
            assert q.sample(sample).shape == y.shape
            assert_near(q.log_prob(y), log_prob, 1e-7 * (1 + log_prob.detach().abs()))
        wide = q.expand((6, *batch))
        assert wide.batch_shape == (6, *batch)
        assert wide.rsample((2,)).shape == (2, 6, *batch, features)
        y = rand(features)
        expected = q.log_prob(y)
        tolerance = 1e-10 * (1 + expected.detach().abs().max())
        assert_near(wide.log_prob(y), expected.expand(6, *batch), tolerance)


def check_context_rows(case: Case) -> None:
    """Each row of a context gives the distribution that it gives alone."""
    flow = make(case, context=3, scale=0.5)
    y, context = points_and_context(flow)
    together = flow(context).log_prob(y)
    alone = torch.stack([flow(c).log_prob(point) for point, c in zip(y, context, strict=True)])
    assert_near(together, alone, max(1e-9, case.tolerance) * (1 + alone.detach().abs().max()))
    assert (flow(context[0]).log_prob(y[0]) - flow(context[1]).log_prob(y[0])).abs() > 1e-6


def check_dtype(case: Case, dtype: torch.dtype) -> None:
    """A dtype stays what it is, in values, densities and gradients."""
    flow = make(case, context=2, scale=0.3, dtype=dtype)
    y, context = points_and_context(flow)
    q = flow(context)
    sample, log_prob = q.rsample_and_log_prob()
    for value in (sample, log_prob, q.log_prob(y), q.sample()):
        assert value.dtype == dtype
    q.log_prob(y).sum().backward()
    assert any(p.grad is not None for p in flow.parameters())


def check_device(case: Case, device: str) -> None:
    """Whatever a flow makes is on its own device. On "meta" tensors have shapes and no numbers."""
    flow = make(case, context=2).to(device)
    y, context = (rand(6, size).to(device) for size in (flow.features, flow.context))
    q = flow(context)
    sample, log_prob = q.rsample_and_log_prob((3,))
    for value in (sample, log_prob, q.log_prob(y), q.sample(), q.expand((2, 6)).sample()):
        assert value.device.type == device


def check_far_points(case: Case, features: int) -> None:
    """Points far out have a density that is a number, in float32 too."""
    for dtype in (torch.float32, F64):
        flow = make(case, features, scale=0.5, dtype=dtype)
        for reach in (1e2, 1e4, 1e6):
            y = reach * rand(20, features, seed=3).to(dtype)
            assert (flow().log_prob(y) < math.inf).all(), reach
            assert flow().transform.call_and_ladj(y)[1].isfinite().all(), reach


# ---- randomness -----------------------------------------------------------------------------


def check_randomness(case: Case) -> None:
    """What is random comes out of the generator that is given, and of nothing else."""
    state = torch.get_rng_state()
    one, two = (make(case, 3 if 3 in case.dims else 2, context=2, seed=4) for _ in range(2))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    context = rand(4, 2)
    first, second = (flow(context).sample((5,), generator=seeded(1)) for flow in (one, two))
    assert torch.equal(first, second)
    assert not torch.equal(first, one(context).sample((5,), generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)


def check_draws(case: Case) -> None:
    """Draws have gradients where they should, and are the same with and without a density."""
    q = make(case, context=2, scale=0.3)(rand(4, 2))
    assert q.has_rsample
    assert not q.sample((3,), generator=seeded(1)).requires_grad
    y = q.rsample((3,), generator=seeded(1))
    again, log_prob = q.rsample_and_log_prob((3,), generator=seeded(1))
    assert_near(y, again, max(1e-10, case.tolerance) * (1 + y.detach().abs().max()))
    assert y.requires_grad
    assert log_prob.requires_grad


# ---- copies ---------------------------------------------------------------------------------


def check_copies(case: Case) -> None:
    """state_dict, pickle, torch.save and deepcopy keep a flow; a copy is independent."""
    flow = make(case, context=2, scale=0.3)
    y, context = points_and_context(flow)
    expected = flow(context).log_prob(y)
    fresh = make(case, context=2, seed=5)
    fresh.load_state_dict(flow.state_dict())
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    stored = make(case, context=2, seed=6)
    stored.load_state_dict(torch.load(buffer, weights_only=True))
    twin = copy.deepcopy(flow)
    for other in (fresh, stored, twin, pickle.loads(pickle.dumps(flow))):
        assert_near(other(context).log_prob(y), expected, 0.0)
    frozen = FlowDistribution(flow(context).base, flow(context).transform)
    with torch.no_grad():
        again = pickle.loads(pickle.dumps(flow(context)))
        assert_near(again.log_prob(y), frozen.log_prob(y), 0.0)
        for parameter in twin.parameters():
            parameter += 0.1
    assert_near(flow(context).log_prob(y), expected, 0.0)


def check_learns(case: Case) -> None:
    """A hundred steps of maximum likelihood fit data better, and what was learned is exact too."""
    flow = make(case, features=2, dtype=torch.float32)
    x = torch.tensor([0.7, -0.4]) + torch.tensor([1.5, 0.6]) * rand(500, 2, seed=4).float()
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    before = -flow().log_prob(x).mean().item()
    for _ in range(100):
        optimiser.zero_grad()
        loss = -flow().log_prob(x).mean()
        loss.backward()
        optimiser.step()
    assert math.isfinite(loss.item())
    # The best Gaussian with independent coordinates gains 0.77.
    assert loss.item() < before - 0.45
    trained = flow.double()
    check_ladj(trained, 100 * case.tolerance)
    check_round_trips(trained, 100 * case.tolerance)


# ---- torch.func and torch.compile -----------------------------------------------------------


def check_vmap(case: Case) -> None:
    """A vmap over points, contexts and sets of parameters equals a loop."""
    flow = make(case, context=2, scale=0.3)
    y, context = points_and_context(flow)

    def log_prob(point, c):
        return flow(c).log_prob(point)

    def forward(point, c):
        return flow(c).transform.call_and_ladj(point)[1]

    for function in (log_prob, forward):
        expected = torch.stack([function(y[i], context[i]) for i in range(len(y))])
        assert_near(vmap(function)(y, context), expected, 1e-10 * (1 + expected.abs().max()))
    for function in (log_prob, forward):
        # Derivatives in forward mode, and second ones, forward over backward.
        for mode, expected in ((jacfwd, jacrev), (hessian, lambda f: jacrev(jacrev(f)))):
            value, wanted = mode(function)(y[0], context[0]), expected(function)(y[0], context[0])
            assert_near(value, wanted, 1e-8 * (1 + wanted.abs().max()))
    gradient = vmap(jacrev(log_prob))(y, context)
    for i in range(len(y)):
        point = y[i].clone().requires_grad_()
        (expected,) = torch.autograd.grad(log_prob(point, context[i]), point)
        assert_near(gradient[i], expected, 1e-8 * (1 + expected.abs().max()))


def check_vmap_over_parameters(case: Case) -> None:
    """Values and gradients of an ensemble of flows, by one vmap, are those of each."""
    flows = [make(case, context=2, length=2, scale=0.3, seed=k) for k in range(3)]
    y, context = rand(4, flows[0].features), rand(4, 2)
    scores = [Score(flow) for flow in flows]
    one = copy.deepcopy(scores[0])

    def total(parameters, buffers):
        return functional_call(one, (parameters, buffers), (y, context)).sum()

    state = torch.func.stack_module_state(scores)
    gradients, values = vmap(torch.func.grad_and_value(total))(*state)
    for k, score in enumerate(scores):
        expected = score(y, context).sum()
        assert_near(values[k], expected, 1e-10 * (1 + expected.detach().abs()))
        named = list(score.named_parameters())
        slopes = torch.autograd.grad(expected, [p for _, p in named])
        for (name, _), slope in zip(named, slopes, strict=True):
            assert_near(gradients[name][k], slope, 1e-9 * (1 + slope.abs().max()))


class Score(torch.nn.Module):
    """The log-density of some points, and the ladj of the other direction there."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, y, context):
        q = self.flow(context)
        return q.log_prob(y) + q.transform.call_and_ladj(y)[1]


def check_compile(case: Case) -> None:
    """torch.compile follows both directions, gradients included, without a break."""
    flow = make(case, context=2, length=case.compiled, scale=0.3)
    y, context = points_and_context(flow)

    def function(point, c):
        q = flow(c)
        return q.log_prob(point), q.transform.call_and_ladj(point)[1]

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    parameters = list(flow.parameters())
    for value, expected in zip(compiled(y, context), function(y, context), strict=True):
        assert_near(value, expected, 1e-10 * (1 + expected.abs().max()))
        for a, b in zip(
            torch.autograd.grad(value.sum(), parameters, allow_unused=True, retain_graph=True),
            torch.autograd.grad(expected.sum(), parameters, allow_unused=True, retain_graph=True),
            strict=True,
        ):
            if b is not None:
                assert_near(a, b, 1e-9 * (1 + b.abs().max()))
