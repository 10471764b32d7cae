"""Draws with an explicit generator, and their log densities, against torch's own ways to them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from draws import seeded
from torch import distributions as torch_distributions
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
    VonMises,
    constraints,
)

from nfbook.estimators import importance_log_prob, log_weights
from nfbook.flows import IAF, MAF, PlanarFlow, RealNVP
from nfbook.latent import PPCA
from nfbook.objectives import elbo, forward_kl, importance_weighted_bound, reverse_kl
from nfbook.sampling import draw, draw_and_log_prob, gaussian_noise

P = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
DISTRIBUTIONS = [
    Normal(P, 2.0),
    Independent(Normal(P, 2.0), 1),
    MultivariateNormal(P, torch.eye(3, dtype=torch.float64)),
    Uniform(P, P + 1),
    Categorical(P),
    MixtureSameFamily(Categorical(P), Normal(P, P)),
    Beta(P, P),
    Dirichlet(P),
    Poisson(P),
    StudentT(P + 1),
    VonMises(P, P),
    torch_distributions.LogNormal(P, P),
    torch_distributions.RelaxedOneHotCategorical(P[0], P),
]


def flow_of(kind=PlanarFlow, features=3, context=0):
    """Return a flow that is not the identity, in float64."""
    flow = kind(features, context=context, length=2, generator=seeded(1)).double()
    with torch.no_grad():
        for number, parameter in enumerate(flow.parameters()):
            noise = torch.randn(parameter.shape, generator=seeded(number), dtype=torch.float64)
            parameter += (0.05 if context else 0.3) * noise
    return flow


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_draws_are_those_of_torch_with_the_seed_that_the_generator_gives(distribution):
    seed = int(torch.randint(2**63 - 1, (), generator=seeded(3)))
    before = torch.get_rng_state()
    drawn = draw(distribution, (4,), generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    if distribution.has_rsample:
        again = draw(distribution, (4,), generator=seeded(3), reparametrised=True)
        assert torch.equal(again, drawn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert torch.equal(distribution.sample((4,)), drawn)


def test_without_a_generator_torch_s_own_is_used():
    distribution = Normal(torch.zeros(3), 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = distribution.sample((4,))
        torch.manual_seed(5)
        assert torch.equal(draw(distribution, (4,)), expected)
        torch.manual_seed(5)
        assert torch.equal(draw_and_log_prob(distribution, (4,))[0], expected)


def test_a_distribution_that_takes_a_generator_gets_it():
    q = flow_of()()
    assert torch.equal(draw(q, (5,), generator=seeded(2)), q.sample((5,), generator=seeded(2)))
    z, log_q = draw_and_log_prob(q, (5,), generator=seeded(2))
    expected = q.rsample_and_log_prob((5,), generator=seeded(2))
    assert torch.equal(z, expected[0])
    assert torch.equal(log_q, expected[1])


def test_threads_with_their_own_generators_draw_what_they_draw_one_after_the_other():
    model = PPCA(torch.ones(3, 1), torch.zeros(3), 1.0)
    x = torch.ones(8, 3)
    threads = 4
    together = Barrier(threads)

    def estimates(seed, wait=False):
        if wait:
            together.wait()
        generator = seeded(seed)
        q = model.posterior(x)
        return [float(elbo(model, x, q, 5, generator=generator).value.sum()) for _ in range(12)]

    before = torch.get_rng_state()
    one_by_one = [estimates(seed) for seed in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        at_once = list(pool.map(lambda seed: estimates(seed, wait=True), range(threads)))
    assert at_once == one_by_one
    assert torch.equal(torch.get_rng_state(), before)


class WithoutInverse(Distribution):
    """A flow's distribution whose density at given points must not be asked."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, held):
        self.held = held
        super().__init__(held.batch_shape, held.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return WithoutInverse(self.held.expand(batch_shape))

    def rsample_and_log_prob(self, sample_shape=(), *, generator=None):
        return self.held.rsample_and_log_prob(sample_shape, generator=generator)

    def log_prob(self, value):
        raise AssertionError("the slow inverse was called")


MODEL = PPCA(
    torch.tensor([[1.0, 0.5, 0.0], [0.3, -1.0, 0.2]], dtype=torch.float64),
    torch.zeros(2, dtype=torch.float64),
    torch.tensor(0.5, dtype=torch.float64),
)
X = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.2, 0.1], [3.0, 1.0]], dtype=torch.float64)


def log_target(z):
    return -z.square().sum(-1)


# Each estimate, and the same by hand from draws of q and their log densities.
ESTIMATES = {
    "elbo": (
        lambda q, g: elbo(MODEL, X, q, 6, generator=g).value,
        lambda z, log_q: (MODEL.log_joint(X, z) - log_q).mean(0),
    ),
    "weighted": (
        lambda q, g: importance_weighted_bound(MODEL, X, q, 3, generator=g, repeats=2).value,
        lambda z, log_q: (
            (MODEL.log_joint(X, z) - log_q).reshape(3, 2, -1).exp().mean(0).log().mean(0)
        ),
    ),
    "evidence": (
        lambda q, g: importance_log_prob(MODEL, X, q, 6, generator=g),
        lambda z, log_q: (MODEL.log_joint(X, z) - log_q).exp().mean(0).log(),
    ),
    "reverse": (
        lambda q, g: reverse_kl(log_target, q.expand((4,)), 6, generator=g).value,
        lambda z, log_q: (log_q - log_target(z)).mean(0),
    ),
}


