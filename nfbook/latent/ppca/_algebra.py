r"""What the model and its fits share: the matrix M, its Cholesky factor, and what data must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.sampling import gaussian_noise

__all__ = [
    "Observed",
    "check_every_column",
    "check_latent_dim",
    "check_noise_left",
    "check_varies",
    "exact_mean",
    "factor_of_m",
    "in_dtype",
    "no_noise_left",
]

M = TypeVar("M")


def factor_of_m(
    loading: Tensor, noise_variance: Tensor, observed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return the lower Cholesky factor of M.

    .. math:: \mathbf{M} = \mathbf{W}^\top \mathbf{W} + \sigma^2 \mathbf{I}

    Arguments:
        loading: The matrix W, `(D, d)`.
        noise_variance: The variance :math:`\sigma^2`.
        observed: Which entries of some observations are there, `(*, D)`. Each observation then has
            its own factor, of the M whose W has the rows of those entries.

    Returns:
        The factor, `(d, d)` or `(*, d, d)`, and where there is none, as `torch.linalg.cholesky_ex`.

    Example:
        >>> factor, failed = factor_of_m(torch.tensor([[1.0], [4.0]]), torch.tensor(8.0))
        >>> factor, bool(failed)
        (tensor([[5.]]), False)
        >>> observed = torch.tensor([True, False])
        >>> factor_of_m(torch.tensor([[1.0], [4.0]]), torch.tensor(8.0), observed)[0]
        tensor([[3.]])
    """
    dim = loading.shape[1]
    if observed is None:
        product = loading.mT @ loading
    else:
        products = (loading.unsqueeze(2) * loading.unsqueeze(1)).flatten(1)  # (D, d d)
        product = (observed.to(loading.dtype) @ products).reshape(*observed.shape[:-1], dim, dim)
    noise = noise_variance * torch.eye(dim, dtype=loading.dtype, device=loading.device)
    factor: Tensor
    failed: Tensor
    factor, failed = torch.linalg.cholesky_ex(product + noise)
    return factor, failed


