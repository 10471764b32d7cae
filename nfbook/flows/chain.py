"""Flows made of flows: one after the other, or followed by a fixed transform."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from nfbook._checks import check_same_dtype, check_tensor, check_type
from nfbook.flows.actnorm import ActNormFlow
from nfbook.flows.base import Flow
from nfbook.transforms.base import Compose, Transform

__all__ = ["Chain", "Fixed", "Transformed"]


class Chain(Flow):
    r"""Several flows as the layers of one, the first one's transform applied first.

    Those that were made with a context all get the same one.

    Arguments:
        flows: At least one, all with the same D and the same dtype.

    Raises:
        TypeError: One is no flow, or they differ in dtype.
        ValueError: There is none, or they differ in the dimension, or in the size of the context.

    Example:
        >>> from nfbook.flows import ActNormFlow, PLUFlow
        >>> flow = Chain(PLUFlow(2), ActNormFlow(2), PLUFlow(2), ActNormFlow(2))
        >>> x = 100 + 10 * torch.randn(500, 2)
        >>> flow.start_from(x)
        >>> flow().sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(self, *flows: Flow) -> None:
        if not flows:
            raise ValueError("flows must hold at least one flow, got none")
        for flow in flows:
            check_type("every one of flows", flow, Flow, "an nfbook Flow")
        dims = {flow.features for flow in flows}
        if len(dims) > 1:
            raise ValueError(f"flows must have the same features, got {sorted(dims)}")
        contexts = {flow.context for flow in flows} - {0}
        if len(contexts) > 1:
            raise ValueError(f"flows must have the same context, or 0, got {sorted(contexts)}")
        likes = [flow.get_buffer("like") for flow in flows]
        dtypes = {str(like.dtype) for like in likes}
        if len(dtypes) > 1:
            raise TypeError(f"flows must have the same dtype, got {' and '.join(sorted(dtypes))}")
        super().__init__(dims.pop(), contexts.pop() if contexts else 0)
        self.flows = nn.ModuleList(flows)
        self.register_buffer("like", torch.empty_like(likes[0]), persistent=False)

    @torch.no_grad()
    def start_from(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start every `ActNormFlow` of the chain from the data as they reach it.

        Arguments:
            x: Data, `(n, D)`.
            context: Their context, `(n, C)`; None if there is none.

        Raises:
            TypeError: The data are no tensor of the flow's dtype.
            ValueError: They have another shape, or one is not finite.
        """
        check_tensor("x", x, ("n", self.features))
        check_same_dtype(x=x, flow=self.get_buffer("like"))
        self._check_context(context)
        for flow, own in reversed(self._with_contexts(context)):
            if isinstance(flow, Chain):
                flow.start_from(x, own)
            elif isinstance(flow, ActNormFlow):
                flow.start_from(x)
            x = flow.transform(own).inv(x)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the flows' transforms, one after the other."""
        return Compose([flow.transform(own) for flow, own in self._with_contexts(context)])

    def _with_contexts(self, context: Tensor | None) -> list[tuple[Flow, Tensor | None]]:
        """Return the flows, each with the context that it takes."""
        flows = cast("list[Flow]", list(self.flows))
        return [(flow, context if flow.context else None) for flow in flows]


class Fixed(Flow):
    """A transform without trained parameters, as a flow.

    The tensors in it become buffers: they follow the flow to a device or a dtype, and into its
    `state_dict`. So what was measured on data, as for `DataUnits`, is stored with the flow.

    Arguments:
        features: The dimension D.
        transform: The transform. Its tensors are copied.

    Raises:
        TypeError: It is no transform, or holds something that cannot be stored so, like a network.
        ValueError: It does not map vectors of size D to vectors of size D.

    Example:
        >>> from nfbook.transforms import Box
        >>> list(Fixed(2, Box(torch.zeros(2), 1.0)).state_dict())
        ['constants.low']
    """

    def __init__(self, features: int, transform: Transform) -> None:
        super().__init__(features)
        check_type("transform", transform, Transform, "an nfbook Transform")
        self.constants = Constants(transform)
        like = next((b for b in self.constants.buffers() if b.is_floating_point()), torch.zeros(()))
        check_size(self.constants(), like.new_zeros(features))

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the transform."""
        transform: Transform = self.constants()
        return transform


class Transformed(Chain):
    r"""A flow followed by a fixed transform: onto a bounded set, or into the units of data.

    .. math:: \mathbf{y} = t(\mathbf{x}), \quad \mathbf{x} \sim \text{flow}, \qquad
        \log p(\mathbf{y}) = \log p_{\text{flow}}\bigl(t^{-1}(\mathbf{y})\bigr)
        + \log |\det J_{t^{-1}}(\mathbf{y})|.

    Its support is the transform's codomain. Nothing leaks over a bound: the density integrates to
    one within, is zero outside, and all samples lie inside.

    Arguments:
        flow: Any flow.
        transform: Any transform whose domain is all vectors. Its tensors take the flow's dtype.

    Raises:
        TypeError: One is no flow or no transform, or the transform cannot be stored, see `Fixed`.
        ValueError: The transform's domain is bounded, or it is for vectors of another size.

    Example:
        >>> from nfbook.flows import PlanarFlow
        >>> from nfbook.transforms import Box
        >>> flow = Transformed(PlanarFlow(2), Box(0.0, torch.tensor([1.0, 5.0])))
        >>> flow().log_prob(torch.tensor([[0.5, 4.0], [2.0, 4.0]])).isfinite()
        tensor([ True, False])
    """

    def __init__(self, flow: Flow, transform: Transform) -> None:
        check_type("flow", flow, Flow, "an nfbook Flow")
        check_type("transform", transform, Transform, "an nfbook Transform")
        if transform.domain is not constraints.real_vector:
            raise ValueError(
                f"transform must have all vectors as its domain, got {transform.domain}"
            )
        fixed = Fixed(flow.features, transform).to(flow.get_buffer("like"))
        super().__init__(flow, fixed)


def check_size(transform: Transform, z: Tensor) -> None:
    """Check that a transform maps a vector to one of its size.

    Example:
        >>> from nfbook.transforms import Permutation
        >>> check_size(Permutation.reversal(3), torch.zeros(2))
        Traceback (most recent call last):
        ...
        ValueError: transform must be one of vectors of size 2, got Permutation()
    """
    wanted = f"transform must be one of vectors of size {len(z)}, got {transform}"
    try:
        shape = transform(z).shape
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(wanted) from error
    if shape[-1:] != z.shape:
        raise ValueError(wanted)


class Constants(nn.Module):
    """A transform as a module: its tensors are buffers, and those within it are modules too."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.kind = type(transform)
        self.others: dict[str, object] = {}
        for name, value in vars(transform).items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach().clone())
            elif isinstance(value, Transform):
                self.add_module(name, Constants(value))
            elif isinstance(value, tuple) and all(isinstance(v, Transform) for v in value):
                self.add_module(name, nn.ModuleList(map(Constants, value)))
            elif value is None or isinstance(value, (bool, int, float, str)):
                self.others[name] = value
            else:
                kind, came = type(transform).__name__, type(value).__name__
                raise TypeError(
                    "transform must consist of tensors, numbers and transforms to be fixed, "
                    f"got {kind} with a {came} as {name}"
                )

    def forward(self) -> Transform:
        """Return the transform, with the buffers as its tensors."""
        transform = self.kind.__new__(self.kind)
        # Not by its constructor: that has checked these values, and may look at them to do so.
        for name, value in self.others.items():
            setattr(transform, name, value)
        for name, buffer in self.named_buffers(recurse=False):
            setattr(transform, name, buffer)
        for name, module in self.named_children():
            parts = tuple(part() for part in module) if isinstance(module, nn.ModuleList) else None
            setattr(transform, name, module() if parts is None else parts)
        return transform
