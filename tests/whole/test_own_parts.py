"""Add by adding: a package that dfm knows nothing of brings a path, a data set, a network, a stepper and an objective.

``tests/own_lab`` holds it: a package and a directory of YAML files. The tests copy both into a working directory and
use them as a user does, by ``-cd configs trust=own_lab``.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.cli import Command, Dfm, Outcome

OWN = Path(__file__).parents[1] / "own_lab"
FROM = ("-cd", "configs", "trust=own_lab")
TINY = ("logger=none", "likelihood.solver=euler", "likelihood.steps=1")


@pytest.fixture
def own(command: Command, tmp_path: Path) -> Iterator[Command]:
    """The command line in a working directory with the user's package and YAML files."""
    shutil.copytree(OWN / "own_lab", tmp_path / "own_lab")
    shutil.copytree(OWN / "configs", tmp_path / "configs")
    path, modules = list(sys.path), set(sys.modules)
    yield command
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.split(".")[0] == "own_lab":
            del sys.modules[name]


def train(own: Command, *words: str) -> Path:
    return own("train", *FROM, "experiment=own", *TINY, *words).run


def losses(run: Path) -> list[float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_dfm_knows_not_a_word_of_it() -> None:
    import dfm

    names = ("own_lab", "ShortcutDenoiser", "ralston", "two_blobs", "small_net", "circle.yaml")
    for path in Path(dfm.__file__).parent.rglob("*.py"):
        assert not [name for name in names if name in path.read_text()], path


def test_it_trains_samples_and_scores(own: Command) -> None:
    run = train(own)
    samples = own("sample", "ckpt=latest", "trust=own_lab", "n=6").run
    with np.load(samples / "samples.npz") as content:
        assert content["samples"].shape == (6, 2)
        assert np.isfinite(content["samples"]).all()
    by_own_stepper = own("sample", "-cd", "configs", "trust=own_lab", f"ckpt={run}", "n=6", "sampler=ralston").run
    assert json.loads((by_own_stepper / "sample.json").read_text())["sampler"] == "ralston"
    nll = json.loads((own("nll", f"ckpt={run}", "trust=own_lab", "n=8").run / "nll.json").read_text())
    assert nll["num_examples"] == 8
    assert np.isfinite(nll["nats"])


def test_data_of_ones_own_get_a_network_that_suits_them(own: Command) -> None:
    import yaml

    config = yaml.safe_load(own("train", *FROM, "dataset=two_blobs", "--cfg", "job").out)
    assert config["model"]["_target_"] == "dfm.models.MLP"


def test_a_run_of_two_times_resumes_as_if_it_had_not_stopped(own: Command) -> None:
    """The objective brings a denoiser of its own, and is resumed bit for bit."""
    words = ("objective=shortcut", "trainer.lr_schedule=constant", "sampler=jump")
    whole = train(own, *words, "hydra.run.dir=whole")
    train(own, *words, "trainer.max_steps=2", "hydra.run.dir=half")
    half = own("train", "resume=half", "trust=own_lab", "trainer.max_steps=4").run
    assert losses(half) == losses(whole)
    assert len(losses(half)) == 4
    student = own("sample", f"ckpt={half}", "trust=own_lab", "n=4").run
    facts = json.loads((student / "sample.json").read_text())
    assert (facts["sampler"], facts["settings"]["steps"], facts["nfe"]) == ("own", 4, 4)


def test_it_starts_from_a_teacher_and_is_distilled(own: Command) -> None:
    teacher = train(own)
    train(own, "objective=shortcut", f"init={teacher}")
    student = train(own, "objective=progressive", "objective.start=4", f"init={teacher}")
    assert own("sample", f"ckpt={student}", "trust=own_lab", "n=2").run.is_dir()
    two_times = train(own, "objective=shortcut")
    outcome = own("train", *FROM, "experiment=own", *TINY, f"init={two_times}", code=1)
    assert "its model is" in outcome.err or "takes two times" in outcome.err


def test_its_stepper_has_the_order_that_it_states(own: Command) -> None:
    """``dfm check`` on the user's own law, path and stepper: errors fall with the square of the step."""
    words = (
        "dataset=two_blobs",
        "schedule=circle",
        "sampler=ralston",
        "samplers=[ralston]",
        "steps=[64,128,256]",
        "n=50",
    )
    check = own("check", *FROM, *words).run
    rows = json.loads((check / "check.json").read_text())["errors"]
    assert rows[-1]["order"] == pytest.approx(2, abs=0.2)
    assert "ralston" in json.loads((check / "check.json").read_text())["all"]


@pytest.mark.wide
def test_a_checkpoint_is_swept_by_its_stepper(own: Command) -> None:
    run = train(own)
    words = ("samplers=[ralston,heun]", "steps=[4]", "n=20")
    rows = json.loads((own("check", *FROM, f"ckpt={run}", *words).run / "check.json").read_text())["rows"]
    assert [row["sampler"] for row in rows] == ["ralston", "heun"]


def one_line(outcome: Outcome, *words: str) -> None:
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    "where", [("-cd", "configs"), ("hydra.searchpath=[file://configs]",), ("--config-dir=configs",)]
)
def test_a_misspelt_option_of_ones_own_is_found(own: Command, where: tuple[str, ...], tmp_path: Path) -> None:
    words = [word.replace("file://configs", f"file://{tmp_path}/configs") for word in where]
    one_line(own("train", *words, "schedule=circel", code=1), "unknown schedule 'circel'", "did you mean 'circle'?")
    one_line(own("train", *words, "schedule=circle", "schedule.t_mn=0.1", code=1), "did you mean 'schedule.t_min'?")


