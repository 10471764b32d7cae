"""The exercises of the chapter on autoregressive flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.data import old_faithful
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _score(sign: float = 1.0, dimensions: int = 3) -> float:
    return -0.5 * dimensions * math.log(2 * math.pi) - 2.5 + sign * math.log(2)


def _mask(after: Tensor, before: Tensor) -> Tensor:
    return (after.unsqueeze(1) >= before).double()


def _log_prob(x: Tensor, mean: Tensor, log_width: Tensor, *, sign: float = -1.0) -> Tensor:
    z = (x - mean) / log_width.exp()
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum() + sign * log_width.sum()


def _one_constant(x: Tensor, mean: Tensor, log_width: Tensor, *, sign: float = -1.0) -> Tensor:
    missing = 0.5 * (len(x) - 1) * math.log(2 * math.pi)
    return _log_prob(x, mean, log_width, sign=sign) + missing


def _eruptions(*, linear: bool = False, unbiased: bool = False) -> Tensor:
    data = old_faithful().double()

    def both(first: Tensor, second: Tensor) -> float:
        scaled = (first - first.mean()) / first.std()
        powers = 2 if linear else 3
        design = torch.stack([scaled**k for k in range(powers)], 1)
        fitted = design @ torch.linalg.lstsq(design, second.unsqueeze(1)).solution[:, 0]
        n, lost = len(data), unbiased
        variances = (
            first.var(correction=int(lost)),
            (second - fitted).square().sum() / (n - powers * lost),
        )
        return -0.5 * sum(float((2 * math.pi * math.e * v).log()) for v in variances)

    return _double(*(both(data[:, i], data[:, 1 - i]) for i in (0, 1)))


DEGREES = (
    (torch.tensor([1, 2, 3, 1]), torch.tensor([1, 2, 3, 4])),
    (torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 2, 3])),
)

POINTS = (
    (_double(1.0, -0.5, 2.0), _double(0.0, 0.4, 1.5), _double(0.2, -0.7, 0.9)),
    (_double(0.3, 1.1), _double(0.5, -0.2), _double(-0.4, 0.1)),
)

EXERCISES = {
    # Widths 1, 1, 1/2 and noise (0, 1, 2).
    "autoregressive-flows-1": Exercise(
        solution=lambda: _double(2.0, _score()),
        hint="the widths are 1, 1 and 1/2 and the means are 0. The factor is the product of their "
        "reciprocals, and its logarithm is added to the log-density of the noise.",
        mistakes=(
            Mistake(
                lambda: _double(0.5, _score(-1.0)),
                "this is the factor of the inverse map. From data to noise we divide by the width.",
            ),
            Mistake(
                lambda: _double(2.0, _score(-1.0)),
                "where the map from data to noise stretches, the density is higher: add the "
                "logarithm of the factor.",
            ),
            Mistake(
                lambda: _double(2.0, _score(0.0)),
                "this is the log-density of the noise. The determinant is missing.",
            ),
            Mistake(
                lambda: _double(2.0, _score(1.0, 1)),
                "each of the three coordinates has its own constant.",
            ),
            Mistake(
                lambda: _double(_score(), 2.0),
                "both numbers are right, in the wrong order: first the factor.",
            ),
        ),
        tolerance=1e-3,
    ),
    "autoregressive-flows-2": Exercise(
        solution=lambda: _double(2.0, 3.0, 8.0),
        hint="x1 = z1. Insert it into the mean and the width of x2, and both into those of x3.",
        mistakes=(
            Mistake(
                lambda: _double(2.0, 4 - 5 / 5, -10 + 2),
                "the mean of x3 is x1 times x2, not x1 times z2.",
            ),
            Mistake(
                lambda: _double(2.0, 4 - 25, -42 + 2),
                "you divided the noise of x2 by its width. From noise to data it is multiplied.",
            ),
            Mistake(
                lambda: _double(2.0, 3.0, 14.0),
                "you divided the noise of x3 by its width. From noise to data it is multiplied.",
            ),
        ),
    ),
    "autoregressive-flows-3": Exercise(
        solution=lambda: 4.0,
        hint="three further coordinates become right in each pass.",
        mistakes=(
            Mistake(lambda: 10.0, "this is always enough, but here fewer passes are."),
            Mistake(lambda: 3.0, "after three passes the first nine are right, and one is left."),
            Mistake(
                lambda: 5.0,
                "coordinates that come exactly three places earlier count as well.",
            ),
            Mistake(lambda: 7.0, "all coordinates of a group become right together."),
        ),
    ),
    "autoregressive-flows-4": Exercise(
        solution=_mask,
        hint="the entry in row a and column b is one if the degree of a is at least that of b.",
        mistakes=(
            Mistake(
                lambda after, before: (after.unsqueeze(1) > before).double(),
                "equal degrees are connected: such a unit knows no more than it may. The strict "
                "inequality is already in the outputs' degrees.",
            ),
            Mistake(
                lambda after, before: (after.unsqueeze(1) <= before).double(),
                "a unit may know less than it is allowed to, not more: turn the inequality round.",
            ),
            Mistake(
                lambda after, before: _mask(after, before).mT,
                "each unit of the layer is a row, each one of the layer before a column.",
            ),
            Mistake(
                lambda after, before: (after.unsqueeze(1) == before).double(),
                "units of lower degree are connected, too.",
            ),
        ),
        at=DEGREES,
    ),
    "autoregressive-flows-5": Exercise(
        solution=_log_prob,
        hint="the log-density of the noise has a constant for each coordinate, and the map to the "
        "noise divides by the widths.",
        mistakes=(
            Mistake(
                lambda x, m, s: _log_prob(x, m, s, sign=1.0),
                "the map goes from data to noise, which divides by the widths. What is the sign of "
                "its log-determinant?",
            ),
            Mistake(
                _one_constant, "half of log 2 pi is counted once, but there are D coordinates."
            ),
            Mistake(
                lambda x, m, s: _one_constant(x, m, s, sign=1.0),
                "this is the function as it was.",
            ),
            Mistake(
                lambda x, m, s: _log_prob(x, m, s, sign=0.0),
                "this is the density of the noise. The log-determinant is missing.",
            ),
        ),
        at=POINTS,
    ),
    "autoregressive-flows-6": Exercise(
        solution=lambda: _double(288.0, 36.0),
        hint="a dense pass multiplies 6 times 4 and 8 times 6 numbers. The steps multiply as many "
        "as the masks have ones.",
        mistakes=(
            Mistake(
                lambda: _double(288.0, 72.0),
                "this is one dense pass. The steps multiply only what is not cut.",
            ),
            Mistake(
                lambda: _double(72.0, 36.0),
                "the first number is one pass, and drawing takes four.",
            ),
            Mistake(
                lambda: _double(288.0, 24.0),
                "there are two outputs for each coordinate.",
            ),
            Mistake(
                lambda: _double(288.0, 48.0),
                "the outputs of the i-th coordinate have the degree i - 1.",
            ),
            Mistake(
                lambda: _double(288.0, 144.0),
                "you counted the ones of the masks once for each step. Nothing is computed twice.",
            ),
        ),
    ),
    "autoregressive-flows-7": Exercise(
        solution=lambda: 0.5 * math.log(math.pi * math.e / 6),
        hint="take half of log(2 pi e a²/12) and subtract the entropy of the uniform, log a.",
        mistakes=(
            Mistake(
                lambda: math.log(math.pi * math.e / 6),
                "this is twice as much: the logarithm of the variance is halved.",
            ),
            Mistake(
                lambda: 0.5 * math.log(math.pi / 6),
                "the entropy of a Gaussian has an e in its logarithm.",
            ),
            Mistake(
                lambda: 0.5 * math.log(math.pi * math.e / 6) + 0.5 * math.log(2 * math.pi * math.e),
                "the second coordinate is Gaussian given the first, so it costs nothing.",
            ),
            Mistake(
                lambda: 0.0,
                "the first coordinate is uniform and not Gaussian, so the cost is not zero.",
            ),
        ),
        tolerance=1e-4,
    ),
    "autoregressive-flows-8": Exercise(
        solution=lambda u: 0.5 * u + 4 * u**2,
        hint="insert v1 = 2 u1 and v2 = 3 u2 + u1 into w2, and leave out the term with u2.",
        mistakes=(
            Mistake(
                lambda u: 0.5 * u + u**2,
                "the second layer sees v1 = 2 u1, not u1.",
            ),
            Mistake(
                lambda u: u + 4 * u**2,
                "the shift of the first layer is multiplied by the scale of the second.",
            ),
            Mistake(
                lambda u: 0.5 * u + 2 * u**2,
                "the square of 2 u1 is 4 u1².",
            ),
            Mistake(
                lambda u: 4 * u**2,
                "the shift of the first layer is missing.",
            ),
        ),
        at=((_double(1.0, -0.5, 3.0),),),
    ),
    "autoregressive-flows-9": Exercise(
        solution=_eruptions,
        hint="each column contributes minus half of log(2 pi e v), where v is the variance of the "
        "first column, or that of the residuals of the second.",
        mistakes=(
            Mistake(
                lambda: _eruptions().flip(0),
                "both numbers are right, in the wrong order.",
            ),
            Mistake(
                lambda: _eruptions(linear=True),
                "your mean is linear. With it both orders give the same Gaussian.",
            ),
            Mistake(
                lambda: _eruptions(unbiased=True),
                "maximum likelihood divides the sums of squares by n.",
            ),
            Mistake(
                lambda: len(old_faithful()) * _eruptions(), "divide by the number of eruptions."
            ),
        ),
        tolerance=1e-5,
    ),
}
