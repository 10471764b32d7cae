"""When the hand-written form of a transform is taken, and when the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor

from nfbook._torch import is_batched_tensor

__all__ = ["fast_or_plain", "is_batched", "plain_forms"]

Result = TypeVar("Result")

_PLAIN = ContextVar("plain_forms", default=False)


@contextmanager
def plain_forms() -> Iterator[None]:
    """Take the plain form of every transform, in this thread and within this context.

    Some transforms have a second form with derivatives written by hand, in
    ``nfbook.transforms.fast``. It gives the same numbers up to rounding, in less time.

    Example:
        >>> from nfbook.transforms import PlanarStack
        >>> stack, z = PlanarStack(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3)), torch.ones(2)
        >>> with plain_forms():
        ...     plain = stack(z)
        >>> torch.allclose(stack(z), plain)
        True
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def fast_or_plain(
    fast: Callable[[], Result], plain: Callable[[], Result], *, compiles: bool = False
) -> Result:
    """Return what the fast form gives, or the plain one where the fast one cannot be taken.

    That is where the reader asks for it, by `plain_forms`; in ``torch.compile``, which makes its
    own fast form of the plain one; and where torch raises ``NotImplementedError``, as it does for
    a function without a forward mode. Any other error is one of the fast form, and is raised.

    Arguments:
        fast: The fast form.
        plain: The plain form.
        compiles: Whether ``torch.compile`` takes the fast form too.

    Example:
        >>> with plain_forms():
        ...     fast_or_plain(lambda: "fast", lambda: "plain")
        'plain'
    """
    # First of all, since torch.compile cannot follow a context variable.
    if torch.compiler.is_compiling():
        return fast() if compiles else plain()
    if not _PLAIN.get():
        try:
            return fast()
        except NotImplementedError:
            pass
    return plain()


def is_batched(*tensors: Tensor) -> bool:
    """Return whether vmap batches one of the tensors, so that no memory can be written to.

    A backward pass meets such gradients in ``torch.autograd.functional.jacobian`` with
    ``vectorize=True``, which batches them after the graph has been made, and where
    ``torch.func.vmap`` maps a gradient. No rule of the function itself is asked there.

    Example:
        >>> is_batched(torch.ones(2))
        False
    """
    if torch.compiler.is_compiling():
        return False
    return any(map(is_batched_tensor, tensors))
