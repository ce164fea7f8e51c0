"""Fixtures that many tests need; the helpers that they stand on are in tests/support."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra._internal import defaults_list
from hydra.core.default_element import InputDefault
from omegaconf import DictConfig
from support.cli import TINY, Command, Dfm, Outcome, Trained, in_this_process, train_once
from support.oracles import SCHEDULES

from dfm.cli.surroundings.signals import SIGNALS
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.data.published.digits import Digits
from dfm.evaluation.classifier_features import ClassifierFeatures, features_for
from dfm.paths.schedule import Schedule


def pytest_configure() -> None:
    """Let Hydra make the map for ``${...}`` in lists of groups only where there is one: it is a third of its time."""
    whole = defaults_list._create_interpolation_map

    def map_if_needed(overrides: object, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        if any(default.is_interpolation() for default in defaults):
            return whole(overrides, defaults, self_added)
        return DictConfig({})

    defaults_list._create_interpolation_map = map_if_needed


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what is there before the first test: torch alone is a million objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


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


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line's entry point in this process, which is spared torch's import: same parser, same files."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> Outcome:
        return in_this_process(*arguments, code=code)

    return run


@pytest.fixture
def heeded() -> Iterator[None]:
    """No signal is ignored, as SIGINT would be in a suite that a shell started in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all tests share, those of the other processes of this session included."""
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "shared"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def trained(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """``dfm train`` for tests that only read the run: the same words are run once for all, and each gets a copy."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, teacher: tuple[str, ...] = ()) -> Outcome:
        return train_once(shared, words, teacher).copied_to(tmp_path)

    return run


@pytest.fixture
def tiny_run(trained: Trained) -> Path:
    """A training run of two steps on the digits, the test's own copy of one that is trained once."""
    return trained(*TINY).run


@pytest.fixture(scope="session")
def digits_features(shared: Path) -> ClassifierFeatures:
    """The digits' features by the recipe that ``dfm eval`` takes, trained in a cache of the tests' own."""
    cache = shared / "cache"
    with pytest.MonkeyPatch.context() as patch, FileLock(shared / "cache.lock"):
        patch.setenv("DFM_DATA", str(cache))
        found = features_for(Digits(), device="cpu")
        assert isinstance(found, ClassifierFeatures)
        if not found.file.exists():
            assert sum(1 for _ in found.prepare()) == found.steps == 203, "20 passes through 1,297 digits"
    assert found.file.parent == cache / "features"
    return found


@pytest.fixture
def kept_features(digits_features: ClassifierFeatures, monkeypatch: pytest.MonkeyPatch) -> ClassifierFeatures:
    """The same, where the command looks for it; it may not be trained again."""
    monkeypatch.setenv("DFM_DATA", str(digits_features.folder.parent))
    monkeypatch.setattr("dfm.evaluation.classifier_features.Trainer", None)
    return digits_features
