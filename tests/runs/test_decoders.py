"""Decoders: latents are stored, their pictures shown, and a decoder that does not fit is refused before any draw."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.cli import TINY, Command
from support.hub_files import array_shard
from support.image_files import one_line, write_image
from support.own_data import write_decoder
from support.suggestions import suggestion

from dfm.basics.errors import UserError
from dfm.data import ImageFolder
from dfm.data.spec import DatasetSpec
from dfm.runs import AutoencoderKL
from dfm.runs.pictures.decoders import deviation
from dfm.runs.pictures.images import grid, nhwc

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")
SCALE, SHIFT = 0.2, 0.7
COARSE = ("flow.rtol=0.1", "flow.atol=0.1")
SPEC = DatasetSpec(
    name="latents", shape=(4, 4, 4), levels=None, num_classes=0, mean=0.0, std=1.0, dtype="float32",
    shift=(0.0,) * 4, scale=(1 / SCALE,) * 4,
)  # fmt: skip


def save_decoder(folder: Path, safe: bool = True, channels: int = 4) -> Path:
    return write_decoder(folder, SCALE, SHIFT, channels=channels, safe=safe)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("decoder"))


def theirs(folder: Path, z: torch.Tensor) -> torch.Tensor:
    """The pictures of raw latents, by diffusers alone."""
    network = diffusers.AutoencoderKL.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        return ((network.decode(z).sample.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("latents", ["raw", "scaled"])
def test_pictures_are_those_of_diffusers(place: Path, latents: str) -> None:
    z = torch.randn(5, 4, 4, 4) / SCALE
    given = z if latents == "raw" else (z - SHIFT) * SCALE
    decoder = AutoencoderKL(path=str(place), latents=latents, batch_size=2)
    assert (decoder.pictures(given, CPU).int() - theirs(place, z).int()).abs().max() <= 1  # half-way cases


def test_a_pipeline_folder_has_its_decoder_below(place: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").symlink_to(place)
    z = torch.randn(1, 4, 4, 4)
    whole = AutoencoderKL(path=str(tmp_path)).pictures(z, CPU)
    assert torch.equal(whole, AutoencoderKL(path=str(place)).pictures(z, CPU))


def test_the_deviation_is_that_of_the_file() -> None:
    """Of channels that are scaled each for itself, against the array."""
    array = np.random.default_rng(0).normal([[1], [5], [2]], [[3], [4], [7]], (3, 200_000))
    spec = replace(SPEC, shape=(3, 1, 1), shift=tuple(array.mean(1)), scale=tuple(array.std(1)))
    assert deviation(spec) == pytest.approx(np.sqrt(array.var(1).mean()))


@pytest.mark.parametrize(
    ("changes", "options", "way"),
    [
        ({"scale": (1.0,) * 4}, {}, "decoder.latents=scaled"),
        ({}, {"latents": "scaled"}, "decoder.latents=raw"),
        ({"scale": (400.0,) * 4}, {}, "decoder=none"),
        ({"shape": (3, 4, 4), "scale": (5.0,) * 3, "shift": (0.0,) * 3}, {}, "decoder=none"),
        ({"shape": (4,)}, {}, "decoder=none"),
        ({"levels": 256, "scale": (), "shift": ()}, {}, "decoder=none"),
    ],
)
def test_a_decoder_of_another_scale_or_form_is_refused(place: Path, changes: dict, options: dict, way: str) -> None:
    spec = replace(SPEC, **changes)
    with pytest.raises(UserError) as error:
        AutoencoderKL(path=str(place), **options).check(spec)
    assert suggestion(one_line(error)) == way
    AutoencoderKL(path=str(place)).check(SPEC)
    if way.startswith("decoder.latents"):
        AutoencoderKL(path=str(place), latents=way.partition("=")[2]).check(spec)


def test_what_is_no_decoder_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, words in (
        ({"path": None}, "give decoder.path=DIR"),
        ({"path": str(tmp_path)}, "no config.json of a model"),
        ({"path": str(place), "batch_size": 0}, "at least 1"),
        ({"path": str(place), "scaling_factor": 0.0}, "above 0"),
    ):
        with pytest.raises(UserError) as error:
            AutoencoderKL(**options)
        assert words in one_line(error)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UserError, match="a UNet2DModel; allowed"):
        AutoencoderKL(path=str(tmp_path))
    pickled = save_decoder(tmp_path / "pickled", safe=False)
    with pytest.raises(UserError, match=r"cannot be read .*allowed: config.json and .*\.safetensors") as error:
        AutoencoderKL(path=str(pickled)).check(SPEC)
    one_line(error)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"try pip install 'dfm\[latents\]'"):
        AutoencoderKL(path=str(place)).check(SPEC)


def test_commands_store_latents_and_show_pictures(place: Path, command: Command, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(0, 1 / SCALE, (12, 4, 4, 4)).astype(np.float32)
    array_shard(tmp_path / "latents.tar", list(rows))
    words = [f"dataset.path={tmp_path / 'latents.tar'}", f"dataset.cache={tmp_path}", "dataset.shape=[4,4,4]"]
    thin = [
        "model=unet_small",
        "model.channels=8",
        "model.groups=4",
        "model.channel_multipliers=[1]",
        "model.attention_levels=[]",
    ]
    tiny = [word for word in TINY if not word.startswith("model.")]
    run = command("train", "dataset=webdataset", *words, *thin, *tiny, "nll.n=0", "logger=none").run
    plain = command("sample", f"ckpt={run}", "n=3", "sampler.steps=1").run
    decoder = ["decoder=autoencoder_kl", f"decoder.path={place}"]
    shown = command("sample", f"ckpt={run}", "n=3", "sampler.steps=1", "png=true", *decoder).run
    stored = [np.load(where / "samples.npz")["samples"] for where in (plain, shown)]
    assert stored[0].shape == (3, 4, 4, 4)
    np.testing.assert_array_equal(*stored)
    pictures = nhwc(AutoencoderKL(path=str(place)).pictures(torch.from_numpy(stored[0]), CPU))
    np.testing.assert_array_equal(np.asarray(Image.open(shown / "grid.png")), grid(pictures))
    for k in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(shown / "png" / f"00000{k}.png")), pictures[k])
    assert json.loads((shown / "sample.json").read_text())["decoder"]["path"] == str(place)
    compared = command("compare", f"ckpt={run}", f"other={run}", "n=2", *COARSE, *decoder).run
    with np.load(compared / "samples.npz") as file:
        pair = [nhwc(AutoencoderKL(path=str(place)).pictures(torch.from_numpy(file[k]), CPU)) for k in file]
    sheet = grid(np.concatenate(pair), 2)  # the second model's below the first one's
    np.testing.assert_array_equal(np.asarray(Image.open(compared / "grid.png")), sheet)
    np.savez("latents.npz", latents=np.random.default_rng(1).normal(size=(3, 4, 4, 4)).astype(np.float32))
    decoded = command("decode", f"ckpt={run}", "latents=latents.npz", *COARSE, *decoder).run
    ends = torch.from_numpy(np.load(decoded / "samples.npz")["samples"])
    expected = grid(nhwc(AutoencoderKL(path=str(place)).pictures(ends, CPU)))
    np.testing.assert_array_equal(np.asarray(Image.open(decoded / "grid.png")), expected)
    for name in ("compare", "decode"):
        words = [f"other={run}"] if name == "compare" else ["latents=latents.npz"]
        refused = command(name, f"ckpt={run}", *words, *decoder, "decoder.latents=scaled", code=1)
        assert "try decoder.latents=raw" in refused.problem
    wrong = command("sample", f"ckpt={run}", "decoder.latents=scaled", *decoder, code=1)
    assert "try decoder.latents=raw" in wrong.problem


def test_a_training_draws_pictures_and_needs_no_decoder_to_go_on(place: Path, command: Command, tmp_path: Path) -> None:
    """The sheets have the size of pictures (8x8), not of latents; the folder may move or go, and weights name none."""
    rows = np.random.default_rng(0).normal(0, 1 / SCALE, (40, 4, 4, 4)).astype(np.float32)
    np.save("latents.npy", rows)
    shutil.copytree(place, "kept/first")
    tiny = [word for word in TINY if not word.startswith(("model.", "nll.", "samples."))]
    words = ["dataset=array", "dataset.path=latents.npy", "model=mlp", "nll.n=0", "logger=none", "samples.n=8"]
    run = command("train", *words, *tiny, "decoder=autoencoder_kl", "decoder.path=kept/first").run
    assert yaml.safe_load((run / "config.yaml").read_text())["decoder"]["path"] == str(tmp_path / "kept/first")
    assert b"kept/first" not in (run / "weights.safetensors").read_bytes()
    pictures = grid(np.zeros((8, 8, 8, 3), np.uint8))
    last = np.asarray(Image.open(run / "samples" / "step_00000002.png"))
    assert last.shape == pictures.shape
    drawn = command("sample", f"ckpt={run}", "n=8", "sampler.steps=2", "hydra.run.dir=drawn").run
    stored = torch.from_numpy(np.load(drawn / "samples.npz")["samples"])
    np.testing.assert_array_equal(last, grid(nhwc(AutoencoderKL(path=str(place)).pictures(stored, CPU))))
    assert np.asarray(Image.open(run / "data.png")).shape == grid(np.zeros((16, 8, 8, 3), np.uint8)).shape
    Path("kept/first").rename("kept/second")
    gone = command("train", f"resume={run}", "trainer.max_steps=3")
    assert gone.err.count("pictures show the latents themselves") == 1
    assert "kept/first" in gone.err
    assert np.asarray(Image.open(run / "samples" / "step_00000003.png")).shape != pictures.shape
    assert "no config.json" in command("train", f"resume={run}", "decoder.path=kept/first", code=1).problem
    command("train", f"resume={run}", "trainer.max_steps=4", "decoder.path=kept/second")
    assert np.asarray(Image.open(run / "samples" / "step_00000004.png")).shape == pictures.shape


def test_pictures_are_encoded_by_the_script(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for k, name in enumerate(("cat/1.png", "dog/2.png", "dog/3.png")):
        write_image(tmp_path / "pictures" / name, (k, 200, 9 * k), (8, 8))
    spec = importlib.util.spec_from_file_location("script", Path(__file__).parents[2] / "scripts" / "encode_latents.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    places = [str(tmp_path / "pictures"), str(place), str(tmp_path / "out")]
    script.main([*places, "--size=8", "--batch-size=2", "--device=cpu"])
    cat, dog = ImageFolder(path=places[0]).class_names or ("0", "1")
    latents, labels = (np.load(tmp_path / "out" / f"{name}.npy") for name in ("latents", "labels"))
    network = diffusers.AutoencoderKL.from_pretrained(str(place)).eval()
    expected = {}
    for k, name in enumerate((cat, dog, dog)):
        pixels = torch.tensor([k, 200, 9 * k]).float().reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
        with torch.no_grad():
            expected[k] = (network.encode(pixels / 127.5 - 1).latent_dist.mean[0].numpy(), name)
    assert latents.shape == (3, 4, 4, 4)
    for latent, label in zip(latents, labels, strict=True):
        (k,) = [k for k, (one, _) in expected.items() if np.allclose(one, latent, atol=1e-5)]
        assert expected.pop(k)[1] == str(label)
    assert "dfm train dataset=array dataset.path=" in capsys.readouterr().out
