"""The loop that climbs, the data that pass through it, and the points where it starts."""

import io
import itertools
import math
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from draws import number, rand, seeded
from scipy import stats

from nfbook.data.batches import Batches, check_weights, moments, subsample
from nfbook.fitting import Fit, History, best, check_stopping
from nfbook.latent.em import run_em
from nfbook.latent.seeding import k_means_plus_plus
from nfbook.progress import progress_bar

F64 = torch.float64


# A climb whose every step is known -----------------------------------------------------------


@dataclass(frozen=True)
class ToyStatistics:
    """The number of observations, their sum, and the q of the E-step, which is a number."""

    count: int
    total: float
    q: float

    def __add__(self, other):
        return ToyStatistics(self.count + other.count, self.total + other.total, self.q)


@dataclass(frozen=True)
class Toy:
    """A bound :math:`-n [(q - t)^2 + (t - m)^2]`, where m is the mean of the data.

    The E-step sets q = t and the M-step t = (q + m) / 2, so each iteration halves t - m.
    """

    t: float

    def e_step(self, x):
        return ToyStatistics(len(x), float(x.sum()), self.t)

    def m_step(self, statistics):
        return Toy((statistics.q + statistics.total / statistics.count) / 2)

    def bound(self, statistics):
        mean = statistics.total / statistics.count
        value = (statistics.q - self.t) ** 2 + (self.t - mean) ** 2
        return number(-statistics.count * value)


ZEROS = Batches([torch.zeros(3, 1), torch.zeros(1, 1)])


def test_history_holds_the_bound_after_every_half_step():
    model, history = run_em(Toy(8.0), ZEROS, tolerance=0.0, max_iterations=3)
    assert model == Toy(1.0)
    assert history.after_e_step.tolist() == [-4 * 8.0**2, -4 * 4.0**2, -4 * 2.0**2, -4 * 1.0]
    assert history.after_m_step.tolist() == [-8 * 4.0**2, -8 * 2.0**2, -8 * 1.0]
    assert history.half_steps.tolist() == [-256, -128, -64, -32, -16, -8, -4]
    assert history.half_steps.dtype == F64
    assert (history.iterations, history.converged, history.restarts) == (3, False, None)


@pytest.mark.parametrize("copies", [1, 10])
def test_run_em_stops_when_an_iteration_gains_the_tolerance_per_observation(copies):
    batches = Batches([torch.zeros(4, 1)] * copies)
    # Iteration i gains 3 / 4^i per observation.
    for tolerance, iterations in [(3 / 4**5, 5), (math.nextafter(3 / 4**5, 0), 6)]:
        history = run_em(Toy(1.0), batches, tolerance=tolerance, max_iterations=99).history
        assert (history.iterations, history.converged) == (iterations, True)
    history = run_em(Toy(1.0), batches, tolerance=3 / 4**5, max_iterations=5).history
    assert (history.iterations, history.converged) == (5, True)
    history = run_em(Toy(1.0), batches, tolerance=3 / 4**5, max_iterations=4).history
    assert (history.iterations, history.converged) == (4, False)


def test_run_em_from_the_top_stays_there():
    model, history = run_em(Toy(0.0), ZEROS, tolerance=0.0, max_iterations=9)
    assert (model, history.iterations, history.converged) == (Toy(0.0), 1, True)


def test_run_em_stops_when_the_bound_falls():
    model, history = run_em(
        Toy(1.0), ZEROS, tolerance=0.0, max_iterations=9, m_step=lambda model, _: Toy(model.t + 1)
    )
    assert (model, history.iterations, history.converged) == (Toy(2.0), 1, True)


def test_run_em_runs_through_all_batches_in_each_iteration():
    batches = Batches([torch.ones(1, 1), 7 * torch.ones(3, 1)])
    model = run_em(Toy(0.0), batches, tolerance=0.0, max_iterations=99).model
    assert model.t == pytest.approx(5.5)


