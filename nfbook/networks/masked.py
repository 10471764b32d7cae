"""The masked network of autoregressive flows, evaluated all at once or coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfbook._checks import check_count, check_widths
from nfbook._equality import EqualByParts
from nfbook._torch import is_plain
from nfbook.networks._bound import (
    BoundNetwork,
    Snapshot,
    are_plain,
    bound_layers,
    own_parameters,
)
from nfbook.networks._layers import FirstLayer, linear

__all__ = ["BoundMaskedMLP", "MaskedLinear", "MaskedMLP", "Steps", "units_by_degree"]


class MaskedLinear(nn.Module):
    r"""A linear layer whose output i sees only those inputs j where the mask is one.

    .. math:: \mathbf{y} = (\mathbf{M} \odot \mathbf{W})\, \mathbf{x} + \mathbf{b}

    The weights of an output are uniform on :math:`\pm 1/\sqrt{n}` if it sees n inputs, so all
    outputs start at the same scale.

    Arguments:
        mask: M, zeros and ones, `(out_features, in_features)`.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> layer = MaskedLinear(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> torch.autograd.functional.jacobian(layer, torch.zeros(2))[0, 1]
        tensor(0.)
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = mask.shape
        full = linear(self.in_features, self.out_features, generator=generator)
        seen = mask.sum(-1, keepdim=True).clamp(min=1)
        self.weight = nn.Parameter(full.weight.detach() * (self.in_features / seen).sqrt())
        self.bias = nn.Parameter(full.bias.detach())
        self.register_buffer("mask", mask)

    @property
    def masked_weight(self) -> Tensor:
        """The weights that count, with zeros for the others, `(out_features, in_features)`."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """Return y, `(*, out_features)`, of x, `(*, in_features)`."""
        return functional.linear(x, self.masked_weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes, for the repr."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class MaskedMLP(nn.Module):
    r"""A multilayer perceptron with the autoregressive property (Germain et al., 2015, MADE).

    It gives P numbers for each coordinate of x, and those of a coordinate depend only on the
    coordinates before it. In the natural order

    .. math:: h_i = h_i(x_1, \dots, x_{i-1}, \mathbf{c}), \qquad i = 1, \dots, D.

    Every unit has a degree. The coordinate that comes i-th has i, the parameters of that
    coordinate have i - 1, and the degrees of hidden units lie between, shared out evenly and in
    increasing order. A unit sees the units of the layer before whose degree is not above its own.
    So one of degree m depends on the first m coordinates. All units may see the context, and for
    the first coordinate's sake a network with a context has units of degree 0, which see nothing
    else.

    A hidden layer narrower than D has no unit for some degrees. The network is then still
    autoregressive, but restricted: what the coordinates between two degrees say is not seen before
    the next degree, if there is one. A single unit sees the first coordinate alone, or with a
    context none. A width of several D gives each coordinate units of its own.

    Arguments:
        features: The number of coordinates D.
        outputs: How many numbers P for each coordinate.
        hidden_features: The width of each hidden layer; with none the map is affine.
        context: The size of the context c; 0 if there is none.
        order: The indices of the coordinates, first one first; None for 0, ..., D - 1.
        activation: The class of the module between two layers, which acts elementwise.
        zero: Whether the last layer starts at zero.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A count is not an int.
        ValueError: A count is too small, or ``order`` is not a permutation of 0, ..., D - 1.

    Example:
        >>> network = MaskedMLP(3, 2, (16, 16), context=4)
        >>> network(torch.zeros(7, 5, 3), torch.zeros(5, 4)).shape
        torch.Size([7, 5, 3, 2])
    """

    order: Tensor

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden_features: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        order: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.ReLU,
        zero: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("features", features)
        check_count("outputs", outputs)
        check_count("context", context, minimum=0)
        check_widths("hidden_features", hidden_features)
        order = list(range(features) if order is None else order)
        if sorted(order) != list(range(features)):
            raise ValueError(f"order must hold each of 0, ..., {features - 1} once, got {order}")
        self.features, self.outputs, self.context = features, outputs, context
        # Degrees are counted where there are numbers, and not on a default device like "meta".
        with torch.device("cpu"):
            places = torch.tensor(order)
            # How many units of each degree a layer has, and then the degree of each unit.
            lowest = 0 if context or features == 1 else 1
            hidden_sizes = [units_by_degree(width, lowest, features) for width in hidden_features]
            self.sizes = [*hidden_sizes, [outputs] * features]
            by_degree = [torch.tensor(sizes) for sizes in hidden_sizes]
            hidden = [torch.arange(features).repeat_interleave(sizes) for sizes in by_degree]
            place = torch.argsort(places)
            degrees = [place + 1, *hidden, place.repeat(outputs)]
            pairs = pairwise(degrees)
            dtype = torch.get_default_dtype()
            masks = [(after.unsqueeze(-1) >= before).to(dtype) for before, after in pairs]
        device = torch.get_default_device()
        self.register_buffer("order", places.to(device))
        first, *others = [mask.to(device) for mask in masks]
        self.first = FirstLayer(
            features, len(first), context=context, mask=first, generator=generator
        )
        self.layers = nn.ModuleList(MaskedLinear(mask, generator=generator) for mask in others)
        self.activation = activation()
        if zero:
            last = self.layers[-1] if others else self.first
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters of all coordinates, each at its coordinate's place.

        Arguments:
            x: `(*, D)`.
            context: `(*, C)`; None for a network without.

        Returns:
            `(*, D, P)`.
        """
        hidden = self.first(x, context)
        for layer in self.layers:
            hidden = layer(self.activation(hidden))
        return _by_coordinate(hidden, self.outputs)

    def bind(self, context: Tensor | None = None) -> BoundMaskedMLP | Snapshot:
        """Return the network as a function of x, with a context and the parameters it has now.

        See `MLP.bind`. If the layers are what this class made, it is a `BoundMaskedMLP`, which can
        also be evaluated in `Steps`.

        Example:
            >>> network = MaskedMLP(3, 2)
            >>> network.bind()(torch.zeros(3)).shape
            torch.Size([3, 2])
        """
        with own_parameters():
            others, activation = list(self.layers), self.activation
            if (
                is_plain(self, MaskedMLP)
                and are_plain(self.first, others, MaskedLinear, [activation])
                # In steps it meets the units of one degree at a time, which a hook may not expect.
                and is_plain(activation, type(activation))
            ):
                activations = [activation] * len(others)
                return BoundMaskedMLP(
                    bound_layers(self.first, others, activations, context, _masked_weight),
                    self.order,
                    self.sizes,
                )
            return Snapshot(self, context)

    def extra_repr(self) -> str:
        """Return the sizes, for the repr."""
        return f"features={self.features}, outputs={self.outputs}, context={self.context}"


def _masked_weight(layer: Any) -> Tensor:
    return cast("Tensor", layer.masked_weight)


def _by_coordinate(output: Tensor, outputs: int) -> Tensor:
    """Return what came out of the last layer as P numbers for each coordinate, `(*, D, P)`.

    In memory the D numbers of one kind are neighbours, since they are used together.
    """
    parameters: Tensor = output.unflatten(-1, (outputs, -1)).mT
    return parameters


class BoundMaskedMLP(EqualByParts):
    """A masked network whose context and parameters are given, see `MaskedMLP.bind`.

    Arguments:
        network: Its layers, with masked weights.
        order: The indices of the coordinates, first one first.
        sizes: How many units of each degree each layer has.

    Example:
        >>> MaskedMLP(3, 2).bind().features
        3
    """

    def __init__(self, network: BoundNetwork, order: Tensor, sizes: list[list[int]]) -> None:
        self.network, self.order, self.sizes = network, order, sizes

    @property
    def features(self) -> int:
        """The number of coordinates D."""
        return len(self.sizes[-1])

    @property
    def outputs(self) -> int:
        """How many numbers P it gives for each coordinate."""
        return self.sizes[-1][0]

    @property
    def batch_shape(self) -> torch.Size:
        """The batch shape of the context, `()` without one."""
        return self.network.start.shape[:-1]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the parameters, `(*, D, P)`, of x, `(*, D)`."""
        return _by_coordinate(self.network(x), self.outputs)

    def rows(self, batch: torch.Size) -> list[list[tuple[Tensor, Tensor]]]:
        """Return the weights and biases of each layer's units, by degree from 0 to D - 1.

        The weights are `(units, inputs)`, and take the coordinates as they come in order. The
        biases are `(units, 1)`, or `(units, N)` in a first layer that sees a context.

        Arguments:
            batch: The batch shape of x, of N points in all.
        """
        weights = cast("list[Tensor]", list(self.network.weights))
        biases = [self.network.start, *self.network.biases]
        if biases[0].dim() > 1:
            biases[0] = biases[0].expand(*batch, -1).reshape(batch.numel(), len(weights[0])).mT
        weights[0] = weights[0].index_select(1, self.order)
        for rows in weights, biases:
            each = rows[-1].unflatten(0, (self.outputs, -1)).transpose(0, 1)
            rows[-1] = each.index_select(0, self.order).flatten(0, 1)
        columns = [bias.unsqueeze(-1) if bias.dim() == 1 else bias for bias in biases]
        return [
            list(zip(weight.split(sizes), column.split(sizes), strict=True))
            for weight, column, sizes in zip(weights, columns, self.sizes, strict=True)
        ]


class Steps:
    r"""A masked network whose inputs become known one after the other.

    Where each coordinate of x follows from its parameters, as in sampling, coordinates and
    parameters have to be found in turns. Evaluating the whole network in each turn costs D forward
    passes. But a unit of degree m depends on the first m coordinates only: once these are known,
    its value is final. So in turn m only the units of degree m are evaluated, each layer's from
    what is known of the layer before. In the end each unit was evaluated once, and all turns
    together cost the arithmetic of one forward pass. No masks are needed, since what a mask would
    hide is not yet known.

    Units are rows here and points are columns, so what is known of a layer is one block of memory.
    A block grows by concatenation. Nothing is overwritten, and gradients flow through all turns.

    Arguments:
        network: The masked network, with its context and its parameters.
        like: A tensor with the shape `(*, D)` and the dtype of x, for N points in all.

    Example:
        Find the x with :math:`x_i = h_i(x_1, \dots, x_{i-1})`:

        >>> network = MaskedMLP(3, 1)
        >>> steps = Steps(network.bind(), like=torch.empty(5, 3))
        >>> for _ in range(3):
        ...     steps.append(steps.parameters().squeeze(0))
        >>> torch.allclose(network(steps.x()).squeeze(-1), steps.x(), atol=1e-6)
        True
    """

    def __init__(self, network: BoundMaskedMLP, like: Tensor) -> None:
        self.network, self.turn = network, 0
        self.batch = torch.Size(torch.broadcast_shapes(like.shape[:-1], network.batch_shape))
        self.rows = network.rows(self.batch)
        # What is known of the inputs of each layer.
        self.known = [like.new_empty(0, self.batch.numel()) for _ in self.rows]

    def parameters(self) -> Tensor:
        """Return the parameters of the next coordinate, `(P, N)`."""
        last = len(self.rows) - 1
        for layer in range(last):
            activation = self.network.network.activations[layer]
            units = activation(self._evaluate(layer))
            self.known[layer + 1] = torch.cat([self.known[layer + 1], units])
        return self._evaluate(last)

    def append(self, x: Tensor) -> None:
        """Let the next coordinate be known, `(N)`."""
        self.known[0] = torch.cat([self.known[0], x.unsqueeze(0)])
        self.turn += 1

    def x(self) -> Tensor:
        """Return all coordinates, `(*, D)`, once they are known."""
        x = self.known[0].index_select(0, torch.argsort(self.network.order))
        return x.mT.reshape(*self.batch, self.network.features)

    def _evaluate(self, layer: int) -> Tensor:
        weight, bias = self.rows[layer][self.turn]
        known = self.known[layer]
        return torch.addmm(bias, weight[:, : len(known)], known)


def units_by_degree(width: int, lowest: int, features: int) -> list[int]:
    """Return how many of a layer's units have the degree 0, 1, ..., D - 1.

    They are shared out evenly among the degrees from the lowest one on. If there are too few, the
    lowest and the highest degree come first, then those between at even distances.

    Example:
        >>> units_by_degree(6, 1, features=4), units_by_degree(2, 1, features=4)
        ([0, 2, 2, 2], [0, 1, 0, 1])
    """
    count = features - lowest
    if width >= count:
        degrees = [lowest + unit * count // width for unit in range(width)]
    else:
        degrees = [lowest + unit * (count - 1) // max(width - 1, 1) for unit in range(width)]
    return [degrees.count(degree) for degree in range(features)]
