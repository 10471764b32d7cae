"""A model of given data in one line."""

import math

import pytest
import torch
from draws import fixed, rand, seeded

from nfbook.data import digits
from nfbook.flows import FAMILIES, PlanarFlow
from nfbook.training import NegativeELBO
from nfbook.transforms import DataUnits, quantise
from nfbook.vae import (
    VAE,
    BernoulliDecoder,
    GaussianDecoder,
    LogitNormalDecoder,
    Standardised,
    fit_vae,
)

QUICK = {"widths": (32,), "updates": 150, "progress": False, "learning_rate": 5e-3}


def pixels() -> torch.Tensor:
    """Return digits as whole numbers from 0 to 16."""
    return digits()[0][:600].to(torch.uint8)


def entropy_of_independent_pixels(x: torch.Tensor) -> float:
    """Return the code length of binary images that only knows how often each pixel is black."""
    p = x.mean(0).clamp(1e-6, 1 - 1e-6)
    return float(-(p * p.log() + (1 - p) * (1 - p).log()).sum())


def test_binary_images_are_compressed():
    """They are four prototypes with a few pixels flipped, so independent ones would be costly."""
    prototypes = rand(4, 32) > 0
    kinds = torch.randint(4, (400,), generator=seeded(2))
    x = (prototypes[kinds] ^ (rand(400, 32, seed=3) > 2)).float()
    model, history = fit_vae(x, 2, flow="planar", length=2, generator=seeded(1), **QUICK)
    assert isinstance(model.decoder, BernoulliDecoder)
    assert isinstance(model.flow, PlanarFlow)
    assert not model.training
    assert history["step"][-1] == QUICK["updates"]
    assert min(history["validation"]) < 0.9 * entropy_of_independent_pixels(x)
    found = model.log_prob_importance(x[:100], 20, generator=seeded(2), progress=False)
    assert -found.value.mean() < 0.9 * entropy_of_independent_pixels(x)


@pytest.mark.parametrize("flow", [None, *FAMILIES])
def test_every_family_may_be_the_posterior(flow: str | None):
    x = (rand(20, 6) > 0).float()
    model, _ = fit_vae(x, 2, flow=flow, length=2, updates=2, progress=False)
    assert isinstance(model.flow, type(None) if flow is None else FAMILIES[flow])
    assert model.posterior(x).rsample().isfinite().all()


def test_the_best_parameters_are_kept():
    """With so few data and so many updates the last ones are not those."""
    x = (torch.randn(20, 30, generator=fixed()) > 0).double()
    model, history = fit_vae(
        x, 4, updates=100, learning_rate=1e-2, generator=fixed(3), progress=False
    )
    best, last = min(history["validation"]), history["validation"][-1]
    assert last > 1.05 * best
    # The last ones know the rows that they have seen by heart, the best ones far less.
    bound = model.evaluate(x, 20, generator=seeded(4), progress=False).bound.value.mean()
    assert -bound > history["loss"][-1] + 1


def test_whole_numbers_take_a_logit_normal_likelihood_and_new_noise():
    k = pixels()
    model, history = fit_vae(k, 4, levels=17, generator=seeded(5), **QUICK)
    assert isinstance(model.decoder, LogitNormalDecoder)
    # As a density on (0, 1): that of independent and uniform pixels is 0.
    assert min(history["validation"]) < 0
    drawn, _ = model.sample(5, generator=seeded(6))
    assert drawn.min() > -0.01
    assert drawn.max() < 1.01


def test_whole_numbers_get_new_noise_in_each_update(monkeypatch: pytest.MonkeyPatch):
    """And so those to train on are never the same twice; those held back always are."""
    seen: list[torch.Tensor] = []
    whole = VAE.posterior
    monkeypatch.setattr(VAE, "posterior", lambda self, x: seen.append(x) or whole(self, x))
    k = torch.arange(12, dtype=torch.uint8).reshape(6, 2)
    fit_vae(k, 1, levels=12, updates=3, batch=5, validation=0.2, progress=False)
    training = [x for x in seen if len(x) == 5]
    held_back = [x for x in seen if len(x) == 1]
    assert (len(training), len(held_back)) == (3, 3)
    for x in held_back:
        assert torch.equal(x, held_back[0])
    sums = [x.sum().item() for x in training]  # the rows come in another order each time
    assert len(set(sums)) == 3
    pixels = {tuple(quantise(x, 12).flatten().sort().values.tolist()) for x in training}
    assert len(pixels) == 1


