"""The same flows from nfbook and from five other libraries, behind one interface.

All have the same architecture: K transforms, each with a network of two hidden layers of 64 units
and ReLU, a standard normal base, splines of eight bins on [-5, 5]. Where a library has it as an
option, there are no residual blocks, no batch normalisation and no dropout. What a library cannot
do the same way stands in a comment beside it, and tables name the number of parameters.

Five libraries run on torch, one operation after the other. Three contestants are compiled as a
whole: flowjax, by JAX, and nfbook and zuko once more, by torch.

The libraries are imported only when a flow is made, so that reading a stored result needs none of
them. ``benchmarks/peers.txt`` pins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from nfbook.flows import FAMILIES as OURS
from nfbook.transforms import PlanarStack

PACKAGES = ("zuko", "nflows", "normflows", "pyro-ppl")
# Those of the contestants that a compiler has seen.
COMPILED_PACKAGES = ("flowjax", "jax", "equinox")
FAMILIES = {
    "realnvp": "RealNVP",
    "maf": "MAF",
    "spline-coupling": "spline, coupling",
    "spline-autoregressive": "spline, autoregressive",
}
# Colour and marker of each contestant, in every plot.
LOOKS = {
    "nfbook": ("C0", "o"),
    "layer by layer": ("#8C8C8C", "o"),
    "zuko": ("C1", "s"),
    "nflows": ("C2", "^"),
    "normflows": ("C3", "D"),
    "Pyro": ("C4", "v"),
    "nfbook, compiled": ("C0", "P"),
    "zuko, compiled": ("C1", "P"),
    "flowjax": ("#000000", "*"),
}
WIDTHS = (64, 64)
BINS, BOUND = 8, 5.0


@dataclass(frozen=True)
class Contestant:
    """A flow, and what a benchmark asks of it, in its own library's words."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]
    to_noise: Callable[[Tensor], Tensor]
    to_data: Callable[[Tensor], Tensor]

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, looked up once, as an optimiser does."""
        return list(self.module.parameters())

    def prepare(self, x: Tensor) -> Tensor:
        """Return points as this library takes them."""
        return x

    @property
    def last_layers(self) -> list[nn.Module]:
        """The last layers of all conditioners: those whose outputs are not hidden units."""
        matrices = ((layer, getattr(layer, "weight", None)) for layer in self.module.modules())
        return [
            layer
            for layer, weight in matrices
            if isinstance(weight, Tensor) and weight.dim() == 2 and len(weight) not in WIDTHS
        ]

    def redraw(self, weights: float, biases: float, generator: torch.Generator) -> None:
        """Draw the last layers anew, normal with these standard deviations."""
        with torch.no_grad():
            for layer in self.last_layers:
                for name, scale in (("weight", weights), ("bias", biases)):
                    value = layer.get_parameter(name)
                    value.copy_(scale * torch.randn(value.shape, generator=generator))

    def step(self, x: Tensor) -> None:
        """Do the forward and the backward pass of a training step, without the optimiser."""
        clear(self.parameters)
        # Pyro remembers the last tensor that it was given, so each step gets one of its own.
        (-self.log_prob(x.detach()).mean()).backward()

    def count(self, x: Tensor) -> int:
        """Return the number of parameters that the log-density of x depends on."""
        self.step(x)
        return sum(p.numel() for p in self.parameters if p.grad is not None)


def clear(parameters: Sequence[Tensor]) -> None:
    """Forget the gradients, as an optimiser does."""
    for parameter in parameters:
        parameter.grad = None


class Network(nn.Sequential):
    """A plain conditioner, for libraries that let the user bring one.

    nflows and normflows divide the logits of a spline's widths and heights by the square root of
    ``hidden_features``, which their own networks have.
    """

    hidden_features = WIDTHS[-1]

    def __init__(self, inputs: int, outputs: int) -> None:
        sizes = [inputs, *WIDTHS, outputs]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        """Return the parameters; nflows and normflows pass a context, here always None."""
        result: Tensor = super().forward(x)
        return result


def contestants(family: str, features: int, length: int = 5) -> dict[str, Contestant]:
    """Return one flow of each library that runs on torch, one operation after the other."""
    return {name: contestant(name, family, features, length) for name in LIBRARIES}


def contestant(name: str, family: str, features: int, length: int = 5, seed: int = 0) -> Contestant:
    """Return a library's flow, with the same small noise in the last layers' weights for all.

    No library but ours starts at the identity. The noise leaves the time of a step as it is.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        one = LIBRARIES[name](family, features, length)
    # zuko turns torch's checks of arguments off for the whole process, Pyro turns them on. Here
    # they are off for all.
    Distribution.set_default_validate_args(False)
    if len(one.last_layers) != length:
        raise RuntimeError(f"expected {length} last layers, got {len(one.last_layers)}")
    one.redraw(0.05, 0.05, torch.Generator().manual_seed(seed))
    return one


