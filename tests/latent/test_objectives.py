"""The objectives against exact values, and their standard errors against measured spreads."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from draws import number, rand, seeded
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform, TanhTransform

from nfbook.estimators import Estimate, naive_log_prob
from nfbook.latent import PPCA, GaussianMixture
from nfbook.objectives import (
    ELBO,
    draw_and_path_log_prob,
    elbo,
    forward_kl,
    importance_weighted_bound,
    reverse_kl,
)
from nfbook.sampling import draw

DOUBLE = torch.float64
TERMS = ("reconstruction", "kl", "energy", "entropy")


def some_ppca(dtype: torch.dtype = DOUBLE) -> PPCA:
    return PPCA(rand(4, 2).to(dtype), rand(4, seed=1).to(dtype), torch.tensor(0.7, dtype=dtype))


def some_mixture() -> GaussianMixture:
    factors = rand(3, 2, 2, seed=2)
    covariances = factors @ factors.mT + 0.5 * torch.eye(2, dtype=DOUBLE)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    return GaussianMixture(weights, 2 * rand(3, 2, seed=3), covariances)


def full_gaussian(*batch: int) -> MultivariateNormal:
    factor = torch.tensor([[0.8, 0.0], [0.5, 0.4]], dtype=DOUBLE)
    return MultivariateNormal(rand(*batch, 2, seed=4), scale_tril=factor.expand(*batch, 2, 2))


def diagonal_gaussian(*batch: int) -> Independent:
    return Independent(Normal(rand(*batch, 2, seed=5), 0.3 + rand(*batch, 2, seed=6).abs()), 1)


def two_peaks() -> MixtureSameFamily:
    chances = Categorical(torch.tensor([0.6, 0.4], dtype=DOUBLE))
    means = torch.tensor([-1.5, 2.0], dtype=DOUBLE)
    return MixtureSameFamily(chances, Normal(means, torch.tensor([0.5, 0.8], dtype=DOUBLE)))


def cases() -> dict[str, tuple]:
    """Models, observations and q for which every term is known."""
    x = rand(3, 4, seed=7)
    return {
        "full": (some_ppca(), x, full_gaussian(3)),
        "diagonal": (some_ppca(), x, diagonal_gaussian(3)),
        "shared": (some_ppca(), x, full_gaussian()),
        "discrete": (some_mixture(), rand(3, 2, seed=8), Categorical(logits=rand(3, 3, seed=9))),
    }


def exact_terms(model, x: torch.Tensor, q) -> dict[str, np.ndarray]:
    """Compute every term with numpy: sums for a mixture, traces and determinants for PPCA."""
    if isinstance(model, GaussianMixture):
        parameters = zip(model.means, model.covariances, strict=True)
        likelihood = np.stack([stats.multivariate_normal(*p).logpdf(x) for p in parameters], -1)
        probs, log_prior = q.probs.numpy(), model.weights.log().numpy()
        log_q = np.log(probs)
        return {
            "reconstruction": (probs * likelihood).sum(-1),
            "kl": (probs * (log_q - log_prior)).sum(-1),
            "energy": -(probs * (likelihood + log_prior)).sum(-1),
            "entropy": -(probs * log_q).sum(-1),
        }
    w, s2 = model.loading.numpy(), float(model.noise_variance)
    mean = np.broadcast_to(q.mean.numpy(), (len(x), 2))
    if isinstance(q, Independent):
        covariance = np.stack([np.diag(v) for v in q.variance.numpy()])
    else:
        covariance = np.broadcast_to(q.covariance_matrix.numpy(), (len(x), 2, 2))
    residual = x.numpy() - model.mean.numpy() - mean @ w.T
    spread = np.trace(w @ covariance @ w.T, axis1=1, axis2=2)
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * covariance))
    squares = (mean**2).sum(1) + np.trace(covariance, axis1=1, axis2=2)
    prior = -0.5 * squares - np.log(2 * np.pi)
    reconstruction = -2 * np.log(2 * np.pi * s2) - ((residual**2).sum(1) + spread) / (2 * s2)
    return {
        "reconstruction": reconstruction,
        "kl": -entropy - prior,
        "energy": -reconstruction - prior,
        "entropy": entropy,
    }


def near(estimate: Estimate, exact, sigmas: float = 5) -> bool:
    """Say whether an estimate is right within its own standard errors (and rounding)."""
    off = (estimate.value.detach() - torch.as_tensor(exact)).abs()
    return bool((off <= sigmas * estimate.standard_error + 1e-10).all())


def total(bound: ELBO) -> Estimate:
    return Estimate(bound.value, bound.standard_error)


# ---- the bound and its terms ------------------------------------------------------------------


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("case", cases())
def test_every_term_is_the_exact_one_within_its_standard_error(case, closed_form):
    model, x, q = cases()[case]
    bound = elbo(model, x, q, 20_000, generator=seeded(), closed_form=closed_form)
    exact = exact_terms(model, x, q)
    for name in TERMS:
        term = getattr(bound, name)
        assert term.value.shape == term.standard_error.shape == (3,)
        assert near(term, exact[name]), name
        # Not only because the error is stated to be large.
        assert bool((term.standard_error < 0.02 * term.value.abs() + 0.01).all())
    assert near(total(bound), exact["reconstruction"] - exact["kl"])
    for name in ("kl", "entropy"):
        exactly_known = getattr(bound, name).standard_error == 0
        assert bool(exactly_known.all() if closed_form else ~exactly_known.any())


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("case", cases())
def test_the_terms_of_one_estimate_add_up(case, closed_form):
    model, x, q = cases()[case]
    bound = elbo(model, x, q, 7, generator=seeded(), closed_form=closed_form)
    torch.testing.assert_close(bound.reconstruction.value - bound.kl.value, bound.value)
    torch.testing.assert_close(bound.entropy.value - bound.energy.value, bound.value)


def test_everything_sampled_has_no_error_at_the_posterior():
    model, x, _ = cases()["full"]
    q = model.posterior(x)
    sampled = elbo(model, x, q, 5, generator=seeded(), closed_form=False)
    torch.testing.assert_close(sampled.value, model.log_prob(x))
    assert bool((sampled.standard_error < 1e-12).all())
    assert bool((elbo(model, x, q, 5, generator=seeded()).standard_error > 0.01).all())


def test_one_observation_has_no_batch_dimension():
    model, x, _ = cases()["full"]
    bound = elbo(model, x[0], full_gaussian(), 10, generator=seeded())
    assert bound.value.shape == bound.kl.value.shape == bound.entropy.standard_error.shape == ()


def test_a_shared_q_is_drawn_anew_for_each_observation():
    model, x, q = cases()["shared"]
    bound = elbo(model, x[:1].expand(2, 4), q, 5, generator=seeded())
    assert bound.value[0] != bound.value[1]
    assert bound.kl.value[0] == bound.kl.value[1]


def curve_model(log_joint=True) -> SimpleNamespace:
    """A stand-in without evidence: z is Gaussian, x lies around (z², z)."""

    def likelihood(z):
        return Independent(Normal(torch.cat([z**2, z], -1), 0.8), 1)

    prior = Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1)
    model = SimpleNamespace(prior=prior, likelihood=likelihood)
    if log_joint:
        model.log_joint = lambda x, z: prior.log_prob(z) + likelihood(z).log_prob(x)
    return model


def warped() -> TransformedDistribution:
    """A distribution whose entropy and divergences nobody knows, as a flow's."""
    base = Independent(Normal(torch.zeros(1, dtype=DOUBLE), 0.5), 1)
    loc = torch.tensor([0.3], dtype=DOUBLE)
    return TransformedDistribution(base, [TanhTransform(cache_size=1), AffineTransform(loc, 2.0)])


