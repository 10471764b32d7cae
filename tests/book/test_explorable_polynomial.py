"""The figure of the polynomial: its record and its numbers against the package's."""

from __future__ import annotations

import figures
import pytest
import torch

from nfbook.bayes import LinearRegression
from nfbook.data import old_faithful
from nfbook.explorables import PolynomialExplorable

# Fixtures: pytest looks for them among a module's names.
figure, module = figures.figure, figures.module

CASES = [(k, width) for k in (0, 1, 4, 8, 16) for width in (0.1, 1.0, 3.0, 10.0)]
PLACES = [-1.0, -0.4, 0.3, 0.95]


@pytest.fixture
def kind():
    return PolynomialExplorable


def chebyshev(u: torch.Tensor, degree: int) -> torch.Tensor:
    return torch.special.chebyshev_polynomial_t(u[:, None], torch.arange(degree + 1))


def test_numbers_equal_those_of_the_package(module):
    got = module(
        """({ regression }, [cases, places]) => cases.map(([degree, width]) => {
            const { m, fit, logOccam, logEvidence, predict } = regression(degree, width);
            return [m, [fit, logOccam, logEvidence],
                places.map((u) => [predict(u).mean, predict(u).deviation])];
        })""",
        [CASES, PLACES],
    )
    duration, waiting = old_faithful().double().T
    u, targets = (duration - 3.5) / 2, (waiting - 70) / 10
    places = torch.tensor(PLACES, dtype=torch.float64)
    for (degree, width), (mean, grades, predictive) in zip(CASES, got, strict=True):
        data = chebyshev(u, degree), targets
        variance = torch.full((degree + 1,), width**2, dtype=torch.float64)
        model = LinearRegression(variance, 0.6**2)
        right = model.predictive(data, chebyshev(places, degree))
        for found, expected in (
            (mean, model.map(data)),
            (grades[0], model.log_likelihood(model.map(data), data)),
            (grades[1], model.log_occam_factor(data)),
            (grades[2], model.log_evidence(data)),
            (predictive, torch.stack((right.mean, right.stddev), dim=1)),
        ):
            found = torch.tensor(found, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_first_sight(figure):
    assert figure.values() == {"degree": 8, "prior_width": 3.0}
    assert figure.numbers() == {"fit": "−226.57", "occam": "−30.45", "evidence": "−257.01"}
    label = figure.place.locator("[role=img]").get_attribute("aria-label")
    assert "degree 8 under a prior of width 3.0" in label
