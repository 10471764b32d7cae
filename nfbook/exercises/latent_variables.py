"""The exercises of the chapter on latent variable models."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

LOG_VALUES = (
    (torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),),
    (torch.tensor([-1000.0, -1001.0], dtype=torch.float64),),
    (torch.tensor([1000.0, 990.0, 1003.0], dtype=torch.float64),),
)
# Observations and signal strengths of the hidden sign.
SIGNS = tuple(
    (torch.tensor(x, dtype=torch.float64), torch.tensor(a, dtype=torch.float64))
    for x, a in ((0.3, 1.0), (-1.2, 0.5), (2.0, 1.7))
)
# Observations, weights, means and variances of two components on the line.
LINE_MIXTURES = (
    tuple(
        torch.tensor(values, dtype=torch.float64)
        for values in ([-0.5, 0.4, 2.2], [0.3, 0.7], [0.0, 2.0], [0.5, 2.0])
    ),
)


def _boundary(log_odds: float) -> float:
    return 1 + log_odds / 2


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, dim=0) - math.log(len(values))


def _growth(a: float) -> float:
    return (1 + a) / math.sqrt(1 + 2 * a) * math.exp(a / (1 + 2 * a))


def _samples_needed(growth: float, error: float = 0.1, d: int = 20) -> float:
    return (growth**d - 1) / error**2


def _divergence(q: float, p: float) -> float:
    """Return KL(q ‖ p) of two coins, in nats."""
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def _responsibilities(
    x: Tensor, weights: Tensor, means: Tensor, scales: Tensor, dim: int = -1
) -> Tensor:
    likelihood: Tensor = Normal(means, scales).log_prob(x.unsqueeze(-1))
    return (weights.log() + likelihood).softmax(dim)


EXERCISES = {
    # Two components N(0, 1) and N(2, 1) with weights 0.3 and 0.7: where is γ_1 = 1/2?
    "latent-variables-1": Exercise(
        solution=lambda: _boundary(math.log(0.3 / 0.7)),
        hint="set w_1 N(x; 0, 1) equal to w_2 N(x; 2, 1) and take logarithms: x² cancels.",
        mistakes=(
            Mistake(
                lambda: 1.0,
                "this is the middle of both means, where the likelihoods are equal. "
                "The weights 0.3 and 0.7 move the boundary.",
            ),
            Mistake(
                lambda: _boundary(math.log(0.7 / 0.3)),
                "the sign is wrong: the heavier component claims more of the line, "
                "so the boundary moves towards the lighter one.",
            ),
            Mistake(
                lambda: 1 + math.log(0.3 / 0.7),
                "the logarithms of both densities differ by 2 (x - 1), not by x - 1.",
            ),
        ),
        tolerance=1e-3,
    ),
    # A fair coin q, and a coin p with heads 0.9: both divergences.
    "latent-variables-2": Exercise(
        solution=lambda: torch.tensor(
            [_divergence(0.5, 0.9), _divergence(0.9, 0.5)], dtype=torch.float64
        ),
        hint="sum q log(q / p) over heads and tails for the first number.",
        mistakes=(
            Mistake(
                lambda: torch.tensor(
                    [_divergence(0.9, 0.5), _divergence(0.5, 0.9)], dtype=torch.float64
                ),
                "both numbers are right, and in the other order. The average is taken with the "
                "probabilities of the first argument.",
            ),
            Mistake(
                lambda: (
                    torch.tensor(
                        [_divergence(0.5, 0.9), _divergence(0.9, 0.5)], dtype=torch.float64
                    )
                    / math.log(2)
                ),
                "these are bits. The book measures in nats, with natural logarithms.",
            ),
            Mistake(
                lambda: torch.tensor(
                    [0.5 * math.log(0.5 / 0.9), 0.9 * math.log(0.9 / 0.5)], dtype=torch.float64
                ),
                "this is the term of heads alone. Tails have a term too.",
            ),
            Mistake(
                lambda: (
                    -torch.tensor(
                        [_divergence(0.5, 0.9), _divergence(0.9, 0.5)], dtype=torch.float64
                    )
                ),
                "a divergence is never negative: the ratio is upside down.",
            ),
        ),
        tolerance=1e-3,
    ),
    # W = (2, 0), mean 0, variance 1, x = (4, 3).
    "latent-variables-3": Exercise(
        solution=lambda: torch.tensor([8 / 5, 1 / 5], dtype=torch.float64),
        hint="M = WᵀW + σ² is a number here. The mean is Wᵀx / M, the variance σ² / M.",
        mistakes=(
            Mistake(
                lambda: torch.tensor([2.0, 1 / 4], dtype=torch.float64),
                "this is the least squares answer, with M = WᵀW. The prior adds σ² to it and "
                "pulls z towards 0.",
            ),
            Mistake(
                lambda: torch.tensor([8 / 5, 1.0], dtype=torch.float64),
                "the mean is right; the variance you give is the prior's. "
                "An observation makes it smaller.",
            ),
            Mistake(
                lambda: torch.tensor([8 / 5, 4 / 5], dtype=torch.float64),
                "the mean is right; the variance is σ² / M, and not W² / M.",
            ),
            Mistake(
                lambda: torch.tensor([8 / 5, math.sqrt(1 / 5)], dtype=torch.float64),
                "the mean is right; you give the standard deviation for the variance.",
            ),
        ),
        tolerance=1e-4,
    ),
    # N(-1, 1) with weight 1/4 and N(3, 2) with weight 3/4.
    "latent-variables-4": Exercise(
        solution=lambda: torch.tensor([2.0, 19 / 4], dtype=torch.float64),
        hint="the mean is 1/4 (-1) + 3/4 · 3. The variance has two parts, within the components "
        "and between their means.",
        mistakes=(
            Mistake(
                lambda: torch.tensor([2.0, 7 / 4], dtype=torch.float64),
                "the mean is right. The variance you give is the one within the components; "
                "their means differ too.",
            ),
            Mistake(
                lambda: torch.tensor([2.0, 3.0], dtype=torch.float64),
                "the mean is right. The variance you give is that of the means alone; "
                "the components have variances of their own.",
            ),
            Mistake(
                lambda: torch.tensor([2.0, 19 / 16], dtype=torch.float64),
                "the weights of variances are not squared: this is not a sum of random variables.",
            ),
            Mistake(
                lambda: torch.tensor([2.0, 35 / 4], dtype=torch.float64),
                "you give the mean of x². Subtract the squared mean.",
            ),
            Mistake(
                lambda: torch.tensor([2.0, math.sqrt(19 / 4)], dtype=torch.float64),
                "the mean is right; you give the standard deviation for the variance.",
            ),
            Mistake(
                lambda: torch.tensor([1.0, 11 / 2], dtype=torch.float64),
                "you weighted both components alike. The weights are 1/4 and 3/4.",
            ),
        ),
        tolerance=1e-3,
    ),
    # a = 4, d = 20, relative error 0.1.
    "latent-variables-5": Exercise(
        solution=lambda: _samples_needed(_growth(4.0)),
        hint="the squared relative error is (ρ^d - 1) / K. Solve for K.",
        mistakes=(
            Mistake(
                lambda: _samples_needed(_growth(4.0), error=math.sqrt(0.1)),
                "you divided by 0.1. The error falls like 1 / √K, so K needs its square, 0.01.",
            ),
            Mistake(
                lambda: _samples_needed(5 / 3),
                "ρ has two factors. The exponential, exp(a / (1 + 2a)), is missing.",
            ),
            Mistake(
                lambda: 20 * _samples_needed(_growth(4.0), d=1),
                "you added V = ρ - 1 once for each dimension. The factors multiply: 1 + V = ρ^d.",
            ),
        ),
        tolerance=1e-2,
    ),
    # z = ±1 with probability 1/2, x given z is N(az, 1): p(z = 1 | x).
    "latent-variables-6": Exercise(
        solution=lambda x, a: torch.sigmoid(2 * a * x),
        hint="it is 1 / (1 + p(x | z = -1) / p(x | z = 1)). Expand the squares in the ratio.",
        mistakes=(
            Mistake(
                lambda x, a: torch.sigmoid(a * x),
                "the mixed terms of both squares differ by 4ax, half of which is 2ax, not ax.",
            ),
            Mistake(
                lambda x, a: torch.sigmoid(-2 * a * x),
                "this is p(z = -1 | x).",
            ),
            Mistake(
                lambda x, a: 2 * a * x,
                "this is the logarithm of the odds. Turn it into a probability.",
            ),
            Mistake(
                lambda x, a: Normal(a, 1.0).log_prob(x).exp(),
                "this is the likelihood p(x | z = 1). Multiply by the prior, divide by the "
                "evidence.",
            ),
        ),
        at=SIGNS,
    ),
    "latent-variables-7": Exercise(
        solution=_log_mean_exp,
        hint="subtract the largest value before exp, and add it again after log.",
        mistakes=(
            Mistake(
                lambda v: v.exp().mean().log(),
                "the formula is right, but exp underflows at -1000 and overflows at 1000. "
                "Take the largest value out of the sum first.",
            ),
            Mistake(
                lambda v: torch.logsumexp(v, dim=0),
                "this is the logarithm of the sum. The mean divides by K.",
            ),
            Mistake(
                lambda v: (v - v.max()).exp().mean().log(),
                "you took the largest value out of the sum, and did not add it again.",
            ),
            Mistake(
                lambda v: v.mean(),
                "this is the mean of the logarithms, which Jensen's inequality puts below the "
                "logarithm of the mean.",
            ),
        ),
        at=LOG_VALUES,
    ),
    # The responsibilities of a mixture on the line.
    "latent-variables-8": Exercise(
        solution=lambda x, weights, means, variances: _responsibilities(
            x, weights, means, variances.sqrt()
        ),
        hint="each row must sum to one, and Normal takes the standard deviation.",
        mistakes=(
            Mistake(
                lambda x, weights, means, variances: _responsibilities(
                    x, weights, means, variances, 0
                ),
                "this is the function as it was. Both mistakes are still there.",
            ),
            Mistake(
                lambda x, weights, means, variances: _responsibilities(
                    x, weights, means, variances
                ),
                "the rows sum to one now. Normal still gets a variance for a standard deviation.",
            ),
            Mistake(
                lambda x, weights, means, variances: _responsibilities(
                    x, weights, means, variances.sqrt(), 0
                ),
                "the widths are right now. The columns still sum to one, and the rows should: "
                "components compete for an observation.",
            ),
            Mistake(
                lambda x, weights, means, variances: _responsibilities(
                    x, torch.ones_like(weights), means, variances.sqrt()
                ),
                "both mistakes are mended, but the weights are gone.",
            ),
        ),
        at=LINE_MIXTURES,
    ),
    # The smallest d with a mean squared error below 1.
    "latent-variables-9": Exercise(
        solution=lambda: 29.0,
        hint="average the squared difference over all pixels of all digits, and try d = 20 to 40.",
        mistakes=(
            Mistake(
                lambda: 28.0,
                "this is the answer for the orthogonal projection. The posterior mean is pulled "
                "towards the mean digit, and its error is larger. (At 28 it is still above 1.)",
            ),
        ),
        tolerance=1e-6,
    ),
}
