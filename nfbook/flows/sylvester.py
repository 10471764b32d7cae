"""Sylvester flows, with the paper's three choices of the orthonormal directions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from nfbook._checks import check_count
from nfbook.flows.base import Flow
from nfbook.networks import ConditionalParameters
from nfbook.transforms.base import Compose
from nfbook.transforms.householder import Householder
from nfbook.transforms.sylvester import Sylvester, orthonormal_columns

__all__ = [
    "HouseholderSylvesterFlow",
    "OrthogonalSylvesterFlow",
    "SylvesterFlow",
    "TriangularSylvesterFlow",
]


class SylvesterFlow(Flow):
    r"""K Sylvester layers (van den Berg, Hasenclever, Tomczak and Welling, 2018), see `Sylvester`.

    A subclass says how parameters give the orthonormal directions Q in which a layer moves points:
    `OrthogonalSylvesterFlow`, `HouseholderSylvesterFlow` or `TriangularSylvesterFlow`.

    Sampling and `rsample_and_log_prob` are fast, as variational inference needs them. `log_prob`
    of a given point solves M scalar equations for each layer.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        num_columns: The number of directions M, from 1 to D; None for D, but at most 16.
        num_vectors: The number of vectors from which Q is made; None for M.
        generator: The source of the initial parameters.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        num_columns: int | None = None,
        num_vectors: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(features, context)
        check_count("length", length)
        if num_columns is None:
            num_columns = min(features, 16)
        check_count("num_columns", num_columns)
        if num_columns > features:
            raise ValueError(f"num_columns must be at most features, {features}, got {num_columns}")
        if num_vectors is None:
            num_vectors = num_columns
        self.num_columns = num_columns

        def draw(*shape: int) -> Tensor:
            return torch.empty(length, *shape).normal_(generator=generator)

        start = {
            "vectors": draw(num_vectors, features) / math.sqrt(features),
            # Two triangles share a matrix: R is what stands on and above the diagonal, and R̃
            # without its own diagonal is what stands below. With R = 0 every layer is the
            # identity, and its gradient with respect to R is not zero.
            "triangles": draw(num_columns, num_columns).tril(-1) / math.sqrt(num_columns),
            "diagonal": torch.ones(length, num_columns),
            "b": draw(num_columns),
        }
        self.parameters_of = ConditionalParameters(
            start, context, hidden_features, generator=generator
        )

    @abstractmethod
    def directions(self, vectors: Tensor) -> Tensor:
        """Return Q for each layer, `(*, K, D, M)`, made of vectors `(*, K, num_vectors, D)`."""

    def transform(self, context: Tensor | None = None) -> Compose:
        """Return the layers, one after the other."""
        parameters = self.parameters_of(context)
        triangles = parameters["triangles"]
        q = self.directions(parameters["vectors"])
        r = triangles.triu()
        r_tilde = triangles.mT.triu(1) + torch.diag_embed(parameters["diagonal"])
        each = zip(
            q.unbind(-3), r.unbind(-3), r_tilde.unbind(-3), parameters["b"].unbind(-2), strict=True
        )
        return Compose([Sylvester(*layer) for layer in each])


class OrthogonalSylvesterFlow(SylvesterFlow):
    """Sylvester layers with any orthonormal directions, see `orthonormal_columns`.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        num_columns: The number of directions M, from 1 to D; None for D, but at most 16.
        generator: The source of the initial parameters.

    Example:
        >>> flow = OrthogonalSylvesterFlow(5, length=3, num_columns=2)
        >>> flow().rsample((7,)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        num_columns: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features, context, length, hidden_features, num_columns=num_columns, generator=generator
        )

    def directions(self, vectors: Tensor) -> Tensor:
        """Return the Cayley transform's columns."""
        return orthonormal_columns(vectors.mT)


class HouseholderSylvesterFlow(SylvesterFlow):
    """Sylvester layers with directions given by reflections, see `Householder`.

    M reflections reach all M orthonormal directions, up to signs that R and R̃ can take over. With
    fewer there are fewer parameters.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        num_columns: The number of directions M, from 1 to D; None for D, but at most 16.
        num_reflections: The number of reflections in a layer; None for M.
        generator: The source of the initial parameters.

    Example:
        >>> flow = HouseholderSylvesterFlow(5, length=3, num_columns=4, num_reflections=2)
        >>> flow().rsample((7,)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        num_columns: int | None = None,
        num_reflections: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_reflections is not None:
            check_count("num_reflections", num_reflections)
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            num_columns=num_columns,
            num_vectors=num_reflections,
            generator=generator,
        )

    def directions(self, vectors: Tensor) -> Tensor:
        """Return the first columns of the product of the reflections."""
        return Householder(vectors).columns(self.num_columns)


class TriangularSylvesterFlow(SylvesterFlow):
    """Sylvester layers along the coordinates themselves: M = D and Q has no parameters.

    Q is the identity in the first, third, ... layer. In the others it reverses the order of the
    coordinates, so that every coordinate comes to depend on every other one.

    Arguments:
        features: The dimension D.
        context: The size of the context that gives the parameters; 0 for free ones.
        length: The number of layers K.
        hidden_features: The widths of the network from context to parameters.
        generator: The source of the initial parameters.

    Example:
        >>> flow = TriangularSylvesterFlow(5, length=3)
        >>> flow().rsample((7,)).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        length: int = 8,
        hidden_features: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            features,
            context,
            length,
            hidden_features,
            num_columns=features,
            num_vectors=0,
            generator=generator,
        )

    def directions(self, vectors: Tensor) -> Tensor:
        """Return the identity and the reversal in turn."""
        same = torch.eye(self.features, dtype=vectors.dtype, device=vectors.device)
        layers = range(vectors.shape[-3])
        return torch.stack([same.flip(0) if k % 2 else same for k in layers])
