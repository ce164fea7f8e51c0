"""A folder of your own images: any tree of files, with sub-folders as classes, decoded once and kept as bytes."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.memory_map import memory_map

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MANY = 10_000  # images; their decoding takes some seconds
DECODER = 1  # increase it when ``decode`` gives other pixels: older cache files are then not read
_EXAMPLES = 3  # broken files that an error names; it only counts the rest


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(Dataset):
    """Images below ``path``, resized and cropped to one size, as uint8 (N, C, H, W).

    The classes are the folders directly below ``path`` with images at any depth, sorted by name. There are no classes
    if the images lie in ``path`` itself or ``labels`` is false. The split of an image depends only on its own path
    below ``path``. Other images that come or go never move it, so no test image gets into training when the folder
    grows. The splits therefore have their fractions only on average.

    Each image is turned as its EXIF entry says, cut to the largest centred rectangle with the proportions of the
    result, and resized with Pillow's antialiased Lanczos filter. This equals resizing the shorter side and cropping the
    centre.

    Args:
        path: the folder; ``~`` is the home folder.
        size: pixels of both sides, or [height, width].
        channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        flip: whether training may mirror images left to right.
        labels: whether sub-folders are classes.
        validation, test: fractions of all images, each at least 0, together below 1.
        num_workers: threads that decode.
        cache: folder for the decoded images, in one file that later runs map into memory. It is used if there are more
            than ``MANY`` images, or if they would fill more than half of the free memory. Each combination of folder,
            image format and fractions has its own file. When the images change, a new file replaces the old one.

    Raises:
        UserError: an argument has another value, there are no images, none is left for training, or images lie both in
            and below ``path``. On
            first use: images are broken, or neither the memory nor ``cache`` has room for them.
    """

    path: PathText | None = None
    size: int | Sequence[int] = 32
    channels: int = 3
    flip: bool = False
    labels: bool = True
    validation: float = 0.05
    test: float = 0.05
    num_workers: int = 4
    cache: PathText = "~/.cache/dfm"

    name = "folder"
    levels = 256
    sources = ("path",)
    caches = ("cache",)
    handling = ("num_workers",)

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError("dataset folder: no path; give dataset.path=DIR, a folder with images")
        if self.channels not in _MODES:
            raise UserError(f"dataset folder: channels={self.channels}; allowed: 1, 3, 4")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise UserError(
                f"dataset folder: validation={self.validation}, test={self.test}; "
                "allowed: fractions of at least 0, together below 1"
            )
        if self.num_workers < 1:
            raise UserError(f"dataset folder: num_workers={self.num_workers}; allowed: at least 1")
        _ = self._height_width
        if not self._counts["train"]:
            raise UserError(
                f"dataset folder: no training example among {len(self._images)} images; by a hash of the path they are "
                f"all in the shares validation={self.validation:g} and test={self.test:g}; "
                "try dataset.validation=0 dataset.test=0"
            )

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self._classes)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._classes)

    @cached_property
    def _classes(self) -> list[str]:
        """The names of the folders that are classes; none if the images lie in ``path`` itself."""
        tops = {image.partition("/")[0] for image in self._images if "/" in image}
        return sorted(tops) if self.labels else []

    @cached_property
    def _root(self) -> Path:
        return located(self.path or "")

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        size, channels = arguments.get("size", cls.size), arguments.get("channels", cls.channels)
        sides = [size, size] if isinstance(size, int) else size
        numbers = [channels, *sides] if isinstance(sides, Sequence) else []
        whole = len(numbers) == 3 and all(isinstance(number, int) and number > 0 for number in numbers)
        return tuple(numbers) if whole else None  # a value of another kind is refused when the data set is made

    @cached_property
    def _height_width(self) -> tuple[int, int]:
        sides = list(self.size) if isinstance(self.size, Sequence) else [self.size, self.size]
        if len(sides) != 2 or min(sides) < 1:
            raise UserError(f"dataset folder: size={self.size}; allowed: a count of pixels, or [height, width]")
        return sides[0], sides[1]

    @cached_property
    def _images(self) -> list[str]:
        """All images as paths below the root, with '/', in the order train, validation, test.

        Within a split they are sorted by hash, so the first n come from all classes and not only from the first names.
        """
        if not self._root.is_dir():
            raise UserError(
                f"dataset folder: {self._root} is not a folder; give dataset.path=DIR, a folder with images"
            )
        images = sorted(_images_below(self._root))
        if not images:
            raise UserError(
                f"dataset folder: no image in {self._root}; allowed: files ending in {', '.join(EXTENSIONS)}"
            )
        loose = [image for image in images if "/" not in image]
        if self.labels and 0 < len(loose) < len(images):
            raise UserError(
                f"dataset folder: {self._root} has images ({loose[0]}) beside sub-folders with images; "
                "allowed: one or the other, or dataset.labels=false"
            )
        return sorted(images, key=lambda image: (SPLITS.index(self._split_of(image)), _share(image)))

    @cached_property
    def _counts(self) -> Mapping[str, int]:
        """The number of images of each split."""
        return Counter(self._split_of(image) for image in self._images)

    def _split_of(self, image: str) -> str:
        """Return the split of an image: test if its share is below ``test``, then validation, then train."""
        share = _share(image)
        return "test" if share < self.test else "validation" if share < self.test + self.validation else "train"

    def _load(self) -> Mapping[str, Split]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that the file is read-only: nothing writes to it
            values = torch.from_numpy(self._decode_all())
        labels = None
        if self._classes:
            number = {name: index for index, name in enumerate(self._classes)}
            labels = torch.tensor([number[image.partition("/")[0]] for image in self._images])
        splits, start = {}, 0
        for name in SPLITS:
            end = start + self._counts[name]
            # Slices of one array need no second copy, and a mapped file stays mapped.
            splits[name] = Split(values=values[start:end], labels=None if labels is None else labels[start:end])
            start = end
        return splits

    def _decode_all(self) -> np.ndarray:
        """Return all images, uint8 (N, C, H, W), in memory or mapped from a file that the next run finds again."""
        shape = (len(self._images), self.channels, *self._height_width)
        size = int(np.prod(shape, dtype=np.int64))
        fits = size <= _free_memory() / 2
        if not fits or shape[0] > MANY:
            try:
                return memory_map(self._cache_file(), shape, self._fill)
            except OSError as problem:
                if not fits:
                    raise UserError(
                        f"dataset folder: {size / 2**30:.1f} GiB fit neither half of the free memory nor "
                        f"{self.cache} ({problem.strerror}); try a smaller dataset.size, or dataset.cache=DIR on a "
                        "larger disk"
                    ) from None
        values = np.empty(shape, dtype=np.uint8)
        self._fill(values)
        return values

    def _cache_file(self) -> Path:
        """Return the cache file; its name changes with the files, their dates and sizes, and the image format."""
        kind = (DECODER, str(self._root.resolve()), self.channels, self._height_width, self.validation, self.test)
        form = hashlib.sha256(repr(kind).encode("utf-8", "surrogateescape"))
        digest = hashlib.sha256()
        for image in self._images:
            facts = os.stat(os.path.join(self._root, image))  # to make a Path takes longer than the call itself
            digest.update(repr((image, facts.st_size, facts.st_mtime_ns)).encode("utf-8", "surrogateescape"))
        name = f"folder-{form.hexdigest()[:16]}-{digest.hexdigest()[:16]}.uint8"
        return located(self.cache) / name

    def _fill(self, values: np.ndarray) -> None:
        """Decode every image into its row.

        Raises:
            UserError: images are broken; one message names them.
        """

        def fill(row: int) -> str | None:
            try:
                values[row] = decode(self._root / self._images[row], self._height_width, self.channels)
            except Exception as problem:  # Pillow's plug-ins raise nearly any exception on a broken file
                return f"{self._images[row]} ({' '.join(str(problem).split()) or type(problem).__name__})"
            return None

        # The filter belongs to the whole process, so we set it around the threads and not inside them.
        with warnings.catch_warnings(), ThreadPoolExecutor(self.num_workers) as pool:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            failures = [message for message in pool.map(fill, range(len(values))) if message]
        if failures:
            more = f" and {len(failures) - _EXAMPLES} more" if len(failures) > _EXAMPLES else ""
            raise UserError(
                f"dataset folder: {len(failures)} of {len(values)} images in {self._root} cannot be used: "
                f"{'; '.join(failures[:_EXAMPLES])}{more}; repair or remove them"
            )


def _share(image: str) -> float:
    """Return a number in [0, 1) that depends on an image's path below the root only."""
    return int.from_bytes(hashlib.sha256(image.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def decode(path: Path, height_width: tuple[int, int], channels: int) -> np.ndarray:
    """Decode one image file: turn it upright, crop the centre and resize it; uint8 (C, H, W).

    Raises:
        ValueError: pixels of more than 8 bits, which Pillow would clip to white without a message.
    """
    height, width = height_width
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"pixel format {file.mode}; allowed: 8 bits a channel")
        image = ImageOps.exif_transpose(file).convert(_MODES[channels])
    scale = min(image.width / width, image.height / height)
    # min(): rounding must not push the box over the edge, which Pillow refuses.
    margin = [(whole - min(whole, scale * side)) / 2 for whole, side in zip(image.size, (width, height), strict=True)]
    box = (margin[0], margin[1], image.width - margin[0], image.height - margin[1])
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _images_below(root: Path) -> list[str]:
    """Return the paths below root, with '/', of all files with an image's ending, without hidden files and folders."""
    images: list[str] = []
    tops = [root, *(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))]
    for top in tops:  # one walk for each class, because os.walk enters a linked folder only at its start
        for folder, folders, names in os.walk(top):
            folders[:] = [] if top == root else [name for name in folders if not name.startswith(".")]
            here = Path(folder).relative_to(root).as_posix()
            images += [name if here == "." else f"{here}/{name}" for name in names if _is_image(name)]
    return images


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _free_memory() -> int:
    """Return the free memory in bytes: Linux's own estimate, on other systems half of the machine's memory."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
