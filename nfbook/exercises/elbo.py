"""The exercises of the chapter on the evidence lower bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

MEANS_AND_LOG_VARIANCES = (
    (torch.tensor([1.0, -0.5, 0.0]), torch.tensor([0.3, -1.0, 0.8])),
    (torch.tensor([0.0, 2.0]), torch.tensor([-0.6, 0.5])),
)
COVARIANCES = (
    (torch.tensor([[1.0, 0.9], [0.9, 1.0]]),),
    (torch.tensor([[2.0, 0.4, -0.3], [0.4, 1.0, 0.5], [-0.3, 0.5, 1.5]]),),
)


def _kl(ratio: float, squared_distance: float) -> float:
    return 0.5 * (ratio + squared_distance - 1 - math.log(ratio))


def _kl_diagonal(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()


def _root(low: float = 0.5, high: float = 3.0) -> float:
    """Where k² - 1 + (1 - 3k²) exp(-2k²) changes its sign, by bisection."""
    for _ in range(60):
        k = (low + high) / 2
        below = k**2 - 1 + (1 - 3 * k**2) * math.exp(-2 * k**2) < 0
        low, high = (k, high) if below else (low, k)
    return low


EXERCISES = {
    # Posterior N(8/5, 1/5), q = N(1, 1/2).
    "elbo-1": Exercise(
        solution=lambda: _kl(2.5, 1.8),
        hint="the gap is the divergence of q from the posterior, two Gaussians on the line.",
        mistakes=(
            Mistake(
                lambda: _kl(0.4, 0.72),
                "that is the divergence of the posterior from q. The gap is the other one.",
            ),
            Mistake(
                lambda: _kl(6.25, 9.0),
                "you took 1/5 and 1/2 for standard deviations. They are variances.",
            ),
            Mistake(
                lambda: 2 * _kl(2.5, 1.8),
                "the formula begins with a factor 1/2.",
            ),
            Mistake(
                lambda: 0.5 * (2.5 + 1.8 - 1 + math.log(2.5)),
                "the logarithm has the wrong sign: a q that is too wide has too much entropy, "
                "which makes up for a part of the loss.",
            ),
            Mistake(
                lambda: _kl(0.5, 1.0),
                "that is the divergence of q from the prior. It is a term of the bound, "
                "and not the gap.",
            ),
        ),
        tolerance=1e-3,
    ),
    "elbo-2": Exercise(
        solution=_kl_diagonal,
        hint="insert exp(log s²) for s² in the closed form, coordinate by coordinate.",
        mistakes=(
            Mistake(
                lambda mean, log_variance: _kl_diagonal(mean, 2 * log_variance),
                "you took the second argument for log s. It is the logarithm of the variance.",
            ),
            Mistake(
                lambda mean, log_variance: _kl_diagonal(mean, log_variance) / len(mean),
                "the divergences of independent coordinates add up. Take the sum, not the mean.",
            ),
            Mistake(
                lambda mean, log_variance: -_kl_diagonal(mean, log_variance),
                "the sign is wrong: a divergence is never negative. What you return is added to "
                "the bound.",
            ),
            Mistake(
                lambda mean, log_variance: 2 * _kl_diagonal(mean, log_variance),
                "the formula begins with a factor 1/2.",
            ),
        ),
        at=MEANS_AND_LOG_VARIANCES,
        tolerance=1e-5,
    ),
    "elbo-3": Exercise(
        solution=lambda covariance: 1 / covariance.inverse().diagonal(),
        hint="write the divergence of q from the posterior with the inverse of Σ, and set its "
        "derivative by each variance to zero.",
        mistakes=(
            Mistake(
                lambda covariance: covariance.diagonal(),
                "these are the variances of the posterior, which minimise the forward "
                "divergence. The bound minimises the reverse one.",
            ),
            Mistake(
                lambda covariance: covariance.inverse().diagonal(),
                "you return the precisions. The variances are their reciprocals.",
            ),
            Mistake(
                lambda covariance: 1 / covariance.diagonal(),
                "the diagonal of the inverse is not the inverse of the diagonal.",
            ),
            Mistake(
                lambda covariance: covariance.inverse().diagonal().rsqrt(),
                "you return the standard deviations. The question is for the variances.",
            ),
            Mistake(
                lambda covariance: torch.linalg.eigvalsh(covariance),
                "the eigenvalues are the variances along the principal axes. The axes of q are "
                "those of the coordinates.",
            ),
        ),
        at=COVARIANCES,
        tolerance=1e-5,
    ),
    "elbo-4": Exercise(
        solution=_root,
        hint="both have the same mean, so set their second moments equal. They hold "
        "cos(2kε), so a is 2k.",
        mistakes=(
            Mistake(
                lambda: 1.0,
                "you left out the exponentials. They are small at k = 1, and not zero.",
            ),
            Mistake(
                lambda: _root() / 2,
                "a is 2k in the formulas: sin² and cos² of kε hold cos(2kε).",
            ),
        ),
        tolerance=1e-3,
    ),
}
