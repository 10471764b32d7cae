"""nfbook.bayes against SciPy, scikit-learn, quadrature, autograd and joint Gaussians."""

import math

import numpy as np
import pytest
import torch
from draws import number, seeded
from scipy import integrate, stats
from sklearn.linear_model import BayesianRidge
from torch.distributions import MultivariateNormal, Normal

from nfbook.bayes import (
    BetaBernoulli,
    GaussianMean,
    LinearRegression,
    log_evidence_by_quadrature,
)
from nfbook.data import diabetes, old_faithful
from nfbook.exercises import bayes as exercises

F64 = torch.float64
TOSSES = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=F64)
NUMBERS = torch.tensor([0.3, -1.2, 2.5, 0.9], dtype=F64)


def coin(a=2.5, b=1.5):
    return BetaBernoulli(number(a), number(b))


def gauss(m=0.7, s=2.0, noise=0.6):
    return GaussianMean(number(m), number(s), number(noise))


def regression(n=9, d=3, seed=0):
    g = seeded(seed)
    model = LinearRegression(torch.rand(d, generator=g, dtype=F64) + 0.5, number(0.4))
    design = torch.randn(n, d, generator=g, dtype=F64)
    return model, (design, torch.randn(n, generator=g, dtype=F64))


def close(left, right, tol=1e-9):
    return torch.allclose(
        torch.as_tensor(left, dtype=F64), torch.as_tensor(right, dtype=F64), rtol=tol, atol=tol
    )


# --- the coin ------------------------------------------------------------------------------------


def test_coin_posterior_is_scipys_normalised_product():
    grid = np.linspace(0.05, 0.95, 7)
    reference = stats.beta(2.5, 1.5)

    def joint(theta):
        return reference.pdf(theta) * np.prod(stats.bernoulli.pmf(TOSSES.numpy(), theta))

    evidence = integrate.quad(joint, 0, 1, epsabs=1e-13)[0]
    expected = [joint(theta) / evidence for theta in grid]
    posterior = coin().posterior(TOSSES)
    assert close(posterior.log_prob(torch.from_numpy(grid)).exp(), expected)
    assert close(coin().log_evidence(TOSSES), math.log(evidence))


def test_coin_evidence_of_a_long_record_does_not_underflow():
    tosses = torch.ones(100_000, dtype=F64)
    assert close(coin(1.0, 1.0).log_evidence(tosses), -math.log(100_001))


@pytest.mark.parametrize("model", [coin(), coin(1.0, 1.0), coin(4.0, 9.0)])
def test_coin_map_has_slope_zero(model):
    theta = model.map(TOSSES).requires_grad_()
    (slope,) = torch.autograd.grad(model.log_joint(theta, TOSSES), theta)
    assert close(slope, 0.0)


def test_coin_mle_is_the_map_of_the_flat_prior_even_at_the_edge():
    for tosses in (TOSSES, torch.ones(4, dtype=F64), torch.zeros(4, dtype=F64)):
        assert close(coin(1.0, 1.0).map(tosses), coin().mle(tosses))
    assert close(coin().mle(TOSSES), 5 / 7)


@pytest.mark.parametrize(
    ("a", "b", "tosses", "words"),
    [
        (0.5, 2.0, [0.0, 0.0], r"at 0, since a \+ heads = 0.5"),
        (2.0, 0.5, [1.0], r"at 1, since b \+ tails = 0.5"),
    ],
)
def test_coin_without_a_mode_says_so(a, b, tosses, words):
    with pytest.raises(ValueError, match=words):
        coin(a, b).map(number(tosses))


def test_coin_predictive_is_a_ratio_of_evidences():
    longer = torch.cat((TOSSES, number([1.0])))
    ratio = (coin().log_evidence(longer) - coin().log_evidence(TOSSES)).exp()
    assert close(coin().predictive(TOSSES).probs, ratio)


def test_coin_likelihood_at_the_edges():
    values = coin().log_likelihood(number([0.0, 0.5, 1.0]), torch.ones(3, dtype=F64))
    assert values.tolist() == [-math.inf, 3 * math.log(0.5), 0.0]


# --- the Gaussian mean ---------------------------------------------------------------------------


