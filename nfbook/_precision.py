"""Full precision within ``torch.autocast``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["full_precision", "is_autocast"]


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
