"""K-means against scikit-learn, brute force, torch.distributions and what theory promises."""

import itertools
import math

import numpy as np
import pytest
import torch
from draws import number, rand, seeded
from sklearn.cluster import KMeans as ScikitKMeans
from torch.distributions import Categorical, MultivariateNormal

from nfbook.data import old_faithful
from nfbook.latent import GaussianMixture, KMeans
from nfbook.latent.seeding import k_means_plus_plus

F64 = torch.float64


def blobs(n, dim, count, seed=0, spread=3.0):
    """Return n points around some centres."""
    g = seeded(seed)
    centres = spread * torch.randn(count, dim, generator=g, dtype=F64)
    return centres[torch.randint(count, (n,), generator=g)] + rand(n, dim, seed=seed + 1)


def at(means):
    """A start at these means."""
    return None if means is None else KMeans(means, torch.ones_like(means[0, 0]))


def problem(seed):
    """Return observations, and K of them to start from; all sizes are random, too."""
    g = seeded(seed)
    n, dim = (int(torch.randint(low, high, (), generator=g)) for low, high in ((5, 300), (1, 6)))
    count = int(torch.randint(1, min(n, 45), (), generator=g))
    x = blobs(n, dim, count, seed, spread=1.0)
    return x, x[torch.randperm(n, generator=g)[:count]]


def squared_distances(x, means):
    return (x.unsqueeze(1) - means).square().sum(2)


def scikit(x, start, **options):
    options = {"n_init": 1, "tol": 0, "max_iter": 1000, "algorithm": "lloyd"} | options
    return ScikitKMeans(len(start), init=start.numpy(), **options).fit(x.numpy())


# The model -----------------------------------------------------------------------------------


def test_it_is_the_spherical_mixture_with_equal_weights_and_one_variance():
    means, x = 2 * rand(4, 3), 2 * rand(7, 3, seed=1)
    model = KMeans(means, number(0.7))
    mixture = GaussianMixture(
        torch.full((4,), 0.25, dtype=F64), means, 0.7 * torch.eye(3, dtype=F64).expand(4, 3, 3)
    )
    assert torch.allclose(model.log_prob(x), mixture.log_prob(x))
    assert torch.allclose(model.posterior(x).probs, mixture.posterior(x).probs)
    assert torch.equal(model.prior.probs, torch.full((4,), 0.25, dtype=F64))
    assert model.structure == "spherical"
    assert model.num_parameters == 4 * 3 + 1


def test_density_is_differentiable_in_means_and_variance():
    x, q = rand(4, 2, seed=3), Categorical(torch.eye(3, dtype=F64)[[0, 2, 2, 1]])
    at = rand(3, 2).requires_grad_(), number(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: KMeans(m, v).log_prob(x), at)
    assert torch.autograd.gradcheck(lambda m, v: KMeans(m, v).elbo(x, q), at)


# The assignment ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_assignment_is_the_nearest_mean(count):
    x, means = rand(500, 3), rand(count, 3, seed=1)
    model = KMeans(means, number(1.0))
    distances = squared_distances(x, means)
    assert model.assign(x).dtype == torch.int64
    assert torch.equal(model.assign(x), distances.argmin(1))
    assert model.distortion(x).item() == pytest.approx(distances.amin(1).sum().item(), rel=1e-13)
    assert torch.equal(model.e_step(x).sizes, model.assign(x).bincount(minlength=count).double())


def test_assignment_keeps_the_batch_shape():
    model, x = KMeans(rand(3, 2), number(1.0)), rand(4, 5, 2, seed=1)
    assert model.assign(x).shape == (4, 5)
    assert torch.equal(model.assign(x)[2, 3], model.assign(x[2, 3]))
    assert model.distortion(x).item() == pytest.approx(model.distortion(x.reshape(-1, 2)).item())


def test_assignment_does_not_depend_on_the_variance():
    x, means = rand(200, 3), rand(6, 3, seed=1)
    expected = KMeans(means, number(1.0)).assign(x)
    for variance in (1e-12, 1e6):
        assert torch.equal(KMeans(means, number(variance)).assign(x), expected)


@pytest.mark.parametrize("others", [0, 40])
def test_ties_go_to_the_lowest_index(others):
    """Few clusters and many are added up in two ways."""
    means = number([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 5.0]])
    far = torch.full((others, 2), 50.0, dtype=F64)
    x = number([[0.0, -1.0], [1.0, 0.0], [0.0, -7.0], [-2.0, 0.0]])
    model = KMeans(torch.cat([means, far]), number(1.0))
    assert model.assign(x).tolist() == [0, 1, 0, 0]
    assert model.e_step(x).sizes.tolist() == [3.0, 1.0, 0.0, 0.0] + [0.0] * others


