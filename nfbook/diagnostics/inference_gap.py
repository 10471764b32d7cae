"""What a bound loses: to the family of q, and to the network that chooses from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from nfbook._checks import (
    check_callable,
    check_count,
    check_distribution,
    check_generator,
    check_positive,
    check_same_dtype,
    check_tensor,
    check_type,
    scalar,
)
from nfbook.diagnostics._ranks import Posterior
from nfbook.estimators import (
    Estimate,
    JointModel,
    check_joint_model,
    check_proposal,
    log_mean_exp,
    log_weights,
)
from nfbook.progress import progress_bar
from nfbook.sampling import draw_and_log_prob

__all__ = ["DiagonalGaussian", "InferenceGap", "inference_gap"]


class InferenceGap(NamedTuple):
    r"""The log-evidence, two bounds, and the gaps between them, one value for each observation.

    .. math:: \underbrace{\log p(\mathbf{x}) - \mathcal{L}(q)}_{\text{inference gap}}
        = \underbrace{\log p(\mathbf{x}) - \mathcal{L}(q^*)}_{\text{approximation}}
        + \underbrace{\mathcal{L}(q^*) - \mathcal{L}(q)}_{\text{amortisation}}.

    Attributes:
        log_prob: The log-evidence :math:`\log p(\mathbf{x})`, in nats, `(n,)` as all the others.
        best: The bound :math:`\mathcal{L}(q^*)` of the best q of the family.
        amortised: The bound :math:`\mathcal{L}(q)` of the posterior in question.
        approximation: What the family costs.
        amortisation: What is lost since one network serves all x. It is below zero where the
            optimisation has not come as far as that network.
        total: The inference gap, :math:`\mathrm{KL}(q \,\|\, p(\mathbf{z} \mid \mathbf{x}))`.
        best_q: The distribution :math:`q^*`, with batch shape `(n,)`.

    Example:
        See `inference_gap`.

        >>> InferenceGap._fields[3:6]
        ('approximation', 'amortisation', 'total')
    """

    log_prob: Estimate
    best: Estimate
    amortised: Estimate
    approximation: Estimate
    amortisation: Estimate
    total: Estimate
    best_q: Distribution


class DiagonalGaussian(nn.Module):
    r"""Gaussians with independent coordinates and free parameters, for `inference_gap`.

    They start as :math:`\mathcal{N}(\mathbf{0}, \mathbf{I})`.

    Arguments:
        features: The dimension d.
        batch_shape: How many there are, each with parameters of its own.

    Raises:
        TypeError: A size is not an int, or the batch shape no tuple.
        ValueError: A size is less than 1.

    Example:
        >>> DiagonalGaussian(2, (7,))().batch_shape
        torch.Size([7])
    """

    def __init__(self, features: int, batch_shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        check_count("features", features)
        check_type("batch_shape", batch_shape, tuple, "a tuple of ints")
        for size in batch_shape:
            check_count("every one of batch_shape", size)
        self.mean = nn.Parameter(torch.zeros(*batch_shape, features))
        self.log_std = nn.Parameter(torch.zeros(*batch_shape, features))

    def forward(self) -> Independent[Normal]:
        """Return the distribution."""
        return Independent(Normal(self.mean, self.log_std.exp()), 1)


def inference_gap(
    model: JointModel,
    x: Tensor,
    posterior: Posterior,
    family: Callable[[], nn.Module],
    *,
    log_prob: Tensor | Estimate | None = None,
    num_samples: int = 1000,
    steps: int = 1000,
    draws_per_step: int = 16,
    learning_rate: float = 0.05,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> InferenceGap:
    r"""Split the inference gap of an amortised posterior into approximation and amortisation.

    The best q of the family is sought for each x by itself: its parameters are raised up the
    evidence lower bound by Adam, with a step that falls to zero along half a cosine. All bounds are
    then estimated from new draws. As `InferenceGap.best` is at most that of the true best, the
    approximation gap is too large and the amortisation gap too small by what the search lacks:
    take more steps and see whether they change.

    Where :math:`\log p(\mathbf{x})` is not known, it is estimated by importance sampling from
    :math:`q^*`, with the same draws as its bound. It is then too low on average, and so is the
    approximation gap; where the family is far from the posterior, by much. `pareto_k` of those
    weights tells, and a better estimate, as by annealed importance sampling, can be given.

    Source: C. Cremer, X. Li and D. Duvenaud, Inference suboptimality in variational autoencoders,
    ICML (2018), section 3.

    Arguments:
        model: A `LatentVariableModel`, or any object with ``prior``, ``likelihood`` and
            ``log_joint``. It is not changed.
        x: Observations, `(n, D)`.
        posterior: The amortised posterior: a function of observations that returns one distribution
            over z for each.
        family: A function without arguments that returns a new module, which when called returns a
            distribution with ``rsample``: for one observation, as ``lambda: PlanarFlow(d)`` does,
            and then one such module is made for each; or with batch shape `(n,)` and parameters for
            each, as ``lambda: DiagonalGaussian(d, (n,))`` does, which is faster. It is converted to
            the dtype and the device of x. It should hold what the amortised posterior can be.
        log_prob: The log-evidence, `(n,)`, or an estimate of it with standard errors. None means
            ``model.log_prob(x)`` if the model has that, and else importance sampling.
        num_samples: The number of draws for each bound and observation, at least 2.
        steps: The number of steps of the search; 0 leaves the family as it starts.
        draws_per_step: The number of draws for each step and observation.
        learning_rate: The size of the first step.
        generator: The source of randomness, or None for torch's own.
        progress: Whether to show a bar if it takes more than two seconds.

    Raises:
        TypeError: An argument has the wrong type or dtype, or the family's draws have no gradient.
        ValueError: A shape does not fit, a number is too small, or a log density is NaN.

    Example:
        The posterior of this model is correlated, and the amortised one has another mean besides:

        >>> from nfbook.latent import PPCA
        >>> model = PPCA(torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]]), torch.zeros(3), 1.0)
        >>> def amortised(x):
        ...     exact = model.posterior(x)
        ...     return Independent(Normal(exact.mean + 0.5, 0.4), 1)
        >>> x, generator = torch.ones(1, 3), torch.Generator().manual_seed(0)
        >>> def family():
        ...     return DiagonalGaussian(2)
        >>> gap = inference_gap(model, x, amortised, family, steps=200, generator=generator)
        >>> gap.amortisation.value > gap.approximation.value
        tensor([True])
        >>> bool(gap.approximation.value > 5 * gap.approximation.standard_error)
        True
    """
    check_joint_model(model, x)
    check_tensor("x", x, ("n", "D"))
    check_callable("posterior", posterior)
    check_callable("family", family)
    check_count("num_samples", num_samples, minimum=2)
    check_count("steps", steps, minimum=0)
    check_count("draws_per_step", draws_per_step)
    check_positive("learning_rate", scalar("learning_rate", learning_rate))
    check_generator(generator)
    evidence = _known_evidence(model, x, log_prob)
    with torch.no_grad():
        amortised_q = posterior(x)
    check_proposal(model, x, amortised_q, "posterior(x)")
    module = _for_each(family, x)
    _search(
        lambda: -_log_weights(model, x, module(), draws_per_step, generator).mean(0).sum(),
        list(module.parameters()),
        steps,
        learning_rate,
        progress,
    )
    with torch.no_grad():
        best_q = module()
        log_w = _log_weights(model, x, best_q, num_samples, generator)
        best = _mean(log_w)
        amortised = _mean(_log_weights(model, x, amortised_q, num_samples, generator))
        if evidence is None:
            # To first order the logarithm of the mean weight changes by w_k / mean(w) - 1 per draw.
            log_mean = log_mean_exp(log_w)
            shares = (log_w - log_mean).exp()
            evidence = Estimate(log_mean, _mean(shares).standard_error)
            error = _mean(shares - log_w).standard_error
            approximation = Estimate(log_mean - best.value, error)
        else:
            approximation = _difference(evidence, best)
    return InferenceGap(
        evidence,
        best,
        amortised,
        approximation,
        _difference(best, amortised),
        _difference(evidence, amortised),
        best_q,
    )


def _known_evidence(
    model: JointModel, x: Tensor, log_prob: Tensor | Estimate | None
) -> Estimate | None:
    """Return the log-evidence that was given or that the model knows, if there is one."""
    if log_prob is None:
        exact = getattr(model, "log_prob", None)
        if exact is None:
            return None
        with torch.no_grad():
            log_prob = cast("Tensor", exact(x))
    if not isinstance(log_prob, Estimate):
        check_type("log_prob", log_prob, Tensor, "a torch.Tensor, an Estimate or None")
        log_prob = Estimate(log_prob, torch.zeros_like(log_prob))
    for name, value in log_prob._asdict().items():
        check_tensor(f"log_prob's {name}", value, (len(x),))
        check_same_dtype(**{"x": x, f"log_prob's {name}": value})
    return Estimate(log_prob.value.detach(), log_prob.standard_error.detach())


def _for_each(family: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """Return a module whose distribution has parameters of its own for each observation."""

    def make() -> nn.Module:
        module = family()
        check_type("family()", module, nn.Module, "a torch.nn.Module")
        return module.to(x)

    first = make()
    q = first()
    check_distribution("family()()", q)
    if not q.has_rsample:
        raise TypeError(f"family()() must have rsample, got {type(q).__name__}")
    if q.batch_shape == x.shape[:-1]:
        return first
    if q.batch_shape:
        raise ValueError(
            f"family()() must have batch shape () or that of x, {tuple(x.shape[:-1])}, "
            f"got {tuple(q.batch_shape)}"
        )
    return _Separate([first, *(make() for _ in x[1:])])


def _search(
    loss_of: Callable[[], Tensor],
    parameters: list[nn.Parameter],
    steps: int,
    learning_rate: float,
    progress: bool,
) -> None:
    """Lower a loss by Adam, with a step that falls to zero."""
    optimiser = torch.optim.Adam(parameters, learning_rate)
    with torch.enable_grad(), progress_bar(steps, "inference gap", show=progress) as bar:
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = (
                learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
            loss = loss_of()
            # Gradients for the family alone: the model's parameters keep theirs.
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            bar.update()


def _log_weights(
    model: JointModel, x: Tensor, q: Distribution, count: int, generator: torch.Generator | None
) -> Tensor:
    """Return log weights of new draws for each observation, `(K, n)`; their mean is the bound."""
    missing = x.shape[: 1 - len(q.batch_shape)]
    z, log_q = draw_and_log_prob(q, (count, *missing), generator=generator)
    return log_weights(model, x, z, q, log_q=log_q)


def _mean(terms: Tensor) -> Estimate:
    return Estimate(terms.mean(0), terms.std(0) / math.sqrt(len(terms)))


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """Return the difference of two independent estimates."""
    return Estimate(a.value - b.value, torch.hypot(a.standard_error, b.standard_error))


class _Separate(nn.Module):
    """Modules that each make a distribution, as one that makes a distribution for each."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self) -> _Several:
        return _Several([module() for module in self.each])


class _Several(Distribution):
    """Distributions over the same space side by side, as one with batch shape `(n,)`."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, parts: list[Distribution]) -> None:
        self.parts = parts
        super().__init__(torch.Size([len(parts)]), parts[0].event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint | None:
        return self.parts[0].support

    def rsample_and_log_prob(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        shape = tuple(sample_shape)
        draws = [draw_and_log_prob(part, shape, generator=generator) for part in self.parts]
        z, log_q = zip(*draws, strict=True)
        return torch.stack(z, len(shape)), torch.stack(log_q, len(shape))

    def rsample(
        self, sample_shape: Any = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.rsample_and_log_prob(sample_shape, generator=generator)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        values = value.unbind(value.ndim - 1 - len(self.event_shape))
        each = zip(self.parts, values, strict=True)
        return torch.stack([part.log_prob(one) for part, one in each], -1)
