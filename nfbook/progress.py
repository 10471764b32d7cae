"""The one progress bar: of everything that may take more than two seconds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nfbook._checks import check_type

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(total: int, what: str, *, show: bool, unit: str = "it") -> tqdm[None]:
    """Return a bar that appears after two seconds and leaves nothing behind.

    It is drawn in a terminal and in a live notebook, never into a file. A notebook does not know
    whether its outputs will be stored: where they will, set the environment variable TQDM_DISABLE.

    Bytes, of which there are many, are counted by the unit ``"B"``, and shown in k, M and G.

    Example:
        >>> with progress_bar(10, "EM", show=False) as bar:
        ...     _ = bar.update()
    """
    from tqdm.auto import tqdm  # it looks for a notebook's widgets, which takes a while

    check_type("progress", show, bool, "True or False")
    quiet = not show or bool(os.environ.get("TQDM_DISABLE"))
    # None: drawn unless the output is a file.
    disable = quiet or None
    scale = unit == "B"
    return tqdm(
        total=total, desc=what, unit=unit, unit_scale=scale, delay=2, leave=False, disable=disable
    )
