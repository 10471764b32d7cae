"""The latent variable models against scipy, scikit-learn, torch.distributions and quadrature."""

import math

import numpy as np
import pytest
import torch
from draws import rand, seeded
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from nfbook.data import old_faithful
from nfbook.estimators import (
    effective_sample_size,
    importance_log_prob,
    log_mean_exp,
    log_weights,
    naive_log_prob,
)
from nfbook.latent import PPCA, GaussianMixture
from nfbook.sampling import draw

DTYPES = [torch.float32, torch.float64]


def some_mixture(count=3, dim=2, seed=0, dtype=torch.float64):
    a = rand(count, dim, dim, seed=seed)
    return GaussianMixture(
        rand(count, seed=seed + 1).softmax(0).to(dtype),
        (3 * rand(count, dim, seed=seed + 2)).to(dtype),
        (a @ a.mT + 0.3 * torch.eye(dim, dtype=torch.float64)).to(dtype),
    )


def some_ppca(dim=5, latent_dim=2, seed=0, dtype=torch.float64):
    return PPCA(
        rand(dim, latent_dim, seed=seed).to(dtype),
        rand(dim, seed=seed + 1).to(dtype),
        0.4 if dtype == torch.get_default_dtype() else torch.tensor(0.4, dtype=dtype),
    )


def dense_covariance(model):
    return model.loading @ model.loading.mT + model.noise_variance * torch.eye(
        model.data_dim, dtype=model.mean.dtype
    )


# The mixture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_mixture_evidence_is_the_weighted_sum_of_scipys_densities(seed):
    mixture, x = some_mixture(seed=seed), 4 * rand(7, 2, seed=seed + 9)
    densities = [
        w * stats.multivariate_normal(m, c).pdf(x.numpy())
        for w, m, c in zip(mixture.weights.numpy(), mixture.means, mixture.covariances, strict=True)
    ]
    assert np.allclose(mixture.log_prob(x), np.log(sum(densities)), rtol=1e-12)
    assert np.allclose(mixture.posterior(x).probs, np.stack(densities, 1) / sum(densities)[:, None])


def test_mixture_agrees_with_torch_and_keeps_the_batch_shape():
    mixture, x = some_mixture(4, 3), rand(2, 5, 3, seed=8)
    reference = MixtureSameFamily(
        Categorical(mixture.weights), MultivariateNormal(mixture.means, mixture.covariances)
    )
    assert mixture.log_prob(x).shape == (2, 5)
    assert torch.allclose(mixture.log_prob(x), reference.log_prob(x))
    assert mixture.log_prob(x[0, 0]).shape == ()
    assert mixture.posterior(x).probs.shape == (2, 5, 4)
    assert mixture.component_log_prob(x).shape == (2, 5, 4)


def test_mixture_agrees_with_scikit_learn_on_old_faithful():
    x = old_faithful()
    fitted = SklearnMixture(2, tol=1e-10, reg_covar=0, max_iter=1000, random_state=0).fit(x)
    ours = GaussianMixture(
        *(torch.tensor(v) for v in (fitted.weights_, fitted.means_, fitted.covariances_))
    )
    assert np.allclose(ours.log_prob(x), fitted.score_samples(x))
    assert np.allclose(ours.posterior(x).probs, fitted.predict_proba(x))
    assert ours.log_prob(x).sum().item() == pytest.approx(-1130.264, abs=5e-4)


def test_mixture_far_from_every_component_stays_finite():
    mixture = some_mixture()
    x = torch.full((1, 2), 1e4, dtype=torch.float64)
    assert torch.isfinite(mixture.log_prob(x)).all()
    assert mixture.posterior(x).probs.sum().item() == pytest.approx(1)


def test_mixture_responsibilities_are_the_gradient_of_the_evidence():
    mixture, x = some_mixture(), rand(2, seed=5)
    logits = mixture.weights.log().requires_grad_()
    # Unnormalised on purpose: only then is the derivative by one log-weight the responsibility.
    torch.logsumexp(logits + mixture.component_log_prob(x), 0).backward()
    assert torch.allclose(logits.grad, mixture.posterior(x).probs)


