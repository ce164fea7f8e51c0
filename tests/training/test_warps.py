"""Changes of training pictures: each against a closed form; and what the network is told of them."""

import math

import numpy as np
import pytest
import torch
from support.trainers import assert_equal, trainer
from torch.nn import functional

from dfm.basics.errors import UserError
from dfm.data.dataset import Split
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.data.published.digits import Digits
from dfm.runs.pictures.training_examples import what_is_seen
from dfm.training.batches import Augmentation, Batch, Batches
from dfm.training.warps import CHANGES, GeometricWarp, inverse_map, warped

WARP = GeometricWarp()
NUMBERS = {  # what tells each change of the paper's table 6, with its n and its angles
    "scale up": ({2: 1.3}, {"scale": 1.3}),
    "scale down": ({2: -1.1}, {"scale": -1.1}),
    "rotate": ({3: math.cos(0.7) - 1, 4: math.sin(0.7)}, {"rotate": 0.7}),
    "stretch": ({5: 1.2 * math.cos(2 * 0.4), 6: 1.2 * math.sin(2 * 0.4)}, {"stretch": (1.2, 0.4)}),
    "shift": ({7: 0.9, 8: -1.7}, {"shift": (0.9, -1.7)}),
    "all": (
        {2: 0.5, 3: math.cos(-2) - 1, 4: math.sin(-2), 5: -math.cos(6), 6: -math.sin(6), 7: 0.3, 8: 1},
        {"scale": 0.5, "rotate": -2.0, "stretch": (-1.0, 3.0), "shift": (0.3, 1.0)},
    ),
}


def told(numbers: dict[int, float]) -> torch.Tensor:
    change = torch.zeros(1, 9, dtype=torch.float64)
    for column, value in numbers.items():
        change[0, column] = value
    return change


def turned(angle: float) -> np.ndarray:
    """The rotation against the clock of places (right, down)."""
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def forward(sides: tuple[int, int], scale=0.0, rotate=0.0, stretch=(0.0, 0.0), shift=(0.0, 0.0)):  # type: ignore[no-untyped-def]
    """The map of places (right, down) from the centre, in sides: the matrices of the paper, multiplied."""
    amount, angle = stretch
    longer = np.diag([2 ** (0.2 * amount), 2 ** (-0.2 * amount)])
    linear = turned(angle) @ longer @ turned(-angle) @ turned(rotate) * 2 ** (0.2 * scale)
    return linear, np.array([sides[1] * shift[0], sides[0] * shift[1]]) / 8


