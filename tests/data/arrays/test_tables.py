"""Tables: columns by name, against pandas and by hand."""

from pathlib import Path

import numpy as np
import pytest

from dfm.basics.errors import UserError
from dfm.data import ArrayFile
from dfm.data.arrays.formats import csv_file
from dfm.data.arrays.formats.open_source import open_source

RANDOM = np.random.default_rng(6)


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("rows", [1, 3, 10**6])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_file_is_what_pandas_reads(rows: int, delimiter: str, tmp_path: Path, monkeypatch) -> None:
    """Quoted cells, line breaks in them, empty lines, and numbers in every form, in blocks of any size."""
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(csv_file, "ROWS", rows)
    lines = [f"{a!r}{delimiter}\"two\nlines {i}\"{delimiter}{b:.3e}{delimiter} {i}" for i, (a, b) in
             enumerate(RANDOM.normal(size=(20, 2)).tolist())]  # fmt: skip
    text = delimiter.join(["a", "text", '"b c"', "d"]) + "\n" + "\n\n".join(lines) + "\n"
    path = written(tmp_path / "x.csv", "\ufeff" + text)
    table = pandas.read_csv(path, sep=delimiter)
    source = open_source(path, columns=["d", "b c", "a"])
    assert (source.columns, source.example, source.count()) == (("d", "b c", "a"), (3,), 20)
    np.testing.assert_array_equal(source.array(tmp_path), table[["d", "b c", "a"]].to_numpy(float))
    assert source.list_of("text").tolist() == table["text"].tolist()


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "1,2,3\n4,5,6\n")
    assert open_source(path).array(tmp_path).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert open_source(path, columns=[2, 0]).array(tmp_path).tolist() == [[3, 1], [6, 4]]


def test_row_numbers_of_pandas_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", ",a,b\n0,1.5,2\n1,2.5,4\n")
    source = open_source(path)
    assert source.columns == ("a", "b")
    assert "without a name in x.csv is left out" in source.notices[0]


@pytest.mark.parametrize("row", [0, 150])
def test_a_column_that_is_no_number_is_named(row: int, tmp_path: Path) -> None:
    """In the first rows before anything is read, in the others when they are."""
    cells = [f"{i},{i % 7},{i}" for i in range(200)]
    cells[row] = "1,many,2"
    path = written(tmp_path / "x.csv", "a,how many,c\n" + "\n".join(cells))
    with pytest.raises(UserError, match=rf"column 'how many' is no number \(row {row}: 'many'\); allowed: columns of"):
        open_source(path).array(tmp_path)
    assert open_source(path, columns=["a", "c"]).array(tmp_path).shape == (200, 2)


def test_cells_without_a_number_are_named_by_row(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "a,b\n1,2\n3,\n4,NA\n5,7\n")
    with pytest.raises(UserError, match=r"NaN or infinity in row 1, 2 \(column b\); allowed: finite numbers; remove"):
        _ = ArrayFile(path=str(path), validation=0, test=0).spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", "row 1 has 1 cells; allowed: 2 in each row"),
        ("a,a\n1,2\n", "several columns are named a"),
        ("", "x.csv is empty"),
        (",\n1,2\n", "has no column of numbers"),
    ],
)
def test_a_broken_table_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        open_source(written(tmp_path / "x.csv", text)).array(tmp_path)


def test_a_column_with_one_value_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "a,weight\n" + "".join(f"{i},7\n" for i in range(9)))
    with pytest.raises(UserError, match=r"column weight has one value only \(7\)"):
        _ = ArrayFile(path=str(path), validation=0, test=0).spec


def test_whole_numbers_in_a_table_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "age,weight\n" + "".join(f"{i},{i / 7}\n" for i in range(9)))
    (line,) = ArrayFile(path=str(path), validation=0, test=0).notices
    assert line.startswith("whole numbers only in column age: a density")


def test_a_parquet_file_is_what_was_written(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import decimal

    columns = {
        "whole": RANDOM.integers(-9, 9, 50), "single": RANDOM.random(50).astype("f4"), "yes": RANDOM.random(50) > 0.5,
        "price": [decimal.Decimal(i) / 4 for i in range(50)], "city": RANDOM.choice(["Rome", "Oslo"], 50),
    }  # fmt: skip
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=7)
    names = ["price", "yes", "single", "whole"]
    source = open_source(tmp_path / "x.parquet", columns=names)
    expected = np.stack([np.array(columns[name], float) for name in names], 1)
    np.testing.assert_array_equal(source.array(tmp_path), expected)
    assert source.list_of("city").tolist() == columns["city"].tolist()
    with pytest.raises(
        UserError,
        match=r"column 'city' is no number \(its type is string\); .* try dataset.columns=\[whole,single,yes,price\]",
    ):
        open_source(tmp_path / "x.parquet")
    data = ArrayFile(path=str(tmp_path / "x.parquet"), labels="city")
    assert (data.spec.shape, data.class_names) == ((4,), ("Oslo", "Rome"))
    empty = pyarrow.table({"a": [1, None, 3], "b": [True, False, None]})
    parquet.write_table(empty, tmp_path / "e.parquet")
    np.testing.assert_array_equal(
        open_source(tmp_path / "e.parquet").array(tmp_path), [[1, 1], [np.nan, 0], [3, np.nan]]
    )
    (tmp_path / "n.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match=r"n.parquet is no Parquet file"):
        open_source(tmp_path / "n.parquet")


def test_without_pyarrow_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"pyarrow, which is not installed; try pip install 'dfm\[tables\]'"):
        open_source(tmp_path / "x.parquet")
