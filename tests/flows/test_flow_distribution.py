"""The distribution that a flow makes, its base, and flows that are made of flows."""

import math

import pytest
import torch
from draws import rand, seeded
from families import spread
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints

from nfbook.flows import (
    CNF,
    NICE,
    ActNormFlow,
    AffineFlow,
    Chain,
    Fixed,
    FlowDistribution,
    LangevinFlow,
    NeuralSplineAutoregressive,
    NeuralSplineCoupling,
    PlanarFlow,
    QRFlow,
    RealNVP,
    StandardNormal,
    Transformed,
)
from nfbook.objectives import flow_matching_loss
from nfbook.transforms import (
    Affine,
    Box,
    Compose,
    DataUnits,
    Exp,
    Permutation,
    Spline,
    rademacher,
)


def test_base_is_torchs_normal():
    ours = StandardNormal(3, (4,), like=torch.empty((), dtype=torch.float64))
    torchs = MultivariateNormal(torch.zeros(4, 3).double(), torch.eye(3).double())
    z = rand(5, 4, 3)
    torch.testing.assert_close(ours.log_prob(z), torchs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), torchs.entropy())
    assert torch.equal(ours.mean, torchs.mean)
    assert torch.equal(ours.variance, torchs.variance)
    assert repr(ours) == "StandardNormal(3, (4,))"
    for wrong in (torch.zeros(1), torch.zeros(2, 4), torch.zeros(())):
        with pytest.raises(ValueError, match=r"value must have shape \(\*, 3\), got"):
            StandardNormal(3).log_prob(wrong)
    with pytest.raises(TypeError, match=r"value must be a torch.Tensor, got float"):
        StandardNormal(3).log_prob(0.0)


def test_a_base_of_ones_own():
    t = Affine(torch.ones(2), torch.zeros(2))
    base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    q = FlowDistribution(base, t)
    torch.testing.assert_close(q.log_prob(torch.ones(2)), base.log_prob(torch.zeros(2)))
    assert q.sample((5,)).shape == (5, 2)
    drawn = [q.sample((5,), generator=seeded()) for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], q.sample((5,), generator=seeded(1)))
    with pytest.raises(ValueError, match=r"base must have event shape \(D,\), got \(\)"):
        FlowDistribution(Normal(0.0, 1.0), t)


@pytest.mark.parametrize("shape", [(), (2, 1), (5,)])
def test_what_is_no_expansion_is_refused(shape):
    q = AffineFlow(2, context=1)(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"batch_shape must be .* from \(3,\)"):
        q.expand(shape)
    assert q.expand((4, 3)).sample().shape == (4, 3, 2)


def test_domains_and_codomains():
    t = Compose([Affine(torch.zeros(1), torch.zeros(1)), Box(0.0, 1.0)])
    assert not t.inv.domain.check(torch.tensor([2.0]))
    assert not Compose([Box(0.0, 1.0).inv, t]).domain.check(torch.tensor([2.0]))
    assert t.domain is t.inv.codomain is constraints.real_vector


# ---- draws --------------------------------------------------------------------------------------


def test_parameters_with_a_batch_get_noise_of_their_own():
    shift = torch.arange(3.0, dtype=torch.float64).view(3, 1).expand(3, 2)
    base = StandardNormal(2, like=shift)
    q = FlowDistribution(base, Affine(shift))
    assert q.batch_shape == (3,)
    for shape in ((), (3,), (5,)):
        z = q.sample(shape, generator=seeded()) - shift
        assert z.shape == (*shape, 3, 2)
        assert z.flatten().unique().numel() == z.numel()
    expected = Normal(shift, 1.0).log_prob(torch.zeros(2)).sum(-1)
    torch.testing.assert_close(q.log_prob(torch.zeros(2).double()), expected)
    assert FlowDistribution(base.expand((4, 1)), Affine(shift)).batch_shape == (4, 3)
    assert FlowDistribution(q, Affine(rand(4, 1, 2))).batch_shape == (4, 3)
    torchs = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    assert FlowDistribution(torchs, Affine(shift)).batch_shape == (3,)
    with pytest.raises(ValueError, match=r"base must have a batch shape that fits .* \(3,\), got"):
        FlowDistribution(base.expand((4,)), Affine(shift))


