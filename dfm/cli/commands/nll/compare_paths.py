"""``dfm nll against=``: the divergence of a model's path from the path of the oracle or of another model."""

import math
from typing import Any, cast

import torch

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically, write_json
from dfm.basics.intervals import as_text, mean_interval
from dfm.cli import console
from dfm.cli.commands.nll.estimates import ScoringJob
from dfm.cli.from_checkpoint import dataset_of, load_denoiser
from dfm.cli.job import Job
from dfm.data.numbers.units import log_volume
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.exact import MixtureDenoiser, exact_denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.evaluation.known_law import start_gap
from dfm.likelihood.estimator import ends
from dfm.likelihood.examples import examples, labels_for
from dfm.likelihood.path_divergence import PathDivergence, path_divergence, path_gain
from dfm.likelihood.scoring import Scores
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.pictures.charts import curves
from dfm.runs.pictures.images import save_png


def load_other(job: Job, work: ScoringJob, checkpoint: Checkpoint) -> Denoiser:
    """Return the denoiser that ``against=`` names, on the model's schedule. This is called before any scoring.

    Args:
        checkpoint: of the model that is scored.

    Raises:
        UserError: the law of the data is not known, the other model was trained on other data, or there is only one
            example.
    """
    if work.n < 2:
        raise UserError(f"against={job.settings.against} with one example; allowed: n of at least 2")
    if job.settings.against == "oracle":
        if work.denoiser.spec.num_classes:
            raise UserError(
                "against=oracle: the exact law covers all classes together, but this model is conditional on the "
                "class; allowed: a model trained with conditional=false"
            )
        return exact_denoiser(dataset_of(checkpoint, job.trusted), work.denoiser.schedule, work.denoiser.spec)
    return load_model(job, work).on_schedule(work.denoiser.schedule)


def compare_paths(job: Job, work: ScoringJob, other: Denoiser, scores: Scores) -> None:
    """Write ``path.json``, ``path.csv`` and ``path.png``, and print the result.

    Args:
        other: the result of ``load_other``.
    """
    against, directory = job.settings.against, job.directory
    if against == "oracle":
        facts, divergence = from_oracle(work, cast(MixtureDenoiser, other), scores)
        kind = "path divergence from the oracle"
    else:
        facts, divergence = from_model(against, work, other)
        kind = "nats that the other model saves on the path"
    rows = ["log_nsr,nats_per_unit"]
    rows += [f"{x:.8g},{y:.10g}" for x, y in zip(divergence.log_nsr.tolist(), divergence.density.tolist(), strict=True)]
    write_atomically(directory / "path.csv", ("\n".join(rows) + "\n").encode())
    write_json(directory / "path.json", {"against": against, **facts})
    series = {kind: (divergence.log_nsr.tolist(), divergence.density.tolist())}
    title = f"{divergence.total:.4f} +- {divergence.stderr:.4f} nats in total"
    save_png(curves(series, "log nsr", "nats per unit of log nsr", title, log=False), directory / "path.png")


def from_oracle(work: ScoringJob, oracle: MixtureDenoiser, scores: Scores) -> tuple[dict[str, Any], PathDivergence]:
    """Return the path divergence from the exact law (Girsanov), and facts with KL(data, model) from the scores.

    The KL is the mean of log p(x) - log p_model(x) over the scored examples, in nats; p is the law of the path's end at
    t_min. The nats of the law itself, without noise, on the same examples are in the unit of the data, as the model's.
    """
    x = held_out(work)
    divergence = path_divergence(oracle, work.denoiser, x, seed=work.seed)
    start = start_gap(oracle, x.double(), work.seed, work.denoiser)
    total, error = divergence.total + start.mean, math.hypot(divergence.stderr, start.stderr)
    a = float(oracle.schedule.ab(torch.tensor(oracle.t_min, dtype=torch.float64))[0])
    d, scored = x[0].numel(), list(scores.indices)
    exact = oracle.log_density(a * x.double(), oracle.t_min) + d * math.log(a)
    gap = exact.cpu()[scored] - log_volume(oracle.spec) + scores.nats
    own = log_volume(oracle.spec) - float(oracle.mixture.log_prob(x.double().flatten(1)).cpu()[scored].mean())
    kl, kl_error = float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))
    intervals = mean_interval(kl, kl_error, len(gap)), mean_interval(total, error, len(x))
    console.result(
        f"the law itself has {own:.4f} nats on these {len(gap)} examples, the model {float(scores.nats.mean()):.4f}: "
        f"{kl / d:.4f} +- {kl_error / d:.4f} more for each of {d} numbers"
    )
    console.result(
        f"KL(data, model) {kl:.4f} +- {kl_error:.4f} nats from the likelihood (95 %: {as_text(intervals[0])}); path "
        f"divergence {total:.4f} +- {error:.4f} nats (95 %: {as_text(intervals[1])}; {start.mean:.4f} of them at the "
        "start), an upper bound of the KL of its SDE's samples"
    )
    facts = {
        "path_divergence": total,
        "path_divergence_stderr": error,
        "path_divergence_interval95": intervals[1],
        "start_gap": start.mean,
        "kl": kl,
        "kl_stderr": kl_error,
        "kl_interval95": intervals[0],
        "kl_per_dim": kl / d,
        "law_nats": own,
        "n": len(x),
    }
    return facts, divergence


def load_model(job: Job, work: ScoringJob) -> NetworkDenoiser:
    """Return the model of the checkpoint ``against``.

    Raises:
        UserError: there is no such checkpoint, or its data have another shape or other classes.
    """
    against = job.settings.against
    other, denoiser = load_denoiser(job, against, key="against")
    if other.spec.shape != work.denoiser.spec.shape or other.spec.levels != work.denoiser.spec.levels:
        raise UserError(
            f"against={against}: a model of {other.spec.name} {other.spec.shape}; allowed: a model of "
            f"{work.denoiser.spec.name} {work.denoiser.spec.shape}"
        )
    if len({work.denoiser.spec.num_classes, other.spec.num_classes} - {0}) > 1:
        raise UserError(
            f"against={against}: it has {other.spec.num_classes} classes; allowed: "
            f"{work.denoiser.spec.num_classes}, like the model of ckpt=, or none"
        )
    return denoiser


def from_model(against: str, work: ScoringJob, other: Denoiser) -> tuple[dict[str, Any], PathDivergence]:
    """Return the difference of the evidence bounds of the two models at each noise level, and facts for JSON."""
    mine, theirs = (
        model.with_labels(labels_for(model, work.split, range(work.n), work.device)) for model in (work.denoiser, other)
    )
    gain = path_gain(mine, theirs, held_out(work), seed=work.seed)
    interval = mean_interval(gain.total, gain.stderr, work.n)
    console.result(
        f"with the same noise, {against} is {gain.total:+.4f} +- {gain.stderr:.4f} nats (95 %: "
        f"{as_text(interval, '+.4f')}) nearer to the path of the data"
    )
    return {"gain": gain.total, "gain_stderr": gain.stderr, "gain_interval95": interval, "n": work.n}, gain


def held_out(work: ScoringJob) -> torch.Tensor:
    """Return the scored examples in the unit of the model."""
    low, _ = ends(work.denoiser, None)
    return examples(work.split, work.denoiser.spec, range(work.n), work.seed, work.own, low).to(work.device)
