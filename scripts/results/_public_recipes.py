"""Two public recipes on their own networks: torchcfm's notebook for MNIST, and EDM's recipe on diffusers' U-Net."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dfm.basics.per_sample import per_sample
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser, same_point
from dfm.denoising.predictions import Edm as EdmPrediction
from dfm.paths.interpolating import Linear
from dfm.paths.variance_exploding import Edm
from dfm.training.batches import Batches

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class TheirVelocity(Denoiser):
    """A network v(t, x) of torchcfm as a denoiser on any path.

    It was trained on the linear path, and its time is 0 at the noise and 1 at the data.
    """

    network: nn.Module

    @property
    def can_change_schedule(self) -> bool:
        return True

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = same_point(x, t, self.schedule, Linear())
        velocity = -self.network((1 - tau).to(x).expand(len(x)), x)
        return x - per_sample(tau, x) * velocity, x + per_sample(1 - tau, x) * velocity


class LogSigma(nn.Module):
    """diffusers' U-Net as EDM's F, with the input ln(sigma)/4."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor, log_nsr: Tensor, label: Tensor | None = None) -> Tensor:
        """Return F(c_in x; ln(sigma)/4), (B, C, H, W)."""
        out: Tensor = self.inner(x, log_nsr / 4).sample
        return out


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how to train it.

    Args:
        loss: the mean loss of a batch.
        warm_up: the learning rate grows to its full value over this number of images.
        half_life: the half-life of the weight average, in images; 0: no average.
        denoiser: makes a denoiser of dfm from the trained network.
    """

    network: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    warm_up: float
    half_life: float
    denoiser: Callable[[nn.Module], Denoiser]


def torchcfm(spec: DatasetSpec, device: torch.device) -> Recipe:
    """Return the recipe of torchcfm's notebook."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel

    resolutions = (1, 2, 2) if spec.shape[1] >= 28 else (1, 2)  # theirs for MNIST; theirs does not accept 8x8 images
    network = UNetModel(dim=spec.shape, num_channels=32, num_res_blocks=1, channel_mult=resolutions).to(device)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(data: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(data.shape, generator=generator, device=data.device)
        t, x, velocity = matcher.sample_location_and_conditional_flow(noise, data)
        return (network(t, x) - velocity).square().mean()

    return Recipe(
        network=network,
        loss=loss,
        optimizer=torch.optim.Adam(network.parameters(), lr=5e-4),
        warm_up=0,
        half_life=0,
        denoiser=lambda trained: TheirVelocity(spec=spec, schedule=Linear(), network=trained),
    )


def edm(spec: DatasetSpec, device: torch.device) -> Recipe:
    """Return the recipe of Karras et al. 2022, table 1 and section 5."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=spec.shape[1],
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        norm_num_groups=8,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    inner, std = LogSigma(cast(nn.Module, network)).to(device), spec.std

    def loss(data: Tensor, generator: torch.Generator) -> Tensor:
        sigma = (1.2 * torch.randn((len(data), 1, 1, 1), generator=generator, device=data.device) - 1.2).exp()
        x = data + sigma * torch.randn(data.shape, generator=generator, device=data.device)
        total = sigma**2 + std**2
        out = inner(x / total.sqrt(), sigma.flatten().log())
        estimate = std**2 / total * x + sigma * std / total.sqrt() * out
        return (total / (sigma * std) ** 2 * (estimate - data).square()).mean()

    path = Edm()

    def denoiser(trained: nn.Module) -> Denoiser:
        return NetworkDenoiser(
            spec=spec, schedule=path, trained_schedule=path, prediction=EdmPrediction(), network=trained
        )

    return Recipe(
        network=inner,
        loss=loss,
        optimizer=torch.optim.Adam(inner.parameters(), lr=1e-3),
        warm_up=10_000,
        half_life=500_000,
        denoiser=denoiser,
    )


def train_recipe(
    recipe: Recipe, split: Split, levels: int, end: Callable[[float, int], bool], device: torch.device, batch: int = 128
) -> tuple[nn.Module, int]:
    """Train a recipe; return (the averaged network, the number of images that it saw).

    Args:
        end: takes the seconds and the images so far, and returns whether to stop.
    """
    average, count = copy.deepcopy(recipe.network), 0
    generator, rate = torch.Generator(device).manual_seed(0), recipe.optimizer.param_groups[0]["lr"]
    batches = Batches(split, batch, 0).stream(0, 0)
    start = time.perf_counter()
    while not end(time.perf_counter() - start, count):
        data = UniformDequantization().training(next(batches).to(device).values, levels, generator)
        recipe.optimizer.param_groups[0]["lr"] = rate * min(1.0, (count + batch) / max(1.0, recipe.warm_up))
        recipe.optimizer.zero_grad()
        recipe.loss(data, generator).backward()
        recipe.optimizer.step()
        count += batch
        life = min(recipe.half_life, 0.05 * count)  # as in EDM's ramp-up
        keep = 0.5 ** (batch / life) if life else 0.0
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), recipe.network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)
    return average.eval().requires_grad_(False), count
