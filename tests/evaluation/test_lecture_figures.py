"""The lecture's figures against closed forms and laws that they must have, and the script that draws them."""

import itertools
import math
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from support import ROOT
from support.oracles import SCHEDULES, drawn, empirical, oracle

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.evaluation import lecture_figures as figures
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.paths.variance_preserving import VariancePreserving
from dfm.runs.pictures.charts import Arrows, Dots, Lines, Panel, Shades, panels

GALLERY = ROOT / "scripts" / "gallery.py"


@pytest.mark.parametrize("name", ["linear", "vp", "edm", "ou"])
def test_noising_is_a_markov_chain_with_the_marginals_of_the_path(name: str, mixture: GaussianMixture) -> None:
    n, schedule = 4000, SCHEDULES[name]
    points, _ = mixture.sample(n, torch.Generator().manual_seed(3))
    clouds = figures.noising(oracle(mixture, schedule), points, seed=1)
    assert [clouds[0].t, clouds[-1].t] == [schedule.t_min, schedule.t_max]
    steps = torch.tensor([c.nsr for c in clouds[1:-1]]).log().diff()
    torch.testing.assert_close(steps, steps[:1].expand(3), rtol=1e-3, atol=0)
    variance = points.var(0)
    for before, now in itertools.pairwise([None, *clouds]):
        assert now is not None
        a, b = (float(c) for c in schedule.ab(torch.tensor(now.t, dtype=torch.float64)))
        want = a**2 * variance + b**2
        assert (now.x.var(0) / want - 1).abs().max() < 5 * math.sqrt(2 / n)
        assert ((now.x - a * points).mean(0) / b).abs().max() < 5 / math.sqrt(n)
        if before is not None:  # Cov(x_s, x_t) = (a_s/a_t) Var(x_t) for s later than t: nothing is drawn anew
            ratio = a / float(schedule.ab(torch.tensor(before.t, dtype=torch.float64))[0])
            z, w = before.x - before.x.mean(0), now.x - now.x.mean(0)
            spread = (want * before.x.var(0) / n).sqrt()
            assert (((z * w).mean(0) - ratio * before.x.var(0)).abs() < 6 * spread).all()


def test_ode_and_sde_start_together_and_end_with_the_law_of_the_data(mixture: GaussianMixture) -> None:
    denoiser, n = oracle(mixture, VariancePreserving()), 1500
    points, _ = mixture.sample(100, torch.Generator().manual_seed(0))
    ode, sde = figures.reversal(denoiser, points, seed=2, count=n, steps=150)
    assert ode.x.shape == sde.x.shape == (151, n, 2)
    torch.testing.assert_close(ode.x[0], sde.x[0], rtol=0, atol=0)
    assert sde.bend > 3 * ode.bend
    centred = mixture.means - mixture.mean
    spread = mixture.weights @ (mixture.covariances.diagonal(dim1=1, dim2=2) + centred.square())
    for paths in (ode, sde):
        assert ((paths.x[-1].mean(0) - mixture.mean).abs() < 5 * (spread / n).sqrt()).all()
        assert (paths.x[-1].var(0) / spread - 1).abs().max() < 0.15


def test_a_set_is_memorised_by_ode_and_sde() -> None:
    points = drawn(12)
    for paths in figures.reversal(empirical(points, Linear()), points, count=8, steps=100):
        assert float(torch.cdist(paths.x[-1], points).amin(1).max()) < 0.02


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_the_marginal_flow_is_the_posterior_average_of_the_conditional_ones(name: str) -> None:
    """The lecture's theorem: v_t(z) = E[v_t^X(z) q_t(z|X) / q_t(z)], with the weights written out."""
    points, schedule = drawn(6), SCHEDULES[name]
    denoiser = empirical(points, schedule)
    fields = [figures.flows(denoiser, points, target=k, side=5) for k in range(6)]
    for k, marginal in enumerate(fields[0][1]):
        a, b = (float(c) for c in schedule.ab(torch.tensor(marginal.t, dtype=torch.float64)))
        kernel = (-(marginal.at[:, None] - a * points).square().sum(2) / (2 * b**2)).softmax(1)
        average = sum(kernel[:, i : i + 1] * fields[i][0][k].vectors for i in range(6))
        torch.testing.assert_close(average, marginal.vectors, rtol=1e-7, atol=1e-7)


def test_a_conditional_flow_reaches_its_point_in_a_straight_line() -> None:
    points = drawn(6)
    conditional, _ = figures.flows(empirical(points, Linear()), points, target=4)
    for field in conditional:  # x - t u is where the line from x arrives at t = 0
        torch.testing.assert_close(field.at - field.t * field.vectors, points[4].expand_as(field.at))


@pytest.mark.parametrize("name", ["linear", "edm"])
def test_a_density_has_mass_one_and_the_score_is_its_slope(name: str, mixture: GaussianMixture) -> None:
    schedule = SCHEDULES[name]
    points, _ = mixture.sample(300, torch.Generator().manual_seed(1))
    for denoiser in (oracle(mixture, schedule), empirical(points, schedule)):
        for heat in figures.densities(denoiser, denoiser, points, side=90):
            left, right, bottom, top = heat.extent
            rows, columns = heat.log_density.shape
            mass = heat.log_density.exp().sum() * (right - left) / columns * (top - bottom) / rows
            assert float(mass) == pytest.approx(1, abs=0.02)
        for _, field in figures.scores(denoiser, denoiser, points, fine=10, side=6):
            step = 1e-5
            for axis in range(2):
                shift = step * torch.eye(2, dtype=torch.float64)[axis]
                ahead, behind = (denoiser.log_density(field.at + s, field.t) for s in (shift, -shift))
                slope = (ahead - behind) / (2 * step)
                torch.testing.assert_close(field.vectors[:, axis], slope, rtol=1e-4, atol=1e-4)


