"""The units of data, as networks that work with standardised numbers hold them."""

from __future__ import annotations

from torch import Tensor

from nfbook._checks import check_type
from nfbook.transforms import DataUnits

__all__ = ["shift_and_scale"]


def shift_and_scale(units: DataUnits, size: int | None) -> tuple[Tensor, Tensor]:
    """Return copies of what a module needs of the units of data.

    Arguments:
        units: The units.
        size: The number of columns that they must be of; None for any.

    Raises:
        TypeError: The units are none.
        ValueError: They have another size, or no scale.

    Example:
        >>> import torch
        >>> shift_and_scale(DataUnits.from_data(torch.tensor([[1.0], [5.0]])), 1)
        (tensor([3.]), tensor([2.]))
    """
    check_type("units", units, DataUnits, "nfbook DataUnits")
    if units.log_scale is None:
        raise ValueError("units must have a scale, got a shift alone")
    size = units.features if size is None else size
    if units.shift.shape != (size,):
        raise ValueError(
            f"units must be those of {size} columns, of shape ({size},), "
            f"got {tuple(units.shift.shape)}"
        )
    return units.shift.detach().clone(), units.log_scale.detach().exp()