def _nfbook(family: str, features: int, length: int) -> Contestant:
    module = OURS[family](features, length=length, hidden_features=WIDTHS)
    return Contestant(
        module,
        lambda x: module().log_prob(x),
        lambda count: module().sample((count,)),
        lambda x: module().transform.inv(x),
        lambda z: module().transform(z),
    )


def _zuko(family: str, features: int, length: int) -> Contestant:
    from zuko import flows
    from zuko.transforms import MonotonicRQSTransform

    spline = {
        "univariate": partial(MonotonicRQSTransform, bound=BOUND),
        "shapes": [(BINS,), (BINS,), (BINS - 1,)],
    }
    make, options = {
        "realnvp": (flows.RealNVP, {}),
        "maf": (flows.MAF, {}),
        # NICE is its name for coupling layers of any kind, NSF is MAF with these options.
        "spline-coupling": (flows.NICE, spline),
        "spline-autoregressive": (flows.MAF, spline),
    }[family]
    module = make(features, transforms=length, hidden_features=WIDTHS, **options)
    return Contestant(
        module,
        lambda x: module().log_prob(x),
        lambda count: module().sample((count,)),
        lambda x: module().transform(x),
        lambda z: module().transform.inv(z),
    )


def _nflows(family: str, features: int, length: int) -> Contestant:
    from nflows import transforms
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    # Its own plain network takes no context, not even None, so a coupling layer cannot use it.
    # The masked network has one hidden layer more than it has blocks.
    masked = {
        "features": features,
        "hidden_features": WIDTHS[0],
        "num_blocks": len(WIDTHS) - 1,
        "use_residual_blocks": False,
    }
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[Any] = []
    for k in range(length):
        mask = (torch.arange(features) + k) % 2
        match family:
            case "realnvp":
                layers.append(transforms.AffineCouplingTransform(mask, Network))
            case "spline-coupling":
                layers.append(
                    transforms.PiecewiseRationalQuadraticCouplingTransform(mask, Network, **spline)
                )
            case "maf":
                layers.append(transforms.MaskedAffineAutoregressiveTransform(**masked))
            case "spline-autoregressive":
                layers.append(
                    transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                        **masked, **spline
                    )
                )
        if family in ("maf", "spline-autoregressive"):
            layers.append(transforms.ReversePermutation(features))
    transform = transforms.CompositeTransform(layers)
    module = Flow(transform, StandardNormal([features]))
    return Contestant(
        module,
        module.log_prob,
        module.sample,
        module.transform_to_noise,
        lambda z: transform.inverse(z)[0],
    )


def _normflows(family: str, features: int, length: int) -> Contestant:
    import normflows
    from normflows import flows
    from normflows.flows.neural_spline import autoregressive, coupling

    # Its masked network has no activation behind the first layer, so that of two hidden layers
    # only one is followed by a ReLU.
    masked = {
        "features": features,
        "hidden_features": WIDTHS[0],
        "num_blocks": len(WIDTHS) - 1,
        "use_residual_blocks": False,
    }
    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    layers: list[Any] = []
    for k in range(length):
        # The fast direction of these layers goes from noise to data, save for the affine coupling,
        # which has no slow one. Turned round they are fast where a density is wanted.
        match family:
            case "realnvp":
                # MaskedAffineFlow would need two networks as wide as the whole vector.
                second = features // 2
                network = Network(features - second, 2 * second)
                layers += [
                    flows.Permute(features, mode="swap"),
                    flows.AffineCouplingBlock(network),
                ]
            case "spline-coupling":
                # The documented class has residual blocks, and splines for the part that stays.
                mask = (torch.arange(features) + k) % 2
                layer = coupling.PiecewiseRationalQuadraticCoupling(mask, Network, **spline)
                layers.append(flows.Reverse(layer))
            case "maf":
                layer = flows.MaskedAffineAutoregressive(**masked)
                layers += [flows.Permute(features), flows.Reverse(layer)]
            case "spline-autoregressive":
                # The documented class has residual blocks.
                layer = autoregressive.MaskedPiecewiseRationalQuadraticAutoregressive(
                    **masked, **spline
                )
                layers += [flows.Permute(features), flows.Reverse(layer)]
    base = normflows.distributions.DiagGaussian(features, trainable=False)
    module = normflows.NormalizingFlow(base, layers)
    return Contestant(
        module,
        module.log_prob,
        lambda count: module.sample(count)[0],
        module.inverse,
        module.forward,
    )


