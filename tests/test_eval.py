"""Features, the classifier that is trained once and kept, and ``dfm eval`` from end to end."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, Command
from dataset_files import overrides_for, truncate, write_image
from torch import Tensor

from dfm.config import config_dir
from dfm.datasets.base import Dataset, Split
from dfm.datasets.digits import Digits
from dfm.datasets.toys import Moons
from dfm.errors import UserError
from dfm.features import ClassifierFeatures, Coordinates, Recipe, features_for, kind_for
from dfm.quality import quality
from dfm.quantization import centres, to_eight_bits
from dfm.trainer import Trainer

POINTS = ("nll.n=0", *(text for text in TINY if not text.startswith(("model", "nll"))))
QUICK = Recipe(steps=2, batch_size=8, channels=8)
FIGURES = ("frechet", "frechet_stderr", "kernel", "kernel_stderr", "precision", "recall")


class Grey(Dataset):
    """12 random images (1, 4, 4) of 256 levels in each split, of as many classes as one likes, or without."""

    name, levels = "grey", 256

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        self.num_classes, self.seed = classes, seed

    def _load(self) -> Mapping[str, Split]:
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.randint(0, 256, (36, 1, 4, 4), generator=generator, dtype=torch.uint8)
        labels = torch.arange(36) % self.num_classes if self.num_classes else None
        rows = {"train": slice(12), "validation": slice(12, 24), "test": slice(24, 36)}
        return {
            name: Split(values=values[part], labels=None if labels is None else labels[part])
            for name, part in rows.items()
        }


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ClassifierFeatures:
    """The digits' features by the recipe that ``dfm eval`` takes, trained in a cache of the tests' own."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFM_DATA", str(cache))
        found = features_for(Digits(), device="cpu")
        assert isinstance(found, ClassifierFeatures)
        assert sum(1 for _ in found.prepare()) == found.steps == 203, "20 passes through 1,297 digits"
    assert found.path.parent == cache / "features"
    return found


@pytest.fixture
def kept(digits: ClassifierFeatures, monkeypatch: pytest.MonkeyPatch) -> ClassifierFeatures:
    """The same, where the command looks for it; it may not be trained again."""
    monkeypatch.setenv("DFM_DATA", str(digits.folder.parent))
    monkeypatch.setattr("dfm.features.classifier.Trainer", None)
    return digits


# ---- features --------------------------------------------------------------------------------------------------------


def test_the_classifier_knows_the_digits(digits: ClassifierFeatures) -> None:
    facts = digits.facts
    assert facts["accuracy"] > 0.95
    assert (facts["kind"], facts["dataset"], len(facts["sha256"])) == ("classifier", "digits", 64)
    json.dumps(facts)
    seen = digits.of(Digits().split("test").values)
    assert (seen.shape, seen.dtype) == ((300, 64), torch.float64)


def test_the_classifier_is_trained_once(kept: ClassifierFeatures) -> None:
    before = kept.path.stat().st_mtime_ns
    again = ClassifierFeatures(data=Digits(), cache=str(kept.folder.parent))
    assert list(again.prepare()) == []
    assert again.facts["sha256"] == kept.facts["sha256"]
    values = Digits().split("test").values[:9]
    assert torch.equal(again.of(values), kept.of(values))
    assert again.path.stat().st_mtime_ns == before


def test_the_features_of_an_example_do_not_depend_on_its_batch(digits: ClassifierFeatures) -> None:
    values = Digits().split("test").values
    assert torch.allclose(digits.of(values)[250:253], digits.of(values[250:253]), atol=1e-5)


def test_other_data_and_another_recipe_have_another_file(tmp_path: Path) -> None:
    def path(data: Dataset, recipe: Recipe = QUICK) -> Path:
        return ClassifierFeatures(data=data, recipe=recipe, cache=str(tmp_path)).path

    other_label = Grey()
    other_label.split("train").labels[0] += 1  # type: ignore[index]
    paths = [path(Grey()), path(Grey(seed=1)), path(Grey(4)), path(other_label), path(Grey(), replace(QUICK, seed=1))]
    assert len(set(paths)) == 5
    assert path(Grey()) == paths[0], "and the same have the same"
    assert all(p.name.startswith("grey-") and p.suffix == ".safetensors" for p in paths)


