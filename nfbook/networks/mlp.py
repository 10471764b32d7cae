"""The multilayer perceptron that turns a context, or a part of a vector, into parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from nfbook._checks import check_count, check_widths
from nfbook._torch import is_plain
from nfbook.networks._bound import (
    BoundNetwork,
    Snapshot,
    are_plain,
    bound_layers,
    own_parameters,
)
from nfbook.networks._layers import FirstLayer, linear

__all__ = ["MLP"]


class MLP(nn.Module):
    r"""A multilayer perceptron of a vector and, if there is one, a context.

    The context enters the first layer: :math:`\mathbf{W} \mathbf{x} + \mathbf{C} \mathbf{c} +
    \mathbf{b}`. A context that is shared by many x is multiplied only once.

    Arguments:
        in_features: The size of x; 0 if there is only a context.
        out_features: The size of the result.
        hidden_features: The width of each hidden layer; with none the map is affine.
        context: The size of the context c; 0 if there is none.
        activation: The class of the module between two layers.
        zero: Whether the last layer starts at zero.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A count is not an int.
        ValueError: A count is too small.

    Example:
        >>> network = MLP(2, 5, (16, 16), context=3)
        >>> network(torch.zeros(7, 4, 2), torch.zeros(4, 3)).shape
        torch.Size([7, 4, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        zero: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features, minimum=0)
        check_count("out_features", out_features)
        check_count("context", context, minimum=0)
        check_widths("hidden_features", hidden_features)
        self.in_features, self.out_features, self.context = in_features, out_features, context
        widths = [*hidden_features, out_features]
        self.first = FirstLayer(in_features, widths[0], context=context, generator=generator)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [activation(), linear(before, after, generator=generator)]
        self.layers = nn.Sequential(*layers)
        if zero:
            last = layers[-1] if layers else self.first
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @property
    def weight(self) -> Tensor | None:
        """The weights of x in the first layer, `(units, in_features)`; None if there is no x."""
        return self.first.weight

    def start(self, context: Tensor | None = None) -> Tensor:
        """Return what the first layer has before it sees x, see `FirstLayer.start`."""
        return self.first.start(context)

    def forward(self, x: Tensor | None, context: Tensor | None = None) -> Tensor:
        """Return the outputs, `(*, out_features)`, of x `(*, in_features)` and context `(*, C)`.

        Without ``in_features`` x is not looked at, and may be None.
        """
        result: Tensor = self.layers(self.first(x, context))
        return result

    def bind(self, context: Tensor | None = None) -> BoundNetwork | Snapshot:
        """Return the network as a function of x, with a context and the parameters it has now.

        Steps of an optimiser do not change the function, and its gradients reach the parameters.
        If the layers are what this class made, it is a `BoundNetwork`, whose tensors a fast form
        may use. Whatever has been done to a layer since, by hooks, pruning or an adapter, is
        honoured by a `Snapshot`, which calls this module.

        Example:
            >>> network = MLP(2, 1)
            >>> function, before = network.bind(), network(torch.ones(2)).detach()
            >>> with torch.no_grad():
            ...     _ = network.layers[-1].bias.add_(1)
            >>> torch.equal(function(torch.ones(2)), before)
            True
        """
        with own_parameters():
            activations, others = list(self.layers)[::2], list(self.layers)[1::2]
            if (
                is_plain(self, MLP)
                and is_plain(self.layers, nn.Sequential)
                and are_plain(self.first, others, nn.Linear, activations)
            ):
                return bound_layers(self.first, others, activations, context, _copy_of_weight)
            return Snapshot(self, context)

    def extra_repr(self) -> str:
        """Return the sizes, for the repr."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, context={self.context}"


def _copy_of_weight(layer: Any) -> Tensor:
    return cast("Tensor", layer.weight).clone()
