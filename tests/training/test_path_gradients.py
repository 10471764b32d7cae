"""Gradients along the path: as unbiased as the plain one, and without its noise near the truth."""

import pytest
import torch
from draws import rand, seeded
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from nfbook.flows import FAMILIES, StandardNormal
from nfbook.latent import PPCA
from nfbook.networks import Feedforward
from nfbook.objectives import draw_and_path_log_prob
from nfbook.sampling import draw_and_log_prob
from nfbook.training import NegativeELBO, NegativeImportanceBound, ReverseKL
from nfbook.transforms import Planar
from nfbook.vae import VAE, BernoulliDecoder

SLOW = {"cnf"}


def stirred(flow: nn.Module, amount: float) -> nn.Module:
    """Move a flow away from the identity."""
    flow = flow.double()
    generator = seeded(5)
    with torch.no_grad():
        for parameter in flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(amount * noise)
    return flow


def gradient_of(loss, module) -> torch.Tensor:
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


# ---- the path of a flow ------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - SLOW))
def test_it_is_the_plain_gradient_without_the_score(name, context):
    """The score by ``log_prob`` at fixed points, which goes back by the inverse."""
    length = {} if name in ("affine", "actnorm") else {"length": 3}
    flow = FAMILIES[name](4, context, **length, generator=seeded())
    flow = stirred(flow, 0.1 if context else 0.3)
    given = (rand(2, 3),) if context else ()
    q = flow(*given)
    weights = rand(5, *q.batch_shape, seed=3)
    z, log_q = draw_and_log_prob(q, (5,), generator=seeded(1))
    plain = gradient_of((weights * log_q).sum(), flow)
    z, path_log_q = draw_and_path_log_prob(flow(*given), (5,), generator=seeded(1))
    torch.testing.assert_close(path_log_q, log_q)
    path = gradient_of((weights * path_log_q).sum(), flow)
    score = gradient_of((weights * flow(*given).log_prob(z.detach())).sum(), flow)
    torch.testing.assert_close(path, plain - score, atol=1e-7, rtol=1e-6)
    if name not in ("householder", "nice"):
        assert path.norm() > 0


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - SLOW))
def test_second_derivatives_are_those_of_the_density(name):
    length = {} if name in ("affine", "actnorm") else {"length": 3}
    flow = stirred(FAMILIES[name](4, 0, **length, generator=seeded()), 0.3)

    def curvature(log_q, z):
        """Return the gradient of the squared score."""
        (score,) = torch.autograd.grad(log_q.sum(), z, create_graph=True)
        return torch.autograd.grad(score.square().sum(), z)[0]

    z, log_q = draw_and_path_log_prob(flow(), (5,), generator=seeded(1))
    fixed = z.detach().requires_grad_()
    expected = curvature(flow().log_prob(fixed), fixed)
    torch.testing.assert_close(curvature(log_q, z), expected, atol=1e-7, rtol=1e-6)


def test_a_stack_of_planar_layers_never_solves_for_its_inverse(monkeypatch):
    monkeypatch.setattr(Planar, "_inverse_and_ladj", None)
    flow = stirred(FAMILIES["planar"](3, length=4), 0.3)
    _, log_q = draw_and_path_log_prob(flow(), (7,))
    gradient_of(log_q.sum(), flow)


@pytest.mark.parametrize(
    "make",
    [
        lambda m, s: Independent(Normal(m, s.exp()), 1),
        lambda m, s: MultivariateNormal(m, torch.diag_embed(s.exp())),
    ],
)
def test_distributions_of_torch(make):
    mean, log_scale = rand(3).requires_grad_(), rand(3, seed=1).requires_grad_()
    z, log_q = draw_and_path_log_prob(make(mean, log_scale), (5,), generator=seeded())
    stopped = make(mean.detach(), log_scale.detach())
    expected = torch.autograd.grad(stopped.log_prob(z).sum(), (mean, log_scale), retain_graph=True)
    found = torch.autograd.grad(log_q.sum(), (mean, log_scale))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["planar", "realnvp"])
def test_it_keeps_its_digits_within_autocast(name):
    flow = stirred(FAMILIES[name](4, length=3, generator=seeded()), 0.3).float()
    _, log_q = draw_and_path_log_prob(flow(), (5,), generator=seeded(1))
    gradient = gradient_of(log_q.sum(), flow)
    with torch.autocast("cpu", torch.bfloat16):
        _, half = draw_and_path_log_prob(flow(), (5,), generator=seeded(1))
        within = gradient_of(half.sum(), flow)
    torch.testing.assert_close(half, log_q)
    torch.testing.assert_close(within, gradient)


