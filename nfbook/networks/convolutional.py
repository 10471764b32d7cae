"""Convolutional encoders and decoders, of images that come and go as flat vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nfbook._checks import check_count, check_generator, check_type, check_vectors
from nfbook.networks._layers import linear
from nfbook.networks.feedforward import Dense, Gated

__all__ = ["STAGES", "ConvolutionalDecoder", "ConvolutionalEncoder"]

STAGES = ((32, 1), (32, 2), (64, 1), (64, 2), (64, 1))
"""Channels and stride of each layer of an encoder, as van den Berg et al. (2018) have them."""

KERNEL = 5


class _Convolution(nn.Module):
    """A convolution, or the transpose of one, followed by gates or by a ReLU."""

    def __init__(
        self,
        channels: tuple[int, int],
        stride: int,
        grown: tuple[int, int] | None,
        *,
        gated: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        before, after = channels
        self.gated = gated
        outputs = after * (2 if gated else 1)
        device = torch.get_default_device()
        padding = KERNEL // 2
        self.layer: nn.Module
        if grown is None:
            self.layer = nn.utils.skip_init(
                nn.Conv2d, before, outputs, KERNEL, stride, padding, device=device
            )
        else:
            self.layer = nn.utils.skip_init(
                nn.ConvTranspose2d, before, outputs, KERNEL, stride, padding, grown, device=device
            )
        # An output of a transposed convolution sees every stride-th row and column of the kernel.
        seen = before * KERNEL**2 / (1 if grown is None else stride**2)
        for parameter in self.layer.parameters():
            nn.init.uniform_(parameter, -(seen**-0.5), seen**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps after the layer, `(n, channels, height, width)`."""
        maps = self.layer(x)
        # As in `Gated` and `Dense`, for channels in place of units.
        return nn.functional.glu(maps, dim=1) if self.gated else nn.functional.relu(maps)


class ConvolutionalEncoder(nn.Module):
    r"""Convolutions of an image, and a layer of units that sees all of their maps.

    A layer with gates multiplies its outputs by others between 0 and 1 (Dauphin et al., 2017):
    :math:`(\mathbf{W} * \mathbf{x} + \mathbf{b}) \odot \sigma(\mathbf{V} * \mathbf{x} +
    \mathbf{c})`. Kernels are 5 by 5. A stride of 2 halves each side, rounded up, so that any side
    will do.

    Source: R. van den Berg, L. Hasenclever, J. M. Tomczak and M. Welling, Sylvester normalizing
    flows for variational inference, UAI (2018), section 6.2.

    Arguments:
        image: Channels, height and width. The D numbers of an image are in that order: all of the
            first channel, row by row, then the next one.
        out_features: The number of units.
        stages: Channels and stride of each layer.
        gated: Whether the layers have gates; else they are followed by a ReLU.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A size is not an int.
        ValueError: A size is too small, or there is no layer.

    Example:
        >>> encoder = ConvolutionalEncoder((3, 8, 8), 100)
        >>> encoder.in_features, encoder(torch.zeros(5, 7, 192)).shape
        (192, torch.Size([5, 7, 100]))
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        out_features: int = 256,
        stages: Sequence[tuple[int, int]] = STAGES,
        *,
        gated: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(image, stages, gated, generator)
        check_count("out_features", out_features)
        self.image, self.gated = tuple(image), gated
        self.in_features, self.out_features = math.prod(image), out_features
        channels = [image[0], *(each for each, _ in stages)]
        self.layers = nn.Sequential(
            *(
                _Convolution(
                    (channels[k], channels[k + 1]), stride, None, gated=gated, generator=generator
                )
                for k, (_, stride) in enumerate(stages)
            )
        )
        maps = channels[-1] * math.prod(_sides(image[1:], stages)[-1])
        self.last = (Gated if gated else Dense)(maps, out_features, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the units of each image, `(*, out_features)`.

        Raises:
            TypeError: x is no dense tensor.
            ValueError: x has another size than ``in_features``.
        """
        check_vectors("x", x, self.in_features)
        maps = self.layers(x.reshape(-1, *self.image))
        units = self.last(maps.flatten(1))
        result: Tensor = units.reshape(*x.shape[:-1], self.out_features)
        return result


