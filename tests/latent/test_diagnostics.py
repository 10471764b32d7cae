"""Diagnostics of a posterior: right where it is exact, and how each way of being wrong shows."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from draws import rand, seeded
from matplotlib.colors import same_color
from scipy import stats
from torch.distributions import (
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
    kl_divergence,
)

from nfbook.diagnostics import (
    DiagonalGaussian,
    UniformCounts,
    coverage,
    ecdf_points,
    inference_gap,
    pareto_k,
    pareto_k_threshold,
    pareto_smooth,
    simulation_based_calibration,
)
from nfbook.estimators import Estimate, effective_sample_size, log_mean_exp
from nfbook.flows import AffineFlow, PlanarFlow, PLUFlow
from nfbook.latent import PPCA, GaussianMixture
from nfbook.plotting import COLORS

DOUBLE = torch.float64


def correlated_ppca(dtype: torch.dtype = DOUBLE) -> PPCA:
    """A model of the plane whose posterior has the correlation -0.76."""
    loading = torch.tensor([[1.5, 1.2], [1.0, 1.4], [0.3, 0.2], [0.8, 0.1]], dtype=dtype)
    return PPCA(loading, torch.zeros(4, dtype=dtype), torch.tensor(0.7, dtype=dtype))


MODEL = correlated_ppca()
X = MODEL.sample(2, generator=torch.Generator().manual_seed(1))[0]


def shifted(x):
    exact = MODEL.posterior(x)
    return MultivariateNormal(exact.mean + 0.5 * exact.stddev, scale_tril=exact.scale_tril)


def scaled(factor: float):
    def posterior(x):
        exact = MODEL.posterior(x)
        return MultivariateNormal(exact.mean, scale_tril=factor * exact.scale_tril)

    return posterior


def uncorrelated(x):
    """The posterior with the right mean and variance of each coordinate."""
    exact = MODEL.posterior(x)
    return Independent(Normal(exact.mean, exact.stddev), 1)


def heavy_tailed(x):
    """The same mean and variances, and tails of Student's t."""
    exact = MODEL.posterior(x)
    freedom = torch.full_like(exact.mean, 2.5)
    scale = exact.stddev * math.sqrt((2.5 - 2) / 2.5)
    return Independent(StudentT(freedom, exact.mean, scale), 1)


def prior(x):
    return MODEL.prior


WRONG = {
    "location": shifted,
    "narrow": scaled(0.7),
    "wide": scaled(1.4),
    "uncorrelated": uncorrelated,
    "heavy-tailed": heavy_tailed,
    "prior": prior,
}

# ---- importance weights ------------------------------------------------------------------------


@pytest.mark.parametrize("count", [25, 99, 225, 226, 1000, 4001])
def test_pareto_k_and_smoothed_weights_are_those_of_arviz(count):
    log_w = rand(count, 2, 3) * torch.tensor([0.3, 1.0, 4.0], dtype=DOUBLE) - 1000
    smoothed, k = pareto_smooth(log_w)
    assert smoothed.shape == log_w.shape
    assert k.shape == (2, 3)
    torch.testing.assert_close(pareto_k(log_w), k, rtol=0, atol=0)
    for i, j in itertools.product(range(2), range(3)):
        theirs, their_k = array_stats.psislw(-log_w[:, i, j].numpy())
        ours = smoothed[:, i, j] - smoothed[:, i, j].logsumexp(0)
        assert abs(float(k[i, j]) - float(their_k)) < 1e-10
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-10)


def test_a_threshold_for_each_number_of_draws():
    assert pareto_k_threshold(100) == 0.5
    assert pareto_k_threshold(1000) == pytest.approx(2 / 3)
    assert pareto_k_threshold(10_000) == pareto_k_threshold(100_000) == 0.7


def test_pareto_k_is_the_known_one_of_a_narrow_gaussian():
    r"""In the plane the weights of s z are exactly Pareto: log w is (1 - s^2) times exponential."""
    s = torch.tensor([0.3, 0.7, 0.9], dtype=DOUBLE)
    z = s[:, None] * rand(20_000, 20, 3, 2)
    k = pareto_k(-z.square().sum(-1) / 2 + (z / s[:, None]).square().sum(-1) / 2)
    tail = 424  # of so many draws, to which ten are added that say 1/2
    expected = (tail * (1 - s**2) + 5) / (tail + 10)
    error = k.std(0) / math.sqrt(20)
    assert bool(((k.mean(0) - expected).abs() < 6 * error + 0.01).all())
    assert bool((error < 0.05).all())


