"""The comparison of outputs, as `make test` runs it, on a small notebook."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

IMPORTS = """import matplotlib.pyplot as plt

from nfbook.ledger import estimate"""
NUMBERS = """estimate("gap", {value}, expected=0.12, within=0.01)
print("exact", {exact})"""
FIGURE = """plt.plot([0, 1, {height}])
plt.show()"""


CASES = {
    "same": ({}, None),
    "rounding": ({"value": 0.1187}, None),
    "invisible": ({"height": 4.000001}, None),
    "wrong-estimate": ({"value": 0.2}, "gap is 0.2, expected 0.12 ± 0.01"),
    "wrong-number": ({"exact": 0.6}, "exact 0.6"),
    "stale-picture": ({"height": 3}, "picture 1 is stale"),
}


def sources(*, value: float = 0.1234, exact: float = 0.5, height: float = 4) -> list[str]:
    """Return the cells of a notebook with these numbers."""
    return [IMPORTS, NUMBERS.format(value=value, exact=exact), FIGURE.format(height=height)]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Store one notebook's outputs, change its code in six ways, and compare all of them."""
    folder = tmp_path_factory.mktemp("pages")
    stored = new_notebook(cells=[new_code_cell(source) for source in sources()])
    NotebookClient(stored, kernel_name="python3").execute()
    for name, (changed, _) in CASES.items():
        for cell, source in zip(stored.cells, sources(**changed), strict=True):
            cell.source = source
        nbformat.write(stored, folder / f"{name}.ipynb")
    shutil.copy(ROOT / "tests" / "support" / "pictures.py", folder)
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    here = "ROOT = Path(__file__).resolve().parent.parent"
    assert here in text
    text = text.replace(here, f"ROOT = Path({str(ROOT)!r})")
    (folder / "conftest.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist"]
    sanitize = str(ROOT / "tests" / "support" / "nbval_sanitize.cfg")
    command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", sanitize, str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", CASES)
def test_comparison(said: str, name: str):
    _, reason = CASES[name]
    outcomes = re.findall(rf"^(PASSED|FAILED) (?:\S*/)?{name}\.ipynb::", said, re.M)
    assert len(outcomes) == len(sources())
    assert outcomes.count("FAILED") == (0 if reason is None else 1)
    assert reason is None or reason in said
