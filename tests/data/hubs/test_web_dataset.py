"""WebDataset shards: the examples of the library, in its order, decoded once for all runs."""

import io
import os
import subprocess
import tracemalloc
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.hub_files import array_shard, npy, picture, picture_shards, write_shard
from support.image_files import one_line, truncate

from dfm.basics.errors import UserError
from dfm.data import ImageFolder, WebDataset
from dfm.data import memory_map as mapped
from dfm.data.dataset import SPLITS
from dfm.data.hubs.shards import ShardSource, braces, shards_of
from dfm.data.pictures.decoder import Decoder

PICTURES = {"size": [7, 9]}  # their own size: nothing is resized
EXACT = Decoder(height_width=(7, 9), channels=3)


def numbers_of(dataset: WebDataset, name: str, n: int = 200) -> list[int]:
    """Which of ``picture(k)`` the examples of a split are, in their order."""
    known = {EXACT.decode(io.BytesIO(picture(k)), "").values.tobytes(): k for k in range(n)}
    return [known[image.numpy().tobytes()] for image in dataset.split(name).all()]


def shards(tmp_path: Path, path: str = "data", **options: object) -> WebDataset:
    return WebDataset(path=str(tmp_path / path), cache=str(tmp_path / "cache"), **{**PICTURES, **options})


def test_the_examples_and_their_order_are_those_of_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("webdataset")
    write_shard(
        tmp_path / "a.tar",
        [
            ("deep/er/one.PNG", picture(1)), ("deep/er/one.seg.png", picture(2)), ("deep/er/one.cls", b"4"),
            ("two.json", b"{}"), ("two.png", picture(3)), (".hidden", b"x"), ("no_ending", b"x"), ("three.txt", b"x"),
            ("x.y/four.png", picture(4)), ("x.y/five.jpeg.png", picture(5)),
        ],
    )  # fmt: skip
    write_shard(tmp_path / "b.tgz", [("two.png", picture(6))], "w:gz")
    paths = [str(tmp_path / "a.tar"), str(tmp_path / "b.tgz")]
    theirs = list(library.WebDataset(paths, shardshuffle=False))
    source = ShardSource(shards_of(paths, "x"), False, None, None, False, "x")
    ours = list(source.values())
    found = [next((v for k, v in one.items() if k.split(".")[-1] == "png"), None) for one in theirs]
    assert ours == [one for one in found if one is not None]
    source.listing()
    names = [f"{Path(one['__url__']).name}: {one['__key__']}" for one in theirs]
    assert [source.named(row) for row in range(len(ours))] == [n for n, v in zip(names, found, strict=True) if v]


@pytest.mark.parametrize("text", ["a-{000..012}.tar", "{x,y}-{9..11}.tar", "plain.tar", "a{,b}c", "{a}", "{08..10}"])
def test_braces_are_those_of_a_shell(text: str) -> None:
    shell = subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True)
    assert braces(text) == (["a"] if text == "{a}" else shell.stdout.split())  # a shell keeps braces around one word


def test_pictures_are_decoded_as_those_of_a_folder_and_classes_are_read(tmp_path: Path) -> None:
    picture_shards(tmp_path / "data")
    data = shards(tmp_path, test=0.3)
    assert (data.spec.shape, data.spec.levels, data.spec.num_classes, data.class_names) == ((3, 7, 9), 256, 3, ())
    found = {name: numbers_of(data, name) for name in SPLITS}
    assert sorted(chain.from_iterable(found.values())) == list(range(24))
    for name in SPLITS:
        assert data.split(name).labels.tolist() == [k % 3 for k in found[name]]


