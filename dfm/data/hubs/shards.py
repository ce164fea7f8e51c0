"""WebDataset shards: tar files in which the files of one example stand together and share a name up to the first dot.

Python's own ``tarfile`` reads them. The library ``webdataset`` streams and shuffles shards, which a file of decoded
examples makes needless; and it runs what follows ``pipe:`` in a path as a command. The grouping is the same
(tests/data/hubs/test_web_dataset.py compares).
"""

import glob
import io
import itertools
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.data.hubs.source import Listing, Source, numbered
from dfm.data.pictures.source import endings
from dfm.data.rows.partition import SPLIT_NAMES, SPLITS, share

ENDINGS = (".tar", ".tar.gz", ".tgz")
_ARRAY = "npy"
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")  # an example's name, and the ending that says what the file is
ONE_FILE = 2**30  # bytes
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Shard:
    """A tar file, and the split that its examples belong to."""

    path: Path
    split: str


def braces(text: str) -> list[str]:
    """Return the texts that ``{000..012}`` and ``{a,b}`` in a text stand for, as a shell does; zeros in front stay."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        return [text]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        inner = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        inner = found[1].split(",")
    return [whole for one in inner for whole in braces(text[: found.start()] + one + text[found.end() :])]


def shards_of(paths: str | Sequence[str], name: str, split: str | None = None) -> list[Shard]:
    """Return the shards that paths mean: files, folders, globs, or lists of them in braces.

    Without ``split``, a shard belongs to the split that a word of its name, or of the name of its folder, says; to
    train if there is no such word, or no shard for train.

    Raises:
        UserError: a path means no file.
    """
    found: list[Path] = []
    for text in [paths] if isinstance(paths, str) else paths:
        for one in braces(str(located(text))):
            files = _files(one)
            if not files:
                raise UserError(
                    f"dataset {name}: {one}: no shard there; allowed: a file that ends in {', '.join(ENDINGS)}, a "
                    "folder of them, a glob, or a list in braces such as a-{000..012}.tar"
                )
            found += files
    if split is not None:
        return [Shard(path, split) for path in found]
    told = [_split_in(path.name) or _split_in(path.parent.name) or "train" for path in found]
    return [Shard(path, one if "train" in told else "train") for path, one in zip(found, told, strict=True)]


def holds_shards(text: str) -> bool:
    """Whether a path means tar files, by their endings."""
    return any(file.name.endswith(ENDINGS) for one in braces(text) for file in _files(one))


def _files(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.name.endswith(ENDINGS) and not file.name.startswith("."))
        return sorted(file for file in inside if file.is_file())  # a pipe would be waited for
    files = [path] if path.exists() else map(Path, sorted(glob.glob(text)))
    return [file for file in files if file.is_file()]


def _split_in(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


@dataclass(frozen=True)
class Member:
    """A file in a shard: the name of its example, its own ending, and how to read it while the shard is there."""

    key: str
    ending: str
    read: Callable[[], bytes]


class ShardSource(Source):
    """Examples in shards.

    Args:
        shards: in the order in which they are read.
        arrays: whether an example is an array (``.npy``) or a picture.
        member: the ending of the file that is the example; None: the first picture, or ``npy``.
        label: the ending of the file with the class, ``cls`` or ``json.KEY``; None: no classes.
        optional: whether there are no classes if no example has that file.
        name: what messages call the data set.
    """

    def __init__(
        self, shards: Sequence[Shard], arrays: bool, member: str | None, label: str | None, optional: bool, name: str
    ) -> None:
        self.shards, self.arrays, self.member, self.label, self.name = shards, arrays, member, label, name
        self.optional = optional
        more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        self.where = f"{shards[0].path}{more}"
        self.identity = repr(([str(shard.path.resolve()) for shard in shards], arrays, member, label, optional))
        self._names: list[str] = []

    def stamp(self) -> str:
        facts = [os.stat(shard.path) for shard in self.shards]
        return repr([(shard.split, f.st_size, f.st_mtime_ns) for shard, f in zip(self.shards, facts, strict=True)])

    def named(self, row: int) -> str:
        return self._names[row] if row < len(self._names) else super().named(row)

    def listing(self) -> Listing:
        splits: list[int] = []
        labels: list[object] = []
        self._names = []
        ending = None if self.label is None else self.label.partition(".")[0]
        for shard in self.shards:
            for key, files in self._examples(shard, lambda member, _: member.ending == ending):
                splits.append(SPLITS.index(shard.split))
                self._names.append(f"{shard.path.name}: {key}")
                labels.append(self._label(next(iter(files.values()), None)))
        shares = np.array([share(text) for text in self._names], np.float64)
        numbers, names = self._numbered(labels)
        return Listing(splits=np.array(splits, np.int8), shares=shares, labels=numbers, class_names=names)

    def values(self) -> Iterator[object]:
        for shard in self.shards:
            for _, files in self._examples(shard, lambda _, is_value: is_value):
                (content,) = files.values()
                yield _array(content) if self.arrays else content

    def _numbered(self, labels: list[object]) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if self.label is None or (self.optional and all(label is None for label in labels)):
            return None, ()
        problem = next(
            (f"{self._names[row]} has no class in .{self.label}" for row, label in enumerate(labels) if label is None),
            "",
        )
        if problem:
            raise UserError(
                f"dataset {self.name}: {problem}; allowed: a class of each example, dataset.labels=ENDING or json.KEY; "
                "try dataset.labels=false"
            )
        return numbered(labels, f"dataset {self.name}: {self.where}, .{self.label}")

    def _label(self, content: bytes | None) -> object:
        """Return the class in a file: a whole number, or a text; None if there is none."""
        _, _, key = (self.label or "").partition(".")
        try:
            text = (content or b"").decode().strip()
            if key:
                return json.loads(text)[key]
            return int(text) if re.fullmatch(r"-?\d+", text) else text or None
        except (KeyError, ValueError, TypeError, IndexError):
            return None

    def _is_value(self, ending: str) -> bool:
        if self.member is not None:
            return ending == self.member
        return ending == _ARRAY if self.arrays else f".{ending.rpartition('.')[2]}" in endings()

    def _examples(self, shard: Shard, wanted: Callable[[Member, bool], bool]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Yield the name of each example of a shard, and those of its files that are wanted, by ending.

        Args:
            wanted: of a file, and whether it is the example itself.
        """
        for key, members in itertools.groupby(self._members(shard), lambda member: member.key):
            files, complete = {}, False
            for member in members:
                is_value = not complete and self._is_value(member.ending)
                complete = complete or is_value
                if wanted(member, is_value):
                    files[member.ending] = member.read()
            if complete:
                yield key, files

    def _members(self, shard: Shard) -> Iterator[Member]:
        try:
            with tarfile.open(shard.path, "r:*") as archive:
                while (entry := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined] # a shard has many, and none is asked for again
                    match = _NAME.fullmatch(entry.name)
                    if entry.isfile() and match:
                        yield Member(match[1], match[2].lower(), partial(_read, archive, entry))
        except _BROKEN as problem:
            why = str(problem).partition(":\n")[0]  # below it, a line for each compression that was tried
            raise UserError(
                f"dataset {self.name}: {shard.path} cannot be read as a tar file ({why}); allowed: whole shards"
            ) from None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > ONE_FILE:
        raise tarfile.TarError(f"{member.name} has {member.size:,} bytes; allowed: {ONE_FILE:,}")
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _array(content: bytes) -> object:
    """Return the array of a .npy file; None if it is none. Pickled objects are never read."""
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