@pytest.mark.parametrize("wrong", ["location", "width", "shape"])
def test_pareto_k_is_beyond_the_threshold_for_a_proposal_that_is(wrong):
    exact = MultivariateNormal(
        torch.zeros(2, dtype=DOUBLE), torch.tensor([[1.0, 0.99], [0.99, 1.0]], dtype=DOUBLE)
    )
    q = {
        "location": MultivariateNormal(exact.mean + 4, exact.covariance_matrix),
        "width": MultivariateNormal(exact.mean, 0.02 * exact.covariance_matrix),
        # Independent coordinates with the variances that maximise the bound.
        "shape": Independent(Normal(exact.mean, exact.precision_matrix.diagonal() ** -0.5), 1),
    }[wrong]
    noise = rand(2000, 50, 2)
    z = q.mean + (noise @ q.scale_tril.mT if wrong != "shape" else noise * q.stddev)
    bad = pareto_k(exact.log_prob(z) - q.log_prob(z)) > pareto_k_threshold(2000)
    assert bad.double().mean() > 0.6
    wide = MultivariateNormal(exact.mean, 1.5 * exact.covariance_matrix)
    z = exact.mean + noise @ wide.scale_tril.mT
    assert bool((pareto_k(exact.log_prob(z) - wide.log_prob(z)) < 0.5).all())


def test_the_exact_posterior_has_no_tail_in_any_precision():
    for dtype in (torch.float32, DOUBLE):
        model = correlated_ppca(dtype)
        x = rand(4, seed=1).to(dtype)
        z = model.posterior(x).sample((1000,))
        k = pareto_k(model.log_joint(x, z) - model.posterior(x).log_prob(z))
        assert k.dtype == dtype
        assert float(k) < 0.7
    assert float(pareto_k(torch.full((100,), -3.0))) == -math.inf
    assert torch.equal(pareto_smooth(torch.full((100,), -3.0)).log_w, torch.full((100,), -3.0))


def test_where_hardly_any_weight_is_above_zero_k_is_infinite():
    log_w = torch.full((1000, 2), -math.inf, dtype=DOUBLE)
    log_w[:10] = rand(10, 2)
    log_w[:500, 1] = rand(500)
    smoothed, k = pareto_smooth(log_w)
    assert bool(k[0].isposinf())
    assert bool(k[1].isfinite())
    torch.testing.assert_close(smoothed[:, 0], log_w[:, 0])


def test_hardly_larger_weights_are_no_tail_and_larger_ones_of_a_few_are_one_without_a_fit():
    log_w = torch.zeros(1000, 2, dtype=DOUBLE)
    log_w[:20] = torch.tensor([1.005, 1.02], dtype=DOUBLE).log()
    assert pareto_k(log_w).tolist() == [-math.inf, math.inf]


def test_smoothing_takes_variance_from_the_estimate_and_keeps_the_scale():
    u = torch.rand(1000, 400, generator=seeded(), dtype=DOUBLE)
    log_w = -0.6 * u.log() + 700  # with the shape 0.6 and, but for the scale, the mean 2.5
    smoothed = pareto_smooth(log_w).log_w
    raw, smooth = ((log_mean_exp(one) - 700).exp() - 2.5 for one in (log_w, smoothed))
    assert smooth.std() < 0.9 * raw.std()
    assert smooth.abs().mean() < 0.95 * raw.abs().mean()
    assert abs(float(smooth.mean())) < 0.2
    gain = effective_sample_size(smoothed) / effective_sample_size(log_w)
    assert float(gain.median()) > 1


@pytest.mark.parametrize("wrong", ["nothing", "location", "width", "shape"])
def test_the_effective_sample_size_is_known_of_a_gaussian_posterior_that_is_wrong_in(wrong):
    r"""Of K draws :math:`K / \mathbb{E}_q w^2` count, and with all Gaussian that is an integral."""
    exact = MODEL.posterior(X[:1])
    mean, covariance = exact.mean[0], exact.covariance_matrix[0]
    shift = 0.2 * covariance.diagonal().sqrt() if wrong == "location" else 0 * mean
    # Of independent coordinates with a variance so large, the squared weights have one, too.
    independent = 1.5 * covariance.diagonal().diag()
    of_q = {"width": 2 * covariance, "shape": independent}.get(wrong, covariance)
    # The precision of p^2 / q, and what the shift does where both covariances are the same.
    left = 2 * covariance.inverse() - of_q.inverse()
    share = covariance.det() * left.det().sqrt() / of_q.det().sqrt()
    share = share * (-shift @ covariance.inverse() @ shift).exp()
    q = MultivariateNormal(mean + shift, of_q)
    z = q.mean + rand(100_000, 1, 2) @ q.scale_tril.mT
    log_w = MODEL.log_joint(X[:1], z) - q.log_prob(z)
    found = float(effective_sample_size(log_w)) / 100_000
    assert found == pytest.approx(float(share), rel=1e-9 if wrong == "nothing" else 0.05)
    assert (found > 0.99) == (wrong == "nothing")


