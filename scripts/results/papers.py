"""Train, score and sample every preset of the digits once, and print a table of the results.

Usage: python scripts/results/papers.py [--steps 1000] [--out outputs/papers] [--only ddpm,edm] [--table]

`dfm train experiment=digits_NAME` trains each preset for the same number of steps. `dfm nll` scores it on the 300 test
digits (vdm by its evidence bound, the others by dopri5). `dfm sample` draws from it with its own sampler and with
dopri5. Finished parts are not repeated; --table only prints. Samples are measured by the energy distance of 300 samples
to the 300 test digits, with its standard error; the last row has the distance of 300 training digits. A preset takes
three to five minutes on 2 CPU cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from dfm.cli.composition.command_line import compose
from dfm.cli.composition.config_dirs import options as options_of
from dfm.data.numbers.pixel_levels import to_eight_bits
from dfm.data.published.digits import Digits
from dfm.evaluation.distances import energy_distance, energy_spread

FLOWS = ("flow", "ot_flow", "rectified", "interpolant")
DIFFUSIONS = ("edm", "ddpm", "iddpm", "ncsn", "vp", "subvp", "ve", "vdm")
PRESETS = (*FLOWS, *DIFFUSIONS)
N = 300


def dfm(directory: Path, done: str, *arguments: str) -> None:
    """Run one command of dfm into a directory, unless the file ``done`` is there."""
    if (directory / done).exists():
        return
    print(f"$ dfm {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "dfm", *arguments, f"hydra.run.dir={directory}"]
    with (directory.parent / f"{directory.name}.txt").open("w", encoding="utf-8") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"failed; see {log.name}")


def make(name: str, out: Path, steps: int) -> None:
    """Train, score and sample one preset."""
    run = out / name
    run.mkdir(parents=True, exist_ok=True)
    teacher = [f"init={out / 'flow' / 'train'}"] if name == "rectified" else []
    train = run / "train"
    options = [
        f"experiment=digits_{name}",
        f"trainer.max_steps={steps}",
        "trainer.sample_every=0",
        "resume=auto",
        *teacher,
    ]
    dfm(train, "nll.json", "train", *options)
    how = "likelihood=bound_sde" if name == "vdm" else "likelihood.solver=dopri5"
    dfm(run / "nll", "nll.json", "nll", f"ckpt={train}", how)
    dfm(run / "own", "sample.json", "sample", f"ckpt={train}", f"n={N}", "batch_size=300", *own_sampler(train))
    dfm(run / "dopri5", "sample.json", "sample", f"ckpt={train}", f"n={N}", "batch_size=300", "sampler=dopri5")


def own_sampler(run: Path) -> list[str]:
    """Return the overrides with which `dfm sample` uses the sampler of a training run."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    assert isinstance(config, dict)
    names = {
        "Ddim": "ancestral",
        "Heun": "heun",
        "Euler": "euler",
        "Midpoint": "midpoint",
        "PredictorCorrector": "predictor_corrector",
    }
    if "stepper" not in config["sampler"]:
        return []  # a few-step model: dfm sample uses its own sampler
    stepper = config["sampler"]["stepper"]
    name = names[stepper["_target_"].rpartition(".")[2]]
    if stepper.get("predictor", {}).get("_target_", "").endswith("KeepRatio"):
        name = "annealed_langevin"
    if stepper.get("eta") == 0.0:
        name = "ddim"
    grid = next(
        option for option in options_of("grid") if compose("sample", f"grid={option}")["grid"] == config["grid"]
    )
    return [f"sampler={name}", f"sampler.steps={config['sampler']['steps']}", f"grid={grid}"]


def row(name: str, out: Path, test: torch.Tensor) -> str | None:
    """Return the line of a preset in the table, or None if its results are missing."""
    run = out / name
    if not (run / "dopri5" / "sample.json").exists():
        return None
    nll = json.loads((run / "nll" / "nll.json").read_text("utf-8"))
    cells = [f"`digits_{name}`", f"{nll['bits_per_dim']:.3f} ± {nll['stderr']:.3f}", f"{nll['solver_error']:.4f}"]
    for kind in ("own", "dopri5"):
        sample = json.loads((run / kind / "sample.json").read_text("utf-8"))
        points = unit(np.load(run / kind / "samples.npz")["samples"])
        value, spread = 1000 * energy_distance(points, test), 1000 * energy_spread(points, test)
        cells.append(f"{sample['sampler']}, {sample['nfe']:.0f} NFE: {value:.1f} ± {spread:.1f}")
    return "| " + " | ".join(cells) + " |"


def unit(stored: np.ndarray) -> torch.Tensor:
    """Return uint8 images as numbers in [0, 1]."""
    return torch.from_numpy(stored).double() / 255


def main() -> None:
    """Compute the results that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("outputs/papers"))
    parser.add_argument("--only", default=",".join(PRESETS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for name in () if options.table else options.only.split(","):
        make(name, options.out, options.steps)
    data = Digits()
    test, train = (
        unit(to_eight_bits(data.split(s).take(slice(N)), 17).numpy()).permute(0, 2, 3, 1) for s in ("test", "train")
    )
    print("| preset | test bits/dim | solver error | energy distance x 1000, own sampler | dopri5 |")
    print("|---|---|---|---|---|")
    for name in PRESETS:
        line = row(name, options.out, test)
        if line:
            print(line)
    floor, spread = 1000 * energy_distance(train, test), 1000 * energy_spread(train, test)
    print(f"| 300 training digits | | | {floor:.1f} ± {spread:.1f} | |")


if __name__ == "__main__":
    main()