def test_mean_and_variance_say_how_to_estimate_them():
    q = PlanarFlow(2)()
    with pytest.raises(NotImplementedError, match=r"no mean in closed form; .*\.mean\(0\)"):
        q.mean  # noqa: B018
    for name in ("variance", "stddev"):
        with pytest.raises(NotImplementedError, match=r"no variance in .*\.var\(0\)"):
            getattr(q, name)


@pytest.mark.parametrize("batch", [(), (7,)])
def test_many_draws_go_through_the_transform_in_pieces(batch):
    sizes = []

    class Watched(Affine):
        def _call_and_ladj(self, z):
            sizes.append(z.numel())
            return super()._call_and_ladj(z)

    base = StandardNormal(5, batch)
    q = FlowDistribution(base, Watched(torch.ones(5)), check=False)
    y = q.sample((40, 1000), generator=seeded())
    assert y.shape == (40, 1000, *batch, 5)
    assert max(sizes) <= 2**16 < sum(sizes) == y.numel()
    assert torch.equal(y, q.rsample((40, 1000), generator=seeded()))
    assert q.sample((0,)).shape == (0, *batch, 5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_compiled_draw_takes_batches_of_any_size():
    flow = AffineFlow(2, context=1, generator=seeded())
    torch.compiler.reset()
    draw = torch.compile(lambda c: flow(c).sample((3,)), fullgraph=True, backend="aot_eager")
    for n in (4, 5, 6):
        assert draw(torch.zeros(n, 1)).shape == (3, n, 2)


def test_a_generator_is_torchs_or_none():
    q, x = CNF(2)(), torch.zeros(3, 2)
    for function in (
        lambda **given: q.sample((3,), **given),
        lambda **given: q.rsample((3,), **given),
        lambda **given: q.rsample_and_log_prob((3,), **given),
        lambda **given: StandardNormal(2).rsample((3,), **given),
        lambda **given: rademacher(x, **given),
        lambda **given: flow_matching_loss(CNF(2), x, **given),
        lambda **given: PlanarFlow(2, **given),
        lambda **given: QRFlow(2, **given),
        lambda **given: CNF(2, **given),
        lambda **given: LangevinFlow(StandardNormal(2).log_prob, 2, **given),
    ):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
            function(generator=0)
        function(generator=None)
        function()


# ---- dtype and device ---------------------------------------------------------------------------


def test_the_dtype_is_that_of_the_parameters():
    """However they came: a state may be loaded in place of the parameters."""
    for family in (PlanarFlow, ActNormFlow, CNF):
        flow = family(2)
        flow.load_state_dict(family(2).double().state_dict(), assign=True)
        assert flow().sample().dtype == torch.float64
        assert flow().log_prob(torch.zeros(2).double()).dtype == torch.float64


def test_flows_say_their_sizes():
    assert repr(PlanarFlow(2, 3, length=4)).startswith(
        "PlanarFlow(\n  features=2, context=3, length=4"
    )
    assert "features=2, context=3" in repr(RealNVP(2, 3))
    assert "in_features=1, out_features=64, context=3" in repr(RealNVP(2, 3))


# ---- options reach what they are for ------------------------------------------------------------


@pytest.mark.parametrize("family", [NeuralSplineCoupling, NeuralSplineAutoregressive])
def test_a_spline_flow_has_the_options_that_it_was_given(family):
    flow = family(2, length=1, bins=5, bound=2.0, slope=0.1)
    assert flow.univariate == Spline(5, 2.0, 0.1)


def test_realnvp_has_its_bound():
    flow = spread(RealNVP(2, length=1, bound=1.5, generator=seeded()).double(), 100.0)
    for t in (flow.transform(), flow.transform().layers):
        assert 1.3 < t.call_and_ladj(10 * rand(500, 2))[1].abs().max() < 1.5


def test_nice_and_cnf_have_their_options():
    assert NICE(2, 3, hidden_features=(5,)).scaling.network.first.bias.shape == (5,)
    assert CNF(2, method="dopri8").transform().transforms[0].method == "dopri8"


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [PlanarFlow, RealNVP, NeuralSplineCoupling, CNF])
def test_a_context_that_is_missing_is_missed(family):
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
        family(2, context=3).transform()(torch.zeros(2))
    with pytest.raises(TypeError, match="context must be None for what was made without one"):
        family(2).transform(torch.zeros(3))(torch.zeros(2))