@pytest.mark.parametrize(
    ("log_w", "error", "message"),
    [
        (torch.zeros(24), ValueError, "log_w must hold at least 25 draws, got 24"),
        (torch.full((30,), math.nan), ValueError, "log_w must be finite or minus infinity, got 30"),
        (torch.full((30,), -math.inf), ValueError, "log_w must hold a weight above zero in every"),
        (torch.zeros(30, dtype=torch.int64), TypeError, "log_w must be a floating-point tensor"),
        ([0.0] * 30, TypeError, r"log_w must be a torch\.Tensor, got list"),
        (torch.zeros(()), ValueError, r"log_w must have shape \(K,\), got \(\)"),
    ],
)
def test_weights_without_a_tail_to_fit_are_refused(log_w, error, message):
    for function in (pareto_k, pareto_smooth):
        with pytest.raises(error, match=message):
            function(log_w)


def test_a_threshold_of_too_few_draws_is_refused():
    with pytest.raises(ValueError, match="num_draws must be at least 25, got 24"):
        pareto_k_threshold(24)


# ---- uniform counts ----------------------------------------------------------------------------


def test_p_values_and_bands_are_exact_for_a_few_numbers():
    """Against the sum over all ways in which five numbers can have one of four values."""
    n, values = 5, 4
    expected = UniformCounts(torch.tensor([0.25, 0.5, 0.75]), n)
    ways = np.array(list(itertools.product(range(values), repeat=n)))
    counts = np.stack([(ways < point).sum(1) for point in (1, 2, 3)], 1)
    binomial = stats.binom(n, [0.25, 0.5, 0.75])
    strangeness = 2 * np.minimum(binomial.cdf(counts), binomial.sf(counts - 1)).min(1)
    p_values = (strangeness <= strangeness[:, None] + 1e-12).mean(1)
    unique, where = np.unique(counts, axis=0, return_index=True)
    for count, exact in zip(unique, p_values[where], strict=True):
        assert expected.p_value(torch.from_numpy(count)) == pytest.approx(exact, abs=1e-12)
    for level in (0.02, 0.1, 0.3, 0.9):
        lower, upper = (limit.numpy() for limit in expected.band(level))
        outside = ((counts < lower) | (counts > upper)).any(1)
        np.testing.assert_array_equal(outside, p_values <= level)


def test_the_band_of_many_numbers_is_left_as_often_as_stated():
    n, draws, repeats = 300, 49, 2000
    points = ecdf_points(draws)
    expected = UniformCounts(points / (draws + 1), n)
    ranks = torch.randint(0, draws + 1, (repeats, n), generator=seeded())
    counts = torch.stack([(ranks < point).sum(1) for point in points], 1)
    lower, upper = expected.band(0.1)
    left = int(((counts < lower) | (counts > upper)).any(1).sum())
    low, high = stats.binom(repeats, 0.1).ppf([1e-6, 1 - 1e-6])
    assert 0.9 * low < left <= high
    p_values = [expected.p_value(count) for count in counts[:100]]
    assert [p <= 0.1 for p in p_values] == (
        ((counts < lower) | (counts > upper)).any(1)[:100].tolist()
    )


@pytest.mark.parametrize("n", [50, 100, 333])
def test_points_that_are_symmetric_have_a_symmetric_band_whatever_rounding_does(n):
    expected = UniformCounts(torch.tensor([0.25, 0.5, 0.75]), n)
    for level in (0.01, 0.05, 0.2):
        lower, upper = expected.band(level)
        assert torch.equal(lower + upper.flip(0), torch.full((3,), n))


def test_one_point_is_a_binomial_test():
    expected = UniformCounts(torch.tensor([0.5]), 100)
    for count in (35, 50, 62):
        exact = stats.binomtest(count, 100, 0.5).pvalue
        assert expected.p_value(torch.tensor([count])) == pytest.approx(exact)
    lower, upper = expected.band(0.05)
    assert (int(lower), int(upper)) == (40, 60)