def test_what_cannot_be_reparametrised_is_refused():
    with pytest.raises(TypeError, match="rsample"):
        draw_and_path_log_prob(torch.distributions.Bernoulli(torch.tensor(0.5)))
    with pytest.raises(TypeError, match="path_gradient must be True or False"):
        NegativeELBO(path_gradient="yes")


# ---- zero variance at the truth ----------------------------------------------------------------


class LinearGaussian(nn.Module):
    """A PPCA model with the exact posterior, or one beside it; parameters for each repetition."""

    def __init__(self, repeats: int, off: float = 0.0) -> None:
        super().__init__()
        self.model, self.off = PPCA(rand(5, 2), rand(5, seed=1), 0.5), off
        self.shift = nn.Parameter(torch.zeros(repeats, 1, 2, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.zeros(repeats, 1, 2, dtype=torch.float64))

    prior = property(lambda self: self.model.prior)

    def likelihood(self, z):
        return self.model.likelihood(z)

    def posterior(self, x):
        exact = self.model.posterior(x)
        scale = exact.scale_tril @ torch.diag_embed(self.log_scale.exp())
        return MultivariateNormal(exact.mean + self.shift + self.off, scale_tril=scale)


def spread(loss, repeats: int, off: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of a loss's gradient over many draws, and its standard deviations."""
    model, x = LinearGaussian(repeats, off), rand(3, 5, seed=2).expand(repeats, 3, 5)
    gradient = gradient_of(loss(model, x, 0, seeded(9)), model)
    rows = repeats * gradient.reshape(2, repeats, 2).transpose(0, 1).flatten(1)
    return rows.mean(0), rows.std(0)


@pytest.mark.parametrize(
    ("plain", "better"),
    [
        (NegativeELBO(), NegativeELBO(path_gradient=True)),
        (
            NegativeImportanceBound(4),
            NegativeImportanceBound(4, doubly_reparametrised=True),
        ),
    ],
)
def test_at_the_exact_posterior_there_is_no_noise(plain, better):
    _, noise = spread(plain, 50, 0.0)
    mean, none = spread(better, 50, 0.0)
    assert noise.min() > 0.05
    assert none.max() < 1e-12
    assert mean.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("plain", "better"),
    [
        (NegativeELBO(), NegativeELBO(path_gradient=True)),
        (
            NegativeImportanceBound(16),
            NegativeImportanceBound(16, doubly_reparametrised=True),
        ),
    ],
)
def test_beside_it_the_mean_is_the_same_and_the_noise_is_less(plain, better):
    repeats = 4_000
    mean, noise = spread(plain, repeats, 0.2)
    other, less = spread(better, repeats, 0.2)
    error = ((noise.square() + less.square()) / repeats).sqrt()
    assert ((mean - other).abs() / error).max() < 5
    assert (other.abs() / error).max() > 5, "there is a gradient to be right about"
    assert less.norm() < 0.7 * noise.norm()


def test_the_models_own_gradient_stays_the_plain_one():
    """Only the posterior's is another one, for the bound of one draw and of many."""
    x = (rand(4, 6) > 0).double()
    vae = VAE(
        Feedforward(6, (8,), generator=seeded()),
        BernoulliDecoder(Feedforward(2, (8,), 6, generator=seeded(1))),
        FAMILIES["planar"](2, context=8, length=2, hidden_features=(), generator=seeded(2)),
        prior=FAMILIES["planar"](2, length=2, generator=seeded(3)),
    ).double()
    pairs = [
        (NegativeELBO(samples=3), NegativeELBO(samples=3, path_gradient=True)),
        (NegativeImportanceBound(3), NegativeImportanceBound(3, doubly_reparametrised=True)),
    ]
    for pair in pairs:
        losses = [loss(vae, x, 0, seeded(4)) for loss in pair]
        torch.testing.assert_close(*losses)
        for part in (vae.decoder, vae.prior_flow):
            torch.testing.assert_close(*(gradient_of(loss, part) for loss in losses))


def test_reverse_kl_to_what_the_flow_is_already():
    flow = FAMILIES["planar"](2, length=4).double()  # it starts as the standard Gaussian
    base = StandardNormal(2, like=torch.zeros((), dtype=torch.float64))
    for loss, quiet in (
        (ReverseKL(base.log_prob, 5), False),
        (ReverseKL(base.log_prob, 5, path_gradient=True), True),
    ):
        gradient = gradient_of(loss(flow, None, 0, seeded()), flow)
        assert (gradient.abs().max() < 1e-12) == quiet
