"""Interactive figures that need no kernel, each in a folder of its own.

``<name>/__init__.py`` declares the figure's values, in a class ``<Name>Explorable``, and
``<name>/figure.mjs`` draws it. A folder that holds both is found by itself.

The same module draws the figure in a notebook, where it is an anywidget_ whose values Python can
read and set, and on a static page, where ``mount.js`` hands it the values stored in the page.

.. _anywidget: https://anywidget.dev
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nfbook.explorables._source import names, static_scripts

__all__ = ["names", "static_scripts"]


def __getattr__(name: str) -> Any:
    # The book's builder needs the scripts only, and no widget library.
    for folder in names():
        if name == f"{folder.title().replace('_', '')}Explorable":
            return getattr(import_module(f"{__name__}.{folder}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
