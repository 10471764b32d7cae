"""The affine flow: a Gaussian with a diagonal covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.flows.base import ParametricFlow
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["AffineFlow"]


class AffineFlow(ParametricFlow):
    r"""A scale and a shift of each coordinate: the Gaussian with independent coordinates.

    .. math:: \mathbf{y} = e^{\mathbf{s}} \odot \mathbf{z} + \mathbf{m}
        \sim \mathcal{N}\bigl(\mathbf{m}, \operatorname{diag}(e^{2 \mathbf{s}})\bigr).

    With a context it is the usual posterior of a variational autoencoder (Kingma and Welling,
    2014), which other flows have to beat. The scale of each layer lies between 1/1000
    and 1000, see `ScaleAndShift`: standardise data that need more.

    The arguments are those of `ParametricFlow`, with one layer unless more are asked for: several
    are again one affine map, only with more parameters.

    Example:
        >>> AffineFlow(2, context=3)(torch.zeros(7, 3)).rsample((5,)).shape
        torch.Size([5, 7, 2])
    """

    default_length = 1
    scale_and_shift = ScaleAndShift()

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return no scale and no shift."""
        return {"raw": torch.zeros(length, self.features, self.scale_and_shift.size)}

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        raw = self.parameters_of(context)["raw"]
        return Compose([self.scale_and_shift(layer) for layer in raw.unbind(-3)])