def test_a_stand_in_model_with_a_flow_for_q_against_quadrature():
    model, x, q = curve_model(), torch.tensor([1.0, 0.5], dtype=DOUBLE), warped()
    # Over the base, and away from the map's borders.
    u = torch.linspace(-4, 4, 20_001, dtype=DOUBLE)
    z = (0.3 + 2 * u.tanh()).unsqueeze(1)
    mass = Normal(number(0.0), 0.5).log_prob(u).exp() * 8 / 20_000
    log_likelihood, log_q = model.likelihood(z).log_prob(x), q.log_prob(z)
    exact = {
        "reconstruction": mass @ log_likelihood,
        "energy": -mass @ model.log_joint(x, z),
        "kl": mass @ (log_q - model.prior.log_prob(z)),
        "entropy": -mass @ log_q,
    }
    bound = elbo(model, x, q, 50_000, generator=seeded())
    for name in TERMS:
        assert near(getattr(bound, name), exact[name]), name
        assert 0 < float(getattr(bound, name).standard_error) < 0.02
    assert near(total(bound), exact["entropy"] - exact["energy"])


def test_the_closed_form_is_used_whatever_form_the_gaussians_have():
    """Torch itself knows no divergence of a full Gaussian from one with independent coordinates."""
    model, (diagonal, full) = curve_model(), (diagonal_gaussian(), full_gaussian())
    model.likelihood = lambda z: Independent(Normal(z, 1.0), 1)
    x = rand(2)
    for prior, q in ((diagonal, full), (full, diagonal), (diagonal, diagonal), (full, full)):
        model.prior = prior
        closed, sampled = (
            elbo(model, x, q, 20_000, generator=seeded(), closed_form=c) for c in (True, False)
        )
        assert float(closed.kl.standard_error) == 0
        assert near(sampled.kl, closed.kl.value), (prior, q)
        if prior is not q:
            assert float(closed.kl.value) > 0.1


