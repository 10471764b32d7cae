"""What is minimised: a number for each batch, for models and flows alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nfbook._checks import check_callable, check_count
from nfbook.estimators import log_mean_exp
from nfbook.objectives import square_weights
from nfbook.objectives.path_gradients import drawing
from nfbook.training.annealing import Annealing, constant

__all__ = [
    "Loss",
    "MaximumLikelihood",
    "NegativeELBO",
    "NegativeImportanceBound",
    "ReverseKL",
    "negative_bound",
]

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
        path_gradient: Whether the gradient takes the path through the draws only, which has less
            variance near the posterior, see `nfbook.objectives.path_gradients`.

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
        path_gradient: bool = False,
    ) -> None:
        check_callable("annealing", annealing)
        check_callable("warm_up", warm_up)
        check_count("samples", samples)
        self._draw = drawing(path_gradient, "path_gradient")
        self.annealing, self.warm_up, self.samples = annealing, warm_up, samples

    def __call__(
        self,
        model: Any,
        batch: Tensor,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss in nats."""
        z, log_q = self._draw(model.posterior(batch), (self.samples,), generator=generator)
        log_likelihood = model.likelihood(z).log_prob(batch)
        log_prior = model.prior.log_prob(z)
        beta, warm = self.annealing(step), self.warm_up(step)
        # With beta = 1 and warm = 1 this is log q minus the log joint.
        loss: Tensor = (warm * (log_q - beta * log_prior) - beta * log_likelihood).mean()
        return loss


@torch.no_grad()
def negative_bound(model: Any, x: Tensor, seed: int = 0) -> float:
    """Return the mean of the negative bound of a `VAE` over a data set, with one draw for each x.

    Each call has the same noise, so that models can be compared while they are trained.

    Arguments:
        model: The model.
        x: Observations, `(n, D)`.
        seed: Of the noise.

    Raises:
        TypeError: x is no floating-point tensor of the model's dtype.
        ValueError: x is empty, not finite, of another size, or lies where the likelihood cannot be.

    Example:
        >>> from nfbook.networks import Feedforward
        >>> from nfbook.vae import VAE, BernoulliDecoder
        >>> vae = VAE(Feedforward(4, (8,)), BernoulliDecoder(Feedforward(2, (8,), 4)))
        >>> negative_bound(vae, torch.ones(10, 4)) == negative_bound(vae, torch.ones(10, 4))
        True
    """
    model.check_observations(x)
    generator = torch.Generator().manual_seed(seed)
    loss = NegativeELBO()
    total = sum(loss(model, part, generator=generator).item() * len(part) for part in x.split(500))
    return total / len(x)


class NegativeImportanceBound:
    r"""The negative importance-weighted bound of a `VAE`, from K draws for each x.

    .. math:: - \mathbb{E} \log \frac1K \sum_{k=1}^K w_k, \qquad
        w_k = \frac{p(\mathbf{x}, \mathbf{z}_k)}{q(\mathbf{z}_k \mid \mathbf{x})}.

    With more draws the signal in the plain gradient of the posterior falls faster than its noise.
    The doubly reparametrised one does not suffer from that: with
    :math:`\tilde w_k = w_k / \sum_j w_j` it is

    .. math:: \sum_k \tilde w_k^2 \, \frac{\partial \mathbf{z}_k}{\partial \phi}^\top
        \nabla_{\mathbf{z}_k} \log w_k,

    along the path only. The gradient of the model's own parameters is the plain one in both.

    Sources: Y. Burda, R. Grosse and R. Salakhutdinov, Importance weighted autoencoders, ICLR
    (2016); G. Tucker, D. Lawson, S. Gu and C. Maddison, Doubly reparameterized gradient estimators
    for Monte Carlo objectives, ICLR (2019).

    Arguments:
        samples: The number K of draws.
        doubly_reparametrised: Whether the posterior's gradient is the second one.

    Example:
        >>> NegativeImportanceBound(8, doubly_reparametrised=True).samples
        8
    """

    def __init__(self, samples: int, *, doubly_reparametrised: bool = False) -> None:
        check_count("samples", samples)
        self.samples, self.doubly_reparametrised = samples, doubly_reparametrised
        self._draw = drawing(doubly_reparametrised, "doubly_reparametrised")

    def __call__(
        self,
        model: Any,
        batch: Tensor,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss in nats."""
        z, log_q = self._draw(model.posterior(batch), (self.samples,), generator=generator)
        log_w = model.likelihood(z).log_prob(batch) + model.prior.log_prob(z) - log_q
        if self.doubly_reparametrised:
            square_weights(z, log_w)
        return -log_mean_exp(log_w).mean()


class ReverseKL:
    r"""The divergence of a flow q from a target p, but for the target's normaliser.

    .. math:: \mathbb{E}_{q(\mathbf{z})}
        \bigl[ \log q(\mathbf{z}) - \beta_t \log p(\mathbf{z}) \bigr]

    There are no data: the batch is not looked at.

    Arguments:
        log_density: The target's log density, normalised or not, of points `(n, D)`.
        samples: How many points are drawn.
        annealing: The weight :math:`\beta_t`.
        path_gradient: As that of `NegativeELBO`.

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
        *,
        path_gradient: bool = False,
    ) -> None:
        self._draw = drawing(path_gradient, "path_gradient")
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
        z, log_q = self._draw(q, (self.samples,), generator=generator)
        return (log_q - self.annealing(step) * self.log_density(z)).mean()
