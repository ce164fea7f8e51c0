"""Data of a known law through the commands: nats beside the law's own, and ``dfm check`` on fields."""

import json
from pathlib import Path

import pytest
from support.cli import Command
from support.image_files import write_image

from dfm.cli.composition.command_line import compose
from dfm.runs.parts import Parts

FEW = ("dataset.n_train=64", "dataset.n_validation=8", "dataset.n_test=32")
BRIEF = ("trainer.max_steps=2", "trainer.batch_size=16", "samples.n=4", "sampler.steps=2", "nll.n=0", "logger=none")
SMALL = ("dataset.sides=[6]", "dataset.lengths=[1.0,2.0]")


def read(run: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / name).read_text())
    return found


@pytest.mark.parametrize(("data", "own"), [(("table",), ()), (("signals",), SMALL)], ids=["table", "signals"])
def test_nats_stand_beside_the_laws_own_in_the_unit_of_the_data(
    data: tuple[str, ...], own: tuple[str, ...], command: Command
) -> None:
    """The model is hardly trained, so it is far from the law, by the difference of the two means; both are in files."""
    words = (f"dataset={data[0]}", *FEW, *own)
    run = command("train", *words, "model=mlp", "model.width=16", *BRIEF).run
    scored = command("nll", f"ckpt={run}", "against=oracle", "n=32", "audit=4", "likelihood.steps=8").run
    found, nats = read(scored, "path.json"), read(scored, "nll.json")
    dataset = Parts(compose("train", *words)).dataset
    exact = -float(dataset.law.log_prob(dataset.split("test").all().double()).mean())
    assert found["law_nats"] == pytest.approx(exact, rel=1e-5)
    size = float(len(dataset.split("test").all()[0].flatten()))
    assert found["kl"] == pytest.approx(float(str(nats["nats"])) - exact, abs=0.05), "but for the noise at t_min"
    assert found["kl_per_dim"] == pytest.approx(float(str(found["kl"])) / size)


def test_check_on_fields_of_a_known_law(command: Command) -> None:
    done = command("check", "dataset=signals", *FEW, *SMALL, "n=40", "batch_size=40", "steps=[4,8]", "samplers=[euler]")
    found = read(done.run, "check.json")
    errors = [row["error"] for row in found["errors"]]  # type: ignore[attr-defined]
    assert errors[0] > errors[1] > 0


def test_an_experiment_of_pictures_is_what_a_folder_alone_gets(tmp_path: Path) -> None:
    for size in ((), ("dataset.size=64",), ("dataset.size=8",)):
        words = (f"dataset.path={tmp_path}", *size)
        assert compose("train", "experiment=pictures", *words) == compose("train", "dataset=folder", *words)
    other = compose("train", "experiment=pictures", "dataset=moons")
    assert other == compose("train", "dataset=moons"), "other data get their own recipe"


def test_pictures_of_an_odd_size_are_trained_on_as_they_are(tmp_path: Path, command: Command) -> None:
    for name in range(24):
        write_image(tmp_path / "own" / f"{name}.png", (10 * name, 200, 30), (47, 33))
    thin = ("model.channels=8", "model.groups=4", "model.blocks_per_level=1")
    words = (f"dataset.path={tmp_path / 'own'}", "dataset.size=[33,47]", "dataset.validation=0", "dataset.test=0")
    done = command("train", "experiment=pictures", *words, *thin, *BRIEF)
    assert "recipe=images_64" in done.err
    assert (done.run / "checkpoints" / "step_00000002.pt").exists()
