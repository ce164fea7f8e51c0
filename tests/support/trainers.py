"""A small trainer on the digits, and all its weights."""

from dataclasses import replace

import torch

from dfm.data.dataset import Split
from dfm.data.published.digits import Digits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.models.mlp import MLP
from dfm.paths.interpolating import Linear
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig
from dfm.training.warps import Warp

CPU = torch.device("cpu")


def trainer(*, flip: bool = False, split: Split | None = None, warp: Warp | None = None, **changes: object) -> Trainer:
    """An MLP on the digits."""
    torch.manual_seed(5)
    data = Digits()
    spec = replace(data.spec, num_classes=0)
    denoiser = NetworkDenoiser(
        spec=spec,
        schedule=Linear(),
        trained_schedule=Linear(),
        prediction=Velocity(),
        network=MLP(shape=spec.shape, width=32, changes=0 if warp is None else warp.numbers),
    )
    settings = {"max_steps": 8, "batch_size": 16, "warmup_steps": 2, "num_workers": 0, **changes}
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    return Trainer(
        TrainerConfig(**settings),
        denoiser,
        objective,
        split or data.split("train"),
        device=CPU,
        flip=flip,  # type: ignore[arg-type]
        warp=warp,
    )


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {**{f"w.{k}": v for k, v in of.network.state_dict().items()},
            **{f"e.{k}": v for k, v in of.ema.network.state_dict().items()}}  # fmt: skip


def assert_equal(one: Trainer, other: Trainer) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
