"""One place holds the versions, and whatever else names one agrees with it."""

import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import tomllib
from io import StringIO
from itertools import chain
from pathlib import Path

import environment
import pins
import pytest
import yaml
from jupyter_core.paths import jupyter_path
from jupyterlab.commands import AppOptions, list_extensions
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = pins.read_pins(CONSTRAINTS)
BINDER = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What a conda package is called in pyproject.toml.
CONDA_NAMES = {"pytorch-cpu": "torch"}


def direct() -> dict[str, SpecifierSet]:
    """Return every range that pyproject.toml states, by package."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    texts = chain(PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *extras)
    requirements = [Requirement(text) for text in texts]
    return {pins.canonical(r.name): r.specifier for r in requirements if r.name != "nfbook"}


def binder_conda() -> dict[str, str]:
    specs = [entry for entry in BINDER["dependencies"] if isinstance(entry, str)]
    return {name: version for name, _, version in (spec.partition("=") for spec in specs)}


def binder_pip() -> list[str]:
    (section,) = [entry["pip"] for entry in BINDER["dependencies"] if isinstance(entry, dict)]
    return section


def test_every_pin_is_exact_and_stands_once():
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0] for line in lines]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line), line
    assert names == sorted(set(names))


def test_every_pin_satisfies_its_range():
    for name, specifier in direct().items():
        assert PINS[name] in specifier, name


def test_everything_needed_is_pinned_and_nothing_else():
    """On every supported Python, on Linux and macOS, transitive dependencies included."""
    needed = pins.closure(["nfbook[test,lint]", "pip", "setuptools"])
    cuda = {name for name in PINS if pins.ACCELERATOR.match(name)}
    assert needed | cuda == set(PINS)


def test_what_is_installed_is_what_is_pinned():
    installed = {
        name: Version(importlib.metadata.version(name)).public
        for name in pins.closure(["nfbook[test,lint]"], [{}])
    }
    assert len(installed) > 150
    assert installed == {name: PINS.get(name) for name in installed}


def test_torch_is_the_one_chosen_and_all_that_are_stated_are_supported():
    supported = direct()["torch"]
    conda = binder_conda()["pytorch-cpu"]
    assert (PINS["torch"], conda) == ("2.13.0", "2.12.1")
    assert "2.5.0" in supported
    assert "2.4.1" not in supported
    assert conda in supported
    assert f"PyTorch to {PINS['torch']}" in README
    assert f"Binder takes PyTorch {conda}" in README
    assert "supports PyTorch 2.5 and\nlater" in README


def test_no_other_version_stands_in_the_readme():
    stated = set(re.findall(r"(?<![\w.])\d+\.\d+(?:\.\d+)?(?![\w.]*\d)", README))
    assert stated <= {"3.11", "3.13", "2.5", "4.0", PINS["torch"], binder_conda()["pytorch-cpu"]}


def test_python_is_stated_alike_everywhere():
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    oldest = "{}.{}".format(*environment.OLDEST)
    assert str(supported) == f">={oldest}"
    assert pins.OLDEST == environment.OLDEST
    assert f"Python {oldest} or newer" in README
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert binder_conda()["python"] in supported
    assert {target["python_version"] for target in pins.TARGETS} >= {oldest}


def test_binder_takes_torch_and_python_from_conda_and_all_else_from_pip():
    assert set(binder_conda()) == {"python", "pytorch-cpu", "pip"}
    assert BINDER["channels"] == ["conda-forge"]
    assert set(pins.read_pins("\n".join(binder_pip()))) == pins.binder_names()


def test_binder_versions_are_the_pinned_ones():
    assert [entry.count("==") for entry in binder_pip()] == [1] * len(binder_pip())
    for name, version in pins.read_pins("\n".join(binder_pip())).items():
        assert PINS[name] == version


def test_binder_has_what_a_chapter_imports_and_renders():
    names = pins.closure(["nfbook[lab]"], [pins.LINUX])
    present = set(pins.read_pins("\n".join(binder_pip()))) | set(CONDA_NAMES.values())
    lab = PROJECT["project"]["optional-dependencies"]
    wanted = {
        pins.canonical(Requirement(text).name)
        for text in PROJECT["project"]["dependencies"] + lab["notebook"] + lab["lab"]
    } - {"nfbook"}
    assert wanted <= present
    assert "jupyterlab-myst" in present
    # What is missing comes with conda's PyTorch.
    assert names - present <= pins.closure(["torch"], [pins.LINUX])


def test_jupyterlab_loads_every_extension():
    """An extension made for another version is listed, and then silently not loaded."""
    said = StringIO()
    logger = logging.Logger("jupyterlab")
    logger.addHandler(logging.StreamHandler(said))
    folders = jupyter_path("labextensions")
    list_extensions(AppOptions(logger=logger, labextensions_path=folders))
    listed = re.sub(r"\x1b\[\d*m", "", said.getvalue())
    assert re.search(r"jupyterlab-myst v[\d.]+ enabled\s+OK", listed), listed
    assert "not compatible" not in listed


def test_binder_has_nothing_that_only_building_or_testing_needs():
    extras = PROJECT["project"]["optional-dependencies"]
    only = {
        pins.canonical(Requirement(text).name)
        for text in extras["book"] + extras["test"] + extras["lint"]
    }
    live = {pins.canonical(Requirement(text).name) for text in extras["notebook"] + extras["lab"]}
    present = set(pins.read_pins("\n".join(binder_pip()))) | set(binder_conda())
    needed_by_figures = pins.closure(["matplotlib"], [pins.LINUX])
    assert present & (only - live) <= needed_by_figures
    assert not present & {"sphinx", "pytest", "playwright", "mypy", "ruff", "nbval"}


def test_no_pip_package_of_binder_brings_another_torch():
    """What asks for torch is content with conda's, so pip leaves it alone."""
    (asking,) = [
        name
        for name in pins.read_pins("\n".join(binder_pip()))
        if "torch" in pins.closure([name], [pins.LINUX])
    ]
    assert asking == "torchdiffeq"
    (wanted,) = [
        one
        for one in map(Requirement, importlib.metadata.requires(asking))
        if pins.canonical(one.name) == "torch"
    ]
    assert binder_conda()["pytorch-cpu"] in wanted.specifier


