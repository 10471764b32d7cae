"""Probabilistic PCA fitted: bounds, maxima, missing entries, streams, stochastic-gradient EM."""

import functools
import math
import weakref

import numpy as np
import pytest
import torch
from draws import rand, seeded
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from nfbook.data import digits
from nfbook.fitting import robbins_monro
from nfbook.latent import PPCA
from nfbook.latent.ppca import stochastic_em as stochastic

NAN = math.nan


def some_ppca(dim=5, latent_dim=2, seed=0):
    noise = 0.2 + torch.rand((), generator=seeded(seed + 7), dtype=torch.float64)
    return PPCA(rand(dim, latent_dim, seed=seed), rand(dim, seed=seed + 1), noise)


def some_data(n=60, dim=5, latent_dim=2, seed=0, noise=0.3):
    """Points near a plane, away from the origin."""
    signal = rand(n, latent_dim, seed=seed) @ rand(latent_dim, dim, seed=seed + 1)
    return signal + noise * rand(n, dim, seed=seed + 2) + rand(dim, seed=seed + 3)


def with_holes(x, share=0.25, seed=0):
    """The data with entries missing at random, but none of the first row."""
    holes = torch.rand(x.shape, generator=seeded(seed + 11)) < share
    holes[0] = False
    return x.masked_fill(holes, NAN)


def some_q(n=6, latent_dim=2, seed=0):
    a = rand(n, latent_dim, latent_dim, seed=seed)
    eye = torch.eye(latent_dim, dtype=torch.float64)
    return MultivariateNormal(rand(n, latent_dim, seed=seed + 1), a @ a.mT + 0.1 * eye)


def diagonal_q(n=6, latent_dim=2, seed=0):
    spread = rand(n, latent_dim, seed=seed + 1).exp()
    return Independent(Normal(rand(n, latent_dim, seed=seed), spread), 1)


def dense(model):
    """Mean and covariance matrix of x."""
    eye = torch.eye(model.data_dim, dtype=model.mean.dtype)
    return model.mean, model.loading @ model.loading.mT + model.noise_variance * eye


def part_of(model, there):
    """The model of a part of x: the same with fewer rows of W."""
    return PPCA(model.loading[there], model.mean[there], model.noise_variance)


def log_likelihood(model, x, missing=False):
    return float(model.log_prob(x, missing=missing).sum())


def reached(fit):
    return float(fit.history.after_e_step[-1])


def parameters_of(model):
    """Leaves that autograd can differentiate by, with the logarithm of the noise variance."""
    values = (model.loading, model.mean, model.noise_variance.log())
    return [v.clone().requires_grad_() for v in values]


def model_of(loading, mean, log_noise):
    return PPCA(loading, mean, log_noise.exp())


def gradients(model, function):
    """The gradient of a function of the model, in units in which W and x are of order one."""
    leaves = parameters_of(model)
    function(model_of(*leaves)).backward()
    return torch.cat([leaf.grad.flatten() for leaf in leaves])


# The bound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_q", [some_q, diagonal_q])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 2), (3, 3), (2, 4), (1, 1)])
def test_elbo_is_the_evidence_less_the_divergence_from_the_posterior(
    make_q, missing, dim, latent_dim
):
    model, x = some_ppca(dim, latent_dim), rand(6, dim, seed=5)
    x = with_holes(x) if missing else x
    q = make_q(6, latent_dim)
    exact = q
    if isinstance(q, Independent):
        exact = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    # One observation at a time, each with the model of the entries that it has.
    expected = []
    for i, row in enumerate(x):
        there = ~row.isnan()
        own = MultivariateNormal(exact.mean[i], exact.covariance_matrix[i])
        if there.any():
            part = part_of(model, there)
            gap = kl_divergence(own, part.posterior(row[there]))
            expected.append(part.log_prob(row[there]) - gap)
        else:
            eye = torch.eye(latent_dim, dtype=torch.float64)
            expected.append(-kl_divergence(own, MultivariateNormal(torch.zeros_like(eye[0]), eye)))
    value = model.elbo(x, q, missing=missing)
    assert torch.allclose(value, torch.stack(expected), rtol=1e-10, atol=0)
    assert (value <= model.log_prob(x, missing=missing)).all()


def test_elbo_at_the_posterior_is_the_evidence_even_with_tiny_noise():
    model = PPCA(rand(6, 2), rand(6, seed=1), torch.tensor(1e-10, dtype=torch.float64))
    x, _ = model.sample(5, generator=seeded())
    assert torch.allclose(model.elbo(x, model.posterior(x)), model.log_prob(x), rtol=1e-7, atol=0)


@pytest.mark.parametrize("missing", [False, True])
def test_evidence_and_elbo_have_the_right_gradients(missing):
    x = rand(4, 5, seed=5)
    x = with_holes(x) if missing else x
    leaves = parameters_of(some_ppca())
    tril = torch.linalg.cholesky(some_q(4).covariance_matrix).detach().requires_grad_()
    m = rand(4, 2, seed=8).requires_grad_()
    scale = rand(4, 2, seed=9).exp().requires_grad_()

    def evidence(*leaves):
        return model_of(*leaves).log_prob(x, missing=missing)

    def elbo(m, tril, *leaves):
        return model_of(*leaves).elbo(
            x, MultivariateNormal(m, scale_tril=tril.tril()), missing=missing
        )

    def diagonal(m, scale, *leaves):
        return model_of(*leaves).elbo(x, Independent(Normal(m, scale), 1), missing=missing)

    assert torch.autograd.gradcheck(evidence, leaves)
    assert torch.autograd.gradcheck(elbo, (m, tril, *leaves))
    assert torch.autograd.gradcheck(diagonal, (m, scale, *leaves))


