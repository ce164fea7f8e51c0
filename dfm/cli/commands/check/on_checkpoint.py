"""``dfm check ckpt=``: the quality of samples of a trained model, for several samplers and numbers of steps."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.basics.intervals import as_text, mean_interval
from dfm.cli import console, progress
from dfm.cli.composition.config_dirs import options
from dfm.cli.composition.unused_settings import refuse_unused
from dfm.cli.from_checkpoint import dataset_of, load_denoiser, refuse_other_form, warn_other_data
from dfm.cli.job import Job
from dfm.cli.settings import CheckSettings
from dfm.data.dataset import Dataset
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.denoising.exact import exact_denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.evaluation.distances import PARTS, energy_distance, energy_spread
from dfm.evaluation.known_law import exact_end, follow, law_at, rms, starting_points
from dfm.likelihood.examples import examples
from dfm.likelihood.path_divergence import path_divergence
from dfm.runs.pictures.charts import curves
from dfm.runs.pictures.images import save_png
from dfm.sampling.draw import draw_samples
from dfm.sampling.labels import in_turn
from dfm.sampling.samplers import Sampler

DEFAULT_SAMPLERS = ("euler", "heun", "ddim", "dpmpp_2m", "unipc", "euler_maruyama", "ancestral", "dopri5")
LEAST = 2 * PARTS  # examples, and samples
REFERENCE_SAMPLES = 200  # for these the ODE is solved to a tight tolerance


def check_model(job: Job) -> None:
    """Print the table, and write the chart and ``check.json``.

    The quality of samples is their energy distance to the same number of held-out examples. ``ode error`` is the root
    mean square distance to the ends of the model's own ODE from the same latents. If the ode error of a sampler is
    small but its energy distance is large, then the network is the problem, not the sampler.
    """
    wanted: CheckSettings = job.settings
    idle = ("sampler", "likelihood", *(("dataset",) if job.names("dataset") else ()))
    refuse_unused(idle, "on a check of a checkpoint, which has its own data, and samplers=[heun,ddim]")
    # the command's default path is meant for the known law; a checkpoint has its own path unless the user names one
    by_user = any(text.partition("=")[0].split(".")[0] == "schedule" for text in job.overrides)
    own_path = replace(job, config={**job.config, "schedule": job.config["schedule"] if by_user else None})
    checkpoint, denoiser = load_denoiser(own_path, wanted.ckpt)
    data = dataset_of(checkpoint, job.trusted)
    refuse_other_form(job, checkpoint.spec, data, data.split("test"))
    reference = held_out(data, wanted.n, wanted.seed)
    console.notices(data.all_notices)
    warn_other_data(checkpoint, data, "test")
    rows = sampler_rows(job, denoiser, reference)
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


def sampler_rows(job: Job, denoiser: NetworkDenoiser, reference: Tensor) -> list[dict[str, Any]]:
    """Return a row of results for each sampler and number of steps. Warn of samplers that do not suit the model."""
    wanted: CheckSettings = job.settings
    ends = ode_ends(denoiser, wanted.seed, job.device)
    names = wanted.samplers or [name for name in DEFAULT_SAMPLERS if name in options("sampler")]
    samplers = {name: job.variant(f"sampler={name}").sampler for name in names}
    rows = []
    with progress.task("check", len(samplers), "samplers") as task:
        for name, sampler in samplers.items():
            for steps in [None] if sampler.adaptive else wanted.steps:
                task.note(name if steps is None else f"{name}, {steps} steps")
                one = sampler if steps is None else sampler.with_steps(steps)
                try:
                    rows.append(measure(name, steps, one, denoiser, reference, ends, wanted, job.device))
                except UserError as problem:
                    console.warn(f"{name}: {problem}")
                    break
            task.advance()
    return rows


def held_out(data: Dataset, n: int, seed: int, split: str = "test") -> Tensor:
    """Return the first n examples of a split in the unit of the model.

    Raises:
        UserError: they are fewer than ``LEAST``.
    """
    part = data.split(split)
    if min(n, len(part)) < LEAST:
        given = f"n={n}" if n < LEAST else f"{data.spec.name} has {len(part)} {split} examples"
        raise UserError(f"{given}; allowed: at least {LEAST}, for the standard error of the energy distance")
    # uniform noise inside each pixel level, like samples that were stored as levels
    return examples(part, data.spec, range(min(n, len(part))), seed, UniformDequantization(), 0.0)


def ode_ends(denoiser: NetworkDenoiser, seed: int, device: torch.device) -> Tensor:
    """Return the denoised ends of the ODE from the first latents, by Dormand-Prince with tolerance 1e-5."""
    labels = in_turn(denoiser.spec, range(REFERENCE_SAMPLES))
    conditional = denoiser.with_labels(None if labels is None else labels.to(device))
    x = starting_points(conditional, REFERENCE_SAMPLES, seed, device, double=False)
    with torch.no_grad():
        end = exact_end(conditional, x, conditional.t_min, 1e-5)
        return conditional.data(end, torch.tensor(conditional.t_min, dtype=torch.float64))


@torch.no_grad()
def measure(
    name: str,
    steps: int | None,
    sampler: Sampler,
    denoiser: NetworkDenoiser,
    reference: Tensor,
    ends: Tensor,
    wanted: CheckSettings,
    device: torch.device,
) -> dict[str, Any]:
    """Draw as many samples as there are references, compare them, and return a row of results."""
    start, n = time.perf_counter(), len(reference)
    result = draw_samples(
        denoiser,
        sampler,
        range(n),
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        labels=in_turn(denoiser.spec, range(n)),
        device=device,
        convert=lambda x: x,
    )
    samples = result.samples
    distance, spread = energy_distance(samples, reference), energy_spread(samples, reference)
    shared = min(n, REFERENCE_SAMPLES)
    return {
        "sampler": name,
        "steps": steps,
        "nfe": result.nfe,
        "seconds": time.perf_counter() - start,
        "energy_distance": distance,
        "energy_distance_stderr": spread,
        "energy_distance_interval95": mean_interval(distance, spread, PARTS),
        "ode_error": None if sampler.stochastic else rms(samples[:shared], ends[:shared]),
    }


def exact_divergence(job: Job, denoiser: NetworkDenoiser, data: Dataset) -> dict[str, Any] | None:
    """Return the path divergence from the exact law and a test of samples; None if there is no such law."""
    has_law = data.law is not None and denoiser.spec.num_classes == 0
    if not (has_law and denoiser.is_linear_path and denoiser.prior.gaussian and denoiser.independent):
        return None
    exact, wanted = exact_denoiser(data, denoiser.schedule, denoiser.spec), job.settings
    x = held_out(data, wanted.n, wanted.seed).to(torch.float32)
    divergence = path_divergence(exact, denoiser, x, seed=wanted.seed)
    sampler = job.variant("sampler=euler_maruyama").sampler.with_steps(256)
    end = follow(denoiser, sampler, starting_points(denoiser, 1000, 1, double=False), 1)
    distance, p = law_at(exact, end.t).kolmogorov_smirnov(end.x)
    interval = mean_interval(divergence.total, divergence.stderr, len(x))
    console.result(
        f"path divergence from the exact process {divergence.total:.3g} +- {divergence.stderr:.2g} nats (95 %: "
        f"{as_text(interval, '.3g')}); 1000 SDE samples: Kolmogorov-Smirnov distance {distance:.3f}, p {p:.2g}"
    )
    facts = {"nats": divergence.total, "stderr": divergence.stderr, "interval95": interval}
    return {**facts, "ks_distance": distance, "ks_p": p}


def print_report(rows: list[dict[str, Any]], floor: float) -> None:
    """Print the table, and the energy distance of training data for comparison."""
    cells = [
        (
            row["sampler"],
            str(row["steps"] or "own"),
            f"{row['nfe']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['energy_distance']:.4f} +- {row['energy_distance_stderr']:.4f}",
            as_text(row["energy_distance_interval95"]),
            "-" if row["ode_error"] is None else f"{row['ode_error']:.4f}",
        )
        for row in rows
    ]
    console.table("quality", ("sampler", "steps", "NFE", "seconds", "energy distance", "95 %", "ode error"), cells)
    console.result(
        f"energy distance of the same number of training examples: {floor:.4f} (of equal laws: 0 on average)"
    )


def picture(rows: list[dict[str, Any]], floor: float) -> Any:
    """Draw energy distance against NFE, one line per sampler."""
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
