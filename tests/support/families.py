"""The registry of the contract suite: every family of flows, and what is special about one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from draws import seeded

from nfbook.flows import FAMILIES, Flow

__all__ = ["CASES", "Case", "make", "spread"]

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    """A family, and where the contract asks less or other of it than usual.

    Attributes:
        name: The key in `nfbook.flows.FAMILIES`.
        dims: The dimensions D that are tried.
        options: Further arguments of the constructor.
        compiles: Whether ``torch.compile(fullgraph=True)`` can follow.
        compiled_inverse: Whether it is asked to follow the inverse too. Where families share a long
            one, one of them is.
        compiled: The number of layers that it is given.
        backend: What ``torch.compile`` does with what it followed: "eager" runs it, and
            "aot_eager" makes graphs of it and of its gradients first.
        vmaps: Whether ``torch.func.vmap`` can follow.
        tolerance: How exact round trips and densities are in float64.
        extreme: The scale of the parameters at which nothing may break.
        examples: How many random shapes and scales are tried.
    """

    name: str
    dims: tuple[int, ...] = (1, 2, 5)
    options: tuple[tuple[str, object], ...] = ()
    compiles: bool = True
    compiled_inverse: bool = True
    compiled: int = 1
    backend: str = "eager"
    vmaps: bool = True
    tolerance: float = 1e-9
    extreme: float = 5.0
    examples: int = 4


USUAL = {name: Case(name) for name in FAMILIES}
SPECIAL = {
    # Any Gaussian, so any condition number: K layers of two triangular factors multiply theirs, and
    # beyond 1e16 the digits of an inverse are gone, whatever computes it.
    "plu": replace(USUAL["plu"], extreme=0.3),
    "qr": replace(USUAL["qr"], extreme=0.3),
    # The networks' slopes L multiply: a condition number of up to L^K. One layer is held to much
    # larger parameters in test_coupling.
    "nice": replace(USUAL["nice"], extreme=2.0),
    "sylvester-householder": replace(USUAL["sylvester-householder"], compiled_inverse=False),
    "sylvester-triangular": replace(USUAL["sylvester-triangular"], compiled_inverse=False),
    "realnvp": replace(USUAL["realnvp"], extreme=1.0, compiled=2, backend="aot_eager"),
    # Exact up to the error of an adaptive solver, whose steps depend on the data. A field of slope
    # L has a flow of condition number up to e^L, and takes a number of steps that grows with L.
    "cnf": replace(
        USUAL["cnf"],
        dims=(1, 2),
        options=(("tolerance", 1e-7), ("method", "dopri8")),
        compiles=False,
        vmaps=False,
        tolerance=1e-8,
        extreme=1.0,
        examples=2,
    ),
    # The inverse of a triangular matrix with slopes L below its diagonal has entries up to L^(D-1),
    # and so does the growth of rounding errors, in each layer, for any algorithm. One layer is held
    # to much larger parameters in test_autoregressive, by its residual.
    "maf": replace(USUAL["maf"], extreme=1.0),
    "iaf": replace(USUAL["iaf"], extreme=1.0),
    "spline-autoregressive": replace(USUAL["spline-autoregressive"], extreme=1.5),
    # A layer norm divides by a spread that may be small, and such slopes multiply from patch to
    # patch and from layer to layer. With a narrow network and a small bound round trips in float32
    # are off by at most 1.3e-3, over 24 seeds, at the scale of trained parameters.
    "transformer": replace(
        USUAL["transformer"], options=(("width", 4), ("heads", 2), ("bound", 0.5)), extreme=1.0
    ),
}
CASES = list((USUAL | SPECIAL).values())


def make(
    case: Case,
    features: int = 2,
    context: int = 0,
    length: int = 3,
    *,
    scale: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = F64,
) -> Flow:
    """Return a flow whose parameters are ``scale`` standard deviations off their start."""
    options = dict(case.options)
    flow = FAMILIES[case.name](
        features, context, length, hidden_features=(8,), generator=seeded(seed), **options
    )
    return spread(flow.to(dtype), scale, seed)


def spread(flow: Flow, scale: float, seed: int = 0) -> Flow:
    """Add noise of a standard deviation to all parameters of a flow."""
    generator = seeded(seed + 1)
    with torch.no_grad():
        for parameter in flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=F64)
            parameter += scale * noise.to(parameter.dtype)
    return flow