def test_mixture_is_differentiable_in_every_parameter():
    values = [
        v.requires_grad_() for v in (lambda m: (m.weights, m.means, m.covariances))(some_mixture())
    ]
    x = rand(4, 2, seed=3)

    def log_likelihood(logits, means, factors):
        return GaussianMixture(logits.softmax(0), means, factors @ factors.mT).log_prob(x).sum()

    factors = torch.linalg.cholesky(values[2].detach()).requires_grad_()
    assert torch.autograd.gradcheck(
        log_likelihood, (values[0].detach().log().requires_grad_(), values[1], factors)
    )


def test_mixture_samples_follow_the_mixture():
    mixture = some_mixture()
    n = 20_000
    x, z = mixture.sample(n, generator=seeded())
    assert x.shape == (n, 2)
    assert z.shape == (n,)
    # Kolmogorov-Smirnov along two directions and a chi-square test of the indices: each one alone
    # rejects true samples with probability 1e-6.
    for direction in torch.eye(2, dtype=torch.float64):
        means, scales = (
            mixture.means @ direction,
            torch.einsum("d,kde,e->k", direction, mixture.covariances, direction).sqrt(),
        )

        def cdf(t, means=means, scales=scales):
            return sum(
                w * stats.norm(m, s).cdf(t)
                for w, m, s in zip(mixture.weights.numpy(), means, scales, strict=True)
            )

        assert stats.kstest((x @ direction).numpy(), cdf).pvalue > 1e-6
    counts = z.bincount(minlength=3)
    assert stats.chisquare(counts, n * mixture.weights / mixture.weights.sum()).pvalue > 1e-6
    # Component by component: an x that does not belong to its z would pass the tests above.
    for k in range(3):
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(mixture.covariances[k]),
            (x[z == k] - mixture.means[k]).mT,
            upper=False,
        )
        assert stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "error", "message"),
    [
        ([0.5, 0.6], None, None, ValueError, r"weights must have sum 1, got 1\.1"),
        ([0.0, 1.0], None, None, ValueError, r"weights must be positive, got 0\.0"),
        ([-0.5, 1.5], None, None, ValueError, r"weights must be positive, got -0\.5"),
        ([math.nan, 1.0], None, None, ValueError, "weights must be finite"),
        ([[0.5, 0.5]], None, None, ValueError, r"weights must have shape \(K,\)"),
        (None, [[0.0, 0.0]], None, ValueError, r"means must have shape \(2, D\), got \(1, 2\)"),
        (None, None, [[[1.0, 0.0], [0.0, 1.0]]], ValueError, r"covariances must have shape"),
        (None, None, [[[1.0, 0.5], [0.0, 1.0]]] * 2, ValueError, r"covariances\[0\] must be symm"),
        (
            None,
            None,
            [[[1.0, 2.0], [2.0, 1.0]]] * 2,
            ValueError,
            "positive definite, got the eigenvalue -1",
        ),
    ],
)
def test_mixture_refuses_bad_parameters(weights, means, covariances, error, message):
    good = ([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [[[1.0, 0.0], [0.0, 1.0]]] * 2)
    given = [
        torch.tensor(g if v is None else v)
        for v, g in zip((weights, means, covariances), good, strict=True)
    ]
    with pytest.raises(error, match=message):
        GaussianMixture(*given)


def test_mixture_refuses_mixed_and_integer_dtypes():
    m = some_mixture()
    with pytest.raises(TypeError, match="weights and means must have the same dtype"):
        GaussianMixture(m.weights, m.means.float(), m.covariances)
    with pytest.raises(TypeError, match="weights must be a floating-point tensor"):
        GaussianMixture(torch.tensor([1]), m.means[:1], m.covariances[:1])


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.tensor([0.0]), TypeError, "z must hold component indices of dtype torch.int64"),
        (torch.tensor([3]), ValueError, "z must lie between 0 and 2, got 3"),
        (torch.zeros(0).long(), ValueError, r"z must not be empty, got shape \(0,\)"),
        (torch.tensor([-1]), ValueError, "z must lie between 0 and 2, got -1"),
        ([0], TypeError, "z must be a torch.Tensor, got list"),
    ],
)
def test_mixture_refuses_bad_indices(z, error, message):
    with pytest.raises(error, match=message):
        some_mixture().likelihood(z)


