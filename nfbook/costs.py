"""What families of flows cost and what they give: the numbers that the chapters on flows share."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nfbook._checks import check_type
from nfbook.data import stored_result
from nfbook.estimators import Estimate, grouped_mean

__all__ = ["Score", "held_out", "print_costs"]

TABLES = ("diamonds", "weather")
# The families of `nfbook.flows.FAMILIES` that the experiment trained, by the names of its models. A
# linear flow that is trained by likelihood ends at the Gaussian with full covariance.
MODELS = {
    "plu": "gaussian",
    "maf": "maf",
    "realnvp": "realnvp",
    "spline-coupling": "spline_coupling",
    "spline-autoregressive": "spline_autoregressive",
    "cnf": "cnf",
}


class Score(NamedTuple):
    """How probable a model makes the rows of a table that were held out.

    Attributes:
        parameters: How many numbers were fitted.
        nats: The mean log probability of a row, over the seeds.
        spread: Its standard deviation between the seeds; NaN for one seed.
        error: The standard error over the rows, of the first seed; where rows resemble each other
            within groups, over the groups.
        seeds: The number of seeds.
        groups: Where there are such groups, the size and the mean of each, `(2, G)`, the means
            over the seeds.

    Example:
        >>> held_out("diamonds")["gaussian"].parameters  # 10 means, 55 covariances
        65
    """

    parameters: int
    nats: float
    spread: float
    error: float
    seeds: int
    groups: Tensor | None = None

    def ahead_of(self, other: Score) -> Estimate:
        """Return how many nats a row is more probable than under another model.

        Both have seen the same rows, so the error is that of the differences.

        Arguments:
            other: The score of another model on the same table.

        Returns:
            The mean over the rows and its standard error over their groups. How the fits would
            differ with other seeds is no part of it.

        Raises:
            ValueError: The rows have no groups, so that nothing is stored but their mean.

        Example:
            >>> scores = held_out("weather")
            >>> lead, error = scores["maf"].ahead_of(scores["gaussian"])
            >>> bool(lead > 10 * error)
            True
        """
        if self.groups is None or other.groups is None:
            raise ValueError("other must be of a table whose rows have groups, as the weather's do")
        (sizes, one), (_, two) = self.groups, other.groups
        return grouped_mean(sizes, one - two)


def held_out(table: str, variant: str = "") -> dict[str, Score]:
    """Return the score of each model in the stored result of ``nfbook.reproduce tables``.

    Arguments:
        table: "diamonds" or "weather".
        variant: That of the runs: "small" or "long", or nothing.

    Returns:
        What is stored, by the model's name: "gaussian", "mixture", or a flow, as in
        `nfbook.reproduce.tables.FAMILIES`.

    Raises:
        ValueError: There is no such table.

    Example:
        >>> scores = held_out("weather")
        >>> max(scores, key=lambda model: scores[model].nats)
        'mixture'
    """
    if table not in TABLES:
        raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
    results: dict[str, list[dict[str, Any]]] = {}
    for run in stored_result("tables")["result"]["runs"]:
        settings = run["settings"]
        if (settings["table"], settings.get("variant", "")) == (table, variant):
            results.setdefault(settings["model"], []).append(run["result"])
    return {model: _score(found) for model, found in results.items()}


def print_costs(*families: str) -> None:
    """Print what families of flows cost, and how well they fit two tables of measurements.

    The times come from the stored benchmark ``flow_costs``, whose settings name the points, the
    layers and the dimensions; they are given at the smallest and the largest dimension, with two
    digits. Beside them stands the mean log probability of a row held out, see `held_out`, and a
    dash for a family that was not trained there.

    Arguments:
        families: Their names, as in `nfbook.flows.FAMILIES`, in the order of the rows.

    Raises:
        TypeError: A name is not a string.
        ValueError: A family was not measured. The message names those that were.

    Example:
        >>> print_costs("planar")  # doctest: +ELLIPSIS
        milliseconds for        densities           samples   nats of a row held out
        1,000 points        D = 4  D = 64     D = 4  D = 64      diamonds   weather
        planar ...
    """
    stored = stored_result("flow_costs")
    settings, measured = stored["settings"], stored["result"]
    for family in families:
        check_type("families", family, str, "strings")
        if family not in measured:
            raise ValueError(f"families must be of {', '.join(measured)}, got {family!r}")
    dims = [settings["D"][0], settings["D"][-1]]
    width = max(len(name) for name in (*families, "milliseconds for"))
    points = f"{settings['points']:,} points"
    print(f"{'milliseconds for':{width}}{'densities':>17}{'samples':>18}   nats of a row held out")
    print(_row(points.ljust(width), [f"D = {dim}" for dim in dims] * 2, TABLES))
    for family in families:
        times = [measured[family][what][end] for what in ("density", "samples") for end in (0, -1)]
        cells = [_two_digits(1e3 * one["median"]) for one in times]
        print(_row(family.ljust(width), cells, [_nats(table, family) for table in TABLES]))


def _row(head: str, cells: list[str], nats: tuple[str, ...] | list[str]) -> str:
    first, second, third, fourth = (f"{cell:>8}" for cell in cells)
    diamonds, weather = nats
    return f"{head} {first}{second}  {third}{fourth}    {diamonds:>10}{weather:>10}"


def _two_digits(value: float) -> str:
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}"


def _nats(table: str, family: str) -> str:
    score = held_out(table).get(MODELS.get(family, ""))
    return f"{score.nats:.1f}" if score else "–"


def _score(found: list[dict[str, Any]]) -> Score:
    nats = [result["test"][0] for result in found]
    spread = stdev(nats) if len(nats) > 1 else float("nan")
    first, groups = found[0], None
    if "test_groups" in first:
        means = torch.tensor([result["test_groups"]["means"] for result in found]).mean(0)
        groups = torch.stack([torch.tensor(first["test_groups"]["sizes"]), means])
    return Score(first["parameters"], mean(nats), spread, first["test"][1], len(nats), groups)
