"""What the M-step of probabilistic PCA needs to know of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nfbook._checks import check_type

if TYPE_CHECKING:
    from nfbook.latent.ppca.model import PPCA

__all__ = ["PPCAStatistics"]


@dataclass(frozen=True, eq=False)
class PPCAStatistics:
    r"""Expected sufficient statistics of probabilistic PCA, sums over n observations in float64.

    With :math:`\tilde{\mathbf{z}} = (1, \mathbf{z})`, the maker's parameters and its residual
    :math:`\mathbf{e} = \mathbf{x} - \boldsymbol{\mu} - \mathbf{W} \mathbf{z}`, where expectations
    are over q and a missing entry of x has no residual. Near the solution the residuals are as
    small as the noise, so the sums keep their digits wherever the data lie.

    Statistics of one maker can be added. Their size does not depend on n.

    Attributes:
        maker: The model whose E-step made them.
        count: The number of observations n.
        entries: The number of entries that are there, n D without missing ones.
        entropy: :math:`\sum_i \mathrm{H}(q_i)`, in nats.
        latent: :math:`\sum_i \mathbb{E}\, \tilde{\mathbf{z}}_i \tilde{\mathbf{z}}_i^\top`,
            `(d + 1, d + 1)`.
        squares: :math:`\sum_i \mathbb{E} \lVert \mathbf{e}_i \rVert^2`.
        cross: :math:`\sum_i \mathbb{E}\, \mathbf{e}_i \tilde{\mathbf{z}}_i^\top`, `(D, d + 1)`.
        gram: The same sum for each entry of x, over the observations that have it,
            `(D, d + 1, d + 1)`, or `(1, d + 1, d + 1)` where nothing is missing.

    Example:
        >>> import torch
        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.ones(2, 1), torch.zeros(2), 1.0)
        >>> both = model.e_step(torch.zeros(3, 2)) + model.e_step(torch.ones(1, 2))
        >>> both.count, both.cross.shape, both.gram.shape
        (4, torch.Size([2, 2]), torch.Size([1, 2, 2]))
    """

    maker: PPCA
    count: int
    entries: int
    entropy: Tensor
    latent: Tensor
    squares: Tensor
    cross: Tensor
    gram: Tensor

    def __add__(self, other: PPCAStatistics) -> PPCAStatistics:
        check_type("other", other, PPCAStatistics, "PPCAStatistics")
        if other.maker is not self.maker:
            raise ValueError("statistics must come from one model to be added, got two")
        return PPCAStatistics(
            self.maker,
            self.count + other.count,
            self.entries + other.entries,
            self.entropy + other.entropy,
            self.latent + other.latent,
            self.squares + other.squares,
            self.cross + other.cross,
            # One matrix for all entries of x stands for D equal ones.
            self.gram + other.gram,
        )
