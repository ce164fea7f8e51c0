"""``dfm train``: compose a run, train it, and leave checkpoints, pictures, metrics and a likelihood behind."""

from pathlib import Path
from signal import Signals
from typing import Any

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.cli import console
from dfm.cli.commands.train.final_report import is_done, write_final_report
from dfm.cli.commands.train.resume import auto_config, resumed_config
from dfm.cli.commands.train.signals import Interruption, exit_code, watch_signals
from dfm.cli.commands.train.training_run import TrainingRun
from dfm.cli.job import Job
from dfm.training.step_failures import GivenUpError


def run(job: Job) -> int:
    """Train: a fresh run, or one that goes on; return the exit code."""
    training = TrainingRun(prepare(job))
    first = training.trainer.step
    with watch_signals() as asked:
        try:
            signal = train(training, asked)
        except UserError as error:
            # the weights are those from before what went wrong; shares of them come together only if all meet it
            if isinstance(error, GivenUpError) or not training.trainer.parallel.is_sharded:
                training.save_if_reported()
            raise
        finally:
            training.close()
    if signal:
        console.say(
            f"{signal.name}: stopped after step {training.trainer.step}; dfm train resume={training.directory} goes on"
        )
        return exit_code(signal)
    if training.trainer.step == first and is_done(training):
        console.say(f"this run was done already, after {first} steps")
    else:
        write_final_report(training)
    return 0


def prepare(job: Job) -> Job:
    """Return the job with the configuration of the run that it goes on with, shared out among the processes."""
    directory = Path(job.world.all_gather(str(job.directory))[0])
    config = job.config
    if job.settings.resume == "auto":
        config = auto_config(directory, config)
    elif job.settings.resume:
        config = resumed_config(Path(job.settings.resume), config)
    return job.with_config(share_batches(config, job.world), directory)


def train(run: TrainingRun, asked: Interruption) -> Signals | None:
    """Take the steps; report, validate, draw and save when each is due; if asked to stop, save after the step.

    Returns:
        The signal that asked any of the processes to stop.
    """
    config, trainer = run.trainer.config, run.trainer
    fields = "loss {task.fields[loss]}  {task.fields[speed]} images/s"
    signal: Signals | None = None
    with console.bar(fields) as bar:
        task = bar.add_task("train", total=config.max_steps, completed=trainer.step, loss="-", speed="-")
        if trainer.step == 0:
            run.draw()
        for report in trainer.steps():
            last = trainer.progress >= 1
            run.log_measurements(dict(report.measurements))
            if report.skipped:
                run.log_skipped(report)
            if last or report.step % config.log_every == 0:
                line = run.log_step(report)
                bar.update(task, loss=f"{line['loss']:.4f}", speed=f"{line['images_per_second']:.0f}")
            bar.update(task, completed=report.step)
            if is_due(report.step, config.validate_every, last):
                run.validate()
            if is_due(report.step, config.sample_every, last):
                run.draw()
            if last:
                run.log_measurements(trainer.objective.rounds.finish(trainer.averaged()))
            run.reported = report.step
            # one process may be asked a step later than another, and none may go on alone
            signal = agree(run.job.world, asked)
            if is_due(report.step, config.checkpoint_every, last) or signal:
                run.save()
            if signal:
                break
    if config.max_steps == 0:
        run.save()
    return signal or agree(run.job.world, asked)


def agree(world: World, asked: Interruption) -> Signals | None:
    """Return the signal that any of the processes was asked to stop by; the same in all."""
    number = int(world.all_max(asked.signal or 0))
    return Signals(number) if number else None


def share_batches(config: dict[str, Any], world: World) -> dict[str, Any]:
    """Return the configuration with a part of each batch for every process, unless it says how many parts there are."""
    if world.size > 1 and config["trainer"]["accumulate"] == 1:
        return {**config, "trainer": {**config["trainer"], "accumulate": world.size}}
    return config


def is_due(step: int, every: int, last: bool) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens now."""
    return last or (every > 0 and step % every == 0)