# PPCA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 2), (4, 1), (3, 3), (2, 4), (1, 1)])
def test_ppca_evidence_is_scipys_dense_gaussian(dim, latent_dim):
    model, x = some_ppca(dim, latent_dim), rand(6, dim, seed=7)
    reference = stats.multivariate_normal(model.mean, dense_covariance(model)).logpdf(x)
    assert np.allclose(model.log_prob(x), reference, rtol=1e-11)


def test_ppca_evidence_is_the_integral_over_z():
    model, x = some_ppca(3, 2), rand(4, 3, seed=7)
    # The trapezium rule, whose error is far below rounding for a smooth density that dies out.
    nodes = torch.linspace(-9, 9, 361, dtype=torch.float64)
    grid = torch.cartesian_prod(nodes, nodes)
    integral = 0.05**2 * model.log_joint(x, grid.unsqueeze(1).expand(-1, 4, 2)).exp().sum(0)
    assert torch.allclose(model.log_prob(x), integral.log(), rtol=1e-8)


def test_ppca_posterior_is_the_conditional_of_the_joint_gaussian():
    model, x = some_ppca(), rand(6, 5, seed=7)
    gain = torch.linalg.solve(dense_covariance(model), model.loading).mT
    posterior = model.posterior(x)
    assert torch.allclose(posterior.mean, (x - model.mean) @ gain.mT)
    expected = torch.eye(2, dtype=torch.float64) - gain @ model.loading
    assert torch.allclose(posterior.covariance_matrix, expected.expand(6, 2, 2))


@pytest.mark.parametrize("model", [some_ppca(), some_mixture()], ids=["ppca", "mixture"])
def test_joint_is_posterior_times_evidence_at_any_z(model):
    x, _ = model.sample(6, generator=seeded(1))
    z = draw(model.prior, (50, 6), generator=seeded(2))
    joint = model.log_joint(x, z)
    assert joint.shape == (50, 6)
    assert torch.allclose(joint, model.posterior(x).log_prob(z) + model.log_prob(x))


def test_ppca_stays_exact_where_the_noise_is_tiny():
    model = PPCA(rand(4, 2), rand(4, seed=1), 1e-12 * torch.ones((), dtype=torch.float64))
    x, _ = model.sample(5, generator=seeded())
    # Ahead of the comparison with C itself, whose inverse has lost four digits here.
    u, s, _ = torch.linalg.svd(model.loading)
    y = (x - model.mean) @ u
    variance = torch.cat([s.square(), torch.zeros(2, dtype=torch.float64)]) + 1e-12
    assert torch.allclose(
        model.log_prob(x), Normal(0.0, variance.sqrt()).log_prob(y).sum(1), rtol=1e-3
    )


def test_ppca_samples_follow_the_model():
    model, n = some_ppca(3, 1), 20_000
    x, z = model.sample(n, generator=seeded())
    assert x.shape == (n, 3)
    assert z.shape == (n, 1)
    # Each of these rejects true samples with probability 1e-6.
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(dense_covariance(model)), (x - model.mean).mT, upper=False
    )
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-6
    noise = (x - z @ model.loading.mT - model.mean) / math.sqrt(0.4)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-6
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-6
    assert stats.pearsonr(z.flatten(), noise[:, 0]).pvalue > 1e-6


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_ppca_fit_is_scikit_learns_with_n_for_n_minus_1(latent_dim):
    x = rand(40, 5) @ rand(5, 5, seed=1) + 3
    model = PPCA.fit(x, latent_dim).model
    reference = PCA(latent_dim).fit(x)
    assert model.noise_variance.item() == pytest.approx(reference.noise_variance_ * 39 / 40)
    assert np.allclose(dense_covariance(model), reference.get_covariance() * 39 / 40)
    assert np.allclose(model.mean, reference.mean_)


@pytest.mark.parametrize("seed", range(10))
def test_ppca_fit_makes_the_largest_loading_positive(seed):
    loading = PPCA.fit(rand(40, 5, seed=seed), 3).model.loading
    assert (loading.gather(0, loading.abs().argmax(0, keepdim=True)) > 0).all()