def test_shards_say_their_split(tmp_path: Path) -> None:
    """By a word of their name, of their folder's name, or by keys of their own."""
    picture_shards(tmp_path / "data", 2, 5, "my-train")
    picture_shards(tmp_path / "data", 1, 4, "my-val", start=10)
    data = shards(tmp_path, validation=0.4, test=0)
    assert sorted(numbers_of(data, "train")) == list(range(10))
    assert sorted(numbers_of(data, "validation")) == list(range(10, 14))
    picture_shards(tmp_path / "other" / "Test", 1, 3, "x", start=50)
    for data in (
        shards(tmp_path, test_path=str(tmp_path / "other")),
        WebDataset(path=[str(tmp_path / "data"), str(tmp_path / "other")], cache=str(tmp_path / "cache"), **PICTURES),
    ):
        assert sorted(numbers_of(data, "test")) == [50, 51, 52]
    alone = shards(tmp_path, "other", validation=0, test=0)
    assert sorted(numbers_of(alone, "train")) == [50, 51, 52], "where everything is called test, nothing is"


def test_shards_that_are_added_move_no_example_to_another_split(tmp_path: Path) -> None:
    picture_shards(tmp_path / "data", 4, 25)
    before = {name: set(numbers_of(shards(tmp_path, validation=0.2, test=0.3), name)) for name in SPLITS}
    # binomial: 100 draws of probability 0.3 and 0.2, within 4 deviations
    assert abs(len(before["test"]) - 30) < 4 * 21**0.5
    assert abs(len(before["validation"]) - 20) < 4 * 16**0.5
    picture_shards(tmp_path / "data", 2, 25, "zz", start=100)
    after = {name: set(numbers_of(shards(tmp_path, validation=0.2, test=0.3), name)) for name in SPLITS}
    assert all(before[name] <= after[name] for name in SPLITS)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint8", "uint16", "int16"])
