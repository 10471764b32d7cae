"""Starting from data: DataUnits, ActNorm, and chains with ActNorm in them."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from draws import rand, seeded

from nfbook.flows import ActNormFlow, AffineFlow, Chain, PLUFlow, RadialFlow, Transformed
from nfbook.transforms import DataUnits

F64 = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)


def data(n=300, features=3, seed=0):
    scale = torch.tensor([1e-3, 1.0, 500.0], dtype=F64)[:features]
    return rand(n, features, seed=seed) * scale + torch.tensor([5.0, -2.0, 100.0])[:features]


def started(**options):
    flow = ActNormFlow(3, **options).to(F64)
    flow.start_from(data())
    return flow


# ---- DataUnits --------------------------------------------------------------------------------


def test_the_inverse_standardises():
    x = data()
    z, ladj = DataUnits.from_data(x).inverse_and_ladj(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(3, dtype=F64))
    torch.testing.assert_close(ladj, -x.std(0, correction=0).log().sum().expand(300))


def test_all_dimensions_but_the_last_are_observations():
    x = data()
    one, other = DataUnits.from_data(x), DataUnits.from_data(x.view(20, 15, 3))
    assert torch.equal(one.shift, other.shift)
    assert torch.equal(one.log_scale, other.log_scale)


@DTYPES
@pytest.mark.parametrize("value", [0.0, 0.1, -3e5, 1e-30])
def test_a_constant_column_has_scale_one(value, dtype):
    """Although rounding makes the mean of 0.1's another number, and the variance positive."""
    x = torch.full((1000, 1), value, dtype=dtype)
    transform = DataUnits.from_data(x)
    assert transform.log_scale == 0
    assert transform.shift == x[0]
    assert (transform.inv(x) == 0).all()


@DTYPES
@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_a_single_row_is_shifted_to_zero(shape, dtype):
    x = data(1)[0].to(dtype).view(shape)
    transform = DataUnits.from_data(x)
    assert (transform.inv(x) == 0).all()
    assert (transform.log_scale == 0).all()


@DTYPES
@pytest.mark.parametrize("unit", [1e-36, 1e-25, 1e25, 1e36])
def test_units_do_not_matter(unit, dtype):
    """The square of a deviation may be beyond the floats; its scale is not."""
    x = rand(100, 1).to(dtype)
    one, other = DataUnits.from_data(x), DataUnits.from_data(x * unit)
    expected = one.log_scale + math.log(unit)
    torch.testing.assert_close(other.log_scale, expected, rtol=0, atol=2e-5)


def test_one_value_that_differs_is_no_constant():
    x = torch.zeros(10_000, 1)
    x[7] = 1e-20
    transform = DataUnits.from_data(x)
    torch.testing.assert_close(transform.log_scale, torch.tensor([math.log(1e-22)]))


def test_bad_data_are_refused():
    for start in (DataUnits.from_data, ActNormFlow(2).start_from):
        with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got list"):
            start([1.0])
        with pytest.raises(TypeError, match=r"x must be a floating-point tensor, got torch.int64"):
            start(torch.ones(3, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"x must not be empty, got shape \(0, 2\)"):
            start(torch.ones(0, 2))
        with pytest.raises(ValueError, match="x must be finite, got 1 NaN or infinite of 2"):
            start(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"x must have shape \(\*, 2\), got \(5, 3\)"):
        ActNormFlow(2).start_from(torch.ones(5, 3))
    with pytest.raises(TypeError, match=r"x and mean must have the same dtype, got torch.float64"):
        ActNormFlow(2).start_from(rand(5, 2))


def test_the_statistics_are_stored_with_a_flow():
    x = data()
    flow = Transformed(AffineFlow(3).to(F64), DataUnits.from_data(x))
    # A flow to be loaded into needs no data.
    other = Transformed(AffineFlow(3).to(F64), DataUnits.from_data(torch.ones(1, 3, dtype=F64)))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other().log_prob(x), flow().log_prob(x))
    expected = torch.distributions.Normal(x.mean(0), x.std(0, correction=0)).log_prob(x).sum(-1)
    torch.testing.assert_close(flow().log_prob(x), expected)


# ---- ActNorm ------------------------------------------------------------------------------------


def test_it_starts_from_data():
    x, flow = data(), started()
    z = flow().transform.inv(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(3, dtype=F64))


@DTYPES
@pytest.mark.parametrize("rows", [1, 50])
def test_a_constant_channel_and_a_batch_of_one_are_sensible(rows, dtype):
    flow = ActNormFlow(2).to(dtype)
    x = torch.stack([torch.full((rows,), 0.1), torch.linspace(2, 3, rows)], -1).to(dtype)
    flow.start_from(x)
    assert flow.log_std[0] == 0
    assert (flow.log_std[1] == 0) == (rows == 1)
    log_prob = flow().log_prob(x)
    assert torch.isfinite(log_prob).all()
    log_prob.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_the_start_changes_its_state(training):
    flow = ActNormFlow(3).to(F64).train(training)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow().log_prob(data())
    flow().sample((5,))
    assert not flow.started
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def copies(flow):
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    loaded, stored = ActNormFlow(3).to(F64), ActNormFlow(3).to(F64)
    loaded.load_state_dict(flow.state_dict())
    stored.load_state_dict(torch.load(buffer, weights_only=True))
    return [loaded, stored, pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)]


def test_a_copy_knows_that_it_has_started():
    flow, x = started(), data()
    for other in [flow, *copies(flow)]:
        other.start_from(7 * x + 1)
        assert torch.equal(other().log_prob(x), flow().log_prob(x))
    for other in copies(ActNormFlow(3).to(F64)):
        other.start_from(x)
        assert torch.equal(other().log_prob(x), flow().log_prob(x))


