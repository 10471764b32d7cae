"""The book's data: real, small, and the same on every machine."""

from nfbook.data.binarised_mnist import binarised_mnist
from nfbook.data.cifar import cifar_patches
from nfbook.data.download import DownloadError, obtain
from nfbook.data.files import DataFile, find_file
from nfbook.data.frey import frey_faces
from nfbook.data.geyser import old_faithful
from nfbook.data.minibatches import Minibatches
from nfbook.data.mnist import binarise, mnist
from nfbook.data.recorder import record
from nfbook.data.scikit import diabetes, digits, split_digits
from nfbook.data.splits import Splits
from nfbook.data.stored import stored_result
from nfbook.data.tables import Table, diamonds, weather

__all__ = [
    "DataFile",
    "DownloadError",
    "Minibatches",
    "Splits",
    "Table",
    "binarise",
    "binarised_mnist",
    "cifar_patches",
    "diabetes",
    "diamonds",
    "digits",
    "find_file",
    "frey_faces",
    "mnist",
    "obtain",
    "old_faithful",
    "record",
    "split_digits",
    "stored_result",
    "weather",
]