def flip_a_bit(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lambda b: b[:-100], lambda b: b"", lambda b: b"{}" + b, lambda b: b[8:]]
)
def test_a_damaged_file_is_named_and_trained_again(damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def made() -> ClassifierFeatures:
        found = ClassifierFeatures(data=Grey(), recipe=QUICK, cache=str(tmp_path))
        for _ in found.prepare():
            pass
        return found

    first = made()
    whole = first.path.read_bytes()
    assert capsys.readouterr().out == ""
    first.path.write_bytes(damage(whole))
    second = made()
    warning = capsys.readouterr().out
    assert warning.count("\n") == 1
    assert f"{first.path} is not a whole classifier" in warning
    assert second.facts["sha256"] == first.facts["sha256"], "from the same initial weights, not from the damaged ones"
    assert first.path.read_bytes() == whole
    assert sorted(p.name for p in first.folder.iterdir()) == [first.path.name], "no temporary file is left"


def test_a_cache_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    monkeypatch.setattr(Trainer, "steps", None)
    with pytest.raises(UserError, match="cannot be made"):
        list(ClassifierFeatures(data=Grey(), recipe=QUICK, cache=str(tmp_path)).prepare())


def test_data_without_classes_have_no_classifier() -> None:
    with pytest.raises(UserError, match="features=coordinates, or a data set with at least 2 classes"):
        features_for(Grey(0))
    for data in (Grey(0), Grey(1), Moons(n_train=9, n_validation=9, n_test=9)):
        with pytest.raises(UserError, match="try features=coordinates"):
            ClassifierFeatures(data=data)
    assert kind_for(Moons(n_train=9, n_validation=9, n_test=9).spec) == "coordinates"


def test_coordinates_are_the_numbers_as_the_model_sees_them() -> None:
    images = Digits().split("test").values[:5]
    assert torch.equal(Coordinates(data=Digits()).of(images), centres(images, 17).reshape(5, 64))
    moons = Moons(n_train=9, n_validation=9, n_test=9)
    points = moons.split("test").values
    found = features_for(moons)
    assert torch.equal(found.of(points), points.double())
    assert found.facts == {"kind": "coordinates", "dimensions": 2, "sha256": None}


def test_the_worse_the_digits_the_worse_the_figures(digits: ClassifierFeatures) -> None:
    """Real ones, real ones with a share of their pixels at random, and nothing but random pixels."""
    data = Digits()
    references = digits.of(data.split("test").values)
    real = data.split("train").values[:300]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 17, real.shape, generator=generator, dtype=torch.uint8)

    def spoilt(share: float) -> Tensor:
        return torch.where(torch.rand(real.shape, generator=generator) < share, noise, real)

    found = [quality(digits.of(values), references) for values in (real, spoilt(0.25), noise)]
    for better, worse in itertools.pairwise(found):
        assert better.frechet + better.frechet_stderr < worse.frechet
        assert better.kernel + better.kernel_stderr < worse.kernel
        assert better.precision > worse.precision + 0.1


# ---- the command -----------------------------------------------------------------------------------------------------


def facts_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "eval.json").read_text())
    assert isinstance(found, dict)
    return found


def test_eval_leaves_what_the_contract_says(tiny_run: Path, kept: ClassifierFeatures, command: Command) -> None:
    outcome = command("eval", "ckpt=latest", "n=9", "sampler=euler", "sampler.steps=3", "seed=4")
    run = outcome.run
    assert {p.name for p in run.iterdir()} >= {"eval.json", "grid.png", "samples.npz", "overrides.txt"}
    facts = facts_of(run)
    assert set(facts) >= {*FIGURES, "num_samples", "num_references", "floor", "features", "seconds", "settings"}
    assert set(facts["floor"]) == {*FIGURES, "num_samples", "num_references"}
    assert (facts["num_samples"], facts["num_references"], facts["floor"]["num_samples"]) == (9, 300, 9)
    assert (facts["sampler"], facts["nfe"], facts["seed"], facts["split"]) == ("euler", 4, 4, "test")
    assert (facts["checkpoint_step"], facts["dataset"]) == (2, "digits")
    assert facts["features"]["sha256"] == kept.facts["sha256"], "Python and the YAML have one recipe"
    assert kept.facts["sha256"][:12] in outcome.out
    assert np.load(run / "samples.npz")["samples"].shape == (9, 8, 8, 1)
    for text in ("9 samples", "9 training", "Frechet distance", "recall", "300 test examples of digits"):
        assert text in outcome.out


