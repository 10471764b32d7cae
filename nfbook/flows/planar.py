"""The planar flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfbook.flows.base import ParametricFlow
from nfbook.transforms.fast.planar import PlanarStack

__all__ = ["PlanarFlow"]


class PlanarFlow(ParametricFlow):
    r"""K planar layers (Rezende and Mohamed, 2015, equation 10), see `Planar`.

    Sampling and `rsample_and_log_prob` are fast, as variational inference needs them. `log_prob`
    of a given point solves one scalar equation for each layer.

    The arguments are those of `ParametricFlow`.

    Example:
        >>> flow = PlanarFlow(2, length=8, generator=torch.Generator().manual_seed(0))
        >>> y, log_prob = flow().rsample_and_log_prob((5,))
        >>> torch.allclose(flow().log_prob(y), log_prob)
        True
    """

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return random w, and u = 0, with which every layer is the identity."""
        w = torch.empty(length, self.features).normal_(generator=generator)
        # With u = 0 the gradient with respect to u is not zero.
        return {
            "w": w / math.sqrt(self.features),
            "u": torch.zeros_like(w),
            "b": torch.zeros(length),
        }

    def transform(self, context: Tensor | None = None) -> PlanarStack:
        """Return the stack of layers."""
        return PlanarStack(**self.parameters_of(context))
