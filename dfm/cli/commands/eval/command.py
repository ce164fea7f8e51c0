"""``dfm eval``: how good samples are beside held-out data."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import EvalSettings
from dfm.runs.build import settings

if TYPE_CHECKING:
    from dfm.evaluation.sample_quality import Quality


def main() -> None:
    """The command."""
    launch("eval", job)


def job(cfg: DictConfig) -> None:
    """Draw samples from a checkpoint, or read stored ones, and compare them with held-out data."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, EvalSettings)
    from dfm.basics.devices import check_precision, resolve_device
    from dfm.cli.commands.eval import inputs as judged
    from dfm.evaluation.sample_quality import quality
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.sampling.draw import check_count

    trust = assemble.trusted(config)
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    check_precision(wanted.precision, device)
    found, source = judged.origin(config, wanted, device, trust)
    data = judged.references_of(config, found, trust)
    references = judged.examples(data, wanted.split, wanted.label)
    features = judged.features_of(config, data, device, trust)
    judged.prepare(features)

    samples = judged.draw(wanted, source, device) if source else judged.read(wanted, data.spec)
    real = judged.some(judged.examples(data, "train", wanted.label), len(samples.values), wanted.seed)
    seen = features.of(references)
    measured, floor = (quality(features.of(v), seen, seed=wanted.seed) for v in (samples.values, real))
    facts = {
        **vars(measured), "floor": vars(floor), "features": features.facts, "dataset": data.spec.name,
        "split": wanted.split, "label": wanted.label, "seed": wanted.seed, **samples.facts,
        "checkpoint": str(found.path) if found else None, "checkpoint_step": found.step if found else None,
    }  # fmt: skip
    write_overrides(directory, overrides())
    judged.keep(samples, data.spec, directory, facts, pictures=source is not None)
    tell(measured, floor, facts)
    console.result(f"run directory: {directory}")


def tell(measured: "Quality", floor: "Quality", facts: dict[str, Any]) -> None:
    """The table, and in which features it is."""
    rows = [
        (
            f"{row.num_samples} {name}", f"{row.frechet:.4f} +- {row.frechet_stderr:.4f}",
            f"{row.kernel:.5f} +- {row.kernel_stderr:.5f}", f"{row.precision:.3f}", f"{row.recall:.3f}",
        )
        for name, row in (("samples", measured), ("training", floor))
    ]  # fmt: skip
    console.table(
        f"beside {measured.num_references} {facts['split']} examples of {facts['dataset']}",
        ("", "Frechet distance", "kernel distance", "precision", "recall"),
        rows,
    )
    features = facts["features"]
    if features["kind"] == "classifier":
        right = "" if features["accuracy"] is None else f", right on {features['accuracy']:.1%} of the test split"
        console.result(f"features: a classifier of {features['dataset']}{right}; sha256 {features['sha256'][:12]}")
    else:
        console.result(f"features: the {features['dimensions']} coordinates themselves")
