"""``resume=``: continue a run where it stopped, with its own configuration. Only a few keys may change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import overrides
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
    "nll.max_minutes",
)
NOT_OF_THE_RUN = ("resume", "trust")  # keys that belong to the command line
Config = dict[str, Any]


def resumed_config(directory: Path, config: Config) -> Config:
    """Return the configuration of the run in ``directory`` with the changes of the command line.

    Args:
        config: the configuration that the command line composed.

    Raises:
        UserError: there is no run, or the command line changes a key that must stay.
    """
    if not is_run(directory):
        raise UserError(
            f"resume={directory}: no config.yaml in it; allowed: the directory of a training run, or resume=auto with "
            "hydra.run.dir=DIR"
        )
    groups = [text for text in overrides() if text.partition("=")[0].split("@")[0] in HydraConfig.get().runtime.choices]
    if groups:
        raise UserError(
            f"{groups[0]} with resume={directory}: the run keeps its own parts; allowed changes: "
            f"{', '.join(CHANGEABLE)}"
        )
    changes = find_changes(read_config(directory), config, override_keys())
    return merge(directory, config, changes, f"resume={directory}: the run keeps its own configuration")


def auto_config(directory: Path, config: Config) -> Config:
    """Return the composed configuration for a fresh run, or the stored one if ``directory`` has a run already.

    A cluster's requeue repeats the whole command line, so the composed configuration must equal the stored one. A run
    of an older dfm may lack some keys; they are added only if the command line names them.

    Raises:
        UserError: the directory changes at every start, or the configuration is not the run's.
    """
    about_hydra = HydraConfig.get().overrides.hydra
    if not any(text.split("=")[0] in ("hydra.run.dir", "hydra.sweep.dir") for text in about_hydra):
        raise UserError(
            "resume=auto: without a directory; allowed: hydra.run.dir=DIR beside it, or hydra.sweep.dir=DIR with -m"
        )
    if not (is_run(directory) and checkpoints(directory)):
        return {**config, "resume": None}
    stored = read_config(directory)
    keys = override_keys() & dict(leaves(config)).keys()
    changes = {**find_changes(stored, config, None), **find_changes(stored, config, keys)}
    # a key that may change does so only if the user names it; a default that is new since then is no change
    wanted = {key: pair for key, pair in changes.items() if key not in CHANGEABLE or key in override_keys()}
    return merge(directory, config, wanted, f"resume=auto: {directory} holds another run")


def read_config(directory: Path) -> Config:
    """Read ``config.yaml`` of a run, with today's class paths."""
    stored = OmegaConf.load(directory / "config.yaml")
    if not isinstance(stored, DictConfig):
        raise UserError(f"{directory / 'config.yaml'}: not a configuration; allowed: a file that 'dfm train' wrote")
    config: Config = current_config(OmegaConf.to_container(stored))
    return config


def override_keys() -> set[str]:
    """Return the keys and groups that the command line names."""
    return {text.partition("=")[0].lstrip("+~") for text in overrides()}


Change = tuple[Any, Any]


def find_changes(stored: Config, config: Config, keys: set[str] | None) -> dict[str, Change]:
    """Return {dotted key: (the run's value, the composed value)} for the keys that differ.

    Args:
        keys: the keys to compare, with all keys below them; None for all keys of the run.
    """
    before, now = dict(leaves(stored)), dict(leaves(config))
    changes: dict[str, Change] = {}
    for key in before if keys is None else {**before, **now}:
        wanted = keys is None or any(key == name or key.startswith(f"{name}.") for name in keys)
        if wanted and key.split(".")[0] not in NOT_OF_THE_RUN and before.get(key) != now.get(key, before.get(key)):
            changes[key] = (before.get(key, "not there"), now.get(key))
    return changes


def leaves(node: Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value in plain containers that is not a mapping."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def merge(directory: Path, config: Config, changes: dict[str, Change], problem: str) -> Config:
    """Return the stored configuration with the changes. The value of ``trust`` comes from the command line only.

    Raises:
        UserError: a key changes that must stay. The message starts with ``problem``.
    """
    forbidden = {key: pair for key, pair in changes.items() if key not in CHANGEABLE}
    if forbidden:
        pairs = [f"{key} is {old}, given {new}" for key, (old, new) in list(forbidden.items())[:3]]
        more = f" and {len(forbidden) - 3} more" if len(forbidden) > 3 else ""
        raise UserError(
            f"{problem}: {', '.join(pairs)}{more}; allowed changes: {', '.join(CHANGEABLE)}; try another "
            "hydra.run.dir=DIR"
        )
    result = read_config(directory)
    for key, (_, new) in changes.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            node = node.setdefault(name, {})
        node[last] = new
    return {**result, "resume": str(directory), "trust": config.get("trust")}
