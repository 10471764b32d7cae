"""The package as a whole: light to import, without side effects, typed and documented."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nfbook

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(nfbook.__path__, prefix="nfbook.")
    if not module.name.rpartition(".")[2].startswith("_")
)

# What the chapters' plots and widgets need, and the package itself does not.
HEAVY = {"matplotlib", "ipywidgets", "anywidget", "sklearn", "scipy", "pandas", "IPython"}
DRAWS = {
    "nfbook.plotting",
    "nfbook.live",
    "nfbook.explorables.base",
    "nfbook.explorables.bound",
    "nfbook.explorables.coin",
}

PROBE = """
import json, sys, warnings, torch
before = (set(sys.modules), torch.get_default_dtype(), list(warnings.filters),
          torch.random.get_rng_state().tolist(),
          torch.distributions.Distribution._validate_args)
import {module}
after = (torch.get_default_dtype(), list(warnings.filters),
         torch.random.get_rng_state().tolist(),
         torch.distributions.Distribution._validate_args)
print(json.dumps({{
    "new": sorted({{name.partition(".")[0] for name in set(sys.modules) - before[0]}}),
    "unchanged": before[1:] == after,
}}))
"""


@pytest.mark.parametrize("module", [m for m in ["nfbook", *MODULES] if m not in DRAWS])
def test_importing_is_light_and_changes_nothing(module: str):
    command = [sys.executable, "-c", PROBE.format(module=module)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    probe = json.loads(result.stdout)
    assert probe["unchanged"]
    assert HEAVY.isdisjoint(probe["new"])


def test_plotting_changes_no_style_on_import():
    code = (
        "import matplotlib as m; before = dict(m.rcParams); import nfbook.plotting;"
        "assert dict(m.rcParams) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_offer(name: str):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        item = getattr(module, public)
        if inspect.isclass(item) or inspect.isfunction(item):
            assert item.__doc__, f"{name}.{public} has no docstring"


def test_public_functions_have_a_doctested_example():
    """Each name that a module offers shows its use, in its own docstring or its module's."""
    for name in MODULES:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            item = getattr(module, public)
            if getattr(item, "__module__", None) != name:
                continue
            if inspect.isfunction(item) or (
                inspect.isclass(item)
                and not issubclass(item, Exception)
                and not inspect.isabstract(item)
                and not getattr(item, "_is_protocol", False)
            ):
                assert ">>>" in (item.__doc__ or "") + (module.__doc__ or ""), f"{name}.{public}"


def test_the_package_is_typed():
    assert (Path(nfbook.__path__[0]) / "py.typed").exists()
