"""The pictures that code draws for the book's face are what the code draws now."""

from pathlib import Path
from xml.etree import ElementTree

import draw_cover
import draw_directions
import draw_logo
import pytest
import torch
from pictures import difference

STATIC = draw_logo.STATIC


@pytest.mark.parametrize(("name", "text"), draw_logo.draw().items())
def test_logo_is_as_drawn(name: str, text: str):
    assert (STATIC / name).read_text(encoding="utf-8") == text
    ElementTree.fromstring(text)


def test_logo_needs_no_font_of_the_readers():
    for text in draw_logo.draw().values():
        assert "<text" not in text
        assert "font-family" not in text


def test_directions_are_as_drawn():
    assert (STATIC / "directions.svg").read_text(encoding="utf-8") == draw_directions.draw()


def test_cover_is_as_drawn(tmp_path: Path):
    fresh = draw_cover.draw(tmp_path)
    assert difference((STATIC / "cover.png").read_bytes(), fresh.read_bytes()) is None


def test_the_logos_map_keeps_areas():
    """As its docstring says: the Jacobian's determinant is 1."""
    z = torch.tensor([0.7, -0.3], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda p: torch.stack(draw_logo.bend(*p)), z)
    assert torch.linalg.det(jacobian) == pytest.approx(1.0, abs=1e-12)


def test_the_covers_flow_carries_the_gaussian_to_the_target():
    """By the change of variables: the log densities differ by the flow's log-determinant."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(8, 2, generator=generator, dtype=torch.float64).requires_grad_()
    for t in draw_cover.TIMES[1:]:
        x = draw_cover.flow(z, t, steps=100)
        # No point moves another one, so the sum over points has each point's own derivatives.
        rows = [torch.autograd.grad(x[:, i].sum(), z, retain_graph=True)[0] for i in range(2)]
        ladj = torch.linalg.slogdet(torch.stack(rows, dim=1)).logabsdet
        expected = draw_cover.log_density(z, 0.0) - ladj
        assert torch.allclose(draw_cover.log_density(x, t), expected, rtol=0, atol=1e-4)


def test_the_covers_base_is_standard_normal():
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    assert draw_cover.log_density(z, 0.0) == pytest.approx(normal.log_prob(z).sum(-1), abs=1e-12)