def test_mean_posterior_by_quadrature():
    def joint(theta):
        return math.exp(gauss().log_joint(number(theta), NUMBERS))

    moments = [integrate.quad(lambda t, k=k: t**k * joint(t), -9, 9)[0] for k in range(3)]
    mean, square = moments[1] / moments[0], moments[2] / moments[0]
    posterior = gauss().posterior(NUMBERS)
    assert close(gauss().log_evidence(NUMBERS), math.log(moments[0]))
    assert close(posterior.mean, mean)
    assert close(posterior.variance, square - mean**2)
    assert close(gauss().map(NUMBERS), mean)
    assert close(gauss().mle(NUMBERS), np.mean(NUMBERS.numpy()))


def test_mean_evidence_and_predictive_from_the_joint_gaussian():
    def joint(x):
        covariance = 0.6 * torch.eye(len(x), dtype=F64) + 2.0
        return MultivariateNormal(number([0.7] * len(x)), covariance).log_prob(x)

    new = number(1.7)
    longer = torch.cat((NUMBERS, new[None]))
    assert close(gauss().log_evidence(NUMBERS), joint(NUMBERS))
    assert close(gauss().predictive(NUMBERS).log_prob(new), joint(longer) - joint(NUMBERS))


# --- linear regression ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_regression_posterior_has_slope_zero_and_curvature_a(n):
    model, data = regression(n)
    mean = model.map(data)

    def log_joint(w):
        return model.log_joint(w, data)

    assert torch.autograd.functional.jacobian(log_joint, mean).abs().max() < 1e-9
    curvature = torch.autograd.functional.hessian(log_joint, mean)
    posterior = model.posterior(data)
    assert close(posterior.covariance_matrix @ -curvature, torch.eye(3, dtype=F64))
    assert close(posterior.mean, mean)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_regression_evidence_and_predictive_from_the_marginal(n):
    model, (design, targets) = regression(n + 1)

    def marginal(rows):
        features = design[:rows]
        covariance = features @ model.prior_variance.diag() @ features.T
        covariance = covariance + 0.4 * torch.eye(rows, dtype=F64)
        return MultivariateNormal(torch.zeros(rows, dtype=F64), covariance).log_prob(targets[:rows])

    seen = (design[:n], targets[:n])
    assert close(model.log_evidence(seen), marginal(n))
    predicted = model.predictive(seen, design[n:]).log_prob(targets[n])
    assert close(predicted[0], marginal(n + 1) - marginal(n))


def test_regression_occam_factor_by_bayes_theorem():
    model, data = regression()
    w = number([0.3, -2.0, 1.1])  # Bayes' theorem holds at every w
    evidence = model.log_joint(w, data) - model.posterior(data).log_prob(w)
    fit = model.log_likelihood(model.map(data), data)
    assert close(model.log_occam_factor(data), evidence - fit)


def test_regression_evidence_has_its_maximum_where_scikit_learn_finds_it():
    _, (design, _) = regression(60)
    noise = torch.randn(60, generator=seeded(5), dtype=F64)
    targets = design @ number([1.0, -0.5, 0.7]) + 0.3 * noise
    free = {"alpha_1": 0, "alpha_2": 0, "lambda_1": 0, "lambda_2": 0}
    found = BayesianRidge(fit_intercept=False, tol=1e-12, max_iter=5000, **free)
    found.fit(design.numpy(), targets.numpy())
    log_variances = number([1 / found.lambda_, 1 / found.alpha_]).log().requires_grad_()
    prior, noise_variance = log_variances.exp()
    model = LinearRegression(prior * torch.ones(3, dtype=F64), noise_variance)
    (slope,) = torch.autograd.grad(model.log_evidence((design, targets)), log_variances)
    assert slope.abs().max() < 1e-5
    assert close(model.map((design, targets)).detach(), found.coef_, tol=1e-6)
    assert close(
        model.posterior((design, targets)).covariance_matrix.detach(), found.sigma_, tol=1e-6
    )


def test_regression_mle_is_least_squares():
    model, (design, targets) = regression(12)
    expected = np.linalg.lstsq(design.numpy(), targets.numpy(), rcond=None)[0]
    assert close(model.mle((design, targets)), expected)


