"""Activation checkpointing: the same step for less memory, and said where it has no effect."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import FAST, UNET, Command
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dfm.basics.devices import recompute
from dfm.data.published.digits import Digits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.models.blocks import ResidualBlock
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear
from dfm.runs.checkpoint import read
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig


def network(recomputed: bool) -> UNet:
    torch.manual_seed(3)
    made = UNet(shape=(1, 8, 8), channels=8, channel_multipliers=(1, 2), groups=4, dropout=0.3, zero_init=False)
    if recomputed:
        recompute(made)
    return made.to(memory_format=torch.channels_last).train()


def pass_both_ways(model: UNet) -> tuple[Tensor, list[Tensor], int]:
    """(output, gradients, bytes that the forward pass left for the backward pass) with the same dropout."""
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    torch.manual_seed(7)
    x, t = torch.randn(6, 1, 8, 8), torch.linspace(-3, 3, 6)
    with saved_tensors_hooks(note, lambda value: value):
        out = model(x, t)
        held = sum(kept.values())
        out.square().sum().backward()
    return out, [p.grad.clone() for p in model.parameters() if p.grad is not None], held


def test_the_step_is_the_same_and_less_is_kept() -> None:
    plain, spared = pass_both_ways(network(False)), pass_both_ways(network(True))
    assert torch.equal(plain[0], spared[0])
    assert len(plain[1]) == len(spared[1])
    for mine, theirs in zip(plain[1], spared[1], strict=True):
        assert torch.equal(mine, theirs)
    assert spared[2] < plain[2] / 2


def test_the_trainer_asks_it_of_the_network_and_not_of_the_average() -> None:
    for asked in (False, True):
        made = trainer(activation_checkpointing=asked)
        assert {block.recompute for block in blocks(made.network)} == {asked}
        assert {block.recompute for block in blocks(made.ema.network)} == {False}


def blocks(model: nn.Module) -> list[ResidualBlock]:
    return [module for module in model.modules() if isinstance(module, ResidualBlock)]


def trainer(**changes: Any) -> Trainer:
    spec = replace(Digits().spec, num_classes=0)
    denoiser = NetworkDenoiser(
        spec=spec, schedule=Linear(), trained_schedule=Linear(), prediction=Velocity(), network=network(False)
    )
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    config = TrainerConfig(max_steps=2, batch_size=4, **changes)
    return Trainer(config, denoiser, objective, Digits().split("train"), device=torch.device("cpu"))


@pytest.mark.parametrize(
    "objective",
    ["flow_matching", *(pytest.param(name, marks=pytest.mark.wide) for name in ("meanflow", "consistency"))],
)
def test_a_run_with_it_is_the_run_without_it(objective: str, command: Command, tmp_path: Path) -> None:
    losses = []
    for given in ("false", "true"):
        run = command(
            "train", f"objective={objective}", *UNET, *FAST, "nll.n=0", "trainer.log_every=1",
            f"trainer.activation_checkpointing={given}", f"hydra.run.dir={tmp_path / given}",
        ).run  # fmt: skip
        losses.append(read(run / "checkpoints" / "step_00000002.pt").state["network"])
    for name, value in losses[0].items():
        assert torch.allclose(value, losses[1][name], rtol=1e-5, atol=1e-7), name


def test_a_network_without_residual_blocks_is_told_so(command: Command) -> None:
    done = command("train", "dataset=moons", "model=mlp", "trainer.activation_checkpointing=true", code=1)
    assert "trainer.activation_checkpointing=true has no effect on MLP; allowed: with a U-Net" in done.err
