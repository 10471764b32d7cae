"""The exercises of the chapter on amortised inference and the VAE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _loss(
    x: Tensor,
    mean: Tensor,
    log_std: Tensor,
    e: Tensor,
    w: Tensor,
    *,
    width: bool = True,
    over_pixels: bool = True,
) -> Tensor:
    """Return one draw of the negative bound, or what a bug makes of it."""
    z = mean + (log_std.exp() if width else log_std) * e
    errors = (x - z @ w.T).square() / 2 + 0.5 * math.log(2 * math.pi)
    kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
    return (kl + (errors.sum(1) if over_pixels else errors.mean(1))).mean()


BATCHES = (
    (
        _rows((0.5, -1.0, 2.0), (0.0, 0.3, 1.0)),
        _rows((0.2, -0.4), (1.0, 0.3)),
        _rows((-0.5, 0.1), (-1.0, 0.4)),
        _rows((0.7, -1.2), (0.1, 0.9)),
        _rows((1.0, 0.0), (-0.5, 0.8), (0.3, 1.1)),
    ),
)

EXERCISES = {
    # x = 2, sigma = 0.5.
    "amortised-inference-1": Exercise(
        solution=lambda: _double(math.sqrt(1.375), 0.5),
        hint="u = z₁² is x - (1 + σ²) / 2, and z₂ is (x - u) / (1 + σ²).",
        mistakes=(
            Mistake(
                lambda: _double(math.sqrt(1.5), 0.5),
                "this is the best point of the parabola itself. With noise, put σ² = 0.25 in.",
            ),
            Mistake(
                lambda: _double(1.375, 0.5),
                "the first number is u. Take its square root.",
            ),
            Mistake(
                lambda: _double(math.sqrt(1.375), 0.625),
                "z₁ is right; z₂ need not take up all of x - z₁², since the noise takes a part.",
            ),
            Mistake(
                lambda: _double(math.sqrt(1.25), 0.5),
                "you have put σ in the place of σ².",
            ),
        ),
        tolerance=1e-3,
    ),
    # Means (1, -0.5), widths (0.5, 2).
    "amortised-inference-2": Exercise(
        solution=lambda: 1.75,
        hint="half the sum of μ² + σ² - 1 - log σ² over both coordinates.",
        mistakes=(
            Mistake(lambda: 3.5, "the factor one half is missing."),
            Mistake(lambda: 0.5 * (1.25 + 2.5 - 2), "you have taken the widths for the variances."),
            Mistake(lambda: 0.5 * (1.25 + 4.25), "the ones are missing, one for each coordinate."),
            Mistake(
                lambda: 0.5 * (0.75 + 4.25 - 2),
                "the squares of both means are positive and add up.",
            ),
        ),
        tolerance=1e-3,
    ),
    # Eigenvalues 4, 2, 1, 0.5, and the noise variance 1.5.
    "amortised-inference-3": Exercise(
        solution=lambda: _double(2.0, 0.5 * math.log(4 / 1.5) + 0.5 * math.log(2 / 1.5)),
        hint="a coordinate is alive if its eigenvalue exceeds σ², and then it has ½ log(λ / σ²) "
        "nats.",
        mistakes=(
            Mistake(
                lambda: _double(2.0, math.log(4 / 1.5) + math.log(2 / 1.5)),
                "the number is right; the factor one half is missing.",
            ),
            Mistake(
                lambda: _double(3.0, 0.5 * math.log(4 * 2 * 1 / 1.5**3)),
                "the third coordinate has λ below σ². It collapses, and has zero nats.",
            ),
            Mistake(
                lambda: _double(2.0, 0.5 * math.log(4 / 1.5)),
                "this is the first coordinate alone. Add the second one.",
            ),
        ),
        tolerance=1e-3,
    ),
    # P = [[2, 1], [1, 2]], delta = (0.1, 0.3).
    "amortised-inference-4": Exercise(
        solution=lambda: _double(0.5 * math.log(4 / 3), 0.13),
        hint="½ (Σ log Pⱼⱼ - log det P), and ½ δᵀPδ.",
        mistakes=(
            Mistake(
                lambda: _double(0.5 * math.log(4 / 3), 0.26),
                "the first is right; the second has a factor one half.",
            ),
            Mistake(
                lambda: _double(0.5 * math.log(4 / 3), 0.1),
                "the first is right; δᵀPδ also has the two terms off the diagonal.",
            ),
            Mistake(
                lambda: _double(math.log(4 / 3), 0.13),
                "the second is right; the first has a factor one half.",
            ),
        ),
        tolerance=2e-3,
    ),
    "amortised-inference-5": Exercise(
        solution=_loss,
        hint="z is the mean plus the width times e, and the log-likelihood is a sum over the "
        "pixels of each image.",
        mistakes=(
            Mistake(
                lambda *case: _loss(*case, width=False),
                "the reconstruction is right now. But the noise is multiplied by log σ.",
            ),
            Mistake(
                lambda *case: _loss(*case, over_pixels=False),
                "the draw is right now. But the reconstruction is a mean over the pixels.",
            ),
            Mistake(
                lambda *case: _loss(*case, width=False, over_pixels=False),
                "this still has both bugs.",
            ),
            Mistake(
                lambda *case: -_loss(*case),
                "this is the bound. The loss has the other sign.",
            ),
        ),
        at=BATCHES,
    ),
    # x = 5, any covariance.
    "amortised-inference-6": Exercise(
        solution=lambda: 0.7265,
        hint="E (x - z₁² - z₂)² gains 4 m₁ c, and Σ log sⱼ² becomes the log-determinant of the "
        "covariance matrix. Start near a mode.",
        mistakes=(
            Mistake(
                lambda: 1.5179,
                "this is the gap of the best q with independent coordinates.",
            ),
            Mistake(
                lambda: 0.7265 - math.log(2),
                "this is what is left beyond log 2. The gap itself was asked for.",
            ),
        ),
        tolerance=2e-3,
    ),
    # Squared error without one half, the largest eigenvalue 4.
    "amortised-inference-7": Exercise(
        solution=lambda: 8.0,
        hint="divide by β and compare with ‖x - x̂‖² / (2 σ²) + KL.",
        mistakes=(
            Mistake(lambda: 4.0, "this would be right with the factor one half in the loss."),
            Mistake(lambda: 2.0, "it is σ² that must reach the eigenvalue: β = 2 σ²."),
            Mistake(
                lambda: 14.0, "the coordinates die one by one; the largest eigenvalue decides."
            ),
        ),
        tolerance=1e-3,
    ),
    # Of ten test digits, by quadrature.
    "amortised-inference-8": Exercise(
        solution=lambda: 1.237,
        hint="for each digit, log p(x) by the grid minus the mean of log p(x, z) - log q(z) under "
        "q; then the mean over the ten.",
        mistakes=(
            Mistake(lambda: 12.37, "this is the sum over the ten digits."),
            Mistake(lambda: -1.237, "the bound lies below the log-evidence: the gap is positive."),
        ),
        tolerance=2e-2,
    ),
    # -100 nats, 64 pixels, 17 levels.
    "amortised-inference-9": Exercise(
        solution=lambda: 100 / (64 * math.log(2)) + math.log2(17),
        hint="minus the nats over 64 log 2, plus log₂ 17.",
        mistakes=(
            Mistake(
                lambda: 100 / (64 * math.log(2)),
                "this is for the scale from 0 to 1. In units of levels the density is lower by "
                "the factor 17 for each pixel.",
            ),
            Mistake(
                lambda: math.log2(17) - 100 / (64 * math.log(2)),
                "mind the sign: a low density costs bits.",
            ),
            Mistake(
                lambda: 100 / 64 + math.log2(17),
                "the first term is in nats. Divide it by log 2.",
            ),
        ),
        tolerance=1e-3,
    ),
}
