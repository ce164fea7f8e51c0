"""What the command line sets and nothing would heed is refused in one line, and what is heeded is not."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.cli import TINY, Command, one_error

FLOW = ["n=2", "flow.solver=euler", "flow.steps=1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "mask=left"], "task=inpaint"),
        (["sample", "split=train"], "without a task"),
        (["sample", "task.method=dps"], "without a task"),
        (["sample", "task=colorize", "mask=left"], "task="),
        (["sample", "sampler=dopri5", "grid=rho"], "chooses its times"),
        (["eval", "features=coordinates", "sampler=bosh3", "grid=rho"], "chooses its times"),
        (["encode", "flow.steps=2"], "flow.rtol and flow.atol; try flow.solver=heun flow.steps=2, or without it"),
        (["compare", "other=latest", "grid@flow.grid=rho"], "flow.rtol"),
        (["encode", "flow.solver=rk4", "flow.rtol=1e-3"], "flow.solver=rk4"),
        (["nll", "likelihood.solver=dopri5", "likelihood.steps=9"], "likelihood.rtol"),
        (["nll", "likelihood.solver=dopri5", "grid@likelihood.grid=rho"], "likelihood.rtol"),
        (["nll", "likelihood.atol=1e-3"], "rk5; try likelihood.solver=dopri5 likelihood.atol=1e-3"),
        (["nll", "likelihood.steps=2", "likelihood.tolerance=0.1"], "beside likelihood.steps"),
        (["nll", "likelihood.chunk=2"], "hutchinson; try likelihood.divergence=exact likelihood.chunk=2"),
        (["nll", "likelihood=bound_sde", "likelihood.variance=forward"], "continuous time"),
        (["nll", "likelihood=bound_sde", "likelihood.decoder=gaussian", "likelihood.cut=9"], "gaussian"),
        (["nll", "likelihood=bound_discrete", "dequantization=uniform"], "scores the integers themselves"),
        (["nll", "likelihood=bound_discrete", "dequantization=importance"], "scores the integers themselves"),
        (["nll", "likelihood=bound_sde", "dequantization=truncated_normal"], "scores the integers themselves"),
        (["check", "sampler=rk4"], "samplers="),
        (["check", "likelihood.steps=3"], "samplers="),
        (["check", "dataset=digits"], "samplers="),
    ],
)
def test_idle_settings_are_refused(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command(*arguments, f"ckpt={tiny_run}", code=1)
    assert says in outcome.err
    assert outcome.problem


@pytest.mark.parametrize(
    "arguments",
    [
        ["objective=consistency", "weight=min_snr"],
        ["objective=meanflow", "weight=min_snr"],
        ["objective=flow_matching", "pacing=doubling"],
        ["dataset=moons", "model=mlp", "objective=langevin", "density=log_nsr"],
        ["objective=classifier", "weight=edm"],
        ["objective=classifier", "prior=laplace"],
        ["objective=classifier", "prediction=noise"],
        ["likelihood.solver=dopri5"],
    ],
)
def test_groups_that_the_objective_takes_none_of_are_refused(arguments: list[str], command: Command) -> None:
    tiny = [text for text in TINY if not ("model=mlp" in arguments and text.startswith("model"))]
    outcome = command("train", *tiny, *arguments, code=1)
    idle = "likelihood.steps=1" if "likelihood" in arguments[-1] else arguments[-1]
    assert f"{idle}: it has no effect on" in outcome.err
    assert outcome.problem


def test_what_is_heeded_is_taken(tiny_run: Path, command: Command) -> None:
    command("encode", f"ckpt={tiny_run}", *FLOW, "grid@flow.grid=rho")
    command("encode", f"ckpt={tiny_run}", "n=1", "flow.rtol=0.1", "flow.atol=0.1")
    command("sample", f"ckpt={tiny_run}", "n=1", "sampler=euler", "sampler.steps=1", "grid=rho", "task=none")
    quick = ["n=2", "audit=2"]
    command("nll", f"ckpt={tiny_run}", *quick, "likelihood.steps=1", "grid@likelihood.grid=rho", "likelihood.probes=2")
    command("train", "objective=consistency", "density=log_nsr", "pacing=easy", *TINY, "nll.n=0")


def test_in_a_multirun_what_another_job_heeds_is_a_warning(tiny_run: Path, command: Command) -> None:
    outcome = command("sample", "-m", f"ckpt={tiny_run}", "n=1", "sampler=dopri5,euler", "grid=rho")
    assert outcome.err.count("grid=rho: it has no effect on an adaptive sampler") == 1
    assert len(list(Path("multirun").rglob("samples.npz")) + list(Path("outputs").rglob("*/samples.npz"))) == 2


def test_a_discrete_bound_begins_where_its_decoder_does(tiny_run: Path, command: Command) -> None:
    """Half of one of 17 cells of [-1, 1] is three deviations of the noise: b/a = 1/(3 * 17)."""
    run = command("nll", f"ckpt={tiny_run}", "likelihood=bound_discrete", "likelihood.steps=2", "n=2").run
    facts = json.loads((run / "nll.json").read_text())
    assert facts["nsr_min"] == pytest.approx(1 / 51, rel=1e-6)


def test_latents_of_another_prior_are_refused(tiny_run: Path, command: Command) -> None:
    other = command("train", *TINY, "prior=uniform", "nll.n=0").run
    latents = command("encode", f"ckpt={tiny_run}", *FLOW).run
    command("decode", f"ckpt={tiny_run}", f"latents={latents}", *FLOW[1:])
    refused = command("decode", f"ckpt={other}", f"latents={latents}", code=1).err
    assert "latents from a model with this model's prior" in refused
    assert one_error(refused)
    with np.load(latents / "latents.npz") as content:
        np.savez("plain.npz", latents=content["latents"])
    command("decode", f"ckpt={other}", "latents=plain.npz", *FLOW[1:])
