"""The experiments as commands: the same path as the long runs, in seconds."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from draws import seeded

from nfbook.data import Splits, split_digits
from nfbook.networks import Feedforward
from nfbook.reproduce import cifar10, command, energies, mnist
from nfbook.reproduce.evaluation import evaluate
from nfbook.training import Checkpoints
from nfbook.vae import VAE, BernoulliDecoder


@pytest.fixture
def folders(tmp_path):
    return ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]


def stored(tmp_path, name):
    path = tmp_path / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_from_data_to_a_merged_result(tmp_path, folders, capsys):
    quick = ["mnist", "--quick", "--no-progress", *folders]
    assert command.main([*quick, "--task", "1/3"]) == 0
    assert command.main([*quick, "--task", "2/3"]) == 0
    one = stored(tmp_path, "mnist/quick_planar_2_seed_0")
    assert one["command"].endswith("mnist --quick --only planar_2_seed_0")
    assert one["seeds"] == [0]
    assert one["settings"]["updates"] == one["result"]["history"]["step"][-1] == 60
    bound, kl, nll = (one["result"][key] for key in ("negative_bound", "kl", "negative_log_prob"))
    assert all(error > 0 for _, error in (bound, kl, nll))
    # The importance-weighted estimate is the tighter one.
    assert nll[0] < bound[0]
    assert kl[0] > 0

    # What is there is not run again.
    capsys.readouterr()
    assert command.main([*quick, "--only", "planar_2_seed_0"]) == 0
    assert "done already" in capsys.readouterr().out
    assert stored(tmp_path, "mnist/quick_planar_2_seed_0") == one

    assert command.main([*quick, "--merge"]) == 0
    merged = stored(tmp_path, "mnist")["result"]
    assert {run["settings"]["length"] for run in merged["runs"]} == {0, 2}
    assert merged["runs"][0]["result"] == one["result"]
    assert "quick: nice_2_seed_0" in merged["missing"]
    assert "book: planar_80_seed_0" in merged["missing"]


@pytest.mark.parametrize("experiment", ["cifar10", "energies"])
def test_the_other_experiments_take_the_same_path(tmp_path, folders, experiment):
    quick = [experiment, "--quick", "--no-progress", *folders]
    assert command.main(quick) == 0
    assert command.main([*quick, "--merge"]) == 0
    for run in stored(tmp_path, experiment)["result"]["runs"]:
        assert run["settings"]["protocol"] == "quick"
        assert run["result"]["history"]["step"][-1] == run["settings"]["updates"]


def test_a_bound_of_patches_is_a_density(tmp_path, folders):
    assert command.main(["cifar10", "--quick", "--no-progress", "--task", "1/2", *folders]) == 0
    result = stored(tmp_path, "cifar10/quick_planar_2_seed_0")["result"]
    bound, nll = result["negative_bound"], result["negative_log_prob"]
    assert nll[0] < bound[0]
    # A uniform density has 0 nats, and one of 64 pixels with 17 levels at least -64 log 17.
    assert -64 * math.log(17) < nll[0] < 64 * math.log(17)


@pytest.mark.parametrize("parts", [1, 4])
def test_errors_are_those_of_means_over_images(parts):
    """The decoder does not look at z, so the bound is known; the parts of an image are alike."""
    decoder = Feedforward(2, (), 5)
    torch.nn.init.zeros_(decoder[-1].weight)
    vae = VAE(Feedforward(5, (4,)), BernoulliDecoder(decoder))
    images = torch.rand(10, 5, generator=seeded()).round()
    x = images.repeat_interleave(parts, 0)
    result = evaluate(vae, Splits(x, x, x), 3, 0, parts=parts, progress=False)
    bias = decoder[-1].bias
    surprise = torch.nn.functional.binary_cross_entropy_with_logits(
        bias.expand(10, 5), images, reduction="none"
    ).sum(1)
    for key in ("negative_bound", "negative_log_prob"):
        value, error = result[key]
        assert value == pytest.approx(surprise.mean().item(), rel=1e-5)
        assert error == pytest.approx(surprise.std().item() / math.sqrt(10), rel=1e-4)
    assert result["kl"] == pytest.approx([0, 0], abs=1e-6)
    assert result["importance_error"] < 1e-3
    assert result["validation"] == pytest.approx(surprise.mean().item(), rel=1e-5)


def test_the_patches_of_an_image_are_sixteen():
    assert {job.parts for job in cifar10.jobs("book")} == {(32 // 8) ** 2}


def test_a_result_of_other_settings_is_refused(tmp_path, folders, capsys):
    quick = ["mnist", "--quick", "--no-progress", *folders]
    assert command.main([*quick, "--task", "1/3"]) == 0
    path = tmp_path / "results" / "mnist" / "quick_planar_2_seed_0.json"
    other = json.loads(path.read_text(encoding="utf-8"))
    other["settings"]["learning_rate"] = 0.5
    path.write_text(json.dumps(other), encoding="utf-8")
    for arguments in (quick, [*quick, "--merge"]):
        assert command.main(arguments) == 1
        assert "learning_rate is 0.5 there and 0.001 here" in capsys.readouterr().err
    assert not (tmp_path / "results" / "mnist.json").exists()


def test_a_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch, folders):
    job = mnist.jobs("quick")[0]
    whole = mnist.run(job, progress=False)
    # The same run, stopped after the first look at it.
    checkpoints = Checkpoints(tmp_path / "half")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", _save_once_then_fail)
        with pytest.raises(RuntimeError):
            mnist.run(job, checkpoints=checkpoints, progress=False)
    assert checkpoints.steps() == [30]
    resumed = mnist.run(job, checkpoints=checkpoints, progress=False)
    for result in (whole, resumed):
        del result["history"]["seconds"]
    assert resumed == whole


def _save_once_then_fail(self, step, state, save=Checkpoints.save):
    if step > 30:
        raise RuntimeError
    save(self, step, state)


def test_an_interrupted_command_says_how_to_go_on(tmp_path, folders):
    """In a process of its own, which gets a real Ctrl-C."""
    code = (
        "import dataclasses, sys\n"
        "from nfbook.reproduce import command, mnist\n"
        "long = [dataclasses.replace(mnist.jobs('quick')[0], updates=10**6)]\n"
        "mnist.jobs = lambda protocol: long\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    arguments = [sys.executable, "-c", code, "mnist", "--quick", "--no-progress", *folders]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, env=os.environ, text=True)
    run = tmp_path / "runs" / "mnist" / "quick_planar_2_seed_0"
    deadline = time.monotonic() + 60
    while not list(run.glob("step-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    state = Checkpoints(run).latest()
    assert state is not None
    assert f"stopped after step {state['step']} of 1000000" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "fast"], "--protocol must be one of book, paper"),
        (["--only", "planar_3_seed_0"], "--only must name jobs of"),
        (["--task", "4/3"], "--task must be I/N with I from 1 to N, got '4/3'"),
        (["--task", "half"], "--task must be I/N with I from 1 to N, got 'half'"),
    ],
)
def test_wrong_arguments(arguments, message, folders, capsys):
    assert command.main(["mnist", *arguments, *folders]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_experiment_names_those_there_are(capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["imagenet"])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name in command.EXPERIMENTS)


def test_nothing_to_merge(folders, capsys):
    assert command.main(["mnist", "--merge", *folders]) == 1
    assert "there are no results" in capsys.readouterr().err


def test_the_book_and_the_paper_train_the_same_models():
    book = {(job.family, job.length) for job in mnist.jobs("book")}
    assert book == {("planar", k) for k in (0, 10, 20, 40, 80)} | {
        ("nice", k) for k in (10, 20, 40, 80)
    }
    assert len(mnist.jobs("book")) == 27
    for job in mnist.jobs("paper"):
        assert (job.optimiser, job.learning_rate, job.updates) == ("RMSprop", 1e-5, 500_000)
        assert (job.latent_dim, job.batch, job.widths) == (40, 100, (400, 400))


def test_every_name_is_one_job():
    for experiment in (mnist, cifar10, energies):
        for protocol in experiment.PROTOCOLS:
            names = [job.name for job in experiment.jobs(protocol)]
            assert len(set(names)) == len(names)
            assert {job.protocol for job in experiment.jobs(protocol)} == {protocol}


CHANGES = {job.variant: job for job in mnist.jobs("ablations")}
SMALL = mnist.jobs("quick")[0]


@pytest.mark.parametrize("variant", CHANGES)
def test_every_ablation_changes_one_thing_and_runs(variant, monkeypatch):
    base, changed = asdict(CHANGES[""]), asdict(CHANGES[variant])
    differs = {key: value for key, value in changed.items() if value != base[key]}
    assert len(differs) <= (4 if variant == "rmsprop" else 2), differs
    # The same change, of the quick job.
    del changed["data"]
    kept = ("updates", "every", "annealing_updates", "latent_dim", "widths", "importance_samples")
    job = replace(mnist.Settings(**changed), **{key: getattr(SMALL, key) for key in kept})
    job = replace(job, length=2, updates=20, every=10, data=differs.get("data", "digits"))
    grey = split_digits()[0]
    monkeypatch.setattr(mnist, "mnist", lambda: (Splits(*(16 * part for part in grey)), None))
    result = mnist.run(job, progress=False)
    assert result["history"]["step"] == [10, 20]
    assert all(map(math.isfinite, result["negative_bound"]))


def test_grey_images_are_drawn_anew_and_fixed_ones_stay():
    grey = torch.full((1000, 3), 64, dtype=torch.uint8)
    first, second = (mnist.black_and_white(grey, seeded(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert first.mean() == pytest.approx(64 / 255, abs=5 * (64 / 255 / 3000) ** 0.5)
    assert mnist.black_and_white(first) is first


def test_the_unconstrained_layer_is_no_bijection():
    """Its log-determinant is autograd's all the same."""
    job = replace(mnist.jobs("book")[0], length=3, constrained=False, latent_dim=2, widths=(4,))
    flow = mnist.make_flow(job, seeded())
    units = torch.randn(1, 4, generator=seeded(1))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.normal_(std=2.0, generator=seeded(2))
    transform = flow.transform(units)
    z = torch.randn(20, 2, generator=seeded(3))
    _, ladj = transform.call_and_ladj(z)
    jacobians = torch.stack(
        [torch.autograd.functional.jacobian(lambda p: transform(p)[0], point) for point in z]
    )
    expected = torch.linalg.slogdet(jacobians)
    torch.testing.assert_close(ladj, expected.logabsdet, rtol=1e-3, atol=1e-3)
