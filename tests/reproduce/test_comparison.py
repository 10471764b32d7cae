"""What is stored of an experiment, and what is missing."""

import json
from dataclasses import asdict, replace

import pytest

from nfbook.data import stored
from nfbook.reproduce import comparison, mnist
from nfbook.reproduce.comparison import cell, missing_jobs, stored_runs


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Return an empty folder of results."""
    monkeypatch.setattr(comparison, "RESULTS", tmp_path)
    (tmp_path / "mnist").mkdir()
    return tmp_path


def kept(job, bound):
    return {"settings": asdict(job), "result": {"negative_bound": [bound, 0.3]}, "seconds": 1.0}


def everything():
    return [job for name in mnist.PROTOCOLS if name != "quick" for job in mnist.jobs(name)]


def test_nothing_is_stored(results):
    assert stored_runs("mnist") == {}
    assert missing_jobs("mnist") == everything()


def test_files_and_a_merged_one_are_joined(results):
    first, second, third, *_ = mnist.jobs("book")
    runs = [kept(second, 2.0), kept(first, 7.0)]
    (results / "mnist.json").write_text(json.dumps({"result": {"runs": runs}}))
    for job, bound in ((first, 1.0), (third, 3.0)):
        (results / "mnist" / f"{job.name}.json").write_text(json.dumps(kept(job, bound)))
    found = stored_runs("mnist")
    assert list(found) == [first, second, third]
    # A job's own file is newer than the joined one.
    assert [run["result"]["negative_bound"][0] for run in found.values()] == [1.0, 2.0, 3.0]
    assert missing_jobs("mnist") == [job for job in everything() if job not in found]


def test_results_of_other_settings_do_not_count(results):
    job = replace(mnist.jobs("book")[0], updates=7)
    (results / "mnist" / "other.json").write_text(json.dumps(kept(job, 1.0)))
    (quick, *_) = mnist.jobs("quick")
    (results / "mnist" / "quick.json").write_text(json.dumps(kept(quick, 1.0)))
    assert stored_runs("mnist") == {}


def test_a_setting_that_came_later_has_its_default(results):
    (job, *_) = mnist.jobs("book")
    run = kept(job, 1.0)
    del run["settings"]["averaging"]
    (results / "mnist" / "old.json").write_text(json.dumps(run))
    assert list(stored_runs("mnist")) == [job]


def test_all_stored_results_are_those_of_jobs():
    for folder in stored.RESULTS.iterdir():
        if folder.is_dir():
            assert len(stored_runs(folder.name)) == len(list(folder.glob("*.json")))


def test_spread_has_one_degree_of_freedom_less():
    assert cell([4.0, 6.0], 3) == "5.000 ± 1.414 (2)"


def test_unknown_experiment():
    with pytest.raises(ValueError, match=r"experiment must be one of mnist, .*, got 'cats'"):
        stored_runs("cats")
    with pytest.raises(TypeError, match="experiment must be a str"):
        missing_jobs(3)
