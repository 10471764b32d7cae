"""What is minimised: a number for each batch, for models and flows alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nfbook._checks import check_callable, check_count
from nfbook.sampling import draw_and_log_prob
from nfbook.training.annealing import Annealing, constant

__all__ = ["Loss", "MaximumLikelihood", "NegativeELBO", "ReverseKL"]

Loss = Callable[..., Tensor]
"""``loss(model, batch, step, generator)``: a tensor without dimensions."""


class MaximumLikelihood:
    r"""The negative log-likelihood :math:`-\frac1n \sum_i \log p(\mathbf{x}_i)` of a flow.

    A batch is x, or a pair of x and its context.

    Example:
        >>> from nfbook.flows import AffineFlow
        >>> MaximumLikelihood()(AffineFlow(2), torch.zeros(5, 2))
        tensor(1.8379, grad_fn=<NegBackward0>)
    """

    def __call__(
        self,
        model: nn.Module,
        batch: Any,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss in nats."""
        x, *context = batch if isinstance(batch, tuple) else (batch,)
        log_prob: Tensor = model(*context).log_prob(x)
        return -log_prob.mean()


class NegativeELBO:
    r"""The negative bound of a `VAE`, annealed or not.

    .. math:: \mathbb{E}_{q(\mathbf{z} \mid \mathbf{x})} \bigl[ \log q(\mathbf{z} \mid \mathbf{x})
        - \beta_t \log p(\mathbf{x}, \mathbf{z}) \bigr]
        \qquad \text{or} \qquad
        \mathbb{E}_{q(\mathbf{z} \mid \mathbf{x})} \bigl[ - \log p(\mathbf{x} \mid \mathbf{z})
        + \lambda_t \bigl( \log q(\mathbf{z} \mid \mathbf{x}) - \log p(\mathbf{z}) \bigr) \bigr].

    The first is the annealing of Rezende and Mohamed, which starts from a high temperature. The
    second is the warm-up of the divergence: it starts from an autoencoder. Both may be used at
    once.

    Arguments:
        annealing: The weight :math:`\beta_t` of the log joint density.
        warm_up: The weight :math:`\lambda_t` of the divergence.
        samples: How many z are drawn for each x.

    Example:
        >>> from nfbook.training import linear_annealing
        >>> loss = NegativeELBO(linear_annealing())
        >>> loss.annealing(5_000), loss.warm_up(5_000)
        (0.51, 1)
    """

    def __init__(
        self,
        annealing: Annealing = constant,
        *,
        warm_up: Annealing = constant,
        samples: int = 1,
    ) -> None:
        check_callable("annealing", annealing)
        check_callable("warm_up", warm_up)
        check_count("samples", samples)
        self.annealing, self.warm_up, self.samples = annealing, warm_up, samples

    def __call__(
        self,
        model: Any,
        batch: Tensor,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss in nats."""
        z, log_q = draw_and_log_prob(model.posterior(batch), (self.samples,), generator=generator)
        log_likelihood = model.likelihood(z).log_prob(batch)
        log_prior = model.prior.log_prob(z)
        beta, warm = self.annealing(step), self.warm_up(step)
        # With beta = 1 and warm = 1 this is log q minus the log joint.
        loss: Tensor = (warm * (log_q - beta * log_prior) - beta * log_likelihood).mean()
        return loss


class ReverseKL:
    r"""The divergence of a flow q from a target p, but for the target's normaliser.

    .. math:: \mathbb{E}_{q(\mathbf{z})}
        \bigl[ \log q(\mathbf{z}) - \beta_t \log p(\mathbf{z}) \bigr]

    There are no data: the batch is not looked at.

    Arguments:
        log_density: The target's log density, normalised or not, of points `(n, D)`.
        samples: How many points are drawn.
        annealing: The weight :math:`\beta_t`.

    Example:
        >>> from nfbook.flows import PlanarFlow
        >>> from nfbook.training import ReverseKL
        >>> loss = ReverseKL(lambda z: -z.square().sum(-1) / 2, samples=100)
        >>> loss(PlanarFlow(2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        samples: int = 256,
        annealing: Annealing = constant,
    ) -> None:
        check_callable("log_density", log_density)
        check_count("samples", samples)
        check_callable("annealing", annealing)
        self.log_density, self.samples, self.annealing = log_density, samples, annealing

    def __call__(
        self,
        model: nn.Module,
        batch: object = None,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss in nats."""
        q: Distribution = model()
        z, log_q = draw_and_log_prob(q, (self.samples,), generator=generator)
        return (log_q - self.annealing(step) * self.log_density(z)).mean()
