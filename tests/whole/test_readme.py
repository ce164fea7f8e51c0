"""Every command and the Python of the README, run as they stand but for smaller numbers."""

import re
import shlex
from pathlib import Path

import pytest
from support import ROOT
from support.cli import ALL, QUICK, TINY, Command
from support.image_files import overrides_for

README = (ROOT / "README.md").read_text()
COMMANDS = sorted({re.split(r"\s#", line)[0].strip() for line in re.findall(r"^dfm .*$", README, re.MULTILINE)})
WIDE = [text for text in TINY if not text.startswith("model.")]
WIDE_ODE = ["flow.solver=heun", "flow.steps=2"]
SMALLER = {
    "train": [*TINY], "sample": ["n=4", "sampler.steps=2"], "nll": ["n=4", *QUICK],
    "check": ["n=20", "steps=[4]", "samplers=[euler]"], "encode": ["n=2", *WIDE_ODE],
    "decode": WIDE_ODE, "compare": ["n=2", *WIDE_ODE],
    "eval": ["features=classifier", "features.cache=cache", "features.recipe.steps=2"],
}  # fmt: skip


def test_there_are_commands_to_run() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(SMALLER)


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: str, command: Command, tmp_path: Path) -> None:
    _, name, *arguments = shlex.split(line)
    smaller = list(SMALLER[name])
    if "likelihood=all" in line:
        smaller = ["n=4", "audit=2", *ALL]
    if "bound" in line:
        smaller.remove(QUICK[0])  # it has no solver
    if "ode_exact" in line or "importance" in line:
        smaller = ["n=2", "audit=2", *QUICK]
    if name == "eval" and "samples=" not in line:
        smaller += ["n=4", *SMALLER["sample"][1:]]
    if "cifar" in line:
        smaller = [*WIDE, "trainer.batch_size=2", "samples.n=1", "nll.n=1", *overrides_for("cifar10", tmp_path)]
        smaller += ["trainer.compile=false", "trainer.precision=fp32", "model.channels=32"]  # test_presets has it whole
    if "objective=progressive" in line:
        smaller.append("objective.start=4")
    if "objective=reflow" in line:
        smaller += ["objective.n=4", "objective.solver_steps=1"]
    if "model=mlp" in line:
        smaller = [text for text in WIDE if "nll.n=0" not in line or not text.startswith("nll.")]
    if "langevin" in line:
        smaller.append("dataset.n_validation=8")  # a chain of a thousand steps for each batch
    if name != "train" or "RUN_OF_TRAIN" in line:
        classes = ("conditional=true", "label_dropout=0.1") if "cfg" in line or "per_class" in line else ()
        made = {"RUN_OF_TRAIN": str(command("train", *TINY, *classes).run)}
        if "RUN_OF_CLASSIFIER" in line:
            made["RUN_OF_CLASSIFIER"] = str(command("train", "objective=classifier", *TINY).run)
        if "RUN_OF_SAMPLE" in line:
            made["RUN_OF_SAMPLE"] = str(command("sample", "ckpt=latest", *SMALLER["sample"]).run)
        if "RUN_OF_ENCODE" in line:
            made["RUN_OF_ENCODE"] = str(command("encode", "ckpt=latest", *SMALLER["encode"]).run)
        for placeholder, run in made.items():
            arguments = [text.replace(placeholder, run) for text in arguments]
    outcome = command(name, *arguments, *smaller)
    assert outcome.run.is_dir()


def test_python(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command("train", *TINY)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict[str, object] = {}
    exec(code, found)
    assert found["log_p"].shape == (16,)  # type: ignore[attr-defined]
