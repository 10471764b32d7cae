"""What a density and a sample cost, by family: the table that the chapters on flows share."""

from __future__ import annotations

from nfbook._checks import check_type
from nfbook.data import stored_result

__all__ = ["print_costs"]


def print_costs(*families: str) -> None:
    """Print the measured times of families of flows at the smallest and the largest dimension.

    They come from the stored benchmark ``flow_costs``, whose settings name the points, the layers
    and the dimensions. The table has milliseconds, with two digits.

    Arguments:
        families: Their names, as in `nfbook.flows.FAMILIES`, in the order of the rows.

    Raises:
        TypeError: A name is not a string.
        ValueError: A family was not measured. The message names those that were.

    Example:
        >>> print_costs("planar")  # doctest: +ELLIPSIS
        milliseconds for        densities           samples
        1,000 points        D = 4  D = 64     D = 4  D = 64
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
    print(f"{'milliseconds for':{width}}{'densities':>17}{'samples':>18}")
    print(_row(points.ljust(width), [f"D = {dim}" for dim in dims] * 2))
    for family in families:
        times = [measured[family][what][end] for what in ("density", "samples") for end in (0, -1)]
        cells = [_two_digits(1e3 * one["median"]) for one in times]
        print(_row(family.ljust(width), cells))


def _row(head: str, cells: list[str]) -> str:
    first, second, third, fourth = (f"{cell:>8}" for cell in cells)
    return f"{head} {first}{second}  {third}{fourth}"


def _two_digits(value: float) -> str:
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:#.2g}"