# ---- standard errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which", ["elbo", "sampled elbo", "kl", "entropy", "weighted", "reverse", "forward"]
)
def test_standard_errors_are_as_wide_as_the_spread(which):
    """Of 1000 estimates the errors in units of the stated ones have mean 0 and variance 1."""
    model, x, _ = cases()["full"]
    copies, q = x[0].expand(1000, 4), full_gaussian(1)
    exact = {name: float(term[0]) for name, term in exact_terms(model, x[:1], q).items()}
    exact["elbo"] = exact["sampled elbo"] = exact["entropy"] - exact["energy"]
    q = q.expand((1000,))
    if which == "weighted":
        one = full_gaussian()
        many = importance_weighted_bound(model, x[0], one, 5, generator=seeded(1), repeats=30_000)
        exact[which] = float(many.value)
        estimate = importance_weighted_bound(model, copies, q, 5, generator=seeded(2), repeats=100)
    elif which in ("reverse", "forward"):
        peaks, gaussian = two_peaks(), Normal(torch.full((1000,), 0.2, dtype=DOUBLE), 1.0)
        function = reverse_kl if which == "reverse" else forward_kl
        pair = (gaussian, peaks) if which == "reverse" else (peaks, gaussian)
        exact[which] = quadrature_kl(*pair)
        estimate = function(peaks, gaussian, 100, generator=seeded())
    else:
        bound = elbo(model, copies, q, 100, generator=seeded(), closed_form=which == "elbo")
        estimate = getattr(bound, which) if which in TERMS else total(bound)
    scores = (estimate.value - exact[which]) / estimate.standard_error
    assert abs(float(scores.mean())) < 0.2
    assert 0.88 < float(scores.std()) < 1.15


def quadrature_kl(p, q) -> float:
    """Integrate KL(p || q) of two distributions on the line; of a batch, that of the first."""
    z = torch.linspace(-12, 12, 20_001, dtype=DOUBLE)
    log_p, log_q = (
        distribution.log_prob(z.reshape(-1, *[1] * len(distribution.batch_shape)))
        for distribution in (p, q)
    )
    log_p, log_q = log_p.reshape(len(z), -1)[:, 0], log_q.reshape(len(z), -1)[:, 0]
    return float((log_p.exp() * (log_p - log_q)).sum() * 24 / 20_000)


