r"""What every formula of probabilistic PCA goes through: the matrix M and its Cholesky factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Seen", "factor_of_m"]


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
class Seen:
    """What is there of some observations, and the Cholesky factor of the M that belongs to it.

    Attributes:
        centred: The observations less the model's mean, `(*, D)`, zero where an entry is missing.
        observed: Which entries are there, `(*, D)`, or None where nothing is missing.
        factor: The factor, `(*, d, d)`, or `(d, d)` for all where nothing is missing.

    Example:
        >>> seen = Seen(torch.tensor([1.0, 0.0]), torch.tensor([True, False]), 3 * torch.ones(1, 1))
        >>> seen.entries, seen.only(torch.ones(2)), seen.solve(torch.ones(1))
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

    def draw(self, loading: Tensor, noise_variance: Tensor, generator: torch.Generator) -> Tensor:
        r"""Draw one z for each observation from its posterior, `(*, d)`.

        With :math:`\mathbf{M} = \mathbf{R} \mathbf{R}^\top`, the vector :math:`\sigma
        \mathbf{R}^{-\top} \boldsymbol{\epsilon}` has the covariance matrix
        :math:`\sigma^2 \mathbf{M}^{-1}`.
        """
        mean = self.solve(self.centred @ loading)
        white = torch.randn(mean.shape, dtype=mean.dtype, generator=generator)
        upper = self.factor.mT
        noise: Tensor
        if self.observed is None:
            flat = white.reshape(-1, white.shape[-1]).mT
            noise = torch.linalg.solve_triangular(upper, flat, upper=True).mT.reshape(mean.shape)
        else:
            column = white.unsqueeze(-1)
            noise = torch.linalg.solve_triangular(upper, column, upper=True).squeeze(-1)
        return mean + noise_variance.sqrt() * noise
