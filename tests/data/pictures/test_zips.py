"""Zips: read as they are, and safe against names that lead out and against absurd sizes."""

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from support.image_files import many, one_line, whole, write_image

from dfm.basics.errors import UserError
from dfm.data.pictures import ImageFolder, stock, zip_source


def data(path: Path, **options) -> ImageFolder:
    return ImageFolder(path=str(path), **{"size": 4, "channels": 1, **options})


def pack(root: Path, target: Path, prefix: str = "", separator: str = "/") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(prefix + path.relative_to(root).as_posix())
                info.filename = info.filename.replace("/", separator)
                archive.writestr(info, path.read_bytes())
    return target


def same(a: ImageFolder, b: ImageFolder) -> None:
    assert a.class_names == b.class_names
    for name in ("train", "validation", "test"):
        one, two = a.split(name), b.split(name)
        assert torch.equal(one.all(), two.all())
        assert one.labels.tolist() == two.labels.tolist()


def folder(root: Path) -> Path:
    many(root / "cat", 20)
    many(root / "dog" / "deep", 20, start=100)
    return root


@pytest.mark.parametrize(("prefix", "separator"), [("", "/"), ("pictures/", "/"), ("", "\\")])
def test_a_zip_is_its_folder(tmp_path, prefix, separator):
    """Also with one folder around everything, and as some programs of Windows write it."""
    root = folder(tmp_path / "data")
    packed = pack(root, tmp_path / "x.zip", prefix, separator)
    same(data(root, test=0.3), data(packed, test=0.3))


def test_a_zip_with_splits(tmp_path):
    for start, name in enumerate(("train", "test")):
        many(tmp_path / "data" / name / "a", 3, start=10 * start)
    same(data(tmp_path / "data"), data(pack(tmp_path / "data", tmp_path / "x.zip")))
    (alone,) = [pack(tmp_path / "data" / "train", tmp_path / "y.zip", "train/")]
    assert data(alone).class_names == ("a",)


@pytest.mark.parametrize("prefix", ["", "edm/"])
def test_a_zip_of_edm(tmp_path, prefix):
    names = [f"{index // 3:05}/img{index:08}.png" for index in range(6)]
    for index, name in enumerate(names):
        write_image(tmp_path / "data" / name, (index,) * 3, (4, 4))
    labels = [[name, index % 2] for index, name in enumerate(names)]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labels": labels}))
    found = data(pack(tmp_path / "data", tmp_path / "x.zip", prefix), validation=0, test=0)
    train = found.split("train")
    assert found.num_classes == 2
    assert (train.all()[:, 0, 0, 0] % 2 == train.labels).all()


def test_a_zip_is_decoded_once(tmp_path, monkeypatch):
    packed = pack(folder(tmp_path / "data"), tmp_path / "x.zip")
    monkeypatch.setattr(stock, "MANY", 19)
    options = {"cache": str(tmp_path / "cache")}
    first = whole(data(packed, **options))
    with monkeypatch.context() as patch:
        patch.setattr(stock.Decoder, "decode", None)
        assert torch.equal(whole(data(packed, **options)), first)
    write_image(tmp_path / "data" / "cat" / "000.png", (255,) * 3)
    pack(tmp_path / "data", packed)
    assert whole(data(packed, **options)).max() == 255


def test_what_is_passed_over_in_a_zip_is_counted(tmp_path):
    with zipfile.ZipFile(pack(folder(tmp_path / "data"), tmp_path / "x.zip"), "a") as archive:
        for name in ("__MACOSX/cat/._1.png", "cat/.DS_Store", "read me.txt"):
            archive.writestr(name, "no image")
    assert data(tmp_path / "x.zip").notices == (
        f"{tmp_path / 'x.zip'}: passed over 1 with other endings (.txt 1); 2 hidden",
    )


def test_a_broken_file_in_a_zip_is_a_broken_picture(tmp_path):
    packed = pack(folder(tmp_path / "data"), tmp_path / "x.zip")
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        entry = archive.infolist()[0]
    start = entry.header_offset + 30 + len(entry.filename)
    content[start : start + entry.compress_size] = bytes(entry.compress_size)
    packed.write_bytes(content)
    with pytest.raises(UserError, match="1 of 40 pictures"):
        data(packed).split("train")
    assert len(whole(data(packed, broken="skip"))) == 39


@pytest.mark.parametrize(
    "name", ["../1.png", "a/../../1.png", "/etc/1.png", "C:/1.png", "..\\1.png", "\\\\host\\1.png"]
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"")
    with pytest.raises(UserError) as error:
        data(tmp_path / "x.zip")
    assert "a name that leads out of the zip; allowed:" in one_line(error)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_bomb_is_refused_by_its_ratio(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("1.bmp", bytes(2**23))
    with pytest.raises(UserError) as error:
        data(tmp_path / "x.zip")
    assert "unpack to 8,388,608; allowed: 1,000 times at most" in one_line(error)


@pytest.mark.parametrize(("limit", "words"), [("ONE_FILE", "for one file"), ("ALL_FILES", "in all")])
def test_an_absurd_size_is_refused(tmp_path, monkeypatch, limit, words):
    packed = pack(folder(tmp_path / "data"), tmp_path / "x.zip")
    monkeypatch.setattr(zip_source, limit, 50)
    with pytest.raises(UserError) as error:
        data(packed)
    assert "allowed: at most 50" in one_line(error)
    assert words in str(error.value)


def test_a_size_that_is_a_lie_unpacks_no_more_than_it_says(tmp_path):
    """A file of 4 MiB whose directory says 100 bytes: it is broken, and no more than 100 bytes are read."""
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.bmp", bytes(2**22))
    content = bytearray(packed.read_bytes())
    at = content.find(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", 100)
    packed.write_bytes(content)
    with pytest.raises(UserError, match="1 of 1 pictures"):
        data(packed, validation=0, test=0).split("train")


def test_an_encrypted_zip_is_refused(tmp_path):
    packed = pack(folder(tmp_path / "data"), tmp_path / "x.zip")
    content = bytearray(packed.read_bytes())
    content[content.find(b"PK\1\2") + 8] |= 1
    packed.write_bytes(content)
    with pytest.raises(UserError) as error:
        data(packed)
    assert "it is encrypted; allowed: a zip without a password" in one_line(error)


@pytest.mark.parametrize("kind", ["text", "cut short", "empty", "a picture"])
def test_what_is_no_zip_is_refused(tmp_path, kind):
    packed = pack(folder(tmp_path / "data"), tmp_path / "x.zip")
    if kind == "text":
        packed.write_text("PK no zip")
    elif kind == "cut short":
        packed.write_bytes(packed.read_bytes()[:-200])
    elif kind == "empty":
        packed.write_bytes(b"")
    else:
        packed = write_image(tmp_path / "x.png")
    with pytest.raises(UserError) as error:
        data(packed)
    assert "cannot be read as a zip" in one_line(error)


def test_a_zip_without_pictures_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/1.txt", "")
    with pytest.raises(UserError, match="no picture in"):
        data(tmp_path / "x.zip")
