"""Classes by name, in every command that takes ``label=``: on a folder whose names have spaces and an ampersand."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from support.cli import TINY, Command, Trained

import dfm
from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.commands.nll.per_class import table
from dfm.cli.commands.train.resume_checks import check_same_data
from dfm.data.published.mnist_cifar import CIFAR10, FashionMNIST
from dfm.runs import checkpoint
from dfm.runs.directory import checkpoints
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Euler

NAMES = ("Food & Drink", "cat", "dog")  # as the folder sorts them
DRAW = ("n=4", "sampler=euler", "sampler.steps=1")
COARSE = ("flow.rtol=0.1", "flow.atol=0.1")
PICTURES = ("dataset.size=8", "dataset.channels=1", "dataset.validation=0.1", "dataset.test=0.2")
WORDS = (*TINY, "conditional=true", "trainer.warmup_steps=0", "trainer.lr=0.01", "nll.n=0")


def folder(shared: Path, names: tuple[str, ...]) -> Path:
    """A folder with 40 pictures of noise in each class, made once."""
    place = shared / "-".join(names)
    with FileLock(shared / "named.lock"):
        if not place.exists():
            random = np.random.default_rng(0)
            for k, name in enumerate(names):
                (place / name).mkdir(parents=True)
                for number in range(40):
                    pixels = random.integers(80 * k, 80 * k + 80, (8, 8), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


@pytest.fixture
def words(shared: Path) -> tuple[str, ...]:
    """The words of a training on the folder."""
    return (*WORDS, "dataset=folder", f"dataset.path={folder(shared, NAMES)}", *PICTURES)


@pytest.fixture
def run(trained: Trained, words: tuple[str, ...]) -> Path:
    """Two steps on the folder; some labels are hidden, so that there is a model without a class."""
    return trained(*words, "label_dropout=0.2").run


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


def test_a_class_by_name(run: Path, command: Command) -> None:
    for label, labels, name in (
        ("cat", [1] * 4, "cat"),
        ("Food & Drink", [0] * 4, "Food & Drink"),
        ("2", [2] * 4, "dog"),
        ("[dog,Food & Drink]", [2, 0, 2, 0], ["dog", "Food & Drink"]),
    ):
        drawn = command("sample", f"ckpt={run}", f"label={label}", *DRAW).run
        made, facts = np.load(drawn / "samples.npz"), read(drawn, "sample.json")
        assert made["labels"].tolist() == labels
        assert made["class_names"].tolist() == list(NAMES), "a reader knows what the numbers mean"
        assert facts["label_name"] == name
        assert facts["label"] == ([2, 0] if isinstance(name, list) else labels[0])
    plain = command("sample", f"ckpt={run}", *DRAW).run
    rows = command("sample", f"ckpt={run}", "label=all", *DRAW).run
    assert len(np.load(rows / "samples.npz")["labels"]) == 6, "whole rows"
    width, height = Image.open(rows / "grid.png").size
    small = Image.open(plain / "grid.png").size
    assert height == 3 * 50 + 2
    assert width > small[0], "names stand beside two columns"
    assert small == (102, 102), "no names where classes have no rows"


def test_no_class(run: Path, command: Command) -> None:
    """The network's row for hidden labels, which is number 3, is the model without a class."""
    drawn = np.load(command("sample", f"ckpt={run}", "label=none", *DRAW).run / "samples.npz")
    assert set(drawn) == {"samples"}
    model, sampler = dfm.load(run), GridSampler(stepper=Euler(), steps=1)
    hidden = dfm.sample(model.with_labels(torch.full((4,), 3)), 4, sampler)
    assert torch.equal(dfm.sample(model, 4, sampler, label="none"), hidden)
    of_cats = model.with_labels(torch.ones(4, dtype=torch.int64))
    assert torch.equal(dfm.sample(of_cats, 4, sampler, label="none"), hidden)
    cats = dfm.sample(of_cats, 4, sampler)
    assert torch.equal(dfm.sample(model, 4, sampler, label="cat"), cats)
    assert not torch.equal(cats, hidden)
    two = dfm.sample(model, 4, sampler, label=["dog", "cat"])
    assert torch.equal(two[1::2], cats[1::2])
    line = command("sample", f"ckpt={run}", "label=none", "guidance=cfg", *DRAW, code=1).problem
    assert "label=none with guidance=cfg" in line
    assert "try guidance=none" in line
    command("sample", f"ckpt={run}", "label=none", "guidance=none", *DRAW)


