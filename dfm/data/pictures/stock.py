"""All pictures of a source in one array, decoded once, and what was seen on the way."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dfm.basics.errors import UserError
from dfm.basics.files import write_json, write_text
from dfm.data.memory_map import free_memory, memory_map
from dfm.data.pictures.decoder import VERSION, Decoder
from dfm.data.pictures.pixels import EIGHT, SIXTEEN, is_deep
from dfm.data.pictures.source import Found, PictureSource

MANY = 10_000  # pictures; their decoding takes some seconds
_EXAMPLES = 3  # broken files that an error names; a file lists the rest
_AT_A_TIME = 500  # pictures whose depth one thread looks up
# The first bytes of files that may have more than 8 bits a channel, but for PNG: TIFF, PGM and PPM, SGI, JPEG 2000.
_MAY_BE_DEEP = (b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6", b"\x01\xda", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen while the pictures were decoded.

    Args:
        levels: 256 or 65,536, of the array.
        transparent: the number of pictures with a pixel that is not opaque.
        deep: the number of pictures with more than 8 bits a channel.
        broken: row, name and reason of each picture that cannot be used; its row holds zeros.
    """

    levels: int
    transparent: int
    deep: int
    broken: list[tuple[int, str, str]]


def fill(
    values: np.ndarray, source: PictureSource, pictures: Sequence[Found], decoder: Decoder, num_workers: int
) -> Facts:
    """Decode every picture into its row of ``values`` (N, C, H, W), by several threads."""

    def decode(row: int) -> tuple[bool, bool] | str:
        found = pictures[row]
        if found.problem:
            return found.problem
        try:
            with source.opened(found.name) as file:
                decoded = decoder.decode(file, found.name)
        except Exception as problem:  # Pillow's plug-ins raise nearly any exception on a broken file
            return " ".join(str(problem).split()) or type(problem).__name__
        values[row] = decoded.values
        return decoded.transparent, decoded.deep

    # The limit belongs to the whole process, so we set it around the threads and not inside them.
    with source.session(), decoder.limited(), ThreadPoolExecutor(num_workers) as pool:
        seen = list(pool.map(decode, range(len(pictures))))
    whole = [one for one in seen if not isinstance(one, str)]
    broken = [(row, pictures[row].name, one) for row, one in enumerate(seen) if isinstance(one, str)]
    return Facts(
        levels=decoder.levels, transparent=sum(a for a, _ in whole), deep=sum(b for _, b in whole), broken=broken
    )


