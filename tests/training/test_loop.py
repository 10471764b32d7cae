"""The training loop: what it minimises, keeps, stops at, and says."""

import math
import os
import signal
import threading

import pytest
import torch
from draws import rand, seeded
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from nfbook.data.minibatches import Minibatches
from nfbook.flows import FAMILIES
from nfbook.networks import Feedforward
from nfbook.sampling import draw_and_log_prob
from nfbook.training import (
    Checkpoints,
    Interrupted,
    MaximumLikelihood,
    NegativeELBO,
    NegativeImportanceBound,
    ReverseKL,
    Trainer,
    TrainingError,
    exponential_average,
    linear_annealing,
)
from nfbook.vae import VAE, BernoulliDecoder


def squares(model, x, step=0, generator=None):
    return (model(x) - 1).square().mean()


def noisy_squares(model, x, step, generator):
    return squares(model, x + torch.randn(x.shape, generator=generator))


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def points(n: int = 20) -> torch.Tensor:
    return rand(n, 3).float()


def trainer_of(model, loss=squares, *, rate=0.1, **named) -> Trainer:
    optimiser = torch.optim.SGD(model.parameters(), rate)
    return Trainer(model, loss, Minibatches(points(), size=5), optimiser, **named)


def small_vae(flow=None, **named) -> VAE:
    encoder = Feedforward(6, (8,), generator=seeded())
    return VAE(encoder, BernoulliDecoder(Feedforward(2, (8,), 6, generator=seeded(1))), flow)


def validation(values):
    """Return a function that gives one value after the other."""
    values = iter(values)
    return lambda model: {"validation": next(values)}


# ---- a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_loop_is_the_one_that_everybody_writes(clip):
    model, data = linear(), Minibatches(points(), size=5)
    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    schedule = CosineAnnealingLR(optimiser, 10)
    generator = torch.Generator().manual_seed(7)
    for step in range(10):
        loss = noisy_squares(model, next(data), step, generator)
        optimiser.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()
        schedule.step()

    other = linear()
    optimiser = torch.optim.Adam(other.parameters(), 0.1)
    schedule = CosineAnnealingLR(optimiser, 10)
    data = Minibatches(points(), size=5)
    trainer = Trainer(other, noisy_squares, data, optimiser, schedule=schedule, clip=clip, seed=7)
    trainer.fit(10, progress=False)
    assert torch.equal(model.weight, other.weight)


def test_what_else_the_program_draws_changes_nothing_nor_is_changed():
    def dropped(draws: int):
        model = nn.Sequential(nn.Dropout(), linear())
        torch.manual_seed(draws)
        expected = torch.rand(3)
        torch.manual_seed(draws)
        trainer = trainer_of(model)
        trainer.fit(3, progress=False)
        trainer.fit(6, progress=False)
        assert torch.equal(torch.rand(3), expected)
        return model[1].weight

    assert torch.equal(dropped(1), dropped(2))


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"cnf", "householder"}))
def test_every_family_is_trained_by_maximum_likelihood_and_by_reverse_kl(name):
    x = rand(50, 2) + 2
    for loss, data, steps in (
        (MaximumLikelihood(), Minibatches(x, size=50), 4),
        (ReverseKL(lambda z: -(z - 2).square().sum(-1) / 2, samples=200), None, 15),
    ):
        flow = FAMILIES[name](2, generator=seeded()).double()
        before = loss(flow, x, 0, seeded(1)).item()
        # Attention diverges at the rate at which all others may be trained.
        rate = 0.003 if name == "transformer" else 0.03
        optimiser = torch.optim.Adam(flow.parameters(), rate)
        average = exponential_average(flow)  # it copies the flow
        Trainer(flow, loss, data, optimiser, average=average).fit(steps, progress=False)
        assert loss(flow, x, 0, seeded(1)) < before


def test_a_vae_is_trained():
    """The one latent bit is found: without it an image costs 6 log 2 = 4.16 nats, not log 2."""
    x = (rand(60, 1) > 0).float().expand(60, 6)
    vae = small_vae()
    optimiser = torch.optim.Adam(vae.parameters(), 0.05)
    loss = NegativeELBO(linear_annealing(0.01, 20), warm_up=linear_annealing(0, 100))
    Trainer(vae, loss, Minibatches(x, size=30), optimiser).fit(150, progress=False)
    assert NegativeELBO()(vae, x) < 3.2


# ---- what is minimised ---------------------------------------------------------------------------


