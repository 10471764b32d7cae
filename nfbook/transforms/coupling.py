"""Coupling layers: a part of the vector stays, and says how the rest is transformed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nfbook._checks import check_callable, check_type, check_vectors
from nfbook.networks import MLP, BoundNetwork, Snapshot
from nfbook.transforms.base import Transform
from nfbook.transforms.univariate import Univariate

__all__ = ["Conditioner", "Coupling", "Groups", "Partition"]

# From the coordinates that stay, `(*, kept)`, and the context to parameters `(*, P * moved)`.
Conditioner = Callable[[Tensor, Tensor | None], Tensor]


class Groups(NamedTuple):
    r"""The coordinates of a vector in two groups: those that stay and those that move.

    Attributes:
        kept: The indices of those that stay.
        moved: The indices of those that move.
        places: For each coordinate its place among both, those that stay first, `(D,)`.

    Example:
        >>> groups = Partition(torch.tensor([True, False, True])).groups
        >>> groups.join(*groups.split(torch.arange(3.0)))
        tensor([0., 1., 2.])
    """

    kept: Tensor
    moved: Tensor
    places: Tensor

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinates that stay and those that move, of z `(*, D)`."""
        check_vectors("z", z, len(self.places))
        return z.index_select(-1, self.kept), z.index_select(-1, self.moved)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Return the vector whose parts these are."""
        kept = kept.expand(*moved.shape[:-1], -1)
        return torch.cat([kept, moved], dim=-1).index_select(-1, self.places)


class Partition(nn.Module):
    r"""The two groups of coordinates as a module, made of a mask.

    It holds their indices, not the mask, as buffers, which follow a module to its device. A
    transform holds the `groups` that there are when it is made.

    Arguments:
        mask: True where a coordinate stays, `(D,)`. All may move, but not all may stay.

    Raises:
        TypeError: The mask is not a tensor, or not of booleans.
        ValueError: It is not a vector, is empty, or no coordinate moves.

    Example:
        >>> partition = Partition(torch.tensor([True, False, True]))
        >>> kept, moved = partition.groups.split(torch.arange(3.0))
        >>> kept, moved
        (tensor([0., 2.]), tensor([1.]))
    """

    kept: Tensor
    moved: Tensor
    places: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        check_type("mask", mask, Tensor, "a torch.Tensor")
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be a tensor of booleans, got {mask.dtype}")
        if mask.dim() != 1 or not len(mask):
            raise ValueError(f"mask must have shape (D,), got {tuple(mask.shape)}")
        if bool(mask.all()):
            raise ValueError("mask must be False somewhere, got True everywhere")
        kept, moved = mask.nonzero().squeeze(-1), (~mask).nonzero().squeeze(-1)
        self.register_buffer("kept", kept)
        self.register_buffer("moved", moved)
        self.register_buffer("places", torch.cat([kept, moved]).argsort())

    @property
    def groups(self) -> Groups:
        """The two groups."""
        return Groups(self.kept, self.moved, self.places)


class Coupling(Transform):
    r"""A coupling layer (Dinh, Krueger and Bengio, 2015; Dinh, Sohl-Dickstein and Bengio, 2017).

    With A the coordinates that stay, B the others, and c a context,

    .. math::
        \mathbf{y}_A = \mathbf{z}_A, \qquad
        y_i = g\bigl(z_i;\, \theta_i(\mathbf{z}_A, \mathbf{c})\bigr)
        \quad \text{for } i \in B, \qquad
        \log |\det J_t(\mathbf{z})| = \sum_{i \in B} \log |g'(z_i; \theta_i)|.

    The Jacobian is triangular, if A comes first. The inverse knows :math:`\mathbf{z}_A =
    \mathbf{y}_A`, so it has the same parameters :math:`\theta`, and costs the same. The function
    that gives them is never inverted, and may be any function. Of a module, the transform keeps the
    parameters that it has now, see `MLP.bind`.

    Arguments:
        mask: True where a coordinate stays, `(D,)`; or a `Partition`, or its groups.
        conditioner: A function or module from the coordinates that stay, `(*, |A|)`, and the
            context to the parameters of the others, `(*, P |B|)`: the first parameter of all of
            them, then the second, and so on. Or what `MLP.bind` returned, which has its context.
        univariate: What makes the transform g of raw parameters `(*, |B|, P)`.
        context: The conditioner's second argument, `(*, C)`; None for none.

    Raises:
        TypeError: The mask is not boolean, or the conditioner or ``univariate`` no function.
        ValueError: The mask is not a vector, or lets no coordinate move; or the conditioner gives
            another number of parameters.

    Example:
        The second coordinate is shifted by the square of the first:

        >>> from nfbook.transforms import Additive
        >>> mask = torch.tensor([True, False])
        >>> layer = Coupling(mask, lambda kept, context: kept.square(), Additive())
        >>> layer(torch.tensor([3.0, 1.0]))
        tensor([ 3., 10.])
        >>> layer.inv(torch.tensor([3.0, 10.0]))
        tensor([3., 1.])
    """

    def __init__(
        self,
        mask: Tensor | Partition | Groups,
        conditioner: Conditioner | BoundNetwork | Snapshot,
        univariate: Univariate,
        context: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_callable("conditioner", conditioner)
        check_callable("univariate", univariate)
        if not isinstance(mask, Groups):
            mask = (mask if isinstance(mask, Partition) else Partition(mask)).groups
        self.groups = mask
        self.univariate = univariate
        # A function of the coordinates that stay alone.
        self.conditioner: Callable[[Tensor], Tensor]
        if isinstance(conditioner, (BoundNetwork, Snapshot)):
            self.conditioner = conditioner
        elif isinstance(conditioner, MLP):
            self.conditioner = conditioner.bind(context)
        elif isinstance(conditioner, nn.Module):
            self.conditioner = Snapshot(conditioner, context)
        else:
            self.conditioner = partial(_call_with, conditioner, context)

    @property
    def features(self) -> int:
        """The size D of the mask."""
        return len(self.groups.places)

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the coordinates that move, given the others."""
        kept, moved = self.groups.split(z)
        moved, ladj = self.given(kept).call_and_ladj(moved)
        return self.groups.join(kept, moved), ladj

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Transform them back, given the others."""
        kept, moved = self.groups.split(y)
        moved, ladj = self.given(kept).inverse_and_ladj(moved)
        return self.groups.join(kept, moved), ladj

    def given(self, kept: Tensor) -> Transform:
        """Return the transform of the coordinates that move."""
        raw = self.conditioner(kept)
        count, size = len(self.groups.moved), self.univariate.size
        if raw.shape[-1:] != (size * count,):
            raise ValueError(
                f"conditioner must return shape (*, {size * count}), got {tuple(raw.shape)}"
            )
        return self.univariate(raw.reshape(*raw.shape[:-1], size, count).mT)


def _call_with(conditioner: Conditioner, context: Tensor | None, kept: Tensor) -> Tensor:
    return conditioner(kept, context)
