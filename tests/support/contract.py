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
from torch.func import functional_call, hessian, jacfwd, jacrev, vmap

from nfbook.flows import Flow, FlowDistribution, StandardNormal

F64 = torch.float64


def points_and_context(flow: Flow, n: int = 6, seed: int = 7) -> tuple[torch.Tensor, object]:
    """Return n points around the origin and one context for each, or None."""
    like = flow.like
    y = 1.5 * rand(n, flow.features, seed=seed).to(like.dtype)
    context = rand(n, flow.context, seed=seed + 1).to(like.dtype) if flow.context else None
    return y, context


# ---- log-determinant ------------------------------------------------------------------------


def jacobians(function, points: torch.Tensor) -> torch.Tensor:
    """Return a function's Jacobians at points `(n, D)`, by autograd, all at once.

    The gradient of a sum over the points has that of each one, as no point sees another.
    """
    points = points.detach().requires_grad_()
    values = function(points).sum(0)
    rows = [torch.autograd.grad(value, points, retain_graph=True)[0] for value in values]
    return torch.stack(rows, -2)


def jacobian_log_dets(function, points: torch.Tensor) -> torch.Tensor:
    """Return log |det| of a function's Jacobians at points `(n, D)`, by autograd."""
    return torch.linalg.slogdet(jacobians(function, points)).logabsdet


def rounding(matrix: torch.Tensor) -> torch.Tensor:
    """Return what rounding may come to: some eps times the condition number of the map.

    That is the usual one or Skeel's, whichever is smaller. Skeel's does not grow with the scales of
    the rows, so a map that stretches each coordinate by itself has 1.
    """
    skeel = (matrix.inverse().abs() @ matrix.abs()).sum(-1).amax(-1)
    return 1e-14 * torch.minimum(torch.linalg.cond(matrix), skeel)


def check_ladj(flow: Flow, tolerance: float) -> None:
    """Both ladj's equal those of autograd's Jacobian; the inverse one is the other's negative."""
    z, context = points_and_context(flow)
    transform = flow(context).transform
    y, ladj = transform.call_and_ladj(z)
    _, inverse_ladj = transform.inverse_and_ladj(y)
    assert torch.isfinite(ladj).all()
    slacks = []
    for points, of, there in ((z, ladj, transform), (y, inverse_ladj, transform.inv)):
        matrices = jacobians(there, points)
        expected = torch.linalg.slogdet(matrices).logabsdet
        slacks.append(tolerance * (1 + expected.abs()) + rounding(matrices))
        assert_near(of, expected, slacks[-1])
    check_few_are_ill_conditioned(torch.cat(slacks), 100 * tolerance)
    assert_near(inverse_ladj, -ladj, torch.maximum(*slacks))


def check_few_are_ill_conditioned(slacks: torch.Tensor, tolerance: float) -> None:
    assert slacks.median() < tolerance, "a check at ill-conditioned points only says nothing"


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
    transform, slacks = flow(context).transform, []
    for there in (transform, transform.inv):
        ends = there(points).detach()
        scale = 1 + points.abs().amax(-1) + ends.abs().amax(-1)
        slacks.append(tolerance + rounding(jacobians(there, points)))
        assert_near(there.inv(ends), points, (scale * slacks[-1]).unsqueeze(-1))
    check_few_are_ill_conditioned(torch.cat(slacks), 1e3 * tolerance)


# ---- densities ------------------------------------------------------------------------------


