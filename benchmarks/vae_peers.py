"""The same VAE from nfbook and from three other libraries, behind one interface.

All have two hidden layers of 400 ReLU units on either side, a Gaussian posterior with independent
coordinates followed by K planar layers, a standard normal prior, a Bernoulli likelihood, one draw
for each image, and Adam. Encoder, decoder and the linear maps from the encoder's units to the
parameters of the posterior are nfbook's, copied, so that with the same noise the bound is the same.
What a library cannot do the same way stands in a comment beside it.

The libraries are imported only when a model is made, so that reading a stored result needs none of
them. ``benchmarks/peers.txt`` pins them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from nfbook.flows import PlanarFlow
from nfbook.networks import Feedforward
from nfbook.networks.parameters import ConditionalParameters
from nfbook.reproduce.mnist import Settings, make_model
from nfbook.training import NegativeELBO
from nfbook.vae import VAE

PACKAGES = ("pyro-ppl", "normflows", "flowjax", "jax", "equinox", "optax")
PIXELS, WIDTHS, LATENT_DIM, BATCH = 784, (400, 400), 40, 100
LEARNING_RATE = 1e-3
# The planar flow whose parameters are the same for every image. The others come from the encoder.
FREE = "planar, free"


def images(batch: int = BATCH) -> Tensor:
    """Return images with about as many white pixels as MNIST's, `(batch, 784)`."""
    g = torch.Generator().manual_seed(0)
    return (torch.rand(batch, PIXELS, generator=g) < 0.13).float()


def vae(family: str, length: int) -> VAE:
    """Return nfbook's model, with noise in the maps from the encoder's units to parameters.

    They start at zero. The noise makes means and the flow's parameters differ from image to image,
    and leaves the time of a step as it is.
    """
    g = torch.Generator().manual_seed(0)
    settings = Settings(family, length, 0, latent_dim=LATENT_DIM, widths=WIDTHS)
    model = make_model(replace(settings, length=0) if family == FREE else settings, PIXELS)
    if family == FREE:
        model.flow = PlanarFlow(LATENT_DIM, length=length, generator=g)
    with torch.no_grad():
        for each in _maps(model):
            each.start.add_(0.1 * torch.randn(each.start.shape, generator=g))
            if each.network is not None:
                weight = each.network.first.context_weight
                weight.copy_(0.02 * torch.randn(weight.shape, generator=g))
        # nfbook keeps a scale within bounds by a function that the others have not. So here the
        # scales are the same for all images, and given to the others as they are.
        mean_and_scale = model.gaussian.parameters_of.network.first.context_weight
        mean_and_scale.unflatten(0, (-1, 2))[:, 1] = 0
    return model


def _maps(model: VAE) -> list[ConditionalParameters]:
    """Return what gives the parameters of the Gaussian and, where there are such, of the flow."""
    parts = [model.gaussian, *([] if model.flow is None else [model.flow])]
    modules = (module for part in parts for module in part.modules())
    return [module for module in modules if isinstance(module, ConditionalParameters)]


def context_outputs(model: VAE) -> int:
    """Return how many numbers the posterior takes from the encoder by its linear maps.

    For planar layers these are all parameters. A layer with a network of its own takes what its
    first hidden units have before they see z.
    """
    weights = (getattr(module, "context_weight", None) for module in model.modules())
    return sum(len(weight) for weight in weights if weight is not None)


def contestant(name: str, family: str, length: int, same: bool = False) -> Eager | Jitted:
    """Return a library's model.

    Arguments:
        name: nfbook, compiled or not, the networks alone, or another library that has the family.
        family: One that `vae` knows.
        length: The number of layers.
        same: Whether the others' u are changed so that their layers are nfbook's, see `u_for`.

    Raises:
        ValueError: The name is none of them.
    """
    # Pyro turns torch's checks of arguments on for the whole process. Here they are off for all.
    Distribution.set_default_validate_args(False)
    model = vae(family, length)
    match name:
        case "nfbook":
            return Eager(model, partial(NegativeELBO(), model))
        case "nfbook, compiled":
            return Eager(model, _compiled(partial(NegativeELBO(), model)))
        case "Pyro":
            return _pyro(model, same=same)
        case "normflows":
            return _normflows(model)
        case "flowjax":
            return Jitted(model, same=same)
        case "networks alone":
            return Floor(model)
    raise ValueError(f"there is no contestant with the name {name!r}")


