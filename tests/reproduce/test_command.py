"""The experiments as commands: the same path as the long runs, in seconds."""

import dataclasses
import importlib
import itertools
import json
import math
import re
import signal
from dataclasses import asdict, replace

import pytest
import torch
from draws import seeded

from nfbook.data import Splits, split_digits
from nfbook.data.files import DamagedFileError
from nfbook.flows import (
    IAF,
    NICE,
    HouseholderSylvesterFlow,
    OrthogonalSylvesterFlow,
    PlanarFlow,
)
from nfbook.networks import Dense, Feedforward, Gated, Maxout
from nfbook.reproduce import cifar10, command, energies, mnist, posteriors
from nfbook.reproduce.evaluation import evaluate
from nfbook.training import Checkpoints, TrainingError
from nfbook.training.checkpoints import load_state
from nfbook.transforms import DataUnits
from nfbook.vae import VAE, BernoulliDecoder, LogitNormalDecoder


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


@pytest.mark.parametrize("experiment", ["cifar10", "energies", "posteriors", "tables"])
def test_the_other_experiments_take_the_same_path(tmp_path, folders, experiment):
    quick = [experiment, "--quick", "--no-progress", *folders]
    assert command.main(quick) == 0
    # A result's file is named for its job, in lower case.
    for job in importlib.import_module(f"nfbook.reproduce.{experiment}").jobs("quick"):
        assert (tmp_path / "results" / experiment / f"quick_{job.name.lower()}.json").exists()
    assert command.main([*quick, "--merge"]) == 0
    for run in stored(tmp_path, experiment)["result"]["runs"]:
        assert run["settings"]["protocol"] == "quick"
        history = run["result"].get("history")  # EM leaves none
        assert not history or history["step"][-1] == run["settings"]["updates"]


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


@pytest.fixture
def toy(monkeypatch):
    """An experiment that takes no time: what a job does is a list's only entry."""
    does = [lambda job, checkpoints: checkpoints.save(1, {"step": 1})]

    def run(job, *, checkpoints, progress):
        does[0](job, checkpoints)
        return {"bound": 1.0}

    monkeypatch.setattr(mnist, "run", run)
    return does


def fails(error):
    def run(job, checkpoints):
        raise error

    return run


ONE = ["mnist", "--only", "planar_0_seed_0"]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch, folders, toy, capsys):
    assert command.main([*ONE, *folders]) == 0
    (tmp_path / "results" / "mnist" / "book_planar_0_seed_0.json").unlink()
    jobs = [dataclasses.replace(job, learning_rate=0.5) for job in mnist.jobs("book")]
    monkeypatch.setattr(mnist, "jobs", lambda protocol: jobs)
    assert command.main([*ONE, *folders]) == 1
    message = capsys.readouterr().err
    assert "book_planar_0_seed_0 holds checkpoints of other settings" in message
    assert "learning_rate is 0.001 there and 0.5 here" in message


def test_a_setting_that_came_later_had_its_default(tmp_path, folders, toy, capsys):
    assert command.main([*ONE, *folders]) == 0
    path = tmp_path / "results" / "mnist" / "book_planar_0_seed_0.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["settings"]["decay"]
    path.write_text(json.dumps(old), encoding="utf-8")
    assert command.main([*ONE, *folders]) == 0
    assert "done already" in capsys.readouterr().out
    del old["settings"]["seed"]  # which has none
    path.write_text(json.dumps(old), encoding="utf-8")
    assert command.main([*ONE, *folders]) == 1
    assert "seed is None there and 0 here" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[1]", '{"settings": 3}', "\xff"])
def test_a_file_that_is_no_result_is_named(tmp_path, folders, toy, capsys, content):
    path = tmp_path / "results" / "mnist" / "book_planar_0_seed_0.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    for arguments in (ONE, ["mnist", "--merge"]):
        assert command.main([*arguments, *folders]) == 1
        assert f"{path} is not a result of an experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last"),
        (TrainingError("the loss is nan at step 7"), 1, "nfbook-reproduce: the loss is nan"),
        (DamagedFileError("x.gz is damaged"), 1, "nfbook-reproduce: x.gz is damaged"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied: '/x'"),
        (ImportError("Pillow is not installed"), 1, "nfbook-reproduce: Pillow is not installed"),
        (FileNotFoundError("Call again with download=True to get it"), 1, "again with --download"),
    ],
)
def test_what_stops_a_job_is_said_in_a_line(folders, toy, capsys, error, status, message):
    toy[0] = fails(error)
    assert command.main([*ONE, *folders]) == status
    assert message in capsys.readouterr().err