def test_another_m_step_takes_the_models_place():
    seen = []

    def straight_to_the_top(model, statistics):
        seen.append((model, statistics))
        return Toy(0.0)

    history = run_em(
        Toy(1.0), ZEROS, tolerance=1e-9, max_iterations=9, m_step=straight_to_the_top
    ).history
    assert history.half_steps.tolist() == [-4, -4, 0, 0, 0]
    assert seen[0] == (Toy(1.0), ToyStatistics(4, 0.0, 1.0))


@pytest.mark.parametrize(
    ("tolerance", "max_iterations", "error", "message"),
    [
        (-1e-9, 9, ValueError, "tolerance must be at least 0, got -1e-09"),
        (math.nan, 9, ValueError, "tolerance must be finite, got nan"),
        (0, 0, ValueError, "max_iterations must be at least 1, got 0"),
    ],
)
def test_bad_stopping_rules_are_refused(tolerance, max_iterations, error, message):
    with pytest.raises(error, match=message):
        check_stopping(tolerance, max_iterations)
    with pytest.raises(error, match=message):
        run_em(Toy(1.0), ZEROS, tolerance=tolerance, max_iterations=max_iterations)


def test_best_keeps_the_highest_end_and_the_ends_of_all():
    fits = [
        run_em(Toy(start), ZEROS, tolerance=0.0, max_iterations=2) for start in (8.0, -4.0, 16.0)
    ]
    model, history = best(fits)
    assert model == Toy(-1.0)
    assert history.restarts.tolist() == [-16.0, -4.0, -64.0]
    assert torch.equal(history.half_steps, fits[1].history.half_steps)
    assert (history.converged, history.iterations) == (False, 2)


def test_history_tells_its_length_ends_and_outcome():
    one = History(number([-3.0, -2.0]), number([-2.5]), False)
    assert repr(one) == "History(1 iteration, bound -3 to -2, not converged)"
    none = History(number([-3.0]), number([]), True)
    assert repr(none) == "History(0 iterations, bound -3 to -3, converged)"
    assert none.half_steps.tolist() == [-3.0]
    model, history = Fit("model", one)
    assert (model, history) == ("model", one)


# The progress bar ----------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Stop the clock of tqdm; the test moves its hands."""
    now = [1000.0]
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def three_seconds(clock, file, monkeypatch, show=True, step=1.0):
    """Return what is in the file after each of three steps, and at the end."""
    monkeypatch.setattr("sys.stderr", file)
    seen = []
    with progress_bar(10, "the climb", show=show) as bar:
        for _ in range(3):
            clock[0] += step
            bar.update()
            seen.append(file.getvalue())
    return [*seen, file.getvalue()]


def test_bar_appears_in_a_terminal_after_two_seconds_and_leaves_nothing(clock, monkeypatch):
    first, _, third, end = three_seconds(clock, Screen(), monkeypatch)
    assert first == ""
    assert "the climb" in third
    assert "3/10" in third
    # The last line is blank.
    assert end.split("\r")[-2:] != ["", ""]
    assert end.endswith("\r")
    assert end.split("\r")[-2].strip() == ""


def test_short_runs_show_no_bar(clock, monkeypatch):
    assert three_seconds(clock, Screen(), monkeypatch, step=0.6) == [""] * 4


def test_no_bar_is_drawn_into_a_file_nor_where_none_is_wanted(clock, monkeypatch):
    assert three_seconds(clock, io.StringIO(), monkeypatch) == [""] * 4
    assert three_seconds(clock, Screen(), monkeypatch, show=False) == [""] * 4
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert three_seconds(clock, Screen(), monkeypatch) == [""] * 4


