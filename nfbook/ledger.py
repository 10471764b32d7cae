"""The ledger: the checks behind every numbered equation and every stochastic number.

A chapter names an equation by its label and hands over both sides. The check either raises
`EquationError` with the worst case, or shows one line that is the same on every machine::

    ✓ eq-elbo-gap holds to 1e-10: 200 random models

Five forms cover what a book of probability states:

====================  =========================================================
`verify`              two sides are equal
`verify_bound`        one side is never above the other
`verify_limit`        a sequence approaches its limit, at the stated rate
`verify_mean`         a Monte Carlo average has the stated expectation
`verify_samples`      samples follow the stated distribution
====================  =========================================================

`estimate` is for numbers, not equations: it shows a stochastic result beside the value that it
must lie close to, and raises when it does not.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nfbook._checks import check_count, check_generator, check_same_dtype, check_tensor

__all__ = [
    "EquationError",
    "estimate",
    "verify",
    "verify_bound",
    "verify_limit",
    "verify_mean",
    "verify_samples",
]

Side = Tensor | Callable[..., Tensor]
Draw = Callable[[torch.Generator], tuple[Any, ...]]

LABEL = re.compile(r"eq-[a-z0-9]+(-[a-z0-9]+)*")

# A check looser than this says nothing about an equation.
LOOSEST = 1e-2


class EquationError(AssertionError):
    """A numbered equation that does not hold; the message shows the worst case."""


def verify(
    label: str,
    lhs: Side,
    rhs: Side,
    *,
    inputs: Draw | None = None,
    trials: int = 200,
    tolerance: float = 1e-10,
    scale: float | None = None,
    over: str | None = None,
    wrong: Mapping[str, Side] | None = None,
    generator: torch.Generator | None = None,
) -> None:
    r"""Check that two sides of an equation are equal.

    The error of one element is :math:`|l - r| / \max(|l|, |r|)`, so a small number is held to the
    same standard as a large one. Where the right side is zero, ``scale`` says against which size
    the difference :math:`|l - r|` is measured instead.

    Arguments:
        label: The equation's label on the page, ``eq-...``.
        lhs: The left side: a tensor, or a function of the drawn inputs that returns one.
        rhs: The right side, of the same kind, shape and dtype.
        inputs: Draws one tuple of arguments for both sides from a generator.
        trials: How many times ``inputs`` is drawn.
        tolerance: The largest error that counts as rounding.
        scale: The size of a difference of 1; by default the larger of both sides.
        over: What was tried, as shown in the line.
        wrong: Mistaken right sides by name. Each must fail, and the line says so.
        generator: The source of randomness; by default one with seed 0.

    Raises:
        EquationError: The sides differ by more than ``tolerance``, or a mistaken side does not.
        TypeError: A side or ``inputs`` is not of the kind described above.
        ValueError: The check is vacuous: a side compared with itself, inputs that never vary,
            a tolerance above 0.01, or a scale that makes it as loose as that.

    Example:
        >>> def angle(generator):
        ...     return (torch.rand((), generator=generator, dtype=torch.float64),)
        >>> verify(
        ...     "eq-double-angle",
        ...     lambda t: torch.sin(2 * t),
        ...     lambda t: 2 * torch.sin(t) * torch.cos(t),
        ...     inputs=angle,
        ...     over="random angles",
        ...     wrong={"without the 2": lambda t: torch.sin(t) * torch.cos(t)},
        ... )
        ✓ eq-double-angle holds to 1e-10: 200 random angles; without the 2 it fails
    """
    _check_request(label, tolerance)
    cases = _cases(inputs, trials, generator)
    if lhs is rhs:
        raise ValueError(f"{label}: lhs and rhs are the same object, so the check cannot fail")
    left = _evaluate(label, "lhs", lhs, cases)
    right = _evaluate(label, "rhs", rhs, cases)
    if scale is not None:
        _check_scale(label, scale, tolerance, right)
    _raise_if_worse(label, _errors(label, left, right, scale), tolerance, left, right, cases)
    for mistake, side in _mistakes(wrong):
        mistaken = _errors(label, left, _evaluate(label, mistake, side, cases), scale)
        if not bool((mistaken > tolerance).any()):
            raise EquationError(f"{label}: {mistake} it should fail, but it holds to {tolerance:g}")
    _show(label, f"holds to {tolerance:g}: {_count(cases, left, over)}{_failures(wrong)}")


def verify_bound(
    label: str,
    lower: Side,
    upper: Side,
    *,
    inputs: Draw | None = None,
    trials: int = 200,
    tolerance: float = 1e-10,
    strict: bool = True,
    over: str | None = None,
    wrong: Mapping[str, Side] | None = None,
    generator: torch.Generator | None = None,
) -> None:
    r"""Check that ``lower`` is never above ``upper``.

    A rounding error of ``tolerance``, relative to the larger side, is allowed. With ``strict`` the
    gap must also be wider than that somewhere: otherwise the statement is an equation, and `verify`
    is its check.

    Arguments:
        label: As in `verify`.
        lower: The side that is at most ``upper``.
        upper: The other side.
        inputs: As in `verify`.
        trials: As in `verify`.
        tolerance: The rounding error allowed, relative to the larger side.
        strict: Whether a gap must be seen.
        over: As in `verify`.
        wrong: Mistaken upper sides by name. Each must fall below ``lower`` somewhere.
        generator: As in `verify`.

    Raises:
        EquationError: ``lower`` is above ``upper`` in some case, or the gap is never open.
        ValueError: The check is vacuous, as in `verify`.

    Example:
        >>> def positive(generator):
        ...     return (torch.rand(8, generator=generator, dtype=torch.float64) + 0.1,)
        >>> verify_bound(
        ...     "eq-jensen",
        ...     lambda t: t.log().mean(),
        ...     lambda t: t.mean().log(),
        ...     inputs=positive,
        ... )
        ✓ eq-jensen holds as a bound: 200 random inputs
    """
    _check_request(label, tolerance)
    cases = _cases(inputs, trials, generator)
    if lower is upper:
        raise ValueError(f"{label}: lower and upper are the same object, so the check cannot fail")
    low = _evaluate(label, "lower", lower, cases)
    high = _evaluate(label, "upper", upper, cases)

    def excess(top: Tensor) -> Tensor:
        size = _errors(label, low, top, None)
        return torch.where(low <= top, -size, size)

    _raise_if_worse(label, excess(high), tolerance, low, high, cases, names=("lower", "upper"))
    if strict and not bool((excess(high) < -tolerance).any()):
        raise EquationError(
            f"{label}: both sides are equal in every case, so verify() is the check"
        )
    for mistake, side in _mistakes(wrong):
        if not bool((excess(_evaluate(label, mistake, side, cases)) > tolerance).any()):
            raise EquationError(f"{label}: {mistake} it should fail, but it holds as a bound")
    _show(label, f"holds as a bound: {_count(cases, low, over)}{_failures(wrong)}")


def verify_limit(
    label: str,
    value: Callable[[float], Tensor],
    limit: Tensor,
    *,
    along: Sequence[float],
    tolerance: float,
    rate: float | None = None,
    wrong: Mapping[str, Tensor] | None = None,
) -> None:
    r"""Check that ``value(n)`` approaches ``limit`` along an increasing sequence of n.

    The largest error must shrink at every step and end at or below ``tolerance``. With ``rate`` it
    must shrink like :math:`n^{-\text{rate}}`: the slope between the first and the last point, on
    logarithmic axes, may miss by a tenth of the rate. ``wrong`` holds mistaken limits by name, each
    of which must fail.

    Raises:
        EquationError: The error grows, ends above ``tolerance``, or shrinks at another rate, or
            that of a mistaken limit does not.
        TypeError: ``value`` does not return a tensor, or ``along`` does not hold numbers.
        ValueError: Fewer than three points, or points that are not positive and increasing.

    Example:
        >>> verify_limit(
        ...     "eq-euler",
        ...     lambda n: torch.tensor((1 + 1 / n) ** n, dtype=torch.float64),
        ...     torch.tensor(math.e, dtype=torch.float64),
        ...     along=(1e2, 1e3, 1e4),
        ...     tolerance=2e-4,
        ...     rate=1,
        ...     wrong={"with 3 for e": torch.tensor(3.0, dtype=torch.float64)},
        ... )
        ✓ eq-euler converges to within 0.0002 at 10000, like n^-1; with 3 for e it fails
    """
    _check_request(label, tolerance)
    _check_along(along)
    values = [value(n) for n in along]
    message = _approach(label, values, limit, along, tolerance, rate)
    for mistake, other in _mistakes(wrong):
        try:
            _approach(label, values, other, along, tolerance, rate)
        except EquationError:
            continue
        raise EquationError(f"{label}: {mistake} it should fail, but it converges all the same")
    _show(label, message + _failures(wrong))


def _approach(
    label: str,
    values: list[Tensor],
    limit: Tensor,
    along: Sequence[float],
    tolerance: float,
    rate: float | None,
) -> str:
    """Return how the values approach a limit in words, or raise if they do not."""
    errors = [float(_distance(label, reached, limit).max()) for reached in values]
    shown = ", ".join(f"{n:g}: {e:.3g}" for n, e in zip(along, errors, strict=True))
    if not all(a > b for a, b in pairwise(errors)):
        raise EquationError(f"{label}: the error does not shrink at every step ({shown})")
    if not errors[-1] <= tolerance:
        raise EquationError(
            f"{label}: the last error is above the tolerance {tolerance:g} ({shown})"
        )
    message = f"converges to within {tolerance:g} at {along[-1]:g}"
    if rate is not None:
        _check_between("rate", rate, 0, 100)
        if errors[-1] == 0:
            raise EquationError(f"{label}: the last error is 0, so it has no rate ({shown})")
        slope = math.log(errors[0] / errors[-1]) / math.log(along[-1] / along[0])
        if abs(slope - rate) > 0.1 * rate:
            raise EquationError(f"{label}: the error shrinks like n^-{slope:.3g}, not n^-{rate:g}")
        message += f", like n^-{rate:g}"
    return message


def verify_mean(
    label: str,
    draws: Tensor,
    expected: Tensor,
    *,
    sigmas: float = 5.0,
    precision: float = 0.02,
    over: str = "draws",
    wrong: Mapping[str, Tensor] | None = None,
) -> None:
    r"""Check that the average of independent draws agrees with an expectation.

    The average over the first dimension must lie within ``sigmas`` standard errors of
    ``expected``. Five of them are exceeded by chance once in about two million. So that an
    imprecise average cannot pass, the standard error may be at most ``precision`` times the size
    of ``expected``.

    Arguments:
        label: The equation's label on the page, ``eq-...``.
        draws: Independent draws, with shape `(n, *)`.
        expected: The exact expectation, with shape `(*)`.
        sigmas: How many standard errors the average may be off.
        precision: The largest standard error, relative to the largest element of ``expected``.
        over: What was averaged, as shown in the line.
        wrong: Mistaken expectations by name. Each must be rejected.

    Raises:
        EquationError: The average is too far off, or close to a mistaken expectation.
        ValueError: The standard error is too large for the check to mean anything.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> z = torch.randn(100_000, generator=g, dtype=torch.float64)
        >>> verify_mean("eq-variance", z**2, torch.tensor(1.0, dtype=torch.float64))
        ✓ eq-variance holds on average: 100000 draws, 5 standard errors
    """
    _check_label(label)
    # Six standard errors, to either side, are exceeded by chance once in 500 million.
    _check_between("sigmas", sigmas, 0, 6)
    _check_between("precision", precision, 0, 0.1)
    check_tensor("draws", draws, ("n", *getattr(draws, "shape", ())[1:]))
    if len(draws) < 100:
        raise ValueError(f"draws must hold at least 100 draws, got {len(draws)}")
    error = draws.std(dim=0) / math.sqrt(len(draws))

    def distance(name: str, value: Tensor) -> float:
        check_tensor(name, value, tuple(draws.shape[1:]))
        check_same_dtype(draws=draws, **{name: value})
        off = (draws.mean(dim=0) - value).abs()
        return float((off / error.clamp(min=torch.finfo(error.dtype).tiny)).max())

    off = distance("expected", expected)
    size = expected.abs().max()
    if bool((error > precision * size).any()):
        raise ValueError(
            f"{label}: the standard error {float(error.max()):.3g} is above {precision:g} of the "
            f"expectation's size {float(size):.3g}; average over more draws"
        )
    if off > sigmas:
        raise EquationError(
            f"{label}: the average is {off:.3g} standard errors off, not {sigmas:g}"
        )
    for mistake, value in _mistakes(wrong):
        if distance(mistake, value) <= sigmas:
            raise EquationError(f"{label}: {mistake} it should fail, but the average agrees")
    _show(
        label,
        f"holds on average: {len(draws)} {over}, {sigmas:g} standard errors" + _failures(wrong),
    )


def verify_samples(
    label: str,
    samples: Tensor,
    cdf: Callable[[Tensor], Tensor],
    *,
    false_alarm: float = 1e-6,
    over: str = "samples",
    wrong: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> None:
    r"""Check that one-dimensional samples follow the distribution with the given ``cdf``.

    The largest distance between the empirical and the stated distribution function must stay
    below :math:`\sqrt{\log(2/\alpha) / 2n}`. By the Dvoretzky-Kiefer-Wolfowitz inequality with
    Massart's constant (1990), true samples exceed it with probability at most α, the
    ``false_alarm`` rate, for every n.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> z = torch.rand(10_000, generator=g, dtype=torch.float64)
        >>> verify_samples("eq-root", z.sqrt(), lambda x: x**2)
        ✓ eq-root holds in distribution: 10000 samples, false alarms 1e-06
    """
    _check_label(label)
    _check_between("false_alarm", false_alarm, 0, 0.05)
    check_tensor("samples", samples, ("n",))
    n = len(samples)
    limit = math.sqrt(math.log(2 / false_alarm) / (2 * n))
    if limit > 0.1:
        raise ValueError(
            f"samples must hold at least {math.ceil(50 * math.log(2 / false_alarm))}, got {n}"
        )
    ordered = samples.sort().values
    steps = torch.arange(n + 1, dtype=samples.dtype) / n

    def distance(name: str, distribution: Callable[[Tensor], Tensor]) -> float:
        if not callable(distribution):
            raise TypeError(f"{name} must be a function, got {type(distribution).__name__}")
        stated = distribution(ordered)
        check_tensor(f"{name}'s result", stated, (n,))
        return float(torch.maximum((stated - steps[:-1]).abs(), (stated - steps[1:]).abs()).max())

    apart = distance("cdf", cdf)
    if apart > limit:
        raise EquationError(
            f"{label}: the distribution functions are {apart:.3g} apart, more than {limit:.3g} "
            f"for {n} samples"
        )
    for mistake, distribution in _mistakes(wrong):
        if distance(mistake, distribution) <= limit:
            raise EquationError(f"{label}: {mistake} it should fail, but the samples agree")
    _show(
        label,
        f"holds in distribution: {n} {over}, false alarms {false_alarm:g}" + _failures(wrong),
    )


def estimate(name: str, value: float, *, expected: float, within: float, digits: int = 4) -> None:
    """Show a stochastic number beside the value that it must lie close to.

    Sampled and trained numbers differ in their last digits between processors. The line holds
    the number itself, marked with ≈, and what it is held against; the comparison of stored
    outputs masks the marked digits alone, since this function has just checked them.

    Arguments:
        name: What the number is.
        value: The number.
        expected: The value it estimates, or the value found when the page was written.
        within: The largest distance from ``expected``.
        digits: Significant digits shown.

    Raises:
        AssertionError: ``value`` is further from ``expected`` than ``within``, or NaN.
        TypeError: An argument that should be a number is not.
        ValueError: ``within`` is not positive, or above half of the size of ``expected``: such a
            range says little.

    Example:
        >>> estimate("mean of 100 draws", 2.013, expected=2.0, within=0.1)
        mean of 100 draws ≈ 2.013 (expected 2 ± 0.1)
        >>> estimate("mean of 100 draws", 2.313, expected=2.0, within=0.1)
        Traceback (most recent call last):
        ...
        AssertionError: mean of 100 draws is 2.313, expected 2 ± 0.1
    """
    value, expected = _number("value", value), _number("expected", expected)
    check_count("digits", digits)
    _check_between("within", within, 0, abs(expected) / 2)
    target = f"expected {expected:.{digits}g} ± {within:.2g}"
    if not abs(value - expected) <= within:
        raise AssertionError(f"{name} is {value:.{digits}g}, {target}")
    print(f"{name} ≈ {value:.{digits}g} ({target})")


# ---------------------------------------------------------------------------------------------


def _check_label(label: str) -> None:
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise ValueError(f"label must look like 'eq-some-words', got {label!r}")


def _check_request(label: str, tolerance: float) -> None:
    _check_label(label)
    _check_between("tolerance", tolerance, 0, LOOSEST)


def _number(name: str, value: object) -> float:
    """Return a number or a tensor without dimensions as a float."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def _check_between(name: str, value: object, low: float, high: float) -> None:
    """Check that a number is above ``low`` and at most ``high``."""
    number = _number(name, value)
    if not low < number <= high:
        raise ValueError(f"{name} must be above {low:g} and at most {high:g}, got {number:g}")


