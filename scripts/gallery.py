"""Draw the lecture's figures for a data set in the plane, with the exact denoiser in the place of a network.

Usage: scripts/gallery.py [--dataset moons] [--schedule linear] [--points 2000] [--seed 0] [--out outputs/gallery]

Any option of configs/dataset whose points lie in the plane, on any option of configs/schedule; without --dataset, moons
and mixture. A mixture's denoiser is its closed form, any other's is that of its first --points points. Nothing is
trained. Seven pictures a data set land in OUT/DATASET_SCHEDULE: noising, reversal, flows, densities, scores, denoised
and straightness. Cost: at most 15 s a data set on one CPU core.
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
from dfm.cli.config_dirs import config_dir, options
from dfm.data.dataset import Dataset, DatasetSpec, moments
from dfm.denoising.exact import EmpiricalDenoiser, MixtureDenoiser, exact_denoiser
from dfm.evaluation import lecture_figures as figures
from dfm.paths.schedule import Schedule
from dfm.runs.charts import DATA, MARK, NOISY, Arrows, Dots, Lines, Panel, Shades, panels
from dfm.runs.images import save_png
from dfm.runs.parts import Parts

DEFAULT = ("moons", "mixture")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is drawn: a data set's points (n, 2), float64, and the exact denoiser of its law."""

    name: str
    points: Tensor
    denoiser: MixtureDenoiser | EmpiricalDenoiser
    seed: int

    def title(self, text: str) -> str:
        """A figure's title."""
        return f"{text}  ({self.name})"


def parts(dataset: str, schedule: str) -> tuple[Dataset, Schedule]:
    """The data set and the path of these options of the config groups.

    Raises:
        UserError: there is no such option.
    """
    for group, given in (("dataset", dataset), ("schedule", schedule)):
        if given not in options(group):
            raise unknown(group, given, options(group))
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        cfg = compose("train", overrides=[f"dataset={dataset}", f"schedule={schedule}"])
    config = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in ("dataset", "schedule")}
    return Parts(config).dataset, Parts(config).schedule


def subject(dataset: str, schedule: str, n: int, seed: int) -> Subject:
    """The first n points of a data set, with the closed form of its law or else the denoiser of these points.

    Raises:
        UserError: an unknown name, no points, or data that are not points in the plane.
    """
    data, path = parts(dataset, schedule)
    values = data.split("train").values
    if n < 1 or tuple(values.shape[1:]) != (2,):
        raise UserError(
            f"--points {n}, dataset {dataset} of shape {tuple(values.shape[1:])}; allowed: at least 1 point, in the "
            "plane; try --dataset moons, checkerboard, eight_gaussians, swiss_roll or mixture"
        )
    points = values[:n].double()
    if hasattr(data, "mixture"):
        return Subject(name=dataset, points=points, denoiser=exact_denoiser(data, path), seed=seed)
    mean, std = moments(points, None)
    spec = DatasetSpec(name=dataset, shape=(2,), levels=None, num_classes=0, mean=mean, std=std)
    return Subject(
        name=dataset, points=points, seed=seed, denoiser=EmpiricalDenoiser(spec=spec, schedule=path, points=points)
    )


def moment(t: float, nsr: float) -> str:
    """A panel's title: short at every scale of time."""
    return f"t = {t:.3g},  nsr = {nsr:.2g}" if nsr < 100 else f"t = {t:.3g},  nsr = {nsr:.0f}"


def noising(given: Subject) -> np.ndarray:
    """The forward process."""
    row = [
        Panel(title=moment(c.t, c.nsr), extent=c.extent, layers=[Dots(points=c.x.numpy(), colour=DATA)])
        for c in figures.noising(given.denoiser, given.points, given.seed)
    ]
    return panels([row[:3], row[3:]], given.title("Noising: the same points from data to prior"))


def reversal(given: Subject) -> np.ndarray:
    """ODE and reverse SDE: in the plane, and the first coordinate over the level of noise."""
    data = Dots(points=given.points.numpy(), colour=NOISY, alpha=0.25)
    plane, over_noise = [], []
    for found in figures.reversal(given.denoiser, given.points, given.seed):
        style = {"width": 1.4, "alpha": 0.9} if found.name == "ODE" else {"width": 0.6, "alpha": 0.5}
        plane.append(Panel(title=found.name, extent=found.extent, layers=[data, Lines(paths=found.x.numpy(), **style)]))
        level = found.nsr.log10()
        graph = torch.stack([level[:, None].expand(found.x.shape[:2]), found.x[..., 0]], 2)
        margin = 0.02 * float(level[0] - level[-1])
        extent = (float(level[0]) + margin, float(level[-1]) - margin, *found.extent[:2])
        lines = Lines(paths=graph.numpy(), **{**style, "width": 0.9})
        over_noise.append(
            Panel(title="", extent=extent, layers=[lines], equal=False, xlabel="log10 nsr, from noise to data")
        )
    names = ("plane of x", "first coordinate of x")
    return panels([plane, over_noise], given.title("From the same latents (rings) to samples (dots)"), names, 4.6)


