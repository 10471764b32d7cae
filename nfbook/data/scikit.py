"""Two data sets that scikit-learn carries inside its package, so that nothing is downloaded."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from nfbook.data.splits import Splits, fixed_order

__all__ = ["diabetes", "digits", "split_digits"]


def _datasets(wanted: str) -> ModuleType:
    # Imported here, so that importing nfbook.data stays light.
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"{wanted} comes with scikit-learn, which is not installed; "
            "install it with: pip install 'nfbook[notebook]'"
        ) from error
    module: ModuleType = datasets
    return module


def diabetes() -> tuple[Tensor, Tensor]:
    """Return the diabetes data: ten measurements of a patient, and the disease a year later.

    Returns:
        Inputs of shape `(442, 10)` and targets of shape `(442,)`, both float64. The inputs are
        age, sex, body mass index, blood pressure and six blood serum values; each column has
        mean 0 and a sum of squares of 1, as scikit-learn delivers it. The targets measure the
        progression of the disease after one year, from 25 to 346, without a unit.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, Least angle regression, The
    Annals of Statistics 32 (2004), 407-499.

    Example:
        >>> inputs, targets = diabetes()
        >>> inputs.shape, targets.shape
        (torch.Size([442, 10]), torch.Size([442]))
    """
    inputs, targets = _datasets("diabetes()").load_diabetes(return_X_y=True)
    return (
        torch.tensor(inputs, dtype=torch.float64),
        torch.tensor(targets, dtype=torch.float64),
    )


def digits() -> tuple[Tensor, Tensor]:
    """Return 1797 handwritten digits, each a picture of 8 by 8 pixels.

    Returns:
        Images of shape `(1797, 64)`, float64, row by row, each pixel a whole number of ink dots
        from 0 (white) to 16 (black), not rescaled; and labels of shape `(1797,)`, int64, from 0
        to 9.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository (1998); its test set, as scikit-learn delivers it.

    Example:
        >>> images, labels = digits()
        >>> images.shape, int(images.max()), int(labels.max())
        (torch.Size([1797, 64]), 16, 9)
    """
    images, labels = _datasets("digits()").load_digits(return_X_y=True)
    return (
        torch.tensor(images, dtype=torch.float64),
        torch.tensor(labels, dtype=torch.int64),
    )


def split_digits() -> tuple[Splits, Splits]:
    """Return the images and labels of `digits` in a fixed random order and in three parts.

    Returns:
        Images, `(1297 | 250 | 250, 64)`, uint8 from 0 to 16, as `dequantise` with 17 levels takes
        them; and labels, `(1297 | 250 | 250,)`, int64.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> images, labels = split_digits()
        >>> images.test.shape, labels.test.shape
        (torch.Size([250, 64]), torch.Size([250]))
    """
    images, labels = digits()
    order, parts = fixed_order(len(images)), [1297, 250, 250]
    return (
        Splits(*images.to(torch.uint8)[order].split(parts)),
        Splits(*labels[order].split(parts)),
    )
