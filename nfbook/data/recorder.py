"""Recording what a long command measured, with all that is needed to repeat it."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nfbook._checks import check_callable, check_count, check_type
from nfbook._files import write_in_one_step
from nfbook.data.stored import RESULTS

__all__ = ["machine", "record", "versions"]


def record(
    name: str,
    measure: Callable[[], Any],
    *,
    title: str,
    command: str,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    packages: Sequence[str] = ("torch",),
    folder: Path = RESULTS,
) -> dict[str, Any]:
    """Run a measurement, and store its numbers with what made them.

    The file ``name.json`` is replaced at once or not at all: a reader never finds half of it, and
    a measurement that fails leaves the last result as it was. All arguments are checked before
    the measurement starts, so that a long one is not lost to a misspelt setting.

    Arguments:
        name: The result's name, by which ``stored_result`` finds it: lower-case letters, digits
            and underscores.
        measure: Called once, without arguments. It returns the numbers, as JSON can hold them:
            None, booleans, finite numbers, strings, and lists, tuples and dictionaries of these.
        title: What was measured, in a few words.
        command: The command that measures it again.
        settings: All that the numbers depend on, beside the seeds, again as JSON can hold it.
        seeds: The seeds of all random numbers.
        packages: The installed packages whose versions matter.
        folder: Where the file goes; by default where ``stored_result`` looks.

    Returns:
        What was stored, as ``stored_result(name)`` returns it: ``title``, ``command``,
        ``settings``, ``seeds``, ``versions``, ``machine``, the ``seconds`` that it took, and
        ``result``.

    Raises:
        FileNotFoundError: There is no such folder.
        TypeError: An argument has the wrong type, or JSON cannot hold a value of the settings or
            of the result. The message says which.
        ValueError: The name has other characters, a value is infinite or NaN, a seed is negative,
            or a package is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = record(
        ...         "halves",
        ...         lambda: [0.5, 0.25],
        ...         title="Two halves",
        ...         command="python halves.py",
        ...         settings={"count": 2},
        ...         seeds=[0],
        ...         folder=Path(folder),
        ...     )
        >>> stored["result"], stored["settings"], stored["seeds"]
        ([0.5, 0.25], {'count': 2}, [0])
    """
    for argument, value in (("name", name), ("title", title), ("command", command)):
        check_type(argument, value, str, "a str")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(
            f"name must consist of lower-case letters, digits and underscores, got {name!r}"
        )
    check_callable("measure", measure)
    check_type("settings", settings, Mapping, "a mapping")
    check_type("seeds", seeds, Sequence, "a sequence of integers")
    for k, seed in enumerate(seeds):
        check_count(f"seeds[{k}]", seed, minimum=0)
    check_type("folder", folder, Path, "a pathlib.Path")
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be an existing folder, got {str(folder)!r}")
    stored = {
        "title": title,
        "command": command,
        "settings": _plain("settings", settings),
        "seeds": list(seeds),
        "versions": versions(packages),
        "machine": machine(),
    }
    started = time.perf_counter()
    result = measure()
    stored["seconds"] = round(time.perf_counter() - started, 1)
    stored["result"] = _plain("result", result)
    text = json.dumps(stored, indent=1) + "\n"
    write_in_one_step(folder / f"{name}.json", text.encode())
    return stored


def versions(packages: Sequence[str]) -> str:
    """Return the versions of Python and of some packages, as one line.

    Arguments:
        packages: The packages' names, as pip knows them.

    Raises:
        TypeError: packages is a single string, or no sequence.
        ValueError: A package is not installed.

    Example:
        >>> versions(["torch"])  # doctest: +ELLIPSIS
        'Python 3..., torch 2...'
    """
    if isinstance(packages, str):
        raise TypeError(f"packages must be a sequence of names, got the str {packages!r}")
    check_type("packages", packages, Sequence, "a sequence of names")
    found = [f"Python {platform.python_version()}"]
    for name in packages:
        try:
            # A local label, such as that of torch's CPU build, says nothing about what was run.
            found.append(f"{name} {version(name).partition('+')[0]}")
        except PackageNotFoundError:
            raise ValueError(f"packages must be installed, and {name!r} is not") from None
    return ", ".join(found)


def machine() -> str:
    """Return the number of cores that may be used, the processor's name and that of a GPU.

    The processor has a name only where the system tells it; elsewhere its architecture stands for
    it. A GPU is named if torch sees one.

    Example:
        >>> machine()  # doctest: +ELLIPSIS
        '... cores, ...'
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([f"{cores} cores", name, *gpu])


def _plain(where: str, value: object) -> Any:
    """Return a value as JSON gives it back, or say where it holds something else."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no word for these, and other readers refuse Python's.
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite, got {value}")
        return value
    if isinstance(value, list | tuple):
        return [_plain(f"{where}[{k}]", one) for k, one in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            # JSON would turn the number 1 into the string "1", and give back another key.
            if not isinstance(key, str):
                raise TypeError(f"the keys of {where} must be strings, got {key!r}")
        return {key: _plain(f"{where}[{key!r}]", one) for key, one in value.items()}
    raise TypeError(
        f"{where} must be None, a boolean, a number, a string, or a list or dictionary of these, "
        f"got {type(value).__name__}"
    )
