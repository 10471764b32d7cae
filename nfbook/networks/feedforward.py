"""The networks of encoders and decoders: hidden layers of one kind, and a linear last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nfbook._checks import check_callable, check_count, check_widths
from nfbook.networks._layers import linear

__all__ = ["Dense", "Feedforward", "Gated", "Maxout"]


class _Hidden(nn.Module):
    """A hidden layer that is made of linear units, so many for each of its outputs."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        each: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        self.linear = linear(in_features, out_features * each, generator=generator)


class Dense(_Hidden):
    r"""A layer :math:`\max(0, \mathbf{W} \mathbf{x} + \mathbf{b})`.

    Arguments:
        in_features: The size of x.
        out_features: The size of the result.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> Dense(3, 5)(torch.zeros(7, 3)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self, in_features: int, out_features: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(in_features, out_features, 1, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `(*, out_features)`."""
        return nn.functional.relu(self.linear(x), inplace=True)


class Maxout(_Hidden):
    r"""A layer whose unit is the largest of several linear ones (Goodfellow et al., 2013).

    .. math:: y_i = \max_{j \le k} \; \mathbf{w}_{ij}^\top \mathbf{x} + b_{ij}

    Arguments:
        in_features: The size of x.
        out_features: The size of the result.
        window: The number k of linear units of which the largest counts.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> Maxout(3, 5)(torch.zeros(7, 3)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: int = 4,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        check_count("window", window)
        super().__init__(in_features, out_features, window, generator)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `(*, out_features)`."""
        units: Tensor = self.linear(x)
        largest: Tensor = units.unflatten(-1, (-1, self.window)).amax(-1)
        return largest


class Gated(_Hidden):
    r"""A layer that is linear but for gates between 0 and 1 (Dauphin et al., 2017).

    .. math:: \mathbf{y} = (\mathbf{W} \mathbf{x} + \mathbf{b})
        \odot \sigma(\mathbf{V} \mathbf{x} + \mathbf{c})

    Arguments:
        in_features: The size of x.
        out_features: The size of the result.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> Gated(3, 5)(torch.zeros(7, 3)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self, in_features: int, out_features: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(in_features, out_features, 2, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `(*, out_features)`."""
        result: Tensor = nn.functional.glu(self.linear(x))
        return result


class Feedforward(nn.Sequential):
    """Hidden layers, one after the other, and a linear last layer if an output size is given.

    An encoder of a `VAE` ends with a hidden layer, whose units are what the posterior is made of.
    A decoder ends with a linear layer, whose outputs are the parameters of the likelihood.

    Arguments:
        in_features: The size of the input.
        widths: The width of each hidden layer.
        out_features: The size of the output; None to end with the last hidden layer.
        layer: What makes a hidden layer of the sizes before and after it: `Dense`, `Maxout`,
            `Gated`, or a function of one's own with their arguments.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A size is not an int.
        ValueError: A size is too small, or there is no layer at all.

    Example:
        >>> encoder = Feedforward(784, (400, 400))
        >>> decoder = Feedforward(40, (400, 400), 784)
        >>> decoder(torch.zeros(7, 40)).shape
        torch.Size([7, 784])
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        out_features: int | None = None,
        *,
        layer: Callable[..., nn.Module] = Dense,
        generator: torch.Generator | None = None,
    ) -> None:
        check_count("in_features", in_features)
        check_widths("widths", widths)
        check_callable("layer", layer)
        sizes = [in_features, *widths]
        layers = [layer(*pair, generator=generator) for pair in pairwise(sizes)]
        if out_features is not None:
            check_count("out_features", out_features)
            layers.append(linear(sizes[-1], out_features, generator=generator))
        if not layers:
            raise ValueError("widths must hold at least one width where there is no out_features")
        super().__init__(*layers)
        self.in_features = in_features
        self.out_features = sizes[-1] if out_features is None else out_features
