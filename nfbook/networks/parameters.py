"""The parameters of a transform: free, or given by a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nfbook._checks import check_context, check_generator, check_widths
from nfbook._precision import full_precision
from nfbook.networks.mlp import MLP

__all__ = ["ConditionalParameters"]


class ConditionalParameters(nn.Module):
    r"""The parameters of a transform, one tensor for each name: free, or a function of a context.

    .. math:: \text{parameters} = \text{start} + \text{network}(\text{context})

    The network's last layer starts at zero, so at first every context gives the same parameters,
    the start, and no gradient reaches the context before the first step. Without a context there is
    no network. The start is trained in both cases. What is returned is new, never the parameter
    itself, so it stays as it is when an optimiser changes the parameter.

    Arguments:
        start: The initial tensors.
        context: The size of the context; 0 for none.
        hidden_features: The widths of the network's hidden layers; with none it is linear.
        generator: The source of the network's initial weights.

    Example:
        >>> start = {"shift": torch.ones(2), "log_scale": torch.zeros(2)}
        >>> parameters = ConditionalParameters(start, context=3)
        >>> parameters(torch.zeros(7, 3))["shift"].shape
        torch.Size([7, 2])
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        context: int = 0,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_widths("hidden_features", hidden_features)
        check_generator(generator)
        self.shapes = {name: tuple(value.shape) for name, value in start.items()}
        self.start = nn.Parameter(torch.cat([value.flatten() for value in start.values()]))
        self.network = None
        if context:
            size = len(self.start)
            self.network = MLP(
                0, size, hidden_features, context=context, zero=True, generator=generator
            )

    def forward(self, context: Tensor | None = None) -> dict[str, Tensor]:
        """Return the tensors by name, each with the context's batch dimensions in front."""
        check_context(context, 0 if self.network is None else self.network.context)
        if self.network is None:
            flat = self.start.clone()
        else:
            network = self.network.bind(context)
            with full_precision(self.start):
                flat = self.start + network(None)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        pieces = flat.split(sizes, dim=-1)
        return {
            name: piece.unflatten(-1, shape) if len(shape) != 1 else piece
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
