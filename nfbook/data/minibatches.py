"""Shuffled batches for training, from memory, that go on where they were left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nfbook._checks import check_count, check_type

__all__ = ["Minibatches"]


class Minibatches:
    r"""Batches of a data set in memory, shuffled anew in every epoch, without end.

    The order of epoch e follows from the seed and e alone, so that two numbers say where training
    stands, and a run that goes on from them sees what an uninterrupted one would have seen. The
    last batch of an epoch is left out if it is not full, so that all batches weigh the same.

    Arguments:
        x: The observations, `(n, ...)`, on the device where they are wanted. Labels and other
            companions of the observations may follow, each with the same n; a batch is a tuple
            then.
        size: The number of observations in a batch, at most n.
        seed: The seed of the shuffles.

    Attributes:
        rows: The rows that the last batch holds, `(size,)`; None before the first.

    Raises:
        TypeError: The observations are not a tensor, or a number is not an int.
        ValueError: x has no rows, the batch is larger than the data, or the companions have another
            n.

    Example:
        >>> batches = Minibatches(torch.arange(6), size=2, seed=0)
        >>> epoch = [next(batches) for _ in range(len(batches))]
        >>> sorted(torch.cat(epoch).tolist())
        [0, 1, 2, 3, 4, 5]
        >>> batches.epoch, batches.position
        (1, 0)
    """

    def __init__(self, x: Tensor, *companions: Tensor, size: int, seed: int = 0) -> None:
        check_type("x", x, Tensor, "a torch.Tensor")
        if not x.ndim:
            raise ValueError("x must have shape (n, ...), got ()")
        for each in companions:
            check_type("every companion of x", each, Tensor, "a torch.Tensor")
            if not each.ndim or len(each) != len(x):
                raise ValueError(
                    f"companions of x must have its {len(x)} rows, got shape {tuple(each.shape)}"
                )
        check_count("size", size)
        check_count("seed", seed, minimum=0)
        if size > len(x):
            raise ValueError(
                f"size must be at most the number of observations, {len(x)}, got {size}"
            )
        self.x, self.companions, self.size, self.seed = x, companions, size, seed
        self.epoch = self.position = 0
        self.rows: Tensor | None = None
        self._order = self._shuffle()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.x) // self.size

    def __iter__(self) -> Minibatches:
        return self

    def __next__(self) -> Any:
        """Return the next batch, `(size, ...)`."""
        start = self.position * self.size
        self.rows = rows = self._order[start : start + self.size]
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._shuffle()
        batch = tuple(each.index_select(0, rows) for each in (self.x, *self.companions))
        return batch if self.companions else batch[0]

    def state_dict(self) -> dict[str, int]:
        """Return where training stands, and in which data."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "size": self.size,
            "rows": len(self.x),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            ValueError: It was taken from other batches.
        """
        for name in ("seed", "size", "rows"):
            own = self.state_dict()[name]
            if state[name] != own:
                raise ValueError(
                    f"batches must have the {name} of the state, {state[name]}, got {own}"
                )
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._shuffle()

    def _shuffle(self) -> Tensor:
        # Torch's generator takes 32 bits of a seed. The golden ratio spreads the seeds over them,
        # and the epochs of each one follow it.
        seed = (self.seed * 0x9E3779B1 + self.epoch) % 2**32
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.x), generator=generator).to(self.x.device)
