"""The variational autoencoder, whose posterior may be any flow: then it is the NF-VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from nfbook._checks import check_count, check_same_dtype, check_tensor, check_type
from nfbook.estimators import Estimate
from nfbook.flows import AffineFlow, Flow, FlowDistribution, StandardNormal
from nfbook.progress import progress_bar
from nfbook.sampling import draw, draw_and_log_prob
from nfbook.transforms.base import Compose
from nfbook.transforms.elementwise import Affine
from nfbook.vae.decoders import Decoder
from nfbook.vae.running import RunningMoments, RunningWeights

__all__ = ["VAE", "Evaluation", "ImportanceEstimate"]

# How many z are held at once while a model is evaluated.
PIECE = 2_000


class ImportanceEstimate(NamedTuple):
    r"""The log-evidence by importance sampling, and how far it is to be trusted.

    Attributes:
        value: :math:`\log \hat p(\mathbf{x} \mid \theta)`, too low on average.
        standard_error: Its standard error, to first order.
        effective_sample_size: How many of the weights count, see `effective_sample_size`.

    Example:
        >>> ImportanceEstimate(torch.zeros(5), torch.zeros(5), torch.ones(5)).value.shape
        torch.Size([5])
    """

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


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

    It is a `JointModel`, so it goes wherever `nfbook.objectives` asks for one. Those, and the
    methods below that take observations, look at them first (`check_observations`). The methods
    that a training step calls, `posterior`, `likelihood` and `log_joint`, look at sizes and dtypes
    only, which takes no time.

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
        taken = getattr(encoder, "in_features", decoder.data_dim)
        if taken != decoder.data_dim:
            raise ValueError(
                f"decoder must give as many numbers as the encoder takes, {taken}, "
                f"got {decoder.data_dim}"
            )
        self.latent_dim = self._latent_dim(decoder, prior)
        for name, part, contexts in (("flow", flow, (0, units)), ("prior", prior, (0,))):
            if part is None:
                continue
            check_type(name, part, Flow, "an nfbook Flow or None")
            if part.features != self.latent_dim:
                raise ValueError(
                    f"{name} must have the features of z, {self.latent_dim}, got {part.features}"
                )
            if part.context not in contexts:
                wanted = " or ".join(map(str, contexts))
                raise ValueError(f"{name} must have context {wanted}, got {part.context}")
        self.encoder, self.decoder, self.flow, self.prior_flow = encoder, decoder, flow, prior
        # It starts at zero whatever is drawn, so torch's own generator is left alone.
        self.gaussian = AffineFlow(
            self.latent_dim, context=units, hidden_features=(), generator=torch.Generator()
        )

    def _latent_dim(self, decoder: Decoder, prior: Flow | None) -> int:
        """Return the size d of z."""
        return decoder.in_features

    # ---- the model ------------------------------------------------------------------------------

    @property
    def data_dim(self) -> int:
        """The size D of an observation."""
        return self.decoder.data_dim

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
        self._check_vectors("z", z, self.latent_dim)
        likelihood: Distribution = self.decoder(self._seen(z))
        return likelihood

    def decode(self, z: Tensor) -> Tensor:
        """Return what is expected of each z, `(*, d)`, without noise, `(*, D)`.

        It is the likelihood's mean, or its median where the mean has no formula.
        """
        self._check_vectors("z", z, self.latent_dim)
        return self.decoder.centre(self._seen(z))

    def _seen(self, z: Tensor) -> Tensor:
        """Return what the decoder sees of z."""
        return z

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Return :math:`\log p(\mathbf{x} \mid \mathbf{z}, \theta) + \log p(\mathbf{z})`.

        Arguments:
            x: Observations, `(*, D)`.
            z: Latent variables, `(..., *, d)`.

        Raises:
            TypeError: One is no tensor of the model's dtype.
            ValueError: One has the wrong size.
        """
        self._check_vectors("x", x, self.data_dim)
        log_joint: Tensor = self.likelihood(z).log_prob(x) + self.prior.log_prob(z)
        return log_joint

    def posterior(self, x: Tensor) -> Distribution:
        r"""Return :math:`q(\mathbf{z} \mid \mathbf{x}, \phi)` for each x, `(*, D)`.

        Raises:
            TypeError: x is no tensor of the model's dtype.
            ValueError: It has the wrong size.
        """
        self._check_vectors("x", x, self.data_dim)
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

    def check_observations(self, x: Tensor) -> None:
        """Check that x, `(*, D)`, are finite, and fit the model in size, dtype and range.

        Raises:
            TypeError: x is no floating-point tensor of the model's dtype.
            ValueError: It has another D than the decoder, or a pixel lies where the likelihood
                cannot be.
        """
        self._check_vectors("x", x, self.data_dim)
        check_tensor("x", x, ("*", self.data_dim))
        self.decoder.check_range(x)

    def _check_vectors(self, name: str, value: Tensor, size: int) -> None:
        """Check what a training step can afford to: type, size and dtype."""
        check_type(name, value, Tensor, "a torch.Tensor")
        if not value.ndim or value.shape[-1] != size:
            source = "the decoder's output" if name == "x" else "the latent variable"
            raise ValueError(
                f"{name} must have shape (*, {size}), the size of {source}, "
                f"got {tuple(value.shape)}"
            )
        check_same_dtype(**{name: value, "parameters": self.gaussian.parameters_of.start})

    # ---- using it -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n latent variables from the prior, then one observation for each.

        Arguments:
            n: The number of draws.
            generator: The source of randomness, or None for torch's own.

        Returns:
            The observations, `(n, D)`, then the latent variables that they came from, `(n, d)`.
            For pictures without noise, `decode` the latter.
        """
        check_count("n", n)
        z = draw(self.prior, (n,), generator=generator)
        return draw(self.likelihood(z), generator=generator), z

    @torch.no_grad()
    def latent_means(
        self,
        x: Tensor,
        num_samples: int = 100,
        *,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Tensor:
        r"""Return the mean of :math:`q(\mathbf{z} \mid \mathbf{x}, \phi)`.

        It is exact without a flow, and an average over draws with one.

        Arguments:
            x: Observations, `(*, D)`.
            num_samples: The number of draws for each, where they are needed.
            generator: The source of randomness, or None for torch's own.
            progress: Whether to show a bar.

        Returns:
            One for each observation, `(*, d)`.
        """
        if self.flow is None:
            self.check_observations(x)
            mean: Tensor = self.posterior(x).mean
            return mean
        return self._posterior_mean(x, num_samples, generator, progress, lambda z: z)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        num_samples: int = 100,
        *,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> Tensor:
        r"""Return what the model expects to see of z, on average over z given x.

        .. math:: \mathbb{E}_{q(\mathbf{z} \mid \mathbf{x})}
            \mathbb{E}_{p(\mathbf{x}' \mid \mathbf{z})} \mathbf{x}'

        The mean of z would be decoded more cheaply, but where a posterior is bent, it need not be
        a z that goes with x. For the mean over x' see `decode`.

        Arguments:
            x: Observations, `(*, D)`.
            num_samples: The number of draws of z for each.
            generator: The source of randomness, or None for torch's own.
            progress: Whether to show a bar.

        Returns:
            Observations without noise, `(*, D)`.
        """
        return self._posterior_mean(x, num_samples, generator, progress, self.decode)

    def _posterior_mean(
        self,
        x: Tensor,
        num_samples: int,
        generator: torch.Generator | None,
        progress: bool,
        function: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the average over draws of a function of z, in bounded memory."""
        self.check_observations(x)
        check_count("num_samples", num_samples)
        rows = x.reshape(-1, self.data_dim)
        means = []
        with progress_bar(len(rows), "Posterior means", show=progress) as bar:
            for piece in rows.split(_rows(num_samples)):
                q = self.posterior(piece)
                sums = [
                    function(draw(q, (count,), generator=generator)).sum(0)
                    for count in _counts(num_samples)
                ]
                means.append(torch.stack(sums).sum(0) / num_samples)
                bar.update(len(piece))
        return torch.cat(means).reshape(*x.shape[:-1], -1)

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

        The standard error :math:`\epsilon` of the last is that of the mean, divided by it: to first
        order, :math:`\sqrt{1/\text{ESS} - 1/K}`. Its value is too low on average, to first order by
        :math:`\epsilon^2 / 2`, which an average over observations does not lower. However large n
        and K are, no more than 2,000 z are held at once, and seven numbers for each observation.

        Arguments:
            x: Observations, `(*, D)`.
            num_samples: The number of draws K for each.
            generator: The source of randomness, or None for torch's own.
            progress: Whether to show a bar.

        Returns:
            An `Evaluation` of tensors `(*)`.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: x does not fit the model, or there are no draws.
        """
        self.check_observations(x)
        check_count("num_samples", num_samples)
        rows = x.reshape(-1, self.data_dim)
        # Made before anything else. Small tensors kept from between the large ones that come and go
        # would each leave a hole in memory, too small for the next large one.
        found = x.new_empty(7, len(rows))
        size = _rows(num_samples)
        with progress_bar(len(rows), "Importance sampling", show=progress) as bar:
            for piece, of_piece in zip(rows.split(size), found.split(size, dim=1), strict=True):
                torch.stack(self._weigh(piece, num_samples, generator), out=of_piece)
                bar.update(len(piece))
        numbers = found.reshape(7, *x.shape[:-1])
        bound, bound_error, kl, kl_error, log_prob, error, ess = numbers
        return Evaluation(
            Estimate(bound, bound_error),
            Estimate(kl, kl_error),
            Estimate(log_prob, error),
            ess,
        )

    def log_prob_importance(
        self,
        x: Tensor,
        num_samples: int = 1000,
        *,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> ImportanceEstimate:
        r"""Estimate :math:`\log p(\mathbf{x} \mid \theta)` with draws from the posterior.

        It is the part of `evaluate` that most readers want. For gradients, or draws from another
        distribution, there are `importance_weighted_bound` and `importance_log_prob`.

        Arguments:
            x: Observations, `(*, D)`.
            num_samples: The number of draws for each.
            generator: The source of randomness, or None for torch's own.
            progress: Whether to show a bar.

        Returns:
            An `ImportanceEstimate` of tensors `(*)`.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: x does not fit the model, or there are no draws.

        Example:
            >>> from nfbook.networks import Feedforward
            >>> from nfbook.vae import BernoulliDecoder
            >>> decoder = BernoulliDecoder(Feedforward(2, (), 64))
            >>> vae = VAE(Feedforward(64, (16,)), decoder)
            >>> vae.log_prob_importance(torch.ones(5, 64), 10).standard_error.shape
            torch.Size([5])
        """
        found = self.evaluate(x, num_samples, generator=generator, progress=progress)
        return ImportanceEstimate(*found.log_prob, found.effective_sample_size)

    def _weigh(
        self, x: Tensor, num_samples: int, generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Return, for each x, the numbers of an `Evaluation`, one after the other."""
        q, prior = self.posterior(x), self.prior
        log_w, kl, weights = RunningMoments(), RunningMoments(), RunningWeights()
        for count in _counts(num_samples):
            z, log_q = draw_and_log_prob(q, (count,), generator=generator)
            log_ratio = log_q - prior.log_prob(z)
            log_weights = self.likelihood(z).log_prob(x) - log_ratio
            kl.add(log_ratio)
            log_w.add(log_weights)
            weights.add(log_weights)
        return (*log_w.mean(), *kl.mean(), *weights.log_mean(), weights.effective_sample_size())


def _rows(num_samples: int) -> int:
    """Return how many observations with so many draws each are looked at together."""
    return max(1, PIECE // num_samples)


def _counts(num_samples: int) -> list[int]:
    """Return the numbers of draws that are held at once."""
    whole, rest = divmod(num_samples, PIECE)
    return [PIECE] * whole + [rest] * (rest > 0)
