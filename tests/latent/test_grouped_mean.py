"""The mean of values in groups, and its standard error against the spread of simulated means."""

from __future__ import annotations

import math

import pytest
import torch
from draws import rand, seeded

from nfbook.estimators import grouped_mean


def test_groups_of_one_have_the_usual_error():
    x = rand(50)
    mean, error = grouped_mean(torch.ones_like(x), x)
    assert mean.item() == pytest.approx(x.mean().item(), abs=1e-12)
    assert error.item() == pytest.approx(x.std().item() / math.sqrt(50), rel=1e-12)


def test_the_error_is_the_spread_of_the_mean_over_many_data_sets():
    """Twenty groups of 5 to 15 values that share half of their variance."""
    generator = seeded(1)
    sizes = torch.randint(5, 16, (20,), generator=generator).double()
    shared = torch.randn(20_000, 20, generator=generator, dtype=torch.float64)
    own = torch.randn(20_000, 20, generator=generator, dtype=torch.float64) / sizes.sqrt()
    found = [grouped_mean(sizes, means) for means in (shared + own)]
    means, errors = (torch.stack(column) for column in zip(*found, strict=True))
    assert errors.square().mean().sqrt().item() == pytest.approx(means.std().item(), rel=0.05)
    # As if all values were independent, it would be less than half of that.
    assert math.sqrt(2 / sizes.sum().item()) < 0.5 * means.std().item()


@pytest.mark.parametrize(
    ("sizes", "means", "error", "message"),
    [
        (torch.ones(1), torch.ones(1), ValueError, "sizes must be those of at least two groups"),
        (torch.ones(3), torch.ones(2), ValueError, r"means must have shape \(3,\), got \(2,\)"),
        (torch.ones(2, dtype=torch.long), torch.ones(2), TypeError, "sizes must"),
        (torch.ones(2), torch.tensor([1.0, float("nan")]), ValueError, "means must be finite"),
        (torch.tensor([2.0, 0.0]), torch.ones(2), ValueError, "sizes must be above zero, got 0"),
    ],
)
def test_what_is_no_group_is_refused(sizes, means, error, message):
    with pytest.raises(error, match=message):
        grouped_mean(sizes, means)