@pytest.mark.parametrize("family", [PlanarFlow, RealNVP, NeuralSplineAutoregressive])
@pytest.mark.parametrize("widths", [64, "64", None])
def test_widths_come_as_a_list(family, widths):
    with pytest.raises(TypeError, match="hidden_features must be a list or tuple of ints, got"):
        family(2, hidden_features=widths)


def test_masks_and_vectors_of_the_wrong_kind():
    for mask in (3, None, torch.tensor([True, False])):
        with pytest.raises(TypeError, match="mask must be a str, or a list or tuple of tensors"):
            RealNVP(2, mask=mask)
    for flow in (
        RealNVP(2),
        NeuralSplineCoupling(2),
        Chain(Fixed(2, Permutation, torch.tensor([1, 0]))),
    ):
        with pytest.raises(ValueError, match=r"z must have shape \(\*, 2\), got \(5, 3\)"):
            flow.transform()(torch.zeros(5, 3))
    for bound in (0.0, -3.0):
        with pytest.raises(ValueError, match=f"bound must be positive, got {bound}"):
            RealNVP(2, bound=bound)
    with pytest.raises(ValueError, match="bound must be finite, got nan"):
        RealNVP(2, bound=math.nan)


def test_a_conditioner_with_other_outputs_is_refused():
    class Network(torch.nn.Linear):
        def forward(self, kept, context=None):
            return super().forward(kept)

    flow = RealNVP(4, conditioner=lambda kept, outputs, context: Network(kept, outputs + 1))
    with pytest.raises(ValueError, match=r"conditioner must return shape \(\*, 4\), got \(3, 5\)"):
        flow().log_prob(torch.zeros(3, 4))


@pytest.mark.parametrize("family", [RealNVP, NeuralSplineCoupling, CNF])
def test_a_transform_with_networks_cannot_be_fixed(family):
    """Their weights would not be stored."""
    with pytest.raises(
        TypeError, match="transform must consist of tensors, numbers and transforms"
    ):
        Transformed(PlanarFlow(2), family(2).transform())


def test_a_fixed_transform_fits_its_flow():
    for kind, tensor, *others in (
        (Permutation, torch.tensor([2, 1, 0])),
        (Box, torch.zeros(3), 1.0),
    ):
        with pytest.raises(ValueError, match="transform must be one of vectors of size 2"):
            Fixed(2, kind, tensor, *others)
    with pytest.raises(TypeError, match="kind must be a class of nfbook transforms, got Exp"):
        Fixed(2, Exp())
    with pytest.raises(TypeError, match="missing a required argument: 'high'"):
        Fixed(2, Box, 0.0)
    with pytest.raises(TypeError, match="got Compose with a list as transforms"):
        Fixed(2, Compose, [Exp()])
    with pytest.raises(ValueError, match="transform must have all vectors as its domain"):
        Transformed(PlanarFlow(2), Box(0.0, 1.0).inv)
    double = torch.zeros(2).double()
    assert Fixed(2, DataUnits, double, double)().sample().dtype == torch.float64
    assert Fixed(2, Exp).double()().sample().dtype == torch.float64


def test_a_fixed_transform_is_checked_once():
    """Its constructor looks at the values when the flow is made, and not at each call."""
    with pytest.raises(ValueError, match="low must be below high"):
        Fixed(2, Box, torch.ones(2), 0.0)
    flow = Fixed(2, Box, torch.zeros(2), 1.0)
    torch.compiler.reset()
    compiled = torch.compile(lambda z: flow.transform()(z), fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(2)), torch.full((2,), 0.5))


