"""``dfm check``: is it the sampler or the network?"""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dfm.basics.errors import UserError, unknown
from dfm.cli import console
from dfm.cli.command_line import options, overrides, plain, run_directory
from dfm.cli.commands.check.on_known_law import on_oracle
from dfm.cli.launch import launch
from dfm.cli.settings import CheckSettings
from dfm.runs.build import settings

if TYPE_CHECKING:
    pass


def main() -> None:
    """The command."""
    launch("check", job)


def job(cfg: DictConfig) -> None:
    """Check a sampler on the oracle, or sweep samplers on a checkpoint."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, CheckSettings)
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.sampling.draw import check_count

    check_count(wanted.n, wanted.batch_size)
    if not wanted.steps or min(wanted.steps) < 1:
        raise UserError(f"steps={list(wanted.steps)}; allowed: numbers of at least 1, e.g. steps=[8,16,32]")
    for name in wanted.samplers or ():
        if name not in options("sampler"):
            raise unknown("sampler", name, options("sampler"))
    write_overrides(directory, overrides())
    trust = assemble.trusted(config)
    if wanted.ckpt is None:
        on_oracle(config, wanted, directory, trust)
    else:
        from dfm.cli.commands.check.on_checkpoint import on_checkpoint

        on_checkpoint(config, wanted, directory, trust)
    console.result(f"run directory: {directory}")
