"""Random models that several pages use to check their equations.

A generator makes each model, so `verify` and its relatives can draw as many as they need.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from nfbook._checks import check_generator
from nfbook.bayes import GaussianMean, LinearRegression
from nfbook.latent import PPCA, GaussianMixture

__all__ = [
    "random_coin",
    "random_gaussian",
    "random_gaussian_mean",
    "random_inference",
    "random_mixture",
    "random_peaks",
    "random_ppca",
    "random_regression",
]


def random_mixture(
    generator: torch.Generator, count: int = 3, dim: int = 2, *, variety: float = 1.0
) -> GaussianMixture:
    r"""Return a mixture of Gaussians that overlap, none of them round.

    With matrices A and vectors **a**, **b** of standard Gaussian numbers and the variety v,

    .. math:: \boldsymbol{\pi} = \operatorname{softmax}(v \mathbf{b}), \qquad
        \boldsymbol{\mu}_k = 2\, \mathbf{a}_k, \qquad
        \boldsymbol{\Sigma}_k = v^2 \mathbf{A}_k \mathbf{A}_k^\top + \tfrac12 \mathbf{I}.

    Arguments:
        generator: The source of the numbers.
        count: The number of components K.
        dim: The dimension D.
        variety: How much weights and covariances vary, v.

    Example:
        >>> random_mixture(torch.Generator().manual_seed(0)).means.shape
        torch.Size([3, 2])
    """
    check_generator(generator)
    factors = variety * torch.randn(count, dim, dim, generator=generator)
    return GaussianMixture(
        (variety * torch.randn(count, generator=generator)).softmax(0),
        2 * torch.randn(count, dim, generator=generator),
        factors @ factors.mT + 0.5 * torch.eye(dim),
    )


def random_ppca(
    generator: torch.Generator, dim: int = 5, latent_dim: int = 2, *, least: float = 0.2
) -> PPCA:
    r"""Return a model of probabilistic PCA with standard Gaussian numbers as loading and mean.

    Its noise variance is uniform between ``least`` and ``least + 1``.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension D of the data.
        latent_dim: The dimension d of the latent variable.
        least: The least noise variance.

    Example:
        >>> random_ppca(torch.Generator().manual_seed(0)).loading.shape
        torch.Size([5, 2])
    """
    check_generator(generator)
    return PPCA(
        torch.randn(dim, latent_dim, generator=generator),
        torch.randn(dim, generator=generator),
        least + torch.rand((), generator=generator),
    )


def random_coin(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Return the :math:`a, b` of a Beta prior, uniform in [1, 5], and a record of tosses.

    The record has 1 to 20 tosses, as zeros and ones, of a coin with a uniform probability of ones.

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> a, b, tosses = random_coin(torch.Generator().manual_seed(0))
        >>> bool(((tosses == 0) | (tosses == 1)).all())
        True
    """
    check_generator(generator)
    a, b = 1 + 4 * torch.rand(2, generator=generator)
    n = int(torch.randint(1, 21, (), generator=generator))
    chance = torch.rand((), generator=generator)
    return a, b, (torch.rand(n, generator=generator) < chance).to(a.dtype)


def random_gaussian_mean(generator: torch.Generator) -> tuple[GaussianMean, torch.Tensor]:
    """Return a model of a Gaussian mean, and 1 to 12 observations.

    The prior mean is a standard Gaussian number, both variances are powers of e with one.

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> model, data = random_gaussian_mean(torch.Generator().manual_seed(0))
        >>> model.posterior(data).batch_shape
        torch.Size([])
    """
    check_generator(generator)
    mean, log_prior, log_noise = torch.randn(3, generator=generator)
    n = int(torch.randint(1, 13, (), generator=generator))
    model = GaussianMean(mean, (0.5 * log_prior).exp(), (0.5 * log_noise).exp())
    return model, 2 * torch.randn(n, generator=generator)


def random_regression(
    generator: torch.Generator,
) -> tuple[LinearRegression, torch.Tensor, torch.Tensor]:
    """Return a regression with three weights, a design matrix of 2 to 9 rows, and the targets.

    Design and targets are standard Gaussian numbers, and the variances uniform in [0.2, 1.2].

    Arguments:
        generator: The source of the numbers.

    Example:
        >>> model, design, targets = random_regression(torch.Generator().manual_seed(0))
        >>> len(design) == len(targets), design.shape[1]
        (True, 3)
    """
    check_generator(generator)
    n = int(torch.randint(2, 10, (), generator=generator))
    variances = 0.2 + torch.rand(4, generator=generator)
    model = LinearRegression(variances[:3], variances[3])
    return model, torch.randn(n, 3, generator=generator), torch.randn(n, generator=generator)


def random_gaussian(generator: torch.Generator, dim: int = 2) -> MultivariateNormal:
    r"""Return a Gaussian with correlated coordinates, whose variances are at least 0.3.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension.

    Example:
        >>> random_gaussian(torch.Generator().manual_seed(0)).mean.shape
        torch.Size([2])
    """
    check_generator(generator)
    factor = torch.randn(dim, dim, generator=generator)
    covariance = factor @ factor.mT + 0.3 * torch.eye(dim)
    return MultivariateNormal(torch.randn(dim, generator=generator), covariance)


def random_inference(
    generator: torch.Generator, dim: int = 3
) -> tuple[PPCA, Tensor, Normal, Normal]:
    r"""Return a model with one latent number, an observation, a q and the posterior.

    The mean of q is about half a standard deviation from that of the posterior, and its width
    differs by about a third.

    Arguments:
        generator: The source of the numbers.
        dim: The dimension D of the observation.

    Returns:
        A `PPCA` with d = 1, an observation drawn from it, `(D,)`, a Gaussian q, and the exact
        posterior as a Gaussian on the line.

    Example:
        >>> model, x, q, posterior = random_inference(torch.Generator().manual_seed(0))
        >>> torch.allclose(posterior.mean, model.posterior(x).mean[0])
        True
    """
    model = random_ppca(generator, dim, 1)
    x = model.sample(1, generator=generator)[0][0]
    exact = model.posterior(x)
    mean, stddev = exact.mean[0], exact.stddev[0]
    shift, width = torch.randn(2, generator=generator)
    q = Normal(mean + 0.5 * shift * stddev, (0.3 * width).exp() * stddev)
    return model, x, q, Normal(mean, stddev)


def random_peaks(generator: torch.Generator, count: int = 3) -> tuple[MixtureSameFamily, Normal]:
    r"""Return a mixture of Gaussians on the line, which may have several peaks, and a Gaussian.

    Arguments:
        generator: The source of the numbers.
        count: The number of components.

    Example:
        >>> p, q = random_peaks(torch.Generator().manual_seed(0))
        >>> p.mixture_distribution.probs.shape, q.batch_shape
        (torch.Size([3]), torch.Size([]))
    """
    check_generator(generator)
    weights = (0.5 * torch.randn(count, generator=generator)).softmax(0)
    parts = Normal(
        2 * torch.randn(count, generator=generator), 0.4 + torch.rand(count, generator=generator)
    )
    mean, log_scale = 0.5 * torch.randn(2, generator=generator)
    return MixtureSameFamily(Categorical(weights), parts), Normal(mean, 1.5 * log_scale.exp())
