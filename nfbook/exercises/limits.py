"""The exercises of the chapter on what a flow cannot do, and what a likelihood does not say."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


NORMAL = Normal(_double(0.0)[0], _double(1.0)[0])


def _cdf(t: float) -> float:
    return 0.5 * math.erfc(-t / math.sqrt(2))


def _icdf(probability: float) -> float:
    return float(NORMAL.icdf(_double(probability)))


def _least_gap(alpha: Tensor, w: Tensor, slope: Tensor) -> Tensor:
    least: Tensor = NORMAL.cdf(NORMAL.icdf(alpha) + w / slope) - alpha
    return least


def _unusual(
    x: Tensor, *, sides: int = 2, width: float = math.sqrt(0.5), power: float = 0.5
) -> Tensor:
    """Return which rows are unusual, or what a mistake makes of them."""
    dim = x.shape[1]
    off = NORMAL.log_prob(x).sum(1) + 0.5 * dim * math.log(2 * math.pi * math.e)
    off = off.abs() if sides == 2 else -off
    far: Tensor = off > 3 * width * dim**power
    return far.double()


def _rows() -> Tensor:
    """Return rows whose squared lengths go from zero to nine times their mean."""
    squares = torch.linspace(0.0, 9.0, 73, dtype=torch.float64)
    return squares.sqrt().unsqueeze(1) * torch.ones(100, dtype=torch.float64)


EXERCISES = {
    # w = 4, L = 8, equal shares.
    "limits-1": Exercise(
        solution=lambda: 2 * _cdf(4 / 16) - 1,
        hint="with equal shares the gap holds at least 2 Φ(w / 2L) - 1.",
        mistakes=(
            Mistake(
                lambda: 2 * _cdf(4 / 8) - 1,
                "half of the gap lies on each side of the median, so it is w / 2L.",
            ),
            Mistake(lambda: _cdf(4 / 16), "this is the share below the upper end of the stretch."),
            Mistake(
                lambda: 4 / 8 * math.exp(0) / math.sqrt(2 * math.pi),
                "this takes the density of the noise for constant. Use Φ.",
            ),
        ),
        tolerance=1e-3,
    ),
    # w = 3, one percent.
    "limits-2": Exercise(
        solution=lambda: 3 / (2 * _icdf(0.505)),
        hint="solve 2 Φ(w / 2L) - 1 = 0.01 for L.",
        mistakes=(
            Mistake(lambda: 3 / _icdf(0.505), "half of the gap lies on each side of the median."),
            Mistake(
                lambda: 3 / (2 * _icdf(0.51)),
                "this solves Φ(w / 2L) = 0.51. With both sides of the median it is 0.505.",
            ),
            Mistake(lambda: 2 * _icdf(0.505) / 3, "this is 1 / L."),
        ),
        tolerance=1e-3,
    ),
    "limits-3": Exercise(
        solution=_least_gap,
        hint="1 - β is at least Φ(Φ⁻¹(α) + w / L). What remains for the gap?",
        mistakes=(
            Mistake(
                lambda alpha, w, slope: NORMAL.cdf(NORMAL.icdf(alpha) + w / slope),
                "this is the least of 1 - β. The share α of the left side is not the gap's.",
            ),
            Mistake(
                lambda alpha, w, slope: 2 * NORMAL.cdf(w / (2 * slope)) - 1 + 0 * alpha,
                "this holds for equal shares only.",
            ),
            Mistake(
                lambda alpha, w, slope: NORMAL.cdf(NORMAL.icdf(alpha) + w / (2 * slope)) - alpha,
                "the whole width w has to be crossed, from the edge of the left side on.",
            ),
            Mistake(
                lambda alpha, w, slope: NORMAL.cdf(NORMAL.icdf(alpha) + w * slope) - alpha,
                "a stretch of noise of length w / L is enough to cross w with the slope L.",
            ),
        ),
        at=(
            (_double(0.5, 0.1, 0.01), _double(3.0)[0], _double(10.0)[0]),
            (_double(0.3)[0], _double(1.0)[0], _double(2.0)[0]),
        ),
    ),
    # w = 3, one in a thousand, slopes of at most 3.
    "limits-4": Exercise(
        solution=lambda: 7.0,
        hint="slopes multiply along a composition. Solve 2 Φ(w / 2L) - 1 = 0.001 for L, and "
        "compare with 3^K.",
        mistakes=(
            Mistake(lambda: 6.0, "3⁶ = 729 is not steep enough; the slope has to be 1197."),
            Mistake(
                lambda: 399.0,
                "the slopes of layers multiply, they do not add up.",
            ),
            Mistake(lambda: 8.0, "one layer fewer is enough: 3⁷ = 2187."),
        ),
    ),
    # Two intervals of s = 0.9.
    "limits-5": Exercise(
        solution=lambda: 499.0,
        hint="the means of log p differ by D (1 - s²) / 2, and the standard deviation is √(D / 2).",
        mistakes=(
            Mistake(
                lambda: 1995.0,
                "this takes the standard deviation of ‖x‖², which is √(2D), but log p has half "
                "of it, as it has half of the difference.",
            ),
            Mistake(lambda: 998.0, "the variance of log p is D / 2, not D."),
            Mistake(lambda: 450.0, "the means differ by D (1 - s²) / 2, not by D (1 - s)."),
            Mistake(lambda: 498.0, "for D = 498 the difference is still below three deviations."),
            Mistake(
                lambda: 1800.0,
                "the variance of the shrunk data is s² = 0.81, not s = 0.9.",
            ),
        ),
    ),
    # A Cauchy tail against a flow with L = 3 and g(0) = 0, beyond 20.
    "limits-6": Exercise(
        solution=lambda: (2 / math.pi) * math.atan(1 / 20) / math.erfc(20 / 3 / math.sqrt(2)),
        hint="the data have 2 / π · arctan(1 / 20) beyond 20, on both sides together, and the flow "
        "at most 2 Φ(-20 / 3).",
        mistakes=(
            Mistake(
                lambda: (
                    (2 / math.pi) * math.atan(1 / 20) / (0.5 * math.erfc(20 / 3 / math.sqrt(2)))
                ),
                "this compares both sides of the data with one side of the flow.",
            ),
            Mistake(
                lambda: (2 / math.pi) * math.atan(1 / 20) / math.erfc(20 / math.sqrt(2)),
                "the flow stretches the noise by up to 3, so the noise has to exceed 20 / 3 only.",
            ),
            Mistake(
                lambda: math.erfc(20 / 3 / math.sqrt(2)) / ((2 / math.pi) * math.atan(1 / 20)),
                "this is the reciprocal.",
            ),
        ),
        tolerance=1e-2,
    ),
    # The density exp(-x) at 0.2 and 2, and that of log x.
    "limits-7": Exercise(
        solution=lambda: _double(math.exp(1.8), 0.1 * math.exp(1.8)),
        hint="with y = log x the density is multiplied by dx / dy = x.",
        mistakes=(
            Mistake(
                lambda: _double(math.exp(1.8), 10 * math.exp(1.8)),
                "the density of y is that of x divided by dy / dx = 1 / x, so multiplied by x.",
            ),
            Mistake(
                lambda: _double(math.exp(1.8), math.exp(1.8)),
                "the ratio of the densities of two points does depend on the coordinate.",
            ),
            Mistake(
                lambda: _double(math.exp(-1.8), 10 * math.exp(-1.8)),
                "both are upside down: the density at 0.2 over that at 2.",
            ),
        ),
        tolerance=1e-3,
    ),
    "limits-8": Exercise(
        solution=_unusual,
        hint="log p(x) has the mean -H and the standard deviation √(D / 2). A value above the mean "
        "is as unusual as one below.",
        mistakes=(
            Mistake(
                lambda x: _unusual(x, sides=1),
                "the width is right now. But a log-density that is too high is unusual, too.",
            ),
            Mistake(
                lambda x: _unusual(x, width=1.0, power=1.0),
                "the width still grows like D, so that no log-density is ever too high. The "
                "standard deviation of log p is √(D / 2).",
            ),
            Mistake(
                lambda x: _unusual(x, width=1.0),
                "the variance of log p is D / 2, not D.",
            ),
            Mistake(
                lambda x: _unusual(x, width=math.sqrt(2)),
                "√(2D) is the standard deviation of ‖x‖². log p has half of ‖x‖² in it.",
            ),
        ),
        at=((_rows(),), (1.2 * _rows(),)),
    ),
    # At which slope a bridge with equal shares costs log 2.
    "limits-9": Exercise(
        solution=lambda: 6.78831,
        hint="find the m at which m log(m / ε) + (1 - m) log((1 - m) / (1 - ε)) is log 2; then "
        "solve m = 2 Φ(w / 2L) - 1 for L.",
        mistakes=(
            Mistake(lambda: 2 * 6.78831, "half of the gap lies on each side of the median."),
            Mistake(
                lambda: 0.1749,
                "this is the gap's share at which both cost the same. Which slope has it?",
            ),
        ),
        tolerance=1e-2,
    ),
    # Digits: what the mean log-likelihood gains from σ = 0.02 to σ = 0.002.
    "limits-10": Exercise(
        solution=lambda: 7.06917,
        hint="fit mean and covariance without noise, add σ² to the diagonal, and average the "
        "log-density over the images, for both σ.",
        mistakes=(
            Mistake(lambda: 64 * math.log(10), "only the constant pixels gain without bound."),
            Mistake(lambda: -7.06917, "the likelihood of the smaller σ is the higher one."),
            Mistake(
                lambda: 3 * math.log(10),
                "this is what the constant pixels gain. Pixels that are almost always white gain a "
                "little, too, because σ² = 0.0004 is not small beside their variance.",
            ),
        ),
        tolerance=1e-3,
    ),
}
