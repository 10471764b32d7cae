"""The four energies: their formulas, their normalisers, exact draws, and divergences from them."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from draws import number, rand, seeded
from families import spread
from scipy import integrate, special
from torch.distributions import Distribution

from nfbook.bayes import log_evidence_by_quadrature
from nfbook.flows import PlanarFlow, Transformed
from nfbook.objectives import forward_kl, reverse_kl
from nfbook.sampling import draw
from nfbook.targets import TARGETS, U1, U4, EnergyTarget
from nfbook.transforms import Box

F64 = torch.float64
each = pytest.mark.parametrize("name", TARGETS)
LIKE = torch.empty(0, dtype=F64)


def formula(name: str, z1: float, z2: float) -> float:
    """The table of the paper, in plain floats."""
    w1 = math.sin(2 * math.pi * z1 / 4)
    w2 = 3 * math.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 / (1 + math.exp(-(z1 - 1) / 0.3))
    if name == "U1":
        modes = sum(math.exp(-0.5 * ((z1 + side) / 0.6) ** 2) for side in (-2, 2))
        return 0.5 * ((math.hypot(z1, z2) - 2) / 0.4) ** 2 - math.log(modes)
    if name == "U2":
        return 0.5 * ((z2 - w1) / 0.4) ** 2
    other, width = (w2, 0.35) if name == "U3" else (w3, 0.4)
    upper = math.exp(-0.5 * ((z2 - w1) / width) ** 2)
    return -math.log(upper + math.exp(-0.5 * ((z2 - w1 + other) / 0.35) ** 2))


def normaliser(name: str) -> float:
    """Z by adaptive quadrature of the formula, along z2 by the error function where it applies."""
    if name == "U1":
        quarter = integrate.dblquad(
            lambda z2, z1: math.exp(-formula("U1", z1, z2)), 0, 4, 0, 4, epsabs=1e-8
        )
        return 4 * quarter[0]

    def slice_of(z1: float) -> float:
        w1 = math.sin(math.pi * z1 / 2)
        bump, step = 3 * math.exp(-0.5 * ((z1 - 1) / 0.6) ** 2), 3 * special.expit((z1 - 1) / 0.3)
        ridges = {
            "U2": [(w1, 0.4)],
            "U3": [(w1, 0.35), (w1 - bump, 0.35)],
            "U4": [(w1, 0.4), (w1 - step, 0.35)],
        }[name]
        shares = [s * (special.ndtr((4 - m) / s) - special.ndtr((-4 - m) / s)) for m, s in ridges]
        return math.sqrt(2 * math.pi) * sum(shares)

    return integrate.quad(slice_of, -4, 4, epsrel=1e-12, limit=200)[0]


# ---- the density --------------------------------------------------------------------------------


@each
def test_the_energy_is_the_formula_of_the_paper(name):
    z = 2 * rand(50, 2)
    expected = torch.tensor([formula(name, *point) for point in z.tolist()], dtype=F64)
    torch.testing.assert_close(TARGETS[name]().energy(z), expected, rtol=1e-12, atol=1e-12)


@each
def test_the_normaliser_by_quadrature_and_by_another(name):
    target = TARGETS[name]()
    gauss = target.integrate(lambda z: (-target.energy(z)).exp())
    assert math.exp(target.log_normaliser) == pytest.approx(gauss.item(), rel=1e-9)
    assert math.exp(target.log_normaliser) == pytest.approx(normaliser(name), rel=1e-8)


@each
def test_the_density_has_integral_one_and_is_zero_outside(name):
    target = TARGETS[name](like=LIKE)
    # Far beyond the square, too: the trapezoidal rule sees the step at its edge to O(h).
    wide = torch.full((2,), 6.0, dtype=F64)
    total = log_evidence_by_quadrature(target.log_prob, -wide, wide, points=601).exp()
    assert total.item() == pytest.approx(1, abs=5e-3)
    assert target.integrate(lambda z: target.log_prob(z).exp()).item() == pytest.approx(1, abs=1e-9)
    outside = torch.tensor([[4.001, 0.0], [0.0, -4.001], [math.inf, 0.0], [-9.0, 9.0]])
    assert (target.log_prob(outside) == -math.inf).all()
    assert not target.support.check(outside).any()
    assert target.log_prob(torch.tensor([math.nan, 0.0])).isnan()
    assert target.energy(outside[[0, 1, 3]]).isfinite().all()


@each
def test_gradients_are_those_of_the_energy_inside_and_zero_outside(name):
    target = TARGETS[name]()
    points = [[1.1, 0.4], [-2.0, -0.3], [5.0, 0.0], [math.inf, 0.0]]
    z = torch.tensor(points, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(target.log_prob, z[:2])
    (grad,) = torch.autograd.grad(target.log_prob(z).sum(), z)
    (of_energy,) = torch.autograd.grad(target.energy(z).sum(), z)
    torch.testing.assert_close(grad[:2], -of_energy[:2])
    assert (grad[2:] == 0).all()


def test_gradients_exist_in_the_middle_of_the_ring():
    z = torch.zeros(2, requires_grad=True)
    (grad,) = torch.autograd.grad(U1().log_prob(z), z)
    assert grad.isfinite().all()


def test_symmetries():
    z = 2 * rand(100, 2)
    flip = {k: z * torch.tensor(signs, dtype=F64) for k, signs in {1: (-1, 1), 2: (1, -1)}.items()}
    for other in (flip[1], flip[2], -z):
        torch.testing.assert_close(U1().energy(other), U1().energy(z))
    wave = TARGETS["U2"]()
    torch.testing.assert_close(wave.energy(-z), wave.energy(z))
    torch.testing.assert_close(wave.energy(z + number(4.0) * torch.eye(2)[0]), wave.energy(z))
    # Where the second branch has gone, or has not yet come, the wave is all there is.
    left = torch.tensor([[-3.0, 1.0], [-2.0, 0.1], [-3.9, 0.4]], dtype=F64)
    mean = torch.log(torch.tensor(2.0, dtype=F64))
    thin = (left[:, 1] - torch.sin(math.pi * left[:, 0] / 2)).square() / 2 / 0.35**2
    torch.testing.assert_close(TARGETS["U3"]().energy(left), thin - mean, atol=1e-3, rtol=1e-3)


# ---- draws --------------------------------------------------------------------------------------


@each
def test_draws_have_the_moments_of_the_density(name):
    target = TARGETS[name](like=LIKE)
    z = target.sample((40_000,), generator=seeded())
    assert target.support.check(z).all()

    def products(z):
        return torch.stack([*z.mT, *z.square().mT, z.prod(-1), z[:, 1] ** 3], -1)

    exact = target.integrate(lambda z: target.log_prob(z).exp().unsqueeze(-1) * products(z))
    drawn = products(z)
    assert ((drawn.mean(0) - exact).abs() < 5 * drawn.std(0) / len(z) ** 0.5).all()
    torch.testing.assert_close(target.mean, exact[:2])
    torch.testing.assert_close(target.variance, exact[2:4] - exact[:2].square())


@each
def test_draws_fall_into_cells_as_often_as_the_density_says(name):
    target = TARGETS[name](like=LIKE)
    z = target.sample((40_000,), generator=seeded(1))
    cells, fine = 8, 25
    at = ((torch.arange(cells * fine, dtype=F64) + 0.5) / (cells * fine) - 0.5) * 8
    density = target.log_prob(torch.cartesian_prod(at, at)).exp().view(cells, fine, cells, fine)
    expected = len(z) * density.sum((1, 3)).flatten() * (8 / (cells * fine)) ** 2
    index = ((z + 4) / 8 * cells).long().clamp(max=cells - 1)
    counts = torch.bincount(index[:, 0] * cells + index[:, 1], minlength=cells**2)
    full = expected > 5
    chi2 = ((counts - expected).square() / expected)[full].sum()
    assert special.chdtrc(int(full.sum()), chi2.item()) > 1e-6
    assert counts[~full].sum() < 3 * expected[~full].sum() + 20


@each
def test_draws_come_from_the_generator_in_any_shape_and_dtype(name):
    target = TARGETS[name](like=torch.empty(0))
    first = target.sample((3, 5), generator=seeded())
    assert first.shape == (3, 5, 2)
    assert first.dtype == torch.float32
    assert torch.equal(first, draw(target, (3, 5), generator=seeded()))
    assert not torch.equal(first, target.sample((3, 5), generator=seeded(1)))
    assert target.sample().shape == (2,)
    assert target.sample((0,)).shape == (0, 2)
    elsewhere = TARGETS[name](like=torch.empty(0, device="meta"))
    assert elsewhere.sample((2,), generator=seeded()).device.type == "meta"
    assert pickle.loads(pickle.dumps(target)).log_normaliser == target.log_normaliser


# ---- divergences --------------------------------------------------------------------------------


@each
def test_both_divergences_of_a_flow_agree_with_quadrature(name):
    target = TARGETS[name](like=LIKE)
    flow = Transformed(
        spread(PlanarFlow(2, length=4, generator=seeded()).to(F64), 0.3), Box(-4.0, 4.0)
    )
    q = flow()
    with torch.no_grad():
        # In the flow's own coordinates, where its density has no edge.
        t = torch.linspace(-12, 12, 201, dtype=F64)
        noise = torch.cartesian_prod(t, t)
        z, ladj = q.transform.call_and_ladj(noise)
        log_q = q.base.log_prob(noise) - ladj
        share = q.base.log_prob(noise).exp() * (t[1] - t[0]) ** 2
        exact = (share * (log_q - target.log_prob(z))).sum()
        value, error = reverse_kl(target, q, 20_000, generator=seeded())
        assert (value - exact).abs() < 5 * error
        exact = target.integrate(
            lambda z: target.log_prob(z).exp() * (target.log_prob(z) - q.log_prob(z)), nodes=96
        )
        value, error = forward_kl(target, q, 5_000, generator=seeded())
        assert (value - exact).abs() < 5 * error


def test_a_target_has_no_divergence_from_itself():
    target = U4(like=LIKE)
    value, error = reverse_kl(target, target, 100, generator=seeded())
    assert value == error == 0


# ---- bad input ----------------------------------------------------------------------------------


def test_bad_input():
    target = U1()
    for call, name in ((target.energy, "z"), (target.log_prob, "value")):
        with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got list"):
            call([0.0, 0.0])
        with pytest.raises(TypeError, match=r"floating-point tensor, got torch.int64"):
            call(torch.zeros(2, dtype=torch.int64))
        with pytest.raises(ValueError, match=rf"{name} must have shape \(\*, 2\), got \(3,\)"):
            call(torch.zeros(3))
        with pytest.raises(ValueError, match=r"got \(\)"):
            call(torch.tensor(0.0))
    with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got int"):
        target.sample((2,), generator=0)
    with pytest.raises(TypeError, match=r"like must be a torch.Tensor, got str"):
        U1(like="float64")
    with pytest.raises(TypeError, match=r"like must be a floating-point tensor, got torch.int64"):
        U1(like=torch.tensor(1))
    with pytest.raises(TypeError, match=r"function must be a function"):
        target.integrate(1.0)
    with pytest.raises(ValueError, match=r"nodes must be at least 1, got 0"):
        target.integrate(target.log_prob, nodes=0)
    with pytest.raises(TypeError):
        EnergyTarget()
    assert isinstance(target, Distribution)
