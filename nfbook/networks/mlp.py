"""The networks that turn a context, or a part of a vector, into a flow's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfbook._checks import check_count, check_widths

__all__ = ["MLP", "linear"]


def linear(
    inputs: int, outputs: int, *, bias: bool = True, generator: torch.Generator | None = None
) -> nn.Linear:
    r"""Return a linear layer whose weights are uniform on :math:`\pm 1/\sqrt{\text{inputs}}`.

    That is torch's own start, drawn from an explicit generator.

    Example:
        >>> linear(3, 2, generator=torch.Generator().manual_seed(0)).weight.shape
        torch.Size([2, 3])
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(max(inputs, 1))
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


class MLP(nn.Module):
    r"""A multilayer perceptron of a vector and, if there is one, a context.

    The context enters the first layer: :math:`\mathbf{W} \mathbf{x} + \mathbf{C} \mathbf{c} +
    \mathbf{b}`. A context that is shared by many x is multiplied only once.

    Arguments:
        inputs: The size of x; 0 if there is only a context.
        outputs: The size of the result.
        hidden_features: The width of each hidden layer; with none the map is affine.
        context: The size of the context c; 0 if there is none.
        activation: The class of the module between two layers.
        zero: Whether the last layer starts at zero.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> network = MLP(2, 5, (16, 16), context=3)
        >>> network(torch.zeros(7, 4, 2), torch.zeros(4, 3)).shape
        torch.Size([7, 4, 5])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden_features: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        activation: type[nn.Module] = nn.ReLU,
        zero: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("inputs", inputs, minimum=0)
        check_count("outputs", outputs)
        check_count("context", context, minimum=0)
        check_widths("hidden_features", hidden_features)
        self.inputs, self.context = inputs, context
        first, *widths = [*hidden_features, outputs]
        # One draw for both parts of the first layer, so that its scale follows its full width.
        joint = linear(inputs + context, first, generator=generator)
        of_x, of_context = joint.weight.detach().split([inputs, context], dim=1)
        # What is not there has no parameter, as it would never get a gradient.
        self.weight = nn.Parameter(of_x.clone()) if inputs else None
        self.context_weight = nn.Parameter(of_context.clone()) if context else None
        self.bias = nn.Parameter(joint.bias.detach())
        layers: list[nn.Module] = []
        for before, after in zip([first, *widths], widths, strict=False):
            layers += [activation(), linear(before, after, generator=generator)]
        self.layers = nn.Sequential(*layers)
        if zero:
            last = layers[-1] if layers else self
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def start(self, context: Tensor | None = None) -> Tensor:
        """Return what the first layer has before it sees x, `(units)` or `(*, units)`.

        Raises:
            TypeError: A context is missing, or is one too much.
        """
        check_context(context, self.context)
        if context is None:
            return cast("Tensor", self.bias)
        return functional.linear(context, cast("Tensor", self.context_weight), self.bias)

    def forward(self, x: Tensor | None, context: Tensor | None = None) -> Tensor:
        """Return the outputs, `(*, outputs)`, of x `(*, inputs)` and context `(*, context)`.

        Without inputs x is not looked at, and may be None.
        """
        hidden = self.start(context)
        if self.weight is not None:
            x = cast("Tensor", x)
            if context is None:
                hidden = functional.linear(x, self.weight, hidden)
            else:
                hidden = functional.linear(x, self.weight) + hidden
        result: Tensor = self.layers(hidden)
        return result

    def extra_repr(self) -> str:
        """Say what the first layer takes; the others are listed."""
        return f"inputs={self.inputs}, context={self.context}, units={len(self.bias)}"


def check_context(context: Tensor | None, size: int) -> None:
    """Check that there is a context exactly if its size is not zero.

    Example:
        >>> check_context(None, 3)
        Traceback (most recent call last):
        ...
        TypeError: context must be a tensor (*, 3), got None
    """
    if context is None and size:
        raise TypeError(f"context must be a tensor (*, {size}), got None")
    if context is not None and not size:
        raise TypeError("context must be None for what was made without one, got a tensor")
