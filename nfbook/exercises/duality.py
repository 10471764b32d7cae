"""The exercises of the chapter on forward and reverse KL."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nfbook.exercises import Exercise, Mistake
from nfbook.transforms import Affine

__all__ = ["EXERCISES"]

Energy = Callable[[Tensor], Tensor]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _log_base(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _energy(x: Tensor) -> Tensor:
    return 0.5 * (x[..., 1] - torch.sin(x[..., 0])).square() + 0.1 * x[..., 0].square()


def _reverse(
    z: Tensor, x: Tensor, ladj: Tensor, energy: Energy, *, ladj_sign: float = -1, sign: float = 1
) -> Tensor:
    return (_log_base(z) + ladj_sign * ladj + sign * energy(x)).mean()


def _likelihood(t: Affine, x: Tensor, *, back: bool = True, sign: float = 1) -> Tensor:
    z, ladj = (t.inv if back else t).call_and_ladj(x)
    return -(_log_base(z) + sign * ladj).mean()


DRAWS = (
    (
        _rows((0.0, 0.5), (1.0, -2.0), (-0.3, 0.4)),
        _rows((0.3, 1.5), (2.2, -1.0), (-1.3, 0.1)),
        _double(0.7, -0.2, 1.1),
        _energy,
    ),
)

DATA = (
    (
        Affine(_double(1.0, -0.5), _double(0.4, -0.3)),
        _rows((0.0, 0.5), (1.0, -2.0), (-0.3, 0.4)),
    ),
)

WIDE, NARROW = 4.0 - math.log(3.0), math.log(3.0) - 4 / 9
SEEN = 1 - 0.999**256

EXERCISES = {
    # N(0, 1) and N(0, 9).
    "duality-1": Exercise(
        solution=lambda: _double(NARROW, WIDE),
        hint="forward, the target is the first argument: log 3 + 1/18 - 1/2.",
        mistakes=(
            Mistake(
                lambda: _double(WIDE, NARROW),
                "the numbers are right. The forward divergence averages over the target.",
            ),
            Mistake(
                lambda: _double(0.5 * math.log(3) + 1 / 6 - 0.5, -0.5 * math.log(3) + 3 / 2 - 0.5),
                "the flow multiplies by 3, so its variance is 9.",
            ),
        ),
        tolerance=1e-3,
    ),
    # The second moment of sinh z.
    "duality-2": Exercise(
        solution=lambda: (math.exp(2) - 1) / 2,
        hint="average sinh² z over the standard normal density of z.",
        mistakes=(
            Mistake(
                # E sinh² z cosh z = (E cosh 3z - E cosh z) / 4
                lambda: (math.exp(4.5) - math.exp(0.5)) / 4,
                "you multiplied by the derivative of sinh. The law has no determinant.",
            ),
            Mistake(
                lambda: (math.exp(0.5) - 1) / 2,
                "E cosh 2z is e², since E exp(c z) = exp(c² / 2) with c = 2.",
            ),
            Mistake(lambda: math.exp(2) - 1, "sinh² z is half of cosh 2z - 1."),
        ),
        tolerance=1e-3,
    ),
    # The shares 0.5, 0.3, 0.2, of which the second is lost.
    "duality-3": Exercise(
        solution=lambda: _double(-math.log(0.7), 0.5 * math.log(2.5)),
        hint="nothing is wrong within the modes, so the sum of r log(r / a) over the two modes is "
        "the divergence.",
        mistakes=(
            Mistake(
                lambda: _double(-math.log(0.3), 0.5 * math.log(2.5)),
                "0.3 is the share that is lost. The flow's draws lie in the other 0.7.",
            ),
            Mistake(
                lambda: _double(
                    0.5 * math.log(0.7) + 0.2 * math.log(0.7),
                    0.2 * math.log(0.4),
                ),
                "this averages over the target's shares. The reverse divergence averages over the "
                "flow's.",
            ),
        ),
        tolerance=1e-3,
    ),
    "duality-4": Exercise(
        solution=_reverse,
        hint="the mean of log p(z) - ladj + energy(x), with the standard normal density p.",
        mistakes=(
            Mistake(
                lambda z, x, ladj, energy: _reverse(z, x, ladj, energy, ladj_sign=1),
                "where the flow stretches, from noise to data, log q falls.",
            ),
            Mistake(
                lambda z, x, ladj, energy: _reverse(z, x, ladj, energy, sign=-1),
                "log π is minus the energy, and it is subtracted: the energy is added.",
            ),
            Mistake(
                lambda z, x, ladj, energy: _reverse(x, x, ladj, energy),
                "the base is a density of the noise. Evaluate it at z.",
            ),
            Mistake(
                lambda z, x, ladj, energy: _reverse(z, z, ladj, energy),
                "the energy belongs to the image. Evaluate it at x.",
            ),
            Mistake(
                lambda z, x, ladj, energy: (energy(x) - ladj).mean(),
                "the log-density of the base is missing.",
            ),
        ),
        at=DRAWS,
    ),
    "duality-5": Exercise(
        solution=_likelihood,
        hint="go back by t.inv, and add its log-determinant to the log-density of the noise.",
        mistakes=(
            Mistake(
                lambda t, x: _likelihood(t, x, sign=-1),
                "the direction is right now. The log-determinant of f, from data to noise, is "
                "added.",
            ),
            Mistake(
                lambda t, x: _likelihood(t, x, back=False),
                "the sign is right now. But the data have to be carried to the noise, by t.inv.",
            ),
            Mistake(
                lambda t, x: _likelihood(t, x, back=False, sign=-1),
                "this still has both bugs.",
            ),
            Mistake(
                lambda t, x: -_likelihood(t, x),
                "this is the log-likelihood. The loss has the other sign.",
            ),
        ),
        at=DATA,
    ),
    # A share of 0.001, and batches of 256.
    "duality-6": Exercise(
        solution=lambda: _double(SEEN, 1 / SEEN),
        hint="a batch has none with the chance 0.999 to the power 256.",
        mistakes=(
            Mistake(
                lambda: _double(0.256, 1 / 0.256),
                "0.256 is the mean number of such draws in a batch. Some batches have two.",
            ),
            Mistake(
                lambda: _double(1 - SEEN, 1 / (1 - SEEN)),
                "this is the chance that a batch has none.",
            ),
        ),
        tolerance=2e-3,
    ),
    # N(0, 1) at a quarter of its energy.
    "duality-7": Exercise(
        solution=lambda: _double(2.0, 1.5 - math.log(2)),
        hint="the flatter target is N(0, 1 / β).",
        mistakes=(
            Mistake(
                lambda: _double(4.0, 7.5 - math.log(4)),
                "1 / β is the variance; its root is the standard deviation.",
            ),
            Mistake(
                lambda: _double(2.0, math.log(2) + 1 / 8 - 0.5),
                "σ is right. The reverse divergence has q for its first argument.",
            ),
            Mistake(
                lambda: _double(0.5, math.log(2) + 1 / 8 - 0.5),
                "a smaller β flattens the target, so its width grows.",
            ),
        ),
        tolerance=1e-3,
    ),
    # N(1, 4), means over 256 draws.
    "duality-8": Exercise(
        solution=lambda: _double(1 / 32, math.sqrt(2) / 16),
        hint="one draw has the standard deviations 1 / σ and √2; the mean of 256 has a sixteenth.",
        mistakes=(
            Mistake(
                lambda: _double(1 / 64, math.sqrt(2) / 16),
                "the score of m is u / σ, and its variance 1 / σ² = 1/4.",
            ),
            Mistake(
                lambda: _double(1 / 2, math.sqrt(2)),
                "these are those of a single draw. The mean of 256 has a sixteenth of them.",
            ),
            Mistake(
                lambda: _double(1 / 512, math.sqrt(2) / 256),
                "a mean of n draws has the standard deviation of one, divided by √n.",
            ),
            Mistake(
                lambda: _double(1 / 1024, 1 / 128),
                "these are variances. Take their roots.",
            ),
            Mistake(
                lambda: _double(0.0, 0.0),
                "so it is for the path gradient. The whole one has the score, too.",
            ),
        ),
        tolerance=1e-3,
    ),
    # Old Faithful's waiting times.
    "duality-9": Exercise(
        solution=lambda: -3.9320,
        hint="the log-likelihood of a time is that of its noise, plus the logarithm of the slope "
        "of f. Average over the 272 times.",
        mistakes=(
            Mistake(
                lambda: -4.0268,
                "this is what a Gaussian reaches. Here arsinh bends the noise before it is scaled.",
            ),
        ),
        tolerance=1e-4,
    ),
}
