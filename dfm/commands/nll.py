"""``dfm nll``: log-likelihoods of held-out data, with their errors."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings

if TYPE_CHECKING:
    import torch

    from dfm.datasets.base import Split
    from dfm.denoiser import Denoiser
    from dfm.likelihood import OdeLikelihood
    from dfm.scoring import Audit, Scoring


@dataclass(frozen=True)
class NllSettings:
    """The command's own keys; ``configs/nll.yaml`` says what each is."""

    ckpt: str | None
    split: str
    n: int | None
    seed: int
    batch_size: int
    audit: int
    device: str


def main() -> None:
    """The command."""
    launch("nll", job)


def job(cfg: DictConfig) -> None:
    """Score one checkpoint on one split."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, NllSettings)
    from dfm import assemble
    from dfm.commands.loaded import examples_of, loaded
    from dfm.run_dir import write_overrides
    from dfm.sampling import check_count
    from dfm.trainer import resolve_device

    trust = assemble.trusted(config)
    likelihood = assemble.likelihood(config, trust)
    check_count(1 if wanted.n is None else wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    found, denoiser = loaded(config, wanted.ckpt, device, trust)
    split = examples_of(found, config, wanted.split, trust)
    write_overrides(directory, overrides())
    n = len(split) if wanted.n is None else min(wanted.n, len(split))
    score(
        denoiser, likelihood, split, directory, device,
        n=n, seed=wanted.seed, batch_size=wanted.batch_size, audit=wanted.audit,
        facts={"split": wanted.split, "checkpoint": str(found.path), "checkpoint_step": found.step},
    )  # fmt: skip
    console.say(f"run directory: {directory}")


def score(
    denoiser: "Denoiser",
    likelihood: "OdeLikelihood",
    split: "Split",
    directory: Path,
    device: "torch.device",
    *,
    n: int,
    seed: int,
    batch_size: int,
    audit: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Score the first n examples of a split and write ``nll.json`` and ``nll.csv``; ``facts`` join the JSON."""
    import torch

    from dfm.run_dir import write_json
    from dfm.scoring import Scoring, report

    scoring = Scoring(
        denoiser=denoiser, likelihood=likelihood, split=split, seed=seed, batch_size=batch_size, device=device
    )
    subset = torch.linspace(0, n - 1, min(max(1, audit), n)).round().long().tolist()
    with console.bar() as bar:
        task = bar.add_task("nll", total=n + 3 * len(subset))
        nats, nfe = torch.zeros(n, dtype=torch.float64), 0.0
        for scored in scoring.scores(range(n)):
            nats[list(scored.indices)], nfe = scored.nats, nfe + scored.nfe * len(scored.nats)
            bar.advance(task, len(scored.nats))
        checked = audited(scoring, subset, nats[subset], lambda k: bar.advance(task, k))
    result = {
        **report(nats, checked, denoiser.spec, nfe / n),
        **facts,
        "likelihood": described(likelihood),
        "seed": seed,
    }
    write_csv(directory / "nll.csv", nats, denoiser.spec)
    write_json(directory / "nll.json", result)
    tell(result)
    return result


def audited(scoring: "Scoring", subset: list[int], base: "torch.Tensor", advance: Any) -> "Audit":
    """The subset scored again: with other probes, with other dequantisation noise, and coarser."""
    import torch

    from dfm.scoring import Audit

    def again(**change: Any) -> torch.Tensor:
        parts = []
        for scored in scoring.scores(subset, **change):
            parts.append(scored.nats)
            advance(len(scored.nats))
        return torch.cat(parts)

    exact = scoring.likelihood.divergence == "exact"
    return Audit(
        base=base,
        other_probe=None if exact else again(probe=1),
        other_noise=None if scoring.denoiser.spec.levels is None else again(noise=1),
        coarse=again(coarse=True),
    )


def described(likelihood: "OdeLikelihood") -> dict[str, Any]:
    """The settings that matter to the figure, for the JSON."""
    from dataclasses import asdict

    settings = {**asdict(likelihood), "grid": type(likelihood.grid).__name__.lower()}
    unused = ("steps", "grid") if likelihood.adaptive else ("rtol", "atol")
    return {key: value for key, value in settings.items() if key not in unused}


def write_csv(path: Path, nats: "torch.Tensor", spec: Any) -> None:
    """A row an example: index, nats, bits_per_dim (empty for points)."""
    from dfm.quantization import bits_per_dimension
    from dfm.run_dir import write_atomically

    rows = ["index,nats,bits_per_dim"]
    for index, value in enumerate(nats.tolist()):
        bits = "" if spec.levels is None else f"{bits_per_dimension(value, math.prod(spec.shape)):.8g}"
        rows.append(f"{index},{value:.10g},{bits}")
    write_atomically(path, ("\n".join(rows) + "\n").encode())


def tell(result: dict[str, Any]) -> None:
    """The figure on one line, and a warning where it is not to be trusted."""
    bits = result["unit"] == "bits/dim"
    value, digits = (result["bits_per_dim"], 4) if bits else (result["nats"], 4)
    shown = "not finite" if value is None else f"{value:.{digits}f}"
    stderr = "?" if result["stderr"] is None else f"{result['stderr']:.{digits}f}"
    solver = "?" if result["solver_error"] is None else f"{result['solver_error']:.{digits}f}"
    console.say(
        f"{shown} {result['unit']} +- {stderr} (standard error) over {result['num_examples']} examples of "
        f"{result['split']}; solver error {solver}, {result['nfe']:.0f} NFE"
    )
    if bits and value is not None and value > math.log2(result["levels"]):
        console.warn(
            f"more than the {math.log2(result['levels']):.2f} bits/dim of uniform noise; try longer training, or "
            "prediction=edm or velocity if the model is wrong at small noise"
        )
    if not result["converged"]:
        console.warn(
            "not converged: half the steps give another figure, or one that no data can have; "
            "try more likelihood.steps, or likelihood.solver=dopri5"
        )
