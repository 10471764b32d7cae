"""Convolutional networks of flat images, of any side."""

import pytest
import torch
from draws import rand, seeded
from scipy.signal import correlate2d

from nfbook.networks import ConvolutionalDecoder, ConvolutionalEncoder
from nfbook.objectives import elbo
from nfbook.vae import VAE, BernoulliDecoder, GaussianDecoder

SMALL = ((4, 1), (6, 2), (6, 2))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("image", [(1, 12, 12), (3, 8, 8), (2, 7, 10), (1, 1, 1)])
def test_flat_images_of_any_side_go_in_and_come_out(image: tuple[int, int, int], gated: bool):
    pixels = image[0] * image[1] * image[2]
    encoder = ConvolutionalEncoder(image, 5, SMALL, gated=gated)
    decoder = ConvolutionalDecoder(5, image, SMALL, gated=gated)
    assert (encoder.in_features, encoder.out_features) == (pixels, 5)
    assert (decoder.in_features, decoder.out_features) == (5, pixels)
    for batch in ((), (3,), (2, 1, 2)):
        units = encoder(torch.randn(*batch, pixels))
        assert units.shape == (*batch, 5)
        assert decoder(units).shape == (*batch, pixels)


def test_batch_dimensions_change_nothing():
    encoder = ConvolutionalEncoder((3, 8, 8), 5, SMALL).double()
    decoder = ConvolutionalDecoder(5, (3, 8, 8), SMALL).double()
    x = rand(2, 3, 192)
    units = encoder(x)
    torch.testing.assert_close(units[1, 2], encoder(x[1, 2]))
    torch.testing.assert_close(decoder(units)[1, 2], decoder(units[1, 2]))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_is_scipys_correlation(stride: int):
    """And so the numbers of an image are read channel by channel and row by row."""
    encoder = ConvolutionalEncoder((2, 6, 7), 4, ((3, stride),), gated=False).double()
    image = rand(2, 6, 7)
    weight, bias = (p.detach() for p in encoder.layers[0].parameters())
    maps = torch.stack(
        [
            bias[k]
            + sum(
                torch.from_numpy(correlate2d(image[c].numpy(), weight[k, c].numpy(), mode="same"))[
                    ::stride, ::stride
                ]
                for c in range(2)
            )
            for k in range(3)
        ]
    ).relu()
    expected = encoder.last(maps.flatten()).relu()
    torch.testing.assert_close(encoder(image.flatten()), expected)


def test_gates_multiply():
    encoder = ConvolutionalEncoder((1, 4, 4), 3, ((2, 1),)).double()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            half = parameter.shape[0] // 2
            parameter[half:] = 0
            if name.endswith("bias"):
                parameter[half:] = 50  # the gates are open: what is left is linear
    a, b, zero = rand(16), rand(16, seed=1), torch.zeros(16, dtype=torch.float64)
    torch.testing.assert_close(encoder(a + b) + encoder(zero), encoder(a) + encoder(b))


@pytest.mark.parametrize("side", [6, 7])
def test_a_decoders_layer_is_the_adjoint_of_an_encoders(side: int):
    r"""For all x and y, :math:`(A x)^T y = x^T (A^T y)`."""
    stages = ((3, 2),)
    encoder = ConvolutionalEncoder((3, side, side), 2, stages, gated=False).double()
    decoder = ConvolutionalDecoder(2, (1, side, side), stages, gated=False).double()
    down, up = encoder.layers[0].layer, decoder.layers[0].layer
    with torch.no_grad():
        up.weight.copy_(down.weight)
        up.bias.zero_()
        down.bias.zero_()
    x = rand(1, 3, side, side)
    y = rand(*down(x).shape, seed=1)
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())


def test_initial_weights_come_from_the_generator_alone():
    def states(seed: int) -> list[torch.Tensor]:
        generator = seeded(seed)
        encoder = ConvolutionalEncoder((1, 5, 5), 3, SMALL, generator=generator)
        decoder = ConvolutionalDecoder(3, (1, 5, 5), SMALL, generator=generator)
        return [*encoder.parameters(), *decoder.parameters()]

    before = torch.get_rng_state()
    first, second, other = states(0), states(0), states(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, second))
    assert not any(map(torch.equal, first, other))
    spread = torch.cat([p.detach().flatten() for p in first])
    assert 0.01 < spread.abs().max() <= 1


