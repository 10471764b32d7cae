"""The exercises of the chapter on coupling flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.data import weather
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


LOG_2PI = math.log(2 * math.pi)
# y = (2, 10) comes from z = (2, 1.5), which is stretched by 4.
BASE = -LOG_2PI - 0.5 * (2.0**2 + 1.5**2)

POINTS = (
    (torch.tensor([[0.5, -1.0, 2.0, 0.3], [1.0, 2.0, -0.7, 0.0]], dtype=torch.float64),),
    (torch.tensor([[-0.2, 0.4, 1.1, -2.0]], dtype=torch.float64),),
)


def _conditioner(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shift and the log-scale of the exercise."""
    total = kept.sum(-1, keepdim=True)
    return total * torch.ones_like(kept), total.tanh() * torch.ones_like(kept)


def _inverse(y: Tensor, *, from_moved: bool = False, divide: bool = True) -> Tensor:
    kept, moved = y[..., :2], y[..., 2:]
    shift, log_scale = _conditioner(moved if from_moved else kept)
    scale = (-log_scale if divide else log_scale).exp()
    return torch.cat([kept, (moved - shift) * scale], -1)


def _shift_last(y: Tensor) -> Tensor:
    shift, log_scale = _conditioner(y[..., :2])
    return torch.cat([y[..., :2], y[..., 2:] * (-log_scale).exp() - shift], -1)


def _log_prob(y: Tensor, *, sign: float = -1.0, ladj: str = "each", at: str = "z") -> Tensor:
    z = _inverse(y)
    _, log_scale = _conditioner(y[..., :2])
    base = -0.5 * (z if at == "z" else y).square().sum(-1) - 2 * LOG_2PI
    sums = {
        "each": log_scale.sum(-1),
        "batch": log_scale.sum().expand(y.shape[:-1]),
        "mean": log_scale.mean(-1),
        "none": torch.zeros_like(base),
    }
    return base + sign * sums[ladj]


def _spline_middle(a: float, b: float, s: float) -> Tensor:
    """Return the height in units of the bin's and the slope in the middle of a bin."""
    total = 0.25 * (2 + a + b)
    return _double(0.25 * (1 + a) / total, s * 0.25 * (a + 2 + b) / total**2)


def _weather(
    *, cells: bool = True, sign: float = 1.0, diagonal: bool = False, part: str = "test"
) -> Tensor:
    """Return the mean log probability of rows under one Gaussian, at the centres of cells."""
    table = weather()
    train = table.rows.train
    covariance = train.T.cov(correction=0)
    if diagonal:
        covariance = covariance.diagonal().diag()
    gaussian = torch.distributions.MultivariateNormal(train.mean(0), covariance)
    score: Tensor = gaussian.log_prob(getattr(table.rows, part)).mean()
    return score + sign * table.spacing.log().sum() if cells else score


FLOOR = 0.5 * (4 - 1 - math.log(4))

