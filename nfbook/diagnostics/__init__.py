r"""Whether an approximate posterior is right, and what it loses where it is not.

================================  ==============================================================
`pareto_k`, `pareto_smooth`       whether importance weights can be trusted; smoother ones
`simulation_based_calibration`    whether the truth could be one of the posterior's draws
`coverage`                        whether its regions hold the truth as often as they say
`inference_gap`                   how much of the bound is lost to the family, how much to the
                                  network that chooses from it
================================  ==============================================================

The first looks at draws for one x, beside `nfbook.estimators.effective_sample_size`. The next two
average over all x that the model makes, and state their probability of a false alarm. They need
only a function from x to a ``torch.distributions`` object: ``model.posterior`` of a variational
autoencoder, or that of a model whose posterior is exact.
"""

from nfbook.diagnostics.calibration import Calibration, simulation_based_calibration
from nfbook.diagnostics.coverage import Coverage, coverage
from nfbook.diagnostics.importance import (
    SmoothedWeights,
    pareto_k,
    pareto_k_threshold,
    pareto_smooth,
)
from nfbook.diagnostics.inference_gap import DiagonalGaussian, InferenceGap, inference_gap
from nfbook.diagnostics.uniformity import UniformCounts, ecdf_points

__all__ = [
    "Calibration",
    "Coverage",
    "DiagonalGaussian",
    "InferenceGap",
    "SmoothedWeights",
    "UniformCounts",
    "coverage",
    "ecdf_points",
    "inference_gap",
    "pareto_k",
    "pareto_k_threshold",
    "pareto_smooth",
    "simulation_based_calibration",
]
