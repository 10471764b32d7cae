"""What the causal transformer and the flow made of it promise beyond the contract."""

import math

import pytest
import torch
from contract import check_ladj, check_round_trips
from draws import rand, seeded
from families import spread
from torch.nn import functional

from nfbook.flows import TransformerFlow
from nfbook.networks import MLP, CausalAttention, CausalTransformer, Memory
from nfbook.transforms import Additive, PatchAutoregressive, ScaleAndShift

F64 = torch.float64


def network(features=6, outputs=2, **options):
    options = {"patch": 2, "width": 8, "heads": 2, "generator": seeded(), **options}
    return CausalTransformer(features, outputs, (16, 16), **options).double()


def test_attention_is_torchs():
    attention = CausalAttention(8, 2, generator=seeded()).double()
    tokens = rand(3, 5, 8)
    split = attention.queries_keys_values(tokens).unflatten(-1, (3, 2, 4)).unbind(-3)
    heads = [part.transpose(1, 2) for part in split]
    found = functional.scaled_dot_product_attention(*heads, is_causal=True)
    expected = attention.out(found.transpose(1, 2).flatten(-2))
    torch.testing.assert_close(attention(tokens), expected)


def test_a_patch_sees_exactly_the_patches_before_it():
    jacobian = torch.autograd.functional.jacobian(network(), rand(6))
    seen = jacobian.abs().amax(1).view(3, 2, 3, 2).amax((1, 3)) > 0
    assert torch.equal(seen, torch.ones(3, 3, dtype=torch.bool).tril(-1))


def test_a_context_reaches_all_patches_and_is_broadcast():
    conditional = network(context=3)
    x, context = rand(4, 5, 6), rand(5, 3, seed=1)
    together = conditional(x, context)
    assert together.shape == (4, 5, 6, 2)
    torch.testing.assert_close(together[:, 2], conditional(x[:, 2], context[2]))
    changed = (conditional(x, context + 1) - together).abs().amin((0, 1))
    assert (changed > 0).all()


@pytest.mark.parametrize("blocks", [(), (16,), (16, 16)])
def test_turns_with_a_memory_are_one_pass(blocks):
    options = {"patch": 2, "width": 8, "heads": 2, "context": 3, "generator": seeded()}
    conditional = CausalTransformer(6, 2, blocks, **options).double()
    x, context = rand(4, 5, 6), rand(5, 3, seed=1)
    memory = Memory(conditional)
    turns = []
    for turn in range(3):
        # What is ahead may be anything.
        known = torch.cat([x[..., : 2 * turn], 9 * rand(4, 5, 6 - 2 * turn, seed=turn)], -1)
        turns.append(conditional(known, context, memory))
    torch.testing.assert_close(torch.cat(turns, -2), conditional(x, context))


def test_each_turn_evaluates_one_token():
    layer = PatchAutoregressive(made := network(), ScaleAndShift())
    seen = []
    made.blocks[0].register_forward_hook(lambda _, tokens, __: seen.append(tokens[0].shape[-2]))
    layer.inv(rand(7, 6))
    assert seen == [1, 1, 1]


def test_turns_have_first_and_second_derivatives():
    conditional = network(context=3)

    def in_turns(y, context):
        return PatchAutoregressive(conditional, ScaleAndShift(), context).inv.call_and_ladj(y)

    given = rand(2, 6).requires_grad_(), rand(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(in_turns, given)
    assert torch.autograd.gradgradcheck(in_turns, given)


@pytest.mark.parametrize("patch", [1, 2, 3, 6])
def test_patches_of_any_size(patch):
    flow = TransformerFlow(
        6, 2, length=2, patch=patch, width=8, heads=2, bound=1.0, generator=seeded()
    )
    spread(flow.double(), 0.2)
    check_ladj(flow, 1e-9)
    check_round_trips(flow, 1e-9)


def test_two_layers_let_each_coordinate_see_all_other_patches():
    flow = spread(TransformerFlow(6, length=2, patch=2, generator=seeded()).double(), 0.1)
    back = flow().transform.inv
    jacobian = torch.autograd.functional.jacobian(back, rand(6))
    # The noise comes out from the last patch to the first.
    within = torch.eye(3).flip(0).repeat_interleave(2, 0).repeat_interleave(2, 1).bool()
    assert (jacobian[~within] != 0).all()


def test_the_number_of_parameters_grows_with_the_places_only():
    def count(features):
        flow = TransformerFlow(features, length=1, patch=2, width=8)
        return sum(parameter.numel() for parameter in flow.parameters())

    assert count(20) - count(10) == 5 * 8


def test_a_transformer_learns_what_no_gaussian_can():
    generator = seeded(1)
    radius = 1 + 0.1 * torch.randn(400, generator=generator)
    angle = 2 * math.pi * torch.rand(400, generator=generator)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    flow = TransformerFlow(2, length=3, hidden_features=(32,), width=16, generator=seeded())
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(200):
        loss = -flow().log_prob(x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    assert loss < -gaussian.log_prob(x).mean() - 0.3


def test_bad_input():
    with pytest.raises(ValueError, match="patch must divide features, 6, got 4"):
        TransformerFlow(6, patch=4)
    with pytest.raises(ValueError, match="heads must divide width, 10, got 4"):
        TransformerFlow(6, width=10)
    with pytest.raises(ValueError, match="patch must be at least 1, got 0"):
        CausalTransformer(6, 2, patch=0)
    with pytest.raises(TypeError, match="network must be a CausalTransformer, got MLP"):
        PatchAutoregressive(MLP(2, 2), ScaleAndShift())
    with pytest.raises(ValueError, match="network must have 1 outputs for each coordinate, got 2"):
        PatchAutoregressive(network(), Additive())
    with pytest.raises(ValueError, match=r"z must have shape \(\*, 6\), got \(3,\)"):
        PatchAutoregressive(network(), ScaleAndShift())(rand(3))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_a_vector_of_another_size_is_refused_though_patches_fill_it(size):
    with pytest.raises(ValueError, match=rf"x must have shape \(\*, 6\), got \({size},\)"):
        network()(rand(size))


def test_a_context_is_given_where_there_is_one_and_nowhere_else():
    flow = TransformerFlow(6, patch=2, width=8, heads=2).double()
    for use in (
        lambda: network()(rand(6), rand(3)),
        lambda: PatchAutoregressive(network(), ScaleAndShift(), rand(3))(rand(6)),
        lambda: flow.transform(rand(3))(rand(6)),
    ):
        with pytest.raises(TypeError, match="context must be None for what was made without one"):
            use()
    conditional = network(context=3)
    for use in (conditional, PatchAutoregressive(conditional, ScaleAndShift())):
        with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
            use(rand(6))


def test_parameters_are_held():
    layer = PatchAutoregressive(made := network(), ScaleAndShift())
    z = rand(6)
    before = layer(z).detach()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1
    torch.testing.assert_close(layer(z), before)
    assert not torch.allclose(PatchAutoregressive(made, ScaleAndShift())(z), before)
