"""Bijections with given parameters, one small file for each family.

A transform is a ``torch.distributions.Transform`` that also has `call_and_ladj` and
`inverse_and_ladj`, see `Transform`.
"""

from __future__ import annotations

from nfbook.transforms.autoregressive import Autoregressive
from nfbook.transforms.base import Compose, Inverse, Transform
from nfbook.transforms.bounded import Box, Exp, Softplus
from nfbook.transforms.continuous import Continuous, Solution, VectorField, rademacher
from nfbook.transforms.coupling import Coupling, Groups, Partition
from nfbook.transforms.data_units import DataUnits
from nfbook.transforms.dequantise import dequantise, dequantise_table, pixel_box, quantise
from nfbook.transforms.dynamics import Langevin, Leapfrog, score
from nfbook.transforms.elementwise import Affine
from nfbook.transforms.fast.coupling import AffineCouplingStack
from nfbook.transforms.fast.fallback import plain_forms
from nfbook.transforms.fast.masked_affine import MaskedAffineStack
from nfbook.transforms.fast.planar import PlanarStack
from nfbook.transforms.fast.spline import FusedRationalQuadratic
from nfbook.transforms.householder import Householder
from nfbook.transforms.linear import PLU, QR
from nfbook.transforms.patches import PatchAutoregressive
from nfbook.transforms.permutation import Permutation
from nfbook.transforms.planar import Planar
from nfbook.transforms.radial import Radial
from nfbook.transforms.spline import RationalQuadratic
from nfbook.transforms.sylvester import Sylvester
from nfbook.transforms.univariate import Additive, ScaleAndShift, Spline, Univariate

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
    "DataUnits",
    "Exp",
    "FusedRationalQuadratic",
    "Groups",
    "Householder",
    "Inverse",
    "Langevin",
    "Leapfrog",
    "MaskedAffineStack",
    "Partition",
    "PatchAutoregressive",
    "Permutation",
    "Planar",
    "PlanarStack",
    "Radial",
    "RationalQuadratic",
    "ScaleAndShift",
    "Softplus",
    "Solution",
    "Spline",
    "Sylvester",
    "Transform",
    "Univariate",
    "VectorField",
    "dequantise",
    "dequantise_table",
    "pixel_box",
    "plain_forms",
    "quantise",
    "rademacher",
    "score",
]
