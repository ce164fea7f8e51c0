"""Pictures that are compared with a model's (``samples=DIR``): read by the rules of ``dataset=folder``."""

import numpy as np
import pytest
from PIL import Image
from support.image_files import write_image

from dfm.basics.errors import UserError
from dfm.runs.pictures.images import read_images


def test_opacity_is_composited_on_white_unless_it_is_a_channel(tmp_path):
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "1.png")
    assert read_images(tmp_path, 3).tolist() == [[[[255, 255, 255], [255, 0, 0]]]]
    assert read_images(tmp_path, 1).tolist() == [[[[255], [76]]]]
    assert read_images(tmp_path, 4).tolist() == [[[[255, 255, 255, 0], [255, 0, 0, 255]]]]


def test_they_are_turned_as_exif_says(tmp_path):
    picture = Image.new("L", (4, 2))
    picture.putpixel((0, 0), 255)
    picture.getexif()[0x0112] = 6
    picture.save(tmp_path / "1.png", exif=picture.getexif())
    assert read_images(tmp_path, 1)[0, ..., 0].tolist() == [[0, 255], [0, 0], [0, 0], [0, 0]]


def test_sixteen_bits_are_kept_or_cut(tmp_path):
    numbers = np.array([[0, 1000, 65535]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "1.png")
    assert read_images(tmp_path, 1, levels=65536)[0, ..., 0].tolist() == numbers.tolist()
    assert read_images(tmp_path, 1)[0, ..., 0].tolist() == [[0, 3, 255]]


def test_files_in_the_order_of_names_and_of_one_size(tmp_path):
    for index in (2, 0, 1):
        write_image(tmp_path / f"{index}.png", (index,) * 3, (5, 3))
    found = read_images(tmp_path, 3)
    assert found.shape == (3, 3, 5, 3)
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2]
    write_image(tmp_path / "3.png", size=(3, 5))
    with pytest.raises(UserError, match=r"3\.png: \(5, 3\) pixels"):
        read_images(tmp_path, 3)
