"""Train, score and sample every digits preset once, and print the results table of the README.

Usage: python scripts/papers.py [--steps 1000] [--out outputs/papers] [--only ddpm,edm] [--table]

Each preset is trained for the same number of steps by `dfm train experiment=digits_NAME`, scored on the 300 test digits
by `dfm nll` (vdm by its evidence bound, the others by dopri5), and drawn from with its own sampler and with dopri5 by
`dfm sample`. What is there is not made again; --table only prints. The sample figure is the energy distance of 300
samples to the 300 test digits, beside that of 300 training digits; its standard error is printed with it. A run takes
three to five minutes on 2 CPU cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from dfm.cli.command_line import composed
from dfm.cli.config_dirs import options
from dfm.data.digits import Digits
from dfm.data.pixel_levels import to_eight_bits
from dfm.evaluation.distances import energy_distance, energy_spread

PRESETS = (
    "flow", "ot_flow", "rectified", "interpolant", "edm", "ddpm", "iddpm", "ncsn", "vp", "subvp", "ve", "vdm",
)  # fmt: skip
N = 300


def dfm(directory: Path, done: str, *arguments: str) -> None:
    """One command of dfm into a directory, unless the file ``done`` is already there."""
    if (directory / done).exists():
        return
    print(f"$ dfm {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "dfm", *arguments, f"hydra.run.dir={directory}"]
    with (directory.parent / f"{directory.name}.txt").open("w") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"failed; see {log.name}")


def make(name: str, out: Path, steps: int) -> None:
    """Train, score and sample one preset."""
    run = out / name
    run.mkdir(parents=True, exist_ok=True)
    teacher = [f"init={out / 'flow' / 'train'}"] if name == "rectified" else []
    train = run / "train"
    dfm(
        train, "nll.json", "train", f"experiment=digits_{name}", f"trainer.max_steps={steps}",
        "trainer.sample_every=0", *teacher,
    )  # fmt: skip
    how = "likelihood=bound_sde" if name == "vdm" else "likelihood.solver=dopri5"
    dfm(run / "nll", "nll.json", "nll", f"ckpt={train}", how)
    dfm(run / "own", "sample.json", "sample", f"ckpt={train}", f"n={N}", "batch_size=300", *own_sampler(train))
    dfm(run / "dopri5", "sample.json", "sample", f"ckpt={train}", f"n={N}", "batch_size=300", "sampler=dopri5")


def own_sampler(run: Path) -> list[str]:
    """The overrides that make `dfm sample` use the sampler of a training run."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    assert isinstance(config, dict)
    names = {
        "Ddim": "ancestral", "Heun": "heun", "Euler": "euler", "Midpoint": "midpoint",
        "PredictorCorrector": "predictor_corrector",
    }  # fmt: skip
    if "stepper" not in config["sampler"]:
        return []  # a few-step model: dfm sample takes its own
    stepper = config["sampler"]["stepper"]
    name = names[stepper["_target_"].rpartition(".")[2]]
    if stepper.get("predictor", {}).get("_target_", "").endswith("KeepRatio"):
        name = "annealed_langevin"
    if stepper.get("eta") == 0.0:
        name = "ddim"
    grid = next(option for option in options("grid") if composed("sample", f"grid={option}")["grid"] == config["grid"])
    return [f"sampler={name}", f"sampler.steps={config['sampler']['steps']}", f"grid={grid}"]


def row(name: str, out: Path, test: torch.Tensor) -> str | None:
    """A line of the table, if the preset was made."""
    run = out / name
    if not (run / "dopri5" / "sample.json").exists():
        return None
    nll = json.loads((run / "nll" / "nll.json").read_text())
    cells = [f"`digits_{name}`", f"{nll['bits_per_dim']:.3f} ± {nll['stderr']:.3f}", f"{nll['solver_error']:.4f}"]
    for kind in ("own", "dopri5"):
        sample = json.loads((run / kind / "sample.json").read_text())
        points = unit(np.load(run / kind / "samples.npz")["samples"])
        value, spread = 1000 * energy_distance(points, test), 1000 * energy_spread(points, test)
        cells.append(f"{sample['sampler']}, {sample['nfe']:.0f} NFE: {value:.1f} ± {spread:.1f}")
    return "| " + " | ".join(cells) + " |"


def unit(stored: np.ndarray) -> torch.Tensor:
    """Stored uint8 images as numbers in [0, 1]."""
    return torch.from_numpy(stored).double() / 255


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("outputs/papers"))
    parser.add_argument("--only", default=",".join(PRESETS))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    for name in () if given.table else given.only.split(","):
        make(name, given.out, given.steps)
    data = Digits()
    test, train = (
        unit(to_eight_bits(data.split(s).values[:N], 17).numpy()).permute(0, 2, 3, 1) for s in ("test", "train")
    )
    print("| preset | test bits/dim | solver error | energy distance x 1000, own sampler | dopri5 |")
    print("|---|---|---|---|---|")
    for name in PRESETS:
        line = row(name, given.out, test)
        if line:
            print(line)
    floor, spread = 1000 * energy_distance(train, test), 1000 * energy_spread(train, test)
    print(f"| 300 training digits | | | {floor:.1f} ± {spread:.1f} | |")


if __name__ == "__main__":
    main()
