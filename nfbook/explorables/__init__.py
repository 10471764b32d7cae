"""Interactive figures that need no kernel: one ``.py`` and one ``.mjs`` each.

The same module draws the figure in a notebook, where it is an anywidget_ whose values Python can
read and set, and on a static page, where ``mount.js`` hands it the values stored in the page.

.. _anywidget: https://anywidget.dev
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nfbook.explorables._source import static_scripts

if TYPE_CHECKING:
    from nfbook.explorables.bound import BoundExplorable
    from nfbook.explorables.coin import CoinExplorable

__all__ = ["BoundExplorable", "CoinExplorable", "static_scripts"]

HOMES = {"BoundExplorable": "bound", "CoinExplorable": "coin"}


def __getattr__(name: str) -> Any:
    # The book's builder needs the scripts only, and no widget library.
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
