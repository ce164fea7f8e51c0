"""All examples of a source as one array: decoded once, and found again by the next run and by other processes."""

import io
import itertools
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically, write_text
from dfm.data.memory_map import free_memory, kept_file, memory_map
from dfm.data.rows.examples import Examples, Form

NAMED = 3  # broken examples that a message names; a file lists all
_Seen = tuple[Iterable[str], list[int]] | str  # words, and lowest and highest number; or why an example is broken
_DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile)  # of a file that is not whole


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


class Kept(NamedTuple):
    """The array (N, C, ...), the columns of its source, and the facts."""

    values: np.ndarray
    columns: Mapping[str, np.ndarray]
    facts: Facts


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """All examples of a source as one array, in memory or mapped from a file.

    The file is FAMILY-DIGEST.values and holds the examples in the order of the source. Columns and facts lie beside it
    in FAMILY-DIGEST.npz. When an example changes, both are written anew and the old ones are removed.

    Args:
        name: what messages call the data set, and the first word of the file's name.
        source: where the examples lie. Its stamp is the DIGEST.
        form: how an example becomes numbers.
        key: what tells source and form from others, for the FAMILY.
        cache: the folder of the file.
        skip: whether broken examples are left out. Otherwise they end the start.
        num_workers: threads that decode.
        few: so many examples are kept in memory and not in a file, if they take at most half of the free memory. More
            examples are, too, if the disk has no room.
    """

    name: str
    source: Examples
    form: Form
    key: object
    cache: Path
    skip: bool
    num_workers: int
    few: int = 0

    @property
    def values(self) -> np.ndarray:
        """All examples, (N, C, ...).

        Raises:
            UserError: the source cannot be read, examples are broken, or neither memory nor disk has room for them.
        """
        return self._all.values

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """What the source says of the examples."""
        return self._all.columns

    @property
    def facts(self) -> Facts:
        """What was seen."""
        return self._all.facts

    def notices(self) -> tuple[str, ...]:
        """Return what the source says, a line for what the form has changed, and one for what is left out."""
        facts = self.facts
        left_out = [f"{self._broken(facts)}; left out (dataset.broken=skip)"] if facts.broken else []
        return (*self.source.notices, *self.form.told(facts.told, facts.count), *left_out)

    def kept(self) -> Kept | None:
        """Return what an earlier run has written; None if it is not there, or not whole."""
        try:
            with np.load(self._columns_file, allow_pickle=False) as content:
                columns = dict(content)
            words = json.loads(str(columns.pop("words")))
            broken = [(int(row), str(name), str(reason)) for row, name, reason in words.pop("broken")]
            shape, dtype = tuple(words.pop("shape")), np.dtype(words.pop("dtype"))
            if self._file.stat().st_size == math.prod(shape) * dtype.itemsize:
                values = np.memmap(self._file, dtype=dtype, mode="r", shape=shape)
                return Kept(values, columns, Facts(broken=broken, **words))
        except _DAMAGED:
            pass
        return None

    @cached_property
    def _all(self) -> Kept:
        found = self.kept() or self._decoded()
        self._check(found.facts)
        return found

    @cached_property
    def _file(self) -> Path:
        return kept_file(self.cache, self.name, repr(self.key), self.source.stamp(), "values")

    @property
    def _columns_file(self) -> Path:
        return self._file.with_suffix(".npz")

    @property
    def _broken_file(self) -> Path:
        """The list of broken examples."""
        return self._file.with_name(f"{self._file.stem.rpartition('-')[0]}.broken.txt")

    def _check(self, facts: Facts) -> None:
        if facts.broken and not self.skip:
            raise UserError(f"{self._broken(facts)}; repair or remove them, or try dataset.broken=skip")

    def _broken(self, facts: Facts) -> str:
        """Return a line with the first broken examples; a file lists all if there are more."""
        told = [f"{name} ({reason})" for _, name, reason in facts.broken]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        if more:
            with suppress(OSError):
                self.cache.mkdir(parents=True, exist_ok=True)
                lines = (line if line.isprintable() else ascii(line)[1:-1] for line in told)
                write_text(self._broken_file, "".join(f"{line}\n" for line in lines))
                more += f", all in {self._broken_file}"
        return (
            f"dataset {self.name}: {len(told):,} of {facts.count:,} {self.source.kind} {self.source.where} cannot be "
            f"used: {'; '.join(told[:NAMED])}{more}"
        )

    def _decoded(self) -> Kept:
        """Decode all examples into the file, or into memory."""
        with suppress(OSError):
            self._broken_file.unlink(missing_ok=True)  # it is about examples of before
        columns, count = self.source.columns(), self.source.count()
        if count == 0:
            raise UserError(f"dataset {self.name}: no examples in {self.source.where}; allowed: at least 1")
        shape, dtype = self._form(count)
        size = math.prod(shape) * dtype.itemsize
        fits = size <= free_memory() / 2
        if count > self.few or not fits:
            try:
                return self._in_file(shape, dtype, columns)
            except OSError as problem:
                if not fits:
                    smaller = f"{self.form.smaller}, or " if self.form.smaller else ""
                    raise UserError(
                        f"dataset {self.name}: {size / 2**30:.1f} GiB of decoded examples fit neither half of the free "
                        f"memory nor {self.cache} ({problem.strerror or problem}); try {smaller}dataset.cache=DIR on a "
                        "larger disk"
                    ) from None
        values = np.zeros(shape, dtype)
        return Kept(values, columns, self._fill(values))

    def _form(self, count: int) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of all rows, from the first example that can be one."""
        first: ValueError | None = None
        for raw in self.source.values():
            try:
                shape, dtype = self.form.form(raw)
                return (count, *shape), dtype
            except ValueError as problem:
                first = first or problem
        raise UserError(f"dataset {self.name}: {self.source.named(0)} of {self.source.where}: {first}")

    def _in_file(self, shape: tuple[int, ...], dtype: np.dtype, columns: Mapping[str, np.ndarray]) -> Kept:
        """Decode all examples into the file, unless another process is doing so; then wait for it."""

        def fill(values: np.ndarray) -> None:
            facts = self._fill(values)
            self._check(facts)
            words = json.dumps({"shape": shape, "dtype": dtype.name, **asdict(facts)})
            buffer = io.BytesIO()
            np.savez(buffer, words=np.array(words), **columns)  # type: ignore[arg-type]
            write_atomically(self._columns_file, buffer.getvalue())

        for _ in range(2):
            memory_map(self._file, shape, fill, dtype, self._columns_file)
            if (found := self.kept()) is not None:
                return found
            self._columns_file.unlink(missing_ok=True)  # it is damaged, and without it both are written anew
        raise UserError(f"{self._file}: changed while it was read; run the command once more")

    def _fill(self, values: np.ndarray) -> Facts:
        """Decode every example into its row, by several threads."""
        try:
            # The limit belongs to the whole process, so we set it around the threads and not inside them.
            with self.source.session(), self.form.limited(), ThreadPoolExecutor(self.num_workers) as pool:
                facts = self._facts(self._seen(values, pool))
        except OSError as problem:  # of the source: a broken example is none
            raise UserError(
                f"dataset {self.name}: {self.source.where} cannot be read to its end ({problem.strerror or problem}); "
                "run the command once more"
            ) from None
        if facts.count != len(values):
            raise UserError(
                f"dataset {self.name}: {self.source.where} has changed while it was read; run the command once more"
            )
        return facts

    def _seen(self, values: np.ndarray, pool: ThreadPoolExecutor) -> Iterator[_Seen]:
        """Write every row, and yield what was seen of it, in order."""

        def decode(raw: object, row: int) -> _Seen:
            try:
                values[row], words = self.form.array(raw, values.shape[1:], values.dtype)
            except Exception as problem:  # Pillow's plug-ins raise nearly any exception on a broken file
                return " ".join(str(problem).split()) or type(problem).__name__
            return words, [int(values[row].min()), int(values[row].max())] if values.dtype.kind in "iu" else []

        raws, rows = itertools.islice(self.source.values(), len(values) + 1), itertools.count()
        while together := list(itertools.islice(raws, self.source.at_a_time * self.num_workers)):
            yield from pool.map(decode, together, rows)

    def _facts(self, rows: Iterable[_Seen]) -> Facts:
        """Gather what was seen of each row."""
        count = 0
        ends: list[int] = []  # the lowest and the highest number so far
        broken: list[tuple[int, str, str]] = []
        told: Counter[str] = Counter()
        for count, seen in enumerate(rows, 1):
            if isinstance(seen, str):
                broken.append((count - 1, self.source.named(count - 1), seen))
                continue
            words, numbers = seen
            told.update(words)
            if numbers:
                ends = [min(ends + numbers), max(ends + numbers)]
        lowest, highest = ends or (0, 0)
        return Facts(count=count, lowest=lowest, highest=highest, broken=broken, told=dict(told))