def test_data_are_downloaded_where_asked_for(folders, toy, monkeypatch):
    asked = []
    monkeypatch.setattr(mnist, "DATA", lambda **named: asked.append(named))
    assert command.main([*ONE, *folders]) == 0
    assert asked == []
    assert command.main([*ONE, *folders, "--download", "--no-progress"]) == 0
    assert asked == [{"download": True, "progress": False}]
    assert command.main(["energies", "--quick", "--list", "--download"]) == 0


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


def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, folders, capsys):
    """A real Ctrl-C, as soon as there is a checkpoint."""
    long = [dataclasses.replace(mnist.jobs("quick")[0], updates=10**6)]
    monkeypatch.setattr(mnist, "jobs", lambda protocol: long)

    def save_and_interrupt(self, step, state, save=Checkpoints.save):
        save(self, step, state)
        if step == 30:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "save", save_and_interrupt)
    assert command.main(["mnist", "--quick", "--no-progress", *folders]) == 130
    errors = capsys.readouterr().err
    assert "stopped after step 31 of 1000000; the same command goes on from there" in errors
    assert Checkpoints(tmp_path / "runs" / "mnist" / "quick_planar_2_seed_0").steps() == [30, 31]
    assert not (tmp_path / "results" / "mnist" / "quick_planar_2_seed_0.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "fast"], "--protocol must be one of book, paper"),
        (["--only", "planar_3_seed_0"], "--only must name jobs of"),
        (["--task", "4/3"], "--task must be I/N with I from 1 to N, got '4/3'"),
        (["--merge", "--task", "1/2"], "--merge joins the results of all jobs"),
        (["--merge", "--only", "planar_0_seed_0"], "not with --protocol, --only or --task"),
        (["--merge", "--protocol", "paper"], "--merge joins the results of all jobs"),
        (["--task", "half"], "--task must be I/N with I from 1 to N, got 'half'"),
    ],
)
def test_wrong_arguments(arguments, message, folders, capsys):
    assert command.main(["mnist", *arguments, *folders]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("both", [["--quick", "--protocol", "paper"], ["--list", "--merge"]])
def test_arguments_that_exclude_each_other(both, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["mnist", *both])
    assert error.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_jobs_may_be_named_one_by_one(capsys):
    names = ["planar_80_seed_1", "nice_10_seed_2"]
    assert command.main(["mnist", "--list", *(f"--only={name}" for name in names)]) == 0
    assert capsys.readouterr().out.split() == names


@pytest.mark.parametrize("content", ["", "[1]", "3", "\xff"])
def test_settings_that_cannot_be_read_are_named(tmp_path, folders, toy, capsys, content):
    path = tmp_path / "runs" / "mnist" / "book_planar_0_seed_0" / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    assert command.main([*ONE, *folders]) == 1
    assert f"{path} does not hold the settings of the checkpoints" in capsys.readouterr().err


def test_without_an_argument_it_says_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nfbook-reproduce"])
    with pytest.raises(SystemExit) as error:
        command.main()
    assert error.value.code == 0
    output = capsys.readouterr().out
    assert all(name in output and what in output for name, what in command.EXPERIMENTS.items())


def test_an_unknown_experiment_names_those_there_are(capsys):
    with pytest.raises(SystemExit) as error:
        command.main(["imagenet"])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name in command.EXPERIMENTS)


def test_threads_are_at_least_one(capsys):
    for wrong in ("0", "-1", "two"):
        with pytest.raises(SystemExit):
            command.main(["mnist", f"--threads={wrong}"])
        assert f"must be a whole number from 1, got '{wrong}'" in capsys.readouterr().err


def test_nothing_to_merge(folders, capsys):
    assert command.main(["mnist", "--merge", *folders]) == 1
    assert "there are no results" in capsys.readouterr().err


def test_the_book_and_the_paper_train_the_same_models():
    book = {(job.family, job.length) for job in mnist.jobs("book")}
    assert book == {("planar", k) for k in (0, 10, 20, 40, 80)} | {
        ("nice", k) for k in (10, 20, 40, 80)
    }
    # Two at one rate for all parameters, three with maxout units.
    assert len(mnist.jobs("book")) == 27 + 2 + 3
    for job in mnist.jobs("paper"):
        assert (job.optimiser, job.learning_rate, job.updates) == ("RMSprop", 1e-5, 500_000)
        assert (job.latent_dim, job.batch, job.widths) == (40, 100, (400, 400))
        assert job.annealing_updates / job.updates == 2_000 / 100_000
    assert {job.annealing_updates for job in mnist.jobs("book")} == {2_000}


