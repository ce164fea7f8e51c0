"""metrics.jsonl: no line twice, none lost."""

import errno
import io
import json
from pathlib import Path

import pytest

from dfm.runs.metrics import MetricsFile


def test_metrics_of_a_resumed_run_have_no_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    file = MetricsFile(path, after_step=1)
    file.write({"step": 2, "a": 5})
    file.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1, "a": 1}, {"step": 2, "a": 5}]


def test_a_spoilt_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo\x00\xff\n7\n{"loss": 3}\n{"step": 4}\n')
    MetricsFile(path, after_step=4).close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 4}]


def test_a_metrics_line_that_the_disk_refused_is_written_later(tmp_path: Path) -> None:
    """A file that takes five bytes, then none, then all: no line is lost, doubled or cut."""

    class Full(io.RawIOBase):
        def __init__(self, room: int) -> None:
            self.room, self.taken = room, b""

        def write(self, data: bytes) -> int:  # type: ignore[override]
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = bytes(data[: self.room])
            self.taken, self.room = self.taken + part, self.room - len(part)
            return len(part)

    file = MetricsFile(tmp_path / "metrics.jsonl")
    file._file = disk = Full(5)  # type: ignore[assignment]
    for step in (1, 2):
        with pytest.raises(OSError, match="No space"):
            file.write({"step": step})
    disk.room = 1000
    file.write({"step": 3})
    assert [json.loads(line)["step"] for line in disk.taken.decode().splitlines()] == [1, 2, 3]