@pytest.mark.parametrize(
    ("q", "error", "message"),
    [
        (None, TypeError, "q must be a MultivariateNormal or an Independent Normal .*got NoneType"),
        (
            Independent(torch.distributions.Laplace(torch.zeros(6, 2), 1.0), 1),
            TypeError,
            "got Independent of Laplace",
        ),
        (some_q(6, 3), ValueError, r"q must have event shape \(2,\), got \(3,\)"),
        (some_q(5), ValueError, r"q must have the batch shape of x, \(6,\), got \(5,\)"),
        (
            MultivariateNormal(rand(2), torch.eye(2).double()),
            ValueError,
            r"got \(\); make it explicit with q\.expand",
        ),
        (
            MultivariateNormal(torch.zeros(6, 2), torch.eye(2)),
            TypeError,
            "q and parameters must have the same dtype",
        ),
        (
            Independent(Normal(torch.zeros(6, 1, 2).double(), 1.0), 2),
            ValueError,
            r"q must have event shape \(2,\), got \(1, 2\)",
        ),
    ],
)
def test_elbo_refuses_any_other_q(q, error, message):
    with pytest.raises(error, match=message):
        some_ppca().elbo(rand(6, 5), q)


# Missing entries ------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 2), (3, 3), (2, 4), (4, 1)])
def test_evidence_with_missing_entries_is_scipys_marginal(dim, latent_dim):
    model, x = some_ppca(dim, latent_dim), with_holes(rand(30, dim, seed=5), 0.4)
    x[3] = NAN
    mean, covariance = dense(model)
    for row, value in zip(x, model.log_prob(x, missing=True), strict=True):
        there = ~row.isnan()
        if there.any():
            marginal = stats.multivariate_normal(mean[there], covariance[there][:, there])
            assert float(value) == pytest.approx(marginal.logpdf(row[there]), rel=1e-10)
        else:
            assert float(value) == pytest.approx(0, abs=1e-12)


def test_posterior_with_missing_entries_is_that_of_the_entries_that_are_there():
    model, x = some_ppca(), with_holes(rand(2, 15, 5, seed=5), 0.4)
    x[1, 3] = NAN
    q = model.posterior(x, missing=True)
    assert q.batch_shape == (2, 15)
    for index in np.ndindex(2, 15):
        row = x[index]
        there = ~row.isnan()
        if there.any():
            own = part_of(model, there).posterior(row[there])
            mean, covariance = own.mean, own.covariance_matrix
        else:
            mean, covariance = torch.zeros(2).double(), torch.eye(2).double()
        assert torch.allclose(q.mean[index], mean, atol=1e-12)
        assert torch.allclose(q.covariance_matrix[index], covariance, atol=1e-12)


def test_nothing_missing_gives_the_complete_results():
    model, x, q = some_ppca(), some_data(), some_q(60)
    assert torch.equal(model.log_prob(x, missing=True), model.log_prob(x))
    assert torch.equal(model.elbo(x, q, missing=True), model.elbo(x, q))
    assert torch.equal(model.posterior(x, missing=True).mean, model.posterior(x).mean)
    assert torch.equal(model.impute(x), x)
    one, other = (PPCA.fit(x, 2, method="em", missing=m, generator=seeded()) for m in (True, False))
    assert torch.equal(one.model.loading, other.model.loading)
    # The first row has all its entries, though rows beside it do not.
    beside = with_holes(x)
    assert torch.allclose(model.log_prob(beside, missing=True)[0], model.log_prob(x[0]))
    mixed, whole = model.posterior(beside, missing=True), model.posterior(x[0])
    assert torch.allclose(mixed.mean[0], whole.mean)
    assert torch.allclose(mixed.covariance_matrix[0], whole.covariance_matrix)


def test_impute_gives_the_conditional_mean_of_the_joint_gaussian():
    model, x = some_ppca(), with_holes(rand(3, 10, 5, seed=5), 0.4)
    x[2, 4] = NAN
    filled = model.impute(x)
    assert filled.shape == x.shape
    mean, covariance = dense(model)
    for index in np.ndindex(3, 10):
        row = x[index]
        there, gone = ~row.isnan(), row.isnan()
        gain = covariance[gone][:, there] @ torch.linalg.inv(covariance[there][:, there])
        expected = mean[gone] + gain @ (row - mean)[there]
        assert torch.equal(filled[index][there], row[there])
        assert torch.allclose(filled[index][gone], expected, atol=1e-10)


@pytest.mark.parametrize("name", ["log_prob", "posterior", "e_step"])
def test_nan_is_an_entry_only_where_asked_for(name):
    function, x = getattr(some_ppca(), name), with_holes(rand(6, 5))
    with pytest.raises(ValueError, match=r"x must be finite, got .* NaN or infinite of 30"):
        function(x)
    with pytest.raises(TypeError, match="missing must be True or False, got str"):
        function(x, missing="yes")
    x[0, 0] = math.inf
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite of 30"):
        function(x, missing=True)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got list"):
        function([1.0], missing=True)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        function(torch.zeros(3, 5).long(), missing=True)


# Statistics -----------------------------------------------------------------------------------


def test_statistics_add_up_over_batches_and_over_the_pieces_of_one():
    model, x = some_ppca(), with_holes(some_data(20_000))  # more rows than one piece has
    x[:20] = some_data(20)  # so that a batch is complete
    whole = model.e_step(x, missing=True)
    parts = model.e_step(x[:20])
    for batch in x[20:].split(7000):
        parts = parts + model.e_step(batch, missing=True)
    assert (parts.count, parts.entries) == (whole.count, whole.entries)
    for name in ("entropy", "latent", "squares", "cross", "gram"):
        assert torch.allclose(getattr(parts, name), getattr(whole, name)), name


def test_statistics_are_float64_whatever_the_data():
    model = PPCA(torch.ones(3, 1), torch.full((3,), 1e4), 1.0)
    x = 1e4 + torch.randn(500, 3, generator=seeded())
    statistics = model.e_step(x)
    assert statistics.cross.dtype == statistics.gram.dtype == torch.float64
    exact = PPCA(torch.ones(3, 1).double(), torch.full((3,), 1e4).double(), torch.ones(()).double())
    assert float(model.bound(statistics)) == pytest.approx(
        log_likelihood(exact, x.double()), rel=1e-12
    )
    assert model.m_step(statistics).loading.dtype == torch.float32


