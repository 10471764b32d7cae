"""The commands: what they are called, what they do twice, and what they say when they cannot."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import build_book
import chromium
import environment
import pytest
import serve
import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# A call of make: variables, then one target. The variables' values may hold spaces in quotes.
CALL = re.compile(r"""\bmake((?: [A-Z]+=(?:"[^"]*"|[^\s"`]+))*)(?: ([a-z]+))?(?=[\s`.,;:)]|$)""")


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in a copy of the frame, with pip's settings of this machine out of the way."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE", "NFBOOK_"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**kept, "PIP_CONFIG_FILE": os.devnull, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """Return a folder with all that making an environment reads."""
    folder = tmp_path / "a book"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/environment.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def old_python(tmp_path: Path) -> str:
    """Return a Python that says it is 3.9."""
    path = tmp_path / "python3.9"
    path.write_text(
        f"""#!/bin/sh
exec "{sys.executable}" -c '
import runpy, sys
sys.version_info = (3, 9, 18, "final", 0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
' "$@"
"""
    )
    path.chmod(0o755)
    return str(path)


def leave_stamp(folder: Path, version: str = "3.12", state: str | None = None) -> Path:
    """Leave what a finished installation leaves in ``.venv``, and return its path."""
    stamp = folder / ".venv" / environment.STAMP.rpartition("/")[2]
    stamp.parent.mkdir()
    if state is None:
        code = "import environment; print(environment.fingerprint())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder / "tools", capture_output=True, text=True
        )
        state = done.stdout.strip()
    stamp.write_text(f"{folder}\n{version}\n{state}\n")
    return stamp


def test_make_alone_lists_every_command():
    for arguments in ((), ("help",)):
        shown = make(ROOT, *arguments).stdout
        assert {line.split()[1] for line in shown.splitlines()} == TARGETS
        assert all(len(line.split()) >= 4 and len(line) < 100 for line in shown.splitlines())


def test_the_promised_commands_exist():
    assert {"book", "test", "notebooks", "lab", "lint", "serve", "pins", "clean"} <= TARGETS


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        ".ci/run",
        *(f".github/workflows/{p.name}" for p in WORKFLOWS),
    ],
)
def test_commands_that_are_named_exist(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"`[^`\n]+`|^    .*$|run: .*$|^make .*$", text, re.M))
    called = {target for _, target in CALL.findall(code) if target}
    assert called <= TARGETS
    assert called


def test_make_test_compares_every_notebook():
    """The flag is nbval's strict one, and nothing is deselected."""
    shown = make(ROOT, "-n", "test").stdout
    (command,) = [line for line in shown.splitlines() if "-m pytest" in line]
    words = command.split()
    assert {"--nbval", "--nbval-current-env", "nfbook", "tests", "book"} <= set(words)
    assert "--nbval-lax" not in words
    assert not {"-k", "-m", "--deselect", "--ignore"} & set(words[words.index("pytest") + 1 :])


def test_ci_runs_the_readmes_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert script.read_text().splitlines()[-1] == "make test"
    assert "set -euo pipefail" in script.read_text()


def test_an_old_python_gets_a_message(frame: Path, old_python: str):
    done = make(frame, f"PYTHON={old_python}", "book")
    assert done.returncode != 0
    assert "nfbook needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.18" in done.stderr
    assert "make PYTHON=python3.13 book" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (frame / ".venv").exists()


def test_a_python_that_is_not_there_gets_a_message(frame: Path):
    done = make(frame, "PYTHON=no-such-python", "test")
    assert done.returncode != 0
    assert "There is no no-such-python here" in done.stderr
    assert "make PYTHON=/path/to/python test" in done.stderr


def test_any_python_can_start_the_environment_script():
    """Python 2 and 3.4 read it, or they would show a syntax error in place of the message."""
    source = (ROOT / "tools" / "environment.py").read_text(encoding="utf-8")
    assert source.isascii()
    tree = ast.parse(source, feature_version=(3, 4))
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.Nonlocal, ast.YieldFrom)
    for node in ast.walk(tree):
        assert not isinstance(node, newer), ast.unparse(node)
        if isinstance(node, ast.FunctionDef):
            assert node.args.kwonlyargs + node.args.posonlyargs == []
            assert node.returns is None
            assert all(a.annotation is None for a in node.args.args)
        if isinstance(node, ast.Raise):
            assert node.cause is None