def flows(given: Subject) -> np.ndarray:
    """Conditional and marginal flow fields."""
    conditional, marginal = figures.flows(given.denoiser, given.points, given.seed)

    def panel(field: figures.VectorField, marks: Sequence[Dots]) -> Panel:
        law = Dots(points=field.x.numpy(), colour=DATA, alpha=0.3)
        arrows = Arrows(at=field.at.numpy(), vectors=-field.vectors.numpy())  # samplers go against u, noise to data
        return Panel(title=moment(field.t, field.nsr), extent=field.extent, layers=[law, arrows, *marks])

    star = Dots(points=given.points[:1].numpy(), colour=MARK, size=130, alpha=1, marker="*")
    return panels(
        [[panel(f, [star]) for f in conditional], [panel(f, []) for f in marginal]],
        given.title("The flow −u, from noise to data: towards one point (star), and averaged"),
        names=("conditional u(x | star)", "marginal u(x)"),
        width=3.5,
    )


def densities(given: Subject) -> np.ndarray:
    """Density over time."""
    row = [
        Panel(title=moment(h.t, h.nsr), extent=h.extent, layers=[Shades(log_density=h.log_density.numpy())])
        for h in figures.densities(given.denoiser, given.denoiser, given.points)
    ]
    return panels([row[:3], row[3:]], given.title("Density p of x over time (shade: its square root)"))


def scores(given: Subject) -> np.ndarray:
    """The score field."""
    row = [
        Panel(
            title=moment(heat.t, heat.nsr),
            extent=heat.extent,
            layers=[
                Shades(log_density=heat.log_density.numpy()),
                Arrows(at=field.at.numpy(), vectors=field.vectors.numpy(), compress=0.5),
            ],
        )
        for heat, field in figures.scores(given.denoiser, given.denoiser, given.points)
    ]
    return panels([row], given.title("Score ∇ log p over the density (length: its square root)"), width=3.7)


def denoised(given: Subject) -> np.ndarray:
    """What the denoiser makes of noisy points."""
    row = [
        Panel(
            title=moment(c.t, c.nsr),
            extent=c.extent,
            layers=[
                Dots(points=c.x.numpy(), colour=NOISY, alpha=0.35, label="noisy $x_t$"),
                Dots(points=c.data.numpy(), colour=MARK, alpha=0.6, label="$E[\\mathrm{data} \\mid x_t]$"),
            ],
        )
        for c in figures.denoising(given.denoiser, given.points, given.seed)
    ]
    return panels([row], given.title("The denoiser: from the data themselves to their mean"))


def straightness(given: Subject) -> np.ndarray:
    """Straight and curved ways from noise to data."""
    data = Dots(points=given.points.numpy(), colour=NOISY, alpha=0.2)
    row = [
        Panel(
            title=f"{found.name}\nlength / distance = {found.bend:.2f}",
            extent=found.extent,
            layers=[data, Lines(paths=found.x.numpy(), width=0.9, alpha=0.75, marker_size=3.5)],
        )
        for found in figures.straightness(given.denoiser, given.points, given.seed)
    ]
    title = given.title("Straight pairs, curved flows: from the same latents (rings) to data (dots)")
    return panels([row[:2], row[2:]], title, width=4.4)


FIGURES = (noising, reversal, flows, densities, scores, denoised, straightness)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what is asked for and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", action="append", help="may be given more than once")
    parser.add_argument("--schedule", default="linear")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/gallery"))
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        for name in given.dataset or DEFAULT:
            drawn = subject(name, given.schedule, given.points, given.seed)
            folder = given.out / f"{name}_{given.schedule}"
            folder.mkdir(parents=True, exist_ok=True)
            for figure in FIGURES:
                path = folder / f"{figure.__name__}.png"
                with torch.no_grad():
                    save_png(figure(drawn), path)
                print(f"{time.perf_counter() - began:5.1f} s  {path}", flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