def test_code_of_ones_own_must_be_named(own: Command) -> None:
    one_line(own("train", "-cd", "configs", "experiment=own", code=1), "own_lab", "trust=own_lab")
    run = train(own)
    one_line(own("sample", f"ckpt={run}", code=1), "own_lab", "trust=own_lab")


def test_help_shows_ones_own_options(own: Command) -> None:
    out = own("train", "-cd", "configs", "objective=shortcut", "--help").out
    assert "circle" in out
    assert "of a batch with two different times" in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dfm train -cd configs schedule=cir", "schedule=circle"),
        ("dfm train -cd configs schedule=circle schedule.t_m", "schedule.t_max="),
    ],
)
def test_completion_knows_ones_own_options(line: str, expected: str, tmp_path: Path) -> None:
    shutil.copytree(OWN / "configs", tmp_path / "configs")
    environment = {
        **os.environ,
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "dfm", "-sc", "query=bash"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert expected in done.stdout.split(), done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [("trust=own_lab,own_more",), ("trust=[own_lab,own_more]",), ("trust='own_lab, own_more'",)]
)
def test_several_packages_are_trusted(own: Command, words: tuple[str, ...]) -> None:
    own("train", "-cd", "configs", *words, "experiment=own", *TINY, "nll.n=0")


def test_a_multirun_trusts_a_list_and_not_one_after_the_other(own: Command) -> None:
    own(
        "train",
        "-m",
        "-cd",
        "configs",
        "trust=own_lab,own_more",
        "experiment=own",
        *TINY,
        "trainer.seed=0,1",
        "nll.n=0",
    )
    assert len(list(Path("outputs").glob("*/*-sweep/*/checkpoints"))) == 2


def test_a_job_in_a_directory_of_its_own_finds_the_package(own: Command) -> None:
    train(own, "hydra.job.chdir=true", "nll.n=0")


@pytest.mark.wide
def test_another_launcher_finds_the_package(own: Command, dfm: Dfm, tmp_path: Path) -> None:
    words = (
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        *FROM,
        "experiment=own",
        *TINY,
        "trainer.seed=0,1",
    )
    dfm("train", *words, cwd=tmp_path)
    (run, _) = tmp_path.glob("outputs/*/*-sweep/*/checkpoints")
    again = (
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"from={run.parent}",
        "trust=own_lab",
        "trainer.seed=2,3",
    )
    dfm("train", *again, cwd=tmp_path)


def test_only_the_command_line_trusts(own: Command) -> None:
    """No YAML file, no run and no checkpoint does, and nothing but what is named is imported."""
    Path("configs/experiment/sly.yaml").write_text("# @package _global_\ndefaults:\n  - own\ntrust: own_lab\n")
    one_line(own("train", "-cd", "configs", "experiment=sly", *TINY, code=1), "YAML file", "try trust=own_lab")
    run = train(own)
    for name in set(sys.modules):
        if name.split(".")[0] == "own_lab":
            del sys.modules[name]
    Path("other_lab.py").write_text("raise SystemExit('it ran')\n")
    for words in (("train", f"from={run}"), ("train", f"resume={run}", "trainer.max_steps=9"), ("nll", f"ckpt={run}")):
        one_line(own(*words, code=1), "own_lab", "try trust=own_lab")
        one_line(own(*words, "trust=other_lab", code=1), "own_lab", "try trust=other_lab,own_lab")
    assert not {"own_lab", "other_lab"} & sys.modules.keys()
    assert own("train", f"from={run}", "trust=own_lab").run.is_dir()


def test_a_refused_run_names_its_code_again(own: Command) -> None:
    """The command that is printed works as it stands, with -cd and trust=."""
    train(own, "hydra.run.dir=r")
    refused = own("train", *FROM, "experiment=own", *TINY, "hydra.run.dir=r", code=1).problem
    words = refused.partition("try dfm ")[2].partition(", or")[0].split()
    own_files = f"--config-dir={Path('configs').absolute()}"
    assert words == ["train", own_files, "trust=own_lab", f"resume={Path('r').absolute()}"]
    assert "done already" in own(*words).err
