"""Every kind of file that Pillow reads: colours, endings, frames, sizes; and where a picture is cut."""

import numpy as np
import pytest
from PIL import Image
from support.image_files import one_line, write_image

from dfm.basics.errors import UserError
from dfm.data.pictures import ImageFolder
from dfm.data.pictures.source import endings

RNG = np.random.default_rng(3)


def data(path, **options):
    return ImageFolder(path=str(path), **{"size": 8, "validation": 0, "test": 0, **options})


def pixels(path, **options) -> np.ndarray:
    return data(path, **options).split("train").all()[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "name",
    ["a.jfif", "a.jpe", "a.jp2", "a.avif", "a.JPG", "a.tga", "a.ico", "a.bmp", "a.webp", "a.tiff", "a.qoi", "a.pcx"],
)
def test_all_endings_that_pillow_reads_are_taken(tmp_path, name):
    Image.new("RGB", (16, 16), (10, 200, 30)).save(tmp_path / name)
    np.testing.assert_allclose(pixels(tmp_path).astype(int), np.broadcast_to((10, 200, 30), (8, 8, 3)), atol=3)


def test_what_pillow_only_recognises_is_no_picture():
    assert {".png", ".jpg", ".gif", ".psd", ".pfm", ".dds"} <= endings()
    assert not endings() & {".h5", ".grib", ".wmf", ".mpg", ".eps", ".pdf", ".txt", ""}


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_printers_colours(tmp_path, ending):
    """Cyan, magenta, yellow and black: c = 255 (1 - C)(1 - K). In a JPEG they are stored inverted, as Adobe does."""
    inks = (200, 30, 100, 40)
    Image.new("CMYK", (8, 8), inks).save(tmp_path / f"1.{ending}", quality=100)
    expected = [255 * (1 - ink / 255) * (1 - inks[3] / 255) for ink in inks[:3]]
    np.testing.assert_allclose(pixels(tmp_path).astype(float), np.broadcast_to(expected, (8, 8, 3)), atol=2.5)


def test_a_palette(tmp_path):
    colours = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    index = RNG.integers(0, 16, (8, 8), dtype=np.uint8)
    picture = Image.fromarray(index, "P")
    picture.putpalette(colours.tobytes())
    picture.save(tmp_path / "1.png")
    assert (pixels(tmp_path) == colours[index]).all()


def test_one_bit(tmp_path):
    bits = RNG.integers(0, 2, (8, 8)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "1.png")
    assert (pixels(tmp_path, channels=1)[..., 0] == 255 * bits).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_crop_of_none_takes_the_whole_picture(tmp_path, channels):
    """Left half black, right half white, three times as wide as high: the centre alone would lose its ends."""
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, :3], picture[:, 21:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "1.png")
    squeezed = pixels(tmp_path, crop="none", channels=channels)
    assert (squeezed[:, 0, :3] > (220, -1, -1)).all()
    assert (squeezed[:, -1, :3] > (-1, -1, 220)).all()
    assert (pixels(tmp_path, channels=channels)[..., :3] == 0).all()


def test_a_random_crop_depends_on_the_name_alone_and_stays_inside(tmp_path):
    """A ramp of 8 x 64, cut to 8 x 8 without resizing: the first pixel tells where."""
    picture = np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (8, 64))
    for index in range(60):
        Image.fromarray(picture.copy()).save(tmp_path / f"{index}.png")
    first = [data(tmp_path, crop="random", channels=1).split("train").all() for _ in range(2)]
    assert (first[0] == first[1]).all()
    places = first[0][:, 0, 0, 3].float() / 4 - 3
    assert places.min() >= 0
    assert places.max() <= 56
    assert abs(float(places.mean()) - 28) < 4 * 16.2 / 60**0.5, "uniform on 0 .. 56, within 4 deviations"
    assert float(places.std()) > 10


def test_a_huge_picture_needs_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    for size in ((10, 10), (30, 30)):
        write_image(tmp_path / "1.png", size=size)
        with pytest.raises(UserError) as error:
            data(tmp_path).split("train")
        n = size[0] * size[1]
        assert f"{n:,} pixels; allowed: 99; try dataset.max_pixels={n}" in one_line(error)
        assert (pixels(tmp_path, max_pixels=n) == (10, 200, 30)).all()
    assert Image.MAX_IMAGE_PIXELS == 99
    monkeypatch.undo()
    with pytest.raises(UserError, match="allowed: 899"):
        data(tmp_path, max_pixels=899).split("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": "centre"}, "crop=centre; allowed: center, random, none"),
        ({"levels": 255}, "levels=255; allowed: 256, 65536, null"),
        ({"broken": "go"}, "broken=go; allowed: stop, skip"),
        ({"max_pixels": 0}, "max_pixels=0; allowed: at least 1"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(tmp_path, options, words):
    write_image(tmp_path / "1.png")
    with pytest.raises(UserError) as error:
        data(tmp_path, **options)
    assert words in one_line(error)
