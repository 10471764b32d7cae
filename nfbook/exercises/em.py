"""The exercises of the chapter on the EM algorithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _weighted_mean(data: Tensor, shares: Tensor) -> Tensor:
    return shares @ data / shares.sum()


def _scatter(data: Tensor, shares: Tensor, middle: Tensor) -> Tensor:
    centred = data - middle
    return (shares.unsqueeze(1) * centred).mT @ centred


def _covariance(data: Tensor, shares: Tensor) -> Tensor:
    return _scatter(data, shares, _weighted_mean(data, shares)) / shares.sum()


DATA_AND_SHARES = (
    (
        torch.tensor([[0.0, 1.0], [2.0, -1.0], [3.0, 3.0], [-1.0, 4.0]], dtype=torch.float64),
        torch.tensor([0.9, 0.2, 0.5, 0.1], dtype=torch.float64),
    ),
    (
        torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64),
        torch.tensor([0.3, 1.0, 0.8], dtype=torch.float64),
    ),
)


def _mean_field(variances: tuple[float, float], gap: float) -> Tensor:
    return torch.tensor([*variances, gap], dtype=torch.float64)


SHARE = 1 / (1 + math.exp(-1.5))
SHARE_WITHOUT_HALF = 1 / (1 + math.exp(-3))
GAP = 0.5 * math.log(2 / 0.56)

EXERCISES = {
    # Means 0 and 3, variances 1, equal weights; x = 1 and x = 2.
    "em-1": Exercise(
        solution=lambda: SHARE + 2 * (1 - SHARE),
        hint="the odds of x = 1 are exp(-1/2) to exp(-4/2). Average 1 and 2 with the "
        "responsibilities of the first component.",
        mistakes=(
            Mistake(
                lambda: 1.0,
                "this is hard EM. x = 2 belongs to the first component too, with a small share.",
            ),
            Mistake(
                lambda: 2 * SHARE + (1 - SHARE),
                "this is the mean of the second component.",
            ),
            Mistake(
                lambda: (SHARE + 2 * (1 - SHARE)) / 2,
                "you divided by n = 2. The mean of a component divides by its own N_k, which is 1.",
            ),
            Mistake(
                lambda: SHARE_WITHOUT_HALF + 2 * (1 - SHARE_WITHOUT_HALF),
                "the squared distances are halved in the exponent of a Gaussian.",
            ),
        ),
        tolerance=1e-3,
    ),
    "em-2": Exercise(
        solution=_covariance,
        hint="weight each outer product of deviations from the new mean by its responsibility, "
        "and divide by the sum of the responsibilities.",
        mistakes=(
            Mistake(
                lambda x, r: _covariance(x, r) * r.sum() / len(x),
                "you divided by n. The covariance of a component divides by its own N_k.",
            ),
            Mistake(
                lambda x, r: _covariance(x, r) * r.sum(),
                "divide the weighted sum by N_k, the sum of the responsibilities.",
            ),
            Mistake(
                lambda x, r: _covariance(x, r) * r.sum() / (r.sum() - 1),
                "you divided by N_k - 1. Maximum likelihood divides by N_k.",
            ),
            Mistake(
                lambda x, r: _scatter(x, r, x.mean(0)) / r.sum(),
                "the deviations are from the component's own mean, not from that of all data.",
            ),
            Mistake(
                lambda x, r: _scatter(x, r, torch.zeros_like(x[0])) / r.sum(),
                "you forgot to subtract the mean.",
            ),
            Mistake(
                lambda x, r: _scatter(x, r.square(), _weighted_mean(x, r)) / r.square().sum(),
                "each responsibility counts once, not squared.",
            ),
            Mistake(
                lambda x, r: x.mT.cov(correction=0).reshape(x.shape[1], x.shape[1]),
                "the responsibilities play no part in your answer.",
            ),
        ),
        at=DATA_AND_SHARES,
    ),
    # 0, 1, 5, 6 from the means 0 and 1.
    "em-3": Exercise(
        solution=lambda: 0.25,
        hint="at the end the means are 0.5 and 5.5. The variance is the distortion over n D.",
        mistakes=(
            Mistake(
                lambda: 3.5,
                "this is the variance after one iteration, with the means 0 and 4. Go on.",
            ),
            Mistake(lambda: 1.0, "this is the distortion. Divide it by n D."),
            Mistake(lambda: 0.5, "this is the standard deviation, or the distortion over K."),
            Mistake(lambda: 0.125, "n D is 4 here: four observations in one dimension."),
        ),
        tolerance=1e-4,
    ),
    # Precision (2, 1.2; 1.2, 1).
    "em-4": Exercise(
        solution=lambda: _mean_field((0.5, 1.0), GAP),
        hint="the variances are one over the diagonal of the precision matrix, and the gap is half "
        "of the logarithms of that diagonal less the log-determinant.",
        mistakes=(
            Mistake(
                lambda: _mean_field((1 / 0.56, 2 / 0.56), GAP),
                "these are the variances of the posterior itself. Those of the best product are "
                "smaller: one over the diagonal of the precision matrix.",
            ),
            Mistake(
                lambda: _mean_field((2.0, 1.0), GAP),
                "these are precisions. A variance is one over a precision.",
            ),
            Mistake(
                lambda: _mean_field((0.5, 1.0), 2 * GAP),
                "the variances are right; the gap has a factor 1/2.",
            ),
            Mistake(
                lambda: _mean_field((0.5, 1.0), -GAP),
                "the variances are right; a gap is never negative.",
            ),
        ),
        tolerance=1e-3,
    ),
}
