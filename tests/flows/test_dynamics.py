"""Hamiltonian and Langevin steps: volume, energy, reversal, stationarity, and the flows of them."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import contract
import pytest
import torch
from draws import number, rand, seeded
from families import spread
from torch import nn
from torch.func import vmap

from nfbook.flows import FAMILIES, HamiltonianFlow, LangevinFlow
from nfbook.objectives import reverse_kl
from nfbook.transforms import Langevin, Leapfrog, score

F64 = torch.float64
FLOWS = [HamiltonianFlow, LangevinFlow]
each_flow = pytest.mark.parametrize("make_flow", FLOWS)
NOISES = {Leapfrog: lambda steps: 1, Langevin: lambda steps: steps}
each_step = pytest.mark.parametrize("make_step", [Leapfrog, Langevin])


def gaussian(z):
    return -0.5 * z.square().sum(-1)


def banana(z):
    """A curved density with a normaliser of its own, not one."""
    x, y = z.unbind(-1)
    return -0.5 * (x.square() + (2 * y + x.square() - 1).square())


def bumps(z, context=None):
    """Any dimension; not Gaussian, and smooth. A context moves its centre."""
    z = z if context is None else z - context.sum(-1, keepdim=True)
    return -0.5 * z.square().sum(-1) - 0.7 * torch.cos(2 * z).sum(-1)


class Well(nn.Module):
    """A Gaussian with a trained centre and precision."""

    def __init__(self, features=2):
        super().__init__()
        self.centre = nn.Parameter(torch.full((features,), 0.5))
        self.log_precision = nn.Parameter(torch.zeros(features))

    def forward(self, z):
        return -0.5 * (self.log_precision.exp() * (z - self.centre).square()).sum(-1)


def off(value, expected):
    return float((value - expected).detach().abs().max())


def states(make_step, steps, n=5, features=2, seed=0):
    return rand(n, (1 + NOISES[make_step](steps)) * features, seed=seed)


# ---- bijections of determinant 1 ----------------------------------------------------------------


@each_step
@pytest.mark.parametrize("density", [gaussian, banana, bumps])
@pytest.mark.parametrize("step_size", [0.01, 0.3, torch.tensor([0.2, 0.05], dtype=F64)])
def test_volume_is_preserved(make_step, density, step_size):
    if make_step is Langevin:
        step_size = step_size**2 / 2
    for steps in (1, 4):
        flow, state = make_step(density, step_size, steps), states(make_step, steps)
        y, ladj = flow.call_and_ladj(state)
        assert (ladj == 0).all()
        for function, points in ((flow, state), (flow.inv, y)):
            assert off(contract.jacobian_log_dets(function, points), number(0.0)) < 1e-12


@each_step
def test_volume_is_preserved_beyond_stability(make_step):
    """The points fly off, and the determinant stays 1."""
    flow = make_step(gaussian, 3.0, 2)
    state = states(make_step, 2)
    assert flow(state).norm() > 3 * state.norm()
    assert off(contract.jacobian_log_dets(flow, state), number(0.0)) < 1e-12


def test_leapfrog_is_symplectic():
    flow, zero, one = Leapfrog(banana, 0.2, 5), torch.zeros(2, 2), torch.eye(2)
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)]).double()
    matrices = contract.jacobians(flow, states(Leapfrog, 5))
    assert off(matrices.mT @ omega @ matrices, omega) < 1e-12


@each_step
def test_round_trips(make_step):
    for density, step_size, steps in ((banana, 0.1, 10), (bumps, 0.3, 20), (gaussian, 1.5, 3)):
        flow, state = make_step(density, step_size, steps), states(make_step, steps, 50)
        assert off(flow.inv(flow(state)), state) < 1e-12 * (1 + state.abs().max())
        assert off(flow(flow.inv(state)), state) < 1e-12 * (1 + state.abs().max())


def test_leapfrog_runs_backwards_when_the_momentum_is_reversed():
    flow, state = Leapfrog(banana, 0.1, 10), states(Leapfrog, 10)
    turn = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)
    assert off(turn * flow(turn * flow(state)), state) < 1e-12


# ---- Hamiltonian dynamics -----------------------------------------------------------------------


def test_energy_errors_are_of_second_order():
    state, errors = states(Leapfrog, 1, 50), []
    for steps in (50, 100, 200):
        flow = Leapfrog(banana, 1.0 / steps, steps)
        errors.append(off(flow.energy(flow(state)), flow.energy(state)))
    for coarse, fine in itertools.pairwise(errors):
        assert 3.8 < coarse / fine < 4.2


def test_energy_errors_do_not_build_up():
    state = states(Leapfrog, 1, 50)

    def error(steps):
        flow = Leapfrog(gaussian, 0.1, steps)
        return off(flow.energy(flow(state)), flow.energy(state))

    assert error(1000) < 2 * max(error(steps) for steps in range(5, 30))


def test_the_orbit_of_a_gaussian_is_a_circle():
    t = 2.0
    start = rand(20, 2)
    z, p = start.unbind(-1)
    end = torch.stack([math.cos(t) * z + math.sin(t) * p, math.cos(t) * p - math.sin(t) * z], -1)
    errors = [off(Leapfrog(gaussian, t / steps, steps)(start), end) for steps in (100, 200)]
    assert errors[0] < 2e-4
    assert 3.9 < errors[0] / errors[1] < 4.1


@pytest.mark.parametrize("step_size", [0.1, 1.0, 1.9])
def test_leapfrog_keeps_an_energy_of_its_own_exactly(step_size):
    """For π = N(0, 1) it is p²/2 + (1 - ε²/4) z²/2, an ellipse as long as ε < 2."""
    start = rand(20, 2)
    end = Leapfrog(gaussian, step_size, 100)(start)
    weights = torch.tensor([1 - step_size**2 / 4, 1.0], dtype=F64)
    assert off((weights * end.square()).sum(-1), (weights * start.square()).sum(-1)) < 1e-12


def test_step_sizes_of_their_own_are_masses():
    """Steps ε s for N(0, s²) are steps ε for N(0, 1), in units of s."""
    s = torch.tensor([0.01, 100.0], dtype=F64)
    state = rand(5, 4)
    units = torch.cat([s, torch.ones(2, dtype=F64)])
    scaled = Leapfrog(lambda z: gaussian(z / s), 0.2 * s, 7)(state * units)
    assert off(scaled / units, Leapfrog(gaussian, 0.2, 7)(state)) < 1e-12


# ---- Langevin dynamics --------------------------------------------------------------------------


def test_langevin_steps_are_eulers():
    epsilon, steps = 0.05, 3
    z, *noises = states(Langevin, steps).split(2, -1)
    y = Langevin(banana, epsilon, steps)(torch.cat([z, *noises], -1))
    kept = []
    for noise in noises:
        after = z + epsilon * score(banana, z) + math.sqrt(2 * epsilon) * noise
        # The noise that would lead back, with its sign reversed.
        kept.append((after + epsilon * score(banana, after) - z) / math.sqrt(2 * epsilon))
        z = after
    assert off(y, torch.cat([z, *kept], -1)) < 1e-12


def test_a_langevin_step_is_a_leapfrog_step():
    state = states(Leapfrog, 1)
    assert off(Langevin(banana, 0.02)(state), Leapfrog(banana, 0.2)(state)) < 1e-14


@pytest.mark.parametrize(("variance", "step_size"), [(1.0, 0.5), (0.3, 0.1), (1.0, 1.9)])
def test_the_stationary_variance_of_a_gaussian_is_known(variance, step_size):
    """The steps are linear in position and noise, so variances follow from the Jacobian."""
    stationary = variance / (1 - step_size / (2 * variance))
    flow = Langevin(lambda z: gaussian(z) / variance, step_size, 4)
    row = torch.autograd.functional.jacobian(flow, rand(5))[0]
    after = (row.square() * torch.tensor([stationary, 1, 1, 1, 1], dtype=F64)).sum()
    assert off(after, stationary) < 1e-12
    far = (row.square() * torch.tensor([4 * stationary, 1, 1, 1, 1], dtype=F64)).sum()
    assert stationary < far < 4 * stationary


def test_langevin_steps_reach_the_target():
    flow = LangevinFlow(banana, 2, length=150, step_size=0.02).double()
    z = flow().sample((2000,), generator=seeded(0))[:, :2]
    # ∫ over y leaves x standard normal, and 2 y + x² - 1 is standard normal too. At the start that
    # deviates by 2.4, and its correlation is 0.58. Over eight seeds 0.07 and 0.09 are left.
    x, rest = z[:, 0], 2 * z[:, 1] + z[:, 0].square() - 1
    for values in (x, rest):
        assert values.mean().abs() < 0.1
        assert (values.std() - 1).abs() < 0.1
    assert torch.corrcoef(torch.stack([x.square(), rest]))[0, 1].abs() < 0.15


# ---- gradients, torch.func, torch.compile, batches ----------------------------------------------


@each_step
def test_gradients(make_step):
    """By the state, the step size and what the density depends on; second ones too."""
    state = states(make_step, 2, 2).requires_grad_()
    step_size = torch.tensor([0.2, 0.1], dtype=F64, requires_grad=True)
    centre = rand(2).requires_grad_()

    def function(direction):
        def run(state, step_size, centre):
            flow = make_step(lambda z: bumps(z - centre), step_size, 2)
            return getattr(flow, direction)(state)[0]

        return run

    for direction in ("call_and_ladj", "inverse_and_ladj"):
        given = (state, step_size, centre)
        contract.check_derivatives(function(direction), given)


@each_step
def test_vmap_and_compile(make_step):
    flow, state = make_step(bumps, 0.1, 2), states(make_step, 2)
    assert off(vmap(flow)(state), flow(state)) < 1e-14
    torch.compiler.reset()
    compiled = torch.compile(flow.call_and_ladj, fullgraph=True, backend="eager")
    assert off(compiled(state)[0], flow(state)) < 1e-14


@each_step
def test_batches_of_densities_meet_batches_of_states(make_step):
    centres, state = rand(4, 1, 2), states(make_step, 3)
    step_sizes = 0.1 + rand(3, 1, 1, 2).abs()
    together = make_step(lambda z: bumps(z - centres), step_sizes, 3)
    y, ladj = together.call_and_ladj(state)
    assert (y.shape, ladj.shape) == ((3, 4, 5, state.shape[-1]), (3, 4, 5))
    one = make_step(lambda z: bumps(z - centres[1, 0]), step_sizes[2, 0, 0], 3)
    assert off(y[2, 1], one(state)) < 1e-13
    assert off(together.inv(state)[2, 1], one.inv(state)) < 1e-13


# ---- the flows ----------------------------------------------------------------------------------


@each_flow
@pytest.mark.parametrize("context", [0, 2])
def test_a_flow_keeps_what_the_contract_asks(make_flow, context):
    """Its vectors are position and noise together, so there its density is one as any other."""
    for features in (1, 2):
        flow = make_flow(
            bumps, features, context, 3, hidden_features=(8,), generator=seeded(0)
        ).double()
        contract.check_ladj(spread(flow, 0.3), 1e-10)
        contract.check_round_trips(flow, 1e-11)
    contract.check_gradients(flow)


@each_flow
def test_the_density_of_position_and_noise_integrates_to_one(make_flow):
    flow = spread(make_flow(bumps, 1, length=1, step_size=0.3).double(), 0.3)
    with torch.no_grad():
        contract.check_density(flow, 1e-6)


@each_flow
def test_weights_average_to_the_normaliser(make_flow):
    """E[π(z) N(a) / q(z, a)] is ∫ π, by quadrature. No weight is large, as the tails are alike."""
    step_size = {HamiltonianFlow: 0.1, LangevinFlow: 0.005}[make_flow]
    flow = make_flow(bumps, 2, length=10, step_size=step_size).double()
    line = torch.linspace(-10, 10, 2001, dtype=F64)
    normaliser = torch.trapezoid(bumps(line.unsqueeze(-1)).exp(), line) ** 2
    state, log_q = flow().rsample_and_log_prob((100_000,), generator=seeded(0))
    log_weights = (flow.log_target(state) - log_q).detach()
    weights = log_weights.exp()
    error = weights.std() / math.sqrt(len(weights))
    assert error < 0.05
    assert (weights.mean() - normaliser).abs() < 5 * error
    # Their logarithm is a lower bound on average.
    assert log_weights.mean() < normaliser.log()


@each_flow
def test_the_bound_is_on_the_divergence_of_the_position(make_flow):
    """All is Gaussian, so both divergences are known, and that of the pair is the larger one."""
    flow = spread(make_flow(gaussian, 1, length=2, step_size=0.4).double(), 0.2)
    transform = flow().transform
    jacobian = torch.autograd.functional.jacobian(transform, rand(flow.features)).detach()
    mean, covariance = transform(torch.zeros(flow.features, dtype=F64)), jacobian @ jacobian.mT

    def divergence(size):
        normal = torch.distributions.MultivariateNormal
        q = normal(mean[:size], covariance[:size, :size])
        return torch.distributions.kl_divergence(q, normal(0 * q.mean, torch.eye(size).double()))

    state, log_q = flow().rsample_and_log_prob((100_000,), generator=seeded(0))
    log_normaliser = 0.5 * math.log(2 * math.pi)
    terms = (log_q - flow.log_target(state)).detach() + log_normaliser
    error = terms.std() / math.sqrt(len(terms))
    assert (terms.mean() - divergence(flow.features)).abs() < 5 * error
    assert divergence(flow.features) > divergence(1)


@each_flow
def test_training_raises_the_bound(make_flow):
    flow = make_flow(banana, 2, length=4, step_size=0.05, generator=seeded(0))
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    bounds = []
    for step in range(150):
        optimiser.zero_grad()
        divergence = reverse_kl(flow.log_target, flow(), 100, generator=seeded(step)).value
        divergence.backward()
        optimiser.step()
        bounds.append(-divergence.item())
    first, last = sum(bounds[:10]) / 10, sum(bounds[-10:]) / 10
    assert last > first + 0.1
    assert last < math.log(math.pi) + 0.1


@each_flow
def test_a_target_with_parameters_is_trained_too(make_flow):
    flow = make_flow(Well(), 2, length=3)
    assert "log_density.centre" in dict(flow.named_parameters())
    state, log_q = flow().rsample_and_log_prob((50,))
    (flow.log_target(state) - log_q).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in flow.parameters())


@each_flow
def test_each_context_has_its_own_target_and_start(make_flow):
    flow = spread(make_flow(bumps, 2, 3, hidden_features=(8,)).double(), 0.3)
    context = rand(4, 3)
    q = flow(context)
    state = q.sample((5,), generator=seeded(0))
    assert state.shape == (5, 4, flow.features)
    together, target = q.log_prob(state), flow.log_target(state, context)
    z, noise = state[..., :2], torch.distributions.Normal(0.0, 1.0).log_prob(state[..., 2:])
    assert off(target, bumps(z, context) + noise.sum(-1)) < 1e-12
    for i in range(4):
        assert off(together[:, i], flow(context[i]).log_prob(state[:, i])) < 1e-10
        assert off(target[:, i], flow.log_target(state[:, i], context[i])) < 1e-12
    assert off(q.log_prob(state[:, :1]), together) > 0.01


@each_flow
def test_copies(make_flow):
    flow = make_flow(Well(), 2, length=2).double()
    y = rand(3, flow.features)
    expected = flow().log_prob(y)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert off(twin().log_prob(y), expected) == 0
    fresh = make_flow(Well(), 2, length=2, step_size=0.7).double()
    fresh.load_state_dict(flow.state_dict())
    assert off(fresh().log_prob(y), expected) == 0
    with torch.no_grad():
        assert off(pickle.loads(pickle.dumps(flow())).log_prob(y), expected) == 0


@each_flow
def test_float32_at_far_points(make_flow):
    flow = make_flow(gaussian, 3, length=4, step_size=0.3)
    y = 1e6 * rand(20, flow.features).float()
    back = flow().transform.inv(y)
    assert off(flow().transform(back), y) < 1e-6 * 1e6 * 10
    assert flow().log_prob(y).isfinite().all()
    assert flow().log_prob(y).dtype == flow().sample().dtype == torch.float32


def test_they_are_no_families():
    """A family's constructor makes a density of its features alone, and these cannot."""
    assert not set(FAMILIES.values()) & set(FLOWS)
    assert HamiltonianFlow(gaussian, 3, length=5)().event_shape == (6,)
    assert LangevinFlow(gaussian, 3, length=5)().event_shape == (18,)


