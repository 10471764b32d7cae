"""Drawing from any distribution with an explicit generator, and with the density at hand."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from nfbook._checks import check_count, check_distribution, check_generator, check_type

__all__ = ["draw"]


def draw(
    distribution: Distribution,
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    reparametrised: bool = False,
) -> Tensor:
    r"""Draw from a ``torch.distributions`` object with an explicit generator.

    ``Distribution.sample`` knows the global generator only. It is seeded here from the given one,
    and put back afterwards as it was.

    Arguments:
        distribution: What to draw from.
        shape: The sample shape, which comes in front of the distribution's batch shape.
        generator: The source of randomness.
        reparametrised: Whether the samples are functions :math:`g_\phi(\epsilon)` of noise, so
            that gradients flow through them to the distribution's parameters. The same generator
            gives the same samples either way.

    Returns:
        Samples of shape `(*shape, *batch_shape, *event_shape)`, on the CPU. Without
        ``reparametrised`` they have no gradient.

    Raises:
        TypeError: An argument has the wrong type, or the distribution has no ``rsample``.
        ValueError: A size in the shape is not positive.

    Example:
        >>> from torch.distributions import Normal
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw(Normal(torch.zeros(3), 1.0), (2,), generator).shape
        torch.Size([2, 3])
    """
    check_distribution("distribution", distribution)
    check_type("reparametrised", reparametrised, bool, "True or False")
    if reparametrised and not distribution.has_rsample:
        raise TypeError(
            "distribution must have rsample to be reparametrised, "
            f"got {type(distribution).__name__}"
        )
    check_type("shape", shape, tuple, "a tuple of ints")
    for size in shape:
        check_count("every size in shape", size)
    check_generator("generator", generator)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return distribution.rsample(shape) if reparametrised else distribution.sample(shape)
