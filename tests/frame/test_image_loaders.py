"""The study of two image loaders: the decoder written by hand, and the test of differences."""

import struct
import sys
import zlib

import numpy as np
import pytest
from pages import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "benchmarks"))

import image_loaders

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6), dtype=np.uint8)


def chunk(kind, body):
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def write(path, rows, form=(8, 0, 0, 0, 0)):
    head = struct.pack(">IIBBBBB", 6, 5, *form)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    path.write_bytes(image_loaders.SIGNATURE + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize("kind", range(5))
def test_each_filter_is_undone_as_pil_does(kind, tmp_path):
    """Whatever the bytes are, a filter makes pixels of them, and both loaders the same ones."""
    path = tmp_path / "one.png"
    write(path, [bytes([kind]) + row.tobytes() for row in PIXELS])
    found = image_loaders.without_pil(path)
    assert np.array_equal(found, image_loaders.with_pil(path))
    assert np.array_equal(found, PIXELS) == (kind == 0)


def test_what_pil_writes_is_read(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(PIXELS).save(path)
    assert np.array_equal(image_loaders.without_pil(path), PIXELS)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"one\.png is no PNG file"):
        image_loaders.without_pil(path)
    write(path, [], form=(8, 2, 0, 0, 0))
    with pytest.raises(ValueError, match=r"8-bit grey levels, got \[8, 2, 0, 0, 0\]"):
        image_loaders.without_pil(path)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.0] * 4, 1.0), ([1.0] * 4, 2 / 16), ([1.0, -1.0, 1.0, -1.0], 1.0), ([3.0, 1.0], 2 / 4)],
)
def test_the_test_of_signs(differences, p):
    assert image_loaders.signs_test(differences) == p
