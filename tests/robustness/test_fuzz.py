"""Mangled checkpoints, configurations and command lines: one clear line each time, never anything else.

Hypothesis draws the damage; ``make test-faults`` draws thousands, ``make test`` a few hundred.
"""

import copy
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import TINY, Command, one_error

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.toys import EightGaussians
from dfm.runs import checkpoint
from dfm.runs.loading import denoiser_of
from dfm.runs.parts import Parts
from dfm.sampling.draw import sample
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
CPU = torch.device("cpu")
CONFIG: dict[str, Any] = {
    "model": {"_target_": "dfm.models.MLP", "width": 8, "depth": 1},
    "schedule": {"_target_": "dfm.paths.Linear", "t_min": 0.001, "t_max": 0.999, "sigma_min": 0.0},
    "prediction": {"_target_": "dfm.denoising.Velocity"},
    "prior": {"_target_": "dfm.paths.GaussianPrior"},
    "coupling": {"_target_": "dfm.training.IndependentCoupling"},
    "latent": {"_target_": "dfm.paths.NoLatent"},
    "trainer": {"seed": 0},
    "objective": {
        "_target_": "dfm.training.Regression",
        "density": {"_target_": "dfm.training.UniformDensity"}, "weight": {"_target_": "dfm.training.UniformWeight"},
    },
}  # fmt: skip


def whole() -> checkpoint.Checkpoint:
    spec = DatasetSpec(name="points", shape=(2,), levels=None, num_classes=0, mean=0.0, std=1.0)
    network = Parts(CONFIG).model(spec).module()
    return checkpoint.Checkpoint(config=CONFIG, spec=spec, state={"step": 1, "ema": network.state_dict()})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint and its weights as safetensors."""
    run = tmp_path_factory.mktemp("run")
    path = checkpoint.save(whole(), run / "checkpoints", keep=1)
    checkpoint.save_weights(whole(), run)
    return {"x.pt": path.read_bytes(), "x.safetensors": (run / checkpoint.WEIGHTS).read_bytes()}


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What is done to a file: each at a place between 0 and 1."""
    kinds = st.sampled_from(["flip", "cut", "insert", "drop", "double", "overwrite"])
    return [
        (draw(kinds), draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=16)))
        for _ in range(draw(st.integers(1, 4)))
    ]


def damaged(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, share, extra in edits:
        i = int(share * len(data))
        j = min(len(data), i + len(extra) ** 2)
        data = {
            "flip": data[:i] + bytes(b ^ extra[0] for b in data[i : i + 1]) + data[i + 1 :],
            "cut": data[:i],
            "insert": data[:i] + extra + data[i:],
            "drop": data[:i] + data[j:],
            "double": data[:j] + data[i:],
            "overwrite": data[:i] + extra + data[i + len(extra) :],
        }[kind]
    return data


def one_line_or_fine(action: Any) -> Any:
    """What the action gives, or None where it refuses in one line; anything else is a failure of the test."""
    try:
        return action()
    except UserError as error:
        text = str(error)
        assert text.strip(), "says nothing"
        assert "\n" not in text, text
    return None


def check_files(files: dict[str, bytes], name: str, edits: list[tuple[str, float, bytes]], folder: Path) -> None:
    path = folder / name
    path.write_bytes(damaged(files[name], edits))
    found = one_line_or_fine(lambda: checkpoint.read(path))
    if found is not None:
        one_line_or_fine(lambda: denoiser_of(found, CPU, ("dfm",)))
        assert checkpoint.digest(found.state["ema"]) == checkpoint.digest(
            {key: whole().state["ema"][key] for key in found.state["ema"]}
        ), "no other numbers pass"


@st.composite
def mangled(draw: st.DrawFn) -> dict[str, Any]:
    """The configuration with a few of its parts replaced, renamed or gone."""
    config = copy.deepcopy(CONFIG)
    small = st.one_of(
        st.none(), st.booleans(), st.integers(-3, 40), st.floats(-3, 3), st.just(float("nan")), st.just(float("inf")),
        st.text(max_size=6), st.lists(st.integers(-1, 3), max_size=3), st.dictionaries(st.text(max_size=4), st.none()),
        st.sampled_from(["dfm.models.MLP", "os.system", "dfm.schedules.Edm", "dfm.training.Regression", "dfm"]),
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 3))):
        node: Any = config
        while True:
            key = draw(st.sampled_from(sorted(node, key=str)))
            if isinstance(node[key], dict) and node[key] and draw(st.booleans()):
                node = node[key]
                continue
            break
        how = draw(st.sampled_from(["replace", "drop", "rename", "add"]))
        if how == "replace":
            node[key] = draw(small)
        elif how == "drop":
            del node[key]
        elif how == "rename":
            node[draw(st.text(max_size=5))] = node.pop(key)
        else:
            node[draw(st.text(min_size=1, max_size=5))] = draw(small)
        if not all(isinstance(part, dict) and part for part in (config,)):
            break
    return config


def check_config(config: dict[str, Any]) -> None:
    found = whole()
    one_line_or_fine(
        lambda: denoiser_of(checkpoint.Checkpoint(config=config, spec=found.spec, state=found.state), CPU, ("dfm",))
    )