def test_ppca_fit_is_a_stationary_point_and_no_neighbour_is_better():
    x = rand(50, 4) @ rand(4, 4, seed=1)
    best = PPCA.fit(x, 2).model

    def log_likelihood(loading, mean, log_variance):
        return PPCA(loading, mean, log_variance.exp()).log_prob(x).sum()

    at = [v.clone().requires_grad_() for v in (best.loading, best.mean, best.noise_variance.log())]
    top = log_likelihood(*at)
    top.backward()
    for value in at:
        assert value.grad.abs().max() < 1e-9
    for seed in range(20):
        with torch.no_grad():
            near = [v + 0.05 * rand(*v.shape, seed=seed) for v in at]
            assert log_likelihood(*near) < top


def test_ppca_fit_works_with_fewer_observations_than_dimensions():
    x = rand(6, 20)
    model = PPCA.fit(x, 2).model
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    assert model.noise_variance.item() == pytest.approx(eigenvalues[2:].mean())


def test_ppca_fit_of_round_data_has_no_loading():
    x = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    assert torch.isfinite(PPCA.fit(x, 1).model.loading).all()
    assert PPCA.fit(x, 1).model.loading.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3), torch.zeros(3), 1.0), ValueError, r"loading must have shape \(D, d\)"),
        ((torch.ones(3, 1), torch.zeros(2), 1.0), ValueError, r"mean must have shape \(3,\)"),
        ((torch.ones(3, 1), torch.zeros(3), 0.0), ValueError, r"noise_variance must be positive"),
        (
            (torch.ones(3, 1), torch.zeros(3), -1.0),
            ValueError,
            r"noise_variance must be positive, got -1",
        ),
        ((torch.ones(3, 1), torch.zeros(3), math.nan), ValueError, "noise_variance must be finite"),
        ((torch.ones(3, 1), torch.zeros(3), "1"), TypeError, "noise_variance must be a number"),
        (
            (torch.ones(3, 1), torch.zeros(3), torch.ones(3)),
            ValueError,
            r"noise_variance must have shape",
        ),
        (
            (torch.ones(3, 1).double(), torch.zeros(3), 1.0),
            TypeError,
            "loading and mean must have the same",
        ),
        (
            (torch.ones(3, 1).double(), torch.zeros(3).double(), 1.0),
            TypeError,
            "and noise_variance",
        ),
        (
            (torch.ones(3, 1).int(), torch.zeros(3), 1.0),
            TypeError,
            "loading must be a floating-point",
        ),
        ((torch.full((3, 1), math.inf), torch.zeros(3), 1.0), ValueError, "loading must be finite"),
        (
            (torch.ones(4, 2), torch.zeros(4), 1e-9),
            ValueError,
            "noise_variance must not vanish",
        ),
        (
            (
                torch.zeros(4, 2).double(),
                torch.zeros(4).double(),
                torch.tensor(1e-320, dtype=torch.float64),
            ),
            ValueError,
            "noise_variance must not vanish .* got 1e-320",
        ),
    ],
)
def test_ppca_refuses_bad_parameters(arguments, error, message):
    with pytest.raises(error, match=message):
        PPCA(*arguments)


@pytest.mark.parametrize(
    ("x", "latent_dim", "error", "message"),
    [
        (torch.ones(5), 1, ValueError, r"x must have shape \(n, D\)"),
        (torch.ones(1, 3), 1, ValueError, "x must hold at least 2 observations, got 1"),
        (torch.zeros(0, 3), 1, ValueError, "x must not be empty"),
        (torch.ones(5, 3).long(), 1, TypeError, "x must be a floating-point"),
        (torch.full((5, 3), math.nan), 1, ValueError, "x must be finite"),
        (torch.ones(5, 3), 3, ValueError, "latent_dim must be less than D = 3, got 3"),
        (torch.ones(5, 3), 0, ValueError, "latent_dim must be at least 1"),
        (torch.ones(5, 3), 1.0, TypeError, "latent_dim must be an int"),
        (torch.ones(5, 3), 1, ValueError, "x must vary, with a finite variance, got at most 0"),
        (torch.eye(3), 2, ValueError, "x must have variance beyond its first 2 principal"),
    ],
)
def test_ppca_fit_refuses_bad_data(x, latent_dim, error, message):
    with pytest.raises(error, match=message):
        PPCA.fit(x, latent_dim)


