r"""Stochastic EM: a few observations at a time, one draw of z for each, one step of the parameters.

From here to amortised inference it is one step: a network gives q in place of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_real, check_type
from nfbook.data.batches import Batches
from nfbook.fitting import Fit, History
from nfbook.latent.ppca.closed_form import check_noise_left
from nfbook.latent.ppca.observed import Seen, factor_of_m
from nfbook.progress import progress_bar

if TYPE_CHECKING:
    from nfbook.latent.ppca.model import PPCA

__all__ = ["ascend", "check_stochastic", "climb_stochastically"]

# Loading, mean and noise variance.
Parameters = tuple[Tensor, Tensor, Tensor]

# The log-likelihood is looked at once in every pass over the data, but no more often than this.
RECORDS = 200


def ascend(
    parameters: Parameters,
    x: Tensor,
    observed: Tensor | None,
    step_size: float,
    generator: torch.Generator,
) -> Parameters:
    """Return the parameters after one `PPCA.stochastic_step`, which has the formulas.

    Arguments:
        parameters: Loading, mean and noise variance.
        x: Observations, `(B, D)`.
        observed: Which of their entries are there, `(B, D)`, or None where all are.
        step_size: The step size, above 0 and at most 1.
        generator: The source of randomness.

    Raises:
        TypeError: The step size is no number.
        ValueError: It is out of its range, or the step leads to no model.

    Example:
        >>> parameters = (torch.zeros(2, 1), torch.zeros(2), torch.tensor(1.0))
        >>> x, generator = torch.tensor([[1.0, 3.0]]), torch.Generator().manual_seed(0)
        >>> ascend(parameters, x, None, 0.5, generator)[1]
        tensor([0.5000, 1.5000])
    """
    _check_step_size(step_size)
    loading, mean, noise_variance = parameters
    factor, _ = factor_of_m(loading, noise_variance, observed)
    centred = x - mean if observed is None else torch.where(observed, x - mean, 0.0)
    seen = Seen(centred, observed, factor)
    z = seen.draw(loading, noise_variance, generator)
    residual = seen.only(centred - z @ loading.mT)
    # The average over all B D entries, where a missing one counts as what was expected of it.
    share = 1.0 if observed is None else observed.to(x.dtype).mean()
    excess = residual.square().mean() - share * noise_variance
    loading = loading + step_size / len(x) * residual.mT @ z
    mean = mean + step_size * residual.mean(0)
    noise_variance = noise_variance + step_size * excess
    if not bool(noise_variance.isfinite()):
        raise ValueError(
            f"x must be near enough for its residuals to have finite squares in {x.dtype}, "
            f"got elements up to {float(seen.only(x).abs().max()):g}"
        )
    check_noise_left(noise_variance, loading, x.dtype, advice=", or smaller steps")
    return loading, mean, noise_variance


def check_stochastic(
    step_size: object, batch_size: object, num_steps: object, average: object
) -> None:
    """Check the arguments of a fit that only stochastic EM uses.

    Example:
        >>> check_stochastic(2.0, 64, 100, True)
        Traceback (most recent call last):
        ...
        ValueError: step_size must be above 0 and at most 1, got 2.0
    """
    if step_size is not None and not callable(step_size):
        _check_step_size(step_size)
    check_count("batch_size", batch_size)
    check_count("num_steps", num_steps)
    check_type("average", average, bool, "True or False")


def climb_stochastically(
    model: PPCA,
    x: object,
    *,
    step_size: Callable[[int], float] | float,
    batch_size: int,
    num_steps: int,
    average: bool,
    tolerance: float,
    generator: torch.Generator | None,
    progress: bool,
) -> Fit[PPCA]:
    r"""Take E'-steps and M'-steps in turn.

    Arguments:
        model: The start, in float64.
        x: Observations, `(n, D)`, in which NaN stands for a missing entry.
        step_size: The step sizes, a function of t = 0, 1, ... or one number for all t.
        batch_size: How many observations are drawn for a step, with replacement.
        num_steps: The number of steps.
        average: Whether the result is the average of the parameters over the second half of the
            steps.
        tolerance: A last change of at most this, in nats per observation, is convergence.
        generator: The source of randomness.
        progress: Whether a run of more than two seconds shows how far it is.

    Returns:
        The result, in float64. The history holds the exact log-likelihood at the start, about once
        in every n draws, and of the result.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of its range, or the noise variance vanishes.

    Example:
        >>> from nfbook.latent import PPCA
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(50, 3, dtype=torch.float64, generator=g)
        >>> start = PPCA(x[:3, :1], x[0], x[0].square().mean())
        >>> fit = climb_stochastically(start, x, step_size=0.1, batch_size=10, num_steps=20,
        ...     average=False, tolerance=1e-6, generator=g, progress=False)
        >>> fit.history.iterations
        4
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            "x must be a torch.Tensor for stochastic EM, which draws observations at random, "
            f'got {type(x).__name__}; method="em" takes batches'
        )
    check_stochastic(step_size, batch_size, num_steps, average)
    check_generator("generator", generator)
    assert generator is not None
    size_of = step_size if callable(step_size) else _constant(step_size)
    kind, pieces = type(model), Batches(x, missing=True)
    any_missing = bool(x.isnan().any())

    def log_likelihood(parameters: Parameters) -> float:
        here = kind(*parameters)
        parts = (here.log_prob(piece.to(torch.float64), missing=True) for piece in pieces)
        return sum(float(part.sum()) for part in parts)

    every = max(math.ceil(len(x) / batch_size), math.ceil(num_steps / RECORDS))
    parameters = (model.loading, model.mean, model.noise_variance)
    averages = [v.clone() for v in parameters]
    reached = [log_likelihood(parameters)]
    with progress_bar(num_steps, "stochastic EM", show=progress) as bar:
        for t in range(num_steps):
            rows = x[torch.randint(len(x), (batch_size,), generator=generator)].to(torch.float64)
            observed = ~rows.isnan() if any_missing else None
            parameters = ascend(parameters, rows, observed, size_of(t), generator)
            late = t + 1 - num_steps // 2
            if late > 0:
                for mean, value in zip(averages, parameters, strict=True):
                    mean.lerp_(value, 1 / late)
            if (t + 1) % every == 0 and t + 1 < num_steps:
                reached.append(log_likelihood(parameters))
                bar.set_postfix_str(f"log-likelihood {reached[-1]:.6g}", refresh=False)
            bar.update()
    result = kind(*averages) if average else kind(*parameters)
    reached.append(log_likelihood((result.loading, result.mean, result.noise_variance)))
    after_e_step = torch.tensor(reached, dtype=torch.float64)
    converged = abs(reached[-1] - reached[-2]) <= tolerance * len(x)
    # Every draw had a q of its own. Only where it was recorded is the bound tight.
    return Fit(result, History(after_e_step, after_e_step[1:], converged))


def _check_step_size(step_size: object) -> None:
    if not 0 < check_real("step_size", step_size) <= 1:
        raise ValueError(f"step_size must be above 0 and at most 1, got {step_size}")


def _constant(size: float) -> Callable[[int], float]:
    return lambda t: size
