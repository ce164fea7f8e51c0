"""``dfm eval``: how good samples are beside held-out data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings

if TYPE_CHECKING:
    from dfm.quality import Quality


@dataclass(frozen=True)
class EvalSettings:
    """The command's own keys; ``configs/eval.yaml`` says what each is."""

    ckpt: str | None
    samples: str | None
    n: int | None
    split: str
    seed: int
    batch_size: int | None
    label: int | str | None
    device: str
    precision: str


def main() -> None:
    """The command."""
    launch("eval", job)


def job(cfg: DictConfig) -> None:
    """Draw samples from a checkpoint, or read stored ones, and compare them with held-out data."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, EvalSettings)
    from dfm import assemble
    from dfm.commands import judged
    from dfm.devices import checked_precision, resolve_device
    from dfm.quality import quality
    from dfm.run_dir import write_overrides
    from dfm.sampling import check_count

    trust = assemble.trusted(config)
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    checked_precision(wanted.precision, device)
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
    console.say(f"run directory: {directory}")


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
        console.say(f"features: a classifier of {features['dataset']}{right}; sha256 {features['sha256'][:12]}")
    else:
        console.say(f"features: the {features['dimensions']} coordinates themselves")