@st.composite
def wrong_states(draw: st.DrawFn) -> dict[str, Any]:
    """A training state of which a few parts are others, as one who can compute checksums might write it."""
    state = trained().state()
    odd = st.one_of(
        st.none(), st.integers(-3, 2**70), st.text(max_size=4), st.just({}), st.just([]), st.just(float("nan")),
        st.sampled_from([torch.zeros(()), torch.ones(3, 2), torch.ones(2, dtype=torch.complex64), torch.ones(1 << 20)]),
    )  # fmt: skip
    for _ in range(draw(st.integers(1, 3))):
        node: Any = state
        key = draw(st.sampled_from(sorted(node, key=str)))
        while isinstance(node[key], dict) and node[key] and draw(st.integers(0, 3)):
            node = node[key]
            key = draw(st.sampled_from(sorted(node, key=str)))
        if draw(st.booleans()):
            node[key] = draw(odd)
        else:
            del node[key]
        if not isinstance(state, dict) or not state:
            break
    return state


def trained() -> Trainer:
    points = EightGaussians()
    spec = replace(points.spec, num_classes=0)
    config = TrainerConfig(max_steps=1, batch_size=4)
    objective = Parts(CONFIG).objective
    denoiser = Parts(CONFIG).model(spec)
    trainer = Trainer(config, denoiser, objective, points.split("train"), device=CPU)
    list(trainer.steps())
    return trainer


def check_state(state: dict[str, Any], folder: Path) -> None:
    """Under a right checksum: it is read, used for sampling and resumed from, or refused in one line."""
    spec = replace(EightGaussians().spec, num_classes=0)
    path = folder / "x.pt"
    content = {"config": CONFIG, "spec": asdict(spec), "state": state}
    torch.save({"format": checkpoint.FORMAT, **content, "sha256": checkpoint.digest(content)}, path)
    found = one_line_or_fine(lambda: checkpoint.read(path))
    if found is None:
        return

    def resume() -> None:
        trainer = trained()
        with checkpoint.blame_checkpoint(found):
            trainer.load_state(found.state)

    one_line_or_fine(lambda: sample(denoiser_of(found, CPU, ("dfm",)), 1))
    one_line_or_fine(resume)


words = st.sampled_from([
    "model.channels", "trainer.lr", "trainer.batch_size", "schedule", "schedule.t_min", "sampler", "sampler.steps",
    "objective", "objective.start", "dataset", "dataset.path", "prediction", "density", "grid", "likelihood.steps",
    "trainer.max_minutes", "samples.n", "nll.n", "nll.split", "init", "resume", "conditional", "label_dropout", "none",
    "+model.x", "~sampler", "trainer", "hydra.run.dir", "trainer.betas", "model.channel_multipliers", "prior", "latent",
])  # fmt: skip
values = st.one_of(
    st.integers(-5, 20).map(str), st.floats(allow_nan=True).map(str), st.text(max_size=8),
    st.sampled_from(["null", "true", "[1,2]", "{a: 1}", "vp", "ddim", "noise", "moons", "mlp", "nowhere", "''", "???"]),
)  # fmt: skip
lines = st.lists(st.tuples(words, values).map("=".join), min_size=1, max_size=3)


def check_line(command: Command, capsys: Any, line: list[str]) -> None:
    """The words are composed and parsed, no further: what is right of it would train."""
    import sys

    from hydra.core.global_hydra import GlobalHydra

    from dfm.cli.main import main

    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, ["dfm", "train", *TINY, "trainer.max_steps=0", "samples.n=1", "nll.n=0", *line]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    _, err = capsys.readouterr()
    assert code in (0, 1), (line, code)
    if code == 1:
        assert one_error(err)


@pytest.mark.wide
@given(st.sampled_from(["x.pt", "x.safetensors"]), damage())
@settings(max_examples=150, **QUIET)  # type: ignore[arg-type]
def test_mangled_files(files: dict[str, bytes], tmp_path: Path, name: str, edits: Any) -> None:
    check_files(files, name, edits, tmp_path)


@pytest.mark.wide
@given(mangled())
@settings(max_examples=150, **QUIET)  # type: ignore[arg-type]
def test_mangled_configurations(config: dict[str, Any]) -> None:
    check_config(config)


@pytest.mark.wide
@given(wrong_states())
@settings(max_examples=50, **QUIET)  # type: ignore[arg-type]
def test_wrong_states_under_right_checksums(tmp_path: Path, state: dict[str, Any]) -> None:
    check_state(state, tmp_path)


@pytest.mark.wide
@given(lines)
@settings(max_examples=25, **QUIET)  # type: ignore[arg-type]
def test_mangled_command_lines(command: Command, capsys: Any, line: list[str]) -> None:
    check_line(command, capsys, line)


@pytest.mark.faults
@given(st.sampled_from(["x.pt", "x.safetensors"]), damage())
@settings(max_examples=5000, **QUIET)  # type: ignore[arg-type]
def test_thousands_of_mangled_files(files: dict[str, bytes], tmp_path: Path, name: str, edits: Any) -> None:
    check_files(files, name, edits, tmp_path)


@pytest.mark.faults
@given(mangled())
@settings(max_examples=5000, **QUIET)  # type: ignore[arg-type]
def test_thousands_of_mangled_configurations(config: dict[str, Any]) -> None:
    check_config(config)


@pytest.mark.faults
@given(wrong_states())
@settings(max_examples=2000, **QUIET)  # type: ignore[arg-type]
def test_thousands_of_wrong_states_under_right_checksums(tmp_path: Path, state: dict[str, Any]) -> None:
    check_state(state, tmp_path)


@pytest.mark.faults
@given(lines)
@settings(max_examples=1000, **QUIET)  # type: ignore[arg-type]
def test_a_thousand_mangled_command_lines(command: Command, capsys: Any, line: list[str]) -> None:
    check_line(command, capsys, line)


def test_the_whole_one_is_fine(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        denoiser_of(checkpoint.read(tmp_path / name), CPU, ("dfm",))
    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT}, buffer)
    (tmp_path / "empty.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.read(tmp_path / "empty.pt")
    assert json.dumps(CONFIG)
