"""The causal transformer: a network in which each patch of a vector sees the patches before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfbook._checks import check_context, check_count, check_vectors, check_widths
from nfbook.networks._bound import Snapshot
from nfbook.networks._layers import linear

__all__ = ["CausalAttention", "CausalTransformer", "Memory"]


class CausalAttention(nn.Module):
    r"""Attention to what came before (Vaswani et al., 2017): weighted means of values.

    Each of T tokens has a query, a key and a value in every head, linear in the token, and

    .. math:: \mathbf{o}_t = \sum_{s \le t} a_{ts} \mathbf{v}_s, \qquad
        a_{ts} = \frac{\exp(\mathbf{q}_t^\top \mathbf{k}_s / \sqrt{d})}
            {\sum_{r \le t} \exp(\mathbf{q}_t^\top \mathbf{k}_r / \sqrt{d})}.

    A linear map of all heads' results follows.

    Arguments:
        width: The size of a token.
        heads: The number of heads, which share the width evenly: each has d = width / heads.
        generator: The source of the initial weights; torch's global one if None.

    Example:
        >>> attention, tokens = CausalAttention(8, 2), torch.randn(5, 8)
        >>> changed = torch.cat([tokens[:3], torch.zeros(2, 8)])
        >>> torch.allclose(attention(tokens)[:3], attention(changed)[:3])
        True
    """

    def __init__(self, width: int, heads: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = linear(width, 3 * width, generator=generator)
        self.out = linear(width, width, generator=generator)

    def forward(self, tokens: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """Return the results, `(*, T, width)`, of tokens `(*, T, width)`.

        Arguments:
            tokens: All tokens; with a past, those that follow it.
            past: The keys and values of the tokens before: one tensor `(2, *, heads, S, d)` for
                each call, which brought S of them. That of the new tokens is appended.
        """
        split = self.queries_keys_values(tokens).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = split.movedim(-3, 0).transpose(-2, -3)  # each (*, heads, T, d)
        if past is not None:
            past.append(torch.stack([keys, values]))
            keys, values = torch.cat(past, -2)
        # Not torch's fused attention: on a CPU it has no second derivatives.
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1])
        new, every = scores.shape[-2:]
        seen = torch.ones(new, every, dtype=torch.bool, device=scores.device).tril(every - new)
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        result: Tensor = self.out((weights @ values).transpose(-2, -3).flatten(-2))
        return result


class Memory:
    """What a transformer keeps of the patches that it has seen, while they become known in turns.

    A token sees those before it and is seen by those behind it, so what it gave is final: its key
    and its value in every block. With them at hand only the newest token goes through the network
    in each turn, and all turns together cost the arithmetic of about one pass.

    Arguments:
        network: The transformer, whose memory is empty at first.

    Attributes:
        turn: How many tokens went through the network.
        pasts: For each block the keys and values, see `CausalAttention.forward`.

    Example:
        >>> network, x = CausalTransformer(6, 2, patch=2), torch.zeros(5, 6)
        >>> memory = Memory(network)
        >>> turns = [network(x, memory=memory) for _ in range(3)]
        >>> torch.allclose(torch.cat(turns, -2), network(x), atol=1e-6)
        True
    """

    def __init__(self, network: CausalTransformer) -> None:
        self.turn = 0
        self.pasts: list[list[Tensor]] = [[] for _ in network.blocks]


class CausalTransformer(nn.Module):
    r"""A transformer with the autoregressive property, patch by patch.

    The D coordinates of x are cut into T patches of the same size, one after the other, and each
    patch is a token. The transformer gives P numbers for each coordinate, and those of a patch
    depend only on the patches before it and on the context:

    .. math:: h_t = h_t(\mathbf{x}_1, \dots, \mathbf{x}_{t-1}, \mathbf{c}), \qquad t = 1, \dots, T.

    For that the tokens move one place on, and the first place gets a token of its own. A block adds
    to each token what attention finds, and then what a perceptron makes of it; both see the token
    normalised. Where a `MaskedMLP` has weights for each pair of coordinates, all places share
    theirs here, so the number of parameters does not grow with T, except for the places' own.

    Arguments:
        features: The number of coordinates D.
        outputs: How many numbers P for each coordinate.
        hidden_features: For each block the width of its perceptron's hidden layer; with none the
            parameters are affine in the patch before.
        context: The size of the context c, which is added to every token; 0 if there is none.
        patch: The number of coordinates of a patch.
        width: The size of a token.
        heads: The number of heads of attention.
        zero: Whether the last layer starts at zero.
        generator: The source of the initial weights; torch's global one if None.

    Raises:
        TypeError: A count is not an int.
        ValueError: A count is too small, patches do not fill the vector, or heads the width.

    Example:
        >>> network = CausalTransformer(6, 2, patch=2, context=4)
        >>> network(torch.zeros(7, 5, 6), torch.zeros(5, 4)).shape
        torch.Size([7, 5, 6, 2])
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden_features: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        patch: int = 1,
        width: int = 32,
        heads: int = 4,
        zero: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        counts = {"features": features, "outputs": outputs, "patch": patch}
        for name, count in {**counts, "width": width, "heads": heads}.items():
            check_count(name, count)
        check_count("context", context, minimum=0)
        check_widths("hidden_features", hidden_features)
        if features % patch:
            raise ValueError(f"patch must divide features, {features}, got {patch}")
        if width % heads:
            raise ValueError(f"heads must divide width, {width}, got {heads}")
        self.features, self.outputs, self.context, self.patch = features, outputs, context, patch
        self.embed = linear(patch, width, generator=generator)
        self.first = nn.Parameter(torch.zeros(width))
        places = 0.1 * torch.randn(features // patch, width, generator=generator)
        self.places = nn.Parameter(places)
        self.of_context = linear(context, width, generator=generator) if context else None
        self.blocks = nn.ModuleList(
            _Block(width, hidden, heads, generator) for hidden in hidden_features
        )
        self.last = linear(width, patch * outputs, generator=generator)
        if zero:
            for parameter in self.last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Tensor, context: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Return the parameters of all coordinates, or in turns those of one patch.

        Arguments:
            x: `(*, D)`.
            context: `(*, C)`; None for a network without.
            memory: What earlier turns have left; None for all coordinates at once. Coordinates of
                x that are not known yet may be anything.

        Returns:
            `(*, D, P)`; in a turn `(*, D / T, P)`, those of the next patch.

        Raises:
            TypeError: x is no dense tensor, a context is missing, or there is none to be given.
            ValueError: x has another size than ``features``.
        """
        check_vectors("x", x, self.features)
        check_context(context, self.context)
        patches = x.unflatten(-1, (-1, self.patch))
        first = self.first.expand(*patches.shape[:-2], 1, -1)
        if memory is None:
            tokens = torch.cat([first, self.embed(patches)[..., :-1, :]], -2) + self.places
            pasts: Sequence[list[Tensor] | None] = [None] * len(self.blocks)
        else:
            turn, pasts = memory.turn, memory.pasts
            token = self.embed(patches[..., turn - 1 : turn, :]) if turn else first
            tokens = token + self.places[turn]
            memory.turn += 1
        if self.of_context is not None:
            tokens = tokens + self.of_context(context).unsqueeze(-2)
        for block, past in zip(self.blocks, pasts, strict=True):
            tokens = block(tokens, past)
        result: Tensor = self.last(tokens).unflatten(-1, (self.patch, -1)).flatten(-3, -2)
        return result

    def bind(self, context: Tensor | None = None) -> Snapshot:
        """Return the network as a function of x, with a context and the parameters it has now.

        Example:
            >>> CausalTransformer(3, 2).bind()(torch.zeros(3)).shape
            torch.Size([3, 2])
        """
        return Snapshot(self, context)

    def extra_repr(self) -> str:
        """Return the sizes, for the repr."""
        sizes = f"features={self.features}, outputs={self.outputs}, context={self.context}"
        return f"{sizes}, patch={self.patch}"


class _Block(nn.Module):
    def __init__(
        self, width: int, hidden: int, heads: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, generator=generator)
        self.up = linear(width, hidden, generator=generator)
        self.down = linear(hidden, width, generator=generator)

    def forward(self, tokens: Tensor, past: list[Tensor] | None) -> Tensor:
        tokens = tokens + self.attention(self.before_attention(tokens), past)
        hidden = functional.gelu(self.up(self.before_perceptron(tokens)))
        result: Tensor = tokens + self.down(hidden)
        return result
