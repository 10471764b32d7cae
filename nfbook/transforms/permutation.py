"""Permutations of the coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_type
from nfbook.transforms.base import Transform

__all__ = ["Permutation"]


class Permutation(Transform):
    r"""A permutation of the coordinates, :math:`y_i = z_{\pi(i)}`.

    Its matrix P has one 1 in each row and column, so :math:`|\det \mathbf{P}| = 1`.

    Arguments:
        order: :math:`\pi`, the indices 0 to D - 1 in their new order, `(D,)`.
        check: Whether to look at the indices. A flow that drew the permutation itself need not, and
            ``torch.compile`` cannot.

    Raises:
        TypeError: The order is not a tensor of integers.
        ValueError: It is not a permutation.

    Example:
        >>> rotate = Permutation(torch.tensor([2, 0, 1]))
        >>> rotate(torch.tensor([10.0, 11.0, 12.0]))
        tensor([12., 10., 11.])
        >>> rotate.inv(torch.tensor([12.0, 10.0, 11.0]))
        tensor([10., 11., 12.])
    """

    def __init__(self, order: Tensor, *, check: bool = True) -> None:
        super().__init__()
        check_type("order", order, Tensor, "a torch.Tensor")
        if order.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"order must hold integers of int64 or int32, got {order.dtype}")
        if order.dim() != 1 or len(order) == 0:
            raise ValueError(f"order must have shape (D,), got {tuple(order.shape)}")
        if check and order.sort().values.tolist() != list(range(len(order))):
            wanted = f"each index from 0 to {len(order) - 1} once"
            raise ValueError(f"order must hold {wanted}, got {order.tolist()}")
        self.order = order

    # Another size would not fail by itself: coordinates would be left out.
    @property
    def features(self) -> int:
        """The number of coordinates D."""
        return len(self.order)

    @classmethod
    def reversal(cls, features: int) -> Permutation:
        """Return the permutation that puts the last coordinate first.

        Example:
            >>> Permutation.reversal(3).order
            tensor([2, 1, 0])
        """
        check_count("features", features)
        return cls(torch.arange(features - 1, -1, -1))

    @classmethod
    def random(cls, features: int, *, generator: torch.Generator | None = None) -> Permutation:
        """Return a permutation drawn uniformly.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> Permutation.random(5, generator=generator).order.sort().values
            tensor([0, 1, 2, 3, 4])
        """
        check_count("features", features)
        check_generator(generator)
        # A generator draws on its own device only, and on "meta" there would be no numbers.
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(features, generator=generator, device=device)
        return cls(order.to(torch.get_default_device()), check=False)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Put the coordinates into their new order."""
        return z.index_select(-1, self.order.to(z.device)), z.new_zeros(z.shape[:-1])

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Put them back: the inverse of a permutation sorts it."""
        back = self.order.argsort().to(y.device)
        return y.index_select(-1, back), y.new_zeros(y.shape[:-1])
