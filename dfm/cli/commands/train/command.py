"""``dfm train``: train a model, and write checkpoints, pictures, metrics and a likelihood."""

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
    """Train a fresh or a resumed run; return the exit code."""
    training = TrainingRun(prepare(job))
    first = training.trainer.step
    with watch_signals() as interruption:
        try:
            signal = train(training, interruption)
        except UserError as error:
            # The weights are still those from before the error. If they are sharded, saving needs all processes, and
            # only GivenUpError is raised in all of them.
            if isinstance(error, GivenUpError) or not training.trainer.parallel.is_sharded:
                training.save_if_reported()
            raise
        finally:
            training.close()
    if signal:
        step, directory = training.trainer.step, training.directory
        console.say(f"{signal.name}: stopped after step {step}; to go on, try dfm train resume={directory}")
        return exit_code(signal)
    if training.trainer.step == first and is_done(training):
        console.say(f"this run is done already, after {first} steps")
    else:
        write_final_report(training)
    return 0


def prepare(job: Job) -> Job:
    """Return the job with the configuration to train with: a resumed run's own, and batches split over processes."""
    directory = Path(job.world.all_gather(str(job.directory))[0])
    config = job.config
    if job.settings.resume == "auto":
        config = auto_config(directory, config)
    elif job.settings.resume:
        config = resumed_config(Path(job.settings.resume), config)
    return job.with_config(share_batches(config, job.world), directory)


def train(run: TrainingRun, interruption: Interruption) -> Signals | None:
    """Take the training steps. Log, validate, draw and save when it is due. After a signal to stop, save and return.

    Returns:
        The signal that asked a process to stop, or None.
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
            # a signal may reach one process a step later than another, and no process may go on alone
            signal = agree(run.job.world, interruption)
            if is_due(report.step, config.checkpoint_every, last) or signal:
                run.save()
            if signal:
                break
    if config.max_steps == 0:
        run.save()
    return signal or agree(run.job.world, interruption)


def agree(world: World, interruption: Interruption) -> Signals | None:
    """Return the signal that asked any of the processes to stop, or None. All processes get the same answer."""
    number = int(world.all_max(interruption.signal or 0))
    return Signals(number) if number else None


def share_batches(config: dict[str, Any], world: World) -> dict[str, Any]:
    """Return the configuration with one part of each batch per process, unless ``trainer.accumulate`` is set.

    Raises:
        UserError: a batch cannot be split into equal parts, one per process.
    """
    trainer, size = config["trainer"], world.size
    if size == 1 or trainer["accumulate"] != 1:
        return config
    if trainer["batch_size"] % size:
        raise UserError(
            f"trainer.batch_size={trainer['batch_size']} for {size} processes, which share each batch in equal parts; "
            f"allowed: multiples of {size}; try trainer.batch_size={size * max(1, trainer['batch_size'] // size)}"
        )
    return {**config, "trainer": {**trainer, "accumulate": size}}


def is_due(step: int, every: int, last: bool) -> bool:
    """Whether something is due at this step: every ``every`` steps (never if 0), and at the last one."""
    return last or (every > 0 and step % every == 0)