def test_chains_print_flat():
    flow = Chain(AffineFlow(2, 3), Chain(Fixed(2, Permutation, torch.tensor([1, 0]))))
    flow = Transformed(flow, Compose([DataUnits(torch.zeros(2), torch.zeros(2)), Box(0.0, 1.0)]))
    lines = repr(flow).splitlines()
    assert lines[0] == "Transformed(features=2, context=3"
    assert "    (parameters_of): ConditionalParameters(" in lines
    assert lines[-4:] == [
        "  Fixed(Permutation, features=2, order=(2,))",
        "  Fixed(DataUnits, features=2, shift=(2,), log_scale=(2,))",
        "  Fixed(Box, features=2, low=0.0, high=1.0, margin=0.0)",
        ")",
    ]
    parts = flow.transform(torch.zeros(3)).transforms
    assert [type(part).__name__ for part in parts] == ["Affine", "Permutation", "DataUnits", "Box"]


def test_what_is_measured_on_data_has_no_gradient():
    x, p = rand(20, 2).requires_grad_(), torch.zeros(2, requires_grad=True)
    assert not DataUnits.from_data(x).shift.requires_grad
    assert not any(b.requires_grad for b in Fixed(2, Affine, p).buffers())
    chain = Chain(ActNormFlow(2), AffineFlow(2)).double()
    chain.start_from(x)
    assert not any(b.requires_grad for b in chain.buffers())


def test_a_chain_in_a_chain_gets_the_context():
    chain = Chain(AffineFlow(2), Chain(ActNormFlow(2), AffineFlow(2, 3))).double()
    chain.start_from(rand(20, 2), rand(20, 3))
    assert chain.flows[1].flows[0].started
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
        chain.start_from([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\), got \(5, 3\)"):
        chain.start_from(rand(5, 3), rand(5, 3))


class Steps(Distribution):
    """Whole numbers, which have no gradient."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self):
        super().__init__(event_shape=torch.Size([2]), validate_args=False)

    @property
    def mean(self):
        return torch.zeros(2)

    def sample(self, sample_shape=()):
        return torch.randint(0, 9, (*sample_shape, 2)).float()


def test_a_base_without_rsample_draws_without_gradients():
    q = FlowDistribution(Steps(), Affine(torch.ones(2, requires_grad=True)))
    assert not q.has_rsample
    for generator in (None, seeded()):
        y = q.sample((5,), generator=generator)
        assert y.shape == (5, 2)
        assert (y == y.round()).all()
        for method in (q.rsample, q.rsample_and_log_prob):
            with pytest.raises(NotImplementedError, match="base must have rsample to draw with gr"):
                method((5,), generator=generator)


def test_no_draws_from_a_base_that_takes_no_generator():
    base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    q = FlowDistribution(base, Affine(torch.ones(2)))
    for shape in ((0,), (3, 0)):
        assert q.sample(shape, generator=seeded()).shape == (*shape, 2)
        assert q.rsample(shape, generator=seeded()).shape == (*shape, 2)


def test_sparse_values_and_contexts_are_refused():
    with pytest.raises(TypeError, match=r"value must be a dense tensor, got one .*sparse_coo"):
        RealNVP(2)().log_prob(torch.ones(3, 2).to_sparse())
    with pytest.raises(TypeError, match=r"context must be a dense tensor, got one .*sparse_coo"):
        RealNVP(2, 3)(torch.ones(4, 3).to_sparse())


def test_the_entropy_says_how_to_estimate_it():
    q = RealNVP(2)()
    with pytest.raises(NotImplementedError, match="no entropy in closed form; estimate it from dr"):
        q.entropy()
    estimate = -q.rsample_and_log_prob((10_000,), generator=seeded())[1].mean(0)
    assert abs(estimate - q.base.entropy()) < 0.05


@pytest.mark.parametrize("family", [PlanarFlow, RealNVP])
def test_a_density_compiles_for_a_size_that_is_not_known(family):
    flow, y = family(4, length=2, generator=seeded()).double(), rand(5, 4)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda y: flow().log_prob(y), backend="eager", fullgraph=True, dynamic=True
    )
    torch.testing.assert_close(compiled(y), flow().log_prob(y))
    torch.testing.assert_close(compiled(y[:3]), flow().log_prob(y[:3]))
