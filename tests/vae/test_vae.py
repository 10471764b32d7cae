"""The VAE against models whose evidence and posterior are known: probabilistic PCA above all."""

import math
from collections.abc import Callable

import pytest
import torch
from draws import fixed, rand, seeded
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nfbook.diagnostics import coverage, inference_gap, simulation_based_calibration
from nfbook.estimators import Estimate, effective_sample_size, importance_log_prob, log_mean_exp
from nfbook.flows import NICE, AffineFlow, Flow, PlanarFlow, Transformed
from nfbook.latent import PPCA
from nfbook.networks import Feedforward
from nfbook.objectives import elbo, importance_weighted_bound, reverse_kl
from nfbook.training import NegativeELBO, linear_annealing
from nfbook.training.losses import negative_bound
from nfbook.transforms import Box
from nfbook.vae import VAE, BernoulliDecoder, GaussianDecoder
from nfbook.vae.running import RunningMoments, RunningWeights

D, LATENT, SCALE = 5, 2, 0.6


def ppca() -> PPCA:
    return PPCA(
        0.5 * torch.randn(D, LATENT, generator=fixed(1), dtype=torch.float64),
        torch.randn(D, generator=fixed(2), dtype=torch.float64),
        SCALE**2,
    )


def shake(module: torch.nn.Module, seed: int, size: float = 0.2) -> None:
    """Move all parameters a little."""
    generator = fixed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(size * noise)


def linear_vae(
    flow: Callable[..., Flow] | None = None, *, context: int = 8, prior: Flow | None = None
) -> VAE:
    """Return a VAE with the likelihood of `ppca`, and a posterior that is random."""
    model = ppca()
    network = Feedforward(LATENT, (), D)
    layers = None
    if flow is not None:
        layers = flow(LATENT, context, 3, () if flow is PlanarFlow else (4,), generator=fixed(3))
    encoder = Feedforward(D, (8,), generator=fixed(4))
    vae = VAE(encoder, GaussianDecoder(network, SCALE), layers, prior=prior).double()
    with torch.no_grad():
        vae.decoder.network[-1].weight.copy_(model.loading)
        vae.decoder.network[-1].bias.copy_(model.mean)
        vae.decoder.raw_scale.copy_(torch.tensor(math.log(math.expm1(SCALE - 1e-3))))
    shake(vae.gaussian, 5)
    if layers is not None:
        shake(layers, 6)
    return vae


POSTERIORS = {
    "gaussian": {},
    "planar": {"flow": PlanarFlow},
    "planar without context": {"flow": PlanarFlow, "context": 0},
    "nice": {"flow": NICE},
}
every_posterior = pytest.mark.parametrize("posterior", POSTERIORS)


def observations(n: int = 4) -> torch.Tensor:
    return ppca().sample(n, generator=fixed(7))[0]


# ---- exact evidence ----------------------------------------------------------------------------


@every_posterior
def test_importance_sampling_finds_the_evidence(posterior: str):
    """It would not if the posterior's log-determinant were wrong."""
    vae, x = linear_vae(**POSTERIORS[posterior]), observations()
    found = vae.log_prob_importance(x, 4_000, generator=seeded(8), progress=False)
    error = found.value - ppca().log_prob(x)
    assert found.standard_error.max() < 0.1
    assert bool((error.abs() < 6 * found.standard_error).all())
    assert bool((found.effective_sample_size > 50).all())


def test_a_flow_without_its_log_determinant_is_caught(monkeypatch: pytest.MonkeyPatch):
    vae, x = linear_vae(PlanarFlow), observations()
    shake(vae.flow, 30, 0.7)
    stack = type(vae.flow.transform(torch.zeros(8, dtype=torch.float64)))
    whole = stack.call_and_ladj
    monkeypatch.setattr(stack, "call_and_ladj", lambda self, z: (whole(self, z)[0], z.sum(-1) * 0))
    found = vae.log_prob_importance(x, 4_000, generator=seeded(8), progress=False)
    error = found.value - ppca().log_prob(x)
    assert bool((error.abs() > 6 * found.standard_error).any())


