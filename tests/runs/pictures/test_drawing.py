"""The drawing of samples, looked at by its pixels: each number stands where its window puts it."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torchvision.utils import make_grid

from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.spec import DatasetSpec
from dfm.runs.pictures.cells import LIGHT, TEXT, captioned, cells, slices
from dfm.runs.pictures.drawing import captions_of, enough, picture, side_by_side
from dfm.runs.pictures.images import GAP, GROUND, grid
from dfm.runs.pictures.plots import CAPTION, MARGIN, PANEL, lines
from dfm.runs.pictures.plots import GAP as BESIDE
from dfm.runs.pictures.windows import shades, windows


def spec(shape: tuple[int, ...], levels: int | None = None, **facts: object) -> DatasetSpec:
    usual = {"name": "data", "num_classes": 0, "mean": 0.0, "std": 1.0}
    return DatasetSpec(shape=shape, levels=levels, **{**usual, **facts})  # type: ignore[arg-type]


# The first 16 digits of the SHA-256 of what dfm 0.1 drew, with numbers from torch's generator of seed 0.
BEFORE = {
    "grey": ("879a568b8e1e838e", (152, 202, 1)),
    "grey 3": ("653ab9ecb33fbb66", (202, 152, 1)),
    "grey both": ("e7a1e1945da3c65f", (202, 402, 1)),
    "colour": ("717b4d0ec3febec8", (200, 266, 3)),
    "colour 3": ("7ddde72a9023323f", (266, 200, 3)),
    "colour both": ("d6659f7da5e39e66", (266, 530, 3)),
    "wide": ("b5ff9e62161619e2", (46, 188, 3)),
    "wide 3": ("b5ff9e62161619e2", (46, 188, 3)),
    "wide both": ("b5452ff9cd4582af", (46, 312, 3)),
    "plane": ("94859302aa15bb75", (536, 536)),
    "plane both": ("421bedf5398b116a", (536, 1074)),
    "line": ("b8404f0ee7a02a6d", (480, 480)),
    "line both": ("3c41e6ee3e885ee2", (480, 962)),
}


def test_images_and_the_plane_are_drawn_as_ever() -> None:
    draws, drawn = torch.Generator().manual_seed(0), {}
    images = (("grey", (1, 8, 8), 17, 10), ("colour", (3, 32, 32), 256, 11), ("wide", (3, 20, 60), 256, 5))
    for name, shape, levels, n in images:
        a, b = (torch.randint(0, 256, (n, *shape), generator=draws, dtype=torch.uint8) for _ in range(2))
        facts = spec(shape, levels, mean=0.25, std=0.5)
        drawn[name], drawn[f"{name} 3"] = picture(a, facts), picture(a, facts, 3)
        drawn[f"{name} both"] = side_by_side([a, b], facts)
    for name, d, n in (("plane", 2, 500), ("line", 1, 300)):
        a, b = (torch.randn(n, d, generator=draws) for _ in range(2))
        facts = spec((d,), mean=0.25, std=1.2)
        drawn[name], drawn[f"{name} both"] = picture(a, facts), side_by_side([a, b], facts)
    assert {k: (hashlib.sha256(v.tobytes()).hexdigest()[:16], v.shape) for k, v in drawn.items()} == BEFORE


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("n", "columns"), [(1, None), (2, None), (7, 3), (7, 9), (12, 4), (3, 1)])
def test_a_grid_is_that_of_torchvision(n: int, columns: int | None, channels: int) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 50, 61, channels), np.uint8)
    cells = torch.from_numpy(images).permute(0, 3, 1, 2)
    theirs = make_grid(cells, nrow=columns or math.ceil(math.sqrt(n)), padding=GAP, pad_value=GROUND)
    np.testing.assert_array_equal(grid(images, columns), theirs.permute(1, 2, 0)[..., :channels].numpy())


def test_a_window_is_in_the_unit_of_the_file() -> None:
    assert windows(spec((2,), shift=(5.0, -1.0), scale=(2.0, 1000.0)), 3) == [(-1.0, 11.0), (-3001.0, 2999.0)]
    assert windows(spec((2,), mean=0.5, std=2.0), 3) == [(-5.5, 6.5)] * 2
    # -100 .. 100 as 201 levels: the model sees 2 (v + 1/2)/201 - 1, so the number 10 k is 20 k/201
    assert windows(spec((1, 9), 201, dtype="int8", lowest=-100, mean=20 / 201, std=40 / 201), 4)[0] == pytest.approx(
        (-70, 90)
    )
    assert windows(spec((1, 9), 201, dtype="int8", lowest=-100, mean=20 / 201, std=1.0), 4)[0] == (-100, 100)


@pytest.mark.parametrize("column", [0, 1])
def test_a_plane_of_two_units_fills_its_picture(column: int) -> None:
    """Columns of deviation 1 and 1000: a point of +1 deviation is at 2/3 of the way in either."""
    facts = spec((2,), shift=(0.0, 0.0), scale=(1.0, 1000.0))
    points = torch.zeros(100, 2, dtype=torch.float64)
    points[:, column] = (1.0, 1000.0)[column]
    dark = np.argwhere(picture(points, facts) < 200).mean(0) / 480
    assert dark[1] == pytest.approx((4 if column == 0 else 3) / 6, abs=0.04)
    assert 1 - dark[0] == pytest.approx((4 if column == 1 else 3) / 6, abs=0.04)


def test_the_columns_of_a_table_have_histograms_and_pairs() -> None:
    """Column 2 is at +1.5 deviations: the blue bar is in the right half of its panel; pairs are as many as panels."""
    facts = spec((3,), dtype="float64", shift=(0.0, 10.0, 0.0), scale=(1.0, 1.0, 100.0))
    rows = torch.tensor([[0.0, 10.0, 150.0]]).double().repeat(50, 1)
    drawn = picture(rows, facts)
    blue = np.argwhere((drawn == (31, 78, 156)).all(-1))
    edges = np.flatnonzero(np.diff(np.unique(blue[:, 0])) > 5)
    assert len(edges) == 2, "three histograms, each below the one before"
    third = blue[blue[:, 0] > 2 * len(drawn) / 3]
    first = blue[blue[:, 0] < len(drawn) / 3]
    left, right = first[:, 1].mean(), third[:, 1].mean()
    # panels 154 pixels wide begin at pixel 72, each 231 after the one before; of 12 bins the numbers are in bin 6 and 9
    assert left == pytest.approx(72 + 154 * 6.5 / 12, abs=4)
    assert right == pytest.approx(72 + 2 * 231 + 154 * 9.5 / 12, abs=4)
    many = picture(torch.zeros(9, 40), spec((40,)))
    assert many.shape[1] == pytest.approx(6 * 231, abs=30), "the first columns only, six to a row"
    assert side_by_side([rows, rows], facts).shape[1] == 2 * drawn.shape[1] + 2


def test_a_line_passes_where_it_should() -> None:
    """A step from -2 to 3 in the window [-4, 4] of the lower strip; the upper strip is at its middle."""
    signal = torch.zeros(1, 2, 11)
    signal[0, 1] = torch.where(torch.arange(11) < 5, -200.0, 300.0)
    drawn = picture(signal, spec((2, 11), shift=(0.0, 0.0), scale=(1.0, 100.0))).astype(int)
    width, height = PANEL
    strip = height / 2
    for colour, place, share, strip_number in (
        ((31, 119, 180), 0.2, 0.5, 0),
        ((31, 119, 180), 0.8, 0.5, 0),
        ((255, 127, 14), 0.2, 0.25, 1),
        ((255, 127, 14), 0.8, 0.875, 1),
    ):
        column = drawn[:, round(MARGIN + place * width)]
        top = BESIDE + strip_number * strip
        found = np.abs(column - colour).sum(-1).argmin()
        assert found == pytest.approx(top + strip - 1 - share * (strip - 2) - 0.5, abs=1), (colour, place)


@pytest.mark.parametrize("levels", [None, 2001])
def test_a_peak_of_twenty_deviations_is_seen_in_data_and_samples_alike(levels: int | None) -> None:
    """Spikes of 800 and 1000 on a flat line: 10 deviations and more. They end at different heights of one window."""

    class Spikes(Dataset):
        name, num_classes, dtype = "spikes", 0, "float32" if levels is None else "int16"

        def _load(self) -> dict[str, Split]:
            values = torch.zeros(4, 1, 500, dtype=torch.float32 if levels is None else torch.int16)
            values[0, 0, 100] += 1000
            values[1, 0, 100] += 800
            split = Split(values=values, labels=None, lowest=0 if levels is None else -1000)
            return dict.fromkeys(SPLITS, split)

    Spikes.levels = levels
    facts = Spikes().spec
    assert windows(facts, 4)[0][1] < 400, "four deviations end below all three"
    tops = []
    for height in (1000.0, 800.0, 400.0):
        sample = torch.zeros(1, 1, 500)
        sample[0, 0, 100] = height
        drawn = picture(sample, facts).astype(int)
        blue = np.argwhere(np.abs(drawn - (31, 78, 156)).sum(-1) < 60)
        tops.append((PANEL[1] + BESIDE - blue[:, 0].min()) / PANEL[1])
    low = windows(facts, 4)[0][0]
    assert tops[0] > 0.95
    assert tops[0] - tops[1] == pytest.approx(200 / (1000 - low), abs=0.02)
    assert tops[1] - tops[2] == pytest.approx(400 / (1000 - low), abs=0.02)


def test_a_line_stays_in_its_strip_and_panels_in_their_columns() -> None:
    high = np.full((3, 1, 5), 1e9)
    drawn = lines(high, [(0.0, 1.0)], 2, ["a", "b", "c"])
    assert drawn.shape == (2 * (PANEL[1] + BESIDE + CAPTION) + 24, MARGIN + 2 * (PANEL[0] + BESIDE), 3)
    blue = np.argwhere(np.abs(drawn.astype(int) - (31, 78, 156)).sum(-1) < 40)
    tops = [BESIDE + CAPTION, 2 * (BESIDE + CAPTION) + PANEL[1]]
    assert {min(tops, key=lambda top: abs(top - y)) for y in np.unique(blue[:, 0])} == set(tops)
    assert all(min(abs(top - y) for top in tops) <= 3 for y in blue[:, 0])


def test_a_volume_is_a_row_of_its_slices() -> None:
    """A volume whose slice k has the level 10 k: the middles of eight parts of 16 slices are 1, 3, ..., 15."""
    assert slices(16).tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    assert slices(3).tolist() == [0, 1, 2]
    volume = (10 * torch.arange(16)).reshape(1, 1, 16, 1, 1).expand(2, 1, 16, 50, 60)
    image = cells(volume, spec((1, 16, 50, 60), 256, dtype="uint8"))
    assert image.shape == (2, 56, 8 * 61 + 5, 1)
    assert [int(image[0, 28, 61 * k + 33, 0]) for k in range(8)] == [10, 30, 50, 70, 90, 110, 130, 150]
    both = side_by_side([volume, 255 - volume], spec((1, 16, 50, 60), 256, dtype="uint8"))
    assert [int(both[2 + 28 + 58 * row, 2 + 33, 0]) for row in range(4)] == [10, 245, 10, 245]


def test_other_channels_are_maps_side_by_side() -> None:
    """Five constant maps at -2, -1, ... 2 deviations of their own channel: from black to white."""
    facts = spec((5, 50, 50), shift=(0.0, 1.0, 2.0, 3.0, 4.0), scale=(1.0, 2.0, 4.0, 8.0, 16.0))
    values = torch.tensor([-2.0, 1.0 - 2, 2.0, 3.0 + 8, 4.0 + 32]).reshape(1, 5, 1, 1).expand(1, 5, 50, 50)
    image = cells(values, facts)
    assert image.shape == (1, 56, 5 * 51 + 5, 1)
    assert [int(image[0, 28, 51 * k + 28, 0]) for k in range(5)] == [0, 64, 128, 191, 255]


def test_opacity_lies_over_a_checkerboard() -> None:
    pixels = torch.zeros(1, 4, 8, 8, dtype=torch.uint8)
    pixels[0, :, :, 4:] = torch.tensor([255, 0, 100, 255], dtype=torch.uint8).reshape(4, 1, 1)
    pixels[0, 3, 0, 0] = 51  # a fifth of black over white
    image = cells(pixels, spec((4, 8, 8), 256))[0]
    assert image[0, 0].tolist() == [204] * 3
    assert image[0, 1].tolist() == [255] * 3
    assert image[4, 1].tolist() == [204] * 3
    assert image[5, 6].tolist() == [255, 0, 100]


def test_many_levels_and_real_numbers_are_shown_over_two_deviations() -> None:
    """12 bits in a file of 16: mean 2000, deviation 500. The levels 1000, 2000, 3000 and 4000 are 0, 1/2, 1 and 1."""
    facts = spec((1, 1, 4), 65536, dtype="uint16", mean=(2 * 2000 + 1) / 65536 - 1, std=2 * 500 / 65536)
    assert shades(torch.tensor([1000, 2000, 3000, 4000]).reshape(1, 1, 1, 4), facts).flatten().tolist() == [
        0,
        128,
        255,
        255,
    ]
    few = spec((1, 1, 4), 16, dtype="uint8", mean=0.0, std=0.1)
    assert shades(torch.tensor([0, 5, 10, 15]).reshape(1, 1, 1, 4), few).flatten().tolist() == [0, 85, 170, 255]
    # colours share a window, or a grey pixel would not be grey: here from 0 - 2 to 10 + 2 * 2
    colour = spec((3, 1, 1), shift=(0.0, 5.0, 10.0), scale=(1.0, 1.0, 2.0))
    assert shades(torch.full((1, 3, 1, 1), 6.0), colour).flatten().tolist() == [round(255 * 8 / 16)] * 3


def test_names_of_classes_stand_under_the_examples() -> None:
    facts = spec((1, 8, 8), 256, num_classes=2, class_names=("cat", "Food & Drink"))
    assert captions_of(torch.tensor([1, 0, 2]), facts) == ["Food & Drink", "cat", "(hidden)"]
    assert captions_of(torch.tensor([1]), spec((1, 8, 8), 256, num_classes=2)) == ["class 1"]
    assert captions_of(torch.tensor([1]), spec((1, 8, 8), 256)) == [], "the network sees no class"
    sheet = captioned(np.zeros((3, 8, 8, 1), np.uint8), ["", "cat", "a name that is far too long for its image 図"])
    assert sheet.shape == (3, 64 + TEXT, 64, 3)
    assert (sheet[:, :64] == 0).all()
    ink = [(row[64:] != LIGHT).sum() for row in sheet]
    assert 0 == ink[0] < ink[1] < ink[2]
    assert picture(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), facts, captions=["cat"] * 4).shape[-1] == 3


def test_a_picture_of_large_data_has_fewer_examples() -> None:
    sizes = [(2,), (3, 100), (3, 32, 32), (3, 512, 512), (3, 4096, 4096), (1, 32, 32, 32)]
    assert [enough(spec(shape)) for shape in sizes] == [4096, 24, 64, 16, 4, 12]
    many = torch.zeros(400, 8, 64, 64)
    assert picture(many, spec(many.shape[1:])).size < 2**23
