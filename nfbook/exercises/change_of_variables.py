"""The exercises of the chapter on the change of variables."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from nfbook.data import diamonds
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)


def _density(z: float, mean: float = 0.0) -> float:
    return math.exp(-0.5 * (z - mean) ** 2) / math.sqrt(2 * math.pi)


def _chain(
    x: Tensor, layers: Tensor, *, sign: int = 1, at_data: bool = False, backwards: bool = True
) -> Tensor:
    """Score points under a chain of layers z -> sinh(a asinh(z) + b), or do it wrongly."""
    z, total = x, torch.zeros_like(x)
    for a, b in layers.flip(0) if backwards else layers:
        place = x if at_data else z
        t = (torch.asinh(place) - b) / a
        total = total + t.cosh().log() - a.log() - 0.5 * (1 + place.square()).log()
        z = ((torch.asinh(z) - b) / a).sinh()
    return _log_normal(z) + sign * total


def _affine(x: Tensor, scale: Tensor, shift: Tensor, *, sign: int = -1) -> Tensor:
    return _log_normal((x - shift) * torch.exp(-scale)).sum(1) + sign * scale.sum()


def _affine_over_batch(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _affine(x, scale, shift) - (len(x) - 1) * scale.sum()


def _affine_total(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _affine(x, scale, shift).sum().expand(len(x))


def _to_normal(x: Tensor) -> Tensor:
    z: Tensor = Normal(x.new_zeros(()), x.new_ones(())).icdf(-torch.expm1(-x))
    return z


def _prices() -> Tensor:
    table = diamonds()
    return table.rows.train[:, table.columns.index("price")]


def _mean_log_likelihood(values: Tensor) -> float:
    return float(-0.5 * (2 * math.pi * math.e * values.var(correction=0)).log())


def _gain(jacobian: int) -> float:
    price = _prices()
    logs = price.log()
    change = jacobian * float(logs.mean())
    return _mean_log_likelihood(logs) + change - _mean_log_likelihood(price)


POINTS_AND_LAYERS = (
    (_double(-1.5, 0.2, 2.0), _double(1.3, 0.4, 0.7, -0.5).reshape(2, 2)),
    (_double(0.5, 3.0), _double(0.8, -0.3, 1.6, 0.2, 1.1, 0.7).reshape(3, 2)),
)

POINTS_SCALE_AND_SHIFT = (
    (_double(0.3, -1.0, 2.0, 0.5, 1.0, 1.0).reshape(3, 2), _double(0.5, -0.2), _double(1.0, 0.0)),
    (_double(0.1, 0.7, -0.4, 2.2).reshape(4, 1), _double(-0.6), _double(0.3)),
)

EXERCISES = {
    # z uniform on [0, 2], x = z³, at x = 1.
    "change-of-variables-1": Exercise(
        solution=lambda: 1 / 6,
        hint="divide the density of z, 1/2, by the slope of the cube at z = 1.",
        mistakes=(
            Mistake(
                lambda: 0.5,
                "this is the density of z. The cube stretches the line there by 3.",
            ),
            Mistake(
                lambda: 1.5,
                "you multiplied by the slope of g. Where g stretches, the density falls.",
            ),
            Mistake(lambda: 1 / 3, "the density of z is 1/2, since its interval has length 2."),
        ),
        tolerance=1e-3,
    ),
    # x = exp(z), at x = e.
    "change-of-variables-2": Exercise(
        solution=lambda: math.log(_density(1.0)) - 1,
        hint="the log-density of z = 1 is -1.419. Subtract the logarithm of the slope of g there.",
        mistakes=(
            Mistake(
                lambda: math.log(_density(1.0)) + 1,
                "you added the log-slope of g. From noise to data it is subtracted.",
            ),
            Mistake(
                lambda: math.log(_density(1.0)),
                "this is the log-density of z = 1. The slope of g is missing.",
            ),
            Mistake(
                lambda: math.log(_density(math.e)) - 1,
                "the normal density has to be taken at z = log x, not at x.",
            ),
            Mistake(
                lambda: _density(1.0) / math.e,
                "this is the density. The question was for its logarithm.",
            ),
        ),
        tolerance=1e-3,
    ),
    # g(z) = (z1 exp(z2), z2), at x = (2, log 2).
    "change-of-variables-3": Exercise(
        solution=lambda: _density(1.0) * _density(math.log(2)) / 2,
        hint="z = (1, log 2), and the determinant of g's Jacobian there is exp(log 2) = 2.",
        mistakes=(
            Mistake(
                lambda: _density(1.0) * _density(math.log(2)) * 2,
                "you multiplied by the determinant of g. It stretches from noise to data, "
                "so it divides.",
            ),
            Mistake(
                lambda: _density(1.0) * _density(math.log(2)),
                "this is the density of the noise. The determinant is missing.",
            ),
            Mistake(
                lambda: _density(2.0) * _density(math.log(2)) / 2,
                "the density of the noise has to be taken at z = (1, log 2), not at x.",
            ),
        ),
        tolerance=1e-3,
    ),
    # y = (x / 1000 - 40) / 25 and a mean of -1.30.
    "change-of-variables-4": Exercise(
        solution=lambda: -1.30 - math.log(25_000),
        hint="add the logarithm of the slope of the map from dollars to y, 1/25000.",
        mistakes=(
            Mistake(
                lambda: -1.30 - math.log(25),
                "this is per thousand dollars.",
            ),
            Mistake(
                lambda: -1.30 + math.log(25_000),
                "the sign is wrong. One unit of y is 25000 dollars, so the density per dollar is "
                "lower.",
            ),
            Mistake(lambda: -1.30 / 25_000, "the density is divided by 25000, not its logarithm."),
        ),
        tolerance=1e-4,
    ),
    "change-of-variables-5": Exercise(
        solution=_chain,
        hint="undo the layers from the last to the first, and add the log-slope of each inverse "
        "at the point that this inverse receives.",
        mistakes=(
            Mistake(
                lambda x, layers: _chain(x, layers, sign=-1),
                "you subtracted the log-slopes of the inverses. From data to noise they are added.",
            ),
            Mistake(
                lambda x, layers: _chain(x, layers, at_data=True),
                "you took every slope at x. Each layer's slope belongs where that layer is.",
            ),
            Mistake(
                lambda x, layers: _chain(x, layers, backwards=False),
                "you undid the first layer first. The last one that was applied is the first to "
                "be undone.",
            ),
            Mistake(
                lambda x, layers: _chain(x, layers, sign=0),
                "the slopes are missing.",
            ),
        ),
        at=POINTS_AND_LAYERS,
        tolerance=1e-5,
    ),
    "change-of-variables-6": Exercise(
        solution=_affine,
        hint="sum over the coordinates of each point, and use the log-determinant of the map "
        "from data to noise.",
        mistakes=(
            Mistake(
                lambda x, scale, shift: _affine(x, scale, shift, sign=1),
                "the sums are right, the sign is not: the map from x to z multiplies volumes by "
                "exp(-scale).",
            ),
            Mistake(
                _affine_over_batch,
                "the log-determinant is one number for each point, without the factor len(x).",
            ),
            Mistake(
                _affine_total,
                "this is the sum over all points. The function should return one number for each.",
            ),
            Mistake(
                lambda x, scale, shift: _affine(x, scale, shift, sign=0),
                "the log-determinant is missing.",
            ),
        ),
        at=POINTS_SCALE_AND_SHIFT,
        tolerance=1e-5,
    ),
    "change-of-variables-7": Exercise(
        solution=_to_normal,
        hint="send x through its own distribution function, 1 - exp(-x), and then through the "
        "inverse of the normal one.",
        mistakes=(
            Mistake(
                lambda x: -_to_normal(x),
                "this map decreases. You used exp(-x), which is one minus the distribution "
                "function.",
            ),
            Mistake(
                lambda x: -torch.expm1(-x),
                "this is uniform on [0, 1]. It still has to go through the inverse of Φ.",
            ),
            Mistake(torch.log, "the logarithm reaches the whole line, but not the normal density."),
        ),
        at=((_double(0.1, 0.7, 1.0, 3.0),),),
        tolerance=1e-5,
    ),
    # z ~ N(1, 1), x = z², at x = 1.
    "change-of-variables-8": Exercise(
        solution=lambda: (_density(1.0, 1.0) + _density(-1.0, 1.0)) / 2,
        hint="add the densities of both preimages, each divided by the slope's size, 2.",
        mistakes=(
            Mistake(lambda: _density(1.0, 1.0) / 2, "z = -1 leads to x = 1 too."),
            Mistake(
                lambda: _density(1.0, 1.0),
                "the two preimages do not have the same density: the mean of z is 1.",
            ),
            Mistake(
                lambda: _density(1.0, 1.0) + _density(-1.0, 1.0),
                "divide each term by the slope of the square, which is 2 in size.",
            ),
            Mistake(
                lambda: _density(1.0),
                "the mean of z is 1, not 0.",
            ),
        ),
        tolerance=1e-3,
    ),
    # f(x) = arctan(x).
    "change-of-variables-9": Exercise(
        solution=lambda: math.erf(math.pi / 2 / math.sqrt(2)),
        hint="it is the probability of the image of f under the density of the noise.",
        mistakes=(
            Mistake(
                lambda: 1.0,
                "f is not onto: no x is mapped to a z beyond π/2.",
            ),
            Mistake(
                lambda: math.erf(1 / math.sqrt(2)),
                "this is the probability of (-1, 1). The arc tangent reaches up to π/2.",
            ),
            Mistake(
                lambda: 0.5 + 0.5 * math.erf(math.pi / 2 / math.sqrt(2)),
                "this leaves out one tail only. The image is (-π/2, π/2).",
            ),
        ),
        tolerance=1e-3,
    ),
    "change-of-variables-10": Exercise(
        solution=lambda: _gain(-1),
        hint="take the difference of the two means of the log-density, after subtracting the mean "
        "of log x from that of the second.",
        mistakes=(
            Mistake(
                lambda: _gain(0),
                "you compared a density of log x with one of x. The Jacobian of the logarithm is "
                "missing.",
            ),
            Mistake(
                lambda: _gain(1),
                "the slope of log x is 1/x, so log x is subtracted.",
            ),
            Mistake(lambda: -_gain(-1), "the size is right, the sign is not."),
        ),
        tolerance=1e-3,
    ),
}