def any_deep(source: PictureSource, pictures: Sequence[Found], num_workers: int) -> bool:
    """Return whether a picture has more than 8 bits a channel, from the heads of the files alone."""

    def deep(found: Found) -> bool:
        try:
            with source.opened(found.name) as file:
                head = file.read(26)
                if head.startswith(b"\x89PNG"):
                    return head[24:25] == b"\x10"
                if not head.startswith(_MAY_BE_DEEP):
                    return False
                file.seek(0)
                with Image.open(file) as picture:
                    return is_deep(picture, file)
        except Exception:  # it is found to be broken later, where it is decoded
            return False

    sound = [found for found in pictures if not found.problem]
    parts = [sound[start : start + _AT_A_TIME] for start in range(0, len(sound), _AT_A_TIME)]
    with source.session(), ThreadPoolExecutor(num_workers) as pool:
        return any(pool.map(lambda part: any(map(deep, part)), parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Stock:
    """All pictures of a source as one array, in memory or mapped from a file that the next run finds again.

    Args:
        source: where the pictures lie.
        pictures: in the order of the rows.
        decoder: makes the rows; its ``levels`` are taken from here.
        levels: 256, 65,536, or None for what the pictures have: 65,536 if one of them has more than 8 bits.
        skip: whether broken pictures are left out. Otherwise they end the start.
        num_workers: threads that decode.
        cache: the folder of the file.
        name: what messages call the data set, and the first word of the file's name.
        order: what else the order of the pictures depends on, so that each has a file of its own.
    """

    source: PictureSource
    pictures: Sequence[Found]
    decoder: Decoder
    levels: int | None
    skip: bool
    num_workers: int
    cache: Path
    name: str
    order: tuple[object, ...] = ()

    @cached_property
    def depth(self) -> int:
        """The levels of the array. The files are looked at only if neither ``levels`` nor the cache tells them."""
        if self.levels is not None:
            return self.levels
        if len(self.pictures) > MANY and (kept := self._kept_facts()) is not None:
            return kept.levels
        return SIXTEEN if any_deep(self.source, self.pictures, self.num_workers) else EIGHT

    @cached_property
    def facts(self) -> Facts:
        """What was seen. It decodes the pictures."""
        return self._all[1]

    @cached_property
    def values(self) -> np.ndarray:
        """All pictures, uint8 or uint16 (N, C, H, W).

        Raises:
            UserError: pictures are broken, or neither the memory nor ``cache`` has room for them.
        """
        return self._all[0]

    @cached_property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about the pictures, a line each."""
        facts, decoder = self.facts, replace(self.decoder, levels=self.facts.levels)
        lines = list(self.source.listing.notice(self.source.where))
        lines += decoder.told(facts.transparent, facts.deep, len(self.pictures))
        if facts.broken:
            lines.append(f"{self._broken(facts)}; left out (dataset.broken=skip)")
        return tuple(lines)

    @cached_property
    def _all(self) -> tuple[np.ndarray, Facts]:
        decoder = replace(self.decoder, levels=self.depth)
        assert decoder.height_width is not None, "one array has one size"
        kind = np.uint8 if self.depth == EIGHT else np.uint16
        shape = (len(self.pictures), decoder.channels, *decoder.height_width)
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
        fits = size <= free_memory() / 2
        seen: list[Facts] = []

        def write(values: np.ndarray) -> None:
            seen.append(fill(values, self.source, self.pictures, decoder, self.num_workers))
            self._check(seen[0])

        def write_both(values: np.ndarray) -> None:
            write(values)
            write_json(self._facts_file, asdict(seen[0]))

        if not fits or shape[0] > MANY:
            try:
                values = memory_map(self._file, shape, write_both, kind, self._facts_file)
                facts = seen[0] if seen else self._kept_facts()
                if facts is not None:
                    self._check(facts)
                    return values, facts
            except OSError as problem:
                if not fits:
                    raise UserError(
                        f"dataset {self.name}: {size / 2**30:.1f} GiB fit neither half of the free memory nor "
                        f"{self.cache} ({problem.strerror}); try a smaller dataset.size, or dataset.cache=DIR on a "
                        "larger disk"
                    ) from None
        values = np.zeros(shape, dtype=kind)
        write(values)
        return values, seen[0]

    def _check(self, facts: Facts) -> None:
        if facts.broken and not self.skip:
            raise UserError(f"{self._broken(facts)}; repair or remove them, or try dataset.broken=skip")

    def _broken(self, facts: Facts) -> str:
        """Return a line with the first broken pictures; a file lists all if there are more."""
        told = [f"{name} ({reason})" for _, name, reason in facts.broken]
        rest = ""
        if len(told) > _EXAMPLES:
            rest = f" and {len(told) - _EXAMPLES} more"
            listed = self.cache / f"{self._family}.broken.txt"
            with suppress(OSError):
                self.cache.mkdir(parents=True, exist_ok=True)
                write_text(
                    listed,
                    "".join(f"{ascii(line)[1:-1]}\n" if not line.isprintable() else f"{line}\n" for line in told),
                )
                rest += f", all in {listed}"
        return (
            f"dataset {self.name}: {len(told):,} of {len(self.pictures):,} pictures in {self.source.where} cannot be "
            f"used: {'; '.join(told[:_EXAMPLES])}{rest}"
        )

    @cached_property
    def _family(self) -> str:
        """The cache file's name without its end: source and form of the examples."""
        decoder = replace(self.decoder, levels=EIGHT)
        form = (VERSION, self.source.identity, decoder, self.levels, self.order, find_spec("cv2") is not None)
        return f"{self.name}-{hashlib.sha256(repr(form).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"

    @cached_property
    def _file(self) -> Path:
        """The cache file; its name changes with the files, their dates and sizes, and their order."""
        digest = hashlib.sha256()
        for found in self.pictures:
            digest.update(repr((found.name, *found.stamp)).encode("utf-8", "surrogateescape"))
        return self.cache / f"{self._family}-{digest.hexdigest()[:16]}.values"

    @cached_property
    def _facts_file(self) -> Path:
        return self._file.with_suffix(".json")

    def _kept_facts(self) -> Facts | None:
        try:
            content = json.loads(self._facts_file.read_bytes())
            broken = [(int(row), str(name), str(reason)) for row, name, reason in content.pop("broken")]
            return Facts(**content, broken=broken)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
