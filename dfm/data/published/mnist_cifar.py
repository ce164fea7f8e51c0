"""MNIST, Fashion-MNIST and CIFAR-10, from local files or by torchvision's download.

A folder that already has the files is used as it is, without the network. The files may have torchvision's layout or
their original names, and they may be packed or not.
"""

import http.client
import socket
import tempfile
import zlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.dataset import Dataset, Split

_SECONDS_WITHOUT_ANSWER = 30.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Vision(Dataset):
    """A published set of 8-bit images with ten classes and a train and a test part.

    Args:
        root: folder of the files, which the download writes to; ``~`` is the home folder.
        download: whether to download missing files on first use.
        validation: number of training images, taken from the end, that form the validation split.
        flip: whether training may mirror images left to right.

    Raises:
        UserError: the files are missing and download is off; ``validation`` is negative.
    """

    root: PathText = "~/.cache/dfm"
    download: bool = True
    validation: int = 1000
    flip: bool = False

    levels = 256
    num_classes = 10
    sources = ("root",)
    handling = ("download",)
    source: ClassVar[str]  # torchvision's name for it
    shape: ClassVar[tuple[int, int, int]]

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        return cls.shape

    @classmethod
    def _source(cls) -> Any:
        """Return torchvision's class. To import it takes more than a second, which users of other data are spared."""
        from torchvision import datasets

        return getattr(datasets, cls.source)

    def __post_init__(self) -> None:
        if self.validation < 0:
            raise UserError(f"dataset {self.name}: validation={self.validation}; allowed: 0 or a number of images")
        if not self.download and self._complete_folder() is None:
            raise self._no_files("download is off (dataset.download=true turns it on)")

    @abstractmethod
    def _candidates(self) -> list[Path]:
        """Return the folders that may have the files, best first."""

    @abstractmethod
    def _is_complete(self, folder: Path) -> bool:
        """Whether ``folder`` has all files."""

    @abstractmethod
    def _read(self, folder: Path, train: bool) -> Split:
        """Read one part from a complete folder."""

    @property
    def _folder(self) -> Path:
        return located(self.root)

    def _complete_folder(self) -> Path | None:
        return next((folder for folder in self._candidates() if self._is_complete(folder)), None)

    def _no_files(self, why: str) -> UserError:
        places = ", ".join(str(folder) for folder in self._candidates())
        return UserError(
            f"dataset {self.name}: no files in {places}, and {why}; "
            f"put them into {self._candidates()[0]}, or give dataset.root=DIR where they are"
        )

    def _load(self) -> Mapping[str, Split]:
        if self._complete_folder() is None and self.download:
            self._fetch()
        folder = self._complete_folder()
        if folder is None:
            raise self._no_files("the download brought none")
        train, test = self._read(folder, train=True), self._read(folder, train=False)
        if self.validation >= len(train):
            raise UserError(
                f"dataset {self.name}: validation={self.validation} of {len(train)} training images; "
                f"allowed: 0 to {len(train) - 1}"
            )
        cut = len(train) - self.validation
        return {"train": _part(train, slice(cut)), "validation": _part(train, slice(cut, None)), "test": test}

    def _fetch(self) -> None:
        """Download by torchvision, which checks MD5 sums before it unpacks."""
        before = socket.getdefaulttimeout()
        # torchvision sets no timeout, and a firewall that drops packets would stop the run for minutes
        socket.setdefaulttimeout(_SECONDS_WITHOUT_ANSWER)
        try:
            self._source()(str(self._folder), download=True)
        except (OSError, RuntimeError, EOFError, http.client.HTTPException) as problem:
            raise self._no_files(f"the download failed ({_last_line(problem)})") from problem
        finally:
            socket.setdefaulttimeout(before)


def _part(split: Split, rows: slice) -> Split:
    labels = split.labels
    return Split(values=split.values[rows], labels=None if labels is None else labels[rows])


def _last_line(problem: Exception) -> str:
    """Return the last line of a message: torchvision lists every mirror on its own line, and the cause comes last."""
    lines = str(problem).strip().splitlines()
    return lines[-1] if lines else type(problem).__name__


class _Idx(Vision):
    """A data set in MNIST's own format: four idx files, plain or gzipped."""

    shape = (1, 28, 28)
    system_folders: ClassVar[tuple[str, ...]] = ()

    def _candidates(self) -> list[Path]:
        own = self._folder / self.source / "raw"  # where torchvision puts them
        return [own, self._folder, *map(Path, self.system_folders)]

    def _is_complete(self, folder: Path) -> bool:
        parts = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        return all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in parts)

    def _read(self, folder: Path, train: bool) -> Split:
        part = "train" if train else "t10k"
        images = _idx(folder / f"{part}-images-idx3-ubyte")
        labels = _idx(folder / f"{part}-labels-idx1-ubyte")
        if len(images) != len(labels):
            raise UserError(
                f"dataset {self.name}: {len(images)} images but {len(labels)} labels in {folder}; "
                "allowed: equal numbers; replace the files"
            )
        return Split(values=images.unsqueeze(1), labels=labels)


