"""The modules of the interactive figures as text: for a notebook's widget and for a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

__all__ = ["css", "esm", "names", "static_scripts"]

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
DATA_IMPORT = re.compile(r'^import (\w+) from "\.\./\.\./data/(\w+\.csv)";$', flags=re.MULTILINE)
KIT_IMPORT = re.compile(r'^import \{[^}]*\} from "\.\./kit\.mjs";$', flags=re.MULTILINE)


def names() -> list[str]:
    """Return the names of the figures, which are those of their folders.

    Example:
        >>> names()
        ['bound', 'coin', 'em', 'evidence', 'field', 'polynomial']
    """
    return sorted(path.parent.name for path in HERE.glob("*/figure.mjs"))


def esm(module: str) -> str:
    """Return the text of a module, with the kit and the data that it imports in their place."""
    kit = (HERE / "kit.mjs").read_text(encoding="utf-8")
    text = (HERE / module / "figure.mjs").read_text(encoding="utf-8")
    text = KIT_IMPORT.sub(lambda _: kit, text)
    return DATA_IMPORT.sub(lambda found: f"const {found[1]} = {_rows(found[2])};", text)


def _rows(file: str) -> str:
    """Return the numbers of a table as JavaScript, without the names of its columns."""
    _, *rows = (DATA / file).read_text(encoding="utf-8").split()
    return f"[{','.join(f'[{row}]' for row in rows)}]"


def css() -> str:
    """Return the style that all figures share."""
    return (HERE / "explorable.css").read_text(encoding="utf-8")


def static_scripts() -> dict[str, str]:
    """Return the scripts that carry the modules to a static page, by file name.

    A browser refuses to import a module from a file on disk. It does run an ordinary script from
    there, so each of these stores one module as text, and ``mount.js`` imports the text::

        window.nfbookModules.coin = {"esm": "...", "css": "..."}

    Example:
        >>> list(static_scripts())
        ['bound.js', 'coin.js', 'em.js', 'evidence.js', 'field.js', 'polynomial.js']
    """
    return {f"{module}.js": _script(module) for module in names()}


def _script(module: str) -> str:
    content = json.dumps({"esm": esm(module), "css": css()}, indent=1)
    return (
        "window.nfbookModules = window.nfbookModules || {};\n"
        f"window.nfbookModules[{json.dumps(module)}] = {content};\n"
    )