def test_the_patches_have_the_models_of_table_3_and_three_seeds():
    assert {(job.length, job.seed) for job in cifar10.jobs("book")} == set(
        itertools.product((0, 2, 5, 10), (0, 1, 2))
    )
    units = DataUnits(torch.zeros(3 * 8 * 8), torch.zeros(3 * 8 * 8))
    for job in cifar10.jobs("book")[:4]:
        model = cifar10.make_model(job, units)
        assert isinstance(model.decoder, LogitNormalDecoder)
        assert (model.latent_dim, model.data_dim) == (30, 192)
        if job.length == 0:
            assert model.flow is None
        else:
            assert isinstance(model.flow, PlanarFlow)
            assert (model.flow.length, model.flow.context) == (job.length, 400)


def test_the_moderns_have_better_flows_layers_averages_and_gradients():
    moderns = mnist.jobs("modern")
    flows = {"sylvester-orthogonal", "sylvester-householder", "iaf"}
    assert {(job.family, job.layer) for job in moderns} == set(
        itertools.product(flows, ("relu", "gated"))
    )
    for job in moderns:
        assert (job.latent_dim, job.updates, job.data) == (40, 100_000, "binarised_mnist")
        assert job.path_gradient
        assert 0.99 < job.averaging < 1


def test_every_name_is_one_job():
    for experiment in (mnist, cifar10, energies, posteriors):
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
    monkeypatch.setattr(mnist, "mnist", lambda: (Splits(*(15 * part for part in grey)), None))
    result = mnist.run(job, progress=False)
    assert result["history"]["step"] == [10, 20]
    assert all(map(math.isfinite, result["negative_bound"]))


