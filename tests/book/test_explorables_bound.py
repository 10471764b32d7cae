"""The figure of the bound: its numbers against PyTorch's, its climb, and its handling."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import combinations, pairwise

import figures
import pytest
import torch
from figures import centre, contrast, drag, median_redraw, rgb, run, swipe
from playwright.sync_api import Page, expect
from scipy.optimize import minimize
from torch.distributions import Independent, Normal

from nfbook.explorables import BoundExplorable
from nfbook.latent import PPCA
from nfbook.plotting import COLORS

START = {"posterior": "one peak", "mean": 0.0, "stddev": 1.0}
TERMS = ("energy", "entropy", "bound", "gap", "evidence")

# Fixtures: pytest looks for them among a module's names.
troubles, visit = figures.troubles, figures.visit


@pytest.fixture
def module(visit):
    """Run a JavaScript function with the figure's module as its first argument."""
    return partial(run, visit(""), "bound")


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bound_html(**values: object) -> str:
    return BoundExplorable(**(START | values))._repr_html_()


def values_of(page: Page, nth: int = 0) -> dict[str, object]:
    """Read a figure's values where the reader sees them."""
    figure = page.locator(".nfbook-bound").nth(nth)
    sliders = figure.get_by_role("slider")
    expect(sliders).to_have_count(2)
    texts = [sliders.nth(k).get_attribute("aria-valuetext") for k in range(2)]
    mean, stddev = (float(text.replace("−", "-").split()[-1]) for text in texts)
    posterior = figure.locator("input:checked").get_attribute("value")
    return {"posterior": posterior, "mean": mean, "stddev": stddev}


def shown(page: Page) -> dict[str, float]:
    cells = page.locator("[data-number]").all()
    texts = {c.get_attribute("data-number"): c.inner_text() for c in cells}
    return {name: float(text.replace("−", "-")) for name, text in texts.items()}


def curve(page: Page, name: str) -> str:
    return page.locator(f".nfbook-pair path.nfbook-{name}").get_attribute("d")


def heights(page: Page) -> dict[str, tuple[float, float]]:
    """Return the top and the bottom of what stands in the right picture, in pixels."""
    parts = {"energy": "bar-energy", "bound": "bar-variational", "gap": "bar-gap", "truth": "truth"}
    return page.evaluate(
        """(parts) => Object.fromEntries(Object.entries(parts).map(([name, kind]) => {
            const box = document.querySelector(`.nfbook-${kind}`).getBBox();
            return [name, [box.y, box.y + box.height]];
        }))""",
        parts,
    )


# ---- the arithmetic ---------------------------------------------------------------------------

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
    """Integrate all terms on a fine grid that is the same for every q."""
    z = torch.linspace(-20, 20, 400_001)
    log_q, log_p = Normal(m, s).log_prob(z), log_joint(posterior, z)
    evidence = torch.logsumexp(log_p, 0) + math.log(1e-4)
    q = log_q.exp() * 1e-4
    energy, entropy = (q * log_p).sum(), -(q * log_q).sum()
    gap = (q * (log_q - (log_p - evidence))).sum()
    values = (energy, entropy, energy + entropy, gap, evidence)
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
    assert len(got) == len(CASES) == 40
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
    t = torch.linspace(-9, 9, 20_001)
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


# ---- what the figure shows ---------------------------------------------------------------------


def test_first_sight(visit):
    page = visit(bound_html())
    assert values_of(page) == START
    expected = by_quadrature("one peak", 0.0, 1.0)
    assert shown(page) == pytest.approx(expected, abs=5.1e-4)
    label = re.compile("q with mean 0.00 and standard deviation 1.00.*gap of 2.378.*−2.044")
    expect(page.get_by_role("img", name=label)).to_have_count(1)
    status = page.get_by_role("status")
    expect(status).to_have_text("To raise the bound, move q to the right and make it narrower.")
    assert page.locator(".nfbook-explorable > p").count() == 0, "the sentence without scripts"


