"""Random models that several pages use to check their equations.

A generator makes each model, so `verify` and its relatives can draw as many as they need.
"""

from __future__ import annotations

import torch

from nfbook._checks import check_generator
from nfbook.latent import PPCA, GaussianMixture

__all__ = ["random_mixture", "random_ppca"]


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
