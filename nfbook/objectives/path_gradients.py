r"""Gradients with less variance: only the path that they take through the draws.

The reparametrisation gradient of :math:`\log q_\phi(\mathbf{z})`, with
:math:`\mathbf{z} = t_\phi(\boldsymbol\epsilon)`, has two parts,

.. math:: \frac{\mathrm{d}}{\mathrm{d} \phi} \log q_\phi\bigl(t_\phi(\boldsymbol\epsilon)\bigr)
    = \underbrace{\frac{\partial \mathbf{z}}{\partial \phi}^\top
        \nabla_{\mathbf{z}} \log q_\phi(\mathbf{z})}_{\text{path}}
    + \underbrace{\nabla_\phi \log q_\phi(\mathbf{z})
        \big|_{\mathbf{z} \text{ fixed}}}_{\text{score}}.

The score is zero on average. Without it the gradient of the bound is still unbiased, and where q is
the posterior it is zero for every single draw: Roeder, Wu and Duvenaud, Sticking the landing, NIPS
(2017).

For a flow, :math:`\nabla_{\mathbf{z}} \log q` would take its inverse. But the preimage is known, it
is the noise. Only the derivative of the inverse is wanted, which is that of the layer, inverted:

.. math:: \nabla_{\mathbf{z}} \log q(\mathbf{z})
    = \mathbf{J}^{-\top} \nabla_{\boldsymbol\epsilon}
      \bigl( \log p_0(\boldsymbol\epsilon) - \log |\det \mathbf{J}(\boldsymbol\epsilon)| \bigr).

Source: Vaitl, Nicoli, Nakajima and Kessel, Gradients should stay on path, Machine Learning: Science
and Technology 3 (2022). Layer by layer, from the last to the first:

- a stack of K planar layers and a Sylvester layer have
  :math:`\mathbf{J} = \mathbf{I} + \mathbf{A} \mathbf{S} \mathbf{B}^\top`, and what is to be solved
  is triangular, see `solve_transposed`;
- all others go back by their own inverse. That is as fast as forward for affine layers, couplings,
  radial, Householder and linear layers. For autoregressive layers that draw fast, and for
  continuous flows, it is as slow as their ``log_prob``, and no less right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions import Transform as TorchTransform

from nfbook._checks import check_distribution, check_type
from nfbook._precision import full_precision, precise_backward
from nfbook.flows import FlowDistribution
from nfbook.sampling import draw, draw_and_log_prob
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.fast.planar import PlanarStack
from nfbook.transforms.planar import Planar
from nfbook.transforms.sylvester import Sylvester

__all__ = [
    "draw_and_path_log_prob",
    "drawing",
    "go_back",
    "solve_transposed",
    "square_weights",
    "stop_gradients",
]


def drawing(path: bool, name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the function that draws, with the path's gradient alone or with the whole one.

    Arguments:
        path: Whether the path's alone.
        name: The name of the option, for the error.

    Raises:
        TypeError: ``path`` is neither True nor False.

    Example:
        >>> drawing(True, "path_gradient") is draw_and_path_log_prob
        True
    """
    check_type(name, path, bool, "True or False")
    return draw_and_path_log_prob if path else draw_and_log_prob


