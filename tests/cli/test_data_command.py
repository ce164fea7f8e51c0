"""``dfm data``, the picture of the data in every training, and what is said of the data after they are read."""

import json
import shlex
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import FAST, QUICK, SMALL, TINY, UNET, Command, Trained
from support.image_files import write_image

from dfm.data.published.digits import Digits
from dfm.data.toys import Mixture


def cells_of(path: Path, size: int, count: int) -> np.ndarray:
    """The images of a grid of 8 columns without text, each shrunk to ``size`` pixels by taking every sixth."""
    sheet, step = np.asarray(Image.open(path)), 6 * size + 2
    cells = [sheet[2 + r * step : (r + 1) * step, 2 + c * step : (c + 1) * step] for r in range(8) for c in range(8)]
    return np.stack(cells[:count])[:, ::6, ::6]


def digits() -> np.ndarray:
    """The training digits over 0 .. 255, as grey pictures show them."""
    with np.load(Path(__file__).parents[2] / "dfm/data/published/digits.npz") as file:
        images = file["images"][file["split"] == 0]
    return np.rint(images * (255 / 16)).astype(np.uint8)


def test_a_training_shows_its_examples_before_the_first_step(trained: Trained) -> None:
    known = {image.tobytes() for image in digits()}
    shown = [image.tobytes() for image in cells_of(trained(*TINY).run / "data.png", 8, 64)]
    assert len(set(shown)) == 64
    assert set(shown) <= known


def test_flips_are_shown_and_a_resumed_run_keeps_its_picture(command: Command) -> None:
    words = (*UNET, *SMALL, "sampler.steps=1", "dataset.flip=true", "logger=none", "nll.n=0", "trainer.max_steps=1")
    run = command("train", *words, "hydra.run.dir=run").run
    known = {image.tobytes() for image in digits()}
    mirrored = {image[:, ::-1].tobytes() for image in digits()}
    shown = [image.tobytes() for image in cells_of(run / "data.png", 8, 64)]
    assert set(shown) <= known | mirrored
    assert min(sum(s in known for s in shown), sum(s in mirrored for s in shown)) > 16
    (run / "data.png").write_bytes(b"mine")
    command("train", f"resume={run}", "trainer.max_steps=2")
    assert (run / "data.png").read_bytes() == b"mine"


def test_names_of_classes_stand_beside_what_a_conditional_model_sees(trained: Trained) -> None:
    plain, named = (Image.open(trained(*TINY, *more).run / "data.png") for more in ((), ("conditional=true",)))
    assert plain.mode == "L"
    assert named.mode == "RGB"
    assert named.size == (8 * 66 + 2, 8 * (64 + 15 + 2) + 2)


