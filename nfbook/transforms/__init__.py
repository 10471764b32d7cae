"""Bijections with given parameters, one small file for each family.

A transform is a ``torch.distributions.Transform`` that also has `call_and_ladj` and
`inverse_and_ladj`, see `Transform`.
"""

from __future__ import annotations

from nfbook.transforms.autoregressive import Autoregressive
from nfbook.transforms.base import Compose, Inverse, Transform
from nfbook.transforms.bounded import Box, Exp, Softplus
from nfbook.transforms.continuous import Continuous, Solution, VectorField, rademacher
from nfbook.transforms.coupling import AffineCouplingStack, Coupling, Partition
from nfbook.transforms.dequantise import bits_per_dimension, dequantise, pixel_box, quantise
from nfbook.transforms.dynamics import Langevin, Leapfrog, score
from nfbook.transforms.elementwise import Additive, Affine, Elementwise, ScaleAndShift
from nfbook.transforms.householder import Householder
from nfbook.transforms.linear import PLU, QR
from nfbook.transforms.masked_affine import MaskedAffineStack
from nfbook.transforms.permutation import Permutation
from nfbook.transforms.planar import Planar, PlanarStack
from nfbook.transforms.radial import Radial
from nfbook.transforms.spline import FusedRationalQuadratic, RationalQuadratic, Spline
from nfbook.transforms.standardise import Standardise
from nfbook.transforms.sylvester import Sylvester

__all__ = [
    "PLU",
    "QR",
    "Additive",
    "Affine",
    "AffineCouplingStack",
    "Autoregressive",
    "Box",
    "Compose",
    "Continuous",
    "Coupling",
    "Elementwise",
    "Exp",
    "FusedRationalQuadratic",
    "Householder",
    "Inverse",
    "Langevin",
    "Leapfrog",
    "MaskedAffineStack",
    "Partition",
    "Permutation",
    "Planar",
    "PlanarStack",
    "Radial",
    "RationalQuadratic",
    "ScaleAndShift",
    "Softplus",
    "Solution",
    "Spline",
    "Standardise",
    "Sylvester",
    "Transform",
    "VectorField",
    "bits_per_dimension",
    "dequantise",
    "pixel_box",
    "quantise",
    "rademacher",
    "score",
]
