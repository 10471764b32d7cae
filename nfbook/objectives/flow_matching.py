"""Flow matching: training a continuous flow without solving its differential equation."""

from __future__ import annotations

import torch
from torch import Tensor

from nfbook._checks import check_generator, check_real, check_type, check_vectors
from nfbook.flows.continuous import CNF

__all__ = ["flow_matching_loss"]


def flow_matching_loss(
    flow: CNF,
    x: Tensor,
    *,
    context: Tensor | None = None,
    sigma_min: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return how far a flow's velocity is from that of straight lines from noise to data.

    .. math:: \ell(\mathbf{x}) = \|\mathbf{v}(\mathbf{z}_t, t) - \mathbf{u}\|^2, \qquad
        \mathbf{z}_t = (1 - (1 - \sigma) t)\, \mathbf{z}_0 + t \mathbf{x}, \qquad
        \mathbf{u} = \frac{\mathrm{d} \mathbf{z}_t}{\mathrm{d} t}
            = \mathbf{x} - (1 - \sigma) \mathbf{z}_0,

    with one draw :math:`\mathbf{z}_0 \sim \mathcal{N}(\mathbf{0}, \mathbf{I})` and
    :math:`t \sim \mathcal{U}(0, 1)` for each x. This is the conditional objective with the paths of
    optimal transport (Lipman, Chen, Ben-Hamu, Nickel and Le, 2023, equation 23).

    The field that minimises its mean makes data out of noise, as these two steps show.

    1. Of all functions of :math:`(\mathbf{z}_t, t)`, the one nearest to u in mean square is the
       conditional mean :math:`\mathbf{v}^*(\mathbf{z}, t) = \mathbb{E}[\mathbf{u} \mid
       \mathbf{z}_t = \mathbf{z}]`. The distance that is left,
       :math:`\mathbb{E} \|\mathbf{u} - \mathbf{v}^*\|^2`, is not zero, since lines cross.
    2. Take any smooth function :math:`\varphi` that is zero far out. By the chain rule, then by
       conditioning on :math:`\mathbf{z}_t`,

       .. math:: \frac{\mathrm{d}}{\mathrm{d} t} \mathbb{E}\, \varphi(\mathbf{z}_t)
            = \mathbb{E} [\nabla \varphi(\mathbf{z}_t)^\top \mathbf{u}]
            = \mathbb{E} [\nabla \varphi(\mathbf{z}_t)^\top \mathbf{v}^*(\mathbf{z}_t, t)].

       The same equation holds for points that move along :math:`\mathbf{v}^*`. It is the continuity
       equation, and its solution is unique where :math:`\mathbf{v}^*` is Lipschitz in z. So at
       each time these points have the distribution of :math:`\mathbf{z}_t`: that of the base at
       t = 0, and at t = 1 that of x, blurred by a Gaussian of standard deviation :math:`\sigma`.

    For Gaussian data with standard deviations :math:`s_i` along its principal axes the least mean
    is :math:`\tfrac{\pi}{2} \sum_i s_i` where :math:`\sigma = 0`.

    Arguments:
        flow: A continuous flow, whose velocity is to be trained.
        x: Data, `(*, D)`.
        context: The context of each x, `(*, C)`; None for a flow without context.
        sigma_min: The standard deviation :math:`\sigma` around a data point at t = 1.
        generator: The source of z_0 and t, or None for torch's own.

    Returns:
        The squared distance for each x, `(*)`. Its mean over the data is what to minimise.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape does not fit the flow, or sigma_min is not in [0, 1).

    Example:
        A new flow has no velocity. Then the loss is :math:`\|\mathbf{x} - \mathbf{z}_0\|^2`:

        >>> generator = torch.Generator().manual_seed(0)
        >>> flow = CNF(2, generator=generator)
        >>> x = torch.zeros(100_000, 2)
        >>> loss = flow_matching_loss(flow, x, generator=generator).mean()
        >>> round(loss.item(), 1)
        2.0
    """
    check_type("flow", flow, CNF, "a CNF")
    check_generator(generator)
    if not 0 <= check_real("sigma_min", sigma_min) < 1:
        raise ValueError(f"sigma_min must be at least 0 and below 1, got {sigma_min}")
    like = flow.like
    check_vectors("x", x, flow.features)
    if x.dtype != like.dtype:
        raise TypeError(f"x must have the flow's dtype, {like.dtype}, got {x.dtype}")
    given = flow(context).batch_shape
    try:
        batch = torch.broadcast_shapes(x.shape[:-1], given)
    except RuntimeError:
        wanted = f"batch dimensions that fit those of context, {tuple(given)}"
        raise ValueError(f"x must have {wanted}, got {tuple(x.shape[:-1])}") from None
    x = x.expand(*batch, flow.features)
    t = torch.rand(x.shape[:-1], generator=generator, dtype=x.dtype, device=x.device)
    z_0 = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    u = x - (1 - sigma_min) * z_0
    z_t = z_0 + t.unsqueeze(-1) * u
    return (flow.velocity(t, z_t, context) - u).square().sum(-1)