@pytest.mark.parametrize("missing", [False, True])
def test_bound_from_statistics_is_the_elbo_of_any_model(missing):
    old, x = some_ppca(), some_data()
    x = with_holes(x) if missing else x
    statistics, q = old.e_step(x, missing=missing), old.posterior(x, missing=missing)
    assert float(old.bound(statistics)) == pytest.approx(log_likelihood(old, x, missing), rel=1e-12)
    for new in (old.m_step(statistics), some_ppca(seed=3), some_ppca(seed=4)):
        expected = float(new.elbo(x, q, missing=missing).sum())
        assert float(new.bound(statistics)) == pytest.approx(expected, rel=1e-11)
        assert new.bound(statistics) <= log_likelihood(new, x, missing)
    # The gradient agrees, too.
    by_sums = gradients(some_ppca(seed=3), lambda model: model.bound(statistics))
    by_elbo = gradients(some_ppca(seed=3), lambda model: model.elbo(x, q, missing=missing).sum())
    assert torch.allclose(by_sums, by_elbo, rtol=1e-8, atol=0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("missing", [False, True])
def test_m_step_is_the_top_of_the_bound(missing, seed):
    old, x = some_ppca(seed=seed), some_data(seed=seed)
    x = with_holes(x, seed=seed) if missing else x
    q = old.posterior(x, missing=missing)
    new = old.m_step(old.e_step(x, missing=missing))

    def height(model):
        return model.elbo(x, q, missing=missing).sum()

    assert gradients(new, height).abs().max() < 1e-9 * gradients(old, height).abs().max()
    for other in range(10):
        leaves = [v.detach() + 0.1 * rand(*v.shape, seed=other) for v in parameters_of(new)]
        assert height(model_of(*leaves)) < height(new)


def test_statistics_of_another_model_are_refused():
    model, twin, x = some_ppca(), some_ppca(), some_data()
    statistics = model.e_step(x)
    with pytest.raises(ValueError, match="statistics must come from this model's own e_step"):
        twin.m_step(statistics)
    with pytest.raises(ValueError, match="statistics must come from one model to be added"):
        statistics + twin.e_step(x)
    with pytest.raises(TypeError, match="other must be PPCAStatistics, got int"):
        statistics + 1
    with pytest.raises(
        ValueError, match=r"statistics must come from a model with loading \(5, 1\), got \(5, 2\)"
    ):
        some_ppca(5, 1).bound(statistics)
    for function in (model.m_step, model.bound):
        with pytest.raises(TypeError, match="statistics must be PPCAStatistics, got Tensor"):
            function(x)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 5\), got \(5,\)"):
        model.e_step(x[0])
    with pytest.raises(ValueError, match=r"x must be small enough for its square .* to .*e\+200"):
        model.e_step(1e200 * x)


def test_m_step_refuses_a_column_that_nobody_has_and_noise_that_vanishes():
    model, x = some_ppca(), some_data()
    x[:, 3] = NAN
    with pytest.raises(
        ValueError, match="x must have an entry in every column, got none in column 3"
    ):
        model.m_step(model.e_step(x, missing=True))
    flat = rand(30, 2) @ rand(2, 5, seed=1)
    near = PPCA(rand(5, 2), flat.mean(0), torch.tensor(1e-13).double())
    with pytest.raises(ValueError, match="x must have variance beyond its first 2 principal"):
        functools.reduce(lambda model, _: model.m_step(model.e_step(flat)), range(9), near)


@pytest.mark.parametrize(("dim", "latent_dim"), [(4, 1), (4, 2), (4, 3), (4, 4), (3, 5), (1, 1)])
def test_number_of_parameters_is_the_rank_of_their_effect(dim, latent_dim):
    model = some_ppca(dim, latent_dim)

    def effect(loading, mean, log_noise):
        mean, covariance = dense(model_of(loading, mean, log_noise))
        return torch.cat([mean, covariance.flatten()])

    columns = torch.autograd.functional.jacobian(effect, tuple(parameters_of(model)))
    matrix = torch.cat([c.reshape(dim + dim**2, -1) for c in columns], 1)
    assert int(torch.linalg.matrix_rank(matrix, rtol=1e-10)) == model.num_parameters


# EM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_bound_never_falls(missing, accelerate):
    for seed in range(20):
        g = seeded(seed)
        dim = int(torch.randint(2, 7, (), generator=g))
        latent_dim = int(torch.randint(1, dim, (), generator=g))
        x = rand(int(torch.randint(10, 40, (), generator=g)), dim, seed=seed)
        x = x @ rand(dim, dim, seed=seed + 1) + rand(dim, seed=seed + 2)
        x = with_holes(x, seed=seed) if missing else x
        fit = PPCA.fit(
            x,
            latent_dim,
            method="em",
            missing=missing,
            accelerate=accelerate,
            tolerance=0.0,
            max_iterations=5,
            generator=g,
        )
        half_steps = fit.history.half_steps
        assert (half_steps.diff() > -1e-12 * half_steps.abs().max()).all(), seed
        assert reached(fit) == pytest.approx(log_likelihood(fit.model, x, missing), rel=1e-11)


UNITS = torch.tensor([1e3, 1e2, 1e1, 1.0, 0.1]).double()