def test_near_ties_cost_no_more_than_rounding():
    means = rand(8, 4)
    pairs = torch.randint(8, (20_000, 2), generator=seeded(1))
    weight = rand(20_000, 1, seed=2) * 1e-15
    # On the planes between two means, up to rounding.
    x = means[pairs].mean(1) + weight * (means[pairs[:, 0]] - means[pairs[:, 1]])
    for shift in (0.0, 2.0**20):
        model = KMeans(means + shift, number(1.0))
        distances = squared_distances(x + shift, means + shift)
        excess = distances.gather(1, model.assign(x + shift).unsqueeze(1))[:, 0] - distances.amin(1)
        extent = squared_distances(x, means).max()
        assert excess.max() <= 1e-14 * extent
    # The check is not empty: rounding does decide here.
    assert (squared_distances(x, means).topk(2, largest=False).values.diff() < 1e-14).sum() > 1000


@pytest.mark.parametrize("shift", [0.0, 2.0**23])
def test_an_outlying_mean_does_not_blur_the_others(shift):
    x = torch.cat([blobs(300, 3, 5), number([[1e9, -1e9, 1e9]])]) + shift
    means = torch.cat([x[-1:], x[:7]])
    model = KMeans(means, number(1.0))
    assert torch.equal(model.assign(x), squared_distances(x, means).argmin(1))


@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("n", [100, 10_000])
def test_sums_do_not_depend_on_pieces_nor_on_the_way_to_add_up(n, count):
    x, means = rand(n, 3) + 5, rand(count, 3, seed=1) + 5
    model = KMeans(means, number(0.25))
    statistics = model.e_step(x)
    z = squared_distances(x, means).argmin(1)
    for k in range(count):
        white = (x[z == k] - means[k]) / 0.5
        assert statistics.sizes[k] == (z == k).sum()
        assert torch.allclose(statistics.shifts[k], white.sum(0), atol=1e-10)
        assert torch.allclose(statistics.scatter[k], white.square().sum(), atol=1e-10)
    assert statistics.entropy == 0
    assert torch.equal(model.assign(x), z)
    assert torch.allclose(model.distortion(x), 0.25 * statistics.scatter.sum(), rtol=1e-12, atol=0)


# The bound -----------------------------------------------------------------------------------


def test_bound_is_the_elbo_of_the_point_masses():
    for seed in range(30):
        x, means = problem(seed)
        model = KMeans(means, 0.5 + rand(seed=seed).square())
        other = KMeans(means + 0.3 * rand(*means.shape, seed=seed), number(0.4))
        z = squared_distances(x, means).argmin(1)
        q = Categorical(torch.nn.functional.one_hot(z, len(means)).double())
        for judge in (model, other):
            densities = MultivariateNormal(
                judge.means[z], judge.variance * torch.eye(x.shape[1], dtype=F64)
            ).log_prob(x)
            expected = densities.sum() - len(x) * math.log(len(means))
            assert torch.allclose(judge.bound(model.e_step(x)), expected, rtol=1e-11, atol=0)
            assert torch.allclose(judge.elbo(x, q).sum(), expected, rtol=1e-11, atol=0)


def test_no_other_assignment_has_a_higher_bound():
    x, model = rand(6, 2), KMeans(rand(3, 2, seed=1), number(0.8))
    table = torch.tensor(list(itertools.product(range(3), repeat=6)))
    q = Categorical(torch.nn.functional.one_hot(table, 3).double())
    bounds = model.elbo(x.expand(len(table), 6, 2), q).sum(1)
    assert torch.allclose(bounds.max(), model.bound(model.e_step(x)), rtol=1e-13, atol=0)
    assert torch.equal(table[bounds.argmax()], model.assign(x))


def test_no_other_parameters_have_a_higher_bound():
    x, means = problem(7)
    model = KMeans(means, number(0.8))
    statistics = model.e_step(x)
    best = model.m_step(statistics)
    at = [best.means.requires_grad_(), best.variance.log().requires_grad_()]
    KMeans(at[0], at[1].exp()).bound(statistics).backward()
    assert max(value.grad.abs().max() for value in at) < 1e-10 * len(x)
    with torch.no_grad():
        top = best.bound(statistics)
        for seed in range(20):
            near = [value + 0.05 * rand(*value.shape, seed=seed) for value in at]
            assert KMeans(near[0], near[1].exp()).bound(statistics) < top


