"""Finding a data file, and refusing one that is not the file it should be."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nfbook._checks import check_count, check_type

__all__ = ["DamagedFileError", "DataFile", "check_content", "data_folder", "find_file"]

PACKAGE = Path(__file__).resolve().parent
VARIABLE = "NFBOOK_DATA"


class DamagedFileError(ValueError):
    """A data file holds something else than it should."""


@dataclass(frozen=True)
class DataFile:
    """A file of real data: what it is called, what it holds, and where it can be had.

    Attributes:
        name: The file's name, in most cases behind the folder of its data set.
        md5: The checksum of its content, 32 lower-case hexadecimal digits.
        size: Its length in bytes.
        homes: The addresses that it can be downloaded from, the first one to be asked first.

    Raises:
        TypeError: ``size`` is not an int, or ``homes`` not a tuple. Name and checksum are looked at
            by `find_file`.
        ValueError: The size is negative.

    Example:
        >>> DataFile("toy/a.csv", "0" * 32, 8, ("https://example.org/a.csv",)).name
        'toy/a.csv'
    """

    name: str
    md5: str
    size: int
    homes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_count("size", self.size, minimum=0)
        check_type("homes", self.homes, tuple, "a tuple of addresses")


def find_file(name: str, md5: str, how_to_get: str, *, size: int | None = None) -> Path:
    """Return the path of a data file, with its content checked.

    The file is looked for in the package's own folder ``nfbook/data``, then in the folder that
    the environment variable ``NFBOOK_DATA`` names, then where downloads go without one. The first
    one found counts.

    Arguments:
        name: The file's name, or the folder of its data set, a slash and the name.
        md5: The checksum of its content, 32 lower-case hexadecimal digits.
        how_to_get: One sentence for a reader who does not have the file.
        size: Its length in bytes, if known: then the message about a file that broke off says so.

    Raises:
        FileNotFoundError: No folder holds it. The message says where it was looked for and how
            to get it.
        TypeError: An argument is not a string.
        DamagedFileError: The file's length or checksum is another one.
        ValueError: ``name`` leads out of the folders, or ``md5`` is not a checksum.

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
    if not re.fullmatch(r"[^/\\:]+(/[^/\\:]+)*", name) or {".", ".."} & set(name.split("/")):
        raise ValueError(
            f"name must be a file's name or folder/name, such as 'mnist/labels.gz', got {name!r}"
        )
    if not re.fullmatch(r"[0-9a-f]{32}", md5):
        raise ValueError(f"md5 must be 32 lower-case hexadecimal digits, got {md5!r}")
    folders = dict.fromkeys([PACKAGE, data_folder(), _cache()])
    for folder in folders:
        if (folder / name).is_file():
            check_content(folder / name, md5, size)
            return folder / name
    places = [f"  {folder / name}" for folder in folders]
    if not os.environ.get(VARIABLE):
        places.append(
            f"  the folder named by the environment variable {VARIABLE}, which is not set"
        )
    raise FileNotFoundError(
        "\n".join([f"{name} is missing. It was looked for in:", *places, how_to_get])
    )


def data_folder() -> Path:
    """Return the folder that downloads go to: ``NFBOOK_DATA``, else one in the user's cache.

    Example:
        >>> data_folder().is_absolute()
        True
    """
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else _cache()


def _cache() -> Path:
    # An empty variable counts as unset, as the XDG base directory specification says.
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "nfbook"


def check_content(path: Path, md5: str, size: int | None = None) -> None:
    """Check that a file has the length, if one is given, and the checksum that it should have.

    A guard against a broken download, not against an attacker.

    Raises:
        DamagedFileError: It has not. The message names the file and what it holds.

    Example:
        >>> check_content(Path(__file__), "0" * 32, size=1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        nfbook.data.files.DamagedFileError: ... is damaged or is another file: ...
    """
    length = path.stat().st_size
    if size is not None and length != size:
        raise _damaged(path, f"it has {length} bytes, expected {size}")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        raise _damaged(path, f"its md5 checksum is {got}, expected {md5}")


def _damaged(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path} is damaged or is another file: {why}; delete it and get it again"
    )
