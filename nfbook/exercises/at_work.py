"""The exercises of the chapter on the NF-VAE at work."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _middle(ratio: float) -> Tensor:
    """Return the probabilities of the middle and of one end, for a correlation."""
    middle = math.acos(ratio) / math.pi
    return _double(middle, (1 - middle) / 2)


def _rank_counts(truth: Tensor, draws: Tensor) -> Tensor:
    return (draws < truth).sum(0).bincount(minlength=len(draws) + 1)


def _estimate(log_w: Tensor, *, inside: bool = True, less: float = 1.0) -> Tensor:
    """Return log p̂ and its standard error, or what a mistake makes of them."""
    log_p = log_w.logsumexp(0) - math.log(len(log_w)) if inside else log_w.mean()
    square = log_w.softmax(0).square().sum() - less / len(log_w)
    return torch.stack([log_p, square.sqrt()])


# Five truths, with three draws for each; no rank is three.
TRUTHS = _double(0.3, -1.0, 2.0, 0.5, 0.1)
DRAWS = torch.stack(
    [
        _double(0.1, 0.0, 1.0, 0.6, 0.4),
        _double(0.5, 0.2, 1.5, 0.2, 0.3),
        _double(0.7, 0.4, 2.5, 0.9, 0.0),
    ]
)
LOG_WEIGHTS = _double(-3.0, -2.5, -4.0, -2.9, -0.5, -3.3)

# The chi-squared distribution's 90 % quantile and the coverage, with ten degrees of freedom.
TEN = 0.7734974459
# The mean probability of the regions in the last exercise.
NINE = 0.75781


EXERCISES = {
    "at-work-1": Exercise(
        solution=lambda: _middle(1 / 5),
        hint="the correlation of the two differences is 1 / (1 + s²) with s = 2.",
        mistakes=(
            Mistake(lambda: _middle(1 / 3), "the formula has s², and you took s."),
            Mistake(
                lambda: _middle(4 / 5), "this is a q of half the width; here it is twice as wide."
            ),
            Mistake(
                lambda: _double(math.acos(1 / 5) / math.pi, 1 - math.acos(1 / 5) / math.pi),
                "the first is right. The rest belongs to the smallest and the largest together.",
            ),
            Mistake(lambda: _double(1 / 3, 1 / 3), "these are the numbers of an exact q."),
        ),
        tolerance=1e-3,
    ),
    "at-work-2": Exercise(
        solution=lambda: math.sqrt(math.log(0.2) / math.log(0.05)),
        hint="1 - (1 - 0.95)^(s²) = 0.8. Take logarithms of what is left over.",
        mistakes=(
            Mistake(lambda: math.log(0.2) / math.log(0.05), "this is s². The factor is its root."),
            Mistake(
                lambda: math.sqrt(math.log(0.8) / math.log(0.95)),
                "the exponent stands on the probability of the outside, 1 - c.",
            ),
            Mistake(
                lambda: math.sqrt(math.log(0.05) / math.log(0.2)),
                "this is above one, and q would be too wide. Turn the fraction round.",
            ),
            Mistake(
                lambda: 0.6539, "this is the answer on a line. In the plane a region is an ellipse."
            ),
        ),
        tolerance=1e-3,
    ),
    "at-work-3": Exercise(
        solution=lambda: _double(math.sqrt(0.5), math.sqrt(0.3)),
        hint="k = 1 - s². The second moment is finite if 2 k < 1.",
        mistakes=(
            Mistake(lambda: _double(0.5, 0.3), "these are s². Take the root."),
            Mistake(
                lambda: _double(0.0, math.sqrt(0.3)),
                "the first moment is finite for every s > 0; the variance needs the second one.",
            ),
            Mistake(
                lambda: _double(math.sqrt(0.5), math.sqrt(0.7)),
                "1 - s² must be less than 0.7, so s² more than 0.3.",
            ),
        ),
        tolerance=1e-3,
    ),
    "at-work-4": Exercise(
        solution=lambda: _double(-0.012, 0.3),
        hint="ε² = 1/40 - 1/1000 for each image. The bias is the same for all of them.",
        mistakes=(
            Mistake(lambda: _double(0.012, 0.3), "the logarithm of a mean is too low on average."),
            Mistake(lambda: _double(-0.024, 0.3), "the bias is half of ε²."),
            Mistake(lambda: _double(-0.0125, 0.3), "subtract 1/K from 1/ESS."),
            Mistake(
                lambda: _double(-0.00012, 0.3),
                "averaging over the images lowers the standard error, but not the bias.",
            ),
            Mistake(
                lambda: _double(-0.012, 0.003),
                "the standard error falls with the root of the number of images.",
            ),
        ),
        tolerance=1e-3,
    ),
    "at-work-5": Exercise(
        solution=_rank_counts,
        hint="compare each draw with its truth, add up over the draws, and count each rank.",
        mistakes=(
            Mistake(
                lambda truth, draws: _rank_counts(truth, draws).flip(0),
                "you counted the draws above the truth.",
            ),
            Mistake(
                lambda truth, draws: _rank_counts(truth, draws) / len(truth),
                "these are shares. Counts are wanted.",
            ),
            Mistake(
                lambda truth, draws: _rank_counts(truth, draws).cumsum(0),
                "this counts the ranks up to each one. Count each by itself.",
            ),
        ),
        at=((TRUTHS, DRAWS), (TRUTHS[:4], -DRAWS[:2, :4])),
    ),
    "at-work-6": Exercise(
        solution=_estimate,
        hint="log p̂ is the logarithm of the weights' mean, and the square of its error is "
        "1/ESS - 1/K.",
        mistakes=(
            Mistake(
                lambda log_w: _estimate(log_w, inside=False),
                "the error is right now. But the mean of the logarithms is the bound.",
            ),
            Mistake(
                lambda log_w: _estimate(log_w, less=0.0),
                "log p̂ is right now. Equal weights should have no error, and yours have one.",
            ),
            Mistake(
                lambda log_w: _estimate(log_w, inside=False, less=0.0), "this still has both bugs."
            ),
            Mistake(
                lambda log_w: _estimate(log_w) ** torch.tensor([1.0, 2.0]),
                "the second number is the square of the error.",
            ),
        ),
        at=((LOG_WEIGHTS,), (2 * LOG_WEIGHTS + 1,)),
    ),
    "at-work-7": Exercise(
        solution=lambda: TEN,
        hint="find t with e^(-t/2) Σ (t/2)^j / j! = 0.1, and evaluate one minus it at 0.81 t.",
        mistakes=(
            Mistake(
                lambda: 1 - 0.1**0.81, "this is the answer in the plane. Here are ten dimensions."
            ),
            Mistake(lambda: 1 - TEN, "this is how often the truth lies outside of the region."),
            Mistake(
                lambda: 0.8440014547, "you used 0.9 t. The squared radius shrinks by s² = 0.81."
            ),
        ),
        tolerance=1e-3,
    ),
    "at-work-8": Exercise(
        solution=lambda: 0.25 * (2 - math.log(2)),
        hint="KL(N(0, 1) || N(x/2, 1/2)) = (2 + 2 (x/2)² - 1 - log 2) / 2, and E x² = 2.",
        mistakes=(
            Mistake(
                lambda: 0.5 * (2 - math.log(2)),
                "this is the gap of the prior. The coin returns it only half of the time.",
            ),
            Mistake(
                lambda: 0.25 * (1.5 - math.log(2)), "x has the variance 2: z and the noise add up."
            ),
            Mistake(
                lambda: 0.25 * math.log(2),
                "this is the mean divergence of the posterior from the prior. The gap has q first.",
            ),
        ),
        tolerance=1e-3,
    ),
    # By quadrature, for the stored model with two latent coordinates.
    "at-work-9": Exercise(
        solution=lambda: NINE,
        hint="normalise the joint density on the grid for each digit, and add up what lies where "
        "the squared standardised distances sum up to at most -2 log 0.1.",
        mistakes=(Mistake(lambda: 1 - NINE, "this is what lies outside of the regions."),),
        tolerance=1e-2,
    ),
}
