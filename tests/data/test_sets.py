"""The data sets: the published numbers, in fixed parts, from files as their homes deliver them."""

import csv
import gzip
import hashlib
import importlib
import socket
import struct
import sys
import tomllib
from collections import Counter
from datetime import datetime

import numpy as np
import pytest
import torch
from draws import seeded
from PIL import Image
from scipy.io import savemat

from nfbook.data import (
    DataFile,
    DownloadError,
    binarise,
    binarised_mnist,
    cifar_patches,
    diamonds,
    digits,
    files,
    frey_faces,
    mnist,
    split_digits,
    weather,
)
from nfbook.data.splits import fixed_order
from nfbook.transforms import dequantise_table

F64 = torch.float64
DOWNLOADED = [binarised_mnist, cifar_patches, frey_faces, mnist]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for the data, with none elsewhere."""
    monkeypatch.setenv("NFBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(files, "_cache", lambda: tmp_path / "cache")
    return tmp_path


def put(folder, file, content):
    """Put content where a data file belongs, and return what describes that file."""
    path = folder / file.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return DataFile(file.name, hashlib.md5(content).hexdigest(), len(content), ())


def pixels(*shape, high=256):
    return torch.randint(high, shape, generator=seeded(), dtype=torch.uint8)


# ---- without the files --------------------------------------------------------------------------


@pytest.mark.parametrize("load", DOWNLOADED)
def test_a_missing_file_is_named_with_the_way_to_get_it(load, folder):
    with pytest.raises(FileNotFoundError, match=r"is missing(.|\n)*download=True(.|\n)*http"):
        load()


@pytest.mark.parametrize("load", DOWNLOADED)
def test_on_request_it_is_downloaded(load, folder, monkeypatch):
    def offline(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(DownloadError, match=r"could not be downloaded\.\n  http.*no connection"):
        load(download=True, progress=False)


@pytest.mark.parametrize("load", [binarised_mnist, frey_faces])
def test_a_damaged_file_is_not_passed_over_for_another_form(load, folder):
    name, _, size = importlib.import_module(load.__module__).PACKED
    path = folder / name
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    with pytest.raises(ValueError, match="is damaged or is another file: its md5"):
        load(download=True)


# ---- files as their homes deliver them, with made numbers ----------------------------------------


def test_mnist_is_read_from_idx_files(folder, monkeypatch):
    module = importlib.import_module("nfbook.data.mnist")
    made = {}
    for part, n in (("TRAIN", 10_003), ("TEST", 2)):
        images, labels = pixels(n, 2, 3), pixels(n, high=10)
        made[part] = images.reshape(n, 6), labels.long()
        for kind, values in (("IMAGES", images), ("LABELS", labels)):
            shape = values.shape
            header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
            content = gzip.compress(header + values.numpy().tobytes(), 1)
            name = f"{part}_{kind}"
            monkeypatch.setattr(module, name, put(folder, getattr(module, name), content))
    for splits, train, test in zip(mnist(), made["TRAIN"], made["TEST"], strict=True):
        assert torch.equal(splits.train, train[:3])
        assert torch.equal(splits.validation, train[3:])
        assert torch.equal(splits.test, test)
    images, labels = mnist()
    assert (images.train.dtype, labels.train.dtype) == (torch.uint8, torch.int64)


def test_binarised_mnist_is_read_from_its_authors_text(folder, monkeypatch):
    module = importlib.import_module("nfbook.data.binarised_mnist")
    made = [pixels(n, 784, high=2) for n in (5, 3, 2)]
    texts = []
    for file, bits in zip(module.TEXTS, made, strict=True):
        path = folder / "text"
        np.savetxt(path, bits.numpy(), fmt="%d")
        texts.append(put(folder, file, path.read_bytes()))
    monkeypatch.setattr(module, "TEXTS", texts)
    for part, bits in zip(binarised_mnist(), made, strict=True):
        assert part.dtype == torch.float32
        assert torch.equal(part, bits.float())


def test_frey_faces_are_read_from_matlabs_file(folder, monkeypatch):
    module = importlib.import_module("nfbook.data.frey")
    faces = pixels(1965, 560)
    savemat(folder / "made.mat", {"ff": faces.numpy().T})
    content = (folder / "made.mat").read_bytes()
    monkeypatch.setattr(module, "MATLAB", put(folder, module.MATLAB, content))
    parts = frey_faces()
    assert [len(part) for part in parts] == [1565, 200, 200]
    assert torch.equal(torch.cat(parts), faces[fixed_order(1965)])


def test_patches_are_cut_from_pictures_whose_rows_are_images(folder, monkeypatch):
    module = importlib.import_module("nfbook.data.cifar")
    images = pixels(4000, 32, 32, 3)
    batches = []
    for file, batch in zip(module.BATCHES, images.split(1000), strict=True):
        picture = Image.fromarray(batch.reshape(1000, 1024, 3).numpy())
        picture.save(folder / "made.png", compress_level=0)
        batches.append(put(folder, file, (folder / "made.png").read_bytes()))
    monkeypatch.setattr(module, "BATCHES", batches)
    parts = cifar_patches()
    assert [part.shape for part in parts] == [(48_000, 192), (8_000, 192), (8_000, 192)]
    for part, first, patch in ((0, 0, 17), (1, 3000, 0), (2, 3500, 7999)):
        image, place = divmod(patch, 16)
        row, column = divmod(place, 4)
        expected = images[first + image, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(parts[part][patch].reshape(3, 8, 8), expected.permute(2, 0, 1))


def test_missing_pillow_names_the_extra(folder, monkeypatch):
    module = importlib.import_module("nfbook.data.cifar")
    monkeypatch.setattr(module, "BATCHES", [put(folder, module.BATCHES[0], b"a picture")])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Pillow.*pip install 'nfbook\[notebook\]'"):
        cifar_patches()


# ---- binarisation -------------------------------------------------------------------------------


def test_a_pixel_is_white_as_often_as_it_is_bright():
    grey = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    white = binarise(grey, dtype=F64, generator=seeded())
    assert white.dtype == F64
    assert set(white.unique().tolist()) == {0.0, 1.0}
    assert (white[:, 0] == 0).all()
    assert (white[:, 255] == 1).all()
    brightness = grey[0, 1:-1].double() / 255
    score = (white.mean(0)[1:-1] - brightness) / (brightness * (1 - brightness) / 20_000).sqrt()
    # A sum of 254 squares of about standard normal numbers is above 356 once in 40,000 times.
    assert score.square().sum() < 356


def test_binarisation_draws_from_its_generator():
    grey = pixels(10, 784)
    first = binarise(grey, generator=seeded(1))
    assert first.dtype == torch.get_default_dtype()
    assert torch.equal(binarise(grey, generator=seeded(1)), first)
    assert not torch.equal(binarise(grey, generator=seeded(2)), first)


def test_what_are_no_grey_pixels_is_refused():
    with pytest.raises(TypeError, match=r"pixels must have dtype torch\.uint8, got torch\.float32"):
        binarise(torch.rand(3))
    with pytest.raises(TypeError, match=r"pixels must be a torch\.Tensor, got list"):
        binarise([0, 1])
    with pytest.raises(ValueError, match=r"pixels must not be empty, got shape \(0,\)"):
        binarise(torch.tensor([], dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"dtype must be one of floating-point .* got torch\.int64"):
        binarise(pixels(3), dtype=torch.int64)
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype or None, got str"):
        binarise(pixels(3), dtype="float32")
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        binarise(pixels(3), generator=1)


# ---- fixed parts --------------------------------------------------------------------------------


def test_the_fixed_order_never_changes():
    order = fixed_order(1797)
    assert torch.equal(order.sort().values, torch.arange(1797))
    assert order[:5].tolist() == [1081, 1707, 927, 713, 262]


def test_the_parts_of_the_digits_are_all_digits():
    (images, labels), (all_images, all_labels) = split_digits(), digits()
    order = fixed_order(1797)
    assert (images.train.dtype, labels.train.dtype) == (torch.uint8, torch.int64)
    assert [len(part) for part in images] == [1297, 250, 250]
    assert torch.equal(torch.cat(images).double(), all_images[order])
    assert torch.equal(torch.cat(labels), all_labels[order])
    # Every digit is in every part.
    assert all(len(part.unique()) == 10 for part in labels)


# ---- tables -------------------------------------------------------------------------------------


def read(name):
    with gzip.open(files.PACKAGE / name / f"{name}.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("load", [diamonds, weather])
def test_the_values_of_a_table_are_on_its_grid(load):
    table = load()
    x = torch.cat(table.rows)
    assert x.dtype == table.spacing.dtype == F64
    assert x.shape[1] == len(table.columns) == len(table.spacing)
    cells = (x - x[0]) / table.spacing
    off = (cells - cells.round()).abs().amax(0) * table.spacing
    if load is weather:
        # The sixteenths of a mile were rounded to hundredths.
        assert off[-1] <= 0.00501
        off = off[:-1]
    assert off.max() < 1e-9
    noisy = dequantise_table(table.rows.test, table.spacing, generator=seeded())
    assert ((noisy - table.rows.test).abs() < table.spacing / 2).all()


def test_every_diamond_is_in_one_part_and_was_measured():
    table = diamonds()
    assert [part.shape for part in table.rows] == [(43_772, 10), (5_000, 10), (5_000, 10)]
    x = torch.cat(table.rows)
    assert len(x.unique(dim=0)) == len(x)
    column = {name: x[:, i] for i, name in enumerate(table.columns)}
    for size in "xyz":
        assert 1 <= column[size].min() <= column[size].max() < 11
    # As R's `summary(diamonds)` has them.
    assert (column["price"].min(), column["price"].max()) == (326, 18_823)
    assert (column["carat"].min(), column["carat"].max()) == (0.2, 5.01)
    assert (column["depth"].min(), column["depth"].max()) == (43, 79)


def test_grades_of_diamonds_rise_from_worst_to_best():
    table = diamonds()
    # As R's `levels` has them, with color reversed, since D is the best.
    grades = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": list("JIHGFED"),
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    numbers = table.columns[:7]
    coded = Counter(tuple(row) for row in torch.cat(table.rows).tolist())
    for row in read("diamonds"):
        values = tuple(float(row[name]) for name in numbers)
        values += tuple(float(levels.index(row[name])) for name, levels in grades.items())
        assert coded.pop(values, 1) == 1
    assert not coded


def test_no_day_of_weather_is_in_two_parts_or_next_to_another_part():
    table = weather()
    days: list[set[int]] = [set(), set(), set()]
    parts = [Counter(map(tuple, part.tolist())) for part in table.rows]
    left = [Counter(part) for part in parts]
    for row in read("weather"):
        if any(row[name] == "NA" for name in table.columns):
            continue
        day = datetime.fromisoformat(f"2013-{int(row['month']):02}-{int(row['day']):02}")
        values = tuple(float(row[name]) for name in table.columns)
        place = (day.timetuple().tm_yday - 1) % 30
        part = 0 if place < 20 else 1 if 21 <= place <= 24 else 2 if 26 <= place <= 28 else None
        if part is not None and values[4] < 1000:
            assert left[part][values] > 0
            left[part][values] -= 1
            days[part].add(day.timetuple().tm_yday)
    assert not any(sum(counter.values()) for counter in left)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert all(abs(a - b) > 1 for a in days[one] for b in days[other])


def test_what_the_tables_read_is_packaged_with_its_terms():
    with (files.PACKAGE.parents[1] / "pyproject.toml").open("rb") as file:
        globs = tomllib.load(file)["tool"]["setuptools"]["package-data"]["nfbook"]
    packaged = {path for glob in globs for path in files.PACKAGE.parent.glob(glob)}
    for name in ("diamonds", "weather"):
        assert {
            files.PACKAGE / name / f"{name}.csv.gz",
            files.PACKAGE / name / "LICENSE",
        } <= packaged


def test_a_table_is_read_afresh():
    first = weather().rows.train
    first.zero_()
    assert weather().rows.train[0, 0] == 39.02