@pytest.mark.parametrize(
    ("x", "latent_dim"),
    [
        (some_data(), 1),
        (some_data(), 4),
        (rand(40, 5) * UNITS, 3),
        (torch.cat([some_data(), 1e4 * rand(1, 5, seed=9)]), 2),
        (rand(8, 20), 3),
        (digits()[0], 4),
    ],
    ids=["one", "four", "units", "outlier", "wide", "digits"],
)
def test_em_ends_at_the_closed_form(x, latent_dim):
    exact = PPCA.fit(x, latent_dim)
    assert reached(exact) == pytest.approx(log_likelihood(exact.model, x), rel=1e-12)
    fit = PPCA.fit(x, latent_dim, method="em", tolerance=1e-11, generator=seeded())
    assert fit.history.converged
    assert reached(exact) - reached(fit) < 1e-6
    for one, other in zip(dense(exact.model), dense(fit.model), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    default = PPCA.fit(x, latent_dim, method="em", generator=seeded())
    assert default.history.converged
    assert reached(exact) - reached(default) < 1e-5 * len(x)


def test_plain_em_ends_at_the_closed_form_in_more_iterations():
    x = some_data()
    exact = PPCA.fit(x, 2)
    fast, plain = (
        PPCA.fit(x, 2, method="em", tolerance=1e-8, accelerate=a, generator=seeded())
        for a in (True, False)
    )
    assert reached(exact) - reached(plain) < 1e-3
    assert plain.history.iterations > 5 * fast.history.iterations


def test_plain_em_is_the_loop_of_e_and_m_steps():
    x, start = some_data(), some_ppca()
    model, history = PPCA.fit(
        x, 2, method="em", start=start, accelerate=False, tolerance=0.0, max_iterations=3
    )
    expected, bounds = start, [float(start.bound(start.e_step(x)))]
    for _ in range(3):
        statistics = expected.e_step(x)
        expected = expected.m_step(statistics)
        bounds += [float(expected.bound(statistics)), log_likelihood(expected, x)]
    assert torch.equal(model.loading, expected.loading)
    assert torch.allclose(history.half_steps, torch.tensor(bounds).double())
    assert not history.converged


@pytest.mark.parametrize("missing", [False, True])
def test_parameter_expansion_rewrites_q_and_raises_the_bound(missing):
    old, x = some_ppca(), some_data()
    x = with_holes(x) if missing else x
    q = old.posterior(x, missing=missing)
    options = {"start": old, "missing": missing, "max_iterations": 1, "tolerance": 0.0}
    new, history = PPCA.fit(x, 2, method="em", **options)
    # The mean and covariance of z under q, and q in the coordinates in which they are 0 and I.
    alpha = q.mean.mean(0)
    spread = q.covariance_matrix.mean(0) + (q.mean - alpha).mT @ (q.mean - alpha) / len(x)
    back = torch.linalg.inv(torch.linalg.cholesky(spread))
    tril = (back @ q.scale_tril).tril()  # a product of two triangles
    rewritten = MultivariateNormal((q.mean - alpha) @ back.mT, scale_tril=tril)
    expected = float(new.elbo(x, rewritten, missing=missing).sum())
    assert float(history.after_m_step[0]) == pytest.approx(expected, rel=1e-11)
    statistics = old.e_step(x, missing=missing)
    assert expected > float(old.m_step(statistics).bound(statistics))


@pytest.mark.parametrize(
    ("x", "latent_dim"),
    [(rand(40, 5) * UNITS, 2), (some_data(80, 8, 3), 3)],
    ids=["units", "three"],
)
def test_em_with_missing_entries_ends_at_a_top(x, latent_dim):
    x = with_holes(x)
    fit = PPCA.fit(x, latent_dim, method="em", missing=True, tolerance=1e-13, generator=seeded())
    assert fit.history.converged

    def height(model):
        return model.log_prob(x, missing=True).sum()

    # In units of the columns, in which the gradient by W or the mean is about n away from the top.
    scale = x.nan_to_num().abs().amax(0)
    sizes = torch.cat([scale.repeat_interleave(latent_dim), scale, torch.ones(1).double()])
    assert (gradients(fit.model, height) * sizes).abs().max() < 1e-3
    other = PPCA.fit(x, latent_dim, method="em", missing=True, tolerance=1e-13, generator=seeded(5))
    assert reached(other) == pytest.approx(reached(fit), abs=1e-6)
    for seed in range(10):
        steps = [0.02 * rand(*v.shape, seed=seed) for v in parameters_of(fit.model)]
        steps = [steps[0] * scale.unsqueeze(1), steps[1] * scale, steps[2]]
        leaves = [v.detach() + s for v, s in zip(parameters_of(fit.model), steps, strict=True)]
        assert height(model_of(*leaves)) < height(fit.model)


def test_a_start_is_where_em_starts():
    x, start = some_data(), some_ppca()
    fit = PPCA.fit(x, 2, method="em", start=start, tolerance=1e-11)
    assert float(fit.history.after_e_step[0]) == pytest.approx(log_likelihood(start, x))
    assert reached(PPCA.fit(x, 2)) - reached(fit) < 1e-6
    assert PPCA.fit(x, 2, method="em", start=fit.model).history.iterations == 1


def test_fits_have_no_gradient():
    x = some_data().requires_grad_()
    for method in ("closed-form", "em"):
        assert not PPCA.fit(x, 2, method=method, generator=seeded()).model.loading.requires_grad
    short = {"method": "stochastic-gradient-em", "num_steps": 3, "generator": seeded()}
    assert not PPCA.fit(x, 2, **short).model.loading.requires_grad


# Streams and invariances ----------------------------------------------------------------------


class Stream:
    """Batches that are made anew in every pass, like those that are read from a file."""

    def __init__(self, x, sizes):
        self.x, self.sizes = x, sizes

    def __iter__(self):
        return (piece.clone() for piece in torch.split(self.x, self.sizes))


def steps(method, count):
    """Return the option of the one method that is told how many steps to take."""
    return {"num_steps": count} if method == "stochastic-gradient-em" else {}


def same_model(one, other, tolerance=1e-9):
    assert torch.allclose(one.loading, other.loading, rtol=tolerance, atol=tolerance)
    assert torch.allclose(one.mean, other.mean, rtol=tolerance)
    assert torch.allclose(one.noise_variance, other.noise_variance, rtol=tolerance)


@pytest.mark.parametrize("method", ["closed-form", "em"])
def test_a_stream_gives_what_the_whole_gives(method):
    x = some_data() + 1e3
    whole = PPCA.fit(x, 2, method=method, generator=seeded())
    for sizes in ([1, 2, 57], [20, 20, 20]):
        stream = PPCA.fit(Stream(x, sizes), 2, method=method, generator=seeded())
        same_model(whole.model, stream.model)
        one, other = whole.history.half_steps, stream.history.half_steps
        assert torch.allclose(one, other, rtol=1e-9, atol=0)


def test_memory_does_not_grow_with_the_batches_of_a_stream(monkeypatch):
    held, most, e_step = weakref.WeakSet(), 0, PPCA.e_step

    def counted(self, *arguments, **options):
        nonlocal most
        held.add(made := e_step(self, *arguments, **options))
        most = max(most, len(held))
        return made

    monkeypatch.setattr(PPCA, "e_step", counted)
    PPCA.fit(Stream(some_data(), 2), 2, method="em", max_iterations=1, generator=seeded())
    assert 0 < most <= 4


def test_a_stream_may_have_missing_entries():
    x = with_holes(some_data())
    x[10:20, 2] = NAN  # a column that one batch has not seen
    whole = PPCA.fit(x, 2, method="em", missing=True, generator=seeded())
    stream = PPCA.fit(Stream(x, [10, 10, 40]), 2, method="em", missing=True, generator=seeded())
    same_model(whole.model, stream.model)


@pytest.mark.parametrize(
    ("method", "missing"),
    [
        ("closed-form", False),
        ("em", False),
        ("em", True),
        ("stochastic-gradient-em", False),
        ("stochastic-gradient-em", True),
    ],
)
@pytest.mark.parametrize(("scale", "shift"), [(1e-8, 0.0), (1e8, 1e14)])
def test_the_fit_moves_and_scales_with_the_data(method, scale, shift, missing):
    x = with_holes(some_data()) if missing else some_data()
    options = {"method": method, "missing": missing} | steps(method, 20)
    one = PPCA.fit(x, 2, generator=seeded(), **options)
    other = PPCA.fit(scale * x + shift, 2, generator=seeded(), **options)
    entries = int((~x.isnan()).sum())
    expected = one.history.after_e_step - entries * math.log(scale)
    assert torch.allclose(other.history.after_e_step, expected, rtol=1e-6, atol=1e-4)
    mean, covariance = dense(one.model)
    assert torch.allclose(dense(other.model)[0], scale * mean + shift, rtol=1e-5, atol=0)
    assert torch.allclose(dense(other.model)[1] / scale**2, covariance, rtol=1e-5, atol=1e-6)


def test_the_fit_turns_with_the_data():
    x, rotation = some_data(), torch.linalg.qr(rand(5, 5, seed=4)).Q
    fit = PPCA.fit(x, 2)
    for options in ({}, {"method": "em", "tolerance": 1e-11, "generator": seeded()}):
        turned = PPCA.fit(x @ rotation, 2, **options)
        assert reached(turned) == pytest.approx(reached(fit), abs=2e-6)
        expected = rotation.mT @ dense(fit.model)[1] @ rotation
        assert torch.allclose(dense(turned.model)[1], expected, atol=1e-4)


@pytest.mark.parametrize("method", ["closed-form", "em", "stochastic-gradient-em"])
def test_float32_is_fitted_in_float64(method):
    x = (some_data() + 1e3).float()
    options = {"method": method} | steps(method, 20)
    fit = PPCA.fit(x, 2, generator=seeded(), **options)
    exact = PPCA.fit(x.double(), 2, generator=seeded(), **options)
    for value in (fit.model.loading, fit.model.mean, fit.model.noise_variance):
        assert value.dtype == torch.float32
    assert torch.allclose(fit.history.half_steps, exact.history.half_steps, rtol=1e-12, atol=0)
    assert torch.allclose(fit.model.loading.double(), exact.model.loading, rtol=1e-5, atol=1e-6)


# Degenerate data ------------------------------------------------------------------------------

DEGENERATE = {
    "few distinct rows": (rand(4, 5).repeat(5, 1), 2),
    "constant column far away": (torch.cat([some_data(), torch.full((60, 1), 1e9).double()], 1), 2),
    "fewer rows than columns": (rand(6, 20), 2),
    "two dimensions": (some_data(dim=2), 1),
    "round": (torch.cat([torch.eye(3), -torch.eye(3)]).double(), 1),
    "far away": (some_data() + 1e8, 2),
    "tiny": (1e-150 * some_data(), 2),
    "huge": (1e150 * some_data(), 2),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data_are_fitted_right(name):
    x, latent_dim = DEGENERATE[name]
    exact = PPCA.fit(x, latent_dim)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    expected = eigenvalues[latent_dim:].mean()
    assert float(exact.model.noise_variance) == pytest.approx(expected, rel=1e-9, abs=0)
    stream = PPCA.fit([x[:3], x[3:]], latent_dim)
    assert reached(stream) == pytest.approx(reached(exact), rel=1e-9, abs=1e-5)
    fit = PPCA.fit(x, latent_dim, method="em", generator=seeded())
    assert reached(fit) == pytest.approx(reached(exact), abs=1e-4 * len(x))
    short = {"method": "stochastic-gradient-em", "num_steps": 60, "generator": seeded()}
    assert reached(exact) - reached(PPCA.fit(x, latent_dim, **short)) < 0.3 * len(x)


NONE_LEFT = "x must have variance beyond its first 2 principal components, got none"
HOPELESS = {
    "one observation": (rand(1, 5), 2, "x must (hold at least 2 observations|vary)"),
    "equal observations": (torch.full((7, 3), 0.1).double(), 2, "x must vary, with a finite"),
    "three distinct ones": (rand(3, 5).repeat(4, 1), 2, NONE_LEFT),
    "a plane": (rand(40, 2) @ rand(2, 5, seed=1), 2, NONE_LEFT),
    "a plane in float32": ((rand(40, 2) @ rand(2, 5, seed=1)).float(), 2, NONE_LEFT),
    "as many latent dimensions": (rand(9, 3), 3, "latent_dim must be less than D = 3, got 3"),
    "too large to square": (1e160 * some_data(), 2, "with a finite variance, got at most inf in"),
    "too small to square": (1e-170 * some_data(), 2, "with a finite variance, got at most 0 in"),
    "too large for float32": (
        (1e25 * some_data()).float(),
        2,
        r"x must have a variance within the range of torch\.float32, got the noise variance",
    ),
    "too small for float32": (
        (1e-25 * some_data()).float(),
        2,
        "within the range of torch.float32",
    ),
}


@pytest.mark.parametrize("method", ["closed-form", "stream", "em", "stochastic-gradient-em"])
@pytest.mark.parametrize("name", HOPELESS)
def test_hopeless_data_are_refused(name, method):
    x, latent_dim, message = HOPELESS[name]
    if method == "stream":
        x, method = [x[:1], x[1:]] if len(x) > 1 else [x], "closed-form"
    with pytest.raises(ValueError, match=message):
        PPCA.fit(x, latent_dim, method=method, generator=seeded(), **steps(method, 300))


@pytest.mark.parametrize("method", ["em", "stochastic-gradient-em"])
def test_degenerate_patterns_of_missing_entries(method):
    options = {"method": method, "missing": True} | steps(method, 30)
    base = some_data()
    row, once = base.clone(), with_holes(base)
    row[4] = NAN
    once[:, 2] = NAN
    once[7, 2] = 1.5
    single = base.masked_fill(~torch.eye(5).bool().repeat(12, 1), NAN)
    fits = [PPCA.fit(x, 2, generator=seeded(), **options) for x in (row, once, single)]
    for x, fit in zip((row, once, single), fits, strict=True):
        assert math.isfinite(reached(fit))
        assert reached(fit) == pytest.approx(log_likelihood(fit.model, x, True))
        assert torch.isfinite(fit.model.impute(x)).all()
    if method == "em":  # a row without entries says nothing
        without = PPCA.fit(row[~row.isnan().any(1)], 2, generator=seeded(), **options)
        assert reached(fits[0]) == pytest.approx(reached(without), abs=1e-3)
    nobody = base.clone()
    nobody[:, 3] = NAN
    with pytest.raises(
        ValueError, match="x must have an entry in every column, got none in column 3"
    ):
        PPCA.fit(nobody, 2, generator=seeded(), **options)


def test_entries_that_tell_nothing_of_z_have_the_known_optimum():
    # One entry in a row: nothing links the columns, so each is a Gaussian with its own mean.
    x = some_data().masked_fill(~torch.eye(5).bool().repeat(12, 1), NAN)
    fit = PPCA.fit(x, 4, method="em", missing=True, tolerance=1e-12, generator=seeded())
    means, variances = x.nanmean(0), (x - x.nanmean(0)).square().nanmean(0)
    top = Normal(means, variances.sqrt()).log_prob(x.nan_to_num()).masked_fill(x.isnan(), 0.0)
    assert reached(fit) == pytest.approx(float(top.sum()), abs=1e-4)


# Stochastic-gradient EM -----------------------------------------------------------------------


def natural(model, gradient):
    """The gradient by W, the mean and the noise variance, divided by the Fisher information."""
    d_loading, d_mean, d_noise = gradient
    variance = model.noise_variance
    return variance * d_loading, variance * d_mean, 2 * variance**2 / model.data_dim * d_noise


def step_of(model, x, generator, missing=False, size=1e-3):
    """The direction of one step, its three parts."""
    new = stochastic.stochastic_gradient_step(model, x, size, generator=generator, missing=missing)
    changes = (
        new.loading - model.loading,
        new.mean - model.mean,
        new.noise_variance - model.noise_variance,
    )
    return [change / size for change in changes]


@pytest.mark.parametrize("missing", [False, True])
def test_fishers_identity_makes_the_step_unbiased(missing):
    model, x = some_ppca(), some_data(3)
    if missing:
        x[:, 1] = NAN
        x[1, 3] = NAN
    leaves = [v.clone().requires_grad_() for v in (model.loading, model.mean, model.noise_variance)]
    average = PPCA(*leaves).log_prob(x, missing=missing).mean()
    expected = natural(model, torch.autograd.grad(average, leaves))
    g, copies = seeded(), x.repeat(1000, 1)
    steps = [step_of(model, copies, g, missing) for _ in range(100)]
    for part, truth in zip(zip(*steps, strict=True), expected, strict=True):
        draws = torch.stack(part)
        error = draws.std(0) / 10
        # Five standard errors: exceeded by chance once in a million.
        assert ((draws.mean(0) - truth).abs() <= 5 * error + 1e-9).all()
        assert error.max() < 0.02 * truth.abs().max()


@pytest.mark.parametrize(("missing", "within"), [(False, 3e-3), (True, 6e-3)])
def test_stochastic_em_ends_where_em_ends(missing, within):
    x = with_holes(some_data(300)) if missing else some_data(300)
    options = {"missing": missing, "generator": seeded()}
    top = reached(PPCA.fit(x, 2, method="em", **options)) / 300
    fit = PPCA.fit(x, 2, method="stochastic-gradient-em", num_steps=800, **options)
    assert top - within < reached(fit) / 300 < top + 1e-5


def test_constant_steps_hover_in_proportion_to_their_size():
    x, _ = some_ppca().sample(300, generator=seeded(2))
    exact, size = PPCA.fit(x, 2), 0.1
    history = PPCA.fit(
        x,
        2,
        method="stochastic-gradient-em",
        start=exact.model,
        step_size=size,
        average=False,
        num_steps=1000,
        generator=seeded(),
    ).history
    gap = float(reached(exact) - history.after_e_step[20:].mean()) / 300
    # The noise of a step has the covariance kappa^2 F^-1 / B, and the pull to the top is kappa F^-1
    # times the information I of x alone. They balance at the covariance kappa I^-1 / 2 B, and half
    # of the trace of its product with I counts the parameters.
    assert gap == pytest.approx(size * exact.model.num_parameters / (4 * 64), rel=0.4)


def test_stochastic_em_records_the_exact_log_likelihood():
    x = some_data(100)
    sizes = []

    def step_size(t):
        sizes.append(t)
        return 0.1

    def fit(**options):
        return PPCA.fit(x, 2, method="stochastic-gradient-em", generator=seeded(), **options)

    few = {"batch_size": 30, "num_steps": 42, "average": False}
    one, again = fit(step_size=step_size, **few), fit(step_size=0.1, **few)
    assert sizes == list(range(42))
    # At the start, after every 4 steps and at the end.
    assert one.history.iterations == 11
    assert torch.equal(one.history.after_m_step, one.history.after_e_step[1:])
    assert reached(one) == pytest.approx(log_likelihood(one.model, x), rel=1e-12)
    assert not one.history.converged
    assert torch.equal(one.model.loading, again.model.loading)
    # At most 200 times, and not after each of these steps, which see all observations.
    assert fit(batch_size=100, num_steps=401).history.iterations <= 201
    assert fit(num_steps=9, tolerance=100.0).history.converged


def test_the_average_is_that_of_the_second_half():
    x, start, size, count = some_data(), some_ppca(), 0.1, 7
    fit = PPCA.fit(
        x,
        2,
        method="stochastic-gradient-em",
        start=start,
        step_size=size,
        batch_size=10,
        num_steps=count,
        generator=seeded(),
    )
    g, model, late = seeded(), start, []
    for t in range(count):
        rows = x[torch.randint(60, (10,), generator=g)]
        model = stochastic.stochastic_gradient_step(model, rows, size, generator=g)
        late += [model] if t >= count // 2 else []
    assert len(late) == 4
    for name in ("loading", "mean", "noise_variance"):
        expected = torch.stack([getattr(m, name) for m in late]).mean(0)
        assert torch.allclose(getattr(fit.model, name), expected)


def test_robbins_monro_sizes_have_the_two_sums():
    sizes = robbins_monro(0.5, 10, 0.75)
    assert sizes(0) == 0.5
    assert sizes(30) == pytest.approx(0.5 / 4**0.75)
    values = np.array([sizes(t) for t in range(10**5)])
    # The sums up to T grow like T^(1/4) and stay bounded.
    assert values.sum() / values[: 10**5 // 16].sum() == pytest.approx(2, rel=0.15)
    assert (values**2).sum() < 0.5**2 * (1 + 10 / 0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"first": 0}, ValueError, "first must be above 0 and at most 1, got 0"),
        ({"flat": 0.0}, ValueError, r"flat must be above 0, got 0\.0"),
        ({"power": 0.5}, ValueError, r"power must be above 0\.5 and at most 1, got 0\.5"),
        ({"flat": NAN}, ValueError, "flat must be finite, got nan"),
    ],
)
def test_robbins_monro_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        robbins_monro(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": rand(5)}, ValueError, r"x must have shape \(B, 5\), got \(5,\)"),
        ({"x": rand(3, 4)}, ValueError, r"x must have shape \(\*, 5\), got \(3, 4\)"),
        ({"x": with_holes(rand(3, 5))}, ValueError, "x must be finite"),
        ({"step_size": 0.0}, ValueError, r"step_size must be above 0 and at most 1, got 0\.0"),
        ({"generator": 0}, TypeError, r"generator must be a torch\.Generator"),
        ({"x": 1e200 * rand(3, 5)}, ValueError, "x must be small enough for its residuals"),
    ],
)
def test_stochastic_step_refuses_bad_arguments(change, error, message):
    good = {"x": rand(3, 5), "step_size": 0.1, "generator": seeded()}
    with pytest.raises(error, match=message):
        stochastic.stochastic_gradient_step(some_ppca(), **(good | change))


