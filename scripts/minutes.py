"""What a model is worth after so many minutes: dfm's preset beside two public recipes on the same machine.

Usage: python scripts/minutes.py fashion|digits --out DIR [--minutes 15] [--only dfm torchcfm edm] [--seeds 2]

    dfm         dfm train experiment=fashion_flow|digits_flow trainer.max_minutes=MINUTES
    torchcfm    the network and settings of torchcfm's notebook for MNIST (independent coupling, sigma 0): UNetModel of
                32 channels and one block a level, 1.08M parameters; Adam at 5e-4, batch 128, no weight average
    edm         the recipe of Karras et al. 2022 (preconditioning, log-normal noise levels, Adam at 1e-3 after a
                warm-up, batch 128, weight average of half a million images, shorter at first) on diffusers'
                UNet2DModel of 32, 64 and 64 channels, two blocks a level and attention at the lowest, 1.62M parameters

Minutes are of training alone, on all cores, with nothing beside it. With --images instead, training ends after so many
images a recipe: on a GPU that shows in seconds what a CPU of known images/s reaches in an hour (--rates R R R gives
each recipe's own images/s, and MINUTES of them are trained). Figures are of the test split: bits/dim by dfm's
ODE likelihood on the first --bits images (mean and standard error), and the Fréchet distance of ``dfm eval``, mean and
standard error over seeds of --n samples by --sampler. What is trained already is not trained again.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from few_steps import train
from torch import Tensor, nn

import dfm
from dfm.basics.devices import resolve_device
from dfm.basics.per_sample import per_sample
from dfm.cli.command_line import composed
from dfm.cli.console import table
from dfm.data.dataset import Dataset, DatasetSpec, Split
from dfm.data.dequantization import UniformDequantization
from dfm.data.pixel_levels import bits_per_dimension, quantize
from dfm.denoising.denoiser import Denoiser, device_of
from dfm.denoising.network_denoiser import NetworkDenoiser, same_point
from dfm.denoising.predictions import Edm as EdmPrediction
from dfm.evaluation.classifier_features import features_for
from dfm.evaluation.features import Features
from dfm.evaluation.sample_quality import frechet_distance
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring
from dfm.paths.interpolating import Linear
from dfm.paths.variance_exploding import Edm
from dfm.runs.metrics import read_metrics
from dfm.runs.parts import Parts
from dfm.sampling.samplers import Sampler
from dfm.training.batches import Batches

Loss = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class TheirVelocity(Denoiser):
    """A network v(t, x) of torchcfm, trained on the linear path and asked on any: its time is 0 at noise, 1 at data."""

    network: nn.Module

    @property
    def can_change_schedule(self) -> bool:
        return True

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, tau = same_point(x, t, self.schedule, Linear())
        velocity = -self.network((1 - tau).to(x).expand(len(x)), x)
        return x - per_sample(tau, x) * velocity, x + per_sample(1 - tau, x) * velocity


class LogSigma(nn.Module):
    """diffusers' U-Net as EDM's F: it sees ln(sigma)/4."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor, log_nsr: Tensor, label: Tensor | None = None) -> Tensor:
        """F(c_in x; ln(sigma)/4), (B, C, H, W)."""
        out: Tensor = self.inner(x, log_nsr / 4).sample
        return out


@dataclass(frozen=True)
class Recipe:
    """A network with its loss of a batch, its optimiser and its average, and the denoiser that it is for dfm."""

    network: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    warm_up: float  # images over which the rate grows to its full value
    half_life: float  # images, of the weight average; 0: none
    denoiser: Callable[[nn.Module], Denoiser]


