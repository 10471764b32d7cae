"""The Householder flow: a Gaussian whose axes are turned by reflections."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.flows.base import ParametricFlow
from nfbook.transforms.base import Compose
from nfbook.transforms.householder import Householder
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["HouseholderFlow"]


class HouseholderFlow(ParametricFlow):
    r"""A scale and a shift of each coordinate, then K reflections (Tomczak and Welling, 2016).

    .. math:: \mathbf{y} = \mathbf{H}_K \cdots \mathbf{H}_1
        (\boldsymbol{\sigma} \odot \mathbf{z} + \boldsymbol{\mu}).

    Reflections alone would do nothing here, since they leave N(0, I) as it is. They need a
    Gaussian with axes to turn, and the scale and shift make it. In the paper that is the
    encoder's :math:`\mathcal{N}(\boldsymbol{\mu}, \operatorname{diag} \boldsymbol{\sigma}^2)`.
    With Q the product of the reflections, the result is again a Gaussian,

    .. math:: \mathcal{N}\bigl(\mathbf{Q} \boldsymbol{\mu},\;
        \mathbf{Q} \operatorname{diag}(\boldsymbol{\sigma}^2)\, \mathbf{Q}^\top\bigr).

    K = D - 1 reflections reach every Gaussian whose standard deviations along its axes lie between
    1/1000 and 1000, the bounds of `ScaleAndShift`: they give every set of orthogonal axes up to the
    axes' directions, on which a covariance does not depend.

    Both directions cost O(KD), and the determinant is that of the scale alone. At the start scale
    and shift are the identity, and the mirrors are random.

    The arguments are those of `ParametricFlow`; K is the number of reflections.

    Example:
        >>> flow = HouseholderFlow(3, length=2)
        >>> flow().rsample((5,)).shape
        torch.Size([5, 3])
    """

    scale_and_shift = ScaleAndShift()

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return no scale and no shift, and random mirrors."""
        return {
            "affine": torch.zeros(self.features, self.scale_and_shift.size),
            "vectors": torch.empty(length, self.features).normal_(generator=generator),
        }

    def transform(self, context: Tensor | None = None) -> Compose:
        """Return the scale and shift, followed by the reflections."""
        parameters = self.parameters_of(context)
        return Compose(
            [self.scale_and_shift(parameters["affine"]), Householder(parameters["vectors"])]
        )