@pytest.mark.parametrize(
    ("points", "n", "error", "message"),
    [
        (torch.tensor([0.5, 0.5]), 3, ValueError, "points must be increasing and strictly between"),
        (torch.tensor([0.0, 0.5]), 3, ValueError, "points must be increasing and strictly between"),
        (torch.tensor([0.5, 1.0]), 3, ValueError, "points must be increasing and strictly between"),
        (torch.tensor([[0.5]]), 3, ValueError, "points must be increasing and strictly between"),
        (torch.tensor([math.nan]), 3, ValueError, "points must be increasing and strictly between"),
        ([0.5], 3, TypeError, r"points must be a torch\.Tensor, got list"),
        (torch.tensor([0.5]), 0, ValueError, "n must be at least 1, got 0"),
    ],
)
def test_points_that_are_none_are_refused(points, n, error, message):
    with pytest.raises(error, match=message):
        UniformCounts(points, n)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (
            torch.tensor([1.0, 2.0]),
            TypeError,
            "counts must hold whole numbers, got torch",
        ),
        (torch.tensor([1]), ValueError, r"counts must have shape \(2,\), got \(1,\)"),
        (torch.tensor([1, 5]), ValueError, "counts must lie between 0 and 4, got 1 to 5"),
        ([1, 2], TypeError, r"counts must be a torch\.Tensor, got list"),
    ],
)
def test_counts_that_are_none_are_refused(counts, error, message):
    with pytest.raises(error, match=message):
        UniformCounts(torch.tensor([0.3, 0.6]), 4).p_value(counts)


def test_at_most_a_hundred_points_are_looked_at():
    assert ecdf_points(3).tolist() == [1, 2, 3]
    many = ecdf_points(5000)
    assert (len(many), int(many[0]), int(many[-1])) == (100, 1, 5000)
    assert bool((many.diff() > 0).all())


# ---- both checks of a posterior ----------------------------------------------------------------

CHECKS = {"calibration": simulation_based_calibration, "coverage": coverage}


@pytest.mark.parametrize("check", CHECKS)
def test_the_exact_posterior_passes(check):
    # With this level one seed in a million fails.
    found = CHECKS[check](MODEL, MODEL.posterior, 1000, 50, level=1e-6, generator=seeded())
    assert found.passed
    assert "no evidence against" in repr(found)
    off = (found.empirical - found.nominal[:, None]).abs().max()
    assert 0 < float(off) < 0.1
    assert found.p_value == pytest.approx(min(1, 3 * float(found.p_values.min())))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("check", CHECKS)
def test_a_wrong_posterior_is_caught(check, wrong):
    found = CHECKS[check](MODEL, WRONG[wrong], 1000, 50, generator=seeded())
    if (check, wrong) == ("coverage", "prior"):
        # It has the coverage that it states, which is why coverage alone is not enough.
        found = coverage(MODEL, prior, 1000, 50, level=1e-6, generator=seeded())
        assert found.passed
        return
    assert not found.passed
    assert found.p_value < 1e-4
    assert "wrong" in repr(found)


def test_only_what_looks_at_several_coordinates_sees_their_correlation():
    calibration = simulation_based_calibration(MODEL, uncorrelated, 1000, 50, generator=seeded())
    regions = coverage(MODEL, uncorrelated, 1000, 50, generator=seeded())
    assert calibration.names == ("z_1", "z_2", "log joint")
    assert regions.names == ("z_1", "z_2", "highest density")
    for found in (calibration, regions):
        assert float(found.p_values[:2].min()) > 1e-6
        assert float(found.p_values[2]) < 1e-4


@pytest.mark.parametrize("check", CHECKS)
def test_false_alarms_are_no_more_than_stated(check):
    level, repeats = 0.2, 100
    generator = seeded()
    alarms = sum(
        not CHECKS[check](MODEL, MODEL.posterior, 60, 9, level=level, generator=generator).passed
        for _ in range(repeats)
    )
    assert alarms <= stats.binom(repeats, level).ppf(1 - 1e-6)
    assert alarms > 0  # nor is it a test that never fails


@pytest.mark.parametrize("check", CHECKS)
def test_what_leaves_the_band_is_what_the_p_value_says(check):
    for posterior in (MODEL.posterior, scaled(0.9), uncorrelated):
        found = CHECKS[check](MODEL, posterior, 200, 19, generator=seeded(3))
        lower, upper = found.band
        outside = (found.empirical < lower[:, None]) | (found.empirical > upper[:, None])
        small = found.p_values <= found.level / len(found.names)
        assert outside.any(0).tolist() == small.tolist()
        assert found.passed == (not bool(outside.any()))