def test_no_network_gets_a_message(frame: Path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        done = make(frame, f"PYTHON={sys.executable}", "book", PIP_INDEX_URL=address)
    assert done.returncode != 0
    assert "the package index did not answer" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Making the environment" in done.stdout
    assert (frame / ".venv" / "install.log").stat().st_size > 0
    # The next run goes on in the folder, and does not take it for finished.
    lines = (frame / ".venv" / "nfbook-ready").read_text().splitlines()
    assert lines[2] == "unfinished"


def test_a_finished_environment_is_left_alone(frame: Path, old_python: str):
    leave_stamp(frame)
    # The Python that stands in PATH does not matter then: what is asked for is there.
    done = make(frame, "environment", PATH=f"{Path(old_python).parent}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_a_changed_input_makes_the_environment_anew(frame: Path, old_python: str, name: str):
    leave_stamp(frame)
    with (frame / name).open("a") as file:
        file.write("\n")
    # The old Python shows that something was to be done.
    assert "nfbook needs Python" in make(frame, f"PYTHON={old_python}", "environment").stderr


def test_another_python_is_taken_when_it_was_asked_for(monkeypatch):
    monkeypatch.setattr(environment, "fingerprint", lambda: "same")
    monkeypatch.setattr(environment, "read_stamp", lambda: [environment.ROOT, "3.10", "same"])
    monkeypatch.setattr(environment, "make", lambda version, anew: anew)
    assert environment.main([]) == 0
    assert environment.main(["--chosen"]) is True


def test_a_moved_folder_is_made_anew(monkeypatch):
    version = "{}.{}".format(*sys.version_info[:2])
    monkeypatch.setattr(environment, "fingerprint", lambda: "same")
    monkeypatch.setattr(environment, "read_stamp", lambda: ["/elsewhere", version, "same"])
    monkeypatch.setattr(environment, "make", lambda version, anew: anew)
    assert environment.main([]) is True


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("WARNING: Retrying after NewConnectionError('...')", "did not answer"),
        ("Temporary failure in name resolution", "did not answer"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==9", "what it said is in"),
    ],
)
def test_pips_failures_are_told_apart(said: str, message: str, capsys):
    assert environment.explain([said + "\n"], "python") == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def sources(tmp_path: Path, monkeypatch) -> Path:
    """Return a small book whose builder is a stub that can be told to fail."""
    for name in ("book", "nfbook", "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.md").write_text("text")
    for name in ("_config.yml", "_toc.yml", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    monkeypatch.setattr(build_book, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(build_book, "INDEX", tmp_path / "_build" / "html" / "index.html")
    monkeypatch.setattr(build_book, "STAMP", tmp_path / "_build" / "stamp")
    monkeypatch.setattr(
        build_book, "fingerprint", lambda real=build_book.fingerprint: real(tmp_path)
    )
    return tmp_path


class Builder:
    """Stands for jupyter-book: counts its calls and fails on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.status = folder, 0, 0

    def __call__(self, command: list[str], **_: object) -> int:
        assert "-W" in command
        assert not (self.folder / "_build").exists(), "a build starts from nothing"
        (self.folder / "_build" / "html").mkdir(parents=True)
        (self.folder / "_build" / "html" / "index.html").write_text("built")
        self.calls += 1
        return self.status


@pytest.fixture
def builder(sources: Path, monkeypatch) -> Builder:
    stub = Builder(sources)
    monkeypatch.setattr(build_book.subprocess, "call", stub)
    return stub


def test_the_book_is_built_once_and_its_place_is_printed(sources: Path, builder: Builder, capsys):
    assert build_book.main() == 0
    assert build_book.main() == 0
    assert builder.calls == 1
    shown = capsys.readouterr().out
    assert f"file://{sources}/_build/html/index.html" in shown
    assert "make serve" in shown
    assert "up to date" in shown


@pytest.mark.parametrize("change", ["edit", "add", "remove", "config"])
def test_a_changed_source_builds_the_book_again(sources: Path, builder: Builder, change: str):
    build_book.main()
    page = sources / "book" / "page.md"
    if change == "edit":
        page.write_text("other")
    elif change == "add":
        (sources / "nfbook" / "new.py").write_text("")
    elif change == "remove":
        page.unlink()
    else:
        (sources / "_config.yml").write_text("title: other")
    build_book.main()
    assert builder.calls == 2


def test_what_python_and_jupyter_leave_behind_builds_nothing(sources: Path, builder: Builder):
    build_book.main()
    for name in ("nfbook/__pycache__", "book/.ipynb_checkpoints"):
        (sources / name).mkdir()
        (sources / name / "left").write_text("")
    (sources / "book" / "page.md").touch()
    build_book.main()
    assert builder.calls == 1


def test_a_build_that_failed_fails_again(sources: Path, builder: Builder, capsys):
    """A second, incremental build would report no warning and pass."""
    builder.status = 1
    assert build_book.main() == 1
    assert build_book.main() == 1
    assert builder.calls == 2
    assert "was not built" in capsys.readouterr().err


def test_a_port_in_use_gets_a_message(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main([str(port)]) == 1
    assert f"Port {port} cannot be used" in capsys.readouterr().err
    assert serve.main(["http"]) == 2
    assert "PORT must be a number" in capsys.readouterr().err


def test_a_browser_that_is_not_there_gets_a_message(monkeypatch, capsys):
    monkeypatch.setenv("CHROMIUM", "/no/such/chrome")
    assert chromium.main() == 1
    assert "CHROMIUM must name a browser, got '/no/such/chrome'" in capsys.readouterr().err


def test_the_named_browser_is_taken(monkeypatch):
    monkeypatch.setenv("CHROMIUM", sys.executable)
    assert chromium.find() == sys.executable


def test_a_browser_is_fetched_when_there_is_none(monkeypatch, capsys):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(chromium, "find", lambda: None)
    monkeypatch.setattr(chromium, "find_playwright", lambda: None)
    called = []
    monkeypatch.setattr(chromium.subprocess, "call", called.append)
    assert chromium.main() == 1
    assert called[0][1:] == ["-m", "playwright", "install", "chromium"]
    assert "make CHROMIUM=" in capsys.readouterr().err


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_sound(path: Path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    # "on" is YAML 1.1's word for true.
    assert workflow.keys() >= {"name", True, "permissions", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def test_workflows_test_before_they_publish():
    book = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    jobs = book["jobs"]
    commands = [step.get("run") for step in jobs["test"]["steps"]]
    assert [command for command in commands if command] == ["make lint", "make test"]
    assert jobs["publish"]["needs"] == "test"
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_weekly_deselects_a_test_that_exists():
    text = (ROOT / ".github" / "workflows" / "weekly.yml").read_text()
    file, name = re.search(r"--deselect (\S+)::(\w+)", text).groups()
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_hooks_run_the_pinned_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python -m ")
        for word in hook["entry"].split():
            if word.startswith("tests/"):
                assert (ROOT / word).exists()
