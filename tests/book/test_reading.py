"""Reading comes first: a chapter's length, and how much of its open code is there for checks."""

import nbformat
import pytest
from pages import ROOT, Page, pages
from reading import main_cells, names_of, reading

CHAPTERS = [page for page in pages() if page.is_notebook]
# A soft number and a hard one: what a chapter may have, and a tenth more.
WORDS, EQUATIONS = 4_950, 11
# Half of what the chapters had when their checks still stood in the open.
NAMES = 130


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.path.stem)
def test_a_chapter_is_no_longer_than_a_sitting(page):
    counts = reading(page)
    assert counts.words <= WORDS
    assert counts.equations <= EQUATIONS


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.path.stem)
def test_open_code_is_there_to_be_read(page):
    counts = reading(page)
    assert counts.open_checks <= 1
    assert 3 * counts.check_lines <= counts.lines
    assert counts.names <= NAMES


def md(source):
    return nbformat.v4.new_markdown_cell(source)


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def test_optional_matter_exercises_and_solutions_are_no_main_text():
    cells = [
        md("# One"),
        md("## Two\nmain"),
        md("### Optional: three"),
        code("x = 1"),
        md("#### Four\nstill optional"),
        md("### Five\nmain again"),
        md("```{solution-start} ex\n```"),
        md("inside"),
        md("```{solution-end}\n```"),
        md("last"),
        md("## Exercises\nnone"),
        md("### Six\nnone"),
        md("## Where to read on\nmain"),
    ]
    kept = [cell.source.split("\n")[0] for cell in main_cells(Page(ROOT / "x.ipynb", cells))]
    assert kept == ["# One", "## Two", "### Five", "last", "## Where to read on"]


def test_what_is_counted():
    text = "# Title\n\nThree words, $a$ formula.\n\n```{math}\n:label: eq-x-one\na = b\n```"
    page = Page(
        ROOT / "x.ipynb",
        [
            md(text),
            code("import torch\nfrom a import b as c", "setup"),
            code("# a comment\nx = 1\n\ny = [z for z in range(x)]"),
            code('verify("eq-x-one", x, y)', "open-check"),
            code('verify("eq-x-one", x, y)', "check"),
        ],
    )
    counts = reading(page)
    assert (counts.words, counts.equations) == (4, 1)
    assert (counts.lines, counts.check_lines, counts.open_checks) == (3, 1, 1)
    assert counts.names == 4


def test_names_are_the_global_ones():
    source = (
        "for i, x in pairs:\n    s = [j for j in x]\ndef f(a):\n    b = a\nclass C: pass\nd[0] = 1"
    )
    assert set(names_of(source)) == {"i", "x", "s", "f", "C"}
