"""Files of dfm that a process reads once: what is kept is never changed by a composition, and changes are seen."""

import os
from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource

from dfm.cli.composition import yaml_files
from dfm.cli.composition.command_line import compose
from dfm.cli.composition.yaml_files import FileRepository

LINES = [
    ["experiment=digits_vp"],
    ["experiment=digits_vp", "schedule=ve", "trainer.lr=0.5"],
    ["dataset=moons", "model.width=16"],
    ["experiment=digits_ddpm", "density=logit_normal"],
    ["experiment=none", "hydra.run.dir=here"],
    [],
]


def test_one_line_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composed one after the other, in both directions, lines give what each gives alone."""
    alone = []
    for words in LINES:
        monkeypatch.setattr(yaml_files, "_KEPT", {})
        alone.append(compose("train", *words))
    assert [compose("train", *words) for words in LINES] == alone
    assert [compose("train", *words) for words in reversed(LINES)] == alone[::-1]


def test_a_second_composition_opens_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compose("train", "schedule=vp")
    opened = []
    monkeypatch.setattr(FileConfigSource, "load_config", lambda self, path: opened.append(path))
    assert compose("train", "schedule=vp") == first
    assert opened == []


def test_a_file_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "is_users", lambda provider, path: False)
    file = tmp_path / "a.yaml"
    places = ConfigSearchPathImpl()
    places.append("main", f"file://{tmp_path}")
    places.append("schema", "structured://")
    found = []
    for value in (1, 2):
        file.write_text(f"key: {value}\n")
        os.utime(file, ns=(value, value))
        found.append(FileRepository(places).load_config("a").config.key)
    assert found == [1, 2]
