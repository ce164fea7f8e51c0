"""``from=RUN``: a fresh run with the settings of a stored one, and the changes of the command line on top."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT
from support.cli import FAST, POINTS, Command, Trained

from dfm.runs import directory

GOLDEN = ROOT / "tests" / "golden"
SMALL_RUN = (*POINTS, *FAST, "nll.n=0", "logger=none", "model.width=8", "model.depth=1", "trainer.log_every=1")


def losses(run: Path) -> list[float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def settings(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    return {key: value for key, value in content.items() if key != "from"}


@pytest.fixture
def run(command: Command) -> Path:
    """A run of two steps that was resumed to three."""
    command("train", *SMALL_RUN, "hydra.run.dir=run")
    command("train", "resume=run", "trainer.max_steps=3")
    return Path("run")


def test_it_takes_the_steps_of_a_run_that_was_never_resumed(run: Path, command: Command) -> None:
    """In a directory of its own, from the first step on: also from a checkpoint file, or the weights alone."""
    plain = command("train", *SMALL_RUN, "trainer.max_steps=3").run
    stored = (run / "metrics.jsonl").read_bytes()
    for origin in ("run", str(directory.checkpoints(run)[0]), "run/weights.safetensors"):
        fresh = command("train", f"from={origin}").run
        assert fresh.resolve() != run.resolve()
        assert losses(fresh) == losses(plain)
        assert settings(fresh) == settings(plain)
        assert yaml.safe_load((fresh / "config.yaml").read_text())["from"] == str(Path(origin).absolute())
    assert (run / "metrics.jsonl").read_bytes() == stored


@pytest.mark.parametrize(
    "changes",
    [
        ("trainer.lr=0.5", "schedule=vp"),
        ("objective=edm", "sampler=heun", "grid=rho"),
        ("density=lognormal", "coupling=ot", "model.width=4"),
        pytest.param(("objective=consistency",), marks=pytest.mark.wide),
        pytest.param(("dataset=mixture", "trainer=digits"), marks=pytest.mark.wide),
        pytest.param(("model=oracle", "dataset=mixture", "logger=tensorboard"), marks=pytest.mark.wide),
    ],
)
def test_the_command_line_wins_groups_too(changes: tuple[str, ...], command: Command) -> None:
    """The same as one command line with all of it: what an option chooses in its turn, and what refers to it."""
    command("train", *SMALL_RUN, "hydra.run.dir=run")
    anew = {change.partition("=")[0] for change in changes if "." not in change}  # their options bring their own values
    words = [word for word in SMALL_RUN if word.split("=")[0].split(".")[0] not in anew]
    show = ("train", "--cfg", "job", "--resolve")
    expected, found = (yaml.safe_load(command(*show, *start, *changes).out) for start in (words, ["from=run"]))
    assert found.pop("from") == str(Path("run").absolute())
    expected.pop("from")
    assert found == expected


@pytest.mark.parametrize("words", [(), ("experiment=none",), ("experiment=null",), ("+experiment=none", "recipe=none")])
def test_it_has_no_experiment_and_no_recipe(words: tuple[str, ...], trained: Trained, command: Command) -> None:
    """Other data do not choose another network, and what says that there is none may be said."""
    trained(*SMALL_RUN).run.rename("run")
    shown = ("train", "from=run", "dataset=mixture", "--cfg", "job")
    config = yaml.safe_load(command(*shown, *words).out)
    assert config["model"] == settings(Path("run"))["model"]
    assert config["trainer"] == settings(Path("run"))["trainer"]


@pytest.mark.wide
def test_help_and_advice_are_about_its_settings(trained: Trained, command: Command) -> None:
    trained(*SMALL_RUN).run.rename("run")
    for start in ("from=run", "resume=run"):
        text = command("train", start, "dataset.noise=0.7", "schedule=vp", "--help").out
        for line in (r"model MLP: ", r"dataset\.noise +0\.7 +length of the smear", r"model\.width +8 +of the hidden"):
            assert re.search(rf"^ +{line}", text, re.MULTILINE), line
        assert "schedule=vp: Variance preserving" in text
        assert "did you mean 'dataset.noise'?" in command("train", start, "dataset.nois=1", code=1).problem
        assert "try dataset.noise=3" in command("train", start, "--noise", "3", code=1).problem
        problem = command("train", start, "model.channels=8", code=1).problem
        assert "the model of the run has none" in problem
        assert "does not suit moons points" in problem
        assert "try without model.channels" in problem
    assert "no such file or directory" in command("train", "from=nowhere", "--help", code=1).problem


@pytest.mark.parametrize("name", ["flow", pytest.param("unet", marks=pytest.mark.wide)])
def test_a_run_of_the_first_version_begins_anew(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the losses that it had then, with the random numbers of then."""
    monkeypatch.setattr("dfm.training.trainer.STREAMS", 1)
    expected = json.loads((GOLDEN / "expected.json").read_text())[name]["losses"]
    fresh = command("train", f"from={GOLDEN / name}").run
    assert losses(fresh) == pytest.approx([expected[step] for step in "1234"], rel=1e-4)


def test_a_student_finds_its_teacher_beside_the_run(command: Command, tmp_path: Path) -> None:
    """Its run says ``init=flow_normal``, relative to where it was typed then."""
    for name in ("progressive", "flow_normal"):
        shutil.copytree(GOLDEN / name, tmp_path / "kept" / name)
    outcome = command("train", "from=kept/progressive", "trainer.max_steps=1", "objective.start=2")
    assert f"starts with the averaged weights of {tmp_path / 'kept' / 'flow_normal'}" in outcome.err


def test_a_multirun_of_changes(run: Path, command: Command) -> None:
    command("train", "-m", "from=run", "trainer.seed=1,2", "trainer.max_steps=1", "hydra.sweep.dir=sweep")
    assert [settings(Path("sweep") / job)["trainer"]["seed"] for job in "01"] == [1, 2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("from=nowhere",), "no such file or directory"),
        (("from=run", "experiment=digits_vp"), "each of them chooses all settings"),
        (("from=run", "trainer.lrr=1"), "trainer.lr"),
        (("--config-path", "run", "--config-name", "config"), "try dfm train from={here}/run"),
        (("--config-path=run", "--config-name=config"), "try dfm train from={here}/run"),
        (("-cn", "config"), "try dfm train from=RUN"),
    ],
)
def test_what_it_cannot_do_is_one_line(words: tuple[str, ...], says: str, trained: Trained, command: Command) -> None:
    trained(*SMALL_RUN).run.rename("run")
    assert says.format(here=Path.cwd()) in command("train", *words, code=1).problem


def test_a_stored_file_neither_runs_code_nor_reads_the_environment(
    run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sections of Hydra's in it do not count, and text is text."""
    monkeypatch.setenv("SECRET", "s3cret")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    evil = {"_target_": "builtins.open", "file": "pwned", "mode": "w"}
    more = {"hydra": {"callbacks": {"evil": evil}}, "defaults": ["nothing"], "trust": "os", "..": evil}
    stored["nll"]["split"] = "${oc.env:SECRET}"
    (run / "config.yaml").write_text(yaml.safe_dump({**stored, **more}))
    outcome = command("train", "from=run", code=1)
    assert "defaults, hydra" in outcome.err
    assert "unknown split '${oc.env:SECRET}'" in outcome.problem
    assert not Path("pwned").exists()
    (run / "config.yaml").write_text(yaml.safe_dump({**settings(run), "nll": stored["nll"] | {"split": "validation"}}))
    command("train", "from=run", "trainer.max_steps=1")
