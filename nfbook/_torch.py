"""What torch has no public name for, in one place.

Another version of torch may have other names here; `tests/frame/test_package.py` says which is
missing then.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["TorchDispatchMode", "has_hooks", "is_batched_tensor", "is_plain"]


def has_hooks(module: nn.Module) -> bool:
    """Return whether a call of a module calls anything beside its ``forward``.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> has_hooks(layer)
        False
        >>> hook = layer.register_forward_hook(print)
        >>> has_hooks(layer)
        True
    """
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or _has_any_global_hook()
    )


def is_batched_tensor(tensor: Tensor) -> bool:
    """Return whether vmap batches a tensor.

    Gradients of ``torch.autograd`` are batched in a way of their own, older than ``torch.func``'s.

    Example:
        >>> is_batched_tensor(torch.ones(2))
        False
    """
    torchs = torch._C._functorch
    return torchs.is_batchedtensor(tensor) or torchs.is_legacy_batchedtensor(tensor)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a call of a module does what its class says, and nothing else.

    It does not if the module belongs to a subclass, as adapters and parametrizations make, has
    hooks, as pruning adds, or a ``forward`` of its own. Its numbers then come out of a call only.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> is_plain(layer, nn.Linear)
        True
        >>> hook = layer.register_forward_hook(print)
        >>> is_plain(layer, nn.Linear)
        False
    """
    return type(module) is kind and "forward" not in vars(module) and not has_hooks(module)