@pytest.mark.parametrize("check", CHECKS)
def test_a_discrete_latent_variable_with_its_ties(check):
    model = GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE),
        torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 1.0]], dtype=DOUBLE),
        torch.eye(2, dtype=DOUBLE).expand(3, 2, 2),
    )
    found = CHECKS[check](model, model.posterior, 500, 20, level=1e-6, generator=seeded())
    assert found.names[0] == "z"
    assert found.passed

    def too_sure(x):
        return Categorical(logits=3 * model.posterior(x).logits)

    assert not CHECKS[check](model, too_sure, 500, 20, generator=seeded()).passed


@pytest.mark.parametrize("check", CHECKS)
def test_a_posterior_that_forbids_the_truth_is_caught_and_no_error(check):
    model = SimpleNamespace(
        prior=Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1),
        likelihood=lambda z: Independent(Normal(z, 1.0), 1),
    )
    model.log_joint = lambda x, z: model.prior.log_prob(z) + model.likelihood(z).log_prob(x)

    def bounded(x):
        return Independent(Uniform(x / 2 - 0.5, x / 2 + 0.5), 1)

    assert not CHECKS[check](model, bounded, 500, 19, generator=seeded()).passed


def test_where_all_draws_tie_with_the_truth_its_rank_is_uniform():
    one = GaussianMixture(
        torch.ones(1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE), torch.eye(2).double()[None]
    )
    found = simulation_based_calibration(one, one.posterior, 2000, 3, generator=seeded())
    shares = found.ranks[:, 0].bincount(minlength=4) / 2000
    assert bool(((shares - 0.25).abs() < 6 * (0.25 * 0.75 / 2000) ** 0.5).all())


@pytest.mark.parametrize("check", CHECKS)
def test_many_draws_come_in_pieces_that_belong_together(check):
    found = CHECKS[check](MODEL, MODEL.posterior, 41, 9_999, level=1e-6, generator=seeded())
    assert found.passed
    assert found.counts.shape == (100, 3)
    assert int(found.counts.max()) <= found.num_simulations == 41


@pytest.mark.parametrize("check", CHECKS)
def test_the_generator_alone_decides(check):
    state = torch.random.get_rng_state()
    first, second = (
        CHECKS[check](MODEL, uncorrelated, 50, 9, generator=seeded(7)) for _ in range(2)
    )
    assert torch.equal(first.counts, second.counts)
    assert torch.equal(torch.random.get_rng_state(), state)
    CHECKS[check](MODEL, uncorrelated, 50, 9)
    assert not torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("check", CHECKS)
def test_a_flow_in_single_precision(check):
    model, flow = correlated_ppca(torch.float32), PlanarFlow(2, context=4, length=2)
    found = CHECKS[check](model, flow, 500, 19, generator=seeded())
    assert not found.passed or check == "coverage"  # a new flow is the prior


def test_ranks_are_those_of_the_truth_among_the_draws():
    """A posterior that is a point mass left of the truth has the rank L, and counts of zero."""
    model = SimpleNamespace(
        prior=Independent(Normal(torch.zeros(1, dtype=DOUBLE), 1.0), 1),
        likelihood=lambda z: Independent(Normal(z, 1e-3), 1),
    )
    model.log_joint = lambda x, z: model.prior.log_prob(z) + model.likelihood(z).log_prob(x)

    def left(x):
        return Independent(Normal(x - 1, 1e-3), 1)

    found = simulation_based_calibration(model, left, 30, 9, generator=seeded())
    assert found.ranks[:, 0].tolist() == [9] * 30
    assert found.ranks[:, 1].tolist() == [9] * 30
    assert found.counts[:, 0].tolist() == [0] * 9
    regions = coverage(model, left, 30, 9, generator=seeded())
    assert regions.nominal.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert int(regions.counts.max()) == 0


def test_nominal_coverages_of_an_even_number_of_draws():
    found = coverage(MODEL, MODEL.posterior, 10, 4, generator=seeded())
    assert found.nominal.tolist() == pytest.approx([1 / 5, 3 / 5])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("given", [True, False])
