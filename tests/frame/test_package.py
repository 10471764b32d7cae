"""The package as a whole: light to import, arrows one way, typed and documented."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import nfbook

FOLDER = Path(nfbook.__path__[0])
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(nfbook.__path__, prefix="nfbook.")
    if not module.name.rpartition(".")[2].startswith("_")
)

# ---- importing ---------------------------------------------------------------------------------

# What the chapters' plots and widgets need, and the package itself does not.
HEAVY = {"matplotlib", "ipywidgets", "anywidget", "sklearn", "scipy", "pandas", "IPython"}
# Whoever imports these wants plots or widgets: a live figure, or the figure of an explorable.
DRAWS = ("nfbook.plotting", "nfbook.live", "nfbook.explorables.")
LIGHT = [name for name in ["nfbook", *MODULES] if not name.startswith(DRAWS)]

# Torch takes two seconds to import, so each module is imported in a fork of a process that has
# torch and nothing else; the module that plots, in one that has Matplotlib too.
PROBE = """
import importlib, json, os, sys, warnings, torch

def state():
    style = sys.modules.get("matplotlib")
    return (torch.get_default_dtype(), list(warnings.filters),
            torch.random.get_rng_state().tolist(),
            torch.distributions.Distribution._validate_args,
            style and dict(style.rcParams))

for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        if module == "nfbook.plotting":
            import matplotlib
        before, loaded = state(), set(sys.modules)
        importlib.import_module(module)
        new = sorted({name.partition(".")[0] for name in set(sys.modules) - loaded})
        print(json.dumps([module, {"new": new, "unchanged": state() == before}]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def probes() -> dict[str, dict]:
    """What importing each module brought along, and whether it left torch and warnings alone."""
    command = [sys.executable, "-c", PROBE, *LIGHT, "nfbook.plotting"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    print(result.stderr)  # why a module could not be imported
    return dict(json.loads(line) for line in result.stdout.splitlines())


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_light_and_changes_nothing(probes: dict[str, dict], module: str):
    assert module in probes, "it cannot be imported"
    assert probes[module]["unchanged"]
    assert HEAVY.isdisjoint(probes[module]["new"])


def test_plotting_changes_no_style_on_import(probes: dict[str, dict]):
    assert "nfbook.plotting" in probes, "it cannot be imported"
    assert probes["nfbook.plotting"]["unchanged"]


# ---- who imports whom --------------------------------------------------------------------------

# From what stands on its own to what is built of it: each may import only those before it.
ORDER = [
    "_checks",
    "_files",
    "progress",
    "quadrature",
    "sampling",
    "estimators",
    "fitting",
    "data",
    "networks",
    "transforms",
    "flows",
    "latent",
    "objectives",
    "diagnostics",
    "cases",
    "targets",
    "training",
    "vae",
    "reproduce",
]


@cache
def sources() -> dict[str, ast.Module]:
    """The syntax trees of all modules, by the modules' names."""
    trees = {}
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def walk(node: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """Yield all nodes of a tree, those under ``if TYPE_CHECKING`` only if types are asked for."""
    yield node
    for child in ast.iter_child_nodes(node):
        if types or not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from walk(child, types=types)


def imports(module: str, *, types: bool = True) -> Iterator[tuple[str, str]]:
    """Yield each module of the package that a module imports, with the name taken from it."""
    for node in walk(sources()[module], types=types):
        if isinstance(node, ast.Import):
            taken = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself"
            taken = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for source, name in taken:
            if f"{source}.{name}" in sources():
                yield f"{source}.{name}", ""
            elif source in sources():
                yield source, name


def room(module: str) -> str:
    """Return the part of the package that a module belongs to: a folder or a file."""
    return ".".join(module.split(".")[:2])


# `PPCA.fit` hands its arguments on to the fits, which make models: it imports them when called.
HANDED_ON = {
    "nfbook.latent.ppca.model": {
        f"nfbook.latent.ppca.{fit}" for fit in ("closed_form", "em", "stochastic_em")
    }
}


def test_no_circle_of_imports():
    """Neither between the parts of the package nor, as it runs, between the files of one part."""
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for module in sources():
        files[module] = {source for source, _ in imports(module, types=False)}
        files[module] -= HANDED_ON.get(module, set())
        others = {room(source) for source, _ in imports(module)} - {room(module)}
        rooms.setdefault(room(module), set()).update(others)
    for graph in (rooms, files):
        assert sum(map(len, graph.values())) > 20
        TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("name", ORDER)
def test_a_part_knows_nothing_of_those_above_it(name: str):
    above = {f"nfbook.{later}" for later in ORDER[ORDER.index(name) + 1 :]}
    modules = [module for module in sources() if room(module) == f"nfbook.{name}"]
    assert modules
    for module in modules:
        assert above.isdisjoint(room(source) for source, _ in imports(module)), module


def is_private(name: str) -> bool:
    """Say whether a name is underscored, and not one of Python's own, such as ``__all__``."""
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("module", sources())
def test_no_module_takes_what_is_private_to_another(module: str):
    for source, name in imports(module):
        assert not is_private(name), f"{source}.{name}"
        parent, _, last = source.rpartition(".")
        if is_private(last):
            # Helpers that a folder's modules share lie in an underscored module beside them.
            assert f"{module}.".startswith(f"{parent}."), f"{source} is private to {parent}"


def test_helpers_are_underscored():
    """A function or a class is named in its module's list of names, or is the module's own."""
    for module, tree in sources().items():
        if any(part.startswith("_") for part in module.split(".")):
            continue  # all of such a module is the package's own
        public = getattr(importlib.import_module(module), "__all__", [])
        made = [one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.ClassDef)]
        bare = [name for name in made if not name.startswith("_") and name not in public]
        assert bare == [], module


# ---- what modules offer ------------------------------------------------------------------------


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
    assert (FOLDER / "py.typed").exists()


# ---- names of torch that are private ------------------------------------------------------------


def private_names_of_torch(path: Path) -> set[str]:
    """Return the names within torch that a file takes and that start with an underscore."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return {name for name in names if name.startswith("torch.") and "._" in name}


def test_private_names_of_torch_are_taken_in_one_place():
    """And this version of torch has all of them."""
    taken = {path.name: private_names_of_torch(path) for path in FOLDER.rglob("*.py")}
    assert [name for name, names in taken.items() if names] == ["_torch.py"]
    for name in taken["_torch.py"]:
        attrgetter(name.removeprefix("torch."))(torch)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert set(hooks) <= set(vars(torch.nn.Module()))