def test_a_climb_shows_its_bar_and_the_bound(clock, monkeypatch):
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)

    def slowly(model, statistics):
        clock[0] += 1.5
        return model.m_step(statistics)

    run_em(Toy(1.0), ZEROS, tolerance=0.0, max_iterations=5, m_step=slowly, what="my climb")
    assert "my climb" in screen.getvalue()
    # After the third of five M-steps: -4 (1/8 - 1/4)^2 - 4 (1/8)^2.
    assert "3/5" in screen.getvalue()
    assert "bound -0.125" in screen.getvalue()
    shown = screen.getvalue()
    run_em(Toy(1.0), ZEROS, tolerance=0.0, max_iterations=5, m_step=slowly, progress=False)
    assert screen.getvalue() == shown


def test_progress_is_true_or_false():
    with pytest.raises(TypeError, match="progress must be True or False, got int"):
        progress_bar(10, "EM", show=1)


# Batches -------------------------------------------------------------------------------------


class Recorded:
    """Data that are made anew in each pass, by a function of the pass's number."""

    def __init__(self, make):
        self.make, self.passes = make, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.make(self.passes))


def test_a_tensor_is_one_or_more_batches():
    for n, sizes in ((10, [10]), (150_000, [2**16, 2**16, 18_928])):
        x = rand(n, 3)
        batches = Batches(x)
        assert (batches.dim, batches.dtype) == (3, F64)
        for _ in range(2):
            assert [len(batch) for batch in batches] == sizes
            assert torch.equal(torch.cat(list(batches)), x)


@pytest.mark.parametrize("wrap", [list, tuple, lambda parts: Recorded(lambda _: parts)])
def test_an_iterable_is_its_batches_in_every_pass(wrap):
    x = rand(10, 3).float()
    batches = Batches(wrap([x[:1], x[1:7], x[7:]]))
    assert (batches.dim, batches.dtype) == (3, torch.float32)
    for _ in range(3):
        assert [len(batch) for batch in batches] == [1, 6, 3]
        assert torch.equal(torch.cat(list(batches)), x)


def test_only_the_batch_in_use_and_the_next_are_held():
    alive = []

    class Source:
        def __iter__(self):
            for seed in range(5):
                assert sum(reference() is not None for reference in alive) <= 1
                batch = rand(4, 2, seed=seed)
                alive.append(weakref.ref(batch))
                yield batch
                del batch

    batches = Batches(Source())
    alive.clear()
    for _ in batches:
        pass
    assert len(alive) == 5


def test_float64_is_made_batch_by_batch():
    x = rand(10, 3).float()
    for source in (x, [x[:4], x[4:]]):
        batches = Batches(source).in_float64()
        assert batches.dtype == F64
        for _ in range(2):
            assert torch.equal(torch.cat(list(batches)), x.double())
    already = Batches(x.double())
    assert already.in_float64() is already
    holey = torch.tensor([[math.nan, 1.0]])
    (batch,) = Batches([holey], missing=True).in_float64()
    assert batch.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (3, TypeError, "x must be a torch.Tensor or an iterable of them, .* got int"),
        ("data.csv", TypeError, "x must be a torch.Tensor or an iterable of them, .* got str"),
        (
            (batch for batch in [torch.zeros(2, 2)]),
            TypeError,
            "x must be an iterable that starts anew in every pass, .* a generator is empty",
        ),
        (iter([torch.zeros(2, 2)]), TypeError, "x must be an iterable that starts anew"),
        ([], ValueError, "x must hold at least one batch, got none"),
        (torch.zeros(0, 2), ValueError, r"x must not be empty, got shape \(0, 2\)"),
        (torch.zeros(3), ValueError, r"x must have shape \(n, D\), got \(3,\)"),
        (torch.zeros(3, 2).int(), TypeError, "x must be a floating-point tensor, got torch.int32"),
        (torch.tensor([[0.0, math.inf]]), ValueError, "x must be finite, got 1 NaN or infinite"),
        ([[1.0, 2.0]], TypeError, "every batch of x must be a torch.Tensor, got list"),
        ([torch.zeros(3)], ValueError, r"every batch of x must have shape \(n, D\), got \(3,\)"),
    ],
)
def test_what_is_no_data_is_refused_at_once(x, error, message):
    with pytest.raises(error, match=message):
        Batches(x)


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (torch.zeros(3, 1), ValueError, r"every batch of x must have shape \(n, 2\), got \(3, 1\)"),
        (
            torch.zeros(3, 2).double(),
            TypeError,
            "every batch of x must have the dtype of the first, torch.float32, got torch.float64",
        ),
        (torch.tensor([[0.0, math.nan]]), ValueError, "every batch of x must be finite, got 1 NaN"),
        (None, TypeError, "every batch of x must be a torch.Tensor, got NoneType"),
    ],
)
def test_a_bad_batch_is_refused_as_it_passes(second, error, message):
    batches = Batches([torch.zeros(5, 2), second])
    with pytest.raises(error, match=message):
        list(batches)


