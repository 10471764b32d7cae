"""Full precision within ``torch.autocast``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

__all__ = ["full_precision", "is_autocast", "precise_backward"]


def is_autocast(like: Tensor) -> bool:
    """Return whether ``torch.autocast`` is on for the device of a tensor.

    Example:
        >>> is_autocast(torch.zeros(1))
        False
        >>> with torch.autocast("cpu"):
        ...     is_autocast(torch.zeros(1))
        True
    """
    kind = like.device.type
    # Without autocast, as "meta" is, a device may not even be asked.
    return torch.amp.autocast_mode.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which ``torch.autocast`` is off for the device of a tensor.

    The sum of a flow's log-determinants has to keep its digits, and an inverse has to undo what
    the transform did, so neither may round to half precision on its way.

    Example:
        >>> with torch.autocast("cpu"), full_precision(torch.zeros(1)):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    return torch.autocast(like.device.type, enabled=False) if is_autocast(like) else nullcontext()


def precise_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the backward pass of an autograd function run in full precision.

    A backward pass may be called within ``torch.autocast``, which would round the matrix products
    that are written there.

    Example:
        >>> class Double(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         return 2 * x
        ...     @staticmethod
        ...     @precise_backward
        ...     def backward(ctx, grad):
        ...         return grad @ (2 * torch.eye(1))
        >>> x = torch.ones(1, 1, requires_grad=True)
        >>> with torch.autocast("cpu"):
        ...     Double.apply(x).sum().backward()
        >>> x.grad
        tensor([[2.]])
    """

    @wraps(backward)
    def precise(ctx: Any, *gradients: Tensor | None) -> Any:
        # Torch may call it without any gradient, and then there is nothing to round.
        given = next((each for each in gradients if each is not None), None)
        with nullcontext() if given is None else full_precision(given):
            return backward(ctx, *gradients)

    return precise
