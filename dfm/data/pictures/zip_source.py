"""A zip of pictures, read as it is: nothing is unpacked to the disk."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dfm.basics.errors import UserError
from dfm.data.pictures.source import LABELS, Found, Listing, PictureSource, ending_of, endings

ONE_FILE, ALL_FILES = 2**30, 2**40  # bytes of one file and of all files, unpacked
RATIO, SMALL = 1000, 2**20  # unpacked bytes for each packed one, in files above SMALL; a photograph has about 1


class ZipSource(PictureSource):
    """All pictures in a zip.

    A single folder around everything is no class: its name is left out, unless it is the name of a split.

    Args:
        path: the zip.
        kept: names of folders that stay, even if they hold everything.
    """

    def __init__(self, path: Path, kept: frozenset[str] = frozenset()) -> None:
        self.path, self.where, self._kept = path, str(path), {*kept, ""}
        self.identity = str(path.resolve())
        self._names: dict[str, str] = {}  # our name: the zip's name
        self._zip: zipfile.ZipFile | None = None

    @contextmanager
    def session(self) -> Iterator[None]:
        with self._open() as self._zip:
            yield
        self._zip = None

    def opened(self, name: str) -> IO[Any]:
        assert self._zip is not None, "a session is needed"
        return self._zip.open(self._names[name])

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
            raise UserError(
                f"dataset folder: {self.path} cannot be read as a zip ({problem}); allowed: a whole zip, or a folder"
            ) from None

    def _list(self) -> Listing:
        with self._open() as archive:
            entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
        if (total := sum(entry.file_size for entry in entries.values())) > ALL_FILES:
            raise UserError(
                f"dataset folder: {self.path} unpacks to {total:,} bytes; allowed: at most {ALL_FILES:,} in all"
            )
        names = {self._safe(entry): entry for entry in entries.values()}
        shown = {name: entry for name, entry in names.items() if not _hidden(name)}
        listing = Listing(hidden=len(names) - len(shown))
        wrapper = self._wrapper([name for name in shown if _of_use(name.rpartition("/")[2])])
        for name, entry in shown.items():
            self._take(name.removeprefix(wrapper), entry, listing)
        return listing

    def _wrapper(self, names: list[str]) -> str:
        """Return the single folder around all files, with its '/', or an empty text."""
        tops = {name.partition("/")[0] if "/" in name else "" for name in names}
        return f"{tops.pop()}/" if len(tops) == 1 and not tops & self._kept else ""

    def _take(self, name: str, entry: zipfile.ZipInfo, listing: Listing) -> None:
        if not _of_use(name):
            listing.endings[ending_of(name)] += 1
            return
        self._names[name] = entry.filename
        if name == LABELS:
            listing.labels_file = name
        else:
            listing.pictures.append(Found(name, (entry.file_size, entry.CRC)))

    def _safe(self, entry: zipfile.ZipInfo) -> str:
        """Return the name of a file with '/' in place of a Windows backslash.

        Raises:
            UserError: the name leads out of the zip, or the file is encrypted or of an absurd size.
        """
        name = entry.filename.replace("\\", "/")
        problem = ""
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            problem = "a name that leads out of the zip; allowed: names of files inside it"
        elif entry.flag_bits & 1:
            problem = "it is encrypted; allowed: a zip without a password"
        elif entry.file_size > ONE_FILE:
            problem = f"it unpacks to {entry.file_size:,} bytes; allowed: at most {ONE_FILE:,} for one file"
        elif entry.file_size > max(SMALL, RATIO * entry.compress_size):
            problem = f"{entry.compress_size:,} bytes unpack to {entry.file_size:,}; allowed: {RATIO:,} times at most"
        if problem:
            raise UserError(f"dataset folder: {self.path}: {entry.filename}: {problem}")
        return name


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _of_use(name: str) -> bool:
    return name == LABELS or ending_of(name) in endings()
