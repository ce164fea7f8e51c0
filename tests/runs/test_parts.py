"""The parts that a configuration names, as objects."""

import pytest
import torch

from dfm.cli.composition.command_line import compose
from dfm.data.dataset import DatasetSpec
from dfm.runs.parts import Parts


@pytest.mark.parametrize("trained", ["flow_matching", "classifier"])
def test_a_model_that_cannot_be_made_leaves_the_device_as_it_was(trained: str) -> None:
    spec = DatasetSpec(name="points", shape=(2,), levels=None, num_classes=2, mean=0.0, std=1.0)
    config = compose("train", f"objective={trained}", "dataset=moons", "model=mlp")
    config["trainer"]["seed"] = "no number"
    with pytest.raises(ValueError, match="no number"):
        Parts(config).model(spec, torch.device("meta"))
    assert torch.zeros(1).device.type == "cpu"