def test_the_picture_names_what_leaves_the_band(check, given):
    found = CHECKS[check](MODEL, uncorrelated, 1000, 50, generator=seeded())
    figure, ax = plt.subplots()
    axes = found.plot(ax) if given else found.plot()
    assert (axes is ax) == given
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    named = [text.get_text() for text in axes.texts]
    assert found.names[2] in named
    guide, *curves = axes.lines
    outside = [line for line in curves if same_color(line.get_color(), COLORS["estimate"])]
    assert len(curves) == 3
    assert len(outside) == len(named)
    reference = found.nominal if check == "calibration" else 0 * found.nominal
    drawn = np.asarray(outside[-1].get_ydata()) + reference.numpy()
    assert any(np.allclose(drawn, column) for column in found.empirical.mT.numpy())
    np.testing.assert_allclose(guide.get_ydata(), (found.nominal - reference).numpy())
    lower, upper = (limit - reference for limit in found.band)
    edge = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.min() == pytest.approx(float(lower.min()))
    assert edge.max() == pytest.approx(float(upper.max()))
    plt.close(figure)
    plt.close(axes.figure)


def test_a_name_stands_where_its_curve_is_farthest_off():
    found = coverage(MODEL, scaled(0.7), 1000, 50, generator=seeded())
    axes = found.plot()
    off = (found.empirical - found.nominal[:, None]).abs()
    worst = {
        name: float(found.nominal[k]) for name, k in zip(found.names, off.argmax(0), strict=True)
    }
    for text in axes.texts:
        assert text.xy[0] == worst[text.get_text()]
    assert len(axes.texts) == 3
    plt.close(axes.figure)


def bare(**parts):
    """MODEL without its exact evidence and posterior, and with some parts changed."""
    names = ("prior", "likelihood", "log_joint")
    return SimpleNamespace(**({name: getattr(MODEL, name) for name in names} | parts))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, TypeError, r"model\.prior must be a torch\.distributions\.Distribution"),
        ({"model": bare(likelihood=3)}, TypeError, r"model\.likelihood must be a function"),
        ({"model": bare(log_joint=3)}, TypeError, r"model\.log_joint must be a function, got int"),
        ({"posterior": 3}, TypeError, "posterior must be a function, got int"),
        ({"posterior": lambda x: x}, TypeError, r"posterior\(x\) must be a torch\.distributions"),
        (
            {"posterior": lambda x: Normal(x[:, 0], 1.0)},
            ValueError,
            r"posterior\(x\) must have the event shape of the prior, \(2,\), got \(\)",
        ),
        (
            {"posterior": lambda x: MODEL.posterior(x[:3])},
            ValueError,
            r"posterior\(x\) must have batch shape \(\) or that of x, \(20,\), got \(3,\)",
        ),
        ({"num_simulations": 0}, ValueError, "num_simulations must be at least 1, got 0"),
        ({"num_draws": 0}, ValueError, "num_draws must be at least"),
        ({"level": 1.0}, ValueError, "level must lie strictly between 0 and 1, got 1.0"),
        ({"generator": 3}, TypeError, r"generator must be a torch\.Generator, got int"),
        ({"progress": 3}, TypeError, "progress must be True or False, got int"),
    ],
)
def test_bad_arguments_of_both_checks_are_refused(check, change, error, message):
    good = {"model": MODEL, "posterior": MODEL.posterior, "num_simulations": 20, "num_draws": 9}
    with pytest.raises(error, match=message):
        CHECKS[check](**(good | change))


def test_a_log_joint_that_is_no_number_is_refused():
    model = bare(log_joint=lambda x, z: math.nan * MODEL.log_joint(x, z))
    with pytest.raises(ValueError, match="the log joint must be finite or minus infinity"):
        simulation_based_calibration(model, MODEL.posterior, 20, 9, generator=seeded())


# ---- the inference gap -------------------------------------------------------------------------

SEARCH = {"steps": 120, "learning_rate": 0.1}


def amortised(x):
    return Independent(Normal(MODEL.posterior(x).mean + 0.3, 0.5), 1)


def best_diagonal(x):
    """The Gaussian with independent coordinates that has the greatest bound."""
    exact = MODEL.posterior(x)
    precision = exact.precision_matrix.diagonal(dim1=-2, dim2=-1)
    return Independent(Normal(exact.mean, precision**-0.5), 1)


def within(estimate: Estimate, exact: torch.Tensor, search: float = 0.0) -> bool:
    """Say whether an estimate is right within its standard error and what the search lacks."""
    off = (estimate.value - exact).abs()
    return bool((off <= 5 * estimate.standard_error + search + 1e-10).all())


