"""A claim on a directory: one command at a time works there, none replaces results, a refused one leaves no trace."""

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.runs.directory import LOCK, checkpoints, is_run, lock_run

# What a command may write before it has computed anything, as patterns below its directory. The picture of step 0 is
# that of a network which has not been trained yet, and data.png that of the data.
PREAMBLE = (
    *("overrides.txt", "config.yaml", "environment.json", "*.log"),
    *("tensorboard/*", "samples/step_00000000.png", "data.png"),
)
# The parents of a directory that a command names itself (configs/command.yaml). Commands that run at a time share them.
DATED = re.compile(r"(^|/)outputs/\d{4}-\d\d-\d\d$")
TRIES = 20  # to make a directory, while other commands that end may remove its empty parents
Stamps = dict[Path, tuple[int, int]]


class Claim:
    """The right of one command to write in a directory. It ends with this block, or with the process.

    If the block ends with a mistake of the user or with a signal, and no result is new or changed, the directory is put
    back as it was: new files go, changed ones get their old content, and a directory that was made for the claim goes
    with its empty parents. Empty parents of the form ``outputs/DATE`` go too, whichever command made them, so that the
    last one of several that are refused at a time leaves nothing. Nothing else is ever removed. What the disk refuses
    is left, without an error of its own.

    Args:
        directory: is made, with its parents, if it does not exist.
        results: patterns of the files that commands leave as results.
        preamble: patterns of files that this command writes before any result, beside ``PREAMBLE``.
        command: the name of the command, for messages.
        override: returns KEY=VALUE as one types it, for messages.
        resumed: returns the command that goes on with the training run in a directory, for messages.
        key: the key of the command line that chooses the directory, for messages.
        goes_on: whether the command goes on with the run in the directory. If not, nothing may be there already.

    Raises:
        UserError: the directory holds results, another process works in it, or it cannot be made or written.
    """

    def __init__(
        self,
        directory: Path,
        results: Sequence[str],
        preamble: Sequence[str] = (),
        *,
        command: str,
        override: Callable[[str, object], str],
        resumed: Callable[[Path], str],
        key: str = "hydra.run.dir",
        goes_on: bool = False,
    ) -> None:
        self.directory, self.command, self.key = Path(os.path.abspath(directory)), command, key
        self._override, self._resumed = override, resumed
        self._results, self._preamble = tuple(results), (*PREAMBLE, *preamble)
        self._made = missing(self.directory)
        try:
            self._take(goes_on)
        except OSError as error:
            remove_empty([*self._made, *dated_parents(self.directory)])
            raise UserError(
                f"{self.directory}: no command can write there ({error.strerror or error}); allowed: a directory that "
                f"can be made and written; try another {key}=DIR"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, (UserError, KeyboardInterrupt, SystemExit)):
            with contextlib.suppress(OSError):  # the disk has gone, or is full: the error that ends the block says so
                if not self.has_results():
                    self._undo()
        self._lock.close()

    def has_results(self) -> bool:
        """Whether a result is new or changed since the claim. An empty file is none, nor is one of the preamble."""
        now, preamble = self._stamps(self._results), self._stamps(self._preamble)
        changed = (path for path, stamp in now.items() if stamp[1] and stamp != self._results_before.get(path))
        return any(path not in preamble for path in changed)

    def _take(self, goes_on: bool) -> None:
        """Make the directory, lock it, and note what is there."""
        self._lock_is_new = not (self.directory / LOCK).exists()
        if self._lock_is_new and not goes_on:  # nobody works there, so a refusal need not write a lock first
            self._refuse_results()
        self._lock = self._make_and_lock()
        try:
            if not goes_on:
                self._refuse_results()  # those of a command that has ended since
            self._results_before, self._preamble_before = self._stamps(self._results), self._stamps(self._preamble)
            small = (p for p in self._preamble_before if p.suffix != ".log" and p.parent.name != "tensorboard")
            self._content = {path: path.read_bytes() for path in small}
        except (UserError, OSError):
            self._release()
            raise

    def _make_and_lock(self) -> IO[bytes]:
        for left in reversed(range(TRIES)):
            try:
                return lock_run(self.directory, self.key)
            except FileNotFoundError:
                if not left:
                    raise
        raise AssertionError

    def _refuse_results(self) -> None:
        held = sorted(path for path, (_, size) in self._stamps(self._results).items() if size)
        if held or is_run(self.directory):
            raise UserError(self._refusal(held))

    def _refusal(self, held: Sequence[Path]) -> str:
        here, alone = self.directory, self.key == "hydra.run.dir"
        elsewhere = f"another {self.key}=DIR"
        if alone:
            elsewhere = self._override(self.key, _free_place(here, self.command))
        if not is_run(here):
            names = [str(path.relative_to(here)) for path in held]
            return f"{here} already holds results ({', '.join(names[:3])}), which stay as they are; try {elsewhere}"
        if self.command != "train":
            return f"{here} already holds a run, which stays as it is; try {elsewhere}"
        if checkpoints(here):
            again = self._resumed(here) if alone else "resume=auto as well"
            return f"{here} already holds a run; try {again}, or {elsewhere}"
        return f"{here} already holds a run without a checkpoint; try resume=auto as well, or {elsewhere}"

    def _undo(self) -> None:
        """Put the directory back as it was."""
        _close_logs(self.directory)
        folders = set()
        now = {**self._stamps(self._results), **self._stamps(self._preamble)}
        new = [path for path in now if path not in {**self._results_before, **self._preamble_before}]
        for path in new:  # first, which also makes room on a full disk
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for path in now.keys() & self._preamble_before.keys():
            before = self._preamble_before[path]
            with contextlib.suppress(OSError):  # what the disk does not take back stays as the command left it
                if path in self._content and now[path] != before:
                    write_atomically(path, self._content[path])
                elif path.suffix == ".log":
                    os.truncate(path, before[1])
        remove_empty(folders - {self.directory})
        self._release()

    def _release(self) -> None:
        """Remove the lock's file and the directories, if they were made for this claim, and unlock."""
        if self._lock_is_new:
            (self.directory / LOCK).unlink(missing_ok=True)
        self._lock.close()
        remove_empty([*self._made, *dated_parents(self.directory)])

    def _stamps(self, patterns: Iterable[str]) -> Stamps:
        """Return {file: (time of its last change in ns, bytes)} for the files that match a pattern."""
        found = {}
        for path in itertools.chain.from_iterable(self.directory.glob(pattern) for pattern in patterns):
            with contextlib.suppress(FileNotFoundError):  # a link to nothing
                if path.is_file():
                    status = path.stat()
                    found[path] = (status.st_mtime_ns, status.st_size)
        return found


def _free_place(directory: Path, command: str) -> Path:
    """Return a directory that does not exist: inside a run, if the command is not a training, else beside it."""
    inside = directory / command
    if is_run(directory) and command != "train":
        if not inside.exists():
            return inside
        directory = inside
    places = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(2))
    return next(place for place in places if not place.exists())


def missing(directory: Path) -> list[Path]:
    """Return what does not exist yet of ``directory`` and its parents, the deepest first."""
    return list(itertools.takewhile(lambda path: not os.path.exists(path), (directory, *directory.parents)))


def dated_parents(directory: Path) -> list[Path]:
    """Return ``outputs/DATE`` and ``outputs`` above a directory that a command named itself, else nothing."""
    parent = directory.parent
    return [parent, parent.parent] if DATED.search(parent.as_posix()) else []


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove directories, deepest first, as long as they are empty."""
    for directory in sorted(directories, key=lambda path: -len(path.parts)):
        with contextlib.suppress(OSError):  # somebody else has put something there
            directory.rmdir()


def _close_logs(directory: Path) -> None:
    """Close the log files in a directory. Later messages are no longer written there."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        file = getattr(handler, "baseFilename", None)
        if file and Path(file).parent == directory:
            logger.removeHandler(handler)
            handler.close()
