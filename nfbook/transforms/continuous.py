"""Continuous transforms: a point moves along a vector field, from one time to another."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nfbook._checks import check_generator, check_real, check_type
from nfbook.transforms._parameters import check_parameters
from nfbook.transforms.base import Transform
from nfbook.transforms.ode import Dynamics, adaptive, check_solver, runge_kutta, short_step

__all__ = ["Continuous", "Solution", "VectorField", "rademacher"]


class VectorField:
    r"""A velocity v(z, t), the right side of an ordinary differential equation.

    .. math:: \frac{\mathrm{d} \mathbf{z}}{\mathrm{d} t} = \mathbf{v}(\mathbf{z}, t)

    A field defines ``__call__``. It may also define `with_divergence`, where it knows a cheaper
    way than autograd's; `features`, if it is for vectors of one size only; and `parameters`, which
    only the adjoint method asks for.

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
    def features(self) -> int | None:
        """The size D of the vectors that it moves; None if it moves those of any size."""
        return None

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
        TypeError: The field is no `VectorField`, or the probe no floating-point tensor.
        ValueError: The probe, where a log-determinant is asked for, has another size than z.
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
        if probe is not None:
            check_parameters(probe=(probe, "D"))
        self.probe = probe

    @property
    def features(self) -> int | None:
        """That of the field."""
        return self.field.features

    def _call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the field from start to end."""
        return self._path(z, reverse=False)[:2]

    def _inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the field from end to start."""
        return self._path(y, reverse=True)[:2]

    def solve(self, z: Tensor, *, reverse: bool = False) -> Solution:
        """Return the same, with the number of evaluations that it took.

        Arguments:
            z: The points, `(*, D)`.
            reverse: Whether to go from end to start.

        Raises:
            TypeError: The points are not a dense tensor of floating-point numbers.
            ValueError: Their last dimension is not D.
        """
        return self._at_points("z", z, partial(self._path, reverse=reverse))

    def _path(self, z: Tensor, *, reverse: bool) -> Solution:
        count = 1
        if self.probe is None:
            directions = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        else:
            if self.probe.shape[-1] != z.shape[-1]:
                raise ValueError(
                    f"probe must have shape (*, {z.shape[-1]}), got {tuple(self.probe.shape)}"
                )
            directions = self.probe.unsqueeze(-2)
            z = z.expand(torch.broadcast_shapes(z.shape, self.probe.shape))

        def dynamics(t: Tensor, state: Tensor) -> Tensor:
            nonlocal count
            count += 1
            velocity, divergence = self.field.with_divergence(t, state[..., :-1], directions)
            divergence = divergence.expand(velocity.shape[:-1])
            return torch.cat([velocity, divergence.unsqueeze(-1)], -1)

        state, good = self._integrate(dynamics, z, reverse, ladj=True)
        return Solution(torch.where(good, state[..., :-1], z), state[..., -1], count)

    # Where nobody asks for the log-determinant, it is not computed.

    def _value(self, z: Tensor) -> Tensor:
        return self._move(z, reverse=False)

    def _inverse_value(self, y: Tensor) -> Tensor:
        return self._move(y, reverse=True)

    def _move(self, z: Tensor, reverse: bool) -> Tensor:
        state, good = self._integrate(self.field, z, reverse, ladj=False)
        return torch.where(good, state, z)

    def _integrate(
        self, dynamics: Dynamics, z: Tensor, reverse: bool, ladj: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the state at the end, and which points were moved, `(*, 1)`.

        A point that is infinite or no number has nowhere to go. The origin takes its place, since
        the solver's steps are common to all points, and it would stop the others.
        """
        start, end = (self.end, self.start) if reverse else (self.start, self.end)
        good = z.isfinite().all(-1, keepdim=True)
        z = torch.where(good, z, 0)
        with torch.no_grad():
            velocity = self.field(z.new_full((), start), z)
        # The state has its full shape from the start. Only the field knows the parameters' shapes.
        state = z = z.expand(velocity.shape)
        if ladj:
            state = torch.cat([z, torch.zeros_like(z[..., :1])], -1)
        state = self._solve(dynamics, state, velocity, start, end)
        if ladj:
            state = torch.cat([state[..., :-1], torch.where(good, state[..., -1:], 0)], -1)
        return state, good

    def _solve(
        self, dynamics: Dynamics, state: Tensor, velocity: Tensor, start: float, end: float
    ) -> Tensor:
        if self.steps is not None:
            return runge_kutta(dynamics, state, start, end, self.steps)
        if state.is_meta or not velocity.numel():
            # There are no numbers to move. What comes out depends on the parameters all the same.
            return state + dynamics(state.new_full((), start), state)
        z = state[..., : velocity.shape[-1]]
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


def rademacher(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return random signs, as a probe of the trace for points like the given ones.

    Of all vectors with mean zero and covariance I, made of independent numbers, they give the
    estimate the smallest variance.

    Arguments:
        like: Points, `(*, D)`, whose shape, dtype and device the signs take.
        generator: The source of randomness; None for torch's own.

    Example:
        >>> rademacher(torch.zeros(2, 3), generator=torch.Generator().manual_seed(0)).abs()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    check_type("like", like, Tensor, "a torch.Tensor")
    check_generator(generator)
    return torch.empty_like(like).bernoulli_(0.5, generator=generator) * 2 - 1
