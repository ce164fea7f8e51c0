"""``resume=``: go on where a run stopped, with its own configuration and the changes that leave it the same run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import UserError
from dfm.cli.command_line import overrides
from dfm.runs.directory import checkpoints, is_run
from dfm.runs.old_names import current_config

CHANGEABLE = (
    "trainer.max_steps",
    "trainer.max_minutes",
    "trainer.accumulate",
    "trainer.parallel",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.sample_every",
    "trainer.validate_every",
    "trainer.log_every",
    "trainer.max_skipped",
    "trainer.device",
    "trainer.num_workers",
    "trainer.compile",
    "trainer.channels_last",
    "trainer.activation_checkpointing",
    "nll.n",
    "nll.batch_size",
)
OWN = ("resume", "trust")  # of the command line, not of the run
Config = dict[str, Any]


def resumed_config(directory: Path, config: Config) -> Config:
    """Return the configuration of the run in ``directory`` with what the command line changes of it.

    Args:
        config: what the command line composed.

    Raises:
        UserError: there is no run, or a key was given that makes it another one.
    """
    if not is_run(directory):
        raise UserError(
            f"resume={directory}: no config.yaml there; allowed: the directory of a training run, or auto with "
            "hydra.run.dir=DIR"
        )
    groups = [text for text in overrides() if text.partition("=")[0].split("@")[0] in HydraConfig.get().runtime.choices]
    if groups:
        raise UserError(
            f"{groups[0]} with resume={directory}: the run keeps its own parts; allowed to change: "
            f"{', '.join(CHANGEABLE)}"
        )
    changes = find_changes(stored_in(directory), config, given_keys())
    return merge(directory, config, changes, f"resume={directory}: the run keeps its own configuration")


def auto_config(directory: Path, config: Config) -> Config:
    """Return the composed configuration for a fresh run, or that of the run that is in ``directory`` already.

    The whole command line is given again, as a cluster's requeue does, so what is composed must be what the run has.
    Keys that the run lacks, since an older dfm started it, stay away unless the command line names them.

    Raises:
        UserError: the directory is another one each time, or the configuration is not the run's.
    """
    about_hydra = HydraConfig.get().overrides.hydra
    if not any(text.split("=")[0] in ("hydra.run.dir", "hydra.sweep.dir") for text in about_hydra):
        raise UserError(
            "resume=auto: in which directory? allowed: hydra.run.dir=DIR beside it, or hydra.sweep.dir=DIR with -m"
        )
    if not (is_run(directory) and checkpoints(directory)):
        return {**config, "resume": None}
    stored = stored_in(directory)
    named = given_keys() & dict(leaves(config)).keys()
    changes = {**find_changes(stored, config, None), **find_changes(stored, config, named)}
    # what may change does so only where it is asked for: an older default is the run's own
    asked = {key: pair for key, pair in changes.items() if key not in CHANGEABLE or key in given_keys()}
    return merge(directory, config, asked, f"resume=auto: {directory} holds another run")


def stored_in(directory: Path) -> Config:
    """Read ``config.yaml`` of a run, with today's class paths."""
    stored = OmegaConf.load(directory / "config.yaml")
    if not isinstance(stored, DictConfig):
        raise UserError(f"{directory / 'config.yaml'}: not a configuration; allowed: what dfm train wrote")
    config: Config = current_config(OmegaConf.to_container(stored))
    return config


def given_keys() -> set[str]:
    """Return the keys and groups that the command line names."""
    return {text.partition("=")[0].lstrip("+~") for text in overrides()}


Change = tuple[Any, Any]


def find_changes(stored: Config, config: Config, given: set[str] | None) -> dict[str, Change]:
    """Return {dotted key: (what the run has, what is composed now)} where they differ.

    Args:
        given: look only at these keys and below them; None: at all that the run has.
    """
    before, now = dict(leaves(stored)), dict(leaves(config))
    changes: dict[str, Change] = {}
    for key in before if given is None else {**before, **now}:
        named = given is None or any(key == name or key.startswith(f"{name}.") for name in given)
        if named and key.split(".")[0] not in OWN and before.get(key) != now.get(key, before.get(key)):
            changes[key] = (before.get(key, "not there"), now.get(key))
    return changes


def leaves(node: Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of everything in plain containers that is no mapping."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def merge(directory: Path, config: Config, changes: dict[str, Change], problem: str) -> Config:
    """Return the stored configuration with the changes; the command line alone, not a file, says whom to trust.

    Raises:
        UserError: a change that makes it another run; the message starts with ``problem``.
    """
    refused = {key: pair for key, pair in changes.items() if key not in CHANGEABLE}
    if refused:
        shown = [f"{key} is {was}, given {new}" for key, (was, new) in list(refused.items())[:3]]
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise UserError(
            f"{problem}: {', '.join(shown)}{more}; allowed to change: {', '.join(CHANGEABLE)}; try another "
            "hydra.run.dir"
        )
    merged = stored_in(directory)
    for key, (_, new) in changes.items():
        *path, last = key.split(".")
        node = merged
        for name in path:
            node = node.setdefault(name, {})
        node[last] = new
    return {**merged, "resume": str(directory), "trust": config.get("trust")}
