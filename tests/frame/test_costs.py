"""The numbers that the chapters on flows share, beside the stored results that they come from."""

import math
from statistics import mean, stdev

import pytest

import nfbook.costs
from nfbook.costs import held_out, print_costs
from nfbook.data import stored_result


def run(table, model, seed, nats, error=0.1, variant=""):
    settings = {"table": table, "model": model, "seed": seed, "variant": variant}
    return {"settings": settings, "result": {"parameters": 7, "test": [nats, error]}}


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
    assert found["maf"] == (7, mean(nats), stdev(nats), 0.2, 2)
    assert math.isnan(found["cnf"].spread)
    assert held_out("diamonds") == {}
    assert held_out("diamonds", "long")["maf"].nats == -7.0
    with pytest.raises(ValueError, match="table must be one of diamonds, weather, got 'power'"):
        held_out("power")
