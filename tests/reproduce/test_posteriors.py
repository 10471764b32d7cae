"""The experiment with families of posteriors: its jobs, and what a run says of a posterior."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from nfbook.flows import IAF, NeuralSplineCoupling, OrthogonalSylvesterFlow, PlanarFlow
from nfbook.reproduce import posteriors
from nfbook.reproduce.posteriors import BINS, MODELS, PLACES, jobs, make_model, run
from nfbook.training import Checkpoints
from nfbook.vae import BernoulliDecoder, Parabola

QUICK = jobs("quick")
PARABOLA, DIGITS = ([job for job in QUICK if job.data == data] for data in MODELS)
EVIDENCE = ("negative_bound", "kl", "negative_log_prob")


def test_the_jobs_are_every_model_of_both_data_with_five_seeds():
    every = jobs("book")
    models = sum(map(len, MODELS.values()))
    assert len({job.name for job in every}) == len(every) == 5 * models
    assert {job.seed for job in every[:models]} == {0}
    assert [job.name for job in every[:models]] == [
        f"{data}_{family}_{length}_seed_0"
        for data, families in MODELS.items()
        for family, length in families
    ]


def test_models_of_the_same_data_differ_in_nothing_but_family_and_length():
    for data in MODELS:
        same = {
            replace(job, family="", length=0, seed=0) for job in jobs("book") if job.data == data
        }
        assert len(same) == 1


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("planar", PlanarFlow),
        ("iaf", IAF),
        ("sylvester", OrthogonalSylvesterFlow),
        ("spline", NeuralSplineCoupling),
    ],
)
@pytest.mark.parametrize(
    ("data", "decoder"), [("parabola", Parabola), ("digits", BernoulliDecoder)]
)
def test_a_model_is_the_one_that_the_job_names(data, decoder, family, kind):
    job = next(job for job in jobs("book") if (job.data, job.family) == (data, family))
    model = make_model(job)
    assert type(model.flow) is kind
    assert type(model.decoder) is decoder
    assert model.latent_dim == job.latent_dim
    assert make_model(replace(job, family="gaussian", length=0)).flow is None


def test_the_seed_of_a_job_is_that_of_its_parameters():
    first, again, other = (
        torch.cat([p.flatten() for p in make_model(replace(QUICK[1], seed=seed)).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("job", PARABOLA, ids=lambda job: job.name)
def test_a_run_on_the_parabola_returns_what_json_can_hold(job):
    result = run(job, progress=False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["updates"] == job.updates
    assert result["parameters"] == sum(p.numel() for p in make_model(job).parameters())
    assert list(result["gap_at"]) == [str(place) for place in PLACES]
    assert all(value > 0 for value in (*result["gap"], *result["gap_at"].values()))
    assert result["k_hat"][0] <= result["k_hat"][1]
    assert 0 < result["effective_share"] <= 1
    assert [len(counts) for counts in result["ranks"]] == [BINS, BINS]
    assert [sum(counts) for counts in result["ranks"]] == [job.simulations] * 2


@pytest.mark.parametrize("job", DIGITS, ids=lambda job: job.name)
def test_a_run_on_digits_returns_what_json_can_hold(job):
    result = run(job, progress=False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(error > 0 for _, error in (result[key] for key in EVIDENCE))
    # The importance-weighted estimate is the tighter one.
    assert result["negative_log_prob"][0] < result["negative_bound"][0]
    assert result["seconds_per_epoch"] > 0
    assert result["history"]["step"] == [2, 4]
    assert set(result["history"]) == {"step", "loss", "validation"}
    assert result["validation"] == pytest.approx(min(result["history"]["validation"]), abs=1e-3)


@pytest.mark.parametrize(("job", "key"), [(PARABOLA[1], "gap"), (DIGITS[1], "negative_bound")])
def test_a_run_is_the_same_again_and_another_with_another_seed(job, key):
    first = run(job, progress=False)[key]
    torch.manual_seed(5)
    assert run(job, progress=False)[key] == first
    assert run(replace(job, seed=1), progress=False)[key] != first


@pytest.mark.parametrize(("job", "key"), [(PARABOLA[1], "gap_at"), (DIGITS[1], "negative_bound")])
def test_a_run_goes_on_from_its_checkpoint(job, key, tmp_path, monkeypatch):
    whole = run(job, progress=False)
    checkpoints = Checkpoints(tmp_path)
    save = checkpoints.save

    def save_once_then_fail(step, state):
        save(step, state)
        raise RuntimeError("stopped")

    monkeypatch.setattr(checkpoints, "save", save_once_then_fail)
    with pytest.raises(RuntimeError, match="stopped"):
        run(job, checkpoints=checkpoints, progress=False)
    assert checkpoints.steps() == [job.every]
    again = run(job, checkpoints=Checkpoints(tmp_path), progress=False)
    assert again[key] == whole[key]


def test_the_gap_is_the_divergence_from_the_exact_posterior(monkeypatch):
    """Before any training the posterior is the prior, whose divergence is an integral."""
    job = replace(PARABOLA[0], observations=2_000, draws_at=200_000, simulations=2_000)
    monkeypatch.setattr(posteriors.Trainer, "fit", lambda self, *_, **__: None)
    result = run(job, progress=False)
    noise = Parabola().noise
    for place, found in result["gap_at"].items():
        # E (x - z_1^2 - z_2)^2 = (x - 1)^2 + 3, by the moments of a standard Gaussian.
        square = (float(place) - 1) ** 2 + 3
        bound = -math.log(noise * math.sqrt(2 * math.pi)) - square / (2 * noise**2)
        evidence = Parabola().log_evidence(torch.tensor([[float(place)]], dtype=torch.float64))
        assert found == pytest.approx(evidence.item() - bound, rel=0.02)
    # The prior is calibrated, on average over x: every bin is hit alike.
    expected = job.simulations / BINS
    for counts in result["ranks"]:
        statistic = sum((count - expected) ** 2 / expected for count in counts)
        assert statistic < 50  # of chi squared with 15 degrees of freedom, 1 in 90,000


def test_training_brings_the_posterior_near_the_exact_one():
    job = replace(PARABOLA[2], updates=300, batch=100, widths=(32, 32), importance_samples=100)
    before = run(replace(job, updates=1), progress=False)
    after = run(job, progress=False)
    assert after["gap"][0] < before["gap"][0] / 5
    assert after["effective_share"] > before["effective_share"]


def test_the_digits_are_black_and_white():
    data = posteriors.black_and_white_digits()
    for part in data:
        assert set(part.unique().tolist()) == {0.0, 1.0}
