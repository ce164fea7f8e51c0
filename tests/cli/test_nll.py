"""The command dfm nll: all estimators at once, processes that share the work, paths held against each other."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import Command


def read(run: Path, name: str = "nll.json") -> dict:
    return json.loads((run / name).read_text())


def nats(run: Path) -> np.ndarray:
    table = np.genfromtxt(run / "nll.csv", delimiter=",", skip_header=1)
    assert table[:, 0].tolist() == list(range(len(table)))
    return table[:, 1]


QUICK = ("likelihood.ode.steps=1", "likelihood.ode_exact.steps=1", "likelihood.ode_exact.solver=euler",
         "likelihood.bound_sde.steps=4", "likelihood.bound_discrete.steps=4", "likelihood.samples=2")  # fmt: skip


def test_all_estimators_side_by_side(tiny_run: Path, command: Command) -> None:
    outcome = command("nll", f"ckpt={tiny_run}", "likelihood=all", "n=6", "audit=3", *QUICK)
    run = outcome.run
    found = read(run)
    assert [(r["estimator"], r["dequantization"], r["num_examples"]) for r in found["estimators"]] == [
        ("ode", "uniform", 6), ("ode", "truncated", 6), ("ode", "uniform x 2", 3), ("ode_exact", "uniform", 3),
        ("bound_sde", "uniform", 6), ("bound_discrete", None, 6),
    ]  # fmt: skip
    assert found["bits_per_dim"] == found["estimators"][0]["bits_per_dim"]
    exact = found["estimators"][3]
    assert abs(exact["hutchinson"]["z"]) < 5
    assert exact["hutchinson"]["n"] == 3
    assert "z = " in outcome.out
    assert exact["stderr_probe"] == 0
    with (run / "estimators.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6
    for name in ("levels_bound_sde", "levels_bound_discrete"):
        assert (run / f"{name}.csv").exists()
        Image.open(run / f"{name}.png").verify()
    assert len(nats(run)) == 6


@pytest.mark.parametrize("noise", ["uniform", "truncated_normal", "importance"])
def test_each_dequantisation(noise: str, tiny_run: Path, command: Command) -> None:
    few = ["dequantization.samples=3"] if noise == "importance" else []
    found = read(command("nll", f"ckpt={tiny_run}", f"dequantization={noise}", *few, "n=3", "likelihood.steps=1").run)
    assert found["dequantization"] == {"truncated_normal": "truncated", "importance": "uniform x 3"}.get(noise, noise)
    assert found["nfe"] == (18 if noise == "importance" else 6)
    assert found["nsr_min"] == pytest.approx(1 / 51 if noise == "truncated_normal" else 1 / 999)
    assert 0 < found["prior_gap"] < 1e-5, "of order 1/nsr^2 at the other end, where nsr is 999"


@pytest.mark.wide
def test_two_processes_give_what_one_gives(tiny_run: Path, command: Command, tmp_path: Path) -> None:
    """torchrun with two processes: the same values to 1e-5, one run directory, one last line."""
    arguments = ["nll", f"ckpt={tiny_run}", "n=7", "batch_size=2", "likelihood.steps=2", "audit=4"]
    alone = command(*arguments).run
    before = sorted(p.name for p in tmp_path.iterdir())
    together = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dfm", *arguments,
         "hydra.run.dir=shared"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert together.returncode == 0, together.stderr
    assert together.stdout.strip().splitlines()[-1].endswith("shared")
    assert together.stdout.count("(standard error; 95 %") == 1, "two processes, one voice"
    assert np.allclose(nats(tmp_path / "shared"), nats(alone), rtol=1e-5)
    one, two = read(alone), read(tmp_path / "shared")
    for key in ("bits_per_dim", "stderr", "stderr_probe", "nfe"):
        assert two[key] == pytest.approx(one[key], rel=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "shared"])


def test_a_command_that_is_not_shared_says_so(tmp_path: Path) -> None:
    """Of two processes one would overwrite the other: refused in one line before anything is written."""
    done = subprocess.run(
        [sys.executable, "-m", "dfm", "encode"], cwd=tmp_path, capture_output=True, text=True, timeout=100,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "2"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "start it without torchrun" in done.stderr
    assert list(tmp_path.iterdir()) == []


MIXTURE = ("dataset=mixture", "model=mlp", "trainer.batch_size=256", "samples.n=4", "sampler.steps=2", "nll.n=0",
           "trainer.sample_every=0")  # fmt: skip


@pytest.mark.wide
def test_the_path_divergence_is_above_kl(command: Command) -> None:
    """A network on the mixture, briefly and longer trained: KL(data, model) <= path divergence, each +- its error.

    The inequality is for the reverse SDE; the likelihood is the ODE's, whose KL is smaller still here. The divergence
    from the oracle must also fall with training, and a model's divergence from itself be nothing.
    """
    runs, divergence = {}, {}
    for steps in (20, 300):
        run = command("train", *MIXTURE, f"trainer.max_steps={steps}", f"trainer.checkpoint_every={steps}").run
        runs[steps] = run
        words = ["against=oracle", "n=600", "batch_size=600", "audit=8", "likelihood.divergence=exact"]
        scored = command("nll", f"ckpt={run}", *words).run
        found = read(scored, "path.json")
        divergence[steps] = found["path_divergence"]
        margin = 3 * math.hypot(found["path_divergence_stderr"], found["kl_stderr"])
        assert found["kl"] < found["path_divergence"] + margin
        rows = np.genfromtxt(scored / "path.csv", delimiter=",", skip_header=1)
        total = np.trapezoid(rows[:, 1], rows[:, 0])
        assert total + found["start_gap"] == pytest.approx(found["path_divergence"], rel=1e-6)
        Image.open(scored / "path.png").verify()
    assert divergence[300] < divergence[20] / 2
    given = [f"ckpt={runs[20]}", "n=200", "batch_size=200", "audit=8", "likelihood.steps=4"]
    forth = read(command("nll", *given, f"against={runs[300]}").run, "path.json")
    assert forth["gain"] > 3 * forth["gain_stderr"], "the longer trained one is nearer"
    itself = read(command("nll", *given, f"against={runs[20]}").run, "path.json")
    assert itself["gain"] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["+dataset.flip=true"], "scored once"),
        (["against=oracle"], "mixture"),
        (["against=nowhere"], "against=nowhere: no such"),
        (["dequantization=importance", "likelihood=bound_sde"], "log p"),
        (["dequantization=importance", "dequantization.samples=0"], "at least 1"),
        (["likelihood=bound_sde", "likelihood.decoder=vmd"], "did you mean 'vdm'"),
        (["likelihood.path=owned"], "own"),
        (["likelihood.tolerance=0"], "tolerance"),
        (["likelihood.steps=0"], "at least 1"),
        (["audit=many"], "type int"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command("nll", f"ckpt={tiny_run}", "n=2", *arguments, code=1)
    assert outcome.problem
    assert says in outcome.err


def test_all_dequantisations_or_one(tiny_run: Path, command: Command) -> None:
    err = command("nll", f"ckpt={tiny_run}", "dequantization=uniform", "likelihood=all", code=1).err
    assert "allowed: one of the two" in err


def test_points_have_no_levels_to_dequantise(command: Command) -> None:
    run = command("train", *MIXTURE, "trainer.max_steps=1").run
    for arguments, says in (
        (["dequantization=uniform"], "no integer levels"),
        (["likelihood=bound_discrete"], "no integer levels"),
    ):
        assert says in command("nll", f"ckpt={run}", "n=2", *arguments, code=1).err


def test_a_file_that_is_not_a_model_of_dfm(command: Command, tmp_path: Path) -> None:
    """The weights of a classifier, say."""
    torch.save(torch.nn.Linear(64, 10).state_dict(), tmp_path / "classifier.pt")
    assert "not a checkpoint of dfm" in command("nll", "ckpt=classifier.pt", code=1).err


def test_a_split_without_examples(command: Command) -> None:
    run = command("train", *MIXTURE, "trainer.max_steps=1").run
    err = command("nll", f"ckpt={run}", "+dataset.n_test=0", code=1).err
    assert "no examples in it; try split=train" in err