def test_stored_samples_have_the_figures_of_those_drawn(
    tiny_run: Path, kept: ClassifierFeatures, command: Command
) -> None:
    drawn = command("eval", f"ckpt={tiny_run}", "n=8", "sampler.steps=2").run
    sampled = command("sample", f"ckpt={tiny_run}", "n=8", "sampler.steps=2", "batch_size=3", "png=true").run
    expected = {name: pytest.approx(facts_of(drawn)[name], rel=1e-6) for name in FIGURES}
    for source in (drawn, sampled, sampled / "samples.npz", sampled / "png"):
        for data in ("dataset=digits", f"ckpt={tiny_run}"):
            run = command("eval", f"samples={source}", data).run
            assert {name: facts_of(run)[name] for name in FIGURES} == expected
            assert not (run / "samples.npz").exists()
    fewer = facts_of(command("eval", f"samples={drawn}", "dataset=digits", "n=5").run)
    assert (fewer["num_samples"], fewer["samples"], fewer["checkpoint"]) == (5, str(drawn), None)


def test_a_class_is_compared_with_itself(kept: ClassifierFeatures, command: Command) -> None:
    run = command("train", "conditional=true", *TINY).run
    facts = facts_of(command("eval", f"ckpt={run}", "n=6", "label=3", "sampler.steps=2").run)
    labels = Digits().split("test").labels
    assert labels is not None
    count = int(torch.eq(labels, 3).sum())
    assert (facts["num_references"], facts["label"]) == (count, 3)
    assert facts_of(command("eval", f"ckpt={run}", "n=6", "sampler.steps=2").run)["num_references"] == 300


def test_a_few_step_model_draws_as_it_was_trained_to(kept: ClassifierFeatures, command: Command) -> None:
    """Like ``dfm sample``: one jump, and not the thirty-six calls of the command's own default."""
    small = [text for text in TINY if not text.startswith(("sampler", "likelihood", "nll"))]
    run = command("train", "objective=consistency", "sampler=consistency", "nll.n=0", *small).run
    facts = facts_of(command("eval", f"ckpt={run}", "n=5", "sampler.steps=1").run)
    sampled = command("sample", f"ckpt={run}", "n=5", "sampler.steps=1").run
    expected = json.loads((sampled / "sample.json").read_text())
    assert facts["nfe"] == 1
    assert {name: facts[name] for name in ("sampler", "settings", "schedule")} == {
        name: expected[name] for name in ("sampler", "settings", "schedule")
    }


def test_points_are_judged_by_their_coordinates(command: Command) -> None:
    run = command("train", "dataset=moons", "dataset.n_test=200", "model=mlp", *POINTS).run
    outcome = command("eval", f"ckpt={run}", "n=20", "sampler.steps=2")
    facts = facts_of(outcome.run)
    assert facts["features"]["kind"] == "coordinates"
    assert facts["frechet"] > 5 * facts["floor"]["frechet"], "an untrained model"
    again = facts_of(command("eval", f"samples={outcome.run}", "dataset=moons", "dataset.n_test=200").run)
    assert {name: again[name] for name in FIGURES} == {name: facts[name] for name in FIGURES}


