"""References as every reader of a notebook sees them: numbers, forms, and the way back."""

from __future__ import annotations

import re
from html import unescape

import nbformat
import pytest
import references
from links import authored, authored_cells
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pages import ROOT, Page, read

FORMULA = "```{math}\n:label: eq-two-first\na = b\n```"
THEOREM = f"````{{prf:theorem}} Gibbs' inequality\n:label: thm-two\n\nIf\n\n{FORMULA}\n````"
EXERCISE = "````{exercise} By hand\n:label: ex-two-1\n\nFind $x$.\n````"
SOLUTION = "```{solution-start} ex-two-1\n:class: dropdown\n```\n\nAs $x = 1$."
TOC = {"parts": [{"chapters": [{"file": "book/before"}]}, {"numbered": True, "chapters": []}]}
BIB = """
@book{one1991, author = {H{\\"a}rdle, Wolfgang}, year = {1991}}
@book{two1990, author = {Azzalini, A. and Bowman, A. W.}, year = {1990}}
@book{three2004, author = {Efron, B. and Hastie, T. and van der Vaart, A.}, year = {2004}}
"""


def figure(name: str, caption: str = "See {eq}`eq-two-first`.") -> object:
    return new_code_cell("1", metadata={"mystnb": {"figure": {"name": name, "caption": caption}}})


@pytest.fixture
def make(tmp_path):
    """Return a book of two chapters, of which the second one has these cells."""

    def made(*cells) -> references.Book:
        second = Page(ROOT / "book" / "second.ipynb", [*cells])
        first = Page(
            ROOT / "book" / "first.ipynb", [new_markdown_cell("# First\n\n$$a$$ (eq-first)")]
        )
        toc = {"parts": [TOC["parts"][0], {"numbered": True, "chapters": []}]}
        toc["parts"][1]["chapters"] = [{"file": "book/first"}, {"file": "book/second"}]
        (tmp_path / "references.bib").write_text(BIB, encoding="utf-8")
        before = Page(ROOT / "book" / "before.md")
        before.__dict__["text"] = "# Words"
        return references.Book([before, first, second], toc, tmp_path / "references.bib")

    return made


@pytest.fixture
def live(make):
    """Write a text as that of the second chapter, which holds all that has a number."""

    def written(text: str) -> str:
        whole = [new_markdown_cell("\n\n".join([THEOREM, EXERCISE])), figure("fig-two")]
        return references.live(text, "second.ipynb", make(*whole))

    return written


def test_each_kind_is_counted_by_itself_from_one_in_each_chapter(make):
    """As Sphinx counts with math_numfig, numfig_secnum_depth 1 and sphinx-proof's own counters."""
    book = make(
        new_markdown_cell(
            "$$a$$\n\n$$b$$ (eq-a)\n\n```{math}\nc\n```\n\n```{math}\n:label: eq-b\nd\n```"
        ),
        figure("fig-a"),
        new_code_cell("2", metadata={"mystnb": {"figure": {"name": "fig-no-caption"}}}),
        new_markdown_cell(
            "```{prf:lemma}\n:label: lem-a\n:class: dropdown\nx\n```\n```{prf:proof}\nx\n```"
        ),
        new_markdown_cell(
            ":::{prf:theorem} No label\nx\n:::\n\n:::{prf:theorem} A\n:label: thm-b\nx\n:::"
        ),
        new_markdown_cell("```{figure} a.png\n:name: fig-b\nCaption.\n```"),
        figure("fig-c"),
        new_markdown_cell(
            "```{exercise}\n:label: ex-a\nx\n```\n\n```{exercise}\n:label: ex-b\nx\n```"
        ),
    )
    assert {label: target.text for label, target in book.targets.items()} == {
        "eq-first": "(1.1)",
        "eq-a": "(2.1)",
        "eq-b": "(2.2)",
        "fig-a": "Fig. 2.1",
        "fig-b": "Fig. 2.2",
        "fig-c": "Fig. 2.3",
        "lem-a": "Lemma 2.1",
        "thm-b": "Theorem 2.2",
        "ex-a": "Exercise 2.1",
        "ex-b": "Exercise 2.2",
    }
    assert book.targets["eq-first"].file == "first.ipynb"


