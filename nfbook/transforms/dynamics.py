"""Steps of Hamiltonian and of Langevin dynamics: bijections that follow a target density."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nfbook._checks import check_callable, check_count, check_real
from nfbook.transforms.base import Transform

__all__ = ["Langevin", "Leapfrog", "score"]

LogDensity = Callable[[Tensor], Tensor]


def score(log_density: LogDensity, z: Tensor) -> Tensor:
    r"""Return :math:`\nabla_{\mathbf{z}} \log \pi(\mathbf{z})`, `(*, D)`.

    Arguments:
        log_density: :math:`\log \pi` up to a constant, from `(*, D)` to `(*)`.
        z: Points, `(*, D)`.

    Example:
        >>> score(lambda z: -0.5 * z.square().sum(-1), torch.tensor([1.0, 2.0]))
        tensor([-1., -2.])
    """
    gradient: Tensor = torch.func.grad(lambda z: log_density(z).sum())(z)
    return gradient


class Leapfrog(Transform):
    r"""Leapfrog steps of Hamiltonian dynamics, on a position z and a momentum p.

    A particle of mass 1 rolls in the potential :math:`-\log \pi(\mathbf{z})`:

    .. math:: \frac{\mathrm{d} \mathbf{z}}{\mathrm{d} t} = \mathbf{p}, \qquad
        \frac{\mathrm{d} \mathbf{p}}{\mathrm{d} t} = \nabla \log \pi(\mathbf{z}), \qquad
        H(\mathbf{z}, \mathbf{p}) = -\log \pi(\mathbf{z}) + \tfrac12 \|\mathbf{p}\|^2.

    This is the Hamiltonian flow of Rezende and Mohamed (2015, section 3.2). It keeps the energy H
    and all volumes. A leapfrog step of size :math:`\varepsilon` follows it for a short time:

    .. math::
        \mathbf{p}_{1/2} &= \mathbf{p}_0 + \tfrac{\varepsilon}{2} \nabla \log \pi(\mathbf{z}_0) \\
        \mathbf{z}_1 &= \mathbf{z}_0 + \varepsilon\, \mathbf{p}_{1/2} \\
        \mathbf{p}_1 &= \mathbf{p}_{1/2} + \tfrac{\varepsilon}{2} \nabla \log \pi(\mathbf{z}_1).

    Each line adds to one half of the pair a function of the other half, so its Jacobian is
    triangular with ones on the diagonal. Hence a step is a bijection with determinant 1, exactly,
    for every step size and every differentiable :math:`\log \pi`. Its inverse is the step of size
    :math:`-\varepsilon`, or the same step with the momentum reversed before and after.

    The energy changes by an amount of order :math:`\varepsilon^2`, which does not build up while
    the steps are stable. For a Gaussian they are where :math:`\varepsilon` is below twice its
    smallest standard deviation. With larger ones points fly off, though volumes are kept. In the
    same way points fly off that start where the curvature of :math:`\log \pi` is beyond
    :math:`4 / \varepsilon^2`; with tails lighter than a Gaussian's there are such points, far out.

    Arguments:
        log_density: :math:`\log \pi` up to a constant, from `(*, D)` to `(*)`.
        step_size: :math:`\varepsilon`, `(*, D)`, or one number for all. One size for each
            coordinate is the same as one mass for each.
        steps: The number of steps.

    Raises:
        ValueError: The vectors given to the transform have an odd size.

    Example:
        The transform acts on (z, p), `(*, 2 D)`. A Gaussian's orbits are circles. Here is the
        start of one, and the place (cos 1, -sin 1) after a time of 1:

        >>> flow = Leapfrog(lambda z: -0.5 * z.square().sum(-1), 0.01, steps=100)
        >>> start = torch.tensor([1.0, 0.0])
        >>> end = flow(start)
        >>> end
        tensor([ 0.5403, -0.8415])
        >>> torch.allclose(flow.inv(end), start, atol=1e-5)
        True
    """

    def __init__(self, log_density: LogDensity, step_size: Tensor | float, steps: int = 1) -> None:
        super().__init__()
        check_callable("log_density", log_density)
        _check_step_size(step_size)
        check_count("steps", steps)
        self.log_density, self.step_size, self.steps = log_density, step_size, steps

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go forward in time."""
        return self._move(z, self.step_size)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back in time."""
        return self._move(y, -self.step_size)

    def energy(self, state: Tensor) -> Tensor:
        """Return H, `(*)`, of positions and momenta, `(*, 2 D)`."""
        z, p = _parts(state, 2)
        return 0.5 * p.square().sum(-1) - self.log_density(z)

    def _move(self, state: Tensor, step_size: Tensor | float) -> tuple[Tensor, Tensor]:
        z, p = _parts(_full(self.log_density, state, 2), 2)
        force = score(self.log_density, z)
        for _ in range(self.steps):
            z, p, force = _leapfrog(self.log_density, step_size, z, p, force)
        return _volume_preserved(z, p)


class Langevin(Transform):
    r"""Langevin steps, on a position and on the noise that moves it.

    .. math:: \mathrm{d} \mathbf{z} = \nabla \log \pi(\mathbf{z}) \,\mathrm{d} t
            + \sqrt{2} \,\mathrm{d} \boldsymbol{\xi}

    has :math:`\pi` as its stationary density (Rezende and Mohamed, 2015, section 3.2, where
    :math:`\pi` is :math:`e^{-\mathcal{L}}` up to a constant). Its Euler steps, each with a noise
    :math:`\boldsymbol{\xi}_k` of its own, are

    .. math:: \mathbf{z}_k = \mathbf{z}_{k-1} + \varepsilon \nabla \log \pi(\mathbf{z}_{k-1})
            + \sqrt{2 \varepsilon}\, \boldsymbol{\xi}_k, \qquad k = 1, \dots, K.

    They are not a bijection of z alone, since many positions and noises meet in one place. The pair
    is mapped one to one if the step also keeps the noise, with its sign reversed, that would lead
    back in the same manner. It is defined by
    :math:`\mathbf{z}_{k-1} = \mathbf{z}_k + \varepsilon \nabla \log \pi(\mathbf{z}_k)
    - \sqrt{2 \varepsilon}\, \boldsymbol{\xi}'_k`, so

    .. math:: \boldsymbol{\xi}'_k = \boldsymbol{\xi}_k + \sqrt{\varepsilon / 2}\,
        \bigl(\nabla \log \pi(\mathbf{z}_{k-1}) + \nabla \log \pi(\mathbf{z}_k)\bigr).

    Together this is a `Leapfrog` step of size :math:`\sqrt{2 \varepsilon}` whose momentum is the
    noise, so the determinant is 1. The transform maps :math:`(\mathbf{z}_0, \boldsymbol{\xi}_1,
    \dots, \boldsymbol{\xi}_K)` to :math:`(\mathbf{z}_K, \boldsymbol{\xi}'_1, \dots,
    \boldsymbol{\xi}'_K)`.

    With steps that are not small the stationary density differs from :math:`\pi`: for a Gaussian of
    variance v its variance is :math:`v / (1 - \varepsilon / (2 v))`, if :math:`\varepsilon < 2 v`.
    Beyond, points fly off, as they do for a `Leapfrog`.

    Arguments:
        log_density: :math:`\log \pi` up to a constant, from `(*, D)` to `(*)`.
        step_size: :math:`\varepsilon`, positive, `(*, D)`, or one number for all.
        steps: The number of steps K.

    Raises:
        ValueError: The step size is a number that is not positive, or the size of the vectors given
            to the transform is not a multiple of K + 1.

    Example:
        >>> flow = Langevin(lambda z: -0.5 * z.square().sum(-1), 0.02)
        >>> flow(torch.tensor([1.0, 0.5]))  # 1 - 0.02 + 0.2 * 0.5, and the noise
        tensor([1.0800, 0.2920])
    """

    def __init__(self, log_density: LogDensity, step_size: Tensor | float, steps: int = 1) -> None:
        super().__init__()
        check_callable("log_density", log_density)
        _check_step_size(step_size, positive=True)
        check_count("steps", steps)
        self.log_density, self.step_size, self.steps = log_density, step_size, steps

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Go from the first step to the last."""
        z, *noises = _parts(_full(self.log_density, z, self.steps + 1), self.steps + 1)
        step_size = (2 * self.step_size) ** 0.5
        force = score(self.log_density, z)
        for k in range(self.steps):
            z, noises[k], force = _leapfrog(self.log_density, step_size, z, noises[k], force)
        return _volume_preserved(z, *noises)

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Go back from the last step to the first."""
        z, *noises = _parts(_full(self.log_density, y, self.steps + 1), self.steps + 1)
        step_size = -((2 * self.step_size) ** 0.5)
        force = score(self.log_density, z)
        for k in reversed(range(self.steps)):
            z, noises[k], force = _leapfrog(self.log_density, step_size, z, noises[k], force)
        return _volume_preserved(z, *noises)


def _leapfrog(
    log_density: LogDensity, step_size: Tensor | float, z: Tensor, p: Tensor, force: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return position, momentum and force after one step, from those before it."""
    p = p + 0.5 * step_size * force
    z = z + step_size * p
    force = score(log_density, z)
    return z, p + 0.5 * step_size * force, force