def smooth(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """A function on the plane that is its own mirror image about the edges of the unit square."""
    return np.cos(np.pi * right) * np.cos(2 * np.pi * down) + 0.5 * np.cos(3 * np.pi * right) - np.cos(np.pi * down)


def errors_of(name: str, height: int, width: int, plain: bool = False) -> float:
    """The root of the mean squared error of the change of a sampled smooth function, of unit sides."""
    numbers, amounts = NUMBERS[name]
    linear, offset = forward((height, width), **amounts)
    down, right = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    picture = torch.from_numpy(smooth(right / width, down / height))[None, None]
    places = np.stack([right - width / 2, down - height / 2], -1)
    before = (places - offset) @ np.linalg.inv(linear).T
    expected = smooth(before[..., 0] / width + 0.5, before[..., 1] / height + 0.5)
    if plain:  # torch's own interpolation of the picture itself
        grid = torch.from_numpy(before / np.array([width / 2, height / 2]))[None]
        found = functional.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)
    else:
        found = WARP.apply(picture, told(numbers))
    return float(np.sqrt(np.square(found[0, 0].numpy() - expected).mean()))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_change_shows_a_smooth_function_at_its_changed_places(name: str) -> None:
    """To second order in the size of a pixel, beyond the border too; with a quarter of torch's linear error."""
    coarse, fine = (errors_of(name, side, 3 * side // 2) for side in (32, 128))
    assert math.log(coarse / fine, 4) > 1.9
    assert coarse < 0.001
    assert coarse < 0.35 * errors_of(name, 32, 48, plain=True)


@pytest.mark.parametrize("sides", [(6, 6), (5, 8), (1, 3)])
def test_mirrors_are_exact(sides: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *sides)
    one, zero = told({}).repeat(2, 1), torch.zeros(9)
    for column, axis in ((0, -1), (1, -2)):
        change = one.clone()
        change[1, column] = 1
        found = WARP.apply(x, change)
        assert torch.equal(found[0], x[0])
        assert torch.equal(found[1], x[1].flip(axis))
    assert torch.equal(WARP.apply(x, zero.expand(2, 9)), x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_turns_and_whole_shifts_move_pixels(dtype: torch.dtype, tolerance: float) -> None:
    """Each pixel of the result is a pixel of the picture; a shifted one goes on as its mirror image."""
    x = torch.randn(1, 2, 8, 8, dtype=dtype)
    for quarters in range(1, 4):
        angle = quarters * math.pi / 2
        found = WARP.apply(x, told({3: math.cos(angle) - 1, 4: math.sin(angle)}))
        torch.testing.assert_close(found, torch.rot90(x, quarters, (2, 3)), rtol=0, atol=tolerance)
    right = WARP.apply(x, told({7: 2.0}))  # two eighths of eight pixels
    torch.testing.assert_close(right, torch.cat([x[..., [1, 0]], x[..., :6]], 3), rtol=0, atol=tolerance)
    up = WARP.apply(x, told({8: -1.0}))
    torch.testing.assert_close(up, torch.cat([x[..., 1:, :], x[..., 7:, :]], 2), rtol=0, atol=tolerance)


def test_the_map_of_a_change_is_the_inverse_of_the_papers() -> None:
    for numbers, amounts in NUMBERS.values():
        linear, offset = forward((20, 30), **amounts)
        back, start = (each[0].numpy() for each in inverse_map(told(numbers)[:, 2:], (20, 30)))
        np.testing.assert_allclose(back @ linear, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(back @ offset + start, 0, atol=1e-12)


def test_no_change_of_place_gives_the_picture() -> None:
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    same = warped(x, torch.eye(2, dtype=torch.float64)[None], torch.zeros(1, 2, dtype=torch.float64))
    torch.testing.assert_close(same, x, rtol=0, atol=1e-13)


def test_each_change_has_its_probability_and_its_law() -> None:
    n = 40000
    change = GeometricWarp(probability=0.2, mirror=0.5).draw(n, torch.Generator().manual_seed(0)).double()
    columns = dict(zip(CHANGES, np.split(np.arange(9), np.cumsum(list(CHANGES.values()))[:-1]), strict=True))
    for name, own in columns.items():
        made = (change[:, own] != 0).any(1)
        chance = 0.5 if name == "xflip" else 0.2
        assert abs(float(made.double().mean()) - chance) < 4.5 * (chance * (1 - chance) / n) ** 0.5, name
        values = change[made][:, own]
        if name in ("xflip", "yflip"):
            assert (values == 1).all()
        elif name == "rotate":
            angles = torch.atan2(values[:, 1], values[:, 0] + 1)
            assert ((values[:, 0] + 1) ** 2 + values[:, 1] ** 2 - 1).abs().max() < 1e-5
            assert abs(float(angles.mean())) < 4.5 * math.pi / 3**0.5 / len(angles) ** 0.5
            assert float(angles.std()) == pytest.approx(math.pi / 3**0.5, rel=0.02)
        else:  # a stretch has one normal, divided among two numbers by its angle
            assert float(values.square().sum(1).mean()) == pytest.approx(2 if name == "shift" else 1, rel=0.05)
    unchanged = (change == 0).all(1).double().mean()
    assert float(unchanged) == pytest.approx(0.5 * 0.8**5, rel=0.03)


def test_a_change_that_is_off_leaves_the_others_as_they_are() -> None:
    few = GeometricWarp(changes=("rotate", "shift")).draw(64, torch.Generator().manual_seed(1))
    every = WARP.draw(64, torch.Generator().manual_seed(1))
    assert torch.equal(few[:, [3, 4, 7, 8]], every[:, [3, 4, 7, 8]])
    assert not few[:, [0, 1, 2, 5, 6]].any()
    assert every[:, [0, 1, 2, 5, 6]].any(0).all()


def test_changes_follow_from_seed_step_and_place() -> None:
    batch = Batch(torch.zeros(64, 1, 8, 8), None, torch.arange(64))
    augmentation = Augmentation(warp=WARP, label_dropout=0.0)

    def change(seed: int, step: int) -> torch.Tensor:
        found = augmentation(batch, seed, step).change
        assert found is not None
        return found

    assert torch.equal(change(0, 1), change(0, 1))
    assert not torch.equal(change(0, 1), change(0, 2))
    assert not torch.equal(change(0, 1), change(1, 1))
    whole = augmentation(batch, 0, 1)
    data = torch.randn(64, 1, 8, 8)
    parts = [augmentation.warped(data[16 * k : 16 * k + 16], part) for k, part in enumerate(whole.parts(4))]
    torch.testing.assert_close(torch.cat(parts), augmentation.warped(data, whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_resumed_run_with_changes_is_the_uninterrupted_one(accumulate: int) -> None:
    whole = trainer(warp=WARP, accumulate=accumulate)
    losses = [float(report.loss) for report in whole.steps()]
    first, second = (trainer(warp=WARP, accumulate=accumulate) for _ in range(2))
    reports = first.steps()
    for _ in range(3):
        next(reports)
    second.load_state(first.state())
    assert [float(report.loss) for report in second.steps()] == losses[3:]
    assert_equal(second, whole)
    assert whole.network.embedding.change.weight.any(), "it has learned from what it was told"  # type: ignore[union-attr]


def test_with_probability_zero_a_run_is_one_without() -> None:
    """Bit for bit. With a change that never comes the network is told zeros, which is the same to the network."""
    plain = trainer(clip_grad=None)
    never = trainer(clip_grad=None, warp=GeometricWarp(probability=0.0))
    rarely = trainer(clip_grad=None, warp=GeometricWarp(probability=1e-12))
    losses = [[float(report.loss) for report in run.steps()] for run in (plain, never, rarely)]
    assert losses[0] == losses[1] == losses[2]
    assert_equal(plain, never)
    assert_equal(plain, rarely)
    assert rarely.augmentation.warp.numbers == 9
    assert not rarely.network.embedding.change.weight.any()  # type: ignore[union-attr]


def test_a_validation_is_of_pictures_as_they_are() -> None:
    plain, told_of = trainer(), trainer(warp=GeometricWarp(probability=0.4))
    split = Digits().split("validation")
    assert told_of.validation_loss(told_of.averaged(), split, 64) == plain.validation_loss(plain.averaged(), split, 64)


def test_the_picture_of_the_training_shows_what_is_given() -> None:
    """The same as of data that were mirrored by hand where the network is told of it."""
    data, warp = Digits(), GeometricWarp(probability=0.5, changes=("xflip",))
    split = data.split("train")
    batches, cell = Batches(split, 16, 3), UniformDequantization()
    seen = what_is_seen(batches, Augmentation(warp=warp), cell, data.spec, n=16)
    indices = batches.indices(0)
    values = split.take(indices)
    change = Augmentation(warp=warp)(Batch(values, None, indices), 3, 0).change
    assert change is not None
    mirrored = change[:, 0] == 1
    assert 3 < int(mirrored.sum()) < 13
    by_hand = split.take(slice(0, len(split))).clone()
    by_hand[indices[mirrored]] = by_hand[indices[mirrored]].flip(-1)
    expected = what_is_seen(
        Batches(Split(values=by_hand, labels=split.labels), 16, 3), Augmentation(), cell, data.spec, n=16
    )
    assert np.array_equal(seen, expected)
    assert not np.array_equal(seen, what_is_seen(batches, Augmentation(), cell, data.spec, n=16))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": -0.1}, r"augmentation.probability=-0.1; allowed: from 0 to 1; try augmentation.prob"),
        ({"mirror": 1.5}, "augmentation.mirror=1.5; allowed"),
        ({"probability": 0.9}, "at least 1%; try augmentation.probability=0.12$"),
        ({"mirror": 1.0}, "0.00% of the pictures stay .*try augmentation.probability=0.12 augmentation.mirror=0.5$"),
        ({"changes": ("xflp",)}, "did you mean 'xflip'"),
        ({"changes": ("rotate",), "mirror": 0.5}, "have no xflip"),
    ],
)
def test_settings_that_are_no_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GeometricWarp(**settings)  # type: ignore[arg-type]
