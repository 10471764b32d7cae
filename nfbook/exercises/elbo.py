"""The exercises of the chapter on the evidence lower bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.data import old_faithful
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
LOSSES = (
    (torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.0, -0.4, 1.1]), *MEANS_AND_LOG_VARIANCES[1]),
    (torch.tensor([1.0, 0.3]), torch.tensor([-0.2, 0.8]), *MEANS_AND_LOG_VARIANCES[0]),
)


def _kl(ratio: float, squared_distance: float) -> float:
    return 0.5 * (ratio + squared_distance - 1 - math.log(ratio))


def _kl_diagonal(mean: Tensor, log_variance: Tensor) -> Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()


def _loss(
    x: Tensor,
    decoded: Tensor,
    m: Tensor,
    log_variance: Tensor,
    *,
    mean: bool = False,
    constant: bool = True,
    sign: int = 1,
) -> Tensor:
    """Minus the bound, or what it is with some of the bugs left in."""
    squares = (x - decoded) ** 2
    reconstruction = -0.5 * (squares.mean() if mean else squares.sum())
    if constant:
        reconstruction = reconstruction - 0.5 * len(x) * math.log(2 * math.pi)
    divergence = 0.5 * (m**2 + log_variance.exp() - 1 - sign * log_variance).sum()
    return divergence - reconstruction


def _root(low: float = 0.5, high: float = 3.0) -> float:
    """Where k² - 1 + (1 - 3k²) exp(-2k²) changes its sign, by bisection."""
    for _ in range(60):
        k = (low + high) / 2
        below = k**2 - 1 + (1 - 3 * k**2) * math.exp(-2 * k**2) < 0
        low, high = (k, high) if below else (low, k)
    return low


def _log_joint() -> Tensor:
    """The log joint densities of all eruptions and both kinds, `(272, 2)`."""
    double = torch.float64
    means = torch.tensor([2.0, 4.3], dtype=double)
    kinds = Normal(means, torch.tensor([0.25, 0.4], dtype=double))
    durations = old_faithful()[:, :1]
    likelihood: Tensor = kinds.log_prob(durations)
    return likelihood + torch.tensor([0.35, 0.65], dtype=double).log()


def _hard_gap() -> Tensor:
    log_joint = _log_joint()
    return (log_joint.logsumexp(1) - log_joint.max(1).values).sum()


def _entropies() -> Tensor:
    shares = _log_joint().log_softmax(1)
    return -(shares.exp() * shares).sum()


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
                "the logarithm has the wrong sign: a q that is too wide has more entropy than the "
                "posterior, which makes up for a part of the loss.",
            ),
            Mistake(
                lambda: _kl(0.5, 1.0),
                "that is the divergence of q from the prior. It is a term of the bound, "
                "and not the gap.",
            ),
        ),
        tolerance=1e-3,
    ),
    # Energies 0 and log 9, so Z = 10/9.
    "elbo-2": Exercise(
        solution=lambda: math.log(3) - math.log(2) + math.log(10 / 9),
        hint="compute mean energy minus entropy for the uniform distribution, and subtract the "
        "minimum, -log Z.",
        mistakes=(
            Mistake(
                lambda: math.log(3) - math.log(2),
                "that is the free energy of the uniform distribution. Its minimum has still to "
                "be subtracted.",
            ),
            Mistake(
                lambda: math.log(3) + math.log(2) + math.log(10 / 9),
                "the entropy is subtracted from the mean energy, not added.",
            ),
            Mistake(
                lambda: math.log(3) - math.log(2) - math.log(10 / 9),
                "the minimum is -log Z, so it is log Z that is added.",
            ),
            Mistake(
                lambda: 0.9 * math.log(1.8) + 0.1 * math.log(0.2),
                "that is the divergence in the other direction. The average is taken over the "
                "uniform distribution.",
            ),
        ),
        tolerance=1e-3,
    ),
    # Weight 0.1, divergence 0.05 from the component itself.
    "elbo-3": Exercise(
        solution=lambda: 0.05 - math.log(0.1),
        hint="the gap is the divergence from the component that was found, minus the logarithm of "
        "the weight of that component.",
        mistakes=(
            Mistake(
                lambda: 0.05 - math.log(0.9),
                "that would be the gap if q had found the larger component. The weight that counts "
                "is that of the component on which q sits.",
            ),
            Mistake(
                lambda: -math.log(0.1),
                "q does not equal the component. Its divergence from it, 0.05, comes on top.",
            ),
            Mistake(
                lambda: 0.05 + math.log(0.1),
                "the logarithm of a weight is negative, so it must be subtracted: a missing mode "
                "widens the gap.",
            ),
            Mistake(
                lambda: 0.1 * 0.05 - math.log(0.1),
                "the divergence from the component is not weighed: all of q sits there.",
            ),
        ),
        tolerance=1e-3,
    ),
    "elbo-4": Exercise(
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
    "elbo-5": Exercise(
        solution=_loss,
        hint="write down minus form (2) with all constants of the Gaussian log-density, and "
        "compare it with the code term by term.",
        mistakes=(
            Mistake(
                lambda *at: _loss(*at, mean=True, constant=False, sign=-1),
                "that is still the function with all three bugs.",
            ),
            Mistake(
                lambda *at: _loss(*at, mean=True),
                "the squares are still averaged over the dimensions of x. A log-density sums them.",
            ),
            Mistake(
                lambda *at: _loss(*at, constant=False),
                "the constant of the Gaussian density is missing, -log(2π)/2 for each dimension. "
                "Without it the number is no bound in nats.",
            ),
            Mistake(
                lambda *at: _loss(*at, sign=-1),
                "the logarithm of the variance has the wrong sign in the divergence.",
            ),
            Mistake(
                lambda *at: _loss(*at, mean=True, constant=False),
                "the divergence is right. The squares are still averaged, and a constant is "
                "missing from the reconstruction.",
            ),
            Mistake(
                lambda *at: _loss(*at, constant=False, sign=-1),
                "the squares are right. A constant is missing from the reconstruction, and the "
                "divergence has a wrong sign.",
            ),
            Mistake(
                lambda *at: _loss(*at, mean=True, sign=-1),
                "the constant is right. The squares are still averaged, and the divergence has a "
                "wrong sign.",
            ),
            Mistake(
                lambda *at: -_loss(*at),
                "that is the bound. The function is to return minus the bound, a loss.",
            ),
        ),
        at=LOSSES,
        tolerance=1e-5,
    ),
    "elbo-6": Exercise(
        solution=lambda covariance: 1 / covariance.inverse().diagonal(),
        hint="write the divergence of q from the posterior with the inverse of Σ, and set its "
        "derivative with respect to each variance to zero.",
        mistakes=(
            Mistake(
                lambda covariance: covariance.diagonal(),
                "these are the variances of the posterior, which minimise the forward "
                "divergence. The highest bound belongs to the least reverse one.",
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
    # s/σ² = s (1/s² - 1/σ²).
    "elbo-7": Exercise(
        solution=lambda: math.sqrt(0.5),
        hint="the standard deviations are s/σ² for the whole gradient and s |1/s² - 1/σ²| for the "
        "path. Set them equal.",
        mistakes=(
            Mistake(
                lambda: 0.5,
                "that is the ratio of the variances, s²/σ². The question is for s/σ.",
            ),
            Mistake(
                lambda: math.sqrt(2.0),
                "that is σ/s. The path gradient is the noisier one for a q that is too narrow.",
            ),
            Mistake(
                lambda: 1.0,
                "at the right width the path gradient has no variance at all, and the whole one "
                "has.",
            ),
        ),
        tolerance=1e-3,
    ),
    "elbo-8": Exercise(
        solution=_root,
        hint="both have the same mean, so set their second moments equal. They contain "
        "cos(2kε), so a is 2k.",
        mistakes=(
            Mistake(
                lambda: 1.0,
                "you left out the exponentials. They are small at k = 1, and not zero.",
            ),
            Mistake(
                lambda: 2 * _root(),
                "that is a = 2k. The question is for k.",
            ),
            Mistake(
                lambda: math.sqrt(0.5),
                "you lost a factor k: the slope of sin(kz) is k cos(kz).",
            ),
        ),
        tolerance=1e-3,
    ),
    "elbo-9": Exercise(
        solution=_hard_gap,
        hint="the gap of one eruption is minus the logarithm of its larger responsibility. Sum it "
        "over all eruptions.",
        mistakes=(
            Mistake(
                lambda: _hard_gap() / 272,
                "that is the gap of one eruption on average. The question is for the sum.",
            ),
            Mistake(
                lambda: -_hard_gap(),
                "the sign is wrong: the bound lies below the log-likelihood.",
            ),
            Mistake(
                _entropies,
                "that is the sum of the entropies of the responsibilities. The gap is a "
                "divergence from them.",
            ),
        ),
        tolerance=1e-3,
    ),
}