class Eager:
    """A model that runs on torch, in training.

    Arguments:
        module: The model.
        loss: The negative bound of images. Its noise comes from torch's own generator.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Tensor], Tensor]) -> None:
        self.module, self.loss, self.x = module, loss, images()
        self.optimiser = torch.optim.Adam(module.parameters(), LEARNING_RATE, fused=True)

    def step(self) -> None:
        """Do one update: loss, gradient and optimiser."""
        self.optimiser.zero_grad()
        self.loss(self.x).backward()
        self.optimiser.step()

    def count(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    def negative_bound(self) -> float:
        """Return the loss for the noise of seed 0."""
        torch.manual_seed(0)
        return self.loss(self.x).item()


class Floor(Eager):
    """The networks of a VAE, in training, and nothing else.

    These are the encoder, one linear map of its units with as many outputs as the posterior takes
    from them, and the decoder, all of torch's own layers. The first outputs are mean and log-scale
    of z. The others go nowhere, and the backward pass starts with a gradient that is given for
    them. The loss is the negative log-likelihood alone.

    Arguments:
        model: The VAE.
    """

    def __init__(self, model: VAE) -> None:
        outputs, units = context_outputs(model), WIDTHS[-1]
        g = torch.Generator().manual_seed(0)
        weight = 0.02 * torch.randn(outputs, units, generator=g)
        head = linear(weight, torch.zeros(outputs))
        networks = nn.ModuleList([plain(model.encoder), head, plain(model.decoder.network)])
        super().__init__(networks, lambda x: self._forward(x)[0])
        self.others = outputs - 2 * LATENT_DIM
        self.gradient = torch.randn(BATCH, self.others, generator=g) / BATCH

    def step(self) -> None:
        """Do one update."""
        self.optimiser.zero_grad()
        torch.autograd.backward(self._forward(self.x), [torch.ones(()), self.gradient])
        self.optimiser.step()

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean negative log-likelihood, and the outputs that go nowhere."""
        encoder, head, decoder = self.module
        sizes = [LATENT_DIM, LATENT_DIM, self.others]
        mean, log_scale, others = head(encoder(x)).split(sizes, dim=-1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        loss = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return loss / len(x), others


def _compiled(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a loss that torch compiles in its first call, and from nothing."""
    from torch.compiler import config

    # What torch kept of an earlier run would shorten the compilation.
    config.force_disable_caches = True
    return torch.compile(loss, dynamic=False)


def _pyro(model: VAE, *, same: bool) -> Eager:
    import pyro
    from pyro.distributions import Bernoulli, Normal, TransformedDistribution
    from pyro.distributions.transforms.planar import ConditionedPlanar

    pyro.enable_validation(False)
    encoder, decoder = plain(model.encoder), plain(model.decoder.network)
    head = linear(*_head(model))
    length = _length(model)
    sizes = [LATENT_DIM, LATENT_DIM, length * LATENT_DIM, length * LATENT_DIM, length]

    def joint(x: Tensor) -> None:
        with pyro.plate("images", len(x)):
            zero = x.new_zeros(len(x), LATENT_DIM)
            z = pyro.sample("z", Normal(zero, torch.ones_like(zero)).to_event(1))
            pyro.sample("x", Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    # Its conditional layers have a network each. One linear map for all of them is faster.
    def posterior(x: Tensor) -> None:
        mean, log_scale, w, u, b = head(encoder(x)).split(sizes, dim=-1)
        w, u = (value.unflatten(-1, (length, LATENT_DIM)) for value in (w, u))
        if same:
            u = u_for(w, u, _inverse_softplus)
        layers = [
            ConditionedPlanar((b_k.unsqueeze(-1), u_k, w_k))
            for w_k, u_k, b_k in zip(w.unbind(-2), u.unbind(-2), b.unbind(-1), strict=True)
        ]
        with pyro.plate("images", len(x)):
            base = Normal(mean, log_scale.exp()).to_event(1)
            pyro.sample("z", TransformedDistribution(base, layers) if layers else base)

    # Its own optimisers hold one of torch's for each parameter. One for all of them is faster.
    bound = pyro.infer.Trace_ELBO()
    return Eager(
        nn.ModuleList([encoder, head, decoder]),
        lambda x: bound.differentiable_loss(joint, posterior, x) / len(x),
    )


def _normflows(model: VAE) -> Eager:
    import normflows
    from normflows.distributions import DiagGaussian, NNBernoulliDecoder, NNDiagGaussian

    # Its planar layer adds its inner product of w and u up over a batch, so that its parameters
    # cannot differ from image to image.
    layers = []
    if model.flow is not None:
        layers = [
            normflows.flows.Planar(
                w.shape, w=w[None], u=u_for(w, u, _inverse_softplus)[None], b=b[None]
            )
            for w, u, b in zip(
                *(value.detach() for value in model.flow.parameters_of().values()), strict=True
            )
        ]
    # Its encoder's second half of outputs is the logarithm of the variance.
    weight, bias = _head(model)
    twice = torch.ones(2 * LATENT_DIM).index_fill(0, torch.arange(LATENT_DIM, 2 * LATENT_DIM), 2)
    encoder = nn.Sequential(plain(model.encoder), linear(twice[:, None] * weight, twice * bias))
    module = normflows.NormalizingFlowVAE(
        DiagGaussian(LATENT_DIM, trainable=False),
        NNDiagGaussian(encoder),
        layers,
        NNBernoulliDecoder(plain(model.decoder.network)),
    )

    def loss(x: Tensor) -> Tensor:
        _, log_q, log_p = module(x)
        return (log_q - log_p).mean()

    return Eager(module, loss)


class Jitted:
    """A VAE with flowjax's planar layers, in training; the whole update is compiled by JAX.

    The other networks, for which flowjax has nothing, are written in JAX.

    Arguments:
        model: nfbook's, for its weights.
        same: Whether its u are changed so that its layers are nfbook's.
    """

    def __init__(self, model: VAE, *, same: bool = False) -> None:
        import equinox
        import jax
        import optax
        from jax import numpy, random, scipy

        layers, rest = equinox.partition(
            _flowjax_layers(model, same=same), equinox.is_inexact_array
        )
        gaussian = [value[: 2 * LATENT_DIM] for value in _head(model)]
        self.parameters = {
            "encoder": _arrays(plain(model.encoder)),
            "head": _arrays(linear(*gaussian)),
            "layers": layers,
            "decoder": _arrays(plain(model.decoder.network)),
        }
        self.x = numpy.asarray(images().numpy())
        self.key = random.key(0)
        optimiser = optax.adam(LEARNING_RATE)
        self.state = optimiser.init(self.parameters)

        def network(layers: Any, x: Any) -> Any:
            *hidden, (weight, bias) = layers
            for w, b in hidden:
                x = jax.nn.relu(x @ w.T + b)
            return x @ weight.T + bias

        def negative_bound(parameters: Any, x: Any, noise: Any) -> Any:
            units = jax.nn.relu(network(parameters["encoder"], x))
            mean, log_scale = numpy.split(network(parameters["head"], units), 2, axis=-1)
            z = mean + numpy.exp(log_scale) * noise
            log_q = scipy.stats.norm.logpdf(noise).sum(-1) - log_scale.sum(-1)
            if model.flow is not None:
                flow = equinox.combine(parameters["layers"], rest)
                z, ladj = jax.vmap(flow.transform_and_log_det)(z, units)
                log_q = log_q - ladj
            logits = network(parameters["decoder"], z)
            log_likelihood = (x * logits - jax.nn.softplus(logits)).sum(-1)
            return (log_q - log_likelihood - scipy.stats.norm.logpdf(z).sum(-1)).mean()

        def update(parameters: Any, state: Any, key: Any, x: Any) -> Any:
            key, own = random.split(key)
            noise = random.normal(own, (len(x), LATENT_DIM))
            gradient = jax.grad(negative_bound)(parameters, x, noise)
            change, state = optimiser.update(gradient, state)
            return optax.apply_updates(parameters, change), state, key

        self._loss = jax.jit(negative_bound)
        # The old parameters make room for the new ones, as where an update is done in place.
        self._update = jax.jit(update, donate_argnums=(0, 1))

    def step(self) -> None:
        """Do one update. The call returns before its work is done, so wait for the end."""
        import jax

        new = self._update(self.parameters, self.state, self.key, self.x)
        self.parameters, self.state, self.key = jax.block_until_ready(new)

    def count(self) -> int:
        """Return the number of parameters."""
        from jax import tree

        return sum(value.size for value in tree.leaves(self.parameters))

    def negative_bound(self) -> float:
        """Return the loss for the noise that torch draws with seed 0."""
        from jax import numpy

        noise = torch.randn(BATCH, LATENT_DIM, generator=torch.Generator().manual_seed(0))
        return float(self._loss(self.parameters, self.x, numpy.asarray(noise.numpy())))


def _flowjax_layers(model: VAE, *, same: bool) -> Any:
    """Return flowjax's planar layers, as its own `planar_flow` holds them, with our weights."""
    import equinox
    from flowjax.bijections import Planar, Scan
    from jax import numpy, random

    length = _length(model)
    if not length:
        return None

    def layer(key: Any) -> Any:
        return Planar(key, dim=LATENT_DIM, cond_dim=WIDTHS[-1], width_size=1, depth=0)

    scan = Scan(equinox.filter_vmap(layer)(random.split(random.key(0), length)))
    ours = [_by_layer(value[2 * LATENT_DIM :], length) for value in _head(model)]
    # Without hidden layers the network of each is one linear map.
    scan = equinox.tree_at(
        lambda scan: [getattr(scan.bijection.conditioner.layers[0], n) for n in ("weight", "bias")],
        scan,
        [numpy.asarray(value.numpy()) for value in ours],
    )
    if not same:
        return scan

    def change(parameters: Any) -> Any:
        w, u, b = numpy.split(parameters, [LATENT_DIM, 2 * LATENT_DIM])
        # Its 1 + m is log(1 + softplus(a)).
        u = u_for(w, u, lambda s: numpy.log(numpy.expm1(numpy.expm1(s))))
        return numpy.concatenate([w, u, b])

    return equinox.tree_at(
        lambda scan: scan.bijection.conditioner,
        scan,
        replace_fn=lambda network: equinox.nn.Sequential([network, equinox.nn.Lambda(change)]),
    )


def _by_layer(rows: Tensor, length: int) -> Tensor:
    """Return what gives all w, all u and all b as what gives w, u and b of each layer."""
    w, u, b = rows.split([length * LATENT_DIM, length * LATENT_DIM, length])
    parts = [value.unflatten(0, (length, -1)) for value in (w, u, b)]
    return torch.cat(parts, 1)


def _arrays(network: nn.Module) -> list[tuple[Any, Any]]:
    """Return the weights and biases of all layers as arrays of JAX."""
    from jax import numpy

    return [
        (numpy.array(each.weight.detach().numpy()), numpy.array(each.bias.detach().numpy()))
        for each in network.modules()
        if isinstance(each, nn.Linear)
    ]


def plain(network: nn.Module) -> nn.Sequential:
    """Return a copy of a `Feedforward` of ReLU units, made of torch's own layers."""
    assert isinstance(network, Feedforward)
    layers: list[nn.Module] = []
    for each in network.modules():
        if isinstance(each, nn.Linear):
            layers += [linear(each.weight, each.bias), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if isinstance(network[-1], nn.Linear) else layers))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer with copies of these parameters."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


@torch.no_grad()
def _head(model: VAE) -> tuple[Tensor, Tensor]:
    """Return weights and biases that give mean, log-scale and all w, u and b of an image."""
    maps = [each for each in _maps(model) if each.network is not None]
    weights = [each.network.first.context_weight for each in maps]
    biases = [each.start + each.network.first.bias for each in maps]
    # nfbook has mean and scale of each coordinate side by side, and bounds on the scale.
    (affine,) = model.gaussian.transform(torch.zeros(WIDTHS[-1])).transforms
    weights[0] = torch.cat(weights[0].unflatten(0, (-1, 2)).unbind(1))
    biases[0] = torch.cat([affine.shift, affine.log_scale])
    return torch.cat(weights), torch.cat(biases)


def _length(model: VAE) -> int:
    """Return the number of planar layers."""
    return 0 if model.flow is None else model.flow.length


def u_for(w: Any, u: Any, a_for: Callable[[Any], Any]) -> Any:
    r"""Return the u with which another library's constraint gives the û that nfbook has for u.

    All constraints have the form :math:`\hat u = u + (m(a) - a)\, w / \|w\|^2` with
    :math:`a = w^\top u`, and each library has an m of its own.

    Arguments:
        w: `(*, D)`, of torch or of JAX.
        u: `(*, D)`.
        a_for: Returns the a at which the other library's 1 + m(a) has a given value.
    """
    a = (w * u).sum(-1)[..., None]
    ours = a + (1 + a * a) ** 0.5
    return u + (a_for(ours) - a) / (w * w).sum(-1)[..., None] * w


def _inverse_softplus(y: Tensor) -> Tensor:
    """Return x with softplus(x) = y. Pyro and normflows have 1 + m = softplus."""
    return y + torch.log(-torch.expm1(-y))
