r"""Write notebooks so that JupyterLab, Colab and GitHub show them as the built book does.

    python tools/references.py [book/bayes.ipynb ...]

Directives and roles are for Sphinx. Elsewhere a reader sees them as source, or as a key that
nothing resolves. So a reference becomes an ordinary link with its number, a formula ordinary
mathematics with its number, a theorem a box with its number, and a figure gets its caption;
``book/_ext/links.py`` describes the forms, and turns them back for Sphinx. The numbers are counted
in the sources, as Sphinx counts: from one in each chapter, each kind by itself. A second run
changes nothing, unless a number has changed. A reference to what no chapter numbers stays as it
is, for the build to complain of.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml
from pybtex.database import Person, parse_file
from pybtex.richtext import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from links import BIBLIOGRAPHY, THEOREMS, authored, authored_cells  # noqa: E402
from pages import FENCE, Page, numbered, pages  # noqa: E402

BOX = re.compile(
    r"prf:[\w-]+|exercise|admonition|attention|caution|danger|dropdown|error|hint|important|note|"
    r"seealso|tip|warning"
)
DIRECTIVE = re.compile(r"\{(?P<name>[\w:-]+)\}\s*(?P<title>.*)")
OPTION = re.compile(r"^\s*:(?P<name>[\w-]+):\s*(?P<value>.*)$")
COUNTED = re.compile(
    rf"^ *(?:`{{3,}}|:{{3,}})\{{(?P<kind>exercise|figure|prf:(?:{THEOREMS}))\}}.*\n"
    r"(?P<options>(?: *:[\w-]+:.*\n)*)",
    re.M,
)
NAME = re.compile(r"^ *:(?:label|name): *(\S+)", re.M)
ROLE = re.compile(
    r"(?<!`)\{(?P<role>eq|numref|ref|prf:ref|cite|cite:t|cite:p)\}`(?P<target>[^`<]+)`"
)
PAGE_ROLE = re.compile(r"(?<!`)\{doc\}`(?P<name>[\w-]+)`")
SHORT = re.compile(r"^ *\$\$(?P<body>[^$]+)\$\$\s*(?:\((?P<label>[^)\s]+)\))?$")


@dataclass(frozen=True)
class Target:
    """What a reference leads to: the file that holds it, and how it is called."""

    file: str
    text: str


@dataclass(frozen=True)
class Book:
    """The pages, and what they refer to."""

    pages: list[Page]
    toc: dict[str, Any]
    bibliography: Path

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Every numbered equation, figure, theorem and exercise by its label."""
        found = {}
        for page in self.pages:
            if page.name in self.chapters:
                for label, text in counted(page, self.chapters.index(page.name) + 1):
                    found[label] = Target(page.path.name, text)
        return found

    @property
    def chapters(self) -> list[str]:
        """The names of the numbered pages, in order."""
        parts = [part for part in self.toc["parts"] if part.get("numbered")]
        return [chapter["file"] for part in parts for chapter in part["chapters"]]

    @cached_property
    def titles(self) -> dict[str, Target]:
        """Every page by the name of its file."""
        return {page.path.stem: Target(page.path.name, page.title) for page in self.pages}

    @cached_property
    def works(self) -> dict[str, tuple[str, str]]:
        """Authors and year of every work in the bibliography."""
        entries = parse_file(str(self.bibliography)).entries
        return {k: (_names(e.persons["author"]), e.fields["year"]) for k, e in entries.items()}

    def number(self, label: str | None) -> str:
        """Return the number of what has the label.

        Raises:
            ValueError: No chapter numbers it.
        """
        if label not in self.targets:
            raise ValueError(
                f"label must be that of something numbered in a chapter, got {label!r}"
            )
        return self.targets[label].text.strip("()").rpartition(" ")[2]

    def cite(self, keys: str, textual: bool) -> str | None:
        """Return a citation as the book's author-year style writes it, or None."""
        if not all(key in self.works for key in keys.split(",")):
            return None
        works = [self.works[key] for key in keys.split(",")]
        if textual:
            return ", ".join(rf"{names} \[{year}\]" for names, year in works)
        return r"\[" + ", ".join(f"{names}, {year}" for names, year in works) + r"\]"