def parts_of(vae, x, count: int):
    """Return log q, log p(z) and log p(x | z) of draws, by distributions of torch."""
    q = vae.posterior(x)
    z, log_q = draw_and_log_prob(q, (count,), generator=seeded(3))
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    logits = vae.decoder.network(z)
    return log_q, log_prior, Bernoulli(logits=logits).log_prob(x).sum(-1)


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("warm", [0.6, 1.0])
def test_annealing_weighs_the_joint_density_and_warm_up_the_divergence(beta, warm):
    vae, x = small_vae(FAMILIES["planar"](2, 8, 2, ())), (rand(20, 6) > 0).float()
    loss = NegativeELBO(lambda step: beta, warm_up=lambda step: warm, samples=4)
    log_q, log_prior, log_likelihood = parts_of(vae, x, 4)
    expected = warm * (log_q - beta * log_prior) - beta * log_likelihood
    torch.testing.assert_close(loss(vae, x, 0, seeded(3)), expected.mean())
    if warm == 1:
        expected = log_q - beta * (log_prior + log_likelihood)
        torch.testing.assert_close(loss(vae, x, 0, seeded(3)), expected.mean())


def test_the_importance_weighted_bound_is_the_mean_of_the_weights():
    vae, x = small_vae(), (rand(20, 6) > 0).float()
    log_q, log_prior, log_likelihood = parts_of(vae, x, 7)
    bound = (log_prior + log_likelihood - log_q).exp().mean(0).log().mean()
    torch.testing.assert_close(NegativeImportanceBound(7)(vae, x, 0, seeded(3)), -bound)


def test_the_reverse_divergence_of_a_standard_gaussian():
    """Which the flow is at its start; both of its terms are known then."""
    flow, target = FAMILIES["affine"](1).double(), Normal(1.0, 2.0)
    loss = ReverseKL(lambda z: target.log_prob(z).sum(-1), 200_000, lambda step: step / 4)
    surprise = math.log(2) + math.log(2 * math.pi) / 2 + (1 + 1**2) / (2 * 2**2)
    for step in (1, 4):
        expected = step / 4 * surprise - Normal(0.0, 1.0).entropy().item()
        assert loss(flow, None, step, seeded(3)).item() == pytest.approx(expected, abs=0.01)


def test_maximum_likelihood_of_points_with_a_context():
    flow, x, context = FAMILIES["maf"](2, 3).double(), rand(20, 2), rand(20, 3, seed=1)
    loss = MaximumLikelihood()
    for batch in ((x, context), (x + 1, -context)):
        expected = -sum(flow(c).log_prob(p) for p, c in zip(*batch, strict=True)) / 20
        torch.testing.assert_close(loss(flow, batch), expected)


# ---- looks -------------------------------------------------------------------------------------


def test_the_history_has_mean_losses_and_the_best_is_loaded():
    model = linear()
    losses = []

    def noted(*arguments):
        losses.append(squares(*arguments))
        return losses[-1]

    trainer = trainer_of(model, noted)
    kept = []

    def validate(shown):
        assert not shown.training
        assert not torch.is_grad_enabled()
        kept.append(shown.weight.clone())
        return {"validation": [3.0, 1.0, 2.0][len(kept) - 1], "other": 5.0}

    history = trainer.fit(7, every=3, validate=validate, progress=False)
    assert model.training
    assert history["step"] == [3, 6, 7]
    assert history["other"] == [5.0] * 3
    values = [loss.item() for loss in losses]
    assert history["loss"] == pytest.approx(
        [sum(values[:3]) / 3, sum(values[3:6]) / 3, values[6]], rel=1e-6
    )
    assert trainer.load_best() == 6
    assert torch.equal(model.weight, kept[1])
    with pytest.raises(ValueError, match="there was no validation"):
        trainer_of(model).load_best()


def test_a_model_is_told_when_its_training_goes_on():
    class Merging(nn.Linear):
        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    model, seen = Merging(3, 2), []

    def validate(shown):
        seen.append(shown.merged)
        return {"validation": 1.0}

    trainer_of(model).fit(1, validate=validate, progress=False)
    assert seen == [True]
    assert not model.merged


def test_a_part_that_is_frozen_stays_so_when_the_model_is_validated():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2))
    model[1].eval()
    modes = []

    def validate(shown):
        modes.append([part.training for part in shown.modules()])
        return {"validation": 1.0}

    trainer_of(model).fit(2, every=1, validate=validate, progress=False)
    assert modes == [[False] * 4] * 2
    assert [part.training for part in model] == [True, False, True]
    assert model.training


