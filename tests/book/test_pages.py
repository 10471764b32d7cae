"""The reader of the book's sources: which equations are numbered, and which checks stand there."""

import nbformat
import pytest
from pages import ROOT, Page, checks_of, numbered, read

MATH = "```{math}\n:label: eq-one\na = b\n```"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (MATH, ["eq-one"]),
        (f"````{{prf:theorem}} Name\n:label: thm-a\n\n{MATH}\n````", ["eq-one"]),
        (f"```{{admonition}} Title\n:class: note\ntext\n```\n\n{MATH}", ["eq-one"]),
        (f":::{{note}}\n{MATH}\n:::\n{MATH.replace('one', 'two')}", ["eq-one", "eq-two"]),
        (f"````\n{MATH}\n````", []),
        (f"````md\n{MATH}\n````\n{MATH}", ["eq-one"]),
        ("```{math}\na = b\n```", []),
        ("$$\na = b\n$$ (eq-dollar)", ["eq-dollar"]),
        ("$$ a = b $$ (eq-dollar)", ["eq-dollar"]),
        ("- item\n\n  ```{math}\n  :label: eq-indented\n  a\n  ```", ["eq-indented"]),
    ],
)
def test_numbered_equations_are_found(text, labels):
    assert list(numbered(text)) == labels


def test_statements_are_found(tmp_path):
    boxes = ["{prf:lemma} First\n:label: lem-a\n\ntext", "{prf:proof}\nof it"]
    boxes += ["{prf:theorem} Second\n:label: thm-b\n\ntext"]
    path = tmp_path / "page.md"
    path.write_text("\n\n".join(f":::{box}\n:::" for box in boxes), encoding="utf-8")
    first, second = read(path).statements
    assert (first.label, first.kind, first.title) == ("lem-a", "lemma", "First")
    assert (second.label, second.kind, second.title) == ("thm-b", "theorem", "Second")


def cell(source, *lines):
    outputs = [nbformat.v4.new_output("stream", text="".join(f"{line}\n" for line in lines))]
    return nbformat.v4.new_code_cell(source, outputs=outputs)


def test_checks_carry_the_line_they_showed():
    first, second = checks_of(
        cell('verify("eq-a", x, y)\nverify_bound("eq-b", x, y)', "✓ eq-b holds 2", "✓ eq-a holds 1")
    )
    assert (first.label, first.form, first.line) == ("eq-a", "verify", "holds 1")
    assert (second.label, second.form, second.line) == ("eq-b", "verify_bound", "holds 2")


def test_a_check_in_a_comment_or_a_string_is_none():
    assert checks_of(cell('# verify("eq-a", x, y)\nprint("verify(\'eq-a\', x, y)")')) == []


def test_a_check_that_showed_nothing_has_no_line():
    (check,) = checks_of(cell('if False:\n    verify("eq-a", x, y)'))
    assert check.line is None


def test_a_chapter_says_what_it_answers(tmp_path):
    notebook = nbformat.v4.new_notebook(metadata={"nfbook": {"question": "Why?"}})
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    assert read(tmp_path / "chapter.ipynb").question == "Why?"


def test_a_chapter_without_a_question_is_named():
    with pytest.raises(ValueError, match="book/new must have"):
        _ = Page(ROOT / "book" / "new.ipynb").question


def test_an_equation_is_called_as_its_box_or_else_as_its_heading():
    def formula(label):
        return f"```{{math}}\n:label: {label}\nx\n```\n"

    text = (
        f"## Optional: two sums\n{formula('eq-x-plain')}"
        f"::::{{prf:theorem}} Sums commute\n:label: thm-x\n\n{formula('eq-x-boxed')}::::\n"
        f"::::{{prf:proof}}\n{formula('eq-x-proved')}::::\n"
    )
    page = Page(ROOT / "x.ipynb", [nbformat.v4.new_markdown_cell(text)])
    assert page.titles == {
        "eq-x-plain": "Two sums",
        "eq-x-boxed": "Sums commute",
        "eq-x-proved": "Two sums",
    }
