"""``dfm train``: train a model, and write checkpoints, pictures, metrics and a likelihood."""

from pathlib import Path
from signal import Signals
from typing import Any

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.basics.processes import World
from dfm.cli import console, progress
from dfm.cli.commands.train.final_report import is_done, write_final_report
from dfm.cli.commands.train.pictures import Pictures, is_due
from dfm.cli.commands.train.resume import auto_config, resumed_config, with_absolute_paths, with_settled_init
from dfm.cli.commands.train.training_run import TrainingRun, way_on
from dfm.cli.composition.recipes import told
from dfm.cli.job import Job
from dfm.cli.surroundings.signals import Interruption, StoppedError, exit_code, watch_signals
from dfm.cli.words.printed_command import printed, setting
from dfm.runs.directory import checkpoints
from dfm.runs.pictures.training_examples import what_is_seen
from dfm.runs.places import check_sources, find_sources
from dfm.training.step_failures import GivenUpError


def run(job: Job) -> int:
    """Train a fresh or a resumed run; return the exit code."""
    with watch_signals() as interruption:
        doing = "reading the data and building the network"
        interruption.advice = lambda: way_to_begin(job.directory)
        try:
            with interruption.at_once():
                training = TrainingRun(prepare(job))
            interruption.advice = lambda: way_on(training.directory)
            first = training.trainer.step
            signal = train_and_close(training, interruption)
            if signal is None:
                training.refuse_if_not_saved()
                doing = "measuring the likelihood of held-out data"
                with interruption.at_once():
                    report(training, first)
                return 0
            console.say(f"{signal.name}: stopped after step {training.trainer.step}; {interruption.advice()}")
            training.refuse_if_not_saved()
        except StoppedError as stopped:
            signal = stopped.signal
            console.say(f"{signal.name}: stopped while {doing}; {interruption.advice()}")
    interruption.hand_on()
    return exit_code(signal)


def train_and_close(training: TrainingRun, interruption: Interruption) -> Signals | None:
    """Take the training steps and close the run's files; return the signal that asked to stop, or None."""
    first = training.trainer.step
    try:
        return train(training, interruption)
    except (UserError, OSError) as error:  # an OSError: the data cannot be read any more
        # The weights are still those from before the error. If they are sharded, saving needs all processes, and
        # only GivenUpError is raised in all of them. Without a new step there is nothing to save.
        in_all = isinstance(error, GivenUpError) or not training.trainer.parallel.is_sharded
        if in_all and training.trainer.step > first:
            training.save_if_reported()
        if isinstance(error, GivenUpError):
            raise GivenUpError(error.reason, begin_again(training)) from None
        raise
    finally:
        training.close()


def begin_again(training: TrainingRun) -> str:
    """Return how to begin a run again at a smaller rate, from its last weights if it can start from such."""
    directory, config = training.directory, training.trainer.config
    words = [setting("from", directory)]
    if checkpoints(directory) and not training.trainer.objective.needs_teacher:
        words.append(setting("init", directory))
    words.append(f"trainer.lr={config.lr / 10:g}")
    if config.precision != "fp32":
        words.append("trainer.precision=fp32")
    return f"to begin again at a tenth of the rate, try {printed('train', *words)}"


def report(training: TrainingRun, first: int) -> None:
    """Write the report at the end, unless it is there.

    Args:
        first: the step at which this process began.
    """
    if training.trainer.step == first and is_done(training):
        console.say(f"this run is done already, after {first} steps")
    else:
        write_final_report(training)


def way_to_begin(directory: Path) -> str:
    """Return how to go on after a stop before the first step of this process."""
    if checkpoints(directory):
        return way_on(directory)
    return "there is no checkpoint yet; to start again, try the same command"


def prepare(job: Job) -> Job:
    """Return the job with the configuration to train with: a resumed run's own, and batches split over processes."""
    directory = Path(job.world.all_gather(str(job.directory))[0])
    config = with_absolute_paths(job.config, job.trusted)
    if job.settings.resume == "auto":
        config = auto_config(directory, config, job.trusted)
    elif job.settings.resume:
        config = resumed_config(located(job.settings.resume), config, job.trusted)
    if config["resume"]:
        config = find_sources(config, job.trusted, directory)
        check_sources(config, job.trusted, directory)
    else:
        config = with_settled_init(config)
        if line := told(config, job.choices, job.overrides, job.trusted):
            console.say(line)
    return job.with_config(share_batches(config, job.world), directory)


def train(run: TrainingRun, interruption: Interruption) -> Signals | None:
    """Take the training steps. Log, validate, draw and save when it is due. After a signal to stop, save and return.

    Returns:
        The signal that asked a process to stop, or None.
    """
    config, trainer = run.trainer.config, run.trainer
    signal: Signals | None = None
    if run.recorder is not None:
        streams, dequantization = trainer.streams, trainer.dequantization
        seen = (trainer.batches, trainer.augmentation, dequantization, trainer.denoiser.spec)
        run.recorder.data(lambda: what_is_seen(*seen, streams=streams, decoder=run.decoder, device=run.device))
    with (
        progress.work() as shown,
        shown.task("train", config.max_steps, "steps", done=trainer.step) as bar,
    ):
        pictures = Pictures(run, interruption, shown)
        if trainer.progress < 1:
            pictures.start()
            pictures.draw_if_possible()
        for report in trainer.steps():
            last = trainer.progress >= 1
            run.log_measurements(dict(report.measurements))
            if report.skipped:
                run.log_skipped(report)
            if last or report.step % config.log_every == 0:
                line = run.log_step(report)
                bar.note(f"loss {line['loss']:.4f}  {line['images_per_second']:.0f} images/s")
            # trainer.max_minutes may end the run before max_steps
            bar.update(report.step, total=round(report.step / max(trainer.progress, 1e-9)))
            if is_due(report.step, config.validate_every, last):
                bar.note("validation")
                run.validate()
            if is_due(report.step, config.sample_every):
                pictures.due()
            if last:
                run.log_measurements(trainer.objective.rounds.finish(trainer.averaged()))
            else:
                pictures.draw_if_possible()
            run.reported = report.step
            # a signal may reach one process a step later than another, and no process may go on alone
            signal = agree(run.job.world, interruption)
            if is_due(report.step, config.checkpoint_every, last) or signal:
                with interruption.saving():
                    run.save()
            if signal:
                break
        if config.max_steps == 0:
            with interruption.saving():
                run.save()
        if trainer.progress >= 1 and not signal:
            pictures.draw_last()
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
