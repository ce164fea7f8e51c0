"""A wheel, built and installed into a clean environment, runs from another directory."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``dfm`` script of an environment that has the wheel, and the libraries of this one but not its dfm.

    Only the libraries are shared, by a path file that is read after the environment's own packages: torch need not be
    installed twice, and an editable install's own path file has no effect from there.
    """
    base = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(base), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, cwd=base)
    (wheel,) = base.glob("dfm-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True, capture_output=True)
    python = base / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (base / "venv").glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    where = subprocess.run(
        [python, "-c", "import dfm; print(dfm.__file__)"], check=True, capture_output=True, text=True, cwd=base
    )
    assert Path(where.stdout.strip()).is_relative_to(site), "the wheel's own files, not the checkout's"
    return python.parent / "dfm"


def test_help(installed: Path, tmp_path: Path) -> None:
    out = subprocess.run([installed, "--help"], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "dfm train" in out


def test_two_steps_from_another_directory(installed: Path, tmp_path: Path) -> None:
    small = ["model.channels=8", "model.groups=4", "samples.n=2", "sampler.steps=1", "nll.n=2", "likelihood.steps=1"]
    done = subprocess.run(
        [installed, "train", "trainer.max_steps=2", *small], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / done.stdout.strip().splitlines()[-1].removeprefix("run directory: ")
    assert (run / "checkpoints" / "step_00000002.pt").exists()


def test_the_wheel_holds_every_preset(installed: Path) -> None:
    (inside,) = installed.parents[1].glob("lib/python*/site-packages/dfm/configs")
    names = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    assert {p.relative_to(inside) for p in inside.rglob("*.yaml")} == names