def test_a_later_pass_must_be_as_long_as_the_first():
    # The first pass of all is the one that looks at the first batch only.
    shrinking = Batches(Recorded(lambda number: [torch.zeros(2, 1)] * (5 - number)))
    assert sum(map(len, shrinking)) == 6
    message = "x must be the same in every pass, got 6 observations in the first and 4 in a later"
    with pytest.raises(ValueError, match=message):
        list(shrinking)
    exhausted = Batches(Recorded(lambda number: [torch.zeros(2, 1)] if number < 3 else []))
    assert len(list(exhausted)) == 1
    with pytest.raises(ValueError, match="got 2 observations in the first and 0 in a later one"):
        list(exhausted)


def test_a_pass_that_was_broken_off_does_not_count():
    batches = Batches([torch.zeros(2, 1)] * 3)
    next(iter(batches))
    assert sum(map(len, batches)) == 6
    next(iter(batches))
    assert sum(map(len, batches)) == 6


def test_missing_entries_are_allowed_where_asked_for():
    x = torch.tensor([[1.0, math.nan], [math.nan, math.nan], [3.0, 4.0]])
    for source in (x, [x[:1], x[1:]]):
        with pytest.raises(ValueError, match="must be finite, got"):
            list(Batches(source))
        batches = Batches(source, missing=True)
        assert torch.cat(list(batches)).isnan().sum() == 3
    with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite of 2"):
        Batches(torch.tensor([[math.nan, math.inf]]), missing=True)
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        Batches(torch.zeros(2, 2).long(), missing=True)


# Moments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("shift", [0.0, 2.0**30])
def test_moments_are_numpys_wherever_the_data_lie(size, shift):
    # On a grid, so that the shifted data are the same up to the last bit.
    x = (rand(100, 4) @ rand(4, 4, seed=1) * 2**12).round() / 2**12
    found = moments(Batches(list((x + shift).split(size))))
    assert found.count == 100
    expected = np.cov(x.numpy().T, bias=True)
    assert np.allclose(found.mean, x.mean(0) + shift, rtol=4e-16, atol=1e-14)
    assert np.allclose(found.covariance, expected, rtol=1e-12, atol=1e-14)
    diagonal = moments(Batches(list((x + shift).split(size))), diagonal=True)
    assert torch.allclose(diagonal.covariance, found.covariance.diagonal(), rtol=1e-12)
    assert torch.equal(diagonal.mean, found.mean)


def test_equal_observations_have_no_variance_at_all():
    x = number([[0.1, 1e8 / 3]]).repeat(10, 1)
    for source in (x, list(x.split(3)), list(x.float().split(3))):
        found = moments(Batches(source))
        assert torch.equal(found.mean, source[0].reshape(-1, 2)[0].double())
        assert found.covariance.dtype == F64
        assert found.covariance.tolist() == [[0.0, 0.0], [0.0, 0.0]]