def draw_and_path_log_prob(
    q: Distribution,
    shape: tuple[int, ...] = (),
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Draw as `draw_and_log_prob` does, with the gradient of the log density along its path alone.

    Arguments:
        q: A distribution with ``rsample``.
        shape: The sample shape.
        generator: The source of randomness, or None for torch's own.

    Returns:
        Draws, `(*shape, *batch_shape, *event_shape)`, whose gradients flow to q, and their log
        densities, `(*shape, *batch_shape)`, whose gradients flow to the draws only.

    Raises:
        TypeError: ``q`` is not a distribution, or has no ``rsample``.

    Example:
        Where q is the target, each draw's gradient is zero:

        >>> from torch.distributions import Normal
        >>> mean = torch.zeros(3, requires_grad=True)
        >>> z, log_q = draw_and_path_log_prob(Normal(mean, 1.0))
        >>> (log_q - Normal(0.0, 1.0).log_prob(z)).sum().backward()
        >>> mean.grad
        tensor([0., 0., 0.])
    """
    check_distribution("q", q)
    stopped = stop_gradients(q)
    if not isinstance(q, FlowDistribution):
        z = draw(q, shape, generator=generator, reparametrised=True)
        return z, stopped.log_prob(z)
    noise = draw(q.base, shape, generator=generator, reparametrised=True)
    with full_precision(noise):
        z = q.transform(noise)
        start, ladj = go_back(stopped.transform, noise.detach(), z)
        return z, stopped.base.log_prob(start) + ladj


def square_weights(z: Tensor, log_w: Tensor, events: int = 1) -> None:
    r"""Make the gradient through K draws that of the doubly reparametrised estimator.

    The gradient of :math:`\log \frac1K \sum_k \omega_k` weighs the path of each draw by its share
    :math:`\tilde\omega_k = \omega_k / \sum_j \omega_j`. The score has a part left, since the
    shares depend on the draws too. Reparametrised once more, it is a gradient along the paths
    itself, and the two together weigh each path by the square of its share.

    Source: G. Tucker, D. Lawson, S. Gu and C. Maddison, Doubly reparameterized gradient estimators
    for Monte Carlo objectives, ICLR (2019), equation 8.

    Arguments:
        z: The draws of `draw_and_path_log_prob`, `(K, *, *event_shape)`.
        log_w: The logarithms of their weights. Its first dimension has size K, and it has as many
            elements as there are draws.
        events: The number of dimensions of an event.

    Example:
        >>> z = torch.zeros(2, 1, requires_grad=True)
        >>> log_w = z.squeeze(1) + torch.tensor([0.0, 3.0]).log1p()  # weights 1 and 4
        >>> square_weights(z, log_w)
        >>> log_w.logsumexp(0).backward()
        >>> z.grad.squeeze(1)
        tensor([0.0400, 0.6400])
    """
    if not z.requires_grad:
        return
    shape = z.shape[: z.ndim - events]
    shares = log_w.detach().softmax(0).reshape(*shape, *[1] * events)
    # The gradient of the bound brings each share once, and this the second time.
    z.register_hook(lambda gradient: shares * gradient)


@singledispatch
def go_back(transform: Transform, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return what ``transform.inverse_and_ladj(y)`` does, when the preimage is known.

    Arguments:
        transform: The bijection t, whose parameters have no gradients.
        z: The preimage, `(*, D)`.
        y: The image :math:`t(\mathbf{z})`, `(*, D)`, to which gradients flow.

    Example:
        >>> from nfbook.transforms import Affine
        >>> y = torch.tensor([5.0], requires_grad=True)
        >>> z, ladj = go_back(Affine(torch.ones(1), torch.tensor([4.0]).log()), torch.ones(1), y)
        >>> z.backward()
        >>> y.grad
        tensor([0.2500])
    """
    return transform.inverse_and_ladj(y)


@go_back.register
def _(transform: Compose, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Go through the layers for what lies between them, and back."""
    values = [z]
    with torch.no_grad():
        for layer in transform.transforms[:-1]:
            values.append(layer(values[-1]))
    total = y.new_zeros(())
    for layer, value in zip(reversed(transform.transforms), reversed(values), strict=True):
        y, ladj = go_back(layer, value, y)
        total = total + ladj
    return y, total


@go_back.register
def _(transform: PlanarStack, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve for all layers at once, with x what they see and L their products below the diagonal.

    .. math:: \mathbf{J} = \mathbf{I} + \hat{\mathbf{U}}^\top
        (\mathbf{H}^{-1} - \mathbf{L})^{-1} \mathbf{W}, \qquad
        \mathbf{H} = \operatorname{diag} \operatorname{sech}^2 \mathbf{x}, \qquad
        l_{kj} = \mathbf{w}_k^\top \hat{\mathbf{u}}_j \text{ for } j < k.
    """
    w, u_hat = transform.w, Planar(transform.w, transform.u, transform.b).u_hat
    gram = w @ u_hat.mT

    def seen(z: Tensor) -> Tensor:
        x = (w @ z.unsqueeze(-1)).squeeze(-1) + transform.b
        for k in range(x.shape[-1] - 1):  # each layer moves what the later ones see
            x[..., k + 1 :] += gram[..., k + 1 :, k] * torch.tanh(x[..., k : k + 1])
        return x

    return _through(transform, z, y, u_hat.mT, w.mT, seen, gram)


@go_back.register
def _(transform: Sylvester, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve for a layer, whose products are in the basis Q.

    .. math:: \mathbf{J} = \mathbf{I} + \mathbf{Q} \hat{\mathbf{R}} \mathbf{H}
        \tilde{\mathbf{R}} \mathbf{Q}^\top.
    """
    r_tilde = transform.r_tilde.triu()
    a, b = transform.q @ transform.r_hat, transform.q @ r_tilde.mT

    def seen(z: Tensor) -> Tensor:
        return (b.mT @ z.unsqueeze(-1)).squeeze(-1) + transform.b

    return _through(transform, z, y, a, b, seen, r_tilde @ transform.r_hat)


def _through(
    transform: Transform,
    z: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    seen: Callable[[Tensor], Tensor],
    inner: Tensor,
) -> tuple[Tensor, Tensor]:
    start: Tensor = _Known.apply(y, z, a, b, inner, seen)  # type: ignore[no-untyped-call]
    return start, -transform.call_and_ladj(start)[1]


def solve_transposed(a: Tensor, b: Tensor, slope: Tensor, inner: Tensor, v: Tensor) -> Tensor:
    r"""Return :math:`\mathbf{J}^{-\top} \mathbf{v}` by a triangular system.

    .. math:: \mathbf{J}^{-1} = \mathbf{I} - \mathbf{A}\,
        (\mathbf{H}^{-1} + \mathbf{T})^{-1} \mathbf{B}^\top
        \quad\Longrightarrow\quad
        \mathbf{J}^{-\top} \mathbf{v} = \mathbf{v} - \mathbf{B} \mathbf{H}\,
        (\mathbf{I} + \mathbf{T}^\top \mathbf{H})^{-1} \mathbf{A}^\top \mathbf{v}.

    This is Woodbury's identity. For one layer T is :math:`\mathbf{B}^\top \mathbf{A}`; for a stack
    of planar layers it is what that has on and above its diagonal, since what is below cancels with
    the L of the layers that see each other. No number is divided by but the layers' determinants.

    Arguments:
        a: A, `(*, D, K)`.
        b: B, `(*, D, K)`.
        slope: The diagonal of H, `(*, K)`.
        inner: T, `(*, K, K)`. What stands below the diagonal is not looked at.
        v: `(*, D)`.

    Example:
        >>> a, b = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [3.0]])
        >>> j = torch.eye(2) + a @ b.mT
        >>> v = torch.tensor([1.0, 2.0])
        >>> found = solve_transposed(a, b, torch.ones(1), b.mT @ a, v)
        >>> torch.allclose(j.mT @ found, v)
        True
    """
    identity = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    right = a.mT @ v.unsqueeze(-1)
    system = identity + inner.mT * slope.unsqueeze(-2)
    found = torch.linalg.solve_triangular(system, right, upper=False)
    moved: Tensor = b @ (slope.unsqueeze(-1) * found)
    return v - moved.squeeze(-1)


class _Known(torch.autograd.Function):
    """The preimage z of y, which is known, with the derivative of the inverse."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, z: Tensor, a: Tensor, b: Tensor, inner: Tensor, seen: Any
    ) -> Tensor:
        start, ctx.seen = z.clone(), seen
        ctx.save_for_backward(start, a, b, inner)
        return start

    @staticmethod
    @precise_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        start, a, b, inner = ctx.saved_tensors
        # Of the output, so that a second derivative sees the slopes move with it.
        slope = 1 - torch.tanh(ctx.seen(start)).square()
        return solve_transposed(a, b, slope, inner, grad), None, None, None, None, None


