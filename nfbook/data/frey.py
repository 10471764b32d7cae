"""Frey faces: 1965 frames of a film of one man's face."""

from __future__ import annotations

import numpy as np
import torch

from nfbook.data.download import obtain
from nfbook.data.files import DataFile, find_file
from nfbook.data.splits import Splits, fixed_order

__all__ = ["frey_faces"]

# A small file with the same numbers, with no public home.
PACKED = ("freyfaces/freyfaces_uint8.npz", "2bac1656205d9c668f1f37dce2de0862", 996877)

# As it was published, and at an address of the Sheffield Machine Learning group where it still is.
MATLAB = DataFile(
    "freyfaces/frey_rawface.mat",
    "5aeb024d42b8a6091f30e5eb18c8a48d",
    1100584,
    (
        "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "https://raw.githubusercontent.com/SheffieldML/GPmat/"
        "4b5914a38ecbad9fb7a13a3392970bfc28c9d911/datasets/data/frey_rawface.mat",
    ),
)


def frey_faces(*, download: bool = False, progress: bool = True) -> Splits:
    """Return 1965 grey images of Brendan Frey's face, of 28 by 20 pixels.

    The frames of the film are put in a fixed random order and cut into 1565, 200 and 200, the
    numbers of the literature, which shuffles anew in each run. Neighbouring frames are nearly the
    same: what is tested is the filling of gaps between frames, not another day's face.

    Arguments:
        download: Whether a missing file may be downloaded, 1 MB.
        progress: Whether a long download shows how far it is.

    Returns:
        Images, `(1565 | 200 | 200, 560)`, row by row, uint8 from 0 to 255. `dequantise` makes them
        ready for a model; the literature often takes the middle of each cell, (k + 1/2) / 256.

    Raises:
        DownloadError: The download failed.
        FileNotFoundError: The file is missing, and ``download`` is False.
        ValueError: The file is damaged.

    Source: B. Frey, by way of S. Roweis's page of data. No terms are stated.

    Example:
        How much ``frey_faces(download=True)`` downloads, in MB:

        >>> round(MATLAB.size / 1e6, 1)
        1.1
    """
    name, md5, size = PACKED
    try:
        path = find_file(name, md5, "It is not published in this form.", size=size)
    except FileNotFoundError:
        path = obtain(MATLAB, download=download, progress=progress)
        # A header of 184 bytes, then the pixels of one image after the other.
        faces = np.fromfile(path, np.uint8, offset=184).reshape(1965, 560)
    else:
        with np.load(path) as file:
            faces = file["x"]
    shuffled = torch.from_numpy(faces)[fixed_order(1965)]
    return Splits(*shuffled.split([1565, 200, 200]))