# Subsamples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[6], [1, 5], [2, 2, 2]])
def test_every_subset_is_equally_likely_however_the_data_are_cut(cuts):
    batches, g = Batches(list(torch.arange(6.0).reshape(6, 1).split(cuts))), seeded(sum(cuts[:1]))
    subsets = list(itertools.combinations(range(6), 2))
    draws = (subsample(batches, 2, generator=g)[0].flatten().int() for _ in range(600))
    drawn = [tuple(sorted(draw.tolist())) for draw in draws]
    counts = [drawn.count(subset) for subset in subsets]
    # True subsamples are rejected with probability 1e-6.
    assert stats.chisquare(counts).pvalue > 1e-6


def test_subsample_of_few_observations_is_all_of_them():
    x = rand(5, 2)
    for size in (5, 9):
        for source in (x, [x[:2], x[2:]]):
            kept, weights = subsample(Batches(source), size, generator=seeded())
            assert weights is None
            assert torch.equal(kept.sort(0).values, x.sort(0).values)
    assert subsample(Batches(x.float()), 3)[0].dtype == torch.float32


def test_subsample_keeps_rows_together_and_none_twice():
    x = torch.arange(100.0).reshape(100, 1).expand(100, 3)
    weights = [part[:, 0] + 1 for part in x.split(9)]
    batches = Batches(list(x.split(9)), weights=weights)
    kept, kept_weights = subsample(batches, 40, generator=seeded())
    least = kept_weights.min()  # the light ones that are kept stand for those that are not
    assert (kept_weights == (kept[:, 0] + 1).clamp(min=least)).all()
    assert kept.shape == (40, 3)
    assert (kept == kept[:, :1]).all()
    assert len(kept.unique(dim=0)) == 40


def test_a_heavy_observation_is_in_the_subsample_and_weights_keep_their_sum():
    x, g = torch.arange(6.0).reshape(6, 1), seeded()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 1e9])
    batches, sums = Batches(list(x.split(2)), weights=list(weights.split(2))), []
    for _ in range(400):
        kept, kept_weights = subsample(batches, 4, generator=g)
        assert 5 in kept
        sums.append(float(kept_weights[kept[:, 0] < 5].sum()))
    error = np.std(sums) / len(sums) ** 0.5
    assert abs(np.mean(sums) - 15) < 5 * error < 2


def test_subsample_refuses_bad_arguments():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        subsample(Batches(rand(3, 1)), 0, generator=seeded())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        subsample(Batches(rand(3, 1)), 2, generator=0)


def test_weights_must_not_all_be_zero():
    with pytest.raises(ValueError, match="weights must not all be zero"):
        check_weights(torch.zeros(3), torch.zeros(3, 1))
    part = Batches([torch.zeros(2, 1), torch.ones(1, 1)], weights=[torch.zeros(2), torch.ones(1)])
    assert [len(x) for x in part] == [1]


# Starts --------------------------------------------------------------------------------------


def test_centres_are_drawn_with_probabilities_proportional_to_squared_distances():
    x = number([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [4.0, 0.0]])
    squared = (x.unsqueeze(1) - x).square().sum(2)
    expected = {}
    for order in itertools.permutations(range(4), 3):
        first, second, third = order
        one = squared[first]
        two = torch.minimum(one, squared[second])
        expected[order] = float(1 / 4 * one[second] / one.sum() * two[third] / two.sum())
    assert sum(expected.values()) == pytest.approx(1)
    g, counts = seeded(), dict.fromkeys(expected, 0)
    for _ in range(1500):
        centres = k_means_plus_plus(x, 3, generator=g)
        counts[tuple((centres.unsqueeze(1) == x).all(2).int().argmax(1).tolist())] += 1
    # True draws are rejected with probability 1e-6.
    chances = np.array(list(expected.values()))
    assert stats.chisquare(list(counts.values()), 1500 * chances).pvalue > 1e-6


