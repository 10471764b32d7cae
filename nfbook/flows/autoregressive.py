"""Autoregressive flows: MAF and IAF, and the autoregressive neural spline flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nfbook._checks import check_callable, check_count, check_generator
from nfbook.flows.base import Flow
from nfbook.networks import MaskedMLP
from nfbook.transforms.autoregressive import Autoregressive
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.fast.masked_affine import MaskedAffineStack
from nfbook.transforms.univariate import ScaleAndShift, Spline, Univariate

__all__ = ["IAF", "MAF", "AutoregressiveFlow", "NeuralSplineAutoregressive"]


class AutoregressiveFlow(Flow):
    r"""K autoregressive layers, see `Autoregressive`, that go from data to noise.

    .. math:: z_i = \tau\bigl(y_i;\, h_i(y_1, \dots, y_{i-1}, \mathbf{c})\bigr)

    So `log_prob` takes one pass through each network. Sampling takes D steps for each, one for each
    coordinate, which together cost the arithmetic of one pass.

    Arguments:
        features: The dimension D.
        context: The size C of the context, a second input of each network; 0 for none.
        length: The number of layers K.
        hidden_features: The widths of the networks' hidden layers, see `MaskedMLP`.
        univariate: What a layer does to a coordinate.
        order: The order of the coordinates. "alternating": as they are, in the next layer from the
            last to the first. "random": drawn for each layer.
        generator: The source of the initial weights and of random orders.

    Raises:
        TypeError: A number is not an int.
        ValueError: A number is too small, or the order is unknown.

    Example:
        >>> from nfbook.transforms import Additive
        >>> flow = AutoregressiveFlow(3, length=2, univariate=Additive())
        >>> flow().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        *,
        univariate: Univariate,
        order: str = "alternating",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        check_callable("univariate", univariate)
        check_generator(generator)
        self.univariate = univariate
        self.networks = nn.ModuleList(
            MaskedMLP(
                features,
                univariate.size,
                hidden_features,
                context=context,
                order=each,
                zero=True,
                generator=generator,
            )
            for each in _orders(order, features, length, generator)
        )

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other, each the inverse of an autoregressive one."""
        return Compose(
            [Autoregressive(each, self.univariate, context).inv for each in self.masked_networks]
        )

    @property
    def masked_networks(self) -> list[MaskedMLP]:
        """The networks of the layers."""
        return cast("list[MaskedMLP]", list(self.networks))


def _orders(
    kind: str, features: int, length: int, generator: torch.Generator | None
) -> list[list[int]]:
    """Return the order of the coordinates in each layer."""
    natural = list(range(features))
    if kind == "alternating":
        return [natural[:: 1 if k % 2 == 0 else -1] for k in range(length)]
    if kind == "random":
        return [
            torch.randperm(
                features, generator=generator, device=getattr(generator, "device", "cpu")
            ).tolist()
            for _ in range(length)
        ]
    raise ValueError(f"order must be 'alternating' or 'random', got {kind!r}")


class MAF(AutoregressiveFlow):
    r"""The masked autoregressive flow (Papamakarios, Pavlakou and Murray, 2017).

    From data to noise each layer shifts and scales, as the coordinates before say:

    .. math:: z_i = e^{s_i} y_i + m_i, \qquad (m_i, s_i) = h_i(y_1, \dots, y_{i-1}, \mathbf{c}).

    The paper writes :math:`y_i = e^{\alpha_i} z_i + \mu_i`, with :math:`\alpha_i = -s_i` and
    :math:`\mu_i = -e^{-s_i} m_i`. `log_prob` takes one pass through each network, sampling D steps.
    The log-scales are bounded, see `ScaleAndShift`.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers, see `MaskedMLP`.
        bound: The largest log-scale of a layer.
        order: The order of the coordinates, see `AutoregressiveFlow`.
        generator: The source of the initial weights and of random orders.

    Example:
        >>> flow = MAF(3, context=2, generator=torch.Generator().manual_seed(0))
        >>> flow(torch.zeros(7, 2)).log_prob(torch.zeros(7, 3))[0]
        tensor(-2.7568, grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        *,
        bound: float = 3.0,
        order: str = "alternating",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            univariate=ScaleAndShift(bound),
            order=order,
            generator=generator,
        )
        self.bound = bound

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the inverse of the affine layers, which go from data to noise."""
        return MaskedAffineStack(self.masked_networks, context, self.bound).inv


class IAF(MAF):
    r"""The inverse autoregressive flow (Kingma et al., 2016).

    The layers of `MAF`, but from noise to data:

    .. math:: y_i = e^{s_i} z_i + m_i, \qquad (m_i, s_i) = h_i(z_1, \dots, z_{i-1}, \mathbf{c}).

    Sampling, `rsample_and_log_prob` included, takes one pass through each network, as a variational
    posterior needs it. `log_prob` of a given point takes D steps.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers, see `MaskedMLP`.
        bound: The largest log-scale of a layer.
        order: The order of the coordinates, see `AutoregressiveFlow`.
        generator: The source of the initial weights and of random orders.

    Example:
        >>> y, log_prob = IAF(3)().rsample_and_log_prob((5,))
        >>> y.shape, log_prob.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the affine layers."""
        return MaskedAffineStack(self.masked_networks, context, self.bound)


class NeuralSplineAutoregressive(AutoregressiveFlow):
    r"""Autoregressive layers with rational-quadratic splines (Durkan et al., 2019), see `Spline`.

    `log_prob` takes one pass through each network, sampling D steps. A coordinate outside of
    :math:`[-B, B]` stays as it is, so data should be standardised.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers, see `MaskedMLP`.
        bins: The number of a spline's bins.
        bound: The end B of the splines.
        slope: The smallest slope of a spline; the largest is its reciprocal.
        order: The order of the coordinates, see `AutoregressiveFlow`.
        generator: The source of the initial weights and of random orders.

    Example:
        >>> flow = NeuralSplineAutoregressive(2, length=2, bins=4)
        >>> flow().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 5,
        hidden_features: Sequence[int] = (64, 64),
        *,
        bins: int = 8,
        bound: float = 5.0,
        slope: float = 1e-3,
        order: str = "alternating",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            univariate=Spline(bins, bound, slope),
            order=order,
            generator=generator,
        )
