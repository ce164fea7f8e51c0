"""The array file of a source: every example decoded once, with an index of splits and labels beside it."""

import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.data.hubs.arrays import Arrays
from dfm.data.hubs.pictures import Pictures
from dfm.data.hubs.source import Listing, Source
from dfm.data.memory_map import memory_map

AT_A_TIME = 8  # examples for each thread that are in memory while they are decoded
INDEX = 2  # increase it when splits or classes are numbered otherwise: older files are then not read
EXAMPLES = 3  # broken ones that an error names


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known once all examples are decoded.

    Args:
        count: how many examples there are.
        lowest, highest: of all numbers that are integers; 0 for real numbers.
        broken: row, name and reason of each example that cannot be used; its row holds zeros.
        told: how many examples the form has changed, by what it was.
    """

    count: int
    lowest: int
    highest: int
    broken: list[tuple[int, str, str]]
    told: dict[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """All examples of a source as one array, mapped from a file that the next run and other processes find again.

    The file holds the examples in the order of the source. Which split an example belongs to is decided anew by every
    run, so other fractions need no other file.

    Args:
        name: what messages call the data set, and the first word of the file's name.
        source: where the examples come from.
        form: how an example becomes numbers.
        cache: the folder of the file.
        skip: whether broken examples are left out. Otherwise they end the start.
        num_workers: threads that decode.
    """

    name: str
    source: Source
    form: Pictures | Arrays
    cache: Path
    skip: bool
    num_workers: int

    @property
    def values(self) -> np.ndarray:
        """All examples, (N, C, ...)."""
        return self._all[0]

    @property
    def listing(self) -> Listing:
        """Splits and labels."""
        return self._all[1]

    @property
    def facts(self) -> Facts:
        """What was seen."""
        return self._all[2]

    @cached_property
    def _all(self) -> tuple[np.ndarray, Listing, Facts]:
        """
        Raises:
            UserError: the source cannot be read, examples are broken, or the disk has no room.
        """
        kept = self._kept()
        if kept is None:
            kept = self._written()
        values, listing, facts = kept
        self._check(facts)
        return values, listing, facts

    def notices(self) -> tuple[str, ...]:
        """Return a line for what the form has changed, and one that counts the examples that are left out."""
        changed = self.form.notices(self.name, self.facts.told, self.facts.count)
        left_out = (f"{self._broken(self.facts)}; left out (dataset.broken=skip)",) if self.facts.broken else ()
        return (*changed, *left_out)

    def _check(self, facts: Facts) -> None:
        if facts.broken and not self.skip:
            raise UserError(f"{self._broken(facts)}; repair them, or try dataset.broken=skip")

    def _broken(self, facts: Facts) -> str:
        told = "; ".join(f"{name} ({reason})" for _, name, reason in facts.broken[:EXAMPLES])
        more = f" and {len(facts.broken) - EXAMPLES} more" if len(facts.broken) > EXAMPLES else ""
        return (
            f"dataset {self.name}: {len(facts.broken):,} of {facts.count:,} examples of {self.source.where} cannot be "
            f"used: {told}{more}"
        )

    @cached_property
    def _file(self) -> Path:
        """The array's file, FAMILY-DIGEST.values: the family is source and form, the digest is the content."""
        family, digest = (
            hashlib.sha256(repr(text).encode("utf-8", "surrogateescape")).hexdigest()[:16]
            for text in ((INDEX, self.source.identity, self.form.key), self.source.stamp())
        )
        return self.cache / f"{self.name}-{family}-{digest}.values"

    @property
    def _index_file(self) -> Path:
        """The index has another first word than the array's file, whose family holds that file alone."""
        return self._file.with_name(f"index-{self._file.stem}.npz")

    def _kept(self) -> tuple[np.ndarray, Listing, Facts] | None:
        """Return what an earlier run has written; None if it is not whole."""
        try:
            listing, facts, shape, dtype = _read_index(self._index_file)
            if self._file.stat().st_size == int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
                return np.memmap(self._file, dtype=dtype, mode="r", shape=shape), listing, facts
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _written(self) -> tuple[np.ndarray, Listing, Facts]:
        """Decode all examples into the file, unless another process is doing so; then wait for it."""
        listing = self.source.listing()
        if len(listing) == 0:
            raise UserError(f"dataset {self.name}: no examples in {self.source.where}; allowed: at least 1")
        shape, dtype = self._form(len(listing))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

        def fill(raw: np.ndarray) -> None:
            facts = self._fill(raw.view(dtype).reshape(shape))
            self._check(facts)
            _write_index(self._index_file, listing, facts, shape, dtype)
            for old in self.cache.glob(f"{self._index_file.stem.rpartition('-')[0]}-*.npz"):
                with suppress(OSError):  # another user's file, in a shared folder
                    if old != self._index_file:
                        old.unlink(missing_ok=True)

        try:
            memory_map(self._file, (size,), fill)
            kept = self._kept()
            if kept is None:  # the array is there, and its index is not
                self._file.unlink(missing_ok=True)
                memory_map(self._file, (size,), fill)
                kept = self._kept()
        except OSError as problem:
            raise UserError(
                f"dataset {self.name}: {size / 2**30:.2g} GiB of decoded examples cannot be written to {self.cache} "
                f"({problem.strerror}); try dataset.cache=DIR on a larger disk"
            ) from None
        if kept is None:
            raise UserError(f"{self._index_file}: changed while it was read; run the command once more")
        return kept

    def _form(self, n: int) -> tuple[tuple[int, ...], np.dtype]:
        first = next(iter(self.source.values()), None)
        try:
            shape, dtype = self.form.form(first)
        except ValueError as problem:
            raise UserError(f"dataset {self.name}: {self.source.named(0)} of {self.source.where}: {problem}") from None
        return (n, *shape), dtype

    def _fill(self, values: np.ndarray) -> Facts:
        """Decode every example into its row, a few at a time."""
        integer = values.dtype.kind in "iu"
        lowest: int | None = None
        highest: int | None = None
        broken: list[tuple[int, str, str]] = []
        told: Counter[str] = Counter()
        row = 0
        with self.form.limited(), ThreadPoolExecutor(self.num_workers) as pool:
            for batch in _batches(self.source.values(), AT_A_TIME * self.num_workers):
                if row + len(batch) > len(values):
                    break
                for raw in pool.map(lambda raw: self._decoded(raw, values.shape[1:], values.dtype), batch):
                    if isinstance(raw, str):
                        broken.append((row, self.source.named(row), raw))
                    else:
                        values[row], words = raw
                        told.update(words)
                        if integer:
                            low, high = int(values[row].min()), int(values[row].max())
                            lowest = low if lowest is None else min(low, lowest)
                            highest = high if highest is None else max(high, highest)
                    row += 1
        if row != len(values):
            raise UserError(
                f"dataset {self.name}: {self.source.where} has changed while it was read; run the command once more"
            )
        return Facts(count=row, lowest=lowest or 0, highest=highest or 0, broken=broken, told=dict(told))

    def _decoded(
        self, raw: object, shape: tuple[int, ...], dtype: np.dtype
    ) -> tuple[np.ndarray, tuple[str, ...]] | str:
        try:
            return self.form.array(raw, shape, dtype)
        except Exception as problem:  # Pillow's plug-ins raise nearly any exception on a broken file
            return " ".join(str(problem).split()) or type(problem).__name__