EXERCISES = {
    # y1 = z1, y2 = 2^z1 z2 + z1^2 at y = (2, 10).
    "coupling-flows-1": Exercise(
        solution=lambda: _double(1.5, BASE - math.log(4)),
        hint="z1 = 2, so the second coordinate was multiplied by 4 and shifted by 4. Divide the "
        "density of the noise at z by the stretch.",
        mistakes=(
            Mistake(
                lambda: _double(1.5, BASE + math.log(4)),
                "the map from noise to data stretches by 4, so the density is divided by 4.",
            ),
            Mistake(
                lambda: _double(1.5, BASE),
                "the log-determinant, log 4, is missing from the second number.",
            ),
            Mistake(
                lambda: _double(1.5, -LOG_2PI - 0.5 * (2.0**2 + 10.0**2) - math.log(4)),
                "you evaluated the density of the noise at y. It belongs at z.",
            ),
            Mistake(
                lambda: _double(44.0, -LOG_2PI - 0.5 * (4 + 44.0**2) - math.log(4)),
                "this is the map from noise to data. Undo it: subtract the shift, then divide.",
            ),
            Mistake(
                lambda: _double(-1.5, BASE - math.log(4)),
                "undo the shift first, and then the scaling: (10 - 4) / 4.",
            ),
        ),
        tolerance=1e-4,
    ),
    # Four coordinates, the first two stay; shift sum, log-scale tanh(sum).
    "coupling-flows-2": Exercise(
        solution=_inverse,
        hint="the first two coordinates give shift and log-scale; subtract the shift from the "
        "others and divide by the scale.",
        mistakes=(
            Mistake(
                lambda y: _inverse(y, from_moved=True),
                "your shift and log-scale come from the coordinates that moved. Use those that "
                "stayed.",
            ),
            Mistake(
                lambda y: _inverse(y, divide=False),
                "you multiplied by the scale. The inverse divides by it.",
            ),
            Mistake(
                _shift_last,
                "you divided before you subtracted the shift. The last step is undone first.",
            ),
        ),
        at=POINTS,
    ),
    "coupling-flows-3": Exercise(
        solution=_log_prob,
        hint="evaluate the noise at z and subtract, for each row of its own, the sum of its "
        "log-scales.",
        mistakes=(
            Mistake(
                lambda y: _log_prob(y, sign=1.0),
                "the log-scales are those of the map from noise to data: subtract them.",
            ),
            Mistake(
                lambda y: _log_prob(y, sign=1.0, ladj="batch"),
                "both faults are still there: the sum runs over the batch, and the sign is wrong.",
            ),
            Mistake(
                lambda y: _log_prob(y, ladj="batch"),
                "you sum the log-scales over the whole batch. Each row has its own determinant: "
                "sum over the last dimension.",
            ),
            Mistake(
                lambda y: _log_prob(y, ladj="mean"),
                "the determinant is a product over coordinates, so sum the log-scales.",
            ),
            Mistake(
                lambda y: _log_prob(y, at="y"),
                "the density of the noise is to be evaluated at z, not at y.",
            ),
            Mistake(lambda y: _log_prob(y, ladj="none"), "the log-determinant is missing."),
        ),
        at=POINTS,
    ),
    # Two groups of sizes 3 and 3; then three groups of two.
    "coupling-flows-4": Exercise(
        solution=lambda: _double(3.0, 4.0),
        hint="multiply the matrices of paths, or follow one coordinate of the group that moves "
        "first: when does it see the others of its own group?",
        mistakes=(
            Mistake(
                lambda: _double(2.0, 3.0),
                "each group has moved once then, but in the group that moved first no coordinate "
                "sees the others of its group.",
            ),
            Mistake(
                lambda: _double(3.0, 3.0),
                "the first number is right. With three groups the first has moved only once after "
                "three layers.",
            ),
            Mistake(
                lambda: _double(3.0, 6.0),
                "the first number is right. With three groups one round and one more layer do.",
            ),
            Mistake(
                lambda: _double(4.0, 6.0),
                "two whole rounds are enough, but more than is needed.",
            ),
        ),
    ),
    # A Gaussian with variances 4 and 1 and correlation 1/2; x1 always stays.
    "coupling-flows-5": Exercise(
        solution=lambda: _double(FLOOR, 0.0),
        hint="the first term is the divergence of N(0, 4) from N(0, 1). What is the conditional "
        "distribution of x2 under a Gaussian, and can an affine layer have it?",
        mistakes=(
            Mistake(
                lambda: _double(0.5 * (0.25 - 1 + math.log(4)), 0.0),
                "this is the divergence of N(0, 1) from N(0, 4). The truth stands on the left.",
            ),
            Mistake(
                lambda: _double(0.5 * (2 - 1 - math.log(2)), 0.0),
                "4 is the variance, not the standard deviation.",
            ),
            Mistake(
                lambda: _double(FLOOR, -0.5 * math.log(0.75)),
                "the second number is the mutual information. The layer may shift x2 by what x1 "
                "says, so the correlation costs nothing.",
            ),
            Mistake(
                lambda: _double(0.0, 0.0),
                "x1 keeps the variance 1 of the noise, and the truth has 4.",
            ),
        ),
        tolerance=1e-4,
    ),
    # NICE in the plane: the share of draws with more than half of the largest density.
    "coupling-flows-6": Exercise(
        solution=lambda: 0.5,
        hint="p(x) is proportional to exp(-|z|²/2), and |z|²/2 has the standard exponential "
        "distribution in the plane.",
        mistakes=(
            Mistake(
                lambda: 1 - math.exp(-0.5 * math.log(2)),
                "the density is half of the largest where |z|²/2 = log 2, not where |z|² is.",
            ),
            Mistake(
                lambda: math.erf(math.sqrt(math.log(2))),
                "this is right on the line. In the plane |z|² has two degrees of freedom.",
            ),
            Mistake(
                lambda: math.log(2),
                "this is the value of |z|²/2 at the edge. Which share of the noise lies inside?",
            ),
        ),
        tolerance=1e-3,
    ),
    # A bin with the mean slope 1/2 and the derivatives 1 and 2 at its ends.
    "coupling-flows-7": Exercise(
        solution=lambda: _spline_middle(2.0, 4.0, 0.5),
        hint="a = 2, b = 4 and p = q = 1/2 in the formulas for the spline.",
        mistakes=(
            Mistake(
                lambda: _spline_middle(1.0, 2.0, 0.5),
                "a and b are the derivatives divided by the mean slope: 2 and 4.",
            ),
            Mistake(
                lambda: _spline_middle(2.0, 4.0, 1.0),
                "multiply by the mean slope, s = 1/2, and divide by the square of the denominator.",
            ),
            Mistake(
                lambda: _spline_middle(4.0, 2.0, 0.5),
                "you exchanged both ends. a belongs to the left one.",
            ),
            Mistake(
                lambda: _double(0.375, 1.0),
                "divide by the square of the denominator, which is 2 here.",
            ),
        ),
        tolerance=1e-4,
    ),
    # 784 coordinates, five layers: passes to draw and to score 1000 pictures.
    "coupling-flows-8": Exercise(
        solution=lambda: _double(3920.0, 5.0, 10.0, 10.0),
        hint="a pass treats the whole batch. An autoregressive layer needs D passes in one "
        "direction, a coupling layer one in each.",
        mistakes=(
            Mistake(
                lambda: _double(5.0, 3920.0, 10.0, 10.0),
                "this is the inverse autoregressive flow. A masked one scores in one pass a layer.",
            ),
            Mistake(
                lambda: _double(784.0, 1.0, 1.0, 1.0),
                "these are the passes of one layer. The flows have five and ten.",
            ),
            Mistake(
                lambda: _double(3_920_000.0, 5000.0, 10_000.0, 10_000.0),
                "a pass treats all 1000 pictures at once.",
            ),
            Mistake(
                lambda: _double(3920.0, 5.0, 20.0, 10.0),
                "a coupling layer has to wait once, but not for a network: one pass gives all.",
            ),
        ),
    ),
    "coupling-flows-9": Exercise(
        solution=_weather,
        hint="fit mean and covariance (divided by n) of the training rows, take the mean log "
        "density of the test rows, and add the logarithms of all spacings.",
        mistakes=(
            Mistake(
                lambda: _weather(cells=False),
                "this is a log-density. Add the logarithms of the spacings.",
            ),
            Mistake(
                lambda: _weather(sign=-1.0),
                "the volume of the cell multiplies the density, so its logarithm is added.",
            ),
            Mistake(
                lambda: _weather(diagonal=True),
                "you left out the covariances. The Gaussian has a full covariance matrix.",
            ),
            Mistake(
                lambda: _weather(part="train"),
                "these are the training rows. Score those of the test part.",
            ),
            Mistake(
                lambda: _weather(part="validation"),
                "these are the validation rows. Score those of the test part.",
            ),
        ),
        tolerance=1e-4,
    ),
}
