"""The figure of the field: its particles and densities against torchdiffeq, autograd and sums."""

from __future__ import annotations

import math

import figures
import pytest
import torch
from figures import PHONE, WIDE, centre, drag
from torch.distributions import Normal

from nfbook.explorables import FieldExplorable
from nfbook.transforms import Continuous, VectorField

START = {"field": "split", "layers": "2", "time": 0.6, "start": 0.5}
VELOCITIES = {
    "stretch": lambda t, z: 0.8 * z,
    "split": lambda t, z: 1.2 * torch.tanh(2 * z),
    "gather": lambda t, z: -1.2 * torch.tanh(2 * z),
    "there and back": lambda t, z: 2.5 * torch.cos(math.pi * t) * torch.tanh(2 * z),
}
FIELDS = list(VELOCITIES)
TIMES = [0.0, 0.13, 0.5, 0.6, 1.0]
STARTS = [-2.5, -0.4, 0.0, 0.03, 0.9, 2.5]

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module


@pytest.fixture
def kind():
    return FieldExplorable


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Field(VectorField):
    def __init__(self, name):
        self.velocity = VELOCITIES[name]

    def __call__(self, t, z):
        return self.velocity(t, z)


def solved(name, start, time):
    """Return places and log-determinants by the package's solver."""
    if time == 0:
        return start, torch.zeros_like(start)
    flow = Continuous(Field(name), end=time, tolerance=1e-11, method="dopri8")
    z, ladj = flow.call_and_ladj(start.unsqueeze(-1))
    return z.squeeze(-1), ladj


def in_layers(name, start, count, time):
    """Return places and slopes after layers whose derivative autograd takes."""

    def run(z):
        for k in range(count):
            step = min(1 / count, time - k / count)
            if step > 0:
                z = z + step * VELOCITIES[name](torch.tensor(k / count), z)
        return z

    return torch.func.vmap(run)(start), torch.func.vmap(torch.func.grad(run))(start)


# ---- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_a_particle_follows_the_field(module, name):
    start, normal = torch.tensor(STARTS), Normal(0.0, 1.0)
    for time in TIMES:
        got = module(
            """({ FIELDS, account }, [name, starts, t]) => starts.map((start) =>
                ({ z: FIELDS[name].at(start, t), ...account(FIELDS[name], start, t) }))""",
            [name, STARTS, time],
        )
        z, ladj = solved(name, start, time)
        found = {key: torch.tensor([float(each[key]) for each in got]) for key in got[0]}
        torch.testing.assert_close(found["z"], z, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found["base"], normal.log_prob(start), rtol=1e-12, atol=0)
        torch.testing.assert_close(found["integral"], ladj, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            found["density"], normal.log_prob(start) - ladj, rtol=1e-7, atol=1e-7
        )


@pytest.mark.parametrize("name", FIELDS)
def test_velocity_slope_and_way_back(module, name):
    z = torch.linspace(-3, 3, 25)
    got = module(
        """({ FIELDS }, [name, zs, t]) => zs.map((z) => [FIELDS[name].v(z, t),
            FIELDS[name].slope(z, t), FIELDS[name].at(FIELDS[name].back(z, t), t)])""",
        [name, z.tolist(), 0.3],
    )
    velocity = lambda z: VELOCITIES[name](torch.tensor(0.3), z)  # noqa: E731
    expected = [velocity(z), torch.func.vmap(torch.func.grad(velocity))(z), z]
    torch.testing.assert_close(torch.tensor(got).T, torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FIELDS)