def torchcfm(spec: DatasetSpec, device: torch.device) -> Recipe:
    """Of torchcfm's notebook."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models.unet import UNetModel

    levels = (1, 2, 2) if spec.shape[1] >= 28 else (1, 2)  # theirs for MNIST; it knows no images of 8x8
    network = UNetModel(dim=spec.shape, num_channels=32, num_res_blocks=1, channel_mult=levels).to(device)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss(data: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(data.shape, generator=generator, device=data.device)
        t, x, velocity = matcher.sample_location_and_conditional_flow(noise, data)
        return (network(t, x) - velocity).square().mean()

    path = Linear()
    return Recipe(
        network, loss, torch.optim.Adam(network.parameters(), lr=5e-4), 0, 0,
        lambda trained: TheirVelocity(spec=spec, schedule=path, network=trained),
    )  # fmt: skip


def edm(spec: DatasetSpec, device: torch.device) -> Recipe:
    """Of Karras et al. 2022, table 1 and section 5."""
    from diffusers import UNet2DModel

    network = UNet2DModel(
        sample_size=spec.shape[1], in_channels=1, out_channels=1, layers_per_block=2, norm_num_groups=8,
        block_out_channels=(32, 64, 64), down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    inner, std = LogSigma(cast(nn.Module, network)).to(device), spec.std

    def loss(data: Tensor, generator: torch.Generator) -> Tensor:
        sigma = (1.2 * torch.randn((len(data), 1, 1, 1), generator=generator, device=data.device) - 1.2).exp()
        x = data + sigma * torch.randn(data.shape, generator=generator, device=data.device)
        total = sigma**2 + std**2
        out = inner(x / total.sqrt(), sigma.flatten().log())
        found = std**2 / total * x + sigma * std / total.sqrt() * out
        return (total / (sigma * std) ** 2 * (found - data).square()).mean()

    path = Edm()

    def denoiser(trained: nn.Module) -> Denoiser:
        return NetworkDenoiser(
            spec=spec, schedule=path, trained_schedule=path, prediction=EdmPrediction(), network=trained
        )

    optimizer = torch.optim.Adam(inner.parameters(), lr=1e-3)
    return Recipe(inner, loss, optimizer, 10_000, 500_000, denoiser)


def trained(
    recipe: Recipe, split: Split, levels: int, end: Callable[[float, int], bool], device: torch.device, batch: int = 128
) -> tuple[nn.Module, int]:
    """(the averaged network, images seen).

    Args:
        end: whether to end, of seconds and images so far.
    """
    average, count = copy.deepcopy(recipe.network), 0
    generator, rate = torch.Generator(device).manual_seed(0), recipe.optimizer.param_groups[0]["lr"]
    batches = Batches(split, batch, 0).stream(0, 0)
    began = time.perf_counter()
    while not end(time.perf_counter() - began, count):
        data = UniformDequantization().training(next(batches).to(device).values, levels, generator)
        recipe.optimizer.param_groups[0]["lr"] = rate * min(1.0, (count + batch) / max(1.0, recipe.warm_up))
        recipe.optimizer.zero_grad()
        recipe.loss(data, generator).backward()
        recipe.optimizer.step()
        count += batch
        life = min(recipe.half_life, 0.05 * count)  # as EDM's ramp-up
        keep = 0.5 ** (batch / life) if life else 0.0
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), recipe.network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)
    return average.eval().requires_grad_(False), count


def bits(denoiser: Denoiser, split: Split, n: int, steps: int | None, seed: int = 0) -> tuple[float, float, int]:
    """(bits/dim, its standard error over examples, steps of the solver)."""
    scoring = Scoring(
        denoiser=denoiser, likelihood=OdeLikelihood(steps=steps), split=split, seed=seed, batch_size=128,
        device=device_of(denoiser),
        dequantization=UniformDequantization(),
    )  # fmt: skip
    scoring = choose_steps(scoring, list(range(16)))
    dims = split.values[0].numel()
    found = torch.as_tensor([bits_per_dimension(v, dims) for v in scoring.all(range(n)).nats.tolist()])
    return float(found.mean()), float(found.std() / n**0.5), getattr(scoring.likelihood, "steps", 0) or 0


def frechet(
    denoiser: Denoiser, sampler: Sampler, features: Features, references: Tensor, n: int, seeds: int
) -> tuple[float, float]:
    """(Fréchet distance of n samples, mean over seeds; its standard error)."""
    levels = denoiser.spec.levels
    assert levels is not None
    values = [
        frechet_distance(
            features.of(quantize(dfm.sample(denoiser, n, sampler, seed, batch_size=100), levels)), references
        )
        for seed in range(seeds)
    ]
    return statistics.mean(values), statistics.stdev(values) / seeds**0.5 if seeds > 1 else float("nan")


def made(name: str, data: str, spec: DatasetSpec, split: Split, given: argparse.Namespace) -> tuple[Denoiser, int]:
    """(what a recipe's minutes or images give, images seen), trained now or before."""
    device, images = resolve_device(given.device), images_of(name, given)
    path = given.out / (f"{name}_{given.minutes:g}" if images is None else f"{name}_{images}")
    if name == "dfm":
        length = [f"trainer.max_minutes={given.minutes}", "trainer.max_steps=1000000"]
        if images is not None:
            batch = composed("train", f"experiment={data}_flow", *given.override)["trainer"]["batch_size"]
            length = [f"trainer.max_steps={images // batch}", "trainer.max_minutes=null"]
        train(path, [f"experiment={data}_flow", *length, f"trainer.device={given.device}", "nll.n=0",
                     "trainer.validate_every=0", "trainer.sample_every=0", *given.override])  # fmt: skip
        seen = max(line["images"] for line in read_metrics(path / "metrics.jsonl") if "images" in line)
        return dfm.load(path, given.device), int(seen)
    recipe, stored = {"torchcfm": torchcfm, "edm": edm}[name](spec, device), path.with_suffix(".pt")
    if not stored.exists():
        assert spec.levels is not None
        ended = (lambda s, n: s >= 60 * given.minutes) if images is None else (lambda s, n: n >= images)
        network, seen = trained(recipe, split, spec.levels, ended, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": network.state_dict(), "seen": seen}, stored)
    content = torch.load(stored, weights_only=True)
    recipe.network.load_state_dict(content["weights"])
    return recipe.denoiser(recipe.network.eval().requires_grad_(False)), content["seen"]


def images_of(name: str, given: argparse.Namespace) -> int | None:
    """How many images a recipe is trained on, if it does not go by the clock."""
    if given.rates is None:
        return given.images
    return round(60 * given.minutes * given.rates[given.only.index(name)])


def dataset(name: str) -> Dataset:
    """The data set of ``configs/dataset``."""
    targets = {"fashion": "dfm.data.FashionMNIST", "digits": "dfm.data.Digits"}
    return Parts({"dataset": {"_target_": targets[name]}}).dataset


def main() -> None:
    """Train what is not there, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["fashion", "digits"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--only", nargs="*", default=["dfm", "torchcfm", "edm"])
    parser.add_argument("--images", type=int, help="train on so many, whatever the time")
    parser.add_argument(
        "--rates", type=float, nargs="*", help="images/s of each recipe elsewhere: train on its minutes'"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sampler", default="midpoint", help="a choice of configs/sampler; heun is EDM's own")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bits", type=int, default=256)
    parser.add_argument("--steps", type=int, help="of the likelihood's solver; default: as many as it needs")
    parser.add_argument("--split", default="test", help="validation while tuning")
    parser.add_argument("--override", nargs="*", default=[], help="of dfm's preset, while tuning")
    given = parser.parse_args()
    data = dataset(given.data)
    spec = replace(data.spec, num_classes=0)
    held_out, features = data.split(given.split), features_for(data, given.device)
    sampler = Parts(composed("sample", f"sampler={given.sampler}")).sampler
    references, rows = features.of(held_out.values), []
    for name in given.only:
        model, seen = made(name, given.data, spec, data.split("train"), given)
        value, error, steps = bits(model, held_out, given.bits, given.steps)
        row = [name, f"{seen:,}", f"{value:.3f} ± {error:.3f}", str(steps)]
        distance, spread = frechet(model, sampler, features, references, given.n, given.seeds)
        rows.append([*row, f"{distance:.2f} ± {spread:.2f}"])
        print(" ".join(rows[-1]), flush=True)
    columns = ["recipe", "images seen", f"{given.split} bits/dim", "solver steps", "Fréchet distance"]
    length = f"{given.images} images" if given.images else f"{given.minutes:g} minutes"
    by = "" if given.rates is None else f" at {given.rates} images/s"
    table(f"{given.data} after {length}{by}, {resolve_device(given.device)}", columns, rows)


if __name__ == "__main__":
    main()
