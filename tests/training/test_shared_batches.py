"""A batch that processes share: what is refused is named by what the user gave, and the advice works."""

import re
from typing import Any

import pytest

from dfm.basics.errors import UserError
from dfm.basics.processes import World
from dfm.cli.commands.train.command import share_batches
from dfm.training.parallel.strategy import check_parallel
from dfm.training.trainer_config import TrainerConfig


def config(**trainer: int) -> dict[str, Any]:
    return {"trainer": {"accumulate": 1, "batch_size": 8, **trainer}}


@pytest.mark.parametrize(("batch", "size"), [(8, 3), (2, 4), (7, 2)])
def test_a_batch_that_cannot_be_shared_names_the_batch(batch: int, size: int) -> None:
    with pytest.raises(UserError, match=f"trainer.batch_size={batch} for {size} processes") as caught:
        share_batches(config(batch_size=batch), World(0, size))
    assert "accumulate" not in str(caught.value), "the user did not give it"
    fitting = int(re.findall(r"try trainer.batch_size=(\d+)", str(caught.value))[0])
    shared = share_batches(config(batch_size=fitting), World(0, size))["trainer"]
    check_parallel(TrainerConfig(max_steps=1, **shared), True, World(0, size))


def test_what_the_user_gave_stays() -> None:
    assert share_batches(config(accumulate=4), World(0, 2)) == config(accumulate=4)
    assert share_batches(config(), World()) == config()


@pytest.mark.parametrize(("batch", "parts", "size"), [(12, 3, 2), (8, 4, 3), (12, 6, 4)])
def test_a_resumed_run_on_other_processes_says_where_its_parts_come_from(batch: int, parts: int, size: int) -> None:
    """A run that began on 3 processes has 3 parts, which nobody gave."""
    settings = TrainerConfig(max_steps=1, batch_size=batch, accumulate=parts)
    with pytest.raises(UserError, match="with which this run began") as caught:
        check_parallel(settings, True, World(0, size))
    key, number = re.findall(r"try (trainer.accumulate=|torchrun with )(\d+)", str(caught.value))[0]
    if key == "trainer.accumulate=":
        check_parallel(TrainerConfig(max_steps=1, batch_size=batch, accumulate=int(number)), True, World(0, size))
    else:
        check_parallel(settings, True, World(0, int(number)))
