"""Data sets against the libraries they come from, closed forms, and files written here in the real formats."""

import dataclasses
import importlib.util
import math
import os
import pickle
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dataset_files import (
    CIFAR_ROWS,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    write_cifar_binary,
    write_everything,
    write_idx,
    write_image,
    write_mnist,
)
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import datasets as torchvision_datasets

from dfm.datasets import SPLITS, Dataset, Split, folder
from dfm.datasets.base import DatasetSpec, moments, scale_levels
from dfm.datasets.digits import Digits
from dfm.datasets.folder import Folder
from dfm.datasets.mixture import Mixture
from dfm.datasets.toys import Checkerboard, EightGaussians, Moons, SwissRoll
from dfm.datasets.vision import CIFAR10, MNIST, FashionMNIST
from dfm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted((ROOT / "configs" / "dataset").glob("*.yaml"))
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def whole(dataset: Dataset, names: tuple[str, ...] = SPLITS) -> torch.Tensor:
    return torch.cat([dataset.split(name).values for name in names])


# ---- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "overrides", "shape", "levels", "num_classes", "flip"),
    [
        ("digits", {}, (1, 8, 8), 17, 10, False),
        ("mnist", {"validation": 5}, (1, 28, 28), 256, 10, False),
        ("fashion_mnist", {"validation": 5}, (1, 28, 28), 256, 10, False),
        ("cifar10", {"validation": 5}, (3, 32, 32), 256, 10, True),
        ("folder", {"path": "pictures", "validation": 0, "test": 0}, (3, 32, 32), 256, 1, False),
        ("moons", {}, (2,), None, 2, False),
        ("checkerboard", {}, (2,), None, 0, False),
        ("eight_gaussians", {}, (2,), None, 8, False),
        ("swiss_roll", {}, (2,), None, 0, False),
        ("mixture", {}, (2,), None, 3, False),
    ],
)
def test_preset(preset, overrides, shape, levels, num_classes, flip, tmp_path, monkeypatch):
    write_everything(tmp_path)
    monkeypatch.setenv("DFM_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    dataset = instantiate(OmegaConf.merge(OmegaConf.load(ROOT / "configs" / "dataset" / f"{preset}.yaml"), overrides))
    spec = dataset.spec
    assert (spec.name, spec.shape, spec.levels, spec.num_classes) == (preset, shape, levels, num_classes)
    assert dataset.flip is flip
    assert dataset.split("train") is dataset.split("train"), "loaded once"
    for name in SPLITS:
        split = dataset.split(name)
        assert tuple(split.values.shape[1:]) == shape
        assert split.values.dtype == (torch.float32 if levels is None else torch.uint8)
        assert (split.labels is None) == (num_classes == 0)
    plain = dataclasses.asdict(spec).values()
    assert {type(value) for value in plain} <= {str, tuple, int, float, type(None)}, (
        "checkpoints hold plain values only"
    )


def test_every_preset_has_a_row_above():
    rows = test_preset.pytestmark[0].args[1]
    assert [path.stem for path in PRESETS] == sorted(row[0] for row in rows)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_states_every_option_and_its_default(path):
    preset = OmegaConf.load(path)
    fields = {f.name: f.default for f in dataclasses.fields(get_class(preset._target_)) if f.init}
    assert set(preset) - {"_target_"} == set(fields)
    illustrated = {"root", "cache"} | ({"means", "covariances", "weights"} if path.stem == "mixture" else set())
    for name in set(fields) - illustrated:
        assert preset[name] == fields[name], name
    assert path.read_text().startswith("# "), "says what it is"


# ---- what all share --------------------------------------------------------------------------------------------------


def test_unknown_split_is_refused_with_the_names():
    with pytest.raises(UserError, match="train, validation"):
        Digits().split("valid")


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_moments_of_images_are_those_of_dequantized_pixels(levels):
    """Brute force: every pixel dequantised many times."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(10, 1, 8, 8, generator=generator).square() * levels).to(torch.uint8)
    u = torch.rand(1000, *values.shape, generator=generator, dtype=torch.float64)
    data = 2 * (values + u) / levels - 1
    mean, std = moments(values, levels)
    squares = (data - mean).square()
    assert abs(data.mean() - mean) < 4 * data.std() / math.sqrt(data.numel())
    assert abs(squares.mean() - std**2) < 4 * squares.std() / math.sqrt(data.numel())
    torch.testing.assert_close(scale_levels(values + u, levels), data)


def test_moments_of_points_average_the_variances_of_coordinates():
    """Coordinates far apart: a plain standard deviation of all numbers would be 50."""
    values = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 4.0])
    mean, std = moments(values + torch.tensor([0.0, 100.0]), None)
    assert mean == pytest.approx(50, abs=0.2)
    assert std == pytest.approx(math.sqrt((9 + 16) / 2), rel=0.03)


class Given(Dataset):
    """A user's own data set, possibly wrong."""

    name, levels, num_classes = "given", 4, 2

    def __init__(self, values: torch.Tensor, labels: torch.Tensor | None) -> None:
        self.values, self.labels = values, labels

    def _load(self) -> dict[str, Split]:
        return {name: Split(values=self.values, labels=self.labels) for name in SPLITS}


@pytest.mark.parametrize(
    ("values", "labels", "words"),
    [
        (torch.full((1, 1, 2, 2), 4, dtype=torch.uint8), None, "a pixel of 4; allowed: 0 to 3"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([2]), "labels 2 to 2; allowed: 0 to 1"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1]), "labels -1 to -1"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), "allowed: int64 (1,)"),
        (torch.zeros(1, 1, 2, 2), None, "allowed: uint8 (N, C, H, W)"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), None, "no training examples"),
    ],
)
def test_a_wrong_data_set_is_refused(values, labels, words):
    with pytest.raises(UserError) as error:
        _ = Given(values, labels).spec
    assert words in one_line(error)


