"""Drawing from any distribution with an explicit generator, and with the density at hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from nfbook._checks import check_count, check_distribution, check_generator, check_type
from nfbook._torch import TorchDispatchMode

__all__ = ["draw", "draw_and_log_prob", "gaussian_noise", "log_density", "source_device"]


def source_device(generator: torch.Generator | None, device: torch.device) -> torch.device:
    """Return where to draw: where the generator is, so that a seed gives the same on any device.

    Arguments:
        generator: The source of randomness, or None for that of the device.
        device: Where the draws are wanted.

    Example:
        >>> source_device(torch.Generator(), torch.device("meta"))
        device(type='cpu')
    """
    return device if generator is None else generator.device


def gaussian_noise(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw standard normal numbers where the generator is, and bring them to where they are wanted.

    Arguments:
        shape: The shape of the result.
        like: A tensor with the dtype and device wanted.
        generator: The source of randomness, or None for torch's own.

    Example:
        >>> gaussian_noise((2, 3), torch.zeros(1), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    there = source_device(generator, like.device)
    noise = torch.randn(shape, dtype=like.dtype, generator=generator, device=there)
    return noise.to(like.device)


def draw(
    distribution: Distribution,
    shape: tuple[int, ...] = (),
    *,
    generator: torch.Generator | None = None,
    reparametrised: bool = False,
) -> Tensor:
    r"""Draw from a ``torch.distributions`` object with an explicit generator.

    A distribution whose ``sample`` or ``rsample`` takes a generator, as that of a flow does, gets
    the given one. Torch's own distributions know the global generator only. Their random numbers
    are made here by a new generator that the given one seeds, on the device where they are drawn,
    so that the global generators are neither used nor changed, and threads do not share them.

    Arguments:
        distribution: What to draw from.
        shape: The sample shape, which comes in front of the distribution's batch shape.
        generator: The source of randomness, or None for torch's own.
        reparametrised: Whether the samples are functions :math:`g_\phi(\epsilon)` of noise, so
            that gradients flow through them to the distribution's parameters. The same generator
            gives the same samples either way.

    Returns:
        Samples of shape `(*shape, *batch_shape, *event_shape)`. Without ``reparametrised`` they
        have no gradient.

    Raises:
        TypeError: An argument has the wrong type, the distribution has no ``rsample``, or it draws
            by a function of torch that takes no generator.
        ValueError: A size in the shape is not positive.

    Example:
        >>> from torch.distributions import Normal
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw(Normal(torch.zeros(3), 1.0), (2,), generator=generator).shape
        torch.Size([2, 3])
    """
    _check(distribution, shape, generator)
    check_type("reparametrised", reparametrised, bool, "True or False")
    if reparametrised:
        _check_reparametrised(distribution)
    distribution, _ = _without_independent(distribution)
    draws: Tensor = _run(
        distribution.rsample if reparametrised else distribution.sample, shape, generator
    )
    return draws


def draw_and_log_prob(
    distribution: Distribution,
    shape: tuple[int, ...] = (),
    *,
    generator: torch.Generator | None = None,
    reparametrised: bool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Draw, and return the log densities of the draws with them, the fast way where there is one.

    What a flow returns has ``rsample_and_log_prob``: it sends noise forward and keeps the
    log-determinant that it meets on the way. ``log_prob`` of the same draws would send them back,
    which for planar, Sylvester and inverse autoregressive flows means to solve equations. The two
    agree, in value and gradient. `Independent` around such a distribution is as fast.

    Arguments:
        distribution: What to draw from.
        shape: The sample shape, which comes in front of the distribution's batch shape.
        generator: The source of randomness, or None for torch's own.
        reparametrised: Whether gradients flow through the draws. None means: where the
            distribution has ``rsample``. Draws without gradient take ``log_prob``, whose gradient
            is that of the density at a fixed point; there is no faster way to it.

    Returns:
        Draws, `(*shape, *batch_shape, *event_shape)`, and their log densities,
        `(*shape, *batch_shape)`.

    Raises:
        TypeError: As `draw`.
        ValueError: As `draw`.

    Example:
        >>> from nfbook.flows import PlanarFlow
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = PlanarFlow(2, generator=generator)()
        >>> z, log_q = draw_and_log_prob(q, (5,), generator=generator)
        >>> z.shape, torch.allclose(log_q, q.log_prob(z), atol=1e-5)
        (torch.Size([5, 2]), True)
    """
    _check(distribution, shape, generator)
    if reparametrised is None:
        reparametrised = distribution.has_rsample
    check_type("reparametrised", reparametrised, bool, "True, False or None")
    if reparametrised:
        _check_reparametrised(distribution)
        inner, events = _without_independent(distribution)
        fast = getattr(inner, "rsample_and_log_prob", None)
        if fast is not None:
            z, log_q = _run(fast, shape, generator)
            return z, log_q.flatten(log_q.ndim - events).sum(-1) if events else log_q
    z = draw(distribution, shape, generator=generator, reparametrised=reparametrised)
    return z, distribution.log_prob(z)