# Arguments of fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "EM"}, ValueError, "method must be .*, got 'EM'"),
        ({"latent_dim": 5}, ValueError, "latent_dim must be less than D = 5, got 5"),
        ({"latent_dim": 0}, ValueError, "latent_dim must be at least 1, got 0"),
        ({"missing": 1}, TypeError, "missing must be True or False, got int"),
        ({"accelerate": 1}, TypeError, "accelerate must be True or False, got int"),
        ({"tolerance": -1.0}, ValueError, r"tolerance must be at least 0, got -1\.0"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1, got 0"),
        ({"generator": 0}, TypeError, r"generator must be a torch\.Generator, got int"),
        ({"progress": 1}, TypeError, "progress must be True or False, got int"),
        ({"start": 1}, TypeError, "start must be a PPCA, got int"),
        (
            {"start": some_ppca(5, 3)},
            ValueError,
            r"start must have D = 5 and d = 2, got \(5, 3\)",
        ),
        (
            {"start": PPCA(torch.ones(5, 2), torch.ones(5), 1.0)},
            TypeError,
            r"x and start must have the same dtype, got torch\.float64 and torch\.float32",
        ),
        ({"x": with_holes(some_data())}, ValueError, "x must be finite, got .* NaN"),
        ({"x": None}, TypeError, "x must be a torch.Tensor or an iterable of them"),
    ],
)
@pytest.mark.parametrize("method", ["em", "stochastic-gradient-em"])
def test_fit_refuses_bad_arguments(change, error, message, method):
    good = {"x": some_data(), "latent_dim": 2, "method": method, "generator": seeded()}
    if method == "stochastic-gradient-em" and change.keys() & {"accelerate", "max_iterations"}:
        message, error = f'method "{method}" has no option {next(iter(change))}', TypeError
    if method == "stochastic-gradient-em" and isinstance(change.get("x"), list):
        message, error = "x must be a torch.Tensor for stochastic-gradient EM", TypeError
        change = {"x": [rand(3, 5), rand(3, 5)]}
    with pytest.raises(error, match=message):
        PPCA.fit(**(good | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step_size": 0}, ValueError, "step_size must be above 0 and at most 1, got 0"),
        ({"step_size": lambda t: 2.0}, ValueError, "step_size must be above 0 and at most 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1, got 0"),
        ({"average": "yes"}, TypeError, "average must be True or False, got str"),
        (
            {"step_size": 1.0, "x": rand(40, 2) @ rand(2, 5, seed=1)},
            ValueError,
            "x must have variance beyond its first 2 .* a smaller latent_dim, or smaller steps",
        ),
    ],
)
def test_stochastic_em_refuses_bad_arguments(change, error, message):
    good = {"x": some_data(), "latent_dim": 2, "generator": seeded()}
    with pytest.raises(error, match=message):
        PPCA.fit(**(good | change), method="stochastic-gradient-em")


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("closed-form", {"tolerance": 1e-6}),
        ("em", {"step_size": 0.1}),
        ("em", {"kind": PPCA}),
        ("stochastic-gradient-em", {"accelerate": True}),
    ],
)
def test_an_option_of_another_method_is_refused(method, option):
    message = f'method "{method}" has no option {next(iter(option))}'
    with pytest.raises(TypeError, match=message):
        PPCA.fit(some_data(), 2, method=method, **option)


