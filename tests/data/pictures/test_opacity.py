"""Opacity: composited as a viewer does it, in stored numbers and before resizing; against NumPy by hand."""

import numpy as np
import pytest
from PIL import Image
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.data.pictures import ImageFolder

RNG = np.random.default_rng(1)
GREY = np.array([0.299, 0.587, 0.114])


def data(path, **options):
    options = {"size": 4, "validation": 0, "test": 0, **options}
    return ImageFolder(path=str(path), **options)


def pixels(path, **options) -> np.ndarray:
    """The only picture of a folder, (H, W, C)."""
    return data(path, **options).split("train").all()[0].permute(1, 2, 0).numpy()


def laid(colour: np.ndarray, opacity: np.ndarray, ground: tuple[int, ...]) -> np.ndarray:
    a = opacity[..., None].astype(float) / 255
    return a * colour + (1 - a) * np.array(ground)


def noise(*channels: int) -> np.ndarray:
    return RNG.integers(0, 256, (4, 4, *channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("background", "ground"),
    [("white", (255,) * 3), ("black", (0,) * 3), ("#ff8000", (255, 128, 0)), ([1, 20, 200], (1, 20, 200))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_of_some_opacity_lies_on_the_background(tmp_path, background, ground, channels):
    colour, opacity = noise(3), noise()
    Image.fromarray(np.dstack([colour, opacity])).save(tmp_path / "1.png")
    expected = laid(colour, opacity, ground)
    expected = expected if channels == 3 else (np.rint(expected) @ GREY)[..., None]
    found = pixels(tmp_path, background=background, channels=channels)
    np.testing.assert_allclose(found.astype(float), expected, atol=0.51)


def test_grey_of_some_opacity(tmp_path):
    grey, opacity = noise(), noise()
    Image.fromarray(np.dstack([grey, opacity]), "LA").save(tmp_path / "1.png")
    expected = laid(np.dstack([grey] * 3), opacity, (255, 255, 255))
    np.testing.assert_allclose(pixels(tmp_path).astype(float), expected, atol=0.51)
    np.testing.assert_allclose(pixels(tmp_path, channels=1).astype(float), expected[..., :1], atol=0.51)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P of bytes", "RGB", "L"])
def test_what_is_hidden_is_never_seen(tmp_path, mode):
    """Each way to store opacity 0: the old result was red, grey 200, or the palette's colour."""
    options = {}
    if mode == "RGBA":
        picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    elif mode == "LA":
        picture = Image.new("LA", (4, 4), (200, 0))
    elif mode.startswith("P"):
        picture = Image.new("P", (4, 4), 0)
        picture.putpalette([255, 0, 0, 0, 255, 0])
        options = {"transparency": b"\0\xff" if mode == "P of bytes" else 0}
    else:
        hidden = (10, 20, 30) if mode == "RGB" else 200
        picture, options = Image.new(mode, (4, 4), hidden), {"transparency": hidden}
    picture.save(tmp_path / "1.png", **options)
    for size in (4, 3, 9):
        assert (pixels(tmp_path, size=size) == 255).all()
        assert (pixels(tmp_path, size=size, channels=1, background="black") == 0).all()


def test_a_gif_shows_its_first_frame_on_the_background(tmp_path):
    frames = [Image.new("P", (4, 4), 0), Image.new("P", (4, 4), 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 255, 0])
    frames[0].save(tmp_path / "1.gif", save_all=True, append_images=frames[1:], transparency=0)
    assert (pixels(tmp_path, background="black") == 0).all()


def test_it_is_composited_before_it_is_resized(tmp_path):
    """Half of the pixels are hidden red: the mean of what a viewer shows is a mean of white and of blue alone."""
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 0] = 255
    picture[:, ::2] = (0, 0, 255, 255)
    Image.fromarray(picture).save(tmp_path / "1.png")
    found = pixels(tmp_path)[:, 1:-1].astype(float)
    np.testing.assert_allclose(found, np.broadcast_to([127.5, 127.5, 255], found.shape), atol=4)


@pytest.mark.parametrize("size", [4, 7, 64])
def test_four_channels_are_the_same_whatever_the_size(tmp_path, size):
    """Hidden red at the side of opaque blue: no size shows red, and hidden pixels have the background's colour."""
    picture = np.zeros((size, size, 4), np.uint8)
    picture[...] = (255, 0, 0, 0)
    picture[:, size // 2 :] = (0, 0, 255, 255)
    Image.fromarray(picture).save(tmp_path / "1.png")
    found = pixels(tmp_path, channels=4, background=[1, 2, 3])
    assert found[:, 0].tolist() == [[1, 2, 3, 0]] * 4
    assert (found[:, -1] >= (0, 0, 255, 250)).all(), "a border of the filter"
    seen = found[found[..., 3] > 0]
    assert (seen[:, :3] == (0, 0, 255)).all()


def test_four_channels_of_the_wanted_size_are_kept_to_the_bit(tmp_path):
    colour, opacity = noise(3), noise()
    opacity[0] = 0
    Image.fromarray(np.dstack([colour, opacity])).save(tmp_path / "1.png")
    found = pixels(tmp_path, channels=4)
    assert (found[0] == (255, 255, 255, 0)).all()
    assert (found[1:] == np.dstack([colour, opacity])[1:]).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 5), (13, 40)])
def test_four_channels_resize_colours_weighted_with_opacity(tmp_path, height, width):
    """Against the definition: resize(c a)/resize(a), each as fractions with Pillow's filter."""
    colour, opacity = (RNG.integers(0, 256, (height, width, *more), dtype=np.uint8) for more in ((3,), ()))
    Image.fromarray(np.dstack([colour, opacity])).save(tmp_path / "1.png")

    def resize(band: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(band.astype(np.float32)).resize((4, 4), Image.Resampling.LANCZOS))

    a = resize(opacity)
    expected = np.dstack([resize(colour[..., c] * opacity.astype(float)) / a for c in range(3)] + [a])
    found = pixels(tmp_path, channels=4, crop="none").astype(float)
    np.testing.assert_allclose(found, expected.clip(0, 255), atol=0.51)


def test_pictures_with_opacity_are_counted(tmp_path):
    for index, opacity in enumerate((0, 254, 255)):
        Image.new("RGBA", (4, 4), (9, 9, 9, opacity)).save(tmp_path / f"{index}.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "4.png")
    found = data(tmp_path).notices
    assert found == ("2 of 4 pictures have opacity; composited on white (dataset.background=...)",)
    assert data(tmp_path, channels=4).notices == (), "they keep it"


@pytest.mark.parametrize("background", ["whyte", "#12345", [1, 2], [1, 2, 256], "#11223344", 7, [0.5, 0, 0], None])
def test_no_colour_is_refused(tmp_path, background):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="background=") as error:
        data(tmp_path, background=background)
    assert "allowed: white, black" in one_line(error)
