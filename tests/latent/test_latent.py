"""The latent variable models against scipy, scikit-learn, torch.distributions and quadrature."""

import math

import numpy as np
import pytest
import torch
from draws import rand, seeded
from scipy import stats
from sklearn.decomposition import PCA
from torch.distributions import (
    Independent,
    MultivariateNormal,
    Normal,
    StudentT,
    kl_divergence,
)

from nfbook.estimators import (
    effective_sample_size,
    importance_log_prob,
    log_mean_exp,
    log_weights,
    naive_log_prob,
)
from nfbook.latent import PPCA, GaussianMixture
from nfbook.sampling import draw


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


both_models = pytest.mark.parametrize(
    "model", [some_ppca(), some_mixture(dim=5)], ids=["ppca", "mixture"]
)


# The mixture ---------------------------------------------------------------------------------


def test_mixture_evidence_is_the_weighted_sum_of_scipys_densities_and_keeps_the_batch_shape():
    mixture, x = some_mixture(4, 3), 4 * rand(2, 5, 3, seed=9)
    parameters = zip(mixture.weights.numpy(), mixture.means, mixture.covariances, strict=True)
    densities = np.stack(
        [w * stats.multivariate_normal(m, c).pdf(x.numpy()) for w, m, c in parameters], -1
    )
    total = densities.sum(-1)
    assert np.allclose(mixture.log_prob(x), np.log(total), rtol=1e-12)
    assert np.allclose(mixture.posterior(x).probs, densities / total[..., None])
    assert mixture.log_prob(x[0, 0]).shape == ()


def test_mixture_far_from_every_component_stays_finite():
    mixture = some_mixture()
    x = torch.full((1, 2), 1e4, dtype=torch.float64)
    assert torch.isfinite(mixture.log_prob(x)).all()
    assert mixture.posterior(x).probs.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("weights", "means", "message"),
    [
        ([0.5, 0.6], [[0.0], [1.0]], r"weights must have sum 1, got 1\.1"),
        ([0.0, 1.0], [[0.0], [1.0]], r"weights must be positive, got 0\.0"),
        ([math.nan, 1.0], [[0.0], [1.0]], "weights must be finite"),
        ([[0.5, 0.5]], [[0.0], [1.0]], r"weights must have shape \(K,\)"),
        ([0.5, 0.5], [[0.0]], r"means must have shape \(2, D\), got \(1, 1\)"),
    ],
)
def test_mixture_refuses_bad_parameters(weights, means, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.ones(2, 1, 1))


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
    ],
)
def test_mixture_refuses_bad_indices(z, error, message):
    with pytest.raises(error, match=message):
        some_mixture().likelihood(z)


# PPCA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 2), (3, 3), (2, 4), (1, 1)])
def test_ppca_evidence_is_scipys_dense_gaussian(dim, latent_dim):
    model, x = some_ppca(dim, latent_dim), rand(6, dim, seed=7)
    reference = stats.multivariate_normal(model.mean, dense_covariance(model)).logpdf(x)
    assert np.allclose(model.log_prob(x), reference, rtol=1e-11)


def test_ppca_posterior_is_the_conditional_of_the_joint_gaussian():
    model, x = some_ppca(), rand(6, 5, seed=7)
    gain = torch.linalg.solve(dense_covariance(model), model.loading).mT
    posterior = model.posterior(x)
    assert torch.allclose(posterior.mean, (x - model.mean) @ gain.mT)
    expected = torch.eye(2, dtype=torch.float64) - gain @ model.loading
    assert torch.allclose(posterior.covariance_matrix, expected.expand(6, 2, 2))


@both_models
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


