"""The experiment of the four energies: its jobs, what a run returns, and that flows do converge."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from draws import seeded

from nfbook.reproduce.energies import (
    QUICK,
    SETTINGS,
    VARIANTS,
    Job,
    Settings,
    _tapered,
    jobs,
    make_flow,
    run,
)
from nfbook.targets import U4

F64 = torch.float64
SHORT = replace(QUICK, updates=8, batch=16, draws=50)


def test_the_jobs_are_those_of_the_figure_and_of_the_variants():
    every = jobs(SETTINGS)
    figure = [job for job in every if not job.variant]
    assert len(figure) == 4 * 2 * 3 * 5 == len(set(figure))
    assert {(job.family, job.length) for job in figure} == {
        (family, length) for family in ("planar", "nice") for length in (2, 8, 32)
    }
    assert {job.variant for job in every} == {"", *VARIANTS}
    assert len({job.name for job in every}) == len(every)
    assert all(set(job.name) <= set("abcdefghijklmnopqrstuvwxyzU-0123456789") for job in every)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_one_setting(variant):
    changed = VARIANTS[variant]
    assert len(changed) == 1
    assert all(asdict(SETTINGS)[name] != value for name, value in changed.items())


@pytest.mark.parametrize("job", jobs(SHORT)[::3], ids=lambda job: job.name)
def test_a_run_returns_what_json_can_hold(job):
    result = run(job, SHORT)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert asdict(job).items() <= result.items()
    assert result["kl"] > 0
    assert result["kl_error"] > 0
    assert result["curve"]["update"][-1] == SHORT.updates
    assert len(result["curve"]["update"]) == len(result["curve"]["kl"]) == SHORT.points
    assert ("forward_kl" in result) == (job.variant != "on the plane")


def test_a_run_is_the_same_again_and_another_with_another_seed():
    job = Job("U3", "nice", 2, 0)
    first = run(job, SHORT)
    torch.manual_seed(5)
    assert run(job, SHORT) == first
    assert run(replace(job, seed=1), SHORT)["kl"] != first["kl"]


@pytest.mark.parametrize("family", ["planar", "nice"])
def test_the_affine_map_and_the_box_are_the_flow_before_it_is_trained(family):
    """u = 0, and shifts of 0: the noise goes through a sigmoid, and nothing else."""
    z = torch.randn(20, 2, generator=seeded())
    flow = make_flow(Job("U1", family, 8, 0), SETTINGS, seeded())
    torch.testing.assert_close(flow().transform(z), 8 * torch.sigmoid(z) - 4)
    plane = make_flow(Job("U1", family, 8, 0), replace(SETTINGS, support="plane"), seeded())
    torch.testing.assert_close(plane().transform(z), z)


def test_training_brings_a_flow_near_the_wave():
    settings = Settings(batch=128, annealed=0.0, step_size=5e-2, draws=2_000, points=20)
    before, after = (
        run(Job("U2", "planar", 8, 0), replace(settings, updates=updates)) for updates in (1, 150)
    )
    assert after["kl"] < before["kl"] / 3
    # The curve ends at the same number, from the draws of training.
    assert after["curve"]["kl"][-1] == pytest.approx(after["kl"], abs=0.2)


def test_the_target_on_the_plane_is_normalised():
    """Weighted draws have mean 1, and within the square the ratio of both is constant."""
    log_p = _tapered(U4())
    z = 4 * torch.randn(200_000, 2, generator=seeded(), dtype=F64)
    log_q = torch.distributions.Normal(0.0, 4.0).log_prob(z).sum(-1)
    weights = (log_p(z) - log_q).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(z) ** 0.5
    inside = z[z.abs().amax(-1) < 4][:50]
    ratio = log_p(inside) - U4().log_prob(inside)
    torch.testing.assert_close(ratio, ratio[:1].expand(50))
    assert -0.5 < ratio[0] < 0


def test_bad_input():
    with pytest.raises(ValueError, match=r"target must be one of U1, U2, U3, U4, got 'U5'"):
        run(Job("U5", "planar", 2, 0), SHORT)
    with pytest.raises(ValueError, match=r"family must be one of planar, nice, got 'maf'"):
        run(Job("U1", "maf", 2, 0), SHORT)
    with pytest.raises(ValueError, match=r"variant must be one of no annealing, .*, got 'none'"):
        run(Job("U1", "planar", 2, 0, "none"), SHORT)
    with pytest.raises(ValueError, match=r"start must be one of .*, got 'far'"):
        run(Job("U1", "planar", 2, 0), replace(SHORT, planar_start="far"))
    with pytest.raises(TypeError, match=r"job must be a Job of the energies, got str"):
        run("U1-planar-2-0", SHORT)
    with pytest.raises(TypeError, match=r"settings must be Settings of the energies, got dict"):
        run(Job("U1", "planar", 2, 0), {})
    with pytest.raises(ValueError, match=r"support must be one of square, plane, got 'torus'"):
        run(Job("U1", "planar", 2, 0), replace(SHORT, support="torus"))