def test_a_picture_that_cannot_be_drawn_is_a_warning(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no colour")

    monkeypatch.setattr("dfm.cli.commands.train.command.what_is_seen", fail)
    outcome = command("train", *UNET, *FAST, "logger=none")
    assert "warning: picture of the data of step 0 not written (ValueError: no colour)" in outcome.err
    assert not (outcome.run / "data.png").exists()


NOTICE = "1,911 of 1,911 pictures have opacity"


def wide(*words: str) -> object:
    return pytest.param(words, marks=pytest.mark.wide, id=" ".join(words))


@pytest.mark.parametrize(
    "words",
    [
        ("data", "duplicates=false"), ("nll", "HERE", "n=2", *QUICK), ("check", "n=8", "steps=[1]", "samplers=[euler]"),
        wide("train", *UNET, *FAST, "logger=none"), wide("encode", "HERE", "n=2"),
        wide("eval", "HERE", "n=8", "sampler.steps=1"), wide("check", "HERE", "n=8", "steps=[1]", "samplers=[euler]"),
        wide("sample", "HERE", "n=2", "sampler.steps=1", "task=inpaint", "mask=left"),
    ],
)  # fmt: skip
def test_notices_of_the_data_are_said_once(
    words: tuple[str, ...], tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if words[0] == "eval":
        request.getfixturevalue("kept_features")
    for kind in (Digits, Mixture):
        monkeypatch.setattr(kind, "notices", (NOTICE,))
    line = [word.replace("HERE", f"ckpt={tiny_run}") for word in words]
    assert command(*line).err.count(NOTICE) == 1


@pytest.mark.parametrize("words", [("data",), ("train", "model=mlp", *FAST, "logger=none")])
def test_data_of_one_level_are_told_before_training(words: tuple[str, ...], command: Command) -> None:
    np.save("flat.npy", np.full((40, 6), 7, np.int16))
    said = command(words[0], "dataset=array", "dataset.path=flat.npy", *words[1:]).err
    line = next(line for line in said.splitlines() if "all numbers of all training examples are 7" in line)
    assert words[0] == "data" or said.index(line) < said.index("building the network")


def test_a_command_that_reads_no_data_says_nothing_of_them(
    tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "notices", (NOTICE,))
    assert NOTICE not in command("sample", f"ckpt={tiny_run}", "n=2", "sampler.steps=1").err


def test_facts_of_the_digits(command: Command) -> None:
    outcome = command("data")
    facts, images = json.loads((outcome.run / "data.json").read_text()), digits()
    assert facts["shape"] == [1, 8, 8]
    assert (facts["type"], facts["levels"], facts["bytes"]) == ("uint8", 17, 1797 * 64)
    assert [facts["splits"][name]["examples"] for name in ("train", "validation", "test")] == [1297, 200, 300]
    with np.load(Path(__file__).parents[2] / "dfm/data/published/digits.npz") as file:
        raw, labels = file["images"][file["split"] == 0].astype(float), file["labels"][file["split"] == 0]
    (channel,) = facts["channels"]
    assert [channel[key] for key in ("lowest", "highest")] == [0, 16]
    assert [channel[key] for key in ("mean", "deviation")] == pytest.approx([raw.mean(), raw.std()])
    assert [row["train"] for row in facts["classes"]] == np.bincount(labels).tolist()
    assert facts["splits"]["train"]["duplicates"] == len(images) - len({image.tobytes() for image in images})
    assert facts["mirrored"]["suits"] is False
    assert facts["settings"]["model.channels"] == 32
    assert facts["settings"]["parameters"] == 1_001_729, "as the line of dfm train says"
    assert facts["command"] == "dfm train"
    assert "to train on them with their classes: dfm train conditional=true" in outcome.out
    assert Image.open(outcome.run / "data.png").size == (8 * 66 + 2, 8 * 81 + 2)


def folder_of(root: Path) -> Path:
    """Pictures of two classes, one of them twice, of a law that has no sides."""
    draws = np.random.default_rng(0)
    for number in range(60):
        path = root / ("cat", "Food & Drink")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)
    (root / "cat" / "again.png").write_bytes((root / "cat" / "0.png").read_bytes())
    return root


def test_a_folder_gets_a_command_that_works(command: Command, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "my pictures")
    words = ["dataset=folder", f"dataset.path={folder}", "dataset.validation=0", "dataset.test=0.2"]
    outcome = command("data", *words, "n=9")
    facts = json.loads((outcome.run / "data.json").read_text())
    twice = facts["splits"]["train"]["duplicates"] + facts["splits"]["test"]["also_in_train"]
    assert twice + facts["splits"]["test"]["duplicates"] == 1
    assert (facts["splits"]["test"]["also_in_train"] == 1) == ("stand in train too" in outcome.err)
    assert facts["settings"]["recipe"] == "images_32"
    assert facts["settings"]["model.patch"] == 2
    assert len(facts["channels"]) == 3
    assert sum(sum(row[split] for split in facts["splits"]) for row in facts["classes"]) == 61
    line = next(text for text in outcome.out.splitlines() if text.startswith("to train on these data: "))
    _, _, typed = line.partition(": ")
    assert shlex.split(typed) == ["dfm", "train", *words]
    assert f"model=unet_patch, batch {facts['settings']['trainer.batch_size']}" in outcome.out
    run = command(*shlex.split(typed)[1:], *UNET, *FAST, "logger=none", "trainer.batch_size=4")
    assert f"{facts['splits']['train']['examples']} training examples" in run.err
    plain = command("data", *words, "duplicates=false").run
    assert "duplicates" not in json.loads((plain / "data.json").read_text())["splits"]["train"]


def test_points_have_columns_and_no_mirror(command: Command) -> None:
    outcome = command("data", "dataset=moons", "dataset.n_train=400", "dataset.n_validation=0", "dataset.n_test=8")
    facts = json.loads((outcome.run / "data.json").read_text())
    assert (facts["levels"], facts["lowest"], facts["mirrored"]) == (None, None, None)
    assert [set(row) for row in facts["channels"]] == [{"name", "lowest", "highest", "mean", "deviation"}] * 2
    assert facts["splits"]["validation"] == {
        "examples": 0, "duplicates": 0, "duplicates_pairs": [], "also_in_train": 0, "also_in_train_pairs": []
    }  # fmt: skip
    assert facts["settings"]["recipe"] == "points"
    assert Image.open(outcome.run / "data.png").size[0] >= 480


def test_where_the_examples_are_is_told(command: Command) -> None:
    """A file of NumPy is mapped where it lies; one in the other order of bytes is decoded into memory."""
    for kind in ("<f4", ">f4"):
        np.save("[x].npy", np.random.default_rng(0).normal(size=(40, 3)).astype(kind))
        outcome = command("data", "dataset=array", "dataset.path='[x].npy'", "duplicates=false")
        mapped = kind == "<f4"
        file = str(Path("[x].npy").absolute())
        assert json.loads((outcome.run / "data.json").read_text())["mapped_from"] == ([file] if mapped else [])
        told = " ".join(outcome.out.split())
        assert ("in memory" in told, f"mapped from {file}" in told) == (not mapped, mapped)


def test_what_a_source_found_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "facts", {"broken": 2, "modes": {"RGBA": 3}})
    outcome = command("data", "duplicates=false")
    assert "broken" in outcome.out
    assert "RGBA" in outcome.out
    assert json.loads((outcome.run / "data.json").read_text())["found"] == {"broken": 2, "modes": {"RGBA": 3}}


