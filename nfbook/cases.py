"""Random models and data that several pages use to check their equations, and a search.

A generator makes each model, so `verify` and its relatives can draw as many as they need.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nfbook._checks import check_generator
from nfbook.latent import PPCA, GaussianMixture

__all__ = ["maximise", "random_bound_case", "random_data", "random_mixture", "random_ppca"]


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


def random_bound_case(
    generator: torch.Generator, count: int = 2, n: int = 30
) -> tuple[GaussianMixture, Tensor, Tensor]:
    """Return a random mixture in the plane, data from it, and a table of responsibilities.

    The table has nothing to do with the mixture, so the bound that the three define has a gap.

    Arguments:
        generator: The source of the numbers.
        count: The number of components K.
        n: The number of observations.

    Returns:
        The mixture, the data with shape `(n, 2)`, and the table with shape `(n, K)`, whose rows
        sum to one.

    Example:
        >>> mixture, data, q = random_bound_case(torch.Generator().manual_seed(0), n=5)
        >>> data.shape, q.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    mixture = random_mixture(generator, count, variety=0.5)
    data = mixture.sample(n, generator=generator)[0]
    return mixture, data, torch.randn(n, count, generator=generator).softmax(1)


def random_data(generator: torch.Generator, n: int = 60, dim: int = 5) -> Tensor:
    """Return data with correlated columns: standard Gaussian numbers times a random matrix.

    Arguments:
        generator: The source of the numbers.
        n: The number of rows.
        dim: The number of columns D.

    Example:
        >>> random_data(torch.Generator().manual_seed(0)).shape
        torch.Size([60, 5])
    """
    check_generator(generator)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(n, dim, generator=generator) @ mixing


def maximise(function: Callable[..., Tensor], *start: Tensor) -> list[Tensor]:
    """Return where a smooth function of tensors has a local maximum, found by gradients alone.

    L-BFGS climbs from ``start`` until the gradient is about 1e-10. It uses no theory of the
    function, which makes it a witness for a maximum that was derived.

    Arguments:
        function: Takes as many tensors as there are in ``start``, and returns a number.
        start: Where to begin; left unchanged.

    Example:
        >>> (top,) = maximise(lambda t: -((t - 3) ** 4).sum() - (t**2).sum(), torch.zeros(2))
        >>> (4 * (3 - top) ** 3 - 2 * top).abs().max() < 1e-6
        tensor(True)
    """
    free = [value.detach().clone().requires_grad_() for value in start]
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -function(*free)
        value.backward()
        return value

    optimiser.step(loss)
    return [value.detach() for value in free]
