"""The exercises of the chapter on reproduction."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nfbook.data.scikit import split_digits
from nfbook.data.stored import stored_result
from nfbook.exercises import Exercise, Mistake
from nfbook.latent import PPCA

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _sign_test(d: Tensor, *, two_sided: bool = True, strict: bool = False) -> Tensor:
    """Return the share of choices of signs whose mean is as far from zero as the one observed."""
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=len(d))), dtype=d.dtype)
    means, observed = (signs * d).mean(1), d.mean().abs()
    sizes = means.abs() if two_sided else means
    return (sizes > observed + 1e-12 if strict else sizes >= observed - 1e-12).double().mean()


def _t(a: Tensor, b: Tensor, *, paired: bool = True, root: bool = True) -> Tensor:
    """Return the t of a comparison, or what a mistake makes of it."""
    n = len(a)
    spread = (b - a).std() if paired else (a.var() + b.var()).sqrt()
    return (b - a).mean() / (spread / (math.sqrt(n) if root else n))


def _study() -> Any:
    return stored_result("image_loaders")["result"]["comparisons"]["other seeds"]


def _log_likelihoods() -> tuple[Tensor, Tensor]:
    train, _, test = (part.double() for part in split_digits()[0])
    small, large = (PPCA.fit(train, d).model.log_prob(test) for d in (10, 12))
    return small, large


def _ratio() -> Tensor:
    small, large = _log_likelihoods()
    return (small.var() + large.var()).sqrt() / (large - small).std()


def _correlation() -> Tensor:
    return torch.corrcoef(torch.stack(_log_likelihoods()))[0, 1]


DIFFERENCES = (
    (_double(0.3, 0.1, 0.4, -0.1, 0.3),),
    (_double(-1.0, -2.0, 0.5),),
    (_double(0.2, 0.3, 0.1, 0.25, 0.4, 0.05),),
)

PAIRS = (
    (_double(1.0, 2.0, 3.5, 2.2), _double(1.2, 2.1, 3.9, 2.3)),
    (_double(0.3, -0.4, 0.9), _double(0.1, -0.7, 0.95)),
)

EXERCISES = {
    # The differences 0.3, 0.1, 0.4, -0.1, 0.3.
    "reproduced-1": Exercise(
        solution=lambda: _double(0.2, math.sqrt(5)),
        hint="the squares of the deviations from the mean add up to 0.16. Divide by n - 1 for s².",
        mistakes=(
            Mistake(lambda: _double(0.2, 2.5), "you divided by n for s². Use n - 1."),
            Mistake(
                lambda: _double(0.2, 1.0),
                "this is the mean over the spread of one difference. That of a mean is smaller.",
            ),
            Mistake(
                lambda: _double(0.2, 0.2 / (0.2 / 5)),
                "the standard error is s over the root of n, not over n.",
            ),
        ),
        tolerance=1e-3,
    ),
    # A difference of 0.2, and the spread 0.2 for each method.
    "reproduced-2": Exercise(
        solution=lambda: _double(_phi(math.sqrt(0.5)), _phi(2.0)),
        hint="a difference of independent results has the variance 0.2² + 0.2².",
        mistakes=(
            Mistake(
                lambda: _double(_phi(1.0), _phi(math.sqrt(8))),
                "you took the spread of one result for that of a difference.",
            ),
            Mistake(
                lambda: _double(_phi(0.5), _phi(0.5 * math.sqrt(8))),
                "you added the spreads. Variances add, spreads do not.",
            ),
            Mistake(
                lambda: _double(_phi(math.sqrt(0.5)), _phi(8 * math.sqrt(0.5))),
                "the first is right. The error of a mean falls with the root of n.",
            ),
        ),
        tolerance=1e-3,
    ),
    # 98.3, 95.3, 92.8, 93.6, 92.5.
    "reproduced-3": Exercise(
        solution=lambda: _double(1.0, 5 / 120),
        hint="only 92.8 and 93.6 are out of order. Of the 120 orders 1 has no inversion, and "
        "1 + 1 + 1 + 1 have one.",
        mistakes=(
            Mistake(
                lambda: _double(1.0, 4 / 120),
                "this is the probability of exactly one inversion. Orders without any count too.",
            ),
            Mistake(lambda: _double(1.0, 1 / 120), "this is the probability of no inversion."),
            Mistake(
                lambda: _double(1.0, 4 / 24),
                "you took four results. With K = 0 there are five.",
            ),
        ),
        tolerance=1e-3,
    ),
    "reproduced-4": Exercise(
        solution=_sign_test,
        hint="count the choices of signs for which |mean| is at least the observed one, and "
        "divide by all of them.",
        mistakes=(
            Mistake(
                lambda d: _sign_test(d, two_sided=False),
                "you counted one side only. Far below zero is far from zero, too.",
            ),
            Mistake(
                lambda d: _sign_test(d, strict=True),
                "you left out choices that are exactly as far, such as the observed one.",
            ),
        ),
        at=DIFFERENCES,
    ),
    "reproduced-5": Exercise(
        solution=_t,
        hint="the mean of b - a, divided by its standard error: that of the differences.",
        mistakes=(
            Mistake(
                lambda a, b: _t(a, b, paired=False),
                "the root is right. The spread is still that of unpaired runs.",
            ),
            Mistake(
                lambda a, b: _t(a, b, root=False),
                "the spread is right. The standard error of a mean has the root of n.",
            ),
            Mistake(
                lambda a, b: _t(a, b, paired=False, root=False),
                "both bugs are still there.",
            ),
            Mistake(lambda a, b: -_t(a, b), "this is the t of a - b."),
        ),
        at=PAIRS,
    ),
    "reproduced-6": Exercise(
        solution=lambda: 0.4 * 1.5 / math.sqrt(math.pi),
        hint="the gain is m₃ times the spread.",
        mistakes=(
            Mistake(lambda: 1.5 / math.sqrt(math.pi), "this is m₃. Multiply by the spread."),
            Mistake(
                lambda: 0.4 / math.sqrt(math.pi),
                "this is the gain of the best of two.",
            ),
            Mistake(
                lambda: 0.4 * math.sqrt(2 * math.log(3)),
                "this is the bound of the theorem, which holds for dependent runs too.",
            ),
        ),
        tolerance=1e-3,
    ),
    "reproduced-7": Exercise(
        solution=lambda rho: 1 - rho,
        hint="2 σ² / n = 2 σ² (1 - ρ) / n', solved for n' / n.",
        mistakes=(
            Mistake(lambda rho: 1 / (1 - rho), "this is n / n', turn it round."),
            Mistake(
                lambda rho: math.sqrt(1 - rho),
                "this is the ratio of the standard errors for one n. Its square is that of seeds.",
            ),
            Mistake(lambda rho: 1 + rho, "the covariance of a difference enters with a minus."),
        ),
        at=((0.9,), (0.5,), (0.0,), (-0.4,)),
    ),
    "reproduced-8": Exercise(
        solution=lambda: abs(_study()["mean"]) + 1.833 * _study()["standard error"],
        hint="the end of the interval that lies further from zero.",
        mistakes=(
            Mistake(
                lambda: 1.833 * _study()["standard error"],
                "this is half the width of the interval. It does not lie around zero.",
            ),
            Mistake(
                lambda: abs(_study()["mean"]) + _study()["standard error"],
                "one standard error is not enough: multiply it by the bound of t.",
            ),
            Mistake(
                lambda: abs(abs(_study()["mean"]) - 1.833 * _study()["standard error"]),
                "this is the end that lies nearer to zero.",
            ),
        ),
        tolerance=1e-3,
    ),
    "reproduced-9": Exercise(
        solution=_ratio,
        hint="unpaired: the root of the sum of both variances over images. Paired: the standard "
        "deviation of the differences.",
        mistakes=(
            Mistake(lambda: 1 / _ratio(), "this is the paired error over the unpaired one."),
            Mistake(lambda: _ratio().square(), "this is the ratio of the variances."),
            Mistake(_correlation, "this is the correlation of the two log-likelihoods."),
        ),
        tolerance=1e-3,
    ),
}
