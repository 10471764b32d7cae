"""What is folded: in a page that is built here, and in a notebook's metadata."""

import nbformat
import pytest
import run_notebooks
from pages import ROOT
from sphinx.application import Sphinx

PAGE = """# Title

## Optional: the proof

Inside.

### A part of it

Inside too.

```{math}
:label: eq-fold-b
b
```

## After

```{math}
:label: eq-fold-a
a
```

```{math}
:label: eq-fold-c
c
```
"""
CHECKS = ['verify(\n    "eq-fold-a", 1, 1\n)', 'verify_bound("eq-fold-b", 1, 1)']


def code(source, *tags, **metadata):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags), **metadata})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page's HTML."""
    folder = tmp_path_factory.mktemp("site")
    cells = [nbformat.v4.new_markdown_cell(PAGE), *(code(check, "check") for check in CHECKS)]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=language)
    nbformat.write(notebook, folder / "index.ipynb")
    options = {
        "extensions": ["myst_nb", "folding"],
        "nb_execution_mode": "off",
        "html_static_path": [str(ROOT / "book" / "_static")],
        "html_theme": "basic",
    }
    Sphinx(
        str(folder), None, str(folder / "out"), str(folder / "doctrees"), "html", options,
        status=None, warningiserror=True,
    ).build()  # fmt: skip
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


def test_an_optional_section_is_folded_with_all_that_stands_in_it(built):
    before, _, rest = built.partition("<details><summary><h2>Optional: the proof")
    inside, _, after = rest.partition("</details>")
    assert "Title" in before
    assert inside.index("</h2>") < inside.index("</summary>") < inside.index("Inside.")
    assert "Inside too." in inside
    assert "After" in after
    assert "After" not in inside
    assert built.count("<details><summary><h2>") == 1


@pytest.mark.parametrize("name", ["a", "b"])
def test_number_and_check_lead_to_each_other(built, name):
    link = f'<span class="eqno"><a class="check-mark" href="#check-eq-fold-{name}"'
    assert built.count(link) == 1
    place = built.index(f'id="check-eq-fold-{name}"')
    # It names the cell: the next code is that of the check.
    assert f"eq-fold-{name}" in built[place:].split("</pre>")[0].split("<pre>")[1]


def test_an_equation_without_a_check_has_no_mark(built):
    assert "check-eq-fold-c" not in built


FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}


def test_a_notebook_is_folded_by_its_tags():
    alt = {"image": {"alt": "A line."}}
    cells = [
        code("1", "check"),
        code("2", "figure", mystnb=alt),
        code("3", "solution"),
        code("4", "hide-input", **FOLDED),
        code("5", "remove-cell"),
        nbformat.v4.new_markdown_cell("text"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for _ in range(2):  # the second time changes nothing
        run_notebooks.fold(notebook)
        check, figure, solution, plain, prepares, _ = (cell.metadata for cell in notebook.cells)
        prompts = {"code_prompt_show": "Show the check", "code_prompt_hide": "Hide the check"}
        assert check == {"tags": ["check", "hide-input"], "mystnb": prompts, **FOLDED}
        assert figure["tags"] == ["figure", "hide-input"]
        assert figure["mystnb"]["image"] == alt["image"]
        assert figure["mystnb"]["code_prompt_show"] == "Show the code of the figure"
        assert solution == {"tags": ["solution"], **FOLDED}
        assert plain == {}
        assert prepares == {"tags": ["remove-cell"]}
