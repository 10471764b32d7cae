"""A stack of affine autoregressive layers, with a backward pass written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from nfbook._checks import check_type
from nfbook._precision import precise_backward
from nfbook.networks import BoundMaskedMLP, MaskedMLP
from nfbook.transforms.autoregressive import Autoregressive, rows_in_order
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.fast.fallback import fast_or_plain
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

    Second derivatives are autograd's, of the same operations. Where such code cannot be followed,
    `layers` takes over: for ``torch.compile``, in forward mode, and for derivatives of the inverse.
    So it does where a network must be called as a module, since someone hooks into its layers or
    has replaced one, see `MLP.bind`.

    Arguments:
        networks: One masked network for each layer, with two outputs for each coordinate and ReLU.
        context: c, `(*, C)`; None for networks without.
        bound: The largest log-scale S of a layer.

    Raises:
        TypeError: One of ``networks`` is not a MaskedMLP, or its activation is not ReLU.
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
        self.univariate = ScaleAndShift(bound)
        if not networks:
            raise ValueError("networks must hold at least one network, got none")
        for network in networks:
            check_type("every network", network, MaskedMLP, "a MaskedMLP")
            check_type("every network's activation", network.activation, nn.ReLU, "a torch.nn.ReLU")
            if network.outputs != 2:
                raise ValueError(
                    f"every network must have 2 outputs for each coordinate, got {network.outputs}"
                )
        depths = {len(network.sizes) for network in networks}
        if len(depths) > 1:
            came = sorted(depths)
            raise ValueError(f"networks must all have the same number of layers, got {came}")
        sizes = {network.features for network in networks}
        if len(sizes) > 1:
            raise ValueError(f"networks must all have the same features, got {sorted(sizes)}")
        self.networks = tuple(network.bind(context) for network in networks)
        self._features = sizes.pop()

    @property
    def features(self) -> int:
        """The number of coordinates D."""
        return self._features

    @property
    def layers(self) -> Compose:
        """The same layers, one after the other."""
        return Compose([Autoregressive(network, self.univariate) for network in self.networks])

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all layers."""
        return fast_or_plain(partial(self._call_by_hand, z), lambda: self.layers.call_and_ladj(z))

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back through all layers, with D steps for each."""
        if torch.is_grad_enabled():
            return self.layers.inverse_and_ladj(y)
        return fast_or_plain(
            partial(self._inverse_by_hand, y), lambda: self.layers.inverse_and_ladj(y)
        )

    def _bound(self) -> list[BoundMaskedMLP]:
        for network in self.networks:
            if not isinstance(network, BoundMaskedMLP) or not network.network.has_only_relu:
                raise NotImplementedError("a network must be called as a module")
        return cast("list[BoundMaskedMLP]", list(self.networks))

    def _call_by_hand(self, z: Tensor) -> tuple[Tensor, Tensor]:
        networks = self._bound()
        batch = torch.Size(torch.broadcast_shapes(z.shape[:-1], networks[0].batch_shape))
        parameters: list[Tensor] = []
        for bound in networks:
            start = bound.network.start
            if start.dim() > 1:
                start = start.expand(*batch, -1).reshape(batch.numel(), start.shape[-1])
            parameters += [start, *bound.network.biases]
            parameters += cast("list[Tensor]", bound.network.weights)
        points = z.expand(*batch, -1).reshape(batch.numel(), z.shape[-1])
        options = self.univariate.bound, len(networks)
        if torch.is_grad_enabled():
            y, ladj, *_ = _MaskedAffine.apply(  # type: ignore[no-untyped-call]
                *options, points, *parameters
            )
        else:
            y, ladj, *_ = _through_all(*options, points, *parameters, keep=False)
        return y.reshape(*batch, z.shape[-1]), ladj.reshape(batch)

    def _inverse_by_hand(self, y: Tensor) -> tuple[Tensor, Tensor]:
        networks = self._bound()
        batch = torch.Size(torch.broadcast_shapes(y.shape[:-1], networks[0].batch_shape))
        y, ladj = y.expand(*batch, -1), y.new_zeros(batch)
        for network in reversed(networks):
            rows = network.rows(batch)
            flat = [tensor for layer in rows for pair in layer for tensor in pair]
            y, more = _Inverse.apply(  # type: ignore[no-untyped-call]
                self.univariate.bound, network.sizes, network.order, y, *flat
            )
            ladj = ladj + more
        return y, ladj


class _MaskedAffine(torch.autograd.Function):
    """A stack for points `(N, D)`, with n biases and then n weights for each of K networks."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _through_all(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[:2]
        ctx.save_for_backward(*inputs[2:], *output[2:])
        ctx.mark_non_differentiable(*output[2:])
        # Otherwise autograd would make zeros for every saved tensor.
        ctx.set_materialize_grads(False)

    @staticmethod
    @precise_backward
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_ladj: Tensor | None, *_: Any
    ) -> tuple[Any, ...]:
        _, length = ctx.options
        # z, for each layer n biases, n weights and n + 1 tensors that were kept, and at last the z
        # of all layers but the first: K (3 n + 2) in all.
        saved = ctx.saved_tensors
        depth = (len(saved) // length - 2) // 3
        count, rest = 1 + 2 * depth * length, len(saved) - length + 1
        inputs, kept, zs = saved[:count], saved[count:rest], saved[rest:]
        grad_y = torch.zeros_like(inputs[0]) if grad_y is None else grad_y
        grad_ladj = inputs[0].new_zeros(len(inputs[0])) if grad_ladj is None else grad_ladj
        if torch.is_grad_enabled():
            # Second derivatives are wanted: autograd has them.
            def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
                return _through_all(*ctx.options, *tensors, keep=False)

            pull_back: Any = torch.func.vjp(plain, *inputs)[1]
            return None, None, *pull_back((grad_y, grad_ladj))
        grads: list[Tensor] = []
        layers = zip(
            [inputs[0], *zs], _split(inputs[1:], length), _split(kept, length), strict=True
        )
        for z, of_layer, memory in reversed(list(layers)):
            biases, weights = of_layer[:depth], of_layer[depth:]
            grad_y, *more = _back(grad_y, grad_ladj, z, memory, biases, weights)
            grads = more + grads
        return None, None, grad_y, *grads


def _split(tensors: Tensors, length: int) -> list[Tensors]:
    """Return the tensors of each of K layers, all of them as many."""
    size = len(tensors) // length
    return [tensors[k * size : (k + 1) * size] for k in range(length)]


def _through_all(
    bound: float, length: int, z: Tensor, *parameters: Tensor, keep: bool = True
) -> tuple[Tensor, ...]:
    """Return y, `(N, D)`, with its ladj, and what the way back needs of each layer."""
    kept, zs = list[Tensor](), [z]
    ladj = z.new_zeros(len(z))
    for of_layer in _split(parameters, length):
        depth = len(of_layer) // 2
        z, more, tensors = _through(zs[-1], of_layer[:depth], of_layer[depth:], bound)
        ladj = ladj + more
        if keep:
            kept += tensors
            zs.append(z)
        else:
            zs = [z]
    return zs.pop(), ladj, *kept, *zs[1:]


def _through(
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
    return torch.addcmul(shift, z, scale), ladj, [scale, damping, *inputs[1:]]


def _back(
    grad: Tensor, grad_ladj: Tensor, z: Tensor, kept: Tensors, biases: Tensors, weights: Tensors
) -> list[Tensor]:
    """Return the gradients by a layer's z, its biases and its weights."""
    scale, damping, *hidden = kept
    inputs = [z, *hidden]
    by_z = grad * scale
    # Those by shift and raw log-scale, side by side as they came out of the network.
    by_raw = torch.addcmul(grad_ladj.unsqueeze(-1), by_z, inputs[0]) / damping / damping
    by_output = torch.cat([grad, by_raw], -1)
    by_biases, by_weights = [], []
    for i in reversed(range(len(weights))):
        # Most biases are shared by all points; that of a first layer with a context is not.
        by_biases.append(by_output.sum(0) if biases[i].dim() == 1 else by_output)
        by_weights.append(by_output.mT @ inputs[i])
        if i:
            by_output = torch.ops.aten.threshold_backward(by_output @ weights[i], inputs[i], 0)
    by_z = torch.addmm(by_z, by_output, weights[0])
    return [by_z, *reversed(by_biases), *reversed(by_weights)]


class _Inverse(torch.autograd.Function):
    """The way back through one layer in `Steps`, with blocks of memory that are written to.

    It has no derivatives, and vmap is told to take the plain form.
    """

    @staticmethod
    def forward(
        bound: float, sizes: list[list[int]], order: Tensor, y: Tensor, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, features = y.shape[:-1], len(sizes[-1])
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        *hidden, last = [pairs[k * features : (k + 1) * features] for k in range(len(sizes))]
        count, widths = batch.numel(), [[1] * features, *sizes[:-1]]
        # What is known of the inputs of each layer, with zeros for the rest, and each degree's
        # place.
        known = [y.new_zeros(sum(each), count) for each in widths]
        places, *hidden_places = [
            block.split(each) for block, each in zip(known, widths, strict=True)
        ]
        minus_one, ladjs = y.new_full((), -1.0), []
        for turn, y_i in enumerate(rows_in_order(y, batch, order)):
            for layer, inputs, outputs in zip(hidden, known, hidden_places, strict=False):
                weight, bias = layer[turn]
                torch.addmm(bias, weight, inputs, out=outputs[turn]).relu_()
            weight, bias = last[turn]
            shift, raw = torch.addmm(bias, weight, known[-1]).unbind()
            # -s = r / (-1 - |r| / S)
            ladj = raw / torch.add(minus_one, raw.abs(), alpha=-1 / bound)
            torch.mul(y_i - shift, ladj.exp(), out=places[turn][0])
            ladjs.append(ladj)
        z = known[0].index_select(0, torch.argsort(order)).mT
        return z.reshape(y.shape), torch.stack(ladjs).sum(0).reshape(batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        raise NotImplementedError("it writes to memory")
