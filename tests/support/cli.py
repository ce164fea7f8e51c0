"""The real command line: run it, and make it small."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


Command = Callable[..., Outcome]


TINY = (
    "model.channels=8", "model.groups=4", "trainer.batch_size=8", "samples.n=4", "sampler.steps=2",
    "likelihood.solver=euler", "likelihood.steps=2", "nll.n=4", "trainer.max_steps=2",
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
