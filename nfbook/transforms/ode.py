"""Solving ordinary differential equations: by fixed steps, and by an adaptive library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nfbook._checks import check_count, check_real

__all__ = ["adaptive", "check_solver", "runge_kutta", "short_step"]

METHODS = ("dopri5", "dopri8")


Dynamics = Callable[[Tensor, Tensor], Tensor]


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
            "norm": _largest,
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
                path.register_hook(_first_derivatives_only)
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


def _first_derivatives_only(gradient: Tensor) -> None:
    """Refuse to make a graph of the gradient, from which the adjoint's part would be missing."""
    if torch.is_grad_enabled():
        raise RuntimeError("second derivatives need adjoint=False")


def _largest(values: Tensor) -> Tensor:
    """Return the largest absolute value."""
    return values.abs().max()
