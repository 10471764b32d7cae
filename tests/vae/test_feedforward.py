"""The hidden layers of encoders and decoders by their formulas, and networks that are made of them.

A layer holds the weights of all its linear units as rows of one matrix.
"""

import itertools

import numpy as np
import pytest
import torch
from draws import rand, seeded
from scipy import special

from nfbook.networks import Dense, Feedforward, Gated, Maxout

LAYERS = {"relu": Dense, "maxout": Maxout, "gated": Gated}


def units(layer: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    """Return all linear units of a layer, in plain arithmetic."""
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    return np.einsum("oi,...i->...o", weight, x.numpy()) + bias


def test_a_dense_layer_is_zero_where_its_units_are_negative():
    layer, x = Dense(3, 5).double(), rand(7, 2, 3)
    expected = np.maximum(units(layer, x), 0)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected)
    assert 0 < (expected == 0).mean() < 1


@pytest.mark.parametrize("window", [1, 3, 4])
def test_a_maxout_unit_is_the_largest_of_its_own_window(window: int):
    layer, x = Maxout(3, 5, window).double(), rand(7, 2, 3)
    every = units(layer, x)
    for k in range(5):
        largest = every[..., k * window : (k + 1) * window].max(-1)
        np.testing.assert_allclose(layer(x)[..., k].detach().numpy(), largest)


def test_maxout_has_a_window_of_four_as_in_the_paper():
    assert Maxout(3, 5).linear.weight.shape == (4 * 5, 3)


def test_a_gated_layer_is_linear_units_times_sigmoids_of_others():
    layer, x = Gated(3, 5).double(), rand(7, 2, 3)
    linear, gates = np.split(units(layer, x), 2, axis=-1)
    np.testing.assert_allclose(layer(x).detach().numpy(), linear * special.expit(gates))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_network_is_its_layers_one_after_the_other(kind: str):
    network = Feedforward(3, (5, 4), 2, layer=LAYERS[kind]).double()
    x = rand(7, 2, 3)
    first, second, last = network
    assert (type(first), type(second)) == (LAYERS[kind], LAYERS[kind])
    np.testing.assert_allclose(network(x).detach().numpy(), units(last, second(first(x)).detach()))
    assert (network.in_features, network.out_features) == (3, 2)
    # Without an output size the units of the last hidden layer are the result.
    encoder = Feedforward(3, (5, 4), layer=LAYERS[kind])
    assert encoder.out_features == 4
    assert encoder(x.float()).shape == (7, 2, 4)


@pytest.mark.parametrize("kind", LAYERS)
def test_initial_weights_are_uniform_and_come_from_the_generator_alone(kind: str):
    def states(seed: int) -> list[torch.Tensor]:
        network = Feedforward(100, (50,), 3, layer=LAYERS[kind], generator=seeded(seed))
        return list(network.parameters())

    before = torch.get_rng_state()
    first, second, other = states(0), states(0), states(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, other))
    for weight, inputs in ((first[0], 100), (first[2], 50)):
        bound = inputs**-0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        # A variance of bound^2 / 3, from at least 150 weights.
        assert weight.square().mean().item() == pytest.approx(bound**2 / 3, rel=0.4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        *(
            (lambda layer=layer, sizes=sizes: layer(*sizes), ValueError, message)
            for layer, (sizes, message) in itertools.product(
                LAYERS.values(),
                [
                    ((0, 5), "in_features must be at least 1, got 0"),
                    ((3, 0), "out_features must be at least 1, got 0"),
                ],
            )
        ),
        (lambda: Dense(3.0, 5), TypeError, "in_features must be an int, got float"),
        (lambda: Maxout(3, 5, 0), ValueError, "window must be at least 1, got 0"),
        (lambda: Feedforward(0, (5,)), ValueError, "in_features must be at least 1, got 0"),
        (lambda: Feedforward(3, 5), TypeError, "widths must be a list or tuple of ints, got int"),
        (lambda: Feedforward(3, (5, 0)), ValueError, "every one of widths must be at least 1"),
        (lambda: Feedforward(3, ()), ValueError, "widths must hold at least one width where"),
        (lambda: Feedforward(3, (5,), 0), ValueError, "out_features must be at least 1, got 0"),
        (lambda: Feedforward(3, (5,), layer=3), TypeError, "layer must be a function, got int"),
        (lambda: Feedforward(3, (5,), generator=3), TypeError, "generator must be a torch"),
    ],
)
def test_refusals(make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()
