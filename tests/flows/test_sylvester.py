"""Sylvester layers: the determinant of the paper's theorem, the inverse, and three kinds of Q."""

import math

import numpy as np
import pytest
import torch
from contract import jacobian_log_dets
from draws import rand, seeded

from nfbook.flows import HouseholderSylvesterFlow, OrthogonalSylvesterFlow, TriangularSylvesterFlow
from nfbook.transforms import Compose, Planar, Sylvester
from nfbook.transforms.sylvester import orthonormal_columns

F64 = torch.float64
FLOWS = {
    "orthogonal": OrthogonalSylvesterFlow,
    "householder": HouseholderSylvesterFlow,
    "triangular": TriangularSylvesterFlow,
}
each_flow = pytest.mark.parametrize("kind", FLOWS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)


def some_layer(*batch, features=4, columns=3, scale=1.0, seed=0):
    q = orthonormal_columns(rand(*batch, features, columns, seed=seed))
    r, r_tilde = (scale * rand(*batch, columns, columns, seed=seed + i) for i in (1, 2))
    return Sylvester(q, r, r_tilde, scale * rand(*batch, columns, seed=seed + 3))


def log_det(function, point):
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(function, point)).logabsdet


def gap_to_orthonormal(q):
    one = torch.eye(q.shape[-1], dtype=q.dtype)
    return (q.mT @ q - one).abs().max() / torch.finfo(q.dtype).eps


# ---- one layer ----------------------------------------------------------------------------------


def test_it_is_the_papers_equation():
    layer, z = some_layer(), rand(20, 4, seed=9)
    inside = z @ layer.q @ layer.r_tilde.triu().mT + layer.b
    expected = z + inside.tanh() @ layer.r_hat.mT @ layer.q.mT
    torch.testing.assert_close(layer(z), expected, rtol=0, atol=1e-14)
    assert torch.equal(layer.r_hat, layer.r_hat.triu())


def test_against_numbers_by_hand():
    """D = M = 1, Q = 1, r = 3/4 and r̃ = 1: c = 3/4, √(1 + c²) = 5/4, so r̂ = 3/4 (1 + 1/3) = 1."""
    one = torch.ones(1, 1, dtype=F64)
    layer = Sylvester(one, 0.75 * one, one, torch.zeros(1, dtype=F64))
    assert layer.r_hat.item() == pytest.approx(1, rel=1e-15)
    y, ladj = layer.call_and_ladj(torch.tensor([0.3], dtype=F64))
    assert y.item() == pytest.approx(0.3 + math.tanh(0.3), rel=1e-15)
    assert ladj.item() == pytest.approx(math.log(1 + 1 / math.cosh(0.3) ** 2), rel=1e-14)


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 20.0])
@pytest.mark.parametrize(("features", "columns"), [(1, 1), (2, 1), (4, 4), (7, 3)])
def test_ladj_is_autograds(scale, features, columns):
    for seed in range(4):
        layer = some_layer(features=features, columns=columns, scale=scale, seed=10 * seed)
        # Around the place where most tanh bend.
        z = rand(features, seed=seed) / (1 + scale)
        y, ladj = layer.call_and_ladj(z)
        assert ladj.item() == pytest.approx(log_det(layer, z).item(), rel=1e-9, abs=1e-10)
        if scale <= 1:
            back = layer.inverse_and_ladj(y)[1]
            assert back.item() == pytest.approx(log_det(layer.inv, y).item(), rel=1e-9, abs=1e-10)


def test_a_formula_with_untransposed_factors_would_be_seen():
    """With row vectors times the untransposed R̃ Qᵀ and Q R̂, the formula is off."""
    layer, z = some_layer(features=4, columns=4), rand(20, 4, seed=9)

    def untransposed(z):
        h = (z @ layer.r_tilde.triu() @ layer.q.mT + layer.b).tanh()
        return z + h @ layer.q @ layer.r_hat

    h = (z @ layer.r_tilde.triu() @ layer.q.mT + layer.b).tanh()
    formula = (1 + (1 - h**2) * (layer.slopes - 1)).log().sum(-1)
    assert (formula - jacobian_log_dets(untransposed, z)).abs().max() > 0.03


