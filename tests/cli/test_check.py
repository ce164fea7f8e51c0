"""``dfm check``: on a law known exactly, on a model, and its mistakes."""

import json
from pathlib import Path

import pytest
from support.cli import Command, one_error

QUICK = ("n=40", "batch_size=40", "steps=[4,8]", "samplers=[euler,dopri5,ancestral]")


def test_check_on_the_oracle(command: Command) -> None:
    done = command("check", "sampler=midpoint", "schedule=vp", *QUICK)
    found = json.loads((done.run / "check.json").read_text())
    assert [row["steps"] for row in found["errors"]] == [4, 8]
    assert found["errors"][1]["order"] is not None
    assert set(found["all"]) == {"euler", "dopri5", "ancestral"}
    assert found["all"]["ancestral"][0]["error"] is None, "no trajectory to compare a stochastic one with"
    assert {row["kept"] for row in found["marginals"]} <= {True, False}
    assert (done.run / "error_against_nfe.png").exists()


def test_check_on_a_model(tiny_run: Path, command: Command) -> None:
    done = command("check", f"ckpt={tiny_run}", *QUICK)
    found = json.loads((done.run / "check.json").read_text())
    assert [(row["sampler"], row["steps"]) for row in found["rows"]] == [
        ("euler", 4), ("euler", 8), ("dopri5", None), ("ancestral", 4), ("ancestral", 8),
    ]  # fmt: skip
    assert all(row["nfe"] > 0 for row in found["rows"])
    assert (done.run / "quality_against_nfe.png").exists()


def test_a_check_with_too_few_samples_for_an_error_names_their_number(tiny_run: Path, command: Command) -> None:
    """It must not warn of each sampler in turn and end well with an empty table."""
    assert "n=4; allowed: at least 8" in command("check", f"ckpt={tiny_run}", "n=4", code=1).problem


@pytest.mark.wide
def test_check_tells_a_wrong_network_from_a_wrong_sampler(command: Command) -> None:
    """The exact denoiser as a checkpoint: path divergence next to nothing; a network of two steps: a lot."""
    exact = command("train", "experiment=mixture_oracle", "trainer.max_steps=1", "nll.n=0", "samples.n=10").run
    raw = command("train", "dataset=mixture", "model=mlp", "trainer.max_steps=2", "nll.n=0", "samples.n=10").run
    nats = [
        json.loads((command("check", f"ckpt={run}", *QUICK).run / "check.json").read_text())["path_divergence"]["nats"]
        for run in (exact, raw)
    ]
    assert nats[0] < 1e-6
    assert nats[1] > 0.1


@pytest.mark.parametrize(
    ("given", "word"),
    [(["samplers=[heum]"], "heun"), (["steps=[]"], "steps"), (["steps=[0]"], "steps"), (["dataset=moons"], "mixture"),
     (["n=0"], "n=0"), (["ckpt=/nowhere"], "nowhere")],
)  # fmt: skip
def test_mistakes(given: list[str], word: str, command: Command) -> None:
    message = command("check", *given, code=1).err
    assert word in message
    assert one_error(message)
