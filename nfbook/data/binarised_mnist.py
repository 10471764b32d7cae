"""MNIST with every pixel black or white, drawn once and for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfbook.data.download import obtain
from nfbook.data.files import DataFile, find_file
from nfbook.data.splits import Splits

__all__ = ["binarised_mnist"]

# The images as `np.packbits` stores them: a file of 2 MB, with no public home.
PACKED = ("binarized_mnist/binarized_mnist_packed.npz", "5589c6f3a18348d59afde6bee2266fdc", 2336176)


def _text_file(part: str, md5: str, size: int) -> DataFile:
    name = f"binarized_mnist/binarized_mnist_{part}.amat"
    return DataFile(
        name, md5, size, (f"http://www.cs.toronto.edu/~larocheh/public/datasets/{name}",)
    )


# The same images as their author published them. The checksums are those of the packed images
# written out as text, whose SHA-256 are those that TensorFlow Datasets lists for these addresses.
TEXTS = (
    _text_file("train", "db28b1a6ae0fe70cbd3da91acf46e477", 78_400_000),
    _text_file("valid", "bf37822a04e94123630de6a7dfd9c9ef", 15_680_000),
    _text_file("test", "14e41ae11040adba6ab8cb291eda0dd8", 15_680_000),
)


def binarised_mnist(*, download: bool = False, progress: bool = True) -> Splits:
    """Return 70,000 digits of MNIST with every pixel black or white, drawn once and for all.

    These are the data on which many densities of MNIST are compared. Their order is another one
    than that of `mnist`, and they have no labels.

    Arguments:
        download: Whether files that are missing may be downloaded, 110 MB in all.
        progress: Whether a long download shows how far it is.

    Returns:
        Images, `(50000 | 10000 | 10000, 784)`, row by row, zeros and ones in float32.

    Raises:
        DownloadError: The download failed.
        FileNotFoundError: A file is missing, and ``download`` is False.
        ValueError: A file is damaged.

    Source: H. Larochelle and I. Murray, The neural autoregressive distribution estimator, AISTATS
    (2011); the binarisation is that of R. Salakhutdinov and I. Murray, On the quantitative analysis
    of deep belief networks, ICML (2008).

    Example:
        Each line of the published text is an image, so many characters long:

        >>> [text.size // (2 * 784) for text in TEXTS]
        [50000, 10000, 10000]
    """
    name, md5, size = PACKED
    try:
        path = find_file(name, md5, "It is not published in this form.", size=size)
    except FileNotFoundError:
        paths = [obtain(file, download=download, progress=progress) for file in TEXTS]
        return Splits(*map(_read_text, paths))
    with np.load(path) as packed:
        bits = [np.unpackbits(packed[part], axis=1) for part in ("train", "valid", "test")]
    return Splits(*(torch.from_numpy(part).float() for part in bits))


def _read_text(path: Path) -> Tensor:
    # A row of 784 digits, each with one blank or line break behind it.
    characters = np.fromfile(path, np.uint8).reshape(-1, 784, 2)
    return torch.from_numpy(characters[..., 0] - ord("0")).float()