@pytest.mark.parametrize("n", [2, 9])
def test_regression_without_a_unique_mle_says_so_and_still_has_a_map(n):
    model, (design, targets) = regression(n)
    design = torch.stack((design[:, 0], design[:, 1], design[:, 0] + design[:, 1]), dim=1)
    with pytest.raises(ValueError, match="3 columns, of which 2 are linearly independent"):
        model.mle((design, targets))
    assert torch.isfinite(model.map((design, targets))).all()


def test_regression_likelihood_of_many_weights():
    model, data = regression()
    weights = torch.randn(4, 2, 3, generator=seeded(1), dtype=F64)
    values = model.log_likelihood(weights, data)
    one = MultivariateNormal(data[0] @ weights[3, 1], 0.4 * torch.eye(9, dtype=F64))
    assert values.shape == (4, 2)
    assert close(values[3, 1], one.log_prob(data[1]))


# --- all three -----------------------------------------------------------------------------------

MODELS = [
    (coin(), TOSSES, number([0.2, 0.7])),
    (gauss(), NUMBERS, number([-0.3, 1.4])),
    (*regression(), number([[0.1, 0.2, -0.3], [1.0, 0.0, 0.5]])),
]
IDS = ["coin", "mean", "regression"]


@pytest.mark.parametrize(("model", "data", "theta"), MODELS, ids=IDS)
def test_bayes_theorem_holds_at_any_parameter(model, data, theta):
    left = model.posterior(data).log_prob(theta) + model.log_evidence(data)
    right = model.prior.log_prob(theta) + model.log_likelihood(theta, data)
    assert close(left, right)
    assert close(model.log_joint(theta, data), right)


def build(kind, dtype):
    one = torch.ones((), dtype=dtype)
    if kind == "coin":
        return BetaBernoulli(2 * one, 2 * one), TOSSES.to(dtype), one / 2
    if kind == "mean":
        return GaussianMean(0 * one, one, one), NUMBERS.to(dtype), one
    design, targets = regression()[1]
    model = LinearRegression(torch.ones(3, dtype=dtype), one)
    return model, (design.to(dtype), targets.to(dtype)), torch.ones(3, dtype=dtype)


@pytest.mark.parametrize("kind", IDS)
def test_single_precision_is_kept_and_agrees_with_double(kind):
    (narrow, data, theta), (wide, data64, _) = (build(kind, t) for t in (torch.float32, F64))
    predictive = narrow.predictive(data, *data[:1]) if kind == "regression" else None
    predictive = predictive or narrow.predictive(data)
    results = (
        narrow.prior.mean,
        narrow.log_likelihood(theta, data),
        narrow.log_joint(theta, data),
        narrow.posterior(data).mean,
        narrow.map(data),
        narrow.mle(data),
        narrow.log_evidence(data),
        predictive.mean,
    )
    assert {result.dtype for result in results} == {torch.float32}
    assert close(narrow.log_evidence(data), wide.log_evidence(data64), tol=1e-5)
    assert close(narrow.map(data), wide.map(data64), tol=1e-5)


@pytest.mark.parametrize("kind", IDS)
def test_mixed_data_types_are_refused(kind):
    model, _, theta64 = build(kind, torch.float64)
    _, data32, _ = build(kind, torch.float32)
    data64 = build(kind, torch.float64)[1]
    for method in ("posterior", "map", "mle", "log_evidence"):
        with pytest.raises(TypeError, match="same dtype"):
            getattr(model, method)(data32)
    with pytest.raises(TypeError, match=r"theta and .* same dtype"):
        model.log_likelihood(theta64.float(), data64)


def test_python_numbers_take_the_default_type():
    assert BetaBernoulli(1, 2).a.dtype == torch.get_default_dtype()
    assert GaussianMean(0, 1, 2).noise_variance.dtype == torch.get_default_dtype()


def test_models_carry_gradients_to_their_hyperparameters():
    a = number(2.0).requires_grad_()
    (slope,) = torch.autograd.grad(BetaBernoulli(a, number(3.0)).log_evidence(TOSSES), a)
    step = 1e-6
    up, down = (coin(2.0 + k * step, 3.0).log_evidence(TOSSES) for k in (1, -1))
    assert close(slope, (up - down) / (2 * step), tol=1e-7)