def test_bound_never_falls_and_never_exceeds_the_log_likelihood():
    for seed in range(40):
        x, start = problem(seed)
        fit = KMeans.fit(x, len(start), start=at(start))
        rises = fit.history.half_steps.diff() / len(x)
        assert fit.history.converged
        assert rises.min() > -1e-13
        assert rises[0] > 1e-3, "the check would be empty"
        gap = fit.model.log_prob(x).sum() - fit.history.after_e_step[-1]
        assert gap > -1e-12 * len(x)
        z = squared_distances(x, fit.model.means).argmin(1)
        assert gap < len(x) * math.log(len(start)) + 1e-9
        assert z.bincount(minlength=len(start)).min() > 0


def test_variance_is_distortion_by_n_d_and_the_last_bound_follows():
    x = blobs(300, 3, 4)
    model, history = KMeans.fit(x, 4, start=at(x[:4]))
    variance = model.distortion(x) / x.numel()
    assert torch.allclose(model.variance, variance)
    expected = -0.5 * x.numel() * (math.log(2 * math.pi * variance) + 1) - 300 * math.log(4)
    assert history.after_e_step[-1].item() == pytest.approx(expected)


def test_given_q_makes_it_soft_em():
    x, model = blobs(200, 2, 3), KMeans(rand(3, 2), number(2.0))
    statistics = model.e_step(x, model.posterior(x))
    assert torch.allclose(model.bound(statistics), model.log_prob(x).sum())
    better = model.m_step(statistics)
    r = model.posterior(x).probs
    assert torch.allclose(better.means, r.mT @ x / r.sum(0).unsqueeze(1))
    expected = (r * squared_distances(x, better.means)).sum() / x.numel()
    assert torch.allclose(better.variance, expected)
    assert better.log_prob(x).sum() > model.log_prob(x).sum()


# The fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_same_clusters_as_scikit_learn_from_the_same_start(seed):
    x, start = problem(seed)
    model, history = KMeans.fit(x, len(start), start=at(start))
    reference = scikit(x, start)
    assert np.array_equal(model.assign(x), reference.labels_)
    assert np.allclose(model.means, reference.cluster_centers_, rtol=1e-12, atol=1e-12)
    assert model.distortion(x).item() == pytest.approx(reference.inertia_, rel=1e-12, abs=1e-12)
    # It counts the last E-step, we count M-steps. Rounding may add an iteration that moves nothing.
    assert 0 <= history.iterations - reference.n_iter_ <= 5


def test_a_fit_ends_only_when_no_assignment_changes():
    # One round cloud, in which the last changes are rare and gain next to nothing.
    x = rand(20_000, 2)
    model, history = KMeans.fit(x, 5, start=at(x[:5]))
    assert history.converged
    gains = history.after_e_step.diff() / len(x)
    assert gains[gains > 1e-13][-1] < 1e-6, "the check would be empty"
    means = torch.stack([x[model.assign(x) == k].mean(0) for k in range(5)])
    assert torch.allclose(model.means, means, rtol=1e-12, atol=1e-12)
    assert np.array_equal(model.assign(x), scikit(x, x[:5]).labels_)


