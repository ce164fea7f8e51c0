"""stdout and stderr: what they cannot show is escaped, and a reader that goes away does not end the work."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# The reader has gone: of a pipe or a socket, or the terminal. Any other error means that something is lost.
GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ESHUTDOWN, errno.ENXIO, errno.EBADF)


class LastingStream:
    """A text stream that can always be written to. After its first error it leads to nowhere.

    Args:
        stream: where the text goes as long as there is a reader.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None  # what ended the stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or drop it if nobody can read it."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._end(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is still in memory."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        if error.errno == errno.EAGAIN:  # a slow reader of a stream that does not wait: this text is lost, not the next
            return
        self.error = self.error or error
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream in memory has no descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            # Python flushes the stream once more when it ends, and libraries in C may write to the descriptor.
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Make stdout and stderr last while a command works.

    Raises:
        SystemExit: a file took not all of the output, e.g. on a full disk: exit code 1, after a line on stderr.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed, as ``>&-`` does
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115, it stays open to the end
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, LastingStream):
            setattr(sys, name, LastingStream(stream))
    yield
    sys.stdout.flush()
    sys.stderr.flush()
    error = getattr(sys.stdout, "error", None)
    if error is not None and error.errno not in GONE:
        lost = f"stdout: {error.strerror or error}; a part of the output is lost; try another file"
        print(f"error: {lost}", file=sys.stderr)
        raise SystemExit(1)


def restart_in_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if the locale has another encoding.

    Otherwise the locale would decide which names of files can be opened, and how other libraries write text. In a
    locale with UTF-8, and in the locale C, where Python chooses that mode itself, this does nothing. The streams keep
    the encoding of the locale. Another program that calls ``main`` is never started again.
    """
    if (
        not _is_the_program()
        or sys.getfilesystemencoding().lower() in ("utf-8", "utf8")
        or os.environ.get("PYTHONUTF8") == "1"
    ):
        return
    os.environ["PYTHONUTF8"] = "1"  # also for processes that a launcher starts
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding)
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _is_the_program() -> bool:
    """Whether this process was started as ``dfm`` or ``python -m dfm``."""
    program = sys.modules["__main__"]
    module = getattr(getattr(program, "__spec__", None), "name", "")
    return module.split(".")[0] == "dfm" or Path(getattr(program, "__file__", None) or "").name == "dfm"
