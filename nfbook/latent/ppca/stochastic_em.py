r"""Stochastic-gradient EM: a few observations, one draw of z for each, one step of the parameters.

From here to amortised inference it is one step: a network gives q in place of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_real, check_type
from nfbook.data.batches import Batches, check_weights
from nfbook.fitting import Fit, History, check_stopping, robbins_monro
from nfbook.latent.ppca._algebra import (
    Observed,
    check_latent_dim,
    check_noise_left,
    factor_of_m,
)
from nfbook.latent.ppca.em import check_start, random_start
from nfbook.latent.ppca.model import PPCA
from nfbook.progress import progress_bar
from nfbook.sampling import source_device

__all__ = ["stochastic_gradient_em", "stochastic_gradient_step"]

# Loading, mean and noise variance.
Parameters = tuple[Tensor, Tensor, Tensor]

# The log-likelihood is looked at once in every pass over the data, but no more often than this.
RECORDS = 200


@torch.no_grad()
def stochastic_gradient_step(
    model: PPCA,
    x: Tensor,
    step_size: float,
    *,
    missing: bool = False,
    generator: torch.Generator | None = None,
) -> PPCA:
    r"""Return the model after one step of stochastic-gradient EM: one draw, one step uphill.

    For each of the B observations one latent variable is drawn,
    :math:`\hat{\mathbf{z}}_j \sim p(\mathbf{z} \mid \mathbf{x}_j, \theta)`. Then the parameters
    take a step along the average gradient of the log joint density,

    .. math:: \theta' = \theta + \kappa\, \mathbf{F}^{-1} \frac1B \sum_{j=1}^B \nabla_\theta
        \log p(\mathbf{x}_j, \hat{\mathbf{z}}_j \mid \theta).

    By Fisher's identity its expectation is the gradient of :math:`\log p(\mathbf{x}_j \mid
    \theta)`. The matrix F is the Fisher information of x and z together. It is diagonal,
    :math:`\sigma^{-2}` for every element of W and :math:`\boldsymbol{\mu}` and
    :math:`D / 2 \sigma^4` for :math:`\sigma^2`, so with the residuals :math:`\mathbf{e}_j =
    \mathbf{x}_j - \boldsymbol{\mu} - \mathbf{W} \hat{\mathbf{z}}_j` the step is

    .. math::
        \mathbf{W}' &= \mathbf{W} + \frac{\kappa}{B} \sum_j \mathbf{e}_j
        \hat{\mathbf{z}}_j^\top, \qquad
        \boldsymbol{\mu}' = \boldsymbol{\mu} + \frac{\kappa}{B} \sum_j \mathbf{e}_j, \\
        \sigma'^2 &= (1 - \kappa)\, \sigma^2 + \frac{\kappa}{B} \sum_j \frac1D \lVert
        \mathbf{e}_j \rVert^2.

    Thanks to F the step sizes are plain numbers, whatever the units of the data are, and the
    variance stays positive.

    Source: D. M. Titterington, Recursive parameter estimation using incomplete data, Journal
    of the Royal Statistical Society B 46 (1984), 257-267, for the use of F.

    Arguments:
        model: The model.
        x: Observations, `(B, D)`.
        step_size: The step size :math:`\kappa`, above 0 and at most 1.
        missing: Whether NaN stands for a missing entry. It then adds nothing to any sum, and
            keeps its part of :math:`\sigma^2` as it was.
        generator: The source of randomness, or None for torch's own.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The step size is out of its range, the shape does not fit, an x is so far
            away that squares overflow, or the noise variance vanishes.

    Example:
        >>> model = PPCA(torch.zeros(2, 1), torch.zeros(2), 1.0)
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> stochastic_gradient_step(model, x, 0.5).mean
        tensor([0.5000, 1.5000])
    """
    check_type("model", model, PPCA, "a PPCA")
    check_generator(generator)
    _check_step_size(step_size)
    model.check_observations(x, missing)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (B, {model.data_dim}), got {tuple(x.shape)}")
    observed = ~x.isnan() if missing else None
    parameters = (model.loading, model.mean, model.noise_variance)
    return type(model)(*_step(parameters, x, observed, step_size, generator))


@torch.no_grad()
def stochastic_gradient_em(
    x: Tensor,
    latent_dim: int,
    *,
    start: PPCA | None = None,
    weights: Tensor | None = None,
    missing: bool = False,
    step_size: Callable[[int], float] | float | None = None,
    batch_size: int = 64,
    num_steps: int = 10_000,
    average: bool = True,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
    progress: bool = True,
    kind: type[PPCA] = PPCA,
) -> Fit[PPCA]:
    r"""Fit by stochastic-gradient EM: `stochastic_gradient_step` again and again.

    The observations of a step are drawn uniformly, with replacement, or in proportion to their
    weights. With constant step sizes the log-likelihood hovers below the top, by about
    :math:`\kappa p / 4 B` nats per observation for p parameters, B observations in a step and data
    that follow the model. With sizes :math:`\kappa_t` that satisfy
    :math:`\sum_t \kappa_t = \infty` and :math:`\sum_t \kappa_t^2 < \infty` it ends at the top.
    The average of the parameters over the last steps is closer to it than the last ones are.

    What is called stochastic EM also draws z, but then takes a full M-step (G. Celeux and
    J. Diebolt, The SEM algorithm, Computational Statistics Quarterly 2, 1985, 73-82).

    Source: B. T. Polyak and A. B. Juditsky, Acceleration of stochastic approximation by averaging,
    SIAM Journal on Control and Optimization 30 (1992), 838-855.

    Arguments:
        x: Observations, `(n, D)`, all of them at hand, since they are drawn at random.
        latent_dim: The number of latent dimensions d, from 1 to D - 1.
        start: A model to start from. Without it the start has the data's mean, a random loading
            and the average variance of the columns as noise.
        weights: How often each observation counts, `(n,)`. None means once.
        missing: Whether NaN stands for a missing entry.
        step_size: The step sizes :math:`0 < \kappa_t \le 1`: a function of t = 0, 1, ... or a
            number for constant ones. Without it ``robbins_monro(first=0.5, flat=100, power=0.7)``.
        batch_size: How many observations are drawn for a step.
        num_steps: The number of steps.
        average: Whether the result is the average of the parameters over the second half of the
            steps, or the last ones.
        tolerance: A last change of at most this, in nats per observation, is convergence.
        generator: The source of randomness, or None for torch's own.
        progress: Whether a run of more than two seconds shows how far it is.
        kind: The class of the model.

    Returns:
        The model, in the dtype of x. All is computed in float64. The history holds the exact
        log-likelihood at the start, about once in every n draws (200 times at most), and of the
        result.

    Raises:
        TypeError: An argument has the wrong type, or the start another dtype than x.
        ValueError: As `PPCA.fit`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(50, 3, dtype=torch.float64, generator=g)
        >>> fit = stochastic_gradient_em(x, 1, step_size=0.1, batch_size=10, num_steps=20,
        ...     average=False, generator=g)
        >>> fit.history.iterations
        4
    """
    check_type("missing", missing, bool, "True or False")
    if step_size is not None and not callable(step_size):
        _check_step_size(step_size)
    check_count("batch_size", batch_size)
    check_count("num_steps", num_steps)
    check_type("average", average, bool, "True or False")
    check_stopping(tolerance, 1)
    check_type("progress", progress, bool, "True or False")
    check_generator(generator)
    pieces = Batches(x, missing=missing)
    if not isinstance(x, Tensor):
        raise TypeError(
            "x must be a torch.Tensor for stochastic-gradient EM, which draws observations at "
            f'random, got {type(x).__name__}; method="em" takes batches'
        )
    check_latent_dim(latent_dim, pieces.dim)
    if weights is not None:
        weights = check_weights(weights, x)
    if start is None:
        start = random_start(
            kind, Batches(x, missing=missing, weights=weights), latent_dim, generator=generator
        )
    else:
        check_start(kind, start, latent_dim, pieces)
    size_of = robbins_monro() if step_size is None else step_size
    size_of = size_of if callable(size_of) else _constant(size_of)
    found = start.to(torch.float64)
    parameters = (found.loading, found.mean, found.noise_variance)
    averages = [v.clone() for v in parameters]
    total = len(x) if weights is None else float(weights.sum())
    any_missing = bool(x.isnan().any())

    def log_likelihood(parameters: Parameters) -> float:
        here = kind(*parameters)
        parts = (here.log_prob(piece.to(torch.float64), missing=True) for piece in pieces)
        if weights is None:
            return sum(float(part.sum()) for part in parts)
        return float(torch.cat(list(parts)) @ weights.to(torch.float64))

    every = max(math.ceil(len(x) / batch_size), math.ceil(num_steps / RECORDS))
    reached = [log_likelihood(parameters)]
    with progress_bar(num_steps, "stochastic-gradient EM", show=progress) as bar:
        for t in range(num_steps):
            rows = x[_drawn(x, batch_size, weights, generator)].to(torch.float64)
            observed = ~rows.isnan() if any_missing else None
            size = size_of(t)
            _check_step_size(size)
            parameters = _step(parameters, rows, observed, size, generator)
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
    converged = abs(reached[-1] - reached[-2]) <= tolerance * total
    # Every draw had a q of its own. Only where it was recorded is the bound tight.
    return Fit(result.to(pieces.dtype), History(after_e_step, after_e_step[1:], converged))


def _drawn(
    x: Tensor, count: int, weights: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """Return the numbers of observations, drawn with replacement."""
    there = source_device(generator, x.device)
    if weights is None:
        return torch.randint(len(x), (count,), device=there, generator=generator).to(x.device)
    drawn = torch.multinomial(weights.to(there), count, replacement=True, generator=generator)
    return drawn.to(x.device)


def _step(
    parameters: Parameters,
    x: Tensor,
    observed: Tensor | None,
    step_size: float,
    generator: torch.Generator | None,
) -> Parameters:
    """Return the parameters after one `stochastic_gradient_step`, which has the formulas.

    Which entries of the observations `(B, D)` are there is ``observed``, or None where all are.
    """
    loading, mean, noise_variance = parameters
    factor, _ = factor_of_m(loading, noise_variance, observed)
    centred = x - mean if observed is None else torch.where(observed, x - mean, 0.0)
    here = Observed(centred, observed, factor)
    z = here.draw(loading, noise_variance, generator)
    residual = here.only(centred - z @ loading.mT)
    # The average over all B D entries, where a missing one counts as what was expected of it.
    share = 1.0 if observed is None else observed.to(x.dtype).mean()
    excess = residual.square().mean() - share * noise_variance
    loading = loading + step_size / len(x) * residual.mT @ z
    mean = mean + step_size * residual.mean(0)
    noise_variance = noise_variance + step_size * excess
    if not bool(noise_variance.isfinite()):
        raise ValueError(
            f"x must be small enough for its residuals to have finite squares in {x.dtype}, "
            f"got elements up to {float(here.only(x).abs().max()):g}"
        )
    check_noise_left(noise_variance, loading, x.dtype, advice=", or smaller steps")
    return loading, mean, noise_variance


def _check_step_size(step_size: object) -> None:
    if not 0 < check_real("step_size", step_size) <= 1:
        raise ValueError(f"step_size must be above 0 and at most 1, got {step_size}")


def _constant(size: float) -> Callable[[int], float]:
    return lambda t: size