def test_each_file_names_a_package_once():
    names = [pins.canonical(CONDA_NAMES.get(name, name)) for name in binder_conda()]
    names += [pins.canonical(entry.partition("==")[0]) for entry in binder_pip()]
    assert len(names) == len(set(names))
    groups = PROJECT["project"]["optional-dependencies"]
    for group in (PROJECT["project"]["dependencies"], *groups.values()):
        listed = [pins.canonical(Requirement(text).name) for text in group]
        assert len(listed) == len(set(listed))


def test_closure_follows_extras_and_markers_and_leaves_out():
    assert "jupyterlab" in pins.closure(["nfbook[test]"], [pins.LINUX])
    assert "jupyterlab" not in pins.closure(["nfbook[notebook]"], [pins.LINUX])
    assert "appnope" not in pins.closure(["ipykernel"], [pins.LINUX])
    assert "appnope" in pins.closure(["ipykernel"])
    assert "sympy" in pins.closure(["nfbook"], [pins.LINUX])
    assert "sympy" not in pins.closure(["nfbook"], [pins.LINUX], without=["torch"])


def test_pins_are_written_where_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pins, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(pins, "BINDER", tmp_path / "environment.yml")
    pins.BINDER.write_text((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pins.write(PINS, pins.binder_names())
    assert pins.CONSTRAINTS.read_text() == CONSTRAINTS
    assert pins.BINDER.read_text() == (ROOT / "environment.yml").read_text(encoding="utf-8")
    pins.write({"b": "2", "a": "1"}, ["a"])
    assert pins.read_pins(pins.CONSTRAINTS.read_text()) == {"a": "1", "b": "2"}
    assert pins.BINDER.read_text().endswith("  - pip:\n      - a==1\n")


def recipe(folder: Path) -> str:
    """Return the recipe that Binder would build, and what its maker said."""
    done = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def steps(text: str) -> list[str]:
    """Name a recipe's steps that decide what stays in the cache, in their order."""
    patterns = {
        "environment.yml": r"^COPY .*src/environment\.yml",
        "environment": r"env update .*environment\.yml",
        "repository": r"^COPY .*src/ ",
        "postBuild": r"^RUN \./postBuild",
    }
    found = [(m.start(), name) for name, p in patterns.items() for m in re.finditer(p, text, re.M)]
    return [name for _, name in sorted(found)]


def test_binder_builds_the_environment_before_it_copies_the_repository():
    text = recipe(ROOT)
    assert f"conda environment for python={binder_conda()['python']}" in text
    assert steps(text) == ["environment.yml", "environment", "repository", "postBuild"]


def test_a_local_package_in_the_environment_would_be_noticed(tmp_path):
    """Then the repository is copied first, and every change builds the environment again."""
    (tmp_path / "environment.yml").write_text(
        "dependencies:\n  - python=3.11\n  - pip:\n      - -e .\n"
    )
    assert steps(recipe(tmp_path))[0] == "repository"


def test_post_build_installs_the_package_alone():
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert commands[0] == "set -euo pipefail"
    (install,) = commands[1:]
    assert install.startswith("python -m pip install ")
    for option in ("--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"):
        assert option in install.split()
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff"])
def test_one_address_of_the_repository(name: str):
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["repository"]["url"]
    text = (ROOT / name).read_text(encoding="utf-8")
    stated = set(re.findall(r"https://github\.com/[\w.-]+/[\w.-]+", text))
    assert stated == {address}
    owner = address.removeprefix("https://github.com/")
    branch = config["repository"]["branch"]
    badges = re.findall(r"mybinder\.org/v2/gh/([\w./-]+)\?", text)
    assert badges == ([f"{owner}/{branch}"] if name == "README.md" else [])


def test_citation_names_the_version_and_the_licences():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    import nfbook

    assert citation["version"] == nfbook.__version__
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == [PROJECT["project"]["license"], "CC-BY-4.0"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert (ROOT / "LICENSE-TEXT").read_text().startswith("Attribution 4.0 International")
