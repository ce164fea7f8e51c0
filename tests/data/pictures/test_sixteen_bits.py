"""Sixteen bits a channel: 65,536 levels as they are in the file, written here by hand."""

import struct
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.image_files import one_line, write_image

from dfm.basics.errors import UserError
from dfm.data.numbers.stored_form import from_array, to_array, to_stored
from dfm.data.pictures import ImageFolder
from dfm.runs.sample_files import read_samples

RNG = np.random.default_rng(2)
needs_opencv = pytest.mark.skipif(find_spec("cv2") is None, reason="pip install 'dfm[pictures]'")
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path: Path, pixels: np.ndarray, *more: bytes) -> None:
    """Write a PNG of 16 bits from its specification: (H, W, C)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def noise(channels: int, height: int = 5, width: int = 5) -> np.ndarray:
    return RNG.integers(0, 65536, (height, width, channels))


def read(path: Path, **options) -> np.ndarray:
    options = {"size": 5, "validation": 0, "test": 0, **options}
    return ImageFolder(path=str(path), **options).split("train").all()[0].permute(1, 2, 0).numpy()


@needs_opencv
def test_rgb_keeps_its_levels(tmp_path):
    pixels = noise(3)
    png(tmp_path / "1.png", pixels)
    found = read(tmp_path)
    assert (found == pixels).all()
    dataset = ImageFolder(path=str(tmp_path), size=5, validation=0, test=0)
    assert dataset.levels == 65536
    spec = dataset.spec
    assert (spec.levels, spec.dtype, spec.channels_last) == (65536, "uint16", True)
    (notice,) = dataset.notices
    assert notice.startswith("1 of 1 pictures have more than 8 bits a channel; all are read as 65,536 levels")


@needs_opencv
def test_opacity_is_composited_in_sixteen_bits(tmp_path):
    pixels = noise(4)
    png(tmp_path / "1.png", pixels)
    a = pixels[..., 3:] / 65535
    expected = a * pixels[..., :3] + (1 - a) * np.array([257, 0, 65535])
    np.testing.assert_allclose(read(tmp_path, background=[1, 0, 255]), expected, atol=0.51)
    kept = read(tmp_path, channels=4)
    assert (kept == pixels).all()
    grey = np.rint(expected) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(read(tmp_path, background=[1, 0, 255], channels=1)[..., 0], grey, atol=1)


@needs_opencv
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_with_and_without_opacity(tmp_path, channels):
    grey, both = noise(1), noise(2)
    png(tmp_path / "a" / "1.png", grey)
    png(tmp_path / "b" / "1.png", both)
    assert (read(tmp_path / "a", channels=channels) == grey).all()
    a = both[..., 1:] / 65535
    expected = np.broadcast_to(a * both[..., :1] + (1 - a) * 65535, (5, 5, channels))
    np.testing.assert_allclose(read(tmp_path / "b", channels=channels), expected, atol=0.51)


@needs_opencv
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_that_stands_for_nothing(tmp_path, channels):
    """The tRNS chunk of a PNG without a channel for opacity."""
    pixels = noise(channels)
    pixels[2, 3] = pixels[0, 0]
    key = struct.pack(f">{channels}H", *pixels[0, 0])
    png(tmp_path / "1.png", pixels, chunk(b"tRNS", key))
    found = read(tmp_path)
    expected = np.broadcast_to(pixels, (5, 5, 3)).copy()
    expected[0, 0] = expected[2, 3] = 65535
    assert (found == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_256_levels_are_the_upper_eight_bits(tmp_path, channels):
    pixels = noise(channels)
    png(tmp_path / "1.png", pixels)
    found = read(tmp_path, levels=256)
    assert found.dtype == np.uint8
    assert (found == pixels // 256).all()
    (notice,) = ImageFolder(path=str(tmp_path), levels=256, validation=0, test=0).notices
    assert "the lower bits are cut (dataset.levels=65536 keeps them)" in notice


@needs_opencv
@pytest.mark.parametrize("levels", [None, 65536])
def test_pictures_of_eight_bits_beside_them_are_spread(tmp_path, levels):
    png(tmp_path / "a" / "1.png", noise(3))
    write_image(tmp_path / "b" / "1.png", (0, 100, 255))
    dataset = ImageFolder(path=str(tmp_path), size=5, levels=levels, validation=0, test=0)
    (row,) = (row for row, one in enumerate(dataset._layout.pictures) if one.found.name == "b/1.png")
    assert dataset.split("train").all()[row, :, 0, 0].tolist() == [0, 100 * 257, 65535]
    assert "1 of 2 pictures have more than 8 bits" in dataset.notices[0]


def test_eight_bits_alone_stay_eight(tmp_path):
    write_image(tmp_path / "1.png")
    assert ImageFolder(path=str(tmp_path)).levels == 256
    assert read(tmp_path, levels=65536).max() == 200 * 257


@needs_opencv
def test_a_name_of_another_kind_hides_nothing(tmp_path):
    pixels = noise(3)
    png(tmp_path / "1.jpg", pixels)
    assert (read(tmp_path) == pixels).all()


@needs_opencv
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_turned_as_exif_says(tmp_path, orientation, channels):
    """Against Pillow, which turns 8 bits."""
    small = RNG.integers(0, 256, (3, 5, channels), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(small[..., 0] if channels == 1 else small)
    picture.save(tmp_path / "8.png", exif=exif)
    with Image.open(tmp_path / "8.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened)).reshape(*ImageOps.exif_transpose(opened).size[::-1], -1)
    png(tmp_path / "deep" / "1.png", small.astype(int) * 256 + 7, chunk(b"eXIf", exif.tobytes()[6:]))
    found = read(tmp_path / "deep", size=list(upright.shape[:2]), channels=channels)
    assert (found == upright.astype(int) * 256 + 7).all()


@needs_opencv
def test_a_ramp_is_shrunk_to_the_mean_of_each_block(tmp_path):
    """Away from the border the filter gives the centre of a linear ramp exactly, between two levels of 8 bits."""
    ramp = 1000 + 10 * np.arange(60)
    png(tmp_path / "1.png", np.broadcast_to(ramp[None, :, None], (60, 60, 3)))
    found = read(tmp_path, size=12)[3:-3, 3:-3].astype(float)
    expected = ramp.reshape(12, 5).mean(1)[3:-3]
    np.testing.assert_allclose(found, np.broadcast_to(expected[None, :, None], found.shape), atol=0.6)


@needs_opencv
def test_a_netpbm_file_of_any_top(tmp_path):
    for top in (65535, 1000):
        pixels = RNG.integers(0, top + 1, (5, 5, 3))
        head = f"P6\n5 5\n{top}\n".encode()
        (tmp_path / "1.ppm").write_bytes(head + pixels.astype(">u2").tobytes())
        np.testing.assert_allclose(read(tmp_path), pixels * (65535 / top), atol=0.51)
        (tmp_path / "1.ppm").unlink()
        grey = RNG.integers(0, top + 1, (5, 5, 1))
        (tmp_path / "1.pgm").write_bytes(f"P5\n5 5\n{top}\n".encode() + grey.astype(">u2").tobytes())
        np.testing.assert_allclose(read(tmp_path, channels=1), grey * (65535 / top), atol=0.51)
        (tmp_path / "1.pgm").unlink()


def tiff(path: Path, pixels: np.ndarray) -> None:
    """Write a TIFF of 16 bits from its specification: one strip, (H, W, C)."""
    height, width, channels = pixels.shape
    data = pixels.astype("<u2").tobytes()
    bits = struct.pack(f"<{channels}H", *[16] * channels)
    at = 8 + len(data)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, at if channels > 2 else 16), (259, 3, 1, 1),
        (262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, 8), (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    tags += [(338, 3, 1, 2)] if channels == 4 else []
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    where = at + len(bits)
    body = data + bits + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(b"II*\0" + struct.pack("<I", where) + body)


def test_a_grey_tiff(tmp_path):
    pixels = noise(1)
    tiff(tmp_path / "1.tif", pixels)
    assert (read(tmp_path, channels=1) == pixels).all()


@needs_opencv
def test_a_tiff_in_colours(tmp_path):
    for channels in (3, 4):
        pixels = noise(channels)
        tiff(tmp_path / "1.tif", pixels)
        assert (read(tmp_path, channels=channels) == pixels).all()


def test_without_opencv_a_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    pixels = noise(3)
    tiff(tmp_path / "1.tif", pixels)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    assert "pip install 'dfm[pictures]'" in one_line(error)
    assert (read(tmp_path, levels=256) == pixels // 256).all(), "the other suggestion"


def test_numbers_beyond_sixteen_bits_are_refused(tmp_path):
    for name, numbers in (("i", np.full((5, 5), 70_000, np.int32)), ("f", np.full((5, 5), 0.5, np.float32))):
        (tmp_path / name).mkdir()
        Image.fromarray(numbers).save(tmp_path / name / "1.tif")
        with pytest.raises(UserError) as error:
            read(tmp_path / name)
        assert "allowed: 0 to 65535" in one_line(error) or "allowed: 8 or 16 bits" in one_line(error)


@needs_opencv
def test_samples_come_back_as_pictures_of_sixteen_bits(tmp_path):
    """What ``dfm sample`` stores has the file's numbers, and a folder of such pictures is read as samples."""
    pixels = noise(3)
    png(tmp_path / "1.png", pixels)
    dataset = ImageFolder(path=str(tmp_path), size=5, validation=0, test=0)
    examples = dataset.split("train").all()
    stored = to_array(to_stored(examples, dataset.spec), dataset.spec)
    assert stored.dtype == np.uint16
    assert (stored[0] == pixels).all()
    assert torch.equal(from_array(stored, dataset.spec), examples)
    assert torch.equal(read_samples(str(tmp_path), dataset.spec), examples)
