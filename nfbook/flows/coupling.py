"""Flows of coupling layers: NICE, RealNVP and the neural spline flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nfbook._checks import check_callable, check_count, check_generator, check_type
from nfbook.flows.base import Flow
from nfbook.networks import MLP, ConditionalParameters
from nfbook.transforms.base import Compose, Transform
from nfbook.transforms.coupling import Coupling, Partition
from nfbook.transforms.fast.coupling import AffineCouplingStack
from nfbook.transforms.univariate import Additive, ScaleAndShift, Spline, Univariate

__all__ = ["NICE", "Constant", "CouplingFlow", "NeuralSplineCoupling", "RealNVP"]


class CouplingFlow(Flow):
    r"""K coupling layers, see `Coupling`, whose networks see the coordinates that stay.

    Sampling and `log_prob` cost the same: one pass through each network.

    Arguments:
        features: The dimension D. With D = 1 nothing stays: the parameters depend on the context
            alone, or are free.
        context: The size C of the context, a second input of each network; 0 for none.
        length: The number of layers K.
        hidden_features: The widths of the networks' hidden layers.
        univariate: What the layers do to a coordinate.
        mask: Which coordinates stay. "alternating": every second one, and in the next layer the
            others. "halves": the first half, and in the next layer the second. Or a list of boolean
            tensors `(D,)`, True where a coordinate stays, which the layers take in turn.
        conditioner: What makes a layer's network in place of an `MLP`: a function of the numbers
            of coordinates that stay, of outputs, and of context features, called once for each
            layer. The module that it returns is called with the coordinates that stay,
            `(*, kept)`, and the context, `(*, C)` or None. If its outputs are zero at first, the
            flow starts as the identity.
        generator: The source of the initial weights.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is too small, a mask has another size than D or lets no coordinate
            move, or its name is unknown.

    Example:
        >>> from nfbook.transforms import Additive
        >>> flow = CouplingFlow(3, length=4, univariate=Additive())
        >>> flow().sample((5,)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 4,
        hidden_features: Sequence[int] = (64, 64),
        *,
        univariate: Univariate,
        mask: str | Sequence[Tensor] = "alternating",
        conditioner: Callable[[int, int, int], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        check_callable("univariate", univariate)
        check_generator(generator)
        self.univariate = univariate
        # The networks are perceptrons, and two groups take turns. Else the layers go one by one.
        self.stacked = features > 1 and conditioner is None and isinstance(mask, str)
        # What stays is looked up where there are numbers, and not on a default device like "meta".
        device = torch.get_default_device()
        partitions = [Partition(each).to(device) for each in _masks(mask, features, length)]
        self.partitions = nn.ModuleList(partitions)
        self.conditioners = nn.ModuleList()
        for partition in partitions:
            inputs, outputs = len(partition.kept), len(partition.moved) * univariate.size
            network: nn.Module
            if conditioner is None and inputs + context == 0:
                network = Constant(outputs)
            elif conditioner is None:
                network = MLP(
                    inputs,
                    outputs,
                    hidden_features,
                    context=context,
                    zero=True,
                    generator=generator,
                )
            else:
                check_callable("conditioner", conditioner)
                network = conditioner(inputs, outputs, context)
                check_type("the result of conditioner", network, nn.Module, "a torch.nn.Module")
            self.conditioners.append(network)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, one after the other."""
        parts = zip(self._partitions(), self.conditioners, strict=True)
        return Compose(
            [
                Coupling(partition, conditioner, self.univariate, context)
                for partition, conditioner in parts
            ]
        )

    def _stack(self, context: Tensor | None, bound: float | None) -> Transform:
        networks = cast("list[MLP]", list(self.conditioners))
        return AffineCouplingStack(self._partitions(), networks, context, bound=bound)

    def _partitions(self) -> list[Partition]:
        return cast("list[Partition]", list(self.partitions))


class Constant(nn.Module):
    """The conditioner of a layer without inputs: free parameters.

    Example:
        >>> Constant(2)(torch.zeros(5, 0)).shape
        torch.Size([2])
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs))

    def forward(self, kept: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters, the same for all points."""
        return self.values


def _masks(kind: str | Sequence[Tensor], features: int, length: int) -> list[Tensor]:
    """Return the mask of each layer, `(features,)`, True where a coordinate stays."""
    if isinstance(kind, str):
        number = torch.arange(features, device="cpu")
        if kind == "alternating":
            stays = number % 2 == 0
        elif kind == "halves":
            stays = number < (features + 1) // 2
        else:
            raise ValueError(f"mask must be 'alternating', 'halves' or tensors, got {kind!r}")
        # A single coordinate has nothing to wait for: it moves in every layer.
        turns = [stays, ~stays] if features > 1 else [~stays]
    else:
        if not isinstance(kind, (list, tuple)):
            wanted = "a str, or a list or tuple of tensors"
            raise TypeError(f"mask must be {wanted}, got {type(kind).__name__}")
        turns = list(kind)
        if not turns:
            raise ValueError("mask must hold at least one tensor, got none")
        for mask in turns:
            check_type("every mask", mask, Tensor, "a torch.Tensor")
            if mask.shape != (features,):
                shape = tuple(mask.shape)
                raise ValueError(f"every mask must have shape ({features},), got {shape}")
    return [turns[k % len(turns)] for k in range(length)]


class NICE(CouplingFlow):
    r"""Additive coupling layers and one scaling (Dinh, Krueger and Bengio, 2015).

    The layers only shift, so they preserve volume. The scales are what the paper calls the top
    layer: they are the last step from data to noise, and so the first one from base to target,

    .. math:: \mathbf{y} = t_K \circ \dots \circ t_1(e^{\mathbf{s}} \odot \mathbf{z}), \qquad
        \log |\det J_t(\mathbf{z})| = \sum_i s_i.

    The log-scales s are free, or the outputs of a network if there is a context, and bounded, see
    `ScaleAndShift`.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers.
        mask: What stays in each layer, see `CouplingFlow`.
        conditioner: What makes a layer's network, see `CouplingFlow`.
        generator: The source of the initial weights.

    Example:
        >>> flow = NICE(2, length=4)
        >>> y, ladj = flow().transform.call_and_ladj(torch.randn(5, 2))
        >>> ladj
        tensor([0., 0., 0., 0., 0.], grad_fn=<AddBackward0>)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 4,
        hidden_features: Sequence[int] = (64, 64),
        *,
        mask: str | Sequence[Tensor] = "alternating",
        conditioner: Callable[[int, int, int], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            univariate=Additive(),
            mask=mask,
            conditioner=conditioner,
            generator=generator,
        )
        start = {"log_scale": torch.zeros(features)}
        self.scaling = ConditionalParameters(start, context, hidden_features, generator=generator)

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the scaling, followed by the layers."""
        raw = self.scaling(context)["log_scale"]
        scaling = ScaleAndShift()(torch.stack([torch.zeros_like(raw), raw], dim=-1))
        layers = self._stack(context, None) if self.stacked else super().transform(context)
        return Compose([scaling, layers])


class RealNVP(CouplingFlow):
    r"""Affine coupling layers (Dinh, Sohl-Dickstein and Bengio, 2017).

    .. math:: y_i = e^{s_i(\mathbf{z}_A, \mathbf{c})} z_i + m_i(\mathbf{z}_A, \mathbf{c})
        \quad \text{for } i \in B.

    The log-scales are bounded, see `ScaleAndShift`. In ten layers each coordinate moves five times.
    Factors of 1000 would multiply a number, and its rounding error, by up to 1e15. With the
    default, e³ or about 20 for each layer, it is 3e6 at most.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers.
        bound: The largest log-scale of a layer.
        mask: What stays in each layer, see `CouplingFlow`.
        conditioner: What makes a layer's network, see `CouplingFlow`.
        generator: The source of the initial weights.

    Example:
        >>> flow = RealNVP(2, context=3)
        >>> flow(torch.zeros(7, 3)).sample((5,)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 4,
        hidden_features: Sequence[int] = (64, 64),
        *,
        bound: float = 3.0,
        mask: str | Sequence[Tensor] = "alternating",
        conditioner: Callable[[int, int, int], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            univariate=ScaleAndShift(bound),
            mask=mask,
            conditioner=conditioner,
            generator=generator,
        )
        self.bound = bound

    def transform(self, context: Tensor | None = None) -> Transform:
        """Return the layers, as one stack if they are alike."""
        return self._stack(context, self.bound) if self.stacked else super().transform(context)


class NeuralSplineCoupling(CouplingFlow):
    r"""Coupling layers with rational-quadratic splines (Durkan et al., 2019), see `Spline`.

    A coordinate outside of :math:`[-B, B]` stays as it is, so data should be standardised.

    Arguments:
        features: The dimension D.
        context: The size of the context; 0 for none.
        length: The number of layers.
        hidden_features: The widths of the networks' hidden layers.
        bins: The number of a spline's bins.
        bound: The end B of the splines.
        slope: The smallest slope of a spline; the largest is its reciprocal.
        mask: What stays in each layer, see `CouplingFlow`.
        conditioner: What makes a layer's network, see `CouplingFlow`.
        generator: The source of the initial weights.

    Example:
        >>> flow = NeuralSplineCoupling(2, length=2, bins=4)
        >>> flow().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 4,
        hidden_features: Sequence[int] = (64, 64),
        *,
        bins: int = 8,
        bound: float = 5.0,
        slope: float = 1e-3,
        mask: str | Sequence[Tensor] = "alternating",
        conditioner: Callable[[int, int, int], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            univariate=Spline(bins, bound, slope),
            mask=mask,
            conditioner=conditioner,
            generator=generator,
        )
