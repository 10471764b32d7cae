"""The commands: what they are called, what they do twice, and what they say when they cannot."""

import ast
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import build_book
import chromium
import environment
import matrix
import pytest
import serve
import yaml
from packaging.requirements import Requirement

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


def leave_stamp(folder: Path, version: str = "3.12", level: str = "all") -> Path:
    """Leave what a finished installation leaves in ``.venv``, and return its path."""
    stamp = folder / ".venv" / environment.STAMP.rpartition("/")[2]
    stamp.parent.mkdir(exist_ok=True)
    code = "import environment; print(environment.fingerprint())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "tools", capture_output=True, text=True
    )
    state = done.stdout.strip()
    stamp.write_text(f"{folder}\n{version}\n{level}\n{state}\n")
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
    assert {"--nbval", "nfbook", "tests", "book"} <= set(words)
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
    # An environment that is there and takes pip from this one, since making one takes seconds.
    venv.create(frame / ".venv", symlinks=True)
    (packages,) = (frame / ".venv").glob("lib/python*/site-packages")
    (packages / "pip.pth").write_text(sysconfig.get_path("purelib"))
    version = "{}.{}".format(*sys.version_info[:2])
    leave_stamp(frame, version).write_text(f"{frame}\n{version}\nbook\nunfinished\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        # No proxy: the refusal is this machine's.
        settings = {"PIP_INDEX_URL": address, "PIP_RETRIES": "0", "NO_PROXY": "127.0.0.1"}
        settings["PIP_FORCE_REINSTALL"] = "1"
        done = make(frame, f"PYTHON={sys.executable}", "book", **settings)
    assert done.returncode != 0
    assert "the first run needs the network" in done.stderr
    last = (frame / ".venv" / "install.log").read_text().splitlines()[-1]
    assert last in done.stderr  # pip's own words
    assert "Traceback" not in done.stdout + done.stderr
    assert "Bringing the environment in .venv up to date" in done.stdout
    # The next run goes on in the folder, and does not take it for finished.
    lines = (frame / ".venv" / "nfbook-ready").read_text().splitlines()
    assert lines[2:] == ["book", "unfinished"]


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


@pytest.fixture
def stamp(monkeypatch) -> Callable[..., None]:
    """Return a function that sets what the last installation left; making one is recorded."""
    version = "{}.{}".format(*sys.version_info[:2])
    monkeypatch.setattr(environment, "fingerprint", lambda: "same")
    monkeypatch.setattr(environment, "make", lambda version, level, anew: (level, anew))

    def leave(
        root: str = environment.ROOT, version: str = version, level: str = "all", state="same"
    ) -> None:
        monkeypatch.setattr(environment, "read_stamp", lambda: [root, version, level, state])

    return leave


def test_another_python_is_taken_when_it_was_asked_for(stamp: Callable):
    stamp(version="3.10")
    assert environment.main([]) == 0
    assert environment.main(["--chosen"]) == ("all", True)


def test_a_moved_folder_is_made_anew(stamp: Callable):
    stamp(root="/elsewhere")
    assert environment.main([]) == ("all", True)


def test_what_holds_all_serves_the_book_and_not_the_other_way_round(stamp: Callable):
    stamp(level="all")
    assert environment.main(["book"]) == 0
    stamp(level="book")
    assert environment.main(["book"]) == 0
    assert environment.main([]) == ("all", False)
    stamp(level="all", state="older")
    assert environment.main(["book"]) == ("book", False)


@pytest.mark.parametrize("command", ["book", "serve", "links"])
def test_a_readers_commands_ask_for_the_book_alone(command: str):
    shown = make(ROOT, "-n", command).stdout
    calls = [line for line in shown.splitlines() if "tools/environment.py" in line]
    assert len(calls) == 1
    assert calls[0].split()[-1] == "book"


@pytest.mark.parametrize("command", ["test", "lab", "notebooks", "bench", "lint", "matrix"])
def test_an_authors_commands_ask_for_all(command: str):
    shown = make(ROOT, "-n", command).stdout
    calls = [line for line in shown.splitlines() if "tools/environment.py" in line]
    assert calls[0].split()[-1] == "tools/environment.py"


def test_the_static_book_needs_no_torch():
    """Neither by its packages nor by what its extension imports of nfbook."""
    todo, names = environment.stages("book")[-1][1:], set()
    while todo:
        one = Requirement(todo.pop())
        if one.name not in names and (not one.marker or one.marker.evaluate({"extra": ""})):
            names.add(one.name)
            todo += importlib.metadata.requires(one.name) or []
    assert {"jupyter-book", "sphinx"} <= {name.lower() for name in names}
    assert not names & {"torch", "numpy", "matplotlib", "nfbook"}
    code = (
        "import sys, nfbook_book\n"
        "from nfbook.explorables import static_scripts\n"
        "assert static_scripts()\n"
        "print(*{'torch', 'numpy', 'anywidget'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "book" / "_ext")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("platform", "gpu", "setting", "answers", "taken"),
    [
        ("linux", False, None, True, True),
        ("linux", False, None, False, False),
        ("linux", True, None, True, False),
        ("linux", False, "https://example.org", True, False),
        ("darwin", False, None, True, False),
    ],
)
def test_torchs_cpu_build_is_taken_where_it_serves(
    monkeypatch, platform: str, gpu: bool, setting: str | None, answers: bool, taken: bool
):
    monkeypatch.setattr(environment.sys, "platform", platform)
    monkeypatch.setattr(environment, "has_gpu", lambda: gpu)
    monkeypatch.setattr(environment, "answers", lambda address: answers)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    if setting:
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", setting)
    assert environment.cpu_builds() == (
        ["--extra-index-url", environment.CPU_BUILDS] if taken else []
    )


def test_an_index_that_does_not_answer_costs_a_few_seconds_and_no_word(monkeypatch, capfd):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "PATIENCE", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert environment.answers(refused) is False
        silent.listen()  # it takes the connection and says nothing
        assert environment.answers(refused) is False
    assert environment.answers(ROOT.as_uri() + "/pyproject.toml") is True
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch) -> Path:
    """Return a small book whose builder is a stub that can be told to fail."""
    for name in ("benchmarks/results", "book", "nfbook", "tools"):
        (tmp_path / name).mkdir(parents=True)
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