def _check_scale(label: str, scale: float, tolerance: float, right: Tensor) -> None:
    _check_between("scale", scale, 0, sys.float_info.max)
    size = float(right.abs().max()) or 1.0
    if tolerance * scale > LOOSEST * size:
        raise ValueError(
            f"{label}: scale {scale:g} allows differences of {tolerance * scale:.3g} where the "
            f"right side is {size:.3g} at most, so the check says nothing"
        )


def _check_along(along: Sequence[float]) -> None:
    if isinstance(along, str) or not isinstance(along, Sequence):
        raise TypeError(f"along must be a sequence of numbers, got {type(along).__name__}")
    points = [_number("along", n) for n in along]
    if len(points) < 3 or points[0] <= 0 or any(a >= b for a, b in pairwise(points)):
        raise ValueError(
            f"along must hold three or more positive, increasing numbers, got {tuple(along)}"
        )


def _mistakes(wrong: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if wrong is not None and not isinstance(wrong, Mapping):
        raise TypeError(f"wrong must map a mistake's name to a side, got {type(wrong).__name__}")
    return list((wrong or {}).items())


def _count(cases: list[tuple[Any, ...]] | None, side: Tensor, over: str | None) -> str:
    """Say what was tried, such as ``200 random inputs``."""
    number = len(side)
    default = "random inputs" if cases else "value" if number == 1 else "values"
    return f"{number} {over or default}"


def _cases(
    inputs: Draw | None, trials: int, generator: torch.Generator | None
) -> list[tuple[Any, ...]] | None:
    check_generator(generator)
    if inputs is None:
        return None
    if not callable(inputs):
        raise TypeError(f"inputs must be a function, got {type(inputs).__name__}")
    check_count("trials", trials, minimum=2)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    cases = [inputs(generator) for _ in range(trials)]
    if not isinstance(cases[0], tuple):
        raise TypeError(f"inputs must return a tuple, got {type(cases[0]).__name__}")
    if all(_same(a, b) for a, b in zip(cases[0], cases[1], strict=True)):
        raise ValueError("inputs must vary from draw to draw; does it use the generator?")
    return cases


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return a is b or (isinstance(a, int | float) and a == b)


def _evaluate(label: str, name: str, side: Side, cases: list[tuple[Any, ...]] | None) -> Tensor:
    """Return one side as a tensor whose first dimension counts the cases."""
    if cases is None:
        if not isinstance(side, Tensor):
            raise TypeError(
                f"{label}: {name} must be a tensor unless inputs is given, got "
                f"{type(side).__name__}"
            )
        values = [side.detach()]
    elif callable(side):
        values = [side(*case) for case in cases]
    else:
        raise TypeError(
            f"{label}: {name} must be a function of the inputs, got {type(side).__name__}"
        )
    for value in values:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{label}: {name} must be a floating-point tensor, got {kind}")
        if value.shape != values[0].shape:
            raise ValueError(
                f"{label}: {name} must have one shape in all cases, got "
                f"{tuple(values[0].shape)} and {tuple(value.shape)}"
            )
    if cases is None:
        return values[0].reshape(1) if values[0].ndim == 0 else values[0]
    return torch.stack([value.detach() for value in values])


def _check_alike(label: str, left: Tensor, right: Tensor) -> None:
    if left.shape != right.shape or left.dtype != right.dtype:
        raise ValueError(
            f"{label}: both sides must agree in shape and dtype, "
            f"got {tuple(left.shape)} {left.dtype} and {tuple(right.shape)} {right.dtype}"
        )
    if left.numel() == 0:
        raise ValueError(f"{label}: both sides are empty, so the check cannot fail")


def _distance(label: str, left: Tensor, right: Tensor) -> Tensor:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        got = f"{type(left).__name__} and {type(right).__name__}"
        raise TypeError(f"{label}: both sides must be tensors, got {got}")
    _check_alike(label, left, right)
    # NaN is never equal and never at most the tolerance; equal infinities are equal.
    return torch.where(left == right, torch.zeros_like(left), (left - right).abs())


def _errors(label: str, left: Tensor, right: Tensor, scale: float | None) -> Tensor:
    """Return the elements' errors, relative to the larger side unless a scale is given."""
    distance = _distance(label, left, right)
    if scale is not None:
        return distance / scale
    relative = distance / torch.maximum(left.abs(), right.abs())
    # An infinite distance is as large as both sides together, an exact hit has no distance.
    return torch.where(distance.isinf(), torch.ones_like(distance), relative).where(
        distance != 0, torch.zeros_like(distance)
    )


def _raise_if_worse(
    label: str,
    errors: Tensor,
    tolerance: float,
    left: Tensor,
    right: Tensor,
    cases: list[tuple[Any, ...]] | None,
    names: tuple[str, str] = ("lhs", "rhs"),
) -> None:
    fails = ~(errors <= tolerance)  # so that NaN fails too
    if not bool(fails.any()):
        return
    rows = fails.reshape(len(fails), -1).any(dim=1)
    worst = int(torch.where(fails, errors.nan_to_num(nan=math.inf), -math.inf).argmax())
    row = worst // max(1, errors[0].numel())
    message = (
        f"{label} fails in {int(rows.sum())} of {len(rows)} cases: the error is "
        f"{float(errors.flatten()[worst]):.3g}, more than {tolerance:g}\n"
        f"worst case, number {row}: {names[0]} = {float(left.flatten()[worst]):.12g}, "
        f"{names[1]} = {float(right.flatten()[worst]):.12g}"
    )
    if cases is not None:
        message += f"\ninputs = {cases[row]}"
    raise EquationError(message)


def _failures(wrong: Mapping[str, object] | None) -> str:
    return "".join(f"; {mistake} it fails" for mistake in wrong or {})


class _Line:
    """One line of the ledger, with a link to the equation where the front end can follow one."""

    def __init__(self, label: str, statement: str) -> None:
        self.label = label
        self.statement = statement

    def __repr__(self) -> str:
        return f"✓ {self.label} {self.statement}"

    def _repr_html_(self) -> str:
        return (
            '<span class="nfbook-check">✓ '
            f'<a href="#{self.label}">{self.label}</a> {escape(self.statement)}</span>'
        )

    def _repr_markdown_(self) -> str:
        # The built book prefers this one, since Sphinx turns the role into the equation's number.
        return f"✓ {{eq}}`{self.label}` {self.statement}"


def _show(label: str, statement: str) -> None:
    """Display a line in a notebook, print it elsewhere; IPython is never imported for it."""
    line = _Line(label, statement)
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        sys.modules["IPython.display"].display(line)
    else:
        print(line)
