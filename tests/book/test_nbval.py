"""The comparison of outputs, as pytest runs it without more options, on a small notebook."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from conftest import ROOT

IMPORTS = """import matplotlib.pyplot as plt

from nfbook.ledger import estimate"""
NUMBERS = """estimate("gap", {value}, expected=0.12, within=0.01)
print("exact", {exact})"""
FIGURE = """plt.plot([0, 1, {height}])
plt.show()"""
FIT = """import time
from nfbook.progress import progress_bar

with progress_bar(3, "fit", show=True) as bar:
    for _ in range(3):
        time.sleep({seconds})
        bar.update()"""


CASES = {
    "same": ({}, None),
    "rounding": ({"value": 0.1187}, None),
    "invisible": ({"height": 4.000001}, None),
    "wrong-estimate": ({"value": 0.2}, "gap is 0.2, expected 0.12 ± 0.01"),
    "wrong-number": ({"exact": 0.6}, "exact 0.6"),
    # A bar appears after two seconds, so only a slow machine shows what would be left of it.
    "slow-fit": ({"seconds": 1.1}, None),
    "stale-picture": ({"height": 3}, "picture 1 is stale"),
}


def sources(
    *, value: float = 0.1234, exact: float = 0.5, height: float = 4, seconds: float = 0
) -> list[str]:
    """Return the cells of a notebook with these numbers."""
    return [
        IMPORTS,
        NUMBERS.format(value=value, exact=exact),
        FIT.format(seconds=seconds),
        FIGURE.format(height=height),
    ]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Store one notebook's outputs, change its code in several ways, and compare all of them."""
    folder = tmp_path_factory.mktemp("pages")
    stored = new_notebook(cells=[new_code_cell(source) for source in sources()])
    NotebookClient(stored, kernel_name="python3").execute()
    for name, (changed, _) in CASES.items():
        for cell, source in zip(stored.cells, sources(**changed), strict=True):
            cell.source = source
        nbformat.write(stored, folder / f"{name}.ipynb")
    (folder / "conftest.py").symlink_to(ROOT / "conftest.py")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-rA"]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", "--nbval", str(folder)]
    # As a reader's shell has it: only conftest.py says that no bar is drawn.
    shell = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    done = subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, text=True)
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_comparison(said: str, name: str):
    _, reason = CASES[name]
    outcomes = re.findall(rf"^(PASSED|FAILED) (?:\S*/)?{name}\.ipynb::", said, re.M)
    assert len(outcomes) == len(sources())
    assert outcomes.count("FAILED") == (0 if reason is None else 1)
    assert reason is None or reason in said