def test_arrays_keep_their_type_and_numbers(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(-40 if kind[0] != "u" else 0, 300 if kind != "uint8" else 200, (9, 3, 5))
    arrays = values.astype(kind)
    names = ["emu", "ant", "cat"] * 3
    array_shard(tmp_path / "data" / "a.tar", list(arrays), names)
    data = shards(tmp_path, shape=(5, 3), layout="channels_last", labels="json.kind", validation=0, test=0)
    spec, split = data.spec, data.split("train")
    assert (spec.dtype, spec.channels_last, spec.class_names) == (kind, True, ("ant", "cat", "emu"))
    order = [
        int(np.flatnonzero((arrays == np.moveaxis(v, 0, -1)).all((1, 2)))[0]) for v in split.values[split.rows].numpy()
    ]
    assert sorted(order) == list(range(9))
    np.testing.assert_array_equal(split.all().numpy() + split.lowest, np.moveaxis(arrays, -1, 1)[order])
    assert [spec.class_names[label] for label in split.labels] == [names[k] for k in order]
    if kind[0] != "f":
        assert spec.levels == {"uint8": 256, "uint16": 512, "int16": arrays.max() - arrays.min() + 1}[kind]
        real = shards(tmp_path, shape=(5, 3), layout="channels_last", integers="real", labels=False)
        assert (real.spec.levels, real.spec.dtype) == (None, "float32")


def test_examples_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = picture_shards(tmp_path / "data")
    options = {"validation": 0.2, "test": 0.2}
    first = {name: numbers_of(shards(tmp_path, **options), name) for name in SPLITS}
    with monkeypatch.context() as patch:
        patch.setattr(ShardSource, "_members", None)
        patch.setattr(Decoder, "array", None)
        again = shards(tmp_path, **options)
        assert {name: len(again.split(name)) for name in SPLITS} == {name: len(first[name]) for name in SPLITS}
        other = shards(tmp_path, validation=0, test=0)
        assert len(other.split("train")) == 24, "other fractions need no other file"
    assert {name: numbers_of(shards(tmp_path, **options), name) for name in SPLITS} == first

    def kept(ending: str) -> set[Path]:
        return set((tmp_path / "cache").glob(f"*.{ending}"))

    (values,), (index,) = kept("values"), kept("npz")
    for damage in (lambda: index.unlink(), lambda: index.write_bytes(b"no index"), lambda: os.truncate(values, 7)):
        damage()
        assert {name: numbers_of(shards(tmp_path, **options), name) for name in SPLITS} == first, "written anew"
    write_shard(paths[0], [("0.png", picture(90)), ("0.cls", b"0")])
    assert 90 in chain.from_iterable(numbers_of(shards(tmp_path, **options), name) for name in SPLITS)
    assert not kept("values") & {values}
    assert len(kept("values")) == len(kept("npz")) == 1, "the file of the old shards is removed"


def test_decoding_needs_little_memory(tmp_path: Path) -> None:
    """The decoded file has 64 MiB; NumPy and Python have at most an eighth of it at a time."""
    rows = [np.full((4, 32, 32), k, np.float32) for k in range(64)]
    for part in range(64):
        array_shard(tmp_path / "data" / f"{part:02}.tar", rows)
    data = shards(tmp_path, shape=(4, 32, 32))
    tracemalloc.start()
    values = data.split  # the statistics of a split have a test of their own
    store = data._store.values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert store.nbytes == 2**26
    assert isinstance(store, np.memmap)
    assert peak < store.nbytes / 8
    assert len(values("train")) + len(values("validation")) + len(values("test")) == 64 * 64


def test_a_disk_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture_shards(tmp_path / "data")
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    monkeypatch.setattr("dfm.data.rows.store.free_memory", lambda: 0)
    with pytest.raises(UserError, match=r"GiB of decoded examples fit neither .*No space left") as error:
        shards(tmp_path).split("train")
    one_line(error)
    assert not list((tmp_path / "cache").glob("*.values*"))


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ([("0.txt", b"x")], {}, "no examples in"),
        ([("0.png", b"x")], {}, "1 of 1 examples of"),
        ([("0.png", b"x")], {}, "0.tar: 0 ("),
        ([("0.png", picture(0)), ("1.png", picture(1)), ("1.cls", b"1")], {}, "0.tar: 0 has no class in .cls"),
        ([("0.png", picture(0))], {"labels": "json.kind"}, "has no class in .json.kind"),
        ([("0.png", picture(0)), ("0.cls", b"1"), ("1.png", picture(1)), ("1.cls", b"a")], {}, "partly numbers"),
        ([("0.npy", npy(np.zeros(3))), ("1.npy", npy(np.zeros(4)))], {"shape": (3,)}, "but the first example has (3,)"),
        ([("0.npy", npy(np.zeros(3)))], {"shape": (4,)}, "try dataset.shape=[3]"),
        ([("0.npy", npy(np.array(["a"])))], {"shape": (1,)}, "an array of str"),
        ([("0.npy", npy(np.array([{}]), allow_pickle=True))], {"shape": (1,)}, "0.tar: 0 of"),
        ([("0.npy", npy(np.array([0, 70_000], np.int32)))], {"shape": (2,)}, "try dataset.integers=real"),
        ([("0.npy", npy(np.array([0, 9], np.uint8)))], {"shape": (2,), "levels": 8}, "holds the number 9"),
    ],
)  # fmt: skip
def test_wrong_shards_are_one_line(files: list, options: dict, words: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "data" / "0.tar", files)
    with pytest.raises(UserError) as error:
        shards(tmp_path, **{**options, "validation": 0, "test": 0}).split("train")
    assert words in one_line(error)
    assert not list((tmp_path / "cache").glob("*.values.*")), "no half of a file is left"


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "opened"),)

    write_shard(tmp_path / "data" / "0.tar", [("0.npy", npy(np.array([Trap()], object), allow_pickle=True))])
    with pytest.raises(UserError):
        shards(tmp_path, shape=(1,)).split("train")
    assert not (tmp_path / "opened").exists()


def test_a_path_is_never_a_command(tmp_path: Path) -> None:
    """The library would run what follows ``pipe:``."""
    with pytest.raises(UserError, match="no shard there"):
        WebDataset(path=f"pipe:touch {tmp_path / 'touched'}", cache=str(tmp_path))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b"no tar file")])
def test_a_damaged_shard_is_one_line(tmp_path: Path, damage: object) -> None:
    path = write_shard(tmp_path / "data" / "0.tar", [("0.png", picture(0, (99, 99))), ("1.png", picture(1, (99, 99)))])
    os.truncate(path, 40_000) if damage is truncate else damage(path)
    with pytest.raises(UserError, match="cannot be read as a tar file") as error:
        shards(tmp_path).split("train")
    one_line(error)


