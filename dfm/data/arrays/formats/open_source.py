"""From a path to its source: which class reads a file, and lists of one value for each example."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.data.arrays.formats.csv_file import CsvFile
from dfm.data.arrays.formats.folder import NpyFolder
from dfm.data.arrays.formats.npy import NpyFile, NpzMember, broken
from dfm.data.arrays.formats.parquet import ParquetFile
from dfm.data.arrays.formats.source import Source

TABLES = {".csv": CsvFile, ".tsv": CsvFile, ".parquet": ParquetFile}
ALLOWED = "a file .npy, .npz, .csv, .tsv or .parquet, or a folder of .npy files"
LISTS = (".npy", ".npz", ".txt", *TABLES)  # endings of files that hold a list
ELSEWHERE = {  # formats of other programs: a line of Python that makes an .npy of them
    ".pt": 'np.save("x.npy", torch.load("FILE").numpy())',
    ".pth": 'np.save("x.npy", torch.load("FILE").numpy())',
    ".h5": 'np.save("x.npy", h5py.File("FILE")["KEY"][:])',
    ".hdf5": 'np.save("x.npy", h5py.File("FILE")["KEY"][:])',
    ".mat": 'np.save("x.npy", scipy.io.loadmat("FILE")["KEY"])',
    ".nii": 'np.save("x.npy", numpy.stack([nibabel.load(f).get_fdata() for f in FILES]))',
    ".txt": 'np.save("x.npy", np.loadtxt("FILE"))',
    ".xlsx": "a CSV file, saved from the program that made it",
    ".gz": "the unpacked file",
    ".zip": "the unpacked folder, or dataset=folder for pictures",
}


def open_source(
    path: Path,
    key: str | None = None,
    columns: Sequence[str | int] | None = None,
    apart: Collection[str] = (),
    files: str = "auto",
    without: Sequence[Path] = (),
) -> Source:
    """Return the source of a path; only its header is read.

    Args:
        key: of an ``.npz`` file.
        columns: of a table, those that are data.
        apart: columns of a table that are no data.
        files: what the files of a folder are.
        without: files of a folder that are no data.

    Raises:
        UserError: there is no such file, no class reads it, it is broken, or an argument does not suit it.
    """
    ending = path.suffix.lower()
    if not path.exists():
        raise UserError(f"dataset array: {path} is not there; give dataset.path=FILE, {ALLOWED}")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"dataset array: {path} is a pipe or a device; allowed: {ALLOWED}")
    if key is not None and ending != ".npz":
        raise UserError(f"dataset.key={key}: {path} has no keys; allowed: a key of an .npz file")
    if columns is not None and ending not in TABLES:
        raise UserError(f"dataset.columns: {path} has no columns; allowed: columns of a table (.csv, .tsv, .parquet)")
    if path.is_dir():
        return NpyFolder(path, files, without)
    if ending == ".npy":
        return NpyFile(path)
    if ending == ".npz":
        return NpzMember(path, key)
    if ending in TABLES:
        return TABLES[ending](path, columns, apart)
    way = ELSEWHERE.get(ending, 'np.save("x.npy", x)').replace("FILE", path.name)
    raise UserError(f"dataset array: {path} has the ending '{ending}'; allowed: {ALLOWED}; try {way}")


def holds_arrays(path: Path) -> bool:
    """Whether a path is a file with an ending of ours, or a folder with an array in it."""
    if path.is_dir():
        return next(path.rglob("*.npy"), None) is not None
    return path.is_file() and path.suffix.lower() in (".npy", ".npz", *TABLES)


def names_file(text: str) -> bool:
    """Whether a list (labels, groups, splits) is a file of its own. Other texts name a column or a key of the data."""
    return text.lower().endswith(LISTS)


def read_list(text: str, source: Source, n: int, what: str) -> np.ndarray:
    """Return one value for each example: whole numbers, floats or text, (n,).

    Args:
        text: a file (``names_file``), or a column or key of the source.
        n: the number of examples.
        what: the key of the command line, for messages.

    Raises:
        UserError: the list is not there, has another length, or holds no numbers and no text.
    """
    values = _of_file(located(text), what) if names_file(text) else source.list_of(text)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (n,):
        raise UserError(f"{what}={text}: {values.shape}; allowed: ({n},), one value for each example of {source.path}")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "surrogateescape")
    if values.dtype.kind not in "uifbU":
        raise UserError(f"{what}={text}: values of {values.dtype}; allowed: whole numbers or text")
    return values


def _of_file(path: Path, what: str) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{what}={path} is not there; allowed: a file, or a column or key of the data")
    if path.suffix.lower() == ".txt":
        with broken(path):
            return np.array(path.read_text("utf-8", "surrogateescape").splitlines(), str)
    if path.suffix.lower() in TABLES:
        raise UserError(f"{what}={path} is a table; allowed: .npy, or .txt with one value in each line")
    try:
        with broken(path):
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                keys = found.files
                if len(keys) == 1:
                    return np.asarray(found[keys[0]])
    except ValueError as problem:
        raise UserError(f"{what}={path}: {problem}; allowed: whole numbers, or text as np.array(x, str)") from None
    raise UserError(f"{what}={path} has the arrays {', '.join(keys)}; allowed: a file with one")