@pytest.mark.parametrize("iterations", [1, 5])
def test_same_means_as_scikit_learn_on_the_way(iterations):
    x = blobs(3000, 5, 40, spread=1.0)
    start = x[:50]
    model, history = KMeans.fit(x, 50, start=at(start), max_iterations=iterations)
    assert (history.iterations, history.converged) == (iterations, False)
    reference = scikit(x, start, max_iter=iterations)
    assert np.allclose(model.means, reference.cluster_centers_, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_random_starts_find_what_scikit_learns_find_on_old_faithful(count):
    x = old_faithful()
    model, history = KMeans.fit(x, count, restarts=10, generator=seeded())
    reference = ScikitKMeans(count, n_init=10, tol=0, random_state=0).fit(x.numpy())
    assert model.distortion(x).item() == pytest.approx(reference.inertia_, rel=1e-10)
    assert history.restarts.shape == (10,)


def test_the_best_restart_is_kept_and_the_generator_decides():
    x = blobs(200, 2, 12)

    def fit(seed):
        return KMeans.fit(x, 12, restarts=4, generator=seeded(seed), max_iterations=5)

    one, again, other = fit(1), fit(1), fit(2)
    assert one.history.restarts.shape == (4,)
    assert len(one.history.restarts.unique()) > 1, "the check would be empty"
    assert one.history.after_e_step[-1] == one.history.restarts.max()
    assert torch.equal(again.model.means, one.model.means)
    assert torch.equal(again.history.half_steps, one.history.half_steps)
    assert not torch.equal(other.model.means, one.model.means)
    assert KMeans.fit(x, 12, start=at(x[:12]), restarts=4).history.restarts.shape == (1,)


def test_streaming_finds_the_same():
    x = blobs(150, 3, 5)
    options = {"restarts": 3, "generator": seeded(1)}
    whole, drawn = KMeans.fit(x, 6, start=at(x[:6])), KMeans.fit(x, 5, **options).model
    for batches in ([x], list(x.split(7)), [x[:1], x[1:90], x[90:]]):
        streamed = KMeans.fit(batches, 6, start=at(x[:6]))
        assert torch.allclose(streamed.model.means, whole.model.means, rtol=1e-12, atol=0)
        ends = [fit.history.after_e_step[-1] for fit in (streamed, whole)]
        assert torch.allclose(*ends, rtol=1e-12, atol=0)
        other = KMeans.fit(batches, 5, **options | {"generator": seeded()}).model
        found = float(other.distortion(x))
        assert found == pytest.approx(float(drawn.distortion(x)), rel=0.05)


def test_a_start_is_drawn_from_a_part_of_large_data(monkeypatch):
    monkeypatch.setattr("nfbook.latent.kmeans.SAMPLE", 10)
    x = blobs(5000, 2, 3)
    model = KMeans.fit(x, 3, generator=seeded()).model
    assert model.distortion(x).item() == pytest.approx(scikit(x, model.means).inertia_)
    # More clusters than that: the part is larger then.
    assert len(KMeans.fit(x, 30, restarts=1, generator=seeded()).model.means) == 30


# Invariance ----------------------------------------------------------------------------------


def same_fit(x, transformed_x, transform, log_scale=0.0):
    """Check that the fit follows the data, and that the bound changes by the log-volume."""
    fit = KMeans.fit(x, 7, start=at(x[:7]))
    other = KMeans.fit(transformed_x, 7, start=at(transformed_x[:7]))
    expected = transform(fit.model.means)
    assert torch.allclose(other.model.means, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())
    assert torch.equal(other.model.assign(transformed_x), fit.model.assign(x))
    shifted = fit.history.after_e_step[-1] - x.numel() * log_scale
    assert torch.allclose(other.history.after_e_step[-1], shifted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_fit_follows_a_change_of_scale(scale):
    x = blobs(200, 3, 5, spread=1.0)
    same_fit(x, scale * x, lambda m: scale * m, math.log(scale))


@pytest.mark.parametrize("shift", [-3.0, 2.0**24])
def test_fit_follows_a_shift(shift):
    # On a grid, so that the shifted data are the same up to the last bit.
    x = (blobs(200, 3, 5, spread=1.0) * 2**12).round() / 2**12
    same_fit(x, x + shift, lambda m: m + shift)


def test_fit_follows_a_rotation():
    x = blobs(200, 3, 5, spread=1.0)
    rotation = torch.linalg.qr(rand(3, 3)).Q
    same_fit(x, x @ rotation, lambda m: m @ rotation)


def test_fit_does_not_depend_on_the_order():
    x, order = blobs(200, 3, 5, spread=1.0), torch.randperm(200, generator=seeded())
    fit = KMeans.fit(x, 7, start=at(x[:7]))
    other = KMeans.fit(x[order], 7, start=at(x[:7]))
    assert torch.allclose(other.model.means, fit.model.means, rtol=1e-12, atol=0)
    assert torch.equal(other.model.assign(x), fit.model.assign(x))
    swapped = KMeans.fit(x, 7, start=at(x[:7].flip(0)))
    assert torch.allclose(swapped.model.means.flip(0), fit.model.means, rtol=1e-12, atol=0)


# Empty clusters ------------------------------------------------------------------------------


def test_an_empty_cluster_goes_to_the_farthest_observation():
    x = number([[0.0], [1.0], [2.0], [10.0]])
    model = KMeans(number([[0.0], [100.0], [-100.0], [2.0]]), number(1.0))
    statistics = model.e_step(x)
    assert statistics.farthest.tolist() == [10.0]
    assert statistics.reach == pytest.approx(32.0)
    better = model.m_step(statistics)
    # One at a time: the second one stays for now.
    assert better.means[:, 0].tolist() == [0.5, 10.0, -100.0, 6.0]
    assert better.bound(statistics) > model.bound(statistics)
    assert better.e_step(x).sizes.tolist() == [3.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("cuts", [[20_000], [13, 19_980, 7]])
def test_the_farthest_observation_is_found_across_pieces_and_batches(cuts):
    for far in (3, 9000, 19_998):
        x = blobs(20_000, 2, 3) + 7
        x[far] += 50
        model = KMeans(torch.cat([x[:2], x[:1] + 1e4]), number(1.0))
        parts = [model.e_step(batch) for batch in x.split(cuts)]
        total = sum(parts[1:], parts[0])
        assert torch.allclose(total.farthest, x[far])


@pytest.mark.parametrize("bad", ["equal", "far", "one place"])
def test_no_cluster_ends_empty_from_a_bad_start(bad):
    x = blobs(100, 2, 5)
    start = {
        "equal": x[:1].expand(5, 2),
        "far": x[:5] + number([[0.0], [0.0], [0.0], [1e6], [1e6]]),
        "one place": x[:1] + 1e-9 * rand(5, 2),
    }[bad]
    model, history = KMeans.fit(x, 5, start=at(start.contiguous()))
    assert history.converged
    assert model.assign(x).bincount(minlength=5).min() > 0
    assert (history.half_steps.diff() > -1e-12 * len(x)).all()


def test_statistics_of_hard_and_soft_steps_add_up():
    x, model = rand(20, 2), KMeans(rand(3, 2, seed=1), number(1.0))
    total = model.e_step(x[:10]) + model.e_step(x[10:], model.posterior(x[10:]))
    assert total.count == 20
    assert torch.allclose(total.sizes.sum(), number(20.0))
    with pytest.raises(ValueError, match="statistics must come from one model"):
        _ = model.e_step(x) + KMeans(model.means, model.variance).e_step(x)


# Degenerate data -----------------------------------------------------------------------------


def test_as_many_clusters_as_observations():
    x = rand(12, 2)
    for fit in (KMeans.fit(x, 12, generator=seeded()), KMeans.fit(x, 12, start=at(x + 0.01))):
        assert fit.model.distortion(x) < 1e-25
        assert sorted(fit.model.assign(x).tolist()) == list(range(12))
        lowest = 1e-6 * x.var(0, correction=0).mean()
        assert torch.allclose(fit.model.variance, lowest, rtol=1e-12, atol=0)
        assert fit.history.half_steps.isfinite().all()


@pytest.mark.parametrize("fit", [KMeans.fit, GaussianMixture.fit])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.filterwarnings("ignore:variances")
def test_a_rare_observation_is_found_among_many_equal_ones(fit, stream, monkeypatch):
    monkeypatch.setattr("nfbook.latent.kmeans.SAMPLE", 50)
    monkeypatch.setattr("nfbook.latent.mixture.SAMPLE", 50)
    x = torch.zeros(5000, 1)
    x[3777] = 1.0
    model, _ = fit(list(x.split(900)) if stream else x, 2, restarts=1, generator=seeded())
    assert torch.allclose(model.means.flatten().sort().values, torch.tensor([0.0, 1.0]), atol=1e-6)


def test_duplicates_and_constant_columns_are_fine():
    x = torch.cat([rand(4, 2), torch.full((4, 1), 3.0, dtype=F64)], dim=1).repeat(25, 1)
    model, history = KMeans.fit(x, 4, generator=seeded())
    assert model.distortion(x) < 1e-25
    assert model.assign(x).bincount().tolist() == [25] * 4
    assert history.half_steps.isfinite().all()
    three = KMeans.fit(x, 3, generator=seeded()).model
    assert three.distortion(x).item() == pytest.approx(
        ScikitKMeans(3, n_init=20, random_state=0).fit(x.numpy()).inertia_
    )


def test_more_clusters_than_distinct_observations():
    x = rand(3, 2).repeat(5, 1)
    with pytest.raises(ValueError, match="x must hold at least 4 distinct observations, got 3"):
        KMeans.fit(x, 4, generator=seeded())
    with pytest.raises(ValueError, match="x must hold at least 16 distinct observations, got 15"):
        KMeans.fit(x, 16, start=at(rand(16, 2)))
    # Means given by hand can all be served but one, which is not missed.
    model, history = KMeans.fit(x, 4, start=at(torch.cat([x[:3], x[:1] + 1])))
    assert model.distortion(x) < 1e-25
    assert history.half_steps.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 / 3])
def test_equal_observations_are_refused(value):
    x = torch.full((10, 2), value, dtype=F64)
    with pytest.raises(ValueError, match=r"x must hold at least 2 distinct observations, got 1$"):
        KMeans.fit(x, 2, start=at(rand(2, 2)))


@pytest.mark.parametrize("start", [None, blobs(50, 2, 3)[:3]], ids=["random", "given"])
@pytest.mark.parametrize(
    ("scale", "dtype", "variance"),
    [
        (1e160, F64, "inf"),
        (1e-200, F64, "0"),
        (1e30, torch.float32, r"[\d.]+e\+6\d"),
        (1e-25, torch.float32, r"[\d.]+e-[45]\d"),
    ],
)
def test_a_variance_beyond_the_dtype_is_refused(scale, dtype, variance, start):
    x = (scale * blobs(50, 2, 3)).to(dtype)
    start = start if start is None else (scale * start).to(dtype)
    message = f"x must have a variance within the range of {dtype}, got {variance}$"
    for data in (x, [x[:20], x[20:]]):
        with pytest.raises(ValueError, match=message):
            KMeans.fit(data, 3, start=at(start), generator=seeded())


def test_a_variance_within_clusters_beyond_the_dtype_is_refused():
    x = (1e-17 * number([[0.0], [1e-7], [1.0], [1.0 + 1e-7]])).float()
    message = r"x must have a variance within the range of torch\.float32, got \d\.\d+e-4\d$"
    with pytest.raises(ValueError, match=message):
        KMeans.fit(x, 2, start=at(x[1:3]))


@pytest.mark.parametrize("scale", [2.0**-52, 2.0**60])
def test_single_precision_is_enough_wherever_the_variance_has_a_place(scale):
    x = blobs(60, 2, 3).float()
    fit, scaled = (KMeans.fit(s * x, 3, generator=seeded()) for s in (1.0, scale))
    assert torch.equal(scaled.model.means / scale, fit.model.means)
    assert torch.equal(scaled.model.variance / scale**2, fit.model.variance)


def test_a_single_observation_is_refused():
    with pytest.raises(ValueError, match="x must hold at least 2 distinct observations"):
        KMeans.fit(rand(1, 2), 1, generator=seeded())


def test_tight_clusters_far_apart():
    x = 1e3 * rand(5, 3).repeat(40, 1) + 1e-4 * rand(200, 3, seed=1)
    model, history = KMeans.fit(x, 5, generator=seeded())
    assert (history.half_steps.diff() > -1e-9 * len(x)).all()
    assert model.assign(x).tolist() == model.assign(x)[:5].tolist() * 40
    q = Categorical(torch.nn.functional.one_hot(model.assign(x), 5).double())
    bound = history.after_e_step[-1]
    assert torch.allclose(bound, model.elbo(x, q).sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_float32_is_computed_in_float64(scale):
    x = (scale * blobs(400, 3, 5)).float()
    fit = KMeans.fit(x, 5, start=at(x[:5]))
    exact = KMeans.fit(x.double(), 5, start=at(x[:5].double()))
    assert fit.model.means.dtype == fit.model.variance.dtype == torch.float32
    assert torch.equal(fit.model.means, exact.model.means.float())
    assert torch.equal(fit.history.half_steps, exact.history.half_steps)
    assert torch.equal(fit.model.assign(x), exact.model.assign(x.double()))
    assert fit.model.log_prob(x).dtype == torch.float32
    streamed = KMeans.fit(list(x.split(100)), 5, start=at(x[:5]))
    assert torch.allclose(streamed.model.means, fit.model.means)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_float32_observations_are_compared_in_float64(shift):
    x, means = (rand(3000, 2) + shift).float(), (rand(6, 2, seed=1) + shift).float()
    model = KMeans(means, torch.tensor(1.0))
    distances = squared_distances(x.double(), means.double())
    assert torch.equal(model.assign(x), distances.argmin(1))
    assert torch.allclose(model.distortion(x), distances.amin(1).sum(), rtol=1e-12, atol=0)
    statistics = model.e_step(x)
    assert statistics.scatter.dtype == F64
    assert torch.allclose(statistics.scatter.sum(), model.distortion(x), rtol=1e-12, atol=0)


def test_scatter_is_never_negative():
    for seed in range(20):
        x = 100 * rand(40, 3, seed=seed)
        scatter = KMeans(x, number(1.0)).e_step(x).scatter
        assert scatter.min() >= 0
        assert scatter.max() < 1e-9


# Bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "variance", "error", "message"),
    [
        (torch.zeros(2), 1.0, ValueError, r"means must have shape \(K, D\), got \(2,\)"),
        (torch.zeros(2, 1), -1.0, ValueError, r"variance must be positive, got -1\.0"),
        (torch.zeros(2, 1), "1", TypeError, "variance must be a number or a tensor .*, got str"),
        (torch.zeros(2, 1), torch.ones(2), ValueError, r"variance must have shape \(\), got"),
        (torch.zeros(2, 1), number(1.0), TypeError, "means and variance must have the same dtype"),
        (torch.full((2, 1), math.inf), 1.0, ValueError, "means must be finite"),
    ],
)
def test_bad_parameters_are_refused(means, variance, error, message):
    with pytest.raises(error, match=message):
        KMeans(means, variance)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x must be a torch.Tensor or an iterable of them"),
        ({"x": torch.full((4, 2), math.nan)}, ValueError, "x must be finite, got 8 NaN"),
        ({"num_clusters": 21}, ValueError, "x must hold at least 21 distinct observations, got 20"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator, got int"),
        ({"progress": 1}, TypeError, "progress must be True or False, got int"),
        ({"start": rand(3, 2)}, TypeError, "start must be a KMeans, got Tensor"),
        ({"start": at(rand(2, 2))}, ValueError, "start must have K = 3 and D = 2, got 2 and 2"),
        ({"start": at(rand(3, 2).float())}, TypeError, "x and start must have the same dtype"),
        # Numbers are looked at before the data are run through.
        ({"x": None, "num_clusters": 0}, ValueError, "num_clusters must be at least 1"),
        ({"x": None, "restarts": 0}, ValueError, "restarts must be at least 1"),
        ({"x": None, "floor": 0}, ValueError, "floor must be positive"),
        ({"x": None, "max_iterations": 0}, ValueError, "max_iterations must be at least 1"),
    ],
)
def test_fit_refuses_bad_arguments(change, error, message):
    good = {"x": rand(20, 2), "num_clusters": 3, "generator": seeded()} | change
    with pytest.raises(error, match=message):
        KMeans.fit(**good)