def test_broken_examples_are_left_out_and_told(tmp_path: Path) -> None:
    files = [(f"{k}.png", picture(k) if k % 4 else b"x") for k in range(12)]
    write_shard(tmp_path / "data" / "0.tar", files)
    for _ in range(2):  # the second time from the file
        data = shards(tmp_path, broken="skip", validation=0, test=0)
        assert sorted(numbers_of(data, "train")) == [k for k in range(12) if k % 4]
        (line,) = data.notices
        assert "3 of 12 examples" in line
        assert line.endswith("left out (dataset.broken=skip)")
    with pytest.raises(UserError, match=r"try dataset.broken=skip"):
        shards(tmp_path, validation=0, test=0).split("train")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": None}, "dataset.path=SHARDS"),
        ({"path": "nowhere.tar"}, "no shard there"),
        ({"test_path": "nowhere-{0..2}.tar"}, "nowhere-0.tar: no shard"),
        ({"channels": 2}, "allowed: 1, 3, 4"),
        ({"layout": "last"}, "allowed: channels_first, channels_last"),
        ({"integers": "both"}, "allowed: levels, real"),
        ({"normalize": "twice"}, "allowed: "),
        ({"validation": 0.5, "test": 0.5}, "together below 1"),
        ({"num_workers": 0}, "at least 1"),
        ({"levels": 12}, "allowed: null, 256, 65536"),
        ({"levels": 1, "shape": (2,)}, "allowed: 2 to 65,536"),
        ({"size": [1, 2, 3]}, "[height, width]"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict, words: str, tmp_path: Path) -> None:
    picture_shards(tmp_path / "data", 1, 1)
    with pytest.raises(UserError) as error:
        WebDataset(**{"path": str(tmp_path / "data"), **options})
    assert words in one_line(error)


def test_two_data_sets_share_a_file_and_are_equal(tmp_path: Path) -> None:
    """As two processes do: the order depends on the shards alone, not on the number of threads."""
    picture_shards(tmp_path / "data", 5, 20)
    one = WebDataset(path=str(tmp_path / "data"), cache=str(tmp_path / "a"), num_workers=1, **PICTURES)
    two = WebDataset(path=str(tmp_path / "data"), cache=str(tmp_path / "b"), num_workers=7, **PICTURES)
    for name in SPLITS:
        assert torch.equal(one.split(name).all(), two.split(name).all())
        assert one.fingerprint(name) == two.fingerprint(name)
    assert io.BytesIO(one._store.values.tobytes()).read() == two._store.values.tobytes()


def test_opacity_and_depth_are_those_of_a_folder_and_counted(tmp_path: Path) -> None:
    """The same three pictures as ``dataset=folder``: one with opacity, one of 16 bits, one plain."""
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGBA", (6, 6), (255, 0, 0, 51)).save(folder / "0.png")
    Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6) * 1000).save(folder / "1.png")
    Image.new("RGB", (6, 6), (1, 2, 3)).save(folder / "2.png")
    write_shard(tmp_path / "data" / "0.tar", [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())])
    for options, told in (
        ({}, ["1 of 3 pictures have opacity; composited on white", "1 of 3 pictures have more than 8 bits a channel"]),
        ({"background": "blue"}, ["composited on blue", "more than 8 bits"]),
        ({"levels": 65536, "channels": 1}, ["composited on white", "all are read as 65,536 levels"]),
        ({"channels": 4}, ["more than 8 bits"]),
    ):
        both = {"size": 6, "levels": 256, "validation": 0, "test": 0, "cache": str(tmp_path / "cache"), **options}
        ours, theirs = (
            kind(path=str(tmp_path / p), **both) for kind, p in ((WebDataset, "data"), (ImageFolder, "folder"))
        )
        sets = [sorted(one.split("train").all().flatten(1).tolist()) for one in (ours, theirs)]
        assert sets[0] == sets[1]
        for _ in range(2):  # the second time from the file
            assert len(ours.notices) == len(told)
            assert all(words in line for words, line in zip(told, ours.notices, strict=True))
            ours = WebDataset(path=str(tmp_path / "data"), **both)