@pytest.mark.parametrize(
    ("posterior", "mean", "stddev"),
    [
        ("one peak", 0.0, 1.0),
        ("one peak", -2.5, 0.1),
        ("one peak", 1.2, 0.6),
        ("two peaks", 0.0, 0.8),
        ("two peaks", 1.36, 0.1),
        ("two peaks", 2.5, 1.5),
    ],
)
def test_the_parts_add_up_in_the_picture(visit, posterior, mean, stddev):
    page = visit(bound_html())
    line = heights(page)["truth"][0]
    page = visit(bound_html(posterior=posterior, mean=mean, stddev=stddev))
    at, terms = heights(page), by_quadrature(posterior, mean, stddev)
    assert at["truth"][0] == line, "the line of the log evidence stays where it is"
    # The gap stands on the bound and ends at the line; all heights have one scale.
    assert at["gap"] == pytest.approx((line, at["bound"][0]), abs=0.01)
    floor = at["bound"][1]
    assert line <= at["bound"][0] < floor - 20
    assert at["energy"][0] < floor - 20
    if terms["gap"] > 1e-9:
        pixels = (at["gap"][1] - at["gap"][0]) / terms["gap"]
        entropy = (at["energy"][0] - at["bound"][0]) / pixels
        assert entropy == pytest.approx(terms["entropy"], abs=0.01)
    drawn = page.locator(".nfbook-pair").evaluate("(node) => node.outerHTML")
    assert not re.search(r"NaN|Infinity|undefined", drawn)


def test_the_curves_are_densities(visit):
    """The drawn lines have area 1, and the right mean and spread, in the units of the axes."""
    page = visit(bound_html(posterior="two peaks", mean=-1.4, stddev=0.2))
    ticks = page.locator(".nfbook-pair > svg").first.locator(".nfbook-axes text").all()
    texts = [tick.inner_html().replace("−", "-") for tick in ticks]
    at = dict(zip(texts, ticks, strict=True))
    zero = float(at["0"].get_attribute("y")) - 4  # the text stands a little below its tick
    unit_z = (float(at["4"].get_attribute("x")) - float(at["-4"].get_attribute("x"))) / 8
    unit_density = zero + 4 - float(at["1"].get_attribute("y"))
    middle = float(at["-4"].get_attribute("x")) + 4 * unit_z
    spread = {}
    for name in ("posterior", "variational"):
        pairs = [pair.split(",") for pair in curve(page, name)[1:].split("L")]
        x, y = torch.tensor([[float(number) for number in pair] for pair in pairs]).T
        z, density = (x - middle) / unit_z, (zero - y) / unit_density
        assert float(torch.trapezoid(density, z)) == pytest.approx(1.0, abs=0.01), name
        mean = torch.trapezoid(z * density, z)
        variance = torch.trapezoid((z - mean) ** 2 * density, z)
        spread[name] = [float(mean), float(variance.sqrt())]
    assert spread["variational"] == pytest.approx([-1.4, 0.2], abs=0.01)
    z = torch.linspace(-6, 6, 10_001)
    exact = log_joint("two peaks", z).softmax(0)
    assert spread["posterior"] == pytest.approx([0.0, float((exact @ z**2).sqrt())], abs=0.01)
    ring = page.locator(".nfbook-handle").get_attribute("transform")
    top = min((float(pair[1]), float(pair[0])) for pair in pairs)
    x, y = map(float, re.findall(r"[\d.]+", ring))
    assert (y, x) == pytest.approx(top, abs=1.0), "the ring sits on the top of q"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean": 1.2, "stddev": 1.0}, "To raise the bound, make it narrower."),
        ({"mean": 2.0, "stddev": 0.6}, "To raise the bound, move q to the left."),
        ({"mean": 1.2, "stddev": 0.3}, "To raise the bound, make it wider."),
        ({"mean": 1.2, "stddev": 0.6}, "The gap is closed: q is the posterior."),
        ({"posterior": "two peaks", "mean": 1.33, "stddev": 0.188}, "no Gaussian has two peaks.$"),
        ({"posterior": "two peaks", "stddev": 0.828}, "On one of the peaks q does better.$"),
    ],
)
def test_the_way_up_in_words(visit, values, words):
    page = visit(bound_html(**values))
    expect(page.get_by_role("status")).to_have_text(re.compile(words))


