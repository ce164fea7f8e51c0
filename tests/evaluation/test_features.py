"""The features of ``dfm eval``: a classifier that is trained once and kept, or coordinates."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import Dataset, Split
from dfm.data.numbers.pixel_levels import centres
from dfm.data.published.digits import Digits
from dfm.data.toys import Moons
from dfm.evaluation.classifier_features import ClassifierFeatures, Recipe, features_for
from dfm.evaluation.features import Coordinates, kind_for
from dfm.evaluation.sample_quality import quality
from dfm.training.trainer import Trainer

QUICK = Recipe(steps=2, batch_size=8, channels=8)


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


def test_the_classifier_knows_the_digits(digits_features: ClassifierFeatures) -> None:
    facts = digits_features.facts
    assert facts["accuracy"] > 0.95
    assert (facts["kind"], facts["dataset"], len(facts["sha256"])) == ("classifier", "digits", 64)
    json.dumps(facts)
    seen = digits_features.of(Digits().split("test").values)
    assert (seen.shape, seen.dtype) == ((300, 64), torch.float64)


def test_the_classifier_is_trained_once(kept_features: ClassifierFeatures) -> None:
    before = kept_features.file.stat().st_mtime_ns
    again = ClassifierFeatures(data=Digits(), cache=str(kept_features.folder.parent))
    assert list(again.prepare()) == []
    assert again.facts["sha256"] == kept_features.facts["sha256"]
    values = Digits().split("test").values[:9]
    assert torch.equal(again.of(values), kept_features.of(values))
    assert again.file.stat().st_mtime_ns == before


def test_the_features_of_an_example_do_not_depend_on_its_batch(digits_features: ClassifierFeatures) -> None:
    values = Digits().split("test").values
    assert torch.allclose(digits_features.of(values)[250:253], digits_features.of(values[250:253]), atol=1e-5)


def test_other_data_and_another_recipe_have_another_file(tmp_path: Path) -> None:
    def path(data: Dataset, recipe: Recipe = QUICK) -> Path:
        return ClassifierFeatures(data=data, recipe=recipe, cache=str(tmp_path)).file

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
    whole = first.file.read_bytes()
    assert capsys.readouterr().err == ""
    first.file.write_bytes(damage(whole))
    second = made()
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert f"{first.file} is not a whole classifier" in warning
    assert second.facts["sha256"] == first.facts["sha256"], "from the same initial weights, not from the damaged ones"
    assert first.file.read_bytes() == whole
    assert sorted(p.name for p in first.folder.iterdir()) == [first.file.name], "no temporary file is left"


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


def test_the_worse_the_digits_the_worse_the_figures(digits_features: ClassifierFeatures) -> None:
    """Real ones, real ones with a share of their pixels at random, and nothing but random pixels."""
    data = Digits()
    references = digits_features.of(data.split("test").values)
    real = data.split("train").values[:300]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 17, real.shape, generator=generator, dtype=torch.uint8)

    def spoilt(share: float) -> Tensor:
        return torch.where(torch.rand(real.shape, generator=generator) < share, noise, real)

    found = [quality(digits_features.of(values), references) for values in (real, spoilt(0.25), noise)]
    for better, worse in itertools.pairwise(found):
        assert better.frechet + better.frechet_stderr < worse.frechet
        assert better.kernel + better.kernel_stderr < worse.kernel
        assert better.precision > worse.precision + 0.1
