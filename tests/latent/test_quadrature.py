"""Nodes and weights, against closed forms and NumPy's Gauss-Hermite rule."""

import math

import numpy as np
import pytest
import torch
from draws import number, rand
from torch.distributions import Beta, Independent, MultivariateNormal, Normal

from nfbook.quadrature import around_gaussian, gauss_hermite, grid

DOUBLE = torch.float64


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def gaussians() -> list:
    """One of each kind, with random parameters."""
    mean, scale = rand(2, seed=1), 0.5 + rand(2, seed=2).abs()
    factor = torch.stack((double(1.3, 0.0), rand(2, seed=3).abs() + 0.2))
    return [
        Normal(mean[0], scale[0]),
        Independent(Normal(mean, scale), 1),
        MultivariateNormal(mean, scale_tril=factor),
    ]


def second_moments(nodes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    nodes = nodes.reshape(len(nodes), -1)
    return (nodes.mT * weights) @ nodes


def exact_second_moments(gaussian) -> torch.Tensor:
    mean = gaussian.mean.reshape(-1)
    if isinstance(gaussian, MultivariateNormal):
        return gaussian.covariance_matrix + mean.outer(mean)
    return gaussian.variance.reshape(-1).diag() + mean.outer(mean)


def test_a_grid_is_the_trapezoidal_rule():
    x, weights = grid(double(-1.0), double(2.0), points=7)
    assert x.shape == (7, 1)
    torch.testing.assert_close(
        weights @ x[:, 0] ** 3, torch.trapezoid(x[:, 0] ** 3, x[:, 0]), rtol=1e-14, atol=0
    )


def test_a_box_integrates_what_is_linear_in_each_coordinate_exactly():
    z, weights = grid(double(0.0, -1.0), double(2.0, 2.0), points=4)
    assert z.shape == (16, 2)
    # ∫₀² x dx · ∫₋₁² (1 + y) dy
    assert float(weights @ (z[:, 0] * (1 + z[:, 1]))) == pytest.approx(2 * 4.5, rel=1e-14)


@pytest.mark.parametrize("gaussian", gaussians())
def test_both_rules_find_the_moments_of_a_gaussian(gaussian):
    z, weights = around_gaussian(gaussian)
    weights = weights * gaussian.log_prob(z).exp()
    exact = exact_second_moments(gaussian)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=DOUBLE), rtol=1e-13, atol=0)
    torch.testing.assert_close(second_moments(z, weights), exact, rtol=1e-12, atol=1e-12)
    moments = second_moments(*gauss_hermite(gaussian, points=3))
    torch.testing.assert_close(moments, exact, rtol=1e-12, atol=1e-12)


def test_the_hermite_rule_agrees_with_numpy_s():
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    z, v = gauss_hermite(Normal(number(0.0), number(1.0)), points=12)
    np.testing.assert_allclose(z, nodes, atol=1e-12)
    np.testing.assert_allclose(v, weights / math.sqrt(2 * math.pi), atol=1e-14)


def test_gradients_pass_through_the_nodes():
    scale = number(0.7).requires_grad_()
    z, weights = gauss_hermite(Normal(number(0.0), scale), points=4)
    (slope,) = torch.autograd.grad(weights @ z**4, scale)
    assert float(slope) == pytest.approx(12 * 0.7**3, rel=1e-12)  # E z⁴ = 3 s⁴


def test_single_precision_stays_single():
    normal = Normal(torch.tensor(0.0, dtype=torch.float32), torch.tensor(1.0, dtype=torch.float32))
    for rule in (around_gaussian, gauss_hermite):
        assert {part.dtype for part in rule(normal)} == {torch.float32}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grid(1.0, 1.0, 5), ValueError, "low must be below high"),
        (lambda: grid(0.0, 1.0, 1), ValueError, "points must be"),
        (lambda: grid(0.0, double(1.0), 5), ValueError, "low must have shape"),
        (lambda: grid(double(0.0), double(1.0, 2.0), 5), ValueError, "high must have shape"),
        (lambda: grid(-torch.ones(9), torch.ones(9), 100), ValueError, r"100\^9 nodes"),
        (lambda: around_gaussian(Normal(0.0, 1.0), width=-1.0), ValueError, "width must be"),
        (lambda: gauss_hermite(Beta(1.0, 1.0)), TypeError, "gaussian must be a Normal"),
        (lambda: gauss_hermite(Normal(torch.zeros(3), 1.0)), ValueError, "a single one"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
