"""``dfm eval``: the quality of samples, compared with held-out data."""

from typing import Any

from dfm.basics.devices import check_precision
from dfm.basics.intervals import as_text
from dfm.cli import console
from dfm.cli.commands.eval import inputs
from dfm.cli.from_checkpoint import classes_for
from dfm.cli.job import Job
from dfm.cli.settings import EvalSettings
from dfm.evaluation.sample_quality import Quality, check_enough, quality
from dfm.sampling.draw import check_count
from dfm.sampling.labels import asked_classes


def run(job: Job) -> None:
    """Draw samples from a checkpoint, or read stored ones, and compare them with held-out data."""
    wanted: EvalSettings = job.settings
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    check_precision(wanted.precision, job.device)
    checkpoint, drawing = inputs.find_source(job)
    data = inputs.find_references(job, checkpoint)
    of_samples = classes_for(job, drawing.denoiser) if drawing else None
    asked = asked_classes(data.spec, wanted.label, what=f"dataset {data.spec.name} is")
    references, train = (inputs.examples(data, name, asked) for name in (wanted.split, "train"))
    features = inputs.find_features(job, data)
    stored = None if drawing else inputs.read(job, data.spec, asked)
    # these mistakes are told before the features are trained
    check_enough(wanted_samples(wanted.n, stored), len(references))
    inputs.prepare(features)

    samples = inputs.draw(job, drawing, of_samples) if drawing and of_samples else stored
    assert samples is not None
    real = inputs.choose(train, len(samples.values), wanted.seed)
    reference_features = features.of(references.all())
    result, floor = (quality(features.of(v), reference_features, seed=wanted.seed) for v in (samples.values, real))
    facts = {
        **vars(result),
        "floor": vars(floor),
        "features": features.facts,
        "dataset": data.spec.name,
        "split": wanted.split,
        **asked.facts,
        "seed": wanted.seed,
        **samples.facts,
        "checkpoint": str(checkpoint.path) if checkpoint else None,
        "checkpoint_step": checkpoint.step if checkpoint else None,
    }
    print_report(result, floor, facts)  # before the files: a full disk must not cost what was computed
    inputs.store(samples, data.spec, job.directory, facts, pictures=drawing is not None)


def wanted_samples(n: int | None, stored: inputs.Samples | None) -> int:
    """Return how many samples there will be: those that are stored, or those that will be drawn."""
    return len(stored.values) if stored else inputs.DEFAULT_N if n is None else n


def print_report(result: Quality, floor: Quality, facts: dict[str, Any]) -> None:
    """Print the table, and the features that it is based on.

    Args:
        floor: the quality of training examples: the best that samples can reach.
    """
    rows = [
        (
            f"{row.num_samples} {name}",
            f"{row.frechet:.4f} +- {row.frechet_stderr:.4f}\n{as_text(row.frechet_interval95)}",
            f"{row.kernel:.5f} +- {row.kernel_stderr:.5f}\n{as_text(row.kernel_interval95, '.5f')}",
            f"{row.precision:.3f}",
            f"{row.recall:.3f}",
        )
        for name, row in (("samples", result), ("training", floor))
    ]
    console.table(
        f"compared with {result.num_references} {facts['split']} examples of {facts['dataset']}",
        ("", "Frechet distance, 95 %", "kernel distance, 95 %", "precision", "recall"),
        rows,
    )
    features = facts["features"]
    if features["kind"] == "classifier":
        right = "" if features["accuracy"] is None else f", right on {features['accuracy']:.1%} of the test split"
        console.result(f"features: a classifier of {features['dataset']}{right}; sha256 {features['sha256'][:12]}")
    else:
        console.result(f"features: the {features['dimensions']} coordinates themselves")