@torch.no_grad()
def masses_on_a_grid(distribution: FlowDistribution) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the edges of cells that cover about ±4e3, and the mass of each cell, by quadrature.

    The nodes are the hyperbolic sines of equidistant numbers, so they are dense around zero. With
    one dimension there are 20,001 cells, with two 401 on each axis.
    """
    (features,) = distribution.event_shape
    t = torch.linspace(-9, 9, {1: 20_001, 2: 401}[features], dtype=F64)
    step = t[1] - t[0]
    grid = torch.cartesian_prod(*[torch.sinh(t)] * features).view(-1, features)
    weights = torch.cartesian_prod(*[torch.cosh(t) * step] * features).view(-1, features).prod(-1)
    density = torch.cat([distribution.log_prob(part) for part in grid.split(100_000)]).exp()
    return torch.sinh(t[:-1] + step / 2), (density * weights).view(*[len(t)] * features)


def check_density(flow: Flow, tolerance: float = 1e-4, false_alarms: float = 1e-4) -> None:
    """The density integrates to one, and samples follow it, as a chi-squared test says.

    The test is of how many fall into each of some 40 cells, which along each coordinate have nearly
    equal probability, by quadrature. A right flow fails with the given probability over the seeds.
    """
    n, distribution = 20_000, flow()
    y = distribution.sample((n,), generator=seeded(3))
    all_edges, masses = masses_on_a_grid(distribution)
    assert_near(masses.sum(), torch.ones((), dtype=F64), tolerance)
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
    start = point.clone().requires_grad_()
    for way in ("call_and_ladj", "inverse_and_ladj"):
        direction = Direction(flow, way)

        def function(point, *values, direction=direction):
            given = {f"flow.{name}": value for (name, _), value in zip(named, values, strict=True)}
            return functional_call(direction, given, (context, point))

        check_derivatives(lambda z, f=function: f(z, *values), [start])
        # By the parameters too, where points are constants, as noise and data are.
        check_derivatives(lambda *v, f=function: f(point, *v), values)


def check_derivatives(function, inputs: list[torch.Tensor], h: float = 1e-5) -> None:
    """First and second derivatives of a function of tensors are those of central differences.

    A random sum stands for all outputs, and a random direction for all entries of an input. Second
    derivatives are those along one random direction of all inputs together.
    """
    one, two = ([rand(*x.shape, seed=seed + i) for i, x in enumerate(inputs)] for seed in (20, 60))

    def moved(by, directions):
        pairs = zip(inputs, directions, strict=True)
        return [(x + by * d).detach().requires_grad_() for x, d in pairs]

    def sums(inputs):
        outputs = function(*inputs)
        assert all(output.requires_grad for output in outputs)
        return [(rand(*y.shape, seed=80 + i) * y).sum() for i, y in enumerate(outputs)]

    def total(inputs):
        return sum(sums(inputs))

    def slopes(value, inputs, **options):
        gradients = torch.autograd.grad(value, inputs, **options)
        return torch.stack([(g * d).sum() for g, d in zip(gradients, one, strict=True)])

    # No graph is made of these gradients, since with one they need not be those by hand. An input
    # that nothing depends on is an error here.
    first = slopes(total(inputs), inputs)
    # Alone, an output leaves the gradients by the others undefined.
    alone = [slopes(y, inputs, retain_graph=True, materialize_grads=True) for y in sums(inputs)]
    assert_near(sum(alone), first, 1e-9 * (1 + first.abs().max()))
    for i, slope in enumerate(first):
        only = [d if i == j else torch.zeros_like(d) for j, d in enumerate(one)]
        expected = (total(moved(h, only)) - total(moved(-h, only))) / (2 * h)
        assert_near(slope, expected, 1e-5 + 1e-4 * expected.detach().abs())

    def with_graph(inputs):
        return slopes(total(inputs), inputs, create_graph=True).sum()

    second = torch.autograd.grad(with_graph(inputs), inputs, materialize_grads=True)
    along = sum((g * d).sum() for g, d in zip(second, two, strict=True))
    expected = (with_graph(moved(h, two)) - with_graph(moved(-h, two))) / (2 * h)
    assert_near(along, expected, 1e-4 + 1e-3 * expected.detach().abs())


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
        assert not torch.allclose(flow(c).log_prob(y), before)


# ---- shapes and types -----------------------------------------------------------------------


def check_shapes(case: Case, features: int) -> None:
    """Batch, sample and event shapes are those of torch.distributions."""
    for context, batch in ((0, ()), (3, ()), (3, (2, 4))):
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
    """A few steps of maximum likelihood fit data better, and what was learned is exact too."""
    flow = make(case, features=2, dtype=torch.float32)
    x = torch.tensor([0.7, -0.4]) + torch.tensor([1.5, 0.6]) * rand(200, 2, seed=4).float()
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-2)
    before = -flow().log_prob(x).mean().item()
    for _ in range(30):
        optimiser.zero_grad()
        loss = -flow().log_prob(x).mean()
        loss.backward()
        optimiser.step()
    assert math.isfinite(loss.item())
    # The best Gaussian with independent coordinates gains 0.77, and the slowest family, which is
    # the radial one, 0.28 to 0.48 by then, over eight seeds.
    assert loss.item() < before - 0.15
    trained = flow.double()
    check_ladj(trained, 100 * case.tolerance)
    check_round_trips(trained, 100 * case.tolerance)


# ---- torch.func and torch.compile -----------------------------------------------------------


def check_vmap(case: Case) -> None:
    """A vmap over points and contexts equals a batch, and derivatives those of autograd."""
    flow = make(case, context=2, length=2, scale=0.3)
    y, context = points_and_context(flow)

    def both(point, c):
        q = flow(c)
        return torch.stack([q.log_prob(point), q.transform.call_and_ladj(point)[1]], -1)

    expected = both(y, context)
    assert_near(vmap(both)(y, context), expected, 1e-10 * (1 + expected.abs().max()))
    # In reverse mode for each point, in forward mode, and second ones, forward over backward.
    slopes = jacobians(lambda points: both(points, context), y)
    one = (y[0], context[0])
    second = torch.autograd.functional.jacobian(lambda point: jacrev(both)(point, one[1]), one[0])
    for value, wanted in (
        (vmap(jacrev(both))(y, context), slopes),
        (jacfwd(both)(*one), slopes[0]),
        (hessian(both)(*one), second),
    ):
        assert_near(value, wanted, 1e-8 * (1 + wanted.abs().max()))


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
    """torch.compile follows both directions, gradients included, without a break.

    The inverse is left out where a case says so, as another family has the same.
    Most families run what was followed as it is. What torch makes of it then is torch's own matter,
    and one family shows that it can.
    """
    flow = make(case, context=2, length=case.compiled, scale=0.3)
    y, context = points_and_context(flow)

    def function(point, c):
        q = flow(c)
        values = q.transform.call_and_ladj(point)
        return (*values, q.log_prob(point)) if case.compiled_inverse else values

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=case.backend)
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