def test_a_weight_multiplies_the_chance_of_a_centre():
    x, weights, g = number([[0.0], [1.0], [3.0], [9.0]]), number([1.0, 2.0, 3.0, 0.0]), seeded()
    pairs = [k_means_plus_plus(x, 2, weights=weights, generator=g).flatten() for _ in range(900)]
    counts = [sum(int(pair[0]) == first for pair in pairs) for first in (0, 1, 3)]
    assert stats.chisquare(counts, [150, 300, 450]).pvalue > 1e-6
    after = [int(pair[1]) for pair in pairs if int(pair[0]) == 0]  # 2 times 1 against 3 times 9
    expected = [len(after) * 2 / 29, len(after) * 27 / 29]
    assert stats.chisquare([after.count(1), after.count(3)], expected).pvalue > 1e-6


def test_moments_with_weights_and_missing_entries_are_those_of_what_is_there():
    x, weights = rand(20, 3) + 1e6, torch.arange(20).remainder(3).double()
    repeated = x.repeat_interleave(weights.long(), dim=0)
    for cut in (20, 7):
        batches = Batches(list(x.split(cut)), weights=list(weights.split(cut)))
        found, expected = moments(batches), moments(Batches(repeated))
        assert (found.count, expected.count) == (len(repeated), len(repeated))
        assert torch.allclose(found.mean, expected.mean, rtol=1e-14)
        assert torch.allclose(found.covariance, expected.covariance, rtol=1e-9)
        holey = torch.where(torch.rand(20, 3, generator=seeded()) < 0.5, torch.nan, x)
        holey[:cut, 1] = torch.nan if cut < 20 else holey[:cut, 1]
        holey[19] = x[19]
        found = moments(Batches(list(holey.split(cut)), missing=True), diagonal=True)
        for j, column in enumerate(holey.mT):
            there = column[~column.isnan()]
            assert float(found.mean[j]) == pytest.approx(float(there.mean()), rel=1e-14)
            variance = float(there.var(correction=0))
            assert float(found.covariance[j]) == pytest.approx(variance, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_centres_are_distinct_observations_at_any_scale(dtype, scale):
    x = (scale * rand(20, 3).repeat(4, 1)).to(dtype)
    for seed in range(5):
        centres = k_means_plus_plus(x, 20, generator=seeded(seed))
        assert centres.dtype == dtype
        assert torch.equal(centres.unique(dim=0), x.unique(dim=0))


@pytest.mark.parametrize("extreme", [0.0, math.nextafter(1.0, 0.0)])
def test_no_centre_is_drawn_twice_at_the_ends_of_the_random_numbers(extreme, monkeypatch):
    x = number([[1.0], [1.0], [2.0], [3.0], [3.0]])
    monkeypatch.setattr(torch, "rand", lambda *_, **options: number(extreme))
    for seed in range(10):
        assert len(k_means_plus_plus(x, 3, generator=seeded(seed)).unique()) == 3


def test_too_few_distinct_observations_have_no_start():
    x = torch.tensor([[0.0, 1.0]] * 3 + [[2.0, 1.0]] * 3)
    assert len(k_means_plus_plus(x, 2, generator=seeded())) == 2
    with pytest.raises(ValueError, match="x must hold at least 3 distinct observations, got 2"):
        k_means_plus_plus(x, 3, generator=seeded())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4)}, ValueError, r"x must have shape \(n, D\), got \(4,\)"),
        ({"x": torch.tensor([[math.nan]])}, ValueError, "x must be finite"),
        ({"num_clusters": 0}, ValueError, "num_clusters must be at least 1, got 0"),
        ({"generator": 7}, TypeError, "generator must be a torch.Generator, got int"),
    ],
)
def test_bad_starts_are_refused(change, error, message):
    good = {"x": rand(5, 2), "num_clusters": 2, "generator": seeded()}
    with pytest.raises(error, match=message):
        k_means_plus_plus(**(good | change))
