"""The variational autoencoder, whose posterior may be any flow: then it is the NF-VAE."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from nfbook._checks import check_count, check_type
from nfbook.estimators import Estimate, effective_sample_size, log_mean_exp
from nfbook.flows import AffineFlow, Flow, FlowDistribution, StandardNormal
from nfbook.progress import progress_bar
from nfbook.sampling import draw_and_log_prob
from nfbook.transforms.base import Compose
from nfbook.transforms.elementwise import Affine
from nfbook.vae.decoders import Decoder

__all__ = ["VAE", "Evaluation"]

# How many z are held at once while a model is evaluated.
PIECE = 2_000


class Evaluation(NamedTuple):
    r"""What importance sampling with K draws from the posterior says of each observation.

    Attributes:
        bound: The evidence lower bound, the mean of the K logarithms of weights.
        kl: :math:`\mathrm{KL}(q(\mathbf{z} \mid \mathbf{x}) \,\|\, p(\mathbf{z}))`.
        log_prob: :math:`\log p(\mathbf{x} \mid \theta)`, the logarithm of the weights' mean.
        effective_sample_size: How many of the K weights count, see `effective_sample_size`.

    Example:
        >>> one = Estimate(torch.zeros(5), torch.zeros(5))
        >>> Evaluation(one, one, one, torch.ones(5)).effective_sample_size.shape
        torch.Size([5])
    """

    bound: Estimate
    kl: Estimate
    log_prob: Estimate
    effective_sample_size: Tensor


class VAE(nn.Module):
    r"""A latent variable model with networks for its likelihood and its posterior.

    .. math::
        p(\mathbf{x}, \mathbf{z} \mid \theta)
            = p(\mathbf{x} \mid \mathbf{z}, \theta)\, p(\mathbf{z}),
        \qquad \mathbf{z}_0 \sim \mathcal{N}\bigl(\boldsymbol\mu(\mathbf{x}),
            \operatorname{diag} \boldsymbol\sigma^2(\mathbf{x})\bigr),
        \qquad \mathbf{z}_K = f_K \circ \dots \circ f_1(\mathbf{z}_0).

    The encoder turns x into a vector of units. The mean, the scale and, if there is a flow, its
    parameters are linear in them, or what the flow's own network makes of them. At first the
    posterior is the standard Gaussian, for every x.

    Sources: D. P. Kingma and M. Welling, Auto-encoding variational Bayes, ICLR (2014); with a flow,
    D. J. Rezende and S. Mohamed, Variational inference with normalizing flows, ICML (2015).

    Arguments:
        encoder: The network from x, `(*, D)`, to units, `(*, C)`, with C as its ``out_features``.
        decoder: The likelihood of each z, such as `BernoulliDecoder`.
        flow: The layers from :math:`\mathbf{z}_0` to :math:`\mathbf{z}_K`: a flow over d
            dimensions with a context of size C, or without one if its parameters are the same for
            every x. None for no layers: the posterior is a Gaussian with independent coordinates.
        prior: A flow over d dimensions without context, trained with the rest; None for the
            standard Gaussian.

    Raises:
        TypeError: A part has the wrong type.
        ValueError: The sizes of two parts do not fit.

    Example:
        >>> from nfbook.flows import PlanarFlow
            >>> from nfbook.networks import Feedforward
        >>> from nfbook.objectives import elbo
        >>> from nfbook.vae import VAE, BernoulliDecoder
        >>> vae = VAE(
        ...     Feedforward(64, (100,)),
        ...     BernoulliDecoder(Feedforward(8, (100,), 64)),
        ...     PlanarFlow(8, context=100, length=4, hidden_features=()),
        ... )
        >>> x = torch.ones(5, 64)
        >>> elbo(vae, x, vae.posterior(x), 3).value.shape
        torch.Size([5])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Decoder,
        flow: Flow | None = None,
        *,
        prior: Flow | None = None,
    ) -> None:
        super().__init__()
        check_type("encoder", encoder, nn.Module, "a torch.nn.Module")
        check_type("decoder", decoder, Decoder, "an nfbook Decoder")
        units = getattr(encoder, "out_features", None)
        check_count("encoder.out_features", units)
        assert isinstance(units, int)
        self.latent_dim = decoder.in_features
        for name, part, contexts in (("flow", flow, (0, units)), ("prior", prior, (0,))):
            if part is None:
                continue
            check_type(name, part, Flow, "an nfbook Flow or None")
            if part.features != self.latent_dim:
                raise ValueError(
                    f"{name} must have the features of the decoder's input, {self.latent_dim}, "
                    f"got {part.features}"
                )
            if part.context not in contexts:
                wanted = " or ".join(map(str, contexts))
                raise ValueError(f"{name} must have context {wanted}, got {part.context}")
        self.encoder, self.decoder, self.flow, self.prior_flow = encoder, decoder, flow, prior
        self.gaussian = AffineFlow(self.latent_dim, context=units, hidden_features=())

    @property
    def prior(self) -> Distribution:
        r"""The prior :math:`p(\mathbf{z})`, of event shape `(d,)`."""
        if self.prior_flow is not None:
            prior: Distribution = self.prior_flow()
            return prior
        zero = self.gaussian.like.new_zeros(self.latent_dim)
        return Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1)

    def likelihood(self, z: Tensor) -> Distribution:
        r"""Return :math:`p(\mathbf{x} \mid \mathbf{z}, \theta)` for each z, `(*, d)`."""
        likelihood: Distribution = self.decoder(z)
        return likelihood

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{x} \mid \mathbf{z}, \theta) + \log p(\mathbf{z})`.

        Arguments:
            x: Observations, `(*, D)`.
            z: Latent variables, `(..., *, d)`.
        """
        log_joint: Tensor = self.likelihood(z).log_prob(x) + self.prior.log_prob(z)
        return log_joint

    def posterior(self, x: Tensor) -> Distribution:
        r"""Return :math:`q(\mathbf{z} \mid \mathbf{x}, \phi)` for each x, `(*, D)`."""
        # Within torch.autocast the units are rounded numbers, and a flow takes its own dtype.
        units = self.encoder(x).to(self.gaussian.like.dtype)
        gaussian = self.gaussian.transform(units)
        assert isinstance(gaussian, Compose)
        if self.flow is None:
            (affine,) = gaussian.transforms
            assert isinstance(affine, Affine)
            assert affine.log_scale is not None
            scale = affine.log_scale.exp()
            return Independent(Normal(affine.shift, scale, validate_args=False), 1)
        layers = self.flow.transform(units if self.flow.context else None)
        base = StandardNormal(self.latent_dim, units.shape[:-1], like=units)
        return FlowDistribution(base, Compose([*gaussian.transforms, layers]), check=False)

    @torch.no_grad()
    def evaluate(
        self,
        x: Tensor,
        num_samples: int = 1000,
        *,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Evaluation:
        r"""Estimate the bound, the divergence from the prior, and the log-evidence.

        .. math:: \log \hat p(\mathbf{x}) = \log \frac1K \sum_{k=1}^K w_k, \qquad
            w_k = \frac{p(\mathbf{x}, \mathbf{z}_k)}{q(\mathbf{z}_k \mid \mathbf{x})}, \qquad
            \mathbf{z}_k \sim q(\mathbf{z} \mid \mathbf{x}).

        The standard error of the last is that of the mean, divided by it: to first order,
        :math:`\sqrt{1/\text{ESS} - 1/K}`. The memory is bounded, however large n and K are.

        Arguments:
            x: Observations, `(n, D)`.
            num_samples: The number of draws K for each.
            generator: The source of randomness, or None for torch's own.
            progress: Whether to show a bar.

        Returns:
            An `Evaluation` of tensors `(n,)`.
        """
        check_count("num_samples", num_samples)
        rows = max(1, PIECE // num_samples)
        parts = []
        with progress_bar(len(x), "Importance sampling", show=progress) as bar:
            for piece in x.split(rows):
                parts.append(self._weigh(piece, num_samples, generator))
                bar.update(len(piece))
        log_w, divergence = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        ess = effective_sample_size(log_w)
        error = (1 / ess - 1 / num_samples).clamp(min=0).sqrt()
        return Evaluation(
            _mean(log_w), _mean(divergence), Estimate(log_mean_exp(log_w), error), ess
        )

    def _weigh(
        self, x: Tensor, num_samples: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return log w and log q − log p(z) of draws for each x, both `(K, n)`."""
        q = self.posterior(x)
        draws = [PIECE] * (num_samples // PIECE) + [num_samples % PIECE]
        parts = []
        for count in filter(None, draws):
            z, log_q = draw_and_log_prob(q, (count,), generator=generator)
            divergence = log_q - self.prior.log_prob(z)
            parts.append((self.likelihood(z).log_prob(x) - divergence, divergence))
        log_w, divergence = (torch.cat(each) for each in zip(*parts, strict=True))
        return log_w, divergence


def _mean(values: Tensor) -> Estimate:
    """Return the mean over the draws, `(K, n)`, with its standard error."""
    return Estimate(values.mean(0), values.std(0) / len(values) ** 0.5)