def test_an_image_comes_out_channel_by_channel_as_it_goes_in():
    decoder = ConvolutionalDecoder(2, (3, 4, 5), SMALL)
    with torch.no_grad():
        decoder.last.weight.zero_()
        decoder.last.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    expected = torch.tensor([1.0, -2.0, 3.0]).repeat_interleave(4 * 5)
    assert torch.equal(decoder(torch.randn(7, 2)), expected.expand(7, 60))


def test_without_gates_a_decoder_starts_with_a_relu():
    """So units far below zero say nothing of the vector."""
    decoder = ConvolutionalDecoder(2, (1, 4, 4), SMALL, gated=False).double()
    with torch.no_grad():
        decoder.first.linear.bias.fill_(-100)
    first, second = decoder(rand(2, 2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("stride", [1, 2])
def test_white_noise_leaves_every_new_layer_with_the_same_variance(stride: int):
    r"""An output that sees n numbers has weights on :math:`\pm 1/\sqrt n`, of variance 1/(3n)."""
    generator, stages = seeded(), ((16, stride),)
    encoder = ConvolutionalEncoder((16, 24, 24), 2, stages, generator=generator)
    decoder = ConvolutionalDecoder(2, (1, 24, 24), stages, generator=generator)
    for layer, side in ((encoder.layers[0].layer, 24), (decoder.layers[0].layer, 24 // stride)):
        x = torch.randn(20, 16, side, side, generator=generator)
        inside = layer(x)[..., 4:-4, 4:-4]  # those at the edge see less
        assert inside.square().mean().item() == pytest.approx(1 / 3, rel=0.15)


def test_the_signal_neither_dies_nor_explodes():
    encoder = ConvolutionalEncoder((1, 10, 10), generator=seeded())
    decoder = ConvolutionalDecoder(256, (1, 10, 10), generator=seeded(1))
    x = torch.rand(2, 100, generator=seeded(2))
    x.requires_grad_()
    out = decoder(encoder(x))
    assert out.isfinite().all()
    out.sum().backward()
    for network in (encoder, decoder):
        assert all(p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("kind", [BernoulliDecoder, GaussianDecoder])
def test_a_vae_takes_them(kind: type):
    vae = VAE(
        ConvolutionalEncoder((3, 8, 8), 10, SMALL),
        kind(ConvolutionalDecoder(4, (3, 8, 8), SMALL)),
    )
    x = torch.ones(5, 192)
    elbo(vae, x, vae.posterior(x), 3).value.sum().backward()
    assert vae.decoder.data_dim == 192


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConvolutionalEncoder(28), TypeError, "image must be a tuple of channels, height"),
        (lambda: ConvolutionalEncoder((28, 28)), ValueError, r"image must be .* got \(28, 28\)"),
        (lambda: ConvolutionalEncoder((1, 0, 28)), ValueError, "every size of image .* got 0"),
        (lambda: ConvolutionalEncoder((1, 8, 8), 0), ValueError, "out_features must be at least 1"),
        (lambda: ConvolutionalEncoder((1, 8, 8), 5, ()), ValueError, "stages must hold at least"),
        (lambda: ConvolutionalEncoder((1, 8, 8), 5, (32,)), TypeError, "every one of stages must"),
        (
            lambda: ConvolutionalEncoder((1, 8, 8), 5, ((32, 2, 1),)),
            ValueError,
            r"every one of stages must be a pair of channels and a stride, got \(32, 2, 1\)",
        ),
        (
            lambda: ConvolutionalEncoder((1, 8, 8))(torch.zeros(3, 8, 8)),
            ValueError,
            r"x must have shape \(\*, 64\), got \(3, 8, 8\)",
        ),
        (
            lambda: ConvolutionalDecoder(4, (1, 8, 8))(torch.zeros(3)),
            ValueError,
            r"z must have shape \(\*, 4\), got \(3,\)",
        ),
        (lambda: ConvolutionalDecoder(0, (1, 8, 8)), ValueError, "in_features must be at least 1"),
        (lambda: ConvolutionalDecoder(4, (1, 8, 8), gated=1), TypeError, "gated must be True or"),
    ],
)
def test_refusals(make, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()
