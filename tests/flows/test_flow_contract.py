"""Every family of flows keeps the same promises: a line in the registry tests a new one."""

from __future__ import annotations

import functools

import contract
import pytest
import torch
from draws import rand, seeded
from families import CASES, make
from hypothesis import given, settings
from hypothesis import strategies as st

from nfbook.flows import FAMILIES

each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
SCALES = {"initial": 0.0, "trained": 0.5, "extreme": None}
# Where a grid of four hundred nodes a side resolves every density.
SMOOTH = 0.25
at_each_scale = pytest.mark.parametrize("at", SCALES)


def scale_of(case, at):
    return case.extreme if SCALES[at] is None else min(SCALES[at], case.extreme)


@each
@at_each_scale
def test_ladj_is_autograds(case, at):
    for features in case.dims:
        context = 2 * (features % 2)
        flow = make(case, features, context, scale=scale_of(case, at), seed=features)
        contract.check_ladj(flow, 100 * case.tolerance)


@each
@at_each_scale
def test_round_trips(case, at):
    for features in case.dims:
        flow = make(case, features, scale=scale_of(case, at), seed=features)
        if at == "extreme":
            contract.check_round_trips_as_conditioned(flow, 100 * case.tolerance)
        else:
            contract.check_round_trips(flow, case.tolerance)


@each
def test_round_trips_in_float32(case):
    for features in case.dims:
        flow = make(case, features, scale=0.5, seed=features, dtype=torch.float32)
        contract.check_round_trips(flow, 1e-3)


@each
@pytest.mark.parametrize("features", [1, 2])
def test_the_density_integrates_to_one_and_samples_follow_it(case, features):
    # In two dimensions the quadrature is off by up to 5e-4 for splines, whose bins may be narrow.
    if features in case.dims:
        contract.check_density(make(case, features, scale=SMOOTH), {1: 1e-4, 2: 1e-3}[features])


@each
def test_starts_as_the_base(case):
    for features in case.dims:
        for context in (0, 2):
            flow = make(case, features, context, seed=features)
            contract.check_starts_as_the_base(flow, 1e-8)


@each
def test_gradients(case):
    contract.check_gradients(make(case, 2, context=1, length=2, scale=0.5))


@each
def test_shapes(case):
    for features in (1, 2):
        contract.check_shapes(case, features)


@each
def test_context_rows(case):
    contract.check_context_rows(case)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype(case, dtype):
    contract.check_dtype(case, dtype)


DEVICES = ["cpu", "meta", *(["cuda"] if torch.cuda.is_available() else [])]


@each
@pytest.mark.parametrize("device", DEVICES)
def test_device(case, device):
    contract.check_device(case, device)


@each
def test_far_points(case):
    for features in case.dims:
        contract.check_far_points(case, features)


@each
def test_copies(case):
    contract.check_copies(case)


@each
def test_learns(case):
    contract.check_learns(case)


@each
def test_randomness(case):
    contract.check_randomness(case)


@each
def test_draws(case):
    contract.check_draws(case)


@each
def test_networks_without_hidden_layers(case):
    flow = FAMILIES[case.name](2, 2, hidden_features=(), generator=seeded())
    contract.check_starts_as_the_base(flow.double(), 1e-8)


# A continuous flow with an adaptive solver cannot be followed. With fixed steps it can, and
# test_continuous holds it to the same.


# torch's own forward mode warns of torch's own compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("case", [c for c in CASES if c.vmaps], ids=lambda case: case.name)
def test_vmap(case):
    contract.check_vmap(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.vmaps], ids=lambda case: case.name)
def test_vmap_over_parameters(case):
    contract.check_vmap_over_parameters(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.compiles], ids=lambda case: case.name)
def test_compile(case):
    contract.check_compile(case)


@each
def test_a_distribution_holds_its_parameters(case):
    contract.check_holds_its_parameters(case)


@each
def test_bad_input(case):
    make_flow = FAMILIES[case.name]
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        make_flow(0)
    with pytest.raises(TypeError, match="features must be an int, got float"):
        make_flow(2.0)
    with pytest.raises(ValueError, match="context must be at least 0, got -1"):
        make_flow(2, -1)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        make_flow(2, length=0)
    with pytest.raises(ValueError, match="every one of hidden_features must be at least 1, got 0"):
        make_flow(2, context=1, hidden_features=(0,))
    for features, size in ((1, 0), (2, 1)):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
            make_flow(features, size, generator=0)
    free, bound = make(case), make(case, context=3)
    with pytest.raises(TypeError, match="context must be None"):
        free(rand(3))
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
        bound()
    with pytest.raises(ValueError, match=r"context must have shape \(\*, 3\), got \(7, 2\)"):
        bound(rand(7, 2))
    with pytest.raises(TypeError, match=r"context must have the flow's dtype, torch\.float64"):
        bound(rand(7, 3).float())
    with pytest.raises(ValueError, match=r"value must have shape \(\*, 2\), got \(4, 3\)"):
        free().log_prob(rand(4, 3))
    with pytest.raises(TypeError, match=r"value must have the flow's dtype, torch\.float64"):
        free().log_prob(rand(4, 2).float())
    with pytest.raises(ValueError, match=r"to fit the batch shape \(7,\), got \(5, 2\)"):
        bound(rand(7, 3)).log_prob(rand(5, 2))


@each
def test_any_shape_and_scale(case):
    @settings(max_examples=case.examples, deadline=None, derandomize=True)
    @given(data=st.data())
    def holds(data):
        hold_at_any_shape_and_scale(case, data)

    holds()