@pytest.mark.parametrize("family", ["for all", "for one", "flow"])
def test_both_gaps_are_the_exact_ones_of_independent_gaussians(family):
    make = {
        "for all": lambda: DiagonalGaussian(2, (2,)),
        "for one": lambda: DiagonalGaussian(2),
        "flow": lambda: AffineFlow(2),
    }[family]
    gap = inference_gap(MODEL, X, amortised, make, **SEARCH, generator=seeded())
    evidence, best, bound = (
        MODEL.log_prob(X),
        MODEL.elbo(X, best_diagonal(X)),
        MODEL.elbo(X, amortised(X)),
    )
    torch.testing.assert_close(gap.log_prob.value, evidence)
    assert bool((gap.log_prob.standard_error == 0).all())
    assert within(gap.best, best, 0.01)
    assert within(gap.amortised, bound)
    assert within(gap.approximation, evidence - best, 0.01)
    assert within(gap.amortisation, best - bound, 0.01)
    assert within(gap.total, evidence - bound)
    torch.testing.assert_close(gap.approximation.value + gap.amortisation.value, gap.total.value)
    assert gap.best_q.batch_shape == (2,)
    assert gap.best_q.sample((5,)).shape == (5, 2, 2)
    # At the middle of the first and beside that of the second.
    z = MODEL.posterior(X).mean + torch.tensor([[0.0], [0.5]], dtype=DOUBLE)
    torch.testing.assert_close(
        gap.best_q.log_prob(z), best_diagonal(X).log_prob(z), rtol=0, atol=0.3
    )


# But for tails so heavy that the bound's terms have no variance, and so no standard error.
@pytest.mark.parametrize("wrong", ["nothing", *(name for name in WRONG if name != "heavy-tailed")])
def test_the_inference_gap_is_the_divergence_from_the_exact_posterior(wrong):
    posterior = WRONG.get(wrong, MODEL.posterior)
    gap = inference_gap(
        MODEL,
        X,
        posterior,
        lambda: DiagonalGaussian(2),
        steps=0,
        num_samples=4000,
        generator=seeded(),
    )
    if wrong == "nothing":
        assert float(gap.total.value.abs().max()) < 1e-12
        assert float(gap.total.standard_error.max()) < 1e-12
        return
    assert bool((gap.total.value > 5 * gap.total.standard_error).all())
    q = posterior(X)
    covariance = getattr(q, "covariance_matrix", q.variance.diag_embed())
    exact = kl_divergence(MultivariateNormal(q.mean, covariance), MODEL.posterior(X))
    assert within(gap.total, exact)


def test_a_family_that_holds_the_posterior_has_no_approximation_gap():
    gap = inference_gap(MODEL, X[:1], amortised, lambda: PLUFlow(2), **SEARCH, generator=seeded())
    assert bool((gap.approximation.value < 0.03).all())
    assert within(gap.amortisation, gap.total.value, 0.03)
    assert not gap.approximation.value.requires_grad


def test_the_best_of_the_family_leaves_nothing_to_amortisation():
    gap = inference_gap(
        MODEL, X, best_diagonal, lambda: DiagonalGaussian(2, (2,)), **SEARCH, generator=seeded()
    )
    assert within(gap.amortisation, torch.zeros(2, dtype=DOUBLE), 0.01)
    assert bool((gap.approximation.value > 0.3).all())


def test_the_search_takes_steps_that_fall_to_zero_as_half_a_cosine():
    r"""Where the bound is linear in the means, Adam goes the whole step each time.

    So the way is :math:`\sum_{t < T} \frac{a}{2} (1 + \cos(\pi t / T)) = a (T + 1) / 2`.
    """
    model = bare(log_joint=lambda x, z: z.sum(-1) + 0 * x.sum(-1))
    for steps in (1, 2, 7):
        gap = inference_gap(
            model,
            X,
            amortised,
            lambda: DiagonalGaussian(2, (2,)),
            num_samples=2,
            steps=steps,
            learning_rate=0.1,
            generator=seeded(),
        )
        way = torch.full((2, 2), 0.1 * (steps + 1) / 2, dtype=DOUBLE)
        torch.testing.assert_close(gap.best_q.mean, way, rtol=1e-5, atol=0)


@pytest.mark.parametrize("known", [True, False])
def test_standard_errors_of_gaps_are_as_wide_as_the_spread(known):
    """Of 1000 estimates the errors in units of the stated ones have mean 0 and variance 1."""
    x, wide = X[0].expand(1000, 4), scaled(1.2)
    gap = inference_gap(
        MODEL if known else bare(),
        x,
        amortised,
        lambda: _Fixed(wide(x)),
        steps=0,
        num_samples=1000,
        generator=seeded(),
    )
    evidence, best, bound = (
        MODEL.log_prob(x),
        MODEL.elbo(x, wide(x)),
        MODEL.elbo(x, amortised(x)),
    )
    exact = {
        "log_prob": evidence,
        "best": best,
        "amortised": bound,
        "approximation": evidence - best,
        "amortisation": best - bound,
        "total": evidence - bound,
    }
    for name, value in exact.items():
        estimate = getattr(gap, name)
        if known and name == "log_prob":
            continue
        scores = (estimate.value - value) / estimate.standard_error
        assert abs(float(scores.mean())) < (0.2 if known else 0.3), name  # a logarithm has bias
        assert 0.85 < float(scores.std()) < 1.2, name


