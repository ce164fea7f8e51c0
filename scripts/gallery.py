"""Draw the lecture's figures for a data set in the plane, with the exact denoiser instead of a network.

Usage: scripts/gallery.py [--dataset moons] [--schedule linear] [--points 2000] [--seed 0] [--out outputs/gallery]

--dataset is any option of configs/dataset with points in the plane; the default is moons and mixture. --schedule is any
option of configs/schedule. A mixture has a denoiser in closed form; other data have the exact denoiser of their first
--points points. Nothing is trained. The script writes seven pictures for each data set to OUT/DATASET_SCHEDULE:
noising, reversal, flows, densities, scores, denoised and straightness. Cost: at most 15 s per data set on one CPU core.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from dfm.basics.errors import UserError, unknown
from dfm.cli.composition.config_dirs import config_dir, options
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.numbers.units import moments
from dfm.denoising.exact import EmpiricalDenoiser, MixtureDenoiser, exact_denoiser
from dfm.evaluation import lecture_figures as figures
from dfm.paths.schedule import Schedule
from dfm.runs.parts import Parts
from dfm.runs.pictures.charts import DATA, MARK, NOISY, Arrows, Dots, Lines, Panel, Shades, panels
from dfm.runs.pictures.images import save_png

DEFAULT = ("moons", "mixture")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of the figures: points (n, 2), float64, of a data set, and the exact denoiser of its law."""

    name: str
    points: Tensor
    denoiser: MixtureDenoiser | EmpiricalDenoiser
    seed: int

    def title(self, text: str) -> str:
        """Return the title of a figure."""
        return f"{text}  ({self.name})"


def parts(dataset: str, schedule: str) -> tuple[Dataset, Schedule]:
    """Return the data set and the path with these names in the config groups.

    Raises:
        UserError: a name is unknown.
    """
    for group, name in (("dataset", dataset), ("schedule", schedule)):
        if name not in options(group):
            raise unknown(group, name, options(group))
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        cfg = compose("train", overrides=[f"dataset={dataset}", f"schedule={schedule}"])
    config = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in ("dataset", "schedule")}
    return Parts(config).dataset, Parts(config).schedule


def subject(dataset: str, schedule: str, n: int, seed: int) -> Subject:
    """Return the first n points of a data set, and the exact denoiser of its law or else of these points.

    Raises:
        UserError: an unknown name, n below 1, or data that are not points in the plane.
    """
    data, path = parts(dataset, schedule)
    split = data.split("train")
    if n < 1 or split.shape != (2,):
        raise UserError(
            f"--points {n}, dataset {dataset} of shape {split.shape}; allowed: at least 1 point, in the "
            "plane; try --dataset moons, checkerboard, eight_gaussians, swiss_roll or mixture"
        )
    points = split.take(slice(n)).double()
    if hasattr(data, "mixture"):
        return Subject(name=dataset, points=points, denoiser=exact_denoiser(data, path), seed=seed)
    mean, std = moments(points, None)
    spec = DatasetSpec(name=dataset, shape=(2,), levels=None, num_classes=0, mean=mean, std=std)
    return Subject(
        name=dataset, points=points, seed=seed, denoiser=EmpiricalDenoiser(spec=spec, schedule=path, points=points)
    )


def moment(t: float, nsr: float) -> str:
    """Return the title of a panel, short for every scale of time."""
    return f"t = {t:.3g},  nsr = {nsr:.2g}" if nsr < 100 else f"t = {t:.3g},  nsr = {nsr:.0f}"


def noising(case: Subject) -> np.ndarray:
    """Draw the forward process."""
    row = [
        Panel(title=moment(c.t, c.nsr), extent=c.extent, layers=[Dots(points=c.x.numpy(), colour=DATA)])
        for c in figures.noising(case.denoiser, case.points, case.seed)
    ]
    return panels([row[:3], row[3:]], case.title("Noising: the same points from data to prior"))


def reversal(case: Subject) -> np.ndarray:
    """Draw ODE and reverse SDE: in the plane, and the first coordinate against the noise level."""
    data = Dots(points=case.points.numpy(), colour=NOISY, alpha=0.25)
    plane, over_noise = [], []
    for paths in figures.reversal(case.denoiser, case.points, case.seed):
        style = {"width": 1.4, "alpha": 0.9} if paths.name == "ODE" else {"width": 0.6, "alpha": 0.5}
        plane.append(Panel(title=paths.name, extent=paths.extent, layers=[data, Lines(paths=paths.x.numpy(), **style)]))
        log_nsr = paths.nsr.log10()
        graph = torch.stack([log_nsr[:, None].expand(paths.x.shape[:2]), paths.x[..., 0]], 2)
        margin = 0.02 * float(log_nsr[0] - log_nsr[-1])
        extent = (float(log_nsr[0]) + margin, float(log_nsr[-1]) - margin, *paths.extent[:2])
        lines = Lines(paths=graph.numpy(), **{**style, "width": 0.9})
        over_noise.append(
            Panel(title="", extent=extent, layers=[lines], equal=False, xlabel="log10 nsr, from noise to data")
        )
    names = ("plane of x", "first coordinate of x")
    return panels([plane, over_noise], case.title("From the same latents (rings) to samples (dots)"), names, 4.6)