@pytest.mark.parametrize("option", sorted(p.stem for p in (config_dir() / "features").glob("*.yaml")))
def test_every_kind_of_features(option: str, tiny_run: Path, command: Command) -> None:
    quick = ["features.cache=cache", "features.recipe.steps=2"] if option == "classifier" else []
    outcome = command("eval", f"ckpt={tiny_run}", f"features={option}", "n=4", "sampler.steps=2", *quick)
    assert facts_of(outcome.run)["features"]["kind"] == option
    assert len(list(Path("cache").rglob("*.safetensors"))) == len(quick) // 2
    assert ("classifier trained in" in outcome.out) == bool(quick)


def test_a_multirun_compares_the_frechet_distances(tiny_run: Path, kept: ClassifierFeatures, command: Command) -> None:
    outcome = command("eval", f"ckpt={tiny_run}", "n=4", "-m", "sampler.steps=1,2")
    table = outcome.out[outcome.out.index("jobs of this multirun") :]
    assert "Frechet distance" in table
    assert "bits/dim" not in table, "a column that no job fills is left out"


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "try ckpt=latest"),
    "no ckpt": (["ckpt=nowhere"], "no such file"),
    "few": (["ckpt=latest", "n=3"], "at least 4 of each"),
    "none": (["ckpt=latest", "n=0"], "at least 1"),
    "split": (["ckpt=latest", "split=tset"], "did you mean 'test'"),
    "label": (["ckpt=latest", "label=3"], "without classes"),
    "another data set": (["ckpt=latest", "dataset=moons"], "those of the checkpoint"),
    "features": (["ckpt=latest", "features=clasifier"], "classifier"),
    "width": (["ckpt=latest", "features=classifier", "features.recipe.channels=6"], "multiples of 8"),
    "batch": (["ckpt=latest", "features=classifier", "features.recipe.batch_size=0"], "at least 1"),
    "broken": (["samples=broken", "dataset=digits"], "broken/1.png: not a picture"),
    "sizes": (["samples=sizes", "dataset=digits"], "2.png: (9, 8) pixels"),
    "no samples": (["samples=nowhere", "dataset=digits"], "samples.npz of dfm sample"),
    "of what": (["samples=whole.npz"], "try dataset=digits"),
    "shape": (["samples=small.npz", "dataset=digits"], "each of shape (1, 8, 8)"),
    "floats": (["samples=floats.npz", "dataset=digits"], "each of shape (1, 8, 8)"),
    "images for points": (["samples=whole.npz", "dataset=moons"], "each of shape (2,)"),
    "wide integers": (["samples=wide.npz", "dataset=digits"], "torch.int64"),
    "words": (["samples=words.npz", "dataset=digits"], "no samples there"),
    "levels": (["samples=bytes.npz", "dataset=digits"], "of 17 levels spread"),
    "too many": (["samples=whole.npz", "dataset=digits", "n=9"], "at most as many"),
    "no effect": (["samples=whole.npz", "dataset=digits", "sampler.steps=3"], "has no effect"),
    "nan": (["samples=nan.npz", "dataset=moons"], "not all finite"),
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_one_line(name: str, tiny_run: Path, kept: ClassifierFeatures, command: Command) -> None:
    whole = to_eight_bits(Digits().split("test").values[:6], 17).permute(0, 2, 3, 1).numpy()
    for file, array in {
        "whole": whole, "small": whole[:, :4], "floats": whole.astype(np.float32), "bytes": whole + np.uint8(1),
        "wide": whole.astype(np.int64) - 9, "words": np.array(["no", "numbers"]),
        "nan": np.full((6, 2), np.nan, np.float32),
    }.items():  # fmt: skip
        np.savez(f"{file}.npz", samples=array)
    write_image(Path("sizes/1.png"), size=(8, 8))
    write_image(Path("sizes/2.png"), size=(8, 9))
    truncate(write_image(Path("broken/1.png"), size=(40, 40)))
    arguments, says = MISTAKES[name]
    outcome = command("eval", *arguments, code=1)
    assert says in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_images_without_classes_are_refused_before_anything_is_drawn(command: Command, tmp_path: Path) -> None:
    where = ["dataset=folder", "dataset.labels=false", *overrides_for("folder", tmp_path)]
    outcome = command("eval", "samples=not_yet_looked_at", *where, code=1)
    assert "features=coordinates, or a data set with at least 2 classes" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
