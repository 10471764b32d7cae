"""The mixture of Gaussians and its EM: bounds, maxima, published numbers, scikit-learn."""

import functools
import itertools
import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from draws import number, rand, seeded
from scipy import stats
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch.distributions import (
    Categorical,
    MixtureSameFamily,
    MultivariateNormal,
    kl_divergence,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfbook.data import old_faithful
from nfbook.latent import PPCA, GaussianMixture, KMeans

STRUCTURES = ["full", "tied", "diagonal", "spherical"]
SKLEARN_NAMES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}
each_structure = pytest.mark.parametrize("structure", STRUCTURES)


def covariances_of(structure, matrices):
    """What is left of covariance matrices `(K, D, D)` in a structure."""
    return {
        "full": matrices,
        "tied": matrices[0],
        "diagonal": matrices.diagonal(dim1=1, dim2=2),
        "spherical": matrices[:, 0, 0],
    }[structure]


def matrices_of(model):
    """The covariance matrices `(K, D, D)` of any structure."""
    count, dim = model.means.shape
    eye = torch.eye(dim, dtype=model.means.dtype)
    return {
        "full": lambda c: c,
        "tied": lambda c: c.expand(count, dim, dim),
        "diagonal": lambda c: c.unsqueeze(-1) * eye,
        "spherical": lambda c: c[:, None, None] * eye,
    }[model.structure](model.covariances)


def some_mixture(structure="full", count=3, dim=2, seed=0, dtype=torch.float64):
    a = rand(count, dim, dim, seed=seed)
    matrices = a @ a.mT + 0.3 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(
        rand(count, seed=seed + 1).softmax(0).to(dtype),
        (2 * rand(count, dim, seed=seed + 2)).to(dtype),
        covariances_of(structure, matrices).to(dtype),
        structure=structure,
    )


def reference_of(model):
    return MixtureSameFamily(
        Categorical(model.weights), MultivariateNormal(model.means, matrices_of(model))
    )


def some_q(n, count, seed=0, dtype=torch.float64):
    return Categorical(probs=(2 * rand(n, count, seed=seed)).softmax(1).to(dtype))


def one_hot(n, count, seed=0):
    index = torch.randint(count, (n,), generator=seeded(seed))
    return Categorical(probs=torch.nn.functional.one_hot(index, count).double())


def clusters(n, count, dim, seed=0, apart=4.0):
    """Observations around centres that are far apart, each cluster with its own shape."""
    shapes = rand(count, dim, dim, seed=seed) / math.sqrt(dim) + torch.eye(dim).double()
    z = torch.randint(count, (n,), generator=seeded(seed + 1))
    centres = apart * rand(count, dim, seed=seed + 2)
    return centres[z] + (shapes[z] @ rand(n, dim, 1, seed=seed + 3)).squeeze(-1)


def start_for(x, count, structure):
    """A mixture around the first observations, with the covariance matrix of all."""
    matrix = torch.cov(x.mT).reshape(x.shape[1], -1).expand(count, -1, -1)
    return GaussianMixture(
        torch.full((count,), 1 / count, dtype=x.dtype),
        x[:count],
        covariances_of(structure, matrix).clone(),
        structure=structure,
    )


def assert_same(first, second, rtol=1e-9, atol=1e-12):
    for name in ("weights", "means", "covariances"):
        assert torch.allclose(getattr(first, name), getattr(second, name), rtol=rtol, atol=atol)


# What a mixture knows exactly -----------------------------------------------------------------