def test_a_constant_data_set_is_refused():
    with pytest.raises(UserError, match="std above 0"):
        DatasetSpec(name="flat", shape=(2,), levels=None, num_classes=0, mean=1.0, std=0.0)


# ---- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_each_once():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    dataset = Digits()
    assert [len(dataset.split(name)) for name in SPLITS] == [1297, 200, 300]
    rows = [row for name in SPLITS for row in digit_rows(dataset.split(name))]
    expected = zip(sklearn.images.astype(np.uint8), sklearn.target, strict=True)
    assert sorted(rows) == sorted((image.tobytes(), int(label)) for image, label in expected)


def digit_rows(split: Split) -> list[tuple[bytes, int]]:
    assert split.labels is not None
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.values, split.labels, strict=True)]


def test_digits_are_stratified():
    """Each class has its share of each split, to within the rounding of three counts."""
    counts = torch.stack([Digits().split(name).labels.bincount() for name in SPLITS]).double()
    share = counts.sum(0) * counts.sum(1, keepdim=True) / counts.sum()
    assert ((counts - share).abs() < 2).all()


def test_digits_file_is_what_its_script_makes(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("make_digits", ROOT / "scripts" / "make_digits.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["make_digits.py", str(tmp_path / "digits.npz")])
    script.main()
    made, shipped = np.load(tmp_path / "digits.npz"), np.load(ROOT / "dfm" / "datasets" / "digits.npz")
    assert set(made) == set(shipped)
    assert all(np.array_equal(made[name], shipped[name]) for name in made)


# ---- MNIST, Fashion-MNIST --------------------------------------------------------------------------------------------


def assert_is_written(dataset: Dataset, validation: int) -> None:
    """Train and validation are the written train part, in order; test is the test part."""
    train, held, test = (dataset.split(name) for name in SPLITS)
    assert len(held) == validation
    both = torch.cat([train.values, held.values]).squeeze(1)
    np.testing.assert_array_equal(both.numpy(), TRAIN_IMAGES)
    np.testing.assert_array_equal(torch.cat([train.labels, held.labels]).numpy(), TRAIN_LABELS)
    np.testing.assert_array_equal(test.values.squeeze(1).numpy(), TEST_IMAGES)
    np.testing.assert_array_equal(test.labels.numpy(), TEST_LABELS)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["MNIST/raw", "."])
@pytest.mark.parametrize("validation", [0, 7])
def test_mnist_is_read_from_files_at_hand(tmp_path, below, packed, validation):
    write_mnist(tmp_path / below, packed)
    before = sorted(tmp_path.rglob("*"))
    assert_is_written(MNIST(root=str(tmp_path), download=False, validation=validation), validation)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked into the user's folder"


def test_fashion_mnist_of_the_system_is_found_by_itself(tmp_path, monkeypatch):
    write_mnist(tmp_path / "system", packed=True)
    monkeypatch.setattr(FashionMNIST, "installed", (str(tmp_path / "system"),))
    assert_is_written(FashionMNIST(root=str(tmp_path / "nothing"), validation=3), 3)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_has_the_published_moments(tmp_path):
    """The mean and deviation that everyone normalises with, 0.2860 and 0.3530 of pixels in [0, 1]."""
    dataset = FashionMNIST(root=str(tmp_path), download=False)
    assert [len(dataset.split(name)) for name in SPLITS] == [59_000, 1_000, 10_000]
    pixels = whole(dataset, ("train", "validation")).double() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)
    assert dataset.spec.mean == pytest.approx(2 * (255 * 0.2860 + 0.5) / 256 - 1, abs=2e-3)


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


