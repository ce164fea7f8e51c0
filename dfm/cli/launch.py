"""From YAML to objects: composing a command's configuration with Hydra, building what its ``_target_`` nodes name."""

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import ProcessError, UserError
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.command_line import config_dir
from dfm.cli.hydra_errors import explain
from dfm.runs.directory import is_run

GRACE = 3.0  # seconds


def launch(name: str, job: Callable[[DictConfig], None], shared: bool = False) -> None:
    """Run a command: compose ``configs/<name>.yaml`` with the command line's overrides and call ``job`` (or each job).

    A user's mistake ends with one line on stderr and exit code 1; HYDRA_FULL_ERROR=1 shows the traceback.

    Args:
        shared: whether the command divides its work over the processes of torchrun.
    """
    _enter_team(name, shared)
    show_all = os.environ.get("HYDRA_FULL_ERROR") == "1"

    composed: list[bool] = []

    def guarded(cfg: DictConfig) -> None:
        composed.append(True)
        try:
            job(cfg)
        except UserError as error:
            if show_all:
                raise
            _stop(error)

    _register_resolvers()
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(guarded)
    try:
        with _raising():
            command()
    except KeyboardInterrupt:
        console.error("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        message = explain(error, name, config_dir())
        if message is None and not composed:  # what Hydra says of a line that it cannot make sense of
            message = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())[:200]}; try dfm {name} --help"
        if show_all or message is None:
            raise
        _stop(UserError(message))


def _enter_team(name: str, shared: bool) -> None:
    """Of torchrun's processes the first makes the run directory; the others leave nothing behind."""
    members = world()
    if members.size > 1 and not shared:
        if members.first:
            _stop(UserError(f"dfm {name} does not share its work over processes; allowed: start it without torchrun"))
        raise SystemExit(1)
    if not members.first:
        console.mute()
        unseen = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, unseen, ignore_errors=True)
        sys.argv += [
            "hydra.output_subdir=null", "hydra/job_logging=none", "hydra.run.dir=.", f"hydra.sweep.dir={unseen}",
        ]  # fmt: skip


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


def _stop(error: Exception) -> None:
    members = world()
    if not members.first and not isinstance(error, ProcessError):
        # what all processes meet is told by the first, and torchrun then ends the others; this may be met here alone
        time.sleep(GRACE)
        error = ProcessError(f"process {members.rank}: {error}")
    console.error(str(error))
    raise SystemExit(1)


def _register_resolvers() -> None:
    # A resumed run goes on in its own directory; any other, and a resume= that names no run, gets a fresh one.
    OmegaConf.register_new_resolver(
        "dfm.run_dir",
        lambda resume, fresh: str(Path(resume)) if resume and is_run(Path(resume)) else fresh,
        replace=True,
    )
