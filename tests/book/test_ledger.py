"""The ledger: what it accepts, what it rejects, and that no page can go unchecked."""

import ast
import inspect
import math
from collections import Counter

import pytest
import torch
from draws import seeded
from pages import CHECKS, Page

from nfbook import cases
from nfbook.ledger import (
    EquationError,
    estimate,
    verify,
    verify_bound,
    verify_limit,
    verify_mean,
    verify_samples,
)

DOUBLE = torch.float64


def normal(generator):
    return (torch.randn(3, generator=generator, dtype=DOUBLE),)


# --- equality


def test_true_equation_shows_one_line(capsys):
    verify("eq-square", lambda x: (x + 1) ** 2, lambda x: x**2 + 2 * x + 1, inputs=normal)
    assert capsys.readouterr().out == "✓ eq-square holds to 1e-10: 200 random inputs\n"


@pytest.mark.parametrize("slip", [1e-9, 1e-6, 1.0])
def test_broken_equation_is_caught_with_its_worst_case(slip):
    with pytest.raises(EquationError, match="worst case, number") as caught:
        verify("eq-square", lambda x: x**2, lambda x: x**2 + slip * (x > 2), inputs=normal)
    assert "eq-square fails in" in str(caught.value)
    assert "inputs = (tensor" in str(caught.value)


def test_worst_case_is_the_worst():
    right = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    with pytest.raises(EquationError, match=r"in 2 of 3 cases: the error is 0\.5.*") as caught:
        verify("eq-x", torch.tensor([1.0, 2.1, 6.0], dtype=DOUBLE), right)
    assert "worst case, number 2: lhs = 6, rhs = 3" in str(caught.value)


def test_small_numbers_are_held_to_the_same_standard():
    tiny = torch.tensor([1e-30], dtype=DOUBLE)
    with pytest.raises(EquationError):
        verify("eq-tiny", tiny, 2 * tiny)


def test_scale_is_for_sides_that_vanish(capsys):
    zero = torch.zeros(3, dtype=DOUBLE)
    rounding = torch.full((3,), 1e-15, dtype=DOUBLE)
    with pytest.raises(EquationError):
        verify("eq-gradient", rounding, zero)
    verify("eq-gradient", rounding, zero, scale=1.0)
    assert "holds" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_never_hold(bad):
    with pytest.raises(EquationError):
        verify("eq-x", torch.tensor([1.0, bad], dtype=DOUBLE), torch.ones(2, dtype=DOUBLE))


def test_nan_on_both_sides_does_not_hold():
    with pytest.raises(EquationError):
        verify("eq-x", torch.full((2,), math.nan), torch.full((2,), math.nan))


def test_mistake_must_fail(capsys):
    sides = (lambda x: 2 * x, lambda x: x + x)
    verify("eq-twice", *sides, inputs=normal, wrong={"without the 2": lambda x: x})
    assert capsys.readouterr().out.endswith("200 random inputs; without the 2 it fails\n")
    with pytest.raises(EquationError, match="backwards it should fail"):
        verify("eq-twice", *sides, inputs=normal, wrong={"backwards": lambda x: x * 2})


def test_vacuous_checks_are_refused():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="same object"):
        verify("eq-x", x, x)
    with pytest.raises(ValueError, match="inputs must vary"):
        verify("eq-x", lambda a: a, lambda a: a + 0, inputs=lambda generator: (x,))
    with pytest.raises(ValueError, match=r"tolerance must be above 0 and at most 0\.01"):
        verify("eq-x", x, x + 1, tolerance=0.5)
    with pytest.raises(ValueError, match="empty"):
        verify("eq-x", torch.zeros(0), torch.ones(0))


def test_bad_requests_are_named():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="label must look like"):
        verify("Equation 1", x, x + 1)
    with pytest.raises(ValueError, match=r"agree in shape and dtype, got \(3,\)"):
        verify("eq-x", x, torch.ones(1))
    with pytest.raises(ValueError, match="dtype"):
        verify("eq-x", x, x.to(DOUBLE))
    with pytest.raises(TypeError, match="lhs must be a tensor unless inputs"):
        verify("eq-x", lambda a: a, x)
    with pytest.raises(TypeError, match="rhs must be a function of the inputs"):
        verify("eq-x", lambda a: a, x, inputs=normal)
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        verify("eq-x", lambda a: a, lambda a: a + 0, inputs=normal, generator=0)


