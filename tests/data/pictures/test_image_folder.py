"""Image folders: classes, splits drawn by hash, resizing, and wrong settings."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from support.image_files import (
    many,
    one_line,
    write_image,
)

from dfm.basics.errors import UserError
from dfm.data.dataset import SPLITS
from dfm.data.pictures import ImageFolder
from dfm.data.rows.partition import share


def numbers(dataset: ImageFolder) -> dict[str, set[int]]:
    return {name: set(dataset.split(name).all()[:, 0, 0, 0].tolist()) for name in SPLITS}


def test_sub_folders_are_classes_by_sorted_name(tmp_path):
    write_image(tmp_path / "zebra" / "deep" / "2.JPG", (0, 0, 250))
    write_image(tmp_path / "ant" / "1.png", (250, 0, 0))
    write_image(tmp_path / "bee" / "1.bmp", (0, 250, 0))
    write_image(tmp_path / ".hidden" / "1.png")
    write_image(tmp_path / "ant" / ".2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    dataset = ImageFolder(path=str(tmp_path), size=8, validation=0, test=0)
    train = dataset.split("train")
    assert dataset.spec.num_classes == 3
    assert train.all().shape == (3, 3, 8, 8)
    assert sorted(train.labels.tolist()) == [0, 1, 2]
    assert torch.equal(train.all().amax((2, 3)).argmax(1), train.labels)


def test_a_linked_class_is_followed(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere")
    assert len(ImageFolder(path=str(tmp_path / "data"), validation=0, test=0).split("train")) == 1


@pytest.mark.parametrize("nested", [False, True])
def test_without_classes_there_are_no_labels(tmp_path, nested):
    write_image(tmp_path / ("a/1.png" if nested else "1.png"))
    dataset = ImageFolder(path=str(tmp_path), labels=not nested, validation=0, test=0)
    assert dataset.num_classes == 0
    assert dataset.split("train").labels is None


def test_the_first_of_a_split_are_of_all_classes(tmp_path):
    """``n=`` takes the first examples: in the order of names they would be of the first class alone."""
    for name in ("ant", "bee"):
        many(tmp_path / name, 60)
    data = ImageFolder(path=str(tmp_path), size=4, channels=1, test=0.4)
    for name in ("train", "test"):
        labels = data.split(name).labels[:16]
        assert 3 <= int(labels.sum()) <= 13, "half of 16, within two and a half deviations"
    assert int(data.split("test").labels.sum()) < len(data.split("test"))


def test_adding_images_moves_none_to_another_split(tmp_path):
    many(tmp_path, 100)
    before = numbers(ImageFolder(path=str(tmp_path), size=4, validation=0.2, test=0.3))
    assert set.union(*before.values()) == set(range(100))
    assert sum(map(len, before.values())) == 100
    # binomial: 100 draws of probability 0.3, 0.2, within 4 deviations
    assert abs(len(before["test"]) - 30) < 4 * math.sqrt(21)
    assert abs(len(before["validation"]) - 20) < 4 * math.sqrt(16)
    many(tmp_path, 100, start=100)
    after = numbers(ImageFolder(path=str(tmp_path), size=4, validation=0.2, test=0.3))
    assert all(before[name] <= after[name] for name in SPLITS)


@pytest.mark.parametrize(("ending", "width", "height"), [("png", 96, 48), ("png", 40, 60), ("jpg", 1000, 700)])
@pytest.mark.parametrize(("size", "height_width"), [(16, (16, 16)), ([8, 24], (8, 24)), ([24, 8], (24, 8))])
def test_images_are_resized_and_cropped_about_the_centre(tmp_path, size, height_width, ending, width, height):
    """A smooth picture, against the same function of position computed at the target's pixel centres."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([250 * rows / height, 250 * columns / width, 125 + 0 * rows], 2)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / f"1.{ending}", quality=95)
    image = ImageFolder(path=str(tmp_path), size=size, validation=0, test=0).split("train").all()[0].numpy()
    h, w = height_width
    scale = min(width / w, height / h)
    y = height / 2 + (np.arange(h) + 0.5 - h / 2) * scale
    x = width / 2 + (np.arange(w) + 0.5 - w / 2) * scale
    expected = np.stack(np.broadcast_arrays((250 * y / height)[:, None], (250 * x / width)[None], 125))
    inner = (slice(None), slice(1, -1), slice(1, -1))  # at a border the filter sees half a neighbourhood
    np.testing.assert_allclose(image.astype(float)[inner], expected[inner], atol=2)