def test_grey_images_are_drawn_anew_and_fixed_ones_stay():
    grey = torch.full((1000, 3), 64, dtype=torch.uint8)
    first, second = (mnist.black_and_white(grey, seeded(seed)) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert first.mean() == pytest.approx(64 / 255, abs=5 * (64 / 255 / 3000) ** 0.5)
    assert mnist.black_and_white(first) is first


@pytest.mark.parametrize("experiment", [mnist, posteriors])
def test_a_training_that_breaks_down_is_a_result(experiment):
    jobs = [job for job in experiment.jobs("quick") if job.family == "planar"]
    result = experiment.run(replace(jobs[-1], learning_rate=1e30), progress=False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert re.fullmatch(r"the (loss|gradient) is .* at step \d+", result["failure"])
    assert result["failure"].endswith(f" {result['failed_step']}")
    assert "negative_bound" not in result


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


# ---- what is trained, and what is reported -----------------------------------------------------


def blind_vae() -> VAE:
    """Return a model whose decoder does not look at z, so that its bound is known."""
    decoder = Feedforward(2, (), 5, generator=seeded(10))
    torch.nn.init.zeros_(decoder[-1].weight)
    return VAE(Feedforward(5, (4,), generator=seeded(11)), BernoulliDecoder(decoder))


def test_each_part_of_the_data_has_a_number_of_its_own():
    vae, generator = blind_vae(), seeded(12)
    data = Splits(*(torch.rand(n, 5, generator=generator).round() for n in (12, 6, 8)))
    result = evaluate(vae, data, 3, 0, progress=False)

    def surprise(x):
        logits = vae.decoder.network[-1].bias.expand_as(x)
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return pytest.approx(each.sum(1).mean().item(), rel=1e-5)

    assert result["negative_bound"][0] == surprise(data.test)
    assert result["validation"] == surprise(data.validation)
    assert result["train_negative_bound"] == surprise(data.train[:8])
    assert result["effective_sample_size"] == pytest.approx(3)  # all weights are equal


def test_the_importance_error_is_how_far_another_seed_moves_the_mean():
    vae, generator = blind_vae(), torch.Generator().manual_seed(13)
    with torch.no_grad():
        vae.decoder.network[-1].weight.normal_(generator=generator)
    x = torch.rand(10, 5, generator=generator).round()
    results = [evaluate(vae, Splits(x, x, x), 50, seed, progress=False) for seed in range(40)]
    spread = torch.tensor([result["negative_log_prob"][0] for result in results]).std()
    stated = torch.tensor([result["importance_error"] for result in results]).mean()
    assert 0.6 < stated / spread < 1.6


@pytest.mark.parametrize("experiment", [mnist, cifar10])
def test_what_is_reported_is_the_best_by_the_validation_images(experiment, monkeypatch):
    """With so few images to train on the last parameters are not those."""
    train, validation, test = split_digits()[0]
    few = Splits(train[:5], validation[:50], test[:50])
    monkeypatch.setattr(experiment, "split_digits", lambda: (few, None))
    job = replace(experiment.jobs("quick")[1], batch=5, learning_rate=5e-2, updates=40, every=5)
    result = experiment.run(job, progress=False)
    curve = dict(zip(result["history"]["validation"], result["history"]["step"], strict=True))
    assert result["validation"] == min(curve)
    assert result["best_step"] == curve[min(curve)] < 40


@pytest.mark.parametrize("experiment", [mnist, cifar10, energies, posteriors])
def test_the_step_falls_to_zero_as_half_a_cosine(experiment, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    job = replace(experiment.jobs("quick")[1], updates=6, every=3)
    experiment.run(job, checkpoints=checkpoints, progress=False)
    assert checkpoints.steps() == [3, 6]
    if experiment is energies:
        first = [job.step_size]
    else:
        first = [job.learning_rate, job.learning_rate * job.flow_rate]
    for step in checkpoints.steps():
        groups = load_state(checkpoints.path(step))["optimiser"]["param_groups"]
        share = (1 + math.cos(math.pi * step / job.updates)) / 2
        expected = [share * rate for rate in first]
        assert [group["lr"] for group in groups] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("annealing", "beta", "warm"), [("joint", 0.51, 1), ("warm-up", 1, 0.51), ("none", 1, 1)]
)
def test_a_job_anneals_what_it_names(annealing, beta, warm):
    loss = mnist.loss_of(replace(SMALL, annealing=annealing, annealing_updates=30))
    assert (loss.annealing(15), loss.warm_up(15)) == pytest.approx((beta, warm))


def test_a_job_chooses_its_gradient():
    """The bound is the same, and so is the decoder's gradient; the encoder's is another."""
    model = mnist.make_model(SMALL, 6)
    with torch.no_grad():
        for parameter in model.gaussian.parameters():
            parameter.normal_(generator=seeded(20))
    x = torch.rand(5, 6, generator=seeded(21)).round()
    gradients = []
    for path in (True, False):
        loss = mnist.loss_of(replace(SMALL, path_gradient=path))(model, x, 0, seeded(22))
        parts = (model.encoder.parameters(), model.decoder.parameters())
        first, second = (torch.autograd.grad(loss, list(p), retain_graph=True) for p in parts)
        gradients.append((loss, torch.cat([g.flatten() for g in first]), second))
    (one, encoder, decoder), (other, others_encoder, others_decoder) = gradients
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(decoder, others_decoder)
    assert (encoder - others_encoder).norm() > 1e-3 * encoder.norm()


def test_the_authors_optimiser_has_momentum():
    job = replace(mnist.jobs("paper")[0], widths=(4, 4))
    optimiser = mnist.make_optimiser(job, mnist.make_model(job, 6))
    assert isinstance(optimiser, torch.optim.RMSprop)
    assert {(group["lr"], group["momentum"]) for group in optimiser.param_groups} == {(1e-5, 0.9)}


def test_the_flow_has_the_rate_that_the_job_says():
    job = replace(mnist.jobs("book")[2], widths=(4, 4), flow_rate=0.25)
    model = mnist.make_model(job, 6)
    others, flow = mnist.make_optimiser(job, model).param_groups
    assert (others["lr"], flow["lr"]) == (1e-3, 0.25e-3)
    assert {id(p) for p in flow["params"]} == {id(p) for p in model.flow.parameters()}
    assert len(others["params"]) + len(flow["params"]) == len(list(model.parameters()))
    rates = {(job.length > 0, job.flow_rate) for job in mnist.jobs("book")[:27]}
    assert rates == {(False, 1.0), (True, 0.1)}


def test_a_job_averages_where_it_says_so():
    """An average that forgets so slowly is hardly better than where training starts."""
    quick = replace(SMALL, length=0, learning_rate=1e-2, updates=30)
    plain, averaged = (
        mnist.run(replace(quick, averaging=decay), progress=False)["validation"]
        for decay in (None, 0.999)
    )
    assert averaged > plain + 3


@pytest.mark.parametrize("experiment", [mnist, cifar10])
def test_the_seed_of_a_job_is_that_of_its_parameters(experiment):
    def first(seed):
        job = replace(experiment.jobs("quick")[0], seed=seed)
        sizes = 6 if experiment is mnist else DataUnits.from_data(torch.eye(6))
        return next(experiment.make_model(job, sizes).parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_the_highest_of_17_levels_is_the_last_17th_of_the_range(monkeypatch):
    """There the best density is 17; a Gaussian for the logits comes near."""
    pixels = torch.full((2_000, 4), 16, dtype=torch.uint8)
    data = Splits(*pixels.split([1_000, 500, 500]))
    monkeypatch.setattr(cifar10, "split_digits", lambda: (data, None))
    job = replace(cifar10.jobs("quick")[1], widths=(4, 4), latent_dim=1, learning_rate=5e-2)
    result = cifar10.run(replace(job, updates=100), progress=False)
    bounds = (result["validation"], result["train_negative_bound"], result["negative_bound"][0])
    assert all(-math.log(17) < bound / 4 < -1.7 for bound in bounds)


@pytest.mark.parametrize("experiment", [mnist, cifar10])
def test_the_loss_of_a_run_is_annealed_by_its_steps(experiment):
    r"""At first it is :math:`(1 - \beta) \mathbb{E} \log q + \beta` times the negative bound.

    There q is the standard Gaussian, and :math:`\beta = 0.01`; from the second step on it is 1.
    """
    job = replace(experiment.jobs("quick")[1], updates=2, every=1, annealing_updates=1)
    history = experiment.run(job, progress=False)["history"]
    log_q = -job.latent_dim / 2 * (math.log(2 * math.pi) + 1)
    bound = history["validation"][0]
    assert history["loss"][0] == pytest.approx(0.99 * log_q + 0.01 * bound, abs=1.5)
    assert history["loss"][1] == pytest.approx(bound, rel=0.15)


def test_images_that_are_drawn_anew_are_the_ones_to_train_on(monkeypatch):
    train, validation, test = (
        torch.full((4, 3), grey, dtype=torch.uint8) for grey in (128, 255, 0)
    )
    monkeypatch.setattr(mnist, "mnist", lambda: (Splits(train, validation, test), None))
    data = mnist.load(replace(SMALL, data="mnist"))
    assert torch.equal(data.train, train)
    assert torch.equal(data.validation, torch.ones(4, 3))
    assert torch.equal(data.test, torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("planar", PlanarFlow),
        ("nice", NICE),
        ("iaf", IAF),
        ("sylvester-orthogonal", OrthogonalSylvesterFlow),
        ("sylvester-householder", HouseholderSylvesterFlow),
    ],
)
def test_a_job_has_the_flow_that_it_names(family, kind):
    job = replace(SMALL, family=family)
    flows = [mnist.make_flow(replace(job, length=length)) for length in (0, 2, 4, 6)]
    assert flows[0] is None
    assert {type(flow) for flow in flows[1:]} == {kind}
    assert {(flow.features, flow.context) for flow in flows[1:]} == {(8, 32)}
    two, four, six = (sum(p.numel() for p in flow.parameters()) for flow in flows[1:])
    assert six - four == four - two > 0


@pytest.mark.parametrize(("layer", "kind"), [("relu", Dense), ("maxout", Maxout), ("gated", Gated)])
def test_a_job_has_the_hidden_layers_that_it_names(layer, kind):
    model = mnist.make_model(replace(SMALL, layer=layer), 6)
    assert [type(each) for each in model.encoder] == [kind, kind]
    assert [type(each) for each in model.decoder.network] == [kind, kind, torch.nn.Linear]


def test_the_encoder_of_patches_sees_them_standardised():
    job, x = cifar10.jobs("quick")[0], torch.randn(5, 6, generator=seeded(40))
    units = DataUnits(torch.full((6,), 0.5), torch.full((6,), -1.0))
    plain = DataUnits(torch.zeros(6), torch.zeros(6))
    seen, expected = (cifar10.make_model(job, each).encoder(each(x)) for each in (units, plain))
    torch.testing.assert_close(seen, expected)