@pytest.mark.parametrize("method", ["assign", "distortion", "e_step"])
def test_bad_observations_are_refused(method):
    call = getattr(KMeans(rand(3, 2), number(1.0)), method)
    with pytest.raises(TypeError, match="x and parameters must have the same dtype"):
        call(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"x must have shape \((\*|n), 2\), got \(4, 3\)"):
        call(rand(4, 3))
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite of 2"):
        call(number([[0.0, math.nan]]))
    with pytest.raises(ValueError, match="x must not be empty"):
        call(rand(0, 2))


FAR = r"x must be small enough for its squared distances to be finite, got elements up to "


@pytest.mark.parametrize("method", ["distortion", "e_step"])
def test_observations_whose_squares_overflow_are_refused(method):
    model = KMeans(rand(3, 2), number(1.0))
    with pytest.raises(ValueError, match=FAR + r"1e\+200"):
        getattr(model, method)(number([[1e200, 0.0]]))


@pytest.mark.parametrize("method", ["assign", "distortion", "e_step"])
def test_means_whose_squares_overflow_are_refused(method):
    model = KMeans(number([[-1e200], [1e200]]), number(1.0))
    with pytest.raises(ValueError, match=FAR + r"1\.7e\+200"):
        getattr(model, method)(number([[1.7e200]]))


