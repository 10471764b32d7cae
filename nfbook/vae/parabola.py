"""A small model whose posterior no Gaussian fits, and whose posterior is nevertheless known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from nfbook._checks import check_count, check_generator, check_positive, check_real, check_tensor
from nfbook.quadrature import grid
from nfbook.vae.decoders import Decoder

__all__ = ["Parabola"]

# Where the prior of the first coordinate has ended, to the last digit of a float64.
END = 9.0
NODES = 7201


class Parabola(Decoder):
    r"""The sum of one latent coordinate's square and another coordinate, with noise.

    .. math:: \mathbf{z} \sim \mathcal{N}(\mathbf{0}, \mathbf{I}_2), \qquad
        p(x \mid \mathbf{z}) = \mathcal{N}(x \mid z_1^2 + z_2, \sigma^2).

    An observation says only that z lies near the parabola :math:`z_2 = x - z_1^2`. Where x is
    small, the posterior is a bent ridge with one peak; as x grows, it parts into two peaks, left
    and right. Given :math:`z_1`, all is Gaussian,

    .. math:: p(x \mid z_1) = \mathcal{N}(x \mid z_1^2, 1 + \sigma^2), \qquad
        p(z_2 \mid z_1, x) = \mathcal{N}\Bigl(z_2 \Bigm| \frac{x - z_1^2}{1 + \sigma^2},
        \frac{\sigma^2}{1 + \sigma^2}\Bigr),

    so evidence and posterior take integrals over the line alone, which the trapezoidal rule gives
    to all digits.

    There is nothing to train. It is the decoder of a `VAE` whose posterior alone is learnt.

    Arguments:
        noise: The standard deviation :math:`\sigma`.

    Raises:
        TypeError: It is no number.
        ValueError: It is not positive.

    Example:
        >>> model = Parabola()
        >>> model.log_evidence(torch.tensor([[-1.0], [3.0]]))
        tensor([-2.0169, -2.5832])
    """

    def __init__(self, noise: float = 0.5) -> None:
        super().__init__(_SquareAndSum())
        check_positive("noise", torch.tensor(check_real("noise", noise)))
        self.noise = float(noise)

    def forward(self, z: Tensor) -> Distribution:
        """Return the likelihood of each z, `(*, 2)`, over observations `(1,)`."""
        return Independent(Normal(self.network(z), self.noise, validate_args=False), 1)

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Return :math:`\log p(x)` of observations, `(*, 1)`, by quadrature: shape `(*)`.

        Raises:
            TypeError: x is no tensor of floats.
            ValueError: Its last dimension is not 1, or it is not finite.
        """
        log_joint, log_weights = self._first_coordinate(x)[1:]
        return (log_joint + log_weights).logsumexp(-1)

    def log_posterior(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{z} \mid x)`.

        Arguments:
            x: Observations, `(*, 1)`.
            z: Latent variables, with the batch dimensions of x last, `(..., *, 2)`.

        Returns:
            One value for each z, `(..., *)`.

        Raises:
            TypeError: One is no tensor of floats.
            ValueError: One has the wrong size, or is not finite.
        """
        check_tensor("z", z, ("*", 2))
        prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_posterior: Tensor = prior + self(z).log_prob(x) - self.log_evidence(x)
        return log_posterior

    def sample_posterior(
        self, x: Tensor, n: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draw from :math:`p(\mathbf{z} \mid x)`, `(n, *, 2)`, for observations `(*, 1)`.

        The first coordinate is drawn from its density on a fine grid, linearly between the nodes
        of its distribution function, and the second one from its Gaussian given the first.

        Raises:
            TypeError: x is no tensor of floats, or n no int.
            ValueError: x has another size than 1, or is not finite, or n is not positive.
        """
        check_count("n", n)
        check_generator(generator)
        nodes, log_joint, log_weights = self._first_coordinate(x)
        # In float64: a sum of thousands of shares may end below the largest u that float32 has.
        share = (log_joint + log_weights).to(torch.float64).softmax(-1)
        # The function at a node: what lies before it, and half of its own share.
        below = share.cumsum(-1) - share / 2
        u = torch.rand((*x.shape[:-1], n), generator=generator, dtype=share.dtype)
        right = torch.searchsorted(below, u, right=True).clamp(1, len(nodes) - 1)
        low, high = below.gather(-1, right - 1), below.gather(-1, right)
        part = ((u - low) / (high - low)).clamp(0, 1)
        z1 = nodes[right - 1] + part * (nodes[right] - nodes[right - 1])
        z1 = z1.to(x.dtype).movedim(-1, 0)
        variance = 1 + self.noise**2
        e = torch.randn(z1.shape, generator=generator, dtype=x.dtype)
        z2 = (x[..., 0] - z1.square()) / variance + self.noise / math.sqrt(variance) * e
        return torch.stack([z1, z2], -1)

    def _first_coordinate(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes of the first coordinate, log p(x, node), `(*, nodes)`, and log weights."""
        check_tensor("x", x, ("*", 1))
        # Without z_2 the peaks are at least 1 / (2 z_1) wide, whatever the noise, and z_1 is at
        # most END: so 20 nodes or more lie within the narrowest.
        nodes, weights = grid(x.new_tensor([-END]), x.new_tensor([END]), NODES)
        nodes = nodes[:, 0]
        given = Normal(nodes.square(), math.sqrt(1 + self.noise**2))
        return nodes, given.log_prob(x) + Normal(0.0, 1.0).log_prob(nodes), weights.log()


class _SquareAndSum(nn.Module):
    """The mean of the observation, as a network that has nothing to learn."""

    in_features, out_features = 2, 1

    def forward(self, z: Tensor) -> Tensor:
        """Return the square of the first coordinate plus the second one, `(*, 1)`."""
        first, second = z.split(1, dim=-1)
        mean: Tensor = first.square() + second
        return mean
