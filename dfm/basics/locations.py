"""Paths that a user writes: on a command line, in a YAML file or in Python.

A path is relative to the directory where its command was typed, also in a job that works in another directory
(``hydra.job.chdir=true``). A leading ``~`` or ``~user`` is a home directory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

PATH = "a path"
PathText = Annotated[str, PATH]  # the type of a parameter that names a file or a directory

_typed_in = Path()


def located(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user's text means. It stays relative if it is and the job works where it was typed."""
    return _typed_in / with_home(os.fspath(text))


def with_home(text: str) -> str:
    """Return the text with the home directory in place of a leading ``~`` or ``~user``, if there is such a user."""
    return os.path.expanduser(text)


@contextmanager
def typed_in(directory: Path) -> Iterator[None]:
    """Let relative paths start at ``directory`` inside this block, unless that is the working directory anyhow."""
    global _typed_in
    before, _typed_in = _typed_in, Path() if directory == Path.cwd() else directory
    try:
        yield
    finally:
        _typed_in = before