def test_a_raster_runs_along_its_rows_from_the_bottom() -> None:
    cells = figures.raster((0.0, 4.0, 10.0, 12.0), 4)
    x, y = [0.5, 1.5, 2.5, 3.5], [10.5, 11.5]
    assert cells.tolist() == [[[across, up] for across in x] for up in y]


def test_the_denoiser_leads_from_the_data_to_their_mean() -> None:
    points = drawn(200)
    found = figures.denoising(empirical(points, Linear()), points, count=4)
    errors = [float((c.data - points).square().sum(1).mean()) for c in found]
    spreads = [float(c.data.var(0).sum()) for c in found]
    assert (errors, spreads) == (sorted(errors), sorted(spreads, reverse=True))
    # E|data - E[data|x]|^2 + Var E[data|x] = Var data, whatever the level
    for error, spread in zip(errors, spreads, strict=True):
        assert error + spread == pytest.approx(float(points.var(0).sum()), rel=0.25)


def test_transport_pairs_are_the_best_of_all_permutations() -> None:
    points = drawn(6)
    independent, linear, curved, transport = figures.straightness(
        empirical(points, Linear()), points, count=6, batch=6, steps=40
    )
    latent = independent.x[0]
    torch.testing.assert_close(latent, transport.x[0])
    best = min(float((latent - points[list(p)]).square().sum()) for p in itertools.permutations(range(6)))
    assert float((transport.x[0] - transport.x[1]).square().sum()) == pytest.approx(best)
    assert independent.bend == pytest.approx(1) == transport.bend
    assert min(linear.bend, curved.bend) > 1.001


def test_frames_are_one_where_they_can_be() -> None:
    points = drawn(50)
    times = torch.tensor([0.01, 0.5, 0.9], dtype=torch.float64)
    assert len(set(figures.frames(Linear(), points, times))) == 1
    small, middle, large = (right - left for left, right, _, _ in figures.frames(Edm(), points, 80 * times))
    assert small < middle < large


def test_a_frame_holds_the_law_it_is_for(schedule: Schedule) -> None:
    points = drawn(500)
    for cloud in figures.noising(empirical(points, schedule), points):
        left, right, bottom, top = cloud.extent
        inside = (cloud.x > torch.tensor([left, bottom])) & (cloud.x < torch.tensor([right, top]))
        assert float(inside.all(1).double().mean()) > 0.97


def test_only_the_plane_is_drawn() -> None:
    points = drawn(5, shape=(3,))
    with pytest.raises(UserError, match="allowed: points in the plane"):
        figures.noising(empirical(points, Linear()), points)


def ink(layer: Dots | Shades) -> tuple[float, float]:
    """Where a layer is drawn in a panel over [0, 1]^2, as shares from the left and from the top."""
    empty = Panel(title="", extent=(0, 1, 0, 1), layers=[])
    blank, full = (panels([[p]], "").astype(int) for p in (empty, replace(empty, layers=[layer])))
    rows, columns = np.nonzero(np.abs(full - blank).sum(2) > 200)
    frame_rows, frame_columns = np.nonzero(blank.sum(2) < 700)
    share = [(a.mean() - f.min()) / np.ptp(f) for a, f in ((columns, frame_columns), (rows, frame_rows))]
    return float(share[0]), float(share[1])


def test_pictures_are_the_right_way_up() -> None:
    corner = np.full((4, 4), -50.0)
    corner[3, 0] = 0.0  # the last row is the highest
    for layer in (Dots(points=np.array([[0.1, 0.9]]), colour="black", size=90, alpha=1), Shades(log_density=corner)):
        assert max(ink(layer)) < 0.4


def test_every_layer_becomes_an_image() -> None:
    at = figures.raster((-1, 1, -1, 1), 4).flatten(0, 1).numpy()
    layers = [
        Shades(log_density=np.zeros((3, 5))),
        Arrows(at=at, vectors=at),
        Arrows(at=at, vectors=np.zeros_like(at)),
        Lines(paths=np.zeros((4, 30, 2))),
        Dots(points=at, colour="red", label="dots"),
    ]
    panel = Panel(title="t", extent=(-1, 1, -1, 1), layers=layers)
    one, four = panels([[panel]], "title"), panels([[panel, panel], [panel, panel]], "title", names=("a", "b"))
    for image in (one, four):
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        assert image.std() > 10
    assert four.shape[0] > 1.5 * one.shape[0]
    assert four.shape[1] == pytest.approx(2 * one.shape[1], abs=2)


@pytest.fixture
def gallery() -> SimpleNamespace:
    """The script as a module."""
    GlobalHydra.instance().clear()  # what a command of another test may have left
    return SimpleNamespace(**runpy.run_path(str(GALLERY)))


@pytest.mark.wide
def test_the_script_draws_every_figure(gallery: SimpleNamespace, tmp_path: Path) -> None:
    gallery.main(["--dataset", "moons", "--schedule", "vp", "--points", "50", "--out", str(tmp_path)])
    found = sorted(path.stem for path in (tmp_path / "moons_vp").glob("*.png"))
    assert found == sorted(figure.__name__ for figure in gallery.FIGURES)
    for name in found:
        image = np.asarray(Image.open(tmp_path / "moons_vp" / f"{name}.png"))
        assert image.shape[2] == 3 < 250 < min(image.shape[:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "moon"], "did you mean 'moons'"),
        (["--dataset", "digits"], "try --dataset moons"),
        (["--schedule", "lin"], "unknown schedule 'lin'"),
        (["--points", "0"], "--points 0"),
    ],
)
def test_mistakes_end_in_one_line(gallery: SimpleNamespace, arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        gallery.main([*arguments, "--out", str(tmp_path)])
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)
