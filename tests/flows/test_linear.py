"""Linear transforms and flows: PLU, QR and permutations."""

from __future__ import annotations

import math

import pytest
import torch
from draws import rand, seeded
from families import spread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from nfbook.flows import PLUFlow, QRFlow
from nfbook.transforms import PLU, QR, Permutation

F64 = torch.float64


def plu(weights, shift, seed=3):
    return PLU(weights, shift, Permutation.random(weights.shape[-1], generator=seeded(seed)))


def logs_on_the_diagonal(packed):
    """Return packed factors as LAPACK has them, with the diagonal's logarithm."""
    return packed.diagonal_scatter(packed.diagonal().log())


both = pytest.mark.parametrize("family", [plu, QR], ids=["plu", "qr"])
both_flows = pytest.mark.parametrize("flow", [PLUFlow, QRFlow])


# ---- known values -------------------------------------------------------------------------------


def test_plu_has_the_factors_of_the_lu_decomposition():
    a = rand(5, 5)
    # With these signs of the columns, U's diagonal is positive.
    a = a * torch.linalg.lu_factor(a).LU.diagonal().sign()
    p, _, _ = torch.linalg.lu(a)
    weights = logs_on_the_diagonal(torch.linalg.lu_factor(a).LU)
    transform = PLU(weights, torch.zeros(5, dtype=F64), Permutation(p.argmax(-1)))
    torch.testing.assert_close(transform.matrix, a, rtol=0, atol=1e-14)


def test_qr_has_the_factors_of_householders_method():
    a = rand(5, 5)
    a = a * torch.geqrf(a).a.diagonal().sign()
    weights = logs_on_the_diagonal(torch.geqrf(a).a)
    transform = QR(weights, torch.zeros(5, dtype=F64))
    torch.testing.assert_close(transform.matrix, a, rtol=0, atol=1e-14)
    q = transform.reflections.matrix.mT
    torch.testing.assert_close(q @ q.mT, torch.eye(5, dtype=F64), rtol=0, atol=1e-14)


@both
def test_they_multiply_by_their_matrix(family):
    transform, z = family(rand(4, 4, seed=1), rand(4, seed=2)), rand(7, 4, seed=3)
    y, ladj = transform.call_and_ladj(z)
    torch.testing.assert_close(y, z @ transform.matrix.mT + transform.shift)
    torch.testing.assert_close(ladj, torch.linalg.slogdet(transform.matrix).logabsdet.expand(7))


@both
def test_the_log_determinant_is_the_sum_of_the_diagonal(family):
    weights = rand(6, 6)
    _, ladj = family(weights, rand(6)).call_and_ladj(rand(6))
    assert ladj == weights.diagonal().sum(-1)


@both
def test_zero_weights_keep_every_length(family):
    transform, z = family(torch.zeros(4, 4, dtype=F64), torch.zeros(4, dtype=F64)), rand(7, 4)
    y, ladj = transform.call_and_ladj(z)
    torch.testing.assert_close(y.abs().sort().values, z.abs().sort().values, rtol=0, atol=0)
    assert (ladj == 0).all()


@both_flows
def test_one_layer_is_a_gaussian(flow):
    flow = spread(flow(3, generator=seeded()).to(F64), 0.5)
    y = rand(10, 3)
    (layer,) = flow.transform().transforms
    gaussian = MultivariateNormal(layer.shift, layer.matrix @ layer.matrix.mT)
    torch.testing.assert_close(flow().log_prob(y), gaussian.log_prob(y))


@both
def test_every_gaussian_can_be_had(family):
    """P L U with L = I, and Q R with R of any sign pattern, have any covariance."""
    covariance = rand(4, 4) @ rand(4, 4).mT
    if family is QR:
        a = torch.linalg.cholesky(covariance)
        a = a * torch.geqrf(a).a.diagonal().sign()
        matrix = QR(logs_on_the_diagonal(torch.geqrf(a).a), rand(4)).matrix
    else:
        p = Permutation.random(4, generator=seeded(3))
        # The Cholesky factor of the reversed covariance, reversed, is upper triangular.
        inner = p.inv(p.inv(covariance).mT)
        upper = torch.linalg.cholesky(inner.flip(0, 1)).flip(0, 1)
        matrix = plu(logs_on_the_diagonal(upper), rand(4)).matrix
    torch.testing.assert_close(matrix @ matrix.mT, covariance)


