"""A pipe or a device in the place of a file is refused at once: reading it would wait without end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfm.basics.errors import UserError
from dfm.data import ArrayFile, ImageFolder, WebDataset
from dfm.data.spec import DatasetSpec
from dfm.runs.sample_files import read_latents, read_samples

NUMBERS = DatasetSpec(name="array", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0)


@pytest.fixture
def at_once() -> Iterator[None]:
    """The test fails after three seconds of waiting."""

    def waited(number: int, frame: object) -> None:
        raise RuntimeError("still waiting")  # no OSError, which a reader may take for a missing file

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(3)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("ending", "read", "words"),
    [
        (".npy", lambda path: ArrayFile(path=path).spec, "is a pipe or a device; allowed: a file .npy"),
        (".npz", lambda path: ArrayFile(path=path).spec, "is a pipe or a device"),
        (".csv", lambda path: ArrayFile(path=path).spec, "is a pipe or a device"),
        (".tar", lambda path: WebDataset(path=path).spec, "no shard there; allowed: a file that ends in .tar"),
        (".zip", lambda path: ImageFolder(path=path).spec, "is not a folder, nor a zip"),
        (".npz", read_latents, "no latents there"),
        (".npz", lambda path: read_samples(path, NUMBERS), "no samples there"),
    ],
)
def test_a_pipe_is_refused_at_once(ending: str, read: Callable[[str], object], words: str, tmp_path: Path) -> None:
    pipe = tmp_path / f"x{ending}"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=words):
        read(str(pipe))


@pytest.mark.usefixtures("at_once")
def test_a_device_is_no_shard() -> None:
    with pytest.raises(UserError, match="/dev/zero: no shard there"):
        WebDataset(path="/dev/zero")


@pytest.mark.usefixtures("at_once")
def test_a_pipe_in_a_folder_of_shards_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(UserError, match="no shard there"):
        WebDataset(path=str(tmp_path))
