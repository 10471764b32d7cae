"""The random numbers of a run: its own, whatever else the program draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nfbook.training._workers import Alone
from nfbook.training.checkpoints import CheckpointError

__all__ = ["OwnRandomness"]


class OwnRandomness:
    """The generator of the loss, and the state of torch's global ones within the run.

    Arguments:
        seed: Of both.
        rank: Each process of a run has random numbers of its own.
        device: Where the loss draws.

    Example:
        >>> own = OwnRandomness(0, 0, torch.device("cpu"))
        >>> with own.lent_to_torch():
        ...     first = torch.rand(2)
        >>> again = OwnRandomness(0, 0, torch.device("cpu"))
        >>> with again.lent_to_torch():
        ...     torch.equal(torch.rand(2), first)
        True
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        if rank:  # torch's generator takes 32 bits of a seed
            numbers = torch.Generator().manual_seed(seed)
            seed = int(torch.randint(2**31, (rank,), generator=numbers)[-1])
        self.generator = torch.Generator(device).manual_seed(seed)
        # What draws without a generator of its own, as dropout does, starts here too.
        self._global = {"global": torch.Generator().manual_seed(seed + 1).get_state()}
        self._cuda = device if device.type == "cuda" else None
        if self._cuda is not None:
            start = torch.Generator(device).manual_seed(seed + 1)
            self._global["global_cuda"] = start.get_state()
        self._is_lent = False

    def state(self) -> dict[str, Tensor]:
        """Return the states of all generators, by the names that they have in a checkpoint."""
        own = self._torchs() if self._is_lent else self._global
        return {"generator": self.generator.get_state(), **own}

    def load(self, state: Mapping[str, Any]) -> None:
        """Set all generators to a state."""
        self.generator.set_state(state["generator"])
        self._global = {name: state[name] for name in self._global}
        if self._is_lent:
            self._set_torchs(self._global)

    @contextmanager
    def lent_to_torch(self) -> Iterator[None]:
        """Give torch's global generators the run's own state, and put theirs back after."""
        before = self._torchs()
        self._set_torchs(self._global)
        self._is_lent = True
        try:
            yield
        finally:
            self._global, self._is_lent = self._torchs(), False
            self._set_torchs(before)

    def of_others(self, workers: Alone) -> dict[str, Any]:
        """Return the states of all processes but the first, as a checkpoint holds them."""
        if workers.count == 1:
            return {}
        states = self.state()
        everyone = {name: workers.gather(value) for name, value in states.items()}
        others = [
            {name: values[rank] for name, values in everyone.items()}
            for rank in range(1, workers.count)
        ]
        return {"workers": others}

    def own_of(self, state: Mapping[str, Any], workers: Alone) -> dict[str, Any]:
        """Return a checkpoint with this process's random numbers in the first one's place.

        Raises:
            CheckpointError: It was written by another number of processes.
        """
        others = state.get("workers", [])
        if len(others) + 1 != workers.count:
            raise CheckpointError(
                f"the checkpoint is one of {len(others) + 1} processes, and here are "
                f"{workers.count}"
            )
        return dict(state) if not workers.rank else {**state, **others[workers.rank - 1]}

    def _torchs(self) -> dict[str, Tensor]:
        states, device = {"global": torch.get_rng_state()}, self._cuda
        if device is not None:
            states["global_cuda"] = torch.cuda.get_rng_state(device)
        return states

    def _set_torchs(self, states: Mapping[str, Tensor]) -> None:
        device = self._cuda
        torch.set_rng_state(states["global"])
        if device is not None:
            torch.cuda.set_rng_state(states["global_cuda"], device)