# ---- errors -------------------------------------------------------------------------------------


@each_step
def test_bad_steps(make_step):
    with pytest.raises(TypeError, match="log_density must be a function, got None"):
        make_step(None, 0.1)
    with pytest.raises(TypeError, match=r"step_size must be a torch.Tensor or a number, got str"):
        make_step(gaussian, "small")
    with pytest.raises(ValueError, match="step_size must be finite, got nan"):
        make_step(gaussian, float("nan"))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make_step(gaussian, 0.1, 0)
    with pytest.raises(ValueError, match=r"must be a multiple of 2, got shape \(4, 3\)"):
        make_step(gaussian, 0.1)(rand(4, 3))


def test_langevin_steps_are_positive():
    with pytest.raises(ValueError, match=r"step_size must be positive, got -0.1"):
        Langevin(gaussian, -0.1)
    state = states(Leapfrog, 1)
    assert off(Leapfrog(gaussian, -0.1)(state), Leapfrog(gaussian, 0.1).inv(state)) == 0


@each_flow
def test_bad_flows(make_flow):
    with pytest.raises(TypeError, match="log_density must be a function, got int"):
        make_flow(2, 2)
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        make_flow(gaussian, 0)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        make_flow(gaussian, 2, length=0)
    with pytest.raises(ValueError, match=r"step_size must be positive, got 0.0"):
        make_flow(gaussian, 2, step_size=0.0)
    with pytest.raises(TypeError, match="context must be None"):
        make_flow(gaussian, 2)(rand(3).float())
    flow = make_flow(gaussian, 2, length=1)
    for size in (1, 3, 5):
        with pytest.raises(ValueError, match=rf"state must have shape \(\*, 4\), got \({size},\)"):
            flow.log_target(torch.zeros(size))
    with pytest.raises(TypeError, match="context must be None"):
        flow.log_target(torch.zeros(4), torch.zeros(3))
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
        make_flow(bumps, 2, 3, length=1).log_target(torch.zeros(4))


def test_number_of_gradients_is_one_more_than_steps():
    calls = 0

    def counted(z):
        nonlocal calls
        calls += 1
        return gaussian(z)

    for make_step in (Leapfrog, Langevin):
        calls = 0
        make_step(counted, number(0.1), 5)(states(make_step, 5))
        assert calls == 1 + 6  # and one evaluation for the shape
