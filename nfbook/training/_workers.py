"""Where the loop runs: in this process alone, if nothing else is said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nfbook._checks import check_type

__all__ = ["Alone", "LossOf", "find_device"]


def find_device(wanted: str | torch.device) -> torch.device:
    """Return a device; "auto" is the accelerator if there is one, else the processor.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    check_type("device", wanted, str | torch.device, '"auto" or a device of torch')
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class LossOf(nn.Module):
    """The loss as a module: several processes see it through the forward pass of what they share.

    Example:
        >>> module = LossOf(nn.Linear(1, 1), lambda model, batch, step, generator: batch.sum())
        >>> module(torch.ones(3), 0, None)
        tensor(3.)
    """

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any, step: int, generator: torch.Generator | None) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(self.model, batch, step, generator)


class Alone:
    """This process alone.

    Arguments:
        device: Where the model and each batch are brought; None leaves the model where it is.
        autocast: The dtype of the products; None for that of the parameters.

    Example:
        >>> alone = Alone(None, None)
        >>> alone.rank, alone.count
        (0, 1)
    """

    rank, count = 0, 1

    def __init__(self, device: str | torch.device | None, autocast: torch.dtype | None) -> None:
        self.wanted = None if device is None else find_device(device)
        self.device = self.wanted or torch.device("cpu")
        self.dtype = autocast

    def setup(self, module: nn.Module, optimiser: Optimizer) -> tuple[Any, Any]:
        """Bring the model to its device."""
        first = next(module.parameters(), torch.empty(0))
        self.device = self.wanted or first.device
        if first.device != self.device:
            if optimiser.state:
                raise ValueError("the optimiser must be new where the model changes its device")
            module.to(self.device)
        return module, optimiser

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def part(self, batch: Any) -> Any:
        """Return this process's part of a batch, on its device."""
        if isinstance(batch, tuple | list):
            return tuple(self.part(each) for each in batch)
        return batch.to(self.device) if isinstance(batch, Tensor) else batch

    def mean(self, value: Tensor) -> float:
        """Return the mean of a number over all processes."""
        return value.item()

    def agree(self, value: float) -> float:
        """Return a number that is the same in all processes, as what is decided by it has to be."""
        return value

    def any(self, flag: bool) -> bool:
        """Return whether a flag is up in one of them."""
        return flag

    def backward(self, loss: Tensor) -> None:
        """Put the gradients of the mean loss into the parameters."""
        loss.backward()

    def gather(self, values: Tensor) -> Tensor:
        """Return what each process has, whole numbers `(count, ...)`."""
        return values.unsqueeze(0)