# ---- batches --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("own", "batch"),
    [
        ((), ()),
        ((), (7,)),
        ((), (0,)),
        ((4,), (4,)),
        ((4,), ()),
        ((4,), (5, 4)),
        ((4, 1), (4, 5)),
        ((4, 1), (5,)),
        ((1, 4), (3, 1, 1)),
        ((2, 4), (3, 2, 4)),
    ],
    ids=str,
)
def test_batches_broadcast(family, own, batch):
    weights, shift, z = 0.5 * rand(*own, 3, 3), rand(*own, 3, seed=1), rand(*batch, 3, seed=2)
    transform = family(weights, shift)
    y, ladj = transform.call_and_ladj(z)
    shape = torch.broadcast_shapes(own, batch)
    assert y.shape == (*shape, 3)
    assert ladj.shape == shape
    expected = transform.matrix @ z.expand(*shape, 3).unsqueeze(-1)
    torch.testing.assert_close(y, expected.squeeze(-1) + shift)
    back, inverse_ladj = transform.inverse_and_ladj(y)
    torch.testing.assert_close(back, z.expand_as(back), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_ladj, -ladj)


class Watch(TorchDispatchMode):
    """Notes which operations run, and the size of the largest tensor that comes out."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.add(str(function))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@both
@pytest.mark.parametrize("own", [(), (3,)], ids=str)
def test_no_matrix_is_copied_for_a_vector_or_inverted(family, own):
    z = rand(50, *own, 20)
    transform = family(rand(*own, 20, 20), rand(*own, 20))
    with Watch() as watch:
        transform.inverse_and_ladj(transform(z))
    assert watch.largest == max(z.nbytes, transform.weights.nbytes)
    assert any("solve_triangular" in name for name in watch.names)
    assert not any("inv" in name for name in watch.names)


# ---- extreme parameters -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("features", [2, 8])
def test_a_solution_satisfies_its_equations_at_any_scale(features, dtype):
    """Whatever the condition number, P L U z + b is y but for roundings of its own terms."""
    eps = torch.finfo(dtype).eps
    for seed in range(20):
        weights = 20 * rand(features, features, seed=seed)
        weights = weights.diagonal_scatter(rand(features, seed=seed) * 5).to(dtype)
        shift, y = rand(features, seed=1).to(dtype), rand(9, features, seed=2).to(dtype)
        transform = PLU(weights, shift)
        z, ladj = transform.inverse_and_ladj(y)
        assert torch.isfinite(z).all()
        assert torch.isfinite(ladj).all()
        exact = PLU(weights.double(), shift.double())
        terms = PLU(
            weights.double().tril(-1).abs() + exact.weights.triu(1).abs(), shift.double().abs()
        )
        terms = PLU(terms.weights + exact.weights.diagonal().diag(), shift.double().abs())
        residual = (exact(z.double()) - y).abs()
        assert (residual <= 3 * features * eps * (terms(z.double().abs()) + y.abs())).all()


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_qr_solves_its_equations_at_any_scale(dtype):
    eps = torch.finfo(dtype).eps
    for seed in range(20):
        weights = 20 * rand(6, 6, seed=seed)
        weights = weights.diagonal_scatter(rand(6, seed=seed) * 5).to(dtype)
        shift, y = rand(6, seed=1).to(dtype), rand(9, 6, seed=2).to(dtype)
        z, _ = QR(weights, shift).inverse_and_ladj(y)
        exact = QR(weights.double(), shift.double())
        residual = (exact(z.double()) - y).norm(dim=-1)
        terms = exact.matrix.norm() * z.double().norm(dim=-1) + y.norm(dim=-1) + shift.norm()
        assert (residual <= 60 * eps * terms).all()


@both_flows
@pytest.mark.parametrize("scale", [5.0, 20.0])
def test_float32_stays_finite_at_extreme_parameters(flow, scale):
    for seed in range(10):
        q = spread(flow(5, generator=seeded(seed)), scale, seed)()
        y, log_prob = q.rsample_and_log_prob((50,), generator=seeded(seed))
        assert torch.isfinite(y).all()
        assert torch.isfinite(log_prob).all()
        z, ladj = q.transform.inverse_and_ladj(y)
        assert torch.isfinite(z).all()
        assert torch.isfinite(ladj).all()


@both_flows
def test_the_scale_is_bounded_and_keeps_its_gradient(flow):
    flow = flow(2, generator=seeded())
    with torch.no_grad():
        flow.parameters_of.start += 100
    _, ladj = flow().transform.call_and_ladj(torch.zeros(2))
    assert 0.9 * math.log(1000) < ladj.item() / 2 < math.log(1000)
    (gradient,) = torch.autograd.grad(ladj, flow.parameters_of.start)
    assert (gradient.abs() > 1e-3).sum() == 2


# ---- flows ----------------------------------------------------------------------------------


def test_a_plu_flow_keeps_its_permutations():
    flow, other = (PLUFlow(6, length=4, generator=seeded(seed)) for seed in (0, 1))
    assert not torch.equal(flow.permutations, other.permutations)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(flow.permutations, other.permutations)
    assert flow.double().permutations.dtype == torch.int64


@both_flows
def test_the_first_gradient_moves_every_scale_and_shift(flow):
    flow = flow(3, context=2, length=2, generator=seeded()).to(F64)
    flow(rand(50, 2)).log_prob(2 * rand(50, 3, seed=1) + 1).sum().backward()
    gradient = flow.parameters_of.start.grad
    weights, shift = gradient[:18].view(2, 3, 3), gradient[18:]
    assert (weights.diagonal(dim1=-2, dim2=-1).abs() > 1e-3).all()
    assert (weights.triu(1)[:, 0, 1:].abs() > 1e-3).all()
    assert (shift.abs() > 1e-3).all()
    assert all((p.grad != 0).any() for p in list(flow.parameters())[-2:])


@both_flows
def test_a_correlated_gaussian_is_learnt(flow):
    true = MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 1.5], [1.5, 1.4]]))
    x = rand(2000, 2).float() @ true.scale_tril.mT + true.loc
    flow = flow(2, generator=seeded())
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        loss = -flow().log_prob(x).mean()
        loss.backward()
        optimiser.step()
    # The Gaussian with the sample's own moments is the best there is.
    best = MultivariateNormal(x.mean(0), torch.cov(x.mT, correction=0))
    assert loss.item() == pytest.approx(-best.log_prob(x).mean().item(), abs=2e-3)


@both_flows
def test_nothing_is_made_on_another_device(flow):
    """Which the device without memory shows on any machine: it mixes with no other."""
    q = flow(3, context=2, length=2).to("meta")(torch.zeros(5, 2, device="meta"))
    y, log_prob = q.rsample_and_log_prob((4,))
    for value in (y, log_prob, q.log_prob(y)):
        assert value.device.type == "meta"


# ---- permutations ---------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(order=st.integers(1, 8).flatmap(lambda n: st.permutations(range(n))))
def test_a_permutation_goes_there_and_back(order):
    transform, z = Permutation(torch.tensor(order)), rand(3, 2, len(order))
    y, ladj = transform.call_and_ladj(z)
    assert y[1, 0].tolist() == [z[1, 0, i].item() for i in order]
    assert torch.equal(transform.inv(y), z)
    assert ladj.shape == (3, 2)
    assert (ladj == 0).all()
    assert (transform.inverse_and_ladj(y)[1] == 0).all()


def test_a_reversal_is_its_own_inverse():
    reversal, z = Permutation.reversal(5), rand(4, 5)
    assert torch.equal(reversal(z), z.flip(-1))
    assert torch.equal(reversal(reversal(z)), z)


def test_a_random_permutation_is_uniform_and_repeatable():
    generator = seeded()
    orders = [tuple(Permutation.random(3, generator=generator).order.tolist()) for _ in range(1200)]
    counts = torch.tensor([orders.count(order) for order in set(orders)], dtype=F64)
    assert len(counts) == 6
    # Chi-squared with 5 degrees of freedom is above 25.7 once in ten thousand times.
    assert ((counts - 200) ** 2 / 200).sum() < 25.7
    again = Permutation.random(9, generator=seeded(4)).order
    assert torch.equal(Permutation.random(9, generator=seeded(4)).order, again)


def test_an_int32_order_will_do():
    z = rand(3)
    assert torch.equal(Permutation(torch.tensor([1, 2, 0]).int()).inv(z), z[[2, 0, 1]])


def test_what_is_no_permutation_is_refused():
    with pytest.raises(ValueError, match=r"order must hold each index from 0 to 2 once, got \[0, "):
        Permutation(torch.tensor([0, 2, 2]))
    with pytest.raises(ValueError, match=r"each index from 0 to 1 once, got \[1, 2\]"):
        Permutation(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"each index from 0 to 1 once, got \[-1, 0\]"):
        Permutation(torch.tensor([-1, 0]))
    with pytest.raises(TypeError, match="order must hold integers of int64 or int32"):
        Permutation(torch.tensor([0.0, 1.0]))
    with pytest.raises(TypeError, match=r"order must be a torch.Tensor, got list"):
        Permutation([0, 1])
    with pytest.raises(ValueError, match=r"order must have shape \(D,\), got \(1, 2\)"):
        Permutation(torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match=r"order must have shape \(D,\), got \(0,\)"):
        Permutation(torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        Permutation.reversal(0)