@pytest.mark.parametrize("scale", [-1.0, 0.0, math.inf, 1e12, math.nan])
def test_scale_cannot_make_a_check_vacuous(scale):
    with pytest.raises(ValueError, match="scale"):
        verify("eq-x", torch.ones(3), torch.zeros(3), scale=scale)
    with pytest.raises(ValueError, match="scale"):
        verify("eq-x", torch.full((3,), 2e-9), torch.full((3,), 1e-9), scale=scale)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tolerance": None}, "tolerance must be a number, got NoneType"),
        ({"scale": "a"}, "scale must be a number, got str"),
        ({"inputs": 3}, "inputs must be a function, got int"),
        (
            {"inputs": lambda g: torch.rand(2, generator=g)},
            "inputs must return a tuple, got Tensor",
        ),
        ({"wrong": ["x"]}, "wrong must map a mistake's name to a side, got list"),
        ({"lhs": lambda x: 1.0}, "lhs must be a floating-point tensor, got float"),
        ({"lhs": lambda x: x > 0}, "lhs must be a floating-point tensor, got torch.bool"),
        ({"rhs": lambda x: x.long()}, "rhs must be a floating-point tensor, got torch.int64"),
        ({"lhs": None}, "lhs must be a function of the inputs, got NoneType"),
    ],
)
def test_wrong_kinds_are_named(changed, message):
    request = {"lhs": lambda x: x, "rhs": lambda x: x + 0, "inputs": normal} | changed
    lhs, rhs = request.pop("lhs"), request.pop("rhs")
    with pytest.raises(TypeError, match=message):
        verify("eq-x", lhs, rhs, **request)


def test_shapes_must_not_vary_between_cases():
    def some(generator):
        return (torch.rand(int(torch.randint(1, 9, (), generator=generator)), generator=generator),)

    with pytest.raises(ValueError, match="lhs must have one shape in all cases"):
        verify("eq-x", lambda x: x, lambda x: x + 0, inputs=some)


def test_one_value_is_one_value(capsys):
    verify("eq-x", torch.tensor(1.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE))
    assert capsys.readouterr().out == "✓ eq-x holds to 1e-10: 1 value\n"


# --- bound


def test_bound(capsys):
    verify_bound(
        "eq-amgm", lambda x: x.abs().prod() ** (1 / 3), lambda x: x.abs().mean(), inputs=normal
    )
    assert capsys.readouterr().out == "✓ eq-amgm holds as a bound: 200 random inputs\n"


def test_broken_bound_is_caught():
    with pytest.raises(EquationError, match=r"lower = .*upper ="):
        verify_bound("eq-x", lambda x: x.mean(), lambda x: x.median(), inputs=normal)


def test_bound_in_single_precision_and_at_minus_infinity(capsys):
    verify_bound("eq-x", torch.tensor([0.0, -1.0]), torch.tensor([0.0, 1.0]))
    verify_bound("eq-x", torch.tensor([-math.inf, 0.0]), torch.tensor([0.0, 0.0]))
    assert capsys.readouterr().out.count("holds as a bound: 2 values") == 2
    with pytest.raises(EquationError):
        verify_bound("eq-x", torch.tensor([math.nan, -1.0]), torch.tensor([0.0, 1.0]))


def test_bound_that_is_an_equation_is_refused():
    with pytest.raises(EquationError, match="both sides are equal"):
        verify_bound("eq-x", lambda x: 2 * x, lambda x: x + x, inputs=normal)


def test_mistaken_bound_must_fail():
    with pytest.raises(EquationError, match="it should fail"):
        verify_bound(
            "eq-x",
            lambda x: x.abs().mean(),
            lambda x: x.abs().max(),
            inputs=normal,
            wrong={"with the sum": lambda x: x.abs().sum()},
        )


# --- limit


def taylor(n):
    return torch.tensor([(1 + 2 / n) ** n], dtype=DOUBLE)


LIMIT = torch.tensor([math.exp(2)], dtype=DOUBLE)


def test_limit(capsys):
    verify_limit("eq-exp", taylor, LIMIT, along=(10, 100, 1e4, 1e6), tolerance=1e-3, rate=1)
    assert capsys.readouterr().out == "✓ eq-exp converges to within 0.001 at 1e+06, like n^-1\n"


def test_broken_limits_are_caught():
    along = (1e2, 1e3, 1e4)
    with pytest.raises(EquationError, match="does not shrink"):
        verify_limit("eq-exp", taylor, LIMIT - 0.1, along=along, tolerance=1e-2)
    with pytest.raises(EquationError, match="above the tolerance"):
        verify_limit("eq-exp", taylor, LIMIT, along=along, tolerance=1e-6)
    with pytest.raises(EquationError, match=r"like n\^-0\.995, not n\^-2"):
        verify_limit("eq-exp", taylor, LIMIT, along=along, tolerance=1e-2, rate=2)


