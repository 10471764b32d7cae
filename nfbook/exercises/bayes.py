"""The exercises of the chapter "Bayes' theorem and MAP"."""

from __future__ import annotations

import math

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
    "bayes-4": Exercise(
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
}
