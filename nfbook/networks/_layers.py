"""The first layer of every network, and what the networks' layers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfbook._checks import check_context, check_generator

__all__ = ["FirstLayer", "apply_to", "linear"]


def linear(
    in_features: int, out_features: int, *, generator: torch.Generator | None = None
) -> nn.Linear:
    r"""Return a linear layer whose weights are uniform on :math:`\pm 1/\sqrt{\text{in\_features}}`.

    That is torch's own start, drawn from an explicit generator.

    Example:
        >>> linear(3, 2, generator=torch.Generator().manual_seed(0)).weight.shape
        torch.Size([2, 3])
    """
    check_generator(generator)
    # Without a device of its own it would be on the CPU, whatever torch's default device is.
    device = torch.get_default_device()
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, in_features, out_features, device=device)
    bound = 1 / math.sqrt(max(in_features, 1))
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


class FirstLayer(nn.Module):
    r"""The first layer of a network: linear in a vector and, if there is one, a context.

    .. math:: (\mathbf{M} \odot \mathbf{W})\, \mathbf{x} + \mathbf{C} \mathbf{c} + \mathbf{b}

    A context that is shared by many x is multiplied only once. The weights of an output are uniform
    on :math:`\pm 1/\sqrt{n}` if it sees n numbers, those of the context included.

    Arguments:
        in_features: The size of x; 0 if there is only a context.
        out_features: The number of outputs.
        context: The size of the context c; 0 if there is none.
        mask: M, zeros and ones, `(out_features, in_features)`; None for ones.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> layer = FirstLayer(2, 5, context=3)
        >>> layer(torch.zeros(7, 4, 2), torch.zeros(4, 3)).shape
        torch.Size([7, 4, 5])
    """

    mask: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        context: int = 0,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.context = in_features, out_features, context
        # One draw for both parts, so that their scale follows the full width.
        joint = linear(in_features + context, out_features, generator=generator)
        weights = joint.weight.detach()
        if mask is not None:
            seen = (mask.sum(-1, keepdim=True) + context).clamp(min=1)
            weights = weights * ((in_features + context) / seen).sqrt()
        of_x, of_context = weights.split([in_features, context], dim=1)
        # What is not there has no parameter, as it would never get a gradient.
        self.weight = nn.Parameter(of_x.clone()) if in_features else None
        self.context_weight = nn.Parameter(of_context.clone()) if context else None
        self.bias = nn.Parameter(joint.bias.detach())
        self.register_buffer("mask", mask)

    @property
    def masked_weight(self) -> Tensor | None:
        """The weights of x that count, with zeros for the others; None without x."""
        return self.weight if self.weight is None or self.mask is None else self.weight * self.mask

    def start(self, context: Tensor | None = None) -> Tensor:
        """Return the outputs before x is seen, `(out_features)` or `(*, out_features)`.

        Raises:
            TypeError: A context is missing, or there should be none.
        """
        check_context(context, self.context)
        if context is None or self.context_weight is None:
            return self.bias
        # The gradient by the context needs the weight as it is now, and not after the next step.
        weight = self.context_weight.clone() if context.requires_grad else self.context_weight
        return functional.linear(context, weight, self.bias)

    def forward(self, x: Tensor | None, context: Tensor | None = None) -> Tensor:
        """Return the outputs, `(*, out_features)`. Without ``in_features`` x is not looked at."""
        return apply_to(x, self.masked_weight, self.start(context))

    def extra_repr(self) -> str:
        """Return the sizes, for the repr."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, context={self.context}"


def apply_to(x: Tensor | None, weight: Tensor | None, start: Tensor) -> Tensor:
    """Return W x plus a start that is one for all x or has batch dimensions of its own."""
    if weight is None or x is None:
        return start
    if start.dim() == 1:
        return functional.linear(x, weight, start)
    return functional.linear(x, weight) + start
