"""The data are the published ones, and a missing or damaged file is named."""

import hashlib
import sys

import numpy as np
import pytest
import torch

from nfbook.data import diabetes, digits, files, find_file, old_faithful

CONTENT = b"a,b\n1,2\n"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two empty folders: the package's, and the reader's."""
    package, mine = tmp_path / "package", tmp_path / "mine"
    package.mkdir()
    mine.mkdir()
    monkeypatch.setattr(files, "PACKAGE", package)
    monkeypatch.setenv("NFBOOK_DATA", str(mine))
    return package, mine


def test_old_faithful_has_the_published_moments():
    x = old_faithful()
    assert x.shape == (272, 2)
    assert x.dtype == torch.float64
    # As R prints them: colMeans(faithful), sapply(faithful, sd), range.
    assert np.allclose(x.mean(0), [3.487783, 70.897059], atol=5e-7)
    assert np.allclose(x.std(0), [1.141371, 13.594974], atol=5e-7)
    assert x.min(0).values.tolist() == [1.6, 43.0]
    assert x.max(0).values.tolist() == [5.1, 96.0]
    assert x[-1].tolist() == [4.467, 74.0]


def test_old_faithful_is_read_afresh():
    first = old_faithful()
    first.zero_()
    assert old_faithful()[0, 0] == 3.6


def test_diabetes_is_centred_and_scaled_as_documented():
    inputs, targets = diabetes()
    assert inputs.dtype == targets.dtype == torch.float64
    assert inputs.shape == (442, 10)
    assert targets.shape == (442,)
    assert torch.allclose(inputs.mean(0), torch.zeros(10, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(inputs.square().sum(0), torch.ones(10, dtype=torch.float64))
    assert (targets.min(), targets.max()) == (25, 346)


def test_digits_are_whole_numbers_of_ink():
    images, labels = digits()
    assert images.dtype == torch.float64
    assert labels.dtype == torch.int64
    assert images.shape == (1797, 64)
    assert torch.equal(images, images.round())
    assert (images.min(), images.max()) == (0, 16)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("load", [diabetes, digits])
def test_missing_scikit_learn_names_the_extra(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"scikit-learn.*pip install 'nfbook\[notebook\]'"):
        load()


def test_file_in_the_package_comes_first(folders):
    for folder in folders:
        (folder / "x.csv").write_bytes(CONTENT)
    assert find_file("x.csv", MD5, "Ask.") == folders[0] / "x.csv"


def test_file_in_the_readers_folder_is_found(folders):
    (folders[1] / "x.csv").write_bytes(CONTENT)
    assert find_file("x.csv", MD5, "Ask.") == folders[1] / "x.csv"


def test_missing_file_says_where_and_how(folders):
    with pytest.raises(FileNotFoundError) as caught:
        find_file("x.csv", MD5, "Download it from example.org.")
    message = str(caught.value)
    assert message.startswith("x.csv is missing")
    for folder in folders:
        assert str(folder / "x.csv") in message
    assert message.endswith("Download it from example.org.")


def test_missing_file_without_a_readers_folder_names_the_variable(folders, monkeypatch):
    monkeypatch.delenv("NFBOOK_DATA")
    with pytest.raises(FileNotFoundError, match="NFBOOK_DATA, which is not set"):
        find_file("x.csv", MD5, "Ask.")


def test_damaged_file_shows_both_checksums(folders):
    path = folders[1] / "x.csv"
    path.write_bytes(CONTENT + b"3,4\n")
    got = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"x\.csv .* is {got}, expected {MD5}"):
        find_file("x.csv", MD5, "Ask.")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, MD5, "Ask."), TypeError, "name must be a str, got int"),
        (("x.csv", None, "Ask."), TypeError, "md5 must be a str, got NoneType"),
        (("x.csv", MD5, b"Ask."), TypeError, "how_to_get must be a str, got bytes"),
        (("../x.csv", MD5, "Ask."), ValueError, "name must be a file's name"),
        (("", MD5, "Ask."), ValueError, "name must be a file's name"),
        (("x.csv", "abc", "Ask."), ValueError, "md5 must be 32"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        find_file(*arguments)
