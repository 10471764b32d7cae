r"""What is raised or lowered when a distribution q is fitted, estimated with its standard error.

====================================  ==========================================================
`elbo`                                the evidence lower bound, term by term
`importance_weighted_bound`           a tighter bound, from K draws at once
`reverse_kl`                          :math:`\mathrm{KL}(q \,\|\, p)`, from draws of q
`forward_kl`                          :math:`\mathrm{KL}(p \,\|\, q)`, from draws of p
====================================  ==========================================================

All of them take any ``torch.distributions`` object for q: a Gaussian, a mixture, or what a flow
returns. The gradient of an estimate, as autograd computes it, is an unbiased estimate of the
gradient. Where q has ``rsample`` it is the reparametrisation gradient: the draws are functions of
noise and of q's parameters. Where q has none, as a discrete q, it is the score function gradient:
every draw also carries a factor whose value is 1 and whose gradient is that of :math:`\log q`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from nfbook._checks import check_count, check_log_values, check_same_dtype, check_type
from nfbook.latent import draw, log_mean_exp, log_weights
from nfbook.latent.estimators import (
    JointModel,
    check_joint_model,
    check_proposal,
    likelihood_of,
)

__all__ = ["ELBO", "Estimate", "elbo", "forward_kl", "importance_weighted_bound", "reverse_kl"]

LogDensity = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """A number, or a tensor of them, and how far off it may be.

    Attributes:
        value: The estimate. It is differentiable.
        standard_error: The estimated standard deviation of ``value``: 0 where it is exact, and
            infinite where a single draw says nothing about it.

    Example:
        >>> Estimate(torch.tensor(1.5), torch.tensor(0.1)).value
        tensor(1.5000)
    """

    value: Tensor
    standard_error: Tensor


class ELBO(NamedTuple):
    r"""The evidence lower bound and its terms, one value for each observation.

    All terms come from the same draws, so these hold exactly, and not only on average:

    .. math::
        \text{value} = \text{reconstruction} - \text{kl} = \text{energy} + \text{entropy}.

    Attributes:
        value: The bound :math:`\mathbb{E}_q[\log p(\mathbf{x}, \mathbf{z} \mid \theta)
            - \log q(\mathbf{z})]`, in nats.
        standard_error: Its standard error.
        reconstruction: :math:`\mathbb{E}_q \log p(\mathbf{x} \mid \mathbf{z}, \theta)`.
        kl: :math:`\mathrm{KL}(q(\mathbf{z}) \,\|\, p(\mathbf{z}))`, the divergence from the prior.
        energy: :math:`\mathbb{E}_q \log p(\mathbf{x}, \mathbf{z} \mid \theta)`.
        entropy: :math:`\mathrm{H}(q) = -\mathbb{E}_q \log q(\mathbf{z})`.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model, x = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0), torch.zeros(2)
        >>> terms = elbo(model, x, model.posterior(x), 10, torch.Generator().manual_seed(0))
        >>> torch.allclose(terms.value, terms.energy.value + terms.entropy.value)
        True
    """

    value: Tensor
    standard_error: Tensor
    reconstruction: Estimate
    kl: Estimate
    energy: Estimate
    entropy: Estimate


def elbo(
    model: JointModel,
    x: Tensor,
    q: Distribution,
    num_samples: int,
    generator: torch.Generator,
    *,
    closed_form: bool = True,
) -> ELBO:
    r"""Estimate the evidence lower bound and its terms.

    .. math:: \mathcal{L}(q, \theta)
        = \mathbb{E}_{q(\mathbf{z})} \log p(\mathbf{x} \mid \mathbf{z}, \theta)
        - \mathrm{KL}\bigl(q(\mathbf{z}) \,\|\, p(\mathbf{z})\bigr)
        \le \log p(\mathbf{x} \mid \theta).

    The divergence and the entropy are exact where ``torch.distributions`` knows them; all else
    is averaged over draws from q. Near the posterior it is better to average everything: there
    :math:`\log p(\mathbf{x}, \mathbf{z}) - \log q(\mathbf{z})` hardly depends on z.

    Arguments:
        model: A `LatentVariableModel`, or any object with ``prior``, ``likelihood`` and
            ``log_joint``.
        x: Observations, `(*, D)`.
        q: The distribution of z. Its batch shape is that of x, `(*)`, so that each observation
            has its own; or empty, so that all of them share one.
        num_samples: The number of draws for each observation.
        generator: The source of randomness.
        closed_form: Whether the divergence and the entropy may be exact.

    Returns:
        The bound and its terms for each observation, all of shape `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, a log density is NaN, or the
            likelihood is no distribution over whole observations.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x = torch.tensor([1.0, 2.0])
        >>> q = Independent(Normal(torch.zeros(1), 1.0), 1)
        >>> bound = elbo(model, x, q, 1000, torch.Generator().manual_seed(0))
        >>> bool((bound.value - model.elbo(x, q)).abs() < 5 * bound.standard_error)
        True
        >>> bound.kl  # q is the prior here
        Estimate(value=tensor(0.), standard_error=tensor(0.))
    """
    check_joint_model(model, x)
    check_proposal(model, x, q, "q")
    check_count("num_samples", num_samples)
    check_type("closed_form", closed_form, bool, "True or False")
    batch = x.shape[:-1]
    z = _draw(q, (num_samples, *_missing(q, batch)), generator)
    log_q = q.log_prob(z)
    log_likelihood = likelihood_of(model, z).log_prob(x)
    log_prior = _log_density(model.prior, z)
    _check_log_densities(
        (num_samples, *batch),
        {"the likelihood": log_likelihood, "q": log_q, "the prior": log_prior},
    )
    exact_kl = _or_none(_kl_divergence, q, model.prior) if closed_form else None
    exact_entropy = _or_none(q.entropy) if closed_form else None
    kl = log_q - log_prior if exact_kl is None else exact_kl.expand(log_q.shape)
    entropy = -log_q if exact_entropy is None else exact_entropy.expand(log_q.shape)
    score = _score_factor(q, log_q)
    value, standard_error = _average(score * (log_likelihood - kl))
    return ELBO(
        value,
        standard_error,
        reconstruction=_average(score * log_likelihood),
        kl=_average(score * kl) if exact_kl is None else _exact(exact_kl.expand(batch)),
        energy=_average(score * (log_likelihood - kl - entropy)),
        entropy=(
            _average(score * entropy)
            if exact_entropy is None
            else _exact(exact_entropy.expand(batch))
        ),
    )


def importance_weighted_bound(
    model: JointModel,
    x: Tensor,
    q: Distribution,
    num_samples: int,
    generator: torch.Generator,
    *,
    repeats: int = 1,
) -> Estimate:
    r"""Estimate the importance-weighted bound.

    .. math:: \mathcal{L}_K(q, \theta) = \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(\mathbf{x}, \mathbf{z}_k \mid \theta)}{q(\mathbf{z}_k)}, \qquad
        \mathbf{z}_k \sim q(\mathbf{z}).

    With one draw it is the evidence lower bound. It rises with K towards the log-evidence.

    Source: Y. Burda, R. Grosse and R. Salakhutdinov, Importance weighted autoencoders, ICLR
    (2016), equation 8.

    Arguments:
        model: A `LatentVariableModel`, or any object with ``prior``, ``likelihood`` and
            ``log_joint``.
        x: Observations, `(*, D)`.
        q: The distribution of z. Its batch shape is that of x, `(*)`, or empty.
        num_samples: The number of draws K inside the logarithm.
        generator: The source of randomness.
        repeats: How many logarithms are averaged. A standard error needs at least two.

    Returns:
        The bound for each observation, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, or a number is too small.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x, generator = torch.zeros(2), torch.Generator().manual_seed(0)
        >>> bound = importance_weighted_bound(model, x, model.prior, 100, generator, repeats=500)
        >>> bool((model.log_prob(x) - bound.value).abs() < 0.01)
        True
    """
    check_joint_model(model, x)
    check_proposal(model, x, q, "q")
    check_count("num_samples", num_samples)
    check_count("repeats", repeats)
    batch = x.shape[:-1]
    z = _draw(q, (num_samples * repeats, *_missing(q, batch)), generator)
    log_w = log_weights(model, x, z, q).reshape(num_samples, repeats, *batch)
    bounds = log_mean_exp(log_w)
    if not q.has_rsample:
        log_q = q.log_prob(z).reshape(log_w.shape)
        bounds = _score_factor(q, log_q.sum(0)) * bounds
    return _average(bounds)


def reverse_kl(
    target: Distribution | LogDensity, q: Distribution, num_samples: int, generator: torch.Generator
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
        generator: The source of randomness.

    Returns:
        One value for each q, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, or a log density is NaN.

    Example:
        >>> target, q = Normal(0.0, 1.0), Normal(1.0, 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> value, error = reverse_kl(target, q, 10_000, generator)
        >>> bool((value - 0.5).abs() < 5 * error)  # exact: 1/2
        True
        >>> value, error = reverse_kl(lambda z: -(z**2) / 2, q, 10_000, generator)
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
    z = _draw(q, (num_samples,), generator)
    log_q = q.log_prob(z)
    log_p = _log_density(target, z) if isinstance(target, Distribution) else target(z)
    _check_log_densities((num_samples, *q.batch_shape), {"q": log_q, "the target": log_p})
    return _average(_score_factor(q, log_q) * (log_q - log_p))


def forward_kl(
    target: Distribution, q: Distribution, num_samples: int, generator: torch.Generator
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
        generator: The source of randomness.

    Returns:
        One value for each q, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, or a log density is NaN.

    Example:
        >>> target, q = Normal(0.0, 2.0), Normal(0.0, 1.0)
        >>> value, error = forward_kl(target, q, 10_000, torch.Generator().manual_seed(0))
        >>> bool((value - kl_divergence(target, q)).abs() < 5 * error)
        True
    """
    check_type("q", q, Distribution, "a torch.distributions.Distribution")
    check_type("target", target, Distribution, "a torch.distributions.Distribution")
    _check_target(target, q)
    check_count("num_samples", num_samples)
    z = draw(target, (num_samples, *_missing(target, q.batch_shape)), generator)
    log_p, log_q = target.log_prob(z).detach(), _log_density(q, z)
    _check_log_densities((num_samples, *q.batch_shape), {"q": log_q, "the target": log_p})
    return _average(log_p - log_q)


def _missing(distribution: Distribution, batch: torch.Size) -> torch.Size:
    """Return the leading dimensions of ``batch`` that the distribution lacks."""
    return batch[: len(batch) - len(distribution.batch_shape)]


def _draw(q: Distribution, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return draw(q, shape, generator, reparametrised=q.has_rsample)


def _log_density(distribution: Distribution, z: Tensor) -> Tensor:
    """Return the log density, which is minus infinity where the distribution cannot be.

    Torch raises an error there, or returns NaN: so the density is taken at a draw instead.
    """
    try:
        support = distribution.support
    except NotImplementedError:  # a distribution of one's own need not know its support
        support = None
    if support is None:
        return distribution.log_prob(z)
    inside: Tensor = support.check(z)
    if bool(inside.all()):
        return distribution.log_prob(z)
    events = len(distribution.event_shape)
    sample_shape = tuple(z.shape[: z.ndim - events - len(distribution.batch_shape)])
    somewhere = draw(distribution, sample_shape, torch.Generator().manual_seed(0))
    there = inside.reshape(*inside.shape, *[1] * events)
    log_density: Tensor = distribution.log_prob(torch.where(there, z, somewhere))
    return torch.where(inside, log_density, -math.inf)


def _score_factor(q: Distribution, log_q: Tensor) -> Tensor:
    """Return ones, whose gradient is that of ``log_q`` where the draws themselves have none."""
    return torch.ones_like(log_q) if q.has_rsample else (log_q - log_q.detach()).exp()


def _average(terms: Tensor) -> Estimate:
    """Return the mean over the first dimension."""
    count = len(terms)
    if count == 1:
        return Estimate(terms[0], torch.full_like(terms[0], math.inf))
    error = terms.detach().std(0) / math.sqrt(count)
    # An infinite mean has a standard deviation of infinity minus infinity.
    return Estimate(terms.mean(0), error.nan_to_num(nan=math.inf, posinf=math.inf))


def _exact(value: Tensor) -> Estimate:
    return Estimate(value, torch.zeros_like(value))


def _or_none(formula: Callable[..., Tensor], *arguments: Distribution) -> Tensor | None:
    """Return a closed form, or None where torch has none."""
    try:
        return formula(*arguments)
    except NotImplementedError:
        return None


def _kl_divergence(q: Distribution, p: Distribution) -> Tensor:
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


def _check_log_densities(shape: tuple[int, ...], log_densities: dict[str, Tensor]) -> None:
    """Check that each log density, by the name of what it belongs to, has one value a draw."""
    for name, values in log_densities.items():
        check_log_values(f"the log density of {name}", values, shape)
    check_same_dtype(**{f"the log density of {name}": v for name, v in log_densities.items()})
