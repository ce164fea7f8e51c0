"""Small stand-ins for downloaded data sets, written in their real formats."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS, Dataset
from support.hub_files import picture_parquet, picture_shards

RNG = np.random.default_rng(0)
TRAIN_IMAGES, TEST_IMAGES = (RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (30, 12))
TRAIN_LABELS, TEST_LABELS = (RNG.integers(0, 10, n, dtype=np.uint8) for n in (30, 12))
CIFAR_ROWS = {
    name: RNG.integers(0, 256, (4, 3073), dtype=np.uint8) % np.array([10] + [256] * 3072)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
}


def write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    data = header + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.with_name(f"{path.name}.gz") if packed else path
    target.write_bytes(gzip.compress(data) if packed else data)


def write_mnist(raw: Path, packed: bool = False) -> None:
    write_idx(raw / "train-images-idx3-ubyte", TRAIN_IMAGES, packed)
    write_idx(raw / "train-labels-idx1-ubyte", TRAIN_LABELS, packed)
    write_idx(raw / "t10k-images-idx3-ubyte", TEST_IMAGES, packed)
    write_idx(raw / "t10k-labels-idx1-ubyte", TEST_LABELS, packed)


def write_cifar_binary(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in CIFAR_ROWS.items():
        (directory / f"{name}.bin").write_bytes(rows.astype(np.uint8).tobytes())


def write_image(path: Path, colour: tuple[int, ...] = (10, 200, 30), size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new({3: "RGB", 4: "RGBA"}[len(colour)], size, colour).save(path)
    return path


def many(root: Path, n: int, start: int = 0) -> None:
    """n images whose colour is their number."""
    for i in range(start, start + n):
        write_image(root / f"{i:03}.png", (i, i, i), (4, 4))


def write_everything(root: Path) -> None:
    """Small stand-ins, in the real formats, for all data that the presets look for."""
    for source in ("MNIST", "FashionMNIST"):
        write_mnist(root / source / "raw")
    write_cifar_binary(root / "cifar-10-batches-bin")
    write_image(root / "pictures" / "a" / "1.png")
    picture_shards(root / "shards")
    np.save(root / "points.npy", RNG.normal(size=(60, 3)).astype(np.float32))


def overrides_for(option: str, root: Path) -> list[str]:
    """Write what ``dataset=option`` looks for below ``root``; the overrides that make it look there."""
    write_everything(root)
    for name in ("b/2.png", "b/3.png", "c/4.png"):
        write_image(root / "pictures" / name)
    if option == "folder":
        return [f"dataset.path={root / 'pictures'}", "dataset.validation=0", "dataset.test=0.5"]
    if option == "array":
        return [f"dataset.path={root / 'points.npy'}"]
    if option in ("mnist", "fashion_mnist", "cifar10"):
        return [f"dataset.root={root}", "dataset.validation=4"]
    hub = ["dataset.size=16", f"dataset.cache={root}", "dataset.validation=0.3"]
    if option == "hf":
        pytest.importorskip("datasets")
        picture_parquet(root / "parquet", 24)
        return [
            f"dataset.path={root / 'parquet'}",
            "dataset.size=16",
            f"dataset.cache={root}",
            "dataset.validation=0.3",
        ]
    if option == "webdataset":
        picture_shards(root / "shards")
        return [f"dataset.path={root / 'shards'}", *hub]
    return []


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def whole(dataset: Dataset, names: tuple[str, ...] = SPLITS) -> torch.Tensor:
    return torch.cat([dataset.split(name).all() for name in names])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
