"""Small colour patches of photographs, cut from 4,000 images of CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfbook.data.download import obtain
from nfbook.data.files import DataFile
from nfbook.data.splits import Splits

__all__ = ["cifar_patches"]


def _batch(index: int, md5: str, size: int) -> DataFile:
    name = f"cifar10_batch_{index}.png"
    homes = (
        "https://raw.githubusercontent.com/karpathy/convnetjs/"
        f"39afa8cd5e4cfb5771dc8a1f51bc56aa080f0b51/demo/cifar10/{name}",
        f"https://cs.stanford.edu/people/karpathy/convnetjs/demo/cifar10/{name}",
    )
    return DataFile(f"cifar10/{name}", md5, size, homes)


# A row of a picture is an image.
BATCHES = (
    _batch(0, "22905c3a5cc5e101d06a2b6d6087eff0", 2318456),
    _batch(1, "268c70910bb9bd5055b57d0870f26d63", 2326379),
    _batch(2, "7276547afd77ffb906d58242360a2534", 2312906),
    _batch(3, "7daf46aac2cef4fae955f89c83a9c34f", 2328590),
)


def cifar_patches(*, download: bool = False, progress: bool = True) -> Splits:
    """Return patches of 8 by 8 pixels in three colours from the first 4,000 images of CIFAR-10.

    Each image of 32 by 32 pixels is cut into its sixteen patches that do not overlap. The images,
    which come in random order, are split first, 3,000 to train on, 500 to choose by and 500 to
    report, so that no image is in two parts. Rezende and Mohamed (2015, section 6) cut patches at
    random places of all 50,000 training images and report on the 10,000 test images; these are
    fewer, and numbers are comparable in kind only.

    Arguments:
        download: Whether files that are missing may be downloaded, 9 MB in all.
        progress: Whether a long download shows how far it is.

    Returns:
        Patches, `(48000 | 8000 | 8000, 192)`, uint8 from 0 to 255; ``patches.reshape(-1, 3, 8, 8)``
        has the colours red, green and blue, then rows and columns. The sixteen of an image follow
        one another, row by row. `dequantise` makes them ready for a model.

    Raises:
        DownloadError: The download failed.
        FileNotFoundError: A file is missing, and ``download`` is False.
        ImportError: Pillow, which reads the pictures, is not installed.
        ValueError: A file is damaged.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images, technical report,
    University of Toronto (2009); the files are those of A. Karpathy's ConvNetJS.

    Example:
        How much ``cifar_patches(download=True)`` downloads, in MB:

        >>> round(sum(batch.size for batch in BATCHES) / 1e6, 1)
        9.3
    """
    paths = [obtain(file, download=download, progress=progress) for file in BATCHES]
    images = torch.cat([_read_png(path) for path in paths])
    return Splits(*(_patches(part) for part in images.split([3000, 500, 500])))


def _read_png(path: Path) -> Tensor:
    """Return the images of a picture, `(n, 3, 32, 32)`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "the files of CIFAR-10 are read by Pillow, which comes with matplotlib and is not "
            "installed; install both with: pip install 'nfbook[notebook]'"
        ) from error
    with Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture))
    return pixels.reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)


def _patches(images: Tensor) -> Tensor:
    corners = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (n, 3, 4, 4, 8, 8)
    return corners.permute(0, 2, 3, 1, 4, 5).reshape(-1, 192)
