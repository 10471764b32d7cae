"""The data and the starts that contestants share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from nfbook.latent import GaussianMixture


def clusters(n: int, dim: int, count: int, seed: int = 0) -> Tensor:
    """Return n draws from a mixture of Gaussians that overlap a little, float64."""
    g = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(count, dim, generator=g, dtype=torch.float64)
    mixing = torch.randn(count, dim, dim, generator=g, dtype=torch.float64) / dim**0.5
    labels = torch.randint(count, (n,), generator=g)
    x = torch.randn(n, dim, generator=g, dtype=torch.float64)
    for k in range(count):
        mine = labels == k
        x[mine] = x[mine] @ mixing[k] + centres[k]
    return x


def subspace(n: int, dim: int, latent_dim: int, seed: int = 0) -> Tensor:
    """Return n draws from probabilistic PCA, float64."""
    g = torch.Generator().manual_seed(seed)
    loading = torch.randn(dim, latent_dim, generator=g, dtype=torch.float64)
    z = torch.randn(n, latent_dim, generator=g, dtype=torch.float64)
    return z @ loading.mT + 0.5 * torch.randn(n, dim, generator=g, dtype=torch.float64)


def mixture_start(x: Tensor, count: int) -> GaussianMixture:
    """Return a start that any library can be given: the first rows as means, wide covariances."""
    weights = torch.full((count,), 1 / count, dtype=x.dtype)
    covariance = torch.diag(x.var(0, correction=0)).expand(count, -1, -1)
    return GaussianMixture(weights, x[:count], covariance)


def scikit_mixture(start: GaussianMixture, iterations: int) -> Any:
    """Return scikit-learn's mixture with the same start and number of iterations."""
    from sklearn.mixture import GaussianMixture as ScikitMixture

    warnings.simplefilter("ignore", ConvergenceWarning)
    return ScikitMixture(
        len(start.weights),
        tol=0,
        reg_covar=0,
        max_iter=iterations,
        init_params="random",
        random_state=0,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=torch.linalg.inv(start.covariances).numpy(),
    )


def scikit_k_means(means: Tensor, iterations: int) -> Any:
    """Return scikit-learn's k-means with the same start and number of iterations."""
    from sklearn.cluster import KMeans

    warnings.simplefilter("ignore", ConvergenceWarning)
    return KMeans(
        len(means), init=means.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
    )


class Stream:
    """Observations made batch by batch, the same ones in every pass, and never held together."""

    def __init__(self, n: int, dim: int, batch: int = 100_000) -> None:
        self.n, self.dim, self.batch = n, dim, batch

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches of rows around eight centres."""
        centres = 5 * torch.randn(
            8, self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        for seed, start in enumerate(range(0, self.n, self.batch), start=1):
            g = torch.Generator().manual_seed(seed)
            size = min(self.batch, self.n - start)
            rows = torch.randn(size, self.dim, generator=g, dtype=torch.float64)
            yield rows + centres[torch.randint(8, (size,), generator=g)]