# --- bad input -----------------------------------------------------------------------------------

NAN = number([1.0, math.nan])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: BetaBernoulli(0.0, 1.0), ValueError, "a must be positive, got 0"),
        (lambda: BetaBernoulli(number([1.0]), number(1.0)), ValueError, "a must have shape"),
        (lambda: BetaBernoulli(number(1.0), torch.tensor(1.0)), TypeError, "a and b must have"),
        (lambda: GaussianMean(math.inf, 1.0, 1.0), ValueError, "prior_mean must be finite"),
        (lambda: GaussianMean(0.0, -1.0, 1.0), ValueError, "prior_variance must be positive"),
        (lambda: GaussianMean(0.0, 1.0, 0.0), ValueError, "noise_variance must be positive"),
        (lambda: LinearRegression(1.0, 1.0), TypeError, "prior_variance must be a torch.Tensor"),
        (
            lambda: LinearRegression(number([1.0, 0.0]), number(1.0)),
            ValueError,
            "prior_variance must",
        ),
        (lambda: LinearRegression(torch.ones(2), -1.0), ValueError, "noise_variance must be"),
        (lambda: LinearRegression(number([1.0]), torch.tensor(1.0)), TypeError, "same dtype"),
        (lambda: BetaBernoulli(number(1e308), number(1.0)), ValueError, r"a and b .* B\(a, b\)"),
        (lambda: GaussianMean(0.0, 1e-50, 1.0), ValueError, "prior_variance must not round"),
    ],
)
def test_bad_models_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([1.0, 0.0], TypeError, "data must be a torch.Tensor, got list"),
        (torch.tensor([1, 0]), TypeError, "data must be a floating-point tensor"),
        (number([[1.0]]), ValueError, r"data must have shape \(n,\)"),
        (NAN, ValueError, "data must be finite, got 1 NaN"),
        (number([1.0, 0.5]), ValueError, "data must hold only 0 and 1, got 0.5"),
    ],
)
def test_bad_tosses_are_refused(data, error, words):
    for method in ("posterior", "map", "mle", "log_evidence", "predictive"):
        with pytest.raises(error, match=words):
            getattr(coin(), method)(data)


@pytest.mark.parametrize(
    "theta", [number(1.1), number([-0.1, 0.5]), number(math.nan), torch.tensor(1), 0.5]
)
def test_bad_probabilities_are_refused(theta):
    with pytest.raises((TypeError, ValueError), match="theta must"):
        coin().log_likelihood(theta, TOSSES)


TOO_SMALL = "prior_variance and noise_variance must not be so small or so far apart"


@pytest.mark.parametrize("method", ["posterior", "map", "log_evidence", "predictive"])
@pytest.mark.parametrize(("prior", "noise"), [(1e-320, 1.0), (1.0, 1e-320), (1e-160, 1e-320)])
def test_numbers_with_variances_beyond_the_data_type_are_refused(method, prior, noise):
    model = GaussianMean(number(1.0), number(prior), number(noise))
    if (method, noise) == ("log_evidence", 1.0):
        assert close(model.log_evidence(NUMBERS), model.log_likelihood(number(1.0), NUMBERS))
        return
    with pytest.raises(ValueError, match=TOO_SMALL):
        getattr(model, method)(NUMBERS)


@pytest.mark.parametrize("method", ["posterior", "map", "log_evidence", "log_occam_factor"])
@pytest.mark.parametrize(
    ("prior", "noise", "dtype"),
    [(1.0, 1e-320, F64), (1e-320, 1.0, F64), (1.0, 1e-30, F64), (1e-39, 1.0, torch.float32)],
)
def test_regression_with_variances_beyond_the_data_type_is_refused(method, prior, noise, dtype):
    model = LinearRegression(torch.full((5,), prior, dtype=dtype), torch.tensor(noise, dtype=dtype))
    data = regression(n=3, d=5)[1]
    with pytest.raises(ValueError, match=f"{TOO_SMALL} .* {dtype}, got"):
        getattr(model, method)(tuple(value.to(dtype) for value in data))


