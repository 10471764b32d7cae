"""The exercises of the chapter "Bayes' theorem and MAP"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

from nfbook.bayes import LinearRegression
from nfbook.data import diabetes
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


# Seven heads and three tails: the coin of the second exercise.
_UNKNOWN_COIN = _log_beta(8, 4)
_FAIR_COIN = 10 * math.log(0.5)
_ORDERS = math.log(math.comb(10, 7))


def _soft_threshold(average: float, n: int, noise_variance: float, c: float) -> float:
    return math.copysign(max(abs(average) - noise_variance / (n * c), 0.0), average)


def _chain(
    a: float, b: float, tosses: Sequence[int], *, before: bool = True, learns: bool = True
) -> float:
    """Sum the logarithms of predictions made before, or too late after, each toss is seen."""
    total = 0.0
    for toss in tosses:
        seen = (a + toss, b + 1 - toss) if learns else (a, b)
        heads, tails = (a, b) if before else seen
        total += math.log((heads if toss else tails) / (heads + tails))
        a, b = seen
    return total


@cache
def _without_each(prior_variance: float = 0.2**2, noise_variance: float = 0.7**2) -> Tensor:
    """Return the log-evidence of all ten measurements minus that without each of them."""
    inputs, targets = (part.double() for part in diabetes())
    inputs = inputs * math.sqrt(len(inputs))
    targets = (targets - targets.mean()) / targets.std(correction=0)

    def log_evidence(columns: Tensor) -> Tensor:
        chosen = inputs[:, columns]
        prior = torch.full((chosen.shape[1],), prior_variance, dtype=chosen.dtype)
        return LinearRegression(prior, noise_variance).log_evidence((chosen, targets))

    ten = torch.arange(10)
    return log_evidence(ten) - torch.stack([log_evidence(ten[ten != j]) for j in range(10)])


EXERCISES = {
    "bayes-1": Exercise(
        solution=lambda a, b, heads, tails: (a + heads) / (a + b + heads + tails),
        hint="which single number of the posterior predicts the next toss? "
        "The section on the coin proves it.",
        at=((2.0, 3.0, 7, 3), (1.5, 2.5, 1, 0), (1.0, 4.0, 0, 6)),
        mistakes=(
            Mistake(
                lambda a, b, heads, tails: heads / (heads + tails),
                "that is the share of heads, the MLE. It leaves out the prior.",
            ),
            Mistake(
                lambda a, b, heads, tails: (a + heads - 1) / (a + b + heads + tails - 2),
                "that is the MAP estimate. The prediction averages over the posterior, "
                "and the average is not the mode.",
            ),
            Mistake(
                lambda a, b, heads, tails: (a + heads) / (heads + tails),
                "you divided by n. The prior counts as a + b further tosses.",
            ),
            Mistake(
                lambda a, b, heads, tails: (b + tails) / (a + b + heads + tails),
                "that is the probability of tails.",
            ),
        ),
    ),
    "bayes-2": Exercise(
        solution=lambda: _UNKNOWN_COIN - _FAIR_COIN,
        hint="the evidence of a known order is B(a + heads, b + tails) / B(a, b), "
        "and that of the fair coin has no integral at all.",
        tolerance=1e-3,
        mistakes=(
            Mistake(
                lambda: _FAIR_COIN - _UNKNOWN_COIN,
                "the sign is wrong: you divided by the evidence of M2.",
            ),
            Mistake(
                lambda: math.exp(_UNKNOWN_COIN - _FAIR_COIN),
                "that is the Bayes factor itself. Take its logarithm.",
            ),
            Mistake(
                lambda: _UNKNOWN_COIN + _ORDERS - _FAIR_COIN,
                "M2 has a binomial coefficient and M1 has none. The order is known: use none.",
            ),
            Mistake(
                lambda: 7 * math.log(0.7) + 3 * math.log(0.3) - _FAIR_COIN,
                "that compares the best fit of M2 with M1. The evidence averages the likelihood "
                "over the prior; it does not take its maximum.",
            ),
            Mistake(
                lambda: (_UNKNOWN_COIN - _FAIR_COIN) / math.log(10),
                "that is the logarithm to base 10. This book uses the natural one.",
            ),
        ),
    ),
    "bayes-3": Exercise(
        solution=lambda: 44 / 219,
        hint="how many rows of the record have a wait of at least 55 minutes, "
        "and how many of these rows were short eruptions?",
        tolerance=1e-2,
        mistakes=(
            Mistake(
                lambda: 175 / 219,
                "that is the probability that the last eruption was long.",
            ),
            Mistake(
                lambda: 44 / 97,
                "that is the likelihood: how often such a wait follows a short eruption. "
                "The question turns the condition round.",
            ),
            Mistake(
                lambda: 44 / 272,
                "that is the probability of both together, short and a long wait. "
                "Divide by the probability of the wait.",
            ),
            Mistake(
                lambda: 97 / 272,
                "that is the prior. The 55 minutes have to count.",
            ),
            Mistake(
                lambda: (44 / 97) / (44 / 97 + 1),
                "that leaves out the prior: long eruptions are more common than short ones.",
            ),
        ),
    ),
    "bayes-4": Exercise(
        solution=lambda a, b: ((a - 2) / (a + b - 3)) ** 2,
        hint="write down the density of eta, with the Jacobian of theta = sqrt(eta), "
        "and find its maximum in terms of theta.",
        at=((3.0, 4.0), (7.0, 2.5), (2.5, 9.0)),
        mistakes=(
            Mistake(
                lambda a, b: ((a - 1) / (a + b - 2)) ** 2,
                "that is the square of the mode of theta. Modes do not carry over: "
                "the density of eta has a Jacobian.",
            ),
            Mistake(
                lambda a, b: (a / (a + b - 1)) ** 2,
                "the Jacobian is upside down. It is the derivative of theta with respect to eta, "
                "not of eta with respect to theta.",
            ),
            Mistake(
                lambda a, b: (a - 2) / (a + b - 3),
                "that is the theta at which the density of eta is largest. What is its eta?",
            ),
            Mistake(
                lambda a, b: (a / (a + b)) ** 2,
                "that is the square of the mean of theta. The question is for the mode of eta.",
            ),
        ),
    ),
    "bayes-5": Exercise(
        solution=_soft_threshold,
        hint="the log posterior is a parabola minus |theta| / c. Look for its maximum "
        "among theta > 0, theta < 0 and theta = 0.",
        at=((2.0, 4, 1.0, 0.5), (-2.0, 4, 1.5, 0.5), (0.1, 3, 2.0, 0.4)),
        mistakes=(
            Mistake(
                lambda average, n, noise_variance, c: average - noise_variance / (n * c),
                "right for a large positive average. A negative one has to shrink towards 0 too, "
                "and a small one must not change its sign.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: math.copysign(
                    abs(average) - noise_variance / (n * c), average
                ),
                "right for large averages. A small one must not change its sign: it stops at 0.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: max(average - noise_variance / (n * c), 0.0),
                "right for a positive average. A negative one has to shrink towards 0 from below.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: _soft_threshold(
                    average, n, noise_variance, 2 * c
                ),
                "your threshold is half of the right one. The Gaussian's exponent has a factor "
                "1/2, which cancels when the square is differentiated.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: _soft_threshold(
                    average, n, noise_variance, 1 / c
                ),
                "the threshold must grow as c shrinks: a narrower prior pulls harder.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: _soft_threshold(
                    average, 1, noise_variance, c
                ),
                "how does the threshold depend on n? The likelihood has n factors, the prior one.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: _soft_threshold(average, n, 1.0, c),
                "the threshold must grow with the noise variance.",
            ),
            Mistake(
                lambda average, n, noise_variance, c: (
                    average / (1 + noise_variance / (2 * n * c * c))
                ),
                "that is the shrinkage of a Gaussian prior of the same variance. "
                "The Laplace prior subtracts; it does not divide.",
            ),
        ),
    ),
    "bayes-6": Exercise(
        solution=lambda a, b, total, n: (a + total) / (b + n),
        hint="collect the powers of theta and of exp(-theta) in likelihood times prior. "
        "The posterior is a Gamma density again.",
        at=((2.0, 1.5, 7, 4), (1.0, 0.5, 0, 3), (3.5, 2.0, 12, 1)),
        mistakes=(
            Mistake(
                lambda a, b, total, n: total / n,
                "that is the average count, the MLE. It leaves out the prior.",
            ),
            Mistake(
                lambda a, b, total, n: (a + total - 1) / (b + n),
                "that is the mode of the posterior. The question is for its mean.",
            ),
            Mistake(
                lambda a, b, total, n: (a + total) / (b + 1),
                "each count brings a factor exp(-theta), so n of them add n to b.",
            ),
            Mistake(
                lambda a, b, total, n: (a + total) * (b + n),
                "with this form of the Gamma density b is a rate: the mean is a / b.",
            ),
            Mistake(
                lambda a, b, total, n: (a + total) / (1 / b + n),
                "b stands in the exponent as it is, exp(-b theta): add n to b, not to 1/b.",
            ),
        ),
    ),
    "bayes-7": Exercise(
        solution=lambda m, s, c: m + s * NormalDist().inv_cdf(1 / (1 + c)),
        hint="where the expected cost is smallest, coming one minute later costs c times the "
        "probability of being late, and saves the probability of being early.",
        at=((70.0, 6.0, 3.0), (0.0, 1.0, 0.5), (55.0, 4.0, 9.0)),
        mistakes=(
            Mistake(
                lambda m, s, c: m + s * NormalDist().inv_cdf(c / (1 + c)),
                "that is the quantile of order c / (1 + c): with it one is late the more often, "
                "the more it costs.",
            ),
            Mistake(
                lambda m, s, c: m,
                "that is the median, right for c = 1. Being late costs c times as much.",
            ),
            Mistake(
                lambda m, s, c: m + s**2 * NormalDist().inv_cdf(1 / (1 + c)),
                "a quantile of N(m, s²) lies at m plus s times that of N(0, 1), not s² times.",
            ),
            Mistake(
                lambda m, s, c: NormalDist().inv_cdf(1 / (1 + c)),
                "that is the quantile of N(0, 1). Carry it over to N(m, s²).",
            ),
        ),
    ),
    "bayes-8": Exercise(
        solution=_chain,
        hint="a toss is predicted from those before it, and only then counted.",
        at=((1.0, 1.0, (1,)), (2.0, 3.0, (1, 0, 1, 1)), (0.5, 0.5, (0, 0, 0, 1, 0))),
        mistakes=(
            Mistake(
                lambda a, b, tosses: _chain(a, b, tosses, before=False),
                "that is the function with its bug: each toss is predicted after it was seen.",
            ),
            Mistake(
                lambda a, b, tosses: _chain(a, b, tosses, learns=False),
                "now a and b never change, so nothing is learnt from toss to toss.",
            ),
            Mistake(
                lambda a, b, tosses: math.exp(_chain(a, b, tosses)),
                "that is the evidence. Return its logarithm.",
            ),
        ),
    ),
    "bayes-9": Exercise(
        solution=_without_each,
        hint="for each j, build a regression with nine weights on all columns but the one "
        "with number j, and subtract its log-evidence from that of all ten.",
        tolerance=1e-3,
        mistakes=(
            Mistake(
                lambda: -_without_each(),
                "the sign is wrong: take the log-evidence of all ten minus that without each.",
            ),
            Mistake(
                lambda: _without_each().exp(),
                "those are the Bayes factors. Take their logarithms.",
            ),
            Mistake(
                lambda: _without_each(0.2, 0.7),
                "LinearRegression takes variances, and 0.2 and 0.7 are standard deviations.",
            ),
        ),
    ),
}