# Both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [some_ppca, some_mixture])
def test_dtype_is_kept_everywhere(make, dtype):
    model, exact = make(dtype=dtype), make()
    x, z = model.sample(8, generator=seeded())
    assert x.dtype == dtype
    for value in (model.log_prob(x), model.log_joint(x, z), model.posterior(x).log_prob(z)):
        assert value.dtype == dtype
    assert naive_log_prob(model, x, 10, generator=seeded()).dtype == dtype
    assert torch.allclose(model.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-4)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    with pytest.raises(TypeError, match="x and parameters must have the same dtype"):
        model.log_prob(x.to(other))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ppca_fit_keeps_the_dtype(dtype):
    model = PPCA.fit(rand(30, 4).to(dtype), 2).model
    assert model.loading.dtype == model.mean.dtype == model.noise_variance.dtype == dtype


@pytest.mark.parametrize("model", [some_ppca(), some_mixture(dim=5)], ids=["ppca", "mixture"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4).double(), ValueError, r"x must have shape \(\*, 5\), got \(3, 4\)"),
        (torch.zeros(0, 5).double(), ValueError, "x must not be empty"),
        (torch.full((3, 5), math.nan).double(), ValueError, "x must be finite"),
        (torch.zeros(3, 5).long(), TypeError, "x must be a floating-point tensor"),
        (np.zeros((3, 5)), TypeError, "x must be a torch.Tensor, got ndarray"),
    ],
)
def test_models_refuse_bad_observations(model, x, error, message):
    for function in (model.log_prob, model.posterior):
        with pytest.raises(error, match=message):
            function(x)


@pytest.mark.parametrize("model", [some_ppca(), some_mixture(dim=5)], ids=["ppca", "mixture"])
def test_a_posterior_that_cannot_be_computed_is_refused(model):
    x = torch.tensor([1.7e308, -1.7e308, 1.7e308, -1.7e308, 1.7e308], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be small enough .* elements up to 1\.7e\+308"):
        model.posterior(x)


@pytest.mark.parametrize("model", [some_ppca(), some_mixture(dim=5)], ids=["ppca", "mixture"])
def test_models_refuse_what_would_broadcast(model):
    x, z = model.sample(4, generator=seeded())
    with pytest.raises(ValueError, match="z must have the batch dimensions of x"):
        model.log_joint(x, z[:1])
    with pytest.raises(ValueError, match="z must have the batch dimensions of x"):
        model.log_joint(x, z[0])
    with pytest.raises(ValueError, match="z must have the batch dimensions of x"):
        model.log_joint(x.expand(3, 4, 5), z)


@pytest.mark.parametrize("model", [some_ppca(), some_mixture()], ids=["ppca", "mixture"])
def test_sampling_refuses_what_is_no_count_and_no_generator(model):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        model.sample(3, generator=0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.sample(0, generator=seeded())
    first, second = model.sample(3, generator=seeded(5)), model.sample(3, generator=seeded(5))
    assert torch.equal(first[0], second[0])


def test_ppca_refuses_bad_latents():
    with pytest.raises(ValueError, match=r"z must have shape \(\*, 2\), got \(3,\)"):
        some_ppca().likelihood(torch.zeros(3).double())
    with pytest.raises(TypeError, match="z and parameters must have the same dtype"):
        some_ppca().likelihood(torch.zeros(2))


# Estimators ----------------------------------------------------------------------------------


def test_draw_uses_the_generator_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first = draw(Normal(0.0, 1.0), (1000,), generator=seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(draw(Normal(0.0, 1.0), (1000,), generator=seeded(3)), first)
    torch.set_rng_state(before)
    generator = seeded(3)
    assert not torch.equal(
        draw(Normal(0.0, 1.0), (5,), generator=generator),
        draw(Normal(0.0, 1.0), (5,), generator=generator),
    )
    # True samples are rejected with probability 1e-6.
    assert stats.kstest(first.numpy(), "norm").pvalue > 1e-6


def test_log_mean_exp_and_effective_sample_size_agree_with_plain_arithmetic():
    log_w = rand(30, 4)
    w = log_w.exp()
    assert torch.allclose(log_mean_exp(log_w), w.mean(0).log())
    assert torch.allclose(effective_sample_size(log_w), w.sum(0) ** 2 / w.square().sum(0))
    assert torch.allclose(log_mean_exp(log_w - 1e4), w.mean(0).log() - 1e4)
    assert torch.allclose(effective_sample_size(log_w - 1e4), effective_sample_size(log_w))
    zero = torch.tensor([0.0, -math.inf])
    assert log_mean_exp(zero).item() == pytest.approx(math.log(0.5))
    assert effective_sample_size(zero).item() == pytest.approx(1)


@pytest.mark.parametrize("function", [log_mean_exp, effective_sample_size])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor([1, 2]), TypeError, "must be a floating-point tensor"),
        ([1.0], TypeError, "must be a torch.Tensor, got list"),
        (torch.tensor(1.0), ValueError, r"must have shape \(K,\), got \(\)"),
        (torch.zeros(0), ValueError, r"must not be empty, got shape \(0,\)"),
        (torch.zeros(3, 0), ValueError, r"must not be empty, got shape \(3, 0\)"),
        (torch.tensor([math.nan, 0.0]), ValueError, "got 1 NaN or plus infinity"),
        (torch.tensor([math.inf, 0.0]), ValueError, "got 1 NaN or plus infinity"),
    ],
)
def test_log_scale_functions_refuse_bad_values(function, values, error, message):
    with pytest.raises(error, match=message):
        function(values)


