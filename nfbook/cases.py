"""Random models that several pages use to check their equations.

A generator makes each model, so `verify` and its relatives can draw as many as they need.
"""

from __future__ import annotations

import torch

from nfbook._checks import check_generator
from nfbook.bayes import GaussianMean, LinearRegression
from nfbook.latent import PPCA, GaussianMixture

__all__ = [
    "random_coin",
    "random_gaussian_mean",
    "random_mixture",
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
