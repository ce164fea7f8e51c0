"""Images of one's own: any tree of files, sub-folders as classes, decoded once and kept as bytes."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.memory_map import memory_map

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MANY = 10_000  # images: their decoding takes some seconds
DECODER = 1  # goes up when ``decode`` gives other pixels, so that files of older ones are not read
_NAMED = 3  # how many broken files an error names before it only counts


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(Dataset):
    """Images below ``path``, resized and cropped to one size, as uint8 (N, C, H, W).

    Classes are the folders directly below ``path`` that hold images at any depth, by sorted name. If the images lie in
    ``path`` itself, or ``labels`` is off, there are none. An image's split depends on its own path below ``path``
    alone: adding or removing others never moves it, so a grown folder never leaks test images into training. The
    fractions are therefore met only on average.

    Each image is turned as its EXIF entry says, cut to the largest centred rectangle of the target's shape and resized
    with Pillow's antialiased Lanczos filter: the same as resizing the shorter side and cropping the centre.

    Args:
        path: the folder; ``~`` is the home folder.
        size: pixels of both sides, or [height, width].
        channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        flip: whether training may mirror images left to right.
        labels: whether sub-folders are classes.
        validation, test: fractions of all images, each at least 0, their sum below 1.
        num_workers: threads that decode.
        cache: folder for the decoded images, as one file that later runs map into memory; used where there are more
            than ``MANY``, or they would fill more than half of the free memory. There is a file for each folder, form
            and share of the splits: one for images that have since changed is removed.

    Raises:
        UserError: an argument is not one of these; there are no images; images lie both in and below ``path``. On first
            use: images are broken, or neither memory nor ``cache`` can hold them.
    """

    path: str | None = None
    size: int | Sequence[int] = 32
    channels: int = 3
    flip: bool = False
    labels: bool = True
    validation: float = 0.05
    test: float = 0.05
    num_workers: int = 4
    cache: str = "~/.cache/dfm"

    name = "folder"
    levels = 256

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
        _ = self._height_width, self._images

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self._classes)

    @cached_property
    def _classes(self) -> list[str]:
        """Names of the folders that are classes; none if the images lie in ``path`` itself."""
        tops = {image.partition("/")[0] for image in self._images if "/" in image}
        return sorted(tops) if self.labels else []

    @cached_property
    def _root(self) -> Path:
        return Path(self.path or "").expanduser()

    @cached_property
    def _height_width(self) -> tuple[int, int]:
        sides = list(self.size) if isinstance(self.size, Sequence) else [self.size, self.size]
        if len(sides) != 2 or min(sides) < 1:
            raise UserError(f"dataset folder: size={self.size}; allowed: a count of pixels, or [height, width]")
        return sides[0], sides[1]

    @cached_property
    def _images(self) -> list[str]:
        """All images as paths below the root, with '/', in the order train, validation, test, in each by their hashes.

        So the first n of a split are of all classes, and not of those whose names come first.
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
        """How many images each split has."""
        return Counter(self._split_of(image) for image in self._images)

    def _split_of(self, image: str) -> str:
        """By ``_share``: below ``test``, below ``test + validation``, above."""
        share = _share(image)
        return "test" if share < self.test else "validation" if share < self.test + self.validation else "train"

    def _load(self) -> Mapping[str, Split]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a mapped file cannot be written: nothing writes to data
            values = torch.from_numpy(self._decoded())
        labels = None
        if self._classes:
            number = {name: index for index, name in enumerate(self._classes)}
            labels = torch.tensor([number[image.partition("/")[0]] for image in self._images])
        splits, start = {}, 0
        for name in SPLITS:
            end = start + self._counts[name]
            # slices of one array: no second copy, and a mapped file stays one
            splits[name] = Split(values=values[start:end], labels=None if labels is None else labels[start:end])
            start = end
        return splits

    def _decoded(self) -> np.ndarray:
        """uint8 (N, C, H, W) in memory, or mapped from a file that the next run finds again."""
        shape = (len(self._images), self.channels, *self._height_width)
        needed = int(np.prod(shape, dtype=np.int64))
        fits = needed <= _free_memory() / 2
        if not fits or shape[0] > MANY:
            try:
                return memory_map(self._kept(), shape, self._fill)
            except OSError as problem:
                if not fits:
                    raise UserError(
                        f"dataset folder: {needed / 2**30:.1f} GiB fit neither half of the free memory nor "
                        f"{self.cache} ({problem.strerror}); try a smaller dataset.size, or dataset.cache=DIR on a "
                        "larger disk"
                    ) from None
        values = np.empty(shape, dtype=np.uint8)
        self._fill(values)
        return values

    def _kept(self) -> Path:
        """The file of the cache: another one when a file, the date of its content or the form asked for changes."""
        kind = (DECODER, str(self._root.resolve()), self.channels, self._height_width, self.validation, self.test)
        form = hashlib.sha256(repr(kind).encode("utf-8", "surrogateescape"))
        digest = hashlib.sha256()
        for image in self._images:
            facts = os.stat(os.path.join(self._root, image))  # a Path each would take longer than the call
            digest.update(repr((image, facts.st_size, facts.st_mtime_ns)).encode("utf-8", "surrogateescape"))
        name = f"folder-{form.hexdigest()[:16]}-{digest.hexdigest()[:16]}.uint8"
        return Path(self.cache).expanduser() / name

    def _fill(self, values: np.ndarray) -> None:
        """Decode every image into its row; all that fail are reported together."""

        def fill(row: int) -> str | None:
            try:
                values[row] = decode(self._root / self._images[row], self._height_width, self.channels)
            except Exception as problem:  # Pillow's plug-ins raise nearly anything on a broken file
                return f"{self._images[row]} ({' '.join(str(problem).split()) or type(problem).__name__})"
            return None

        # The filter is global to the process, hence around the threads and not inside them.
        with warnings.catch_warnings(), ThreadPoolExecutor(self.num_workers) as pool:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            broken = [message for message in pool.map(fill, range(len(values))) if message]
        if broken:
            more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
            raise UserError(
                f"dataset folder: {len(broken)} of {len(values)} images in {self._root} cannot be used: "
                f"{'; '.join(broken[:_NAMED])}{more}; repair or remove them"
            )


