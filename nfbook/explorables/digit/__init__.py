"""A point of the latent plane, and the digit that a trained decoder makes of it."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor, nn

from nfbook.explorables.base import Choice, Explorable, Real
from nfbook.networks import Feedforward
from nfbook.vae import VAE, BernoulliDecoder

__all__ = ["DATA", "UNITS", "DigitExplorable", "black_and_white", "new_vae", "trained_vae"]

# Hidden units of the encoder, and of the decoder's two layers.
UNITS = (100, 32, 32)
DATA = Path(__file__).parents[2] / "data"


def black_and_white(images: Tensor) -> Tensor:
    """Return digits with 0 to 16 dots of ink in each pixel as ones, from 8 dots on, and zeros.

    Example:
        >>> black_and_white(torch.tensor([[0, 7, 8, 16]]))
        tensor([[0., 0., 1., 1.]], dtype=torch.float64)
    """
    return (images >= 8).to(torch.float64)


def new_vae(generator: torch.Generator | None = None) -> VAE:
    """Return the figure's model before it is trained, in double precision.

    Arguments:
        generator: The source of the initial weights.

    Example:
        >>> new_vae().posterior(torch.zeros(1, 64, dtype=torch.float64)).mean.detach()
        tensor([[0., 0.]], dtype=torch.float64)
    """
    encoder = Feedforward(64, UNITS[:1], generator=generator)
    decoder = BernoulliDecoder(Feedforward(2, UNITS[1:], 64, generator=generator))
    return VAE(encoder, decoder).to(torch.float64)


def trained_vae() -> VAE:
    """Return the model whose decoder the figure runs, trained on the black and white digits.

    ``tools/train_digits.py`` trained it, and kept four decimals of each weight.

    Example:
        >>> trained_vae().decode(torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5, 64])
    """
    vae = new_vae().requires_grad_(False)
    _assign(vae.decoder, DATA / "digits_decoder.csv")
    _assign(nn.ModuleList([vae.encoder, vae.gaussian]), DATA / "digits_encoder.csv")
    return vae.eval()


@torch.no_grad()
def _assign(part: nn.Module, path: Path) -> None:
    """Give a part of the model its stored parameters, each of which is a row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[float(number) for number in row[1:]] for row in list(csv.reader(file))[1:]]
    for parameter, values in zip(part.parameters(), rows, strict=True):
        parameter.copy_(torch.tensor(values, dtype=torch.float64).reshape(parameter.shape))


class DigitExplorable(Explorable, module="digit"):
    r"""A point z of the latent plane of a VAE, and the digit that its decoder makes of it.

    The decoder is a network with two hidden layers and 64 outputs, whose logistic function is the
    probability that a pixel is black,

    .. math:: p(\mathbf{x} \mid \mathbf{z}) = \prod_{i=1}^{64} p_i(\mathbf{z})^{x_i}
        \bigl(1 - p_i(\mathbf{z})\bigr)^{1 - x_i}.

    The dots are the means of :math:`q(\mathbf{z} \mid \mathbf{x})` for the 250 digits of the test
    set, see `nfbook.data.split_digits`. ``tools/train_digits.py`` trained the model.

    Attributes:
        pixels: What is drawn: the "probabilities" of black, or "a draw" of black and white pixels,
            always with the same noise.
        z1: The first coordinate, from -3 to 3.
        z2: The second one.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A number lies outside its range, or there is no such word.

    Example:
        >>> figure = DigitExplorable(z1=1.0)
        >>> figure.pixels = "a draw"
        >>> figure
        DigitExplorable(pixels='a draw', z1=1.0, z2=0.0)
    """

    pixels = Choice("probabilities", "a draw").tag(sync=True)
    z1 = Real(-3.0, 3.0).tag(sync=True)
    z2 = Real(-3.0, 3.0).tag(sync=True)

    def __init__(self, *, pixels: str = "probabilities", z1: float = 0.0, z2: float = 0.0) -> None:
        super().__init__(pixels=pixels, z1=z1, z2=z2)
