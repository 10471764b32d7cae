"""The argument checks themselves: what each one accepts, refuses and says."""

import math
import types

import numpy
import pytest
import torch

from nfbook._checks import (
    check_callable,
    check_count,
    check_fraction,
    check_generator,
    check_log_values,
    check_positive,
    check_real,
    check_same_dtype,
    check_tensor,
    check_type,
    check_vectors,
    check_zero_one,
    scalar,
)
from nfbook.data.batches import Batches

F64 = torch.float64
HUGE = 10**400


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_tensor("x", [1.0], ("n",)), TypeError, "x must be a torch.Tensor, got list"),
        (
            lambda: check_tensor("x", torch.tensor([1]), ("n",)),
            TypeError,
            r"x must be a floating-point tensor, got torch.int64; convert it first",
        ),
        (
            lambda: check_tensor("x", torch.zeros(2, 3), ("D", "D")),
            ValueError,
            r"x must have shape \(D, D\), got \(2, 3\)",
        ),
        (
            lambda: check_tensor("x", torch.zeros(2), ("*", 3)),
            ValueError,
            r"x must have shape \(\*, 3\), got \(2,\)",
        ),
        (
            lambda: check_tensor("x", torch.zeros(()), ("*", 3)),
            ValueError,
            r"x must have shape \(\*, 3\), got \(\)",
        ),
        (
            lambda: check_tensor("x", torch.zeros(0), ("n",)),
            ValueError,
            r"x must not be empty, got shape \(0,\)",
        ),
        (
            lambda: check_tensor("x", torch.tensor([0.0, -math.inf, math.nan]), ("n",)),
            ValueError,
            "x must be finite, got 2 NaN or infinite of 3",
        ),
        (
            lambda: check_tensor("x", torch.tensor([math.inf, 1.0, -math.inf]), ("n",)),
            ValueError,
            "x must be finite, got 2 NaN or infinite of 3",
        ),
        (
            lambda: check_tensor("x", torch.tensor([[1.0, 2.0], [3.0, math.inf]]), ("n", "D")),
            ValueError,
            "x must be finite, got 1 NaN or infinite of 4",
        ),
        (
            lambda: check_log_values("x", torch.tensor([1]), ("n",)),
            TypeError,
            "x must be a floating-point tensor",
        ),
        (
            lambda: check_log_values("x", torch.zeros(2), (3,)),
            ValueError,
            r"x must have shape \(3,\), got \(2,\)",
        ),
        (
            lambda: check_log_values("x", torch.tensor([-math.inf, math.inf, math.nan]), ("n",)),
            ValueError,
            "x must be finite or minus infinity, got 2 NaN or plus infinity of 3",
        ),
        (lambda: scalar("a", None), TypeError, "a must be a number or a tensor .*, got NoneType"),
        (lambda: scalar("a", True), TypeError, "a must be a number or a tensor .*, got bool"),
        (lambda: scalar("a", 1j), TypeError, "a must be a number or a tensor .*, got complex"),
        (lambda: scalar("a", math.nan), ValueError, "a must be finite, got nan"),
        (lambda: scalar("a", HUGE), ValueError, "a must be finite, got an int beyond"),
        (lambda: scalar("a", -HUGE), ValueError, "a must be finite, got an int beyond"),
        (lambda: scalar("a", 1e300), ValueError, "a must be finite, got 1 NaN or infinite of 1"),
        (
            lambda: scalar("a", 1e-50),
            ValueError,
            "a must not round to zero in torch.float32, got 1e-50",
        ),
        (lambda: scalar("a", torch.zeros(1)), ValueError, r"a must have shape \(\), got \(1,\)"),
        (lambda: check_real("a", "1"), TypeError, "a must be a number, got str"),
        (lambda: check_real("a", True), TypeError, "a must be a number, got bool"),
        (lambda: check_real("a", -math.inf), ValueError, "a must be finite, got -inf"),
        (lambda: check_real("a", 10**5000), ValueError, "a must be finite, got an int beyond"),
        (lambda: check_fraction("a", None), TypeError, "a must be a number, got NoneType"),
        (lambda: check_fraction("a", math.nan), ValueError, "a must be finite, got nan"),
        (lambda: check_fraction("a", 0), ValueError, "a must lie strictly between 0 and 1, got 0"),
        (lambda: check_fraction("a", HUGE), ValueError, "a must be finite, got an int beyond"),
        (
            lambda: check_positive("a", torch.tensor([1.0, 0.0])),
            ValueError,
            "a must be positive, got 0",
        ),
        (
            lambda: check_zero_one("a", torch.tensor([1.0, 0.5])),
            ValueError,
            "a must hold only 0 and 1, got 0.5",
        ),
        (lambda: check_count("n", 2.0), TypeError, "n must be an int, got float"),
        (lambda: check_count("n", True), TypeError, "n must be an int, got bool"),
        (lambda: check_count("n", 1, minimum=2), ValueError, "n must be at least 2, got 1"),
        (
            lambda: check_same_dtype(a=torch.zeros(1), b=torch.zeros(1), c=torch.zeros(1).double()),
            TypeError,
            "a and c must have the same dtype, got torch.float32 and torch.float64",
        ),
        (
            lambda: check_generator(0),
            TypeError,
            r"generator must be a torch.Generator, got int; make one with",
        ),
        (
            lambda: check_type("x", None, int | str, "a number or a word"),
            TypeError,
            "x must be a number or a word, got NoneType",
        ),
        (lambda: check_vectors("z", [1.0]), TypeError, "z must be a torch.Tensor, got list"),
        (
            lambda: check_vectors("z", torch.zeros(())),
            ValueError,
            r"z must have shape \(\*, D\), got \(\)",
        ),
        (
            lambda: check_vectors("z", torch.zeros(5, 1), 3),
            ValueError,
            r"z must have shape \(\*, 3\), got \(5, 1\)",
        ),
        (
            lambda: check_vectors("z", torch.eye(3).to_sparse(), 3),
            TypeError,
            "z must be a dense tensor",
        ),
        (lambda: check_callable("f", 1.0), TypeError, "f must be a function, got float"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_accepted():
    assert check_tensor("x", torch.zeros(4, 2, 3), ("*", 2, "D")) == {"D": 3}
    assert check_tensor("x", torch.zeros(2, 2), ("D", "D")) == {"D": 2}
    assert check_tensor("x", torch.zeros(()), ("*",)) == {}
    assert check_log_values("x", torch.full((2, 1), -math.inf), ("K", 1)) == {"K": 2}
    check_positive("a", torch.tensor([1e-30]))
    check_zero_one("a", torch.tensor([1.0, 0.0]))
    check_count("n", 0, minimum=0)
    check_fraction("a", 0.5)
    check_generator(torch.Generator())
    check_generator(None)
    check_same_dtype(a=torch.zeros(1))
    check_type("x", "word", int | str, "a number or a word")
    check_callable("f", math.exp)
    assert check_real("a", 3) == 3.0


def test_finite_values_are_accepted_though_their_sum_is_not():
    x = torch.full((4,), 3e38)
    assert x.sum().isinf()
    assert check_tensor("x", x, ("n",)) == {"n": 4}
    assert check_tensor("x", torch.cat([x, -x]).requires_grad_(), ("n",)) == {"n": 8}


def test_scalars_keep_their_own_type_and_numbers_take_the_default_one():
    assert scalar("a", torch.tensor(2.0, dtype=F64)).dtype == F64
    assert scalar("a", 2).dtype == torch.get_default_dtype()
    assert scalar("a", 0) == 0


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (numpy.zeros((3, 2)), "x must be a torch.Tensor, got ndarray; convert it first"),
        (types.SimpleNamespace(shape=(3, 2)), "got SimpleNamespace; convert it first"),
        (torch.eye(2).to_sparse(), "x must be a dense tensor, got one with the layout torch.sp"),
    ],
)
def test_arrays_and_sparse_tensors_are_told_what_to_do(x, message):
    for check in (lambda x: check_tensor("x", x, ("n", "D")), Batches):
        with pytest.raises(TypeError, match=message):
            check(x)
