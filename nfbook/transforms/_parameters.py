"""The checks of a transform's parameters: their types and sizes, not their numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_same_dtype, check_type

__all__ = ["check_parameters"]


def check_parameters(**given: tuple[object, str]) -> dict[str, int]:
    """Check that parameters are tensors that fit each other.

    No number is looked at, so nothing waits for a device, and ``torch.compile`` and
    ``torch.func.vmap`` can follow.

    Arguments:
        given: For each name the tensor, and the letters of its last dimensions, ``"KD"`` for
            `(*, K, D)`. The same letter means the same size, and the dimensions `*` are broadcast.
            A small letter may have the size zero.

    Returns:
        The size of each letter.

    Raises:
        TypeError: One is not a tensor of floating-point numbers, or their dtypes differ.
        ValueError: A size differs, is zero where it may not be, or the other dimensions cannot be
            broadcast.

    Example:
        >>> check_parameters(w=(torch.zeros(5, 2), "D"), b=(torch.zeros(5), ""))
        {'D': 2}
        >>> check_parameters(w=(torch.zeros(2), "D"), u=(torch.zeros(3), "D"))
        Traceback (most recent call last):
        ...
        ValueError: u must have shape (*, 2), got (3,)
    """
    sizes: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    shape: tuple[int, ...] = ()
    for name, (value, letters) in given.items():
        check_type(name, value, Tensor, "a torch.Tensor")
        assert isinstance(value, Tensor)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}")
        tensors[name] = value
        batch = value.dim() - len(letters)
        own = value.shape[max(batch, 0) :]
        new = dict(zip(letters, own, strict=False)) if batch >= 0 else {}
        wanted = ["*", *(str(sizes.get(letter, letter.upper())) for letter in letters)]
        fits = batch >= 0 and all(
            (size > 0 or letter.islower()) and size == sizes.get(letter, new[letter])
            for letter, size in zip(letters, own, strict=True)
        )
        if not fits:
            came = tuple(value.shape)
            raise ValueError(f"{name} must have shape ({', '.join(wanted)}), got {came}")
        sizes |= new
        if batch:
            try:
                shape = torch.broadcast_shapes(shape, value.shape[:batch])
            except RuntimeError:
                raise ValueError(
                    f"{name} must have batch dimensions that fit those of {' and '.join(given)}, "
                    f"{tuple(shape)}, got {tuple(value.shape[:batch])}"
                ) from None
    check_same_dtype(**tensors)
    return sizes
