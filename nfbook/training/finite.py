"""What to say of a loss that is not a finite number: where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TrainingError", "explain", "failure", "gradient_norm"]


class TrainingError(RuntimeError):
    """A loss or a gradient that is not finite.

    Attributes:
        step: The number of the step, which was not made.
        rows: The rows of the data in its batch, `(size,)`; None if the data do not say.
        module: The name of the first module with a number that is not finite; None if it is none.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int | None = None,
        rows: Tensor | None = None,
        module: str | None = None,
    ) -> None:
        super().__init__(message)
        self.step, self.rows, self.module = step, rows, module


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the length of the gradient of all parameters together.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> (weight * torch.tensor([3.0, 4.0])).sum().backward()
        >>> gradient_norm([weight])
        tensor(5.)
    """
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def explain(model: nn.Module, batch: Any, run: Callable[[], Tensor]) -> tuple[str, str | None]:
    """Compute a loss once more, and say what is not finite first.

    Arguments:
        model: The model.
        batch: What the loss is computed of.
        run: Computes the loss again, from the same random numbers.

    Returns:
        A sentence, and the name of a module, or None.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> with torch.no_grad():
        ...     _ = model[0].weight.fill_(1e30)
        >>> x = torch.full((2, 1), 1e30)
        >>> explain(model, x, lambda: model(x).sum())
        ('the first that is not finite is the output of module 0, a Linear', '0')
    """
    tensors = batch if isinstance(batch, tuple | list) else (batch,)
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not _is_finite(tensor):
            bad = (~tensor.isfinite()).flatten(1).any(1) if tensor.ndim > 1 else ~tensor.isfinite()
            return f"the batch itself is not finite, in its places {_some(bad.nonzero())}", None
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            owner = name.rpartition(".")[0]
            return f"the parameter {name} is not finite before the step", owner
    with _watching(model) as found:
        loss = run()
        forward = bool(found)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if loss.requires_grad and trained:
            # Not by `backward`, which would make several processes wait for each other.
            torch.autograd.grad(loss, trained, allow_unused=True)
    is_finite = _is_finite(loss)
    # A finite loss may have a gradient that is not; and one that is not has no use for gradients.
    if found and (forward or is_finite):
        what, name, kind = found[0]
        return f"the first that is not finite is the {what} of {_called(name)}, a {kind}", name
    if is_finite:
        return "all is finite in this process's part of the batch", None
    return "the outputs of all modules are finite, so it is what the loss makes of them", None


def failure(
    what: str,
    model: nn.Module,
    batch: Any,
    run: Callable[[], Tensor],
    step: int,
    rows: Tensor | None,
) -> TrainingError:
    """Return the error that says what is not finite, where it comes from, and of which rows.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> x = torch.tensor([[0.0], [torch.inf]])
        >>> print(failure("the loss is inf", model, x, print, 7, torch.tensor([3, 8])))
        the loss is inf: the batch itself is not finite, in its places 1; the batch holds the rows
        [3, 8] of the data
    """
    where, module = explain(model, batch, run)
    known = "" if rows is None else f"; the batch holds the rows {rows.tolist()} of the data"
    return TrainingError(f"{what}: {where}{known}", step=step, rows=rows, module=module)


@contextmanager
def _watching(model: nn.Module) -> Iterator[list[tuple[str, str, str]]]:
    """Note each module whose output, or the gradient by it or by a parameter, is not finite."""
    found: list[tuple[str, str, str]] = []

    def look(value: Tensor, *note: str) -> None:
        if not _is_finite(value):
            found.append(note)  # type: ignore[arg-type]

    def after_forward(name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if isinstance(tensor, Tensor):
                    look(tensor, "output", name, kind)
                    if tensor.requires_grad:
                        tensor.register_hook(
                            lambda grad: look(grad, "gradient by the output", name, kind)
                        )

        return hook

    handles: list[Any] = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        handles.append(module.register_forward_hook(after_forward(name, kind)))
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                note = (f"gradient by the parameter {own}", name, kind)
                handles.append(parameter.register_hook(lambda grad, note=note: look(grad, *note)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _called(name: str) -> str:
    return f"module {name}" if name else "the model"


def _some(places: Tensor, most: int = 8) -> str:
    """Return the first numbers of a list."""
    numbers = [str(int(number)) for number in places.flatten()[: most + 1]]
    return ", ".join([*numbers[:most], "..."] if len(numbers) > most else numbers)
