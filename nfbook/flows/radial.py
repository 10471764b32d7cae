"""The radial flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.flows.base import Flow
from nfbook.networks import ConditionalParameters
from nfbook.transforms.base import Compose
from nfbook.transforms.radial import Radial

__all__ = ["RadialFlow"]


class RadialFlow(Flow):
    r"""K radial layers (Rezende and Mohamed, 2015, equation 14), see `Radial`.

    Both directions are in closed form and cost the same.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the initial parameters.

    Example:
        >>> flow = RadialFlow(2, length=8, generator=torch.Generator().manual_seed(0))
        >>> y, log_prob = flow().rsample_and_log_prob((5,))
        >>> torch.allclose(flow().log_prob(y), log_prob, atol=1e-5)
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
        # Slopes of one make every layer the identity. The centres lie where the base has its mass.
        start = {
            "center": torch.empty(length, features).normal_(generator=generator),
            "alpha": torch.zeros(length),
            "slope": torch.zeros(length),
        }
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

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