def test_ppca_fit_is_scikit_learns_with_n_for_n_minus_1():
    x = rand(40, 5) @ rand(5, 5, seed=1) + 3
    model, reference = PPCA.fit(x, 3).model, PCA(3).fit(x)
    assert model.noise_variance.item() == pytest.approx(reference.noise_variance_ * 39 / 40)
    assert np.allclose(dense_covariance(model), reference.get_covariance() * 39 / 40)
    assert np.allclose(model.mean, reference.mean_)
    # The largest loading of each column is positive, whatever the signs of the eigenvectors.
    for seed in range(5):
        loading = PPCA.fit(rand(40, 5, seed=seed), 3).model.loading
        assert (loading.gather(0, loading.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loading": torch.ones(3)}, ValueError, r"loading must have shape \(D, d\)"),
        ({"loading": torch.ones(3, 1).int()}, TypeError, "loading must be a floating-point"),
        ({"loading": torch.full((3, 1), math.inf)}, ValueError, "loading must be finite"),
        ({"mean": torch.zeros(2)}, ValueError, r"mean must have shape \(3,\)"),
        ({"mean": torch.zeros(3).double()}, TypeError, "loading and mean must have the same"),
        ({"noise_variance": -1.0}, ValueError, r"noise_variance must be positive, got -1"),
        ({"noise_variance": "1"}, TypeError, "noise_variance must be a number"),
        ({"noise_variance": torch.ones(3)}, ValueError, r"noise_variance must have shape"),
        ({"noise_variance": torch.ones(()).double()}, TypeError, "and noise_variance"),
        ({"loading": torch.ones(3, 2), "noise_variance": 1e-9}, ValueError, "must not vanish"),
        ({"loading": torch.zeros(3, 1), "noise_variance": 1e-40}, ValueError, "must not vanish"),
    ],
)
def test_ppca_refuses_bad_parameters(change, error, message):
    good = {"loading": torch.ones(3, 1), "mean": torch.zeros(3), "noise_variance": 1.0}
    with pytest.raises(error, match=message):
        PPCA(**(good | change))


# Both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [some_ppca, some_mixture])
def test_single_precision_is_kept_everywhere(make):
    short = torch.float32
    model, exact = make(dtype=short), make()
    x, z = model.sample(8, generator=seeded())
    values = model.log_prob(x), model.log_joint(x, z), model.posterior(x).log_prob(z)
    for value in (x, *values, naive_log_prob(model, x, 10, generator=seeded())):
        assert value.dtype == short
    assert torch.allclose(model.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-4)
    with pytest.raises(TypeError, match="x and parameters must have the same dtype"):
        model.log_prob(x.double())


@both_models
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4).double(), ValueError, r"x must have shape \(\*, 5\), got \(3, 4\)"),
        (torch.zeros(0, 5).double(), ValueError, "x must not be empty"),
        (torch.full((3, 5), math.nan).double(), ValueError, "x must be finite"),
    ],
)
def test_models_refuse_bad_observations(model, x, error, message):
    for function in (model.log_prob, model.posterior):
        with pytest.raises(error, match=message):
            function(x)


@both_models
def test_a_posterior_that_cannot_be_computed_is_refused(model):
    x = torch.tensor([1.7e308, -1.7e308, 1.7e308, -1.7e308, 1.7e308], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be small enough .* elements up to 1\.7e\+308"):
        model.posterior(x)


@both_models
def test_models_refuse_what_would_broadcast(model):
    x, z = model.sample(4, generator=seeded())
    for one, other in ((x, z[:1]), (x, z[0]), (x.expand(3, 4, 5), z)):
        with pytest.raises(ValueError, match="z must have the batch dimensions of x"):
            model.log_joint(one, other)


@both_models
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
    for shift in (-1e5, -1e6, 1e6):
        equal = torch.full((1000,), shift)
        assert effective_sample_size(equal).item() == pytest.approx(1000, rel=1e-5)
    zero = torch.tensor([0.0, -math.inf])
    assert log_mean_exp(zero).item() == pytest.approx(math.log(0.5))
    assert effective_sample_size(zero).item() == pytest.approx(1)


@pytest.mark.parametrize("function", [log_mean_exp, effective_sample_size])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor([1, 2]), TypeError, "must be a floating-point tensor"),
        (torch.tensor(1.0), ValueError, r"must have shape \(K,\), got \(\)"),
        (torch.zeros(0), ValueError, r"must not be empty, got shape \(0,\)"),
        (torch.tensor([math.nan, 0.0]), ValueError, "got 1 NaN or plus infinity"),
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
    assert (error < 0.05).all()
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
    estimates = importance_log_prob(model, x.expand(20_000, 3, 5), q, 10, generator=seeded())
    assert estimates.shape == (20_000, 3)
    assert close_to(estimates, model.log_prob(x))


@both_models
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
        ((-1,), ValueError, "every size in shape must be at least 1, got -1"),
        ((2, 0), ValueError, "every size in shape must be at least 1, got 0"),
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
