"""Files on disks that are full, slow to promise, or without locks: written whole, or not at all."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dfm.basics import files
from dfm.basics.files import lock, refusal, sync, whole_file, write_atomically, write_json

REFUSALS = ("EINVAL", "EBADF", "EACCES", "EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")
FAILURES = ("ENOSPC", "EDQUOT", "EIO", "EROFS")


def failing(code: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("name", REFUSALS)
def test_a_file_system_that_cannot_sync_has_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FUSE, network mounts, Windows: of a directory, and of the file itself."""
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, name)))
    write_atomically(tmp_path / "a", b"whole")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"whole")]


def test_a_directory_that_cannot_be_opened_has_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    write_atomically(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize("name", FAILURES)
def test_a_disk_that_fails_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failing(getattr(errno, name)))
    with pytest.raises(OSError) as caught:  # noqa: PT011, the number is looked at
        write_atomically(tmp_path / "a", b"new")
    assert caught.value.errno == getattr(errno, name)
    line = refusal(caught.value)
    assert line is not None
    assert line.startswith(f"{tmp_path / 'a'}: {os.strerror(caught.value.errno or 0)}; ")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]
    with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
        sync(1)


def test_an_error_of_another_kind_is_no_refusal() -> None:
    assert refusal(FileNotFoundError(errno.ENOENT, "no such file")) is None
    assert refusal(OSError("without a number")) is None


def test_an_error_inside_the_block_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught, whole_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "not allowed", "/elsewhere")
    assert caught.value.filename == "/elsewhere"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_worked_on(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "lock_descriptor", failing(code))
    with lock(tmp_path / ".lock", wait=False) as file:
        assert not file.closed


def test_the_limit_of_the_system_itself(tmp_path: Path) -> None:
    """A real refusal: the kernel writes no more than RLIMIT_FSIZE allows, in the middle of the data."""
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom dfm.basics.files import refusal, write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(Path('small'), bytes(900))\n"
        "try:\n    write_atomically(Path('large'), bytes(2000))\nexcept OSError as error:\n    print(refusal(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "large: File too large; try to free some space, or another hydra.run.dir=DIR\n", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    """A model gone bad has such results, deep inside too; they must not cost the file."""
    write_json(tmp_path / "a", {"z": math.nan, "of": {"interval": [1.5, math.inf], "n": 3}, "pair": (-math.inf, "x")})
    found = json.loads((tmp_path / "a").read_text())
    assert found == {"z": None, "of": {"interval": [1.5, None], "n": 3}, "pair": [None, "x"]}
