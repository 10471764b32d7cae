"""Monte Carlo estimates with their standard errors, and those of the evidence above all.

The evidence is estimated by sampling, for models where the integral cannot be done. All of it works
with logarithms: a density in 64 dimensions underflows, its logarithm does not.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import (
    check_callable,
    check_count,
    check_distribution,
    check_log_values,
    check_same_dtype,
    check_tensor,
    check_type,
)
from nfbook.sampling import draw, draw_and_log_prob

__all__ = [
    "Estimate",
    "JointModel",
    "check_joint_model",
    "check_proposal",
    "effective_sample_size",
    "grouped_mean",
    "importance_log_prob",
    "likelihood_of",
    "log_mean_exp",
    "log_weights",
    "naive_log_prob",
]


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


class JointModel(Protocol):
    """What an estimate needs of a model, whose evidence and posterior may be out of reach.

    Every `LatentVariableModel` has it. Shapes are as there.
    """

    @property
    def prior(self) -> Distribution:
        r"""The prior :math:`p(\mathbf{z})` of one latent variable."""

    def likelihood(self, z: Tensor, /) -> Distribution:
        r"""Return :math:`p(\mathbf{x} \mid \mathbf{z}, \theta)` as a distribution over x."""

    def log_joint(self, x: Tensor, z: Tensor, /) -> Tensor:
        r"""Return :math:`\log p(\mathbf{x}, \mathbf{z} \mid \theta)`."""


def log_weights(
    model: JointModel,
    x: Tensor,
    z: Tensor,
    proposal: Distribution,
    *,
    log_q: Tensor | None = None,
) -> Tensor:
    r"""Return the logarithm of the importance weights.

    .. math:: \log \omega(\mathbf{z})
        = \log p(\mathbf{x}, \mathbf{z} \mid \theta) - \log q(\mathbf{z}).

    Arguments:
        model: The latent variable model.
        x: Observations, `(*, D)`.
        z: Draws from the proposal, `(K, *, d)`, or `(K, *)` for a discrete latent variable.
        proposal: The distribution q. Its batch shape is that of x, `(*)`, so that each
            observation has its own; or empty, so that all of them share one.
        log_q: The log density of the proposal at z, `(K, *)`, where it is known already, as by
            `draw_and_log_prob`. Without it the proposal is asked.

    Returns:
        One value for each draw, `(K, *)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The proposal's batch shape is neither, shapes do not fit, or a log density is
            NaN or infinite where it cannot be.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x = torch.zeros(2)
        >>> z = torch.tensor([[0.0], [1.0]])
        >>> evidence = model.log_prob(x).expand(2)
        >>> torch.allclose(log_weights(model, x, z, model.posterior(x)), evidence)
        True
    """
    check_joint_model(model, x)
    check_proposal(model, x, proposal)
    check_type("z", z, Tensor, "a torch.Tensor")
    wanted = ("K", *x.shape[:-1], *model.prior.event_shape)
    if z.ndim != len(wanted) or tuple(z.shape[1:]) != wanted[1:]:
        sizes = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
        raise ValueError(f"z must have shape ({sizes}), got {tuple(z.shape)}")
    log_joint = model.log_joint(x, z)
    if log_q is None:
        log_q = proposal.log_prob(z)
    shape = (len(z), *x.shape[:-1])
    check_log_values("the log joint density", log_joint, shape)
    # Draws of the proposal have a density there, so this is no minus infinity.
    check_tensor("the log density of the proposal", log_q, shape)
    check_same_dtype(
        **{"the log joint density": log_joint, "the log density of the proposal": log_q}
    )
    return log_joint - log_q


def log_mean_exp(values: Tensor) -> Tensor:
    r"""Return :math:`\log \frac{1}{K} \sum_{k=1}^K \exp v_k` without leaving the log scale.

    Arguments:
        values: Floating-point numbers, `(K, *)`. Minus infinity stands for a weight of zero.

    Returns:
        The logarithm of the mean over the first dimension, `(*)`.

    Raises:
        TypeError: values is not a floating-point tensor.
        ValueError: values has no dimension, is empty, or holds NaN or plus infinity.

    Example:
        >>> log_mean_exp(torch.tensor([-1000.0, -1000.0]))
        tensor(-1000.)
    """
    _check_log_values("values", values)
    return torch.logsumexp(values, dim=0) - math.log(len(values))


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Return :math:`\bigl(\sum_k \omega_k\bigr)^2 / \sum_k \omega_k^2`, between 1 and K.

    It is K when all weights are equal and 1 when a single one counts. It sees only the draws that
    were made: where the proposal misses a part of the posterior, it may be high and mean nothing.

    Source: A. Kong, A note on importance sampling using standardized weights, University of
    Chicago, technical report 348 (1992).

    Arguments:
        log_w: Logarithms of importance weights, `(K, *)`.

    Returns:
        The effective sample size over the first dimension, `(*)`.

    Raises:
        TypeError: log_w is not a floating-point tensor.
        ValueError: log_w has no dimension, is empty, holds NaN or plus infinity, or all weights
            of one column are zero.

    Example:
        >>> effective_sample_size(torch.tensor([0.0, 0.0, 0.0, -100.0]))
        tensor(3.)
    """
    _check_log_values("log_w", log_w)
    if bool(torch.isneginf(log_w).all(dim=0).any()):
        raise ValueError("log_w must hold a weight above zero in every column, got none")
    # In units of the largest: the logarithms of both sums may be large, and nearly equal.
    log_w = log_w - log_w.amax(0)
    return torch.exp(2 * torch.logsumexp(log_w, dim=0) - torch.logsumexp(2 * log_w, dim=0))


def grouped_mean(sizes: Tensor, means: Tensor) -> Estimate:
    r"""Return the mean of values that depend on each other only within groups, with its error.

    With :math:`n_g` values in group g, :math:`m_g` their mean, :math:`n = \sum_g n_g` and G groups,

    .. math::
        \bar m = \frac1n \sum_g n_g m_g, \qquad
        \mathrm{se}^2 = \frac{G}{G - 1} \sum_g \Bigl(\frac{n_g}{n}\,(m_g - \bar m)\Bigr)^2 .

    With groups of one this is the usual :math:`s / \sqrt n`.

    Source: W. G. Cochran, Sampling Techniques, third edition (1977), chapter 9A.

    Arguments:
        sizes: How many values each group has, `(G,)`.
        means: The mean of each, `(G,)`.

    Raises:
        TypeError: An argument is not a floating-point tensor.
        ValueError: There are fewer than two groups, the shapes differ, an element is not finite, or
            a size is not above zero.

    Example:
        >>> grouped_mean(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 3.0]))
        Estimate(value=tensor(2.), standard_error=tensor(1.))
    """
    count = check_tensor("sizes", sizes, ("G",))["G"]
    check_tensor("means", means, (count,))
    if count < 2:
        raise ValueError(f"sizes must be those of at least two groups, got {count}")
    if not bool((sizes > 0).all()):
        raise ValueError(f"sizes must be above zero, got {sizes.min().item():g}")
    shares = sizes / sizes.sum()
    mean = shares @ means
    variance = count / (count - 1) * ((shares * (means - mean)) ** 2).sum()
    return Estimate(mean, variance.sqrt())


def naive_log_prob(
    model: JointModel,
    x: Tensor,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the naive Monte Carlo estimate of the log-evidence.

    .. math:: \log \hat p_K(\mathbf{x}) = \log \frac{1}{K} \sum_{k=1}^K
        p(\mathbf{x} \mid \mathbf{z}_k, \theta), \qquad \mathbf{z}_k \sim p(\mathbf{z}).

    The estimate of p is unbiased, that of log p is too low on average.

    Arguments:
        model: The latent variable model.
        x: Observations, `(*, D)`. Each one gets its own draws.
        num_samples: The number of draws K for each observation.
        generator: The source of randomness, or None for torch's own.

    Returns:
        One estimate for each observation, `(*)`. Repeat x along a new dimension for independent
        estimates of the same evidence.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The shape of x does not fit, or there are no draws.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> naive_log_prob(model, torch.zeros(5, 2), 1000, generator=generator).shape
        torch.Size([5])
    """
    check_joint_model(model, x)
    check_count("num_samples", num_samples)
    z = draw(model.prior, (num_samples, *x.shape[:-1]), generator=generator)
    log_likelihood = likelihood_of(model, z).log_prob(x)
    check_log_values(
        "the log density of the likelihood", log_likelihood, (num_samples, *x.shape[:-1])
    )
    return log_mean_exp(log_likelihood)


def importance_log_prob(
    model: JointModel,
    x: Tensor,
    proposal: Distribution,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the importance-sampled estimate of the log-evidence.

    .. math:: \log \hat p_K(\mathbf{x}) = \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(\mathbf{x}, \mathbf{z}_k \mid \theta)}{q(\mathbf{z}_k)}, \qquad
        \mathbf{z}_k \sim q(\mathbf{z}).

    With the prior as proposal this is the naive estimate; with the posterior every term equals
    the evidence.

    Arguments:
        model: The latent variable model.
        x: Observations, `(*, D)`. Each one gets its own draws.
        proposal: The distribution q, positive wherever the posterior is. Its batch shape is that
            of x, `(*)`, so that each observation has its own; or empty, so that all share one.
        num_samples: The number of draws K for each observation.
        generator: The source of randomness, or None for torch's own.

    Returns:
        One estimate for each observation, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The shape of x or of the proposal does not fit, or there are no draws.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x = torch.zeros(2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = model.posterior(x)
        >>> estimate = importance_log_prob(model, x, q, 10, generator=generator)
        >>> bool((estimate - model.log_prob(x)).abs() < 1e-5)
        True
    """
    check_joint_model(model, x)
    check_proposal(model, x, proposal)
    check_count("num_samples", num_samples)
    missing = x.shape[: x.ndim - 1 - len(proposal.batch_shape)]
    z, log_q = draw_and_log_prob(proposal, (num_samples, *missing), generator=generator)
    return log_mean_exp(log_weights(model, x, z, proposal, log_q=log_q))


def check_joint_model(model: JointModel, x: Tensor) -> None:
    """Check that ``model`` can be used as a `JointModel`, with these observations.

    Example:
        >>> check_joint_model(torch.nn.Identity(), torch.zeros(2))
        Traceback (most recent call last):
        ...
        TypeError: model must be a LatentVariableModel, got Identity; a stand-in has prior,
        likelihood and log_joint
    """
    if not all(hasattr(model, name) for name in ("prior", "likelihood", "log_joint")):
        raise TypeError(
            f"model must be a LatentVariableModel, got {type(model).__name__}; "
            "a stand-in has prior, likelihood and log_joint"
        )
    check_distribution("model.prior", model.prior)
    check_callable("model.likelihood", model.likelihood)
    check_callable("model.log_joint", model.log_joint)
    check_tensor("x", x, ("*", "D"))
    # A model that knows its own D and dtype says what is wrong before anything is drawn.
    check_observations = getattr(model, "check_observations", None)
    if check_observations is not None:
        check_observations(x)


def likelihood_of(model: JointModel, z: Tensor) -> Distribution:
    """Return the likelihood of each z, and check that it is a distribution.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> likelihood_of(model, torch.ones(1)).mean
        tensor([1., 1.])
    """
    likelihood = model.likelihood(z)
    check_distribution("model.likelihood(z)", likelihood)
    return likelihood


def check_proposal(
    model: JointModel, x: Tensor, proposal: Distribution, name: str = "proposal"
) -> None:
    """Check that ``proposal`` is one distribution over z for all of x, or one for each.

    Example:
        >>> from torch.distributions import Normal
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> check_proposal(model, torch.zeros(2), Normal(0.0, 1.0), "q")
        Traceback (most recent call last):
        ...
        ValueError: q must have the event shape of the prior, (1,), got ()
    """
    check_distribution(name, proposal)
    if proposal.batch_shape not in (torch.Size(), x.shape[:-1]):
        raise ValueError(
            f"{name} must have batch shape () or that of x, {tuple(x.shape[:-1])}, "
            f"got {tuple(proposal.batch_shape)}"
        )
    event_shape = model.prior.event_shape
    if proposal.event_shape != event_shape:
        raise ValueError(
            f"{name} must have the event shape of the prior, {tuple(event_shape)}, "
            f"got {tuple(proposal.event_shape)}"
        )


def _check_log_values(name: str, values: Tensor) -> None:
    check_log_values(name, values, ("K", *getattr(values, "shape", ())[1:]))
