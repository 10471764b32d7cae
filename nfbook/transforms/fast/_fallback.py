"""When the hand-written form of a transform is taken, and when the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["fast_or_plain", "one_by_one", "plain_forms"]

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


class _OneByOne(torch.autograd.Function):
    """A function of tensors that vmap calls once for each entry. It has no derivatives."""

    @staticmethod
    def forward(function: Callable[..., Any], *tensors: Tensor | None) -> Any:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], function: Any, *tensors: Tensor | None
    ) -> tuple[Any, Any]:
        outputs = []
        for i in range(info.batch_size):
            entries = [
                tensor if tensor is None or dim is None else tensor.select(dim, i)
                for tensor, dim in zip(tensors, in_dims[1:], strict=True)
            ]
            outputs.append(one_by_one(function, *entries))
        stacked = tuple(map(torch.stack, zip(*outputs, strict=True)))
        return stacked, (0,) * len(stacked)


def one_by_one(function: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """Call a function that writes to memory of its own, also where vmap batches its arguments.

    A backward pass meets batches of gradients in ``torch.autograd.functional.jacobian`` with
    ``vectorize=True``, and where ``torch.func.vmap`` maps a gradient.
    """
    return _OneByOne.apply(function, *tensors)  # type: ignore[no-untyped-call]