def test_a_validation_that_fails_leaves_the_model_in_training():
    def validate(shown):
        raise ZeroDivisionError

    model = linear()
    with pytest.raises(ZeroDivisionError):
        trainer_of(model).fit(1, validate=validate, progress=False)
    assert model.training


def test_patience():
    trainer = trainer_of(linear())
    scores = [5.0, 4.0, 4.5, 4.0, 3.0, 3.5, 3.5, 9.0]
    history = trainer.fit(100, every=1, validate=validation(scores), patience=3, progress=False)
    assert history["validation"] == scores
    # What was over stays over.
    assert trainer.fit(100, every=1, validate=validation([]), patience=3, progress=False) is history
    with pytest.raises(TypeError, match="validate must be"):
        trainer.fit(100, patience=3)
    with pytest.raises(ValueError, match="patience"):
        trainer.fit(100, validate=validation([]), patience=0)
    with pytest.raises(ValueError, match="named 'validation' for patience, got accuracy"):
        trainer_of(linear()).fit(2, every=1, validate=lambda m: {"accuracy": 1.0}, patience=1)


def test_a_plateau_lowers_the_rate():
    model = linear()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    schedule = ReduceLROnPlateau(optimiser, patience=1, factor=0.5)
    trainer = Trainer(
        model, squares, Minibatches(points(), size=5), optimiser, schedule=schedule
    )  # fmt: skip
    trainer.fit(4, every=1, validate=validation([2.0, 3.0, 3.0, 3.0]), progress=False)
    assert optimiser.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("kind", ["exponential", "plain"])
def test_the_average_of_the_weights_is_what_is_validated(kind):
    model = linear()
    average = exponential_average(model, 0.75) if kind == "exponential" else AveragedModel(model)
    trainer = trainer_of(model, average=average)
    weights, shown = [], []
    update = trainer.update

    def noted():
        value = update()
        weights.append(model.weight.detach().clone())
        return value

    trainer.update = noted

    def validate(model):
        shown.append(model.weight.clone())
        return {"validation": 1.0}

    trainer.fit(6, every=6, validate=validate, progress=False)
    expected = weights[0]
    for count, weight in enumerate(weights[1:], 2):
        share = 0.25 if kind == "exponential" else 1 / count
        expected = expected + share * (weight - expected)
    torch.testing.assert_close(shown[0], expected)
    trainer.load_best()
    assert torch.equal(model.weight, shown[0])


def test_an_averaged_run_goes_on_to_the_same_end(tmp_path):
    def run(folder, *stops):
        for stop in stops:
            model = nn.Sequential(nn.Dropout(), linear())
            trainer = trainer_of(model, noisy_squares, average=exponential_average(model, 0.9))
            trainer.fit(stop, checkpoints=Checkpoints(folder), progress=False)
        return trainer.average.module[1].weight

    assert torch.equal(run(tmp_path / "whole", 9), run(tmp_path / "parts", 2, 5, 9))


def test_the_history_is_drawn():
    import matplotlib.pyplot as plt

    trainer = trainer_of(linear())
    history = trainer.fit(3, every=1, validate=validation([3.0, 1.0, 2.0]), progress=False)
    figure, ax = plt.subplots()
    assert history.plot(ax, unit="squares") is ax
    assert ax.get_ylabel() == "squares"
    loss, scores, best = ax.lines
    assert loss.get_ydata().tolist() == history["loss"]
    assert scores.get_xydata().tolist() == [[1, 3], [2, 1], [3, 2]]
    assert best.get_xydata().tolist() == [[2, 1]]
    plt.close(figure)
    history.rows[0]["validation"] = float("nan")
    assert history.plot().lines[-1].get_xydata().tolist() == [[2, 1]]
    for row in history.rows:
        row["validation"] = float("nan")
    assert len(history.plot().lines) == 2
    plt.close("all")
    with pytest.raises(TypeError, match="ax must be matplotlib Axes"):
        history.plot("figure")
    with pytest.raises(KeyError, match=r"column must be one of step, loss, .* got 'los'"):
        history["los"]
    with pytest.raises(KeyError, match="one of none, before the first row, got 'loss'"):
        type(history)()["loss"]
    with pytest.raises(TypeError, match="unit must be a str"):
        history.plot(ax, unit=2)
    with pytest.raises(ValueError, match="got none"):
        type(history)().plot()


# ---- what is not finite ------------------------------------------------------------------------


