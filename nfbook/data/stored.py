"""Results of commands that take longer than a page may, stored with what made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nfbook._checks import check_type

__all__ = ["stored_result"]

RESULTS = Path(__file__).resolve().parent / "results"


def stored_result(name: str) -> dict[str, Any]:
    """Return a stored result, such as that of a benchmark.

    Arguments:
        name: The result's name, as in ``python benchmarks/run.py NAME``.

    Returns:
        What was measured, under ``result``, and what made it: ``title``, ``command``,
        ``settings``, ``seeds``, ``versions``, ``machine`` and ``seconds``. ``nfbook.data.record``
        writes it.

    Raises:
        TypeError: name is not a string.
        ValueError: There is no such result. The message names those that there are.

    Example:
        >>> stored_result("kmeans_growth")["result"]["equal"]
        True
    """
    check_type("name", name, str, "a str")
    known = sorted(path.stem for path in RESULTS.glob("*.json"))
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result
