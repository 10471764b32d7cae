"""The book's Sphinx extension: what pages list of others, and what the static page needs besides.

``{chapters}``
    Shows the chapters, each with a picture, the question that it answers, and ways to read and run.
``{equation-ledger}``, ``{equation-count}``
    Lists every numbered equation with its check, and counts both.
``{statements}``, ``{statement-count}``
    Lists every definition, theorem and algorithm with the chapters that use it, and counts them.
``{run-times}``
    Lists how long each page's notebook runs, and how large it is.
``{benchmarks}``
    Shows stored results of benchmarks; its content names them, one a line.

On every page it also drops a script that would otherwise stand there twice, and on pages with an
interactive figure it adds the scripts of that figure. Of the theme's two thousand icons it keeps
those that the book shows. No line ends between a number and its per cent sign.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pages import ROOT, Page, pages
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from nfbook.explorables import static_scripts

FORMS = {
    "verify": "equal",
    "verify_bound": "bound",
    "verify_limit": "limit",
    "verify_mean": "expectation",
    "verify_samples": "distribution",
}


class Generated(SphinxDirective, ABC):
    """A directive whose content is written by code, as MyST text."""

    def run(self) -> list[nodes.Node]:
        """Parse what `markdown` returns; the page is read again whenever a source changes."""
        for page in pages():
            self.env.note_dependency(str(page.path))
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)

    @abstractmethod
    def markdown(self) -> str:
        """Return the text to parse."""


class Chapters(SphinxDirective):
    """The chapters, in the book's order: a picture, the question, and ways to read and run each."""

    def run(self) -> list[nodes.Node]:
        """Write one card a chapter."""
        chapters = [page for page in pages() if page.is_notebook]
        for page in chapters:
            self.env.note_dependency(str(page.path))
        cards = "".join(self.card(number, page) for number, page in enumerate(chapters, start=1))
        return [nodes.raw("", f'<div class="chapters">{cards}</div>', format="html")]

    def card(self, number: int, page: Page) -> str:
        """Return one card."""
        top = "../" * self.env.docname.count("/")
        source, here = f"{page.name}.ipynb", f"{top}{page.name}.html"
        repository = self.config.html_theme_options["repository_url"].removeprefix("https://")
        owner, branch = (
            repository.partition("/")[2],
            self.config.html_theme_options["repository_branch"],
        )
        launch = self.config.html_theme_options["launch_buttons"]
        binder = f"{launch['binderhub_url']}/v2/gh/{owner}/{branch}?urlpath=lab/tree/{source}"
        colab = f"{launch['colab_url']}/github/{owner}/blob/{branch}/{source}"
        ways = {
            "Read": here,
            "Run in Binder": binder,
            "in Colab": colab,
            "Download": f"{top}_sources/{source}",
        }
        links = "".join(f'<a href="{escape(link)}">{way}</a>' for way, link in ways.items())
        title, question = (escape(text.replace("'", "’")) for text in (page.title, page.question))
        picture = page.picture and (
            f'<img src="{top}{page.picture.path}" alt="{escape(page.picture.alt)}" loading="lazy">'
        )
        return (
            f'<div class="chapter">{picture or ""}<h3><a href="{here}">{number}. {title}</a>'
            f'</h3><p>{question}</p><div class="ways">{links}</div></div>'
        )


class EquationLedger(Generated):
    """The list of all numbered equations and their checks."""

    def markdown(self) -> str:
        """One section a chapter, one row an equation."""
        parts = []
        for page in pages():
            if page.equations:
                parts += [f"## {page.title}", _ledger_table(page)]
        return "\n\n".join(parts)


class EquationCount(Generated):
    """How many numbered equations and checks there are."""

    def markdown(self) -> str:
        """One sentence."""
        equations = sum(len(page.equations) for page in pages())
        checks = sum(len(page.checks) for page in pages())
        return f"There are {equations} numbered equations and {checks} checks."


def _ledger_table(page: Page) -> str:
    rows = ["| equation | title | kind | what the checks showed |", "|---|---|---|---|"]
    for label in page.equations:
        checks = [check for check in page.checks if check.label == label]
        kinds = "<br>".join(dict.fromkeys(FORMS[check.form] for check in checks))
        # A bar would end the table's cell.
        lines = "<br>".join(str(check.line).replace("|", r"\|") for check in checks)
        rows.append(f"| {{eq}}`{label}` | {page.titles[label]} | {kinds} | {lines} |")
    return ":::{div} ledger\n" + "\n".join(rows) + "\n:::"


class Statements(Generated):
    """The list of all definitions, theorems and the like."""

    def markdown(self) -> str:
        """One section a chapter, one row a statement."""
        chapters, parts = [page for page in pages() if page.is_notebook], []
        for page in chapters:
            rows = ["| statement | title | used in |", "|---|---|---|"]
            for one in page.statements:
                role = f"{{prf:ref}}`{one.label}`"
                users = [user.name for user in chapters if user != page and role in user.text]
                links = ", ".join(f"[](/{name})" for name in users)
                rows.append(f"| {role} | {one.title} | {links} |")
            if page.statements:
                table = "\n".join(rows)
                parts.append(f"## {page.title}\n\n:::{{div}} ledger statements\n{table}\n:::")
        return "\n\n".join(parts)


class StatementCount(Generated):
    """How many statements of each kind there are."""

    def markdown(self) -> str:
        """One sentence."""
        kinds = Counter(one.kind for page in pages() for one in page.statements)
        counts = [f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds.most_common()]
        return f"There are {', '.join(counts[:-1])} and {counts[-1]}."