def _idx(path: Path) -> Tensor:
    """Read images uint8 (N, H, W) or labels int64 (N,) from an idx file by torchvision; unpack it first if needed."""
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import extract_archive

    read = read_image_file if "idx3" in path.name else read_label_file
    archive = path.with_name(f"{path.name}.gz")
    source = path if path.is_file() else archive
    try:
        if source is path:
            return read(str(path))
        # We do not unpack beside the packed file: we cannot write into a system folder.
        with tempfile.TemporaryDirectory() as scratch:
            extract_archive(str(archive), scratch)
            return read(str(Path(scratch) / path.name))
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError, OSError, EOFError, zlib.error) as problem:
        raise UserError(f"{source}: not a whole idx file; remove it to have it downloaded, or replace it") from problem


@dataclass(frozen=True, kw_only=True, eq=False)
class MNIST(_Idx):
    """70,000 handwritten digits (1, 28, 28); LeCun, Cortes, Burges. train 59,000, validation 1,000, test 10,000."""

    name = "mnist"
    source = "MNIST"


@dataclass(frozen=True, kw_only=True, eq=False)
class FashionMNIST(_Idx):
    """70,000 pictures of clothes (1, 28, 28); Xiao, Rasul, Vollgraf 2017. train 59,000, validation 1,000, test 10,000.

    Debian's package ``dataset-fashion-mnist`` is found without a setting.
    """

    name = "fashion_mnist"
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    source = "FashionMNIST"
    system_folders = ("/usr/share/datasets/fashion-mnist",)


@dataclass(frozen=True, kw_only=True, eq=False)
class CIFAR10(Vision):
    """60,000 small photographs (3, 32, 32); Krizhevsky 2009. train 49,000, validation 1,000, test 10,000.

    Two layouts can be read. The *binary version* (``cifar-10-batches-bin``) has rows of one label byte and 3,072 pixel
    bytes, which we read with NumPy. The *python version* (``cifar-10-batches-py``) has pickles, which can run code when
    they are opened. We read it through torchvision, which opens a file only if its MD5 sum is the published one: only
    the authors' own bytes are ever unpickled, and a changed file is refused.
    """

    flip: bool = True

    name = "cifar10"
    class_names = (*("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),)
    shape = (3, 32, 32)
    source = "CIFAR10"

    def _candidates(self) -> list[Path]:
        binary, python = "cifar-10-batches-bin", self._source().base_folder
        return [self._folder / python, self._folder / binary, self._folder]

    def _is_complete(self, folder: Path) -> bool:
        return _has(folder, _binary_names(True) + _binary_names(False)) or self._is_python(folder)

    def _is_python(self, folder: Path) -> bool:
        source = self._source()
        names = [name for name, _ in source.train_list + source.test_list]
        return folder.name == source.base_folder and _has(folder, names)

    def _read(self, folder: Path, train: bool) -> Split:
        if not self._is_python(folder):
            parts = [_cifar_rows(folder / name) for name in _binary_names(train)]
            rows = np.concatenate(parts)
            images = torch.from_numpy(rows[:, 1:]).reshape(-1, 3, 32, 32)
            return Split(values=images.contiguous(), labels=torch.from_numpy(rows[:, 0].astype(np.int64)))
        try:
            part = self._source()(str(folder.parent), train=train)
        except RuntimeError as problem:
            raise UserError(
                f"dataset {self.name}: a file in {folder} is not the published one (its MD5 sum differs); "
                "remove the folder to have it downloaded, or use the binary version"
            ) from problem
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        return Split(values=images, labels=torch.tensor(part.targets))


def _has(folder: Path, names: list[str]) -> bool:
    return all((folder / name).is_file() for name in names)


def _binary_names(train: bool) -> list[str]:
    return [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]


def _cifar_rows(path: Path) -> np.ndarray:
    """Read uint8 (N, 3073): a label byte, then the red, green and blue planes of 32 rows of 32 pixels."""
    data = np.fromfile(path, dtype=np.uint8)
    if data.size == 0 or data.size % 3073:
        raise UserError(f"{path}: {data.size} bytes; allowed: a multiple of 3073 above 0; replace the file")
    return data.reshape(-1, 3073)
