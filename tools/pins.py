"""Pin every package: resolve the ranges of pyproject.toml in a fresh environment, and write them.

    python3.11 tools/pins.py

Writes ``constraints.txt``, the one place that holds versions, and the pip section of
``environment.yml``, which repeats those that a Binder session needs. It runs on the oldest Python
supported, since a package that installs there also installs on newer ones. The version of torch is
a choice, not the newest: to change it, edit its line in ``constraints.txt`` first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
BINDER = ROOT / "environment.yml"
OLDEST = (3, 11)

# Every system on which `make` is meant to work: packages that only one of them needs count too.
TARGETS: tuple[Mapping[str, str], ...] = tuple(
    {"python_version": python, "python_full_version": f"{python}.0", **system}
    for python in ("3.11", "3.12", "3.13")
    for system in (
        {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
        {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    )
)
LINUX = TARGETS[0]

# What the CUDA builds of torch bring. The CPU builds need none of it, so where the pins are made
# with one of those, these lines stay as they stand, like torch's own.
ACCELERATOR = re.compile(r"nvidia-|cuda-|triton")

HEADER = """\
# Every version, in one place. `make pins` writes it, and keeps the line of torch as it stands.
# pip reads it as constraints, environment.yml repeats what Binder needs of it, and
# tests/test_pins.py compares all of them with pyproject.toml and with what is installed.
# Only the CUDA builds of torch need the packages named nvidia-*, cuda-* and triton.
"""
PIP_SECTION = re.compile(r"(?<=  - pip:\n)(?:      - .*\n)+")


def canonical(name: str) -> str:
    """Return a package's name in the one spelling that can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Return ``{name: version}`` of the lines ``name==version``."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return {canonical(n): v for n, _, v in (line.partition("==") for line in lines if line)}


def closure(
    roots: Iterable[str],
    targets: Iterable[Mapping[str, str]] = TARGETS,
    without: Iterable[str] = (),
) -> set[str]:
    """Return all that ``roots``, requirements such as ``nfbook[lab]``, need on any target.

    Reads the metadata of what is installed here. A package that is not is named too, but what it
    needs in turn is unknown. What only the packages in ``without`` need is left out with them.
    """
    from packaging.requirements import Requirement  # absent from the Python that makes the pins

    environments = list(targets)
    todo = [Requirement(root) for root in roots]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonical(requirement.name)
        if name in without:
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needed = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue
            todo += [
                one
                for one in needed
                if not one.marker
                or any(one.marker.evaluate({**e, "extra": extra}) for e in environments)
            ]
    return {name for name, _ in seen} - {"nfbook"}


def binder_names() -> set[str]:
    """Return what Binder's pip installs: a live session's packages, torch coming from conda.

    Setuptools installs nfbook itself, in postBuild, and torch cannot do without it.
    """
    return closure(["nfbook[lab]", "setuptools"], [LINUX], without=["torch"])


def write(pins: Mapping[str, str], binder: Iterable[str]) -> None:
    """Write both files."""
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins)]
    CONSTRAINTS.write_text(HEADER + "".join(lines), encoding="utf-8")
    section = "".join(f"      - {name}=={pins[name]}\n" for name in sorted(binder))
    text, count = PIP_SECTION.subn(section, BINDER.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{BINDER.name} must have one pip section, found {count}")
    BINDER.write_text(text, encoding="utf-8")


def inside() -> None:
    """Print what the targets need: first all of it, then Binder's part."""
    print(*sorted(closure(["nfbook[test,lint]", "pip", "setuptools"])))
    print(*sorted(binder_names()))


def main() -> int:
    """Resolve in a fresh environment, complete it for the other systems, and write the pins."""
    if sys.version_info[:2] != OLDEST:
        oldest = ".".join(map(str, OLDEST))
        print(f"Pins are made with Python {oldest}:  make PYTHON=python{oldest} pins")
        return 1
    before = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        install = [*pip, "install", "--upgrade", f"torch=={before['torch']}"]
        subprocess.run([*install, "setuptools", "--editable", f"{ROOT}[test,lint]"], check=True)
        while True:
            listed = subprocess.run(
                [str(python), "-c", "import pins; pins.inside()"],
                cwd=ROOT / "tools",
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            needed, binder = (line.split() for line in listed.stdout.splitlines())
            frozen = subprocess.run(
                [*pip, "list", "--format=freeze"], check=True, stdout=subprocess.PIPE, text=True
            )
            installed = {n: v.partition("+")[0] for n, v in read_pins(frozen.stdout).items()}
            missing = [name for name in needed if name not in installed]
            if not missing:
                break
            subprocess.run([*install, "--no-deps", *missing], check=True)
    pins = {name: installed[name] for name in needed}
    if not any(map(ACCELERATOR.match, pins)):
        pins |= {name: version for name, version in before.items() if ACCELERATOR.match(name)}
    write(pins, binder)
    print(f"{len(pins)} packages are pinned, {len(binder)} of them for Binder.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