@pytest.mark.parametrize("data", [number([]), number([[1.0]]), NAN, torch.tensor([1, 2]), [1.0]])
def test_bad_numbers_are_refused(data):
    for method in ("posterior", "map", "mle", "log_evidence", "predictive"):
        with pytest.raises((TypeError, ValueError), match="data must"):
            getattr(gauss(), method)(data)


DESIGN, TARGETS = regression()[1]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (DESIGN, TypeError, "data must be a pair"),
        ((DESIGN,), TypeError, "data must be a pair .*, got 1 elements"),
        ([DESIGN, TARGETS], TypeError, "data must be a pair .*, got list"),
        ((DESIGN[:, :2], TARGETS), ValueError, r"design must have shape \(n, 3\), got \(9, 2\)"),
        ((DESIGN, TARGETS[:4]), ValueError, r"targets must have shape \(9,\), got \(4,\)"),
        ((DESIGN, TARGETS * math.nan), ValueError, "targets must be finite"),
    ],
)
def test_bad_regression_data_are_refused(data, error, words):
    model = regression()[0]
    for method in ("posterior", "map", "mle", "log_evidence", "log_occam_factor"):
        with pytest.raises(error, match=words):
            getattr(model, method)(data)


def test_bad_weights_and_inputs_are_refused():
    model, data = regression()
    with pytest.raises(ValueError, match=r"theta must have shape \(\*, 3\)"):
        model.log_likelihood(torch.ones(2, dtype=F64), data)
    with pytest.raises(ValueError, match=r"inputs must have shape \(m, 3\)"):
        model.predictive(data, torch.ones(3, dtype=F64))
    with pytest.raises(TypeError, match="inputs and prior_variance"):
        model.predictive(data, torch.ones(1, 3))


# --- quadrature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3])
def test_quadrature_finds_the_evidence(d):
    model, data = regression(9, d)
    posterior = model.posterior(data)
    width = 8 * posterior.covariance_matrix.diagonal().sqrt()
    lower, upper = posterior.mean - width, posterior.mean + width
    found = log_evidence_by_quadrature(lambda w: model.log_joint(w, data), lower, upper, 64)
    assert close(found, model.log_evidence(data), tol=1e-8)


def test_quadrature_is_numpys_trapezoid_axis_by_axis():
    lower, upper = number([0.0, -1.0]), number([2.0, 3.0])
    x, y = (np.linspace(a, b, 7) for a, b in ((0, 2), (-1, 3)))
    values = np.exp(np.sin(3 * x[:, None]) - 0.3 * y[None] ** 2 * x[:, None])
    expected = math.log(np.trapezoid(np.trapezoid(values, y, axis=1), x))

    def log_density(z):
        return torch.sin(3 * z[:, 0]) - 0.3 * z[:, 1] ** 2 * z[:, 0]

    assert close(log_evidence_by_quadrature(log_density, lower, upper, 7), expected)


def test_quadrature_of_a_density_far_below_the_smallest_number():
    box = number([8.0])
    normal = Normal(number(0.0), number(1.0))
    found = log_evidence_by_quadrature(lambda z: normal.log_prob(z[:, 0]) - 5000, -box, box, 60)
    assert close(found, -5000.0)


ONE = torch.ones(2, dtype=F64)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-ONE, ONE[:1], 5), ValueError, r"upper must have shape \(2,\)"),
        ((ONE, ONE, 5), ValueError, "lower must be below upper"),
        ((-ONE, ONE.float(), 5), TypeError, "lower and upper"),
        ((-ONE, ONE, 1), ValueError, "points must be at least 2, got 1"),
        ((-ONE * math.inf, ONE, 5), ValueError, "lower must be finite"),
        ((-torch.ones(10), torch.ones(10), 10), ValueError, r"10\^10 = 1e\+10 points"),
        (
            (-torch.ones(400), torch.ones(400), 10),
            ValueError,
            r"a grid of 10\^400 points is larger",
        ),
        ((-ONE * 1e308, ONE * 1e308, 5), ValueError, "upper - lower must be finite"),
    ],
)
def test_quadrature_refuses_bad_boxes(arguments, error, words):
    with pytest.raises(error, match=words):
        log_evidence_by_quadrature(lambda z: z.sum(dim=1), *arguments)


