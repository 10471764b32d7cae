"""The figure of the bound: its numbers against quadrature's, its climb, and what it alone shows."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import figures
import pytest
import torch
from figures import PHONE, WIDE, centre, contrast, drag, rgb
from scipy.optimize import minimize
from torch.distributions import Independent, Normal

from nfbook.explorables import BoundExplorable
from nfbook.latent import PPCA

START = {"posterior": "one peak", "mean": 0.0, "stddev": 1.0}
TERMS = ("energy", "entropy", "bound", "gap", "evidence")

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return BoundExplorable


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---- the arithmetic ------------------------------------------------------------------------------

MEANS = [-2.5, -1.41, -0.4, 0.0, 0.72, 1.2, 1.35, 2.5]
STDDEVS = [0.1, 0.18, 0.6, 0.83, 1.5]
CASES = [(m, s) for m in MEANS for s in STDDEVS]


def ppca() -> PPCA:
    """Return the model with one peak, as the class's docstring gives it."""
    return PPCA(torch.tensor([[0.8]]), torch.tensor([0.5]), 0.36)


def log_joint(posterior: str, z: torch.Tensor) -> torch.Tensor:
    centre, noise = (0.8 * z + 0.5, 0.6) if posterior == "one peak" else (z**2, 0.5)
    return Normal(0.0, 1.0).log_prob(z) + Normal(centre, noise).log_prob(torch.tensor(2.0))


def by_quadrature(posterior: str, m: float, s: float) -> dict[str, float]:
    """Integrate all terms on a grid that is the same for every q, and fine for the narrowest."""
    z = torch.linspace(-20, 20, 8_001)
    step = 0.005
    log_q, log_p = Normal(m, s).log_prob(z), log_joint(posterior, z)
    evidence = torch.logsumexp(log_p, 0) + math.log(step)
    q = log_q.exp() * step
    energy, entropy = -(q * log_p).sum(), -(q * log_q).sum()
    gap = (q * (log_q - (log_p - evidence))).sum()
    values = (energy, entropy, entropy - energy, gap, evidence)
    return {name: float(value) for name, value in zip(TERMS, values, strict=True)}


@pytest.mark.parametrize("posterior", ["one peak", "two peaks"])
def test_numbers_equal_those_of_quadrature(module, posterior):
    got = module(
        """({ MODELS, terms }, [posterior, cases]) => cases.map((c) => {
            const { logEvidence, ...others } = terms(MODELS[posterior], ...c);
            return { ...others, evidence: logEvidence };
        })""",
        [posterior, CASES],
    )
    assert len(got) == 40
    for (m, s), numbers in zip(CASES, got, strict=True):
        assert numbers == pytest.approx(by_quadrature(posterior, m, s), rel=1e-9, abs=1e-9)
        assert numbers["bound"] + numbers["gap"] == pytest.approx(numbers["evidence"], abs=1e-10)


def test_numbers_equal_those_of_the_package(module):
    model, x = ppca(), torch.tensor([2.0])
    got = module(
        "({ MODELS, terms }, cases) => cases.map((c) => terms(MODELS['one peak'], ...c))", CASES
    )
    for (m, s), numbers in zip(CASES, got, strict=True):
        q = Independent(Normal(torch.tensor([m]), torch.tensor([s])), 1)
        assert numbers["bound"] == pytest.approx(float(model.elbo(x, q)), abs=1e-10)
        assert numbers["logEvidence"] == pytest.approx(float(model.log_prob(x)), abs=1e-10)
        assert numbers["entropy"] == pytest.approx(float(q.entropy()), abs=1e-10)