def test_effective_sample_size_refuses_only_zeros():
    with pytest.raises(ValueError, match="log_w must hold a weight above zero"):
        effective_sample_size(torch.full((3,), -math.inf))


# Averages of independent estimates, held within five standard errors: true estimates fail this
# with probability below 1e-6.
def close_to(log_estimates, log_truth):
    ratio = (log_estimates - log_truth).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.02).all()
    return bool(((ratio.mean(0) - 1).abs() < 5 * error).all())


@pytest.mark.parametrize("model", [some_ppca(3, 1), some_mixture()], ids=["ppca", "mixture"])
def test_naive_estimate_is_unbiased(model):
    x, _ = model.sample(3, generator=seeded(1))
    estimates = naive_log_prob(model, x.expand(20_000, 3, -1), 5, generator=seeded(2))
    assert estimates.shape == (20_000, 3)
    assert close_to(estimates, model.log_prob(x))


def test_importance_sampling_is_unbiased_with_a_wrong_proposal():
    model, x = some_ppca(), rand(3, 5, seed=3)
    q = Independent(StudentT(5.0, torch.ones(2).double(), 1.3), 1)
    estimates = importance_log_prob(model, x.expand(20_000, 3, 5), q, 20, generator=seeded())
    assert estimates.shape == (20_000, 3)
    assert close_to(estimates, model.log_prob(x))


@pytest.mark.parametrize("model", [some_ppca(), some_mixture()], ids=["ppca", "mixture"])
def test_posterior_as_proposal_has_no_variance(model):
    x, _ = model.sample(4, generator=seeded())
    z = draw(model.posterior(x), (6,), generator=seeded())
    weights = log_weights(model, x, z, model.posterior(x))
    assert torch.allclose(weights, model.log_prob(x).expand(6, 4))
    assert torch.allclose(effective_sample_size(weights), torch.full((4,), 6.0).double())
    estimate = importance_log_prob(model, x, model.posterior(x), 3, generator=seeded())
    assert torch.allclose(estimate, model.log_prob(x))


def test_prior_as_proposal_is_the_naive_estimate():
    model = some_ppca()
    x, _ = model.sample(4, generator=seeded())
    naive = naive_log_prob(model, x, 7, generator=seeded())
    assert torch.allclose(importance_log_prob(model, x, model.prior, 7, generator=seeded()), naive)