def test_keyboard(visit):
    page = visit(bound_html())
    before = curve(page, "posterior"), curve(page, "variational")
    page.keyboard.press("Tab")
    mean, stddev = page.get_by_role("slider").all()
    expect(mean).to_be_focused()
    assert mean.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    assert values_of(page) == START | {"mean": 0.02}
    expect(mean).to_have_attribute("aria-label", "mean of q")
    page.keyboard.press("End")
    assert values_of(page) == START | {"mean": 2.5}
    page.keyboard.press("Home")
    assert values_of(page) == START | {"mean": -2.5}
    page.keyboard.press("Tab")
    expect(stddev).to_be_focused()
    expect(stddev).to_have_attribute("aria-label", "standard deviation of q")
    page.keyboard.press("ArrowLeft")
    assert values_of(page) == START | {"mean": -2.5, "stddev": 0.98}
    assert curve(page, "posterior") == before[0]
    assert curve(page, "variational") != before[1]
    page.keyboard.press("Home")
    assert values_of(page) == START | {"mean": -2.5, "stddev": 0.1}
    page.keyboard.press("End")
    assert values_of(page) == START | {"mean": -2.5, "stddev": 1.5}
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert values_of(page) == {"posterior": "two peaks", "mean": -2.5, "stddev": 1.5}
    page.keyboard.press("ArrowLeft")
    assert values_of(page)["posterior"] == "one peak"
    page.keyboard.press("Tab")
    expect(page.get_by_role("button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("The gap is closed: q is the posterior.")
    controls = page.locator("input").all()
    assert [c.get_attribute("data-lm-suppress-shortcuts") for c in controls] == ["true"] * 4


def test_sliders_and_choices_reach_what_python_accepts(visit):
    page = visit(bound_html())
    traits = BoundExplorable.class_traits()
    for slider, name in zip(page.get_by_role("slider").all(), ("mean", "stddev"), strict=True):
        assert float(slider.get_attribute("min")) == traits[name].low
        assert float(slider.get_attribute("max")) == traits[name].high
    words = [radio.get_attribute("value") for radio in page.get_by_role("radio").all()]
    assert tuple(words) == traits["posterior"].words


def test_mouse_on_the_ring(visit):
    page = visit(bound_html())
    ring = page.locator(".nfbook-handle")
    # The picture without its two margins is eight units of z wide.
    unit = page.locator(".nfbook-pair > svg").first.bounding_box()["width"] - 72
    x, y = centre(ring)
    drag(page, (x, y), unit / 8)  # one unit of z
    assert values_of(page) == START | {"mean": 1.0}
    drag(page, centre(ring), 0, -80)
    assert values_of(page) == START | {"mean": 1.0, "stddev": 0.36}  # narrower by a factor e
    drag(page, centre(ring), -3000, -3000)
    assert values_of(page) == START | {"mean": -2.5, "stddev": 0.1}
    drag(page, centre(ring), 3000, 3000)
    assert values_of(page) == START | {"mean": 2.5, "stddev": 1.5}


def test_touch(visit):
    page = visit(bound_html(), has_touch=True, viewport={"width": 360, "height": 740})
    x, y = centre(page.locator(".nfbook-handle"))
    swipe(page, (x, y), (x + 10, y), (x + 34.25, y - 80))
    moved = values_of(page)
    assert moved["mean"] == pytest.approx(1.0, abs=0.021)
    assert moved["stddev"] == 0.36
    slider = page.get_by_role("slider", name="mean of q").bounding_box()
    page.touchscreen.tap(slider["x"] + slider["width"] / 2, slider["y"] + slider["height"] / 2)
    assert values_of(page)["mean"] == 0.0
    page.touchscreen.tap(*centre(page.get_by_text("two peaks")))
    assert values_of(page)["posterior"] == "two peaks"
    page.touchscreen.tap(*centre(page.get_by_role("button")))
    expect(page.get_by_role("status")).to_have_text(re.compile("No small change of q"))


def test_the_button_climbs(visit):
    page = visit(bound_html(posterior="two peaks", mean=-1.0, stddev=1.0))
    seen = page.evaluate(
        """async () => {
            const cell = document.querySelector('[data-number="bound"]');
            const seen = [];
            const watch = () => seen.push(Number(cell.textContent.replace("\u2212", "-")));
            new MutationObserver(watch).observe(cell, { childList: true });
            document.querySelector("button").click();
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
    assert values_of(page) == {"posterior": "two peaks", "mean": -1.33, "stddev": 0.188}
    assert shown(page)["gap"] == pytest.approx(0.712)


def test_a_reader_stops_the_climb(visit):
    page = visit(bound_html(mean=-2.5, stddev=1.5))
    page.evaluate("document.querySelector('button').click()")
    page.get_by_role("slider", name="mean of q").press("Home")
    stopped = values_of(page)
    assert stopped["mean"] == -2.5
    page.wait_for_timeout(300)
    assert values_of(page) == stopped


def test_who_wants_no_motion_sees_the_end_at_once(visit):
    page = visit(bound_html(), reduced_motion="reduce")
    page.evaluate("document.querySelector('button').click()")
    assert values_of(page) == START | {"mean": 1.2, "stddev": 0.6}
    assert shown(page)["gap"] == 0.0


def test_an_undone_figure_climbs_no_further(visit):
    sets = run(
        visit(""),
        "bound",
        """async (module) => {
            let sets = 0;
            const values = { posterior: "one peak", mean: -2, stddev: 1 };
            const model = { get: (name) => values[name], save_changes() {}, on() {}, off() {},
                set(name, value) { values[name] = value; sets += 1; } };
            const el = document.createElement("div");
            const undo = module.default.render({ model, el });
            el.querySelector("button").click();
            undo();
            const before = sets;
            await new Promise((done) => setTimeout(done, 200));
            return [before, sets];
        }""",
    )
    assert sets[0] == sets[1] > 0


def test_redrawn_within_50_ms(visit):
    page = visit(bound_html(posterior="two peaks"))
    expect(page.get_by_role("slider")).to_have_count(2)
    values = [k / 50 for k in range(-51, 51)]
    watched = ".nfbook-pair path.nfbook-variational"
    assert median_redraw(page, "mean of q", values, watched) < 50


# ---- the page around it ------------------------------------------------------------------------


def test_colours_follow_the_theme(visit):
    page = visit(bound_html())
    style = "(node, name) => getComputedStyle(node)[name]"

    def colour(selector: str, name: str) -> tuple[float, ...]:
        return rgb(page.locator(selector).first.evaluate(style, name))

    for meaning in ("posterior", "variational"):
        expected = tuple(int(COLORS[meaning][k : k + 2], 16) for k in (1, 3, 5))
        assert colour(f".nfbook-pair path.nfbook-{meaning}", "stroke") == expected
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
        ground = colour("body", "backgroundColor")
        for meaning in ("posterior", "variational"):
            drawn = colour(f".nfbook-pair path.nfbook-{meaning}", "stroke")
            assert contrast(drawn, ground) > (6 if theme == "dark" else 3), (theme, meaning)
        assert contrast(colour(".nfbook-truth", "stroke"), ground) > 7
        for text in (".nfbook-axes text", ".nfbook-label-truth"):
            assert contrast(colour(text, "fill"), ground) > 7
        # Two names stand on bars, whose colour is mixed with the ground's.
        for name, bar in (("bound", "bar-variational"), ("energy", "bar-energy")):
            share = float(page.locator(f".nfbook-{bar}").evaluate(style, "opacity"))
            parts = zip(colour(f".nfbook-{bar}", "fill"), ground, strict=True)
            mixed = tuple(share * ours + (1 - share) * under for ours, under in parts)
            assert contrast(colour(f".nfbook-label-{name}", "fill"), mixed) > 4.5, (theme, name)


@pytest.mark.parametrize("width", [320, 360, 800])
def test_the_pictures_stand_side_by_side_where_there_is_room(visit, width):
    page = visit(bound_html(), viewport={"width": width, "height": 740})
    page.wait_for_selector(".nfbook-axes text")
    left, right = (svg.bounding_box() for svg in page.locator(".nfbook-pair > svg").all())
    if width == 800:
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
    else:
        assert left["y"] + left["height"] <= right["y"]
        assert left["width"] == right["width"] == width - 16
        # Both pictures and both sliders are on a phone's screen together.
        lowest = page.get_by_role("slider").last.bounding_box()
        assert lowest["y"] + lowest["height"] <= 640


def test_names_do_not_overlap(visit):
    for width in (360, 800):
        page = visit(
            bound_html(),
            bound_html(mean=1.2, stddev=0.6),
            bound_html(posterior="two peaks", mean=-1.4, stddev=0.2),
            bound_html(posterior="two peaks", mean=1.4, stddev=0.1),
            bound_html(posterior="two peaks", mean=2.5, stddev=1.5),
            viewport={"width": width, "height": 740},
        )
        page.wait_for_selector(".nfbook-axes text")
        for figure in page.locator(".nfbook-bound").all():
            for picture in figure.locator(".nfbook-pair > svg").all():
                texts = [text.bounding_box() for text in picture.locator("text").all()]
                boxes = [box for box in texts if box]
                for one, other in combinations(boxes, 2):
                    assert not overlap(one, other), (width, one, other)


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Say whether two boxes share more than the space between lines of text."""
    (a, b), spare = (one, other), 3
    beside = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
    above = a["y"] + a["height"] <= b["y"] + spare or b["y"] + b["height"] <= a["y"] + spare
    return not (beside or above)


def test_two_on_a_page_are_independent(visit):
    page = visit(bound_html(), bound_html(posterior="two peaks", mean=1.0, stddev=0.5))
    page.get_by_role("slider", name="mean of q").first.press("End")
    page.get_by_role("radio", name="two peaks").first.check()
    assert values_of(page, 0) == {"posterior": "two peaks", "mean": 2.5, "stddev": 1.0}
    page.get_by_role("radio", name="one peak").first.check()
    assert values_of(page, 0) == START | {"mean": 2.5}
    assert values_of(page, 1) == {"posterior": "two peaks", "mean": 1.0, "stddev": 0.5}


def test_follows_a_new_width(visit):
    page = visit(bound_html())
    page.wait_for_selector(".nfbook-axes text")
    before = curve(page, "variational")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function(
        """(old) => old !== document.querySelector(".nfbook-pair path.nfbook-variational")
            .getAttribute("d")""",
        arg=before,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# ---- Python's side -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"posterior": "one"}, ValueError, "posterior must be one of 'one peak', 'two peaks', got"),
        ({"posterior": 1}, TypeError, "posterior must be a str, got int"),
        ({"mean": "0"}, TypeError, "mean must be a number, got str"),
        ({"mean": 2.6}, ValueError, "mean must lie between -2.5 and 2.5, got 2.6"),
        ({"mean": float("nan")}, ValueError, "mean must lie between -2.5 and 2.5, got nan"),
        ({"stddev": 0.0}, ValueError, "stddev must lie between 0.1 and 1.5, got 0"),
        ({"stddev": torch.tensor(1.0)}, TypeError, "stddev must be a number, got Tensor"),
    ],
)
def test_bad_values(values, error, message):
    with pytest.raises(error, match=message):
        BoundExplorable(**values)
    figure = BoundExplorable()
    with pytest.raises(error, match=message):
        setattr(figure, *next(iter(values.items())))
    assert figure.values() == START


def test_values_can_be_read_and_set():
    figure = BoundExplorable(mean=1)
    assert isinstance(figure.mean, float)
    seen = []
    figure.observe(lambda change: seen.append(change.new), "posterior")
    figure.posterior = "two peaks"
    figure.set_state({"mean": -2, "stddev": 1})  # what a moved slider sends
    assert seen == ["two peaks"]
    assert figure.values() == {"posterior": "two peaks", "mean": -2.0, "stddev": 1.0}


def test_stored_form():
    bundle, _ = BoundExplorable()._repr_mimebundle_()
    assert bundle.pop("application/vnd.jupyter.widget-view+json")["model_id"]
    assert bundle == {
        "text/plain": "BoundExplorable(posterior='one peak', mean=0.0, stddev=1.0)",
        "text/html": '<div class="nfbook-explorable" data-module="bound">'
        '<script type="application/json">'
        '{"posterior": "one peak", "mean": 0.0, "stddev": 1.0}</script>'
        "<p>The interactive figure appears here when the cell is run, or when scripts are on.</p>"
        "</div>",
    }