def _batches(values: Iterator[object], size: int) -> Iterator[list[object]]:
    while batch := list(itertools.islice(values, size)):
        yield batch


def _write_index(file: Path, listing: Listing, facts: Facts, shape: tuple[int, ...], dtype: np.dtype) -> None:
    words = {"class_names": listing.class_names, "shape": shape, "dtype": dtype.name, **asdict(facts)}
    arrays = {"splits": listing.splits, "shares": listing.shares, "words": np.array(json.dumps(words))}
    if listing.labels is not None:
        arrays["labels"] = listing.labels
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(file, buffer.getvalue())


def _read_index(file: Path) -> tuple[Listing, Facts, tuple[int, ...], np.dtype]:
    with np.load(file, allow_pickle=False) as content:
        words = json.loads(str(content["words"]))
        listing = Listing(
            splits=content["splits"],
            shares=content["shares"],
            labels=content["labels"] if "labels" in content.files else None,
            class_names=tuple(words["class_names"]),
        )
    broken = [(int(row), str(name), str(reason)) for row, name, reason in words["broken"]]
    facts = Facts(
        count=words["count"], lowest=words["lowest"], highest=words["highest"], broken=broken, told=words["told"]
    )
    return listing, facts, tuple(words["shape"]), np.dtype(words["dtype"])
