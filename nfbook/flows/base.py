"""What a flow is: a module that makes a distribution, of a context if there is one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nfbook._checks import check_count, check_type
from nfbook.flows.distribution import FlowDistribution, StandardNormal
from nfbook.transforms.base import Transform

__all__ = ["Flow", "FlowDistribution", "StandardNormal"]


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
        # Follows the module to another dtype or device, for the base distribution.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def extra_repr(self) -> str:
        """Say the sizes of vectors and contexts."""
        return f"features={self.features}, context={self.context}"

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
            TypeError: A context is missing, is too much, or has another dtype than the flow.
            ValueError: Its last dimension is not C.
        """
        self._check_context(context)
        batch_shape = () if context is None else context.shape[:-1]
        like = self.get_buffer("like")
        base = StandardNormal(self.features, batch_shape, like=like)
        return FlowDistribution(base, self.transform(context))

    def _check_context(self, context: Tensor | None) -> None:
        if context is None:
            if self.context:
                raise TypeError(f"context must be a torch.Tensor (*, {self.context}), got None")
            return
        if not self.context:
            raise TypeError("context must be None, since the flow was made without one")
        check_type("context", context, Tensor, "a torch.Tensor")
        if not context.shape or context.shape[-1] != self.context:
            wanted = f"(*, {self.context})"
            raise ValueError(f"context must have shape {wanted}, got {tuple(context.shape)}")
        dtype = self.get_buffer("like").dtype
        if context.dtype != dtype:
            raise TypeError(f"context must have the flow's dtype, {dtype}, got {context.dtype}")
