"""``dfm train``: compose a run, train it, and leave checkpoints, pictures, metrics and a likelihood behind."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from dfm import console
from dfm.config import is_run, launch, overrides, plain, run_directory
from dfm.errors import UserError

if TYPE_CHECKING:
    from dfm.commands.run import Run


def main() -> None:
    """The command."""
    launch("train", job)


def job(cfg: DictConfig) -> None:
    """One training run, fresh or resumed."""
    directory = run_directory()
    if cfg.resume:
        cfg = resumed(Path(cfg.resume), overrides())
    config = plain(cfg)
    from dfm.commands.run import Run

    run = Run(config, directory, resume=bool(config["resume"]))
    try:
        train(run)
    finally:
        run.close()
    run.examine()
    console.say(f"run directory: {directory}")


def resumed(directory: Path, given: list[str]) -> DictConfig:
    """The configuration of the run in ``directory``, with the few keys that may change on the way.

    Raises:
        UserError: there is no run, or another key was given.
    """
    if not is_run(directory):
        raise UserError(f"resume={directory}: no config.yaml there; allowed: the directory of a training run")
    cfg = OmegaConf.load(directory / "config.yaml")
    assert isinstance(cfg, DictConfig)
    changes = [text for text in given if not text.startswith("resume=")]
    for text in changes:
        key = text.partition("=")[0]
        if key not in CHANGEABLE:
            raise UserError(
                f"'{text}' with resume=: the run keeps its own configuration; allowed: {', '.join(CHANGEABLE)}"
            )
    merged = OmegaConf.merge(cfg, OmegaConf.from_dotlist(changes), {"resume": str(directory)})
    assert isinstance(merged, DictConfig)
    return merged


CHANGEABLE = (
    "trainer.max_steps",
    "trainer.max_minutes",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.sample_every",
    "trainer.validate_every",
    "trainer.log_every",
    "trainer.device",
    "trainer.num_workers",
    "nll.n",
)


def train(run: "Run") -> None:
    """Take the steps; report, validate, draw and save when each is due."""
    config, trainer = run.trainer.config, run.trainer
    fields = "loss {task.fields[loss]}  {task.fields[speed]} images/s"
    with console.bar(fields) as bar:
        task = bar.add_task("train", total=config.max_steps, completed=trainer.step, loss="-", speed="-")
        if trainer.step == 0:
            run.draw()
        for report in trainer.steps():
            last = trainer.progress >= 1
            run.tell(trainer.objective.news())
            if last or report.step % config.log_every == 0:
                line = run.log_step(report)
                bar.update(task, loss=f"{line['loss']:.4f}", speed=f"{line['images_per_second']:.0f}")
            bar.update(task, completed=report.step)
            if due(report.step, config.validate_every, last):
                run.validate()
            if due(report.step, config.sample_every, last):
                run.draw()
            if last:
                run.tell(trainer.objective.closing(trainer.averaged))
            if due(report.step, config.checkpoint_every, last):
                run.save()
    if config.max_steps == 0:
        run.save()


def due(step: int, every: int, last: bool) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens now."""
    return last or (every > 0 and step % every == 0)
