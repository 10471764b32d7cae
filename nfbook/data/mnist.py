"""MNIST: handwritten digits in grey, and in black and white drawn anew for each batch."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from nfbook._checks import check_generator, check_type
from nfbook.data.download import obtain
from nfbook.data.files import DataFile
from nfbook.data.splits import Splits

__all__ = ["binarise", "mnist"]


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
        How much ``images, labels = mnist(download=True)`` downloads, in MB:

        >>> files = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
        >>> round(sum(file.size for file in files) / 1e6, 1)
        11.6
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
        TypeError: The pixels are not a tensor of bytes, or the dtype is none of floating-point
            numbers.
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
    dtype = torch.get_default_dtype() if dtype is None else dtype
    check_type("dtype", dtype, torch.dtype, "a torch.dtype or None")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be one of floating-point numbers, got {dtype}")
    brightness = pixels.to(dtype) / 255
    return torch.bernoulli(brightness, generator=generator)
