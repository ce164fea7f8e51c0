"""What many tests need: an exact mixture, its denoiser on every schedule, and a way to run the real command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dfm.datasets.base import DatasetSpec
from dfm.mixtures import GaussianMixture, mixture_of
from dfm.oracles import MixtureDenoiser
from dfm.schedules import Edm, Linear, OrnsteinUhlenbeck, Schedule, Trigonometric, VariancePreserving

SCHEDULES: dict[str, Schedule] = {
    "ou": OrnsteinUhlenbeck(),
    "vp": VariancePreserving(),
    "linear": Linear(),
    "edm": Edm(),
    "trig": Trigonometric(),
}


def oracle(mixture: GaussianMixture, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser, with a spec whose moments are the mixture's."""
    d = mixture.means.shape[1]
    spec = DatasetSpec(
        name="mixture", shape=(d,), levels=None, num_classes=0,
        mean=float(mixture.mean.mean()), std=mixture.variance**0.5,
    )  # fmt: skip
    return MixtureDenoiser(spec=spec, schedule=schedule, mixture=mixture)


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Three anisotropic components in the plane."""
    return mixture_of(
        [[-1.5, 0.0], [1.0, 1.0], [1.0, -1.5]],
        [[[0.30, 0.20], [0.20, 0.40]], [0.50, 0.05], 0.10],
        [0.5, 0.3, 0.2],
    )


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    """Every schedule in turn."""
    return SCHEDULES[request.param]


Dfm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def dfm() -> Dfm:
    """The real command in a process of its own; fails the test unless it exits with ``code``."""

    def run(*arguments: str, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dfm", *arguments],
            cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"dfm {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


@pytest.fixture(autouse=True)
def _no_test_depends_on_the_global_seed() -> None:
    torch.manual_seed(0)