def test_an_observation_far_away_is_assigned_where_it_can_be_told():
    model = KMeans(number([[-1.0], [1.0]]), number(1.0))
    assert model.assign(number([[1e200], [-1e200]])).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    got = f"must have dtype torch.float32 or torch.float64, got {dtype}"
    x = blobs(20, 2, 3).to(dtype)
    with pytest.raises(TypeError, match=f"^means {got}"):
        KMeans(x[:3], torch.ones((), dtype=dtype))
    with pytest.raises(TypeError, match=f"^x {got}"):
        KMeans.fit(x, 3, generator=seeded())
    with pytest.raises(TypeError, match=f"^every batch of x {got}"):
        KMeans.fit([x], 3, generator=seeded())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_first_centres_do_not_depend_on_the_unit(dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 1.0], [3.0, 1.0], [-1.0, 7.0]], dtype=dtype)
    info = torch.finfo(dtype)
    for seed in range(20):
        centres = k_means_plus_plus(x, 3, generator=seeded(seed))
        assert len(centres.unique(dim=0)) == 3
        for unit in (2.0**-100, 2.0**100, info.max / 16, info.tiny):
            scaled = k_means_plus_plus(unit * x, 3, generator=seeded(seed))
            assert torch.equal(scaled, unit * centres), unit


