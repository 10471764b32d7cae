"""The exercises of the chapter on flows of infinite length."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.data import old_faithful
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

LOG_NORMALISER = 0.5 * math.log(2 * math.pi)


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - LOG_NORMALISER


def _start(z: Tensor, t: Tensor) -> Tensor:
    return torch.asinh(torch.exp(-t) * torch.sinh(z))


def _log_stretch(z: Tensor, t: Tensor) -> Tensor:
    return t + torch.log(torch.cosh(_start(z, t)) / torch.cosh(z))


def _back_by_euler(x: Tensor, a: float, steps: int) -> Tensor:
    return x * (1 - a / steps) ** steps


def _kernel_density(width: float, *, unbiased: bool = True, standardised: bool = True) -> float:
    lengths = old_faithful()[:, 0].double()
    if standardised:
        lengths = (lengths - lengths.mean()) / lengths.std(correction=int(unbiased))
    log_densities = Normal(lengths, width).log_prob(torch.zeros((), dtype=torch.float64))
    return float(log_densities.logsumexp(0)) - math.log(len(lengths))


PLACES_AND_TIMES = (_double(-2.0, -0.3, 0.0, 0.5, 1.7), _double(0.2, 1.0, 0.7, 2.0, 0.5))
POINTS_AND_STEPS = (
    (_double(-1.0, 0.0, 2.0), 0.7, 10),
    (_double(0.5, 1.5), -0.4, 3),
)

EXERCISES = {
    "infinite-flows-1": Exercise(
        solution=lambda: -1.0,
        hint="multiply the trace of the Jacobian by the time, and subtract it from the "
        "log-density at the start.",
        mistakes=(
            Mistake(lambda: -7.0, "the sign: points come together, so the density rises."),
            Mistake(lambda: -3.0, "the trace has three terms, one for each dimension."),
            Mistake(lambda: 2.0, "the flow lasts for a time of 1/2 only."),
        ),
    ),
    "infinite-flows-2": Exercise(
        solution=lambda: 3.0,
        hint="the derivative of a layer is 1 + v'(z) / K. Find the most negative v'(z).",
        mistakes=(
            Mistake(lambda: 2.0, "v'(0) is -2.4, so with two layers the derivative is -0.2."),
            Mistake(lambda: 2.4, "K is a whole number."),
            Mistake(lambda: 1.0, "this would do for a velocity whose derivative is above -1."),
        ),
    ),
    "infinite-flows-3": Exercise(
        solution=lambda z, t: _log_normal(_start(z, t)) - _log_stretch(z, t),
        hint="find the start z_0 = asinh(exp(-t) sinh(z)), and add the logarithm of its "
        "derivative with respect to z to the log-density of z_0.",
        mistakes=(
            Mistake(
                lambda z, t: _log_normal(_start(z, t)),
                "this is the density at the start. The flow has stretched the line since.",
            ),
            Mistake(
                lambda z, t: _log_normal(_start(z, t)) + _log_stretch(z, t),
                "the sign of the log-determinant: where the line is stretched the density falls.",
            ),
            Mistake(
                lambda z, t: _log_normal(_start(z, -t)) - _log_stretch(z, -t),
                "this follows the field for another time t. Go back to the start.",
            ),
            Mistake(
                lambda z, t: (_log_normal(_start(z, t)) - _log_stretch(z, t)).exp(),
                "this is the density. Give its logarithm.",
            ),
        ),
        at=(PLACES_AND_TIMES,),
    ),
    "infinite-flows-4": Exercise(
        solution=lambda x, a, steps: _log_normal(_back_by_euler(x, a, steps)) - a,
        hint="the loop runs from time 1 to time 0, and so does the integral of the divergence.",
        mistakes=(
            Mistake(
                lambda x, a, steps: _log_normal(_back_by_euler(x, a, steps)) + a,
                "this is what the faulty function returns.",
            ),
            Mistake(
                lambda x, a, steps: _log_normal(_back_by_euler(x, -a, steps)) - a,
                "this goes forward in time. A datum is an end, so go back to its start.",
            ),
            Mistake(
                lambda x, a, steps: _log_normal(_back_by_euler(x, a, steps)) - a / steps,
                "add the divergence in every step.",
            ),
            Mistake(
                lambda x, a, steps: _log_normal(x * math.exp(-a)) - a,
                "this is the exact solution. Take Euler's steps.",
            ),
        ),
        at=POINTS_AND_STEPS,
    ),
    "infinite-flows-5": Exercise(
        solution=lambda: _double(4.0, 4.0),
        hint="the quadratic form is 1 + 3 + 2 e_1 e_2, and e_1 e_2 is a random sign.",
        mistakes=(
            Mistake(
                lambda: _double(4.0, 8.0),
                "use the symmetric part of B, whose elements outside the diagonal are 1.",
            ),
            Mistake(lambda: _double(4.0, 2.0), "each pair counts twice, as (1, 2) and as (2, 1)."),
            Mistake(
                lambda: _double(4.0, 24.0),
                "this is the variance for Gaussian e. With signs the diagonal adds none.",
            ),
        ),
    ),
    "infinite-flows-6": Exercise(
        solution=lambda: 4 / 3,
        hint="a stationary variance solves s² = (1 - ε)² s² + 2 ε.",
        mistakes=(
            Mistake(lambda: 1.0, "this is the limit of small steps, and 1/2 is not small."),
            Mistake(lambda: 2 / 3, "the noise has the variance 2 ε, not ε."),
            Mistake(lambda: (4 / 3) ** 0.5, "this is the standard deviation."),
            Mistake(lambda: 2.0, "the factor 1 - ε is squared in the variance."),
        ),
        tolerance=1e-4,
    ),
    "infinite-flows-7": Exercise(
        solution=lambda z, t: z / (1 + 2 * t),
        hint="the density is Gaussian with variance 1 + 2 t; the velocity is minus the gradient "
        "of its logarithm.",
        mistakes=(
            Mistake(lambda z, t: -z / (1 + 2 * t), "the sign: points must move apart."),
            Mistake(
                lambda z, t: 2 * z / (1 + 2 * t),
                "take half of σ², which is 2, times the gradient.",
            ),
            Mistake(lambda z, t: z / (1 + t), "the variance grows by σ² t, which is 2 t."),
            Mistake(
                lambda z, t: z / (1 + 2 * t).sqrt(),
                "divide by the variance, not by the standard deviation.",
            ),
        ),
        at=(PLACES_AND_TIMES,),
    ),
    "infinite-flows-8": Exercise(
        solution=lambda: 1.01**100,
        hint="the determinant of one step is 1 + ε². Multiply the determinants of all steps.",
        mistakes=(
            Mistake(lambda: 1.0, "this is the leapfrog's. Euler's step is no product of shears."),
            Mistake(lambda: 1.01, "this is the factor of a single step."),
            Mistake(lambda: 0.99**100, "the product of -ε and ε is subtracted: 1 + ε²."),
            Mistake(lambda: 2.0, "factors multiply, they do not add up."),
        ),
        tolerance=1e-4,
    ),
    "infinite-flows-9": Exercise(
        solution=lambda: _kernel_density(0.2),
        hint="at t = 1 the point is x + 0.2 z_0. Average the 272 Gaussian densities at 0, and "
        "take the logarithm of the average.",
        mistakes=(
            Mistake(
                lambda: _kernel_density(0.2, standardised=False),
                "these are minutes. Standardise the lengths first.",
            ),
            Mistake(
                lambda: math.exp(_kernel_density(0.2)),
                "this is the density. Give its logarithm.",
            ),
            Mistake(
                lambda: _kernel_density(0.2, unbiased=False),
                "divide by n - 1 in the standard deviation.",
            ),
            Mistake(
                lambda: _kernel_density(0.2) + math.log(272),
                "this is the sum of the densities. Divide it by their number.",
            ),
        ),
        tolerance=1e-4,
    ),
}
