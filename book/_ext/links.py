r"""Reads the form in which notebooks are stored, and gives Sphinx the text that it stands for.

A notebook has four readers: this build, JupyterLab with MyST, and Colab and GitHub, which know
plain Markdown. ``tools/references.py`` therefore stores what all four can show, and `authored`
turns it back into directives and roles before anything is parsed. So Sphinx resolves and numbers
every reference, warns of unknown ones, and the numbers in the notebooks are never read.

=====================  ====================================================================
reference              ``[(3.2)](elbo.ipynb#eq-elbo-gap)``, an ordinary link
formula                ``$$`` around ``equation*``, with ``\tag`` and ``\label`` if numbered
box, such as theorem   its directive, each end in a comment that hides it from Markdown
exercise               a heading, and a box around its text
solution               a heading in a cell of its own, which JupyterLab and Colab can fold
figure                 its number and caption in a cell of their own, which Sphinx leaves out
=====================  ====================================================================
"""

from __future__ import annotations

import re
from typing import Any

import nbformat
from sphinx.application import Sphinx

# What MyST takes for a line of comment, Markdown shows, up to the comment that begins in it.
OPENING = re.compile(
    r"^(?P<indent> *)%.* <!--\n(?P=indent)(?P<directive>:{3,}\{.*)\n"
    r"(?P<options>(?: *:[\w-]+:.*\n)*)(?P=indent)% -->\n",
    re.M,
)
CLOSING = re.compile(
    r"\n^(?P<indent> *)% <!--\n(?P=indent)(?P<fence>:{3,})\n(?P=indent)% -->$", re.M
)
ONLY_LIVE = re.compile(r"^ *:enumerat(?:or|ed):.*\n", re.M)
EXERCISE = re.compile(
    r"^### Exercise [\d.]+(?:: (?P<title>.*))?\n\n(?P<fence>:{3,})\{div\}\n", re.M
)
SOLUTION = re.compile(r"^#### Solution\n<!-- solution of (?P<label>\S+) -->$", re.M)
SOLVED = re.compile(r"^<!-- end of solution -->$", re.M)
FORMULA = re.compile(
    r"^(?P<indent> *)\$\$\n *\\begin\{equation\*\}\n(?P<body>.*?)"
    r"(?:\n *\\tag\{[\d.]+\}\\label\{(?P<label>[^}]+)\})?\n *\\end\{equation\*\}\n *\$\$$",
    re.M | re.S,
)
LINK = re.compile(
    r"\[(?P<text>(?:\\.|[^\[\]\\\n])+)\]\((?P<file>[\w-]+\.\w+)?#(?P<label>[\w,:-]+)\)"
)
# The kinds of `sphinx-proof` that have numbers.
THEOREMS = (
    "algorithm|assumption|axiom|conjecture|corollary|criterion|definition|example|lemma|"
    "observation|property|proposition|remark|theorem"
)
ROLES = {
    r"\([\d.]+\)": "eq",
    r"Fig\. [\d.]+": "numref",
    r"Exercise [\d.]+": "ref",
    rf"(?i:{THEOREMS}) [\d.]+": "prf:ref",
}
BIBLIOGRAPHY = "references.bib"


def authored(text: str) -> str:
    r"""Return the MyST text that a stored markdown cell stands for; other text stays as it is.

    Example:
        >>> authored("By [(3.2)](elbo.ipynb#eq-elbo-gap) and [Theorem 3.10](#thm-elbo-iw).")
        'By {eq}`eq-elbo-gap` and {prf:ref}`thm-elbo-iw`.'
    """
    text = OPENING.sub(_directive, text)
    text = CLOSING.sub(r"\g<indent>\g<fence>", text)
    text = EXERCISE.sub(
        lambda m: f"{m['fence']}{{exercise}} {m['title'] or ''}".rstrip() + "\n", text
    )
    text = SOLUTION.sub(r"```{solution-start} \g<label>\n:class: dropdown\n```", text)
    text = SOLVED.sub("```{solution-end}\n```", text)
    text = FORMULA.sub(_formula, text)
    return LINK.sub(_role, text)


def _directive(found: re.Match[str]) -> str:
    return f"{found['indent']}{found['directive']}\n{ONLY_LIVE.sub('', found['options'])}"


def _formula(found: re.Match[str]) -> str:
    indent, body, label = found["indent"], found["body"], found["label"]
    if label is None:
        return f"{indent}$$\n{body}\n{indent}$$"
    return f"{indent}```{{math}}\n{indent}:label: {label}\n{body}\n{indent}```"


def _role(found: re.Match[str]) -> str:
    if found["file"] == BIBLIOGRAPHY:
        role = "cite" if found["text"].startswith(r"\[") else "cite:t"
        return f"{{{role}}}`{found['label']}`"
    for pattern, role in ROLES.items():
        if re.fullmatch(pattern, found["text"]):
            return f"{{{role}}}`{found['label']}`"
    return found[0]


def is_caption(cell: Any) -> bool:
    """Say whether a cell only repeats the number and the caption of the figure before it."""
    return "caption-of" in cell.metadata.get("nfbook", {})


def authored_cells(cells: list[Any]) -> list[Any]:
    """Return a stored notebook's cells as Sphinx reads them."""
    kept = [cell for cell in cells if not is_caption(cell)]
    for cell in kept:
        if cell.cell_type == "markdown":
            cell.source = authored(cell.source)
    return kept


def restore(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let Sphinx read directives and roles where a notebook stores the form for all readers."""
    if str(app.env.doc2path(docname)).endswith(".ipynb"):
        notebook = nbformat.reads(source[0], as_version=4)
        notebook.cells = authored_cells(notebook.cells)
        source[0] = nbformat.writes(notebook)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it."""
    app.connect("source-read", restore)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