def counted(page: Page, chapter: int) -> list[tuple[str, str]]:
    """Return the label of all that a chapter numbers, each with the text of a reference to it."""
    counts: Counter[str] = Counter()
    found = []

    def count(kind: str, label: str | None, form: str) -> None:
        counts[kind] += 1
        if label:
            found.append((label, form.format(f"{chapter}.{counts[kind]}")))

    for cell in page.cells:
        if cell.cell_type == "code":
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if "caption" in figure:
                count("figure", figure.get("name"), "Fig. {}")
            continue
        for directive in COUNTED.finditer(cell.source):
            kind = directive["kind"].removeprefix("prf:")
            label = NAME.search(directive["options"])
            word = "Fig." if kind == "figure" else kind.capitalize()
            count(kind, label and label[1], word + " {}")
        for label in numbered(cell.source):
            count("equation", label, "({})")
    return found


def _names(authors: list[Person]) -> str:
    latex = (" ".join(author.prelast_names + author.last_names) for author in authors)
    names = [str(Text.from_latex(name)) for name in latex]
    return f"{names[0]} *et al.*" if len(names) > 2 else " and ".join(names)


def live(text: str, file: str, book: Book) -> str:
    """Return MyST text in the form that all readers can show; `file` is the page's name.

    Raises:
        ValueError: An equation, a theorem or an exercise has no number.
    """
    lines = deque(authored(text).split("\n"))
    written: list[str] = []
    # The fences that are open, and whether each is that of a box; the others hold code.
    fences: list[tuple[str, bool]] = []
    while lines:
        line = lines.popleft()
        fence, in_text = fences[-1] if fences else ("", True)
        found = FENCE.match(line)
        indent = line[: len(line) - len(line.lstrip())]
        directive = DIRECTIVE.match(found["info"].strip()) if found else None
        if fence and found and not found["info"].strip() and found["fence"].startswith(fence):
            fences.pop()
            written += closing(indent, len(fence)) if in_text else [line]
        elif not in_text:
            written.append(line)
        elif found and directive and directive["name"] == "math":
            written += math_directive(lines, indent, found["fence"], book)
        elif found and directive and directive["name"] in {"solution-start", "solution-end"}:
            take_until(lines, found["fence"])
            written += solution(directive["name"], directive["title"])
        elif found and directive and BOX.fullmatch(directive["name"]):
            title = link_all(directive["title"], file, book)
            written += opening(lines, indent, found["fence"], directive["name"], title, book)
            fences.append((found["fence"], True))
        elif found:
            written.append(line)
            fences.append((found["fence"], False))
        elif line.strip() == "$$":
            written += formula(indent, *take_dollars(lines), book)
        elif short := SHORT.match(line):
            written += formula(indent, [indent + short["body"].strip()], short["label"], book)
        else:
            written.append(link_all(line, file, book))
    return "\n".join(written)


def link_all(text: str, file: str, book: Book) -> str:
    """Return text with every reference as a link that shows what it leads to."""

    def link(found: re.Match[str]) -> str:
        role, label = found["role"], found["target"].replace(" ", "")
        if role.startswith("cite"):
            words = book.cite(label, textual=role == "cite:t")
            return f"[{words}]({BIBLIOGRAPHY}#{label})" if words else found[0]
        if label not in book.targets:
            return found[0]
        target = book.targets[label]
        return f"[{target.text}]({'' if target.file == file else target.file}#{label})"

    def link_page(found: re.Match[str]) -> str:
        target = book.titles.get(found["name"])
        return f"[{target.text}]({target.file})" if target else found[0]

    return PAGE_ROLE.sub(link_page, ROLE.sub(link, text))


def formula(indent: str, body: list[str], label: str | None, book: Book) -> list[str]:
    """Return a displayed formula; JupyterLab would number one outside ``equation*`` by itself."""
    tag = [rf"{indent}\tag{{{book.number(label)}}}\label{{{label}}}"] if label else []
    start, end = rf"{indent}\begin{{equation*}}", rf"{indent}\end{{equation*}}"
    return [f"{indent}$$", start, *body, *tag, end, f"{indent}$$"]


def math_directive(lines: deque[str], indent: str, fence: str, book: Book) -> list[str]:
    """Return the formula of a math directive."""
    label = take_options(lines).get("label")
    body = [line for line in take_until(lines, fence) if line.strip()]
    return formula(indent, body, label, book)