class Explosive(nn.Module):
    """Adds what is not finite, forward or backward, from a step on."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls = where, 0

    def forward(self, x):
        self.calls += 1
        if self.calls <= 3:
            return x
        if self.where == "forward":
            return x / 0
        # The root of zero, whose slope is infinite.
        return x + (x.detach() - x).abs().sqrt()


def stopped(model, loss=squares, steps=10, **named) -> tuple[TrainingError, Trainer, list]:
    trainer = trainer_of(model, loss, **named)
    before = None
    update = trainer.update

    def noted():
        nonlocal before
        before = [p.detach().clone() for p in model.parameters()]
        return update()

    trainer.update = noted
    with pytest.raises(TrainingError) as caught:
        trainer.fit(steps, progress=False)
    assert all(map(torch.equal, before, model.parameters())), "the step is not made"
    return caught.value, trainer, before


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("forward", r"the loss is (inf|nan) at step 3: .* output of module 1, a Explosive"),
        ("backward", r"gradient is not finite at step 3: .* by the output of module 0, a Linear"),
    ],
)
def test_the_first_module_is_named(where, message, clip):
    model = nn.Sequential(linear(), Explosive(where), nn.Linear(2, 1))
    error, trainer, _ = stopped(model, clip=clip)
    with pytest.raises(TrainingError, match=message):
        raise error
    assert error.step == trainer.step == 3
    assert error.module == ("1" if where == "forward" else "0")
    data = Minibatches(points(), size=5)
    for _ in range(4):
        next(data)
    assert torch.equal(error.rows, data.rows)
    assert f"holds the rows {data.rows.tolist()} of the data" in str(error)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_noise_is_drawn_again():
    """A loss that is infinite for one draw only is found again."""

    class Rare(nn.Module):
        def forward(self, x):
            return x / (x > -2.7)

    model = nn.Sequential(Rare(), nn.Dropout(0.1), linear())
    with torch.no_grad():
        model[2].weight.zero_()
    error, *_ = stopped(model, lambda m, x, s, g: squares(m, torch.randn(5, 3, generator=g)), 1000)
    assert error.module == "0"


def test_a_batch_that_is_not_finite_is_named():
    model = linear()
    x = points()
    x[7, 1] = torch.nan
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, squares, Minibatches(x, size=20), optimiser)
    with pytest.raises(TrainingError, match="the batch itself is not finite, in its places") as e:
        trainer.update()
    place = e.value.rows.tolist().index(7)
    assert f"in its places {place};" in str(e.value)


def test_a_parameter_that_is_not_finite_is_named():
    model = linear()
    with torch.no_grad():
        model.bias[0] = torch.inf
    error, *_ = stopped(nn.Sequential(model))
    assert "the parameter 0.bias is not finite before the step" in str(error)
    assert error.module == "0"


def test_a_loss_that_alone_is_at_fault():
    error, *_ = stopped(linear(), lambda model, x, step, generator: model(x).sum() * torch.nan)
    assert "the outputs of all modules are finite" in str(error)
    assert error.module is None


def test_a_part_of_a_vae_is_named():
    vae = small_vae(FAMILIES["planar"](2, context=8, length=2, hidden_features=()))
    x = (rand(20, 6) > 0).float()
    optimiser = torch.optim.SGD(vae.parameters(), 0.1)
    trainer = Trainer(vae, NegativeELBO(), Minibatches(x, size=5), optimiser)
    handle = vae.decoder.network.register_forward_hook(lambda module, args, out: out * torch.nan)
    with pytest.raises(TrainingError, match=r"output of module decoder.network") as error:
        trainer.update()
    handle.remove()
    assert error.value.module.startswith("decoder.network")


# ---- being stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_step_with_a_checkpoint(tmp_path, number):
    def struck(model, x, step, generator):
        if step == 3:
            os.kill(os.getpid(), number)
        return noisy_squares(model, x, step, generator)

    handlers = signal.getsignal(number)
    model = linear()
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        trainer_of(model, struck).fit(9, checkpoints=Checkpoints(tmp_path), progress=False)
    assert signal.getsignal(number) is handlers
    assert Checkpoints(tmp_path).steps() == [4]
    one, other = linear(), linear()
    trainer_of(one, noisy_squares).fit(9, checkpoints=Checkpoints(tmp_path), progress=False)
    trainer_of(other, noisy_squares).fit(9, progress=False)
    assert torch.equal(one.weight, other.weight)


def test_a_signal_while_a_checkpoint_is_read_or_after_the_last_step_is_not_lost(tmp_path):
    """Within libraries that read, a KeyboardInterrupt comes out as some other error."""
    latest = Checkpoints.latest

    def struck(checkpoints):
        os.kill(os.getpid(), signal.SIGINT)
        return latest(checkpoints)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "latest", struck)
        for steps, after in ((3, 1), (1, 1)):
            with pytest.raises(Interrupted, match=f"stopped after step {after} of {steps}"):
                trainer_of(linear()).fit(
                    steps, checkpoints=Checkpoints(tmp_path), progress=False
                )  # fmt: skip
    assert Checkpoints(tmp_path).steps() == [1]


def test_the_second_ctrl_c_stops_at_once(tmp_path):
    def struck(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    with pytest.raises(KeyboardInterrupt) as caught:
        trainer_of(linear(), struck).fit(9, checkpoints=Checkpoints(tmp_path), progress=False)
    assert not isinstance(caught.value, Interrupted)


def test_it_runs_in_a_thread_too():
    done = []
    thread = threading.Thread(
        target=lambda: done.append(trainer_of(linear()).fit(2, progress=False))
    )
    thread.start()
    thread.join()
    assert len(done[0]) == 1


# ---- where and how -----------------------------------------------------------------------------


def test_auto_finds_a_device_and_bfloat16_is_near():
    model, other = linear(), linear()
    trainer = trainer_of(model, device="auto", autocast=torch.bfloat16)
    exact = trainer_of(other)
    assert next(model.parameters()).device.type in ("cpu", "cuda", "mps")
    dtypes = []
    model.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    trainer.fit(5, progress=False)
    exact.fit(5, progress=False)
    assert set(dtypes) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32
    torch.testing.assert_close(model.weight.cpu(), other.weight, atol=0.02, rtol=0)


def test_the_bound_in_bfloat16_keeps_its_digits():
    """Sums over pixels are made in single precision."""
    x = (rand(200, 6) > 0).float()
    vae = small_vae()
    exact = NegativeELBO()(vae, x, generator=seeded(2)).item()
    with torch.autocast("cpu", torch.bfloat16):
        half = NegativeELBO()(vae, x, generator=seeded(2))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact, rel=2e-3)


def test_compiled_is_the_same(monkeypatch):
    from functools import partial

    # Without a compiler of C++, and with all else that torch.compile does.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    one, other = linear(), linear()
    trainer_of(one, compiled=True).fit(4, progress=False)
    trainer_of(other).fit(4, progress=False)
    torch.testing.assert_close(one.weight, other.weight)
    state = trainer_of(one, compiled=True).state_dict()
    assert list(state["model"]) == ["weight", "bias"]


def test_compiled_draws_follow_from_the_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", lambda module: module)

    def drawing(model, x, step, generator):
        assert generator is None, "torch.compile knows no generators"
        return squares(model, x + torch.randn(x.shape))

    def run(folder, *stops):
        for stop in stops:
            torch.manual_seed(stop)
            model = linear()
            trainer_of(model, drawing, compiled=True).fit(
                stop, checkpoints=Checkpoints(folder), progress=False
            )
        return model.weight

    assert torch.equal(run(tmp_path / "whole", 6), run(tmp_path / "parts", 2, 6))


# ---- bad arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"clip": 0.0}, ValueError, "clip must be above 0"),
        ({"seed": -1}, ValueError, "seed"),
        ({"schedule": 0.1}, TypeError, "schedule must be a schedule of torch or None"),
        ({"average": 0.9}, TypeError, "average must be an AveragedModel or None"),
        ({"autocast": "bf16"}, ValueError, r"autocast must be torch\.bfloat16 or None, got 'bf16'"),
        ({"autocast": torch.float16}, ValueError, r"bfloat16 or None, got torch\.float16"),
        ({"fabric": 2}, TypeError, r"fabric\.launch must be a function"),
        ({"device": 7}, TypeError, "device must be"),
    ],
)
def test_bad_arguments(named, error, message):
    with pytest.raises(error, match=message):
        trainer_of(linear(), **named)


def test_the_optimiser_of_another_model_is_refused():
    optimiser = torch.optim.SGD(linear().parameters(), 0.1)
    with pytest.raises(ValueError, match=r"optimiser must be made for .* Linear, got one that"):
        Trainer(linear(), squares, Minibatches(points(), size=5), optimiser)


def test_the_schedule_of_another_optimiser_is_refused():
    """It would lower a rate that nobody uses."""
    model = linear()
    mine, other = (torch.optim.SGD(model.parameters(), 0.1) for _ in range(2))
    data = Minibatches(points(), size=5)
    for make in (lambda o: CosineAnnealingLR(o, 10), ReduceLROnPlateau):
        with pytest.raises(ValueError, match="schedule must be made for the optimiser"):
            Trainer(model, squares, data, mine, schedule=make(other))
        Trainer(model, squares, data, mine, schedule=make(mine))


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            lambda model, x, s, g: 1.0,
            TypeError,
            r"loss returns must be a torch\.Tensor, got f",
        ),
        (lambda model, x, s, g: model(x), ValueError, r"without dimensions, got shape \(5, 2\)"),
        (lambda model, x, s, g: x.sum(), ValueError, "must depend on a parameter that is trained"),
    ],
)
def test_a_loss_that_cannot_be_minimised(loss, error, message):
    with pytest.raises(error, match=message):
        trainer_of(linear(), loss).fit(1, progress=False)


def test_data_must_be_batches_without_end():
    model = linear()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"data\.__next__"):
        Trainer(model, squares, [points()], optimiser)
    trainer = Trainer(model, squares, iter([points()] * 2), optimiser)
    with pytest.raises(ValueError, match="batches without end, got no more after step 2"):
        trainer.fit(3, progress=False)
    with pytest.raises(ValueError, match=r"size must be at most the number of observations, 20"):
        Minibatches(points(), size=21)


def test_annealing_starts_where_it_is_told():
    assert linear_annealing(0, 10)(0) == 0
    assert linear_annealing(1, 10)(0) == 1
    with pytest.raises(ValueError, match="start must lie between 0 and 1"):
        linear_annealing(1.5)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"progress": "no"}, "progress must be True or False, got str"),
        ({"validate": 3}, "validate must be a function, got int"),
        ({"checkpoints": "runs"}, "checkpoints must be Checkpoints or None, got str"),
        ({"validate": lambda model: 3.0}, "what validate returns must be a dict of numbers"),
        (
            {"validate": lambda model: {"validation": torch.ones(())}},
            "the 'validation' of what validate returns must be a number, got Tensor",
        ),
        ({"validate": lambda model: {1: 2.0}}, "every name of what validate returns must be a str"),
    ],
)
def test_bad_arguments_of_fit(named, message):
    with pytest.raises(TypeError, match=message):
        trainer_of(linear()).fit(1, **{"progress": False} | named)


@pytest.mark.parametrize("name", ["step", "loss", "seconds"])
def test_a_validation_does_not_take_the_place_of_the_loops_own_columns(name):
    with pytest.raises(ValueError, match=f"validate must not name a number '{name}'"):
        trainer_of(linear()).fit(1, validate=lambda model: {name: 1.0}, progress=False)


def test_a_long_history_does_not_slow_the_steps():
    class Rows(list):
        looked_at = 0

        def __iter__(self):
            Rows.looked_at += len(self)
            return super().__iter__()

        def __reversed__(self):
            for row in super().__reversed__():
                Rows.looked_at += 1
                yield row

    for patience in (None, 5):
        trainer = trainer_of(linear())
        trainer.history.rows = Rows({"step": -1} for _ in range(1000))
        scores = [1.0, *[2.0] * 4] * 2
        trainer.fit(5, every=1, validate=validation(scores), patience=patience, progress=False)
        assert Rows.looked_at <= 5 * 6


def test_data_that_cannot_say_where_they_stand_are_refused_before_the_first_step(tmp_path):
    model = linear()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, squares, iter([points()] * 9), optimiser)
    with pytest.raises(TypeError, match=r"data\.state_dict must be a function, got NoneType"):
        trainer.fit(3, checkpoints=Checkpoints(tmp_path), progress=False)
    assert trainer.step == 0
    assert len(trainer.fit(3, progress=False)) == 1


def test_a_validation_that_is_not_a_number_is_never_the_best():
    trainer = trainer_of(linear())
    scores = [float("nan"), 2.0, float("nan"), 3.0]
    trainer.fit(4, every=1, validate=validation(scores), progress=False)
    assert trainer.load_best() == 2
    other = trainer_of(linear())
    history = other.fit(
        9, every=1, validate=validation([float("nan")] * 9), patience=3, progress=False
    )
    assert len(history) == 3


def test_a_handler_that_python_did_not_set_stays_no_trouble(monkeypatch):
    set_handler = signal.signal
    monkeypatch.setattr(signal, "signal", lambda number, new: (set_handler(number, new), None)[1])
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer_of(linear()).fit(1, progress=False)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in usual.items():
            set_handler(number, handler)
