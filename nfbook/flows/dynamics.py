"""Flows that follow a target density: Hamiltonian and Langevin dynamics of a trained start."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nfbook._checks import check_callable, check_count, check_generator, check_real
from nfbook.flows.base import Flow
from nfbook.flows.distribution import StandardNormal
from nfbook.networks import ConditionalParameters, Snapshot
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.dynamics import Langevin, Leapfrog
from nfbook.transforms.elementwise import Affine

__all__ = ["HamiltonianFlow", "LangevinFlow", "TargetedFlow"]


class TargetedFlow(Flow):
    r"""A Gaussian z_0 that is moved towards a target, by steps that also move auxiliary noise a.

    Other flows give a density of z. The steps here are bijections only of z and a together, and the
    density of z alone is an integral that nobody knows. So this flow is a distribution of the
    pair, and its vectors have D + A numbers, the first D of which are z. That is all that
    variational inference needs. Compare the pair with the target for z and a standard Gaussian
    for a:

    .. math:: \mathrm{KL}\bigl(q(\mathbf{z}, \mathbf{a}) \,\|\, \pi(\mathbf{z})\,
            \mathcal{N}(\mathbf{a} \mid \mathbf{0}, \mathbf{I})\bigr)
        \ge \mathrm{KL}\bigl(q(\mathbf{z}) \,\|\, \pi(\mathbf{z})\bigr),

    since by the chain rule the left side is the right one and the mean of
    :math:`\mathrm{KL}(q(\mathbf{a} \mid \mathbf{z}) \,\|\, \mathcal{N})`. So where :math:`\pi` is
    known up to its normaliser,

    .. math:: \mathbb{E}_q \bigl[ \log \pi(\mathbf{z})
            + \log \mathcal{N}(\mathbf{a} \mid \mathbf{0}, \mathbf{I})
            - \log q(\mathbf{z}, \mathbf{a}) \bigr]
        \le \log \int \pi(\mathbf{z}) \,\mathrm{d} \mathbf{z}

    is a lower bound, and the mean of the exponential of what stands in brackets is the integral.
    `log_target` gives the first two terms.

    What is trained, as a function of the context if there is one: mean and standard deviations of
    z_0, and a step size for each coordinate. If the target is a module, so are its parameters. A
    flow can be pickled if its target can: a module or a named function, not a lambda.

    Arguments:
        log_density: :math:`\log \pi` up to a constant, from `(*, D)` to `(*)`. With a context it
            is called with the keyword argument ``context``, too.
        features: The dimension D of z.
        context: The size of the context; 0 if there is none.
        length: The number of steps K.
        hidden_features: The widths of the network from context to parameters.
        step_size: The step size to start from.
        generator: The source of the initial weights.
    """

    def __init__(
        self,
        log_density: Callable[..., Tensor],
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        step_size: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        check_callable("log_density", log_density)
        check_count("features", features)
        check_count("length", length)
        if not check_real("step_size", step_size) > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        check_generator(generator)
        super().__init__(features + self.auxiliary(features, length), context)
        self.log_density = log_density
        self.position_size, self.length = features, length
        start = {
            "mean": torch.zeros(features),
            "log_scale": torch.zeros(features),
            "log_step_size": torch.full((features,), math.log(step_size)),
        }
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    @staticmethod
    @abstractmethod
    def auxiliary(features: int, length: int) -> int:
        """Return how many auxiliary numbers A there are."""

    @abstractmethod
    def dynamics(self, log_density: Callable[[Tensor], Tensor], step_size: Tensor) -> Transform:
        """Return the steps."""

    def transform(self, context: Tensor | None = None) -> Compose:
        """Return the map from Gaussian noise to the start, and the steps."""
        parameters = self.parameters_of(context)
        mean, log_scale = parameters["mean"], parameters["log_scale"]
        zeros = mean.new_zeros(*mean.shape[:-1], self.features - self.position_size)
        start = Affine(torch.cat([mean, zeros], -1), torch.cat([log_scale, zeros], -1))
        step_size = parameters["log_step_size"].exp()
        return Compose([start, self.dynamics(self._target(context), step_size)])

    def log_target(self, state: Tensor, context: Tensor | None = None) -> Tensor:
        r"""Return :math:`\log \pi(\mathbf{z}) + \log \mathcal{N}(\mathbf{a})`, `(*)`.

        Arguments:
            state: z and a, `(*, D + A)`, as the flow draws them.
            context: As in the call of the flow.

        Raises:
            TypeError: The context is missing, has another dtype, or there is none to be given.
            ValueError: The state or the context has another size.
        """
        if state.shape[-1:] != (self.features,):
            raise ValueError(
                f"state must have shape (*, {self.features}), got {tuple(state.shape)}"
            )
        self._check_context(context, self.like)
        z, a = state.tensor_split([self.position_size], -1)
        return self._target(context)(z) + StandardNormal(a.shape[-1]).log_prob(a)

    def _target(self, context: Tensor | None) -> Callable[[Tensor], Tensor]:
        given = {} if context is None else {"context": context}
        if isinstance(self.log_density, nn.Module):
            return Snapshot(self.log_density, **given)
        return partial(self.log_density, **given)


class HamiltonianFlow(TargetedFlow):
    r"""A Gaussian start, then K steps of Hamiltonian dynamics, see `Leapfrog` and `TargetedFlow`.

    The auxiliary noise is the momentum, so vectors are (z, p), of size 2 D. With a context this is
    the posterior of Caterini, Doucet and Sejdinovic (2018), without its tempering.

    Example:
        The bound on the logarithm of the integral of :math:`e^{-(z - 3)^2 / 2}`, which is 0.919:

        >>> flow = HamiltonianFlow(lambda z: -0.5 * (z - 3).square().sum(-1), 1, step_size=0.2)
        >>> state, log_q = flow().rsample_and_log_prob(
        ...     (1000,), generator=torch.Generator().manual_seed(0)
        ... )
        >>> bound = (flow.log_target(state) - log_q).mean()
        >>> bound.item() < 0.919
        True
    """

    @staticmethod
    def auxiliary(features: int, length: int) -> int:
        """Return the size of the momentum, D."""
        return features

    def dynamics(self, log_density: Callable[[Tensor], Tensor], step_size: Tensor) -> Leapfrog:
        """Return the leapfrog steps."""
        return Leapfrog(log_density, step_size, self.length)


class LangevinFlow(TargetedFlow):
    r"""A Gaussian start, then K Langevin steps, see `Langevin` and `TargetedFlow`.

    The auxiliary noise is that of all steps, so vectors have size (K + 1) D.

    Example:
        >>> flow = LangevinFlow(lambda z: -0.5 * (z - 3).square().sum(-1), 2, length=4)
        >>> flow().sample((5,)).shape
        torch.Size([5, 10])
    """

    @staticmethod
    def auxiliary(features: int, length: int) -> int:
        """Return the size of K noises, K D."""
        return features * length

    def dynamics(self, log_density: Callable[[Tensor], Tensor], step_size: Tensor) -> Langevin:
        """Return the Langevin steps."""
        return Langevin(log_density, step_size, self.length)
