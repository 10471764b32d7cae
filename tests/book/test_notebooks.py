"""The notebooks' structure: what nbval does not see, and what a reader relies on."""

from __future__ import annotations

import ast
import json
import re
import sys
from types import ModuleType

import pytest
import run_notebooks
from nbval.plugin import find_comment_markers, get_sanitize_patterns
from pages import ROOT, Page, pages

from nfbook.ledger import estimate

NOTEBOOKS = [page for page in pages() if page.is_notebook]
LONGEST = 25
SECONDS = 60

# What differs from run to run or from machine to machine, and therefore never holds.
UNSTABLE = {
    "a memory address": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    "an absolute path": re.compile(r"(?<![\w.:/<])/[A-Za-z_][\w.-]*/[\w./-]*|\b[A-Z]:\\|file://"),
    "a time of day": re.compile(r"\b([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?\b"),
    "a date": re.compile(r"\b20\d\d-[01]\d-[0-3]\d\b"),
    "a warning": re.compile(r"\w*Warning\b"),
    "progress-bar debris": re.compile(r"\r|\x1b\["),
}
MACROS = re.compile(r"\\(newcommand|renewcommand|def|DeclareMathOperator|vec[a-z]+|mat[A-Z])\b")
NBVAL_TAG = re.compile(r"nbval|raises-exception", re.I)
ESTIMATE = re.compile(r"≈ (\S+) \(expected (\S+) ± (\S+)\)")

each_notebook = pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.path.stem)


def shown(page: Page) -> list:
    """Return the code cells that a reader of the static page sees."""
    return [cell for cell in page.code if "remove-cell" not in cell.metadata.get("tags", [])]


def texts(cell) -> list[str]:
    """Return all text among a cell's outputs; pictures are compared elsewhere."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found += [value for kind, value in data.items() if kind.startswith("text/")]
        found.append(output.get("text", ""))
    return [text if isinstance(text, str) else "".join(text) for text in found]


def test_every_notebook_is_in_the_book():
    stored = {path for path in (ROOT / "book").glob("**/*.ipynb") if "checkpoints" not in str(path)}
    assert stored == {page.path for page in NOTEBOOKS}


@each_notebook
def test_every_cell_was_run_in_order(page: Page):
    counts = [cell.execution_count for cell in page.code]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_no_cell_is_left_out_of_the_comparison(page: Page):
    for cell in page.code:
        tags = " ".join(cell.metadata.get("tags", []))
        assert not NBVAL_TAG.search(tags), tags
        assert list(find_comment_markers(cell.source)) == []


@each_notebook
def test_outputs_are_clean(page: Page):
    for cell in page.code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            assert "image/svg+xml" not in output.get("data", {}), "its ids differ from run to run"
        for text in texts(cell):
            for what, pattern in UNSTABLE.items():
                found = pattern.search(text)
                assert not found, f"{what} in the output of {cell.id}: {found.group()!r}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a memory address", "<Thing object at 0x7f1c2a3b4c5d>"),
        ("an absolute path", "File /home/anna/book/bayes.ipynb"),
        ("an absolute path", "/content/data/faithful.csv"),
        ("an absolute path", "file:///mnt/book"),
        ("an absolute path", r"C:\book\bayes.ipynb"),
        ("a time of day", "finished at 14:03:59"),
        ("a date", "made on 2026-11-21"),
        ("a warning", "RuntimeWarning: overflow"),
        ("progress-bar debris", "10%\r20%"),
    ],
)
def test_unclean_outputs_are_noticed(what: str, text: str):
    assert UNSTABLE[what].search(text)


@each_notebook
def test_cells_are_short(page: Page):
    for cell in page.code:
        assert len(cell.source.splitlines()) <= LONGEST, cell.source


def imports_of(source: str) -> list[ast.stmt]:
    tree = ast.parse(source)
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


@each_notebook
def test_imports_stand_in_the_first_shown_cell(page: Page):
    first, *others = shown(page)
    assert imports_of(first.source)
    for cell in others:
        assert not imports_of(cell.source), cell.source


@each_notebook
def test_first_shown_cell_imports_nothing_that_is_not_used(page: Page):
    first, *others = shown(page)
    names = {
        (alias.asname or alias.name).partition(".")[0]
        for node in imports_of(first.source)
        for alias in node.names
    }
    code = "\n".join(cell.source for cell in [first, *others])
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert names - used == set()


@each_notebook
def test_every_figure_has_caption_name_and_alt_text(page: Page):
    names = []
    for cell in page.code:
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        meta = cell.metadata.get("mystnb", {})
        if not pictures:
            assert "figure" not in meta, f"{cell.id} has a caption and no picture"
            continue
        assert len(pictures) == 1, f"{cell.id} shows {len(pictures)} pictures: one figure a cell"
        names.append(meta["figure"]["name"])
        assert len(meta["figure"]["caption"]) >= 30
        assert len(meta["image"]["alt"]) >= 30
        assert meta["image"]["alt"] != meta["figure"]["caption"]
    assert all(name.startswith("fig-") for name in names)
    assert len(names) == len(set(names))


@each_notebook
def test_every_figure_is_mentioned(page: Page):
    for cell in page.code:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if name:
            assert f"{{numref}}`{name}`" in page.text, f"the text never speaks of {name}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.path.stem)
def test_no_private_macro(page: Page):
    """JupyterLab and Binder know no macros but MathJax's own."""
    assert not MACROS.search(page.text)


