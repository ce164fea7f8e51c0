"""The random numbers of a training step: no two steps share them, and an old run goes on with its own.

torch's generator on the CPU keeps 32 bits of a seed, so two steps of a long run had the same numbers. The pairs of
steps below were found by search: their 63-bit seeds of dfm 0.1 are equal in the lowest 32 bits.
"""

import copy

import numpy as np
import pytest
import torch
from support.trainers import trainer

from dfm.basics.seeding import Purpose, draw_seed, lent_seed, seeded, stream, training_generator, wide_generator
from dfm.training.batches import Augmentation, Batch

CPU = torch.device("cpu")
SAME_LOW_BITS = {
    Purpose.TRAIN: (166789, 180094),
    Purpose.FLIP: (119353, 141446),
    Purpose.DROPOUT: (10225, 25818),
    Purpose.HIDDEN_LABEL: (53463, 55062),
}


def old_seed(purpose: Purpose, step: int) -> int:
    return int(stream(0, 0, purpose, step).integers(0, 2**63, dtype=np.int64))


@pytest.mark.parametrize("purpose", SAME_LOW_BITS)
def test_steps_whose_seeds_agree_in_32_bits_have_other_numbers(purpose: Purpose) -> None:
    steps = SAME_LOW_BITS[purpose]
    seeds = [old_seed(purpose, step) for step in steps]
    assert seeds[0] != seeds[1]
    assert seeds[0] % 2**32 == seeds[1] % 2**32

    def drawn(streams: int) -> list[torch.Tensor]:
        return [torch.randn(8, generator=training_generator(CPU, 0, step, 0, purpose, streams)) for step in steps]

    assert torch.equal(*drawn(1)), "as dfm 0.1 drew them"
    assert not torch.equal(*drawn(2))


def test_every_draw_of_a_step_is_its_own() -> None:
    """Dropout, flips and hidden classes through the functions that the trainer calls."""
    masks = []
    for step in SAME_LOW_BITS[Purpose.DROPOUT]:
        with seeded(CPU, 0, step, 0, Purpose.DROPOUT):
            masks.append(torch.nn.functional.dropout(torch.ones(64)))
    assert not torch.equal(*masks)
    batch = Batch(torch.arange(256.0).reshape(64, 1, 1, 4), torch.zeros(64, dtype=torch.int64), torch.arange(64))
    change = Augmentation(flip=True, label_dropout=0.5, num_classes=3)
    flipped = [change(batch, 0, step) for step in SAME_LOW_BITS[Purpose.FLIP]]
    hidden = [change(batch, 0, step) for step in SAME_LOW_BITS[Purpose.HIDDEN_LABEL]]
    assert not torch.equal(*(changed.values for changed in flipped))
    assert not torch.equal(*(changed.labels for changed in hidden))


def test_philox_fills_the_whole_state_of_torchs_twister() -> None:
    """Torch's integers are those of NumPy's twister with these 624 words."""
    words = stream(5, 2, Purpose.TRAIN, 7).integers(0, 2**32, 624)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words.astype(np.uint32), "pos": 624}}
    found = torch.randint(2**20, (2000,), generator=training_generator(CPU, 5, 7, 2, Purpose.TRAIN))
    assert found.tolist() == (twister.random_raw(2000) % 2**20).tolist()
    normals = torch.randn(100_000, generator=training_generator(CPU, 5, 7, 2, Purpose.TRAIN))
    assert abs(float(normals.mean())) < 4.5 / 100_000**0.5
    assert float(normals.var()) == pytest.approx(1, abs=4.5 * (2 / 100_000) ** 0.5)


def test_a_seed_for_a_whole_call_is_repeatable_and_as_long() -> None:
    """Of a consistency model's two calls, which shall have one dropout; short seeds are those of dfm 0.1."""

    def drawn(seed: int) -> torch.Tensor:
        with lent_seed(CPU, seed):
            return torch.rand(8)

    seed = draw_seed(training_generator(CPU, 0, 3, 0, Purpose.TRAIN))
    assert seed >= 2**32
    assert torch.equal(drawn(seed), drawn(seed))
    assert not torch.equal(drawn(seed), drawn(seed + 2**32)), "bits above the 32nd count"
    old = draw_seed(training_generator(CPU, 0, 3, 0, Purpose.TRAIN, streams=1))
    same = torch.Generator().manual_seed(old_seed(Purpose.TRAIN, 3))
    assert old == int(torch.randint(2**31, (), generator=same))
    assert torch.equal(drawn(old), torch.rand(8, generator=torch.Generator().manual_seed(old)))


def test_long_seeds_of_points_are_heeded() -> None:
    short, long = (wide_generator(seed, Purpose.POINTS) for seed in (3, 3 + 2**32))
    assert torch.equal(torch.rand(4, generator=short), torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(torch.rand(4, generator=long), torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_a_run_that_began_with_the_old_streams_goes_on_with_them() -> None:
    """A checkpoint of dfm 0.1 does not name its streams: the losses are those that it would have had."""
    old = trainer()
    old.streams = 1
    reports = old.steps()
    losses = [float(next(reports).loss) for _ in range(3)]
    state = copy.deepcopy({key: value for key, value in old.state().items() if key != "streams"})
    resumed, new = trainer(), trainer()
    resumed.load_state(state)
    assert resumed.state()["streams"] == 1
    assert [float(report.loss) for report in resumed.steps()] == [float(report.loss) for report in reports]
    assert float(next(new.steps()).loss) != losses[0]
    assert new.state()["streams"] == 2
