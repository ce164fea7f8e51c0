"""A folder of pictures at any depth, with linked folders."""

import os
import stat
from pathlib import Path
from typing import IO, Any

from dfm.basics.errors import UserError
from dfm.data.pictures.source import LABELS, Found, Listing, PictureSource, ending_of, endings

_OWN = 2  # folders down to this depth keep a record of their own of what was read below them


class FolderSource(PictureSource):
    """All pictures below a folder.

    Links to files and to folders are followed. Below each folder of the first two levels, which may be a class, a
    folder is read once, however many links lead to it. So links in a circle come to an end, and classes may share a
    linked folder. A file is looked up on the disk once.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self.identity = str(root.resolve())

    def opened(self, name: str) -> IO[Any]:
        return open(os.path.join(self.where, name), "rb")

    def _list(self) -> Listing:
        listing = Listing()
        try:
            self._read("", listing, {_identity(os.stat(self.where))}, 0)
        except OSError as problem:
            raise UserError(
                f"dataset folder: {self.where} cannot be read ({problem.strerror}); allowed: a folder that you may read"
            ) from None
        return listing

    def _read(self, here: str, listing: Listing, seen: set[tuple[int, int]], depth: int) -> None:
        """Add all below the folder ``here``, which is empty or ends with '/'."""
        with os.scandir(os.path.join(self.where, here)) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith("."):
                listing.hidden += 1
            elif entry.is_dir():
                self._enter(entry, here, listing, seen, depth)
            elif entry.name == LABELS and not here:
                listing.labels_file = entry.name
            elif (ending := ending_of(entry.name)) in endings():
                listing.pictures.append(_picture(entry, here))
            else:
                listing.endings[ending] += 1

    def _enter(
        self, entry: "os.DirEntry[str]", here: str, listing: Listing, seen: set[tuple[int, int]], depth: int
    ) -> None:
        below = f"{here}{entry.name}/"
        try:
            identity = _identity(entry.stat())
            if identity in seen:
                listing.loops += 1
                return
            if depth >= _OWN:
                seen.add(identity)
            self._read(below, listing, seen if depth >= _OWN else {*seen, identity}, depth + 1)
        except OSError as problem:
            listing.pictures.append(Found(below, (), problem.strerror or type(problem).__name__))


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _picture(entry: "os.DirEntry[str]", here: str) -> Found:
    name = here + entry.name
    try:
        facts = entry.stat()
    except OSError as problem:
        lost = entry.is_symlink()
        return Found(name, (), "a link to a file that is not there" if lost else problem.strerror or "no file")
    # to open a pipe or a device could last for ever
    reason = "" if stat.S_ISREG(facts.st_mode) else "not a file with bytes of its own"
    return Found(name, (facts.st_size, facts.st_mtime_ns), reason)
