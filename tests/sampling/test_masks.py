"""Masks from picture files: what is known in each format, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import Command

from dfm.basics.errors import UserError
from dfm.runs.pictures.masks import read_mask
from dfm.sampling.inverse_problems import Inpaint

HALF = np.zeros((16, 16), bool)  # JPEG compresses blocks of 8 x 8, so an edge between blocks stays exact
HALF[:, :8] = True
GREY = np.where(HALF, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "gif", "tiff", "webp", "PNG"])
def test_every_format_gives_the_same_mask(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"mask.{suffix}")
    assert np.array_equal(read_mask(tmp_path / f"mask.{suffix}"), HALF)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_gives_the_same_mask(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(GREY).convert(mode)
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), HALF)


def test_grey_is_cut_at_half(tmp_path: Path) -> None:
    Image.fromarray(np.array([[127, 128]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_hole_that_an_editor_erased_is_missing(mode: str, tmp_path: Path) -> None:
    """A dark photograph with an erased half: all that is left of it is known, although it is dark."""
    photo = np.full((16, 16, 4), 40, np.uint8)
    photo[..., 3] = GREY
    picture = Image.fromarray(photo)
    if mode == "P":
        flat = Image.fromarray(np.where(HALF, 1, 0).astype(np.uint8), mode="P")
        flat.putpalette([0, 0, 0, 40, 40, 40])
        flat.save(tmp_path / "hole.png", transparency=0)
    else:
        picture.convert(mode).save(tmp_path / "hole.png")
    assert np.array_equal(read_mask(tmp_path / "hole.png"), HALF)


@pytest.mark.parametrize("top", [255, 65535])
def test_sixteen_bits_are_cut_at_half_of_them(top: int, tmp_path: Path) -> None:
    """Also of a program that writes 8 bits into a file of 16."""
    numbers = np.array([[0, top // 2, top // 2 + 1, top]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 0, 1, 1]]


def test_one_kind_of_pixel_is_no_mask() -> None:
    for value, says in ((1.0, "every pixel is known"), (0.0, "no pixel is known")):
        task = Inpaint(mask="mine.png", known=torch.full((8, 8), value, dtype=torch.float64))
        with pytest.raises(UserError, match=says):
            task.known_pixels(8, 8)
    with pytest.raises(UserError, match=r"4 x 8 pixels.*allowed: 8 x 8.*scale the picture"):
        Inpaint(mask="mine.png", known=torch.ones(4, 8)).known_pixels(8, 8)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("white.jpg", "every pixel is known"),
        ("black.jpg", "no pixel is known"),
        ("hole.png", "no pixel is known"),
        ("wide.jpg", "8 x 9 pixels (height x width); allowed: 8 x 8"),
        ("notes.txt", "white: known, black: missing"),
        ("nowhere.jpg", "nowhere.jpg"),
        ("lift", "did you mean 'left'"),
    ],
)
def test_a_mask_that_does_not_work_is_one_line(name: str, says: str, tiny_run: Path, command: Command) -> None:
    pictures = {
        "white.jpg": np.full((8, 8), 255, np.uint8), "black.jpg": np.zeros((8, 8), np.uint8),
        "hole.png": np.zeros((8, 8, 4), np.uint8), "wide.jpg": np.zeros((8, 9), np.uint8),
    }  # fmt: skip
    Path("notes.txt").write_text("no picture")
    if name in pictures:
        Image.fromarray(pictures[name]).save(name)
    words = ("sample", f"ckpt={tiny_run}", "task=inpaint", f"mask={name}", "n=1", "sampler.steps=1")
    assert says in command(*words, code=1).problem
