"""A job: one command with one configuration. The function ``run`` of every command takes a job."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm.basics.processes import World, world
from dfm.cli.composition.command_line import choices, overrides, plain, run_directory, variant
from dfm.cli.settings import COMMANDS
from dfm.cli.words.own_code import trusted
from dfm.runs.build import settings

if TYPE_CHECKING:
    import torch

    from dfm.runs.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Job:
    """The input of a command.

    Args:
        command: the name of the command.
        config: the resolved configuration, in plain containers.
        settings: the command's own keys, checked (a class of ``dfm.cli.settings``).
        directory: the directory for its files.
        overrides: the overrides of the command line.
        trusted: the packages whose classes the configuration may name: dfm, and those that ``trust`` adds.
        world: the processes that share the work.
    """

    command: str
    config: dict[str, Any]
    settings: Any
    directory: Path
    overrides: Sequence[str]
    trusted: Sequence[str]
    world: World

    @cached_property
    def parts(self) -> "Parts":
        """The parts that the configuration names."""
        from dfm.runs.parts import Parts  # torch is not needed before

        return Parts(self.config, self.trusted)

    @cached_property
    def device(self) -> "torch.device":
        """The device that ``device=`` names."""
        from dfm.basics.devices import resolve_device

        return resolve_device(self.settings.device, self.world.local)

    def with_config(self, config: dict[str, Any], directory: Path) -> "Job":
        """Return the same job with another configuration, in another directory."""
        checked: Any = settings(config, COMMANDS[self.command].settings)
        return replace(
            self, config=config, settings=checked, trusted=trusted(config, self.overrides), directory=directory
        )

    def choice(self, group: str) -> str:
        """Return the chosen option of a group; in a stored run, which chose long ago, the name of the class."""
        option = choices().get(group)
        return option or str(self.config[group]["_target_"]).rpartition(".")[2]

    @property
    def choices(self) -> dict[str, str | None]:
        """The chosen option of each group."""
        return choices()

    def names(self, *groups: str) -> bool:
        """Whether the command line chooses an option of one of these groups."""
        return any(text.partition("=")[0] in groups for text in self.overrides)

    def variant(self, *changes: str) -> "Parts":
        """Return the parts of the same command line with other choices on top, e.g. ``sampler=heun``."""
        from dfm.runs.parts import Parts

        return Parts(variant(self.command, *changes), self.trusted)


def job_of(command: str, cfg: DictConfig) -> Job:
    """Return the job that Hydra composed.

    Raises:
        UserError: a value has another type, or a key refers to a missing key.
    """
    config = plain(cfg)
    return Job(
        command=command,
        config=config,
        settings=settings(config, COMMANDS[command].settings),
        directory=run_directory(),
        overrides=overrides(),
        trusted=trusted(config, overrides()),
        world=world(),
    )
