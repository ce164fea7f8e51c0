"""What dfm does before, between and after the jobs of Hydra: claims, records of jobs, and the table of a multirun."""

import gc
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError
from dfm.basics.files import read_text, write_json
from dfm.basics.processes import world
from dfm.cli import console
from dfm.cli.jobs import directories
from dfm.cli.jobs.multirun_table import JobRecord, print_table
from dfm.cli.words.hydra_errors import explain
from dfm.runs.claim import dated_parents, missing, remove_empty
from dfm.runs.directory import OVERRIDES

SWEEP_FILE = "multirun.yaml"  # Hydra writes it into hydra.sweep.dir

# A job may run in another process, which learns these resolvers when it reads the callback below.
directories.register_resolvers()


@dataclass(frozen=True)
class JobEnd:
    """How a job of a multirun ended: its exit code, and its error in one line if it failed."""

    code: int
    error: str | None = None


def job_end(work: Callable[[], int], command: str, show_all: bool) -> JobEnd:
    """Do the work of one job of a multirun, and return how it ended. The other jobs run, whatever this one raises.

    Args:
        work: runs the job and returns its exit code.
        show_all: whether to print the traceback of any error.
    """
    try:
        return JobEnd(work())
    except SystemExit as end:
        if isinstance(end.code, int) and end.code > 128:  # a signal
            return JobEnd(end.code)
        message = f"it ended with exit({end.code!r})"  # in code of the user's own, or of a library
        console.log.warning(f"this job failed: {message}")
    except Exception as error:
        users = isinstance(error, UserError)
        text = " ".join(str(error).split())[:500]
        message = text if users else explain(error, command) or f"{type(error).__name__}: {text}".removesuffix(": ")
        console.log.warning(f"this job failed: {message}", exc_info=None if users else error)  # a bug: for the log file
        if show_all:
            traceback.print_exception(error)
    gc.collect()  # memory of the failed job, for the next one
    return JobEnd(1, message)


