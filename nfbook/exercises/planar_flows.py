"""The exercises of the chapter on planar and radial flows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

Layer = tuple[Tensor, Tensor, Tensor]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _ladj(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
    return (1 + (w @ u) * (1 - torch.tanh(z @ w + b) ** 2)).abs().log()


def _log_q(
    z: Tensor, layers: list[Layer], *, sign: float = -1.0, late: bool = False, base: bool = True
) -> Tensor:
    """Return log q at the end of the flow, or what a mistake makes of it."""
    gaussian = -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
    log_q = gaussian if base else torch.zeros_like(gaussian)
    for w, u, b in layers:
        moved = z + u * torch.tanh(z @ w + b).unsqueeze(-1)
        log_q = log_q + sign * _ladj(moved if late else z, w, u, b)
        z = moved
    return log_q


POINTS_AND_LAYERS = (
    (
        _rows((0.0, 0.0), (1.0, -2.0), (0.3, 0.4)),
        _double(1.0, 2.0),
        _double(0.5, 0.3),
        _double(0.2)[0],
    ),
    # A layer that folds: its determinant is negative at some points.
    (_rows((0.0, 0.1), (1.5, 0.5)), _double(2.0, 0.0), _double(-1.5, 1.0), _double(0.0)[0]),
)

POINTS_AND_FLOWS = (
    (
        _rows((0.0, 0.0), (1.0, -2.0), (0.3, 0.4)),
        [
            (_double(1.0, 2.0), _double(0.5, 0.3), _double(0.2)[0]),
            (_double(-1.0, 0.5), _double(0.4, 1.0), _double(-0.5)[0]),
            (_double(0.0, 1.5), _double(1.0, -0.3), _double(0.0)[0]),
        ],
    ),
)

WIDE = 0.5 * (1 / 4 - 1 + math.log(4))
# The positive solution of z = 2 tanh z, the determinant there, and the base's density.
ROOT = 1.9150080481545
DENSITY = 1 / math.sqrt(2 * math.pi)
SLOPE = 1 - 2 * (1 - (ROOT / 2) ** 2)
SIDE = DENSITY * math.exp(-0.5 * ROOT**2) / SLOPE

EXERCISES = {
    # w = (1, 2), u = (-1, 0.2), b = 0, at z = 0.
    "planar-flows-1": Exercise(
        solution=lambda: _double(0.4, 1 / (2 * math.pi * 0.4)),
        hint="at z = 0 the slope of tanh is 1, so the determinant is 1 + wᵀu. The density of the "
        "base there is 1 / (2π).",
        mistakes=(
            Mistake(
                lambda: _double(0.4, 0.4 / (2 * math.pi)),
                "the determinant is right; it is below one, so the density rises.",
            ),
            Mistake(
                lambda: _double(-0.6, -1 / (2 * math.pi * 0.6)),
                "this is wᵀu. The determinant has a 1 from the identity.",
            ),
            Mistake(
                lambda: _double(0.4, 1 / (math.sqrt(2 * math.pi) * 0.4)),
                "the determinant is right; this is the base of one dimension, here there are two.",
            ),
        ),
        tolerance=1e-3,
    ),
    # The logistic function, and tanh(3 x).
    "planar-flows-2": Exercise(
        solution=lambda: _double(-4.0, -1 / 3),
        hint="the determinant is 1 + wᵀu h'(x), and it must not be negative for any x. How large "
        "is the largest slope of h?",
        mistakes=(
            Mistake(
                lambda: _double(-1.0, -1.0),
                "this is the condition for tanh, whose largest slope is 1.",
            ),
            Mistake(
                lambda: _double(-0.25, -3.0),
                "these are the largest slopes with a minus sign. Solve 1 + wᵀu h' = 0 for wᵀu.",
            ),
        ),
        tolerance=1e-3,
    ),
    # w = (0.5, 0), u = (-4, 1), with the book's m.
    "planar-flows-3": Exercise(
        solution=lambda: _double(-4 + 2 * (math.sqrt(5) - 1), 1.0),
        hint="a = wᵀu = -2, so m(a) - a = √5 - 1. It is multiplied by w / ‖w‖².",
        mistakes=(
            Mistake(
                lambda: _double(-4 + math.sqrt(5) - 1, 1.0),
                "you divided by ‖w‖. With ‖w‖² the inner product with w comes out as m(a).",
            ),
            Mistake(
                lambda: _double(-4 + 2 * (1 + math.log1p(math.exp(-2))), 1.0),
                "this uses m(a) = log(1 + exp(a)) - 1. Use the safe form.",
            ),
            Mistake(
                lambda: _double(-4 + 0.5 * (math.sqrt(5) - 1), 1.0),
                "you multiplied by w without dividing by ‖w‖².",
            ),
        ),
        tolerance=1e-3,
    ),
    "planar-flows-4": Exercise(
        solution=_ladj,
        hint="the logarithm of |1 + wᵀu (1 - tanh²(wᵀz + b))|, one number for each row of z. "
        "Where the layer folds the determinant is negative, so its absolute value matters.",
        mistakes=(
            Mistake(
                lambda z, w, u, b: (1 + (w @ u) * (1 - torch.tanh(z @ w + b))).abs().log(),
                "the derivative of tanh is 1 - tanh², yours lacks the square.",
            ),
            Mistake(
                lambda z, w, u, b: (1 + (w @ u) * torch.tanh(z @ w + b)).abs().log(),
                "this has tanh itself. The Jacobian contains its derivative.",
            ),
            Mistake(
                lambda z, w, u, b: -_ladj(z, w, u, b),
                "the size is right. This is what is added to log q; the log-determinant itself has "
                "the other sign.",
            ),
            Mistake(
                lambda z, w, u, b: _ladj(z, w, u, b).exp(),
                "this is the determinant's absolute value. Take its logarithm.",
            ),
            Mistake(
                lambda z, w, u, b: _ladj(z, w, u, 0 * b),
                "the offset b is missing.",
            ),
        ),
        at=POINTS_AND_LAYERS,
    ),
    "planar-flows-5": Exercise(
        solution=_log_q,
        hint="start from the base, and subtract each log-determinant, taken at the point that "
        "enters the layer.",
        mistakes=(
            Mistake(
                lambda z, layers: _log_q(z, layers, late=True),
                "the sign is right now. But the determinant is taken at the point that enters the "
                "layer, and your z has moved already.",
            ),
            Mistake(
                lambda z, layers: _log_q(z, layers, sign=1.0),
                "the point is right now. But where the layer stretches, the density falls.",
            ),
            Mistake(
                lambda z, layers: _log_q(z, layers, sign=1.0, late=True),
                "this still has both bugs.",
            ),
            Mistake(
                lambda z, layers: _log_q(z, layers, base=False),
                "the log-density of the base is missing.",
            ),
        ),
        at=POINTS_AND_FLOWS,
    ),
    # D = 3, α = 1, β = 2, r' = 2.
    "planar-flows-6": Exercise(
        solution=lambda: _double(1.0, 6.0),
        hint="r solves r² + (α + β - r') r - α r' = 0. Two directions are stretched by "
        "1 + β / (α + r), one by 1 + α β / (α + r)².",
        mistakes=(
            Mistake(
                lambda: _double(1.0, 8.0),
                "all three directions are stretched alike in your answer. Along the radius the "
                "stretch itself changes.",
            ),
            Mistake(
                lambda: _double(1.0, 12.0),
                "only D - 1 directions are orthogonal to the radius.",
            ),
            Mistake(
                lambda: _double(1.0, 3.0),
                "the distance is right; one of the D - 1 = 2 directions across is missing.",
            ),
            Mistake(
                lambda: _double(1.0, 1 / 6),
                "the distance is right; this is the determinant of the inverse.",
            ),
        ),
        tolerance=1e-3,
    ),
    # f(z) = z - 2 tanh z on N(0, 1): the density at 0, by one branch and by all.
    "planar-flows-7": Exercise(
        solution=lambda: _double(DENSITY, DENSITY + 2 * SIDE),
        hint="z = 2 tanh z holds at 0 and at ±1.915. Divide the base's density at each by the "
        "absolute value of 1 - 2 sech² z, and add.",
        mistakes=(
            Mistake(
                lambda: _double(DENSITY, 2 * SIDE - DENSITY),
                "the determinant at 0 is -1. A density takes its absolute value.",
            ),
            Mistake(
                lambda: _double(DENSITY, DENSITY + SIDE),
                "there are three points with the image 0: the origin and one on each side.",
            ),
            Mistake(
                lambda: _double(DENSITY, DENSITY + 2 * SIDE * SLOPE),
                "the densities at ±1.915 must be divided by the determinants there.",
            ),
            Mistake(
                lambda: _double(DENSITY, DENSITY),
                "the second number is the density of all draws that land at 0, from any side.",
            ),
        ),
        tolerance=1e-3,
    ),
    # Two layers in five dimensions against N(0, 4 I).
    "planar-flows-8": Exercise(
        solution=lambda: 3 * WIDE,
        hint="in D - K = 3 orthonormal directions the flow is still N(0, 1) and the target is "
        "N(0, 4). Add up their divergences.",
        mistakes=(
            Mistake(
                lambda: 1.5 * (4 - 1 - math.log(4)),
                "this is the divergence of the target from the flow. The bound's gap has the flow "
                "first.",
            ),
            Mistake(lambda: 5 * WIDE, "two of the five directions may be fitted exactly."),
            Mistake(lambda: 2 * WIDE, "two directions can change. How many cannot?"),
            Mistake(lambda: WIDE, "this is the divergence in one direction."),
            Mistake(
                lambda: 1.5 * (1 / 2 - 1 + math.log(2)),
                "the target's variance is 4; you have taken 2.",
            ),
        ),
        tolerance=1e-3,
    ),
    # One layer on a Gaussian, by maximum likelihood, on Old Faithful's waiting times.
    "planar-flows-9": Exercise(
        solution=lambda: -1.19613,
        hint="the log-likelihood of a time is that of its noise, plus the log-determinant of the "
        "inverse layer, minus the logarithm of the Gaussian's width. Average over the 272 times.",
        mistakes=(
            Mistake(
                lambda: -0.5 * (1 + math.log(2 * math.pi)),
                "this is what the Gaussian alone reaches. Start with u away from zero, such as 1.",
            ),
            Mistake(
                lambda: -1.19613 * 272,
                "this is the sum over all times. Divide it by 272.",
            ),
            Mistake(lambda: 1.19613, "this is the loss. The log-likelihood has the other sign."),
        ),
        tolerance=1e-4,
    ),
}
