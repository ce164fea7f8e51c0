"""``dfm train``: compose a run, train it, and leave checkpoints, pictures, metrics and a likelihood behind."""

from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm.basics.errors import UserError
from dfm.basics.processes import World, world
from dfm.cli import console
from dfm.cli.command_line import plain, run_directory
from dfm.cli.commands.train.signals import Interruption, exit_code, watch_signals
from dfm.cli.launch import launch

if TYPE_CHECKING:
    from dfm.cli.commands.train.training_run import Run


def main() -> None:
    """The command."""
    launch("train", job, shared=True)


def job(cfg: DictConfig) -> None:
    """One training run, fresh or resumed."""
    from dfm.cli.commands.train.resume import auto_config, resumed_config

    members = world()
    directory = Path(members.all_gather(str(run_directory()))[0])
    if cfg.resume == "auto":
        cfg = auto_config(directory, cfg)
    elif cfg.resume:
        cfg = resumed_config(Path(cfg.resume), cfg)
    config = shared_out(plain(cfg), members)
    from dfm.cli.commands.train.final_report import is_done, write_final_report
    from dfm.cli.commands.train.training_run import Run
    from dfm.training.step_failures import GivenUpError

    run = Run(config, directory, bool(config["resume"]), members)
    began = run.trainer.step
    with watch_signals() as asked:
        try:
            stop = train(run, asked)
        except UserError as error:
            # the weights are those from before what went wrong; shares of them come together only if all meet it
            if isinstance(error, GivenUpError) or not run.trainer.parallel.is_sharded:
                run.save_if_reported()
            raise
        finally:
            run.close()
    if stop:
        console.say(f"{stop.name}: stopped after step {run.trainer.step}; dfm train resume={directory} goes on")
        console.result(f"run directory: {directory}")
        raise SystemExit(exit_code(stop))
    if run.trainer.step == began and is_done(run):
        console.say(f"this run was done already, after {began} steps")
    else:
        write_final_report(run)
    console.result(f"run directory: {directory}")


def train(run: "Run", asked: Interruption) -> Signals | None:
    """Take the steps; report, validate, draw and save when each is due; if asked to stop, save after the step.

    Returns:
        The signal that asked any of the processes to stop.
    """
    config, trainer = run.trainer.config, run.trainer
    fields = "loss {task.fields[loss]}  {task.fields[speed]} images/s"
    stop: Signals | None = None
    with console.bar(fields) as bar:
        task = bar.add_task("train", total=config.max_steps, completed=trainer.step, loss="-", speed="-")
        if trainer.step == 0:
            run.draw()
        for report in trainer.steps():
            last = trainer.progress >= 1
            run.tell(trainer.objective.measurements())
            if report.trouble:
                run.log_trouble(report)
            if last or report.step % config.log_every == 0:
                line = run.log_step(report)
                bar.update(task, loss=f"{line['loss']:.4f}", speed=f"{line['images_per_second']:.0f}")
            bar.update(task, completed=report.step)
            if due(report.step, config.validate_every, last):
                run.validate()
            if due(report.step, config.sample_every, last):
                run.draw()
            if last:
                run.tell(trainer.objective.final_measurements(trainer.averaged()))
            run.reported = report.step
            # one process may be asked a step later than another, and none may go on alone
            stop = agreed(run.world, asked)
            if due(report.step, config.checkpoint_every, last) or stop:
                run.save()
            if stop:
                break
    if config.max_steps == 0:
        run.save()
    return stop or agreed(run.world, asked)


def agreed(members: World, asked: Interruption) -> Signals | None:
    """The signal that any of the processes was asked to stop by; the same in all."""
    number = int(members.all_max(asked.signal or 0))
    return Signals(number) if number else None


def shared_out(config: dict[str, Any], members: World) -> dict[str, Any]:
    """The configuration with a part of each batch for every process, unless it says how many parts there are."""
    if members.size > 1 and config["trainer"]["accumulate"] == 1:
        return {**config, "trainer": {**config["trainer"], "accumulate": members.size}}
    return config


def due(step: int, every: int, last: bool) -> bool:
    """Whether something that happens every so many steps (0: only at the end) happens now."""
    return last or (every > 0 and step % every == 0)
