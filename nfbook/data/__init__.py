"""The book's data: real, small, and the same on every machine."""

from nfbook.data.download import DownloadError, obtain
from nfbook.data.files import DataFile, find_file
from nfbook.data.geyser import old_faithful
from nfbook.data.recorder import record
from nfbook.data.scikit import diabetes, digits
from nfbook.data.stored import stored_result

__all__ = [
    "DataFile",
    "DownloadError",
    "diabetes",
    "digits",
    "find_file",
    "obtain",
    "old_faithful",
    "record",
    "stored_result",
]