def test_mistakes_are_one_line(command: Command, tmp_path: Path) -> None:
    assert "is not a folder" in command("data", "dataset=folder", "dataset.path=nowhere", code=1).problem
    assert command("data", "n=0", code=1).problem == "error: n=0; allowed: at least 1, or null"
    assert "ckpt" in command("data", "ckpt=latest", code=1).problem
    write_image(tmp_path / "one" / "1.png")
    words = ("dataset=folder", f"dataset.path={tmp_path / 'one'}", "dataset.validation=0", "dataset.test=0")
    assert command("data", *words).run, "one grey picture is enough for a training, so it is enough here"


def test_a_path_alone_is_told_the_data_set_that_reads_it(command: Command, tmp_path: Path) -> None:
    """And the words as told are taken."""
    for number in range(4):
        write_image(tmp_path / "pictures" / f"{number}.png")
    with zipfile.ZipFile("pictures.zip", "w") as packed:
        packed.write("pictures/1.png")
    with tarfile.open("shard.tar", "w") as packed:
        packed.add("pictures/1.png")
    np.save("points.npy", np.random.default_rng(0).normal(size=(9, 2)))
    own = {"pictures": "folder", "pictures.zip": "folder", "shard.tar": "webdataset", "points.npy": "array"}
    for path, name in own.items():
        problem = command("data", f"dataset.path={path}", code=1).problem
        told = f"dataset={name} dataset.path={path}"
        assert problem.endswith(f"; try {told}")
        assert command("data", *told.split(), "dataset.validation=0", "dataset.test=0").run


def test_a_recipe_for_data_whose_shape_is_found_late(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training cannot know the shape before it reads the data, so the printed command names the recipe."""
    monkeypatch.setattr(Digits, "shape_of", classmethod(lambda cls, arguments: None))
    facts = json.loads((command("data", "dataset=digits", "duplicates=false").run / "data.json").read_text())
    assert facts["command"] == "dfm train dataset=digits recipe=images_8"
    assert facts["settings"]["recipe"] == "images_8"
    assert facts["settings"]["model"] == "unet_digits"