def _parts(state: Tensor, count: int) -> list[Tensor]:
    """Return the vectors of which a state consists."""
    size, rest = divmod(state.shape[-1], count)
    if rest:
        raise ValueError(
            f"the last dimension of z must be a multiple of {count}, got shape {tuple(state.shape)}"
        )
    return list(state.split(size, -1))


def _full(log_density: LogDensity, state: Tensor, count: int) -> Tensor:
    """Return the state with the batch dimensions of the density's own parameters, too."""
    with torch.no_grad():
        batch = log_density(_parts(state, count)[0]).shape
    return state.expand(*torch.broadcast_shapes(batch, state.shape[:-1]), state.shape[-1])


def _volume_preserved(*vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state of these vectors, and zero as log-determinant."""
    state = torch.cat(vectors, -1)
    return state, state.new_zeros(state.shape[:-1])


def _check_step_size(step_size: object, *, positive: bool = False) -> None:
    """Check a step size that is a number; a tensor's values are not looked at.

    Example:
        >>> _check_step_size(-0.1, positive=True)
        Traceback (most recent call last):
        ...
        ValueError: step_size must be positive, got -0.1
    """
    if isinstance(step_size, Tensor):
        return
    number = check_real("step_size", step_size, "a torch.Tensor or a number")
    if positive and number <= 0:
        raise ValueError(f"step_size must be positive, got {number}")
