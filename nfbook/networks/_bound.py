"""Networks with the parameters that they had at one moment, as a distribution holds them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nfbook._equality import EqualByParts
from nfbook._precision import full_precision
from nfbook._torch import is_plain
from nfbook.networks._layers import FirstLayer, apply_to

__all__ = ["BoundNetwork", "Snapshot", "are_plain", "bound_layers", "own_parameters"]

# functional_call lends its tensors to a module: no other thread may look at it meanwhile.
_LENT = threading.RLock()


def own_parameters() -> AbstractContextManager[object]:
    """Return a context in which no other thread lends a module the tensors of a `Snapshot`.

    Example:
        >>> with own_parameters():
        ...     BoundNetwork(torch.zeros(2), [None], [], [])(None)
        tensor([0., 0.])
    """
    # torch.compile cannot follow a lock.
    return nullcontext() if torch.compiler.is_compiling() else _LENT


class BoundNetwork(EqualByParts):
    """A perceptron as a function of x alone: its context and its parameters are given.

    The tensors are copies, so that an optimiser's next step, which changes parameters where they
    are, leaves the function as it was. Gradients go through to the parameters.

    Arguments:
        start: What the first layer has before it sees x, `(units)` or `(*, units)`.
        weights: The weights of each layer; None for the first if there is no x.
        biases: The biases of all layers but the first.
        activations: The activations between the layers, modules without parameters.
    """

    def __init__(
        self,
        start: Tensor,
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor],
        activations: Sequence[nn.Module],
    ) -> None:
        self.start, self.weights, self.biases = start, list(weights), list(biases)
        self.activations = list(activations)
        # Whether all of them are ReLU, and nothing hooks into them. A module may stand there often.
        self.has_only_relu = all(is_plain(each, nn.ReLU) for each in dict.fromkeys(activations))

    def __call__(self, x: Tensor | None) -> Tensor:
        """Return the outputs, `(*, outputs)`, of x `(*, inputs)`."""
        hidden = apply_to(x, self.weights[0], self.start)
        for activation, weight, bias in zip(
            self.activations, self.weights[1:], self.biases, strict=True
        ):
            hidden = functional.linear(activation(hidden), weight, bias)  # type: ignore[arg-type]
        return hidden

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that it consists of."""
        tensors = [self.start, *self.weights, *self.biases]
        return tuple(tensor for tensor in tensors if tensor is not None)


class Snapshot(EqualByParts):
    """Any module as a function with the parameters that it has now; it is called as a module.

    Arguments:
        module: The module.
        last: What it takes after the arguments of each call, as a context.
        named: What it takes by name.
    """

    def __init__(self, module: nn.Module, *last: Any, **named: Any) -> None:
        self.module, self.last, self.named = module, last, named
        with own_parameters():
            # Buffers are not copied: those of a batch norm go on being updated where they are.
            self.tensors = dict(module.named_buffers())
            for name, parameter in module.named_parameters():
                self.tensors[name] = parameter.clone()

    def __call__(self, *inputs: Any, **more: Any) -> Any:
        """Call the module, with what else it takes in this call by name."""
        named = self.named | more
        with own_parameters():
            return functional_call(self.module, self.tensors, (*inputs, *self.last), named)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that it was made with, those of a context included."""
        given = [*self.last, *self.named.values()]
        return (*self.tensors.values(), *(each for each in given if isinstance(each, Tensor)))


def are_plain(
    first: nn.Module,
    others: Sequence[nn.Module],
    kind: type[nn.Module],
    activations: Sequence[nn.Module],
) -> bool:
    """Return whether a perceptron's layers are what they were made as, see `is_plain`.

    Activations may be of any class, but those with parameters have to be called.
    """
    return (
        is_plain(first, FirstLayer)
        and all(is_plain(layer, kind) for layer in others)
        # What is within a module may have parameters too.
        and not any(each._parameters or each._modules for each in activations)
    )


def bound_layers(
    first: FirstLayer,
    others: Sequence[Any],
    activations: Sequence[nn.Module],
    context: Tensor | None,
    weight_of: Callable[[Any], Tensor],
) -> BoundNetwork:
    """Return what are plain layers as a function with the parameters that they have now.

    Arguments:
        first: The first layer.
        others: Those that follow.
        activations: The activations between the layers.
        context: c, `(*, C)`; None for none.
        weight_of: What returns a new tensor with the weights of a layer.
    """
    with full_precision(first.bias):
        start = first.start(context)
        return BoundNetwork(
            start.clone() if context is None else start,
            [weight_of(first) if first.in_features else None, *map(weight_of, others)],
            [layer.bias.clone() for layer in others],
            activations,
        )
