"""The command line as a user meets it: files, keys, exit codes, one-line errors, help and completion."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import QUICK, TINY, Command, Trained

from dfm.cli.composition.command_line import compose
from dfm.cli.composition.config_dirs import options
from dfm.runs.parts import Parts
from dfm.sampling.draw import DEFAULT_SAMPLER


def test_a_training_run_leaves_what_the_contract_says(tiny_run: Path) -> None:
    names = {p.name for p in tiny_run.iterdir()}
    assert names >= {
        "config.yaml", "overrides.txt", "environment.json", "train.log", "metrics.jsonl", "checkpoints", "samples",
        "nll.json", "nll.csv", "tensorboard",
    }  # fmt: skip
    assert [p.name for p in (tiny_run / "checkpoints").iterdir()] == ["step_00000002.pt"]
    assert {p.name for p in (tiny_run / "samples").iterdir()} == {"step_00000000.png", "step_00000002.png"}
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "loss" in line)
    assert set(step) == {
        "step", "images", "loss", "learning_rate", "grad_norm", "images_per_second", "seconds",
    }  # fmt: skip
    assert step["images"] == 64
    assert any("validation_loss" in line for line in lines)
    assert "trainer.batch_size=32" in (tiny_run / "overrides.txt").read_text().splitlines()
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert environment["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "run directory" in (tiny_run / "train.log").read_text()
    assert "${" not in (tiny_run / "config.yaml").read_text(), "the configuration is resolved"
    assert list((tiny_run / "tensorboard").glob("events.*"))


def test_sample_and_nll_leave_what_the_contract_says(tiny_run: Path, command: Command) -> None:
    run = command("sample", "ckpt=latest", "n=5", "sampler=heun", "sampler.steps=3", "png=true").run
    samples = np.load(run / "samples.npz", allow_pickle=False)["samples"]
    assert samples.shape == (5, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert len(list((run / "png").iterdir())) == 5
    assert np.array_equal(np.asarray(Image.open(run / "png" / "000003.png")), samples[3, :, :, 0])
    facts = json.loads((run / "sample.json").read_text())
    assert facts["sampler"] == "heun"
    assert facts["nfe"] == 7
    assert facts["checkpoint_step"] == 2
    assert {"seconds", "seed"} <= set(facts)
    Image.open(run / "grid.png").verify()

    run = command("nll", f"ckpt={tiny_run}", "n=6", "likelihood.steps=2").run
    result = json.loads((run / "nll.json").read_text())
    for key in (
        "bits_per_dim", "nats", "stderr", "stderr_data", "stderr_probe", "stderr_dequantization", "solver_error",
        "converged", "num_examples", "nfe", "levels",
    ):  # fmt: skip
        assert key in result
    assert (result["num_examples"], result["levels"], result["nfe"]) == (6, 17, 12)
    rows = (run / "nll.csv").read_text().splitlines()
    assert rows[0] == "index,nats,bits_per_dim"
    values = [float(row.split(",")[1]) for row in rows[1:]]
    assert len(values) == 6
    assert np.mean(values) == pytest.approx(result["nats"], rel=1e-8)
    assert result["bits_per_dim"] == pytest.approx(result["nats"] / 64 / np.log(2))


def test_sample_k_is_the_same_alone_and_at_any_batch_size(tiny_run: Path, command: Command) -> None:
    def draw(*arguments: str) -> np.ndarray:
        run = command(
            "sample", f"ckpt={tiny_run}", "sampler=euler_maruyama", "sampler.steps=4", "seed=3", *arguments
        ).run
        return np.load(run / "samples.npz")["samples"]

    whole = draw("n=7", "batch_size=7")
    assert np.array_equal(draw("n=7", "batch_size=3"), whole)
    assert np.array_equal(draw("index=5"), whole[5:6])


EULER = ("likelihood.solver=euler", "likelihood.steps=3")


def test_the_likelihood_does_not_depend_on_the_batch_size(tiny_run: Path, command: Command) -> None:
    def values(size: int) -> np.ndarray:
        run = command("nll", f"ckpt={tiny_run}", "n=7", "audit=1", *EULER, f"batch_size={size}").run
        return np.genfromtxt(run / "nll.csv", delimiter=",", skip_header=1)[:, 1]

    assert np.allclose(values(7), values(2), rtol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("edm", "vp") else pytest.mark.wide) for n in options("schedule")]
)
def test_any_schedule_on_one_checkpoint(name: str, tiny_run: Path, command: Command) -> None:
    """Every schedule by its SDE and its ODE (the likelihood's), on what was trained on the linear path.

    Every sampler in this way: see test_presets.
    """
    words = [f"ckpt={tiny_run}", f"schedule={name}", "n=2"]
    run = command("sample", *words, "sampler=ancestral", "sampler.steps=2").run
    assert (run / "samples.npz").exists()
    command("nll", *words, *QUICK)


def test_a_conditional_model(trained: Trained, command: Command) -> None:
    run = trained(*TINY, "conditional=true").run
    sampled = command("sample", f"ckpt={run}", "label=3", "n=4", "sampler.steps=2").run
    assert np.load(sampled / "samples.npz")["labels"].tolist() == [3, 3, 3, 3]
    sampled = command("sample", f"ckpt={run}", "n=12", "sampler.steps=2").run
    assert np.load(sampled / "samples.npz")["labels"].tolist() == [*range(10), 0, 1]
    assert "allowed: 0 to 9" in command("sample", f"ckpt={run}", "label=10", code=1).err
    alone = command("sample", f"ckpt={run}", "index=7", "sampler.steps=2").run
    found = [np.load(path / "samples.npz") for path in (alone, sampled)]
    assert found[0]["labels"].tolist() == [7]
    assert np.array_equal(found[0]["samples"][0], found[1]["samples"][7])
    command("nll", f"ckpt={run}", "n=4", "likelihood.steps=1")


@pytest.mark.parametrize("columns", [(1.0, 1.0), (1.0, 1000.0)], ids=["alike", "1 and 1000"])
def test_points(command: Command, columns: tuple[float, float]) -> None:
    """Nats instead of bits, float samples, a cloud instead of a grid: on the exact denoiser, so the figure is known.

    If a column is a thousand times as large, the model sees it scaled, and samples and nats are in the file's unit.
    """
    means = [[-1.5 * columns[0], 0.0], [columns[0], columns[1]]]
    law = [f"dataset.means={means}", f"dataset.covariances=[[{0.3 * columns[0] ** 2},{0.2 * columns[1] ** 2}],"
           f"[{0.1 * columns[0] ** 2},{0.4 * columns[1] ** 2}]]", "dataset.weights=[0.6,0.4]"]  # fmt: skip
    run = command("train", "experiment=mixture_oracle", *law, "trainer.max_steps=3", "samples.n=20", "nll.n=500").run
    result = json.loads((run / "nll.json").read_text())
    assert result["unit"] == "nats"
    assert result["bits_per_dim"] is None
    from dfm.data.toys import Mixture
    from dfm.runs.metrics import read_metrics

    config = __import__("yaml").safe_load((run / "config.yaml").read_text())["dataset"]
    config.pop("_target_")
    data = Mixture(**config)
    exact = -float(data.mixture.log_prob(data.split("validation").values[:500].double()).mean())
    assert result["nats"] == pytest.approx(exact, abs=3 * result["stderr_probe"] + 0.01)
    assert len([line for line in read_metrics(run / "metrics.jsonl") if "loss" in line]) == 1
    sampled = command("sample", f"ckpt={run}", "n=300").run
    points = np.load(sampled / "samples.npz")["samples"]
    assert points.shape == (300, 2)
    assert points.dtype == np.float32
    variance = 0.6 * 0.4 * np.array([2.5, 1.0]) ** 2 + [0.6 * 0.3 + 0.4 * 0.1, 0.6 * 0.2 + 0.4 * 0.4]
    assert points.std(0) / columns == pytest.approx(np.sqrt(variance), rel=0.2)


def test_a_multirun_ends_with_one_table(command: Command) -> None:
    outcome = command("train", *TINY, "-m", "objective=denoising,score")
    assert (outcome.run / "multirun.yaml").exists()
    assert sorted(p.name for p in outcome.run.iterdir() if p.is_dir()) == ["0", "1"]
    table = outcome.out[outcome.out.index("jobs of this multirun") :]
    for word in ("denoising", "score", "loss", "bits/dim", "path"):
        assert word in table
    assert outcome.out.count("jobs of this multirun") == 1


def test_damaged_checkpoints(tiny_run: Path, command: Command) -> None:
    """A cut file is refused by name; a run directory falls back to the newest whole one, and says so."""
    whole = tiny_run / "checkpoints" / "step_00000002.pt"
    cut = tiny_run / "checkpoints" / "step_00000009.pt"
    cut.write_bytes(whole.read_bytes()[:5000])
    outcome = command("sample", f"ckpt={cut}", code=1)
    assert "step_00000009.pt is not a whole checkpoint" in outcome.err
    assert outcome.problem
    outcome = command("sample", f"ckpt={tiny_run}", "n=2", "sampler.steps=1")
    assert "step_00000009.pt" in outcome.err
    assert json.loads((outcome.run / "sample.json").read_text())["checkpoint_step"] == 2


def test_an_option_that_the_yaml_does_not_list(command: Command) -> None:
    assert "try +model.scale_shift=" in command("train", "model.scale_shift=true", code=1).err
    command("train", *TINY, "+model.scale_shift=true")


def test_a_new_run_never_overwrites_another(tiny_run: Path, command: Command) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    outcome = command("train", *TINY, f"hydra.run.dir={tiny_run}", code=1)
    assert f"try dfm train resume={tiny_run}" in outcome.err
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


def test_help_lists_the_commands(command: Command) -> None:
    from dfm.cli.settings import COMMANDS

    for arguments in ([], ["--help"]):
        out = command(*arguments).out
        for name, command_ in COMMANDS.items():
            assert name in out
            assert command_.summary in out
            assert command_.example in out
    assert re.fullmatch(r"dfm \d+\.\d+\.\d+\n", command("--version").out)


@pytest.mark.parametrize("name", ["train", "sample", "eval", "nll", "check", "encode", "decode", "compare"])
def test_help_and_cfg_of_each_command(name: str, command: Command) -> None:
    out = command(name, "--help").out
    assert f"dfm {name}:" in out
    assert re.search(r"^    schedule +.*cosine, custom, ddpm, edm, langevin, \[?linear", out, re.MULTILINE)
    assert "ckpt" in out or name == "train"
    assert "_target_" in command(name, "--cfg", "job").out


LIGHT = """
import sys
from dfm.cli.main import main
sys.argv = {argv!r}
try:
    main()
except SystemExit:
    pass
heavy = sorted({{"torch", "torchvision", "numpy"}} & set(sys.modules))
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("argv", "line", "expected"),
    [
        (["dfm", "--help"], None, "dfm nll"),
        (["dfm", "train", "--help"], None, "classifier, consistency, denoising"),
        (["dfm", "-sc", "query=bash"], "dfm tr", "train"),
        (["dfm", "-sc", "query=bash"], "dfm train objective=", "objective=flow_matching"),
        (["dfm", "-sc", "query=bash"], "dfm sample sampler=eu", "sampler=euler_maruyama"),
        (["dfm", "-sc", "query=bash"], "dfm nll likelihood.s", "likelihood.steps="),
        (["dfm", "-sc", "install=bash"], None, "hydra_bash_completion dfm"),
    ],
)
def test_help_and_completion_import_no_torch(argv: list[str], line: str | None, expected: str, tmp_path: Path) -> None:
    environment = {**os.environ, **({"COMP_LINE": line} if line else {})}
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(argv=argv)], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


COMMANDS_START = """
import importlib, sys
from dfm.cli.settings import COMMANDS
for command in COMMANDS.values():
    importlib.import_module(f"dfm.cli.commands.{command.module}")
slow = sorted({"torchvision", "torch._dynamo", "sympy", "sklearn", "diffusers"} & set(sys.modules))
assert not slow, slow
"""


def test_no_command_waits_for_what_only_some_need() -> None:
    """Torchvision brings torch's compiler and sympy, which take as long to import as torch itself."""
    done = subprocess.run([sys.executable, "-c", COMMANDS_START], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_samples_by_default_as_the_command_does() -> None:
    assert Parts(compose("sample")).sampler == DEFAULT_SAMPLER


def test_python_api(tiny_run: Path) -> None:
    import dfm

    denoiser = dfm.load(tiny_run)
    samples = dfm.sample(denoiser, 5, seed=1, batch_size=2)
    assert samples.shape == (5, 1, 8, 8)
    assert torch.allclose(samples, dfm.sample(denoiser, 5, seed=1), atol=1e-5)
    values = dfm.log_likelihood(denoiser, samples.clamp(-1, 1))
    assert values.shape == (5,)
    assert values.dtype == torch.float64
