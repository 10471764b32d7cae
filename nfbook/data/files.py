"""Finding a data file, and refusing one that is not the file it should be."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

__all__ = ["find_file"]

PACKAGE = Path(__file__).resolve().parent
VARIABLE = "NFBOOK_DATA"


def find_file(name: str, md5: str, how_to_get: str) -> Path:
    """Return the path of a data file, with its content checked.

    The file is looked for in the package's own folder ``nfbook/data``, then in the folder that
    the environment variable ``NFBOOK_DATA`` names. The first one found counts.

    Arguments:
        name: The file's name, without a folder.
        md5: The checksum of its content, 32 lower-case hexadecimal digits.
        how_to_get: One sentence for a reader who does not have the file.

    Raises:
        FileNotFoundError: No folder holds it. The message says where it was looked for and how
            to get it.
        TypeError: An argument is not a string.
        ValueError: The file's checksum differs from ``md5``, ``name`` holds a folder, or ``md5``
            is not a checksum.

    Example:
        >>> find_file("no-such-file.csv", "0" * 32, "It does not exist.")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        FileNotFoundError: no-such-file.csv is missing. It was looked for in:
        ...
    """
    for argument, value in (("name", name), ("md5", md5), ("how_to_get", how_to_get)):
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a str, got {type(value).__name__}")
    if not name or re.search(r"[/\\]", name) or name in {".", ".."}:
        raise ValueError(f"name must be a file's name without a folder, got {name!r}")
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise ValueError(f"md5 must be 32 lower-case hexadecimal digits, got {md5!r}")
    folder = os.environ.get(VARIABLE)
    candidates = [PACKAGE / name, *([Path(folder).expanduser() / name] if folder else [])]
    for path in candidates:
        if path.is_file():
            _check_content(path, md5)
            return path
    places = [f"  {path}" for path in candidates]
    if not folder:
        places.append(
            f"  the folder named by the environment variable {VARIABLE}, which is not set"
        )
    raise FileNotFoundError(
        "\n".join([f"{name} is missing. It was looked for in:", *places, how_to_get])
    )


def _check_content(path: Path, expected: str) -> None:
    # A guard against a broken download, not against an attacker.
    with path.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != expected:
        raise ValueError(
            f"{path} is damaged or is another file: its md5 checksum is {got}, "
            f"expected {expected}; delete it and get it again"
        )