def _pyro(family: str, features: int, length: int) -> Contestant:
    from pyro.distributions import Normal, TransformedDistribution, transforms
    from pyro.nn import AutoRegressiveNN, DenseNN

    stays = features // 2
    moves = features - stays
    order = torch.arange(features)
    layers: list[Any] = []
    modules = nn.ModuleList()
    for k in range(length):
        turned = order.flip(0) if k % 2 else order
        match family:
            case "realnvp":
                network = DenseNN(stays, [*WIDTHS], [moves, moves])
                layer = transforms.AffineCoupling(stays, network)
            case "spline-coupling":
                sizes = [moves * BINS, moves * BINS, moves * (BINS - 1)]
                network = DenseNN(stays, [*WIDTHS], sizes)
                # It also makes splines for the part that stays, which are not used here.
                layer = transforms.SplineCoupling(
                    features, stays, network, BINS, BOUND, order="quadratic", identity=True
                )
            case "maf":
                network = AutoRegressiveNN(features, [*WIDTHS], permutation=turned)
                layer = transforms.AffineAutoregressive(network)
            case "spline-autoregressive":
                sizes = [BINS, BINS, BINS - 1]
                network = AutoRegressiveNN(features, [*WIDTHS], sizes, permutation=turned)
                layer = transforms.SplineAutoregressive(
                    features, network, BINS, BOUND, order="quadratic"
                )
        modules.append(layer)
        if family in ("maf", "spline-autoregressive"):
            # Its fast direction goes from noise to data. Its inverse is fast where a density is
            # wanted.
            layers.append(layer.inv)
        else:
            # Only the second part of a vector moves, so the parts change places.
            layers += [layer, transforms.Permute(order.roll(stays))]
    base = Normal(torch.zeros(features), torch.ones(features)).to_event(1)
    flow = TransformedDistribution(base, layers)

    def to_noise(x: Tensor) -> Tensor:
        for layer in reversed(layers):
            x = layer.inv(x)
        return x

    def to_data(z: Tensor) -> Tensor:
        for layer in layers:
            z = layer(z)
        return z

    return Contestant(modules, flow.log_prob, lambda n: flow.sample((n,)), to_noise, to_data)


LIBRARIES = {
    "nfbook": _nfbook,
    "zuko": _zuko,
    "nflows": _nflows,
    "normflows": _normflows,
    "Pyro": _pyro,
}


@dataclass(frozen=True)
class Jitted:
    """A flow of flowjax, and what a benchmark asks of it, compiled by JAX.

    A call returns before its work is done, so each one here waits for the end.
    """

    parameters: Any
    gradient: Callable[[Any, Any], Any]
    draw: Callable[[Any, Any, int], Any]
    key: Any

    def prepare(self, x: Tensor) -> Any:
        """Return points as an array of JAX."""
        from jax import numpy

        return numpy.asarray(x.numpy())

    def step(self, x: Any) -> None:
        """Do the forward and the backward pass of a training step, without the optimiser."""
        self._wait(self.gradient(self.parameters, x))

    def sample(self, count: int) -> None:
        """Draw points."""
        self._wait(self.draw(self.parameters, self.key, count))

    def count(self, x: Any) -> int:
        """Return the number of parameters that get a gradient."""
        from jax import tree

        return sum(value.size for value in tree.leaves(self.gradient(self.parameters, x)[1]))

    @staticmethod
    def _wait(value: Any) -> None:
        import jax

        jax.block_until_ready(value)


def compiled_names(family: str) -> tuple[str, ...]:
    """Return the names of the contestants that are compiled as a whole.

    Splines are not compiled by torch, whose compiler takes too long over their many small
    operations to be of use.
    """
    return ("flowjax",) if "spline" in family else ("nfbook, compiled", "zuko, compiled", "flowjax")


def compiled_contestant(
    name: str, family: str, features: int, length: int = 5
) -> Contestant | Jitted:
    """Return a flow of nfbook or zuko compiled by torch, or flowjax's by JAX.

    Compilation happens in the first call of each kind, and from nothing: what torch kept of an
    earlier run would shorten it. The kernels that it writes run on one thread, the matrix products
    on all: with two threads a kernel in the backward pass of a RealNVP, of zuko's as of nfbook's,
    writes past its buffers in torch 2.13 and the process aborts.
    """
    from torch.compiler import config

    if name == "flowjax":
        return _flowjax(family, features, length)
    config.force_disable_caches = True
    one = contestant(name.removesuffix(", compiled"), family, features, length)
    options = {"cpp.threads": 1}
    compiled = torch.compile(one.log_prob, dynamic=False, options=options)
    return replace(one, log_prob=compiled)