@pytest.mark.parametrize("kind", [PlanarFlow, IAF, MAF])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_never_ask_for_the_density_of_their_draws(estimate, shared, kind):
    fast, slow = ESTIMATES[estimate]
    flow = flow_of(kind, context=0 if shared else 2)
    q = flow() if shared else flow(X)
    value = fast(WithoutInverse(q), seeded(4))
    z = q.rsample((6, *X.shape[: 1 - len(q.batch_shape)]), generator=seeded(4))
    expected = slow(z, q.log_prob(z))
    assert torch.allclose(value, expected, rtol=1e-8)
    parameters = list(flow.parameters())
    for one, other in zip(
        torch.autograd.grad(value.sum(), parameters, allow_unused=True, retain_graph=True),
        torch.autograd.grad(expected.sum(), parameters, allow_unused=True),
        strict=True,
    ):
        if other is None:
            assert one is None
        else:
            assert torch.allclose(one, other, rtol=1e-6, atol=1e-8)


def test_a_target_is_drawn_the_fast_way_and_left_alone():
    flow, q = flow_of(), Independent(Normal(torch.zeros(3).double(), 1.0), 1)
    estimate = forward_kl(WithoutInverse(flow()), q, 50, generator=seeded(4)).value
    z = flow().sample((50,), generator=seeded(4))
    assert torch.allclose(estimate, (flow().log_prob(z) - q.log_prob(z)).mean(0))
    assert not estimate.requires_grad


def test_independent_keeps_the_fast_way_and_sums_over_its_events():
    flow = flow_of(context=2)
    q = flow(X.reshape(2, 2, 2))
    for events, batch in ((1, (2,)), (2, ()), (0, (2, 2))):
        held = Independent(WithoutInverse(q), events)
        z, log_q = draw_and_log_prob(held, (5,), generator=seeded())
        assert log_q.shape == (5, *batch)
        assert torch.allclose(log_q, Independent(q, events).log_prob(z))


def test_draws_without_gradient_have_the_density_of_a_fixed_point():
    flow = flow_of()
    z, log_q = draw_and_log_prob(flow(), (5,), generator=seeded(), reparametrised=False)
    assert not z.requires_grad
    expected = flow().log_prob(z)
    assert torch.equal(log_q, expected)
    parameters = list(flow.parameters())
    gradient = torch.autograd.grad(log_q.sum(), parameters)
    for one, other in zip(gradient, torch.autograd.grad(expected.sum(), parameters), strict=True):
        assert torch.equal(one, other)


def test_a_discrete_distribution_has_its_log_probabilities():
    q = Categorical(P)
    z, log_q = draw_and_log_prob(q, (20,), generator=seeded())
    assert torch.equal(log_q, P.log()[z])


def test_weights_of_draws_whose_density_is_known():
    q = WithoutInverse(flow_of()())
    z, log_q = draw_and_log_prob(q, (6, 4), generator=seeded())
    log_w = log_weights(MODEL, X, z, q, log_q=log_q)
    assert torch.equal(log_w, MODEL.log_joint(X, z) - log_q)
    with pytest.raises(ValueError, match="the log density of the proposal must have shape"):
        log_weights(MODEL, X, z, q, log_q=log_q[:, :1])


class ByDropout(Normal):
    def sample(self, sample_shape=()):
        return torch.native_dropout(self.loc.expand(*sample_shape, *self.batch_shape), 0.5, True)[0]


def test_what_takes_no_generator_is_refused_and_not_drawn_from_torch_s_own():
    before = torch.get_rng_state()
    with pytest.raises(TypeError, match="take a generator, got native_dropout"):
        draw(ByDropout(torch.ones(3), 1.0), (2,), generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("function", [draw, draw_and_log_prob])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"generator": 0}, TypeError, r"generator must be a torch\.Generator, got int"),
        ({"distribution": 3}, TypeError, "distribution must be a torch.distributions"),
        ({"shape": 3}, TypeError, "shape must be a tuple of ints, got int"),
        ({"shape": (0,)}, ValueError, "every size in shape must be at least 1, got 0"),
        ({"reparametrised": 1}, TypeError, "reparametrised must be True"),
        (
            {"distribution": Categorical(P), "reparametrised": True},
            TypeError,
            "distribution must have rsample to be reparametrised, got Categorical",
        ),
    ],
)
def test_draws_refuse_bad_arguments(function, change, error, message):
    good = {"distribution": Normal(0.0, 1.0), "shape": (2,), "generator": seeded()}
    function(**good)
    with pytest.raises(error, match=message):
        function(**(good | change))


def test_noise_is_drawn_where_the_generator_is():
    elsewhere, generator = torch.empty(1, device="meta"), seeded()
    assert gaussian_noise((3,), elsewhere, generator).device == elsewhere.device
    here = seeded()
    expected = torch.randn(3, generator=here)
    assert torch.equal(generator.get_state(), here.get_state())
    assert torch.equal(gaussian_noise((3,), torch.empty(1), seeded()), expected)


def test_independent_draws_what_it_holds():
    q = Independent(RealNVP(2, 1)(torch.ones(3, 1)), 1)
    y, _ = draw_and_log_prob(q, (4,), generator=seeded())
    for reparametrised in (False, True):
        again = draw(q, (4,), generator=seeded(), reparametrised=reparametrised)
        assert torch.equal(again, y)
