"""Batches from memory: each row once an epoch, and on from where they were left."""

import pytest
import torch
from draws import OFFSET

from nfbook.data.minibatches import Minibatches


def batches(n: int = 10, size: int = 3, seed: int = OFFSET) -> Minibatches:
    x = torch.arange(n)
    return Minibatches(x, 10 * x, size=size, seed=seed)


def test_no_row_comes_twice_in_an_epoch_and_every_epoch_has_an_order_of_its_own():
    data = batches(100, 10)
    epochs = [torch.cat([next(data)[0] for _ in range(10)]) for _ in range(3)]
    assert all(epoch.sort().values.equal(torch.arange(100)) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert not epochs[1].equal(epochs[2])
    assert data.epoch == 3
    assert not epochs[0][:10].equal(next(batches(100, 10, OFFSET + 1))[0])


def test_the_last_batch_is_left_out_if_it_is_not_full():
    data = batches()
    assert len(data) == 3
    rows = torch.cat([next(data)[0] for _ in range(3)])
    assert rows.unique().numel() == 9
    assert (data.epoch, data.position) == (1, 0)


def test_companions_and_row_numbers_go_along():
    data = batches()
    assert data.rows is None
    for _ in range(7):
        x, tens = next(data)
        assert torch.equal(tens, 10 * x)
        assert torch.equal(data.rows, x)


@pytest.mark.parametrize("left_after", range(8))
def test_they_go_on_where_they_were_left(left_after):
    whole = batches()
    expected = [next(whole)[0] for _ in range(12)]
    data = batches()
    for _ in range(left_after):
        next(data)
    state = data.state_dict()
    other = batches()
    next(other)
    other.load_state_dict(state)
    for batch in expected[left_after:]:
        assert torch.equal(next(other)[0], batch)


def test_no_other_random_numbers_are_used_or_changed():
    torch.manual_seed(OFFSET)
    expected = torch.rand(2)
    torch.manual_seed(OFFSET)
    data = batches()
    first = [next(data)[0] for _ in range(4)]
    assert torch.equal(torch.rand(2), expected)
    data = batches()
    assert all(torch.equal(next(data)[0], batch) for batch in first)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: Minibatches(x, size=11), ValueError, "number of observations, 10, got 11"),
        (lambda x: Minibatches(x, size=0), ValueError, "size must be at least 1"),
        (lambda x: Minibatches(x, size=2.0), TypeError, "size must be an int"),
        (lambda x: Minibatches([1], size=1), TypeError, r"x must be a torch\.Tensor, got list"),
        (lambda x: Minibatches(x[0], size=1), ValueError, r"x must have shape \(n, \.\.\.\), got"),
        (lambda x: Minibatches(x, [1], size=1), TypeError, "every companion of x must be a torch"),
        (lambda x: Minibatches(x, x[:5], size=1), ValueError, r"its 10 rows, got shape \(5,\)"),
        (lambda x: Minibatches(x, size=1, seed=-1), ValueError, "seed must be at least 0"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(torch.arange(10))


@pytest.mark.parametrize("other", [batches(11), batches(size=2), batches(seed=OFFSET + 1)])
def test_a_state_of_other_batches_is_refused(other):
    with pytest.raises(ValueError, match=r"batches must have the (seed|size|rows) of the state"):
        batches().load_state_dict(other.state_dict())