@each_notebook
def test_page_opens_with_a_title_and_a_box(page: Page):
    first, second = [cell for cell in page.cells if cell.cell_type == "markdown"][:2]
    assert (first.source + second.source).count("# ") >= 1
    assert first.source.startswith("# ")
    box = page.text.split("## ", 1)[0]
    for needed in ("Before you start", "Runs in about", "able to"):
        assert needed in box


@each_notebook
def test_page_has_the_parts_of_a_chapter(page: Page):
    for heading in ("## Exercises", "## Summary", "## Where to read on"):
        assert heading in page.text
    assert 2 <= page.text.count("{exercise}") + page.text.count("{exercise-start}") <= 10


@each_notebook
def test_stochastic_numbers_hold_as_stored(page: Page):
    """A marked number lies in the range beside it, and came from the ledger's own function."""
    for cell in page.code:
        marked = [match for text in texts(cell) for match in ESTIMATE.findall(text)]
        if any("≈" in text for text in texts(cell)):
            assert "estimate(" in cell.source
            assert len(marked) == sum(text.count("≈") for text in texts(cell))
        for value, expected, within in marked:
            # The shown numbers are rounded, which may cost half a digit.
            assert abs(float(value) - float(expected)) <= 1.1 * float(within)


def test_mask_covers_the_number_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    """nbval masks with this expression: what is expected, and the name, are still compared."""
    text = (ROOT / "tests" / "support" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    (masked,) = get_sanitize_patterns(text)
    pattern, replace = masked
    assert text.count("regex:") == 1
    estimate("gap", 0.1234, expected=0.12, within=0.01)
    estimate("gap", 0.1187, expected=0.12, within=0.01)
    first, second = capsys.readouterr().out.splitlines()
    assert re.sub(pattern, replace, first) == re.sub(pattern, replace, second)
    assert re.sub(pattern, replace, first) == "gap ≈ … (expected 0.12 ± 0.01)"
    for other in ("gap ≈ 0.1234", "gap = 0.1234 (expected 0.12 ± 0.01)", "0.1234"):
        assert re.sub(pattern, replace, other) == other


@each_notebook
def test_run_time_is_measured_and_within_the_budget(page: Page):
    times = json.loads(run_notebooks.TIMES.read_text(encoding="utf-8"))
    assert times.keys() == {page.path.name for page in NOTEBOOKS}
    seconds = times[page.path.name]["seconds"]
    assert seconds <= SECONDS
    assert f"Runs in about {run_notebooks.rounded(seconds)} s" in page.text


def test_sample_lines_on_the_how_to_page_are_real(book: list[Page]):
    """It quotes one line of the ledger and one stochastic number; the notebooks print both."""
    how_to = next(page for page in book if page.name == "book/how-to-use").text
    quoted = re.search(r"^✓ \(([\d.]+)\) (.+)$", how_to, re.M)
    stochastic = ESTIMATE.search(how_to)
    assert quoted
    assert stochastic
    stated = {(i + 1, check.line) for page in book for i, check in enumerate_checks(page)}
    number = int(quoted[1].split(".")[1])
    assert (number, quoted[2]) in stated
    printed = "\n".join(text for page in book for cell in page.code for text in texts(cell))
    assert f"(expected {stochastic[2]} ± {stochastic[3]})" in printed


def enumerate_checks(page: Page) -> list:
    """Return each check with its equation's place on the page."""
    return [(page.equations.index(check.label), check) for check in page.checks]


# --- Colab


@each_notebook
def test_first_cell_prepares_colab(page: Page):
    assert page.code[0].source == run_notebooks.setup_source()
    assert "remove-cell" in page.code[0].metadata["tags"]


def test_set_up_installs_in_colab_and_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch):
    calls: list[object] = []

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            calls.append((name, line))

    source = run_notebooks.setup_source()
    exec(source, {"get_ipython": Shell})
    assert calls == []

    colab = ModuleType("google.colab")
    colab.output = ModuleType("google.colab.output")
    colab.output.enable_custom_widget_manager = lambda: calls.append("widgets")
    monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.output", colab.output)
    exec(source, {"get_ipython": Shell})
    (magic, line), widgets = calls
    url = run_notebooks.repository_url()
    assert magic == "pip"
    assert line == f'install --quiet "nfbook[notebook] @ git+{url}"'
    assert widgets == "widgets"