@pytest.mark.parametrize("change", [{"generator": 7}, {"progress": 1}])
def test_the_closed_form_checks_what_it_does_not_need(change):
    with pytest.raises(TypeError, match="must be"):
        PPCA.fit(some_data(), 2, **change)


def test_every_fit_runs_without_a_generator():
    for options in ({"method": "em"}, {"method": "stochastic-gradient-em", "num_steps": 5}):
        assert math.isfinite(reached(PPCA.fit(some_data(), 2, **options)))


# Weights of observations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "missing"), [("closed-form", False), ("em", False), ("em", True)]
)
def test_a_weight_of_two_is_the_observation_twice_and_zero_is_its_absence(method, missing):
    x = with_holes(some_data()) if missing else some_data()
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0] * (len(x) // 4), dtype=x.dtype)
    repeated = x.repeat_interleave(weights.long(), 0)
    options = {"method": method}
    if method == "em":
        start = PPCA(x[:2].mT.nan_to_num(), x[0], x[0].var())
        options |= {"tolerance": 0.0, "max_iterations": 5, "missing": missing, "start": start}
    fit = PPCA.fit(x, 2, weights=weights, **options)
    expected = PPCA.fit(repeated, 2, **options)
    assert torch.allclose(fit.history.half_steps, expected.history.half_steps, rtol=1e-9)
    same_model(fit.model, expected.model, 1e-7)


def test_stochastic_gradient_em_draws_in_proportion_to_the_weights():
    x = some_data(300)
    weights = torch.tensor([0.0, 1.0, 4.0], dtype=x.dtype).repeat(100)
    # Those that count once lie elsewhere, those that do not count at all far away.
    x = x + 3 * (weights == 1).unsqueeze(1) + 1e6 * (weights == 0).unsqueeze(1)
    top = reached(PPCA.fit(x, 2, weights=weights))
    fit = PPCA.fit(
        x,
        2,
        weights=weights,
        method="stochastic-gradient-em",
        num_steps=800,
        generator=seeded(),
    )
    assert 0 <= (top - reached(fit)) / float(weights.sum()) < 0.02
    assert reached(fit) == pytest.approx(float(fit.model.log_prob(x) @ weights))


@pytest.mark.parametrize("method", ["closed-form", "em", "stochastic-gradient-em"])
@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (-torch.ones(60).double(), ValueError, r"weights must not be negative, got -1\.0"),
        (torch.zeros(60).double(), ValueError, "weights must not all be zero"),
    ],
)
def test_unfit_weights_are_refused(method, weights, error, message):
    with pytest.raises(error, match=message):
        PPCA.fit(some_data(), 2, method=method, weights=weights)


