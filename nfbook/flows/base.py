"""What a flow is: a module that makes a distribution, of a context if there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nfbook._checks import check_context, check_count, check_generator, check_vectors
from nfbook.flows.distribution import FlowDistribution, StandardNormal
from nfbook.networks import ConditionalParameters
from nfbook.transforms.base import Transform

__all__ = ["Flow", "FlowDistribution", "ParametricFlow", "StandardNormal"]


class Flow(nn.Module, ABC):
    r"""A module with trained parameters that makes a distribution: ``flow(context)``.

    A family defines `transform`. All constructors begin alike::

        Family(features, context=0, length=K, hidden_features=(64, 64), *, generator=None)

    and a new flow leaves N(0, I) as it is, for every context.

    Arguments:
        features: The dimension D.
        context: The size C of the context on which the distribution depends; 0 if there is none.

    Example:
        >>> from nfbook.flows import PlanarFlow
        >>> flow = PlanarFlow(2, context=3, length=8)
        >>> q = flow(torch.zeros(7, 3))
        >>> q.batch_shape, q.rsample((5,)).shape
        (torch.Size([7]), torch.Size([5, 7, 2]))
    """

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        check_count("features", features)
        check_count("context", context, minimum=0)
        self.features, self.context = features, context

    def extra_repr(self) -> str:
        """Return the sizes of vectors and contexts, for the repr."""
        return f"features={self.features}, context={self.context}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Torch writes to the buffers where they are. It gets new ones, so that distributions that
        # were made before keep theirs.
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.clone()
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def like(self) -> Tensor:
        """An empty tensor with the dtype and the device of the flow's parameters.

        Example:
            >>> from nfbook.flows import PlanarFlow
            >>> PlanarFlow(2).double().like.dtype
            torch.float64
        """
        tensors = chain(self.parameters(), self.buffers())
        first = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        return torch.empty(0) if first is None else first.detach().new_empty(0)

    @abstractmethod
    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the bijection, from base to target, that the parameters and the context give."""

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """Return the distribution.

        Arguments:
            context: One vector for each distribution, `(*, C)`; None for a flow without context.

        Returns:
            A distribution over vectors of size D, with batch shape `(*)`.

        Raises:
            TypeError: A context is missing, is given to a flow without one, or has another dtype
                than the flow.
            ValueError: Its last dimension is not C.
        """
        like = self.like
        self._check_context(context, like)
        batch_shape = () if context is None else context.shape[:-1]
        base = StandardNormal(self.features, batch_shape, like=like)
        return FlowDistribution(base, self.transform(context), check=False)

    def _check_context(self, context: Tensor | None, like: Tensor) -> None:
        check_context(context, self.context)
        if context is None:
            return
        check_vectors("context", context, self.context)
        if context.dtype != like.dtype:
            raise TypeError(
                f"context must have the flow's dtype, {like.dtype}, got {context.dtype}"
            )


class ParametricFlow(Flow):
    r"""A flow of K layers whose parameters are free, or all come out of one network.

    A family defines `start`, the initial parameters by name, and `transform`, which makes layers of
    what ``self.parameters_of(context)`` returns under the same names.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K; None for the family's `default_length`.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the initial parameters; None for torch's own.

    Raises:
        TypeError: A number is not an int, or the generator is not torch's.
        ValueError: A number is too small.

    Example:
        A shift as a family of its own:

        >>> from nfbook.transforms import Affine
        >>> class ShiftFlow(ParametricFlow):
        ...     default_length = 1
        ...     def start(self, length, generator):
        ...         return {"shift": torch.zeros(length, self.features)}
        ...     def transform(self, context=None):
        ...         return Affine(self.parameters_of(context)["shift"].sum(-2))
        >>> ShiftFlow(2, context=3)(torch.zeros(7, 3)).sample((5,)).shape
        torch.Size([5, 7, 2])
    """

    default_length: ClassVar[int] = 8

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int | None = None,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        self.length = self.default_length if length is None else length
        check_count("length", self.length)
        check_generator(generator)
        start = self.start(self.length, generator)
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    def extra_repr(self) -> str:
        """Return the sizes of vectors and contexts, and the number of layers, for the repr."""
        return f"{super().extra_repr()}, length={self.length}"

    @abstractmethod
    def start(self, length: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return the initial parameters of all layers, by name; random ones are drawn here."""
