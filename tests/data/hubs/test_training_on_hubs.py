"""Training on the data of other libraries: resumed runs and two processes draw what one run draws."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import TINY, Command
from support.hub_files import array_shard, picture, picture_parquet, write_parquet, write_shard
from support.image_files import overrides_for
from support.suggestions import applied

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import compose
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs.metrics import read_metrics
from dfm.runs.parts import Parts

NETWORK = ["dataset.size=8", "model=unet_small", "model.channels=4", "model.groups=4", "experiment=none"]
SHORT = [word for word in TINY if not word.startswith(("model.", "trainer.max_steps", "nll.n", "trainer.batch"))]
STEPS = [
    "trainer.batch_size=5",
    "trainer.log_every=1",
    "trainer.lr_schedule=constant",
    "nll.n=0",
    "logger=none",
    *SHORT,
]
KINDS = ["hf", "webdataset"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(run_dir.checkpoints(run)[0]).state["ema"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_draws_what_a_whole_one_draws(kind: str, command: Command, tmp_path: Path) -> None:
    """To the bit, over the end of an epoch, and without the decoded file, which is written anew."""
    words = [f"dataset={kind}", *overrides_for(kind, tmp_path / "files"), *NETWORK, *STEPS]
    whole = command("train", *words, "trainer.max_steps=6", "hydra.run.dir=whole").run
    part = command("train", *words, "trainer.max_steps=3", "hydra.run.dir=part").run
    for file in (tmp_path / "files").glob("*.values"):
        file.unlink()
    command("train", f"resume={part}", "trainer.max_steps=6")
    resumed = weights(part)
    for name, value in weights(whole).items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.wide
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(kind: str, command: Command, tmp_path: Path) -> None:
    """Both find no decoded file: one of them writes it. Two parts of a batch have the same noise in both runs."""
    files = overrides_for(kind, tmp_path / "files")
    words = [f"dataset={kind}", *files, *NETWORK, *STEPS, "trainer.max_steps=4"]
    words += ["trainer.batch_size=6", "trainer.accumulate=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dfm"]
    line = [*torchrun, "train", *words, "hydra.run.dir=shared"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "files").glob("*.values"))) == 1
    alone = command("train", *words, f"dataset.cache={tmp_path / 'other'}").run
    lines = [read_metrics(run / "metrics.jsonl") for run in (alone, tmp_path / "shared")]
    losses = [[line["loss"] for line in one if "loss" in line] for one in lines]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), "another order of examples gives other losses"


REFUSED = {  # words that are refused, and whether what they are told to try is enough
    "a number": ["dataset=hf", "dataset.path=TABLE", "dataset.column=height"],
    "no picture": ["dataset=hf", "dataset.path=TABLE"],
    "an array": ["dataset=hf", "dataset.path=ARRAYS", "dataset.column=x"],
    "pictures": ["dataset=hf", "dataset.path=PICTURES", "dataset.column=image", "dataset.shape=[3]"],
    "several": ["dataset=hf", "dataset.path=SEVERAL", "dataset.shape=[2]"],
    "another column": ["dataset=hf", "dataset.path=TABLE", "dataset.column=[heigt]"],
    "no classes": ["dataset=hf", "dataset.path=ARRAYS", "dataset.shape=[2]", "dataset.labels=x"],
    "fractions as classes": ["dataset=hf", "dataset.path=TABLE", "dataset.column=[height]", "dataset.labels=none"],
    "none for one": ["dataset=hf", "dataset.path=UNLABELLED", "dataset.column=[height]"],
    "splits": ["dataset=hf", "dataset.path=SPLITS", "dataset.column=[height]"],
    "a shape": ["dataset=webdataset", "dataset.path=NPY", "dataset.shape=[2]"],
    "many levels": ["dataset=webdataset", "dataset.path=LARGE", "dataset.shape=[2]"],
    "few levels": ["dataset=webdataset", "dataset.path=NPY", "dataset.shape=[3]", "dataset.levels=2"],
    "broken": ["dataset=webdataset", "dataset.path=BROKEN"],
    "classes of one": ["dataset=webdataset", "dataset.path=HALF"],
}


def write_refused(root: Path) -> dict[str, str]:
    """The data of these rows, by the name that stands for their place."""
    import datasets

    classes, height = datasets.ClassLabel(names=["a", "b"]), datasets.Value("float32")
    tables = {
        "TABLE": ({"height": [1.0, 2.0, 4.0], "none": [0.5, 1.0, 2.0]}, {"height": height, "none": height}),
        "ARRAYS": ({"x": [[1, 2], [3, 5], [4, 4]]}, {"x": datasets.List(height)}),
        "SEVERAL": ({"x": [[1, 2], [3, 5]], "y": [[1, 2], [3, 5]]}, dict.fromkeys("xy", datasets.List(height))),
        "UNLABELLED": ({"height": [1.0, 2.0], "label": [0, None]}, {"height": height, "label": classes}),
    }
    for name, (columns, features) in tables.items():
        write_parquet(root / name, columns, datasets.Features(features), "train")
    part = datasets.Dataset.from_dict({"height": [1.0, 2.0, 4.0]})
    datasets.DatasetDict({"small": part, "large": part}).save_to_disk(str(root / "SPLITS"))
    picture_parquet(root / "PICTURES", 6)
    array_shard(root / "NPY" / "0.tar", [np.array([0, 1, k], np.uint8) for k in range(5)])
    array_shard(root / "LARGE" / "0.tar", [np.array([k, 70_000 + k], np.int32) for k in range(5)])
    write_shard(root / "BROKEN" / "0.tar", [(f"{k}.png", picture(k) if k else b"x") for k in range(5)])
    write_shard(root / "HALF" / "0.tar", [*((f"{k}.png", picture(k)) for k in range(5)), ("4.cls", b"1")])
    return {name: str(root / name) for name in (*tables, "SPLITS", "PICTURES", "NPY", "LARGE", "BROKEN", "HALF")}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The data of these rows, written once."""
    pytest.importorskip("datasets")
    return write_refused(tmp_path_factory.mktemp("refused"))


@pytest.mark.parametrize("row", REFUSED)
def test_what_a_refusal_suggests_works(row: str, places: dict[str, str], tmp_path: Path) -> None:
    words = [w if "path=" not in w else f"dataset.path={places[w.partition('=')[2]]}" for w in REFUSED[row]]
    words += [f"dataset.cache={tmp_path / 'cache'}", "dataset.validation=0", "dataset.test=0", "model=mlp"]
    with pytest.raises(UserError) as error:
        _ = Parts(compose("train", *words)).dataset.spec
    assert "\n" not in str(error.value)
    again = applied(words, f"error: {error.value}", {})
    assert Parts(compose("train", *again)).dataset.spec, str(error.value)
