"""The experiment of the four energies: its jobs, what a run returns, and that flows do converge."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from draws import seeded

from nfbook.reproduce import energies
from nfbook.reproduce.energies import VARIANTS, Settings, jobs, make_flow, run, tapered
from nfbook.targets import U1, U4
from nfbook.training import ReverseKL

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


@pytest.mark.parametrize("family", ["planar", "nice"])
def test_a_trained_flow_comes_back_from_its_result(family):
    """Its divergence, from the same draws as when it was measured, is the one that was stored."""
    job = replace(SHORT, family=family, length=4)
    stored = json.loads(json.dumps({"settings": asdict(job), "result": run(job, progress=False)}))
    flow = energies.trained_flow(stored).float()
    assert energies.divergence(flow, U1().log_prob) == pytest.approx(
        stored["result"]["history"]["kl"][-1], abs=1e-4
    )
    assert "weights" not in run(replace(job, seed=1), progress=False)
    assert "weights" not in run(replace(job, variant="plane", support="plane"), progress=False)


def test_a_path_gradient_leaves_the_value_and_changes_the_training():
    whole = run(SHORT, progress=False)["history"]["kl"]
    path = run(replace(SHORT, path_gradient=True), progress=False)["history"]["kl"]
    assert path != whole
    assert path == pytest.approx(whole, rel=0.2)


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


def test_both_divergences_are_integrals_over_the_square():
    """A flow that is not trained, with steps of 0, is a Gaussian through a sigmoid."""
    job = Settings("U1", "planar", 2, 0, updates=1, every=1, step_size=0.0, draws=20_000)
    result = run(job, progress=False)
    noise = torch.linspace(-7, 7, 501, dtype=F64)
    grid = torch.cartesian_prod(noise, noise)
    share = torch.sigmoid(grid)
    log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(-1)
    log_q = log_normal - (8 * share * (1 - share)).log().sum(-1)
    log_ratio = log_q - U1().log_prob(8 * share - 4)
    cell = (noise[1] - noise[0]) ** 2 * log_normal.exp()
    kl = (cell * log_ratio).sum().item()
    forward_kl = -(cell * (-log_ratio).exp() * log_ratio).sum().item()
    for name, exact in (("kl", kl), ("forward_kl", forward_kl)):
        value, error = result[name]
        assert value == pytest.approx(exact, abs=6 * error)
        assert error < 0.05
    assert result["history"]["kl"] == pytest.approx([kl], abs=0.2)


def test_the_energy_rises_while_training_goes_on():
    """What starts with the whole energy is what is never annealed; what starts below is not."""
    never = run(replace(SHORT, annealed=0.0), progress=False)
    assert run(replace(SHORT, first_beta=1.0), progress=False) == never
    assert run(SHORT, progress=False) != never


def test_beta_and_the_batch_are_those_of_the_job(monkeypatch):
    """The energy has its whole weight after the share of the updates that the job says."""
    losses = []

    class Remembered(ReverseKL):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            losses.append(self)

    monkeypatch.setattr(energies, "ReverseKL", Remembered)
    monkeypatch.setattr(energies, "divergence", lambda flow, log_p: 1.0)
    run(replace(SHORT, annealed=0.4, first_beta=0.2, batch=7), progress=False)
    run(replace(SHORT, annealed=0.0), progress=False)
    first, never = losses
    assert first.samples == 7
    assert [first.annealing(step) for step in (0, 1, 4, 9)] == pytest.approx([0.2, 0.45, 1, 1])
    assert never.annealing(0) == 1


def test_nice_has_the_layers_and_the_networks_that_the_job_says():
    def count(length, hidden):
        flow = make_flow(Settings("U1", "nice", length, 0, hidden=hidden))
        return sum(parameter.numel() for parameter in flow.parameters())

    two, four, six = (count(length, (32,)) for length in (2, 4, 6))
    assert six - four == four - two > 0
    # A hidden unit more in each layer's network: a weight before it, a bias, a weight after it.
    assert count(2, (33,)) - two == 2 * 3


@pytest.mark.parametrize("affine", [True, False])
def test_an_affine_map_has_four_parameters_and_a_planar_layer_five(affine):
    found = run(replace(SHORT, affine=affine), progress=False)["parameters"]
    assert found == 5 * SHORT.length + 4 * affine


def test_planar_layers_start_where_they_are_told():
    def start(name):
        job = replace(SHORT, planar_start=name, affine=False, support="plane")
        return make_flow(job, seeded()).start(5_000, seeded(1))

    spread, small = start("spread"), start("near zero")
    torch.testing.assert_close(spread["w"].norm(dim=-1), torch.full((5_000,), 2.0))
    assert not spread["u"].any()
    # The distances of the hyperplanes from the origin are those of a projected Gaussian point.
    assert (spread["b"] / 2).square().mean().item() == pytest.approx(1, abs=0.12)
    for name in ("w", "u"):
        assert small[name].std().item() == pytest.approx(0.1, abs=0.005)
    assert not small["b"].any()


def test_the_walls_of_the_plane_rise_with_the_square_of_the_distance():
    log_p, target = tapered(U4()), U4()
    z = torch.tensor([[0.0, 0.0], [5.0, 0.0], [-5.0, 4.5], [1.0, -4.0]], dtype=F64)
    height = log_p(z[:1]) + target.energy(z[:1]) - log_p(z) - target.energy(z)
    torch.testing.assert_close(height, torch.tensor([0.0, 2.0, 2.5, 0.0], dtype=F64))
