"""Householder reflections: orthogonal to the last digit, and every Gaussian within reach."""

import math

import pytest
import torch
from draws import rand, seeded
from torch.distributions import MultivariateNormal

from nfbook.flows import HouseholderFlow
from nfbook.transforms import Householder

F64 = torch.float64


def dense(vectors):
    """Return H_K ... H_1 as a product of matrices."""
    one = torch.eye(vectors.shape[-1], dtype=vectors.dtype)
    q = one
    for v in vectors:
        q = (one - 2 * torch.outer(v, v) / v.dot(v)) @ q
    return q


def reflections_of(q):
    """Return D - 1 normals whose product is q up to the signs of its columns, by LAPACK's QR."""
    packed, scales = torch.geqrf(q)
    normals = packed.tril(-1) + torch.eye(len(q), dtype=q.dtype)
    # H_1 H_2 ... of LAPACK, so its last one comes first here.
    return (normals * (scales != 0)).mT[: len(q) - 1].flip(0)


# ---- the transform ------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "features"), [(1, 1), (3, 1), (1, 2), (2, 3), (7, 4), (30, 5)])
def test_the_same_as_a_product_of_matrices(length, features):
    vectors, z = rand(length, features), rand(9, features, seed=1)
    q = dense(vectors)
    t = Householder(vectors)
    torch.testing.assert_close(t.matrix, q, rtol=0, atol=1e-13)
    torch.testing.assert_close(t(z), z @ q.mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(t.inv(z), z @ q, rtol=0, atol=1e-13)
    torch.testing.assert_close(t.columns(1), q[:, :1], rtol=0, atol=1e-13)
    assert torch.equal(t.call_and_ladj(z)[1], torch.zeros(9, dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_orthonormal_to_the_last_digits(dtype):
    vectors = rand(50, 40, 8).to(dtype)
    q = Householder(vectors).matrix
    error = (q.mT @ q - torch.eye(8, dtype=dtype)).abs().max()
    assert error < 60 * torch.finfo(dtype).eps
    assert error.dtype == dtype


def test_the_length_of_a_normal_does_not_matter():
    vectors, z = rand(3, 4).float(), rand(6, 4, seed=1).float()
    expected = Householder(vectors)(z)
    for scale in (1e-36, 1e-20, 1e20, 1e36):
        torch.testing.assert_close(Householder(scale * vectors)(z), expected)
        torch.testing.assert_close(
            Householder(scale * vectors).matrix, Householder(vectors).matrix, rtol=0, atol=1e-6
        )


def test_a_normal_of_zeros_is_the_identity():
    vectors = rand(3, 4)
    vectors[1] = 0
    vectors.requires_grad_()
    z = rand(6, 4, seed=1).requires_grad_()
    t = Householder(vectors)
    q = dense(vectors.detach()[[0, 2]])
    torch.testing.assert_close(t(z), z @ q.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(t.matrix, q, rtol=0, atol=1e-14)
    for value in (t(z).sin().sum(), t.matrix.sin().sum(), t.inv(z).sin().sum()):
        gradients = torch.autograd.grad(value, [vectors, z], allow_unused=True)
        assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_the_gradient_is_orthogonal_to_the_normal():
    """Since only the direction matters; and the factor left out of autograd must not show."""
    vectors = rand(3, 4).requires_grad_()
    z = rand(4, seed=1)
    for function in (lambda v: Householder(v)(z), lambda v: Householder(v).columns(2)):
        (gradient,) = torch.autograd.grad(function(vectors).sin().sum(), vectors)
        assert (gradient * vectors).sum(-1).abs().max() < 1e-13
        assert gradient.abs().min(-1).values.max() > 1e-3
        assert torch.autograd.gradcheck(function, vectors)
        assert torch.autograd.gradgradcheck(function, vectors)


def test_batches_of_normals():
    vectors, z = rand(5, 1, 3, 4), rand(6, 4, seed=1)
    t = Householder(vectors)
    assert t(z).shape == (5, 6, 4)
    assert t.call_and_ladj(z)[1].shape == (5, 6)
    assert t.matrix.shape == (5, 1, 4, 4)
    torch.testing.assert_close(t(z)[2], Householder(vectors[2, 0])(z), rtol=0, atol=1e-14)
    torch.testing.assert_close(t.inv(t(z)), z.expand(5, 6, 4), rtol=0, atol=1e-13)


# ---- the flow -----------------------------------------------------------------------------------


def test_every_gaussian_is_reached_with_one_reflection_less_than_dimensions():
    mean, root = rand(4), rand(4, 4, seed=1)
    covariance = root @ root.mT
    variances, axes = torch.linalg.eigh(covariance)
    vectors = reflections_of(axes)
    assert vectors.shape == (3, 4)
    q = Householder(vectors).matrix
    flow = HouseholderFlow(4, length=3).double()
    log_scale = 0.5 * variances.log()
    # The scale and shift hold log-scales between bounds, s = r / (1 + |r| / S).
    raw = log_scale / (1 - log_scale.abs() / math.log(1000))
    with torch.no_grad():
        affine = torch.stack([q.mT @ mean, raw], -1)
        flow.parameters_of.start.copy_(torch.cat([affine.flatten(), vectors.flatten()]))
    y = rand(20, 4, seed=2)
    expected = MultivariateNormal(mean, covariance).log_prob(y)
    torch.testing.assert_close(flow().log_prob(y), expected, rtol=1e-11, atol=0)


def test_reflections_alone_leave_the_base_as_it_is():
    flow = HouseholderFlow(3, length=5, generator=seeded(0))
    y = rand(10, 3).float()
    before = flow().log_prob(y)
    with torch.no_grad():
        flow.parameters_of.start[6:] += 1
    torch.testing.assert_close(flow().log_prob(y), before)
    assert not torch.allclose(flow().transform(y), y, atol=0.1)


def test_extreme_parameters_in_float32():
    flow = HouseholderFlow(5, length=8, generator=seeded(0))
    z = rand(100, 5, seed=1).float()
    for scale in (20.0, 1e30):
        with torch.no_grad():
            flow.parameters_of.start.copy_(scale * rand(50, seed=2))
        t = flow().transform
        reflections = t.transforms[1]
        assert (reflections.inv(reflections(z)) - z).abs().max() < 1e-5
        y, ladj = t.call_and_ladj(z)
        assert torch.isfinite(y).all()
        assert torch.isfinite(ladj).all()
        (ladj.sum() + y.sin().sum()).backward()
        assert all(torch.isfinite(p.grad).all() for p in flow.parameters())
