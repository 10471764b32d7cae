"""The exercises of the chapter on the EM algorithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


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
        _double(0.9, 0.2, 0.5, 0.1),
    ),
    (torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64), _double(0.3, 1.0, 0.8)),
)

PICTURES_AND_SHARES = (
    (
        torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.float64),
        torch.tensor(
            [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64
        ),
    ),
)

FAR_AND_NEAR = (
    (torch.tensor([[-1.0, -2.0], [-1000.0, -1001.0]], dtype=torch.float64),),
    (torch.tensor([[-3.0, -1.0, -2.0], [5.0, -800.0, 4.0]], dtype=torch.float64),),
)

SHARE = 1 / (1 + math.exp(-1.5))
SHARE_WITHOUT_HALF = 1 / (1 + math.exp(-3))
LOG_EVIDENCE = math.log(0.15)
COIN_GAP = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
REVERSED_GAP = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
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
    # p(x, z) = 0.12 and 0.03, q = (1/2, 1/2).
    "em-2": Exercise(
        solution=lambda: _double(LOG_EVIDENCE - COIN_GAP, COIN_GAP),
        hint="the bound is the expectation under q of log p(x, z) - log q(z), and the gap is "
        "KL(q || p), with the posterior (0.8, 0.2).",
        mistakes=(
            Mistake(
                lambda: _double(LOG_EVIDENCE - REVERSED_GAP, REVERSED_GAP),
                "this is KL(p || q). The gap is the divergence from q to the posterior.",
            ),
            Mistake(
                lambda: _double(LOG_EVIDENCE - COIN_GAP - math.log(2), COIN_GAP),
                "the bound lacks the entropy of q, log 2.",
            ),
            Mistake(
                lambda: _double(COIN_GAP, LOG_EVIDENCE - COIN_GAP),
                "both numbers are right, in the wrong order: first the bound, then the gap.",
            ),
            Mistake(
                lambda: _double(LOG_EVIDENCE, COIN_GAP),
                "the first number is the log-evidence. The bound is lower by the gap.",
            ),
            Mistake(
                lambda: _double(LOG_EVIDENCE - COIN_GAP, COIN_GAP) / math.log(2),
                "these are bits. Take the natural logarithm.",
            ),
        ),
        tolerance=1e-3,
    ),
    "em-3": Exercise(
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
    "em-4": Exercise(
        solution=lambda x, r: r.mT @ x / r.sum(0).unsqueeze(1),
        hint="the new probability is a weighted share of ones: the sum over i of the "
        "responsibility times the pixel, over N_k.",
        mistakes=(
            Mistake(
                lambda x, r: r.mT @ x / len(x),
                "you divided by n. Each component divides by its own N_k.",
            ),
            Mistake(lambda x, r: r.mT @ x, "divide the weighted sums by N_k."),
            Mistake(
                lambda x, r: r.mT @ x / (r.mT @ x).sum(1, keepdim=True),
                "your rows sum to one, but the pixels are independent: each has a probability "
                "of its own.",
            ),
            Mistake(
                lambda x, r: x.mean(0).expand(r.shape[1], -1),
                "the responsibilities play no part in your answer.",
            ),
            Mistake(
                lambda x, r: (r.mT @ x + 1) / (r.sum(0).unsqueeze(1) + 2),
                "you added a uniform prior. Maximum likelihood has none.",
            ),
        ),
        at=PICTURES_AND_SHARES,
    ),
    "em-5": Exercise(
        solution=lambda a: a.softmax(1),
        hint="subtract from each row its own largest value before you take exponentials.",
        mistakes=(
            Mistake(
                lambda a: a.softmax(0),
                "your columns sum to one. The responsibilities of one observation, a row, do.",
            ),
            Mistake(lambda a: a.log_softmax(1), "these are the logarithms of the answer."),
            Mistake(
                lambda a: (
                    (a - a.max()).exp() / (a - a.max()).exp().sum(1, keepdim=True)
                ).nan_to_num(),
                "you wrote zeros for NaN. The row has responsibilities that sum to one: subtract "
                "its own largest value first.",
            ),
            Mistake(
                lambda a: (a - a.amax(1, keepdim=True)).exp(),
                "your rows do not sum to one. Divide by their sums.",
            ),
            Mistake(
                lambda a: torch.nn.functional.one_hot(a.argmax(1), a.shape[1]).to(a),
                "this is hard EM: the nearest component takes all.",
            ),
        ),
        at=FAR_AND_NEAR,
    ),
    # 0, 1, 5, 6 from the means 0 and 1.
    "em-6": Exercise(
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
    # 2, 4, 6 and one number that was lost; the mean starts at 0.
    "em-7": Exercise(
        solution=lambda: _double(3.0, 0.25),
        hint="the new mean is (2 + 4 + 6 + old mean) / 4. How far is it from 4, where it stops?",
        mistakes=(
            Mistake(
                lambda: _double(4.0, 0.0),
                "this is where EM ends. The first step replaces the lost number by 0.",
            ),
            Mistake(
                lambda: _double(3.0, 0.75),
                "the mean is right; 3/4 is the fraction of the information that was observed.",
            ),
            Mistake(
                lambda: _double(3.0, 1 / 3),
                "the mean is right; the average is taken over four numbers, not three.",
            ),
        ),
        tolerance=1e-3,
    ),
    # D = d = 1, W = σ² = 1: the posterior variance is 1/2.
    "em-8": Exercise(
        solution=lambda: -0.25,
        hint="the posterior variance of z is 1/2, so the expectation of e² lacks 1/2.",
        mistakes=(
            Mistake(lambda: 0.25, "the size is right. Is the gradient too high or too low?"),
            Mistake(
                lambda: -0.5,
                "this is the change of the expectation of e². The gradient is half of it.",
            ),
            Mistake(lambda: 0.0, "the mean of e does not change, but that of its square does."),
        ),
        tolerance=1e-3,
    ),
    # Precision (2, 1.2; 1.2, 1).
    "em-9": Exercise(
        solution=lambda: _double(0.5, 1.0, GAP),
        hint="the variances are one over the diagonal of the precision matrix, and the gap is half "
        "of the logarithms of that diagonal less the log-determinant.",
        mistakes=(
            Mistake(
                lambda: _double(1 / 0.56, 2 / 0.56, GAP),
                "these are the variances of the posterior itself. Those of the best product are "
                "smaller: one over the diagonal of the precision matrix.",
            ),
            Mistake(
                lambda: _double(2.0, 1.0, GAP),
                "these are precisions. A variance is one over a precision.",
            ),
            Mistake(
                lambda: _double(0.5, 1.0, 2 * GAP),
                "the variances are right; the gap has a factor 1/2.",
            ),
            Mistake(
                lambda: _double(0.5, 1.0, -GAP),
                "the variances are right; a gap is never negative.",
            ),
        ),
        tolerance=1e-3,
    ),
    # The iris data, full covariance matrices; the criterion of scikit-learn and mclust's "VVV".
    "em-10": Exercise(
        solution=lambda: _double(2, 574.018),
        hint="take the number of parameters times log n, less twice the log-likelihood, for each "
        "number of components. The lowest value wins.",
        mistakes=(
            Mistake(
                lambda: _double(3, 580.839),
                "three species, but another number of components has a lower criterion.",
            ),
            Mistake(
                lambda: _double(2, -574.018),
                "the number is right; here the criterion has the sign with which lower is better.",
            ),
            Mistake(
                lambda: _double(2, -214.355),
                "the number is right; this is the log-likelihood, without the price of parameters.",
            ),
        ),
        tolerance=1e-4,
    ),
}
