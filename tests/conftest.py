"""Fixtures that many tests need; the helpers that they stand on are in tests/support."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cli import TINY, Command, Dfm, Outcome
from support.oracles import SCHEDULES

from dfm.data.digits import Digits
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.evaluation.classifier_features import ClassifierFeatures, features_for
from dfm.paths.schedule import Schedule


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
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line's entry point in this process, which is spared torch's import: same parser, same files."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> Outcome:
        from hydra.core.global_hydra import GlobalHydra

        from dfm.cli.main import main

        monkeypatch.setattr(sys, "argv", ["dfm", *arguments])
        GlobalHydra.instance().clear()
        found = 0
        try:
            main()
        except SystemExit as stop:
            found = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert found == code, f"dfm {' '.join(arguments)}: exit {found}\n{out}{err}"
        return Outcome(found, out, err)

    return run


@pytest.fixture(scope="session")
def _kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def tiny_run(command: Command, _kept_run: Path, tmp_path: Path) -> Path:
    """A training run of two steps on the digits, the test's own copy of one that is trained once."""
    if not (_kept_run / "outputs").exists():
        command("train", *TINY)
        shutil.copytree(tmp_path / "outputs", _kept_run / "outputs")
    else:
        shutil.copytree(_kept_run / "outputs", tmp_path / "outputs")
    (run,) = tmp_path.glob("outputs/*/*-train")
    return run


@pytest.fixture(scope="session")
def digits_features(tmp_path_factory: pytest.TempPathFactory) -> ClassifierFeatures:
    """The digits' features by the recipe that ``dfm eval`` takes, trained in a cache of the tests' own."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFM_DATA", str(cache))
        found = features_for(Digits(), device="cpu")
        assert isinstance(found, ClassifierFeatures)
        assert sum(1 for _ in found.prepare()) == found.steps == 203, "20 passes through 1,297 digits"
    assert found.file.parent == cache / "features"
    return found


@pytest.fixture
def kept_features(digits_features: ClassifierFeatures, monkeypatch: pytest.MonkeyPatch) -> ClassifierFeatures:
    """The same, where the command looks for it; it may not be trained again."""
    monkeypatch.setenv("DFM_DATA", str(digits_features.folder.parent))
    monkeypatch.setattr("dfm.evaluation.classifier_features.Trainer", None)
    return digits_features