def stop_gradients(value: Any) -> Any:
    """Return a copy of a distribution or transform whose tensors, at any depth, have no gradients.

    Networks within are copied without their numbers.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.zeros(2, requires_grad=True), 1.0), 1)
        >>> stop_gradients(q).log_prob(torch.zeros(2)).requires_grad
        False
    """
    return _stop(value, {})


def _stop(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, Tensor):
        found: Any = value.detach()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        found = type(value)(*(_stop(each, done) for each in value))
    elif isinstance(value, list | tuple):
        found = type(value)(_stop(each, done) for each in value)
    elif isinstance(value, dict):
        found = {key: _stop(each, done) for key, each in value.items()}
    elif isinstance(value, partial):
        arguments = _stop(value.args, done)
        found = partial(_stop(value.func, done), *arguments, **_stop(value.keywords, done))
    elif _is_made_of_tensors(value):
        found = done[id(value)] = object.__new__(type(value))
        vars(found).update({name: _stop(each, done) for name, each in vars(value).items()})
    else:
        found = value
    done[id(value)] = found
    return found


def _is_made_of_tensors(value: Any) -> bool:
    """Return whether to look within: at modules, distributions, transforms, and their parts."""
    return isinstance(value, nn.Module | Distribution | TorchTransform) or (
        type(value).__module__.startswith("nfbook.") and hasattr(value, "__dict__")
    )
