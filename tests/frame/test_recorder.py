"""What a recorded result says, and that it is stored whole or not at all."""

import json
import math
from pathlib import Path

import pytest
import torch

from nfbook.data import record, recorder

ASKED = {"title": "A title", "command": "python it.py", "settings": {"n": (1, 2)}, "seeds": [3, 4]}


def test_what_is_stored_is_what_is_returned(tmp_path):
    made = record("it", lambda: {"a": (0.1, None)}, packages=["torch"], folder=tmp_path, **ASKED)
    assert json.loads((tmp_path / "it.json").read_text(encoding="utf-8")) == made
    assert made == {
        "title": "A title",
        "command": "python it.py",
        "settings": {"n": [1, 2]},
        "seeds": [3, 4],
        "versions": recorder.versions(["torch"]),
        "machine": recorder.machine(),
        "seconds": pytest.approx(0, abs=1),
        "result": {"a": [0.1, None]},
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "it.json"]


def test_the_measurement_is_timed(tmp_path, monkeypatch):
    now = [5.0]
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: now[0])

    def measure():
        now[0] += 2.34

    assert record("it", measure, folder=tmp_path, **ASKED)["seconds"] == 2.3


@pytest.mark.parametrize("fault", ["measuring", "result", "writing"])
def test_a_failure_leaves_the_last_result(tmp_path, monkeypatch, fault):
    record("it", lambda: 1, folder=tmp_path, **ASKED)
    before = (tmp_path / "it.json").read_bytes()

    def fail(*_):
        raise OSError("no space left")

    if fault == "writing":
        monkeypatch.setattr(recorder.os, "fsync", fail)
    measure = {"measuring": fail, "result": lambda: math.nan, "writing": lambda: 2}[fault]
    with pytest.raises((OSError, ValueError), match=r"no space left|must be finite, got nan"):
        record("it", measure, folder=tmp_path, **ASKED)
    assert (tmp_path / "it.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "it.json"]


def test_a_reader_never_finds_half_a_file(tmp_path, monkeypatch):
    record("it", lambda: 1, folder=tmp_path, **ASKED)
    seen = []
    written = recorder.os.fsync

    def look(number):
        seen.append(json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))["result"])
        written(number)

    monkeypatch.setattr(recorder.os, "fsync", look)
    record("it", lambda: 2, folder=tmp_path, **ASKED)
    assert seen == [1]
    assert json.loads((tmp_path / "it.json").read_text(encoding="utf-8"))["result"] == 2


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"name": "../it"}, ValueError, r"name must consist of lower-case .*, got '\.\./it'"),
        ({"name": 3}, TypeError, "name must be a str, got int"),
        ({"title": None}, TypeError, "title must be a str, got NoneType"),
        ({"command": ["a"]}, TypeError, "command must be a str, got list"),
        ({"measure": 3}, TypeError, "measure must be a function, got int"),
        ({"settings": [1]}, TypeError, "settings must be a mapping, got list"),
        ({"settings": {1: 2}}, TypeError, "the keys of settings must be strings, got 1"),
        (
            {"settings": {"n": [1, math.inf]}},
            ValueError,
            r"settings\['n'\]\[1\] must be finite, got inf",
        ),
        (
            {"settings": {"x": torch.ones(2)}},
            TypeError,
            r"settings\['x'\] must be None, a boolean, .*, got Tensor",
        ),
        ({"seeds": 0}, TypeError, "seeds must be a sequence of integers, got int"),
        ({"seeds": [0, -1]}, ValueError, r"seeds\[1\] must be at least 0, got -1"),
        ({"packages": "torch"}, TypeError, "packages must be a sequence .*, got the str 'torch'"),
        (
            {"packages": ["no-such-package"]},
            ValueError,
            "packages must be installed, and 'no-such-package' is not",
        ),
        ({"folder": "results"}, TypeError, r"folder must be a pathlib\.Path, got str"),
        (
            {"folder": Path("no/such/folder")},
            FileNotFoundError,
            "folder must be an existing folder, got 'no/such/folder'",
        ),
    ],
)
def test_bad_arguments_are_named_before_anything_is_measured(tmp_path, changed, error, message):
    ran = []
    given = {"name": "it", "measure": lambda: ran.append(1), "folder": tmp_path, **ASKED, **changed}
    with pytest.raises(error, match=message):
        record(**given)
    assert not ran


def test_versions_leave_out_local_labels(monkeypatch):
    monkeypatch.setattr(recorder, "version", lambda name: "1.2+cpu")
    assert recorder.versions(["torch", "numpy"]).endswith(", torch 1.2, numpy 1.2")


def test_a_gpu_is_named_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    alone = recorder.machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert recorder.machine() == f"{alone}, Some GPU"