def compiled_sampler(name: str, features: int, length: int = 5) -> Contestant | Jitted:
    """Return zuko's or flowjax's masked autoregressive flow, whose sampler is compiled.

    Sampling evaluates the network of each layer once for each coordinate. Compiled by torch as a
    whole, that loop would be unrolled into hundreds of networks, so of zuko's sampler the networks
    alone are compiled. JAX has a loop of its own.
    """
    if name == "flowjax":
        return _flowjax("maf", features, length)
    one = contestant("zuko", "maf", features, length)
    for layer in one.module.transform.transforms:
        layer.hyper.compile(dynamic=False)
    return one


def _flowjax(family: str, features: int, length: int) -> Jitted:
    import equinox
    import jax
    from flowjax import flows
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import StandardNormal
    from paramax import NonTrainable, unwrap

    make = {
        "realnvp": flows.coupling_flow,
        "maf": flows.masked_autoregressive_flow,
        "spline-coupling": flows.coupling_flow,
        "spline-autoregressive": flows.masked_autoregressive_flow,
    }[family]
    # Its knots are those between the bins. The slopes at both ends are free, those of the others
    # are 1, so it has two numbers more for each spline.
    spline = {"transformer": RationalQuadraticSpline(knots=BINS - 1, interval=BOUND)}
    # Its layers are alike and permuted at random. Its networks start with small weights.
    flow = make(
        jax.random.key(0),
        base_dist=StandardNormal((features,)),
        flow_layers=length,
        nn_width=WIDTHS[0],
        nn_depth=len(WIDTHS),
        **(spline if "spline" in family else {}),
    )
    # As its own training does: what may not be trained is set apart, and a constraint is met anew
    # in each step.
    parameters, rest = equinox.partition(
        flow, equinox.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable)
    )

    def loss(values: Any, x: Any) -> Any:
        return -unwrap(equinox.combine(values, rest)).log_prob(x).mean()

    # The key is an argument, since the compiler would work out what depends on constants alone.
    def draw(values: Any, key: Any, count: int) -> Any:
        return unwrap(equinox.combine(values, rest)).sample(key, (count,))

    gradient = jax.jit(jax.value_and_grad(loss))
    return Jitted(parameters, gradient, jax.jit(draw, static_argnums=2), jax.random.key(0))


@dataclass(frozen=True)
class PlanarContestant:
    """A stack of planar layers: what it does with points, and its parameters."""

    call_and_ladj: Callable[[Tensor], tuple[Tensor, Tensor]]
    parameters: list[Tensor]

    def step(self, z: Tensor) -> None:
        """Go through all layers and back."""
        y, ladj = self.call_and_ladj(z)
        torch.autograd.grad(y.square().sum() + ladj.sum(), [z, *self.parameters])


def planar_contestants(w: Tensor, u: Tensor, b: Tensor) -> dict[str, PlanarContestant]:
    """Return the same layers as each library has them.

    zuko and nflows have none, and normflows none whose parameters differ from point to point.

    Arguments:
        w: `(*, K, D)`.
        u: `(*, K, D)`.
        b: `(*, K)`.
    """
    from pyro.distributions.transforms.planar import ConditionedPlanar

    Distribution.set_default_validate_args(False)
    ours = [_leaf(value) for value in (w, u, b)]
    # Pyro has a network for each layer, which gives that layer's parameters alone.
    apart = [
        (_leaf(b_k.unsqueeze(-1)), _leaf(u_k), _leaf(w_k))
        for w_k, u_k, b_k in zip(w.unbind(-2), u.unbind(-2), b.unbind(-1), strict=True)
    ]

    def pyro(z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = z.new_zeros(())
        for parameters in apart:
            layer = ConditionedPlanar(parameters)
            y = layer(z)
            ladj = ladj + layer.log_abs_det_jacobian(z, y)
            z = y
        return z, ladj

    made = {
        "nfbook": PlanarContestant(lambda z: PlanarStack(*ours).call_and_ladj(z), ours),
        "layer by layer": PlanarContestant(
            lambda z: PlanarStack(*ours).layers.call_and_ladj(z), ours
        ),
        "Pyro": PlanarContestant(pyro, [value for layer in apart for value in layer]),
    }
    if w.dim() == 2:
        made["normflows"] = _normflows_planar(w, u, b)
    return made


def _normflows_planar(w: Tensor, u: Tensor, b: Tensor) -> PlanarContestant:
    from normflows.flows import Planar

    layers = [
        Planar(w_k.shape, u=_leaf(u_k[None]), w=_leaf(w_k[None]), b=_leaf(b_k[None]))
        for w_k, u_k, b_k in zip(w, u, b, strict=True)
    ]

    def call_and_ladj(z: Tensor) -> tuple[Tensor, Tensor]:
        ladj = z.new_zeros(())
        for layer in layers:
            z, more = layer(z)
            ladj = ladj + more
        return z, ladj

    return PlanarContestant(call_and_ladj, [p for layer in layers for p in layer.parameters()])


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()