@every_posterior
def test_bound_and_divergence_add_up_to_the_evidence(posterior: str):
    vae, x = linear_vae(**POSTERIORS[posterior]), observations()
    q = vae.posterior(x)
    bound = elbo(vae, x, q, 50, generator=seeded(9), closed_form=False)
    gap = reverse_kl(ppca().posterior(x), q, 50, generator=seeded(9))
    torch.testing.assert_close(bound.value + gap.value, ppca().log_prob(x), rtol=1e-6, atol=1e-6)


def test_the_bound_is_the_exact_one():
    vae, x = linear_vae(), observations()
    q = vae.posterior(x)
    exact = ppca().log_prob(x) - kl_divergence(
        MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed()), ppca().posterior(x)
    )
    bound = elbo(vae, x, q, 4_000, generator=seeded(10))
    assert bool(((bound.value - exact).abs() < 6 * bound.standard_error).all())
    found = vae.evaluate(x, 4_000, generator=seeded(11), progress=False)
    assert bool(((found.bound.value - exact).abs() < 6 * found.bound.standard_error).all())
    assert bool(((found.kl.value - bound.kl.value).abs() < 6 * found.kl.standard_error).all())


def test_a_flow_may_be_the_prior():
    """An affine one makes another PPCA, whose evidence is known."""
    prior = AffineFlow(LATENT)
    vae = linear_vae(PlanarFlow, prior=prior)
    shake(prior, 12)
    (affine,) = prior.transform().transforms
    model = ppca()
    moved = PPCA(
        model.loading * affine.log_scale.exp(),
        model.mean + model.loading @ affine.shift,
        SCALE**2,
    )
    x = observations()
    found = vae.log_prob_importance(x, 4_000, generator=seeded(8), progress=False)
    error = (found.value - moved.log_prob(x)).abs()
    assert bool((error < 6 * found.standard_error).all())
    assert bool(((found.value - model.log_prob(x)).abs() > error).any())
    elbo(vae, x, vae.posterior(x), 3).value.sum().backward()
    assert all(p.grad is not None for p in prior.parameters())


def test_the_standard_error_is_that_of_repeated_estimates():
    vae, x = linear_vae(PlanarFlow), observations(1).expand(400, D)
    found = vae.log_prob_importance(x, 100, generator=seeded(13), progress=False)
    spread = ((found.value - ppca().log_prob(x)) / found.standard_error).square().mean().sqrt()
    assert 0.6 < spread < 1.8


def test_standard_errors_are_as_wide_as_the_spread():
    """Of 400 estimates the errors in units of the stated ones have variance 1."""
    vae, x = linear_vae(), observations(1).expand(400, D)
    q, exact = vae.posterior(x[:1]), ppca().posterior(x[:1])
    gaussian = MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
    standard = MultivariateNormal(torch.zeros_like(q.mean), torch.eye(LATENT).to(q.mean))
    found = vae.evaluate(x, 100, generator=seeded(31), progress=False)
    truths = {
        "bound": ppca().log_prob(x[:1]) - kl_divergence(gaussian, exact),
        "kl": kl_divergence(gaussian, standard),
    }
    for name, truth in truths.items():
        estimate = getattr(found, name)
        scores = (estimate.value - truth) / estimate.standard_error
        assert 0.75 < scores.square().mean().sqrt() < 1.25, name


def exact_vae() -> tuple[VAE, PPCA]:
    """Return a VAE with one latent variable and the posterior of the model beside it."""
    loading = 0.5 * torch.randn(D, 1, generator=fixed(51), dtype=torch.float64)
    model = PPCA(loading, ppca().mean, SCALE**2)
    vae = VAE(torch.nn.Linear(D, 1), GaussianDecoder(Feedforward(1, (), D), SCALE)).double()
    total = (SCALE**2 + loading.square().sum()).item()
    log_std = 0.5 * math.log(SCALE**2 / total)
    parameters = vae.gaussian.parameters_of
    with torch.no_grad():
        vae.decoder.network[-1].weight.copy_(loading)
        vae.decoder.network[-1].bias.copy_(model.mean)
        vae.encoder.weight.copy_(loading.T / total)
        vae.encoder.bias.copy_(-(loading.T / total) @ model.mean)
        # The unit is the mean. The scale is the same for all x, and bounded.
        parameters.network.first.context_weight.copy_(torch.tensor([[1.0], [0.0]]))
        parameters.start[1] = log_std / (1 - abs(log_std) / math.log(1000))
    return vae, model