@each_structure
@pytest.mark.parametrize(("count", "dim"), [(3, 2), (1, 4), (5, 1)])
def test_every_structure_is_a_mixture_with_its_matrices(structure, count, dim):
    model = some_mixture(structure, count, dim)
    reference, x = reference_of(model), 3 * rand(2, 7, dim, seed=5)
    assert torch.allclose(model.log_prob(x), reference.log_prob(x), rtol=1e-11, atol=0)
    components = MultivariateNormal(model.means, matrices_of(model)).log_prob(x.unsqueeze(-2))
    assert torch.allclose(model.component_log_prob(x), components, rtol=1e-11, atol=0)
    joint = model.weights.log() + components
    assert torch.allclose(model.posterior(x).probs, joint.softmax(-1))
    z = torch.randint(count, (2, 7), generator=seeded())
    expected = joint.gather(-1, z.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(model.log_joint(x, z), expected, rtol=1e-11, atol=0)


@each_structure
def test_samples_of_every_structure_follow_it(structure):
    model, n = some_mixture(structure), 6000
    x, z = model.sample(n, generator=seeded())
    for k, matrix in enumerate(matrices_of(model)):
        white = torch.linalg.solve(torch.linalg.cholesky(matrix), (x[z == k] - model.means[k]).mT)
        # True samples are rejected with probability 1e-6.
        assert stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-6
    counts = z.bincount(minlength=3)
    assert stats.chisquare(counts, n * model.weights / model.weights.sum()).pvalue > 1e-6


class LargestTensor(TorchDispatchMode):
    """Remember the number of elements of the largest tensor that torch makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(made) if isinstance(one, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        return made


@each_structure
def test_a_long_array_is_worked_on_in_small_pieces(structure):
    """White coordinates of all would be a million numbers, 16 times as many as the data."""
    model, x = some_mixture(structure, count=16, dim=4), rand(16_000, 4, seed=4)
    q = model.posterior(x)
    with LargestTensor() as largest:
        log_prob, statistics, given = model.log_prob(x), model.e_step(x), model.e_step(x, q)
    assert largest.numel <= 2**18
    parts = x.split(1000)
    assert torch.allclose(log_prob, torch.cat([model.log_prob(part) for part in parts]))
    scatter = sum(model.e_step(part).scatter for part in parts)
    assert torch.allclose(statistics.scatter, scatter)
    assert torch.allclose(given.scatter, scatter)


# The bound ------------------------------------------------------------------------------------


@each_structure
def test_elbo_is_the_evidence_less_a_divergence(structure):
    model, x = some_mixture(structure), rand(4, 5, 2, seed=3)
    q = Categorical(probs=rand(4, 5, 3, seed=8).softmax(-1))
    gap = kl_divergence(q, model.posterior(x))
    assert (gap > 0).all()
    assert torch.allclose(model.elbo(x, q), model.log_prob(x) - gap)
    assert torch.allclose(model.elbo(x, model.posterior(x)), model.log_prob(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("parameter", ["probs", "logits"])
def test_elbo_of_a_point_mass_is_the_log_joint_and_has_finite_gradients(parameter):
    model, x, probs = some_mixture(), rand(6, 2, seed=3), one_hot(6, 3).probs
    value = (probs if parameter == "probs" else probs.log()).requires_grad_()
    means, index = model.means.clone().requires_grad_(), probs.argmax(1)
    learned = GaussianMixture(model.weights, means, model.covariances)
    elbo = learned.elbo(x, Categorical(**{parameter: value}))
    assert torch.allclose(elbo, model.log_joint(x, index), rtol=1e-12, atol=0)
    elbo.sum().backward()
    assert value.grad.isfinite().all()
    differences = (x - model.means[index]).unsqueeze(-1)
    slopes = torch.linalg.solve(model.covariances[index], differences).squeeze(-1)
    assert torch.allclose(means.grad, torch.zeros_like(means).index_add(0, index, slopes))


@each_structure
def test_gradients_agree_with_finite_differences(structure):
    model, x = some_mixture(structure), rand(4, 2, seed=3)
    inputs = [model.weights.log(), model.means, model.covariances, rand(4, 3, seed=4)]
    inputs = [value.clone().requires_grad_() for value in inputs]

    def densities(logits, means, covariances, q_logits):
        if structure in ("full", "tied"):
            covariances = (covariances + covariances.mT) / 2
        model = GaussianMixture(logits.softmax(0), means, covariances, structure=structure)
        return model.log_prob(x), model.elbo(x, Categorical(logits=q_logits))

    assert torch.autograd.gradcheck(densities, inputs)


@pytest.mark.parametrize(
    ("q", "error", "message"),
    [
        (torch.ones(4, 3), TypeError, r"q must be a torch\.distributions\.Categorical, got Tensor"),
        (
            some_q(5, 3),
            ValueError,
            r"q must have batch shape \(4,\) and 3 indices, got \(5,\) and 3",
        ),
        (some_q(4, 2), ValueError, r"batch shape \(4,\) and 3 indices, got \(4,\) and 2"),
        (
            some_q(4, 3, dtype=torch.float32),
            TypeError,
            "q and parameters must have the same dtype, got torch.float32 and torch.float64",
        ),
    ],
)
def test_elbo_and_e_step_refuse_a_wrong_q(q, error, message):
    model, x = some_mixture(), rand(4, 2)
    for function in (model.elbo, model.e_step):
        with pytest.raises(error, match=message):
            function(x, q)


# The E-step -----------------------------------------------------------------------------------


@each_structure
def test_statistics_add_up(structure):
    model, x = some_mixture(structure), rand(40, 2, seed=3)
    whole, first, second = model.e_step(x), model.e_step(x[:7]), model.e_step(x[7:])
    both = first + second
    assert both.count == 40
    for name in ("entropy", "sizes", "shifts", "scatter"):
        assert torch.allclose(getattr(both, name), getattr(whole, name), rtol=1e-12, atol=0)
    assert torch.allclose(model.bound(both), model.bound(first) + model.bound(second))
    other = some_mixture(structure, seed=5)
    with pytest.raises(ValueError, match="statistics must come from one model to be added"):
        first + other.e_step(x)


@each_structure
def test_bound_is_the_elbo_of_any_mixture_for_any_q(structure):
    """So all sums over the observations are right: another mixture weighs them otherwise."""
    maker, x = some_mixture(structure), 2 * rand(30, 2, seed=3)
    for model, q in itertools.product(
        (maker, some_mixture(structure, seed=7)), (some_q(30, 3), one_hot(30, 3), None)
    ):
        shares, statistics = maker.posterior(x) if q is None else q, maker.e_step(x, q)
        expected = model.elbo(x, shares).sum()
        assert torch.allclose(model.bound(statistics), expected, rtol=1e-12, atol=0)
        assert torch.allclose(statistics.sizes, shares.probs.sum(0))
        entropy = float(shares.entropy().sum())
        assert float(statistics.entropy) == pytest.approx(entropy, abs=1e-5)
        assert statistics.count == 30


@each_structure
def test_gradient_of_the_bound_is_that_of_the_log_likelihood_where_they_touch(structure):
    model, x = some_mixture(structure), rand(20, 2, seed=3)
    values = [v.clone().requires_grad_() for v in (model.weights, model.means, model.covariances)]
    make = functools.partial(GaussianMixture, *values, structure=structure)
    by_bound = torch.autograd.grad(make().bound(model.e_step(x)), values)
    by_log_prob = torch.autograd.grad(make().log_prob(x).sum(), values)
    for first, second in zip(by_bound, by_log_prob, strict=True):
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-10)


# The M-step -----------------------------------------------------------------------------------


@each_structure
@pytest.mark.parametrize("seed", range(3))
def test_m_step_ends_where_the_gradient_vanishes(structure, seed):
    x = clusters(60, 3, 2, seed)
    old = some_mixture(structure, seed=seed)
    q = old.posterior(x)
    new = old.m_step(old.e_step(x))
    values = [v.clone().requires_grad_() for v in (new.weights.log(), new.means, new.covariances)]
    logits, means, covariances = values
    elbo = GaussianMixture(logits.softmax(0), means, covariances, structure=structure).elbo(x, q)
    assert torch.allclose(elbo.sum(), new.bound(old.e_step(x, q)))
    for gradient in torch.autograd.grad(elbo.sum(), values):
        assert gradient.abs().max() < 1e-9 * len(x) * max(1, 1 / float(new.covariances.min().abs()))


@each_structure
@pytest.mark.parametrize("fractions", [(1e-3, 1e-3), (4.0, 0.9), (4.0, 2.4)])
def test_no_neighbour_of_the_m_step_is_better(structure, fractions):
    x = clusters(60, 3, 2)
    floor = torch.tensor(fractions).double() * x.var(0)
    old, q = some_mixture(structure), some_q(60, 3)
    statistics = old.e_step(x, q)
    new, free = old.m_step(statistics, floor), old.m_step(statistics)
    top = new.elbo(x, q).sum()
    assert torch.allclose(top, new.bound(statistics))
    if fractions[0] < 1:  # a floor that nothing touches changes nothing
        assert torch.equal(new.covariances, free.covariances)
    else:
        assert top < free.elbo(x, q).sum() - 1
    lowest = floor.mean().expand(2) if structure == "spherical" else floor
    for seed, size in itertools.product(range(10), (1e-3, 1e-1)):
        # Between two matrices above the floor there are only such matrices.
        a = rand(3, 2, 2, seed=seed)
        above = covariances_of(structure, 10 * a @ a.mT + torch.diag(lowest))
        if structure == "spherical":
            above = 10 * a[:, 0, 0].square() + lowest[0]
        near = (
            (new.weights.log() + size * rand(3, seed=seed)).softmax(0),
            new.means + size * rand(3, 2, seed=seed),
            (1 - size) * new.covariances + size * above,
        )
        for i in range(3):
            values = [new.weights, new.means, new.covariances]
            values[i] = near[i]
            assert GaussianMixture(*values, structure=structure).elbo(x, q).sum() < top


@each_structure
def test_the_floor_holds_in_every_direction(structure):
    x = rand(50, 1) @ rand(1, 3, seed=1)
    floor = torch.tensor([0.1, 0.2, 0.4]).double()
    old = some_mixture(structure, 2, 3)
    new = old.m_step(old.e_step(x), floor)
    if structure == "spherical":
        assert (new.covariances >= floor.mean()).all()
        return
    scaled = matrices_of(new) / floor.sqrt().outer(floor.sqrt())
    assert torch.linalg.eigvalsh(scaled).min() > 1 - 1e-12
    if structure in ("full", "tied"):
        # All of the data lie on a line, so two of three directions are at the floor exactly.
        assert torch.allclose(torch.linalg.eigvalsh(scaled)[:, :2], torch.ones(()).double())


@each_structure
@pytest.mark.parametrize("share", [0.0, 1e-18])
def test_a_component_without_observations_stays(structure, share):
    old, x = some_mixture(structure), rand(20, 2)
    q = torch.cat([some_q(20, 2).probs, torch.full((20, 1), share).double()], 1)
    statistics = old.e_step(x, Categorical(probs=q))
    new = old.m_step(statistics)
    assert torch.equal(new.means[2], old.means[2])
    if structure != "tied":
        assert torch.allclose(new.covariances[2], old.covariances[2], rtol=1e-14, atol=0)
    assert 0 < new.weights[2] < 2e-18
    assert new.log_prob(x).isfinite().all()
    assert new.bound(statistics) >= old.bound(statistics)
    # Without it the rest is the same.
    rest = GaussianMixture(
        old.weights[:2] / old.weights[:2].sum(),
        old.means[:2],
        old.covariances if structure == "tied" else old.covariances[:2],
        structure=structure,
    )
    rest = rest.m_step(rest.e_step(x, Categorical(probs=q[:, :2])))
    assert torch.allclose(new.means[:2], rest.means)
    assert torch.allclose(new.weights[:2], rest.weights)
    if structure != "tied":
        assert torch.allclose(new.covariances[:2], rest.covariances)
    else:
        assert torch.allclose(new.covariances, rest.covariances)


def test_statistics_of_another_model_are_refused():
    model, x = some_mixture(), rand(20, 2)
    twin = GaussianMixture(model.weights, model.means, model.covariances)
    with pytest.raises(ValueError, match="statistics must come from this model's own e_step"):
        model.m_step(twin.e_step(x))
    with pytest.raises(ValueError, match="statistics must come from one model to be added, got tw"):
        model.e_step(x) + twin.e_step(x)
    with pytest.raises(TypeError, match="other must be a MixtureStatistics, got int"):
        model.e_step(x) + 3
    assert torch.allclose(model.bound(twin.e_step(x)), model.log_prob(x).sum())
    for other, what in ((some_mixture("tied"), "tied"), (some_mixture(count=2), r"full and \(2")):
        message = rf"same structure, K and D, full and \(3, 2\), got {what}"
        with pytest.raises(ValueError, match=message):
            model.bound(other.e_step(x))
    for function in (model.m_step, model.bound):
        with pytest.raises(TypeError, match="statistics must be a MixtureStatistics, got Tensor"):
            function(x)


@pytest.mark.parametrize(
    ("floor", "error", "message"),
    [
        (torch.ones(3).double(), ValueError, r"floor must have shape \(2,\), got \(3,\)"),
        (torch.tensor([1.0, 0.0]).double(), ValueError, r"floor must be positive, got 0\.0"),
        (torch.ones(2), TypeError, "floor and parameters must have the same dtype"),
    ],
)
def test_m_step_refuses_a_wrong_floor(floor, error, message):
    model = some_mixture()
    with pytest.raises(error, match=message):
        model.m_step(model.e_step(rand(9, 2)), floor)


@each_structure
def test_a_collapse_is_an_error_and_a_floor_prevents_it(structure):
    model = some_mixture(structure, count=1)
    x = model.means.expand(4, 2)  # so that not even rounding leaves a variance
    with pytest.raises(
        ValueError, match=r"floor must be high enough, .* fell too far: covariances"
    ):
        model.m_step(model.e_step(x))
    held = model.m_step(model.e_step(x), torch.tensor([0.1, 0.1]).double())
    assert torch.allclose(matrices_of(held), 0.1 * torch.eye(2).double())


# EM -------------------------------------------------------------------------------------------


@each_structure
def test_the_bound_never_falls_and_never_exceeds_the_log_likelihood(structure):
    for seed in range(12):
        count, dim, n = 1 + seed % 5, 1 + seed % 3, 20 + 3 * seed
        x = clusters(n, count, dim, seed, apart=1.0 + seed % 4)
        floor = (1e-4 if seed % 2 else 0.3) * x.var(0)
        if seed % 6 == 0:
            x[:, -1] = x.sum(1)  # singular in more than one dimension
        model = some_mixture(structure, count + 1, dim, seed)
        # A start that the floor allows.
        low = covariances_of(structure, torch.diag(floor).expand(count + 1, dim, dim))
        covariances = model.covariances + (floor.mean() if structure == "spherical" else low)
        model = GaussianMixture(model.weights, model.means, covariances, structure=structure)
        last = -math.inf
        for _ in range(5):
            statistics = model.e_step(x)
            exact = model.log_prob(x).sum()
            touching = model.bound(statistics)
            assert abs(touching - exact) < 1e-10 * (n + abs(exact))
            assert touching > last - 1e-10 * (n + abs(exact))
            model = model.m_step(statistics, floor)
            last = model.bound(statistics)
            assert last > touching - 1e-10 * (n + abs(exact))
            assert last < model.log_prob(x).sum() + 1e-10 * (n + abs(exact))


@each_structure
@pytest.mark.parametrize("iterations", [1, 4])
def test_fit_agrees_with_scikit_learn_step_by_step(structure, iterations):
    x = clusters(300, 3, 4, apart=1.5)
    start = start_for(x, 3, structure)
    precisions = matrices_of(start).inverse()
    theirs = SklearnMixture(
        3,
        covariance_type=SKLEARN_NAMES[structure],
        tol=0,
        reg_covar=0,
        max_iter=iterations,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=covariances_of(structure, precisions).numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())
    ours, history = GaussianMixture.fit(
        x, 3, structure=structure, start=start, floor=0, tolerance=0, max_iterations=iterations
    )
    assert history.iterations == iterations
    assert np.allclose(ours.weights, theirs.weights_, rtol=1e-10, atol=0)
    assert np.allclose(ours.means, theirs.means_, rtol=1e-10, atol=0)
    assert np.allclose(ours.covariances, theirs.covariances_, rtol=1e-10, atol=1e-12)
    assert np.allclose(ours.log_prob(x), theirs.score_samples(x.numpy()))
    assert ours.num_parameters == theirs._n_parameters()
    assert float(history.after_e_step[-1]) == pytest.approx(float(ours.log_prob(x).sum()))


def test_old_faithful_ends_at_the_published_numbers():
    x = old_faithful()
    one = GaussianMixture.fit(x, 1, generator=seeded()).model
    assert float(one.log_prob(x).sum()) == pytest.approx(-1289.7967, abs=6e-5)
    two, history = GaussianMixture.fit(x, 2, generator=seeded(), tolerance=1e-9)
    assert history.converged
    assert float(history.after_e_step[-1]) == pytest.approx(-1130.2640, abs=6e-5)
    assert float(two.log_prob(x).sum()) == pytest.approx(-1130.2640, abs=6e-5)
    assert two.num_parameters == 11
    assert float(two.bic(x)) == pytest.approx(2322.192, abs=6e-4)


ROTATION = torch.linalg.qr(rand(2, 2, seed=3)).Q
COLUMNS = torch.diag(torch.tensor([1e-8, 1e8]).double())
MOVES = [
    ("shift", torch.eye(2).double(), 1e6, STRUCTURES),
    ("rotation", ROTATION, 0.0, ["full", "tied", "spherical"]),
    ("columns", COLUMNS, 0.0, ["full", "tied", "diagonal"]),
    ("any map", rand(2, 2, seed=4), 3.0, ["full", "tied"]),
]


@pytest.mark.parametrize(
    ("move", "shift", "structure"),
    [
        pytest.param(move, shift, structure, id=f"{name}-{structure}")
        for name, move, shift, structures in MOVES
        for structure in structures
    ],
)
def test_the_fit_moves_with_the_data(move, shift, structure):
    x = clusters(200, 3, 2, apart=2.0)
    start = start_for(x, 3, structure)

    def moved(model):
        matrices = move.mT @ matrices_of(model) @ move
        return GaussianMixture(
            model.weights,
            model.means @ move + shift,
            covariances_of(structure, (matrices + matrices.mT) / 2),
            structure=structure,
        )

    options = {"structure": structure, "floor": 0.0, "max_iterations": 8}
    model, history = GaussianMixture.fit(x, 3, start=start, **options)
    again = GaussianMixture.fit(x @ move + shift, 3, start=moved(start), **options)
    log_det = move.det().abs().log()
    assert torch.allclose(again.history.half_steps + 200 * log_det, history.half_steps, atol=1e-4)
    expected = moved(model)
    unit = matrices_of(expected).diagonal(dim1=1, dim2=2).sqrt()
    assert torch.allclose(again.model.means / unit, expected.means / unit, atol=1e-6, rtol=1e-12)
    units = unit.unsqueeze(-1) * unit.unsqueeze(-2)
    assert torch.allclose(
        matrices_of(again.model) / units, matrices_of(expected) / units, atol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@each_structure
def test_random_starts_and_the_floor_follow_the_units(structure, scale):
    x = clusters(150, 3, 3, apart=2.0)
    scales = torch.full((3,), scale).double()
    if structure != "spherical":
        scales = scales * torch.tensor([1.0, 1e3, 1e-3]).double()
    x[:, 1] = x[:, 0]  # so that the floor matters
    options = {"structure": structure, "restarts": 2, "max_iterations": 5}
    model, history = GaussianMixture.fit(x, 3, generator=seeded(), **options)
    again = GaussianMixture.fit(x * scales + 5 * scales, 3, generator=seeded(), **options)
    shift = 150 * scales.log().sum()
    assert torch.allclose(again.history.restarts + shift, history.restarts, atol=1e-3)
    assert torch.allclose(again.model.means, model.means * scales + 5 * scales)


@each_structure
def test_a_streamed_fit_is_the_fit_in_memory(structure):
    x = clusters(157, 3, 2, apart=3.0)
    options = {"structure": structure, "restarts": 2, "max_iterations": 5}
    for beginning in ({"start": start_for(x, 3, structure)}, {}):
        model, history = GaussianMixture.fit(x, 3, generator=seeded(), **beginning, **options)
        for sizes in ([1, 156], [50, 50, 57]):
            batches = list(x.split(sizes))
            streamed = GaussianMixture.fit(batches, 3, generator=seeded(), **beginning, **options)
            assert_same(streamed.model, model)
            assert torch.allclose(streamed.history.half_steps, history.half_steps)
            if history.restarts is not None:
                assert torch.allclose(streamed.history.restarts, history.restarts)


def test_only_the_batch_in_use_and_the_next_are_in_memory():
    alive = []

    class Source:
        def __iter__(self):
            for seed in range(6):
                assert sum(reference() is not None for reference in alive) <= 1
                batch = clusters(50, 2, 2, seed=seed).float()
                alive.append(weakref.ref(batch))
                yield batch
                del batch

    options = {"restarts": 1, "max_iterations": 3, "generator": seeded()}
    assert GaussianMixture.fit(Source(), 2, **options).model.means.dtype == torch.float32
    assert len(alive) > 6


def test_the_best_restart_wins_and_seeds_reproduce():
    x = clusters(120, 5, 2, apart=4.0)
    before = torch.get_rng_state()

    def fit(seed, restarts):
        return GaussianMixture.fit(
            x, 5, generator=seeded(seed), restarts=restarts, max_iterations=8
        )

    one, many, again, other = fit(3, 1), fit(3, 4), fit(3, 4), fit(4, 2)
    assert torch.equal(torch.get_rng_state(), before)
    ends = many.history.restarts
    assert ends.shape == (4,)
    assert len(ends.unique()) > 1
    assert ends[0] == one.history.after_e_step[-1]
    assert many.history.after_e_step[-1] == ends.max()
    assert float(many.model.log_prob(x).sum()) == pytest.approx(float(ends.max()))
    assert torch.equal(again.history.restarts, ends)
    assert torch.equal(again.model.covariances, many.model.covariances)
    assert not torch.equal(other.history.restarts, ends[:2])


@each_structure
def test_a_random_start_has_the_clusters_of_well_separated_data(structure):
    x = torch.cat([rand(30, 2), rand(60, 2, seed=1) + 50, rand(10, 2, seed=2) - 50])
    model, history = GaussianMixture.fit(x, 3, structure=structure, generator=seeded(), restarts=1)
    order = model.means[:, 0].argsort()
    assert torch.allclose(model.weights[order], torch.tensor([0.1, 0.3, 0.6]).double())
    assert torch.allclose(model.means[order[1]], x[:30].mean(0))
    assert history.iterations <= 2
    # The start is already there, but for the differences between the covariances.
    assert history.after_e_step[0] > history.after_e_step[-1] - 15


def test_a_fit_stops_where_it_is_told_to():
    x, start = old_faithful(), start_for(old_faithful(), 2, "full")
    rough, fine = (
        GaussianMixture.fit(x, 2, start=start, tolerance=t).history for t in (1e-2, 1e-9)
    )
    assert rough.converged
    assert rough.iterations < fine.iterations
    gains = fine.after_e_step.diff() / len(x)
    assert (gains[:-1] > 1e-9).all()
    assert gains[-1] <= 1e-9


def test_a_start_below_the_floor_is_raised_to_it():
    x = rand(100, 2)
    start = GaussianMixture(
        torch.ones(1).double(), x[:1], torch.diag(torch.tensor([1e-9, 1.0])).double().unsqueeze(0)
    )
    history = GaussianMixture.fit(x, 1, start=start, floor=0.1).history
    lifted = torch.diag(torch.stack([0.1 * x[:, 0].var(correction=0), torch.ones(()).double()]))
    expected = GaussianMixture(start.weights, start.means, lifted.unsqueeze(0)).log_prob(x).sum()
    assert torch.allclose(history.after_e_step[0], expected)
    unchanged = GaussianMixture.fit(x, 1, start=start, floor=0.0).history
    assert torch.allclose(unchanged.after_e_step[0], start.log_prob(x).sum())


# Degenerate data ------------------------------------------------------------------------------

FAITHFUL = old_faithful()
ODD_DATA = {
    "duplicates": (FAITHFUL[:5].repeat(20, 1), 3),
    "as many components as distinct rows": (FAITHFUL[:5].repeat(20, 1), 5),
    "two rows": (FAITHFUL[:2], 1),
    "one dimension": (FAITHFUL[:, :1], 2),
    "a plane": (rand(80, 2) @ rand(2, 5, seed=1), 2),
    "fewer rows than dimensions": (rand(5, 8), 2),
    "columns of all sizes": (FAITHFUL * torch.tensor([1e-8, 1e8]).double(), 2),
    "far from the origin": (FAITHFUL + 1e9, 2),
    "an outlier": (torch.cat([FAITHFUL, torch.full((1, 2), 1e7).double()]), 3),
    "a plane in single precision": ((rand(80, 2) @ rand(2, 5, seed=1)).float(), 2),
    "far in single precision": (FAITHFUL.float() + 1e4, 2),
}


@each_structure
@pytest.mark.parametrize("name", ODD_DATA)
def test_degenerate_data_end_in_numbers(name, structure):
    x, count = ODD_DATA[name]
    model, history = GaussianMixture.fit(
        x, count, structure=structure, generator=seeded(), restarts=1
    )
    assert history.converged
    for value in (model.weights, model.means, model.covariances):
        assert value.dtype == x.dtype
        assert value.isfinite().all()
    assert model.posterior(x).probs.isfinite().all()
    steps = history.half_steps
    # Rounding, times the condition number that the floor allows.
    assert (steps.diff() > -1e-9 * (len(x) + steps[-1].abs())).all()
    if x.dtype == torch.float64:
        assert float(model.log_prob(x).sum()) == pytest.approx(float(steps[-1]), rel=1e-9)


def test_far_and_single_precision_data_end_where_the_others_do():
    expected = -1130.2640
    for x, within in [
        (FAITHFUL, 1e-4),
        (FAITHFUL + 1e9, 1e-3),
        (FAITHFUL.float(), 2e-3),
        (FAITHFUL.float() + 1e4, 0.05),
    ]:
        history = GaussianMixture.fit(x, 2, generator=seeded(), restarts=1, tolerance=1e-8).history
        assert float(history.after_e_step[-1]) == pytest.approx(expected, abs=within)


@each_structure
def test_single_precision_holds_what_was_found_in_double(structure):
    # Forty columns that follow from two, but for a constant one.
    x = clusters(60, 2, 2) @ rand(2, 40, seed=1)
    x[:, 0] = 7.0
    options = {"structure": structure, "restarts": 1, "floor": 1e-9, "max_iterations": 5}
    fits = [
        GaussianMixture.fit(x.to(dtype), 2, generator=seeded(), **options)
        for dtype in (torch.float32, torch.float64)
    ]
    single, double = (fit.model.covariances.double() for fit in fits)
    assert torch.allclose(single, double, rtol=1e-4, atol=1e-4 * float(double.max()))
    assert torch.isfinite(fits[0].model.log_prob(x.float())).all()


@pytest.mark.parametrize(
    ("x", "count", "message"),
    [
        (FAITHFUL[:1], 1, "x must vary in at least one column, .* got a single row near"),
        (FAITHFUL[:3], 4, "x must hold at least 4 distinct observations, got 3"),
        (FAITHFUL[:1].repeat(9, 1), 1, r"x must vary in .* 9 rows that are all near \(3.6, 79\)"),
        (1e200 * FAITHFUL, 2, "x must have a finite variance in every column"),
        (
            torch.tensor([[0.0], [1e160], [-1e160]], dtype=torch.float64),
            2,
            "x must have a finite variance in every column, .* deviation inf about",
        ),
        (
            1e-200 * FAITHFUL,
            2,
            "x must vary in at least one column, .* a variance that does not vanish",
        ),
    ],
)
def test_data_without_an_answer_are_refused(x, count, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture.fit(x, count, generator=seeded())


@each_structure
@pytest.mark.parametrize(("scale", "variance"), [(1e30, "e\\+60"), (1e-25, "e-50")])
def test_a_variance_beyond_single_precision_is_refused(structure, scale, variance):
    x = (scale * FAITHFUL.double()).float()
    message = rf"x must have a variance within the range of torch\.float32, got .*{variance}$"
    for data in (x, list(x.split(100))):
        with pytest.raises(ValueError, match=message):
            GaussianMixture.fit(data, 2, structure=structure, generator=seeded())


@each_structure
def test_a_variance_of_a_component_beyond_single_precision_is_refused(structure):
    x = torch.cat([1e-18 * rand(40, 2), 9e-18 + 1e-23 * rand(40, 2, seed=5)])
    start = GaussianMixture(
        torch.full((2,), 0.5),
        torch.tensor([[0.0, 0.0], [9e-18, 9e-18]]),
        covariances_of(structure, 1e-35 * torch.eye(2).expand(2, 2, 2)).clone(),
        structure=structure,
    )
    options = {"structure": structure, "start": start, "floor": 1e-12, "max_iterations": 30}
    if structure == "tied":  # one matrix for both, and the wider one decides
        model = GaussianMixture.fit(x.float(), 2, **options).model
        assert model.covariances.diagonal().min() > 1e-37
        return
    message = r"x must have a variance within the range of torch\.float32, got [\d.]+e-4\d$"
    with pytest.raises(ValueError, match=message):
        GaussianMixture.fit(x.float(), 2, **options)


@each_structure
def test_a_floor_that_is_next_to_nothing(structure):
    options = {"structure": structure, "generator": seeded(), "restarts": 1, "max_iterations": 3}
    if structure in ("full", "tied"):
        message = r"floor must be high enough .* to be finite, got \d\.\d+e-310"
        with pytest.raises(ValueError, match=message):
            GaussianMixture.fit(FAITHFUL, 2, floor=1e-310, **options)
    else:
        tiny = GaussianMixture.fit(FAITHFUL, 2, floor=1e-310, **options)
        none = GaussianMixture.fit(FAITHFUL, 2, floor=0.0, **options | {"generator": seeded()})
        assert torch.equal(tiny.model.covariances, none.model.covariances)


@each_structure
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(structure, dtype):
    weights, means = torch.full((3,), 1 / 3), torch.zeros(3, 2)
    covariances = torch.tensor(GOOD[structure])
    got = f"must have dtype torch.float32 or torch.float64, got {dtype}"
    with pytest.raises(TypeError, match=f"^means {got}"):
        GaussianMixture(*(v.to(dtype) for v in (weights, means, covariances)), structure=structure)
    with pytest.raises(TypeError, match=r"^covariances must have dtype|^weights and covariances"):
        GaussianMixture(weights, means, covariances.to(dtype), structure=structure)
    x = (FAITHFUL / 100).to(dtype)
    with pytest.raises(TypeError, match=f"^x {got}"):
        GaussianMixture.fit(x, 2, structure=structure, generator=seeded())
    with pytest.raises(TypeError, match=f"^every batch of x {got}"):
        GaussianMixture.fit([x], 2, structure=structure, generator=seeded())


def test_an_e_step_too_far_away_is_refused():
    model = some_mixture()
    x = torch.tensor([[1.7e308, -1.7e308]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be small enough .* elements up to 1\.7e\+308"):
        model.e_step(x)


# Arguments ------------------------------------------------------------------------------------


@each_structure
def test_single_precision_is_kept(structure):
    short = torch.float32
    exact, model = some_mixture(structure), some_mixture(structure, dtype=short)
    x = rand(40, 2, seed=3)
    statistics, expected = model.e_step(x.to(short)), exact.e_step(x)
    for name in ("entropy", "sizes", "shifts", "scatter"):
        value = getattr(statistics, name)
        assert value.dtype == torch.float64
        assert torch.allclose(value, getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert model.bound(statistics).dtype == torch.float64
    new = model.m_step(statistics, torch.full((2,), 1e-3, dtype=short))
    assert new.means.dtype == new.weights.dtype == new.covariances.dtype == short
    assert_same(new, model.m_step(statistics), rtol=1e-6)
    assert model.elbo(x.to(short), model.posterior(x.to(short))).dtype == short
    assert model.sample(3, generator=seeded())[0].dtype == short
    options = {"structure": structure, "max_iterations": 10}
    fitted = GaussianMixture.fit(x.to(short), 3, start=model, **options).model
    assert fitted.covariances.dtype == short
    reference = GaussianMixture.fit(x, 3, start=exact, **options).model
    assert torch.allclose(fitted.means.double(), reference.means, atol=1e-3)


GOOD = {
    "full": [[[1.0, 0.0], [0.0, 1.0]]] * 3,
    "tied": [[1.0, 0.0], [0.0, 1.0]],
    "diagonal": [[1.0, 1.0]] * 3,
    "spherical": [1.0, 1.0, 1.0],
}


@pytest.mark.parametrize(
    ("structure", "covariances", "message"),
    [
        *(
            (structure, values, rf"covariances must have shape {shape}")
            for structure, shape in [
                ("full", r"\(3, 2, 2\)"),
                ("tied", r"\(2, 2\)"),
                ("diagonal", r"\(3, 2\)"),
                ("spherical", r"\(3,\)"),
            ]
            for other, values in GOOD.items()
            if other != structure
        ),
        ("full", [[[1.0, 0.5], [0.0, 1.0]]] * 3, r"covariances\[0\] must be symmetric, got \[\["),
        (
            "full",
            [*GOOD["full"][:2], [[1.0, 2.0], [2.0, 1.0]]],
            r"covariances\[2\] must be positive definite, got the eigenvalue -1",
        ),
        ("tied", [[0.0, 0.0], [0.0, 1.0]], "covariances must be positive definite, got the eig"),
        ("diagonal", [[1.0, 0.0]] * 3, r"covariances must be positive, got 0\.0"),
        ("spherical", [1.0, math.inf, 1.0], "covariances must be finite"),
        ("round", GOOD["full"], "structure must be one of full, tied, diagonal, spherical"),
    ],
)
def test_wrong_covariances_are_refused(structure, covariances, message):
    weights, means = torch.full((3,), 1 / 3), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, torch.tensor(covariances), structure=structure)


@each_structure
def test_parameters_have_one_dtype(structure):
    weights, means = torch.full((3,), 1 / 3).double(), torch.zeros(3, 2).double()
    with pytest.raises(TypeError, match="weights and covariances must have the same dtype"):
        GaussianMixture(weights, means, torch.tensor(GOOD[structure]), structure=structure)
    with pytest.raises(TypeError, match="covariances must be a floating-point tensor"):
        GaussianMixture(weights, means, torch.tensor(GOOD[structure]).int(), structure=structure)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x must be a torch.Tensor or an iterable of them"),
        ({"x": torch.tensor([[math.nan, 1.0]])}, ValueError, "x must be finite, got 1 NaN"),
        ({"num_components": 0}, ValueError, "num_components must be at least 1, got 0"),
        ({"structure": "diag"}, ValueError, "structure must be one of full, .* got 'diag'"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
        ({"floor": -1e-3}, ValueError, r"floor must be at least 0, got -0\.001"),
        ({"tolerance": -1}, ValueError, "tolerance must be at least 0, got -1"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1, got 0"),
        ({"missing": 1}, TypeError, "missing must be True or False, got int"),
        ({"weights": 1}, TypeError, "weights must be a torch.Tensor, got int"),
        ({"generator": 0}, TypeError, r"generator must be a torch\.Generator, got int"),
        ({"progress": "yes"}, TypeError, "progress must be True or False, got str"),
        ({"start": 1}, TypeError, "start must be a GaussianMixture, got int"),
        (
            {"start": some_mixture("tied", 2)},
            ValueError,
            "start must have structure full, K = 2 and D = 2, got tied, 2 and 2",
        ),
        (
            {"start": some_mixture(count=2, dtype=torch.float32)},
            TypeError,
            "x and start must have the same dtype, got torch.float64 and torch.float32",
        ),
    ],
)
def test_fit_refuses_bad_arguments(change, error, message):
    good = {"x": FAITHFUL, "num_components": 2, "generator": seeded()}
    with pytest.raises(error, match=message):
        GaussianMixture.fit(**(good | change))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4).double(), ValueError, r"x must have shape \(n, 2\), got \(3, 4\)"),
        (torch.full((3, 2), math.nan).double(), ValueError, "x must be finite"),
        (torch.zeros(3, 2), TypeError, "x and parameters must have the same dtype"),
    ],
)
def test_e_step_refuses_bad_observations(x, error, message):
    with pytest.raises(error, match=message):
        some_mixture().e_step(x)


@pytest.mark.parametrize("floor", [None, torch.full((2,), 1e-3, dtype=torch.float64)])
def test_m_step_from_a_distant_start_returns_symmetric_matrices(floor):
    """A component that moves far, in its own white coordinates, rounds its matrix unevenly."""
    for seed in range(100):
        factors = 0.5 * rand(2, 3, 2, 2, seed=seed)
        matrices = factors @ factors.mT + 0.5 * torch.eye(2, dtype=torch.float64)
        weights = (0.5 * rand(2, 3, seed=seed + 1000)).softmax(1)
        means = 2 * rand(2, 3, 2, seed=seed + 2000)
        truth, start = (GaussianMixture(*v) for v in zip(weights, means, matrices, strict=True))
        x = truth.sample(60, generator=seeded(seed))[0]
        fitted = start.m_step(start.e_step(x), floor=floor)
        assert torch.equal(fitted.covariances, fitted.covariances.mT)


def test_a_variance_that_is_rounding_counts_as_collapsed():
    """Without a floor, a component on eruptions with one and the same wait loses all variance."""
    x = old_faithful()
    overall = x.T.cov(correction=0)
    pair = GaussianMixture.fit(x, 2, generator=seeded()).model
    start = GaussianMixture(
        torch.cat([0.97 * pair.weights, torch.tensor([0.03], dtype=torch.float64)]),
        torch.cat([pair.means, x[126:127]]),
        torch.cat([pair.covariances, 3e-3 * overall[None]]),
    )
    with pytest.raises(ValueError, match="the variance of a component fell"):
        GaussianMixture.fit(x, 3, start=start, floor=0.0)
    held = GaussianMixture.fit(x, 3, start=start)
    assert held.history.converged


# Digits ------------------------------------------------------------------------------------


@each_structure
@pytest.mark.parametrize("apart", [1e2, 1e6])
def test_components_far_apart_keep_their_digits_in_single_precision(structure, apart):
    matrices = torch.tensor([[[2.0, 0.5], [0.5, 1.0]]]).expand(2, 2, 2)
    means = torch.tensor([[0.0, 0.0], [apart, -apart]])
    covariances = covariances_of(structure, matrices)
    model = GaussianMixture(torch.tensor([0.5, 0.5]), means, covariances, structure=structure)
    x = means + torch.tensor([1.0, -0.5])  # an offset that float32 has beside the larger mean
    exact = GaussianMixture(
        model.weights.double(), means.double(), covariances.double(), structure=structure
    )
    assert torch.allclose(model.log_prob(x).double(), exact.log_prob(x.double()), atol=2e-4)


# Weights of observations -------------------------------------------------------------------


@each_structure
def test_a_weight_of_two_is_the_observation_twice(structure):
    """A fit with weights from 0 to 3 is that of each observation as often as its weight says."""
    x, weights = clusters(60, 3, 2), torch.arange(60).remainder(4).double()
    repeated = x.repeat_interleave(weights.long(), dim=0)
    start = start_for(x, 3, structure)
    one, other = start.e_step(x, weights=weights), start.e_step(repeated)
    assert one.count == other.count
    for name in ("entropy", "sizes", "shifts", "scatter"):
        assert torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-10, atol=1e-10)
    options = {"structure": structure, "start": start, "tolerance": 0.0, "max_iterations": 5}
    fit = GaussianMixture.fit(repeated, 3, **options)
    streamed = list(x.split(25)), list(weights.split(25))
    for data, given in ((x, weights), streamed):
        same = GaussianMixture.fit(data, 3, weights=given, **options)
        assert_same(same.model, fit.model, rtol=1e-6, atol=1e-8)
        assert torch.allclose(same.history.half_steps, fit.history.half_steps, rtol=1e-9)


def test_a_weight_of_zero_is_no_observation_at_all():
    """Not even as a start: far away it would draw a component to itself."""
    x = clusters(60, 2, 2)
    far = torch.cat([x, torch.full((1, 2), 1e6).double()])
    weights = torch.cat([torch.ones(60), torch.zeros(1)]).double()
    options = {"weights": weights, "restarts": 1, "max_iterations": 3}
    for seed in range(5):
        one = GaussianMixture.fit(far, 2, generator=seeded(seed), **options).model
        assert one.means.abs().max() < 100
        assert one.log_prob(x).sum() > -1000


@pytest.mark.parametrize(
    ("x", "weights", "error", "message"),
    [
        (FAITHFUL, torch.ones(3).double(), ValueError, r"weights must have shape \(272,\)"),
        (FAITHFUL, torch.ones(272), TypeError, "x and weights must have the same dtype"),
        (FAITHFUL, -torch.ones(272).double(), ValueError, "weights must not be negative, got -1"),
        ([FAITHFUL], torch.ones(272).double(), TypeError, "weights must be an iterable of the"),
        ([FAITHFUL], [], ValueError, "weights must hold as many batches as x, got fewer"),
        ([FAITHFUL], [torch.ones(272).double()] * 2, ValueError, "as many batches .* got more"),
        ([FAITHFUL], (w for w in ()), TypeError, "weights must be an iterable that starts anew"),
    ],
)
def test_wrong_weights_are_refused(x, weights, error, message):
    with pytest.raises(error, match=message):
        GaussianMixture.fit(x, 2, weights=weights, generator=seeded())


# Missing entries ---------------------------------------------------------------------------


def with_holes(x, seed=0):
    """The data with a fifth of the entries missing, and all of those of one observation."""
    x = x.masked_fill(torch.rand(x.shape, generator=seeded(seed)) < 0.2, math.nan)
    x[5] = math.nan
    return x


@each_structure
def test_the_evidence_of_a_part_is_the_marginal_density(structure):
    model = some_mixture(structure, dim=3)
    x = with_holes(clusters(30, 3, 3))
    found = model.component_log_prob(x, missing=True)
    for row, values in zip(x, found, strict=True):
        there = ~row.isnan()
        for k, matrix in enumerate(matrices_of(model)):
            part = matrix[there][:, there].numpy()
            expected = (
                stats.multivariate_normal(model.means[k, there].numpy(), part).logpdf(row[there])
                if there.any()
                else 0.0
            )
            assert float(values[k]) == pytest.approx(float(expected), abs=1e-10)
    mixed = (model.weights.log() + found).logsumexp(-1)
    assert torch.allclose(model.log_prob(x, missing=True), mixed)
    posterior = model.posterior(x, missing=True)
    assert torch.allclose(posterior.probs[5], model.weights)
    assert torch.allclose(model.elbo(x, posterior, missing=True), mixed)
    with pytest.raises(ValueError, match="x must be finite"):
        model.log_prob(x)


@each_structure
def test_bound_with_missing_entries_touches_the_evidence_and_em_never_lowers_it(structure):
    x, model = with_holes(clusters(60, 3, 3)), some_mixture(structure, dim=3)
    for _ in range(6):
        evidence = float(model.log_prob(x, missing=True).sum())
        statistics = model.e_step(x, missing=True)
        assert float(model.bound(statistics)) == pytest.approx(evidence, rel=1e-10)
        model = model.m_step(statistics)
        raised = float(model.bound(statistics))
        assert evidence <= raised + 1e-9 * abs(evidence)
        assert raised <= float(model.log_prob(x, missing=True).sum()) + 1e-9 * abs(evidence)


@each_structure
def test_a_fit_with_missing_entries_is_a_stationary_point(structure):
    x = with_holes(clusters(60, 2, 2))
    options = {"structure": structure, "missing": True}
    fit = GaussianMixture.fit(
        x, 2, restarts=1, tolerance=1e-10, max_iterations=300, generator=seeded(), **options
    )
    means = fit.model.means.clone().requires_grad_()
    model = GaussianMixture(fit.model.weights, means, fit.model.covariances, structure=structure)
    evidence = model.log_prob(x, missing=True).sum()
    assert evidence.item() == pytest.approx(fit.history.after_e_step[-1].item(), rel=1e-10)
    (slope,) = torch.autograd.grad(evidence, means)
    assert (slope.abs() < 1e-2).all()
    again = GaussianMixture.fit(list(x.split(25)), 2, start=fit.model, **options)
    assert_same(again.model, fit.model, rtol=1e-4, atol=1e-4)


@each_structure
def test_nothing_missing_changes_nothing(structure):
    x = clusters(50, 3, 2)
    options = {"structure": structure, "start": start_for(x, 3, structure), "max_iterations": 3}
    one = GaussianMixture.fit(x, 3, **options)
    other = GaussianMixture.fit(x, 3, missing=True, **options)
    assert_same(one.model, other.model)


def test_a_column_without_entries_is_refused():
    x = FAITHFUL.clone()
    x[:, 1] = math.nan
    with pytest.raises(ValueError, match="x must have an entry in every column, got none in col"):
        GaussianMixture.fit(x, 2, missing=True, generator=seeded())


@each_structure
def test_all_patterns_of_gaps_are_factored_together(structure, monkeypatch):
    calls, qr = [], torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda matrices: calls.append(1) or qr(matrices))
    x = clusters(30, 3, 3).repeat(2, 1)
    model, counts = some_mixture(structure, dim=3), []
    for patterns in ([[1, 0, 0]], [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]]):
        gaps = torch.tensor(patterns, dtype=torch.bool).repeat(len(x), 1)[: len(x)]
        calls.clear()
        model.e_step(x.masked_fill(gaps, math.nan), missing=True)
        counts.append(len(calls))
    assert counts == [1, 1]


def test_a_matrix_that_single_precision_just_holds_has_marginals():
    for seed in range(19, 59):
        a = torch.randn(5, 5, generator=seeded(seed))
        a[:, 2], a[:, 4] = a[:, 3] - 1e-3 * a[:, 2], a[:, 3] + 1e-3 * a[:, 4]
        if not torch.linalg.cholesky_ex(a.mT @ a).info:
            break
    model = GaussianMixture(torch.ones(1), torch.zeros(1, 5), (a.mT @ a).unsqueeze(0))
    x = torch.tensor([[math.nan, 1.0, 1.0, 1.0, 1.0]])
    assert torch.isfinite(model.log_prob(x, missing=True)).all()
    assert torch.isfinite(model.e_step(x, missing=True).entropy)


@each_structure
def test_gradients_of_a_marginal_agree_with_finite_differences(structure):
    model, x = some_mixture(structure, dim=3), with_holes(clusters(8, 3, 3))

    def evidence(means, covariances):
        if structure in ("full", "tied"):
            covariances = (covariances + covariances.mT) / 2
        mixture = GaussianMixture(model.weights, means, covariances, structure=structure)
        return mixture.log_prob(x, missing=True)

    parameters = [v.clone().requires_grad_() for v in (model.means, model.covariances)]
    assert torch.autograd.gradcheck(evidence, parameters)


# Constant columns, criteria, warnings ------------------------------------------------------


@each_structure
@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3])
def test_a_constant_column_ends_at_the_floor_and_changes_nothing_else(structure, value):
    x = clusters(80, 2, 2)
    wide = torch.cat([x, torch.full((80, 1), value, dtype=torch.float64)], 1)
    options = {"structure": structure, "restarts": 1}
    model, history = GaussianMixture.fit(wide, 2, generator=seeded(), **options)
    assert history.converged
    assert torch.allclose(model.means[:, 2], number(value), rtol=1e-12)
    if structure == "spherical":
        return  # the one variance counts the column as a direction
    without = GaussianMixture.fit(x, 2, generator=seeded(), **options).model
    assert torch.allclose(model.means[:, :2], without.means, rtol=1e-3, atol=1e-3)
    expected = 1e-6 * x.var(0, correction=0).mean()
    if value < 1:
        assert torch.allclose(matrices_of(model)[:, 2, 2], expected, rtol=1e-6)


@each_structure
def test_criteria_are_scikit_learns(structure):
    x, model = clusters(100, 2, 3), some_mixture(structure, count=2, dim=3)
    other = SklearnMixture(2, covariance_type=SKLEARN_NAMES[structure])
    other.weights_, other.means_ = model.weights.numpy(), model.means.numpy()
    factors = torch.linalg.inv(torch.linalg.cholesky(matrices_of(model))).mT
    other.precisions_cholesky_ = covariances_of(structure, factors).numpy()
    assert float(model.bic(x)) == pytest.approx(other.bic(x.numpy()), rel=1e-10)
    assert float(model.aic(x)) == pytest.approx(other.aic(x.numpy()), rel=1e-10)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\)"):
        model.bic(x[0])


@pytest.mark.parametrize(
    "model",
    [
        some_mixture("full", dim=3),
        KMeans(rand(2, 3), number(2.0)),
        PPCA(rand(3, 1), rand(3), number(0.5)),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_criteria_count_a_weight_of_two_as_the_observation_twice(model, criterion):
    x, weights = with_holes(clusters(30, 2, 3)), torch.arange(30).remainder(3).double()
    found = getattr(model, criterion)(x, weights=weights, missing=True)
    expected = getattr(model, criterion)(x.repeat_interleave(weights.long(), 0), missing=True)
    assert torch.allclose(found, expected, rtol=1e-12)


@each_structure
def test_a_component_on_a_single_point_is_worth_a_warning_and_proper_clusters_are_not(
    structure, recwarn
):
    options = {"structure": structure, "restarts": 1}
    GaussianMixture.fit(clusters(60, 2, 2), 2, generator=seeded(), **options)
    assert not recwarn.list
    if structure == "tied":
        return  # one matrix for both, and the wider one decides
    x = torch.cat([clusters(60, 1, 2), torch.tensor([[30.0, -30.0]]).double()])
    with pytest.warns(UserWarning, match="variances of these components are at the floor: [01]"):
        GaussianMixture.fit(x, 2, generator=seeded(), **options)


def test_a_component_on_two_points_is_worth_a_warning_and_a_column_that_follows_is_not(recwarn):
    x = clusters(60, 1, 2)
    GaussianMixture.fit(torch.cat([x, x[:, :1]], dim=1), 1, generator=seeded())
    assert not recwarn.list
    x = torch.cat([x, number([[30.0, -30.0], [32.0, -29.0]])])
    with pytest.warns(UserWarning, match="variances of these components are at the floor: [01]"):
        GaussianMixture.fit(x, 2, restarts=1, generator=seeded())


def test_a_model_shows_its_sizes():
    assert repr(some_mixture("tied")) == "GaussianMixture(K=3, D=2, structure='tied')"
    assert repr(KMeans(rand(4, 3), number(1.0))) == "KMeans(K=4, D=3)"
    assert repr(PPCA(rand(3, 2), rand(3), number(1.0))) == "PPCA(D=3, d=2)"


# Devices -----------------------------------------------------------------------------------


@each_structure
def test_all_tensors_are_made_where_the_data_are(structure):
    """Whoever sets another default device finds none of the fit there."""
    x = with_holes(clusters(60, 3, 3))
    options = {"structure": structure, "restarts": 1, "max_iterations": 2}
    with torch.device("meta"):
        fit = GaussianMixture.fit(x, 3, missing=True, **options)
        model = GaussianMixture.fit(x.nan_to_num(), 3, generator=seeded(), **options).model
        drawn, z = fit.model.sample(4, generator=seeded())
        log_prob = fit.model.log_prob(x, missing=True)
    for tensor in (fit.model.means, model.covariances, drawn, z, log_prob):
        assert tensor.device.type == "cpu"
    assert log_prob.isfinite().all()


def test_without_a_generator_torchs_own_decides():
    model = some_mixture()
    torch.manual_seed(3)
    first = model.sample(5)[0]
    fit = GaussianMixture.fit(FAITHFUL, 2, restarts=1).model
    torch.manual_seed(3)
    assert torch.equal(model.sample(5)[0], first)
    assert torch.equal(GaussianMixture.fit(FAITHFUL, 2, restarts=1).model.means, fit.means)
