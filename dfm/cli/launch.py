"""Start a command: compose its configuration with Hydra, import its module, run it, report mistakes in one line."""

import atexit
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from dfm.basics.errors import ProcessError, UserError
from dfm.basics.locations import typed_in
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.composition.config_dirs import SEARCH_PATH, check_config_dirs, config_dir, config_dirs
from dfm.cli.composition.help import help_text
from dfm.cli.composition.loader import use_loader
from dfm.cli.composition.stored_run import primary_config
from dfm.cli.job import job_of
from dfm.cli.jobs import directories
from dfm.cli.jobs.multirun import JobEnd, closing, job_end
from dfm.cli.settings import COMMANDS
from dfm.cli.surroundings.endings import one_line_ends
from dfm.cli.words.hydra_errors import explain
from dfm.cli.words.own_code import find_own_code, rewritten
from dfm.runs.directory import is_run, write_overrides

GRACE = 3.0  # seconds


def launch(command: str) -> None:
    """Run a command on ``sys.argv``: one job, or those of a multirun.

    A user's mistake ends with one line on stderr and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback.
    """
    sys.argv[1:] = rewritten(sys.argv[1:])
    _enter_world(command)
    show_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    jobs: list[str] = []

    def run_and_report(cfg: DictConfig) -> JobEnd | None:
        jobs.append(command)
        if HydraConfig.get().mode == RunMode.MULTIRUN and world().size == 1:
            return job_end(lambda: run_job(command, cfg), command, show_all)
        try:
            code = run_job(command, cfg)
        except UserError as error:
            if show_all:
                raise
            stop(error)
        if code:
            raise SystemExit(code)
        return None

    directories.register_resolvers()
    use_loader()
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print_help(command, show_all)
        return
    try:
        check_config_dirs(config_dirs())
        name = primary_config(command)
    except UserError as error:
        stop(error)
    start = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(run_and_report)
    try:
        with _raising(), one_line_ends(), closing():
            start()
    except SystemExit as end:
        if not isinstance(end.code, UserError):
            raise
        if show_all:
            raise end.code from None
        stop(end.code)
    except UserError as error:
        if show_all:
            raise
        stop(error)
    except Exception as error:
        message = explain(error, command)
        if message is None and not jobs:  # Hydra cannot read this command line
            message = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())[:200]}; try dfm {command} --help"
        if show_all or message is None:
            raise
        stop(UserError(message))


def print_help(command: str, show_all: bool) -> None:
    """Print the help of a command, with the groups and keys that the rest of the command line chooses."""
    own, *others = config_dirs()
    try:
        primary = primary_config(command)
    except UserError as error:
        stop(error)
    overrides = [w for w, before in zip(sys.argv[1:], sys.argv, strict=False) if is_override(w, before)]
    if any(word in ("-m", "--multirun") for word in sys.argv[1:]):
        overrides = [
            word for word in overrides if "," not in word or "[" in word
        ]  # a key of the sweep has several values
    about = COMMANDS[command]
    try:
        text = help_text(
            command, overrides, [own, *others], summary=about.summary, example=about.example, primary=primary
        )
        print(text)
    except UserError as error:
        stop(error)
    except Exception as error:
        message = explain(error, command)
        if show_all or message is None:
            raise
        stop(UserError(message))


def is_override(word: str, before: str) -> bool:
    """Whether a word of the command line sets a key or chooses an option. ``hydra.searchpath`` does not count."""
    return "=" in word and word[0] != "-" and before not in ("-cd", "--config-dir") and not word.startswith(SEARCH_PATH)


def run_job(command: str, cfg: DictConfig) -> int:
    """Run one job of a command in its directory, which nobody else uses meanwhile; return the exit code.

    The directory of a training run keeps the overrides with which the run was started.

    Raises:
        UserError: a mistake of the user.
        SystemExit: a signal came.

    If nothing was computed yet, either leaves the directory as it was.
    """
    here = Path(HydraConfig.get().runtime.cwd)  # the job may work in a directory of its own
    smaller = f"a smaller {' or '.join(COMMANDS[command].memory)}"
    with typed_in(here), directories.claimed(cfg) if world().first else nullcontext() as claim, one_line_ends(smaller):
        job = job_of(command, cfg)
        find_own_code(job.trusted)
        if job.world.first and not is_run(job.directory):
            write_overrides(job.directory, job.overrides)
        code: int = importlib.import_module(f"dfm.cli.commands.{COMMANDS[command].module}").run(job) or 0
        if code and claim is not None and not claim.has_results():  # a signal came before any result
            raise SystemExit(code)
        console.result(f"run directory: {job.directory}")
        return code


def stop(error: Exception) -> NoReturn:
    """Report an error in one line and exit with code 1.

    Under torchrun, the first process reports an error that all processes share, and the others are ended. A process
    that still runs after ``GRACE`` seconds reports the error as its own.

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
    """Let only the first process of torchrun make the run directory. The others leave no files."""
    members = world()
    if members.size > 1 and not COMMANDS[command].shared:
        if members.first:
            stop(UserError(f"dfm {command} runs in one process; allowed: start it without torchrun"))
        raise SystemExit(1)
    if not members.first:
        console.mute()
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        sys.argv += [
            "hydra.output_subdir=null",
            "hydra/job_logging=none",
            "hydra.run.dir=.",
            f"hydra.sweep.dir={scratch}",
        ]


@contextmanager
def _raising() -> Iterator[None]:
    """Make Hydra raise its errors, so that we can report them in one line. By itself it prints many lines and exits."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