def test_the_first_centres_may_lie_at_all_distances():
    x = number([[0.0], [1e-300], [1.0], [1e150]])
    for seed in range(20):
        centres = k_means_plus_plus(x, 4, generator=seeded(seed))
        assert centres.sort(0).values.tolist() == x.tolist()


def test_first_centres_need_finite_distances():
    x = number([[1.7e308, 0.0], [-1.7e308, 0.0]])
    with pytest.raises(ValueError, match=r"x must have finite distances .* up to 1\.7e\+308"):
        k_means_plus_plus(x, 2, generator=seeded())


@pytest.mark.parametrize(
    ("floor", "error", "message"),
    [
        (number([0.1]), ValueError, r"floor must have shape \(2,\), got \(1,\)"),
        (number([0.1, 0.0]), ValueError, r"floor must be positive, got 0\.0"),
        (torch.ones(2), TypeError, "floor and parameters must have the same dtype"),
    ],
)
def test_m_step_refuses_a_bad_floor(floor, error, message):
    model = KMeans(rand(3, 2), number(1.0))
    with pytest.raises(error, match=message):
        model.m_step(model.e_step(rand(9, 2)), floor)


def test_m_step_wants_its_own_statistics_and_some_variance():
    x = number([[0.0, 0.0], [4.0, 0.0]])
    model = KMeans(x, number(1.0))
    with pytest.raises(TypeError, match="statistics must be a MixtureStatistics, got NoneType"):
        model.m_step(None)
    own = "statistics must come from this model's own e_step, got those of another model"
    with pytest.raises(ValueError, match=own):
        model.m_step(KMeans(x, number(1.0)).e_step(x))
    with pytest.raises(TypeError, match="other must be a MixtureStatistics, got int"):
        model.e_step(x) + 3
    with pytest.raises(ValueError, match="statistics must come from one model to be added, got tw"):
        model.e_step(x) + KMeans(x, number(1.0)).e_step(x)
    with pytest.raises(ValueError, match="floor must be given where every observation lies at its"):
        model.m_step(model.e_step(x))
    assert model.m_step(model.e_step(x), number([0.1, 0.3])).variance.item() == pytest.approx(0.2)


