"""The planar flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.flows.base import Flow
from nfbook.networks import ConditionalParameters
from nfbook.transforms.fast.planar import PlanarStack

__all__ = ["PlanarFlow"]


class PlanarFlow(Flow):
    r"""K planar layers (Rezende and Mohamed, 2015, equation 10), see `Planar`.

    Sampling and `rsample_and_log_prob` are fast, as variational inference needs them. `log_prob`
    of a given point solves one scalar equation for each layer.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the initial parameters.

    Example:
        >>> flow = PlanarFlow(2, length=8, generator=torch.Generator().manual_seed(0))
        >>> y, log_prob = flow().rsample_and_log_prob((5,))
        >>> torch.allclose(flow().log_prob(y), log_prob)
        True
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        w = torch.empty(length, features).normal_(generator=generator) / math.sqrt(features)
        # With u = 0 every layer is the identity, and its gradient with respect to u is not zero.
        start = {"w": w, "u": torch.zeros_like(w), "b": torch.zeros(length)}
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    def transform(self, context: Tensor | None = None) -> PlanarStack:
        """Return the stack of layers."""
        return PlanarStack(**self.parameters_of(context))
