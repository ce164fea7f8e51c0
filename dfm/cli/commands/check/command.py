"""``dfm check``: is it the sampler or the network?"""

from dfm.basics.errors import UserError, unknown
from dfm.cli.commands.check.on_checkpoint import check_model
from dfm.cli.commands.check.on_known_law import check_sampler
from dfm.cli.composition.config_dirs import options
from dfm.cli.job import Job
from dfm.cli.settings import CheckSettings
from dfm.sampling.draw import check_count


def run(job: Job) -> None:
    """Check a sampler on an exactly known law, or several samplers on a checkpoint."""
    wanted: CheckSettings = job.settings
    check_count(wanted.n, wanted.batch_size)
    if not wanted.steps or min(wanted.steps) < 1:
        raise UserError(f"steps={list(wanted.steps)}; allowed: numbers of at least 1, e.g. steps=[8,16,32]")
    for name in wanted.samplers or ():
        if name not in options("sampler"):
            raise unknown("sampler", name, options("sampler"))
    if wanted.ckpt is None:
        check_sampler(job)
    else:
        check_model(job)
