"""The evidence lower bound, term by term, and the tighter bound of several draws at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import check_count, check_type
from nfbook.estimators import (
    Estimate,
    JointModel,
    check_joint_model,
    check_proposal,
    likelihood_of,
    log_mean_exp,
    log_weights,
)
from nfbook.objectives._terms import (
    average,
    check_log_densities,
    closed_form_kl,
    exact,
    exact_or_none,
    missing_dimensions,
    score_factor,
)
from nfbook.objectives.path_gradients import drawing, square_weights
from nfbook.sampling import log_density

__all__ = ["ELBO", "elbo", "importance_weighted_bound"]


class ELBO(NamedTuple):
    r"""The evidence lower bound and its terms, one value for each observation.

    All terms come from the same draws, so these hold exactly, and not only on average:

    .. math::
        \text{value} = \text{reconstruction} - \text{kl} = \text{entropy} - \text{energy}.

    The energy of a state z is that of physics, so the free energy, energy minus entropy, is minus
    the bound.

    Attributes:
        value: The bound :math:`\mathbb{E}_q[\log p(\mathbf{x}, \mathbf{z} \mid \theta)
            - \log q(\mathbf{z})]`, in nats.
        standard_error: Its standard error.
        reconstruction: :math:`\mathbb{E}_q \log p(\mathbf{x} \mid \mathbf{z}, \theta)`.
        kl: :math:`\mathrm{KL}(q(\mathbf{z}) \,\|\, p(\mathbf{z}))`, the divergence from the prior.
        energy: :math:`-\mathbb{E}_q \log p(\mathbf{x}, \mathbf{z} \mid \theta)`.
        entropy: :math:`\mathrm{H}(q) = -\mathbb{E}_q \log q(\mathbf{z})`.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model, x = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0), torch.zeros(2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> terms = elbo(model, x, model.posterior(x), 10, generator=generator)
        >>> torch.allclose(terms.value, terms.entropy.value - terms.energy.value)
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
    *,
    generator: torch.Generator | None = None,
    closed_form: bool = True,
    path_gradient: bool = False,
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
        generator: The source of randomness, or None for torch's own.
        closed_form: Whether the divergence and the entropy may be exact.
        path_gradient: Whether the gradient for q takes the path through the draws only, which
            has less variance near the posterior and none there, see
            `nfbook.objectives.path_gradients`. Nothing is in closed form then: the terms must
            cancel draw by draw.

    Returns:
        The bound and its terms for each observation, all of shape `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, there are no draws, a log density is NaN, or the
            likelihood is not a distribution over whole observations.

    Sources: the path gradient is that of G. Roeder, Y. Wu and D. Duvenaud, Sticking the landing,
    NIPS (2017).

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x = torch.tensor([1.0, 2.0])
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.zeros(1), 1.0), 1)
        >>> bound = elbo(model, x, q, 1000, generator=torch.Generator().manual_seed(0))
        >>> bool((bound.value - model.elbo(x, q)).abs() < 5 * bound.standard_error)
        True
        >>> bound.kl  # q is the prior here
        Estimate(value=tensor(0.), standard_error=tensor(0.))
    """
    check_joint_model(model, x)
    check_proposal(model, x, q, "q")
    check_count("num_samples", num_samples)
    check_type("closed_form", closed_form, bool, "True or False")
    draw_with = drawing(path_gradient, "path_gradient")
    closed_form = closed_form and not path_gradient
    batch = x.shape[:-1]
    missing = missing_dimensions(q, batch)
    z, log_q = draw_with(q, (num_samples, *missing), generator=generator)
    log_likelihood = likelihood_of(model, z).log_prob(x)
    log_prior = log_density(model.prior, z)
    check_log_densities(
        (num_samples, *batch),
        {"the likelihood": log_likelihood, "q": log_q, "the prior": log_prior},
    )
    exact_kl = exact_or_none(closed_form_kl, q, model.prior) if closed_form else None
    exact_entropy = exact_or_none(q.entropy) if closed_form else None
    kl = log_q - log_prior if exact_kl is None else exact_kl.expand(log_q.shape)
    entropy = -log_q if exact_entropy is None else exact_entropy.expand(log_q.shape)
    score = score_factor(q, log_q)
    value, standard_error = average(score * (log_likelihood - kl))
    return ELBO(
        value,
        standard_error,
        reconstruction=average(score * log_likelihood),
        kl=average(score * kl) if exact_kl is None else exact(exact_kl.expand(batch)),
        energy=average(score * (kl + entropy - log_likelihood)),
        entropy=(
            average(score * entropy)
            if exact_entropy is None
            else exact(exact_entropy.expand(batch))
        ),
    )


def importance_weighted_bound(
    model: JointModel,
    x: Tensor,
    q: Distribution,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
    repeats: int = 1,
    doubly_reparametrised: bool = False,
) -> Estimate:
    r"""Estimate the importance-weighted bound.

    .. math:: \mathcal{L}_K(q, \theta) = \mathbb{E} \log \frac{1}{K} \sum_{k=1}^K
        \frac{p(\mathbf{x}, \mathbf{z}_k \mid \theta)}{q(\mathbf{z}_k)}, \qquad
        \mathbf{z}_k \sim q(\mathbf{z}).

    With one draw it is the evidence lower bound. It rises with K towards the log-evidence. As it
    does, the signal in the plain gradient for q falls faster than its noise. In the doubly
    reparametrised one, which is unbiased too, it does not:

    .. math:: \sum_{k=1}^K \tilde\omega_k^2 \, \frac{\partial \mathbf{z}_k}{\partial \phi}^\top
        \nabla_{\mathbf{z}_k} \log \omega_k, \qquad
        \tilde\omega_k = \frac{\omega_k}{\sum_j \omega_j}.

    Sources: Y. Burda, R. Grosse and R. Salakhutdinov, Importance weighted autoencoders, ICLR
    (2016), equation 8; G. Tucker, D. Lawson, S. Gu and C. Maddison, Doubly reparameterized gradient
    estimators for Monte Carlo objectives, ICLR (2019), equation 8.

    Arguments:
        model: A `LatentVariableModel`, or any object with ``prior``, ``likelihood`` and
            ``log_joint``.
        x: Observations, `(*, D)`.
        q: The distribution of z. Its batch shape is that of x, `(*)`, or empty.
        num_samples: The number of draws K inside the logarithm.
        generator: The source of randomness, or None for torch's own.
        repeats: How many logarithms are averaged. A standard error needs at least two.
        doubly_reparametrised: Whether the gradient for q is the second one. That for the model is
            the plain one in both.

    Returns:
        The bound for each observation, `(*)`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit, or a number is too small.

    Example:
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> x, generator = torch.zeros(2), torch.Generator().manual_seed(0)
        >>> bound = importance_weighted_bound(
        ...     model, x, model.prior, 100, generator=generator, repeats=500
        ... )
        >>> bool((model.log_prob(x) - bound.value).abs() < 0.01)
        True
    """
    check_joint_model(model, x)
    check_proposal(model, x, q, "q")
    check_count("num_samples", num_samples)
    check_count("repeats", repeats)
    draw_with = drawing(doubly_reparametrised, "doubly_reparametrised")
    batch = x.shape[:-1]
    missing = missing_dimensions(q, batch)
    z, log_q = draw_with(q, (num_samples * repeats, *missing), generator=generator)
    log_w = log_weights(model, x, z, q, log_q=log_q).reshape(num_samples, repeats, *batch)
    if doubly_reparametrised:
        square_weights(z, log_w, len(q.event_shape))
    bounds = log_mean_exp(log_w)
    if not q.has_rsample:
        bounds = score_factor(q, log_q.reshape(log_w.shape).sum(0)) * bounds
    return average(bounds)