def test_a_mistaken_limit_must_fail(capsys):
    settings = {"along": (1e2, 1e3, 1e4), "tolerance": 1e-2}
    verify_limit("eq-exp", taylor, LIMIT, **settings, wrong={"a tenth above": LIMIT + 0.1})
    assert capsys.readouterr().out.endswith("at 10000; a tenth above it fails\n")
    with pytest.raises(EquationError, match="rounded it should fail, but it converges"):
        verify_limit("eq-exp", taylor, LIMIT, **settings, wrong={"rounded": LIMIT + 1e-6})
    with pytest.raises(TypeError, match="wrong must map a mistake's name"):
        verify_limit("eq-exp", taylor, LIMIT, **settings, wrong=LIMIT + 0.1)


@pytest.mark.parametrize("points", [(10, 5, 20), (0, 1, 2), (-1, 1, 2), (1, 2), ()])
def test_limit_needs_increasing_points(points):
    with pytest.raises(ValueError, match="along must hold three or more positive, increasing"):
        verify_limit("eq-exp", taylor, LIMIT, along=points, tolerance=1e-2)


def test_limit_names_what_is_wrong():
    along = (1e2, 1e3, 1e4)
    with pytest.raises(TypeError, match="along must be a sequence of numbers, got str"):
        verify_limit("eq-exp", taylor, LIMIT, along="abc", tolerance=1e-2)
    with pytest.raises(TypeError, match="both sides must be tensors"):
        verify_limit("eq-exp", lambda n: 1.0, LIMIT, along=along, tolerance=1e-2)
    with pytest.raises(EquationError, match="the last error is 0"):
        verify_limit(
            "eq-x",
            lambda n: torch.tensor([max(0.0, 1e3 - n)]),
            torch.zeros(1),
            along=(10, 100, 1e3),
            tolerance=1e-2,
            rate=1,
        )


# --- expectation and distribution


def test_mean(capsys):
    z = torch.randn(100_000, 2, generator=seeded(), dtype=DOUBLE)
    verify_mean(
        "eq-second",
        z**2,
        torch.ones(2, dtype=DOUBLE),
        wrong={"doubled": torch.full((2,), 2.0, dtype=DOUBLE)},
    )
    assert "holds on average: 100000 draws, 5 standard errors; doubled" in capsys.readouterr().out


def test_broken_mean_is_caught():
    z = torch.randn(100_000, generator=seeded(), dtype=DOUBLE)
    with pytest.raises(EquationError, match="standard errors off"):
        verify_mean("eq-second", z**2, torch.tensor(1.05, dtype=DOUBLE))
    with pytest.raises(ValueError, match="average over more draws"):
        verify_mean("eq-second", z[:200] ** 2, torch.tensor(1.0, dtype=DOUBLE))


@pytest.mark.parametrize("loose", [{"sigmas": 1e9}, {"precision": 1e9}, {"sigmas": -1.0}])
def test_mean_cannot_be_made_vacuous(loose):
    z = torch.randn(1000, generator=seeded(), dtype=DOUBLE)
    with pytest.raises(ValueError, match=f"{next(iter(loose))} must be above 0"):
        verify_mean("eq-x", z, torch.tensor(7.0, dtype=DOUBLE), **loose)


def test_mistaken_mean_must_be_comparable():
    z = torch.rand(10_000, 2, generator=seeded(), dtype=DOUBLE)
    half = torch.full((2,), 0.5, dtype=DOUBLE)
    with pytest.raises(ValueError, match="nothing must be finite"):
        verify_mean("eq-x", z, half, wrong={"nothing": half * math.nan})
    with pytest.raises(ValueError, match=r"one must have shape \(2,\)"):
        verify_mean("eq-x", z, half, wrong={"one": torch.ones(1, dtype=DOUBLE)})
    with pytest.raises(TypeError, match="dtype"):
        verify_mean("eq-x", z, half, wrong={"single": torch.ones(2)})
    with pytest.raises(TypeError, match=r"draws must be a torch\.Tensor, got list"):
        verify_mean("eq-x", [1.0], half)


def test_samples_name_what_is_wrong():
    z = torch.rand(10_000, generator=seeded(), dtype=DOUBLE)
    with pytest.raises(TypeError, match="cdf must be a function, got NoneType"):
        verify_samples("eq-x", z, None)
    with pytest.raises(ValueError, match="cdf's result must have shape"):
        verify_samples("eq-x", z, lambda x: x[:1])
    with pytest.raises(ValueError, match="false_alarm must be above 0"):
        verify_samples("eq-x", z, lambda x: x, false_alarm=-1)
    with pytest.raises(ValueError, match="nothing's result must be finite"):
        verify_samples("eq-x", z, lambda x: x, wrong={"nothing": lambda x: x * math.nan})