def test_the_divergence_gets_its_full_weight_over_the_first_tenth(
    monkeypatch: pytest.MonkeyPatch,
):
    losses = []

    class Remembered(NegativeELBO):
        def __init__(self, *arguments: object, **named: object):
            super().__init__(*arguments, **named)
            losses.append(self)

    monkeypatch.setattr("nfbook.vae.fit.NegativeELBO", Remembered)
    fit_vae(rand(20, 3), 1, updates=50, progress=False)
    (loss,) = losses
    assert [loss.warm_up(step) for step in (0, 5, 50)] == pytest.approx([0.01, 1, 1])
    assert loss.warm_up(4) < 1
    assert loss.annealing(0) == 1


def test_data_that_need_a_gradient_are_data_like_any_other():
    x = rand(20, 3)
    given = x.clone().requires_grad_()
    one, two = (
        fit_vae(each, 1, updates=3, generator=seeded(12), progress=False)[0] for each in (x, given)
    )
    assert given.grad is None
    torch.testing.assert_close(one.state_dict(), two.state_dict())


def test_the_highest_of_17_levels_is_the_last_17th_of_the_range():
    """There the best density is 17; a Gaussian for the logits comes near."""
    k = torch.full((1_000, 4), 16, dtype=torch.uint8)
    _, history = fit_vae(
        k,
        1,
        levels=17,
        widths=(4,),
        updates=100,
        learning_rate=5e-2,
        validation=0.5,
        generator=seeded(10),
        progress=False,
    )
    assert -math.log(17) < history["validation"][-1] / 4 < -1.7


