"""What the built page folds, and how a numbered equation and its check lead to each other.

A section whose heading begins with "Optional: " opens on a click, with all that stands in it. The
code of a check stands folded under its green line, and a tick beside the equation's number leads
there.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from pages import CHECK_CALL
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

OPTIONAL = "Optional: "
NUMBER = re.compile(
    r'<span class="eqno">.*?<a class="headerlink" href="#equation-(?P<label>eq-[a-z0-9-]+)"'
)


class FoldOptionalSections(SphinxPostTransform):
    """Put an optional section's heading into a summary, and the rest into what it opens."""

    default_priority = 900
    formats = ("html",)

    def run(self, **options: Any) -> None:
        """Change the page's sections in place."""
        for section in self.document.findall(nodes.section):
            title = section[0]
            if title.astext().startswith(OPTIONAL):
                section["classes"].append("optional")
                section.insert(0, _html("<details><summary>"))
                section.insert(2, _html("</summary>"))
                section.append(_html("</details>"))


class NameChecks(SphinxPostTransform):
    """Give the cell of each check a place to lead to."""

    default_priority = 900
    formats = ("html",)

    def run(self, **options: Any) -> None:
        """Change the page's cells in place."""
        for cell in self.document.findall(nodes.container):
            if "cell" in cell["classes"]:
                code = " ".join(block.astext() for block in cell.findall(nodes.literal_block))
                cell["ids"] += [check_id(label) for label in CHECK_CALL.findall(code)]


def check_id(label: str) -> str:
    """Return the name of the place of an equation's check.

    Example:
        >>> check_id("eq-bayes-theorem")
        'check-eq-bayes-theorem'
    """
    return f"check-{label}"


def mark_checked(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Set a tick, which leads to the check, before the number of each checked equation."""
    body = context.get("body", "")

    def tick(found: re.Match[str]) -> str:
        place = check_id(found["label"])
        if f'id="{place}"' not in body:
            return found.group()
        link = f'<a class="check-mark" href="#{place}" title="To the check by code">✓</a>'
        return found.group().replace('<span class="eqno">', f'<span class="eqno">{link}', 1)

    context["body"] = NUMBER.sub(tick, body)


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_post_transform(FoldOptionalSections)
    app.add_post_transform(NameChecks)
    app.connect("html-page-context", mark_checked)
    app.add_css_file("folding.css")
    app.add_js_file("folding.js", defer="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