def log_density(distribution: Distribution, z: Tensor) -> Tensor:
    """Return the log density, which is minus infinity where the distribution cannot be.

    Torch raises an error there, or returns NaN: so the density is taken at a draw instead.

    Example:
        >>> from torch.distributions import Uniform
        >>> log_density(Uniform(0.0, 1.0), torch.tensor([0.5, 2.0]))
        tensor([0., -inf])
    """
    try:
        support = distribution.support
    except NotImplementedError:  # a distribution of one's own need not know its support
        support = None
    if support is None:
        return distribution.log_prob(z)
    inside: Tensor = support.check(z)
    if bool(inside.all()):
        return distribution.log_prob(z)
    events = len(distribution.event_shape)
    sample_shape = tuple(z.shape[: z.ndim - events - len(distribution.batch_shape)])
    somewhere = draw(distribution, sample_shape, generator=torch.Generator().manual_seed(0))
    there = inside.reshape(*inside.shape, *[1] * events)
    log_density: Tensor = distribution.log_prob(torch.where(there, z, somewhere))
    return torch.where(inside, log_density, -math.inf)


def _check(distribution: object, shape: object, generator: object) -> None:
    check_distribution("distribution", distribution)
    check_type("shape", shape, tuple, "a tuple of ints")
    assert isinstance(shape, tuple)
    for size in shape:
        check_count("every size in shape", size)
    check_generator(generator)


def _check_reparametrised(distribution: Distribution) -> None:
    if not distribution.has_rsample:
        raise TypeError(
            "distribution must have rsample to be reparametrised, "
            f"got {type(distribution).__name__}"
        )


def _without_independent(distribution: Distribution) -> tuple[Distribution, int]:
    """Return what `Independent` holds, and over how many dimensions its log densities are summed.

    `Independent` makes the last batch dimensions dimensions of its events, and draws the same.
    """
    events = 0
    while isinstance(distribution, Independent):
        events += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, events


def _run(
    function: Callable[..., Any], shape: tuple[int, ...], generator: torch.Generator | None
) -> Any:
    """Call a function that draws, with the generator as its argument or else in torch's place."""
    if generator is None:
        return function(torch.Size(shape))
    if "generator" in inspect.signature(function).parameters:
        return function(torch.Size(shape), generator=generator)
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    with _Seeded(int(seed)):
        return function(torch.Size(shape))


class _Seeded(TorchDispatchMode):
    """Within it, this thread's random numbers come from generators with a seed of their own.

    Each call of torch that makes random numbers, also deep inside of a distribution, passes here
    and is given a generator of its device.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if kwargs.get("generator") is None:
            func = _taking_a_generator(func)
            device = kwargs.get("device")
            if device is None:
                tensors = [value for value in args if isinstance(value, Tensor)]
                device = tensors[0].device if tensors else torch.empty(0).device
            kwargs = {**kwargs, "generator": self._generator(torch.device(device))}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _taking_a_generator(func: Any) -> Any:
    """Return the overload of an operator that also takes a generator, often the operator itself."""
    wanted = {argument.name for argument in func._schema.arguments} | {"generator"}
    packet = func.overloadpacket
    for overload in (func, *(getattr(packet, name) for name in packet.overloads())):
        if {argument.name for argument in overload._schema.arguments} == wanted:
            return overload
    raise TypeError(
        "distribution must draw by functions of torch that take a generator, "
        f"got {func.overloadpacket.__name__}; call with generator=None"
    )
