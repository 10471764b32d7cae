"""The exercises of the chapter on linear flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _log_prob(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return _log_normal((x - b) @ w.mT) + w.det().abs().log()


def _gradient(w: Tensor, x: Tensor) -> Tensor:
    return w.inverse().mT - w @ x.mT @ x / len(x)


MATRIX = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0], [0.5, 0.3, 2.0]], dtype=torch.float64)
ROWS = torch.tensor(
    [[0.3, -1.0, 2.0], [1.5, 0.0, -0.5], [-2.0, 0.7, 1.1], [0.1, 0.2, 0.4]], dtype=torch.float64
)
FLOWS = ((ROWS, MATRIX, _double(0.2, -0.4, 1.0)), (ROWS[:2, :2], MATRIX[:2, :2], _double(1, 2)))
MATRIX_AND_ROWS = ((MATRIX, ROWS), (MATRIX[:2, :2], ROWS[:, :2]))

DENSITY = math.exp(-1) / (2 * math.pi * 6)
TWO_PEAKS = 0.461995
IRIS = (-2.532762, -4.940120)

EXERCISES = {
    # A = (3 0; 1 2) at x = (3, -1), so z = (1, -1).
    "linear-flows-1": Exercise(
        solution=lambda: DENSITY,
        hint="solve A z = x for z, take the standard normal density there, and divide it by the "
        "area of the square's image.",
        mistakes=(
            Mistake(
                lambda: 36 * DENSITY,
                "you multiplied by |det A|. The map from noise to data enlarges areas, so the "
                "density falls.",
            ),
            Mistake(lambda: 6 * DENSITY, "this is the density of the noise at z. What about area?"),
            Mistake(
                lambda: math.exp(-5) / (2 * math.pi * 6),
                "the noise's density is taken at z, and not at x.",
            ),
            Mistake(
                lambda: DENSITY * math.sqrt(2 * math.pi),
                "in two dimensions the normaliser is 2 pi, the square of the root of 2 pi.",
            ),
        ),
        tolerance=2e-3,
    ),
    # (2 4; -6 3) = (1 0; -3 1) (2 4; 0 15), determinant 30.
    "linear-flows-2": Exercise(
        solution=lambda: _double(-3.0, 15.0, 30.0),
        hint="subtract -3 times the first row from the second one. The multiple stands in L, and "
        "what is left in U.",
        mistakes=(
            Mistake(
                lambda: _double(3.0, 15.0, 30.0),
                "the numbers in U are right. L holds the multiple that is subtracted, with its "
                "sign: L U must give the matrix back.",
            ),
            Mistake(
                lambda: _double(-3.0, -9.0, -18.0),
                "you added 12 with the wrong sign: 3 - (-3) 4 is 15.",
            ),
            Mistake(
                lambda: _double(-3.0, 15.0, 15.0),
                "the factors are right. The determinant is the product of U's whole diagonal.",
            ),
        ),
        tolerance=1e-6,
    ),
    # The least D with (D³ - D) / 3 > 64 D².
    "linear-flows-3": Exercise(
        solution=lambda: 193,
        hint="compare (D³ - D) / 3 with 64 D², and divide by D.",
        mistakes=(
            Mistake(
                lambda: 192,
                "nearly. At 192 the -D / 3 still keeps the determinant below the maps.",
            ),
            Mistake(
                lambda: 64,
                "this would be so if the determinant took D³ multiplications. It takes a third.",
            ),
            Mistake(lambda: 65, "the determinant takes only a third of D³ multiplications."),
            Mistake(lambda: 14, "the batch is mapped by 64 products of D² multiplications each."),
        ),
        tolerance=1e-6,
    ),
    "linear-flows-4": Exercise(
        solution=_log_prob,
        hint="every row is W (x - b), the density is that of the noise, and the logarithm of "
        "|det W| is added once for each observation.",
        mistakes=(
            Mistake(
                lambda x, w, b: _log_normal((x - b) @ w) + w.det().abs().log(),
                "for observations in rows, W x is x @ W.T. The determinant cannot tell the two "
                "apart.",
            ),
            Mistake(
                lambda x, w, b: _log_normal((x - b) @ w.mT) - w.det().abs().log(),
                "the determinant is that of the map from data to noise, which is W itself.",
            ),
            Mistake(
                lambda x, w, b: _log_normal((x - b) @ w.mT),
                "this is the density of the noise. The map changes volumes.",
            ),
            Mistake(
                lambda x, w, b: _log_normal(x @ w.mT - b) + w.det().abs().log(),
                "the shift is subtracted before W is applied.",
            ),
        ),
        at=FLOWS,
    ),
    # a = (3, 0, 4): v = (8, 0, 4), and its last entry over its first is 1/2.
    "linear-flows-5": Exercise(
        solution=lambda: _double(1.0, 0.0, 0.5),
        hint="v is a plus its length, 5, times the first unit vector, up to a factor.",
        mistakes=(
            Mistake(
                lambda: _double(1.0, 0.0, -2.0),
                "this reflection gives +5 in place of -5. It is right on paper, but it subtracts "
                "nearly equal numbers where the vector is close to the first axis.",
            ),
            Mistake(
                lambda: _double(8.0, 0.0, 4.0),
                "this is the vector. Scale it so that its first entry is 1.",
            ),
            Mistake(
                lambda: _double(1.0, 0.0, 4 / 3),
                "this is the direction of a itself, which the reflection would turn round.",
            ),
        ),
        tolerance=1e-6,
    ),
    "linear-flows-6": Exercise(
        solution=_gradient,
        hint="the log-determinant gives the transposed inverse of W, and the squares give minus W "
        "times the average of x xᵀ.",
        mistakes=(
            Mistake(
                lambda w, x: w.inverse() - w @ x.mT @ x / len(x),
                "the gradient of the log-determinant is the inverse, transposed.",
            ),
            Mistake(
                lambda w, x: w.inverse().mT - w @ x.mT @ x,
                "the log-likelihood is per observation: average x xᵀ over the data.",
            ),
            Mistake(
                lambda w, x: len(x) * w.inverse().mT - w @ x.mT @ x,
                "this is the gradient of the sum. Divide by the number of observations.",
            ),
            Mistake(
                lambda w, x: w.inverse().mT + w @ x.mT @ x / len(x),
                "the squares enter the log-density with a minus sign.",
            ),
            Mistake(
                lambda w, x: w.inverse().mT - 2 * w @ x.mT @ x / len(x),
                "the squares are halved in the exponent.",
            ),
            Mistake(
                lambda w, x: -w @ x.mT @ x / len(x),
                "the log-determinant depends on W, too.",
            ),
        ),
        at=MATRIX_AND_ROWS,
    ),
    # 8 x 8 pixels, two channels, W = (2 1; 1 1.5), determinant 2.
    "linear-flows-7": Exercise(
        solution=lambda: 64 * math.log(2),
        hint="the same block stands for every pixel, and there are 64 of them.",
        mistakes=(
            Mistake(lambda: math.log(2), "this is one pixel. All 64 are stretched."),
            Mistake(
                lambda: 128 * math.log(2),
                "the determinant of a pixel's block counts both channels at once.",
            ),
            Mistake(
                lambda: -64 * math.log(2),
                "here W goes from data to noise, and this direction was asked for.",
            ),
            Mistake(lambda: 64 * 2, "take the logarithm of the determinant."),
            Mistake(
                lambda: math.log(128),
                "the determinants of the blocks are multiplied, so their logarithms are added.",
            ),
        ),
        tolerance=1e-4,
    ),
    # Two components at ±3, by quadrature.
    "linear-flows-8": Exercise(
        solution=lambda: _double(TWO_PEAKS, TWO_PEAKS - 0.5 * math.log(10) + math.log(2)),
        hint="integrate the density of the two components times the logarithm of its ratio to the "
        "Gaussian with mean 0 and variance 10.",
        mistakes=(
            Mistake(
                lambda: _double(TWO_PEAKS, 0.5 * math.log(10) - math.log(2)),
                "the first number is right; the second one is how far the bound lies below it.",
            ),
            Mistake(
                lambda: _double(TWO_PEAKS, TWO_PEAKS),
                "the first number is right; subtract the bound from it for the second.",
            ),
        ),
        tolerance=5e-3,
    ),
    # Lower triangular with a below the diagonal: the corner of the inverse is -a (1 - a)^(D - 2).
    "linear-flows-9": Exercise(
        solution=lambda: 0.5 * 1.5**10,
        hint="solve L x = e_1 from the top: x_1 = 1, x_2 = 1/2, and each further one is half of "
        "the sum of all before it.",
        mistakes=(
            Mistake(
                lambda: 0.5 * 1.5**11,
                "this would be the corner for D = 13. There are eleven rows below the first.",
            ),
            Mistake(
                lambda: 1.5**10, "x_2 is 1/2 and not 1, since one half of x_1 alone goes into it."
            ),
            Mistake(
                lambda: 2.0**10,
                "this is the corner with -1 below the diagonal. Here there stands -1/2.",
            ),
            Mistake(lambda: 1.0, "this is the determinant, which does not see it."),
        ),
        tolerance=1e-3,
    ),
    # Iris: full and diagonal covariance, nats per flower.
    "linear-flows-10": Exercise(
        solution=lambda: _double(*IRIS),
        hint="the best log-likelihood per flower is -1/2 log det(2 pi e S), and for independent "
        "coordinates S has only its diagonal.",
        mistakes=(
            Mistake(
                lambda: _double(*reversed(IRIS)),
                "the numbers are right, in the wrong order: first all linear flows.",
            ),
            Mistake(
                lambda: 150 * _double(*IRIS),
                "these are sums over 150 flowers. Divide by their number.",
            ),
            Mistake(
                lambda: _double(*IRIS) + 2,
                "the -D/2 that the squares contribute is missing: 2 pi e, and not 2 pi.",
            ),
            Mistake(
                lambda: _double(*IRIS) - 2 * math.log(150 / 149),
                "you divided by n - 1. Maximum likelihood divides by n.",
            ),
        ),
        tolerance=1e-4,
    ),
}
