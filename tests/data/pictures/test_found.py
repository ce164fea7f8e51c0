"""What is found in a folder: links, loops, hidden and other files, and files that are broken."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_files import many, one_line, truncate, write_image

from dfm.basics.errors import UserError
from dfm.data.pictures import ImageFolder, stock


def data(path: Path, **options) -> ImageFolder:
    return ImageFolder(path=str(path), **{"size": 4, "validation": 0, "test": 0, **options})


def counts(path: Path, **options) -> list[int]:
    """The number of training pictures of each class."""
    found = data(path, **options)
    return found.split("train").labels.bincount(minlength=found.num_classes).tolist()


def test_a_linked_folder_below_a_class_is_followed(tmp_path):
    many(tmp_path / "elsewhere" / "deep", 6)
    many(tmp_path / "data" / "a", 2)
    many(tmp_path / "data" / "b", 1)
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "b" / "x").mkdir()
    (tmp_path / "data" / "b" / "x" / "more").symlink_to(tmp_path / "elsewhere")
    assert counts(tmp_path / "data") == [8, 7]


def test_links_in_a_circle_come_to_an_end(tmp_path):
    many(tmp_path / "a" / "deep" / "deeper", 2)
    many(tmp_path / "b", 3)
    (tmp_path / "a" / "deep" / "deeper" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "top").symlink_to(tmp_path)
    (tmp_path / "a" / "deep" / "self").symlink_to(tmp_path / "a" / "deep")
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    assert counts(tmp_path) == [2, 3]
    assert data(tmp_path).notices == (f"{tmp_path}: passed over 4 linked folders that are read already",)


def test_what_is_passed_over_is_counted_in_one_line(tmp_path):
    many(tmp_path / "a", 2)
    for name in ("a/x.txt", "a/y.txt", "a/b/z.json", "a/Thumbs.db", "a/README", "a/.hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no image")
    assert data(tmp_path).notices == (
        f"{tmp_path}: passed over 5 with other endings (.txt 2, none 1, .db 1, .json 1); 2 hidden",
    )


def test_a_link_to_nothing_counts_as_broken(tmp_path):
    many(tmp_path / "a", 2)
    (tmp_path / "a" / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"1 of 3 pictures .* a/x.png \(a link to a file that is not there\)"):
        data(tmp_path).split("train")
    assert counts(tmp_path, broken="skip") == [2]


def test_a_pipe_is_not_opened(tmp_path):
    many(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe.png \(not a file with bytes of its own\)"):
        data(tmp_path).split("train")


def break_some(root: Path) -> None:
    many(root, 5)
    (root / "a.png").write_text("no image")
    truncate(write_image(root / "b.bmp"))
    (root / "c.png").write_bytes(b"")
    (root / "d.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(root / "e.tif")


def test_broken_files_stop_and_a_file_lists_all(tmp_path):
    break_some(tmp_path / "data")
    with pytest.raises(UserError) as error:
        data(tmp_path / "data", cache=str(tmp_path / "cache")).split("train")
    text = one_line(error)
    assert "5 of 10 pictures" in text
    assert sum(f"{name} (" in text for name in ("a.png", "b.bmp", "c.png", "d.jpg", "e.tif")) == 3
    assert text.endswith("; repair or remove them, or try dataset.broken=skip")
    (listed,) = (tmp_path / "cache").iterdir()
    assert f"and 2 more, all in {listed};" in text
    lines = listed.read_text().splitlines()
    assert sorted(line.partition(" (")[0] for line in lines) == ["a.png", "b.bmp", "c.png", "d.jpg", "e.tif"]


@pytest.mark.parametrize("cached", [False, True])
def test_broken_files_are_skipped_and_counted(tmp_path, monkeypatch, cached):
    break_some(tmp_path / "data")
    monkeypatch.setattr(stock, "MANY", 0 if cached else 100)
    options = {"cache": str(tmp_path / "cache"), "channels": 1, "validation": 0.3, "test": 0.3}
    for _ in range(2):  # the second time from the cache
        found = data(tmp_path / "data", broken="skip", **options)
        parts = [found.split(name) for name in ("train", "validation", "test")]
        assert sum(map(len, parts)) == 5
        numbers = [int(value) for part in parts for value in part.all()[:, 0, 0, 0]]
        assert sorted(numbers) == [0, 1, 2, 3, 4]
        (notice,) = found.notices
        assert notice.startswith("dataset folder: 5 of 10 pictures")
        assert notice.endswith("; left out (dataset.broken=skip)")
    with pytest.raises(UserError, match="5 of 10 pictures"):
        data(tmp_path / "data", **options).split("train")


def test_a_folder_without_one_whole_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match="no training examples"):
        data(tmp_path, broken="skip").split("train")


def test_strange_names(tmp_path):
    for name in (b"caf\xe9.png", b"new\nline.png", "子.png".encode(), b"${x}.png"):
        write_image(tmp_path / os.fsdecode(name))
    assert len(data(tmp_path).split("train")) == 4
    for path in list(tmp_path.iterdir()):
        path.write_text("no image")
    with pytest.raises(UserError) as error:
        data(tmp_path, cache=str(tmp_path / "cache")).split("train")
    one_line(error)
    (listed,) = (tmp_path / "cache").iterdir()
    assert len(listed.read_text().splitlines()) == 4