def test_numbers_take_a_gaussian_in_their_own_units():
    """So a change of units by the factor a lowers each log density by D log a."""
    x = (rand(300, 5) @ rand(5, 5, seed=1)) + 3
    unit, bounds = 1000.0, []
    for data in (x, unit * x - 7e4):
        model, history = fit_vae(data, 2, generator=seeded(7), **QUICK)
        assert isinstance(model.decoder, GaussianDecoder)
        assert isinstance(model.encoder, Standardised)
        bounds.append(torch.tensor(history["validation"]))
    shift = torch.full_like(bounds[0], 5 * math.log(unit))
    torch.testing.assert_close(bounds[1] - bounds[0], shift, rtol=1e-4, atol=0)
    deviation = x.std(0)
    independent = 0.5 * math.log(2 * math.pi * math.e) * 5 + deviation.log().sum()
    assert bounds[0].min() < independent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays_and_the_generator_is_the_only_source(dtype: torch.dtype):
    x = (rand(40, 6) > 0).to(dtype)
    before = torch.get_rng_state()
    models = [
        fit_vae(x, 2, flow="planar", updates=20, generator=seeded(8), progress=False)[0]
        for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first, second = (list(model.parameters()) for model in models)
    assert {p.dtype for p in first} == {dtype}
    assert all(map(torch.equal, first, second))
    assert isinstance(models[0].flow, PlanarFlow)


def test_a_batch_is_at_most_all_of_the_data():
    model, _ = fit_vae(rand(3, 2), 1, updates=5, progress=False)
    assert model.latent_means(rand(3, 2)).shape == (3, 1)


@pytest.mark.parametrize(("share", "rows"), [(0.3, 7), (0.01, 9), (0.99, 1)])
def test_so_many_rows_are_trained_on(share: float, rows: int):
    """The units are those of a sum of so many powers of two."""
    x = 2.0 ** torch.arange(10, dtype=torch.float64).unsqueeze(-1)
    model, _ = fit_vae(x, 1, validation=share, updates=1, progress=False)
    total = rows * model.encoder.shift.item()
    assert total == pytest.approx(round(total))
    assert round(total).bit_count() == rows


def test_steps_fall_to_zero():
    _, history = fit_vae(
        rand(60, 6), 2, updates=20, learning_rate=0.1, generator=seeded(11), progress=False
    )
    changes = torch.tensor(history["validation"]).diff().abs()
    assert len(changes) == 19
    assert changes[-1] < 0.15 * changes.median()


def test_the_decoder_has_the_encoders_widths_from_x_back():
    model, _ = fit_vae(
        rand(20, 6), 2, widths=(5, 3), flow="planar", length=3, updates=1, progress=False
    )
    shapes = [
        [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
        for network in (model.encoder, model.decoder.network)
    ]
    assert shapes == [[(5, 6), (3, 5)], [(3, 2), (5, 3), (6, 5)]]
    assert (model.flow.context, model.flow.length) == (3, 3)


@pytest.mark.parametrize(
    ("x", "change", "error", "message"),
    [
        ([1.0], {}, TypeError, "x must be a torch.Tensor, got list"),
        (rand(5), {}, ValueError, r"x must have shape \(n, D\), got \(5,\)"),
        (torch.ones(5, dtype=torch.uint8), {}, ValueError, r"x must have shape \(n, D\)"),
        (rand(1, 3), {}, ValueError, "x must have at least 2 rows"),
        (
            rand(5, 3) > 0,
            {},
            TypeError,
            r"x must hold floating-point or whole numbers, got torch.bool; convert true and false",
        ),
        (rand(5, 3).cfloat(), {}, TypeError, "x must hold .* numbers, got torch.complex64"),
        (torch.ones(5, 0, dtype=torch.uint8), {}, ValueError, r"not be empty, got shape \(5, 0\)"),
        (rand(5, 3) / 0, {}, ValueError, "x must be finite"),
        (rand(5, 3), {"latent_dim": 0}, ValueError, "latent_dim must be at least 1"),
        (rand(5, 3), {"updates": 0}, ValueError, "updates must be at least 1"),
        (rand(5, 3), {"batch": 2.0}, TypeError, "batch must be an int"),
        (rand(5, 3), {"learning_rate": 0.0}, ValueError, "learning_rate must be positive"),
        (rand(5, 3), {"validation": 1.0}, ValueError, "validation must lie strictly between"),
        (rand(5, 3), {"generator": 3}, TypeError, "generator must be a torch.Generator"),
        (rand(5, 3), {"widths": ()}, ValueError, "widths must hold at least one width"),
        (rand(5, 3), {"widths": 5}, TypeError, "widths must be a list or tuple of ints, got int"),
        (rand(5, 3), {"flow": ["nice"]}, ValueError, "flow must be one of planar, .* got .'nice'"),
        (rand(5, 3), {"flow": "plane"}, ValueError, "flow must be one of planar, .* got 'plane'"),
        (
            rand(5, 3),
            {"likelihood": "poisson"},
            ValueError,
            "likelihood must be one of bernoulli, gaussian, logit-normal or None, got 'poisson'",
        ),
        (torch.ones(5, 3, dtype=torch.uint8), {"levels": 1}, ValueError, "levels must be at least"),
        (rand(5, 3), {"likelihood": "bernoulli"}, ValueError, "x must hold only 0 and 1"),
        (rand(5, 3), {"likelihood": "logit-normal"}, ValueError, "x must lie strictly between"),
        (
            torch.ones(5, 3, dtype=torch.uint8),
            {"likelihood": "bernoulli"},
            TypeError,
            "x must be a floating-point tensor of 0 and 1 for bernoulli, got torch.uint8",
        ),
        (
            torch.full((5, 3), 16, dtype=torch.uint8),
            {"levels": 16},
            ValueError,
            "x must lie between 0 and levels - 1, 15, got 16 to 16",
        ),
    ],
)
def test_refusals(x: object, change: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        fit_vae(x, **({"progress": False} | change))


@pytest.mark.parametrize(
    ("network", "units", "error", "message"),
    [
        (torch.tanh, DataUnits(rand(3), rand(3)), TypeError, "network must be a torch.nn.Module"),
        (torch.nn.Tanh(), rand(3), TypeError, "units must be nfbook DataUnits, got Tensor"),
        (torch.nn.Tanh(), DataUnits(rand(3)), ValueError, "units must have a scale, got a shift"),
        (
            torch.nn.Linear(2, 5),
            DataUnits(rand(3), rand(3)),
            ValueError,
            r"units must be those of 2 columns, of shape \(2,\), got \(3,\)",
        ),
    ],
)
def test_units_that_do_not_fit_a_network_are_refused(
    network: object, units: object, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        Standardised(network, units)


def test_whole_numbers_below_zero_are_refused():
    x = torch.tensor([[-1, 2], [0, 1]], dtype=torch.int8)
    with pytest.raises(ValueError, match=r"x must lie between 0 and levels - 1, 255, got -1 to 2"):
        fit_vae(x, progress=False)
