r"""Decoders: networks from a latent variable to a distribution of observations.

Which one depends on the pixels. Those that are black or white take a `BernoulliDecoder`. Whole
numbers from 0 to 255 have no density; with noise, see `dequantise`, they have one on (0, 1), and
take a `LogitNormalDecoder`, or a `GaussianDecoder`, which wastes what it puts outside of (0, 1).
Every likelihood is a density in the units of x itself, the log-determinants of logits and data
units included, so that a bound needs no correction before it is reported.

Example:
    From whole numbers to a bound in bits for each of the 64 pixels:

    >>> import torch
    >>> from nfbook.networks import Feedforward
    >>> from nfbook.objectives import bits_per_dimension, elbo
    >>> from nfbook.transforms import dequantise, quantise
    >>> from nfbook.vae import VAE, LogitNormalDecoder
    >>> pixels = torch.arange(128, dtype=torch.uint8).reshape(2, 64)
    >>> x = dequantise(pixels, 256)
    >>> vae = VAE(Feedforward(64, (16,)), LogitNormalDecoder(Feedforward(2, (16,), 128)))
    >>> bound = elbo(vae, x, vae.posterior(x), 10).value
    >>> bits_per_dimension(bound, features=64, levels=256).shape
    torch.Size([2])
    >>> quantise(vae.sample(3)[0], 256).shape
    torch.Size([3, 64])
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn.functional import softplus

from nfbook._checks import check_count, check_real, check_type, check_zero_one
from nfbook.flows import FlowDistribution
from nfbook.transforms import DataUnits, pixel_box
from nfbook.vae._units import shift_and_scale

__all__ = ["BernoulliDecoder", "Decoder", "GaussianDecoder", "LogitNormalDecoder"]


class Decoder(nn.Module, ABC):
    r"""A network whose outputs are the parameters of :math:`p(\mathbf{x} \mid \mathbf{z})`.

    Arguments:
        network: From z, `(*, d)`, to the parameters, `(*, P)`, with d as its ``in_features`` and P
            as its ``out_features``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_type("network", network, nn.Module, "a torch.nn.Module")
        check_count("network.in_features", getattr(network, "in_features", None))
        check_count("network.out_features", getattr(network, "out_features", None))
        self.network = network

    @property
    def in_features(self) -> int:
        """The size d of z."""
        size: int = self.network.in_features  # type: ignore[assignment]
        return size

    @property
    def data_dim(self) -> int:
        """The size D of an observation: here one for each output of the network."""
        size: int = self.network.out_features  # type: ignore[assignment]
        return size

    @abstractmethod
    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over observations of size D."""

    def centre(self, z: Tensor) -> Tensor:
        """Return the mean of each likelihood, `(*, D)`, or its median where that has no formula."""
        mean: Tensor = self(z).mean
        return mean

    def check_range(self, x: Tensor) -> None:
        """Check that the likelihood may have a positive density at observations, `(*, D)`."""


class BernoulliDecoder(Decoder):
    r"""Pixels that are black or white, independent given z.

    .. math:: p(\mathbf{x} \mid \mathbf{z}) = \prod_{i=1}^D \sigma(a_i)^{x_i}
        \bigl(1 - \sigma(a_i)\bigr)^{1 - x_i}, \qquad \mathbf{a} = \text{network}(\mathbf{z}).

    Grey is no value of such a pixel. Draw black or white with it as the probability, or take
    another decoder: what this formula gives for a grey pixel is not the logarithm of a density.

    Example:
        >>> import torch
        >>> from nfbook.networks import Feedforward
        >>> decoder = BernoulliDecoder(Feedforward(2, (16,), 64))
        >>> decoder(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 64])
    """

    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over images `(D,)`."""
        return Independent(Bernoulli(logits=self.network(z), validate_args=False), 1)

    def check_range(self, x: Tensor) -> None:
        """Check that each pixel is 0 or 1."""
        check_zero_one("x", x)


