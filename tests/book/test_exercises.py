"""The exercises' checks, as a reader meets them."""

import math
import re
import sys
from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest
import torch
from pages import Page

from nfbook import exercises
from nfbook.exercises import Exercise, Mistake, check

HALF = Exercise(
    solution=lambda: 0.5,
    hint="think of symmetry.",
    mistakes=(Mistake(lambda: 1.0, "you forgot to divide by 2."),),
)
SQUARE = Exercise(
    solution=lambda x: x**2,
    hint="multiply x by itself.",
    mistakes=(Mistake(lambda x: 2 * x, "that is the double."),),
    at=((torch.tensor(3.0),), (torch.tensor(-1.0),)),
)


PAGES = {
    module.name.replace("_", "-"): import_module(f"nfbook.exercises.{module.name}").EXERCISES
    for module in iter_modules(exercises.__path__)
}
ALL = [
    pytest.param(name, exercise, id=name)
    for page in PAGES.values()
    for name, exercise in page.items()
]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return what `check` prints for an answer."""

    def run(exercise: Exercise, answer: object) -> str:
        page = SimpleNamespace(EXERCISES={"some-1": exercise})
        monkeypatch.setitem(sys.modules, f"{exercises.__name__}.some", page)
        check("some-1", answer)
        return capsys.readouterr().out.removesuffix("\n")

    return run


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "○ some-1: no answer yet. Replace None by yours and run the cell again."),
        (0.5, "✓ some-1: correct."),
        (torch.tensor(0.5), "✓ some-1: correct."),
        (1, "✗ some-1: you forgot to divide by 2."),
        (0.4, "✗ some-1: think of symmetry."),
        (math.nan, "✗ some-1: the result holds NaN or infinity. think of symmetry."),
        (
            [0.5, 0.5],
            "✗ some-1: the shape should be (), yours is (2,).",
        ),
        ("half", "✗ some-1: the answer should be a real number or a tensor of them, not str."),
        pytest.param(
            10**400,
            "✗ some-1: the answer should be a real number or a tensor of them, not int.",
            id="huge",
        ),
        (
            torch.tensor(0.5 + 1j),
            "✗ some-1: the answer should be a real number or a tensor of them, not a complex one.",
        ),
        (lambda: 0.5, "✗ some-1: the answer should be a value, yours is a function. Call it."),
    ],
)
def test_value(say, answer, said):
    assert say(HALF, answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: x * x, "✓ some-1: correct."),
        (lambda x: x + x, "✗ some-1: that is the double."),
        (lambda x: abs(x), "✗ some-1: multiply x by itself."),
        (9.0, "✗ some-1: the answer should be a function, yours is float."),
        (lambda: 1, "✗ some-1: your function raised TypeError"),
        (lambda x: x.nothing, "✗ some-1: your function raised AttributeError"),
        (lambda x: None, "✗ some-1: your function returned None. Did you forget return?"),
        (
            lambda x: "nine",
            "✗ some-1: what your function returns should be a real number or a tensor of them, "
            "not str.",
        ),
    ],
)
def test_function(say, answer, said):
    assert say(SQUARE, answer).startswith(said)


def test_an_answer_that_works_in_place_changes_nothing(say):
    assert say(SQUARE, lambda x: x.mul_(2)) == "✗ some-1: that is the double."
    assert say(SQUARE, lambda x: x.mul_(x)) == "✓ some-1: correct."
    assert SQUARE.at == ((torch.tensor(3.0),), (torch.tensor(-1.0),))


@pytest.mark.parametrize(
    "name",
    ["bayes-99", "nothing-1", "bayes", "", None, ["a"], {}, 3, "__init__-1", "bayes.x-1", "-1"],
)
def test_unknown_name_is_named(name):
    with pytest.raises(ValueError, match="name must be an exercise such as 'bayes-1', got"):
        check(name, 1.0)


def test_a_chapter_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    """A missing package is a fault of the installation, and not of the exercise's name."""
    (tmp_path / "broken.py").write_text("import a_package_that_is_missing")
    monkeypatch.setattr(exercises, "__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        check("broken-1", 1.0)


@pytest.mark.parametrize(("name", "exercise"), ALL)
def test_each_solution_is_right_and_each_mistake_gets_its_own_hint(name, exercise, capsys):
    def said(solution):
        check(name, solution if exercise.at else solution())
        return capsys.readouterr().out

    assert said(exercise.solution) == f"✓ {name}: correct.\n"
    for mistake in exercise.mistakes:
        assert said(mistake.solution) == f"✗ {name}: {mistake.hint}\n"
    assert said(lambda *at: 7 * exercise.solution(*at) + 12345.0) == f"✗ {name}: {exercise.hint}\n"
    hints = [exercise.hint, *(mistake.hint for mistake in exercise.mistakes)]
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize(("page", "asked"), PAGES.items())
def test_exercises_are_named_by_their_page_and_numbered_in_order(page, asked):
    assert list(asked) == [f"{page}-{i}" for i in range(1, 1 + len(asked))]


def test_unknown_number_lists_the_pages_exercises():
    with pytest.raises(ValueError, match="this page has bayes-1, bayes-2"):
        check("bayes-99", 1.0)


def test_every_exercise_is_asked_and_solved_on_its_page(book: list[Page]):
    """Each has a cell that waits for the reader's answer, and a solution that passes its check."""
    for page in book:
        lines = [
            line
            for cell in page.code
            for output in cell.outputs
            for line in output.get("text", "").splitlines()
        ]
        asked = [line.split(":")[0][2:] for line in lines if line.startswith("○ ")]
        solved = [line.split(":")[0][2:] for line in lines if line.startswith("✓ ") if ":" in line]
        solved = [name for name in solved if name in asked]
        assert asked == solved, page.name
        assert not any(line.startswith("✗") for line in lines)
        assert asked == list(PAGES.get(page.path.stem, {})), page.name
        if page.is_notebook:
            assert 2 <= len(asked) <= 10
            labels = re.findall(r"\{exercise\}.*\n:label: (\S+)", page.text)
            assert labels == [f"ex-{name}" for name in asked]
    assert set(PAGES) <= {page.path.stem for page in book}
