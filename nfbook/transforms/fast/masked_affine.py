"""A stack of affine autoregressive layers, with a backward pass written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nfbook._checks import check_type
from nfbook.networks import MaskedMLP
from nfbook.transforms.autoregressive import Autoregressive, rows_in_order
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.univariate import ScaleAndShift

__all__ = ["MaskedAffineStack"]

Tensors = Sequence[Tensor]


class MaskedAffineStack(Transform):
    r"""K affine autoregressive layers, as in MAF and IAF, evaluated together.

    Each layer is the `Autoregressive` transform by `ScaleAndShift`,

    .. math:: y_i = e^{s_i} z_i + m_i, \qquad
        (m_i, s_i) = h_i(z_1, \dots, z_{i-1}, \mathbf{c}), \qquad |s_i| < S.

    `layers` is the same map in these plain terms. Its many small operations, and those of their
    derivatives, cost about as much as the products of matrices between them. Here the derivatives
    are written by hand, with fewer operations and fewer tensors. And when samples are drawn without
    gradients, the units are written to blocks of memory that need not grow.

    Where such code cannot be followed, `layers` takes over: for ``torch.compile``, for the
    transforms of ``torch.func``, for second derivatives, and for derivatives of the inverse.

    Arguments:
        networks: One masked network for each layer, with two outputs for each coordinate and ReLU.
        context: c, `(*, C)`; None for networks without.
        bound: The largest log-scale S of a layer.

    Raises:
        TypeError: One of ``networks`` is no MaskedMLP, or its activation is not ReLU.
        ValueError: ``networks`` is empty, one of them has another number of outputs, or they
            differ in their number of layers; or the bound is not positive.

    Example:
        >>> stack = MaskedAffineStack([MaskedMLP(3, 2), MaskedMLP(3, 2, order=[2, 1, 0])])
        >>> z = torch.tensor([1.0, -2.0, 0.5])
        >>> torch.allclose(stack(z), stack.layers(z), atol=1e-5)
        True
    """

    def __init__(
        self, networks: Sequence[MaskedMLP], context: Tensor | None = None, bound: float = 3.0
    ) -> None:
        super().__init__()
        self.networks, self.context = tuple(networks), context
        self.univariate = ScaleAndShift(bound)
        if not self.networks:
            raise ValueError("networks must hold at least one network, got none")
        for network in self.networks:
            check_type("every one of networks", network, MaskedMLP, "a MaskedMLP")
            check_type("every network's activation", network.activation, nn.ReLU, "a torch.nn.ReLU")
            if network.outputs != 2:
                raise ValueError(
                    "every one of networks must have 2 outputs for each coordinate, "
                    f"got {network.outputs}"
                )
        depths = {len(network.sizes) for network in self.networks}
        if len(depths) > 1:
            raise ValueError(f"networks must all have as many layers, got {sorted(depths)}")

    @property
    def layers(self) -> Compose:
        """The same layers, one after the other."""
        return Compose(
            [Autoregressive(network, self.univariate, self.context) for network in self.networks]
        )

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all layers."""
        if not torch.compiler.is_compiling():
            try:
                return self._call_by_hand(z)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                pass  # This is how torch.func says that it cannot follow.
        return self.layers.call_and_ladj(z)

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through all layers, with D steps for each."""
        if not torch.compiler.is_compiling() and not torch.is_grad_enabled():
            try:
                return self._inverse_by_hand(y)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                pass
        return self.layers.inverse_and_ladj(y)

    def _batch(self, z: Tensor) -> torch.Size:
        if self.context is None:
            return z.shape[:-1]
        return torch.Size(torch.broadcast_shapes(z.shape[:-1], self.context.shape[:-1]))

    def _call_by_hand(self, z: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._batch(z)
        masks, parameters = [], []
        for network in self.networks:
            layers, start = network.masked_layers, network.start(self.context)
            if start.dim() > 1:
                start = start.expand(*batch, -1).reshape(batch.numel(), start.shape[-1])
            masks.append([layer.mask for layer in layers])
            parameters += [start, *(layer.bias for layer in layers[1:])]
            parameters += [layer.weight for layer in layers]
        points = z.expand(*batch, -1).reshape(batch.numel(), z.shape[-1])
        if torch.is_grad_enabled():
            y, ladj = _Stack.apply(  # type: ignore[no-untyped-call]
                self.univariate.bound, masks, points, *parameters
            )
        else:
            (y, ladj), _ = through_all(
                self.univariate.bound, masks, points, *parameters, keep=False
            )
        return y.reshape(*batch, z.shape[-1]), ladj.reshape(batch)

    def _inverse_by_hand(self, y: Tensor) -> tuple[Tensor, Tensor]:
        batch = self._batch(y)
        y, ladj = y.expand(*batch, -1), y.new_zeros(batch)
        for network in reversed(self.networks):
            y, more = solve(network, y, batch, self.context, self.univariate.bound)
            ladj = ladj + more
        return y, ladj


class _Stack(torch.autograd.Function):
    """A stack for points `(N, D)`, with n biases and then n weights for each of K networks."""

    @staticmethod
    def forward(
        ctx: Any, bound: float, masks: Sequence[Tensors], z: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        (y, ladj), kept = through_all(bound, masks, z, *parameters)
        ctx.bound, ctx.masks = bound, masks
        ctx.save_for_backward(z, *parameters, *kept)
        return y, ladj

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_ladj: Tensor) -> tuple[Any, ...]:
        bound, masks = ctx.bound, ctx.masks
        length, depth = len(masks), len(masks[0])
        count = 1 + length * 2 * depth
        saved = ctx.saved_tensors
        inputs, kept = saved[:count], saved[count:]
        if torch.is_grad_enabled():
            # Second derivatives are wanted: autograd has them.
            _, pull, *_ = torch.func.vjp(partial(through_all, bound, masks), *inputs, has_aux=True)
            return None, None, *pull((grad, grad_ladj))
        grads: list[Tensor] = []
        biases = split(inputs[1:], length)
        for k, of_layer in reversed(list(enumerate(split(kept, length)))):
            grad, *more = back(grad, grad_ladj, of_layer, masks[k], biases[k][:depth])
            grads = more + grads
        return None, None, grad, *grads


def split(tensors: Tensors, length: int) -> list[Tensors]:
    """Return the tensors of each of K layers, all of them as many."""
    size = len(tensors) // length
    return [tensors[k * size : (k + 1) * size] for k in range(length)]


def through_all(
    bound: float, masks: Sequence[Tensors], z: Tensor, *parameters: Tensor, keep: bool = True
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """Return y, `(N, D)`, with its ladj, and what the way back needs of each layer."""
    depth, kept = len(masks[0]), list[Tensor]()
    ladj = z.new_zeros(len(z))
    for of_layer, mask in zip(split(parameters, len(masks)), masks, strict=True):
        biases = of_layer[:depth]
        weights = [weight * m for weight, m in zip(of_layer[depth:], mask, strict=True)]
        z, more, tensors = through(z, biases, weights, bound)
        ladj = ladj + more
        kept += tensors if keep else []
    return (z, ladj), kept


def through(
    z: Tensor, biases: Tensors, weights: Tensors, bound: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Go through one layer, whose weights are masked."""
    inputs = [z]
    for bias, weight in zip(biases[:-1], weights[:-1], strict=True):
        inputs.append(torch.addmm(bias, inputs[-1], weight.mT).relu_())
    shift, raw = torch.addmm(biases[-1], inputs[-1], weights[-1].mT).chunk(2, -1)
    # The bounded log-scale s = r / d, with d = 1 + |r| / S and the derivative ds/dr = 1 / d².
    damping = torch.rsub(raw.abs(), 1, alpha=-1 / bound)
    log_scale = raw / damping
    ladj = log_scale.sum(-1)
    scale = log_scale.exp_()
    return torch.addcmul(shift, z, scale), ladj, [scale, damping, *inputs, *weights]


