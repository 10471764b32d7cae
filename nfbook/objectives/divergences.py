"""The two Kullback-Leibler divergences, each from draws of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import check_count, check_type
from nfbook.estimators import Estimate
from nfbook.objectives._terms import (
    average,
    check_log_densities,
    missing_dimensions,
    score_factor,
)
from nfbook.sampling import draw_and_log_prob, log_density

__all__ = ["forward_kl", "reverse_kl"]


LogDensity = Callable[[Tensor], Tensor]


def reverse_kl(
    target: Distribution | LogDensity,
    q: Distribution,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the divergence of q from a target p by draws from q.

    .. math:: \mathrm{KL}(q \,\|\, p)
        = \mathbb{E}_{q(\mathbf{z})} [\log q(\mathbf{z}) - \log p(\mathbf{z})].

    The target may be known up to a factor. If its log density is :math:`\log \tilde p` with
    :math:`\tilde p = Z p`, then :math:`\mathrm{KL}(q \,\|\, p) - \log Z` is estimated, which has
    the same minimum and the same gradient in q. With a joint density
    :math:`p(\mathbf{x}, \mathbf{z} \mid \theta)` as a function of z it is minus the evidence lower
    bound.

    Arguments:
        target: A distribution, or a function that takes draws of q, `(S, *, d)`, and returns a
            log density for each, `(S, *)`.
        q: The distribution that is fitted, with batch shape `(*)`.
        num_samples: The number S of draws.
        generator: The source of randomness, or None for torch's own.

    Returns:
        One value for each q, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, or a log density is NaN.

    Example:
        >>> import math
        >>> from torch.distributions import Normal
        >>> target, q = Normal(0.0, 1.0), Normal(1.0, 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> value, error = reverse_kl(target, q, 10_000, generator=generator)
        >>> bool((value - 0.5).abs() < 5 * error)  # exact: 1/2
        True
        >>> value, error = reverse_kl(lambda z: -(z**2) / 2, q, 10_000, generator=generator)
        >>> log_z = 0.5 * math.log(2 * math.pi)
        >>> bool((value - (0.5 - log_z)).abs() < 5 * error)
        True
    """
    check_type("q", q, Distribution, "a torch.distributions.Distribution")
    if isinstance(target, Distribution):
        _check_target(target, q)
    elif not callable(target):
        raise TypeError(
            "target must be a torch.distributions.Distribution or a function of z, "
            f"got {type(target).__name__}"
        )
    check_count("num_samples", num_samples)
    z, log_q = draw_and_log_prob(q, (num_samples,), generator=generator)
    log_p = log_density(target, z) if isinstance(target, Distribution) else target(z)
    check_log_densities((num_samples, *q.batch_shape), {"q": log_q, "the target": log_p})
    return average(score_factor(q, log_q) * (log_q - log_p))


def forward_kl(
    target: Distribution,
    q: Distribution,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the divergence of a target p from q by draws from p.

    .. math:: \mathrm{KL}(p \,\|\, q)
        = \mathbb{E}_{p(\mathbf{z})} [\log p(\mathbf{z}) - \log q(\mathbf{z})].

    Draws from p are needed, and their log densities. If these are
    :math:`\log \tilde p = \log Z + \log p`, then :math:`\mathrm{KL}(p \,\|\, q) + \log Z` is
    estimated. The gradient is that of the mean of :math:`-\log q(\mathbf{z})`: it flows to q
    through its log density, and not to the target.

    Arguments:
        target: The distribution p. Its batch shape is that of q, or empty.
        q: The distribution that is fitted, with batch shape `(*)`.
        num_samples: The number of draws.
        generator: The source of randomness, or None for torch's own.

    Returns:
        One value for each q, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, or a log density is NaN.

    Example:
        >>> from torch.distributions import Normal, kl_divergence
        >>> target, q = Normal(0.0, 2.0), Normal(0.0, 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> value, error = forward_kl(target, q, 10_000, generator=generator)
        >>> bool((value - kl_divergence(target, q)).abs() < 5 * error)
        True
    """
    check_type("q", q, Distribution, "a torch.distributions.Distribution")
    check_type("target", target, Distribution, "a torch.distributions.Distribution")
    _check_target(target, q)
    check_count("num_samples", num_samples)
    missing = missing_dimensions(target, q.batch_shape)
    with torch.no_grad():
        z, log_p = draw_and_log_prob(target, (num_samples, *missing), generator=generator)
    log_q = log_density(q, z)
    check_log_densities((num_samples, *q.batch_shape), {"q": log_q, "the target": log_p})
    return average(log_p - log_q)


def _check_target(target: Distribution, q: Distribution) -> None:
    if target.event_shape != q.event_shape or target.batch_shape not in (
        torch.Size(),
        q.batch_shape,
    ):
        raise ValueError(
            f"target must have the event shape of q, {tuple(q.event_shape)}, and batch shape () "
            f"or that of q, {tuple(q.batch_shape)}, "
            f"got {tuple(target.event_shape)} and {tuple(target.batch_shape)}"
        )
