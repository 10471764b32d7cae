"""The numbers that the chapters on flows share, beside the stored results that they come from."""

import math
from statistics import mean, stdev

import pytest
import torch

import nfbook.costs
from nfbook.costs import held_out, print_costs
from nfbook.data import stored_result
from nfbook.estimators import grouped_mean


def run(table, model, seed, nats, error=0.1, variant="", groups=None):
    settings = {"table": table, "model": model, "seed": seed, "variant": variant}
    result = {"parameters": 7, "test": [nats, error]}
    if groups:
        result["test_groups"] = {"sizes": [30.0, 10.0], "means": groups}
    return {"settings": settings, "result": result}


def test_a_row_of_costs_is_what_was_stored(capsys):
    print_costs("maf")
    heads, row = capsys.readouterr().out.splitlines()[1:]
    assert heads.split()[-8:] == ["D", "=", "4", "D", "=", "64", "diamonds", "weather"]
    stored = stored_result("flow_costs")["result"]["maf"]
    medians = [stored[what][end]["median"] for what in ("density", "samples") for end in (0, -1)]
    name, *cells, diamonds, weather = row.split()
    assert name == "maf"
    assert [float(cell) for cell in cells] == pytest.approx(
        [1e3 * median for median in medians], rel=0.05
    )
    assert float(diamonds) == pytest.approx(held_out("diamonds")["maf"].nats, abs=0.051)
    assert float(weather) == pytest.approx(held_out("weather")["maf"].nats, abs=0.051)


def test_a_family_without_a_score_has_dashes(capsys):
    print_costs("planar")
    assert capsys.readouterr().out.split()[-2:] == ["–", "–"]


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match=r"families must be of plu, .*, got 'speed'"):
        print_costs("plu", "speed")
    with pytest.raises(TypeError, match="families must be strings, got int"):
        print_costs(3)


def test_a_score_is_taken_over_the_seeds_of_one_model(monkeypatch):
    runs = [run("weather", "maf", 0, -3.0, 0.2), run("weather", "maf", 1, -5.0)]
    runs += [run("weather", "cnf", 0, -9.0), run("diamonds", "maf", 0, -7.0, variant="long")]
    monkeypatch.setattr(nfbook.costs, "stored_result", lambda name: {"result": {"runs": runs}})
    nats = [-3.0, -5.0]
    found = held_out("weather")
    assert found.keys() == {"maf", "cnf"}
    assert found["maf"] == (7, mean(nats), stdev(nats), 0.2, 2, None)
    assert math.isnan(found["cnf"].spread)
    assert held_out("diamonds") == {}
    assert held_out("diamonds", "long")["maf"].nats == -7.0
    with pytest.raises(ValueError, match="table must be one of diamonds, weather, got 'power'"):
        held_out("power")


def test_a_lead_is_paired_and_its_error_is_over_groups(monkeypatch):
    """The groups differ by two nats, and the models by little in each: only that counts."""
    runs = [run("weather", "maf", seed, -2.0, groups=[-1.5 + seed, -3.5]) for seed in (0, 1)]
    runs += [run("weather", "cnf", 0, -3.0, groups=[-2.0, -4.2])]
    monkeypatch.setattr(nfbook.costs, "stored_result", lambda name: {"result": {"runs": runs}})
    found = held_out("weather")
    lead, error = found["maf"].ahead_of(found["cnf"])
    differences = torch.tensor([1.0, 0.7])  # of the means over seeds
    assert lead.item() == pytest.approx(0.75 * 1.0 + 0.25 * 0.7, abs=1e-6)
    expected = grouped_mean(torch.tensor([30.0, 10.0]), differences).standard_error
    assert error.item() == pytest.approx(expected.item(), rel=1e-5)
    assert error < 0.2  # that of one mean alone is about 0.5


def test_a_table_without_groups_has_no_error_of_a_lead(monkeypatch):
    runs = [run("diamonds", model, 0, -3.0) for model in ("maf", "cnf")]
    monkeypatch.setattr(nfbook.costs, "stored_result", lambda name: {"result": {"runs": runs}})
    found = held_out("diamonds")
    with pytest.raises(ValueError, match="other must be of a table whose rows have groups"):
        found["maf"].ahead_of(found["cnf"])
