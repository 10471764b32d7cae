"""The root of an increasing function, with its derivatives by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["increasing_root"]

Function = Callable[[Tensor], Tensor]


def increasing_root(f: Function, slope: Function, low: Tensor, high: Tensor) -> Tensor:
    r"""Return the x between ``low`` and ``high`` where an increasing function vanishes.

    The bracket is halved until it is narrow, then a Newton step within it ends the search. How
    often it is halved does not depend on the data, so ``torch.compile`` and ``torch.func.vmap``
    can follow. The search is not differentiated. The derivatives come from a further Newton step,
    whose value is the root that it starts from:

    .. math:: x_1(\theta) = x_0 - \frac{f(x_0, \theta) - f(x_0, \theta_0)}{f'(x_0, \theta)},
        \qquad \frac{\partial x_1}{\partial \theta}
        = - \frac{\partial f / \partial \theta}{\partial f / \partial x},

    which is the implicit function theorem. Each Newton step doubles the order up to which the
    derivatives are right, so the second one makes second derivatives right too.

    Arguments:
        f: The function, univariate, of a tensor of shape `(*)`.
        slope: Its derivative, elementwise and positive.
        low: Where f is not positive, `(*)`.
        high: Where f is not negative, `(*)`.

    Returns:
        The root, `(*)`, differentiable by whatever f depends on.

    Example:
        The derivative of the cubic root of 8 is 1/12:

        >>> y = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
        >>> zero, ten = y.detach() * 0, y.detach() * 0 + 10
        >>> x = increasing_root(lambda x: x**3 - y, lambda x: 3 * x**2, zero, ten)
        >>> (slope,) = torch.autograd.grad(x, y)
        >>> x.item(), 12 * slope.item()
        (2.0, 1.0)
    """
    root = _root(f, slope, low, high)
    residual = f(root).detach()
    for _ in range(2):
        root = root - (f(root) - residual) / slope(root)
    return root


@torch.no_grad()
def _root(f: Function, slope: Function, low: Tensor, high: Tensor) -> Tensor:
    halvings = 64 if low.dtype == torch.float64 else 32
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        below = f(middle) < 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    # What is left of a wide bracket may be wide beside the root, if that is near zero.
    middle = 0.5 * (low + high)
    return torch.clamp(middle - f(middle) / slope(middle), low, high)
