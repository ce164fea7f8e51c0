"""The directories of jobs: which one a job gets, and its claim on it (``dfm.runs.claim``)."""

import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dfm.basics.errors import UserError
from dfm.basics.files import read_text
from dfm.basics.locations import located
from dfm.cli.composition.resumable_keys import may_change
from dfm.cli.composition.stored_run import OF_THE_COMMAND_LINE
from dfm.cli.settings import COMMANDS
from dfm.cli.words.own_code import key_of
from dfm.cli.words.printed_command import resumed, typed
from dfm.runs.claim import Claim
from dfm.runs.directory import OVERRIDES, is_run

RESULTS = tuple(dict.fromkeys(pattern for command in COMMANDS.values() for pattern in command.results))

SUBDIR = "hydra.sweep.subdir"

_claims: list[Claim] = []  # of the single job that Hydra is about to start
_places: dict[tuple[str, str, int], str] = {}  # of the jobs of sweeps, so that each gets one place however often asked


def register_resolvers() -> None:
    """Register ``dfm.run_dir`` and ``dfm.job_dir``, which ``configs/`` uses."""
    OmegaConf.register_new_resolver("dfm.run_dir", run_dir, replace=True)
    OmegaConf.register_new_resolver("dfm.job_dir", job_dir, replace=True)


def run_dir(resume: Any, fresh: str) -> str:
    """Return the directory of a resumed run, or ``fresh`` for any other job, also with a ``resume`` that is no run."""
    run = resumed_run(resume)
    return fresh if run is None else str(run)


def resumed_run(resume: Any) -> Path | None:
    """Return the run that ``resume=`` names; None if it names none."""
    run = located(str(resume)) if resume else None
    return run if run is not None and is_run(run) else None


def job_dir(*, _root_: DictConfig) -> str:
    """Return the directory of a sweep's job, below ``hydra.sweep.dir`` if it is relative.

    With ``resume=RUN`` it is that run. With ``resume=auto`` it is the directory of the earlier job with the same
    overrides, wherever it lies below ``hydra.sweep.dir``. Keys that a resumed run may change count only if the sweep
    varies them. Any other job gets a new directory: that of its number, or else the first free number after all others.
    """
    hydra, resume = _root_.hydra, _root_.get("resume")
    sweep, number, own = Path(hydra.sweep.dir), int(hydra.job.num), hydra.callbacks.jobs
    run = resumed_run(resume)
    if run is not None:
        return str(run.absolute())
    key = (str(sweep.absolute()), str(own.sweep), number)
    if key not in _places:
        found = earlier_job(sweep, hydra.overrides.task, own.varied) if resume == "auto" else None
        _places[key] = _new_place(sweep, number) if found is None else str(found.relative_to(sweep))
    return _places[key]


def earlier_job(sweep: Path, overrides: Sequence[str], varied: Collection[str]) -> Path | None:
    """Return the directory of the job of an earlier sweep that a job with these overrides goes on with, or None.

    Args:
        varied: the keys that differ between the jobs of this sweep.
    """
    jobs = list(jobs_below(sweep))
    counts: Sequence[Callable[[str], bool]] = (lambda key: True, lambda key: key in varied or not may_change(key))
    for count in counts:  # the same overrides come before nearly the same ones
        wanted = _settings(overrides, count)
        for directory in jobs:
            if _settings(read_text(directory / OVERRIDES).splitlines(), count) == wanted:
                return directory
    return None


def jobs_below(sweep: Path) -> Iterator[Path]:
    """Yield the directories of the jobs below ``sweep``, in order; what lies inside one is not searched."""
    for place, folders, files in os.walk(sweep):
        folders.sort()
        if OVERRIDES in files and Path(place) != sweep:
            folders.clear()
            yield Path(place)


def _settings(overrides: Sequence[str], counts: Callable[[str], bool]) -> dict[str, str]:
    pairs = ((key_of(text), text.partition("=")[2]) for text in overrides)
    return {key: value for key, value in pairs if key not in OF_THE_COMMAND_LINE and counts(key)}


def _new_place(sweep: Path, number: int) -> str:
    """Make a directory named by a number, and return its name."""
    taken = [int(path.name) for path in sweep.iterdir() if path.name.isdigit()] if sweep.is_dir() else []
    for name in itertools.chain([number], itertools.count(max([*taken, number]) + 1)):
        try:
            (sweep / str(name)).mkdir(parents=True)
        except FileExistsError:
            continue
        return str(name)
    raise AssertionError


def claim_run(config: DictConfig) -> None:
    """Claim the directory of a single job before Hydra makes it. ``claimed`` hands the claim to the job.

    Raises:
        UserError: as ``claimed``.
    """
    state = HydraConfig.instance()
    before = state.cfg
    try:
        state.set_config(config)  # as Hydra does before it reads hydra.run.dir, which may refer to it
        _claims[:] = [_claim(config, Path(config.hydra.run.dir), config.hydra)]
    finally:
        state.cfg = before


def claimed(config: DictConfig) -> Claim:
    """Return the claim on the running job's directory.

    Raises:
        UserError: the directory holds results, another process works in it, it cannot be written, or it is not that of
            the run to resume.
    """
    if _claims:
        return _claims.pop()
    hydra = HydraConfig.get()
    return _claim(config, Path(hydra.runtime.output_dir), hydra)


def release() -> None:
    """Put back the directory that was claimed for a job that did not begin."""
    for claim in _claims:
        claim.__exit__(UserError, UserError("not begun"), None)
    _claims.clear()


def _claim(config: DictConfig, directory: Path, hydra: Any) -> Claim:
    resume, run = config.get("resume"), resumed_run(config.get("resume"))
    if run is not None and not (directory.is_dir() and directory.samefile(run)):
        raise UserError(
            f"resume={run} with hydra.run.dir={directory}: a run goes on in its own directory; allowed: "
            f"{typed('resume', run)} alone, or resume=auto with hydra.run.dir=DIR"
        )
    goes_on = run is not None or (resume == "auto" and is_run(directory))
    if hydra.mode == RunMode.MULTIRUN and not goes_on:
        refuse_shared(hydra, directory)
    return Claim(
        directory,
        RESULTS,
        preamble=[f"{hydra.output_subdir}/*"] if hydra.output_subdir else [],
        command="train" if "resume" in config else str(hydra.job.name),
        override=typed,
        resumed=resumed,
        key="hydra.sweep.dir" if hydra.mode == RunMode.MULTIRUN else "hydra.run.dir",
        goes_on=goes_on,
    )


def records_of(sweep: Path, name: str) -> Path:
    """Return the folder in which the jobs of the multirun ``name`` leave their records while it runs."""
    return sweep / f".jobs-{name}"


def refuse_shared(hydra: Any, directory: Path) -> None:
    """Refuse the directory of another job of the same multirun.

    Raises:
        UserError: ``hydra.sweep.subdir`` is the same for two jobs.
    """
    records = records_of(Path(hydra.runtime.cwd, hydra.sweep.dir), hydra.callbacks.jobs.sweep).glob("*.json")
    if any(Path(json.loads(read_text(file))["directory"]) == directory for file in records):
        given = next((word for word in hydra.overrides.hydra if key_of(word) == SUBDIR), SUBDIR)
        raise UserError(
            f"{given}: {directory} is that of another job of this multirun; allowed: a directory of its own for each "
            f"job; try without {SUBDIR}"
        )
