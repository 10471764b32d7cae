"""The continuous normalizing flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nfbook._checks import check_count, check_generator
from nfbook._equality import EqualByParts
from nfbook._torch import is_plain
from nfbook.flows.base import Flow
from nfbook.flows.distribution import FlowDistribution
from nfbook.networks import MLP, BoundNetwork, Snapshot
from nfbook.transforms.base import Compose
from nfbook.transforms.continuous import Continuous, VectorField
from nfbook.transforms.ode import check_solver

__all__ = ["CNF", "NetworkField", "TanhField"]


class TanhField(EqualByParts, VectorField):
    r"""The velocity that a network gives, with tanh between its layers.

    .. math:: \mathbf{h}_1 = \mathbf{W}_1 \mathbf{z} + \mathbf{w} t + \mathbf{b}_1, \qquad
        \mathbf{h}_{l+1} = \mathbf{W}_{l+1} \tanh \mathbf{h}_l + \mathbf{b}_{l+1}, \qquad
        \mathbf{v}(\mathbf{z}, t) = \mathbf{h}_L.

    It is smooth, and it is Lipschitz with the product of the norms of the weights, so its flow is
    a bijection of all of R^D.

    Arguments:
        layers: Weights and biases of the L layers. The first weight, `(H, D + 1)`, has the column
            w behind those of W. Biases may have batch dimensions.

    Example:
        >>> first, last = (torch.ones(3, 2), torch.zeros(3)), (torch.ones(1, 3), torch.ones(1))
        >>> field = TanhField([first, last])
        >>> field(torch.tensor(0.5), torch.tensor([-0.5]))
        tensor([1.])
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.layers = tuple(layers)

    @property
    def features(self) -> int:
        """The dimension D."""
        return self.layers[0][0].shape[-1] - 1

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return the velocity, `(*, D)`, at times `(*)` and points `(*, D)`."""
        hidden = self._first(t, z)
        for weight, bias in self.layers[1:]:
            hidden = linear(torch.tanh(hidden), weight) + bias
        return hidden

    def with_divergence(self, t: Tensor, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the velocity and its divergence, see `VectorField`.

        The directions go through the layers beside the point, each time multiplied by the layer's
        Jacobian: by a weight, or by :math:`\operatorname{diag}(1 - \tanh^2 \mathbf{h}_l)`.
        """
        hidden = self._first(t, z)
        tangents = linear(directions, self.layers[0][0][:, :-1])
        for weight, bias in self.layers[1:]:
            hidden = torch.tanh(hidden)
            tangents = linear(tangents * (1 - hidden.square()).unsqueeze(-2), weight)
            hidden = linear(hidden, weight) + bias
        return hidden, (tangents * directions).sum((-2, -1))

    def _first(self, t: Tensor, z: Tensor) -> Tensor:
        weight, bias = self.layers[0]
        return linear(z, weight[:, :-1]) + (bias + t.unsqueeze(-1) * weight[:, -1])

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All weights and biases."""
        return tuple(tensor for layer in self.layers for tensor in layer)


class NetworkField(EqualByParts, VectorField):
    """The velocity that a network gives, whatever stands between and around its layers.

    It is for networks that must be called as modules, since someone hooks into their layers or has
    replaced one, see `MLP.bind`. The divergence is autograd's.

    Arguments:
        network: From a point with the time behind it, `(*, D + 1)`, to the velocity, `(*, D)`. The
            context acts on its first layer, and stays the same along the whole path.
        features: The dimension D; None for any.

    Example:
        >>> field = NetworkField(MLP(2, 1, activation=nn.SiLU).bind())
        >>> field(torch.tensor(0.5), torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """

    def __init__(self, network: BoundNetwork | Snapshot, features: int | None = None) -> None:
        self.network, self._features = network, features

    @property
    def features(self) -> int | None:
        """The dimension D, if it was given."""
        return self._features

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Return the velocity, `(*, D)`, at times `(*)` and points `(*, D)`."""
        batch = torch.broadcast_shapes(t.shape, z.shape[:-1])
        parts = [z.expand(*batch, -1), t.expand(batch).unsqueeze(-1)]
        velocity: Tensor = self.network(torch.cat(parts, -1))
        return velocity

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that the network was bound with."""
        return self.network.parameters


class CNF(Flow):
    r"""The continuous normalizing flow (Chen et al., 2018; Grathwohl et al., 2019).

    .. math:: \frac{\mathrm{d} \mathbf{z}}{\mathrm{d} t} = \mathbf{v}(\mathbf{z}, t, \mathbf{c}),
        \qquad \mathbf{z}(0) \sim \mathcal{N}(\mathbf{0}, \mathbf{I}), \qquad
        \mathbf{y} = \mathbf{z}(1).

    The velocity is the output of K networks, one for each K-th part of the time, and each part is
    a `Continuous` transform. The log-determinant is an integral of the trace of the velocity's
    Jacobian, so nothing restricts the networks, and both directions cost the same. The price is a
    differential equation to solve. Values, densities and round trips are exact up to the error of
    the solver. The steeper the velocity, the more often the networks are evaluated. How often is
    what the method `solve` of the parts, ``flow.transform().transforms``, returns.

    Arguments:
        features: The dimension D.
        context: The size of the context c; 0 if there is none.
        length: The number of networks K.
        hidden_features: The widths of each network's hidden layers.
        tolerance: The relative and absolute error that the adaptive solver allows in a step.
        method: The adaptive solver, ``"dopri5"``, or ``"dopri8"`` for small tolerances.
        steps: The number of fixed steps for each network; None for the adaptive solver.
            ``torch.compile`` and ``torch.func`` can follow fixed steps only.
        adjoint: Whether gradients come from the adjoint equation, which needs less memory.
        generator: The source of the initial weights.

    Example:
        >>> flow = CNF(2, generator=torch.Generator().manual_seed(0))
        >>> y, log_prob = flow().rsample_and_log_prob((5,))
        >>> torch.allclose(flow().log_prob(y), log_prob)
        True
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 1,
        hidden_features: Sequence[int] = (64, 64),
        *,
        tolerance: float = 1e-6,
        method: str = "dopri5",
        steps: int | None = None,
        adjoint: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        check_solver(tolerance, method, steps, adjoint)
        check_generator(generator)
        self.tolerance, self.method = tolerance, method
        self.steps, self.adjoint = steps, adjoint
        # Without a velocity the flow is the identity. The time is one more input.
        self.networks = nn.ModuleList(
            MLP(
                features + 1,
                features,
                hidden_features,
                context=context,
                activation=nn.Tanh,
                zero=True,
                generator=generator,
            )
            for _ in range(length)
        )

    def forward(
        self, context: Tensor | None = None, *, probe: Tensor | None = None
    ) -> FlowDistribution:
        """Return the distribution, see `Flow.forward`.

        Arguments:
            context: One vector for each distribution, `(*, C)`; None for a flow without context.
            probe: None for exact densities. With a random vector, `(*, D)`, as from `rademacher`,
                log-densities are unbiased estimates. Their cost does not grow with D. What is
                drawn then has the probe's batch dimensions.
        """
        distribution = super().forward(context)
        if probe is None:
            return distribution
        base = distribution.base
        base = base.expand(torch.broadcast_shapes(base.batch_shape, probe.shape[:-1]))
        return FlowDistribution(base, self.transform(context, probe=probe), check=False)

    def transform(self, context: Tensor | None = None, *, probe: Tensor | None = None) -> Compose:
        """Return the parts of the flow, one for each network."""
        length = len(self.networks)
        return Compose(
            [
                Continuous(
                    field,
                    start=k / length,
                    end=(k + 1) / length,
                    tolerance=self.tolerance,
                    method=self.method,
                    steps=self.steps,
                    adjoint=self.adjoint,
                    probe=probe,
                )
                for k, field in enumerate(self.fields(context))
            ]
        )

    def velocity(self, t: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the velocity, `(*, D)`, at times from 0 to 1, `(*)`, and points, `(*, D)`."""
        self._check_context(context, self.like)
        velocities = torch.stack([field(t, z) for field in self.fields(context)])
        length = len(velocities)
        k = (t * length).long().clamp(0, length - 1).unsqueeze(-1)
        return torch.take_along_dim(velocities, k.expand(velocities.shape[1:]).unsqueeze(0), 0)[0]

    def fields(self, context: Tensor | None = None) -> list[VectorField]:
        """Return the velocity of each part of the time, with the parameters that it has now."""
        networks = cast("list[MLP]", list(self.networks))
        return [self._field(network.bind(context)) for network in networks]

    def _field(self, network: BoundNetwork | Snapshot) -> VectorField:
        """Return the velocity that a network gives, by hand where it is what was made here."""
        if isinstance(network, BoundNetwork) and all(
            is_plain(each, nn.Tanh) for each in network.activations
        ):
            first, *weights = cast("list[Tensor]", network.weights)
            return TanhField([(first, network.start), *zip(weights, network.biases, strict=True)])
        return NetworkField(network, self.features)