@pytest.mark.parametrize("method", ["closed-form", "em"])
def test_a_stream_has_the_weights_of_its_batches(method):
    x, weights = some_data(), torch.arange(60).double()
    options = {"start": PPCA(x[:2].mT, x[0], x.var())} if method == "em" else {}
    whole = PPCA.fit(x, 2, method=method, weights=weights, **options).model
    cut = PPCA.fit(
        [x[:20], x[20:]], 2, method=method, weights=[weights[:20], weights[20:]], **options
    ).model
    assert torch.allclose(cut.noise_variance, whole.noise_variance, rtol=1e-9)
    assert torch.allclose(cut.mean, whole.mean, rtol=1e-9)


def test_em_does_not_start_on_the_saddle():
    x = some_data()
    start = PPCA(torch.zeros(5, 2).double(), x.mean(0), x.var(0).mean())
    # One step shows why: the loading stays zero.
    assert not start.m_step(start.e_step(x)).loading.any()
    for accelerate in (True, False):
        with pytest.raises(ValueError, match="start must have a loading that is not zero"):
            PPCA.fit(x, 2, method="em", start=start, accelerate=accelerate)
    # Noise leads stochastic-gradient EM away from there.
    fit = PPCA.fit(
        x, 2, method="stochastic-gradient-em", start=start, num_steps=400, generator=seeded()
    )
    assert reached(PPCA.fit(x, 2)) - reached(fit) < 0.1 * len(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    got = f"must have dtype torch.float32 or torch.float64, got {dtype}"
    with pytest.raises(TypeError, match=f"^loading {got}"):
        PPCA(*(torch.ones(shape, dtype=dtype) for shape in ((3, 1), (3,), ())))
    for method in ("closed-form", "em", "stochastic-gradient-em"):
        with pytest.raises(TypeError, match=f"^x {got}"):
            PPCA.fit(some_data().to(dtype), 2, method=method, generator=seeded())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": True}, 'missing entries have no closed form; use method="em"'),
        ({"start": some_ppca()}, "start must be None for the closed form"),
        ({"x": with_holes(some_data())}, "x must be finite"),
    ],
)
def test_the_closed_form_refuses_what_it_cannot_use(change, message):
    with pytest.raises(ValueError, match=message):
        PPCA.fit(**({"x": some_data(), "latent_dim": 2} | change))
