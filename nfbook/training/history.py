"""The history of a training run: a table with a row for each look at it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nfbook._checks import check_type

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["TrainingHistory"]


class TrainingHistory:
    """A table: one row for each evaluation, a dictionary of numbers each.

    Attributes:
        rows: The rows, in the order of the steps.

    Example:
        >>> history = TrainingHistory()
        >>> history.append(step=100, loss=3.5, seconds=1.25)
        >>> history.append(step=200, loss=2.5, seconds=2.5)
        >>> history["loss"]
        [3.5, 2.5]
        >>> print(history)
        step  loss  seconds
         100   3.5     1.25
         200   2.5      2.5
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows: list[dict[str, Any]] = list(rows or [])

    def append(self, **row: Any) -> None:
        """Add a row."""
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        """Return a column; None where a row lacks it."""
        if column not in self.columns:
            names = ", ".join(self.columns) or "none, before the first row"
            raise KeyError(f"column must be one of {names}, got {column!r}")
        return [row.get(column) for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def plot(self, ax: Axes | None = None, *, unit: str = "nats") -> Axes:
        """Draw the loss and the validation against the step, and mark the best validation.

        Arguments:
            ax: Where to draw; None for a new figure.
            unit: What the loss is measured in, as the axis says.

        Returns:
            The axes.

        Raises:
            TypeError: ``ax`` is no axes of matplotlib, or ``unit`` no text.
            ValueError: There are no rows.

        Example:
            >>> history = TrainingHistory()
            >>> history.append(step=100, loss=3.5, validation=3.6)
            >>> history.append(step=200, loss=2.5, validation=2.75)
            >>> ax = history.plot()
            >>> [line.get_label() for line in ax.lines]
            ['loss', 'validation', 'best: 2.75']
        """
        import matplotlib.pyplot as plt  # which takes a while
        from matplotlib.axes import Axes

        from nfbook.plotting import COLORS

        if not self.rows:
            raise ValueError("the history must have a row to be drawn, got none")
        ax = plt.subplots()[1] if ax is None else ax
        check_type("ax", ax, Axes, "matplotlib Axes")
        check_type("unit", unit, str, "a str")
        for name, color in (("loss", COLORS["muted"]), ("validation", COLORS["variational"])):
            points = [(row["step"], row[name]) for row in self.rows if name in row]
            if points:
                ax.plot(*zip(*points, strict=True), color=color, label=name)
        # What is not a number is never the best, as in training.
        scores = [(row.get("validation", math.nan), row["step"]) for row in self.rows]
        best = min((score for score in scores if not math.isnan(score[0])), default=None)
        if best is not None:
            ax.plot(best[1], best[0], "o", color=COLORS["truth"], label=f"best: {best[0]:.6g}")
        ax.set(xlabel="step", ylabel=unit)
        ax.legend()
        return ax

    def __str__(self) -> str:
        names = self.columns
        cells = [names, *([_short(row.get(name)) for name in names] for row in self.rows)]
        widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in cells
        )


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
