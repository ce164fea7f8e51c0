"""``dfm check ckpt=``: samplers and steps on a trained model, quality against evaluations."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.cli import console
from dfm.cli.command_line import options, variant
from dfm.cli.from_checkpoint import load_denoiser
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset
from dfm.data.dequantization import UniformDequantization
from dfm.denoising.exact import MixtureDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.evaluation.distances import energy_distance, energy_spread
from dfm.evaluation.known_law import exact_end, follow, law_at, rms, starting_points
from dfm.likelihood.path_divergence import path_divergence
from dfm.likelihood.scoring import examples
from dfm.runs import parts as assemble
from dfm.runs.charts import curves
from dfm.runs.images import save_png
from dfm.sampling.draw import check_labels, draw_samples
from dfm.sampling.samplers import Sampler

CHOSEN = ("euler", "heun", "ddim", "dpmpp_2m", "unipc", "euler_maruyama", "ancestral", "dopri5")
REFERENCE_SAMPLES = 200  # whose ODE is followed to a tight tolerance


def on_checkpoint(config: dict[str, Any], wanted: Any, directory: Path, trust: Any) -> None:
    """The table, the plot and ``check.json``.

    The quality of samples is their energy distance to as many held-out examples; ``ode error`` is how far they are from
    where the model's own ODE would take the same latents. A sampler whose ode error is small and whose energy distance
    is not is no longer the problem: the network is.
    """
    refuse_unused(("sampler", "likelihood", "dataset"), "on a sweep of a checkpoint: samplers=[heun,ddim] chooses")
    device = resolve_device(wanted.device)
    # the command's defaults for the oracle are not choices of a user's for a checkpoint
    given = {**config, "schedule": config["schedule"] if chosen("schedule") else None}
    found, denoiser = load_denoiser(given, wanted.ckpt, device, trust)
    data = assemble.dataset(found.config, trust)
    reference = held_out(data, wanted.n, wanted.seed)
    tight = tight_ends(denoiser, wanted.seed, device)
    rows = []
    for name in wanted.samplers or [name for name in CHOSEN if name in options("sampler")]:
        sampler = assemble.sampler(variant("check", f"sampler={name}"), trust)
        for steps in [None] if sampler.adaptive else wanted.steps:
            one = sampler if steps is None else sampler.with_steps(steps)
            try:
                rows.append(measure(name, steps, one, denoiser, reference, tight, wanted, device))
            except UserError as problem:
                console.warn(f"{name}: {problem}")
                break
    floor = energy_distance(held_out(data, len(reference), wanted.seed, "train"), reference)
    tell(rows, floor)
    divergence = exact_divergence(denoiser, data, trust, wanted)
    save_png(picture(rows, floor), directory / "quality_against_nfe.png")
    write_json(
        directory / "check.json",
        {
            "checkpoint": str(found.path), "checkpoint_step": found.step, "n": len(reference), "seed": wanted.seed,
            "rows": rows, "energy_distance_of_training_data": floor, "path_divergence": divergence,
        },
    )  # fmt: skip


def chosen(group: str) -> bool:
    """Whether the command line chose an option of a group."""
    from dfm.cli.command_line import overrides

    return any(text.partition("=")[0].split(".")[0] == group for text in overrides())


def held_out(data: Dataset, n: int, seed: int, split: str = "test") -> Tensor:
    """The first n examples of a split in the unit of the model."""
    part = data.split(split)
    if len(part) < 2:
        raise UserError(f"{data.spec.name} has {len(part)} {split} examples; allowed: at least 2 to compare with")
    # uniform noise in each cell, as samples have that are stored as levels
    return examples(part, data.spec, range(min(n, len(part))), seed, UniformDequantization(), 0.0)


def tight_ends(denoiser: NetworkDenoiser, seed: int, device: torch.device) -> Tensor:
    """Where the ODE takes the first latents, by Dormand-Prince at 1e-5, denoised."""
    labels = check_labels(denoiser.spec, None, range(REFERENCE_SAMPLES))
    given = denoiser.with_labels(None if labels is None else labels.to(device))
    x = starting_points(given, REFERENCE_SAMPLES, seed, device, double=False)
    with torch.no_grad():
        end = exact_end(given, x, given.t_min, 1e-5)
        return given.data(end, torch.tensor(given.t_min, dtype=torch.float64))


@torch.no_grad()
def measure(
    name: str, steps: int | None, sampler: Sampler, denoiser: NetworkDenoiser, reference: Tensor, tight: Tensor,
    wanted: Any, device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """One line: draw as many samples as there are references and compare."""
    began, n = time.perf_counter(), len(reference)
    result = draw_samples(
        denoiser,
        sampler,
        range(n),
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        labels=check_labels(denoiser.spec, None, range(n)),
        device=device,
        convert=lambda x: x,
    )
    samples = result.samples
    shared = min(n, REFERENCE_SAMPLES)
    return {
        "sampler": name,
        "steps": steps,
        "nfe": result.nfe,
        "seconds": time.perf_counter() - began,
        "energy_distance": energy_distance(samples, reference),
        "energy_distance_stderr": energy_spread(samples, reference),
        "ode_error": None if sampler.stochastic else rms(samples[:shared], tight[:shared]),
    }


def exact_divergence(denoiser: NetworkDenoiser, data: Dataset, trust: Any, wanted: Any) -> dict[str, float] | None:
    """The path divergence of the model from the truth, where that is known, and whether its samples keep the law."""
    known = getattr(data, "mixture", None) is not None and denoiser.spec.num_classes == 0
    if not (known and denoiser.is_linear_path and denoiser.prior.gaussian and denoiser.independent):
        return None
    true: MixtureDenoiser = assemble.oracle(data, denoiser.schedule)
    found = path_divergence(true, denoiser, held_out(data, wanted.n, wanted.seed).to(torch.float32), seed=wanted.seed)
    run = follow(
        denoiser, variant_sampler("euler_maruyama", 256, trust), starting_points(denoiser, 1000, 1, double=False), 1
    )
    distance, p = law_at(true, run.t).kolmogorov_smirnov(run.x)
    console.result(
        f"path divergence from the exact process {found.total:.3g} +- {found.stderr:.2g} nats; 1000 SDE samples: "
        f"Kolmogorov-Smirnov distance {distance:.3f}, p {p:.2g}"
    )
    return {"nats": found.total, "stderr": found.stderr, "ks_distance": distance, "ks_p": p}


def variant_sampler(name: str, steps: int, trust: Any) -> Sampler:
    """A sampler as its YAML has it, at another number of steps."""
    found: Sampler = assemble.sampler(variant("check", f"sampler={name}"), trust)
    return found.with_steps(steps)


def tell(rows: list[dict[str, Any]], floor: float) -> None:
    """The table."""
    cells = [
        (
            row["sampler"], str(row["steps"] or "own"), f"{row['nfe']:.0f}", f"{row['seconds']:.1f}",
            f"{row['energy_distance']:.4f} +- {row['energy_distance_stderr']:.4f}",
            "-" if row["ode_error"] is None else f"{row['ode_error']:.4f}",
        )
        for row in rows
    ]  # fmt: skip
    console.table("quality", ("sampler", "steps", "NFE", "seconds", "energy distance", "ode error"), cells)
    console.result(f"energy distance of as many training examples: {floor:.4f}")


def picture(rows: list[dict[str, Any]], floor: float) -> Any:
    """Energy distance against NFE, a line a sampler."""
    names = dict.fromkeys(row["sampler"] for row in rows)
    series: dict[str, tuple[list[float], list[float]]] = {
        name: (
            [r["nfe"] for r in rows if r["sampler"] == name],
            [max(r["energy_distance"], 1e-5) for r in rows if r["sampler"] == name],
        )
        for name in names
    }
    ends = [min(r["nfe"] for r in rows), max(r["nfe"] for r in rows)] if rows else [1, 2]
    series["(training data)"] = (ends, [max(floor, 1e-5)] * 2)
    return curves(series, "NFE", "energy distance to held-out data", "quality against evaluations")
