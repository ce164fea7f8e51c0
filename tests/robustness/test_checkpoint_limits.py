"""What a checkpoint may not ask for: memory, downloads, places to write; each refusal is one line."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.cli import Command
from support.runs import newest, one_line

from dfm.data.dataset import data_folder
from dfm.runs import checkpoint
from dfm.runs.places import with_values


def evil(tiny_run: Path, *, spec: dict[str, object] | None = None, **config: object) -> None:
    """``evil/checkpoints``: the run's with a few parts of its own, under a right checksum."""
    found = checkpoint.read(newest(tiny_run))
    changed = checkpoint.Checkpoint(
        config={**found.config, **config},
        spec=replace(found.spec, **(spec or {})),
        state=found.state,  # type: ignore[arg-type]
    )
    checkpoint.save(changed, Path("evil") / "checkpoints", keep=1)


@pytest.mark.parametrize("change", [{"channels": 200_000}, {"blocks_per_level": 10**9}, {"fourier": 10**9}])
def test_a_configuration_that_asks_for_a_huge_network_gets_no_memory(
    change: dict[str, int], tiny_run: Path, command: Command
) -> None:
    """Names and shapes are compared before anything is made: 200,000 channels would be terabytes."""
    found = checkpoint.read(newest(tiny_run))
    evil(tiny_run, model={**found.config["model"], **change})
    word = "do not fit its configuration" if "channels" in change else "allowed: "
    one_line(command("sample", "ckpt=evil", "n=1", code=1), word)


def test_a_checkpoint_does_not_say_where_to_write(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    """Its data set reads; a download, or a cache in a place of its choice, is for the command line to ask for."""
    from dfm.cli.from_checkpoint import dataset_of
    from dfm.data import ImageFolder

    found = checkpoint.read(newest(tiny_run))
    node = {"_target_": "dfm.datasets.vision.MNIST", "root": str(tmp_path / "theirs"), "download": True}
    evil(tiny_run, dataset=node)
    one_line(command("nll", "ckpt=evil", "n=1", code=1), "download is off", "dataset.download=true")
    evil(tiny_run, dataset={key: value for key, value in node.items() if key != "download"})
    one_line(command("nll", "ckpt=evil", "n=1", code=1), "download is off")
    assert not (tmp_path / "theirs").exists()
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("L", (8, 8), 30 * i).save(tmp_path / "images" / f"{i}.png")
    node = {"_target_": "dfm.datasets.folder.Folder", "path": str(tmp_path / "images"), "cache": "/etc"}
    config = {**found.config, "dataset": node}
    written = checkpoint.Checkpoint(config=config, spec=found.spec, state=found.state)
    theirs = checkpoint.read(checkpoint.save(written, Path("other") / "checkpoints", keep=1))
    read = dataset_of(theirs, ("dfm",))
    assert isinstance(read, ImageFolder)
    assert read.cache == data_folder()
    mine = dataset_of(replace(theirs, config=with_values(theirs.config, {"dataset.cache": str(tmp_path)})), ("dfm",))
    assert isinstance(mine, ImageFolder)
    assert mine.cache == str(tmp_path)


def test_another_name_of_a_class_is_compared_too(tiny_run: Path, command: Command) -> None:
    """dfm.models.classifier imports MLP: its name there is as good as its own."""
    evil(tiny_run, model={"_target_": "dfm.models.classifier.MLP", "width": 100_000})
    one_line(command("sample", "ckpt=evil", "n=1", code=1), "do not fit its configuration")


def test_data_sets_inside_other_parts_do_not_download(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    node = {"_target_": "dfm.datasets.vision.MNIST", "root": str(tmp_path / "theirs"), "download": True}
    evil(tiny_run, prior={"_target_": "dfm.priors.FromDataset", "dataset": node})
    one_line(command("sample", "ckpt=evil", "n=1", code=1), "download is off")
    evil(tiny_run, dataset=node)
    one_line(command("check", "ckpt=evil", "n=4", code=1), "download is off")
    assert not (tmp_path / "theirs").exists()


def test_sizes_that_no_data_have_are_refused(tiny_run: Path, command: Command) -> None:
    evil(tiny_run, spec={"shape": (1, 2**17, 2**17)})
    one_line(command("sample", "ckpt=evil", "n=1", code=1), "numbers an example")
    node = {"_target_": "dfm.densities.LossAware", "bins": 300_000_000, "base": {"_target_": "dfm.densities.Uniform"}}
    found = checkpoint.read(newest(tiny_run))
    evil(tiny_run, objective={**found.config["objective"], "density": node})
    one_line(command("sample", "ckpt=evil", "n=1", code=1), "bins=300000000")
