"""A place where pictures lie: their names, and the bytes of each."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import IO, Any

from PIL import Image

# Formats that Pillow only recognises, or that another program would have to draw.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
_ENDINGS_TOLD = 6  # other endings that a notice names
LABELS = "dataset.json"  # the file with the classes, in the layout of EDM and StyleGAN


@cache
def endings() -> frozenset[str]:
    """Return the endings of all files that the installed Pillow decodes, such as ``.png``, in small letters."""
    Image.init()
    readable = set(Image.OPEN) - set(_NOT_DECODED)
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in readable)


def ending_of(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot, or an empty text."""
    stem, _, ending = name.rpartition("/")[2].rpartition(".")  # a Path for each of many files takes seconds
    return f".{ending.lower()}" if stem and ending else ""


@dataclass(frozen=True, slots=True)
class Found:
    """A picture file that was found and not yet read.

    Args:
        name: its path below the source, with '/'.
        stamp: numbers that change when the file changes, such as its size and date.
        problem: why it cannot be read, if that is known already.
    """

    name: str
    stamp: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture file that is opened where it is decoded, inside a session of its source."""

    source: "PictureSource"
    found: Found

    @property
    def name(self) -> str:
        return self.found.name

    def opened(self) -> IO[Any]:
        """Open the file to read its bytes.

        Raises:
            Exception: of any kind, if it cannot be read.
        """
        if self.found.problem:
            raise ValueError(self.found.problem)
        return self.source.opened(self.name)


@dataclass(kw_only=True)
class Listing:
    """All that a source holds.

    Args:
        pictures: the picture files, in any order.
        endings: how many files have another ending, by ending.
        hidden: how many files and folders have a name that begins with a dot.
        loops: how many links lead back to a folder that is being read.
        labels_file: the name of ``dataset.json``, if there is one above all pictures.
    """

    pictures: list[Found] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    loops: int = 0
    labels_file: str | None = None

    def notice(self, where: str) -> tuple[str, ...]:
        """Return one line that counts what is passed over; none if nothing is."""
        parts = []
        if self.endings:
            first = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))[:_ENDINGS_TOLD]
            most = ", ".join(f"{ending or 'none'} {n}" for ending, n in first)
            more = ", ..." if len(self.endings) > _ENDINGS_TOLD else ""
            parts.append(f"{self.endings.total():,} with other endings ({most}{more})")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        if self.loops:
            parts.append(f"{self.loops:,} linked folders that are read already")
        return (f"{where}: passed over {'; '.join(parts)}",) if parts else ()


class PictureSource(ABC):
    """A place where pictures lie. ``opened`` may be used by several threads at a time.

    Attributes:
        where: what messages call it.
        identity: a text that tells it from another source, for the name of its cache file.
    """

    where: str
    identity: str

    @abstractmethod
    def _list(self) -> Listing:
        """Find all pictures."""

    @cached_property
    def listing(self) -> Listing:
        """All that the source holds, looked up once.

        Raises:
            UserError: the source cannot be read.
        """
        return self._list()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep open, inside this block, what many calls of ``opened`` need."""
        yield

    @abstractmethod
    def opened(self, name: str) -> IO[Any]:
        """Open a file of this source to read its bytes.

        Raises:
            Exception: of any kind, if the file cannot be read.
        """
