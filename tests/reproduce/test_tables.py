"""The experiment with two tables: its jobs, what a run returns, and the unit of its numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from draws import seeded
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

from nfbook.data import Splits, Table
from nfbook.reproduce import tables
from nfbook.reproduce.tables import FAMILIES, TABLES, Columns, Settings, jobs, make_flow, run

F64 = torch.float64
QUICK = jobs("quick")


def test_the_jobs_are_every_model_of_both_tables_with_three_seeds():
    every = jobs("book")
    assert len({job.name for job in every}) == len(every) == 2 * (2 + len(FAMILIES) + 2) * 3
    assert {job.seed for job in every[: 2 * (2 + len(FAMILIES))]} == {0}
    assert {job.model for job in every if job.variant} == {"maf"}


@pytest.mark.parametrize("job", QUICK, ids=lambda job: job.model)
def test_a_run_returns_what_json_can_hold(job):
    result = run(job, progress=False)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for part in ("validation", "test"):
        value, error = result[part]
        assert value < 0
        assert error > 0
    if job.model in FAMILIES:
        assert result["history"]["step"] == [2, 4]
        assert result["best_step"] in (2, 4)
        # The best parameters are those evaluated, in the same unit and with the same noise.
        lowest = min(result["history"]["validation"])
        assert result["validation"][0] == pytest.approx(-lowest, abs=1e-3)
        assert result["parameters"] == sum(p.numel() for p in make_flow(job, 10).parameters())


def test_a_run_is_the_same_again_and_another_with_another_seed():
    job = next(job for job in QUICK if job.model == "maf")
    first = run(job, progress=False)["test"]
    torch.manual_seed(5)
    assert run(job, progress=False)["test"] == first
    assert run(replace(job, seed=1), progress=False)["test"] != first


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flow_starts_from_its_jobs_seed(family):
    job = Settings("diamonds", family, 0, length=1)
    first, again, other = (
        torch.cat([p.flatten() for p in make_flow(replace(job, seed=seed), 10).parameters()])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_gaussian_is_the_one_of_maximum_likelihood():
    job = QUICK[0]
    columns = Columns(TABLES[job.table](), job.rows)
    generator = torch.Generator().manual_seed(job.seed)
    z = columns.standardise(columns.parts["train"], generator)
    exact = MultivariateNormal(z.mean(0), z.T.cov(correction=0))
    found = run(job, progress=False)
    assert found["parameters"] == 10 + 55
    expected = columns.log_probability(exact, "test", job.draws)
    assert found["test"] == pytest.approx(expected, abs=1e-3)


def made(n=4000):
    """Rounded draws of two columns with spacings of their own, whose true density is known."""
    spacing = torch.tensor([0.1, 2.0], dtype=F64)
    scale = torch.tensor([3.0, 40.0], dtype=F64)
    # Another seed than that of the noise, which must not depend on the rows.
    exact = 5 + scale * torch.randn(n, 2, generator=seeded(7), dtype=F64)
    rows = (exact / spacing).round() * spacing
    cells = Independent(Normal(torch.full((2,), 5.0, dtype=F64), scale), 1)
    upper, lower = (cells.base_dist.cdf(rows + sign * spacing / 2) for sign in (1, -1))
    return (
        Table(("a", "b"), spacing, Splits(rows, rows, rows)),
        cells,
        (upper - lower).log().sum(-1),
    )


def test_the_number_is_the_logarithm_of_a_probability():
    """Of the rows as written down, counted cell by cell; narrow cells make the bound tight."""
    table, density, log_p = made()
    columns = Columns(table)
    mean, log_std = columns.units.shift, columns.units.log_scale
    base = density.base_dist
    standard = Independent(Normal((base.loc - mean) / log_std.exp(), base.scale / log_std.exp()), 1)
    value, error = columns.log_probability(standard, "test", 4)
    assert value == pytest.approx(log_p.mean().item(), abs=1e-3)
    assert error == pytest.approx(log_p.std().item() / math.sqrt(len(log_p)), rel=0.02)


def test_rows_of_one_group_count_as_alike():
    """Twice the rows say no more, if each row and its copy are one group."""
    table, density, _ = made(200)
    twice = Splits(*(part.repeat(2, 1) for part in table.rows))
    groups = Splits(*[torch.arange(200).repeat(2)] * 3)
    once, grouped, single = (
        Columns(one).log_probability(density, "test", 1)
        for one in (
            table,
            Table(table.columns, table.spacing, twice, groups),
            Table(table.columns, table.spacing, twice),
        )
    )
    assert grouped[1] == pytest.approx(once[1], rel=0.02)  # the noise differs
    assert single[1] == pytest.approx(once[1] / math.sqrt(2), rel=0.02)


def test_a_run_keeps_the_groups_of_the_rows_that_it_reports():
    job = replace(QUICK[0], table="weather", rows=None, components=(1,), model="gaussian")
    found = run(job, progress=False)
    sizes, means = (torch.tensor(found["test_groups"][name]) for name in ("sizes", "means"))
    assert len(sizes) == 12
    assert sizes.sum() == 2318
    value, error = found["test"]
    assert (sizes * means).sum() / 2318 == pytest.approx(value, abs=1e-4)
    # A Gaussian's scores depend on the weather of the day: many times the error of single rows.
    assert error > 0.2


def test_other_units_change_nothing():
    table, _, _ = made(500)
    factor = torch.tensor([100.0, 0.01], dtype=F64)
    rows = Splits(*(factor * part for part in table.rows))
    other = Table(table.columns, factor * table.spacing, rows)
    base = Independent(Uniform(torch.full((2,), -9.0, dtype=F64), 9.0), 1)
    first, second = (Columns(each).log_probability(base, "test", 1) for each in (table, other))
    assert first == pytest.approx(second, abs=1e-9)


def test_noise_held_out_is_fixed_and_fresh_in_each_draw():
    columns = Columns(made(50)[0])
    first = columns.held_out("test", 2)
    assert torch.equal(first, columns.held_out("test", 2))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("components", [(1, 2), (2, 1)])
def test_a_mixture_has_the_number_of_components_that_the_validation_rows_like_best(
    monkeypatch, components
):
    """Two groups far apart: one component is too few."""
    rows = torch.randn(1500, 2, generator=seeded(), dtype=F64)
    rows[::2] += 12
    table = Table(("a", "b"), torch.full((2,), 1e-3, dtype=F64), Splits(*rows.split(500)))
    monkeypatch.setattr(tables, "TABLES", {"made": lambda: table})
    job = Settings("made", "mixture", 0, components=components)
    assert run(job, progress=False)["components"] == 2
