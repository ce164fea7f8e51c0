"""Names beside the rows of a grid: the grid stays as it is, and each row has ink beside it."""

import warnings

import numpy as np
import pytest
import torch
from PIL import ImageFont

from dfm.data.spec import DatasetSpec
from dfm.runs.pictures.drawing import captions_of
from dfm.runs.pictures.font import font_file
from dfm.runs.pictures.letters import legible
from dfm.runs.pictures.named_rows import named_rows
from dfm.runs.pictures.plots import pairs


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


NAMES = (
    "cat",
    "図",
    "猫 cat",
    "\N{PARROT}",
    "\N{GRINNING FACE}",
    "собака",
    "\N{HEAVY BLACK HEART}\ufe0f",
    "ไทย",
    "한국",
    "\u200d",
)


def test_no_letter_is_the_box_of_those_that_the_font_lacks() -> None:
    """Pillow draws the box for a code point that no font has; each letter of a legible name looks otherwise."""
    font = ImageFont.truetype(str(font_file()), 20)
    box = bytes(font.getmask("\U0010fffd"))
    assert any(bytes(font.getmask(letter)) == box for name in NAMES for letter in name), "as they are"
    shown = [legible(name, f"class {k}") for k, name in enumerate(NAMES)]
    assert not any(bytes(font.getmask(letter)) == box for name in shown for letter in name)
    assert len(set(shown)) == len(NAMES), "each tells its class from the others"
    assert shown[:3] == ["cat", "class 1", "class 2 (cat)"]
    assert shown[5] == "собака"


def test_a_grid_and_captions_write_legible_names() -> None:
    facts = DatasetSpec(name="x", shape=(1, 8, 8), levels=17, num_classes=2, mean=0, std=1, class_names=("図", "語"))
    assert captions_of(torch.tensor([1, 0, 2]), facts) == ["class 1", "class 0", "(hidden)"]
    rows = torch.zeros(3, 3, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that its font lacks
        pairs(rows.numpy(), [(-1.0, 1.0)] * 3, ("図", "mass", "語"))
