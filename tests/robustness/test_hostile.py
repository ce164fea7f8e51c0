"""Real attacks on everything that is loaded: no code runs, nothing is written, and one line names the file."""

import io
import json
import os
import pickle
import shlex
import struct
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import TINY, Command, Trained
from support.runs import newest, one_line

from dfm.basics.errors import UserError
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir
from dfm.runs.build import build


class Bomb:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_a_checkpoint_that_is_code_does_not_run(kind: str, command: Command) -> None:
    if kind == "bare":
        Path("evil.pt").write_bytes(pickle.dumps(Bomb()))
    else:
        content = {"format": checkpoint.FORMAT, "config": Bomb(), "spec": {}, "state": {}}
        torch.save(content, "evil.pt", _use_new_zipfile_serialization=kind == "zip")
    for words in (["sample"], ["nll"], ["encode"]):
        one_line(command(*words, "ckpt=evil.pt", code=1), "evil.pt", "not a whole checkpoint")
    one_line(command("train", *TINY, "init=evil.pt", code=1), "evil.pt")


TARGETS = [
    "os.system", "subprocess.Popen", "torch.load", "builtins.eval", "dfm.run_dir.Path", "dfm.run_dir.subprocess.Popen",
    "dfm.runs.directory.Path", "dfm.data.pictures.stock.ThreadPoolExecutor", "dfm.cli.launch.HydraConfig",
    "dfm.cli.main.main", "dfm.basics.files.write_atomically", "dfm.cli.commands.sample.command.job",
    "dfm.datasets.folder.ThreadPoolExecutor", "dfm.config.HydraConfig", "dfm.cli.main", "dfm.run_dir.write_atomically",
    "dfm.commands.sample.job", "dfm", "", "dfm..x", "dfm.__init__",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_a_configuration_names_classes_of_dfm_and_nothing_else(target: str) -> None:
    with pytest.raises(UserError, match="_target_"):
        build({"_target_": target, "args": ["touch pwned"]}, "model")


@pytest.mark.parametrize("part", ["model", "schedule", "prior", "objective", "dataset"])
def test_a_checkpoint_whose_config_names_os_system_is_refused(part: str, tiny_run: Path, command: Command) -> None:
    found = checkpoint.read(newest(tiny_run))
    config = {**found.config, part: {"_target_": "os.system", "command": "touch pwned"}}
    evil = checkpoint.Checkpoint(config=config, spec=found.spec, state=found.state)
    checkpoint.save(evil, Path("evil") / "checkpoints", keep=1)
    checkpoint.save_weights(evil, Path("evil"))
    word = "nll" if part == "dataset" else "sample"
    one_line(command(word, "ckpt=evil", "n=1", code=1), "os.system", "refused")
    one_line(command(word, "ckpt=evil/weights.safetensors", "n=1", code=1), "os.system", "refused")


def test_a_run_directory_whose_config_names_code_is_refused(tiny_run: Path, command: Command) -> None:
    """Whom to trust is said on the command line and nowhere else."""
    path = tiny_run / "config.yaml"
    import yaml

    content = yaml.safe_load(path.read_text())
    content.update(trust=["subprocess"], logger={"_target_": "subprocess.Popen", "args": ["touch", "pwned"]})
    path.write_text(yaml.safe_dump(content))
    one_line(command("train", f"resume={tiny_run}", "trainer.max_steps=3", code=1), "subprocess.Popen", "refused")


def test_a_checkpoint_with_a_right_checksum_and_a_wrong_inside_is_one_line(tiny_run: Path, command: Command) -> None:
    found = checkpoint.read(newest(tiny_run))
    small = {name: value[..., :0] for name, value in found.state["ema"].items()}
    for state in ({"ema": {}}, {"step": 1, "ema": small}, {"step": "x", "ema": {}}, {"step": 1, "ema": []}):
        written = {"format": checkpoint.FORMAT, "config": found.config, "spec": asdict(found.spec), "state": state}
        kept = {name: written[name] for name in ("config", "spec", "state")}
        torch.save({**written, "sha256": checkpoint.digest(kept)}, "evil.pt")
        for words in (
            ["sample", "ckpt=evil.pt", "n=1"],
            ["nll", "ckpt=evil.pt", "n=1"],
            ["train", "init=evil.pt", *TINY],
        ):
            one_line(command(*words, code=1), "evil.pt")


def test_a_small_file_that_claims_much_is_refused(command: Command) -> None:
    """A number that is told to be a billion, and a packed archive of zeros."""
    wide = torch.zeros(1).expand(10**9)
    torch.save({"format": checkpoint.FORMAT, "config": {}, "spec": {}, "state": {"w": wide}, "sha256": ""}, "wide.pt")
    assert Path("wide.pt").stat().st_size < 10_000
    one_line(command("sample", "ckpt=wide.pt", code=1), "claims more numbers")
    torch.save({"format": checkpoint.FORMAT}, "plain.pt")
    with zipfile.ZipFile("plain.pt") as whole, zipfile.ZipFile("packed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in whole.infolist():
            packed.writestr(member.filename, whole.read(member))
    one_line(command("sample", "ckpt=packed.pt", code=1), "packed.pt", "compressed")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "swap"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: str, trained: Trained, command: Command
) -> None:
    run = trained(*TINY, "trainer.checkpoint_every=1").run
    path = newest(run)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(
        {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello", "swap": data[::-1]}.get(damage, bytes(data))
    )
    outcome = command("sample", f"ckpt={run}", "n=1", "sampler.steps=1")
    assert f"{path} is not a whole checkpoint" in outcome.err
    assert json.loads((outcome.run / "sample.json").read_text())["checkpoint_step"] == 1


def test_where_every_checkpoint_is_damaged_what_is_suggested_works(trained: Trained, command: Command) -> None:
    run = trained(*TINY, "trainer.checkpoint_every=1").run
    first, last = sorted((run / "checkpoints").iterdir())
    draw = ("n=1", "sampler.steps=1")

    def suggested(*words: str) -> list[str]:
        problem = command(*words, code=1).problem
        assert f"{last} is not a whole checkpoint (it is damaged)" in problem
        return shlex.split(problem.rpartition("; try ")[2].partition(", which")[0])

    last.write_bytes(last.read_bytes()[::-1])
    assert suggested("sample", f"ckpt={last}", *draw) == [f"ckpt={run}"]
    assert json.loads((command("sample", f"ckpt={run}", *draw).run / "sample.json").read_text())["checkpoint_step"] == 1
    first.write_bytes(b"")
    again = suggested("train", f"resume={run}", "trainer.max_steps=3")
    assert again == ["dfm", "train", f"from={run}", f"init={run}/weights.safetensors"]
    assert "starts with the averaged weights" in command(*again[1:]).err
    (other,) = suggested("sample", f"ckpt={run}", *draw)
    assert json.loads((command("sample", other, *draw).run / "sample.json").read_text())["checkpoint_step"] == 2


@pytest.mark.wide
def test_every_flipped_bit_of_the_weights_is_found(tiny_run: Path) -> None:
    """Bits anywhere in the file: what is read is either refused or exactly what was written."""
    path = newest(tiny_run)
    whole, data = checkpoint.read(path), path.read_bytes()
    generator = np.random.default_rng(0)
    refused: list[str] = []
    for place in generator.integers(0, len(data), 60):
        broken = bytearray(data)
        broken[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(broken)
        try:
            found = checkpoint.read(path)
        except UserError as error:
            refused.append(str(error))
            continue
        assert checkpoint.digest(found.state) == checkpoint.digest(whole.state)
        assert found.config == whole.config
    assert len(refused) > 30
    assert all(str(path) in text and "\n" not in text for text in refused)


def test_an_archive_that_climbs_out_writes_nothing(tiny_run: Path, command: Command) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((1, 1, 8, 8), np.float32))
    with zipfile.ZipFile("latents.npz", "w") as archive:
        archive.writestr("../pwned", "x")
        archive.writestr("../latents.npy", array.getvalue())
    one_line(command("decode", f"ckpt={tiny_run}", "latents=latents.npz", code=1), "latents.npz")
    assert not Path("../latents.npy").exists()
    with zipfile.ZipFile("evil.pt", "w") as archive:
        archive.writestr("../../pwned", "x")
        archive.writestr("evil/data.pkl", b"x")
    one_line(command("sample", "ckpt=evil.pt", code=1), "evil.pt")
    assert not Path("../../pwned").exists()


def test_arrays_with_objects_in_them_are_not_unpickled(tiny_run: Path, command: Command) -> None:
    objects = np.empty(1, dtype=object)
    objects[0] = Bomb()
    np.savez("latents.npz", latents=objects)
    one_line(command("decode", f"ckpt={tiny_run}", "latents=latents.npz", code=1), "latents.npz")


def png(side: int) -> bytes:
    """A picture of side x side pixels in a hundred bytes: its data end at once."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "what"), [(50_000, "bomb"), (64, "cut short")])
def test_image_bombs_and_truncated_images_are_named(side: int, what: str, tiny_run: Path, command: Command) -> None:
    Path("images").mkdir()
    (Path("images") / "evil.png").write_bytes(png(side))
    words = ["train", *TINY, "dataset=folder", "dataset.path=images", "dataset.size=8", "model=unet_digits"]
    one_line(command(*words, code=1), "evil.png")
    mask = command("sample", f"ckpt={tiny_run}", "task=inpaint", "mask=images/evil.png", "n=1", code=1)
    one_line(mask, "evil.png")


@pytest.mark.parametrize("text", ["__import__('os').system('touch pwned')", "t.__class__", "exec('1')", "(" * 5000])
def test_formulas_are_parsed_and_never_run(text: str, command: Command) -> None:
    one_line(command("train", "schedule=custom", f'schedule.drift="{text}"', code=1))


def test_weights_of_the_newest_checkpoint_are_there_as_safetensors(tiny_run: Path, command: Command) -> None:
    """The averaged weights, readable by the library alone, and enough for dfm to sample from."""
    from safetensors.torch import load_file

    weights = load_file(tiny_run / "weights.safetensors")
    ema = checkpoint.read(newest(tiny_run)).state["ema"]
    assert weights.keys() == ema.keys()
    assert all(torch.equal(weights[name], value) for name, value in ema.items())
    runs = [command("sample", f"ckpt={c}", "n=2").run for c in (tiny_run, tiny_run / "weights.safetensors")]
    arrays = [np.load(run / "samples.npz")["samples"] for run in runs]
    assert np.array_equal(*arrays)


def test_a_mount_that_vanishes_costs_what_is_written_not_the_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every access to the run's directory fails from step 2 on."""
    from dfm.cli.commands.train.pictures import Pictures

    real = Pictures.draw_if_possible

    def draw(self: Pictures) -> None:
        if self.run.trainer.step == 2:
            self.run.directory.rename("gone")
            self.run.directory.write_text("stale file handle")
        real(self)

    monkeypatch.setattr(Pictures, "draw_if_possible", draw)
    words = [*TINY, "trainer.max_steps=3", "trainer.checkpoint_every=1", "trainer.sample_every=1", "nll.n=0"]
    outcome = command("train", *words, "hydra.run.dir=run", code=1)
    run = Path("run").resolve()
    assert f"the checkpoint of the last step, 3, is not on disk; {run} has no checkpoint" in outcome.problem
    assert "checkpoint of step 2 not written" in outcome.err
    assert "folder of the sample grids of step 2 not written" in outcome.err
    assert run_dir.checkpoints(Path("gone"))


@pytest.mark.parametrize("how", ["file in the way", "gone"])
def test_a_directory_that_vanishes_costs_the_checkpoint_not_the_run(
    how: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from dfm.cli.commands.train.training_run import TrainingRun

    real = TrainingRun.save

    def save(self: TrainingRun) -> None:
        if self.trainer.step == 2:
            shutil.rmtree(self.directory / "checkpoints")
            if how == "file in the way":
                (self.directory / "checkpoints").write_text("a mount that is not there")
        real(self)

    monkeypatch.setattr(TrainingRun, "save", save)
    lost = how == "file in the way"
    outcome = command("train", *TINY, "trainer.max_steps=3", "trainer.checkpoint_every=1", "nll.n=0", code=lost)
    if lost:
        assert "the checkpoint of the last step, 3, is not on disk" in outcome.problem
        assert "checkpoint of step 2 not written" in outcome.err
        assert "checkpoint of step 3 not written" in outcome.err
    else:
        assert [p.name for p in run_dir.checkpoints(outcome.run)] == ["step_00000003.pt", "step_00000002.pt"]
