"""A stack of coupling layers that scale and shift, or shift, with a backward pass by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from nfbook._checks import check_type
from nfbook._precision import precise_backward
from nfbook.networks import MLP, BoundNetwork
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.coupling import Coupling, Partition
from nfbook.transforms.fast.fallback import fast_or_plain
from nfbook.transforms.univariate import Additive, ScaleAndShift

__all__ = ["AffineCouplingStack"]


class AffineCouplingStack(Transform):
    r"""K affine or additive coupling layers of two groups that take turns, evaluated together.

    In layers k = 0, 2, ... the first group stays, in the others the second. Then the vector has to
    be taken apart and put together only once, and the networks' layers and the scalings follow each
    other without anything between. The backward pass is written by hand. Second derivatives are
    autograd's, of the same operations. Where such code cannot be followed, by ``torch.compile`` or
    in forward mode, `layers` takes over, which is the same map. So it does where a network must
    be called as a module, since someone hooks into its layers or has replaced one, see `MLP.bind`.

    Arguments:
        partitions: One for each layer: the two groups, exchanged in every second layer. This
            is not checked, since a check would synchronise with the device.
        networks: One perceptron with ReLU for each layer, see `Coupling` for its outputs. They have
            equally many hidden layers.
        context: The networks' second argument, `(*, C)`; None for none.
        bound: The largest log-scale, see `ScaleAndShift`; None to shift only, see `Additive`.

    Raises:
        TypeError: One of ``networks`` is not an MLP, or its activation is not ReLU.
        ValueError: There is no network, not one for each partition, or they differ in their number
            of layers; or the bound is not positive.

    Example:
        >>> mask = torch.tensor([True, False, False])
        >>> networks = [MLP(1, 4, (8,)), MLP(2, 2, (8,))]
        >>> stack = AffineCouplingStack([Partition(mask), Partition(~mask)], networks, bound=3.0)
        >>> z = torch.randn(5, 3)
        >>> torch.allclose(stack(z), stack.layers(z), atol=1e-6)
        True
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        networks: Sequence[MLP],
        context: Tensor | None = None,
        *,
        bound: float | None,
    ) -> None:
        super().__init__()
        self.bound = bound
        self.univariate = Additive() if bound is None else ScaleAndShift(bound)
        self.groups = tuple(partition.groups for partition in partitions)
        if not networks or len(networks) != len(self.groups):
            got = f"{len(networks)} for {len(self.groups)}"
            raise ValueError(f"networks must be one for each of the partitions, got {got}")
        for network in networks:
            check_type("every network", network, MLP, "an MLP")
            for activation in list(network.layers)[::2]:
                check_type("every network's activation", activation, nn.ReLU, "a torch.nn.ReLU")
        depths = {len(network.layers) for network in networks}
        if len(depths) > 1:
            came = sorted(depths)
            raise ValueError(f"networks must all have the same number of layers, got {came}")
        self.networks = tuple(network.bind(context) for network in networks)

    @property
    def features(self) -> int:
        """The size D of the partitions."""
        return len(self.groups[0].places)

    @property
    def layers(self) -> Compose:
        """The same layers, one after the other."""
        return Compose(
            [
                Coupling(groups, network, self.univariate)
                for groups, network in zip(self.groups, self.networks, strict=True)
            ]
        )

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all layers."""
        fast = partial(self._run, z, inverse=False)
        return fast_or_plain(fast, lambda: self.layers.call_and_ladj(z))

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through all layers."""
        fast = partial(self._run, y, inverse=True)
        return fast_or_plain(fast, lambda: self.layers.inverse_and_ladj(y))

    def _run(self, z: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        groups, batch = self.groups[0], z.shape[:-1]
        parameters: list[Tensor] = []
        for network in self.networks:
            if not isinstance(network, BoundNetwork) or not network.has_only_relu:
                raise NotImplementedError("a network must be called as a module")
            start = network.start
            if start.dim() > 1:
                batch = torch.Size(torch.broadcast_shapes(z.shape[:-1], start.shape[:-1]))
                start = start.expand(*batch, -1).reshape(batch.numel(), start.shape[-1])
            first, *weights = cast("list[Tensor]", network.weights)
            parameters += [start, first]
            for bias, weight in zip(network.biases, weights, strict=True):
                parameters += [bias, weight]
        size = len(parameters) // len(self.networks)
        points = z.expand(*batch, -1).reshape(batch.numel(), z.shape[-1])
        y, ladj, *_ = _AffineCoupling.apply(  # type: ignore[no-untyped-call]
            inverse,
            self.bound,
            size,
            *groups,
            points,
            *parameters,
        )
        return y.view(*batch, z.shape[-1]), ladj.view(batch)


def _go(
    inverse: bool,
    bound: float | None,
    size: int,
    kept: Tensor,
    moved: Tensor,
    places: Tensor,
    points: Tensor,
    *parameters: Tensor,
) -> tuple[Tensor, ...]:
    """Return the points' images `(n, D)`, the ladj, and what the backward pass needs."""
    sign = -1 if inverse else 1
    count = len(parameters) // size
    groups = [points.index_select(1, kept), points.index_select(1, moved)]
    logs, memory = [], []
    for k in reversed(range(count)) if inverse else range(count):
        start, weight, *others = parameters[k * size : (k + 1) * size]
        stays, before = groups[k % 2], groups[1 - k % 2]
        hidden = []
        out = torch.addmm(start, stays, weight.mT)
        for bias, weight in zip(others[::2], others[1::2], strict=True):
            hidden.append(out.relu_())
            out = torch.addmm(bias, out, weight.mT)
        if bound is None:
            groups[1 - k % 2] = torch.add(before, out, alpha=sign)
            memory += [stays, *hidden]
            continue
        shift, raw = out.chunk(2, -1)
        # 1 + |raw| / bound, or the negative, for the inverse
        damp = torch.rsub(raw.abs(), sign, alpha=-sign / bound)
        log_scale = raw / damp
        scale = log_scale.exp()
        after = (before - shift) * scale if inverse else torch.addcmul(shift, before, scale)
        groups[1 - k % 2] = after
        logs.append(log_scale)
        memory += [stays, *hidden, after if inverse else before, scale, damp]
    y = torch.cat(groups, 1).index_select(1, places)
    ladj = torch.cat(logs, 1).sum(1) if logs else points.new_zeros(len(points))
    return y, ladj, *memory


class _AffineCoupling(torch.autograd.Function):
    """The stack for points `(n, D)`, and a first bias that is shared or one for each `(n, H)`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _go(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[:3]
        ctx.inputs = len(inputs) - 3
        ctx.save_for_backward(*inputs[3:], *output[2:])
        # A shift has a ladj of zero, whatever the parameters.
        ctx.mark_non_differentiable(*output[1 if inputs[1] is None else 2 :])
        # Otherwise autograd would make zeros for every saved tensor.
        ctx.set_materialize_grads(False)

    @staticmethod
    @precise_backward
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_ladj: Tensor | None, *_: Any
    ) -> tuple[Any, ...]:
        inverse, bound, size = ctx.options
        saved = ctx.saved_tensors
        inputs, memory = saved[: ctx.inputs], saved[ctx.inputs :]
        kept, moved, places, points, *parameters = inputs
        grad_y = torch.zeros_like(points) if grad_y is None else grad_y
        grad_ladj = points.new_zeros(len(points)) if grad_ladj is None else grad_ladj
        if torch.is_grad_enabled():
            # Second derivatives are wanted.
            def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
                return _go(*ctx.options, kept, moved, places, *tensors)[:2]

            pull_back: Any = torch.func.vjp(plain, *inputs[3:])[1]
            return *[None] * 6, *pull_back((grad_y, grad_ladj))

        sign = -1 if inverse else 1
        count = len(parameters) // size
        each = len(memory) // count
        grads = [grad_y.index_select(1, kept), grad_y.index_select(1, moved)]
        to_log_scale = (-grad_ladj if inverse else grad_ladj).unsqueeze(1)
        to_parameters: list[Tensor] = [grad_ladj] * len(parameters)
        for step in reversed(range(count)):
            k = count - 1 - step if inverse else step
            stays, *hidden = memory[step * each : (step + 1) * each]
            start, weight, *others = parameters[k * size : (k + 1) * size]
            grad = grads[1 - k % 2]
            if bound is None:
                to_out = -grad if inverse else grad
            else:
                *hidden, point, scale, damp = hidden
                through = grad * scale
                grads[1 - k % 2] = through
                to_raw = torch.addcmul(
                    to_log_scale, grad if inverse else through, point, value=sign
                )
                to_out = torch.cat([-through if inverse else grad, to_raw / damp / damp], 1)
            last = (k + 1) * size - 1
            for h, w in zip(reversed(hidden), others[::-2], strict=True):
                to_parameters[last - 1], to_parameters[last] = to_out.sum(0), to_out.mT @ h
                to_out = torch.ops.aten.threshold_backward(to_out @ w, h, 0)
                last -= 2
            to_parameters[last - 1] = to_out if start.dim() == 2 else to_out.sum(0)
            to_parameters[last] = to_out.mT @ stays
            if step or ctx.needs_input_grad[6]:
                grads[k % 2] = torch.addmm(grads[k % 2], to_out, weight)
        to_points = torch.cat(grads, 1).index_select(1, places)
        return *[None] * 6, to_points, *to_parameters