class _Fixed(torch.nn.Module):
    """A family with nothing to search for."""

    def __init__(self, q):
        super().__init__()
        self.q, self.none = q, torch.nn.Parameter(torch.zeros(1))

    def forward(self):
        return self.q


def test_a_given_evidence_and_its_error_are_used():
    value, error = MODEL.log_prob(X) + 1, torch.full((2,), 0.5, dtype=DOUBLE)

    def gap(log_prob):
        return inference_gap(
            bare(),
            X,
            amortised,
            lambda: DiagonalGaussian(2, (2,)),
            log_prob=log_prob,
            steps=5,
            num_samples=50,
            generator=seeded(),
        )

    estimated, exact = gap(Estimate(value, error)), gap(value)
    torch.testing.assert_close(estimated.approximation.value, exact.approximation.value)
    torch.testing.assert_close(
        estimated.total.standard_error, torch.hypot(exact.total.standard_error, error)
    )
    torch.testing.assert_close(exact.total.standard_error, exact.amortised.standard_error)


def test_the_search_changes_neither_the_model_nor_the_generator_of_torch():
    loading = MODEL.loading.clone().requires_grad_()
    model = PPCA(loading, MODEL.mean, MODEL.noise_variance)
    state = torch.random.get_rng_state()
    gaps = [
        inference_gap(model, X, amortised, lambda: DiagonalGaussian(2), steps=3, generator=seeded())
        for _ in range(2)
    ]
    assert loading.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(gaps[0].best.value, gaps[1].best.value)
    assert not gaps[0].total.value.requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "features must be at least 1, got 0"),
        ((2, 3), TypeError, "batch_shape must be a tuple of ints, got int"),
        ((2, (3, 0)), ValueError, "every one of batch_shape must be at least 1, got 0"),
    ],
)
def test_sizes_of_a_diagonal_gaussian_that_are_none_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DiagonalGaussian(*arguments)


class _Counts(torch.nn.Module):
    def forward(self):
        return Categorical(logits=torch.zeros(3, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"x must have shape \(n, D\), got \(4,\)"),
        ({"posterior": 3}, TypeError, "posterior must be a function, got int"),
        ({"posterior": lambda x: 3}, TypeError, r"posterior\(x\) must be a torch\.distributions"),
        ({"family": 3}, TypeError, "family must be a function, got int"),
        ({"family": lambda: 3}, TypeError, r"family\(\) must be a torch\.nn\.Module, got int"),
        ({"family": lambda: torch.nn.ReLU()}, TypeError, "forward"),
        ({"family": _Counts}, TypeError, r"family\(\)\(\) must have rsample, got Categorical"),
        (
            {"family": lambda: DiagonalGaussian(2, (3,))},
            ValueError,
            r"family\(\)\(\) must have batch shape \(\) or that of x, \(2,\), got \(3,\)",
        ),
        (
            {"family": lambda: DiagonalGaussian(3)},
            ValueError,
            r"must have the event shape of the prior, \(2,\), got \(3,\)",
        ),
        ({"log_prob": 3.0}, TypeError, r"log_prob must be a torch\.Tensor, an Estimate or None"),
        ({"log_prob": torch.zeros(3)}, ValueError, r"log_prob's value must have shape \(2,\)"),
        (
            {"log_prob": torch.zeros(2)},
            TypeError,
            "x and log_prob's value must have the same dtype",
        ),
        ({"num_samples": 1}, ValueError, "num_samples must be at least 2, got 1"),
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"draws_per_step": 0}, ValueError, "draws_per_step must be at least 1, got 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive, got 0.0"),
        ({"generator": 3}, TypeError, r"generator must be a torch\.Generator, got int"),
        ({"progress": 3}, TypeError, "progress must be True or False, got int"),
    ],
)
def test_bad_arguments_of_the_inference_gap_are_refused(change, error, message):
    good = {
        "model": MODEL,
        "x": X,
        "posterior": amortised,
        "family": lambda: DiagonalGaussian(2),
        "steps": 1,
        "num_samples": 5,
    }
    inference_gap(**good)
    with pytest.raises(error, match=message):
        inference_gap(**(good | change))
