"""Finding a run again."""

import os
from pathlib import Path

from dfm.basics.files import write_atomically
from dfm.runs import directory as run_dir


def test_latest_is_the_run_written_last(tmp_path: Path) -> None:
    for k, name in enumerate(("b", "a")):
        path = tmp_path / name / "checkpoints" / "step_00000001.pt"
        path.parent.mkdir(parents=True)
        write_atomically(path, b"x")
        os.utime(path, ns=(k * 10**9, k * 10**9))
    assert run_dir.latest_run(tmp_path) == tmp_path / "a"
