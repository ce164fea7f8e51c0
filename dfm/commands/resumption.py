"""``resume=``: going on where a run stopped, with its own configuration and the changes that leave it the same run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dfm.config import is_run, overrides, plain
from dfm.errors import UserError
from dfm.run_dir import checkpoints

CHANGEABLE = (
    "trainer.max_steps",
    "trainer.max_minutes",
    "trainer.accumulate",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.sample_every",
    "trainer.validate_every",
    "trainer.log_every",
    "trainer.max_skipped",
    "trainer.device",
    "trainer.num_workers",
    "nll.n",
    "nll.batch_size",
)
OWN = ("resume", "trust")  # of the command line, not of the run


def resumed(directory: Path, cfg: DictConfig) -> DictConfig:
    """The configuration of the run in ``directory`` with what the command line changes of it.

    Raises:
        UserError: there is no run, or a key was given that makes it another one.
    """
    if not is_run(directory):
        raise UserError(
            f"resume={directory}: no config.yaml there; allowed: the directory of a training run, or auto with "
            "hydra.run.dir=DIR"
        )
    given = {text.partition("=")[0].lstrip("+") for text in overrides()}
    stored = OmegaConf.load(directory / "config.yaml")
    assert isinstance(stored, DictConfig)
    asked = [f"{key}={value}" for key, value in leaves(plain(cfg)) if key in CHANGEABLE and key in given]
    refused = sorted(given - set(CHANGEABLE) - set(OWN))
    if refused:
        raise UserError(
            f"resume={directory}: {differences(stored, cfg, refused)}; the run keeps its own configuration; {ALLOWED}"
        )
    return merged(stored, asked, directory)


def started_or_continued(directory: Path, cfg: DictConfig) -> DictConfig:
    """The composed configuration for a fresh run, or that of the run that is in ``directory`` already.

    The whole command line is given again, as a cluster's requeue does, so what is composed must be what the run has.

    Raises:
        UserError: the directory is one of its own each time, or the configuration is not the run's.
    """
    named = HydraConfig.get().overrides.hydra
    if not any(text.split("=")[0] in ("hydra.run.dir", "hydra.sweep.dir") for text in named):
        raise UserError(
            "resume=auto: in which directory? allowed: hydra.run.dir=DIR beside it, or hydra.sweep.dir=DIR with -m"
        )
    if not (is_run(directory) and checkpoints(directory)):
        cfg.resume = None
        return cfg
    stored = OmegaConf.load(directory / "config.yaml")
    assert isinstance(stored, DictConfig)
    before, now = dict(leaves(plain(stored))), dict(leaves(plain(cfg)))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and key not in OWN]
    refused = [key for key in changed if key not in CHANGEABLE]
    if refused:
        raise UserError(f"resume=auto: {directory} holds another run: {differences(stored, cfg, refused)}; {ALLOWED}")
    return merged(stored, [f"{key}={now[key]}" for key in changed if key in now], directory)


ALLOWED = f"allowed to change: {', '.join(CHANGEABLE)}; try another hydra.run.dir"


def differences(stored: DictConfig, cfg: DictConfig, keys: list[str]) -> str:
    """Each key with what the run has and what was given, three at most."""
    before, now = dict(leaves(plain(stored))), dict(leaves(plain(cfg)))
    shown = [f"{key} is {before.get(key, 'not there')}, given {now.get(key, 'another choice')}" for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in plain containers that is no mapping."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def merged(stored: DictConfig, changes: list[str], directory: Path) -> DictConfig:
    """The stored configuration with the changes, which are KEY=VALUE."""
    found = OmegaConf.merge(stored, OmegaConf.from_dotlist(changes), {"resume": str(directory)})
    assert isinstance(found, DictConfig)
    return found