@dataclass(frozen=True)
class Observed:
    """What is there of some observations, and the Cholesky factor of the M that belongs to it.

    Attributes:
        centred: The observations less the model's mean, `(*, D)`, zero where an entry is missing.
        observed: Which entries are there, `(*, D)`, or None where nothing is missing.
        factor: The factor, `(*, d, d)`, or `(d, d)` for all where nothing is missing.

    Example:
        >>> mask = torch.tensor([True, False])
        >>> here = Observed(torch.tensor([1.0, 0.0]), mask, 3 * torch.ones(1, 1))
        >>> here.entries, here.only(torch.ones(2)), here.solve(torch.ones(1))
        (tensor(1.), tensor([1., 0.]), tensor([0.1111]))
    """

    centred: Tensor
    observed: Tensor | None
    factor: Tensor

    @property
    def entries(self) -> Any:
        """The number of entries that are there, `(*)`, in the dtype of x, or D for all."""
        if self.observed is None:
            return self.centred.shape[-1]
        return self.observed.sum(-1, dtype=self.centred.dtype)

    def only(self, values: Tensor) -> Tensor:
        """Return values `(*, D)` with zero where an entry is missing."""
        return values if self.observed is None else torch.where(self.observed, values, 0.0)

    def solve(self, v: Tensor) -> Tensor:
        r"""Return :math:`\mathbf{M}^{-1} \mathbf{v}` for vectors `(*, d)`."""
        if self.observed is None:
            flat = v.reshape(-1, v.shape[-1]).mT
            return torch.cholesky_solve(flat, self.factor).mT.reshape(v.shape)
        return torch.cholesky_solve(v.unsqueeze(-1), self.factor).squeeze(-1)

    def log_det(self) -> Tensor:
        r"""Return :math:`\log \det \mathbf{M}`, `(*)`, or one for all."""
        return 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def draw(
        self, loading: Tensor, noise_variance: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        r"""Draw one z for each observation from its posterior, `(*, d)`.

        With :math:`\mathbf{M} = \mathbf{R} \mathbf{R}^\top`, the vector :math:`\sigma
        \mathbf{R}^{-\top} \boldsymbol{\epsilon}` has the covariance matrix
        :math:`\sigma^2 \mathbf{M}^{-1}`.
        """
        mean = self.solve(self.centred @ loading)
        white = gaussian_noise(mean.shape, mean, generator)
        upper = self.factor.mT
        noise: Tensor
        if self.observed is None:
            flat = white.reshape(-1, white.shape[-1]).mT
            noise = torch.linalg.solve_triangular(upper, flat, upper=True).mT.reshape(mean.shape)
        else:
            column = white.unsqueeze(-1)
            noise = torch.linalg.solve_triangular(upper, column, upper=True).squeeze(-1)
        return mean + noise_variance.sqrt() * noise


def check_noise_left(
    noise_variance: Tensor, loading: Tensor, dtype: torch.dtype, *, advice: str = ""
) -> None:
    r"""Refuse data that the latent dimensions explain to the last digit.

    Their likelihood has no maximum: it grows without limit as the noise variance goes to zero.

    Arguments:
        noise_variance: The variance :math:`\sigma^2`.
        loading: The matrix W, `(D, d)`.
        dtype: The dtype whose rounding says what vanishes beside the total variance.
        advice: What else may help.

    Raises:
        ValueError: The noise is no more than rounding.

    Example:
        >>> check_noise_left(torch.tensor(0.0), torch.ones(2, 1), torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: x must have variance beyond its first principal component, got none; choose a
        smaller latent_dim
    """
    total = loading.square().sum() + len(loading) * noise_variance
    if not bool(noise_variance > torch.finfo(dtype).eps * total):
        raise no_noise_left(loading.shape[1], advice)


def no_noise_left(latent_dim: int, advice: str = "") -> ValueError:
    """Return the error of `check_noise_left`.

    Example:
        >>> print(no_noise_left(2))
        x must have variance beyond its first 2 principal components, got none; choose a smaller
        latent_dim
    """
    first = "principal component" if latent_dim == 1 else f"{latent_dim} principal components"
    return ValueError(
        f"x must have variance beyond its first {first}, got none; "
        f"choose a smaller latent_dim{advice}"
    )


def in_dtype(
    kind: Callable[[Tensor, Tensor, Tensor], M],
    parameters: tuple[Tensor, Tensor, Tensor],
    dtype: torch.dtype,
) -> M:
    """Return the model with parameters found in float64, in the dtype of the data.

    Arguments:
        kind: Makes the model, as its class does.
        parameters: Loading, mean and noise variance.
        dtype: The dtype.

    Raises:
        ValueError: There is no noise left, or the noise variance has no place in the dtype.

    Example:
        >>> from nfbook.latent import PPCA
        >>> tiny = torch.tensor(1e-60, dtype=torch.float64)
        >>> in_dtype(PPCA, (tiny.expand(2, 1), tiny.expand(2), tiny), torch.float32)
        Traceback (most recent call last):
        ...
        ValueError: x must have a variance within the range of torch.float32, got the noise variance
        1e-60
    """
    loading, mean, noise_variance = parameters
    check_noise_left(noise_variance, loading, dtype)
    smallest, largest = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    if not smallest <= float(noise_variance) <= largest:
        raise ValueError(
            f"x must have a variance within the range of {dtype}, "
            f"got the noise variance {float(noise_variance):.3g}"
        )
    return kind(loading.to(dtype), mean.to(dtype), noise_variance.to(dtype))


def exact_mean(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of each column, corrected by the mean of what is left.

    Weights, `(n,)`, say how often each observation counts.

    Far from the origin the first one is off by a rounding of its own size. That would be variance
    of a column that has none.

    Example:
        >>> exact_mean(torch.full((3, 1), 0.1)) == 0.1
        tensor([True])
    """
    counts = x.new_ones(len(x)) if weights is None else weights
    total = counts.sum()
    share = (counts / torch.where(total > 0, total, 1.0)).unsqueeze(-1)
    mean = (share * x).sum(0)
    return mean + (share * (x - mean)).sum(0)


def check_latent_dim(latent_dim: int, dim: int) -> None:
    """Check that there is a dimension left for the noise: with d = D its variance is arbitrary.

    Example:
        >>> check_latent_dim(3, 3)
        Traceback (most recent call last):
        ...
        ValueError: latent_dim must be less than D = 3, got 3
    """
    check_count("latent_dim", latent_dim)
    if latent_dim >= dim:
        raise ValueError(f"latent_dim must be less than D = {dim}, got {latent_dim}")


def check_varies(mean: Tensor, variance: Tensor) -> None:
    """Check that there is something to explain, given mean and variance of each column, `(D,)`.

    Example:
        >>> check_varies(torch.ones(2), torch.zeros(2))
        Traceback (most recent call last):
        ...
        ValueError: x must vary, with a finite variance, got at most 0 in a column
    """
    # Equal numbers may differ from their mean by its rounding.
    rounding = 4 * torch.finfo(mean.dtype).eps * mean.abs()
    if not bool(variance.isfinite().all() and (variance.sqrt() > rounding).any()):
        # Where it overflows it may also be NaN, which is infinity times zero here.
        most = float(variance.nan_to_num(nan=math.inf, posinf=math.inf).max())
        raise ValueError(f"x must vary, with a finite variance, got at most {most:.3g} in a column")


def check_every_column(count: Tensor) -> None:
    """Check that every column has at least one entry, given their numbers, `(D,)`.

    Example:
        >>> check_every_column(torch.tensor([3, 0]))
        Traceback (most recent call last):
        ...
        ValueError: x must have an entry in every column, got none in column 1
    """
    empty = (count == 0).nonzero()
    if len(empty):
        raise ValueError(
            f"x must have an entry in every column, got none in column {int(empty[0])}"
        )
