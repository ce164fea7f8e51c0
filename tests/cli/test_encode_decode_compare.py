"""The commands encode, decode and compare: there and back, classes, points, and their mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cli import TINY, Command, Trained

import dfm


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


def test_images_there_and_back(tiny_run: Path, command: Command) -> None:
    """encode, then decode in a command of its own: the examples themselves, level by level."""
    run = command("encode", f"ckpt={tiny_run}", "n=5", "batch_size=2", "seed=3").run
    facts, stored = read(run, "encode.json"), np.load(run / "latents.npz")
    assert stored["latents"].shape == (5, 1, 8, 8)
    assert stored["latents"].dtype == np.float32
    assert stored["indices"].tolist() == [0, 1, 2, 3, 4]
    assert stored["indices"].dtype == np.int64
    assert "labels" not in stored
    assert (facts["n"], facts["split"], facts["seed"], facts["same_levels"]) == (5, "test", 3, 1.0)
    assert 0 < facts["round_trip_rms"] <= facts["round_trip_max"] < 1e-3
    assert facts["latent_mean"] == pytest.approx(stored["latents"].mean(), abs=1e-6)
    assert (facts["prior_mean"], facts["prior_std"]) == (0, 1)
    assert {"nfe", "seconds", "checkpoint"} <= set(facts)
    Image.open(run / "grid.png").verify()

    from dfm.data.numbers.pixel_levels import to_eight_bits
    from dfm.data.published.digits import Digits

    given = to_eight_bits(Digits().split("test").values[:5], 17).permute(0, 2, 3, 1).numpy()
    for where in (run, run / "latents.npz"):
        back = command("decode", f"ckpt={tiny_run}", f"latents={where}").run
        assert np.array_equal(np.load(back / "samples.npz")["samples"], given)
        assert read(back, "decode.json")["n"] == 5

    rows = command("decode", f"ckpt={tiny_run}", f"latents={run}", "interpolate=4", "flow.solver=rk4", "flow.steps=16",
                   "grid@flow.grid=rho").run  # fmt: skip
    made = np.load(rows / "samples.npz")["samples"]
    assert made.shape == (8, 8, 8, 1), "two pairs of the five, four columns each"
    assert np.array_equal(made[[0, 3, 4, 7]], given[[0, 1, 2, 3]]), "the ends of a row are the examples"
    assert read(rows, "decode.json")["nfe"] == 64
    width, height = Image.open(rows / "grid.png").size
    assert (width - 2, height - 2) == (4 * 50, 2 * 50)


def test_classes_go_with_the_latents(trained: Trained, command: Command, tmp_path: Path) -> None:
    model = trained(*TINY, "conditional=true").run
    run = command("encode", f"ckpt={model}", "n=4", "flow.solver=heun", "flow.steps=8").run
    stored = dict(np.load(run / "latents.npz"))
    assert read(run, "encode.json")["nfe"] == 16
    for arguments, expected in (([], stored["labels"].tolist()), (["label=3"], [3, 3, 3, 3])):
        back = command("decode", f"ckpt={model}", f"latents={run}", "flow.solver=euler", "flow.steps=2", *arguments)
        assert np.load(back.run / "samples.npz")["labels"].tolist() == expected
    for labels in (np.full(4, 10), np.arange(3)):
        np.savez(tmp_path / "bad.npz", latents=stored["latents"], labels=labels)
        outcome = command("decode", f"ckpt={model}", f"latents={tmp_path / 'bad.npz'}", code=1)
        assert "one class per latent, 0 to 9" in outcome.err
        assert outcome.problem


def test_points_there_and_back(command: Command) -> None:
    """The exact denoiser: its latents are those of the Python function, and so are the decoded points."""
    trained = command("train", "experiment=mixture_oracle", "trainer.max_steps=2", "samples.n=4", "nll.n=4").run
    run = command("encode", f"ckpt={trained}", "n=1000000", "batch_size=5000", "flow.rtol=1e-3", "flow.atol=1e-3").run
    facts, latents = read(run, "encode.json"), torch.from_numpy(np.load(run / "latents.npz")["latents"])
    assert facts["n"] == len(latents) == 10_000, "more than there are: all there are"
    assert facts["same_levels"] is None
    assert facts["latent_mean"] == pytest.approx(0, abs=0.04)
    assert facts["latent_std"] == pytest.approx(1, abs=0.04)
    run = command("encode", f"ckpt={trained}", "n=6").run
    back = command("decode", f"ckpt={trained}", f"latents={run}").run
    found = np.load(back / "samples.npz")["samples"]
    assert found.dtype == np.float32
    latents = torch.from_numpy(np.load(run / "latents.npz")["latents"])
    assert np.allclose(found, dfm.decode(dfm.load(trained), latents).numpy(), atol=1e-5)
    lines = command("decode", f"ckpt={trained}", f"latents={run}", "interpolate=5").run
    assert np.load(lines / "samples.npz")["samples"].shape == (15, 2)


def test_a_model_compared_with_itself(tiny_run: Path, command: Command) -> None:
    run = command("compare", f"ckpt={tiny_run}", f"other={tiny_run}", "n=10", "batch_size=4").run
    facts, stored = read(run, "compare.json"), np.load(run / "samples.npz")
    assert (facts["rms_mean"], facts["rms_max"]) == (0, 0)
    assert facts["cosine_mean"] == pytest.approx(1)
    assert len(facts["nfe"]) == 2
    assert np.array_equal(stored["samples"], stored["other"])
    pixels = np.asarray(Image.open(run / "grid.png"))
    assert pixels.shape == (4 * 50 + 2, 8 * 50 + 2), "all ten pairs: eight, then two"
    assert np.array_equal(pixels[102:150, 2:102], pixels[152:200, 2:102])
    assert pixels[102:200, 102:].std() == 0, "no example stands where there is none"
    one = command("compare", f"ckpt={tiny_run}", f"other={tiny_run}", "n=1", "flow.solver=euler", "flow.steps=1").run
    assert read(one, "compare.json")["cosine_mean"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encode", "n=0"], "at least 1"),
        (["encode", "split=tset"], "did you mean 'test'"),
        (["encode", "flow.solver=rk6"], "did you mean 'rk5'"),
        (["encode", "flow.rtol=0"], "above 0"),
        (["encode", "flow.step=3"], "flow.steps"),
        (["decode"], "latents= is not given"),
        (["decode", "latents=nowhere"], "dfm encode"),
        (["decode", "latents=other.npz"], "no latents there"),
        (["decode", "latents=points.npz"], "allowed for this model: (1, 8, 8)"),
        (["decode", "latents=nan.npz"], "not finite"),
        (["decode", "latents=one.npz", "interpolate=4"], "2 latents"),
        (["decode", "latents=one.npz", "interpolate=-1"], "at least 2 columns"),
        (["decode", "latents=one.npz", "label=1"], "without classes"),
        (["compare"], "other= is not given"),
        (["compare", "other=nowhere"], "other=nowhere: no such"),
        (["compare", "other=latest", "n=0"], "at least 1"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    image = np.zeros((1, 1, 8, 8), np.float32)
    np.savez("other.npz", samples=image)
    np.savez("points.npz", latents=np.zeros((3, 2), np.float32))
    np.savez("nan.npz", latents=image + np.nan)
    np.savez("one.npz", latents=image)
    outcome = command(*arguments, f"ckpt={tiny_run}", code=1)
    assert outcome.problem
    assert says in outcome.err


def test_models_that_share_no_latents_are_not_compared(tiny_run: Path, command: Command) -> None:
    for other, says in (
        (["experiment=mixture_oracle", "trainer.max_steps=2", "samples.n=4", "nll.n=4"], "data of the same shape"),
        (["prior=uniform", *TINY], "same prior"),
    ):
        trained = command("train", *other).run
        outcome = command("compare", f"ckpt={tiny_run}", f"other={trained}", code=1)
        assert says in outcome.err
        assert outcome.problem


@pytest.mark.parametrize("name", ["encode", "decode", "compare"])
def test_help_of_each_command(name: str, command: Command) -> None:
    out = command(name, "--help").out
    assert f"dfm {name}:" in out
    assert "flow            [ode]" in out