def test_the_diagnostics_say_whether_the_posterior_of_a_vae_is_exact():
    vae, model = exact_vae()
    x = model.sample(3, generator=fixed(52))[0]
    checks = (simulation_based_calibration, coverage)

    def gap() -> Estimate:
        return inference_gap(
            vae,
            x,
            vae.posterior,
            lambda: AffineFlow(1),
            log_prob=model.log_prob(x),
            steps=0,
            generator=seeded(53),
        ).total

    for check in checks:
        assert check(vae, vae.posterior, 300, 19, level=1e-6, generator=seeded(54)).passed
    torch.testing.assert_close(gap().value, torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
    with torch.no_grad():
        vae.gaussian.parameters_of.start[1] -= 0.7
    for check in checks:
        assert not check(vae, vae.posterior, 300, 19, generator=seeded(54)).passed
    q, exact = vae.posterior(x), model.posterior(x)
    narrow = MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
    total = gap()
    off = (total.value - kl_divergence(narrow, exact)).abs()
    assert bool((off < 6 * total.standard_error).all())
    assert bool((total.value > 6 * total.standard_error).all())


# ---- running means -----------------------------------------------------------------------------


def test_running_means_are_those_of_all_draws_at_once():
    values = 1e3 + 5 * rand(700, 3)
    moments, weights = RunningMoments(), RunningWeights()
    for piece in values.split([1, 299, 400]):
        moments.add(piece)
        weights.add(piece)
    torch.testing.assert_close(moments.mean().value, values.mean(0))
    torch.testing.assert_close(moments.mean().standard_error, values.std(0) / math.sqrt(700))
    torch.testing.assert_close(weights.log_mean().value, log_mean_exp(values))
    ess = effective_sample_size(values)
    torch.testing.assert_close(weights.effective_sample_size(), ess)
    share = (values - values.amax(0)).exp()
    deviation = share.std(0, correction=0) / share.mean(0) / math.sqrt(700)
    torch.testing.assert_close(weights.log_mean().standard_error, deviation)


def test_equal_weights_have_no_error_and_weights_of_zero_no_effective_number():
    for count in range(2, 50):
        weights = RunningWeights()
        weights.add(torch.full((count,), -3.0, dtype=torch.float64))
        assert weights.log_mean().standard_error.item() == pytest.approx(0, abs=1e-7)
    weights = RunningWeights()
    for piece in torch.full((1000,), -1e6).split(300):
        weights.add(piece)
    assert weights.effective_sample_size().item() == pytest.approx(1000, rel=1e-5)
    # The root of what rounding in float32 leaves of 1/1000 - 1/1000.
    assert weights.log_mean().standard_error.item() == pytest.approx(0, abs=1e-4)
    weights = RunningWeights()
    weights.add(torch.full((4,), -math.inf))
    assert weights.effective_sample_size() == 0
    assert weights.log_mean().value == -math.inf


@pytest.mark.parametrize("where", [0, 3, 8])
def test_the_mean_with_one_that_is_minus_infinity_is_minus_infinity(where: int):
    values = torch.arange(9.0)
    values[where] = -math.inf
    moments = RunningMoments()
    for piece in values.split(3):
        moments.add(piece)
    assert moments.mean() == Estimate(torch.tensor(-math.inf), torch.tensor(math.inf))


def test_a_prior_that_forbids_some_draws_makes_the_bound_minus_infinity():
    """However many pieces the draws come in; the evidence is as finite as ever."""
    vae = linear_vae(prior=Transformed(AffineFlow(LATENT), Box(-1.0, 1.0))).double()
    found = vae.evaluate(observations(), 20_000, generator=seeded(14), progress=False)
    for estimate, infinity in ((found.bound, -math.inf), (found.kl, math.inf)):
        assert bool((estimate.value == infinity).all())
        assert bool((estimate.standard_error == math.inf).all())
    assert bool(found.log_prob.value.isfinite().all())


def test_a_single_draw_says_nothing_of_its_error():
    vae = linear_vae()
    found = vae.evaluate(observations(), 1, progress=False)
    for estimate in (found.bound, found.kl, found.log_prob):
        assert bool(estimate.standard_error.isposinf().all())
    torch.testing.assert_close(found.bound.value, found.log_prob.value)


def test_memory_does_not_grow_with_draws_or_observations():
    vae, held = linear_vae(), []
    vae.decoder.network.register_forward_hook(
        lambda _, inputs, __: held.append(inputs[0].numel() // LATENT)
    )
    vae.log_prob_importance(observations(30), 500, progress=False)
    vae.log_prob_importance(observations(2), 5_000, progress=False)
    vae.reconstruct(observations(30), 500)
    assert max(held) == 2_000
    assert sum(held) == 30 * 500 + 2 * 5_000 + 30 * 500


def test_weights_that_are_no_numbers_are_refused():
    vae = linear_vae()
    with torch.no_grad():
        vae.decoder.network[-1].bias.fill_(math.nan)
    with pytest.raises(ValueError, match="log_w must be finite or minus infinity"):
        vae.log_prob_importance(observations(), 10, progress=False)


# ---- gradients ---------------------------------------------------------------------------------


@every_posterior
@pytest.mark.parametrize("objective", ["annealed", "warmed up", "elbo", "importance-weighted"])
def test_gradients_are_those_of_finite_differences(posterior: str, objective: str):
    vae, x = linear_vae(**POSTERIORS[posterior]), observations()
    losses = {
        "annealed": NegativeELBO(linear_annealing(0.3), samples=2),
        "warmed up": NegativeELBO(warm_up=linear_annealing(0.3)),
    }

    def loss() -> torch.Tensor:
        if objective in losses:
            return losses[objective](vae, x, 5, seeded(14))
        bound = elbo if objective == "elbo" else importance_weighted_bound
        estimate = bound(vae, x, vae.posterior(x), 3, generator=seeded(14))
        return estimate[0].mean()

    parameters = list(vae.parameters())
    directions = [rand(*p.shape, seed=100 + k) for k, p in enumerate(parameters)]
    gradients = torch.autograd.grad(loss(), parameters)
    slope = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))

    def at(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, v in zip(parameters, directions, strict=True):
                p.add_(v, alpha=step)
            value = loss()
            for p, v in zip(parameters, directions, strict=True):
                p.sub_(v, alpha=step)
        return value

    h = 1e-6
    difference = (at(h) - at(-h)) / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-5)


