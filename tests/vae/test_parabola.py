"""The model whose posterior is bent or has two peaks: its exact answers, by other routes."""

from __future__ import annotations

import pytest
import torch
from draws import seeded

from nfbook.bayes import log_evidence_by_quadrature
from nfbook.networks import Feedforward
from nfbook.objectives import elbo
from nfbook.quadrature import grid
from nfbook.vae import VAE, Parabola

F64 = torch.float64
X = torch.tensor([[-2.0], [0.0], [3.0], [8.0]], dtype=F64)


@pytest.mark.parametrize("noise", [0.2, 0.5, 2.0])
def test_the_evidence_is_the_integral_over_the_plane(noise):
    model = Parabola(noise)
    corner = torch.full((2,), 9.0, dtype=F64)
    for x, value in zip(X, model.log_evidence(X), strict=True):

        def log_joint(z, x=x):
            prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
            return prior + model(z).log_prob(x)

        exact = log_evidence_by_quadrature(log_joint, -corner, corner, points=901)
        assert value.item() == pytest.approx(exact.item(), abs=1e-9)


def test_the_evidence_is_a_density_of_the_data():
    """It integrates to one, and its moments are those of a chi-squared and two Gaussians."""
    x, weights = grid(-12.0, 60.0, points=20_001)
    density = Parabola(0.5).log_evidence(x.to(F64).unsqueeze(1)).exp() * weights
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    assert (density @ x.to(F64)).item() == pytest.approx(1, abs=1e-5)
    assert (density @ (x.to(F64) - 1).square()).item() == pytest.approx(2 + 1 + 0.25, abs=1e-4)


def test_draws_from_the_posterior_have_its_moments():
    model, n = Parabola(), 200_000
    draws = model.sample_posterior(X, n, generator=seeded())
    assert draws.shape == (n, 4, 2)
    assert draws.dtype == F64
    z, weights = grid(torch.full((2,), -7.0, dtype=F64), torch.full((2,), 7.0, dtype=F64), 701)
    features = torch.stack([z[:, 0], z[:, 1], z[:, 0] ** 2, z[:, 1] ** 2, (2 * z[:, 0]).cos()])
    for k, x in enumerate(X):
        exact = features @ (weights * model.log_posterior(x, z).exp())
        drawn = draws[:, k]
        z1, z2 = drawn.T
        each = torch.stack([z1, z2, z1**2, z2**2, (2 * z1).cos()])
        error = each.std(1) / n**0.5
        assert ((each.mean(1) - exact).abs() < 5 * error + 1e-6).all()


@pytest.mark.parametrize("x", [-1.0, 0.0, 5.0])
def test_in_float32_the_outermost_draws_are_as_in_float64(x, monkeypatch):
    """The uniform numbers are the least and the largest that float32 has, and one between."""
    ends = torch.tensor([0.0, 2.0**-24, 0.3, 1 - 2.0**-24], dtype=F64)
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, **_: ends.to(dtype).expand(shape))
    given = torch.tensor([x])
    single = Parabola().sample_posterior(given, 4)[:, 0]
    double = Parabola().sample_posterior(given.to(F64), 4)[:, 0]
    assert single.dtype == torch.float32
    # Float32 has the logarithm of a density far out, some -100, to 1e-5.
    torch.testing.assert_close(single[1:].to(F64), double[1:], atol=1e-3, rtol=0)
    assert -9 < single[0] < single[1]


def test_the_ridge_has_one_peak_for_small_observations_and_two_for_large_ones():
    model = Parabola()
    z1 = torch.linspace(-3, 3, 601, dtype=F64)

    def peaks(x):
        z = torch.stack([z1, (x - z1**2) / 1.25], 1)
        p = model.log_posterior(torch.tensor([x], dtype=F64), z)
        return int(((p[1:-1] > p[:-2]) & (p[1:-1] > p[2:])).sum())

    assert [peaks(x) for x in (-1.0, 0.0, 3.0, 8.0)] == [1, 1, 2, 2]


def test_it_is_the_decoder_of_a_vae():
    vae = VAE(Feedforward(1, (8,)), Parabola()).double()
    bound = elbo(vae, X, vae.posterior(X), 1_000, generator=seeded())
    assert (bound.value < vae.decoder.log_evidence(X)).all()
    assert vae.sample(5, generator=seeded())[0].shape == (5, 1)


def test_errors():
    with pytest.raises(ValueError, match=r"noise must be positive, got 0"):
        Parabola(0.0)
    with pytest.raises(TypeError, match="noise"):
        Parabola("large")
    model = Parabola()
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 1\)"):
        model.log_evidence(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"z must have shape \(\*, 2\)"):
        model.log_posterior(X, torch.zeros(3, dtype=F64))
    with pytest.raises(ValueError, match="n must be"):
        model.sample_posterior(X, 0)
