"""Train dfm's preset and two public recipes for the same time on the same machine, and compare the models.

Usage: python scripts/results/beside_public_recipes.py fashion|digits --out DIR [--minutes 15] [--seeds 2]
           [--only dfm torchcfm edm]

    dfm         dfm train experiment=fashion_flow|digits_flow trainer.max_minutes=MINUTES
    torchcfm    the network and settings of torchcfm's notebook for MNIST (independent coupling, sigma 0): UNetModel of
                32 channels and one block per resolution, 1.08M parameters; Adam at 5e-4, batch 128, no weight average
    edm         the recipe of Karras et al. 2022 (preconditioning, log-normal noise levels, Adam at 1e-3 after a
                warm-up, batch 128, weight average of half a million images, shorter at first) on diffusers'
                UNet2DModel of 32, 64 and 64 channels, two blocks per resolution and attention at the lowest, 1.62M
                parameters

The minutes are the time of training only, on all cores, with nothing else running. With --images, training ends after
this number of images for each recipe. So a GPU shows in seconds the result of a CPU with known images/s after an hour:
--rates R R R gives the images/s of each recipe, and each trains on the images of MINUTES at this rate.

Results are for the test split: bits/dim by dfm's ODE likelihood on the first --bits images (mean and standard error),
and the Fréchet distance of ``dfm eval``, mean and standard error over seeds of --n samples by --sampler. Models that
are in DIR are not trained again.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from _public_recipes import edm, torchcfm, train_recipe
from _runs import train
from torch import Tensor

import dfm
from dfm.basics.devices import resolve_device
from dfm.cli.composition.command_line import compose
from dfm.cli.console import table
from dfm.data.dataset import Dataset, DatasetSpec, Split
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.data.numbers.pixel_levels import quantize, unit_of
from dfm.denoising.arguments import device_of
from dfm.denoising.denoiser import Denoiser
from dfm.evaluation.classifier_features import features_for
from dfm.evaluation.features import Features
from dfm.evaluation.sample_quality import frechet_distance
from dfm.likelihood.error_bars import choose_steps
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring
from dfm.runs.metrics import read_metrics
from dfm.runs.parts import Parts
from dfm.sampling.samplers import Sampler


def bits(denoiser: Denoiser, split: Split, n: int, steps: int | None, seed: int = 0) -> tuple[float, float, int]:
    """Return (bits/dim, its standard error over examples, steps of the solver)."""
    scoring = Scoring(
        denoiser=denoiser,
        likelihood=OdeLikelihood(steps=steps),
        split=split,
        seed=seed,
        batch_size=128,
        device=device_of(denoiser),
        dequantization=UniformDequantization(),
    )
    scoring = choose_steps(scoring, list(range(16)))
    unit = unit_of(denoiser.spec)
    values = torch.as_tensor([unit.of(nats) for nats in scoring.all(range(n)).nats.tolist()])
    return float(values.mean()), float(values.std() / n**0.5), getattr(scoring.likelihood, "steps", 0) or 0


def frechet(
    denoiser: Denoiser, sampler: Sampler, features: Features, references: Tensor, n: int, seeds: int
) -> tuple[float, float]:
    """Return (the Fréchet distance of n samples, mean over seeds; its standard error)."""
    levels = denoiser.spec.levels
    assert levels is not None
    values = [
        frechet_distance(
            features.of(quantize(dfm.sample(denoiser, n, sampler, seed, batch_size=100), levels)), references
        )
        for seed in range(seeds)
    ]
    return statistics.mean(values), statistics.stdev(values) / seeds**0.5 if seeds > 1 else float("nan")


def model_of(
    name: str, data: str, spec: DatasetSpec, split: Split, options: argparse.Namespace
) -> tuple[Denoiser, int]:
    """Return (the model of a recipe, the images that it saw); train it if it is not in DIR."""
    device, images = resolve_device(options.device), images_of(name, options)
    run = options.out / (f"{name}_{options.minutes:g}" if images is None else f"{name}_{images}")
    if name == "dfm":
        return own_model(run, data, images, options)
    recipe, file = {"torchcfm": torchcfm, "edm": edm}[name](spec, device), run.with_suffix(".pt")
    if not file.exists():
        assert spec.levels is not None
        end = (lambda s, n: s >= 60 * options.minutes) if images is None else (lambda s, n: n >= images)
        network, count = train_recipe(recipe, split, spec.levels, end, device)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weights": network.state_dict(), "seen": count}, file)
    content = torch.load(file, weights_only=True)
    recipe.network.load_state_dict(content["weights"])
    return recipe.denoiser(recipe.network.eval().requires_grad_(False)), content["seen"]


def own_model(run: Path, data: str, images: int | None, options: argparse.Namespace) -> tuple[Denoiser, int]:
    """Return (the model of dfm's preset, the images that it saw)."""
    length = [f"trainer.max_minutes={options.minutes}", "trainer.max_steps=1000000"]
    if images is not None:
        batch = compose("train", f"experiment={data}_flow", *options.override)["trainer"]["batch_size"]
        length = [f"trainer.max_steps={images // batch}", "trainer.max_minutes=null"]
    quiet = ["nll.n=0", "trainer.validate_every=0", "trainer.sample_every=0"]
    train(run, [f"experiment={data}_flow", *length, f"trainer.device={options.device}", *quiet, *options.override])
    count = max(line["images"] for line in read_metrics(run / "metrics.jsonl") if "images" in line)
    return dfm.load(run, options.device), int(count)


def images_of(name: str, options: argparse.Namespace) -> int | None:
    """Return the number of images that a recipe is trained on, or None if it is trained for a time."""
    if options.rates is None:
        return options.images
    return round(60 * options.minutes * options.rates[options.only.index(name)])


def dataset(name: str) -> Dataset:
    """Return the data set of ``configs/dataset``."""
    targets = {"fashion": "dfm.data.FashionMNIST", "digits": "dfm.data.Digits"}
    return Parts({"dataset": {"_target_": targets[name]}}).dataset


def main() -> None:
    """Train the models that are not in DIR, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["fashion", "digits"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--only", nargs="*", default=["dfm", "torchcfm", "edm"])
    parser.add_argument("--images", type=int, help="train on this number of images, not for a time")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="*",
        help="images/s of each recipe on another machine: train on its images of MINUTES",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sampler", default="midpoint", help="a choice of configs/sampler; heun is EDM's own")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bits", type=int, default=256)
    parser.add_argument("--steps", type=int, help="of the likelihood's solver; default: chosen by its error")
    parser.add_argument("--split", default="test", help="use validation for tuning")
    parser.add_argument("--override", nargs="*", default=[], help="overrides of dfm's preset, for tuning")
    options = parser.parse_args()
    data = dataset(options.data)
    spec = replace(data.spec, num_classes=0)
    split, features = data.split(options.split), features_for(data, options.device)
    sampler = Parts(compose("sample", f"sampler={options.sampler}")).sampler
    references, rows = features.of(split.all()), []
    for name in options.only:
        model, seen = model_of(name, options.data, spec, data.split("train"), options)
        value, error, steps = bits(model, split, options.bits, options.steps)
        row = [name, f"{seen:,}", f"{value:.3f} ± {error:.3f}", str(steps)]
        distance, spread = frechet(model, sampler, features, references, options.n, options.seeds)
        rows.append([*row, f"{distance:.2f} ± {spread:.2f}"])
        print(" ".join(rows[-1]), flush=True)
    columns = ["recipe", "images seen", f"{options.split} bits/dim", "solver steps", "Fréchet distance"]
    length = f"{options.images} images" if options.images else f"{options.minutes:g} minutes"
    by = "" if options.rates is None else f" at {options.rates} images/s"
    table(f"{options.data} after {length}{by}, {resolve_device(options.device)}", columns, rows)


if __name__ == "__main__":
    main()
