"""Examples that occur twice, against a comparison of all pairs; mirror images, on laws whose answer is known."""

import numpy as np
import pytest
import torch

from dfm.data.published.digits import Digits
from dfm.data.split import Split
from dfm.evaluation.duplicates import across, hashes, within
from dfm.evaluation.mirror_images import _nearest, mirror_test

RNG = np.random.default_rng(0)


def split_of(values: torch.Tensor, labels: torch.Tensor | None = None) -> Split:
    return Split(values=values, labels=labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_duplicates_are_those_of_all_pairs(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfm.data.split.BLOCK", 7)  # several blocks
    train, test = (torch.from_numpy(RNG.integers(0, 3, (n, 2, 2))).to(dtype) for n in (40, 30))
    a, b = hashes(split_of(train)), hashes(split_of(test))
    same = [(i, j) for j in range(40) for i in range(j) if bool((train[i] == train[j]).all())]
    again = {j for _, j in same}
    found = within(a)
    assert found.count == len(again) > 5
    assert set(found.pairs) <= set(same)
    first = {j: min(i for i in range(40) if bool((train[i] == test[j]).all())) for j in range(30)
             if any(bool((train[i] == test[j]).all()) for i in range(40))}  # fmt: skip
    assert across(a, b).count == len(first) > 3
    assert across(a, b).pairs == [(i, j) for j, i in first.items()][:5]
    assert across(a, b[:0]).count == across(a[:0], b).count == within(a[:0]).count == 0


def test_a_hash_takes_eight_bytes_and_tells_progress() -> None:
    done: list[int] = []
    assert hashes(split_of(torch.zeros(10, 1000)), done.append).nbytes == 80
    assert sum(done) == 10


def corners(side: str, n: int = 400) -> torch.Tensor:
    """Images with a bright spot at a random height, at the left, or at either side."""
    images = torch.from_numpy(RNG.normal(0, 0.1, (n, 1, 8, 12)))
    left = np.ones(n, bool) if side == "left" else RNG.random(n) < 0.5
    images[np.arange(n), 0, RNG.integers(0, 8, n), np.where(left, 1, 10)] += 3
    return images


def test_mirroring_suits_a_law_without_sides() -> None:
    either, left = mirror_test(split_of(corners("either"))), mirror_test(split_of(corners("left")))
    assert either is not None
    assert left is not None
    assert abs(either.share - 0.5) < 4 * either.stderr
    assert (either.suits, left.suits) == (True, False)
    assert left.share < 0.05
    symmetric = torch.from_numpy(RNG.normal(0, 1, (300, 3, 40, 20)))
    exact = mirror_test(split_of(symmetric + symmetric.flip(-1)))
    assert exact is not None
    assert exact.share == 0.5, "ties count half"


def test_classes_can_depend_on_the_side() -> None:
    """Spots at either side are a law without sides, but not where the side is the class, as of b and d."""
    images = corners("either")
    labels = (images[:, 0, :, 6:].flatten(1).amax(1) > 2).long()
    assert 100 < labels.sum() < 300
    found = mirror_test(split_of(images, labels))
    assert found is not None
    assert not found.suits


def test_mirrored_digits_are_no_digits_and_few_images_tell_nothing() -> None:
    digits = mirror_test(Digits().split("train"))
    assert digits is not None
    assert digits.suits is False
    few = mirror_test(split_of(corners("either", 20)))
    assert few is not None
    assert few.suits is None
    assert mirror_test(split_of(corners("left", 1))) is None
    assert mirror_test(split_of(torch.ones(100, 1, 4, 4))) is None, "all the same"


def test_the_nearest_other_is_as_near_as_by_differences() -> None:
    """Against torch's distances by differences: copies, near copies, images far from zero, and no other at all."""
    images = torch.randint(0, 256, (90, 3, 4, 4), generator=torch.Generator().manual_seed(0)).double() + 1e6
    images[5], images[7] = images[60], images[61] + 1e-3
    allowed = ~torch.eye(40, 90, dtype=torch.bool)
    allowed[3], allowed[9, ::2] = False, False
    plain = torch.cdist(
        images[:40].flatten(1), images.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    ).masked_fill(~allowed, torch.inf)
    found = _nearest(images[:40], images, allowed)
    torch.testing.assert_close(found, plain.amin(1), rtol=1e-9, atol=0)
    assert found[5] == 0
    assert found[3] == torch.inf