def back(
    grad: Tensor, grad_ladj: Tensor, kept: Tensors, masks: Tensors, biases: Tensors
) -> list[Tensor]:
    """Return the gradients by a layer's z, its biases and its weights."""
    scale, damping, *others = kept
    inputs, weights = others[: len(masks)], others[len(masks) :]
    by_z = grad * scale
    # Those by shift and raw log-scale, side by side as they came out of the network.
    by_output = grad.new_empty(len(grad), 2 * grad.shape[-1])
    by_shift, by_raw = by_output.chunk(2, -1)
    by_shift.copy_(grad)
    torch.addcmul(grad_ladj.unsqueeze(-1), by_z, inputs[0], out=by_raw)
    by_raw.div_(damping).div_(damping)
    by_biases, by_weights = [], []
    for i in reversed(range(len(masks))):
        # Most biases are shared by all points; that of a first layer with a context is not.
        by_biases.append(by_output.sum(0) if biases[i].dim() == 1 else by_output)
        by_weights.append((by_output.mT @ inputs[i]).mul_(masks[i]))
        if i:
            by_output = torch.ops.aten.threshold_backward(by_output @ weights[i], inputs[i], 0)
    by_z.addmm_(by_output, weights[0])
    return [by_z, *reversed(by_biases), *reversed(by_weights)]


def solve(
    network: MaskedMLP, y: Tensor, batch: torch.Size, context: Tensor | None, bound: float
) -> tuple[Tensor, Tensor]:
    """Go back through one layer in `Steps`, with blocks that are written to."""
    *hidden, last = network.rows(batch, context)
    count, sizes = batch.numel(), [[1] * network.features, *network.sizes[:-1]]
    # What is known of the inputs of each layer, with zeros for the rest, and each degree's place.
    known = [y.new_zeros(sum(each), count) for each in sizes]
    places, *hidden_places = [block.split(each) for block, each in zip(known, sizes, strict=True)]
    minus_one, ladjs = y.new_full((), -1.0), []
    for turn, y_i in enumerate(rows_in_order(y, batch, network.order)):
        for layer, inputs, outputs in zip(hidden, known, hidden_places, strict=False):
            weight, bias = layer[turn]
            torch.addmm(bias, weight, inputs, out=outputs[turn]).relu_()
        weight, bias = last[turn]
        shift, raw = torch.addmm(bias, weight, known[-1]).unbind()
        # -s = r / (-1 - |r| / S)
        ladj = raw / torch.add(minus_one, raw.abs(), alpha=-1 / bound)
        torch.mul(y_i - shift, ladj.exp(), out=places[turn][0])
        ladjs.append(ladj)
    z = known[0].index_select(0, torch.argsort(network.order)).mT
    return z.reshape(y.shape), torch.stack(ladjs).sum(0).reshape(batch)