@pytest.mark.parametrize(
    ("role", "link"),
    [
        ("{eq}`eq-two-first`", "[(2.1)](#eq-two-first)"),
        ("({eq}`eq-first`)", "([(1.1)](first.ipynb#eq-first))"),
        ("{numref}`fig-two`", "[Fig. 2.1](#fig-two)"),
        ("{prf:ref}`thm-two`", "[Theorem 2.1](#thm-two)"),
        ("{ref}`ex-two-1`", "[Exercise 2.1](#ex-two-1)"),
        ("{cite:t}`one1991`", r"[Härdle \[1991\]](references.bib#one1991)"),
        ("{cite}`two1990`", r"[\[Azzalini and Bowman, 1990\]](references.bib#two1990)"),
        ("{cite}`three2004`", r"[\[Efron *et al.*, 2004\]](references.bib#three2004)"),
        (
            "{cite}`one1991,two1990`",
            r"[\[Härdle, 1991, Azzalini and Bowman, 1990\]](references.bib#one1991,two1990)",
        ),
    ],
)
def test_a_role_becomes_a_link_with_its_number_and_back(live, role, link):
    assert live(role) == link
    assert authored(link) == role


def test_an_old_number_is_brought_up_to_date(live):
    assert live("By [(1.7)](first.ipynb#eq-two-first).") == "By [(2.1)](#eq-two-first)."


@pytest.mark.parametrize("role", ["{eq}`eq-none`", "{cite}`none2000`", "{prf:ref}`thm-none`"])
def test_what_is_unknown_is_left_for_the_build_to_complain_of(live, role):
    assert live(role) == role


@pytest.mark.parametrize(
    "text", ["[where](#sec-a)", "`{eq}`", "[page](first.ipynb)", "a % b <!-- c"]
)
def test_other_text_is_left_alone(live, text):
    assert live(text) == text == authored(text)


def test_a_page_is_named_by_its_title(live):
    assert live("{doc}`before` and {doc}`first`") == "[Words](before.md) and [First](first.ipynb)"


@pytest.mark.parametrize(
    "text",
    [
        FORMULA,
        THEOREM,
        EXERCISE,
        SOLUTION,
        "```{solution-end}\n```\n\n## Next",
        "$$\na = b\n$$",
        "text\n$$\na = b\n$$\ntext",
        "1. item\n\n   ```{math}\n   :label: eq-two-first\n   a \\\\\n   b\n   ```\n\n   text",
        "````{prf:proof}\nBy {eq}`eq-first`.\n\n$$\na\n$$\n````",
        "````{exercise} X\n:label: ex-two-1\n\nx\n\n```{hint}\n:class: dropdown\n\nUse.\n```\n````",
        ":::{note}\n\n```python\n$$\n{eq}`eq-first`\n```\n:::",
        "```{figure} a.png\n:name: fig-b\nCaption.\n```",
    ],
)
def test_every_form_leads_back_and_a_second_time_changes_nothing(live, text):
    stored = live(text)
    assert live(stored) == stored
    fences = re.compile(r"^( *)(`{3,}|:{3,})(?=\{(?:prf|ex|hint|note)|$)", re.M)

    def plain(source: str) -> str:
        return fences.sub(r"\1:::", source).replace("proof}\n\n", "proof}\n")

    assert plain(authored(stored)) == plain(text)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (THEOREM, "<strong>Theorem 2.1</strong> (Gibbs' inequality)"),
        ("```{prf:proof}\nx\n```", "<strong>Proof</strong>"),
        ("```{hint}\nx\n```", "<strong>Hint</strong>"),
        ("```{admonition} Before you start\nx\n```", "<strong>Before you start</strong>"),
        (EXERCISE, "<h3>Exercise 2.1: By hand</h3>"),
        (SOLUTION, "<h4>Solution</h4>"),
        (FORMULA, r"\tag{2.1}"),
    ],
)
def test_plain_markdown_shows_headings_and_formulas_and_no_directive(live, text, html):
    """Colab and GitHub, to which MyST is unknown."""
    shown = MarkdownIt("commonmark").render(live(text))
    assert html in shown
    assert "{" not in re.sub(r"<!--.*?-->|\$\$.*?\$\$", "", shown, flags=re.S)
    assert "<code" not in shown