def _share(image: str) -> float:
    """A number in [0, 1) made from an image's path below the root."""
    return int.from_bytes(hashlib.sha256(image.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def decode(path: Path, height_width: tuple[int, int], channels: int) -> np.ndarray:
    """One image file -> uint8 (C, H, W): turned upright, centre-cropped, resized.

    Raises:
        ValueError: pixels of more than 8 bits, which Pillow would clip to white without a word.
    """
    height, width = height_width
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"pixel format {file.mode}; allowed: 8 bits a channel")
        image = ImageOps.exif_transpose(file).convert(_MODES[channels])
    scale = min(image.width / width, image.height / height)
    # min: rounding must not push the box over the edge, which Pillow refuses
    cut = [(whole - min(whole, scale * side)) / 2 for whole, side in zip(image.size, (width, height), strict=True)]
    box = (cut[0], cut[1], image.width - cut[0], image.height - cut[1])
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _images_below(root: Path) -> list[str]:
    """Paths below root, with '/', of files with an image's ending; hidden files and folders are left out."""
    found = []
    tops = [root, *(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))]
    for top in tops:  # each class on its own: os.walk enters a linked folder only where it starts
        for folder, folders, names in os.walk(top):
            folders[:] = [] if top == root else [name for name in folders if not name.startswith(".")]
            here = Path(folder).relative_to(root).as_posix()
            found += [name if here == "." else f"{here}/{name}" for name in names if _is_image(name)]
    return found


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _free_memory() -> int:
    """Bytes that programs may still take: Linux's own estimate, elsewhere half of what is built in."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