def test_a_single_draw_says_nothing_about_its_error_and_warns_of_nothing():
    model, x, q = cases()["full"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound = elbo(model, x, q, 1, generator=seeded())
        single = importance_weighted_bound(model, x, q, 8, generator=seeded())
    assert bool(bound.standard_error.isposinf().all())
    assert bool(bound.reconstruction.standard_error.isposinf().all())
    assert bool((bound.kl.standard_error == 0).all())
    assert bool(single.standard_error.isposinf().all())


def test_an_infinite_divergence_is_infinite_and_not_nan():
    q = Normal(torch.zeros((), dtype=DOUBLE), 1.0)
    inside = Uniform(-q.stddev, q.stddev, validate_args=False)
    value, error = reverse_kl(inside, q, 100, generator=seeded())
    assert bool(value.isposinf())
    assert bool(error.isposinf())


def bounded(event: bool = False, **options) -> Independent | Uniform:
    """The uniform distribution on (-1, 1), over numbers or over vectors of one."""
    edge = torch.ones(1, dtype=DOUBLE) if event else torch.ones((), dtype=DOUBLE)
    uniform = Uniform(-edge, edge, **options)
    return Independent(uniform, 1, **options) if event else uniform


@pytest.mark.parametrize("options", [{}, {"validate_args": False}], ids=["validated", "not"])
@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_divergence_from_what_has_a_smaller_support_is_infinite(options, event, batch):
    inside = bounded(event, **options)
    loc = torch.zeros(*batch, 1, dtype=DOUBLE) if event else torch.zeros(batch, dtype=DOUBLE)
    gaussian = Independent(Normal(loc, 1.0), 1) if event else Normal(loc, 1.0)
    for value, error in (
        reverse_kl(inside, gaussian, 100, generator=seeded()),
        forward_kl(gaussian, inside.expand(batch), 100, generator=seeded()),
    ):
        assert value.shape == batch
        assert bool(value.isposinf().all())
        assert bool(error.isposinf().all())
    # The other way round it is finite: E log p = -log 2, and -E log q = log(2 pi) / 2 + 1 / 6.
    exact = -math.log(2) + math.log(2 * math.pi) / 2 + 1 / 6
    assert near(reverse_kl(gaussian, inside.expand(batch), 10_000, generator=seeded()), exact)
    assert near(forward_kl(inside, gaussian, 10_000, generator=seeded()), exact)


def test_only_the_q_that_leaves_the_support_has_an_infinite_divergence():
    q = Normal(torch.tensor([0.0, 0.0], dtype=DOUBLE), torch.tensor([1.0, 0.01], dtype=DOUBLE))
    value, error = reverse_kl(bounded(), q, 1000, generator=seeded())
    assert value.isposinf().tolist() == error.isposinf().tolist() == [True, False]
    assert near(Estimate(value[1], error[1]), math.log(2) - q.entropy()[1])


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("options", [{}, {"validate_args": False}], ids=["validated", "not"])
def test_the_bound_with_a_bounded_prior(options, closed_form):
    model, x = curve_model(), torch.tensor([0.5, 0.5], dtype=DOUBLE)
    model.prior = bounded(event=True, **options)
    wide, narrow = (Independent(Normal(torch.zeros(1, dtype=DOUBLE), s), 1) for s in (1.0, 0.05))
    outside = elbo(model, x, wide, 200, generator=seeded(), closed_form=closed_form)
    assert bool(outside.value.isneginf())
    assert bool(outside.energy.value.isposinf())
    assert bool(outside.kl.value.isposinf())
    assert bool(outside.reconstruction.value.isfinite())
    if not closed_form:  # for torch a Gaussian always leaves a bounded set
        inside = elbo(model, x, narrow, 200, generator=seeded(), closed_form=False)
        assert bool(inside.value.isfinite())
        assert near(inside.kl, math.log(2) - narrow.entropy())


def test_a_distribution_of_ones_own_need_not_know_its_support():
    class Own(Normal):
        @property
        def support(self):
            raise NotImplementedError

    target = Own(torch.zeros((), dtype=DOUBLE), 1.0, validate_args=False)
    q = Normal(number(1.0), 1.0)
    assert near(reverse_kl(target, q, 1000, generator=seeded()), 0.5)


def test_a_spread_that_overflows_is_an_infinite_error():
    q = Normal(torch.zeros((), dtype=DOUBLE), 1.0)
    value, error = reverse_kl(lambda z: 1e200 * z, q, 100, generator=seeded())
    assert bool(value.isfinite())
    assert bool(error.isposinf())


# ---- gradients --------------------------------------------------------------------------------


def flat_gaussian(v: torch.Tensor) -> MultivariateNormal:
    factor = torch.stack([torch.stack([v[2].exp(), v[2] * 0]), v[3:5]])
    return MultivariateNormal(v[:2], scale_tril=factor.tril())


def flat_ppca(v: torch.Tensor) -> PPCA:
    return PPCA(v[:8].reshape(4, 2), v[8:12], v[12].exp())


Q_START = torch.tensor([0.3, -0.5, -0.4, 0.2, 0.6], dtype=DOUBLE)
MODEL_START = torch.cat([rand(8), rand(4, seed=1), torch.tensor([-0.3], dtype=DOUBLE)])
OBJECTIVES = {
    "elbo": lambda model, x, q: elbo(model, x, q, 5, generator=seeded()).value.sum(),
    "sampled": lambda model, x, q: elbo(
        model, x, q, 5, generator=seeded(), closed_form=False
    ).value.sum(),
    "kl": lambda model, x, q: elbo(
        model, x, q, 5, generator=seeded(), closed_form=False
    ).kl.value.sum(),
    "energy": lambda model, x, q: elbo(model, x, q, 5, generator=seeded()).energy.value.sum(),
    "weighted": lambda model, x, q: importance_weighted_bound(
        model, x, q, 4, generator=seeded(), repeats=3
    ).value.sum(),
    "reverse": lambda model, x, q: (
        reverse_kl(lambda z: model.log_joint(x[0], z), q, 5, generator=seeded()).value
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("of", ["q", "model"])
def test_gradients_are_finite_differences_with_the_same_draws(objective, of):
    x = rand(2, 4, seed=7)

    def value(v):
        if of == "q":
            return OBJECTIVES[objective](flat_ppca(MODEL_START), x, flat_gaussian(v))
        return OBJECTIVES[objective](flat_ppca(v), x, flat_gaussian(Q_START))

    start = Q_START if of == "q" else MODEL_START
    if of == "model" and objective == "kl":
        assert not value(start.clone().requires_grad_()).requires_grad
        return
    assert torch.autograd.gradcheck(value, start.clone().requires_grad_(), atol=1e-6)


def test_forward_gradient_is_that_of_the_cross_entropy_and_leaves_the_target_alone():
    target = Normal(torch.tensor(1.0, dtype=DOUBLE, requires_grad=True), 0.5)

    def value(v):
        return forward_kl(target, Normal(v[0], v[1].exp()), 50, generator=seeded()).value

    start = torch.tensor([0.2, 0.1], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(value, start)
    value(start).backward()
    assert target.loc.grad is None
    z = draw(target, (50,), generator=seeded())
    mean_score = -(z - 0.2).mean() / math.exp(0.2)
    torch.testing.assert_close(start.grad[0], mean_score)


def test_standard_errors_carry_no_gradient():
    q = flat_gaussian(Q_START.clone().requires_grad_())
    bound = elbo(some_ppca(), rand(4), q, 5, generator=seeded())
    assert bound.value.requires_grad
    errors = [bound.standard_error, bound.reconstruction.standard_error, bound.kl.standard_error]
    assert not any(error.requires_grad for error in errors)


def average_gradient(value, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard error of the gradients by 20 000 copies of the logits."""
    copies = logits.expand(20_000, 3).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(copies).sum(), copies)
    return gradient.mean(0), gradient.std(0) / math.sqrt(len(copies))


@pytest.mark.parametrize("objective", ["elbo", "sampled", "weighted", "reverse", *TERMS])
def test_a_discrete_q_gets_an_unbiased_gradient(objective):
    """There is no reparametrisation, so the score function takes over."""
    mixture, x, _ = cases()["discrete"]
    x, logits = x[0], rand(3, seed=9)
    copies = x.expand(20_000, 2)

    def exact_value(v):
        log_w = mixture.log_joint(x.expand(3, 2), torch.arange(3)) - v.log_softmax(0)
        probs = v.softmax(0)
        if objective == "weighted":  # K = 2: all nine pairs
            pairs = torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - math.log(2)
            return (probs.unsqueeze(0) * probs.unsqueeze(1) * pairs).sum()
        log_q, log_prior = v.log_softmax(0), mixture.weights.log()
        integrand = {
            "reconstruction": log_w + log_q - log_prior,
            "kl": log_q - log_prior,
            "energy": -log_w - log_q,
            "entropy": -log_q,
        }
        return (probs * integrand.get(objective, log_w)).sum()

    def estimate(v):
        q = Categorical(logits=v)
        if objective == "weighted":
            return importance_weighted_bound(mixture, copies, q, 2, generator=seeded()).value
        if objective == "reverse":
            return -reverse_kl(
                lambda z: mixture.log_joint(copies, z), q, 2, generator=seeded()
            ).value
        bound = elbo(mixture, copies, q, 2, generator=seeded(), closed_form=objective == "elbo")
        return getattr(bound, objective).value if objective in TERMS else bound.value

    v = logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(exact_value(v), v)
    mean, error = average_gradient(estimate, logits)
    # Not only because the error is large.
    assert bool((error < 0.05 * exact.norm() + 0.02).all())
    assert bool(((mean - exact).abs() < 5 * error).all())


def test_the_score_factor_changes_no_value():
    mixture, x, q = cases()["discrete"]
    learned = Categorical(logits=q.logits.clone().requires_grad_())
    for closed_form in (True, False):
        plain = elbo(mixture, x, q, 9, generator=seeded(), closed_form=closed_form)
        assert torch.equal(
            elbo(mixture, x, learned, 9, generator=seeded(), closed_form=closed_form)[0], plain[0]
        )


# ---- gradients along the path -----------------------------------------------------------------


def shifted_posterior(model: PPCA, x: torch.Tensor, shift: torch.Tensor) -> MultivariateNormal:
    exact = model.posterior(x)
    return MultivariateNormal(exact.mean + shift, scale_tril=exact.scale_tril)


def bounds_with(path: bool) -> dict:
    """Both bounds, with the plain gradient or the one along the path."""
    return {
        "elbo": lambda model, x, q: elbo(
            model, x, q, 2, generator=seeded(), closed_form=False, path_gradient=path
        ),
        "weighted": lambda model, x, q: importance_weighted_bound(
            model, x, q, 8, generator=seeded(), repeats=2, doubly_reparametrised=path
        ),
    }


@pytest.mark.parametrize("which", ["elbo", "weighted"])
@pytest.mark.parametrize("off", [0.0, 0.3])
def test_the_gradient_along_the_path_is_as_right_and_less_noisy(which, off):
    model, x = some_ppca(), rand(4, seed=7).expand(4000, 4)
    gradients = []
    for path in (False, True):
        shift = torch.full((4000, 2), off, dtype=DOUBLE, requires_grad=True)
        value = bounds_with(path)[which](model, x, shifted_posterior(model, x, shift)).value
        gradients.append(torch.autograd.grad(value.sum(), shift)[0])
    plain, path = gradients
    error = ((plain.var(0) + path.var(0)) / 4000).sqrt()
    assert bool(((plain.mean(0) - path.mean(0)).abs() < 5 * error).all())
    if off:
        assert bool((path.mean(0).abs() > 5 * error).any()), "there is something to be right about"
        assert float(path.std(0).norm()) < 0.7 * float(plain.std(0).norm())
    else:
        assert float(plain.std(0).min()) > 0.05
        assert float(path.abs().max()) < 1e-12


@pytest.mark.parametrize("which", ["elbo", "weighted"])
def test_the_path_changes_neither_the_value_nor_the_models_gradient(which):
    x, q = rand(3, 4, seed=7), full_gaussian(3)
    found = []
    for path in (False, True):
        v = MODEL_START.clone().requires_grad_()
        value = bounds_with(path)[which](flat_ppca(v), x, q).value
        found.append((value, *torch.autograd.grad(value.sum(), v)))
    torch.testing.assert_close(*found)


def test_an_event_may_have_no_dimension_or_two():
    for event in ((), (2, 3)):
        gradients = []
        for path in (False, True):
            shift = torch.full((2000, *event), 0.1, dtype=DOUBLE, requires_grad=True)
            prior = Independent(Normal(torch.zeros(event, dtype=DOUBLE), 1.0), len(event))
            likelihood = lambda z: Independent(Normal(z.reshape(*z.shape[:2], -1), 1.0), 1)  # noqa: E731
            model = SimpleNamespace(prior=prior, likelihood=likelihood)
            model.log_joint = lambda x, z, m=model: (
                m.prior.log_prob(z) + m.likelihood(z).log_prob(x)
            )
            q = Independent(Normal(shift, 0.9), len(event))
            x = torch.ones(2000, max(1, math.prod(event)), dtype=DOUBLE)
            bound = importance_weighted_bound(
                model, x, q, 4, generator=seeded(), doubly_reparametrised=path
            )
            gradients.append(torch.autograd.grad(bound.value.sum(), shift)[0])
        plain, path = gradients
        error = ((plain.var(0) + path.var(0)) / 2000).sqrt()
        assert bool(((plain.mean(0) - path.mean(0)).abs() < 5 * error).all())
        assert bool((path.std(0) < plain.std(0)).all())


def test_a_transform_of_torch_keeps_no_gradient_of_its_own():
    loc = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
    base = Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1)
    z, log_q = draw_and_path_log_prob(TransformedDistribution(base, [AffineTransform(loc, 2.0)]))
    (gradient,) = torch.autograd.grad(log_q, loc)
    torch.testing.assert_close(gradient, -z.detach() / 4)


def test_the_path_needs_draws_that_follow_q():
    mixture, x, q = cases()["discrete"]
    with pytest.raises(TypeError, match="must have rsample"):
        elbo(mixture, x, q, 3, path_gradient=True)
    with pytest.raises(TypeError, match="must have rsample"):
        importance_weighted_bound(mixture, x, q, 3, doubly_reparametrised=True)
    with pytest.raises(TypeError, match="path_gradient must be True or False, got str"):
        elbo(mixture, x, q, 3, path_gradient="yes")
    with pytest.raises(TypeError, match="doubly_reparametrised must be True or False, got int"):
        importance_weighted_bound(mixture, x, q, 3, doubly_reparametrised=1)


# ---- the importance-weighted bound ------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_one_draw_inside_the_logarithm_is_the_sampled_elbo(case):
    model, x, q = cases()[case]
    weighted = importance_weighted_bound(model, x, q, 1, generator=seeded(), repeats=50)
    sampled = elbo(model, x, q, 50, generator=seeded(), closed_form=False)
    torch.testing.assert_close(weighted.value, sampled.value)
    torch.testing.assert_close(weighted.standard_error, sampled.standard_error)


@pytest.mark.parametrize("num_samples", [1, 2, 4])
def test_weighted_bound_is_the_sum_over_all_draws_of_a_discrete_q(num_samples):
    mixture, x, q = cases()["discrete"]
    x, q = x[0], Categorical(q.probs[0])
    z = torch.cartesian_prod(*[torch.arange(3)] * num_samples).reshape(-1, num_samples)
    weights = torch.exp(mixture.log_joint(x.expand(3, 2), torch.arange(3)) - q.probs.log())
    exact = q.probs[z].prod(1) @ weights[z].mean(1).log()
    estimate = importance_weighted_bound(
        mixture, x, q, num_samples, generator=seeded(), repeats=50_000
    )
    assert near(estimate, exact)
    assert float(estimate.standard_error) < 0.05


def test_weighted_bound_at_the_posterior_is_the_evidence():
    model, x, _ = cases()["full"]
    bound = importance_weighted_bound(
        model, x, model.posterior(x), 3, generator=seeded(), repeats=2
    )
    torch.testing.assert_close(bound.value, model.log_prob(x))


# ---- both divergences -------------------------------------------------------------------------


def test_both_divergences_of_two_gaussians_are_the_closed_forms():
    eye = torch.eye(2, dtype=DOUBLE)
    q, p = full_gaussian(3), MultivariateNormal(torch.zeros_like(eye[0]), 0.5 * eye)
    reverse = reverse_kl(p, q, 20_000, generator=seeded())
    forward = forward_kl(p, q, 20_000, generator=seeded())
    assert near(reverse, torch.distributions.kl_divergence(q, p))
    assert near(forward, torch.distributions.kl_divergence(p, q))
    assert reverse.value.shape == forward.standard_error.shape == (3,)
    assert bool((reverse.standard_error / reverse.value < 0.1).all())


def test_an_unnormalised_target_shifts_the_divergence_by_log_z():
    p, q = two_peaks(), Normal(torch.tensor(0.2, dtype=DOUBLE), 1.5)
    plain, shifted = (
        reverse_kl(target, q, 100, generator=seeded())
        for target in (p, lambda z: p.log_prob(z) + math.log(7.0))
    )
    torch.testing.assert_close(shifted.value, plain.value - math.log(7.0))
    torch.testing.assert_close(shifted.standard_error, plain.standard_error)


def test_reverse_divergence_from_the_joint_density_is_minus_the_bound():
    model, x, q = cases()["full"]
    reverse = reverse_kl(lambda z: model.log_joint(x, z), q, 20, generator=seeded())
    bound = elbo(model, x, q, 20, generator=seeded(), closed_form=False)
    torch.testing.assert_close(-reverse.value, bound.value)
    torch.testing.assert_close(reverse.standard_error, bound.standard_error)


def test_each_q_of_a_batch_gets_its_own_draws_of_a_shared_target():
    q = Normal(torch.zeros(2, dtype=DOUBLE), 1.0)
    value, _ = forward_kl(two_peaks(), q, 10, generator=seeded())
    assert value[0] != value[1]


# ---- dtype, seeds, arguments ------------------------------------------------------------------


def test_single_precision_is_kept():
    short = torch.float32
    model, x = some_ppca(short), rand(3, 4, seed=7).to(short)
    q = MultivariateNormal(torch.zeros(2), torch.eye(2))
    bound = elbo(model, x, q, 3, generator=seeded())
    tensors = [bound.value, bound.standard_error]
    for name in TERMS:
        tensors += getattr(bound, name)
    tensors += importance_weighted_bound(model, x, q, 3, generator=seeded(), repeats=2)
    tensors += [*reverse_kl(q, q, 3, generator=seeded()), *forward_kl(q, q, 3, generator=seeded())]
    assert {tensor.dtype for tensor in tensors} == {short}


@pytest.mark.parametrize("function", [reverse_kl, forward_kl])
def test_divergences_refuse_two_dtypes(function):
    short, long = (Normal(torch.zeros(2, dtype=t), 1.0) for t in (torch.float32, DOUBLE))
    # Draws in double precision would raise the other density's dtype, so these are in single.
    target, q = (short, long) if function is forward_kl else (long, short)
    with pytest.raises(TypeError, match="must have the same dtype, got"):
        function(target, q, 3, generator=seeded())


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    model, x, q = cases()["full"]
    functions = [
        lambda g: elbo(model, x, q, 4, generator=g).value,
        lambda g: importance_weighted_bound(model, x, q, 4, generator=g).value,
        lambda g: reverse_kl(q, diagonal_gaussian(3), 4, generator=g).value,
        lambda g: forward_kl(diagonal_gaussian(3), q, 4, generator=g).value,
    ]
    for function in functions:
        before = torch.get_rng_state()
        first = function(seeded(1))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(function(seeded(1)), first)
        assert not bool((function(seeded(2)) == first).any())


BAD = [
    ({"model": None}, TypeError, "model must be a LatentVariableModel, got NoneType"),
    ({"model": curve_model(log_joint=False)}, TypeError, "prior, likelihood and log_joint"),
    ({"x": torch.zeros(3, 4)}, TypeError, "x and parameters must have the same dtype"),
    ({"x": torch.zeros(3, 5, dtype=DOUBLE)}, ValueError, r"x must have shape \(\*, 4\), got"),
    ({"x": torch.full((3, 4), math.nan, dtype=DOUBLE)}, ValueError, "x must be finite"),
    ({"q": torch.zeros(2)}, TypeError, "q must be a torch.distributions.Distribution, got Tensor"),
    ({"q": full_gaussian(2)}, ValueError, r"q must have batch shape \(\) or that of x, \(3,\)"),
    ({"q": Normal(rand(3), 1.0)}, ValueError, r"q must have the event shape of the prior, \(2,\)"),
    ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
    ({"generator": 0}, TypeError, r"generator must be a torch\.Generator, got int"),
]


@pytest.mark.parametrize("function", [elbo, importance_weighted_bound])
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bounds_refuse_bad_arguments(function, change, error, message):
    good = {
        "model": some_ppca(),
        "x": rand(3, 4),
        "q": full_gaussian(3),
        "num_samples": 3,
        "generator": seeded(),
    }
    function(**good)
    with pytest.raises(error, match=message):
        function(**(good | change))


def test_bounds_refuse_their_own_bad_options():
    arguments = some_ppca(), rand(3, 4), full_gaussian(3), 3
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        importance_weighted_bound(*arguments, repeats=0)
    with pytest.raises(TypeError, match="closed_form must be True or False, got str"):
        elbo(*arguments, closed_form="yes")


@pytest.mark.parametrize(
    ("likelihood", "error", "message"),
    [
        (
            lambda z: Normal(torch.cat([z, z], -1), 1.0),
            ValueError,
            r"the log density of the likelihood must have shape \(5,\), got \(5, 2\)",
        ),
        (
            lambda z: Independent(Normal(torch.cat([z, z], -1).float(), 1.0), 1),
            TypeError,
            "the log density of q must have the same dtype",
        ),
        (
            lambda z: Bernoulli(logits=z * math.nan, validate_args=False),
            ValueError,
            "the log density of the likelihood must be finite or minus infinity",
        ),
    ],
)
def test_a_stand_in_with_an_unfit_likelihood_is_refused(likelihood, error, message):
    model = curve_model()
    x = torch.ones(2, dtype=torch.float32 if error is TypeError else DOUBLE)
    if "minus infinity" in message:
        x = x[:1]
        model.likelihood = lambda z: Independent(likelihood(z), 1, validate_args=False)
    else:
        model.likelihood = likelihood
    q = Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1)
    with pytest.raises(error, match=message):
        elbo(model, x, q, 5, generator=seeded())


@pytest.mark.parametrize(
    ("log_joint", "error", "message"),
    [
        (lambda x, z: z[:, 0] * math.nan, ValueError, "must be finite or minus infinity, got 5 N"),
        (lambda x, z: z, ValueError, r"must have shape \(5,\), got \(5, 1\)"),
        (lambda x, z: 0.0, TypeError, r"must be a torch\.Tensor, got float"),
        (
            lambda x, z: z[:, 0].float(),
            TypeError,
            r"and the log density of the proposal must have the same dtype, got torch\.float32 and",
        ),
    ],
)
def test_a_stand_in_with_an_unfit_joint_density_is_refused(log_joint, error, message):
    model, x = curve_model(), torch.ones(2, dtype=DOUBLE)
    assert importance_weighted_bound(model, x, model.prior, 5, generator=seeded()).value.shape == ()
    model.log_joint = log_joint
    with pytest.raises(error, match="^the log joint density " + message):
        importance_weighted_bound(model, x, model.prior, 5, generator=seeded())


@pytest.mark.parametrize("function", [elbo, importance_weighted_bound])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prior", 3, r"model\.prior must be a torch\.distributions\.Distribution, got int"),
        ("likelihood", 3, r"model\.likelihood must be a function, got int"),
        ("log_joint", 3, r"model\.log_joint must be a function, got int"),
    ],
)
def test_a_stand_in_without_its_parts_is_refused(function, name, value, message):
    model, q = curve_model(), warped()
    setattr(model, name, value)
    with pytest.raises(TypeError, match=message):
        function(model, torch.ones(2, dtype=DOUBLE), q, 5)


def test_a_likelihood_that_is_no_distribution_is_refused():
    model = curve_model()
    model.likelihood = lambda z: z
    message = r"model\.likelihood\(z\) must be a torch\.distributions\.Distribution, got Tensor"
    for function in (elbo, lambda model, x, q, n: naive_log_prob(model, x, n)):
        with pytest.raises(TypeError, match=message):
            function(model, torch.ones(2, dtype=DOUBLE), model.prior, 5)


@pytest.mark.parametrize("function", [reverse_kl, forward_kl])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": None}, TypeError, "q must be a torch.distributions.Distribution, got NoneType"),
        ({"target": 3}, TypeError, "target must be a torch.distributions.Distribution"),
        ({"target": full_gaussian()}, ValueError, r"target must have the event shape of q, \(\)"),
        (
            {"target": Normal(torch.zeros(5, dtype=DOUBLE), 1.0)},
            ValueError,
            r"and batch shape \(\) or that of q, \(3,\), got \(\) and \(5,\)",
        ),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1, got 0"),
        ({"generator": 0}, TypeError, r"generator must be a torch\.Generator, got int"),
    ],
)
def test_divergences_refuse_bad_arguments(function, change, error, message):
    q = Normal(torch.zeros(3, dtype=DOUBLE), 1.0)
    good = {"target": two_peaks(), "q": q, "num_samples": 3, "generator": seeded()}
    function(**good)
    with pytest.raises(error, match=message):
        function(**(good | change))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (lambda z: z.sum(), ValueError, r"the log density of the target must have shape \(5, 3\)"),
        (lambda z: z * math.nan, ValueError, "must be finite or minus infinity"),
        (lambda z: z.float(), TypeError, "must have the same dtype"),
        (lambda z: 0.0, TypeError, "the log density of the target must be a torch.Tensor"),
    ],
)
def test_a_target_that_is_no_log_density_is_refused(target, error, message):
    with pytest.raises(error, match=message):
        reverse_kl(target, Normal(torch.zeros(3, dtype=DOUBLE), 1.0), 5, generator=seeded())


def test_a_function_cannot_be_drawn_from():
    with pytest.raises(TypeError, match=r"target must be a torch\.distributions\.Distribution"):
        forward_kl(lambda z: -(z**2), Normal(0.0, 1.0), 5, generator=seeded())


# ---- draws with a gradient --------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda v: Normal(v, 2.0),
        lambda v: Gamma(v.exp(), 1.0),
        lambda v: MultivariateNormal(v, torch.eye(3, dtype=DOUBLE)),
    ],
)
def test_reparametrised_draws_are_the_same_numbers_with_a_gradient(make):
    v = rand(3).requires_grad_()
    plain = draw(make(v), (50,), generator=seeded(3))
    reparametrised = draw(make(v), (50,), generator=seeded(3), reparametrised=True)
    assert torch.equal(plain, reparametrised)
    assert not plain.requires_grad
    (gradient,) = torch.autograd.grad(reparametrised.sum(), v)
    assert bool((gradient > 0).all())