def test_what_must_have_a_number_is_named_if_it_has_none(live):
    with pytest.raises(ValueError, match=r"label must be .* got 'thm-none'"):
        live("```{prf:theorem} X\n:label: thm-none\nx\n```")
    with pytest.raises(ValueError, match="got None"):
        live("```{exercise} X\nx\n```")
    with pytest.raises(ValueError, match=r"must end with \$\$"):
        live("$$\na")


def test_a_notebook_gets_captions_and_solutions_that_fold_once(make):
    cells = [
        new_markdown_cell("# Second\n\n" + THEOREM),
        figure("fig-two"),
        new_markdown_cell(EXERCISE),
        new_markdown_cell(SOLUTION),
        new_code_cell("3", metadata={"tags": ["solution"]}),
        new_markdown_cell("```{solution-end}\n```"),
    ]
    book = make(*nbformat.from_dict(cells))
    notebook = new_notebook(cells=cells)
    references.rewrite(notebook, "second.ipynb", book)
    once = nbformat.writes(notebook)
    caption, heading, text = notebook.cells[2], notebook.cells[4], notebook.cells[5]
    assert "**Fig. 2.1** See [(2.1)](#eq-two-first)." in caption.source
    assert heading.source == "#### Solution\n<!-- solution of ex-two-1 -->"
    assert heading.metadata["jp-MarkdownHeadingCollapsed"]
    assert text.source == "As $x = 1$."
    references.rewrite(notebook, "second.ipynb", book)
    assert nbformat.writes(notebook) == once
    nbformat.validate(notebook)
    kept = authored_cells(notebook.cells)
    assert [cell.cell_type for cell in kept].count("code") == 2
    assert not any("Fig. 2.1" in cell.source for cell in kept), "Sphinx writes captions itself"


def stored() -> list[str]:
    """The book's notebooks, in the form for all readers or as their authors wrote them."""
    return sorted(path.name for path in (ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize("name", stored())
def test_every_notebook_is_stored_as_the_tool_writes_it(name):
    path = ROOT / "book" / name
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    references.rewrite(notebook, name, references.read_book())
    assert nbformat.writes(notebook) == before, "run tools/references.py"


# --- the built site


def words(html: str) -> str:
    """The text that a piece of HTML shows."""
    # The site keeps short words of a name on the line of the next one.
    return unescape(re.sub(r"<[^>]+>", "", html)).replace("\xa0", " ").strip()


def test_numbers_are_those_of_the_built_site(site):
    """The tool counts by itself, and the site shows what Sphinx counted."""
    targets = references.read_book().targets
    link = re.compile(
        r'<a class="[^"]*" href="[\w./-]*#(?:equation-)?([\w-]+)"[^>]*>(.*?)</a>', re.S
    )
    seen = {}
    for page in site.folder.glob("book/*.html"):
        for label, text in link.findall(page.read_text(encoding="utf-8")):
            if label in targets and re.search(r"\d", shown := words(text)):
                seen[label] = shown
                assert shown.partition(" (")[0] == targets[label].text, label
    for kind in ("eq", "fig", "ex", "thm"):
        assert any(label.startswith(f"{kind}-") for label in seen), kind


def test_citations_are_those_of_the_built_site(site):
    book = references.read_book()
    cited = re.compile(r'<span class="bibtex-citation"[^>]*>(.*?)</span>', re.S)
    role = re.compile(r"\{cite(:t)?\}`([^`]+)`")
    for page in book.pages:
        if page.is_notebook:
            html = (site.folder / f"{page.name}.html").read_text(encoding="utf-8")
            told = {words(text) for text in cited.findall(html)}
            ours = {book.cite(keys, bool(textual)) for textual, keys in role.findall(page.text)}
            assert {re.sub(r"[\\*]", "", text) for text in ours} == told


def test_the_form_for_all_readers_is_read_as_the_author_wrote_it(tmp_path):
    """Whoever reads the sources, the ledger's page and the tests among them, sees no difference."""
    for path in (ROOT / "book").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        written = read(path)
        references.rewrite(notebook, path.name, references.read_book())
        nbformat.write(notebook, tmp_path / path.name)
        again = read(tmp_path / path.name)
        assert again.equations == written.equations
        assert [cell.source for cell in again.code] == [cell.source for cell in written.code]
        roles = re.compile(r"\{(?:eq|numref|ref|prf:ref|cite|cite:t)\}`[^`]+`")
        assert roles.findall(again.text) == roles.findall(written.text)
