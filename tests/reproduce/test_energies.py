"""The experiment of the four energies: its jobs, what a run returns, and that flows do converge."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from draws import seeded

from nfbook.reproduce.energies import VARIANTS, Settings, jobs, make_flow, run, tapered
from nfbook.targets import U4

F64 = torch.float64
QUICK = jobs("quick")
SHORT = QUICK[0]


def test_the_jobs_are_those_of_the_figure_and_of_the_variants():
    every = jobs("book")
    figure = [job for job in every if not job.variant]
    assert len(figure) == 4 * 2 * 3 * 5 == len(set(figure))
    assert {(job.family, job.length) for job in figure} == {
        (family, length) for family in ("planar", "nice") for length in (2, 8, 32)
    }
    assert {job.variant for job in every} == {"", *VARIANTS}
    assert len({job.name for job in every}) == len(every)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_one_setting(variant):
    changed = VARIANTS[variant]
    usual = asdict(Settings("U1", "planar", 32, 0))
    assert len(changed) == 1
    assert all(usual[name] != value for name, value in changed.items())


@pytest.mark.parametrize("job", QUICK, ids=lambda job: f"{job.family} {job.support}")
def test_a_run_returns_what_json_can_hold(job):
    result = run(job, progress=False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    value, error = result["kl"]
    assert value > 0
    assert error > 0
    assert result["history"]["step"] == [5, 10]
    assert ("forward_kl" in result) == (job.support == "square")


def test_a_run_is_the_same_again_and_another_with_another_seed():
    first = run(SHORT, progress=False)
    torch.manual_seed(5)
    assert run(SHORT, progress=False) == first
    assert run(replace(SHORT, seed=1), progress=False)["kl"] != first["kl"]


@pytest.mark.parametrize("family", ["planar", "nice"])
def test_the_affine_map_and_the_box_are_the_flow_before_it_is_trained(family):
    """u = 0, and shifts of 0: the noise goes through a sigmoid, and nothing else."""
    z = torch.randn(20, 2, generator=seeded())
    job = Settings("U1", family, 8, 0)
    flow = make_flow(job, seeded())
    torch.testing.assert_close(flow().transform(z), 8 * torch.sigmoid(z) - 4)
    plane = make_flow(replace(job, support="plane"), seeded())
    torch.testing.assert_close(plane().transform(z), z)


def test_training_brings_a_flow_near_the_wave():
    job = Settings("U2", "planar", 8, 0, batch=128, annealed=0.0, step_size=5e-2, draws=2_000)
    before, after = (run(replace(job, updates=n, every=n), progress=False) for n in (1, 150))
    assert after["kl"][0] < before["kl"][0] / 3
    # The curve ends at the same number, from other draws.
    assert after["history"]["kl"][-1] == pytest.approx(after["kl"][0], abs=0.2)


def test_the_target_on_the_plane_is_normalised():
    """Weighted draws have mean 1, and within the square the ratio of both is constant."""
    log_p = tapered(U4())
    z = 4 * torch.randn(200_000, 2, generator=seeded(), dtype=F64)
    log_q = torch.distributions.Normal(0.0, 4.0).log_prob(z).sum(-1)
    weights = (log_p(z) - log_q).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(z) ** 0.5
    inside = z[z.abs().amax(-1) < 4][:50]
    ratio = log_p(inside) - U4().log_prob(inside)
    torch.testing.assert_close(ratio, ratio[:1].expand(50))
    assert -0.5 < ratio[0] < 0
