"""The affine flow: a Gaussian with a diagonal covariance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.flows.base import Flow
from nfbook.networks import ConditionalParameters
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["AffineFlow"]


class AffineFlow(Flow):
    r"""A scale and a shift of each coordinate: the Gaussian with independent coordinates.

    .. math:: \mathbf{y} = e^{\mathbf{s}} \odot \mathbf{z} + \mathbf{m}
        \sim \mathcal{N}\bigl(\mathbf{m}, \operatorname{diag}(e^{2 \mathbf{s}})\bigr).

    With a context it is the usual posterior of a variational autoencoder (Kingma and Welling,
    2014), which other flows have to beat. The scale of each layer lies between 1/1000
    and 1000, see `ScaleAndShift`: standardise data that need more.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers. Several are again one affine map, only with more parameters.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the initial parameters.

    Example:
        >>> AffineFlow(2, context=3)(torch.zeros(7, 3)).rsample((5,)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 1,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        self.scale_and_shift = ScaleAndShift()
        start = {"raw": torch.zeros(length, features, self.scale_and_shift.size)}
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        raw = self.parameters_of(context)["raw"]
        return Compose([self.scale_and_shift(layer) for layer in raw.unbind(-3)])
