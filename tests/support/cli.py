"""The real command line: run it, and make it small."""

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from filelock import FileLock

Dfm = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Outcome:
    """What a command run in this process left."""

    code: int
    out: str
    err: str

    @property
    def run(self) -> Path:
        """The directory that its last line names."""
        last = self.out.strip().splitlines()[-1]
        assert last.startswith("run directory: "), self.out
        return Path(last.removeprefix("run directory: "))

    @property
    def problem(self) -> str:
        """The line that says what is wrong."""
        return one_error(self.err)


def one_error(err: str) -> str:
    """Return the one error on stderr: the last line, after log lines at most, and no traceback."""
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], err
    assert "Traceback" not in err, err
    return errors[0]


Command = Callable[..., Outcome]
Trained = Callable[..., Outcome]


def in_this_process(*arguments: str, code: int = 0) -> Outcome:
    """Run a command in this process and working directory; fail unless it exits with ``code``."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from dfm.cli.main import main

    found, out, err = 0, io.StringIO(), io.StringIO()
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    with (
        # Hydra composes each configuration once more to look for hydra.mode, which no configuration of dfm sets
        patch.object(Hydra, "get_mode", lambda *_, **__: None),
        patch.object(sys, "argv", ["dfm", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            found = int(stop.code or 0)
    assert found == code, f"dfm {' '.join(arguments)}: exit {found}\n{out.getvalue()}{err.getvalue()}"
    return Outcome(found, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Kept:
    """A training run that several tests read: where it was run, and what it said."""

    where: Path

    @property
    def run(self) -> Path:
        (run,) = self.where.glob("outputs/*/*-train")
        return run

    def copied_to(self, directory: Path) -> Outcome:
        """Copy the run, so that a test may change it, and say what the command said as if it had run there."""
        shutil.copytree(self.where / "outputs", directory / "outputs", dirs_exist_ok=True)
        out, err = ((self.where / name).read_text().replace(str(self.where), str(directory)) for name in ("out", "err"))
        return Outcome(0, out, err)


def train_once(shared: Path, words: tuple[str, ...], teacher: tuple[str, ...] = ()) -> Kept:
    """Train with these words unless a test of this session has, in whichever process; from a ``teacher`` kept alike."""
    if teacher:
        words = (*words, f"init={train_once(shared, teacher).run}")
    where = shared / hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    with FileLock(f"{where}.lock"):
        if not where.exists():
            unfinished = where.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            with contextlib.chdir(unfinished):
                outcome = in_this_process("train", *words)
            for name, text in (("out", outcome.out), ("err", outcome.err)):
                (unfinished / name).write_text(text.replace(str(unfinished), str(where)))
            unfinished.rename(where)
    return Kept(where)


TINY = (
    "model.channels=8", "model.groups=4", "model.blocks_per_level=1", "trainer.batch_size=32", "trainer.max_steps=2",
    "samples.n=4", "sampler.steps=2", "likelihood.solver=euler", "likelihood.steps=1", "nll.n=4",
)  # fmt: skip


QUICK = ("likelihood.solver=euler", "likelihood.steps=1")
SMALL = ("trainer.max_steps=2", "trainer.batch_size=16", "samples.n=2", "nll.n=2", *QUICK)
FAST = (*SMALL, "sampler.steps=1")
UNET = ("model.channels=8", "model.groups=4")


# likelihood=all has its numbers one level down; the bounds have no solver.
ODES, BOUNDS = ("ode", "ode_exact"), ("bound_sde", "bound_discrete")
ALL = (
    *(f"likelihood.{name}.solver=euler" for name in ODES), *(f"likelihood.{name}.steps=1" for name in (*ODES, *BOUNDS)),
)  # fmt: skip


POINTS = ("dataset=moons", "dataset.n_train=64", "dataset.n_validation=8", "dataset.n_test=8", "model=mlp")
