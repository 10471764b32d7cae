"""The networks that turn a context, or a part of a vector, into parameters."""

from nfbook.networks.masked import MaskedLinear, MaskedMLP
from nfbook.networks.mlp import MLP
from nfbook.networks.parameters import ConditionalParameters

__all__ = ["MLP", "ConditionalParameters", "MaskedLinear", "MaskedMLP"]