class Jobs(Callback):
    """The callback that Hydra calls before and after jobs.

    Args:
        sweep: a name of this multirun, which no other in the same directory has.
        varied: the keys that differ between its jobs. ``on_multirun_start`` finds them, for ``directories.job_dir``.
    """

    running: "Jobs | None" = None  # the multirun of this process

    def __init__(self, sweep: str, varied: Sequence[str] = ()) -> None:
        self.sweep, self.varied = sweep, varied
        self.unwritten: list[JobRecord] = []  # records that the disk has refused

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the directory of a single job before Hydra makes it.

        Raises:
            SystemExit: its code is the error. Hydra lets nothing else that a callback raises end the program.
        """
        if world().first:
            # an error of OmegaConf is left to Hydra, which meets it next and raises it
            with suppress(OmegaConfBaseException), _exit_on_mistake():
                directories.claim_run(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the directory of the multirun, note what is in it, and tell the jobs which keys differ between them.

        Raises:
            SystemExit: as ``on_run_start``.
        """
        # an error of Hydra or OmegaConf is left to Hydra, which meets it next and raises it
        with suppress(OmegaConfBaseException, HydraException), _exit_on_mistake():
            self.varied = varied = varied_keys(config)
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.overrides.hydra.append(f"hydra.callbacks.jobs.varied={json.dumps(varied)}")
            self.directory = Path(os.path.abspath(config.hydra.sweep.dir))
            self.records = directories.records_of(self.directory, self.sweep)
            self.made = missing(self.directory)
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                self.before = set(folders_below(self.directory))
                self.records.mkdir()
                self.earlier = set_aside(self.directory / SWEEP_FILE)
            except OSError as error:
                remove_empty([self.records, *self.made, *dated_parents(self.directory)])
                raise UserError(
                    f"{self.directory}: no multirun can write there ({error.strerror or error}); allowed: a directory "
                    "that can be made and written; try another hydra.sweep.dir=DIR"
                ) from None
            Jobs.running = self

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the record of a job of a multirun, in whichever process it ran.

        Raises:
            SystemExit: a signal ended the job, so it ends the multirun.
        """
        end = job_return._return_value
        if not isinstance(end, JobEnd):
            return
        record = JobRecord(
            number=int(config.hydra.job.num),
            overrides=list(config.hydra.overrides.task),
            directory=str(config.hydra.runtime.output_dir),
            error=f"stopped by signal {end.code - 128}" if end.code > 128 else end.error,
        )
        try:
            write_json(self.records / f"{record.number}.json", asdict(record))
        except OSError:  # Hydra would only warn, and a failed job would count as none
            self.unwritten.append(record)
        if end.code > 128:
            raise SystemExit(end.code)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table.

        Raises:
            SystemExit: a job failed, or there is no table. Its code is the error.
        """
        try:
            records = self.close()
        except Exception as error:  # Hydra would only warn, and a failed job would be a success
            raise SystemExit(UserError(f"{self.directory}: no table of its jobs ({error})")) from error
        failed = [record for record in records if record.error]
        if failed:
            others = "; the table has the others" if len(failed) > 1 else ""
            with _exit_on_mistake():
                raise UserError(f"{len(failed)} of {len(records)} jobs failed: {failed[0].error}{others}")

    def close(self) -> list[JobRecord]:
        """Print the table of the jobs that have ended, and remove what no job has used; return the records."""
        Jobs.running = None
        contents = [json.loads(read_text(path)) for path in self.records.glob("*.json")]
        found = [*(JobRecord(**content) for content in contents), *self.unwritten]
        records = sorted(found, key=lambda record: record.number)
        shutil.rmtree(self.records, ignore_errors=True)
        remove_empty(set(folders_below(self.directory)) - self.before)
        used = set(folders_below(self.directory)) - self.before or any(not record.error for record in records)
        self._keep_sweep_files(bool(used))
        remove_empty([*self.made, *dated_parents(self.directory)])
        if records:
            print_table(records, self.varied)
        if used:
            console.result(f"run directory: {self.directory}")
        return records

    def _keep_sweep_files(self, used: bool) -> None:
        """Keep this multirun's file beside that of an earlier one, if it differs and a job has done something."""
        file, earlier = self.directory / SWEEP_FILE, self.earlier
        if not used:
            file.unlink(missing_ok=True)
        if earlier is not None and not used:
            earlier.rename(file)
        elif earlier is not None and file.exists() and earlier.read_bytes() == file.read_bytes():
            earlier.unlink()


@contextmanager
def closing() -> Iterator[None]:
    """Close the multirun that begins inside this block, and the claim for a job that never began, however it ends.

    Raises:
        UserError: the launcher has failed.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:
        if Jobs.running is None:
            raise
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"the multirun ended before its jobs had ({type(error).__name__}: {text}); what is in its directory is "
            "whole; try it again, or HYDRA_FULL_ERROR=1 to see more"
        ) from error
    finally:
        directories.release()
        if Jobs.running is not None:
            Jobs.running.close()


def varied_keys(config: DictConfig) -> list[str]:
    """Return the keys that have several values on the command line, or that the sweeper's own settings name."""
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    return [*swept, *(config.hydra.sweeper.get("params") or ())]


def folders_below(directory: Path) -> Iterator[Path]:
    """Yield the folders below a directory. What lies inside the directory of a job is left out."""
    for place, folders, files in os.walk(directory):
        if OVERRIDES in files and Path(place) != directory:
            folders.clear()
        yield from (Path(place) / name for name in folders)


def set_aside(file: Path) -> Path | None:
    """Give a file the first free name such as ``multirun-1.yaml``, and return it; None if there is no such file."""
    if not file.exists():
        return None
    names = (file.with_name(f"{file.stem}-{number}{file.suffix}") for number in range(1, 10**6))
    free = next(name for name in names if not name.exists())
    return file.rename(free)


@contextmanager
def _exit_on_mistake() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise SystemExit(error) from None
