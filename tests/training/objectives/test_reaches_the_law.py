"""A model that an objective says has an ODE must reach the law of the data: its nats against the mixture's own."""

import csv

import pytest
import torch
from support.cli import Command

from dfm.cli.composition.command_line import compose
from dfm.cli.composition.config_dirs import options
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.data.toys import Mixture
from dfm.runs.parts import Parts

TRAINING = (
    "dataset=mixture", "dataset.n_train=20000", "model=mlp", "model.width=64", "trainer=default",
    "trainer.max_steps=2000", "trainer.batch_size=256", "trainer.lr=4e-3", "trainer.ema_decay=0.99",
    "trainer.sample_every=0", "trainer.validate_every=0", "trainer.checkpoint_every=0", "samples.n=2", "logger=none",
    "nll.n=400", "nll.split=test", "nll.audit=2", "likelihood=ode_exact", "likelihood.solver=dopri5",
)  # fmt: skip
WITH_AN_ODE = {
    "denoising", "edm", "flow_matching", "interpolant", "langevin", "meanflow", "noise", "score", "v",
}  # fmt: skip
# A batch of any size costs one chain, so it has few large ones; and f = |x|^2/2 bears a short chain.
OF_LANGEVIN = (
    "prior=potential", "objective.steps=100", "trainer.batch_size=2048", "trainer.max_steps=300",
    "trainer.ema_decay=0.97",
)  # fmt: skip


@pytest.mark.wide
def test_no_objective_with_an_ode_is_left_out() -> None:
    """A reflow with a last round, the default, has none; it learns from its teacher's pairs and not from the data."""

    def has_ode(name: str) -> bool:
        objective = Parts(compose("train", f"objective={name}")).objective
        return objective.trains == "denoiser" and objective.outcome({}).has_ode

    assert {name for name in options("objective") if has_ode(name)} == WITH_AN_ODE


@pytest.mark.wide
@pytest.mark.parametrize("name", sorted(WITH_AN_ODE))
def test_nats_are_those_of_the_law(name: str, command: Command, mixture: GaussianMixture) -> None:
    """The mean over 400 points of log p - log p_model, an estimate of the divergence, is below 0.1 nats."""
    own = OF_LANGEVIN if name == "langevin" else ()
    given = {word.partition("=")[0] for word in own}
    training = [word for word in TRAINING if word.partition("=")[0] not in given]
    run = command("train", *training, *own, f"objective={name}").run
    with (run / "nll.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = Mixture(
        means=mixture.means.tolist(), covariances=mixture.covariances.tolist(), weights=mixture.weights.tolist()
    ).split("test").values[[int(row["index"]) for row in rows]]  # fmt: skip
    nats = torch.tensor([float(row["nats"]) for row in rows], dtype=torch.float64)
    divergence = float((nats + mixture.log_prob(points.double())).mean())
    assert -0.02 < divergence < 0.1
