"""Small data sets in the formats of other libraries: WebDataset shards, parquet, folders of pictures."""

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(7)


def picture(seed: int, size: tuple[int, int] = (9, 7)) -> bytes:
    """A PNG of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def write_shard(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar file with these files in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def picture_shards(folder: Path, shards: int = 3, each: int = 8, name: str = "part", start: int = 0) -> list[Path]:
    """Shards of pictures with classes 0, 1, 2; picture k is ``picture(k)``, named by its row in the shard."""
    paths = []
    for shard in range(shards):
        numbers = range(start + shard * each, start + (shard + 1) * each)
        files = [
            file
            for row, k in enumerate(numbers)
            for file in ((f"{row:03}.cls", b"%d" % (k % 3)), (f"{row:03}.png", picture(k)))
        ]
        paths.append(write_shard(folder / f"{name}-{shard:03}.tar", files))
    return paths


def array_shard(path: Path, arrays: Sequence[np.ndarray], classes: Sequence[str] = ()) -> Path:
    """A shard of arrays, with the names of their classes in ``.json``."""
    files = [(f"{k:05}.npy", npy(array)) for k, array in enumerate(arrays)]
    files += [(f"{k:05}.json", b'{"kind": "%s"}' % name.encode()) for k, name in enumerate(classes)]
    return write_shard(path, sorted(files))


def write_parquet(folder: Path, columns: Mapping[str, Sequence[object]], features: object, split: str) -> Path:
    """One split as a parquet file, as the hub has it."""
    import datasets

    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(dict(columns), features=features).to_parquet(str(path))
    return path


def picture_parquet(folder: Path, n: int = 24, split: str = "train", start: int = 0) -> Path:
    """Pictures ``picture(k)`` with the classes cat, dog and emu in turn."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "emu"])})
    numbers = range(start, start + n)
    pictures = [{"bytes": picture(k), "path": None} for k in numbers]
    return write_parquet(folder, {"image": pictures, "label": [k % 3 for k in numbers]}, features, split)