def test_samples(capsys):
    z = torch.randn(20_000, generator=seeded(), dtype=DOUBLE)
    standard = torch.distributions.Normal(0.0, 1.0)
    wide = torch.distributions.Normal(0.0, 1.1)
    verify_samples("eq-normal", z, standard.cdf, wrong={"too wide": wide.cdf})
    assert "holds in distribution: 20000 samples" in capsys.readouterr().out
    with pytest.raises(EquationError, match="distribution functions are"):
        verify_samples("eq-normal", z, wide.cdf)
    with pytest.raises(ValueError, match="samples must hold at least"):
        verify_samples("eq-normal", z[:100], standard.cdf)


def test_samples_keep_their_false_alarm_rate():
    """At a rate of one in twenty, true samples are rejected no more often than that."""
    standard = torch.distributions.Normal(torch.tensor(0.0, dtype=DOUBLE), 1.0)
    generator = seeded(1)
    alarms = 0
    for _ in range(400):
        z = torch.randn(300, generator=generator, dtype=DOUBLE)
        try:
            verify_samples("eq-normal", z, standard.cdf, false_alarm=0.05)
        except EquationError:
            alarms += 1
    assert 2 <= alarms <= 40


# --- stochastic numbers


def test_estimate_shows_the_number_and_its_range(capsys):
    estimate("gap", 0.1234567, expected=0.12, within=0.01)
    assert capsys.readouterr().out == "gap ≈ 0.1235 (expected 0.12 ± 0.01)\n"


@pytest.mark.parametrize("value", [0.2, -0.12, math.nan, math.inf])
def test_wrong_estimate_is_caught(value):
    with pytest.raises(AssertionError, match=r"gap is .*, expected 0\.12 ± 0\.01"):
        estimate("gap", value, expected=0.12, within=0.01)


@pytest.mark.parametrize(
    ("expected", "within"), [(0.12, 0.07), (0.12, math.inf), (0.12, 0.0), (0.0, 1e9), (0.12, -1.0)]
)
def test_estimate_must_say_something(expected, within):
    with pytest.raises(ValueError, match="within must be above 0 and at most"):
        estimate("gap", expected, expected=expected, within=within)


@pytest.mark.parametrize("value", [None, "0.12", True, torch.zeros(2)])
def test_estimate_names_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"value must be a number, got (NoneType|str|bool|Tensor)"):
        estimate("gap", value, expected=0.12, within=0.01)


# --- the pages


def test_every_numbered_equation_is_checked_and_every_check_has_an_equation(book: list[Page]):
    for page in book:
        assert set(page.equations) == {check.label for check in page.checks}, page.name


def test_labels_are_unique_and_well_formed(book: list[Page]):
    labels = Counter(label for page in book for label in page.equations)
    assert labels, "the book has no numbered equation"
    assert [label for label, count in labels.items() if count > 1] == []
    for page in book:
        chapter = page.path.stem.split("-")[0]
        for label in page.equations:
            assert label.startswith(f"eq-{chapter}-")


def test_every_check_names_its_equation_in_place(book: list[Page]):
    """With a literal label, so that a reader, and the tests here, see which equation is meant."""
    for page in book:
        for cell in page.code:
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    if name in CHECKS:
                        assert isinstance(node.func, ast.Name), cell.source
                        assert isinstance(node.args[0], ast.Constant), cell.source


def test_every_check_showed_its_line(book: list[Page]):
    """A call that never ran, or that a condition guards, leaves no line in the stored output."""
    for page in book:
        assert [check for check in page.checks if check.line is None] == []


def test_a_missing_check_and_a_stray_one_are_noticed(book: list[Page]):
    """The comparison above can fail, in both directions."""
    page = next(page for page in book if page.checks)
    label = page.checks[0].label
    cells = [cell for cell in page.cells if label not in cell.source]
    assert len(cells) < len(page.cells)
    without_code = [c for c in page.cells if not (c.cell_type == "code" and label in c.source)]
    unchecked = Page(page.path, without_code)
    assert label in set(unchecked.equations) - {check.label for check in unchecked.checks}
    without_text = [c for c in page.cells if not (c.cell_type == "markdown" and label in c.source)]
    stray = Page(page.path, without_text)
    assert label in {check.label for check in stray.checks} - set(stray.equations)


RANDOM_MODELS = [
    model
    for model in (getattr(cases, name) for name in cases.__all__)
    if "generator" in inspect.signature(model).parameters
]


@pytest.mark.parametrize("random_model", RANDOM_MODELS)
def test_a_wrong_generator_is_refused_also_where_nothing_is_drawn(random_model):
    for call in (
        lambda: verify("eq-x", lambda: torch.ones(1), lambda: torch.ones(1), generator=0),
        lambda: random_model(0),
    ):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
            call()
