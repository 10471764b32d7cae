"""Several stochastic layers: with linear ones everything is Gaussian, and known."""

from itertools import pairwise

import pytest
import torch
from draws import fixed, rand, seeded
from torch.distributions import MultivariateNormal, Normal

from nfbook.flows import PlanarFlow
from nfbook.networks import Feedforward
from nfbook.objectives import elbo, importance_weighted_bound
from nfbook.training import NegativeELBO
from nfbook.vae import BernoulliDecoder, DeepLatentGaussian, GaussianDecoder, HierarchicalGaussian

D = 4


def linear_model(sizes: tuple[int, ...], flow: bool = False) -> DeepLatentGaussian:
    """Return a model with linear means, fixed scales and a random posterior, in float64."""
    networks = [
        Feedforward(above, (), 2 * size, generator=fixed(k))
        for k, (size, above) in enumerate(pairwise(sizes))
    ]
    total = sum(sizes)
    model = DeepLatentGaussian(
        Feedforward(D, (8,), generator=fixed(10)),
        GaussianDecoder(Feedforward(sizes[0], (), D, generator=fixed(11)), 0.7),
        networks,
        PlanarFlow(total, 8, 3, (), generator=fixed(12)) if flow else None,
    ).double()
    with torch.no_grad():
        for network, size in zip(networks, sizes, strict=False):
            network[-1].weight[size:] = 0  # the scales do not depend on the layer above
        for k, parameter in enumerate([*model.gaussian.parameters()]):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=fixed(20 + k)).double())
        if model.flow is not None:
            for k, parameter in enumerate([*model.flow.parameters()]):
                parameter.add_(
                    0.03 * torch.randn(parameter.shape, generator=fixed(30 + k)).double()
                )
    return model


def joint(model: DeepLatentGaussian) -> MultivariateNormal:
    """Return the Gaussian of all layers and x, from its definition: y = A y + c + noise."""
    sizes = [*model.sizes, D]
    starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    total = sum(sizes)
    a = torch.zeros(total, total, dtype=torch.float64)
    c, scale = torch.zeros(2, total, dtype=torch.float64)
    scale.fill_(1.0)
    for k, network in enumerate(model.prior_flow.networks):
        here, above = slice(starts[k], starts[k + 1]), slice(starts[k + 1], starts[k + 2])
        size = sizes[k]
        weight, bias = network[-1].weight.detach(), network[-1].bias.detach()
        raw = bias[size:]
        a[here, above], c[here] = weight[:size], bias[:size]
        scale[here] = (raw / (1 + raw.abs() / torch.tensor(1000.0).double().log())).exp()
    output = model.decoder.network[-1]
    here = slice(starts[-2], starts[-1])
    a[here, : sizes[0]], c[here] = output.weight.detach(), output.bias.detach()
    scale[here] = model.decoder(torch.zeros(sizes[0]).double()).stddev.detach()
    solved = torch.linalg.inv(torch.eye(total, dtype=torch.float64) - a)
    covariance = solved @ (scale**2).diag() @ solved.T
    return MultivariateNormal(solved @ c, (covariance + covariance.T) / 2)


def evidence_and_posterior(
    model: DeepLatentGaussian, x: torch.Tensor
) -> tuple[torch.Tensor, MultivariateNormal]:
    whole, d = joint(model), model.latent_dim
    s = whole.covariance_matrix
    marginal = MultivariateNormal(whole.mean[d:], s[d:, d:])
    gain = torch.linalg.solve(s[d:, d:], s[d:, :d]).T
    covariance = s[:d, :d] - gain @ s[d:, :d]
    mean = whole.mean[:d] + (x - whole.mean[d:]) @ gain.T
    return marginal.log_prob(x), MultivariateNormal(mean, (covariance + covariance.T) / 2)


every_depth = pytest.mark.parametrize("sizes", [(3, 2), (2, 3, 1)])


@every_depth
def test_the_joint_density_is_that_of_one_large_gaussian(sizes: tuple[int, ...]):
    model = linear_model(sizes)
    z, x = rand(5, sum(sizes)), rand(5, D, seed=1)
    whole = joint(model)
    torch.testing.assert_close(model.log_joint(x, z), whole.log_prob(torch.cat([z, x], -1)))
    z, log_prior = model.prior.rsample_and_log_prob((7,), generator=seeded(2))
    torch.testing.assert_close(model.prior.log_prob(z), log_prior)


@every_depth
def test_with_the_exact_posterior_the_bound_is_the_evidence(sizes: tuple[int, ...]):
    model, x = linear_model(sizes), rand(3, D)
    evidence, posterior = evidence_and_posterior(model, x)
    bound = elbo(model, x, posterior, 5, generator=seeded(3), closed_form=False)
    torch.testing.assert_close(bound.value, evidence)
    tight = importance_weighted_bound(model, x, posterior, 5, generator=seeded(3))
    torch.testing.assert_close(tight.value, evidence)


