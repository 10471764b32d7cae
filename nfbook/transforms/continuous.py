"""Continuous transforms: a point moves along a vector field, from one time to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nfbook._checks import check_count, check_real, check_type
from nfbook.transforms.base import Transform

__all__ = ["Continuous", "Solution", "VectorField", "rademacher"]

METHODS = ("dopri5", "dopri8")

Dynamics = Callable[[Tensor, Tensor], Tensor]


class VectorField:
    r"""A velocity v(z, t), the right side of an ordinary differential equation.

    .. math:: \frac{\mathrm{d} \mathbf{z}}{\mathrm{d} t} = \mathbf{v}(\mathbf{z}, t)

    A field defines ``__call__``. It may also define `with_divergence`, where it knows a cheaper
    way than autograd's, and `parameters`, which only the adjoint method asks for.

    If v is continuous in t and Lipschitz in z, with one constant for all z, the equation has
    exactly one solution through every point, for all times. So the map from start to end is a
    bijection of all of R^D.

    Example:
        A rotation, whose divergence is zero:

        >>> class Rotation(VectorField):
        ...     def __call__(self, t, z):
        ...         x, y = z.unbind(-1)
        ...         return torch.stack([-y, x], -1)
        >>> Rotation().with_divergence(torch.tensor(0.0), torch.ones(2), torch.eye(2))
        (tensor([-1.,  1.]), tensor(0.))
    """

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return the velocity, `(*, D)`, at the time t, `()`, and the points z, `(*, D)`."""
        raise NotImplementedError

    def with_divergence(self, t: Tensor, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the velocity and its divergence :math:`\operatorname{tr} \mathbf{J}`.

        .. math:: \operatorname{tr} \mathbf{J} = \sum_s \mathbf{e}_s^\top \mathbf{J} \mathbf{e}_s,
            \qquad \mathbf{J} = \frac{\partial \mathbf{v}}{\partial \mathbf{z}}, \qquad
            \sum_s \mathbf{e}_s \mathbf{e}_s^\top = \mathbf{I}.

        It is exact where the e are the D unit vectors. Random e for which the last equation holds
        on average give an unbiased estimate (Hutchinson, 1989). Here each e costs one
        vector-Jacobian product.

        Arguments:
            t: The time, `()`.
            z: The points, `(*, D)`.
            directions: The vectors e, `(*, S, D)`.
        """
        # The zero makes the velocity depend on z. Where it does not, torch's vmap below crashes.
        velocity, pullback = torch.func.vjp(lambda z: self(t, z) + 0 * z, z)[:2]
        directions = directions.expand(*z.shape[:-1], *directions.shape[-2:])
        rows = torch.func.vmap(lambda e: pullback(e)[0], in_dims=-2, out_dims=-2)(directions)
        return velocity, (rows * directions).sum((-2, -1))

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors for which the adjoint method is to find gradients."""
        raise NotImplementedError(f"{type(self).__name__} must define parameters for adjoint=True")


class Solution(NamedTuple):
    """Where the points came to, and what it cost.

    Attributes:
        value: The points at the end, `(*, D)`.
        ladj: The log-determinant, `(*)`.
        evaluations: How often the vector field was evaluated.

    Example:
        >>> Solution(torch.zeros(5, 2), torch.zeros(5), evaluations=20).value.shape
        torch.Size([5, 2])
    """

    value: Tensor
    ladj: Tensor
    evaluations: int


class Continuous(Transform):
    r"""The flow of an ordinary differential equation (Chen et al., 2018).

    .. math:: t(\mathbf{z}_0) = \mathbf{z}(t_1)
            = \mathbf{z}_0 + \int_{t_0}^{t_1} \mathbf{v}(\mathbf{z}(t), t) \,\mathrm{d} t,
        \qquad \log |\det J_t(\mathbf{z}_0)| = \int_{t_0}^{t_1}
            \operatorname{tr} \frac{\partial \mathbf{v}}{\partial \mathbf{z}} \,\mathrm{d} t.

    The inverse is the same equation from the end to the start. The second integral is the
    instantaneous change of variables (theorem 1): over a short time h the map is
    :math:`\mathbf{z} + h \mathbf{v} + O(h^2)`, its determinant
    :math:`1 + h \operatorname{tr} \mathbf{J} + O(h^2)`, and the logarithms add up.

    Both integrals are found together, in one of two ways:

    - By default an adaptive Runge-Kutta method, from the library torchdiffeq. It makes its steps
      so short that an estimate of the error, of each number and in each step, is below
      ``tolerance`` times (1 + the number's size). All points share their steps, so these are as
      short as the hardest point needs. They depend on the data, so neither
      ``torch.compile(fullgraph=True)`` nor ``torch.func`` can follow.
    - With ``steps``, that many equal steps of the classical Runge-Kutta method of order 4. Both
      can follow these. Nothing watches the error, which falls with the fourth power of the step.

    So values, log-determinants and round trips are exact up to the error of the solver, which it
    estimates and does not bound: it can step over a short burst of the field. The
    gradient is that of the computed numbers, through all steps of the solver, whose lengths count
    as constants. With ``adjoint`` it is instead the solution of another differential equation,
    the adjoint one, from the end to the start (section 2 of the paper). This needs no memory for
    the steps, takes about as many evaluations again, and is exact up to the tolerance. It gives
    first derivatives only.

    Arguments:
        field: The velocity v. Batch dimensions of its parameters are broadcast against z's.
        start: The time t_0.
        end: The time t_1.
        tolerance: The relative and absolute error allowed in a step. Below eight machine epsilons
            of the dtype it counts as that, since no step could keep less.
        method: The adaptive method of Dormand and Prince, ``"dopri5"`` of order 5 or ``"dopri8"``
            of order 8. The second keeps small tolerances with fewer evaluations.
        steps: The number of fixed steps; None for the adaptive solver.
        adjoint: Whether the gradient comes from the adjoint equation.
        probe: None for the exact trace, which costs D products with the Jacobian. Otherwise a
            random vector e, `(*, D)`, with mean zero and covariance I, as from `rademacher`. Then
            the trace is estimated by :math:`\mathbf{e}^\top \mathbf{J} \mathbf{e}`, with the same e
            throughout, so that the solver sees a smooth function (Grathwohl et al., 2019). The
            log-determinant is then unbiased, and in both directions the same but for its sign.

    Raises:
        RuntimeError: The adaptive solver cannot go on, because the field is too steep or not
            finite, or because of ``torch.func.vmap``.

    Example:
        With v(z) = a z, the flow over a time of 1 is a multiplication by e^a:

        >>> class Growth(VectorField):
        ...     def __call__(self, t, z):
        ...         return 0.5 * z
        >>> flow = Continuous(Growth())
        >>> flow.call_and_ladj(torch.ones(2))
        (tensor([1.6487, 1.6487]), tensor(1.))
        >>> flow.solve(torch.ones(2)).evaluations < 50
        True
    """

    def __init__(
        self,
        field: VectorField,
        *,
        start: float = 0.0,
        end: float = 1.0,
        tolerance: float = 1e-6,
        method: str = "dopri5",
        steps: int | None = None,
        adjoint: bool = False,
        probe: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_type("field", field, VectorField, "a VectorField")
        self.field = field
        self.start, self.end = check_real("start", start), check_real("end", end)
        check_solver(tolerance, method, steps, adjoint)
        self.tolerance, self.method = tolerance, method
        self.steps, self.adjoint = steps, adjoint
        self.probe = probe

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the field from start to end."""
        return self.solve(z)[:2]

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the field from end to start."""
        return self.solve(y, reverse=True)[:2]

    def solve(self, z: Tensor, *, reverse: bool = False) -> Solution:
        """Return the same, with the number of evaluations that it took.

        Arguments:
            z: The points, `(*, D)`.
            reverse: Whether to go from end to start.
        """
        count = 1
        if self.probe is None:
            directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        else:
            directions = self.probe.unsqueeze(-2)
            z = z.expand(torch.broadcast_shapes(z.shape, self.probe.shape))

        def dynamics(t: Tensor, state: Tensor) -> Tensor:
            nonlocal count
            count += 1
            velocity, divergence = self.field.with_divergence(t, state[..., :-1], directions)
            divergence = divergence.expand(velocity.shape[:-1])
            return torch.cat([velocity, divergence.unsqueeze(-1)], -1)

        state = self._integrate(dynamics, z, reverse, ladj=True)
        return Solution(state[..., :-1], state[..., -1], count)

    # Where nobody asks for the log-determinant, it is not computed.

    def _call(self, z: Tensor) -> Tensor:
        return self._integrate(self.field, z, reverse=False, ladj=False)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._integrate(self.field, y, reverse=True, ladj=False)

    def _integrate(self, dynamics: Dynamics, z: Tensor, reverse: bool, ladj: bool) -> Tensor:
        start, end = (self.end, self.start) if reverse else (self.start, self.end)
        with torch.no_grad():
            velocity = self.field(z.new_full((), start), z)
        # The state has its full shape from the start. Only the field knows the parameters' shapes.
        state = z = z.expand(velocity.shape)
        if ladj:
            state = torch.cat([z, torch.zeros_like(z[..., :1])], -1)
        if self.steps is not None:
            return runge_kutta(dynamics, state, start, end, self.steps)
        if z.is_meta or not z.numel():
            return state  # there are no numbers to move
        return adaptive(
            dynamics,
            state,
            start,
            end,
            tolerance=self.tolerance,
            method=self.method,
            first_step=short_step(z.detach(), (end - start) * velocity),
            adjoint_parameters=self.field.parameters if self.adjoint else None,
        )

    def __repr__(self) -> str:
        return f"Continuous({type(self.field).__name__}, start={self.start:g}, end={self.end:g})"


def check_solver(tolerance: object, method: object, steps: object, adjoint: bool) -> None:
    """Check the arguments that choose a solver.

    Example:
        >>> check_solver(0.0, "dopri5", None, False)
        Traceback (most recent call last):
        ...
        ValueError: tolerance must be positive, got 0.0
    """
    if not check_real("tolerance", tolerance) > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method}")
    if steps is not None:
        check_count("steps", steps)
        if adjoint:
            raise ValueError("adjoint must be False with fixed steps, got True")


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return random signs, as a probe of the trace for points like the given ones.

    Of all vectors with mean zero and covariance I, made of independent numbers, they give the
    estimate the smallest variance.

    Arguments:
        like: Points, `(*, D)`, whose shape, dtype and device the signs take.
        generator: The source of randomness.

    Example:
        >>> rademacher(torch.zeros(2, 3), torch.Generator().manual_seed(0)).abs()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    return torch.empty_like(like).bernoulli_(0.5, generator=generator) * 2 - 1


def runge_kutta(dynamics: Dynamics, state: Tensor, start: float, end: float, steps: int) -> Tensor:
    r"""Return a solution at its end, by equal steps of the classical method of order 4.

    .. math:: \mathbf{s}(t + h) = \mathbf{s}(t)
            + \tfrac{h}{6} (\mathbf{k}_1 + 2 \mathbf{k}_2 + 2 \mathbf{k}_3 + \mathbf{k}_4) + O(h^5).

    Example:
        The number e, with an error of 2e-6:

        >>> round(float(runge_kutta(lambda t, s: s, torch.ones(()), 0.0, 1.0, 10)), 6)
        2.71828
    """
    h = (end - start) / steps
    for i in range(steps):
        t = state.new_full((), start + i * h)
        k1 = dynamics(t, state)
        k2 = dynamics(t + h / 2, state + h / 2 * k1)
        k3 = dynamics(t + h / 2, state + h / 2 * k2)
        k4 = dynamics(t + h, state + h * k3)
        state = state + h / 6 * (k1 + 2 * (k2 + k3) + k4)
    return state


def short_step(z: Tensor, velocity: Tensor) -> Tensor:
    """Return a time, at most 1, in which no number changes by more than about a tenth.

    Example:
        >>> short_step(torch.zeros(2), torch.tensor([0.5, 0.0]))
        tensor(0.2000)
    """
    return (0.1 * (1 + z.abs()) / velocity.abs()).min().clamp(max=1)


def adaptive(
    dynamics: Dynamics,
    state: Tensor,
    start: float,
    end: float,
    *,
    tolerance: float,
    method: str,
    first_step: Tensor,
    adjoint_parameters: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Return a solution at its end, by an adaptive method.

    Arguments:
        dynamics: The derivative of the state by the time.
        state: The state at the start.
        start: The time to start from.
        end: The time to go to, which may be the earlier one.
        tolerance: The error allowed in a step.
        method: The name of the method.
        first_step: The first step to try, `()`, as a part of the whole time.
        adjoint_parameters: The tensors whose gradients the adjoint equation finds; None for
            gradients through the steps.

    Example:
        >>> s = torch.ones((), dtype=torch.float64)
        >>> solver = {"tolerance": 1e-9, "method": "dopri8", "first_step": s}
        >>> round(float(adaptive(lambda t, s: s, s, 0.0, 1.0, **solver)), 8)
        2.71828183
    """
    from torchdiffeq import odeint, odeint_adjoint

    duration = end - start

    # For the library time always goes from 0 to 1. In the other direction its adjoint would miss
    # the times in "step_t".
    def scaled(s: Tensor, state: Tensor) -> Tensor:
        return duration * dynamics(start + duration * s, state)

    times = state.new_tensor([0.0, 1.0])
    tolerance = max(tolerance, 8 * torch.finfo(state.dtype).eps)
    arguments = {
        "rtol": tolerance,
        "atol": tolerance,
        "method": method,
        "options": {
            # Every number of every point is held to the tolerance. An average over the points
            # would let one of them be wrong among many that are easy.
            "norm": largest,
            # The library's own guess is differentiated too, and far too short where v is zero.
            "first_step": first_step,
            # The last step ends at the end. Otherwise it would go past it, and the end would be
            # interpolated, with an error that no tolerance bounds.
            "step_t": times,
        },
    }
    try:
        if adjoint_parameters is None:
            path = odeint(scaled, state, times, **arguments)
        else:
            path = odeint_adjoint(
                scaled, state, times, adjoint_params=adjoint_parameters, **arguments
            )
            if path.requires_grad:
                path.register_hook(first_derivatives_only)
    except AssertionError as error:
        raise RuntimeError(f"the adaptive solver cannot go on: {error}") from error
    except RuntimeError as error:
        if "vmap" in str(error):
            raise RuntimeError(
                "torch.func cannot follow the adaptive solver; give the number of fixed steps"
            ) from error
        raise
    end_of_path: Tensor = path[-1]
    return end_of_path


def first_derivatives_only(gradient: Tensor) -> None:
    """Refuse to make a graph of the gradient, from which the adjoint's part would be missing."""
    if torch.is_grad_enabled():
        raise RuntimeError("second derivatives need adjoint=False")


def largest(values: Tensor) -> Tensor:
    """Return the largest absolute value."""
    return values.abs().max()
