"""Reads the book's sources: its pages, their numbered equations, and the checks of these.

The Sphinx extension makes the page "Equations and their checks" of it, and the tests compare
labels and checks both ways.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml
from links import authored_cells

ROOT = Path(__file__).resolve().parent.parent.parent

FENCE = re.compile(r"^\s*(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>.*)$")
BOX = re.compile(
    r"^(?P<fence>:{3,}|`{3,})\{prf:(?P<kind>[a-z]+)\} +(?P<title>\S.*)\n"
    r"(?P<text>[\s\S]*?)^(?P=fence)\s*$",
    re.M,
)
LABEL_OPTION = re.compile(r"^\s*:label:\s*(\S+)")
DOLLARS = re.compile(r"\$\$\s*\(([^)\s]+)\)\s*$")

# Blocks whose content is not read as text.
LITERALS = {"math", "literal", "code", "code-block", "code-cell"}

CHECKS = {"verify", "verify_bound", "verify_limit", "verify_mean", "verify_samples"}
# The same in the text of a cell, where its code is not at hand.
CHECK_CALL = re.compile(r'\bverify\w*\(\s*"(eq-[a-z0-9-]+)"')
LINE = re.compile(r"✓ (eq-[a-z0-9-]+) (.+)")


@dataclass(frozen=True)
class Check:
    """One call of the ledger on a page: its equation, its form and the line it showed."""

    label: str
    form: str
    line: str | None


@dataclass(frozen=True)
class Statement:
    """A numbered box: a definition, a theorem or the like."""

    label: str
    kind: str
    title: str


@dataclass(frozen=True)
class Picture:
    """A stored figure: where the built book keeps it, and its words for who does not see it."""

    path: str
    alt: str


@dataclass
class Page:
    """A source file of the book, named in ``_toc.yml``."""

    path: Path
    cells: list[Any] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The page's path below the project's root, without its suffix, as Sphinx calls it."""
        return self.path.relative_to(ROOT).with_suffix("").as_posix()

    @property
    def is_notebook(self) -> bool:
        """Whether the page holds code."""
        return self.path.suffix == ".ipynb"

    @cached_property
    def text(self) -> str:
        """All prose of the page."""
        if not self.is_notebook:
            return self.path.read_text(encoding="utf-8")
        return "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    @property
    def title(self) -> str:
        """The page's first heading."""
        found = re.search(r"^# (.+)$", self.text, re.M)
        return found.group(1).strip() if found else self.name

    @property
    def question(self) -> str:
        """What a chapter answers, which its notebook keeps in its metadata."""
        question = self.metadata.get("nfbook", {}).get("question", "")
        if not question:
            raise ValueError(f'{self.name} must have {{"nfbook": {{"question": ...}}}} as metadata')
        return str(question)

    @property
    def code(self) -> list[Any]:
        """The code cells."""
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def equations(self) -> list[str]:
        """The labels of the numbered equations, in order."""
        return list(numbered(self.text))

    @property
    def titles(self) -> dict[str, str]:
        """The title of each numbered equation's box, or else its heading, by its label."""
        parts = re.split(r"^#{1,6} +(.+)$", self.text, flags=re.M)
        titles = {
            label: heading.strip().removeprefix("Optional: ")
            for heading, text in zip(parts[1::2], parts[2::2], strict=True)
            for label in numbered(text)
        }
        for box in BOX.finditer(self.text):
            titles |= dict.fromkeys(numbered(box["text"]), box["title"].strip())
        return {label: title[0].upper() + title[1:] for label, title in titles.items()}

    @property
    def statements(self) -> list[Statement]:
        """The numbered boxes, in order."""
        return [
            Statement(label[1], box["kind"], box["title"].strip())
            for box in BOX.finditer(self.text)
            if (label := re.match(LABEL_OPTION, box["text"]))
        ]

    @property
    def picture(self) -> Picture | None:
        """The page's first numbered figure."""
        for cell in self.code:
            for output in cell.get("outputs", []):
                png = output.get("data", {}).get("image/png")
                if png and "figure" in cell.metadata.get("mystnb", {}):
                    name = hashlib.sha256(base64.b64decode(png)).hexdigest()
                    return Picture(f"_images/{name}.png", cell.metadata.mystnb.image.alt)
        return None

    @property
    def checks(self) -> list[Check]:
        """The ledger's calls, in order, each with the line that its cell stored."""
        return [check for cell in self.code for check in checks_of(cell)]


def numbered(text: str) -> Iterator[str]:
    """Yield the labels of MyST text: of math directives, and behind double dollars.

    Directives such as a theorem are containers and are looked into; literal blocks are not.
    """
    open_fences: list[tuple[str, str]] = []
    for line in text.splitlines():
        fence, kind = open_fences[-1] if open_fences else ("", "")
        found = FENCE.match(line)
        closes = found and not found["info"].strip() and found["fence"].startswith(fence)
        if fence and found and closes:
            open_fences.pop()
        elif kind == "math" and (label := LABEL_OPTION.match(line)):
            yield label[1]
        elif kind in LITERALS:
            continue
        elif found:
            directive = re.match(r"\{([^}]+)\}", found["info"])
            open_fences.append((found["fence"], directive[1] if directive else "literal"))
        elif label := DOLLARS.search(line):
            yield label[1]


def checks_of(cell: Any) -> list[Check]:
    """Return the checks that one code cell makes."""
    lines: dict[str, list[str]] = {}
    for output in cell.get("outputs", []):
        text = output.get("data", {}).get("text/plain", "") or output.get("text", "")
        for label, statement in LINE.findall(text):
            lines.setdefault(label, []).append(statement)
    found = []
    for node in ast.walk(ast.parse(cell.source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        label = node.args[0]
        if node.func.id in CHECKS and isinstance(label, ast.Constant):
            found.append((node.lineno, str(label.value), node.func.id))
    checks = []
    for _, label, form in sorted(found):
        stored = lines.get(label, [])
        checks.append(Check(label, form, stored.pop(0) if stored else None))
    return checks


def read(path: Path) -> Page:
    """Read one source file."""
    if path.suffix == ".ipynb":
        notebook = nbformat.read(path, as_version=4)
        return Page(path, authored_cells(notebook.cells), notebook.metadata)
    return Page(path)


def pages(root: Path = ROOT) -> list[Page]:
    """Return the pages that ``_toc.yml`` names, in order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    found = []
    for name in names:
        notebook = root / f"{name}.ipynb"
        found.append(read(notebook if notebook.exists() else root / f"{name}.md"))
    return found
