"""Trainable distributions: one module class for each family of flows.

`FAMILIES` names them all. Each one is made by ``Family(features, context=0, length=K,
hidden_features=(64, 64))`` and gives a distribution when it is called.

Example:
    Fit a density to points around a circle, then draw from it:

    >>> import torch
    >>> from nfbook.flows import RealNVP
    >>> generator = torch.Generator().manual_seed(0)
    >>> angle = 2 * torch.pi * torch.rand(500, generator=generator)
    >>> x = torch.stack([angle.cos(), angle.sin()], -1)
    >>> x = x + 0.1 * torch.randn(x.shape, generator=generator)
    >>> flow = RealNVP(2, length=8, generator=generator)
    >>> optimiser = torch.optim.Adam(flow.parameters(), lr=5e-3)
    >>> for _ in range(300):
    ...     loss = -flow().log_prob(x).mean()
    ...     optimiser.zero_grad()
    ...     loss.backward()
    ...     optimiser.step()
    >>> radius = flow().sample((500,), generator=generator).norm(dim=-1)
    >>> bool((radius - 1).abs().median() < 0.2)
    True
"""

from __future__ import annotations

from nfbook.flows.actnorm import ActNormFlow
from nfbook.flows.affine import AffineFlow
from nfbook.flows.autoregressive import (
    IAF,
    MAF,
    AutoregressiveFlow,
    NeuralSplineAutoregressive,
)
from nfbook.flows.base import Flow
from nfbook.flows.chain import Chain, Fixed, Transformed
from nfbook.flows.continuous import CNF, NetworkField, TanhField
from nfbook.flows.coupling import NICE, CouplingFlow, NeuralSplineCoupling, RealNVP
from nfbook.flows.distribution import FlowDistribution, StandardNormal
from nfbook.flows.dynamics import HamiltonianFlow, LangevinFlow, TargetedFlow
from nfbook.flows.householder import HouseholderFlow
from nfbook.flows.linear import PLUFlow, QRFlow
from nfbook.flows.planar import PlanarFlow
from nfbook.flows.radial import RadialFlow
from nfbook.flows.sylvester import (
    HouseholderSylvesterFlow,
    OrthogonalSylvesterFlow,
    SylvesterFlow,
    TriangularSylvesterFlow,
)
from nfbook.flows.transformer import TransformerFlow

__all__ = [
    "CNF",
    "FAMILIES",
    "IAF",
    "MAF",
    "NICE",
    "ActNormFlow",
    "AffineFlow",
    "AutoregressiveFlow",
    "Chain",
    "CouplingFlow",
    "Fixed",
    "Flow",
    "FlowDistribution",
    "HamiltonianFlow",
    "HouseholderFlow",
    "HouseholderSylvesterFlow",
    "LangevinFlow",
    "NetworkField",
    "NeuralSplineAutoregressive",
    "NeuralSplineCoupling",
    "OrthogonalSylvesterFlow",
    "PLUFlow",
    "PlanarFlow",
    "QRFlow",
    "RadialFlow",
    "RealNVP",
    "StandardNormal",
    "SylvesterFlow",
    "TanhField",
    "TargetedFlow",
    "Transformed",
    "TransformerFlow",
    "TriangularSylvesterFlow",
]

FAMILIES: dict[str, type[Flow]] = {
    "planar": PlanarFlow,
    "radial": RadialFlow,
    "householder": HouseholderFlow,
    "sylvester-orthogonal": OrthogonalSylvesterFlow,
    "sylvester-householder": HouseholderSylvesterFlow,
    "sylvester-triangular": TriangularSylvesterFlow,
    "plu": PLUFlow,
    "qr": QRFlow,
    "affine": AffineFlow,
    "actnorm": ActNormFlow,
    "cnf": CNF,
    "nice": NICE,
    "realnvp": RealNVP,
    "spline-coupling": NeuralSplineCoupling,
    "maf": MAF,
    "iaf": IAF,
    "spline-autoregressive": NeuralSplineAutoregressive,
    "transformer": TransformerFlow,
}