# ---- where it starts ---------------------------------------------------------------------------


def untrained(flow: Flow | None) -> VAE:
    generator = seeded(15)
    encoder = Feedforward(D, (8,), generator=generator)
    decoder = Feedforward(LATENT, (8,), D, generator=generator)
    return VAE(encoder, BernoulliDecoder(decoder), flow).double()


@pytest.mark.parametrize("flow", [None, PlanarFlow])
def test_the_first_posterior_is_the_standard_gaussian(flow: type[Flow] | None):
    vae = untrained(None if flow is None else flow(LATENT, 8, 6, ()))
    q, z = vae.posterior(rand(4, D)), rand(3, 4, LATENT)
    standard = Normal(torch.zeros(LATENT, dtype=torch.float64), 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(q.log_prob(z), standard)


def test_a_planar_flow_starts_with_the_bound_of_none():
    x = rand(4, D).sign().clamp(min=0)
    plain, flowing = untrained(None), untrained(PlanarFlow(LATENT, 8, 6, ()))
    z = rand(3, 4, LATENT)
    ratios = [vae.log_joint(x, z) - vae.posterior(x).log_prob(z) for vae in (plain, flowing)]
    torch.testing.assert_close(*ratios)
    draws = vae_draws(flowing, x)
    assert draws.value.isfinite().all()
    assert bool(((draws.value - vae_draws(plain, x).value).abs() < 6 * draws.standard_error).all())


def vae_draws(vae: VAE, x: torch.Tensor):
    return elbo(vae, x, vae.posterior(x), 2_000, generator=seeded(16), closed_form=False)


# ---- using it ----------------------------------------------------------------------------------


def test_samples_have_the_models_mean_and_covariance():
    vae, model = linear_vae(), ppca()
    x, z = vae.sample(20_000, generator=seeded(17))
    assert x.shape == (20_000, D)
    assert z.shape == (20_000, LATENT)
    covariance = model.loading @ model.loading.T + SCALE**2 * torch.eye(D)
    torch.testing.assert_close(x.mean(0), model.mean, rtol=0, atol=0.07)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0.1, atol=0.1)
    assert torch.equal(
        vae.sample(3, generator=seeded(17))[0], vae.sample(3, generator=seeded(17))[0]
    )


