"""The networks that turn a context, or a part of a vector, into parameters."""

from nfbook.networks._bound import BoundNetwork, Snapshot
from nfbook.networks._layers import FirstLayer
from nfbook.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from nfbook.networks.feedforward import Dense, Feedforward, Gated, Maxout
from nfbook.networks.masked import BoundMaskedMLP, MaskedLinear, MaskedMLP
from nfbook.networks.mlp import MLP
from nfbook.networks.parameters import ConditionalParameters
from nfbook.networks.transformer import CausalAttention, CausalTransformer, Memory

__all__ = [
    "MLP",
    "BoundMaskedMLP",
    "BoundNetwork",
    "CausalAttention",
    "CausalTransformer",
    "ConditionalParameters",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "Dense",
    "Feedforward",
    "FirstLayer",
    "Gated",
    "MaskedLinear",
    "MaskedMLP",
    "Maxout",
    "Memory",
    "Snapshot",
]
