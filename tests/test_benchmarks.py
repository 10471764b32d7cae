"""The benchmarks' own tools, and that what the book shows is what was stored."""

import json
import re
import sys
from importlib import import_module

import pytest
from pages import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import run  # noqa: E402
import stopwatch  # noqa: E402

from nfbook.data import stored_result  # noqa: E402

STORED = sorted(path.stem for path in run.STORE.glob("*.json"))


@pytest.mark.parametrize("name", STORED)
def test_stored_result_says_what_made_it(name):
    stored = stored_result(name)
    assert stored["command"] == f"python benchmarks/run.py {name}"
    assert stored["settings"] == import_module(name).SETTINGS
    assert re.fullmatch(r"\d+ cores, .+", stored["machine"])
    assert re.match(r"Python 3\.\d+\.\d+, torch 2\.\d+\.\d+, ", stored["versions"])


@pytest.mark.parametrize("name", STORED)
def test_table_is_made_from_the_stored_result(name, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SHOWN", tmp_path)
    run.render(name, stored_result(name), import_module(name))
    shown = (BENCHMARKS / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == shown
    assert (BENCHMARKS / "results" / f"{name}.png").exists() == hasattr(import_module(name), "plot")


def test_every_benchmark_is_named_stored_and_shown():
    own = {"run", "stopwatch", "problems"}
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
    assert json.loads((tmp_path / "mixture.json").read_text())["result"] == {"seconds": 0.5}
    text = (tmp_path / "mixture.md").read_text()
    assert text.startswith("## A title\n\nSettings: n = 1, 2.\n\n| 0.5 |\n\nMeasured on ")
    assert "| 0.5 |" in capsys.readouterr().out


def test_contestants_take_turns():
    order = []
    seconds = stopwatch.take_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b") or 2.0}, rounds=3
    )
    assert order == ["a", "b"] * 4  # one round to warm up
    assert seconds["b"] == [2.0] * 3
    assert len(seconds["a"]) == 3


def test_seconds_per_iteration_leaves_out_the_start(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])

    def fit(iterations):
        now[0] += 5.0 + 0.25 * iterations

    assert stopwatch.seconds_per_iteration(fit, 4) == 0.25


def test_ratios_are_those_of_each_round():
    assert stopwatch.ratios([1, 4, 9], [1, 2, 3]) == {"median": 2, "min": 1, "max": 3}


def test_exponent_of_a_power():
    assert stopwatch.exponent([1, 10, 100], [3, 3e2, 3e4]) == pytest.approx(2)


def test_peak_memory_sees_what_was_freed_and_not_what_was_there():
    setup = "import torch\nheld = torch.ones(10_000_000)"
    work = "big = torch.ones(50_000_000)\ndel big"
    if sys.platform != "linux":
        with pytest.raises(RuntimeError, match="needs Linux"):
            stopwatch.peak_memory(setup, work)
        return
    added, peak = stopwatch.peak_memory(setup, work)
    assert 195e6 < added < 215e6
    assert peak > added + 40e6
