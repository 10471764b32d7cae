"""The real files, too large for a test to download: collected where NFBOOK_DATA is set."""

import hashlib

import numpy as np
import torch

from nfbook.data import binarised_mnist, cifar_patches, frey_faces, mnist
from nfbook.data.splits import fixed_order


def test_mnist_has_the_published_counts_and_mean():
    images, labels = mnist()
    assert [part.shape for part in images] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    # As LeCun's page and torchvision's usual normalisation, 0.1307 and 0.3081, have it.
    both = torch.cat([images.train, images.validation]).float() / 255
    assert abs(both.mean() - 0.1307) < 5e-5
    assert abs(both.std() - 0.3081) < 5e-5
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.cat([labels.train, labels.validation]).bincount().tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels.test.bincount().tolist() == counts
    assert labels.train[:5].tolist() == [5, 0, 4, 1, 9]


def test_binarised_mnist_written_as_text_has_the_listed_checksum():
    """Those that TensorFlow Datasets lists for its author's files, in their order."""
    parts = binarised_mnist()
    assert [len(part) for part in parts] == [50_000, 10_000, 10_000]
    for part, sha256 in (
        (parts.validation, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
        (parts.test, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
    ):
        assert part.dtype == torch.float32
        text = np.full((10_000, 784, 2), ord(" "), np.uint8)
        text[..., 0] = part.numpy() + ord("0")
        text[:, -1, 1] = ord("\n")
        assert hashlib.sha256(text).hexdigest() == sha256


def test_frey_faces_are_all_there():
    parts = frey_faces()
    assert [part.shape for part in parts] == [(1565, 560), (200, 560), (200, 560)]
    faces = torch.empty(1965, 560, dtype=torch.uint8)
    faces[fixed_order(1965)] = torch.cat(parts)
    # Of the pixels in the published MATLAB file.
    assert hashlib.md5(faces.numpy()).hexdigest() == "687b39ec28b56c183474c235686975cf"


def test_patches_begin_with_the_frog():
    """The first pixels of CIFAR-10's first image, as in many tutorials: [59, 62, 63]..."""
    frog = cifar_patches().train[0].reshape(3, 8, 8)
    assert frog[:, 0, :3].T.tolist() == [[59, 62, 63], [43, 46, 45], [50, 48, 43]]