def test_quadrature_names_the_bytes_and_the_limit():
    with pytest.raises(
        ValueError, match=r"16\^2 = 256 points \(4\.1e\+03 bytes\) .* max_points = 100"
    ):
        log_evidence_by_quadrature(lambda z: z[:, 0], -ONE, ONE, 16, max_points=100)


@pytest.mark.parametrize(
    ("log_joint", "error", "words"),
    [
        (None, TypeError, "log_joint must be a function, got NoneType"),
        (lambda z: z, ValueError, r"log_joint's result must have shape \(25,\), got \(25, 2\)"),
        (lambda z: 0.0, TypeError, "log_joint's result must be a torch.Tensor, got float"),
        (lambda z: z[:, 0] * math.nan, ValueError, "log_joint's result .* got 25 NaN or plus inf"),
        (lambda z: z[:, 0].float(), TypeError, "log_joint's result and lower must have the same"),
    ],
)
def test_quadrature_refuses_bad_densities(log_joint, error, words):
    with pytest.raises(error, match=words):
        log_evidence_by_quadrature(log_joint, -ONE, ONE, 5)


# --- the exercises -------------------------------------------------------------------------------


def test_exercise_solutions_are_what_the_package_computes():
    solutions = {name: exercise.solution for name, exercise in exercises.EXERCISES.items()}
    predicted = coin(2.0, 3.0).predictive(torch.cat((torch.ones(7), torch.zeros(3))).double())
    assert close(solutions["bayes-1"](2.0, 3.0, 7, 3), predicted.mean)

    tosses = torch.cat((torch.ones(7), torch.zeros(3))).double()
    assert close(solutions["bayes-2"](), coin(1.0, 1.0).log_evidence(tosses) + 10 * math.log(2))

    eta = np.linspace(1e-4, 1 - 1e-4, 200_001)
    density = stats.beta(3.0, 4.0).pdf(np.sqrt(eta)) / (2 * np.sqrt(eta))
    assert abs(solutions["bayes-4"](3.0, 4.0) - eta[density.argmax()]) < 1e-5

    theta = np.linspace(-3, 3, 600_001)
    for average, n, noise, c in ((2.0, 4, 1.0, 0.5), (-0.9, 2, 0.5, 1.0), (0.1, 3, 2.0, 0.4)):
        log_posterior = -0.5 * n / noise * (theta - average) ** 2 - np.abs(theta) / c
        found = theta[log_posterior.argmax()]
        assert abs(solutions["bayes-5"](average, n, noise, c) - found) < 2e-5

    record = old_faithful().double()
    late = record[record[:, 1] >= 55]
    assert solutions["bayes-3"]() == pytest.approx(float((late[:, 0] <= 3).double().mean()))

    theta = np.linspace(1e-6, 40, 400_001)
    posterior = theta**6 * np.exp(-2 * theta) * stats.gamma(2.0, scale=1 / 1.5).pdf(theta)
    mean = (theta * posterior).sum() / posterior.sum()
    assert solutions["bayes-6"](2.0, 1.5, 6, 2) == pytest.approx(mean, rel=1e-6)

    wait = stats.norm(70, 6).ppf((np.arange(5_000) + 0.5) / 5_000)
    places = np.linspace(60, 75, 301)
    costs = [(np.maximum(wait - at, 0) + 3 * np.maximum(at - wait, 0)).mean() for at in places]
    assert abs(solutions["bayes-7"](70.0, 6.0, 3.0) - places[np.argmin(costs)]) < 0.06

    tosses = torch.tensor([1, 0, 1, 1], dtype=F64)
    assert close(solutions["bayes-8"](2.0, 3.0, (1, 0, 1, 1)), coin(2.0, 3.0).log_evidence(tosses))

    inputs, targets = (part.double() for part in diabetes())
    inputs = inputs * math.sqrt(len(inputs))
    targets = (targets - targets.mean()) / targets.std(correction=0)
    all_ten, without_bmi = (
        stats.multivariate_normal(cov=(0.04 * x @ x.T + 0.49 * torch.eye(442)).numpy())
        for x in (inputs, inputs[:, torch.arange(10) != 2])
    )
    assert close(
        solutions["bayes-9"]()[2],
        torch.tensor(all_ten.logpdf(targets) - without_bmi.logpdf(targets)),
        tol=1e-6,
    )
