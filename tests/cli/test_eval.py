"""``dfm eval`` from end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.cli import TINY, Command, Trained
from support.image_files import overrides_for, truncate, write_image

from dfm.cli.composition.config_dirs import config_dir
from dfm.data.numbers.pixel_levels import to_eight_bits
from dfm.data.published.digits import Digits
from dfm.evaluation.classifier_features import ClassifierFeatures

POINTS = ("nll.n=0", *(text for text in TINY if not text.startswith(("model", "nll"))))
INTERVALS = ("frechet_interval95", "kernel_interval95")
FIGURES = ("frechet", "frechet_stderr", "kernel", "kernel_stderr", "precision", "recall")


def facts_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "eval.json").read_text())
    assert isinstance(found, dict)
    return found


def test_eval_leaves_what_the_contract_says(
    tiny_run: Path, kept_features: ClassifierFeatures, command: Command
) -> None:
    outcome = command("eval", "ckpt=latest", "n=9", "sampler=euler", "sampler.steps=3", "seed=4")
    run = outcome.run
    assert {p.name for p in run.iterdir()} >= {"eval.json", "grid.png", "samples.npz", "overrides.txt"}
    facts = facts_of(run)
    assert set(facts) >= {*FIGURES, "num_samples", "num_references", "floor", "features", "seconds", "settings"}
    assert set(facts["floor"]) == {*FIGURES, *INTERVALS, "num_samples", "num_references"}
    assert (facts["num_samples"], facts["num_references"], facts["floor"]["num_samples"]) == (9, 300, 9)
    assert (facts["sampler"], facts["nfe"], facts["seed"], facts["split"]) == ("euler", 4, 4, "test")
    assert (facts["checkpoint_step"], facts["dataset"]) == (2, "digits")
    assert facts["features"]["sha256"] == kept_features.facts["sha256"], "Python and the YAML have one recipe"
    assert kept_features.facts["sha256"][:12] in outcome.out
    assert np.load(run / "samples.npz")["samples"].shape == (9, 8, 8, 1)
    for text in ("9 samples", "9 training", "Frechet distance", "recall", "300 test examples of digits"):
        assert text in outcome.out


def test_stored_samples_have_the_figures_of_those_drawn(
    tiny_run: Path, kept_features: ClassifierFeatures, command: Command
) -> None:
    drawn = command("eval", f"ckpt={tiny_run}", "n=8", "sampler.steps=2").run
    sampled = command("sample", f"ckpt={tiny_run}", "n=8", "sampler.steps=2", "batch_size=3", "png=true").run
    expected = {name: pytest.approx(facts_of(drawn)[name], rel=1e-6) for name in FIGURES}
    ckpt = f"ckpt={tiny_run}"
    for source, data in (
        (drawn, ckpt),
        (sampled, ckpt),
        (sampled / "samples.npz", "dataset=digits"),
        (sampled / "png", "dataset=digits"),
    ):
        run = command("eval", f"samples={source}", data).run
        assert {name: facts_of(run)[name] for name in FIGURES} == expected
        assert not (run / "samples.npz").exists()
    fewer = facts_of(command("eval", f"samples={drawn}", "dataset=digits", "n=5").run)
    assert (fewer["num_samples"], fewer["samples"], fewer["checkpoint"]) == (5, str(drawn), None)


def test_a_class_is_compared_with_itself(kept_features: ClassifierFeatures, trained: Trained, command: Command) -> None:
    run = trained(*TINY, "conditional=true").run
    facts = facts_of(command("eval", f"ckpt={run}", "n=6", "label=3", "sampler.steps=2").run)
    labels = Digits().split("test").labels
    assert labels is not None
    count = int(torch.eq(labels, 3).sum())
    assert (facts["num_references"], facts["label"]) == (count, 3)
    assert facts_of(command("eval", f"ckpt={run}", "n=6", "sampler.steps=2").run)["num_references"] == 300


def test_a_few_step_model_draws_as_it_was_trained_to(kept_features: ClassifierFeatures, command: Command) -> None:
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
    assert ("classifier trained in" in outcome.err) == bool(quick)


def test_a_multirun_compares_the_frechet_distances(
    tiny_run: Path, kept_features: ClassifierFeatures, command: Command
) -> None:
    outcome = command("eval", f"ckpt={tiny_run}", "n=4", "-m", "sampler.steps=1,2")
    table = outcome.out[outcome.out.index("jobs of this multirun") :]
    assert "Frechet distance" in table
    assert "bits/dim" not in table, "a column that no job fills is left out"


def test_too_few_samples_are_told_before_the_classifier_is_trained(
    tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierFeatures, "prepare", lambda self: pytest.fail("trained first"))
    assert "at least 4 of each" in command("eval", f"ckpt={tiny_run}", "n=3", code=1).problem


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "try ckpt=latest"),
    "no ckpt": (["ckpt=nowhere"], "no such file"),
    "few": (["ckpt=latest", "n=3"], "at least 4 of each"),
    "none": (["ckpt=latest", "n=0"], "at least 1"),
    "split": (["ckpt=latest", "split=tset"], "did you mean 'test'"),
    "label": (["ckpt=latest", "label=3"], "without classes"),
    "another data set": (["ckpt=latest", "dataset=moons"], "shape (2,) instead of (1, 8, 8), levels none"),
    "features": (["ckpt=latest", "features=clasifier"], "classifier"),
    "width": (["ckpt=latest", "features=classifier", "features.recipe.channels=6"], "multiples of 8"),
    "batch": (["ckpt=latest", "features=classifier", "features.recipe.batch_size=0"], "at least 1"),
    "broken": (["samples=broken", "dataset=digits"], "broken/1.png: cannot be read as a picture"),
    "sizes": (["samples=sizes", "dataset=digits"], "2.png: (9, 8) pixels"),
    "no samples": (["samples=nowhere", "dataset=digits"], "samples.npz of 'dfm sample'"),
    "of what": (["samples=whole.npz"], "try dataset=digits"),
    "shape": (["samples=small.npz", "dataset=digits"], "each of shape (1, 8, 8)"),
    "floats": (["samples=floats.npz", "dataset=digits"], "each of shape (1, 8, 8)"),
    "images for points": (["samples=whole.npz", "dataset=moons"], "each of shape (2,)"),
    "wide integers": (["samples=wide.npz", "dataset=digits"], "int64"),
    "words": (["samples=words.npz", "dataset=digits"], "<U7, each of shape ()"),
    "levels": (["samples=bytes.npz", "dataset=digits"], "17 levels spread"),
    "too many": (["samples=whole.npz", "dataset=digits", "n=9"], "at most n="),
    "no effect": (["samples=whole.npz", "dataset=digits", "sampler.steps=3"], "has no effect"),
    "nan": (["samples=nan.npz", "dataset=moons"], "not all finite"),
}


QUICK_ROWS = ("few", "split", "another data set", "width", "broken", "shape", "no effect")


@pytest.mark.parametrize(
    "name", [n if n in QUICK_ROWS else pytest.param(n, marks=pytest.mark.wide) for n in sorted(MISTAKES)]
)
def test_a_mistake_is_one_line(name: str, tiny_run: Path, kept_features: ClassifierFeatures, command: Command) -> None:
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
    assert outcome.problem


def test_images_without_classes_are_refused_before_anything_is_drawn(command: Command, tmp_path: Path) -> None:
    where = ["dataset=folder", "dataset.labels=false", *overrides_for("folder", tmp_path)]
    outcome = command("eval", "samples=not_yet_looked_at", *where, code=1)
    assert "features=coordinates, or a data set with at least 2 classes" in outcome.err
    assert outcome.problem
