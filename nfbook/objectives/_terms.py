"""What the objectives average: log densities of draws, with the right gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from nfbook._checks import check_log_values, check_same_dtype
from nfbook.estimators import Estimate


def missing_dimensions(distribution: Distribution, batch: torch.Size) -> torch.Size:
    """Return the leading dimensions of ``batch`` that the distribution lacks."""
    return batch[: len(batch) - len(distribution.batch_shape)]


def score_factor(q: Distribution, log_q: Tensor) -> Tensor:
    """Return ones, whose gradient is that of ``log_q`` where the draws themselves have none."""
    return torch.ones_like(log_q) if q.has_rsample else (log_q - log_q.detach()).exp()


def average(terms: Tensor) -> Estimate:
    """Return the mean over the first dimension."""
    count = len(terms)
    if count == 1:
        return Estimate(terms[0], torch.full_like(terms[0], math.inf))
    error = terms.detach().std(0) / math.sqrt(count)
    # An infinite mean has a standard deviation of infinity minus infinity.
    return Estimate(terms.mean(0), error.nan_to_num(nan=math.inf, posinf=math.inf))


def exact(value: Tensor) -> Estimate:
    return Estimate(value, torch.zeros_like(value))


def exact_or_none(formula: Callable[..., Tensor], *arguments: Distribution) -> Tensor | None:
    """Return a closed form, or None where torch has none."""
    try:
        return formula(*arguments)
    except NotImplementedError:
        return None


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        # Torch knows two Gaussians with full covariances, and two with independent coordinates,
        # but not one of each.
        return kl_divergence(_with_covariance(q), _with_covariance(p))


def _with_covariance(gaussian: Distribution) -> Distribution:
    """Return a Gaussian with independent coordinates as one with a covariance matrix."""
    if (
        isinstance(gaussian, Independent)
        and isinstance(gaussian.base_dist, Normal)
        and len(gaussian.event_shape) == 1
    ):
        return MultivariateNormal(gaussian.mean, scale_tril=gaussian.stddev.diag_embed())
    return gaussian


def check_log_densities(shape: tuple[int, ...], log_densities: dict[str, Tensor]) -> None:
    """Check that each log density, by the name of what it belongs to, has one value a draw."""
    for name, values in log_densities.items():
        check_log_values(f"the log density of {name}", values, shape)
    check_same_dtype(**{f"the log density of {name}": v for name, v in log_densities.items()})