class RunTimes(Generated):
    """The list of measured run times."""

    def markdown(self) -> str:
        """One row a notebook."""
        path = ROOT / "book" / "run_times.json"
        self.env.note_dependency(str(path))
        times = json.loads(path.read_text(encoding="utf-8"))
        rows = ["| page | run time | code cells | figures |", "|---|---:|---:|---:|"]
        for page in pages():
            if page.is_notebook:
                seconds = times[page.path.name]["seconds"]
                figures = sum("figure" in c.metadata.get("mystnb", {}) for c in page.code)
                link = f"[](/{page.name})"
                rows.append(f"| {link} | {seconds:.1f} s | {len(page.code)} | {figures} |")
        measured = {(run["machine"], run["versions"]) for run in times.values()}
        where = "; ".join(f"on {machine}, with {versions}" for machine, versions in measured)
        return "\n".join(rows) + f"\n\nMeasured {where}."


class Benchmarks(Generated):
    """The tables and plots of the benchmarks named in the directive's content."""

    has_content = True

    def markdown(self) -> str:
        """One section a benchmark, as its command wrote it."""
        parts = []
        for name in self.content:
            path = ROOT / "benchmarks" / "results" / f"{name}.md"
            self.env.note_dependency(str(path))
            text = path.read_text(encoding="utf-8")
            # The plot lies beside the table, not beside the page.
            parts.append(text.replace(f"({name}.png)", f"(/benchmarks/results/{name}.png)"))
        return "\n\n".join(parts)


VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


class KeepPercent(SphinxPostTransform):
    """Let no line end between a number and its per cent sign."""

    default_priority = 900
    formats = ("html",)

    def run(self, **options: Any) -> None:
        """Change the page's text in place."""
        for text in list(self.document.findall(nodes.Text)):
            if " %" in text and not isinstance(text.parent, VERBATIM):
                text.parent.replace(text, nodes.Text(keep_percent(text)))


def keep_percent(text: str) -> str:
    r"""Return the text with no break before a per cent sign; a formula may stand before the text.

    Example:
        >>> keep_percent("hold 95 % of it")
        'hold 95\xa0% of it'
    """
    return re.sub(r"(^|\d) %", "\\1\N{NO-BREAK SPACE}%", text)


def drop_repeated_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Keep the first of several scripts with the same text.

    sphinx-thebe registers its settings without a file name. Sphinx then holds them twice, once
    under the name None and once under '', and the second ``const THEBE_JS_URL`` is an error.
    """
    seen: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
        seen.add(body or "")
    context["script_files"] = kept


def name_solutions(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Mend the links of solutions: a space begins them, and their apostrophes are straight."""

    def mended(found: re.Match[str]) -> str:
        words = found["words"].replace("&#39;", "’").replace("'", "’")
        return f"Solution to {found['link']}{words}"

    if body := context.get("body"):
        context["body"] = re.sub(r"Solution to(?P<link><a [^>]*>) (?P<words>[^<]*)", mended, body)


def add_explorables(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Load the interactive figures' modules on the pages that hold one."""
    body = context.get("body", "")
    for name in static_scripts():
        if f'data-module="{Path(name).stem}"' in body:
            app.add_js_file(f"explorables/{name}")
    if 'class="nfbook-explorable"' in body:
        app.add_js_file("mount.js", defer="defer", priority=900)


def write_explorables(app: Sphinx, exception: Exception | None) -> None:
    """Write each module as a classic script, since a page opened from a file cannot import one."""
    if exception is None and app.builder.name == "html":
        folder = Path(app.outdir) / "_static" / "explorables"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in static_scripts().items():
            (folder / name).write_text(text, encoding="utf-8")


# An entry of Font Awesome's script: name, [width, height, [aliases], code, path].
ICON = re.compile(
    r'(?P<name>"[a-z0-9-]+"|[a-z0-9]+):\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",'
    r'(?:"[^"]*"|\["[^"]*"(?:,"[^"]*")*\])\],?'
)


def keep_used_icons(app: Sphinx, exception: Exception | None) -> None:
    """Drop the icons that no page and no script names: they are half of a first visit's bytes."""
    if exception is not None or app.builder.name != "html":
        return
    folder = Path(app.outdir)
    scripts = folder / "_static" / "scripts"
    sources = [*folder.glob("**/*.html"), *scripts.glob("*-theme.js")]
    used = {
        name
        for source in sources
        for name in re.findall(r"\bfa-([a-z0-9-]+)", source.read_text(encoding="utf-8"))
    }

    def keep(entry: re.Match[str]) -> str:
        names = {entry["name"].strip('"'), *re.findall(r'"([a-z0-9-]+)"', entry["aliases"])}
        return entry.group() if names & used else ""

    icons = scripts / "fontawesome.js"
    icons.write_text(ICON.sub(keep, icons.read_text(encoding="utf-8")), encoding="utf-8")


def name_repository(app: Sphinx, config: Config) -> None:
    """Let the pages write ``{{ repository }}`` for a link to the repository."""
    address = config.html_theme_options["repository_url"]
    config.myst_substitutions["repository"] = f"[repository]({address})"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_directive("chapters", Chapters)
    app.add_directive("equation-ledger", EquationLedger)
    app.add_directive("equation-count", EquationCount)
    app.add_directive("statements", Statements)
    app.add_directive("statement-count", StatementCount)
    app.add_directive("run-times", RunTimes)
    app.add_directive("benchmarks", Benchmarks)
    app.add_post_transform(KeepPercent)
    app.setup_extension("folding")
    app.setup_extension("links")
    app.connect("config-inited", name_repository, priority=100)
    app.connect("html-page-context", add_explorables)
    app.connect("html-page-context", name_solutions)
    app.connect("html-page-context", drop_repeated_scripts, priority=999)
    app.connect("build-finished", write_explorables)
    # The theme and Sphinx copy their files while the build finishes.
    app.connect("build-finished", keep_used_icons, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