def flows(case: Subject) -> np.ndarray:
    """Draw the conditional and the marginal flow."""
    conditional, marginal = figures.flows(case.denoiser, case.points, case.seed)

    def panel(field: figures.VectorField, marks: Sequence[Dots]) -> Panel:
        law = Dots(points=field.x.numpy(), colour=DATA, alpha=0.3)
        arrows = Arrows(
            at=field.at.numpy(), vectors=-field.vectors.numpy()
        )  # samplers move against u, from noise to data
        return Panel(title=moment(field.t, field.nsr), extent=field.extent, layers=[law, arrows, *marks])

    star = Dots(points=case.points[:1].numpy(), colour=MARK, size=130, alpha=1, marker="*")
    return panels(
        [[panel(f, [star]) for f in conditional], [panel(f, []) for f in marginal]],
        case.title("The flow −u, from noise to data: towards one point (star), and averaged"),
        names=("conditional u(x | star)", "marginal u(x)"),
        width=3.5,
    )


def densities(case: Subject) -> np.ndarray:
    """Draw the density over time."""
    row = [
        Panel(title=moment(h.t, h.nsr), extent=h.extent, layers=[Shades(log_density=h.log_density.numpy())])
        for h in figures.densities(case.denoiser, case.denoiser, case.points)
    ]
    return panels([row[:3], row[3:]], case.title("Density p of x over time (shade: its square root)"))


def scores(case: Subject) -> np.ndarray:
    """Draw the score over the density."""
    row = [
        Panel(
            title=moment(heat.t, heat.nsr),
            extent=heat.extent,
            layers=[
                Shades(log_density=heat.log_density.numpy()),
                Arrows(at=field.at.numpy(), vectors=field.vectors.numpy(), compress=0.5),
            ],
        )
        for heat, field in figures.scores(case.denoiser, case.denoiser, case.points)
    ]
    return panels([row], case.title("Score ∇ log p over the density (length: its square root)"), width=3.7)


def denoised(case: Subject) -> np.ndarray:
    """Draw noisy points and what the denoiser predicts for them."""
    row = [
        Panel(
            title=moment(c.t, c.nsr),
            extent=c.extent,
            layers=[
                Dots(points=c.x.numpy(), colour=NOISY, alpha=0.35, label="noisy $x_t$"),
                Dots(points=c.data.numpy(), colour=MARK, alpha=0.6, label="$E[\\mathrm{data} \\mid x_t]$"),
            ],
        )
        for c in figures.denoising(case.denoiser, case.points, case.seed)
    ]
    return panels([row], case.title("The denoiser: from the data themselves to their mean"))


def straightness(case: Subject) -> np.ndarray:
    """Draw straight and curved trajectories from noise to data."""
    data = Dots(points=case.points.numpy(), colour=NOISY, alpha=0.2)
    row = [
        Panel(
            title=f"{paths.name}\nlength / distance = {paths.bend:.2f}",
            extent=paths.extent,
            layers=[data, Lines(paths=paths.x.numpy(), width=0.9, alpha=0.75, marker_size=3.5)],
        )
        for paths in figures.straightness(case.denoiser, case.points, case.seed)
    ]
    title = case.title("Straight pairs, curved flows: from the same latents (rings) to data (dots)")
    return panels([row[:2], row[2:]], title, width=4.4)


FIGURES = (noising, reversal, flows, densities, scores, denoised, straightness)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures and print their files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", help="can be used more than once")
    parser.add_argument("--schedule", default="linear")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/gallery"))
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        for name in args.dataset or DEFAULT:
            drawing = subject(name, args.schedule, args.points, args.seed)
            folder = args.out / f"{name}_{args.schedule}"
            folder.mkdir(parents=True, exist_ok=True)
            for figure in FIGURES:
                file = folder / f"{figure.__name__}.png"
                with torch.no_grad():
                    save_png(figure(drawing), file)
                print(f"{time.perf_counter() - start:5.1f} s  {file}", flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