def test_it_starts_again_only_on_purpose():
    flow, x = started(), data()
    flow.start_from(x + 1)
    assert torch.equal(flow.mean, x.mean(0))
    flow.started.fill_(False)
    flow.start_from(x + 1)
    torch.testing.assert_close(flow.mean, x.mean(0) + 1)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_models_can_be_averaged(use_buffers):
    flow = ActNormFlow(3).to(F64)
    mean = torch.optim.swa_utils.AveragedModel(flow, use_buffers=use_buffers)
    for _ in range(3):
        flow.start_from(data())
        mean.update_parameters(flow)
    assert mean.module.started
    torch.testing.assert_close(mean.module.mean, flow.mean)
    torch.testing.assert_close(mean().log_prob(data()), flow().log_prob(data()))


def test_what_was_made_before_the_start_stays():
    flow, x = ActNormFlow(3).to(F64), data()
    q = flow()
    before = q.log_prob(x)
    flow.start_from(x)
    assert torch.equal(q.log_prob(x), before)


def test_afterwards_it_is_trained():
    flow = started(context=2)
    flow(rand(300, 2)).log_prob(data(seed=1)).sum().backward()
    assert (flow.parameters_of.start.grad.abs() > 1e-3).all()
    assert not any(buffer.requires_grad for buffer in flow.buffers())


def test_a_step_means_the_same_in_all_units():
    """The gradient is that of standardised data, so no unit needs a learning rate of its own."""
    gradients = []
    for unit in (1.0, 1e-6, 1e6):
        flow = ActNormFlow(1).to(F64)
        flow.start_from(unit * rand(50, 1))
        flow().log_prob(unit * (2 * rand(50, 1, seed=1) + 1)).mean().backward()
        gradients.append(flow.parameters_of.start.grad)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


# ---- chains -------------------------------------------------------------------------------------


def test_every_layer_of_a_chain_starts_from_the_data_that_reach_it():
    x = data() @ torch.tensor([[1.0, 2, 0], [0, 1, 0], [3, 0, 1]], dtype=F64)
    flow = Chain(
        ActNormFlow(3),
        PLUFlow(3, generator=seeded(1)),
        Chain(ActNormFlow(3), PLUFlow(3, generator=seeded(2))),
    ).to(F64)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * rand(*parameter.shape)
        # What is trained in ActNorm comes before its statistics.
        for layer in (flow.flows[0], flow.flows[2].flows[0]):
            layer.parameters_of.start.zero_()
    flow.start_from(x)
    inner = flow.flows[2]
    for layer, outer in (
        (inner.flows[0], [inner.flows[1]]),
        (flow.flows[0], [inner, flow.flows[1]]),
    ):
        y = x
        for later in outer:
            y = later().transform.inv(y)
        z = layer().transform.inv(y)
        torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=F64), rtol=0, atol=1e-10)
        torch.testing.assert_close(z.var(0, correction=0), torch.ones(3, dtype=F64))


def test_a_chain_is_its_flows_one_after_the_other():
    first, second = AffineFlow(2, context=3).to(F64), RadialFlow(2, generator=seeded()).to(F64)
    flow = Chain(first, second)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.3 * rand(*parameter.shape)
    z, context = rand(5, 2), rand(5, 3)
    y, ladj = flow(context).transform.call_and_ladj(z)
    middle, one = first(context).transform.call_and_ladj(z)
    expected, two = second().transform.call_and_ladj(middle)
    assert torch.equal(y, expected)
    torch.testing.assert_close(ladj, one + two)
    assert (flow.features, flow.context) == (2, 3)
    assert flow(context).batch_shape == (5,)


def test_a_chain_passes_the_context_on_when_it_starts():
    x, context = data(features=2), rand(300, 3)
    flow = Chain(ActNormFlow(2), AffineFlow(2, context=3)).to(F64)
    with torch.no_grad():
        for parameter in flow.flows[1].parameters():
            parameter += 0.3 * rand(*parameter.shape)
    flow.start_from(x, context)
    z = flow(context).transform.inv(x)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(2, dtype=F64))
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor \(\*, 3\), got None"):
        flow.start_from(x)


def test_a_chain_is_loaded_with_its_starts():
    x = data()
    flow, other = (
        Chain(PLUFlow(3, generator=seeded(seed)), ActNormFlow(3)).to(F64) for seed in (0, 1)
    )
    flow.start_from(x)
    other.load_state_dict(flow.state_dict())
    other.start_from(x + 5)
    assert torch.equal(other().log_prob(x), flow().log_prob(x))


def test_what_makes_no_chain_is_refused():
    with pytest.raises(ValueError, match="flows must hold at least one flow, got none"):
        Chain()
    with pytest.raises(TypeError, match="every one of flows must be an nfbook Flow, got DataUnits"):
        Chain(AffineFlow(2), DataUnits.from_data(torch.ones(1, 2)))
    with pytest.raises(ValueError, match=r"flows must have the same features, got \[2, 3\]"):
        Chain(AffineFlow(2), AffineFlow(3))
    with pytest.raises(ValueError, match=r"flows must have the same context, or 0, got \[1, 3\]"):
        Chain(AffineFlow(2, 1), AffineFlow(2), AffineFlow(2, 3))
    with pytest.raises(TypeError, match=r"flows must have the same dtype, got torch\.float32"):
        Chain(AffineFlow(2), AffineFlow(2).double())