def test_average_log_weight_is_the_evidence_minus_a_divergence():
    model, x = some_ppca(), rand(5, seed=3)
    q = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    weights = log_weights(model, x, draw(q, (100_000,), generator=seeded()), q)
    expected = model.log_prob(x) - kl_divergence(q, model.posterior(x))
    assert (weights.mean() - expected).abs() < 5 * weights.std() / math.sqrt(100_000)


def test_each_observation_gets_its_own_draws():
    model = some_ppca()
    estimates = naive_log_prob(model, rand(5).expand(4, 5), 3, generator=seeded())
    assert len(estimates.unique()) == 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"proposal": "q"},
            TypeError,
            "proposal must be a torch.distributions.Distribution, got str",
        ),
        (
            {"proposal": Normal(torch.zeros(4), 1.0)},
            ValueError,
            r"proposal must have the event shape of the prior, \(2,\), got \(\)",
        ),
        ({"model": None}, TypeError, "model must be a LatentVariableModel, got NoneType"),
        ({"x": None}, TypeError, "x must be a torch.Tensor, got NoneType"),
        ({"num_samples": 0}, ValueError, "num_samples must be at least 1"),
        ({"num_samples": 2.0}, TypeError, "num_samples must be an int"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator"),
        ({"x": torch.zeros(5)}, TypeError, "x and parameters must have the same dtype"),
        (
            {"proposal": MultivariateNormal(torch.zeros(3, 2), torch.eye(2))},
            ValueError,
            r"proposal must have batch shape \(\) or that of x, \(4,\), got \(3,\)",
        ),
    ],
)
def test_estimators_refuse_bad_arguments(change, error, message):
    good = {
        "model": some_ppca(),
        "x": rand(4, 5),
        "proposal": some_ppca().prior,
        "num_samples": 3,
        "generator": seeded(),
    }
    with pytest.raises(error, match=message):
        importance_log_prob(**(good | change))
    if "proposal" not in change:
        del good["proposal"]
        with pytest.raises(error, match=message):
            naive_log_prob(**(good | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be a LatentVariableModel, got NoneType"),
        ({"x": None}, TypeError, "x must be a torch.Tensor, got NoneType"),
        ({"z": None}, TypeError, "z must be a torch.Tensor, got NoneType"),
        ({"z": rand(4, 2)}, ValueError, r"z must have shape \(K, 4, 2\), got \(4, 2\)"),
        ({"z": rand(6, 3, 4, 2)}, ValueError, r"z must have shape \(K, 4, 2\), got"),
        ({"x": rand(5), "z": rand(2)}, ValueError, r"z must have shape \(K, 2\), got \(2,\)"),
        ({"proposal": None}, TypeError, "proposal must be a torch.distributions.Distribution"),
        (
            {"x": rand(5), "z": rand(2, 2), "proposal": Normal(0.0, 1.0)},
            ValueError,
            r"proposal must have the event shape of the prior, \(2,\), got \(\)",
        ),
    ],
)
def test_log_weights_refuse_bad_arguments(change, error, message):
    model = some_ppca()
    good = {"model": model, "x": rand(4, 5), "z": rand(3, 4, 2), "proposal": model.prior}
    assert log_weights(**good).shape == (3, 4)
    with pytest.raises(error, match=message):
        log_weights(**(good | change))


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (3, TypeError, "shape must be a tuple of ints, got int"),
        (None, TypeError, "shape must be a tuple of ints, got NoneType"),
        ((-1,), ValueError, "every size in shape must be at least 1, got -1"),
        ((2, 0), ValueError, "every size in shape must be at least 1, got 0"),
        ((1.5,), TypeError, "every size in shape must be an int, got float"),
    ],
)
def test_draw_refuses_what_is_no_shape(shape, error, message):
    with pytest.raises(error, match=message):
        draw(Normal(0.0, 1.0), shape, generator=seeded())


def test_draw_refuses_what_is_no_distribution():
    with pytest.raises(TypeError, match=r"distribution must be a torch\.distributions"):
        draw(torch.zeros(2), (3,), generator=seeded())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        draw(Normal(0.0, 1.0), (3,), generator=0)