# Weights of observations ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("n", [60, 10_000])
def test_a_weight_of_two_is_the_observation_twice(n, count):
    x, weights = blobs(n, 2, 4), torch.arange(n).remainder(4).double()
    repeated = x.repeat_interleave(weights.long(), dim=0)
    start = at(x[1 : 1 + count])
    one, other = start.e_step(x, weights=weights), start.e_step(repeated)
    assert one.count == other.count
    for name in ("sizes", "shifts", "scatter"):
        assert torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-9)
    options = {"start": start, "max_iterations": 3}
    fit = KMeans.fit(repeated, count, **options)
    streamed = list(x.split(4000)), list(weights.split(4000))
    for data, given in ((x, weights), streamed):
        same = KMeans.fit(data, count, weights=given, **options)
        assert torch.allclose(same.model.means, fit.model.means)
        assert torch.allclose(same.model.variance, fit.model.variance)
        assert torch.allclose(same.history.half_steps, fit.history.half_steps, rtol=1e-10)


def test_no_cluster_goes_to_an_observation_of_weight_zero():
    x = torch.cat([blobs(50, 2, 3), number([[1e6, 1e6]])])
    weights = torch.ones_like(x[:, 0])
    weights[-1] = 0.0
    for start in (None, at(torch.cat([x[:2], number([[-1e5, 1e5]])]))):
        for seed in range(3):
            fit = KMeans.fit(x, 3, weights=weights, start=start, generator=seeded(seed))
            assert fit.model.means.abs().max() < 100
    empty = at(number([[0.0, 0.0], [-1e5, 1e5]]))
    assert empty.e_step(x, weights=weights).farthest.abs().max() < 100


def test_all_tensors_are_made_where_the_data_are():
    x = blobs(50, 2, 3).float() + 1e3
    with torch.device("meta"):
        model, history = KMeans.fit(x, 3, weights=torch.ones_like(x[:, 0]), generator=seeded())
        drawn, z = model.sample(3)
        assigned = KMeans(x[:3], 1.0).assign(x)
    for tensor in (model.means, model.variance, history.half_steps, drawn, z, assigned):
        assert tensor.device.type == "cpu"
    assert model.distortion(x) > 0


def test_a_fit_starts_at_its_start():
    x = blobs(50, 2, 3)
    start = KMeans(x[:3], number(0.7))
    history = KMeans.fit(x, 3, start=start, max_iterations=1).history
    first = start.bound(start.e_step(x))
    assert float(history.after_e_step[0]) == pytest.approx(float(first), rel=1e-12)
