"""Data that are larger than the memory: a process under a limit loads them, looks at them and takes batches."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dfm.data import ArrayFile
from dfm.data.memory_map import expect_random_access
from dfm.data.split import Split

MEBIBYTE = 2**20
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from dfm.data import ArrayFile
from dfm.data import split
from dfm.data.arrays.formats import source
from dfm.training.batches import Batches

split.BLOCK = source.BLOCK = 2**17  # in proportion to the limit
lines = Path("/proc/self/status").read_text().splitlines()
now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (now + int(sys.argv[3]), -1))
try:
    block = np.ones(int(sys.argv[4]), np.uint8)
    sys.exit("the limit does not hold")
except MemoryError:
    pass
data = ArrayFile(path=sys.argv[1], layout="channels_first", cache=sys.argv[2])
if sys.argv[5] == "copy":
    data.split("train").all()
spec, batches = data.spec, Batches(data.split("train"), 64, 0)
whole = np.load(sys.argv[1], mmap_mode="r")
rows = data.split("train").rows
for k in (0, 5, 300):
    batch = batches.batch(k)
    assert (batch.values.numpy() == whole[rows[batch.indices]]).all()
print(spec.levels, len(data.split("train")) + len(data.split("validation")) + len(data.split("test")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts private memory on Linux only")
@pytest.mark.parametrize("what", ["mapped", pytest.param("copy", marks=pytest.mark.wide)])
def test_data_ten_times_the_memory(what: str, tmp_path: Path) -> None:
    """A file with holes, of which the first and the last rows are written; to copy it fails."""
    limit, shape = 12 * MEBIBYTE, (41_000, 3, 32, 32)
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)
    array[:500] = np.random.default_rng(0).integers(0, 256, (500, *shape[1:]))
    array[-1] = 255
    array.flush()
    assert array.nbytes > 10 * limit - MEBIBYTE
    words = [tmp_path / "x.npy", tmp_path / "c", limit, 4 * limit, what]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    if what == "copy":
        assert "MemoryError" in done.stderr or "allocate" in done.stderr
    else:
        assert done.stdout.split() == ["256", "41000"], done.stderr


def test_a_pass_over_a_split_goes_through_the_file_once() -> None:
    """The rows of the test split are mixed; their moments are taken in the order of the file."""
    values = torch.arange(20.0).reshape(10, 2)
    split = Split(values=values, labels=torch.arange(3), rows=np.array([7, 1, 4]))
    assert split.in_file_order().all()[:, 0].tolist() == [2, 8, 14]
    assert split.all()[:, 0].tolist() == [14, 2, 8], "itself it stays"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_only_the_pages_of_a_mapped_file_are_advised(tmp_path: Path) -> None:
    """/proc/self/smaps says ``rr`` of a mapping that expects random reads, once the data are loaded."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((500, 3)))
    data = ArrayFile(path=str(tmp_path / "x.npy"))
    _ = data.spec
    smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    (mapping,) = [k for k, text in enumerate(smaps) if str(tmp_path / "x.npy") in text]
    assert " rr" in smaps[mapping + 1].splitlines()[0]
    expect_random_access(np.zeros(3))
