"""The exercises of the chapter that derives the NF-VAE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.data import digits
from nfbook.exercises import Exercise, Mistake

__all__ = ["EXERCISES"]

Layer = tuple[Tensor, Tensor, Tensor]


def _double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _rows(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _log_normal(z: Tensor, mean: Tensor | float = 0.0, std: float = 1.0) -> Tensor:
    return -0.5 * ((z - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def _contribution(
    x: Tensor,
    e: Tensor,
    mean: Tensor,
    log_std: Tensor,
    layers: list[Layer],
    *,
    prior_at_start: bool = False,
    scales: bool = True,
    sign: float = 1.0,
    late: bool = False,
) -> Tensor:
    """Return what each draw adds to the bound of the parabola, or what a mistake makes of it."""
    z = start = mean + log_std.exp() * e
    log_q = _log_normal(e).sum(-1) - scales * log_std.sum()
    for w, u, b in layers:
        moved = z + u * torch.tanh(z @ w + b).unsqueeze(-1)
        slope = 1 - torch.tanh((moved if late else z) @ w + b) ** 2
        log_q = log_q - sign * (1 + (w @ u) * slope).log()
        z = moved
    log_prior = _log_normal(start if prior_at_start else z).sum(-1)
    return _log_normal(x, z[..., 0] ** 2 + z[..., 1], 0.5) + log_prior - log_q


def _divergence(
    z: Tensor, m: Tensor, layers: list[Layer], *, start: bool = False, batch: bool = False
) -> Tensor:
    """Return log q_K - log p for each draw, or what one of two bugs makes of it."""
    log_q, log_p = _log_normal(z, m).sum(-1), _log_normal(z).sum(-1)
    for w, u, b in layers:
        h = torch.tanh(z @ w + b)
        ladj = (1 + (w @ u) * (1 - h**2)).log()
        log_q = log_q - (ladj.sum() if batch else ladj)
        z = z + u * h.unsqueeze(-1)
    return log_q - (log_p if start else _log_normal(z).sum(-1))


def _digits(fit_again: bool = True, threshold: bool = True) -> Tensor:
    grey = digits()[0] / 16
    black = (grey > 0.5).to(grey)
    found = []
    for images in (grey, black if threshold else grey):
        p = (images if fit_again else grey).mean(0).clamp(0.01, 0.99)
        found.append((images @ p.log() + (1 - images) @ (1 - p).log()).mean())
    return torch.stack(found)


LAYERS = [
    (_double(1.0, 0.5), _double(0.5, 0.3), _double(0.2)[0]),
    (_double(-1.0, 0.5), _double(0.4, 1.0), _double(-0.5)[0]),
]
DRAWS = _rows((0.0, 0.0), (1.0, -2.0), (0.3, 0.4))
LIKELIHOOD = _log_normal(_double(5.0)[0], 1.0, 0.5).item()

EXERCISES = {
    # z_0 = (0, 1), w = (0, 1), u = (2, 1), b = -1, x = 5: the draw stays, det = 2.
    "nf-vae-1": Exercise(
        solution=lambda: _double(math.log(2), LIKELIHOOD + math.log(2)),
        hint="the argument of tanh is 0, so the draw stays where it is, and wᵀu = 1. Prior and "
        "q_0 have the same density there.",
        mistakes=(
            Mistake(
                lambda: _double(math.log(2), LIKELIHOOD - math.log(2)),
                "the log-determinant is right. It lowers log q, so it is added to the bound.",
            ),
            Mistake(
                lambda: _double(2.0, LIKELIHOOD + 2.0),
                "this is the determinant. Take its logarithm.",
            ),
            Mistake(
                lambda: _double(math.log(2), LIKELIHOOD),
                "the log-determinant is right, but it is missing from the contribution.",
            ),
            Mistake(
                lambda: _double(math.log(3), LIKELIHOOD + math.log(3)),
                "wᵀu is the inner product: here the first entry of w is 0.",
            ),
        ),
        tolerance=1e-3,
    ),
    # A with the rows (2, 1) and (0, 1.5).
    "nf-vae-2": Exercise(
        solution=lambda: _double(math.log(3), 1.5),
        hint="the entropy grows by log |det A|, and the covariance matrix is A Aᵀ.",
        mistakes=(
            Mistake(
                lambda: _double(math.log(3), 2.0),
                "the entropy is right; this covariance is that of Aᵀ A.",
            ),
            Mistake(
                lambda: _double(3.0, 1.5),
                "the covariance is right; take the logarithm of the determinant.",
            ),
            Mistake(
                lambda: _double(2 * math.log(3), 1.5),
                "the covariance is right. Its determinant is that of A, squared, and the entropy "
                "has half of the logarithm.",
            ),
        ),
        tolerance=1e-3,
    ),
    # d = 40, K = 80, N = 400.
    "nf-vae-3": Exercise(
        solution=lambda: _double(6560.0, 2_624_000.0, 32_000.0),
        hint="2 d parameters for the Gaussian, and 2 d + 1 for each layer: w, u and b.",
        mistakes=(
            Mistake(
                lambda: _double(6480.0, 2_592_000.0, 32_000.0),
                "mean and scales of z_0 are missing from the first two.",
            ),
            Mistake(
                lambda: _double(6480.0, 2_592_000.0, 0.0),
                "mean and scales of z_0 are missing.",
            ),
            Mistake(
                lambda: _double(6480.0 - 80, 400 * (6480.0 - 80), 32_000.0),
                "each layer has an offset b, and z_0 has a mean and scales.",
            ),
            Mistake(
                lambda: _double(6480.0, 2_624_000.0, 32_000.0),
                "mean and scales of z_0 count among the parameters, too.",
            ),
        ),
        tolerance=1e-6,
    ),
    "nf-vae-4": Exercise(
        solution=_contribution,
        hint="log p(x | z_K) + log p(z_K) - log q_0(z_0) + the log-determinants, each taken at the "
        "point that enters its layer; one number for each row of e.",
        mistakes=(
            Mistake(
                lambda *case: _contribution(*case, prior_at_start=True),
                "the prior is taken at z_0. It belongs to z_K, which the decoder sees.",
            ),
            Mistake(
                lambda *case: _contribution(*case, scales=False),
                "this has the density of the noise in the place of that of z_0: subtract the sum "
                "of log_std from it.",
            ),
            Mistake(
                lambda *case: _contribution(*case, sign=-1.0),
                "the log-determinants have the wrong sign. Where a layer stretches, log q falls.",
            ),
            Mistake(
                lambda *case: _contribution(*case, sign=0.0),
                "the log-determinants are missing.",
            ),
            Mistake(
                lambda *case: _contribution(*case, late=True),
                "each determinant is taken at the point that enters its layer; your z has moved "
                "already.",
            ),
        ),
        at=((_double(2.0), DRAWS, _double(0.5, -0.3), _double(-0.4, 0.2), LAYERS),),
    ),
    "nf-vae-5": Exercise(
        solution=_divergence,
        hint="log q_K needs one log-determinant for each row, and the prior is that of the points "
        "at the end.",
        mistakes=(
            Mistake(
                lambda *case: _divergence(*case, start=True),
                "the batch is right now. But the prior is still that of the points at the start.",
            ),
            Mistake(
                lambda *case: _divergence(*case, batch=True),
                "the prior is right now. But .sum() adds up the log-determinants of the batch.",
            ),
            Mistake(
                lambda *case: _divergence(*case, start=True, batch=True),
                "this still has both bugs.",
            ),
        ),
        at=((DRAWS, _double(0.5, -1.0), LAYERS),),
    ),
    # Posterior N(1, 1/2); annealed N(1, 1); with a weight on the divergence N(4/3, 1/3).
    "nf-vae-6": Exercise(
        solution=lambda: _double(1.0, 1.0, 4 / 3, 1 / 3),
        hint="β multiplies both precisions, the prior's and the likelihood's; 1/λ the second only.",
        mistakes=(
            Mistake(
                lambda: _double(1.0, 0.25, 4 / 3, 1 / 3),
                "the second is right. A power below one makes a Gaussian wider.",
            ),
            Mistake(
                lambda: _double(2 / 3, 2 / 3, 4 / 3, 1 / 3),
                "the second is right. β stands before the prior, too.",
            ),
            Mistake(
                lambda: _double(1.0, 1.0, 2 / 3, 2 / 3),
                "the first is right. A small weight before the divergence makes the likelihood "
                "count more, not less.",
            ),
            Mistake(
                lambda: _double(4 / 3, 1 / 3, 1.0, 1.0),
                "these are the right Gaussians in the wrong order.",
            ),
        ),
        tolerance=1e-3,
    ),
    # f(z) = 2 z + 1 for the prior N(0, 1).
    "nf-vae-7": Exercise(
        solution=lambda: _double(-0.5, 0.5),
        hint="p̃ is the distribution of (z - 1) / 2 for z from the prior.",
        mistakes=(
            Mistake(
                lambda: _double(1.0, 2.0),
                "this carries the prior through f. The flow of the prior is the inverse.",
            ),
            Mistake(
                lambda: _double(-0.5, 0.25),
                "the mean is right; 1/4 is the variance.",
            ),
            Mistake(
                lambda: _double(-1.0, 0.5),
                "the standard deviation is right; the shift is divided by 2 as well.",
            ),
        ),
        tolerance=1e-3,
    ),
    "nf-vae-8": Exercise(
        solution=_digits,
        hint="fit the probabilities to the images that are scored, clamp them, sum over pixels and "
        "average over images.",
        mistakes=(
            Mistake(
                lambda: _digits(fit_again=False),
                "the first is right; fit the probabilities of the second to the thresholded "
                "images.",
            ),
            Mistake(
                lambda: _digits().flip(0),
                "these are the right numbers in the wrong order.",
            ),
            Mistake(
                lambda: _digits() / 64,
                "sum over the pixels; this is the mean of one.",
            ),
        ),
        tolerance=1e-4,
    ),
}
