"""Where decoded pictures are kept: in memory, or once in a file for all later runs."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.image_files import many, one_line, whole, write_image

from dfm.basics.errors import UserError
from dfm.data import memory_map as mapped
from dfm.data.pictures import ImageFolder, stock
from dfm.data.pictures.decoder import Decoded, Decoder
from dfm.data.rows import store

BLACK = Decoded(values=np.zeros((3, 4, 4), np.uint8), transparent=False, deep=False)


def test_images_too_many_for_memory_are_mapped_from_a_file_and_found_again(tmp_path, monkeypatch):
    many(tmp_path / "data", 20)
    options = {"path": str(tmp_path / "data"), "size": 4, "cache": str(tmp_path / "cache")}
    in_memory = whole(ImageFolder(**options))
    monkeypatch.setattr(store, "free_memory", lambda: 0)
    assert torch.equal(whole(ImageFolder(**options)), in_memory)
    (kept,) = (tmp_path / "cache").glob("*.values")
    assert kept.stat().st_size == in_memory.numel()
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "decode", None)
        assert torch.equal(whole(ImageFolder(**options)), in_memory), "no image is decoded again"
    write_image(tmp_path / "data" / "003.png", (255, 255, 255))
    assert whole(ImageFolder(**options)).max() == 255, "a changed image is"


def test_many_images_are_decoded_once_and_the_file_of_older_ones_is_removed(tmp_path, monkeypatch):
    many(tmp_path / "data", 20)
    options = {"path": str(tmp_path / "data"), "size": 4, "cache": str(tmp_path / "cache")}
    in_memory = whole(ImageFolder(**options))
    monkeypatch.setattr(stock, "MANY", 19)
    assert torch.equal(whole(ImageFolder(**options)), in_memory)
    first = set((tmp_path / "cache").glob("*.values"))
    assert len(first) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "decode", None)
        assert torch.equal(whole(ImageFolder(**options)), in_memory), "no image is decoded again"
    for change in ({"size": 5}, {"test": 0.5}):
        before = set((tmp_path / "cache").glob("*.values"))
        whole(ImageFolder(**{**options, **change}))
        added = set((tmp_path / "cache").glob("*.values")) - before
        assert len(added) == 1, "another form has a file of its own"
        added.pop().unlink()
    with first.copy().pop().open("r+b") as file:
        file.truncate(7)
    assert torch.equal(whole(ImageFolder(**options)), in_memory), "a file cut short is written anew"
    with monkeypatch.context() as patch:
        patch.setattr(stock, "VERSION", 0)
        patch.setattr(Decoder, "decode", lambda *_: BLACK)
        assert whole(ImageFolder(**options)).max() == 0, "another decoder reads nothing of this one's"
    for zeros in set((tmp_path / "cache").glob("*.values")) - first:
        zeros.unlink()
    write_image(tmp_path / "data" / "003.png", (255, 255, 255))
    kept = whole(ImageFolder(**options))
    assert kept.max() == 255
    left = set((tmp_path / "cache").glob("*.values"))
    assert len(left) == 1
    assert not left & first


def test_many_images_are_decoded_into_memory_where_the_disk_is_full(tmp_path, monkeypatch):
    many(tmp_path / "data", 20)
    options = {"path": str(tmp_path / "data"), "size": 4, "cache": str(tmp_path / "cache")}
    in_memory = whole(ImageFolder(**options))
    monkeypatch.setattr(stock, "MANY", 19)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert torch.equal(whole(ImageFolder(**options)), in_memory)
    assert not list((tmp_path / "cache").glob("*.values"))


def test_many_images_are_decoded_into_memory_where_there_can_be_no_cache(tmp_path, monkeypatch):
    many(tmp_path / "data", 20)
    (tmp_path / "file").touch()
    monkeypatch.setattr(stock, "MANY", 19)
    options = {"path": str(tmp_path / "data"), "size": 4, "cache": str(tmp_path / "file" / "cache")}
    assert len(whole(ImageFolder(**options))) == 20
    monkeypatch.setattr(store, "free_memory", lambda: 0)
    with pytest.raises(UserError, match=r"fit neither .* nor .*cache \(Not a directory\)"):
        whole(ImageFolder(**options))


@pytest.mark.wide
def test_processes_that_begin_together_decode_once(tmp_path):
    many(tmp_path / "data", 20)
    code = (
        "import sys; from dfm.data.pictures import ImageFolder, stock; stock.MANY = 5; real = stock.Decoder.decode\n"
        "def slow(*a):\n  import time; time.sleep(0.05); print('decoded', flush=True); return real(*a)\n"
        "stock.Decoder.decode = slow\n"
        "made = ImageFolder(path=sys.argv[1], size=4, cache=sys.argv[2], num_workers=1)\n"
        "print(int(sum(len(made.split(s)) for s in ('train', 'validation', 'test'))))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "cache")]
    running = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [process.communicate(timeout=120)[0] for process in running]
    assert sum(text.count("decoded") for text in out) == 20
    assert [text.split()[-1] for text in out] == ["20", "20"]


def test_images_too_many_for_memory_and_disk_are_refused(tmp_path, monkeypatch):
    write_image(tmp_path / "1.png")
    monkeypatch.setattr(store, "free_memory", lambda: 0)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="try a smaller") as error:
        ImageFolder(path=str(tmp_path), cache=str(tmp_path), validation=0, test=0).split("train")
    one_line(error)