@pytest.mark.parametrize("posterior", ["one peak", "two peaks"])
def test_posteriors(module, posterior):
    z = torch.linspace(-3, 3, 61)
    got = module(
        "({ MODELS }, [posterior, zs]) => zs.map(MODELS[posterior].posterior)",
        [posterior, z.tolist()],
    )
    if posterior == "one peak":
        log_p = ppca().posterior(torch.tensor([2.0])).log_prob(z.unsqueeze(-1))
    else:
        log_p = log_joint(posterior, z) - by_quadrature(posterior, 0.0, 1.0)["evidence"]
    torch.testing.assert_close(torch.tensor(got), log_p.exp(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("posterior", ["one peak", "two peaks"])
def test_uphill_is_the_natural_gradient(module, posterior):
    got = module(
        """({ MODELS, uphill }, [posterior, cases]) =>
            cases.map((c) => uphill(MODELS[posterior], ...c))""",
        [posterior, CASES],
    )
    # The same gradient by autograd, of an integral on a much finer grid.
    t = torch.linspace(-9, 9, 1_801)
    weight = Normal(0.0, 1.0).log_prob(t).exp() * (t[1] - t[0])
    for (m, s), there in zip(CASES, got, strict=True):
        eta = torch.tensor([m / s, math.log(s)], requires_grad=True)
        scale = eta[1].exp()
        energy = (weight * log_joint(posterior, m + (eta[0] - m / s) * s + scale * t)).sum()
        (gradient,) = torch.autograd.grad(energy + eta[1], eta)
        fisher = torch.tensor([1.0, 2.0])  # of a Gaussian, in m / s and log s
        expected = (gradient / fisher).tolist()
        assert [there["sideways"], there["wider"]] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("posterior", ["one peak", "two peaks"])
def test_a_climb_never_falls_and_ends_at_a_maximum(module, posterior):
    starts = [(m, s) for m in (-2.5, -1.0, -0.2, 0.0, 0.4, 1.2, 2.5) for s in (0.1, 0.6, 1.5)]
    ways = module(
        """({ MODELS, climb, terms }, [posterior, starts]) => starts.map((start) =>
            climb(MODELS[posterior], ...start).map((at) =>
                [...at, terms(MODELS[posterior], ...at).bound]))""",
        [posterior, starts],
    )
    # The two-peaked model's maxima, found by another climber on another form of the bound.
    if posterior == "one peak":
        maxima = [(1.2, 0.6)]
    else:
        maxima = [best_by_scipy(m) for m in (-1.4, 0.0, 1.4)]
    reached = set()
    for start, way in zip(starts, ways, strict=True):
        assert tuple(way[0][:2]) == start
        bounds = [bound for _, _, bound in way]
        assert all(later > earlier for earlier, later in pairwise(bounds))
        assert all(-2.5 <= m <= 2.5 and 0.1 <= s <= 1.5 for m, s, _ in way)
        ends = [top for top in maxima if way[-1][:2] == pytest.approx(top, abs=1e-5)]
        assert len(ends) == 1, (start, way[-1])
        reached.add(ends[0])
        assert len(way) < 110, "a climb is over in less than three seconds"
    assert len(reached) == len(maxima)


def best_by_scipy(start: float) -> tuple[float, float]:
    """Maximise the two-peaked model's bound, whose expectations are moments of a Gaussian."""

    def loss(at: list[float]) -> float:
        m, s = at[0], math.exp(at[1])
        second = m**2 + s**2
        fourth = m**4 + 6 * m**2 * s**2 + 3 * s**4
        return (4 - 4 * second + fourth) / (2 * 0.25) + second / 2 - math.log(s)

    m, log_s = minimize(loss, [start, math.log(0.5)], tol=1e-10).x
    return m, math.exp(log_s)


# ---- what the figure shows -----------------------------------------------------------------------


def numbers_of(figure: figures.Figure) -> dict[str, float]:
    return {name: float(text.replace("−", "-")) for name, text in figure.numbers().items()}


def heights(figure: figures.Figure) -> dict[str, tuple[float, float]]:
    """Return the top and the bottom of what stands in the right picture, in pixels."""
    parts = {"energy": "bar-energy", "bound": "bar-variational", "gap": "bar-gap", "truth": "truth"}
    return figure.place.evaluate(
        """(place, parts) => Object.fromEntries(Object.entries(parts).map(([name, kind]) => {
            const box = place.querySelector(`.nfbook-${kind}`).getBBox();
            return [name, [box.y, box.y + box.height]];
        }))""",
        parts,
    )


def test_first_sight(figure):
    assert figure.values() == START
    expected = by_quadrature("one peak", 0.0, 1.0)
    assert numbers_of(figure) == pytest.approx(expected, abs=5.1e-4)
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "q with mean 0.00 and standard deviation 1.00." in label
    assert "The gap of 2.378 above it reaches up to the log-evidence, −2.044." in label


def test_the_parts_add_up_in_the_picture(figure):
    line = heights(figure)["truth"][0]
    for posterior, mean, stddev in (
        ("one peak", 0.0, 1.0),
        ("one peak", -2.5, 0.1),
        ("one peak", 1.2, 0.6),
        ("two peaks", 0.0, 0.8),
        ("two peaks", 1.36, 0.1),
        ("two peaks", 2.5, 1.5),
    ):
        figure.show(posterior=posterior, mean=mean, stddev=stddev)
        at, terms = heights(figure), by_quadrature(posterior, mean, stddev)
        assert at["truth"][0] == line, "the line of the log-evidence stays where it is"
        # The gap stands on the bound and ends at the line; all heights have one scale.
        assert at["gap"] == pytest.approx((line, at["bound"][0]), abs=0.01)
        floor = at["bound"][1]
        assert line <= at["bound"][0] < floor - 20
        assert at["energy"][0] < floor - 20
        if terms["gap"] > 1e-9:
            pixels = (at["gap"][1] - at["gap"][0]) / terms["gap"]
            entropy = (at["energy"][0] - at["bound"][0]) / pixels
            assert entropy == pytest.approx(terms["entropy"], abs=0.01)


def test_the_curves_are_densities(figure):
    """The drawn lines have area 1, and the right mean and spread, in the units of the axes."""
    figure.show(posterior="two peaks", mean=-1.4, stddev=0.2)
    ticks, lines, ring = figure.place.evaluate(
        """(place) => {
            const picture = place.querySelector(".nfbook-pair > svg");
            const number = (text) => Number(text.replace("−", "-"));
            const line = (name) => picture.querySelector(`path.nfbook-${name}`).getAttribute("d")
                .slice(1).split("L").map((pair) => pair.split(",").map(Number));
            return [
                [...picture.querySelectorAll(".nfbook-axes text[x]")].map((text) =>
                    [text.textContent, ...["x", "y"].map((k) => Number(text.getAttribute(k)))]),
                { posterior: line("posterior"), variational: line("variational") },
                picture.querySelector(".nfbook-handle").getAttribute("transform"),
            ];
        }"""
    )
    at = {text.replace("−", "-"): (x, y) for text, x, y in ticks}
    zero = at["0"][1] - 4  # the text stands a little below its tick
    unit_z = (at["4"][0] - at["-4"][0]) / 8
    unit_density = zero + 4 - at["1"][1]
    middle = at["-4"][0] + 4 * unit_z
    spread = {}
    for name, points in lines.items():
        x, y = torch.tensor(points).T
        z, density = (x - middle) / unit_z, (zero - y) / unit_density
        assert float(torch.trapezoid(density, z)) == pytest.approx(1.0, abs=0.01), name
        mean = torch.trapezoid(z * density, z)
        variance = torch.trapezoid((z - mean) ** 2 * density, z)
        spread[name] = [float(mean), float(variance.sqrt())]
    assert spread["variational"] == pytest.approx([-1.4, 0.2], abs=0.01)
    z = torch.linspace(-6, 6, 10_001)
    exact = log_joint("two peaks", z).softmax(0)
    assert spread["posterior"] == pytest.approx([0.0, float((exact @ z**2).sqrt())], abs=0.01)
    top = min(lines["variational"], key=lambda point: point[1])
    assert list(map(float, re.findall(r"[\d.]+", ring))) == pytest.approx(top, abs=1.0)


def test_the_way_up_in_words(figure):
    for words, values in {
        "To raise the bound, move q to the right and make it narrower.": {},
        "To raise the bound, make it narrower.": {"mean": 1.2, "stddev": 1.0},
        "To raise the bound, move q to the left.": {"mean": 2.0, "stddev": 0.6},
        "To raise the bound, make it wider.": {"mean": 1.2, "stddev": 0.3},
        "The gap is closed: q is the posterior.": {"mean": 1.2, "stddev": 0.6},
        "no Gaussian has two peaks.": {"posterior": "two peaks", "mean": 1.33, "stddev": 0.188},
        "On one of the peaks q does better.": {"posterior": "two peaks", "stddev": 0.828},
    }.items():
        figure.show(**values)
        assert figure.place.get_by_role("status").inner_text().endswith(words)


# ---- what its handle and its button mean ---------------------------------------------------------


def test_the_ring(figure):
    """Sideways it moves q along the axis; 80 px upwards make it narrower by a factor e."""
    ring = figure.place.locator(".nfbook-handle")
    # The picture without its two margins is eight units of z wide.
    unit = (figure.place.locator(".nfbook-pair > svg").first.bounding_box()["width"] - 72) / 8
    for dx, dy, mean, stddev in (
        (unit, 0, 1.0, 1.0),
        (0, -80, 1.0, 0.36),
        (-3000, -3000, -2.5, 0.1),
        (3000, 3000, 2.5, 1.5),
    ):
        drag(figure.page, centre(ring), dx, dy)
        assert figure.values() == START | {"mean": mean, "stddev": stddev}


def test_the_button_climbs(figure):
    figure.show(posterior="two peaks", mean=-1.0, stddev=1.0)
    seen = figure.place.evaluate(
        """async (place) => {
            const cell = place.querySelector('[data-number="bound"]');
            const seen = [];
            const watch = () => seen.push(Number(cell.textContent.replace("\u2212", "-")));
            new MutationObserver(watch).observe(cell, { childList: true });
            place.querySelector("button").click();
            let count = -1;
            while (count !== seen.length) {
                count = seen.length;
                await new Promise((done) => setTimeout(done, 500));
            }
            return seen;
        }"""
    )
    assert len(seen) > 10, "one sees it move"
    assert seen == sorted(seen)
    assert figure.values() == {
        "posterior": "two peaks",
        "mean": pytest.approx(-1.33, abs=5e-3),
        "stddev": pytest.approx(0.188, abs=5e-4),
    }
    assert numbers_of(figure)["gap"] == pytest.approx(0.712)


def test_a_reader_stops_the_climb(figure):
    figure.show(mean=-2.5, stddev=1.5)
    means = figure.place.evaluate(
        """async (place) => {
            place.querySelector("button").click();
            const slider = place.querySelector("input[type=range]");
            slider.value = slider.max;
            slider.dispatchEvent(new Event("input"));
            const stopped = place.model.get("mean");
            await new Promise((done) => setTimeout(done, 150));
            return [stopped, place.model.get("mean")];
        }"""
    )
    assert means == [2.5, 2.5]


def test_who_wants_no_motion_sees_the_end_at_once(figure):
    figure.page.emulate_media(reduced_motion="reduce")
    at_once = figure.place.evaluate(
        """(place) => {
            place.querySelector("button").click();
            return ["mean", "stddev"].map((name) => place.model.get(name));
        }"""
    )
    assert at_once == pytest.approx([1.2, 0.6], abs=1e-5)
    assert numbers_of(figure)["gap"] == 0.0


# ---- the page around it --------------------------------------------------------------------------


def test_names_on_bars_can_be_read(figure):
    """Two names stand on bars, whose colour is mixed with the ground's."""
    for theme in ("light", "dark"):
        found = figure.place.evaluate(
            """(place, theme) => {
                document.documentElement.dataset.theme = theme;
                const style = (name) => getComputedStyle(place.querySelector(`.nfbook-${name}`));
                const on = (name, bar) => [style(`label-${name}`).fill, style(bar).fill,
                    style(bar).opacity];
                return {
                    ground: getComputedStyle(document.body).backgroundColor,
                    truth: style("truth").stroke,
                    bars: [on("bound", "bar-variational"), on("energy", "bar-energy")],
                };
            }""",
            theme,
        )
        ground = rgb(found["ground"])
        assert contrast(rgb(found["truth"]), ground) > 7
        for text, bar, opacity in found["bars"]:
            share = float(opacity)
            parts = zip(rgb(bar), ground, strict=True)
            mixed = tuple(share * ours + (1 - share) * under for ours, under in parts)
            assert contrast(rgb(text), mixed) > 4.5, theme


def test_the_pictures_stand_side_by_side_where_there_is_room(figure):
    for size in (WIDE, PHONE, PHONE | {"width": 320}):
        figure.resize(size)
        left, right = (svg.bounding_box() for svg in figure.all(".nfbook-pair > svg"))
        if size == WIDE:
            assert left["y"] == right["y"]
            assert left["x"] + left["width"] <= right["x"]
        else:
            assert left["y"] + left["height"] <= right["y"]
            assert left["width"] == right["width"] == size["width"] - 16
            # Both pictures and both sliders are on a phone's screen together.
            lowest = figure.all("input[type=range]")[-1].bounding_box()
            assert lowest["y"] + lowest["height"] - left["y"] <= 600


def test_names_have_room_near_the_maxima(figure):
    """Where the gap is small or closed, its name has the least room."""
    near = [
        START,
        {"posterior": "one peak", "mean": 1.2, "stddev": 0.6},
        {"posterior": "two peaks", "mean": -1.4, "stddev": 0.2},
        {"posterior": "two peaks", "mean": 1.4, "stddev": 0.1},
    ]
    for size in (WIDE, PHONE):
        figure.resize(size)
        assert figure.texts_in_trouble(*near) == []