class ConvolutionalDecoder(nn.Module):
    r"""From a vector to an image: the layers of a `ConvolutionalEncoder`, transposed and reversed.

    The last one is a convolution of single pixels, without gates or ReLU.

    Arguments:
        in_features: The size of the vector.
        image: Channels, height and width of the result, which is flat and in that order. A
            likelihood with two numbers for each of the D of an image, means and then scales, takes
            twice as many channels.
        stages: Channels and stride of the encoder's layers, whose reverse the decoder follows.
        gated: Whether the layers have gates; else they are followed by a ReLU.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A size is not an int.
        ValueError: A size is too small, or there is no layer.

    Example:
        >>> decoder = ConvolutionalDecoder(40, (1, 28, 28))
        >>> decoder.out_features, decoder(torch.zeros(3, 40)).shape
        (784, torch.Size([3, 784]))
    """

    def __init__(
        self,
        in_features: int,
        image: tuple[int, int, int],
        stages: Sequence[tuple[int, int]] = STAGES,
        *,
        gated: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(image, stages, gated, generator)
        check_count("in_features", in_features)
        self.image, self.gated = tuple(image), gated
        self.in_features, self.out_features = in_features, math.prod(image)
        sides = _sides(image[1:], stages)
        channels = [each for each, _ in stages]
        self.start = (channels[-1], *sides[-1])
        units = math.prod(self.start)
        self.first = (Gated if gated else Dense)(in_features, units, generator=generator)
        layers: list[nn.Module] = []
        for k in reversed(range(len(stages))):
            stride = stages[k][1]
            # Several sides shrink to the same one: this says to which of them it grows back.
            grown = tuple(
                wanted - ((side - 1) * stride + 1)
                for wanted, side in zip(sides[k], sides[k + 1], strict=True)
            )
            before_it = (channels[k], channels[max(k - 1, 0)])
            layers.append(
                _Convolution(
                    before_it, stride, (grown[0], grown[1]), gated=gated, generator=generator
                )
            )
        self.layers = nn.Sequential(*layers)
        self.last = linear(channels[0], image[0], generator=generator)

    def forward(self, z: Tensor) -> Tensor:
        """Return one flat image for each vector, `(*, channels * height * width)`.

        Raises:
            TypeError: z is no dense tensor.
            ValueError: z has another size than ``in_features``.
        """
        check_vectors("z", z, self.in_features)
        start = self.first(z.reshape(-1, self.in_features))
        maps = self.layers(start.reshape(-1, *self.start))
        pixels = self.last(maps.movedim(1, -1)).movedim(-1, 1)
        result: Tensor = pixels.reshape(*z.shape[:-1], self.out_features)
        return result


def _sides(image: Sequence[int], stages: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return height and width before the first layer, and after each one."""
    height, width = image
    sides = [(height, width)]
    for _, stride in stages:
        height, width = -(-height // stride), -(-width // stride)
        sides.append((height, width))
    return sides


def _check(
    image: tuple[int, int, int],
    stages: Sequence[tuple[int, int]],
    gated: bool,
    generator: torch.Generator | None,
) -> None:
    for name, value, wanted in (
        ("image", image, "channels, height and width"),
        ("stages", stages, "pairs of channels and a stride"),
    ):
        check_type(name, value, list | tuple, f"a tuple of {wanted}")
    if len(image) != 3:
        raise ValueError(f"image must be channels, height and width, got {tuple(image)}")
    if not stages:
        raise ValueError("stages must hold at least one pair of channels and a stride, got none")
    for size in image:
        check_count("every size of image", size)
    for stage in stages:
        check_type("every one of stages", stage, list | tuple, "a pair of channels and a stride")
        if len(stage) != 2:
            raise ValueError(
                f"every one of stages must be a pair of channels and a stride, got {stage}"
            )
        for number in stage:
            check_count("every number in stages", number)
    check_type("gated", gated, bool, "True or False")
    check_generator(generator)
