"""Names beside the rows of a grid: the grid stays as it is, and each row has ink beside it."""

import numpy as np
import pytest

from dfm.runs.pictures.named_rows import named_rows


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("height", [8, 50])
def test_each_row_has_its_name(channels: int, height: int) -> None:
    names = ["cat", "Food & Drink", "x" * 99, "Приве́т\n"]
    sheet = np.random.default_rng(0).integers(0, 256, (len(names) * height, 60, channels), dtype=np.uint8)
    named = named_rows(sheet, names)
    assert named.dtype == np.uint8
    assert np.array_equal(named[:, -60:], sheet)
    margin = named[:, :-60]
    assert margin.shape[0] == sheet.shape[0]
    assert margin.shape[1] < 300, "a long name is cut"
    rows = margin[..., 0].reshape(len(names), height, -1)
    assert (rows.min((1, 2)) < 128).all(), "ink in each row"
    assert (rows[:, [0, -1]] == 255).all(), "and none between the rows"
    if channels == 4:
        assert (margin[..., 3] == 255).all()
    if height == 50:
        ink = [(row < 128).sum() for row in rows]
        assert ink[0] < ink[1] < ink[2], "a longer name has more of it"
