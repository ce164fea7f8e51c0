"""``dfm check ckpt=``: samplers and steps on a trained model, quality against evaluations."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.cli import console
from dfm.cli.config_dirs import options
from dfm.cli.from_checkpoint import load_denoiser
from dfm.cli.job import Job
from dfm.cli.settings import CheckSettings
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset
from dfm.data.dequantization import UniformDequantization
from dfm.denoising.exact import exact_denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.evaluation.distances import energy_distance, energy_spread
from dfm.evaluation.known_law import exact_end, follow, law_at, rms, starting_points
from dfm.likelihood.path_divergence import path_divergence
from dfm.likelihood.scoring import examples
from dfm.runs.charts import curves
from dfm.runs.images import save_png
from dfm.runs.parts import Parts
from dfm.sampling.draw import check_labels, draw_samples
from dfm.sampling.samplers import Sampler

CHOSEN = ("euler", "heun", "ddim", "dpmpp_2m", "unipc", "euler_maruyama", "ancestral", "dopri5")
REFERENCE_SAMPLES = 200  # whose ODE is followed to a tight tolerance


def check_model(job: Job) -> None:
    """Write the table, the plot and ``check.json``.

    The quality of samples is their energy distance to as many held-out examples; ``ode error`` is how far they are from
    where the model's own ODE would take the same latents. If a sampler's ode error is small and its energy distance is
    not, the sampler is no longer the problem: the network is.
    """
    wanted: CheckSettings = job.settings
    refuse_unused(("sampler", "likelihood", "dataset"), "on a sweep of a checkpoint: samplers=[heun,ddim] chooses")
    # the command's default path is for the known law; a checkpoint keeps its own unless the user names one
    named = any(text.partition("=")[0].split(".")[0] == "schedule" for text in job.overrides)
    own = replace(job, config={**job.config, "schedule": job.config["schedule"] if named else None})
    checkpoint, denoiser = load_denoiser(own, wanted.ckpt)
    data = Parts(checkpoint.config, job.trusted).dataset
    reference = held_out(data, wanted.n, wanted.seed)
    tight = tight_ends(denoiser, wanted.seed, job.device)
    rows = []
    for name in wanted.samplers or [name for name in CHOSEN if name in options("sampler")]:
        sampler = job.variant(f"sampler={name}").sampler
        for steps in [None] if sampler.adaptive else wanted.steps:
            one = sampler if steps is None else sampler.with_steps(steps)
            try:
                rows.append(measure(name, steps, one, denoiser, reference, tight, wanted, job.device))
            except UserError as problem:
                console.warn(f"{name}: {problem}")
                break
    floor = energy_distance(held_out(data, len(reference), wanted.seed, "train"), reference)
    print_report(rows, floor)
    divergence = exact_divergence(job, denoiser, data)
    save_png(picture(rows, floor), job.directory / "quality_against_nfe.png")
    facts = {
        "checkpoint": str(checkpoint.path),
        "checkpoint_step": checkpoint.step,
        "n": len(reference),
        "seed": wanted.seed,
        "rows": rows,
        "energy_distance_of_training_data": floor,
        "path_divergence": divergence,
    }
    write_json(job.directory / "check.json", facts)


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
    wanted: CheckSettings, device: torch.device,
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


def exact_divergence(job: Job, denoiser: NetworkDenoiser, data: Dataset) -> dict[str, float] | None:
    """Return the path divergence of the model from the truth, and whether its samples keep the law; None if unknown."""
    known = getattr(data, "mixture", None) is not None and denoiser.spec.num_classes == 0
    if not (known and denoiser.is_linear_path and denoiser.prior.gaussian and denoiser.independent):
        return None
    true, wanted = exact_denoiser(data, denoiser.schedule), job.settings
    found = path_divergence(true, denoiser, held_out(data, wanted.n, wanted.seed).to(torch.float32), seed=wanted.seed)
    sampler = job.variant("sampler=euler_maruyama").sampler.with_steps(256)
    end = follow(denoiser, sampler, starting_points(denoiser, 1000, 1, double=False), 1)
    distance, p = law_at(true, end.t).kolmogorov_smirnov(end.x)
    console.result(
        f"path divergence from the exact process {found.total:.3g} +- {found.stderr:.2g} nats; 1000 SDE samples: "
        f"Kolmogorov-Smirnov distance {distance:.3f}, p {p:.2g}"
    )
    return {"nats": found.total, "stderr": found.stderr, "ks_distance": distance, "ks_p": p}


def print_report(rows: list[dict[str, Any]], floor: float) -> None:
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
