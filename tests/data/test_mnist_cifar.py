"""MNIST, Fashion-MNIST and CIFAR-10, read from files written here in their real formats, whole and broken."""

import os
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from support.image_files import (
    CIFAR_ROWS,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    one_line,
    truncate,
    whole,
    write_cifar_binary,
    write_idx,
    write_mnist,
)
from torchvision import datasets as torchvision_datasets

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS, Dataset
from dfm.data.published.mnist_cifar import CIFAR10, MNIST, FashionMNIST

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


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
    monkeypatch.setattr(FashionMNIST, "system_folders", (str(tmp_path / "system"),))
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
    monkeypatch.setattr(FashionMNIST, "system_folders", ())
    with pytest.raises(UserError, match="download is off") as error:
        source(root=str(tmp_path), download=False)
    assert str(tmp_path) in one_line(error)
    assert "dataset.root=DIR" in str(error.value)


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, CIFAR10])
def test_without_a_network_the_error_says_where_to_put_the_files(source, tmp_path, monkeypatch):
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(FashionMNIST, "system_folders", ())
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    dataset = source(root=str(tmp_path))
    with pytest.raises(UserError, match="no route to host") as error:
        dataset.split("train")
    assert f"put them into {tmp_path}" in one_line(error)


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