class GaussianDecoder(Decoder):
    r"""Numbers with Gaussian noise, independent given z.

    .. math:: p(\mathbf{x} \mid \mathbf{z})
        = \prod_{i=1}^D \mathcal{N}\bigl(x_i \mid m_i + \sigma_i \mu_i(\mathbf{z}),
            (\sigma_i s_i)^2\bigr), \qquad s_i = s_{\min} + \log(1 + e^{r_i}).

    The bound from below is what keeps the likelihood finite: a column that the mean can follow
    exactly, such as a margin that is always black, would have no best scale above zero.

    Arguments:
        network: From z, `(*, d)`, to the means :math:`\mu`, and to the raw scales r behind them if
            they are its own: D outputs or 2D.
        scale: Where the scale s of each coordinate starts, the same for all z and trained with
            the rest; None for one that the network gives.
        minimum: The least scale :math:`s_{\min}`. The noise of dequantised pixels with 256 levels
            has a standard deviation of 1/887.
        units: The data's own units m and :math:`\sigma`, so that the network works with
            standardised numbers; None for 0 and 1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A scale is out of its range, the network gives an odd number of outputs where
            half of them are scales, or the units have another size.

    Example:
        >>> from nfbook.networks import Feedforward
        >>> decoder = GaussianDecoder(Feedforward(2, (16,), 64), scale=0.5)
        >>> decoder(torch.zeros(5, 2)).stddev[0, 0].detach()
        tensor(0.5000)
        >>> GaussianDecoder(Feedforward(2, (16,), 64), scale=None).data_dim
        32
    """

    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: float | None = 1.0,
        *,
        minimum: float = 1e-3,
        units: DataUnits | None = None,
    ) -> None:
        super().__init__(network)
        self.outputs_each = 2 if scale is None else 1
        if check_real("minimum", minimum) <= 0:
            raise ValueError(f"minimum must be positive, got {minimum}")
        if super().data_dim % self.outputs_each:
            raise ValueError(
                "network must have an even number of outputs, means and then scales, "
                f"got {super().data_dim}"
            )
        self.minimum = minimum
        self.raw_scale = None
        if scale is not None:
            if check_real("scale", scale) <= minimum:
                raise ValueError(f"scale must be above minimum, {minimum}, got {scale}")
            above = torch.full((self.data_dim,), float(scale), dtype=torch.float64) - minimum
            raw = above + torch.log(-torch.expm1(-above))
            self.raw_scale = nn.Parameter(raw.to(torch.get_default_dtype()))
        shift, unit = torch.zeros(self.data_dim), torch.ones(self.data_dim)
        if units is not None:
            shift, unit = shift_and_scale(units, self.data_dim)
        self.register_buffer("shift", shift)
        self.register_buffer("unit", unit)

    @property
    def data_dim(self) -> int:
        """The size D of an observation."""
        return super().data_dim // self.outputs_each

    def gaussian(self, z: Tensor) -> Distribution:
        """Return the Gaussian that the network's outputs describe, in the data's units."""
        mean, raw = self.network(z), self.raw_scale
        if raw is None:
            mean, raw = mean.chunk(2, dim=-1)
        scale = self.unit * (self.minimum + softplus(raw))
        mean = torch.addcmul(self.shift, self.unit, mean)
        return Independent(Normal(mean, scale, validate_args=False), 1)

    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over vectors `(D,)`."""
        return self.gaussian(z)


class LogitNormalDecoder(GaussianDecoder):
    r"""Pixels between 0 and 1 whose logits have Gaussian noise, independent given z.

    .. math:: p(\mathbf{x} \mid \mathbf{z}) = \prod_{i=1}^D
        \mathcal{N}\bigl(y_i \mid \mu_i(\mathbf{z}), s_i^2\bigr)
        \left| \frac{\mathrm{d} y_i}{\mathrm{d} x_i} \right|, \qquad
        y_i = \operatorname{logit}\bigl(\alpha + (1 - 2 \alpha) x_i\bigr).

    With :math:`\alpha = 0` all of the density lies between 0 and 1, and the logit of a pixel near
    an end is far away. With a small one a little lies outside, and the logits of `dequantise`'s
    pixels stay within :math:`\log \alpha`.

    Source: D. J. Rezende and S. Mohamed, Variational inference with normalizing flows, ICML
    (2015), section 6, for patches of CIFAR-10.

    Arguments:
        network: From z, `(*, d)`, to the means :math:`\mu`, and to the raw scales r behind them if
            they are its own: D outputs or 2D.
        scale: As in `GaussianDecoder`, by default the network's own.
        alpha: From 0 to 1/4, see `pixel_box`.
        minimum: As in `GaussianDecoder`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of its range, or the network gives an odd number of outputs
            where half of them are scales.

    Example:
        >>> from nfbook.networks import Feedforward
        >>> decoder = LogitNormalDecoder(Feedforward(2, (16,), 2 * 64))
        >>> x = torch.full((5, 64), 0.5)
        >>> decoder(torch.zeros(5, 2)).log_prob(x).shape
        torch.Size([5])
    """

    def __init__(
        self,
        network: nn.Module,
        scale: float | None = None,
        *,
        alpha: float = 1e-4,
        minimum: float = 1e-3,
    ) -> None:
        super().__init__(network, scale, minimum=minimum)
        self.box = pixel_box(alpha)

    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, d)`, over images `(D,)`."""
        return FlowDistribution(self.gaussian(z), self.box, check=False)

    def centre(self, z: Tensor) -> Tensor:
        """Return the median of each pixel, `(*, D)`: its mean has no formula."""
        median: Tensor = self.box(self.gaussian(z).mean)
        return median.clamp(0, 1)

    def check_range(self, x: Tensor) -> None:
        """Check that each pixel lies strictly between 0 and 1."""
        if not bool(((x > 0) & (x < 1)).all()):
            raise ValueError(
                "x must lie strictly between 0 and 1, as dequantise gives it, "
                f"got {float(x.min())} to {float(x.max())}"
            )