def write_cifar_python(directory: Path) -> dict[str, str]:
    """The python version's files; returns their MD5 sums."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in CIFAR_ROWS.items():
        batch = {"data": rows[:, 1:].astype(np.uint8), "labels": [int(label) for label in rows[:, 0]]}
        (directory / name).write_bytes(pickle.dumps(batch))
    (directory / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    return {path.name: torchvision_datasets.utils.calculate_md5(path) for path in directory.iterdir()}


def assert_is_cifar(dataset: CIFAR10) -> None:
    rows = np.concatenate([CIFAR_ROWS[f"data_batch_{i}"] for i in range(1, 6)])
    images = whole(dataset, ("train", "validation"))
    assert images.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(images.numpy().reshape(20, -1), rows[:, 1:])
    labels = torch.cat([dataset.split(name).labels for name in ("train", "validation")])
    np.testing.assert_array_equal(labels.numpy(), rows[:, 0])
    np.testing.assert_array_equal(dataset.split("test").values.numpy().reshape(4, -1), CIFAR_ROWS["test_batch"][:, 1:])


@pytest.mark.parametrize("below", ["cifar-10-batches-bin", "."])
def test_cifar_binary_version(tmp_path, below):
    write_cifar_binary(tmp_path / below)
    assert_is_cifar(CIFAR10(root=str(tmp_path), download=False, validation=6))


@pytest.mark.parametrize("inside", [False, True])
def test_cifar_python_version_with_the_published_sums(tmp_path, monkeypatch, inside):
    python = tmp_path / "cifar-10-batches-py"
    sums = write_cifar_python(python)
    source = torchvision_datasets.CIFAR10
    monkeypatch.setattr(source, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(source, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums["batches.meta"]})
    assert_is_cifar(CIFAR10(root=str(python if inside else tmp_path), download=False, validation=6))


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_cifar_pickles_that_are_not_the_published_ones_are_never_opened(tmp_path):
    python = tmp_path / "cifar-10-batches-py"
    write_cifar_python(python)
    for path in python.iterdir():
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="MD5") as error:
        CIFAR10(root=str(tmp_path)).split("train")
    one_line(error)
    assert not (tmp_path / "sprung").exists()


# ---- files that are missing or broken --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, CIFAR10])
def test_missing_files_are_an_error_at_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "installed", ())
    with pytest.raises(UserError, match="download is off") as error:
        source(root=str(tmp_path), download=False)
    assert str(tmp_path) in one_line(error)
    assert "dataset.root=DIR" in str(error.value)


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, CIFAR10])
def test_without_a_network_the_error_says_where_to_put_the_files(source, tmp_path, monkeypatch):
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(FashionMNIST, "installed", ())
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    dataset = source(root=str(tmp_path))
    with pytest.raises(UserError, match="no route to host") as error:
        dataset.split("train")
    assert f"put them into {tmp_path}" in one_line(error)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"<html>not found</html>")])
def test_a_broken_idx_file_is_named(tmp_path, packed, damage):
    write_mnist(tmp_path, packed)
    file = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    damage(file)
    with pytest.raises(UserError, match="not a whole idx file") as error:
        MNIST(root=str(tmp_path)).split("train")
    assert str(file) in one_line(error)


def test_images_without_labels_are_refused(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", TRAIN_LABELS[:-1], packed=False)
    with pytest.raises(UserError, match="30 images but 29 labels") as error:
        MNIST(root=str(tmp_path)).split("train")
    one_line(error)


def test_a_broken_binary_batch_is_named(tmp_path):
    write_cifar_binary(tmp_path)
    truncate(tmp_path / "data_batch_3.bin")
    with pytest.raises(UserError, match=r"data_batch_3\.bin: 12192 bytes") as error:
        CIFAR10(root=str(tmp_path)).split("train")
    one_line(error)


@pytest.mark.parametrize("validation", [-1, 30])
def test_validation_must_leave_something_to_train_on(tmp_path, validation):
    write_mnist(tmp_path)
    with pytest.raises(UserError, match="validation=") as error:
        MNIST(root=str(tmp_path), validation=validation).split("train")
    one_line(error)


# ---- folders ---------------------------------------------------------------------------------------------------------


def many(root: Path, n: int, start: int = 0) -> None:
    """n images whose colour is their number."""
    for i in range(start, start + n):
        write_image(root / f"{i:03}.png", (i, i, i), (4, 4))


def numbers(dataset: Folder) -> dict[str, set[int]]:
    return {name: set(dataset.split(name).values[:, 0, 0, 0].tolist()) for name in SPLITS}


def test_sub_folders_are_classes_by_sorted_name(tmp_path):
    write_image(tmp_path / "zebra" / "deep" / "2.JPG", (0, 0, 250))
    write_image(tmp_path / "ant" / "1.png", (250, 0, 0))
    write_image(tmp_path / "bee" / "1.bmp", (0, 250, 0))
    write_image(tmp_path / ".hidden" / "1.png")
    write_image(tmp_path / "ant" / ".2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    dataset = Folder(path=str(tmp_path), size=8, validation=0, test=0)
    train = dataset.split("train")
    assert dataset.spec.num_classes == 3
    assert train.values.shape == (3, 3, 8, 8)
    assert train.labels.tolist() == [0, 1, 2]
    assert train.values.amax((2, 3)).argmax(1).tolist() == [0, 1, 2]


def test_a_linked_class_is_followed(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    assert len(Folder(path=str(tmp_path / "data"), validation=0, test=0).split("train")) == 1


@pytest.mark.parametrize("nested", [False, True])
def test_without_classes_there_are_no_labels(tmp_path, nested):
    write_image(tmp_path / ("a/1.png" if nested else "1.png"))
    dataset = Folder(path=str(tmp_path), labels=not nested, validation=0, test=0)
    assert dataset.num_classes == 0
    assert dataset.split("train").labels is None


def test_adding_images_moves_none_to_another_split(tmp_path):
    many(tmp_path, 100)
    before = numbers(Folder(path=str(tmp_path), size=4, validation=0.2, test=0.3))
    assert set.union(*before.values()) == set(range(100))
    assert sum(map(len, before.values())) == 100
    # binomial: 100 draws of probability 0.3, 0.2, within 4 deviations
    assert abs(len(before["test"]) - 30) < 4 * math.sqrt(21)
    assert abs(len(before["validation"]) - 20) < 4 * math.sqrt(16)
    many(tmp_path, 100, start=100)
    after = numbers(Folder(path=str(tmp_path), size=4, validation=0.2, test=0.3))
    assert all(before[name] <= after[name] for name in SPLITS)


@pytest.mark.parametrize(("ending", "width", "height"), [("png", 96, 48), ("png", 40, 60), ("jpg", 1000, 700)])
@pytest.mark.parametrize(("size", "height_width"), [(16, (16, 16)), ([8, 24], (8, 24)), ([24, 8], (24, 8))])
def test_images_are_resized_and_cropped_about_the_centre(tmp_path, size, height_width, ending, width, height):
    """A smooth picture, against the same function of position computed at the target's pixel centres."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([250 * rows / height, 250 * columns / width, 125 + 0 * rows], 2)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / f"1.{ending}", quality=95)
    image = Folder(path=str(tmp_path), size=size, validation=0, test=0).split("train").values[0].numpy()
    h, w = height_width
    scale = min(width / w, height / h)
    y = height / 2 + (np.arange(h) + 0.5 - h / 2) * scale
    x = width / 2 + (np.arange(w) + 0.5 - w / 2) * scale
    expected = np.stack(np.broadcast_arrays((250 * y / height)[:, None], (250 * x / width)[None], 125))
    inner = (slice(None), slice(1, -1), slice(1, -1))  # at a border the filter sees half a neighbourhood
    np.testing.assert_allclose(image.astype(float)[inner], expected[inner], atol=2)


