"""Flows made of flows: one after the other, or followed by a fixed transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from nfbook._checks import check_same_dtype, check_tensor, check_type
from nfbook.flows.actnorm import ActNormFlow
from nfbook.flows.base import Flow
from nfbook.transforms.base import Compose, Inverse, Transform

__all__ = ["Chain", "Fixed", "Transformed"]


class Chain(Flow):
    r"""Several flows as the layers of one, the first one's transform applied first.

    Those that were made with a context all get the same one.

    Arguments:
        flows: At least one, all with the same D and the same dtype.

    Raises:
        TypeError: One of them is not a flow, or they differ in dtype.
        ValueError: ``flows`` is empty, or they differ in D or in the size of the context.

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
        dtypes = {str(flow.like.dtype) for flow in flows}
        if len(dtypes) > 1:
            raise TypeError(f"flows must have the same dtype, got {' and '.join(sorted(dtypes))}")
        super().__init__(dims.pop(), contexts.pop() if contexts else 0)
        self.flows = nn.ModuleList(flows)

    def __repr__(self) -> str:
        lines = [f"  {line}" for flow in self._layers() for line in repr(flow).splitlines()]
        return "\n".join([f"{type(self).__name__}({self.extra_repr()}", *lines, ")"])

    def _layers(self) -> list[Flow]:
        """Return the flows, with those of a chain within the chain in its place."""
        layers: list[Flow] = []
        for flow in cast("list[Flow]", list(self.flows)):
            layers += flow._layers() if isinstance(flow, Chain) else [flow]
        return layers

    @torch.no_grad()
    def start_from(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start every `ActNormFlow` of the chain from the data as they reach it.

        Arguments:
            x: Data, `(n, D)`.
            context: Their context, `(n, C)`; None if there is none.

        Raises:
            TypeError: The data are not a tensor of the flow's dtype.
            ValueError: They have another shape, or one is not finite.
        """
        check_tensor("x", x, ("n", self.features))
        check_same_dtype(x=x, flow=self.like)
        self._check_context(context, self.like)
        for flow, own in reversed(self._with_contexts(context)):
            if isinstance(flow, Chain):
                flow.start_from(x, own)
            elif isinstance(flow, ActNormFlow):
                flow.start_from(x)
            x = flow.transform(own).inv(x)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the flows' transforms, one after the other."""
        parts = [flow.transform(own) for flow, own in self._with_contexts(context)]
        return Compose(
            [one for t in parts for one in (t.transforms if isinstance(t, Compose) else [t])]
        )

    def _with_contexts(self, context: Tensor | None) -> list[tuple[Flow, Tensor | None]]:
        """Return the flows, each with the context that it takes."""
        flows = cast("list[Flow]", list(self.flows))
        return [(flow, context if flow.context else None) for flow in flows]


class Fixed(Flow):
    """A transform without trained parameters, as a flow: a class, and the arguments to make it of.

    The tensors among the arguments become buffers: they follow the flow to a device or a dtype, and
    into its `state_dict`. So what was measured on data, as for `DataUnits`, is stored with the
    flow. A transform among them becomes a flow of this kind, too. Each call of the flow makes the
    transform anew.

    Arguments:
        features: The dimension D.
        kind: The class of the transform.
        *arguments: What its constructor takes. Tensors are copied.
        **options: What it takes by name.

    Raises:
        TypeError: ``kind`` is not a class of transforms, its constructor takes other arguments, or
            one of them cannot be stored so, like a network.
        ValueError: The transform does not map vectors of size D to vectors of size D.

    Example:
        >>> from nfbook.transforms import Box
        >>> flow = Fixed(2, Box, torch.zeros(2), 1.0)
        >>> flow
        Fixed(Box, features=2, low=(2,), high=1.0)
        >>> list(flow.state_dict())
        ['constants.low']
    """

    def __init__(
        self, features: int, kind: type[Transform], *arguments: object, **options: object
    ) -> None:
        super().__init__(features)
        if not (isinstance(kind, type) and issubclass(kind, Transform)):
            raise TypeError(f"kind must be a class of nfbook transforms, got {kind!r}")
        signature = inspect.signature(kind)
        self.kind, self.numbers = kind, dict[str, object]()
        # A module of their own, so that their names meet none of a flow's.
        self.constants = nn.Module()
        for name, value in signature.bind(*arguments, **options).arguments.items():
            if isinstance(value, Tensor):
                self.constants.register_buffer(name, value.detach().clone())
            elif isinstance(value, Transform):
                self.constants.add_module(name, Fixed.from_transform(features, value))
            elif value is None or isinstance(value, (bool, int, float, str)):
                self.numbers[name] = value
            else:
                raise TypeError(_not_fixed(kind, f"with a {type(value).__name__} as {name}"))
        if not any(buffer.is_floating_point() for buffer in self.buffers()):
            # Something has to know the dtype and the device.
            self.register_buffer("empty", torch.empty(0))
        _check_size(self.transform(), self.like.new_zeros(features))
        if "check" in signature.parameters:
            # The values have been looked at, which torch.compile could not do.
            self.numbers["check"] = False

    @classmethod
    def from_transform(cls, features: int, transform: Transform) -> Fixed:
        """Return the flow of a transform that keeps its constructor's arguments as attributes.

        Arguments:
            features: The dimension D.
            transform: The transform; of a `Compose` make a `Transformed` or a `Chain`.

        Raises:
            TypeError: It is not a transform, an argument cannot be stored, or is not kept.
            ValueError: It does not map vectors of size D to vectors of size D.

        Example:
            >>> from nfbook.transforms import Permutation
            >>> Fixed.from_transform(2, Permutation.reversal(2))
            Fixed(Permutation, features=2, order=(2,))
        """
        check_type("transform", transform, Transform, "an nfbook Transform")
        kind, options = type(transform), dict[str, object]()
        for name in inspect.signature(kind).parameters:
            # How to check is no part of what a transform is; nor is torch's cache, which is unused.
            if name in ("check", "cache_size"):
                continue
            if not hasattr(transform, name):
                raise TypeError(_not_fixed(kind, f"that keeps no {name}"))
            options[name] = getattr(transform, name)
        return cls(features, kind, **options)

    def extra_repr(self) -> str:
        """Say the class, and what it is made of: a tensor's shape, and else the value."""
        tensors = {name: tuple(t.shape) for name, t in self.constants.named_buffers(recurse=False)}
        numbers = {name: value for name, value in self.numbers.items() if name != "check"}
        values = {"features": self.features} | tensors | numbers | self._parts()
        return ", ".join([self.kind.__name__, *(f"{name}={v}" for name, v in values.items())])

    def __repr__(self) -> str:
        return f"Fixed({self.extra_repr()})"

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the transform."""
        tensors = dict(self.constants.named_buffers(recurse=False))
        parts = {name: flow.transform() for name, flow in self._parts().items()}
        make: Callable[..., Transform] = self.kind
        return make(**self.numbers, **tensors, **parts)

    def _parts(self) -> dict[str, Fixed]:
        """Return the arguments that are transforms, as flows."""
        return cast("dict[str, Fixed]", dict(self.constants.named_children()))


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
        TypeError: An argument is not a flow or not a transform, or the transform cannot be stored,
            see `Fixed`.
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
        parts = [Fixed.from_transform(flow.features, each) for each in _one_by_one(transform)]
        super().__init__(flow, *[part.to(flow.like) for part in parts])


def _one_by_one(transform: Transform) -> list[Transform]:
    """Return the transforms of which one is composed, in their order."""
    if isinstance(transform, Compose):
        return [one for each in transform.transforms for one in _one_by_one(each)]
    if isinstance(transform, Inverse) and isinstance(transform.transform, Compose):
        return [one.inv for one in reversed(_one_by_one(transform.transform))]
    return [transform]


def _not_fixed(kind: type[Transform], came: str) -> str:
    wanted = "transform must consist of tensors, numbers and transforms to be fixed"
    return f"{wanted}, got {kind.__name__} {came}"


def _check_size(transform: Transform, z: Tensor) -> None:
    """Check that a transform maps a vector to one of its size.

    Example:
        >>> from nfbook.transforms import Permutation
        >>> _check_size(Permutation.reversal(3), torch.zeros(2))
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