def test_latent_means_are_exact_without_a_flow_and_averages_with_one():
    x = observations()
    plain, flowing = linear_vae(), linear_vae(PlanarFlow)
    assert torch.equal(plain.latent_means(x), plain.posterior(x).mean)
    draws = flowing.posterior(x).sample((20_000,), generator=seeded(18))
    means = flowing.latent_means(x, 8_000, generator=seeded(19))
    error = draws.std(0) * math.sqrt(1 / 20_000 + 1 / 8_000)
    assert bool(((means - draws.mean(0)).abs() < 6 * error).all())


@pytest.mark.parametrize("flow", [None, PlanarFlow])
def test_a_linear_decoder_reconstructs_from_the_mean(flow: type[Flow] | None):
    vae, x = linear_vae(flow), observations()
    exact = ppca().mean + vae.latent_means(x, 8_000, generator=seeded(20)) @ ppca().loading.T
    found = vae.reconstruct(x, 8_000, generator=seeded(21))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1)
    torch.testing.assert_close(vae.decode(torch.zeros(LATENT).double()), ppca().mean)


def test_a_reconstruction_is_the_average_of_what_is_decoded():
    """Not what is decoded of the average: with a sigmoid these are far apart."""
    decoder = BernoulliDecoder(Feedforward(1, (), D, generator=fixed(41)))
    vae = VAE(Feedforward(D, (8,), generator=fixed(42)), decoder).double()
    shake(vae.gaussian, 43)
    with torch.no_grad():
        decoder.network[-1].weight.mul_(20)
    x = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    z = torch.linspace(-12, 12, 4_001, dtype=torch.float64).unsqueeze(-1)
    density = vae.posterior(x).log_prob(z.unsqueeze(1)).exp()
    exact = torch.trapezoid(density * vae.decode(z), z, dim=0)
    found = vae.reconstruct(x, 20_000, generator=seeded(44), progress=False)
    torch.testing.assert_close(found[0], exact, rtol=0, atol=3 / 20_000**0.5)
    assert (vae.decode(vae.latent_means(x))[0] - exact).abs().max() > 0.05


def test_units_of_less_precision_are_taken_as_they_are():
    """Within autocast an encoder gives bfloat16, and a flow takes its own dtype."""
    vae, x = linear_vae(PlanarFlow).float(), observations().float()
    expected = vae.posterior(x).rsample_and_log_prob((3,), generator=seeded(45))
    with torch.autocast("cpu", torch.bfloat16):
        q = vae.posterior(x)
    found = q.rsample_and_log_prob((3,), generator=seeded(45))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


@every_posterior
def test_any_batch_dimensions(posterior: str):
    vae, x = linear_vae(**POSTERIORS[posterior]), observations(6).reshape(2, 3, D)
    q = vae.posterior(x)
    assert q.batch_shape == (2, 3)
    assert vae.log_joint(x, q.rsample((4,))).shape == (4, 2, 3)
    assert vae.latent_means(x, 5).shape == (2, 3, LATENT)
    assert vae.reconstruct(x, 5).shape == (2, 3, D)
    assert vae.log_prob_importance(x, 5, progress=False).value.shape == (2, 3)
    assert vae.log_prob_importance(x[0, 0], 5, progress=False).value.shape == ()
    assert importance_log_prob(vae, x, q, 5).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_posterior
def test_the_dtype_stays(posterior: str, dtype: torch.dtype):
    vae, x = linear_vae(**POSTERIORS[posterior]).to(dtype), observations().to(dtype)
    results = [
        *vae.sample(3),
        vae.latent_means(x, 3),
        vae.reconstruct(x, 3),
        *vae.log_prob_importance(x, 3, progress=False),
        elbo(vae, x, vae.posterior(x), 3).value,
        importance_weighted_bound(vae, x, vae.posterior(x), 3).value,
    ]
    assert {result.dtype for result in results} == {dtype}