def test_shrinking_averages_instead_of_skipping(tmp_path):
    """Stripes one pixel wide become grey; without antialiasing they would stay black or white."""
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).save(tmp_path / "1.png")
    image = Folder(path=str(tmp_path), size=8, channels=1, validation=0, test=0).split("train").values
    assert (image[..., 1:-1].float() - 127.5).abs().max() < 5


@pytest.mark.parametrize("size", [7, 13, 31, 100])
@pytest.mark.parametrize("source", [(3, 999), (101, 97), (33, 32)])
def test_any_size_is_reached_from_any_other(tmp_path, size, source):
    write_image(tmp_path / "1.png", size=source)
    image = Folder(path=str(tmp_path), size=size, validation=0, test=0).split("train").values
    assert image[0].flatten(1).unique(dim=1).tolist() == [[10], [200], [30]]


def test_exif_orientation_is_obeyed(tmp_path):
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    image.getexif()[0x0112] = 6  # turn right by a quarter: the first pixel ends at the upper right
    image.save(tmp_path / "1.png", exif=image.getexif())
    values = Folder(path=str(tmp_path), size=[4, 2], channels=1, validation=0, test=0).split("train").values
    assert values[0, 0].tolist() == [[0, 255], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, [round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)]), (3, [10, 200, 30]), (4, [10, 200, 30, 255])],
)
def test_channels(tmp_path, channels, expected):
    write_image(tmp_path / "1.png")
    dataset = Folder(path=str(tmp_path), size=2, channels=channels, validation=0, test=0)
    assert dataset.split("train").values[0, :, 0, 0].tolist() == expected