@every_depth
@pytest.mark.parametrize("flow", [False, True])
def test_importance_sampling_finds_the_evidence(sizes: tuple[int, ...], flow: bool):
    model = linear_model(sizes, flow)
    # Wide proposals and typical data: else a few draws have huge weights, or none that counts.
    with torch.no_grad():
        shifts_and_scales = model.gaussian.parameters_of.start.unflatten(0, (-1, 2))
        shifts_and_scales[:, 1] += 0.4
    x = joint(model).mean[-D:] + 0.3 * torch.randn(3, D, generator=fixed()).double()
    evidence, _ = evidence_and_posterior(model, x)
    found = model.log_prob_importance(x, 40_000, generator=seeded(4), progress=False)
    assert found.standard_error.median() < 0.05
    assert bool(((found.value - evidence).abs() < 6 * found.standard_error).all())


def test_samples_have_the_moments_of_one_large_gaussian():
    model = linear_model((3, 2))
    x, z = model.sample(20_000, generator=seeded(5))
    whole = joint(model)
    drawn = torch.cat([z, x], -1)
    deviation = whole.stddev / 20_000**0.5
    assert bool(((drawn.mean(0) - whole.mean).abs() < 6 * deviation).all())
    correlation = drawn.T.corrcoef()
    expected = whole.covariance_matrix / whole.stddev.outer(whole.stddev)
    torch.testing.assert_close(correlation, expected, rtol=0, atol=0.05)


def test_nonlinear_layers_are_gaussian_given_the_one_above():
    networks = [Feedforward(3, (8,), 4), Feedforward(1, (8,), 6)]
    prior = HierarchicalGaussian(networks).double()
    assert prior.sizes == (2, 3, 1)
    z = rand(5, 6)
    z1, z2, z3 = z.split(prior.sizes, -1)
    expected = Normal(torch.zeros(1).double(), 1.0).log_prob(z3).sum(-1)
    for here, network, above in ((z1, networks[0], z2), (z2, networks[1], z3)):
        mean, raw = network(above).chunk(2, -1)
        log_scale = raw / (1 + raw.abs() / torch.tensor(1000.0).double().log())
        expected = expected + Normal(mean, log_scale.exp()).log_prob(here).sum(-1)
    torch.testing.assert_close(prior().log_prob(z), expected)


def test_a_distribution_stays_when_the_weights_move():
    prior = HierarchicalGaussian([Feedforward(3, (8,), 4), Feedforward(1, (8,), 6)]).double()
    held, z = prior(), rand(5, 6)
    before = held.log_prob(z).detach()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(held.log_prob(z), before)
    assert not torch.allclose(prior().log_prob(z), before)
    held.log_prob(z).sum().backward()
    assert all(parameter.grad.any() for parameter in prior.parameters())


@pytest.mark.parametrize("flow", [False, True])
def test_a_step_of_training_reaches_every_parameter(flow: bool):
    total = 6
    model = DeepLatentGaussian(
        Feedforward(D, (8,)),
        BernoulliDecoder(Feedforward(4, (8,), D)),
        [Feedforward(2, (8,), 8)],
        PlanarFlow(total, 8, 2, ()) if flow else None,
    )
    x = rand(5, D).sign().clamp(min=0).float()
    before = NegativeELBO()(model, x, 0, seeded(6))
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-2 * parameter.grad
    # Not the encoder itself at first, as nothing depends on its units before the first step.
    NegativeELBO()(model, x, 0, seeded(6)).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_layers_come_apart_and_the_decoder_sees_the_lowest_only():
    model = linear_model((3, 2))
    z = rand(7, 5)
    z1, z2 = model.layers_of(z)
    assert (z1.shape, z2.shape) == ((7, 3), (7, 2))
    torch.testing.assert_close(model.decode(z), model.decoder.centre(z1))
    assert model.reconstruct(rand(7, D), 10).shape == (7, D)


ENCODER, DECODER = Feedforward(6, (8,)), BernoulliDecoder(Feedforward(3, (), 6))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: HierarchicalGaussian(Feedforward(2, (), 6)), TypeError, "networks must be a list"),
        (lambda: HierarchicalGaussian([]), ValueError, "networks must hold at least one"),
        (lambda: HierarchicalGaussian([3]), TypeError, r"networks\[0\] must be a torch.nn.Module"),
        (
            lambda: HierarchicalGaussian([torch.nn.Tanh()]),
            TypeError,
            r"networks\[0\].in_features must be an int",
        ),
        (
            lambda: HierarchicalGaussian([Feedforward(2, (), 5)]),
            ValueError,
            r"networks\[0\].out_features must be even, means and then scales, got 5",
        ),
        (
            lambda: HierarchicalGaussian([Feedforward(2, (), 6), Feedforward(1, (), 6)]),
            ValueError,
            r"networks\[0\].in_features must be the size of the layer above, 3, got 2",
        ),
        (
            lambda: DeepLatentGaussian(ENCODER, DECODER, [Feedforward(2, (), 8)]),
            ValueError,
            "decoder must take the lowest layer, of size 4, got 3",
        ),
        (
            lambda: DeepLatentGaussian(ENCODER, DECODER, [Feedforward(2, (), 6)], PlanarFlow(3, 8)),
            ValueError,
            "flow must have the features of z, 5, got 3",
        ),
    ],
)
def test_refusals(make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()
