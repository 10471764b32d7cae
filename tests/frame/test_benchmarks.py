"""The benchmarks' own tools, and that what the book shows is what was stored."""

import json
import math
import os
import re
import runpy
import sys
from importlib import import_module

import pins
import pytest
import torch
from draws import fixed
from pages import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import apart  # noqa: E402
import determinants  # noqa: E402
import flow_failures  # noqa: E402
import flow_training  # noqa: E402
import matching_costs  # noqa: E402
import peers  # noqa: E402
import planar  # noqa: E402
import run  # noqa: E402
import stopwatch  # noqa: E402
import vae_growth  # noqa: E402
import vae_peers  # noqa: E402
import vae_step  # noqa: E402

from nfbook.data import recorder, stored_result  # noqa: E402
from nfbook.flows import CNF  # noqa: E402
from nfbook.reproduce.command import EXPERIMENTS  # noqa: E402
from nfbook.reproduce.mnist import Settings, make_model  # noqa: E402
from nfbook.transforms import PlanarStack  # noqa: E402

# The merged results of experiments stand beside those of benchmarks.
STORED = sorted({path.stem for path in run.STORE.glob("*.json")} - set(EXPERIMENTS))
PEER_PINS = pins.read_pins((BENCHMARKS / "peers.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STORED)
def test_stored_result_says_what_made_it(name):
    stored = stored_result(name)
    assert stored["command"] == f"python benchmarks/run.py {name}"
    assert stored["settings"] == import_module(name).SETTINGS
    assert stored["seeds"] == list(getattr(import_module(name), "SEEDS", [0]))
    assert re.fullmatch(r"\d+ cores, .+", stored["machine"])
    assert re.match(r"Python 3\.\d+\.\d+, torch 2\.\d+\.\d+, ", stored["versions"])
    others = set(PEER_PINS) & {one.split()[0] for one in stored["versions"].split(", ")}
    assert others == set(getattr(import_module(name), "PEERS", ()))
    for peer in others:
        assert f"{peer} {PEER_PINS[peer]}" in stored["versions"]


@pytest.mark.parametrize("name", STORED)
def test_table_is_made_from_the_stored_result(name, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SHOWN", tmp_path)
    run.render(name, stored_result(name), import_module(name))
    shown = (BENCHMARKS / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == shown
    assert (BENCHMARKS / "results" / f"{name}.png").exists() == hasattr(import_module(name), "plot")


def test_every_benchmark_is_named_stored_and_shown():
    own = {"run", "stopwatch", "problems", "peers", "vae_peers", "apart"}
    assert {path.stem for path in BENCHMARKS.glob("*.py")} - own == set(run.NAMES)
    assert set(STORED) == set(run.NAMES)
    page = (ROOT / "book" / "benchmarks.md").read_text(encoding="utf-8")
    shown = "".join(re.findall(r"```\{benchmarks\}\n(.*?)```", page, re.S))
    assert shown.split() == list(run.NAMES)


def test_unknown_names_are_refused(capsys):
    assert run.main(["speed"]) == 2
    assert "no such benchmark: speed; there are mixture, " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"name must be one of .*kmeans_growth.*, got 'speed'"):
        stored_result("speed")
    with pytest.raises(TypeError, match="name must be a str, got int"):
        stored_result(3)


def test_a_run_stores_and_shows(tmp_path, monkeypatch, capsys):
    class Module:
        TITLE, SETTINGS = "A title", {"n": [1, 2]}

        @staticmethod
        def measure():
            return {"seconds": 0.5}

        @staticmethod
        def table(result):
            return f"| {result['seconds']} |"

    monkeypatch.setattr(run, "STORE", tmp_path)
    monkeypatch.setattr(run, "SHOWN", tmp_path)
    monkeypatch.setattr(run, "import_module", lambda name: Module)
    assert run.main(["mixture"]) == 0
    stored = json.loads((tmp_path / "mixture.json").read_text())
    assert stored["result"] == {"seconds": 0.5}
    assert stored["command"] == "python benchmarks/run.py mixture"
    assert (
        stored["versions"].partition(", ")[2] == recorder.versions(run.PACKAGES).partition(", ")[2]
    )
    text = (tmp_path / "mixture.md").read_text()
    assert text.startswith("## A title\n\nSettings: n = 1, 2.\n\n| 0.5 |\n\nMeasured on ")
    assert "| 0.5 |" in capsys.readouterr().out


def test_versions_name_the_peers_that_took_part(monkeypatch):
    asked = []
    monkeypatch.setattr(run, "render", lambda *_: None)
    monkeypatch.setattr(run, "record", lambda *_, **given: asked.append(given) or {"result": None})
    for module in (import_module("mixture"), planar):
        monkeypatch.setattr(module, "table", lambda result: "")
        run.run(module.__name__)
    assert [one["packages"][len(run.PACKAGES) :] for one in asked] == [(), planar.PEERS]


def test_peers_are_pinned_apart_from_the_environment():
    """They are installed without what they ask for, so they must not bring another version."""
    lines = (BENCHMARKS / "peers.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z-]+==[\d.]+", line) for line in lines)
    assert lines == sorted(lines)
    assert {*peers.PACKAGES, *peers.COMPILED_PACKAGES, *vae_peers.PACKAGES} <= set(PEER_PINS)
    environment = pins.read_pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert not set(PEER_PINS) & set(environment)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--no-deps" in makefile.partition("benchmarks/peers.txt")[0][-200:]


def test_reading_results_needs_no_peer(monkeypatch):
    for peer in ("zuko", "nflows", "normflows", "pyro", "flowjax", "jax"):
        monkeypatch.setitem(sys.modules, peer, None)  # so that importing it fails
    for path in BENCHMARKS.glob("*.py"):
        runpy.run_path(str(path), run_name=path.stem)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_a_flow_has_one_conditioner_for_each_transform(family):
    one = peers.LIBRARIES["nfbook"](family, 6, 3)
    shapes = [tuple(layer.get_parameter("weight").shape) for layer in one.last_layers]
    moved = 3 if family in ("realnvp", "spline-coupling") else 6
    size = 3 * peers.BINS - 1 if "spline" in family else 2
    assert shapes == [(moved * size, peers.WIDTHS[-1])] * 3


@pytest.mark.parametrize("family", ["realnvp", "maf"])
@pytest.mark.parametrize("dim", [6, 7])
def test_bare_networks_are_those_of_the_flow(family, dim):
    networks = flow_training.bare_networks(family, dim)
    one = peers.LIBRARIES["nfbook"](family, dim, flow_training.SETTINGS["transforms"])
    assert one.count(torch.zeros(4, dim)) == sum(
        p.numel() for network in networks for p in network.parameters()
    )
    flow_training.bare_step(networks, torch.zeros(4, dim))()
    assert all(p.grad is not None for network in networks for p in network.parameters())


def test_redrawn_parameters_have_the_scale_asked_for():
    one = peers.LIBRARIES["nfbook"]("realnvp", 200, 1)
    one.redraw(0.0, 5.0, torch.Generator().manual_seed(0))
    (last,) = one.last_layers
    assert not last.weight.any()
    assert last.bias.std().item() == pytest.approx(5, rel=0.2)
    x = torch.randn(3, 200)
    assert torch.equal(one.to_noise(x[:1]), one.to_noise(x)[:1])
    assert torch.allclose(one.to_data(one.to_noise(x)), x, atol=1e-2)
    assert one.sample(2).shape == (2, 200)


def test_failures_are_counted(monkeypatch):
    monkeypatch.setitem(flow_failures.SETTINGS, "batches", 20)
    calls = []

    def attempt(scale, g):
        calls.append(scale)
        turn = len(calls) % 4
        if scale > 1 and turn == 0:
            raise AssertionError
        return torch.tensor(math.nan if scale > 1 and turn == 1 else 0.01 if turn == 2 else 0.0)

    row = flow_failures.count(attempt, 5.0)
    assert row == {"raised": 5, "not finite": 5, "too large": 5, "largest": pytest.approx(0.01)}
    assert flow_failures.failed(row) == 75
    with pytest.raises(RuntimeError, match=r"not finite at scale 0\.1"):
        flow_failures.count(lambda scale, g: torch.tensor(math.inf), 5.0)


def test_contestants_take_turns_after_the_rubbish_is_gone(monkeypatch):
    order = []
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(stopwatch.gc, name, lambda name=name: order.append(name))
    seconds = stopwatch.take_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b") or 2.0}, rounds=3
    )
    rounds = ["collect", "a", "collect", "b"] * 4  # one of them to warm up
    assert order == ["collect", "freeze", *rounds, "unfreeze"]
    assert seconds["b"] == [2.0] * 3
    assert len(seconds["a"]) == 3


def test_a_contestant_apart_answers_until_its_process_ends():
    three = apart.Apart(int, 3)
    assert three.ask(int.__add__, 4) == 7
    with pytest.raises(RuntimeError, match="a contestant's process ended, with the code 3"):
        three.ask(os._exit)
    three.close()


def test_seconds_per_iteration_leaves_out_the_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def fit(iterations):
        now[0] += 5.0 + 0.25 * iterations

    assert stopwatch.seconds_per_iteration(fit, 4) == 0.25


def test_seconds_per_call_is_a_median_without_the_first(monkeypatch):
    now, lasts = [0.0], iter([9.0, 0.25, 0.5, 0.25, 4.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def work():
        now[0] += next(lasts)

    assert stopwatch.seconds_per_call(work, at_least=2.0) == 0.375
    lasts = iter([9.0, 0.25])
    assert stopwatch.seconds_per_call(work, at_least=0.0) == 0.25


def test_processor_seconds_is_the_least(monkeypatch):
    now, lasts = [0.0], iter([0.5, 0.25, 2.0])
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: now[0])

    def work():
        now[0] += next(lasts)

    assert stopwatch.processor_seconds(work, at_least=1.0) == 0.25


def test_both_log_determinants_are_those_of_the_layers():
    layers, jacobians = determinants.contestants(5, many=7, few=3)
    for k, jacobian in enumerate(jacobians):
        z, w, u, b = (value[k] for value in layers)
        by_autograd = torch.func.jacrev(lambda z, w=w, u=u, b=b: z + u * torch.tanh(w @ z + b))(z)
        torch.testing.assert_close(jacobian, by_autograd)
    found = determinants.by_formula(*layers)
    assert found.shape == (7,)
    torch.testing.assert_close(found[:3], determinants.by_elimination(jacobians))


def test_compared_is_each_with_ones_own():
    compared = stopwatch.compare({"nfbook": [1, 4], "other": [2, 4]})
    quartiles = {"lower": 0.625, "upper": 0.875}
    assert compared["ratio"] == {"other": {"median": 0.75, "min": 0.5, "max": 1, **quartiles}}
    assert compared["seconds"]["other"]["median"] == 3
    assert stopwatch.spread(compared["ratio"]["other"]) == "0.75 (0.62–0.88)"
    shown = [stopwatch.milliseconds({"median": s}) for s in (0.00123, 0.0456, 0.789, 1.234)]
    assert shown == ["1.23 ms", "45.6 ms", "789 ms", "1,234 ms"]


def test_ratios_are_those_of_each_round():
    values = {"median": 2, "min": 1, "max": 3, "lower": 1.5, "upper": 2.5}
    assert stopwatch.ratios([1, 4, 9], [1, 2, 3]) == values


def test_exponent_of_a_power():
    assert stopwatch.exponent([1, 10, 100], [3, 3e2, 3e4]) == pytest.approx(2)


def test_peak_memory_sees_what_was_freed_and_not_what_was_there():
    setup = "held = b'x' * 40_000_000"
    work = "big = b'x' * 200_000_000\ndel big"
    if sys.platform != "linux":
        with pytest.raises(RuntimeError, match="needs Linux"):
            stopwatch.peak_memory(setup, work)
        return
    added, peak = stopwatch.peak_memory(setup, work)
    assert 195e6 < added < 215e6
    assert peak > added + 40e6


# What the posterior takes from the encoder's units, beside mean and scale of 40 coordinates: w, u
# and b; 50 or 320 hidden units for each network, and in NICE for that of the scales at the end.
@pytest.mark.parametrize(
    ("family", "length", "taken"),
    [
        ("planar", 0, 0),
        ("planar", 10, 810),
        (vae_peers.FREE, 10, 0),
        ("nice", 10, 550),
        ("iaf", 4, 1280),
    ],
)
def test_networks_alone_have_what_the_posterior_takes_from_the_encoder(family, length, taken):
    floor = vae_peers.contestant(vae_step.FLOOR, family, length)
    floor.step()
    assert all(p.grad is not None and p.grad.any() for p in floor.module.parameters())
    model = vae_peers.vae(family, length)
    assert floor.module[1].out_features == 80 + taken
    encoder_and_decoder = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert floor.count() == sum(p.numel() for p in encoder_and_decoder) + 401 * (80 + taken)


def test_a_contestant_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no contestant with the name 'pyro'"):
        vae_peers.contestant("pyro", "planar", 0)


def test_parameters_of_the_layers_differ_from_image_to_image():
    model = vae_peers.vae("planar", 3)
    stack = model.flow.transform(model.encoder(vae_peers.images()))
    for value in (stack.w, stack.u, stack.b):
        assert (value.std(0) > 0.01).all()
    assert 0.12 < vae_peers.images().mean() < 0.14


def test_another_constraint_gives_the_same_layer():
    w, u = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    z, b = torch.randn(5, 3, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    # The paper's, as Pyro and normflows have it.
    theirs = vae_peers.u_for(w, u, lambda s: s.expm1().log())
    a = (w * theirs).sum(-1, keepdim=True)
    u_hat = theirs + (torch.nn.functional.softplus(a) - 1 - a) * w / w.square().sum(
        -1, keepdim=True
    )
    y = z
    for k in range(4):
        y = y + u_hat[:, k] * torch.tanh((w[:, k] * y).sum(-1, keepdim=True))
    torch.testing.assert_close(y, PlanarStack(w, u, b)(z))


def test_a_model_with_another_bound_is_refused(monkeypatch):
    class Model:
        def __init__(self, name, family, length, same=False):
            self.name = name
            assert same == (name != "nfbook")

        def ask(self, question):
            return question(self)

        def negative_bound(self):
            return bounds[self.name]

        def close(self):
            pass

    bounds = {"nfbook": 500.0, "Pyro": 500.001, "flowjax": 500.0, "nfbook, compiled": 400.0}
    monkeypatch.setattr(vae_step, "contestant", Model)
    monkeypatch.setattr(vae_step, "Apart", lambda make, *arguments: make(*arguments))
    assert vae_step._difference("planar", 10) == pytest.approx(2e-6)
    bounds["flowjax"] = 501.0
    with pytest.raises(RuntimeError, match="bounds of planar, K = 10 differ by 2e-03"):
        vae_step._difference("planar", 10)


def test_parts_of_a_step_have_the_multiplications_that_are_counted():
    sizes = {"K": 3, "batch": 7, "D": 5, "N": 11, "L": 3}
    job = Settings("planar", 3, 0, latent_dim=5, widths=(11,) * 3)
    model = make_model(job)
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    counts = vae_growth.multiplications(*sizes.values())
    assert counts[vae_growth.NETWORKS] == 7 * sum(m.weight.numel() for m in linears)
    assert counts[vae_growth.MAP] == 7 * 11 * vae_peers.context_outputs(model)
    for make in vae_growth.PARTS.values():
        make(*sizes.values())()


def test_memory_is_that_of_a_step_after_a_small_one(monkeypatch):
    steps = []
    monkeypatch.setattr(vae_growth, "update", lambda *sizes: lambda *n: steps.append((sizes, n)))
    monkeypatch.setattr(
        vae_growth, "peak_memory", lambda *code: [exec(each, held) for each in code]
    )
    held = {}
    vae_growth._memory((3, 7, 5, 11, 2))
    assert steps == [((3, 7, 5, 11, 2), (1,)), ((3, 7, 5, 11, 2), ())]
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def test_one_core_is_for_the_block_alone():
    def state():
        cores = os.sched_getaffinity(0) if sys.platform == "linux" else {0}
        return torch.get_num_threads(), len(cores), os.environ.get("OMP_NUM_THREADS")

    def fail():
        with stopwatch.one_core():
            assert state() == (1, 1, "1")
            raise ZeroDivisionError

    before = state()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert state() == before


def test_a_likelihood_evaluates_the_velocity_as_often_as_its_table_says():
    """One more evaluation, without a gradient, only tells the solver the shape."""
    flow = CNF(2, hidden_features=(8,), steps=matching_costs.STEPS, generator=fixed())
    counted = []
    flow.networks[0].register_forward_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    matching_costs.likelihood(flow, torch.zeros(3, 2), fixed())
    assert sum(counted) == matching_costs.EVALUATIONS
    counted.clear()
    matching_costs.matching(flow, torch.zeros(3, 2), fixed())
    assert counted == [True]
