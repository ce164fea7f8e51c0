"""Signals, images and volumes through the command line: trained with what suits them, resumed, sampled and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import Command
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dfm.cli.composition.command_line import compose
from dfm.runs.parts import Parts

OWN = """
from dfm.data.dataset import Dataset
from dfm.data.split import Split
import torch


class Waves(Dataset):
    name = "waves"
    num_classes = 3
    normalize = "channel"

    def __init__(self, shape, levels=None):
        self.shape, self.levels = tuple(shape), levels

    @classmethod
    def shape_of(cls, arguments):
        return tuple(arguments["shape"])

    def _load(self):
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randn(60, *self.shape, generator=generator).cumsum(-1) + 3
        if self.levels:
            numbers = (4 * numbers).clamp(0, self.levels - 1).to(torch.uint8)
        labels = torch.arange(60) % 3
        parts = {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}
        return {name: Split(values=numbers[part], labels=labels[part]) for name, part in parts.items()}
"""
SMALL = (
    "model.channels=8", "model.groups=4", "model.blocks_per_level=1", "trainer.max_steps=2", "trainer.batch_size=8",
    "trainer.log_every=1", "samples.n=4", "sampler.steps=2", "nll.n=0", "logger=none", "likelihood.steps=2",
)  # fmt: skip
KINDS = [((1, 21), None, "signals"), ((1, 5, 3, 4), None, "volumes")]
MORE = [((2, 5), 16, "signals"), ((3, 11, 7), 32, "images_8"), ((1, 33, 47), None, "images_64")]


@pytest.mark.parametrize(
    ("shape", "levels", "recipe"), [*KINDS, *(pytest.param(*kind, marks=pytest.mark.wide) for kind in MORE)]
)
def test_each_kind_goes_through_all_commands(
    shape: tuple[int, ...], levels: int | None, recipe: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "wavelab.py").write_text(OWN)
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    text = f"_target_: wavelab.Waves\nshape: {list(shape)}\nlevels: {levels or 'null'}\n"
    (tmp_path / "mine" / "dataset" / "waves.yaml").write_text(text)
    words = ("-cd", "mine", "trust=wavelab", "dataset=waves", *SMALL)
    whole = command("train", *words, "hydra.run.dir=whole", "trainer.max_steps=3", "trainer.lr_schedule=constant")
    assert f"recipe={recipe}" in whole.err
    begun = command("train", *words, "hydra.run.dir=run", "trainer.lr_schedule=constant")
    resumed = command("train", "resume=run", "trainer.max_steps=3", "trust=wavelab")
    assert losses(begun.run) == losses(whole.run)[:3] == losses(resumed.run)[:3]
    found = command("sample", "ckpt=run", "n=3", "sampler.steps=2", "trust=wavelab").run
    with np.load(found / "samples.npz") as content:
        samples = content["samples"]
    assert sorted(samples.shape) == sorted((3, *shape))
    assert np.isfinite(samples).all()
    scored = command("nll", "ckpt=run", "n=4", "likelihood.steps=2", "trust=wavelab").run
    numbers = json.loads((scored / "nll.json").read_text())
    assert numbers["num_examples"] == 4
    assert np.isfinite(numbers["nats"])


@pytest.mark.parametrize(
    ("recipe", "shape", "most"),
    [
        ("signals", (1, 512), 1.0), ("signals_long", (1, 4096), 1.0),
        ("volumes", (1, 32, 32, 32), 1.0), ("volumes_large", (1, 128, 128, 128), 1.5),
    ],
)  # fmt: skip
def test_a_step_of_a_recipe_is_small(recipe: str, shape: tuple[int, ...], most: float) -> None:
    """GiB that a forward pass of one batch leaves for the backward pass, counted without memory."""
    config = compose("train", f"recipe={recipe}")
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        kept[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
        return value

    with torch.device("meta"):
        network = Parts(config).part("model", torch.nn.Module, shape=shape)
        batch = config["trainer"]["batch_size"]
        with saved_tensors_hooks(note, lambda value: value):
            out = network(torch.zeros(batch, *shape), torch.zeros(batch))
    assert out.shape == (batch, *shape)
    assert most / 4 < sum(kept.values()) / 2**30 < most


def losses(run: Path) -> list[float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]