def test_shrinking_averages_instead_of_skipping(tmp_path):
    """Stripes one pixel wide become grey; without antialiasing they would stay black or white."""
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32))).save(tmp_path / "1.png")
    image = ImageFolder(path=str(tmp_path), size=8, channels=1, validation=0, test=0).split("train").all()
    assert (image[..., 1:-1].float() - 127.5).abs().max() < 5


@pytest.mark.parametrize("size", [7, 13, 31, 100])
@pytest.mark.parametrize("source", [(3, 999), (101, 97), (33, 32)])
def test_any_size_is_reached_from_any_other(tmp_path, size, source):
    write_image(tmp_path / "1.png", size=source)
    image = ImageFolder(path=str(tmp_path), size=size, validation=0, test=0).split("train").all()
    assert image[0].flatten(1).unique(dim=1).tolist() == [[10], [200], [30]]


def test_exif_orientation_is_obeyed(tmp_path):
    image = Image.new("L", (4, 2))
    image.putpixel((0, 0), 255)
    image.getexif()[0x0112] = 6  # turn right by a quarter: the first pixel ends at the upper right
    image.save(tmp_path / "1.png", exif=image.getexif())
    values = ImageFolder(path=str(tmp_path), size=[4, 2], channels=1, validation=0, test=0).split("train").all()
    assert values[0, 0].tolist() == [[0, 255], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, [round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)]), (3, [10, 200, 30]), (4, [10, 200, 30, 255])],
)
def test_channels(tmp_path, channels, expected):
    write_image(tmp_path / "1.png")
    dataset = ImageFolder(path=str(tmp_path), size=2, channels=channels, validation=0, test=0)
    assert dataset.split("train").all()[0, :, 0, 0].tolist() == expected


def test_a_folder_with_no_example_for_training_is_refused_with_shares_that_leave_one(tmp_path):
    held_out = next(name for name in map("{}.png".format, range(1000)) if share(name) < 0.05)
    write_image(tmp_path / held_out)
    with pytest.raises(UserError, match="no training example among 1 images") as error:
        ImageFolder(path=str(tmp_path))
    shares = dict(word.removeprefix("dataset.").split("=") for word in one_line(error).rpartition("try ")[2].split())
    dataset = ImageFolder(path=str(tmp_path), **{name: float(number) for name, number in shares.items()})
    assert len(dataset.split("train")) == 1


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        (["1.png"], {"path": None}, "dataset.path=DIR"),
        (["1.png"], {"path": "nowhere"}, "nowhere is not a folder"),
        ([], {}, ".jfif, .jp2"),
        (["1.png", "a/1.png"], {}, "dataset.labels=false"),
        (["1.png"], {"channels": 2}, "allowed: 1, 3, 4"),
        (["1.png"], {"size": 0}, "size=0"),
        (["1.png"], {"size": [1, 2, 3]}, "[height, width]"),
        (["1.png"], {"validation": 0.5, "test": 0.5}, "together below 1"),
        (["1.png"], {"validation": -0.1}, "at least 0"),
        (["1.png"], {"num_workers": 0}, "num_workers=0"),
    ],
)
def test_a_wrong_folder_is_refused_at_once(files, options, words, tmp_path):
    for file in files:
        write_image(tmp_path / file)
    with pytest.raises(UserError) as error:
        ImageFolder(**{"path": str(tmp_path), **options})
    assert words in one_line(error)