def test_a_density_has_area_one(module, name):
    z = torch.linspace(-14, 14, 14_001)
    for time in TIMES:
        got = module(
            "({ FIELDS, density }, [name, zs, t]) => zs.map((z) => density(FIELDS[name], z, t))",
            [name, z.tolist(), time],
        )
        assert float(torch.trapezoid(torch.tensor(got), z)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", FIELDS)
def test_layers(module, name):
    start = torch.tensor(STARTS)
    for count in (1, 2, 4, 16):
        for time in (0.13, 0.5, 0.6, 1.0):
            got = module(
                """({ FIELDS, layered }, [name, starts, K, t]) =>
                    starts.map((start) => layered(FIELDS[name], start, K, t))""",
                [name, STARTS, count, time],
            )
            z, slope = in_layers(name, start, count, time)
            torch.testing.assert_close(
                torch.tensor([float(each["z"]) for each in got]), z, rtol=1e-10, atol=1e-12
            )
            ladj = torch.tensor([float(each["ladj"]) for each in got])
            torch.testing.assert_close(ladj, slope.abs().log(), rtol=1e-8, atol=1e-8)
            for each in got:
                assert each["corners"][0][0] == 0
                assert each["corners"][-1] == pytest.approx([time, each["z"]])


def test_layers_fold_where_they_are_too_few(module):
    """Gathering has a slope of -2.4 in the middle, so three layers are enough."""
    got = module(
        """({ FIELDS, layeredDensity }, cases) =>
            cases.map(([name, K]) => layeredDensity(FIELDS[name], K, 1) === null)""",
        [(name, count) for name in FIELDS for count in (1, 2, 3, 16)],
    )
    folded = {name: got[4 * k : 4 * k + 4] for k, name in enumerate(FIELDS)}
    assert folded["gather"] == [True, True, False, False]
    assert not any(folded["split"] + folded["stretch"])


@pytest.mark.parametrize("name", FIELDS)
def test_the_density_of_layers_has_area_one(module, name):
    points = module(
        "({ FIELDS, layeredDensity }, name) => layeredDensity(FIELDS[name], 4, 1)", name
    )
    z, density = torch.tensor(points).T
    assert bool((z.diff() > 0).all())
    assert float(torch.trapezoid(density, z)) == pytest.approx(1, abs=2e-3)


# ---- what the figure shows -----------------------------------------------------------------------


def number(text):
    return float(text.replace("−", "-"))


def test_first_sight(figure):
    assert figure.values() == START
    numbers = {name: number(text) for name, text in figure.numbers().items()}
    start = torch.tensor([0.5])
    z, ladj = solved("split", start, 0.6)
    base = Normal(0.0, 1.0).log_prob(start)
    expected = {"base": base, "integral": ladj, "density": base - ladj}
    assert numbers == pytest.approx({k: float(v) for k, v in expected.items()}, abs=6e-4)
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert f"is at {float(z):.3f}." in label


def test_what_the_layers_do_in_words(figure):
    for words, values in {
        "too low by": {"field": "stretch", "layers": "1", "time": 0.0},
        "two paths cross": {"field": "gather", "layers": "1", "time": 1.0},
        "too high by": {"field": "stretch", "layers": "1", "time": 1.0},
    }.items():
        figure.show(**values)
        text = figure.place.get_by_role("status").inner_text()
        if values["time"] == 0.0:
            assert "the same to three digits" in text
        else:
            assert words in text
    # The layers' curve is shown only where it is a density.
    hidden = """(place) => place.querySelectorAll(
        ".nfbook-pair > svg:last-child path.nfbook-variational[hidden]").length"""
    figure.show(field="gather", layers="1", time=1.0)
    assert figure.place.evaluate(hidden) == 1
    figure.show(field="gather", layers="4", time=1.0)
    assert figure.place.evaluate(hidden) == 0


def test_the_ring_follows_the_pointer(figure):
    for field in FIELDS:
        figure.show(field=field)
        handle = figure.place.locator(".nfbook-handle")
        x, y = centre(handle)
        drag(figure.page, (x, y), 40, -15)
        box = handle.bounding_box()
        assert box["x"] + box["width"] / 2 == pytest.approx(x + 40, abs=4)
        assert box["y"] + box["height"] / 2 == pytest.approx(y - 15, abs=4)


def test_time_runs_to_its_end(figure):
    figure.show(time=0.7)
    seen = figure.place.evaluate(
        """async (place) => {
            const seen = [];
            place.model.on("change:time", () => seen.push(place.model.get("time")));
            place.querySelector("button").click();
            let count = -1;
            while (count !== seen.length) {
                count = seen.length;
                await new Promise((done) => setTimeout(done, 600));
            }
            return seen;
        }"""
    )
    assert len(seen) > 10, "one sees it move"
    assert seen == sorted(seen)
    assert figure.values() == START | {"time": 1.0}


def test_a_reader_stops_the_run(figure):
    figure.show(time=0.0)
    times = figure.place.evaluate(
        """async (place) => {
            place.querySelector("button").click();
            const slider = place.querySelector("input[type=range]");
            slider.value = 0.5;
            slider.dispatchEvent(new Event("input"));
            const stopped = place.model.get("time");
            await new Promise((done) => setTimeout(done, 150));
            return [stopped, place.model.get("time")];
        }"""
    )
    assert times == [0.5, 0.5]


def test_who_wants_no_motion_sees_the_end_at_once(figure):
    figure.page.emulate_media(reduced_motion="reduce")
    figure.place.locator("button").click()
    assert figure.values() == START | {"time": 1.0}
    figure.place.locator("button").click()
    assert figure.values() == START | {"time": 0.0}


def test_the_pictures_stand_side_by_side_where_there_is_room(figure):
    for size in (WIDE, PHONE):
        figure.resize(size)
        left, right = (svg.bounding_box() for svg in figure.all(".nfbook-pair > svg"))
        if size == WIDE:
            assert left["y"] == right["y"]
        else:
            assert left["y"] + left["height"] <= right["y"]