def test_images_too_many_for_memory_are_mapped_from_a_file_and_found_again(tmp_path, monkeypatch):
    many(tmp_path / "data", 20)
    options = {"path": str(tmp_path / "data"), "size": 4, "cache": str(tmp_path / "cache")}
    in_memory = whole(Folder(**options))
    monkeypatch.setattr(folder, "_free_memory", lambda: 0)
    assert torch.equal(whole(Folder(**options)), in_memory)
    (mapped,) = (tmp_path / "cache").iterdir()
    assert mapped.stat().st_size == in_memory.numel()
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode", None)
        assert torch.equal(whole(Folder(**options)), in_memory), "no image is decoded again"
    write_image(tmp_path / "data" / "003.png", (255, 255, 255))
    assert whole(Folder(**options)).max() == 255, "a changed image is"


def test_images_too_many_for_memory_and_disk_are_refused(tmp_path, monkeypatch):
    write_image(tmp_path / "1.png")
    monkeypatch.setattr(folder, "_free_memory", lambda: 0)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="try a smaller") as error:
        Folder(path=str(tmp_path), cache=str(tmp_path), validation=0, test=0).split("train")
    one_line(error)


def test_all_broken_images_are_reported_together(tmp_path, monkeypatch):
    many(tmp_path, 3)
    (tmp_path / "a.png").write_text("no image")
    truncate(write_image(tmp_path / "b.bmp"))
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "c.png")
    write_image(tmp_path / "d.png", size=(5, 5))
    write_image(tmp_path / "e.png", size=(50, 5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)  # 4x4 passes, 5x5 warns, 50x5 raises
    monkeypatch.setattr(folder, "_NAMED", 4)
    with pytest.raises(UserError) as error:
        Folder(path=str(tmp_path), validation=0, test=0).split("train")
    text = one_line(error)
    assert "5 of 8 images" in text
    assert all(name in text for name in ("a.png", "b.bmp", "c.png", "d.png", "decompression bomb", "and 1 more"))


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        (["1.png"], {"path": None}, "dataset.path=DIR"),
        (["1.png"], {"path": "nowhere"}, "nowhere is not a folder"),
        ([], {}, "allowed: files ending in .bmp, .gif, .jpeg, .jpg"),
        (["1.png", "a/1.png"], {}, "dataset.labels=false"),
        (["1.png"], {"channels": 2}, "allowed: 1, 3, 4"),
        (["1.png"], {"size": 0}, "size=0"),
        (["1.png"], {"size": [1, 2, 3]}, "[height, width]"),
        (["1.png"], {"validation": 0.5, "test": 0.5}, "together below 1"),
        (["1.png"], {"validation": -0.1}, "at least 0"),
        (["1.png"], {"num_workers": 0}, "num_workers=0"),
    ],
)
def test_a_wrong_folder_is_refused_at_once(files, options, words, tmp_path):
    for file in files:
        write_image(tmp_path / file)
    with pytest.raises(UserError) as error:
        Folder(**{"path": str(tmp_path), **options})
    assert words in one_line(error)


