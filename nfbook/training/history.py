"""The history of a training run: a table with a row for each look at it."""

from __future__ import annotations

from typing import Any

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
            names = ", ".join(self.columns)
            raise KeyError(f"column must be one of {names}, got {column!r}")
        return [row.get(column) for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in the order of their first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

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
