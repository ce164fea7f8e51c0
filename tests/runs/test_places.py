"""Where data lie: the keys that may change, and the search beside a run."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dfm.data import split
from dfm.data.split import Split, fingerprint
from dfm.runs.places import beside, movable_keys, with_absolute_places, without_keys, without_places

CONFIG = {
    "dataset": {"_target_": "dfm.data.ImageFolder", "path": "pics", "cache": "~/c", "size": 8, "num_workers": 2},
    "prior": {
        "_target_": "dfm.paths.DatasetPrior",
        "dataset": {"_target_": "dfm.data.MNIST", "root": "/far", "download": False},
    },
    "model": {"_target_": "os.system", "path": "kept"},
}


def test_a_data_set_says_what_may_change() -> None:
    folder = {"dataset.path", "dataset.cache", "dataset.num_workers"}
    assert movable_keys(CONFIG, ("dfm",)) == folder | {"prior.dataset.root", "prior.dataset.download"}


def test_paths_become_absolute_and_can_be_left_out() -> None:
    found = with_absolute_places(CONFIG, ("dfm",), Path("/here"))
    assert found["dataset"]["path"] == "/here/pics"
    assert (found["dataset"]["cache"], found["prior"]["dataset"]["root"]) == ("~/c", "/far")
    assert found["model"] == CONFIG["model"]
    bare = without_places(CONFIG, ("dfm",), handling=True)
    assert bare["dataset"] == {"_target_": "dfm.data.ImageFolder", "size": 8}
    assert without_keys(CONFIG, {"dataset.path", "prior"})["dataset"].keys() == CONFIG["dataset"].keys() - {"path"}


def test_the_longest_common_end_is_the_first_to_be_tried(tmp_path: Path) -> None:
    """And the folders that a run writes into its own directory are no data."""
    run = tmp_path / "runs" / "r"
    for name in ("data/pics", "runs/pics", "runs/r/samples", "samples"):
        (tmp_path / name).mkdir(parents=True)
    assert list(beside(run, "/old/project/data/pics")) == [tmp_path / "data" / "pics", tmp_path / "runs" / "pics"]
    assert next(beside(run, "../x/samples")) == tmp_path / "samples"


@dataclass
class Small:
    """A split with one number changed at a place."""

    n: int = 8

    def split(self, at: int | None = None, label: int = 0) -> Split:
        values = torch.arange(self.n * 12, dtype=torch.uint8).reshape(self.n, 3, 2, 2)
        if at is not None:
            values[at] += 1
        return Split(values=values, labels=torch.full((self.n,), label))


@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_fingerprint_sees_every_example_and_label(at: int) -> None:
    small = Small()
    assert fingerprint(small.split()) == fingerprint(small.split())
    assert fingerprint(small.split(at)) != fingerprint(small.split())
    assert fingerprint(small.split(label=1)) != fingerprint(small.split())
    shorter = Split(values=small.split().values[:7], labels=None)
    assert fingerprint(shorter).examples == 7


def test_a_large_split_is_read_in_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first and last example and those between at equal distances; the form counts as well."""
    monkeypatch.setattr(split, "WHOLE", 10)
    monkeypatch.setattr(split, "SAMPLE", 3)
    small = Small(n=9)
    for at in (0, 4, 8):
        assert fingerprint(small.split(at)) != fingerprint(small.split())
    assert fingerprint(small.split(1)) == fingerprint(small.split())
    flat = Split(values=small.split().values.reshape(9, 1, 3, 4), labels=small.split().labels)
    assert fingerprint(flat) != fingerprint(small.split())