# ---- points ----------------------------------------------------------------------------------------------------------

TOYS = [Moons, Checkerboard, EightGaussians, SwissRoll]


@pytest.mark.parametrize("toy", TOYS)
def test_splits_and_seeds_are_independent_and_reproducible(toy):
    sizes = {"n_train": 500, "n_validation": 100, "n_test": 200}
    dataset = toy(**sizes)
    assert [len(dataset.split(name)) for name in SPLITS] == [500, 100, 200]
    assert torch.equal(whole(dataset), whole(toy(**sizes)))
    everything = torch.cat([whole(dataset), whole(toy(**sizes, seed=1))])
    assert len(everything.unique(dim=0)) == 1600, "no point is in two splits, or under two seeds"


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("options", [{"n_train": 0}, {"n_test": -1}, {"seed": -1}])
def test_wrong_sizes_are_refused_at_once(toy, options):
    with pytest.raises(UserError, match="allowed") as error:
        toy(**options)
    one_line(error)


def same_law(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Kolmogorov-Smirnov on four directions."""
    for direction in np.array([[1, 0], [0, 1], [1, 1], [1, -1]]):
        assert ks_2samp(ours.numpy() @ direction, theirs @ direction).pvalue > 1e-3


def test_moons_and_eight_gaussians_are_torchcfms():
    torchcfm = pytest.importorskip("torchcfm.utils")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)  # torchdyn draws from the global generator
        moons, gaussians = torchcfm.sample_moons(4000), torchcfm.sample_8gaussians(4000)
    same_law(Moons().split("test").values, moons.numpy())
    same_law(EightGaussians().split("test").values, gaussians.numpy())


def test_swiss_roll_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    points, _ = sklearn.make_swiss_roll(10_000, noise=1.0, random_state=0)
    same_law(SwissRoll().split("test").values, points[:, [0, 2]] / 5)


def test_moons_have_the_documented_mean_and_labels():
    train = Moons().split("train")
    error = train.values.std(0) / math.sqrt(len(train))
    assert ((train.values.mean(0) - torch.tensor([0.8, 0.05])).abs() < 4 * error).all()
    upper = train.values[train.labels == 0]
    assert upper[:, 1].min() >= -1 - 1e-6, "the upper moon starts at height 0, scaled to -1"
    assert abs(len(upper) / len(train) - 0.5) < 4 * 0.5 / math.sqrt(len(train))


def test_checkerboard_is_uniform_on_its_dark_fields():
    points = Checkerboard().split("train").values
    fields = (points / 2).floor().long()
    assert points.abs().max() <= 4
    assert (fields.sum(1) % 2 == 0).all()
    counts = torch.unique(fields, dim=0, return_counts=True)[1].double()
    expected = len(points) / 8
    assert len(counts) == 8
    assert ((counts - expected).square() / expected).sum() < 24.3  # chi-square of 7 degrees, p = 0.001
    inside = (points / 2 - fields).flatten().numpy()
    assert ks_2samp(inside, np.linspace(0, 1, 20_001)).pvalue > 1e-3


def test_eight_gaussians_labels_are_angles_and_the_mixture_is_exact():
    dataset = EightGaussians()
    train = dataset.split("train")
    angle = torch.atan2(train.values[:, 1], train.values[:, 0])
    turn = (angle - train.labels * math.pi / 4 + math.pi) % (2 * math.pi) - math.pi
    assert turn.abs().max() < math.pi / 4
    radius = torch.stack([train.values[train.labels == k].mean(0) for k in range(8)]).norm(dim=1)
    torch.testing.assert_close(radius, torch.full((8,), 5.0), atol=0.04, rtol=0)
    assert dataset.spec.std == pytest.approx(math.sqrt(dataset.mixture.variance), rel=0.01)


# ---- mixtures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("covariances", "expected"),
    [
        (0.25, [[[0.25, 0], [0, 0.25]]] * 3),
        ([1.0, [1.0, 2.0], [[2.0, 1.0], [1.0, 2.0]]], [[[1, 0], [0, 1]], [[1, 0], [0, 2]], [[2, 1], [1, 2]]]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, OmegaConf.create], ids=["lists", "omegaconf"])
def test_covariances_are_numbers_diagonals_or_matrices(covariances, expected, wrap):
    given = wrap(covariances) if isinstance(covariances, list) else covariances
    dataset = Mixture(means=wrap([[0, 0], [1, 1], [2, 3]]), covariances=given, weights=wrap([1, 1, 2]))
    assert dataset.mixture.covariances.tolist() == expected
    assert dataset.mixture.weights.tolist() == [0.25, 0.25, 0.5]


def test_one_gaussian_has_no_labels():
    dataset = Mixture(means=[[0, 0, 0]], covariances=0.25, n_test=4)
    assert dataset.split("test").labels is None
    assert dataset.spec.shape == (3,)
    assert dataset.spec.num_classes == 0
    assert dataset.spec.std == pytest.approx(0.5, rel=0.02)


def test_labels_are_the_components():
    dataset = Mixture(means=[[-50, 0], [50, 0]], n_train=200)
    train = dataset.split("train")
    assert torch.equal(train.labels, (train.values[:, 0] > 0).long())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"means": [[0, 0], [1]]}, "equal length"),
        ({"means": [0, 0]}, "lists of numbers"),
        ({"means": []}, "lists of numbers"),
        ({"means": [["a", 0]]}, "equal length"),
        ({"means": [[0, 0]], "covariances": [1, 1]}, "2 covariances for 1 means"),
        ({"means": [[0, 0]], "covariances": [[1, 1, 1]]}, "2x2"),
        ({"means": [[0, 0]], "covariances": -1}, "positive definite"),
        ({"means": [[0, 0]], "weights": [1, 1]}, "weights (K,)"),
        ({"means": [[0, 0], [1, 1]], "weights": [1, -0.5]}, "positive"),
        ({"means": [[0, 0]], "n_train": 0}, "n_train=0"),
    ],
)
def test_a_wrong_mixture_is_refused_at_once(options, words):
    with pytest.raises(UserError) as error:
        Mixture(**options)
    assert words in one_line(error)