def hold_at_any_shape_and_scale(case, data):
    features = data.draw(st.sampled_from(case.dims), "features")
    context = data.draw(st.integers(0, 3), "context")
    length = data.draw(st.integers(1, 4), "length")
    scale = data.draw(st.floats(0, min(1, case.extreme)), "scale")
    seed = data.draw(st.integers(0, 1000), "seed")
    flow = make(case, features, context, length, scale=scale, seed=seed)
    contract.check_ladj(flow, 100 * case.tolerance)
    contract.check_round_trips_as_conditioned(flow, 100 * case.tolerance)


# ---- the suite catches what is wrong ------------------------------------------------------------


def broken(flow, change):
    """Return a flow, of whose transform both directions go through a change."""
    right = flow.transform

    def transform(context=None):
        t = right(context)
        there, back = t.call_and_ladj, t.inverse_and_ladj
        t.call_and_ladj = lambda z: change(z, *there(z), 1)
        t.inverse_and_ladj = lambda y: change(y, *back(y), -1)
        t._call = lambda z: t.call_and_ladj(z)[0]
        t._inverse = lambda y: t.inverse_and_ladj(y)[0]
        return t

    flow.transform = transform
    return flow


@each
@pytest.mark.parametrize("error", [1e-3, -1e-3])
def test_a_wrong_log_determinant_is_caught_in_every_family(case, error):
    """It is off by a thousandth, with opposite signs in both directions, so they agree."""

    def off():
        return broken(
            make(case, features=1, scale=SMOOTH),
            lambda at, to, ladj, sign: (to, ladj + sign * error),
        )

    with pytest.raises(AssertionError, match=r"off by 0\.00"):
        contract.check_ladj(off(), 100 * case.tolerance)
    with pytest.raises(AssertionError, match=r"off by 0\.00"):
        contract.check_density(off())


# What could be wrong with a flow: the point that it came from and goes to, the ladj, and 1 or -1
# for the direction. And the checks that have to see it.
FAULTS = {
    "no ladj": (lambda at, to, ladj, sign: (to, 0 * ladj), "ladj density"),
    "ladj of the other direction": (lambda at, to, ladj, sign: (to, -ladj), "ladj density"),
    "an inverse that is near": (
        lambda at, to, ladj, sign: (to if sign > 0 else to + 1e-6 * at.sin(), ladj),
        "round_trips",
    ),
    "samples that are shifted": (
        lambda at, to, ladj, sign: (to + 0.1 if sign > 0 else to, ladj),
        "density round_trips",
    ),
    "a density that is shifted": (
        lambda at, to, ladj, sign: (to if sign > 0 else to + 0.1, ladj),
        "density round_trips",
    ),
    "a gradient that is cut off": (lambda at, to, ladj, sign: (to, ladj.detach()), "gradients"),
    "a gradient that is cut off in part": (
        lambda at, to, ladj, sign: (to, 0.99 * ladj + 0.01 * ladj.detach()),
        "gradients",
    ),
    "noise of its own": (
        lambda at, to, ladj, sign: (to + 1e-6 * torch.rand(()), ladj),
        "randomness draws",
    ),
    "points that see each other": (
        lambda at, to, ladj, sign: (to, ladj + 1e-6 * at.sum()),
        "context_rows",
    ),
    "no number far out": (
        lambda at, to, ladj, sign: (to, ladj + 0 * at.exp().sum(-1)),
        "far_points",
    ),
    "another dtype": (lambda at, to, ladj, sign: (to.double(), ladj.double()), "dtype"),
    "a dimension too many": (lambda at, to, ladj, sign: (to, ladj.unsqueeze(0)), "shapes"),
    "what torch cannot follow": (
        lambda at, to, ladj, sign: (to, ladj) if at.sum() < 1e9 else (at, ladj),
        "vmap compile device",
    ),
    "a step away from the base": (lambda at, to, ladj, sign: (1.001 * to, ladj), "starts"),
}
CHECKS = {
    "ladj": lambda case: contract.check_ladj(contract.make(case, scale=0.5), 1e-7),
    "round_trips": lambda case: contract.check_round_trips(contract.make(case), 1e-9),
    "density": lambda case: contract.check_density(contract.make(case, 1, scale=0.5)),
    "starts": lambda case: contract.check_starts_as_the_base(contract.make(case), 1e-8),
    "gradients": lambda case: contract.check_gradients(contract.make(case, context=1, scale=0.5)),
    "shapes": lambda case: contract.check_shapes(case, 2),
    "context_rows": contract.check_context_rows,
    "dtype": lambda case: contract.check_dtype(case, torch.float32),
    "device": lambda case: contract.check_device(case, "meta"),
    "far_points": lambda case: contract.check_far_points(case, 2),
    "randomness": contract.check_randomness,
    "draws": contract.check_draws,
    "vmap": contract.check_vmap,
    "compile": contract.check_compile,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    ("fault", "check"),
    [(fault, check) for fault, (_, checks) in FAULTS.items() for check in checks.split()],
)
def test_a_fault_is_caught(fault, check, monkeypatch):
    case = next(case for case in CASES if case.name == "radial")
    hold_without_a_fault(check, case)
    change, _ = FAULTS[fault]
    monkeypatch.setattr(contract, "make", lambda *a, **k: broken(make(*a, **k), change))
    with pytest.raises(Exception):  # noqa: B017, PT011
        CHECKS[check](case)


@functools.cache
def hold_without_a_fault(check, case):
    CHECKS[check](case)
