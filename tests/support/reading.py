"""How much of a page there is to read: its main text, its numbered equations and its open code.

Main text is what is neither optional, nor an exercise or its solution.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pages import CHECKS, Page, numbered

HEADING = re.compile(r"^(#+) (.+)$", re.M)
FOLDED = {"setup", "figure", "check", "solution", "remove-cell"}
CODE_OR_MATH = re.compile(
    r"```\{math\}.*?```|\$\$.*?\$\$|\$[^$]+\$|`[^`]+`|^ *[`:]{3,}[^\n]*$", re.S | re.M
)


@dataclass(frozen=True)
class Reading:
    """The counts of a page.

    Attributes:
        words: Words of the main text, without formulas and code.
        equations: Numbered equations in the main text.
        lines: Lines of open code, blank ones and comments left out.
        check_lines: How many of these are in cells that check an equation.
        open_checks: How many such cells are open.
        names: How many names the page's cells define.
    """

    words: int
    equations: int
    lines: int
    check_lines: int
    open_checks: int
    names: int


def reading(page: Page) -> Reading:
    """Count what a page asks its readers to read."""
    text = "\n\n".join(cell.source for cell in main_cells(page) if cell.cell_type == "markdown")
    shown = [cell for cell in page.code if not FOLDED & set(cell.metadata.get("tags", []))]
    checks = [cell for cell in shown if is_check(cell.source)]
    return Reading(
        words=len(re.findall(r"[A-Za-z][\w'-]*", CODE_OR_MATH.sub(" ", text))),
        equations=len(list(numbered(text))),
        lines=sum(lines_of(cell.source) for cell in shown),
        check_lines=sum(lines_of(cell.source) for cell in checks),
        open_checks=len(checks),
        names=len({name for cell in page.code for name in names_of(cell.source)}),
    )


def main_cells(page: Page) -> Iterator[Any]:
    """Yield the cells outside optional sections, exercises and solutions."""
    left_out = 0  # the level of the heading that opened what is left out
    in_solution = False
    for cell in page.cells:
        if cell.cell_type == "markdown":
            if heading := HEADING.search(cell.source):
                level = len(heading[1])
                if level <= (left_out or level):
                    left_out = 0
                if not left_out and re.match(r"Optional: |Exercises\b", heading[2]):
                    left_out = level
            in_solution = in_solution or "{solution-start}" in cell.source
        if not left_out and not in_solution:
            yield cell
        if "{solution-end}" in cell.source:
            in_solution = False


def is_check(source: str) -> bool:
    """Return whether code calls the ledger."""
    return any(
        isinstance(node, ast.Call) and getattr(node.func, "id", None) in CHECKS
        for node in ast.walk(ast.parse(source))
    )


def lines_of(source: str) -> int:
    """Count the lines that are neither blank nor comments."""
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines()
    )


def names_of(source: str) -> Iterator[str]:
    """Yield the global names that code defines."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (each.asname or each.name.partition(".")[0] for each in node.names)
        else:
            yield from (
                each.id
                for each in _outside_functions(node)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            )


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but for what functions and comprehensions keep."""
    yield node
    own = (
        ast.FunctionDef | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    )
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, own):
            yield from _outside_functions(child)
