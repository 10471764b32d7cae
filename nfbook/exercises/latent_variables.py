"""The exercises of the chapter on latent variable models."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

LOG_VALUES = (
    (torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),),
    (torch.tensor([-1000.0, -1001.0], dtype=torch.float64),),
    (torch.tensor([1000.0, 990.0, 1003.0], dtype=torch.float64),),
)


def _boundary(log_odds: float) -> float:
    return 1 + log_odds / 2


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, dim=0) - math.log(len(values))


def _growth(a: float) -> float:
    return (1 + a) / math.sqrt(1 + 2 * a) * math.exp(a / (1 + 2 * a))


def _samples_needed(growth: float, error: float = 0.1, d: int = 20) -> float:
    return (growth**d - 1) / error**2


EXERCISES = {
    # Two components N(0, 1) and N(2, 1) with weights 0.3 and 0.7: where is r_1 = 1/2?
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
    "latent-variables-2": Exercise(
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
    # a = 4, d = 20, relative error 0.1.
    "latent-variables-4": Exercise(
        solution=lambda: _samples_needed(_growth(4.0)),
        hint="the squared relative error is (γ^d - 1) / K. Solve for K.",
        mistakes=(
            Mistake(
                lambda: _samples_needed(_growth(4.0), error=math.sqrt(0.1)),
                "you divided by 0.1. The error falls like 1 / √K, so K needs its square, 0.01.",
            ),
            Mistake(
                lambda: _samples_needed(5 / 3),
                "γ has two factors. The exponential, exp(a / (1 + 2a)), is missing.",
            ),
            Mistake(
                lambda: 20 * _samples_needed(_growth(4.0), d=1),
                "the factors of the dimensions multiply: γ^d, and not d γ.",
            ),
        ),
        tolerance=1e-2,
    ),
}