def test_a_model_that_needs_a_class(trained: Trained, words: tuple[str, ...], command: Command) -> None:
    run = trained(*words).run
    line = command("sample", f"ckpt={run}", "label=none", *DRAW, code=1).problem
    assert "label_dropout=0" in line
    assert line.endswith("try label=all")
    with pytest.raises(UserError, match="needs a class"):
        dfm.sample(dfm.load(run), 1, label="none")


def test_a_name_that_is_not_there(run: Path, command: Command) -> None:
    for arguments in (["sample"], ["eval", "n=4", "features=coordinates"]):
        line = command(*arguments, f"ckpt={run}", "label=drnk", code=1).problem
        assert "unknown class 'drnk'; allowed: " in line
        assert all(name in line for name in NAMES)
    line = command("sample", f"ckpt={run}", "label=food & drink", code=1).problem
    assert "allowed: Food & Drink, cat, dog, 0 to 2, all, or none" in line
    assert "did you mean 'Food & Drink'?" in line
    command("sample", f"ckpt={run}", "label=Food & Drink", *DRAW)  # the suggestion
    assert "several values" in command("sample", f"ckpt={run}", "label=cat,Food & Drink", code=1).problem
    command("sample", f"ckpt={run}", 'label=[cat,"Food & Drink"]', *DRAW)


def test_eval_of_one_class_and_of_two(run: Path, command: Command) -> None:
    few = ("n=4", "sampler=euler", "sampler.steps=1", "split=train", "features=coordinates")
    one, two = (command("eval", f"ckpt={run}", f"label={label}", *few) for label in ("cat", "[dog,cat]"))
    whole = read(command("eval", f"ckpt={run}", "label=none", *few).run, "eval.json")
    facts = [read(done.run, "eval.json") for done in (one, two)]
    assert facts[0]["label"] == 1
    assert facts[0]["label_name"] == "cat"
    assert facts[1]["label_name"] == ["dog", "cat"]
    assert 20 < facts[0]["num_references"] < facts[1]["num_references"] < whole["num_references"]
    assert np.load(two.run / "samples.npz")["labels"].tolist() == [2, 1, 2, 1]
    assert whole["label"] == "none"


def test_stored_samples_are_chosen_by_name(run: Path, command: Command) -> None:
    """The classes of the file have another order; without names, numbers count."""
    values = np.random.default_rng(1).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    labels = np.repeat([0, 1, 2], [4, 8, 12])
    np.savez("other.npz", samples=values, labels=labels, class_names=np.array(["cat", "bird", "dog"]))
    np.savez("plain.npz", samples=values, labels=labels)
    for name, label, count in (("other", "cat", 4), ("other", "dog", 12), ("plain", "cat", 8), ("plain", "2", 12)):
        words = (f"samples={name}.npz", f"label={label}", "features=coordinates", "split=train")
        assert f"{count} samples" in command("eval", f"ckpt={run}", *words).out
    line = command("eval", f"ckpt={run}", "samples=other.npz", "label=Food & Drink", code=1).problem
    assert "no sample in other.npz has this class" in line


def test_latents_keep_their_classes_by_name(run: Path, command: Command) -> None:
    coded = command("encode", f"ckpt={run}", "n=4", "split=train", *COARSE).run
    stored = dict(np.load(coded / "latents.npz"))
    assert stored["class_names"].tolist() == list(NAMES)
    order = [2, 0, 1]
    moved = {**stored, "class_names": np.array([NAMES[k] for k in order]), "labels": np.array([0, 1, 2, 0])}
    np.savez("moved.npz", **moved)
    back = command("decode", f"ckpt={run}", "latents=moved.npz", *COARSE)
    assert np.load(back.run / "samples.npz")["labels"].tolist() == [2, 0, 1, 2]
    assert "taken by name" in back.err
    np.savez("moved.npz", **{**moved, "class_names": np.array(["bird", "cat", "dog"])})
    line = command("decode", f"ckpt={run}", "latents=moved.npz", code=1).problem
    assert "the class 'bird', which this model lacks" in line
    assert "try 'label=\"Food & Drink\"' to replace them" in line, "as one types it in a shell"
    asked = command("decode", f"ckpt={run}", "latents=moved.npz", "label=Food & Drink", *COARSE).run
    assert np.load(asked / "samples.npz")["labels"].tolist() == [0] * 4
    assert read(asked, "decode.json")["label_name"] == "Food & Drink"


def test_a_task_takes_names(run: Path, command: Command) -> None:
    words = ("task=inpaint", "mask=left", "split=train", *DRAW)
    drawn = command("sample", f"ckpt={run}", "label=[dog,cat]", *words).run
    assert np.load(drawn / "samples.npz")["labels"].tolist() == [2, 1, 2, 1]
    assert "labels" not in np.load(command("sample", f"ckpt={run}", "label=none", *words).run / "samples.npz")


