"""The random cases and the search by which pages check their equations."""

from __future__ import annotations

import pytest
import torch
from draws import seeded

from nfbook.cases import maximise, random_bound_case, random_data


def test_a_bound_case_is_a_mixture_its_data_and_responsibilities():
    mixture, data, q = random_bound_case(seeded(0), 3, 20)
    assert mixture.means.shape == (3, 2)
    assert data.shape == (20, 2)
    assert q.shape == (20, 3)
    assert (q > 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(20, dtype=q.dtype))


def test_data_have_correlated_columns():
    data = random_data(seeded(1), 4000, 3)
    assert data.shape == (4000, 3)
    correlations = data.T.corrcoef() - torch.eye(3)
    assert correlations.abs().max() > 0.1


def test_the_search_finds_the_top_of_a_quadratic_and_leaves_the_start():
    factor = torch.randn(3, 3, generator=seeded(2), dtype=torch.float64)
    matrix = factor @ factor.T + torch.eye(3, dtype=torch.float64)
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    start = torch.zeros(3, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64)
    place, width = maximise(
        lambda z, s: -(z - target) @ matrix @ (z - target) - (s.exp() - 3) ** 2, start, scale
    )
    torch.testing.assert_close(place, target, rtol=0, atol=1e-7)
    assert float(width.exp()) == pytest.approx(3, abs=1e-7)
    assert not start.any()
    assert not place.requires_grad