def opening(
    lines: deque[str], indent: str, fence: str, name: str, title: str, book: Book
) -> list[str]:
    """Return the beginning of a box: a bold heading for Markdown, its directive for MyST."""
    options = take_options(lines)
    above = []
    if name == "prf:proof":
        shown = f"**Proof** {title}"
        options["enumerated"] = "false"
    elif name == "exercise":
        number = book.number(options.get("label"))
        above = [f"### Exercise {number}" + (f": {title}" if title else ""), ""]
        name, title, shown = "div", "", ""
    elif name.startswith("prf:"):
        number = book.number(options.get("label"))
        shown = f"**{name[4:].capitalize()} {number}**" + (f" ({title})" if title else "")
        options["enumerator"] = number
    else:
        shown = f"**{title or name.capitalize()}**"
    if lines and not lines[0].strip():
        lines.popleft()
    return [
        *above,
        " ".join([f"{indent}%", *filter(None, [shown.strip()]), "<!--"]),
        f"{indent}{':' * len(fence)}{{{name}}} {title}".rstrip(),
        *(f"{indent}:{option}: {value}".rstrip() for option, value in options.items()),
        *(f"{indent}% -->", ""),
    ]


def closing(indent: str, length: int) -> list[str]:
    """Return the end of a box."""
    return ["", f"{indent}% <!--", indent + ":" * length, f"{indent}% -->"]


def solution(name: str, label: str) -> list[str]:
    """Return the beginning or the end of a solution."""
    if name == "solution-start":
        return ["#### Solution", f"<!-- solution of {label} -->"]
    return ["<!-- end of solution -->"]


def take_options(lines: deque[str]) -> dict[str, str]:
    """Take the options of a directive from what follows its first line."""
    options = {}
    while lines and (option := OPTION.match(lines[0])):
        options[option["name"]] = option["value"]
        lines.popleft()
    return options


def take_until(lines: deque[str], fence: str) -> list[str]:
    """Take the lines before the end of a directive, and the end itself."""
    body: list[str] = []
    while lines and not re.fullmatch(rf"\s*{fence}{fence[0]}*\s*", line := lines.popleft()):
        body.append(line)
    return body


def take_dollars(lines: deque[str]) -> tuple[list[str], str | None]:
    """Take the lines before the closing dollars, and the label behind these."""
    body: list[str] = []
    while lines:
        line = lines.popleft()
        if end := re.fullmatch(r"\s*\$\$\s*(?:\((?P<label>[^)\s]+)\))?\s*", line):
            return body, end["label"]
        body.append(line)
    raise ValueError(f"a formula must end with $$, got {body}")


def rewrite(notebook: nbformat.NotebookNode, file: str, book: Book) -> None:
    """Bring the cells of a notebook into the form that all readers can show."""
    cells = []
    for cell in authored_cells(notebook.cells):
        if cell.cell_type == "markdown":
            cells += solution_cells(cell, live(cell.source, file, book))
            continue
        cells.append(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if figure.get("name") in book.targets:
            cells.append(caption_cell(figure, file, book))
    notebook.cells = cells


def solution_cells(cell: Any, text: str) -> list[Any]:
    """Return the cell with its text, the heading of a solution apart, so that it folds the rest."""
    heading = re.match(r"#### Solution\n<!-- solution of (?P<label>\S+) -->\s*", text)
    if not heading:
        cell.source = text
        return [cell]
    folded = {"jp-MarkdownHeadingCollapsed": True}
    if heading.end() == len(text):
        cell.source = heading[0].strip()
        cell.metadata |= folded
        return [cell]
    cell.source = text[heading.end() :]
    above = nbformat.v4.new_markdown_cell(
        heading[0].strip(), id=f"solution-{heading['label']}", metadata=folded
    )
    return [above, cell]


def caption_cell(figure: dict[str, str], file: str, book: Book) -> Any:
    """Return the cell that says below a figure what Sphinx takes from its metadata."""
    name = figure["name"]
    caption = link_all(figure.get("caption", ""), file, book)
    text = ["% <!--", ":::{div}", f":label: {name}", "% -->", ""]
    text += [f"**{book.targets[name].text}** {caption}", *closing("", 3)]
    return nbformat.v4.new_markdown_cell(
        "\n".join(text), id=f"caption-{name}"[:64], metadata={"nfbook": {"caption-of": name}}
    )


def read_book(root: Path = ROOT) -> Book:
    """Return the book of a folder."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return Book(pages(root), toc, root / "book" / BIBLIOGRAPHY)


def main(arguments: list[str]) -> int:
    """Rewrite the notebooks named, or all chapters, where they differ."""
    book = read_book()
    named = [Path(argument).resolve() for argument in arguments]
    for path in named or [page.path for page in book.pages if page.is_notebook]:
        notebook = nbformat.read(path, as_version=4)
        before = nbformat.writes(notebook)
        rewrite(notebook, path.name, book)
        if nbformat.writes(notebook) != before:
            nbformat.write(notebook, path)
            print(f"{path.name} is written anew.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
