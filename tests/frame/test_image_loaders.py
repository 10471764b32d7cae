"""The study of two image loaders: the decoder written by hand, and the test of differences."""

import struct
import sys
import zlib

import numpy as np
import pytest
from pages import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import image_loaders

GREY, COLOUR = (
    np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for shape in ((5, 6), (5, 6, 3))
)
BOTH = pytest.mark.parametrize(("pixels", "code"), [(GREY, 0), (COLOUR, 2)], ids=["grey", "colour"])


def chunk(kind, body):
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def write(path, rows, form=(8, 0, 0, 0, 0)):
    head = struct.pack(">IIBBBBB", 6, 5, *form)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    path.write_bytes(image_loaders.SIGNATURE + b"".join(chunk(*part) for part in parts))


@BOTH
@pytest.mark.parametrize("kind", range(5))
def test_each_filter_is_undone_as_pil_does(kind, pixels, code, tmp_path):
    """Whatever the bytes are, a filter makes pixels of them, and both loaders the same ones."""
    path = tmp_path / "one.png"
    write(path, [bytes([kind]) + row.tobytes() for row in pixels], form=(8, code, 0, 0, 0))
    found = image_loaders.without_pil(path)
    assert np.array_equal(found, image_loaders.with_pil(path))
    assert np.array_equal(found, pixels) == (kind == 0)


@BOTH
def test_what_pil_writes_is_read(pixels, code, tmp_path):
    (path,) = image_loaders.save(tmp_path / "images", pixels[None])
    assert np.array_equal(image_loaders.without_pil(path), pixels)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"one\.png is no PNG file"):
        image_loaders.without_pil(path)
    # Sixteen bits, a palette, interlaced rows.
    for form in ((16, 0, 0, 0, 0), (8, 3, 0, 0, 0), (8, 2, 0, 0, 1)):
        write(path, [], form=form)
        with pytest.raises(ValueError, match="8-bit grey levels or colours, got ") as refused:
            image_loaders.without_pil(path)
        assert str(refused.value).endswith(str(list(form)))


def test_images_are_loaded_row_by_row(tmp_path):
    """Each image is one row of numbers from 0 to 1."""
    paths = image_loaders.save(tmp_path / "images", np.stack([GREY, 255 - GREY]))
    found = image_loaders.load(image_loaders.without_pil, paths)
    assert np.allclose(found[0].numpy(), GREY.ravel() / 255)
    assert np.allclose(found.sum(0).numpy(), 1)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.0] * 4, 1.0), ([1.0] * 4, 2 / 16), ([1.0, -1.0, 1.0, -1.0], 1.0), ([3.0, 1.0], 2 / 4)],
)
def test_the_test_of_signs(differences, p):
    assert image_loaders.signs_test(differences) == p