def test_names_in_the_tables_of_classes(run: Path, command: Command) -> None:
    done = command("nll", f"ckpt={run}", "n=6", "split=train", "likelihood.steps=1", "per_class=true", "audit=1")
    rows = list(csv.DictReader((done.run / "per_class.csv").open()))
    assert list(rows[0])[:3] == ["index", "label", "likeliest"], "the columns of before"
    assert all(row["label_name"] == NAMES[int(row["label"])] for row in rows)
    assert all(row["likeliest_name"] == NAMES[int(row["likeliest"])] for row in rows)
    facts = read(done.run, "per_class.json")
    assert facts["class_names"] == list(NAMES)
    each = facts["of_class"]
    right = sum(row["num_examples"] * row["accuracy"] for row in each if row["num_examples"])
    assert right / 6 == pytest.approx(facts["accuracy"])
    assert any(name in done.out for name in NAMES)
    text = table(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), ("a,b", 'say "x"'))
    (row,) = csv.DictReader(text.splitlines())
    assert (row["label_name"], row["likeliest_name"]) == ('say "x"', "a,b")


def test_a_name_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("classes", ("class",), [["[red] fox"]])
    assert "[red] fox" in capsys.readouterr().out


def test_other_names_of_the_same_number(
    run: Path, shared: Path, words: tuple[str, ...], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that starts from these weights, or goes on with these data, says which classes mean something else."""
    other = folder(shared, ("apple", "cat", "dog"))
    changed = [w if not w.startswith("dataset.path") else f"dataset.path={other}" for w in words]
    begun = command("train", *changed, f"init={run}", "trainer.max_steps=1")
    assert f"init={run}: classes of the same number have other names: class 0 is 'Food & Drink' there" in begun.err
    assert "class 1" not in begun.err
    same = command("train", *words, f"init={run}", "trainer.max_steps=1")
    assert "other names" not in same.err
    newest = replace(checkpoint.read(checkpoints(run)[0]), data={})
    turned = replace(newest, spec=replace(newest.spec, class_names=("Food & Drink", "dog", "cat")))
    file = checkpoint.save(turned, Path("turned"), keep=1)
    says = "classes of the same number have other names: class 1 is 'dog' there, 'cat' here"
    guided = command("sample", f"ckpt={run}", "guidance=autoguidance", f"guidance.ckpt={file}", *DRAW)
    assert f"guidance.ckpt=: {says}" in guided.err
    assert f"other=: {says}" in command("compare", f"ckpt={run}", f"other={file}", "n=2", *COARSE).err
    scored = command("nll", f"ckpt={file}", "n=2", "split=train", "likelihood.steps=1", "audit=1")
    assert "split=train: classes of the same number have other names: class 1 is 'cat' there" in scored.err
    moved = replace(newest.spec, class_names=("cat", "Food & Drink", "dog"))
    check_same_data(newest, moved, None, run)  # type: ignore[arg-type]
    assert (
        "resume: the data: classes of the same number have other names: class 0 is 'cat' there"
        in capsys.readouterr().err
    )
    check_same_data(newest, newest.spec, None, run)  # type: ignore[arg-type]
    assert not capsys.readouterr().err


def test_a_teacher_of_named_classes(run: Path, words: tuple[str, ...], command: Command) -> None:
    taught = ("label_dropout=0.2", "objective=progressive", "objective.start=2", f"init={run}")
    done = command("train", *words, *taught)
    assert dfm.load(done.run).spec.class_names == NAMES


def test_files_of_weights_know_the_names_and_old_ones_work_by_number(run: Path, command: Command) -> None:
    assert dfm.load(run / "weights.safetensors").spec.class_names == NAMES
    newest = checkpoint.read(checkpoints(run)[0])
    old = replace(newest, spec=replace(newest.spec, class_names=()))
    file = checkpoint.save(old, Path("old"), keep=1)
    drawn = command("sample", f"ckpt={file}", "label=1", *DRAW).run
    made = np.load(drawn / "samples.npz")
    assert set(made) == {"samples", "labels"}
    assert made["labels"].tolist() == [1] * 4
    assert "label=cat; allowed: 0 to 2, all, or none" in command("sample", f"ckpt={file}", "label=cat", code=1).problem


def test_names_of_published_sets() -> None:
    from torchvision import datasets

    assert list(FashionMNIST.class_names) == datasets.FashionMNIST.classes
    assert CIFAR10.class_names[0] == "airplane"
    assert list(CIFAR10.class_names) == sorted(CIFAR10.class_names), "the authors' numbers are alphabetical"
