"""A stack of planar layers, with little more than two matrix products."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nfbook._precision import precise_backward
from nfbook.transforms._parameters import check_parameters
from nfbook.transforms._tanh_layers import divisor, excess, mean_slope, sech2, slope_at_zero
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.fast.fallback import fast_or_plain, is_batched
from nfbook.transforms.planar import Planar

__all__ = ["PlanarStack"]


# Layers whose inner products are computed together. With more of them there are more products, with
# fewer more calls. And what belongs to a block should stay in the processor's cache.
BLOCK = 40


class PlanarStack(Transform):
    r"""K planar layers, evaluated together.

    A layer of its own costs an inner product and a vector sum, K times one after the other. But
    the inner products can be known beforehand, since each layer adds a multiple of its û:

    .. math::
        x_k = \mathbf{w}_k^\top \mathbf{z}_{k-1} + b_k
            = \mathbf{w}_k^\top \mathbf{z}_0 + b_k
              + \sum_{j < k} (\mathbf{w}_k^\top \hat{\mathbf{u}}_j) \tanh x_j,
        \qquad
        \mathbf{z}_K = \mathbf{z}_0 + \sum_{k=1}^K \hat{\mathbf{u}}_k \tanh x_k.

    Two matrix products give all :math:`\mathbf{w}_k^\top \mathbf{z}_0` and all
    :math:`\mathbf{w}_k^\top \hat{\mathbf{u}}_j`. What is left to do one by one are K steps with
    scalars. The backward pass is such a recursion again, from the last layer to the first, and is
    written by hand. Where second derivatives or forward mode are wanted, `layers` takes its place.
    The number of products grows with the square of K, so a long stack is cut into blocks.

    Arguments:
        w: `(*, K, D)`.
        u: `(*, K, D)`.
        b: `(*, K)`.

    Raises:
        TypeError: One is not a floating-point tensor, or their dtypes differ.
        ValueError: Their sizes do not fit.

    Example:
        >>> w, u, b = torch.randn(8, 2), torch.randn(8, 2), torch.randn(8)
        >>> PlanarStack(w, u, b)(torch.zeros(100, 2)).shape
        torch.Size([100, 2])
    """

    def __init__(self, w: Tensor, u: Tensor, b: Tensor) -> None:
        super().__init__()
        check_parameters(w=(w, "KD"), u=(u, "KD"), b=(b, "K"))
        self.w, self.u, self.b = w, u, b

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.w.shape[-1]

    @property
    def layers(self) -> Compose:
        """The same layers, one after the other."""
        parameters = zip(self.w.unbind(-2), self.u.unbind(-2), self.b.unbind(-1), strict=True)
        return Compose([Planar(w, u, b) for w, u, b in parameters])

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go through all layers."""
        return fast_or_plain(
            partial(self._run, z), lambda: self.layers.call_and_ladj(z), compiles=True
        )

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back layer by layer, with one scalar root for each."""
        return self.layers.inverse_and_ladj(y)

    def _run(self, z: Tensor) -> tuple[Tensor, Tensor]:
        count, features = self.w.shape[-2:]
        sets = torch.broadcast_shapes(self.w.shape[:-2], self.u.shape[:-2], self.b.shape[:-1])
        shape = torch.broadcast_shapes(sets, z.shape[:-1])
        # The z that share their parameters, those of the leading dimensions, form one matrix.
        many, batch = shape[: len(shape) - len(sets)], shape[len(shape) - len(sets) :]
        n = math.prod(batch)
        y = z.expand(*shape, features).reshape(math.prod(many), n, features).transpose(0, 1)
        w, u = (
            v.expand(*batch, count, features).reshape(n, count, features) for v in (self.w, self.u)
        )
        b = self.b.expand(*batch, count).reshape(n, count)
        y, ladj, *_ = _Planar.apply(y, w, u, b)  # type: ignore[no-untyped-call]
        return y.transpose(0, 1).reshape(*shape, features), ladj.mT.reshape(shape)


class _Planar(torch.autograd.Function):
    """A stack for points `(N, S, D)`: N sets of parameters, S points for each."""

    @staticmethod
    def forward(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        blocks = _cut(w.shape[1])
        a = torch.cat([(w[:, block] * u[:, block]).sum(-1) for block in blocks], 1)
        squared = torch.cat([w[:, block].square().sum(-1) for block in blocks], 1)
        s = slope_at_zero(a)
        c = excess(a) / divisor(squared)
        h = z.new_empty(w.shape[1], len(z), z.shape[1])
        ys, xs, u_hats, grams = [z], [], [], []
        for block in blocks:
            w_b, y = w[:, block], ys[-1]
            u_hat = torch.addcmul(u[:, block], c[:, block, None], w_b)
            # Zero but for the pairs of a layer and a later one, which sees it.
            gram = u_hat @ w_b.mT
            gram = gram.mul_(gram.new_ones(gram.shape[1:]).triu_(1))
            # The layer's index comes first, so that a step of the recursion has its numbers
            # together.
            gram = gram.permute(1, 2, 0).unsqueeze(-1).contiguous()
            x = torch.baddbmm(b[:, block, None], w_b, y.mT).transpose(0, 1).contiguous()
            for x_k, h_k, gram_k in zip(x, h[block], gram, strict=True):
                x.addcmul_(gram_k, torch.tanh(x_k, out=h_k))
            xs.append(x)
            ys.append(torch.baddbmm(y, h[block].permute(1, 2, 0), u_hat))
            u_hats.append(u_hat)
            grams.append(gram)
        slope = sech2(torch.cat(xs))
        slopes = mean_slope(h, slope, s.mT.unsqueeze(-1))
        ladj = slopes.log().sum(0)
        return ys.pop(), ladj, a, squared, s, c, *ys[1:], *u_hats, h, slope, slopes, *grams

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[2:])
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> Any:
        # One more batch dimension is nothing new: it goes into N.
        size = info.batch_size
        first = [
            value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip(inputs, in_dims, strict=True)
        ]
        output = _Planar.apply(  # type: ignore[no-untyped-call]
            *(value.flatten(0, 1) for value in first)
        )
        # In the last ones, three and a Gram matrix for each block, the layers come first.
        count = len(output) - 3 - len(_cut(first[1].shape[2]))
        sets = [value.unflatten(0, (size, -1)) for value in output[:count]]
        by_layer = [value.unflatten(-2, (size, -1)).movedim(-3, 0) for value in output[count:]]
        return (*sets, *by_layer), (0,) * len(output)

    @staticmethod
    @precise_backward
    def backward(ctx: Any, grad_y: Tensor | None, grad_ladj: Tensor | None, *_: Any) -> Any:
        z, w, u, b, a, squared, s, c, *saved = ctx.saved_tensors
        grad_y = torch.zeros_like(z) if grad_y is None else grad_y
        grad_ladj = z.new_zeros(z.shape[:2]) if grad_ladj is None else grad_ladj
        if torch.is_grad_enabled() or is_batched(grad_y, grad_ladj, z, w, u, b):
            # Second derivatives are wanted, or many at once: autograd has them, layer by layer.
            def plain(z: Tensor, w: Tensor, u: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
                one_set = PlanarStack(w.unsqueeze(1), u.unsqueeze(1), b.unsqueeze(1))
                return one_set.layers.call_and_ladj(z)

            pull_back: Any = torch.func.vjp(plain, z, w, u, b)[1]
            return pull_back((grad_y, grad_ladj))
        blocks = _cut(w.shape[1])
        n = len(blocks)
        ys, u_hats = [z, *saved[: n - 1]], saved[n - 1 : 2 * n - 1]
        h, slope, slopes, *grams = saved[2 * n - 1 :]
        # The ladj's part in the gradients by h and by s.
        from_log = grad_ladj / slopes
        grad_h = 2 * h * (1 - s.mT.unsqueeze(-1)) * from_log
        grad_s = (slope * from_log).sum(-1).mT
        # The gradient by c is not known yet. What those by a and by ‖w‖² will be, as functions
        # of it:
        root, divide_by = torch.hypot(a, torch.ones_like(a)), divisor(squared)
        a_from_s, a_by_c = grad_s * s / root, a / root / divide_by
        squared_by_c = -c / divide_by
        grad_w, grad_u, x = torch.empty_like(w), torch.empty_like(u), torch.empty_like(h)
        for block, y, u_hat, gram in reversed(list(zip(blocks, ys, u_hats, grams, strict=True))):
            w_b, c_b, grad_h_b = w[:, block], c[:, block, None], grad_h[block]
            grad_h_b += torch.bmm(u_hat, grad_y.mT).transpose(0, 1)
            steps = zip(grad_h_b, slope[block], x[block], gram.unbind(1), strict=True)
            for grad_k, slope_k, x_k, gram_k in reversed(list(steps)):
                grad_h_b.addcmul_(gram_k, torch.mul(grad_k, slope_k, out=x_k))
            x_b, h_b = x[block].transpose(0, 1), h[block].transpose(0, 1)
            if not any(ctx.needs_input_grad[1:]):  # as where the path alone has a gradient
                grad_y = torch.baddbmm(grad_y, x_b.mT, w_b)
                continue
            grad_gram = torch.bmm(x_b, h_b.mT).tril_(-1)
            grad_u_hat = torch.bmm(h_b, grad_y).baddbmm_(grad_gram.mT, w_b)
            grad_c = (grad_u_hat * w_b).sum(-1)
            grad_a = (a_from_s[:, block] + grad_c * a_by_c[:, block]).unsqueeze(-1)
            grad_squared = (grad_c * squared_by_c[:, block]).unsqueeze(-1)
            by_w = torch.bmm(x_b, y).baddbmm_(grad_gram, u_hat).addcmul_(c_b, grad_u_hat)
            by_w.addcmul_(grad_a, u[:, block])
            torch.addcmul(by_w, grad_squared, w_b, value=2, out=grad_w[:, block])
            torch.addcmul(grad_u_hat, grad_a, w_b, out=grad_u[:, block])
            grad_y = torch.baddbmm(grad_y, x_b.mT, w_b)
        return grad_y, grad_w, grad_u, x.sum(-1).mT


def _cut(count: int) -> list[slice]:
    """Cut this number of layers into nearly equal blocks.

    Example:
        >>> _cut(82)
        [slice(0, 27, None), slice(27, 54, None), slice(54, 82, None)]
    """
    number = -(-count // BLOCK)
    ends = [count * i // number for i in range(number + 1)]
    return [slice(*pair) for pair in pairwise(ends)]