@pytest.mark.parametrize("change", ["edit", "add", "remove", "config", "table"])
def test_a_changed_source_builds_the_book_again(sources: Path, builder: Builder, change: str):
    build_book.main()
    page = sources / "book" / "page.md"
    if change == "edit":
        page.write_text("other")
    elif change == "table":
        (sources / "benchmarks" / "results" / "page.md").write_text("other")
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


def test_the_matrix_runs_what_exists():
    assert all((ROOT / name).exists() for name in matrix.TRAINING)
    assert {"nfbook", "book", "tests/latent"} <= set(matrix.TRAINING)


@pytest.mark.parametrize(
    ("setting", "capability", "machine", "lacks"),
    [
        ("own", "DEFAULT", "arm64", None),
        ("threads=4", "DEFAULT", "arm64", None),
        ("mkl=SSE4_2", "DEFAULT", "arm64", "an x86 processor, this one is arm64"),
        ("aten=avx512", "AVX2", "x86_64", "AVX512"),
        ("onednn=AVX2", "DEFAULT", "x86_64", "AVX2"),
        ("aten=avx512", "AVX512", "x86_64", None),
        ("lowest", "DEFAULT", "x86_64", None),
    ],
)
def test_the_matrix_names_what_a_processor_lacks(
    setting: str, capability: str, machine: str, lacks: str | None
):
    assert matrix.missing(matrix.SETTINGS[setting], capability, machine) == lacks


def test_the_matrix_fails_where_a_setting_fails(monkeypatch, capsys):
    seen = []

    def pytest_stub(command: list[str], *, env: dict[str, str], **_: object):
        seen.append({name: env.get(name) for name in ("OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY")})
        assert command[-1] == "tests"
        failed = "ATEN_CPU_CAPABILITY" in env
        said = "== 1 failed in 2 s ==\n" if failed else "== 3 passed in 2 s ==\n"
        return subprocess.CompletedProcess(command, int(failed), said)

    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(matrix.subprocess, "run", pytest_stub)
    monkeypatch.setattr(matrix, "missing", lambda setting, *_: "gold" if not setting else None)
    assert matrix.main(["own", "threads=2"], ("tests",)) == 0
    assert "| own | not run: it needs gold | |" in capsys.readouterr().out
    assert matrix.main(["threads=2", "aten=default"], ("tests",)) == 1
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[0] == "| threads=2 | passed: 3 passed in 2 s | 0 s |"
    assert rows[1] == "| aten=default | FAILED: 1 failed in 2 s | 0 s |"
    threads = {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": None}
    assert seen[:2] == [threads, threads]
    assert seen[2] == {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default"}
    # Other draws change no number that a notebook prints.
    assert matrix.main(["seed=2"], ("tests", "book")) == 0
    assert matrix.main(["threads=3"]) == 2
    assert "SETTINGS must be among own" in capsys.readouterr().err
