"""Every YAML preset composes, builds and trains two steps through the real command line."""

from pathlib import Path

import pytest
from conftest import Command
from dataset_files import overrides_for

from dfm.config import config_dir

SMALL = ("trainer.max_steps=2", "trainer.batch_size=4", "samples.n=2", "nll.n=2", "likelihood.steps=1")
FAST = (*SMALL, "sampler.steps=1")
UNET = ("model.channels=8", "model.groups=4")


def options(group: str) -> list[str]:
    """All options of a group."""
    return sorted(p.stem for p in (config_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in ("schedule", "prediction", "weight", "objective", "grid", "logger", "likelihood", "trainer")
     for o in options(g)],
)  # fmt: skip
def test_options_that_go_with_the_default(group: str, option: str, command: Command) -> None:
    shorter = ("trainer.max_steps=2", "trainer.batch_size=4") if group == "trainer" else ()
    run = command("train", f"{group}={option}", *UNET, *FAST, *shorter).run
    assert (run / "checkpoints" / "step_00000002.pt").exists()


@pytest.mark.parametrize("option", options("density"))
def test_densities(option: str, command: Command) -> None:
    command("train", f"density={option}", *UNET, *FAST)


@pytest.mark.parametrize("option", options("sampler"))
def test_samplers(option: str, command: Command) -> None:
    steps = ["sampler.solver.rtol=0.1", "sampler.solver.atol=0.1"] if option == "dopri5" else ["sampler.steps=1"]
    command("train", f"sampler={option}", *UNET, *SMALL, *steps)


@pytest.mark.parametrize("option", options("dataset"))
def test_datasets(option: str, command: Command, tmp_path: Path) -> None:
    where = overrides_for(option, tmp_path)
    points = option in ("moons", "checkerboard", "eight_gaussians", "swiss_roll", "mixture")
    model = ["model=mlp"] if points else ["model=unet_small", "model.channels=4", "model.groups=4"]
    if option == "digits":
        model = [*UNET]
    command("train", f"dataset={option}", *model, *where, *FAST)


@pytest.mark.parametrize("option", sorted(set(options("model")) - {"oracle"}))
def test_models(option: str, command: Command, tmp_path: Path) -> None:
    """The layouts as they are, but thin where they are wide."""
    where = ["dataset=cifar10", *overrides_for("cifar10", tmp_path)] if option == "unet" else []
    where = ["dataset=fashion_mnist", *overrides_for("fashion_mnist", tmp_path)] if option == "unet_small" else where
    thin = ["model.channels=32", "model.head_channels=32"] if option == "unet" else []
    command("train", f"model={option}", *where, *thin, *FAST)


@pytest.mark.parametrize("option", options("experiment"))
def test_experiments(option: str, command: Command, tmp_path: Path) -> None:
    """Two steps of each, at full width but for the sampling."""
    kind = {"cifar_flow": "cifar10", "fashion_flow": "fashion_mnist"}.get(option)
    where = overrides_for(kind, tmp_path) if kind else []
    smaller = ["trainer.batch_size=2", "samples.n=1", "nll.n=1", "nll.batch_size=1", "likelihood.steps=1"]
    command("train", f"experiment={option}", *where, *smaller, "trainer.max_steps=2", "sampler.steps=1")