def test_evaluating_needs_no_gradients_and_its_generator_alone():
    vae, x = linear_vae(PlanarFlow), observations()
    before = torch.get_rng_state()
    first, second = (
        vae.log_prob_importance(x, 50, generator=seeded(22), progress=False) for _ in range(2)
    )
    assert torch.equal(first.value, second.value)
    assert not first.value.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


# ---- bad input ---------------------------------------------------------------------------------


def test_a_decoder_that_does_not_fit_the_encoder_is_named():
    with pytest.raises(ValueError, match="as many numbers as the encoder takes, 784, got 64"):
        VAE(Feedforward(784, (8,)), BernoulliDecoder(Feedforward(2, (), 64)))


PARTS = {"encoder": Feedforward(6, (8,)), "decoder": BernoulliDecoder(Feedforward(2, (), 6))}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"encoder": torch.tanh}, TypeError, "encoder must be a torch.nn.Module"),
        ({"encoder": torch.nn.Tanh()}, TypeError, "encoder.out_features must be an int"),
        ({"decoder": Feedforward(2, (), 6)}, TypeError, "decoder must be an nfbook Decoder"),
        ({"flow": "planar"}, TypeError, "flow must be an nfbook Flow or None, got str"),
        ({"flow": PlanarFlow(3, 8)}, ValueError, "flow must have the features of z, 2, got 3"),
        ({"flow": PlanarFlow(2, 5)}, ValueError, "flow must have context 0 or 8, got 5"),
        ({"prior": PlanarFlow(2, 8)}, ValueError, "prior must have context 0, got 8"),
        ({"prior": PlanarFlow(3)}, ValueError, "prior must have the features of z, 2, got 3"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        VAE(**(PARTS | change))


USES = {
    "elbo": lambda vae, x: elbo(vae, x, vae.posterior(torch.ones(2, 6)), 3),
    "importance_weighted_bound": lambda vae, x: importance_weighted_bound(vae, x, vae.prior, 3),
    "evaluate": lambda vae, x: vae.evaluate(x, 3, progress=False),
    "log_prob_importance": lambda vae, x: vae.log_prob_importance(x, 3, progress=False),
    "reconstruct": lambda vae, x: vae.reconstruct(x, 3),
    "latent_means": lambda vae, x: vae.latent_means(x),
    "check_observations": lambda vae, x: vae.check_observations(x),
    "negative_bound": lambda vae, x: negative_bound(vae, x),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.ones(2, 9), ValueError, r"x must have shape \(\*, 6\), .* got \(2, 9\)"),
        (torch.full((2, 6), 7.0), ValueError, "x must hold only 0 and 1, got 7.0"),
        (torch.full((2, 6), 0.5), ValueError, "x must hold only 0 and 1, got 0.5"),
        (torch.ones(0, 6), ValueError, r"x must not be empty, got shape \(0, 6\)"),
        (torch.full((2, 6), math.nan), ValueError, "x must be finite"),
        (torch.ones(2, 6).double(), TypeError, "x and parameters must have the same dtype"),
        ([[1.0] * 6], TypeError, "x must be a torch.Tensor, got list"),
    ],
)
def test_observations_that_do_not_fit_are_refused(
    use: str, x: object, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        USES[use](VAE(**PARTS), x)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda vae: vae.posterior(torch.ones(2, 9)), ValueError, r"x must have shape \(\*, 6\)"),
        (lambda vae: vae.posterior(torch.ones(2, 6).double()), TypeError, "same dtype"),
        (lambda vae: vae.likelihood(torch.ones(2, 9)), ValueError, r"z must have shape \(\*, 2\)"),
        (lambda vae: vae.decode(torch.tensor(1.0)), ValueError, r"z must have shape \(\*, 2\)"),
        (lambda vae: vae.log_joint(torch.ones(2, 9), torch.ones(2, 2)), ValueError, "x must have"),
        (lambda vae: vae.sample(0), ValueError, "n must be at least 1, got 0"),
        (lambda vae: vae.evaluate(torch.ones(2, 6), 0), ValueError, "num_samples must be at least"),
        (lambda vae: vae.reconstruct(torch.ones(2, 6), 0), ValueError, "num_samples must be at"),
        (lambda vae: vae.sample(2, generator=3), TypeError, "generator must be a torch.Generator"),
    ],
)
def test_other_refusals(use: Callable[[VAE], object], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        use(VAE(**PARTS))