def test_the_constrained_diagonal():
    """r̂ r̃ = e^asinh(r r̃) - 1: above -1, zero at zero, with slope one, and r̂ at most twice r."""
    r = torch.tensor([-1e8, -30.0, -1e-9, 0.0, 1e-9, 30.0, 1e8], dtype=F64)
    for r_tilde in (-1e5, -1.0, 0.0, 1e-30, 1.0, 1e5):
        tilde = torch.full_like(r, r_tilde)
        eye = torch.eye(7, dtype=F64)
        layer = Sylvester(eye, torch.diag(r), torch.diag(tilde), torch.zeros(7, dtype=F64))
        r_hat = layer.r_hat.diagonal()
        assert (layer.slopes > 0).all()
        assert (r_hat.abs() <= 2 * r.abs()).all()
        c = (r * tilde).numpy().astype(np.longdouble)
        for value, function in ((r_hat * tilde, np.expm1), (layer.slopes, np.exp)):
            expected = torch.from_numpy(function(np.arcsinh(c)).astype(np.float64))
            torch.testing.assert_close(value, expected, rtol=2e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_a_diagonal_whose_square_is_beyond_the_dtype(dtype):
    """Far out e^asinh(c) - 1 is 2c, so r̂ is 2r; and on the other side r̂ r̃ is -1."""
    size = torch.finfo(dtype).max ** 0.25 * 10
    r = torch.tensor([size, -size], dtype=dtype)
    eye = torch.eye(2, dtype=dtype)
    layer = Sylvester(eye, r.diag(), size * eye, torch.zeros(2, dtype=dtype))
    assert layer.r_hat.isfinite().all()
    r_hat, slopes = layer.r_hat.diagonal(), layer.slopes
    # Of e^360 no more digits are left than 360 has behind the point.
    near = {"rtol": 400 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(r_hat, torch.tensor([2 * size, -1 / size], dtype=dtype), **near)
    torch.testing.assert_close(slopes[0], r_hat[0] * size, **near)


def test_its_derivatives_are_smooth_where_a_diagonal_is_zero():
    r, r_tilde = (torch.zeros(2, 2, dtype=F64, requires_grad=True) for _ in range(2))
    q, b = orthonormal_columns(rand(3, 2)), rand(2)
    z = rand(3, seed=4).requires_grad_()

    def both(r, r_tilde, z):
        layer = Sylvester(q, r.triu(), r_tilde.triu(), b)
        return (*layer.call_and_ladj(z), *layer.inverse_and_ladj(z))

    assert torch.autograd.gradcheck(both, (r, r_tilde, z))
    assert torch.autograd.gradgradcheck(both, (r, r_tilde, z), fast_mode=True)


def test_what_stands_below_the_diagonals_is_not_looked_at():
    layer, z = some_layer(), rand(20, 4, seed=9)
    upper = Sylvester(layer.q, layer.r.triu(), layer.r_tilde.triu(), layer.b)
    for t, u in ((layer, upper), (layer.inv, upper.inv)):
        for value, expected in zip(t.call_and_ladj(z), u.call_and_ladj(z), strict=True):
            assert torch.equal(value, expected)


# ---- planar layers ------------------------------------------------------------------------------


def planar_of(direction, r, r_tilde, b):
    """Return the planar layer with w = r̃ q and u = r q, whose û is r̂ q."""
    return Planar(r_tilde * direction, r * direction, b)


def test_one_column_is_a_planar_layer():
    layer, z = some_layer(columns=1), rand(20, 4, seed=9)
    planar = planar_of(layer.q[:, 0], layer.r[0, 0], layer.r_tilde[0, 0], layer.b[0])
    for t, p in ((layer, planar), (layer.inv, planar.inv)):
        for value, expected in zip(t.call_and_ladj(z), p.call_and_ladj(z), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_diagonal_matrices_make_planar_layers_along_orthogonal_lines():
    layer, z = some_layer(), rand(20, 4, seed=9)
    layer = Sylvester(layer.q, layer.r.diagonal().diag(), layer.r_tilde.diagonal().diag(), layer.b)
    each = zip(
        layer.q.unbind(-1), layer.r.diagonal(), layer.r_tilde.diagonal(), layer.b, strict=True
    )
    planars = Compose([planar_of(*one) for one in each])
    for value, expected in zip(layer.call_and_ladj(z), planars.call_and_ladj(z), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


# ---- the inverse --------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "columns"), [(1, 1), (4, 4), (10, 3)])
def test_round_trip(features, columns):
    layer = some_layer(features=features, columns=columns)
    z = 3 * rand(200, features, seed=9)
    y, ladj = layer.call_and_ladj(z)
    back, inverse_ladj = layer.inverse_and_ladj(y)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_ladj, -ladj, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(layer.inv(z)), z, rtol=0, atol=1e-12)


def test_the_inverse_keeps_what_is_orthogonal_to_the_columns():
    layer, y = some_layer(features=6, columns=2), rand(20, 6, seed=9)
    moved = layer.inv(y) - y
    torch.testing.assert_close(moved @ layer.q @ layer.q.mT, moved, rtol=0, atol=1e-14)


def test_batches():
    layer, z = some_layer(5, 1), rand(6, 4, seed=9)
    one = Sylvester(layer.q[2, 0], layer.r[2, 0], layer.r_tilde[2, 0], layer.b[2, 0])
    for t, o in ((layer, one), (layer.inv, one.inv)):
        y, ladj = t.call_and_ladj(z)
        assert (y.shape, ladj.shape) == ((5, 6, 4), (5, 6))
        torch.testing.assert_close(y[2], o(z), rtol=0, atol=1e-13)
        torch.testing.assert_close(ladj[2], o.call_and_ladj(z)[1], rtol=0, atol=1e-13)
    # One Q for many triangles, as in a triangular flow.
    shared = Sylvester(one.q, layer.r, layer.r_tilde, layer.b)
    torch.testing.assert_close(shared.inv(shared(z[0]))[4, 0], z[0], rtol=0, atol=1e-11)


# ---- orthonormal columns ------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize(("features", "columns"), [(1, 1), (5, 4), (5, 5), (40, 8)])
def test_columns_are_orthonormal_to_the_last_digits(dtype, features, columns):
    for scale in (0, 0.1, 1, 5, 20, 1e3, 1e6):
        raw = (scale * rand(100, features, columns)).to(dtype)
        q = orthonormal_columns(raw)
        assert gap_to_orthonormal(q) < 20
        assert q.dtype == dtype


def test_zeros_give_the_first_columns_of_the_identity():
    raw = torch.zeros(4, 2, dtype=F64)
    assert torch.equal(orthonormal_columns(raw), torch.eye(4, 2, dtype=F64))


def test_every_frame_is_reached_up_to_signs():
    """Q (D × M) is that of G = 2 (I + Q₁)⁻¹, A = -(G - Gᵀ)/2 and B = Q₂ G / 2."""
    for seed in range(20):
        q = torch.linalg.qr(rand(5, 3, seed=seed)).Q
        one = torch.eye(3, dtype=F64)
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 3)
        sizes = torch.stack([torch.linalg.det(one + (q * s)[:3]) for s in signs])
        assert sizes.mean() == pytest.approx(1, rel=1e-12)
        q = q * signs[sizes.argmax()]
        g = 2 * torch.linalg.inv(one + q[:3])
        raw = torch.cat([-(g - g.mT) / 4, q[3:] @ g / 2]).sinh()
        torch.testing.assert_close(orthonormal_columns(raw), q, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.3, 10.0, 1e3])
def test_derivatives_of_the_columns_are_bounded(scale):
    """By ten: |dQ| ≤ 2 |dB| + 2 (|dA| + 2 |dB|) and |dA| ≤ 2 |dU|, also where rank is lacking."""
    full, deficient = rand(5, 3), rand(5, 1) @ rand(1, 3, seed=1)
    for raw in (scale * full, scale * deficient):
        jacobian = torch.autograd.functional.jacobian(orthonormal_columns, raw).reshape(15, 15)
        assert torch.linalg.matrix_norm(jacobian, 2) <= 10


# ---- the flows ----------------------------------------------------------------------------------


@each_flow
@dtypes
def test_the_flows_directions_are_orthonormal(kind, dtype):
    flow = FLOWS[kind](6, length=3, generator=seeded(0)).to(dtype)
    for layer in flow().transform.transforms:
        assert layer.q.shape == (6, 6)
        assert gap_to_orthonormal(layer.q) < 40


def test_triangular_directions_are_the_coordinates_forth_and_back():
    first, second, third = TriangularSylvesterFlow(3, length=3)().transform.transforms
    assert torch.equal(first.q, torch.eye(3))
    assert torch.equal(second.q, torch.eye(3).flip(0))
    assert torch.equal(third.q, torch.eye(3))


def test_reflections_can_be_fewer_than_columns():
    flow = HouseholderSylvesterFlow(6, length=2, num_columns=4, num_reflections=1)
    for layer in flow().transform.transforms:
        assert layer.q.shape == (6, 4)
        assert torch.linalg.matrix_rank(layer.q - torch.eye(6, 4), atol=1e-5) == 1


@pytest.mark.parametrize("features", [3, 40])
def test_columns_are_at_most_16_if_not_said(features):
    for make in (OrthogonalSylvesterFlow, HouseholderSylvesterFlow):
        (layer,) = make(features, length=1)().transform.transforms
        assert layer.q.shape == (features, min(features, 16))


@each_flow
def test_no_parameter_is_idle(kind):
    """Off the identity all have gradients, but for the diagonal of U in A = U - Uᵀ."""
    flow = FLOWS[kind](4, length=2, generator=seeded(0)).double()
    with torch.no_grad():
        flow.parameters_of.start += 0.1 * rand(flow.parameters_of.start.numel())
    y, log_prob = flow().rsample_and_log_prob((50,), generator=seeded(1))
    (y.pow(4).sum() - log_prob.sum()).backward()
    idle = int((flow.parameters_of.start.grad == 0).sum())
    assert idle == (2 * 4 if kind == "orthogonal" else 0)


@each_flow
def test_extreme_parameters_in_float32(kind):
    for scale in (5.0, 20.0):
        flow = FLOWS[kind](5, context=2, length=3, hidden_features=(), generator=seeded(0))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.copy_(scale * rand(*parameter.shape, seed=parameter.ndim))
        q = flow(rand(50, 2).float())
        z = rand(50, 5, seed=1).float()
        y, ladj = q.transform.call_and_ladj(z)
        x, inverse_ladj = q.transform.inverse_and_ladj(z)
        for value in (y, ladj, x, inverse_ladj):
            assert torch.isfinite(value).all()
        (y.sum() + ladj.sum() + x.sum() + inverse_ladj.sum()).backward()
        gradients = [p.grad for p in flow.parameters() if p.numel()]
        assert all(torch.isfinite(g).all() for g in gradients)
        exact = flow.double()(rand(50, 2).float().double()).transform
        expected = exact.call_and_ladj(z.double())[1]
        assert (ladj - expected).abs().median() < 1e-3


def test_error_messages():
    for make in (OrthogonalSylvesterFlow, HouseholderSylvesterFlow):
        with pytest.raises(ValueError, match="num_columns must be at most features, 3, got 4"):
            make(3, num_columns=4)
        with pytest.raises(ValueError, match="num_columns must be at least 1, got 0"):
            make(3, num_columns=0)
    with pytest.raises(TypeError, match="num_columns must be an int, got float"):
        OrthogonalSylvesterFlow(3, num_columns=2.0)
    with pytest.raises(ValueError, match="num_reflections must be at least 1, got 0"):
        HouseholderSylvesterFlow(3, num_reflections=0)
    with pytest.raises(ValueError, match=r"raw must have shape .* with D >= M, got \(2, 3\)"):
        orthonormal_columns(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"raw must have shape \(\*, D, M\), got \(3,\)"):
        orthonormal_columns(torch.zeros(3))
    with pytest.raises(TypeError, match=r"raw must be a torch.Tensor, got list"):
        orthonormal_columns([[1.0]])
