"""MNIST: handwritten digits in grey, in black and white drawn anew, and drawn once and for all."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfbook._checks import check_generator, check_type
from nfbook.data.download import obtain
from nfbook.data.files import DataFile, find_file
from nfbook.data.splits import Splits

__all__ = ["binarise", "binarised_mnist", "mnist"]


def _mnist_file(name: str, md5: str, size: int) -> DataFile:
    name = f"{name}-ubyte.gz"
    homes = (
        f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}",
        f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}",
    )
    return DataFile(f"mnist/{name}", md5, size, homes)


TRAIN_IMAGES = _mnist_file("train-images-idx3", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422)
TRAIN_LABELS = _mnist_file("train-labels-idx1", "d53e105ee54ea40749a09fcbcd1e9432", 28_881)
TEST_IMAGES = _mnist_file("t10k-images-idx3", "9fb629c4189551a2d022fa330f9573f3", 1_648_877)
TEST_LABELS = _mnist_file("t10k-labels-idx1", "ec29112dd5afa0611ce80d1b7f02629c", 4_542)


def mnist(*, download: bool = False, progress: bool = True) -> tuple[Splits, Splits]:
    """Return 70,000 handwritten digits in grey, of 28 by 28 pixels, and their labels.

    The 60,000 images for training are 50,000 to train on and, the last of them, 10,000 to choose
    by; the 10,000 for testing are the original ones.

    Arguments:
        download: Whether files that are missing may be downloaded, 12 MB in all.
        progress: Whether a long download shows how far it is.

    Returns:
        Images, `(50000 | 10000 | 10000, 784)`, row by row, uint8 from 0 (black) to 255 (white), and
        labels, `(50000 | 10000 | 10000,)`, int64 from 0 to 9. `dequantise` or `binarise` makes the
        images ready for a model.

    Raises:
        DownloadError: The download failed.
        FileNotFoundError: A file is missing, and ``download`` is False.
        ValueError: A file is damaged.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied to
    document recognition, Proceedings of the IEEE 86 (1998), 2278-2324. Y. LeCun and C. Cortes
    publish it under CC BY-SA 3.0.

    Example:
        >>> images, labels = mnist(download=True)  # doctest: +SKIP
        >>> images.train.shape, labels.train[:3]  # doctest: +SKIP
        (torch.Size([50000, 784]), tensor([5, 0, 4]))
    """
    images, labels, test_images, test_labels = (
        _read_idx(file, download, progress)
        for file in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
    )
    return (
        Splits(images[:-10_000], images[-10_000:], test_images),
        Splits(labels[:-10_000].long(), labels[-10_000:].long(), test_labels.long()),
    )


def _read_idx(file: DataFile, download: bool, progress: bool) -> Tensor:
    """Return the bytes of an IDX file, `(n,)` or, each image in one row, `(n, D)`."""
    content = gzip.decompress(obtain(file, download=download, progress=progress).read_bytes())
    # Two zeros, the type (8: bytes), the number of dimensions, and each one's size in four bytes.
    dimensions = content[3]
    n, *rest = np.frombuffer(content, ">i4", count=dimensions, offset=4).tolist()
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions)
    return values.reshape(n, -1) if rest else values


def binarise(
    pixels: Tensor, *, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
) -> Tensor:
    r"""Return white pixels with the brightness of grey ones as their probability, else black ones.

    .. math:: b_i \sim \operatorname{Bernoulli}(k_i / 255).

    Drawn anew for each batch ("dynamic binarisation", Burda, Grosse and Salakhutdinov, 2016), they
    are the data of many published bounds. Those of `binarised_mnist` are drawn once, so that bounds
    on the one and on the other must not be compared.

    Arguments:
        pixels: Grey values from 0 to 255, of any shape, uint8.
        dtype: That of the result; torch's default one if None.
        generator: The source of the draws; torch's global one if None.

    Returns:
        Zeros and ones, of the same shape.

    Raises:
        TypeError: The pixels are not a tensor of bytes.
        ValueError: There are none.

    Example:
        >>> binarise(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    check_type("pixels", pixels, Tensor, "a torch.Tensor")
    check_generator(generator)
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must have dtype torch.uint8, got {pixels.dtype}")
    if pixels.numel() == 0:
        raise ValueError(f"pixels must not be empty, got shape {tuple(pixels.shape)}")
    brightness = pixels.to(torch.get_default_dtype() if dtype is None else dtype) / 255
    return torch.bernoulli(brightness, generator=generator)


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
        >>> binarised_mnist(download=True).test.shape  # doctest: +SKIP
        torch.Size([10000, 784])
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
