"""The radial flow."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook.flows.base import ParametricFlow
from nfbook.transforms.base import Compose
from nfbook.transforms.radial import Radial

__all__ = ["RadialFlow"]


class RadialFlow(ParametricFlow):
    r"""K radial layers (Rezende and Mohamed, 2015, equation 14), see `Radial`.

    Both directions are in closed form and cost the same.

    The arguments are those of `ParametricFlow`.

    Example:
        >>> flow = RadialFlow(2, length=8, generator=torch.Generator().manual_seed(0))
        >>> y, log_prob = flow().rsample_and_log_prob((5,))
        >>> torch.allclose(flow().log_prob(y), log_prob, atol=1e-5)
        True
    """

    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return centres where the base has its mass, and slopes that make the identity."""
        return {
            "center": torch.empty(length, self.features).normal_(generator=generator),
            "alpha": torch.zeros(length),
            "slope": torch.zeros(length),
        }

    def transform(self, context: Tensor | None = None) -> Compose:
        """Return the layers, one after the other."""
        parameters = self.parameters_of(context)
        # exp(asinh(x)) = x + √(1 + x²) is 1 at zero, grows like 2x and falls like 1 / (2|x|). So no
        # parameter, however large, makes a scale overflow or vanish.
        log_alpha, log_slope = parameters["alpha"].asinh(), parameters["slope"].asinh()
        each = zip(
            parameters["center"].unbind(-2), log_alpha.unbind(-1), log_slope.unbind(-1), strict=True
        )
        return Compose([Radial(*layer) for layer in each])
