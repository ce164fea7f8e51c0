"""Start a command: compose its configuration with Hydra, import its module, run it, and say mistakes in one line."""

import atexit
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import ProcessError, UserError
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.config_dirs import SEARCH_PATH, config_dir, config_dirs
from dfm.cli.help import help_text
from dfm.cli.hydra_errors import explain
from dfm.cli.job import job_of
from dfm.cli.settings import COMMANDS
from dfm.runs.directory import is_run, write_overrides

GRACE = 3.0  # seconds


def launch(command: str) -> None:
    """Run a command on ``sys.argv``: one job, or those of a multirun.

    A user's mistake ends with one line on stderr and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback.
    """
    _enter_world(command)
    show_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    composed: list[bool] = []

    def guarded(cfg: DictConfig) -> None:
        composed.append(True)
        try:
            run_job(command, cfg)
        except UserError as error:
            if show_all:
                raise
            stop(error)

    _register_resolvers()
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print_help(command, show_all)
        return
    start = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(guarded)
    try:
        with _raising():
            start()
    except KeyboardInterrupt:
        console.error("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        message = explain(error, command)
        if message is None and not composed:  # what Hydra says of a line that it cannot make sense of
            message = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())[:200]}; try dfm {command} --help"
        if show_all or message is None:
            raise
        stop(UserError(message))


def print_help(command: str, show_all: bool) -> None:
    """Print the help of a command, with the groups and keys that the rest of the line chooses."""
    own, *others = config_dirs()
    overrides = [w for w, before in zip(sys.argv[1:], sys.argv, strict=False) if is_override(w, before)]
    if any(word in ("-m", "--multirun") for word in sys.argv[1:]):
        overrides = [word for word in overrides if "," not in word or "[" in word]  # a swept key has no one value
    what = COMMANDS[command]
    try:
        print(help_text(command, overrides, [own, *others], summary=what.summary, example=what.example))
    except UserError as error:
        stop(error)
    except Exception as error:
        message = explain(error, command)
        if show_all or message is None:
            raise
        stop(UserError(message))


def is_override(word: str, before: str) -> bool:
    """Whether a word of the command line sets a key or chooses an option, but for further directories of options."""
    return "=" in word and word[0] != "-" and before not in ("-cd", "--config-dir") and not word.startswith(SEARCH_PATH)


def run_job(command: str, cfg: DictConfig) -> None:
    """Run one job of a command.

    The directory of a training run keeps the overrides that the run was started with.

    Raises:
        SystemExit: the command ended with another exit code than 0.
    """
    job = job_of(command, cfg)
    if len(job.trusted) > 1 and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the user's own package may lie in the working directory
    if job.world.first and not is_run(job.directory):
        write_overrides(job.directory, job.overrides)
    code = importlib.import_module(f"dfm.cli.commands.{COMMANDS[command].module}").run(job)
    console.result(f"run directory: {job.directory}")
    if code:
        raise SystemExit(code)


def stop(error: Exception) -> None:
    """Report an error in one line and exit with code 1.

    Under torchrun the first process reports errors that all processes share. After ``GRACE`` seconds any other process
    takes an error to be its own.

    Raises:
        SystemExit: always.
    """
    members = world()
    if not members.first and not isinstance(error, ProcessError):
        time.sleep(GRACE)
        error = ProcessError(f"process {members.rank}: {error}")
    console.error(str(error))
    raise SystemExit(1)


def _enter_world(command: str) -> None:
    """Let the first process of torchrun make the run directory; the others leave nothing behind."""
    members = world()
    if members.size > 1 and not COMMANDS[command].shared:
        if members.first:
            stop(UserError(f"dfm {command} does not share its work over processes; allowed: start it without torchrun"))
        raise SystemExit(1)
    if not members.first:
        console.mute()
        unseen = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, unseen, ignore_errors=True)
        sys.argv += [
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra.run.dir=.",
            f"hydra.sweep.dir={unseen}",
        ]


@contextlib.contextmanager
def _raising() -> Iterator[None]:
    """Hydra prints several lines for an error and exits; with this variable it raises, and we say it in one line."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _register_resolvers() -> None:
    # A resumed run goes on in its own directory; any other, and a resume= that names no run, gets a fresh one.
    OmegaConf.register_new_resolver(
        "dfm.run_dir",
        lambda resume, fresh: str(Path(resume)) if resume and is_run(Path(resume)) else fresh,
        replace=True,
    )
