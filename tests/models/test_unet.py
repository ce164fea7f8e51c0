"""The U-Net by itself: shapes, conditioning, layout, gradients, and what it refuses."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.unet_cases import VARIANTS, inputs, preset, randomise, unet

from dfm.basics.errors import UserError
from dfm.models.blocks import BlockOptions, SelfAttention
from dfm.models.unet import UNet

PRESETS = [
    ("unet", (3, 32, 32)),
    ("unet_small", (1, 28, 28)),
    ("unet_small", (3, 32, 32)),
    ("unet_patch", (1, 28, 28)),
    ("unet_patch", (3, 32, 32)),
    ("unet_digits", (1, 8, 8)),
    ("unet_signals", (1, 256)),
    ("unet_volumes", (1, 16, 16, 16)),
    ("mlp", (2,)),
]


@pytest.mark.parametrize(("name", "shape"), PRESETS)
def test_a_preset_says_how_many_parameters_it_has(name: str, shape: tuple[int, ...]) -> None:
    from dfm.cli.composition.config_dirs import config_dir

    header = (Path(config_dir()) / "model" / f"{name}.yaml").read_text()
    assert f"{preset(name, shape):,}" in header


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_has_the_inputs_shape_and_no_parameter_is_dead(variant: str) -> None:
    model = unet(num_classes=3, **VARIANTS[variant])
    x, c_time = inputs()
    out = model(x, c_time, torch.tensor([0, 1, 2])) + model(x, c_time)  # the second uses the row of 'no label'
    assert out.shape == x.shape
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-12, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_does_not_depend_on_its_batch(variant: str) -> None:
    model = unet(**VARIANTS[variant]).double()
    x, c_time = (t.double() for t in inputs(batch=5))
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], c_time[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(model(x, c_time), alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_last_changes_the_layout_alone(variant: str) -> None:
    model = unet(**VARIANTS[variant]).double()
    x, c_time = (t.double() for t in inputs())
    with torch.no_grad():
        expected = model(x, c_time)
        last = {"memory_format": torch.channels_last}
        out = model.to(**last)(x.to(**last), c_time)
    assert out.is_contiguous(**last)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", ["plain", "scale_shift"])
def test_float32_and_float64_agree(variant: str) -> None:
    model = unet(**VARIANTS[variant])
    x, c_time = inputs()
    with torch.no_grad():
        single = model(x, c_time)
        double = model.double()(x.double(), c_time.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_time_enters_at_every_level(variant: str) -> None:
    """With the time of all other levels cut off, each level's own still moves the output."""
    model = unet(**VARIANTS[variant])
    x, c_time = inputs()
    places = [("down", level) for level in model.down] + [("up", level) for level in model.up]
    for place, kept in [*places, *[("mid", block) for block in model.mid]]:
        own = {id(module.time) for module in kept.modules() if hasattr(module, "time")}
        weights = {
            m.time: m.time.weight.clone() for m in model.modules() if hasattr(m, "time") and id(m.time) not in own
        }
        with torch.no_grad():
            for linear in weights:
                linear.weight.zero_()
            moved = (model(x, c_time) - model(x, c_time + 1)).abs().max()
            for linear, weight in weights.items():
                linear.weight.copy_(weight)
        assert moved > 1e-4, place


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_starts_at_zero_with_blocks_as_the_identity(variant: str) -> None:
    model = unet(**{**VARIANTS[variant], "zero_init": True})
    x, c_time = inputs()
    assert torch.equal(model(x, c_time), torch.zeros_like(x))
    h, e = torch.randn(2, 8, 4, 4), torch.randn(2, model.embedding.linear_2.out_features)
    assert torch.equal(model.down[0].blocks[0](h, e), h)


def test_dropout_acts_in_training_only() -> None:
    model = unet(dropout=0.5)
    x, c_time = inputs()
    assert torch.equal(model(x, c_time), model(x, c_time))
    assert not torch.equal(model.train()(x, c_time), model(x, c_time))


def test_no_label_is_the_last_row_and_may_be_given_to_single_samples() -> None:
    model = unet(num_classes=4)
    x, c_time = inputs()
    with torch.no_grad():
        without, mixed = model(x, c_time), model(x, c_time, torch.tensor([0, 4, 3]))
    torch.testing.assert_close(mixed[1], without[1])
    assert (mixed[0] - without[0]).abs().max() > 1e-3
    assert model.embedding.table is not None
    assert model.embedding.table.num_embeddings == 5


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_softmax_of_scaled_products(heads: int) -> None:
    options = BlockOptions(
        time_channels=4, groups=4, attention_groups=4, norm_eps=1e-5, dropout=0.0, scale_shift=False,
        num_heads=heads, head_channels=None, zero_init=False,
    )  # fmt: skip
    attention = SelfAttention(8, options).double()
    randomise(attention)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2).mT
    mixed = torch.zeros_like(tokens)
    for rows in torch.arange(8).chunk(heads):
        q, k, v = (tokens @ attention.qkv.weight[rows + i * 8].T + attention.qkv.bias[rows + i * 8] for i in range(3))
        weights = torch.exp(q @ k.mT / math.sqrt(len(rows)))
        mixed[..., rows] = (weights / weights.sum(-1, keepdim=True)) @ v
    expected = x + attention.out(mixed).mT.reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_the_default_sinusoids_go_from_ten_to_a_tenth_radian_per_unit() -> None:
    angular = unet(channels=8).embedding.frequencies
    torch.testing.assert_close(angular, torch.tensor([10.0, 10 / 100 ** (1 / 3), 10 / 100 ** (2 / 3), 0.1]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: unet((1, 7, 8), padding="refuse"),
            "7x8 and 2 resolutions; allowed: height and width divisible by 2; try model.channel_multipliers=",
        ),
        (
            lambda: unet((1, 28, 28), channel_multipliers=(1,) * 4, padding="refuse"),
            "by 8; try model.channel_multipliers=[1,2,2]",
        ),
        (lambda: unet((2,)), "(2,); allowed: signals (C, L), images (C, H, W), volumes (C, D, H, W); try model=mlp"),
        (lambda: unet(channel_multipliers=()), "channel_multipliers=()"),
        (lambda: unet(channels=9, groups=3), "9 sines and cosines of time"),
        (
            lambda: unet(groups=5),
            "groups=5 where the resolutions have 8, 16 channels; allowed: a divisor of each; try model.groups=1",
        ),
        (lambda: unet(groups=0), "groups=0"),
        (lambda: unet(attention_levels=(2,)), "attention_levels=[2]; allowed: 0 (full resolution) to 1"),
        (lambda: unet(up_attention_levels=(-1,)), "up_attention_levels=[-1]"),
        (lambda: unet(num_heads=3), "where attention has 16 channels; allowed: a divisor; try model.num_heads=1"),
        (lambda: unet(head_channels=0), "head_channels=0"),
        (lambda: unet(num_heads=2, head_channels=4), "allowed: one of them"),
        (lambda: unet(dropout=1.0), "dropout=1; allowed: from 0 to below 1"),
        (lambda: unet(downsample="convv"), "unknown downsample 'convv'; allowed: conv, pool, resblock; did"),
        (lambda: unet(upsample=("conv", "conv")), "upsample=['conv', 'conv']; allowed: 1 kinds"),
        (lambda: unet(mid_attention_groups=3), "mid_attention_groups=3 where there are 16 channels"),
        (lambda: unet(blocks_per_level=0), "blocks_per_level=0; allowed: from 1 to"),
        (lambda: unet(time_channels=0), "time_channels=0; allowed: from 1 to"),
        (lambda: unet(max_period=1.0), "max_period=1; allowed: above 1"),
        (lambda: unet(channels=2, groups=1, attention_levels=()), "frequency_shift=1 with 1 frequencies"),
        (lambda: unet()(*inputs(), torch.zeros(3, dtype=torch.int64)), "a label was given to a model without classes"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_try(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build()
    assert words in str(caught.value)
    assert "allowed" in str(caught.value) or "try" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("patch", [2, 4])
def test_patches_are_channels_of_a_smaller_image(patch: int) -> None:
    """The same as folding the image by hand, asking a network of that shape, and unfolding what it says."""
    options = {"channels": 8, "channel_multipliers": (1, 2), "groups": 4, "zero_init": False}
    torch.manual_seed(1)
    whole = UNet(shape=(2, 16, 8), patch=patch, outputs=2, **options)
    torch.manual_seed(1)
    folded = UNet(shape=(2 * patch**2, 16 // patch, 8 // patch), outputs=2, **options)
    x, t = torch.randn(3, 2, 16, 8), torch.linspace(-2, 2, 3)
    small = torch.stack([
        x[:, c, i::patch, j::patch] for c in range(2) for i in range(patch) for j in range(patch)
    ], 1)  # fmt: skip
    expected, found = folded(small, t), whole(x, t)
    assert found.shape == (3, 4, 16, 8)
    for c in range(4):
        for i in range(patch):
            for j in range(patch):
                k = c * patch**2 + i * patch + j
                assert torch.equal(found[:, c, i::patch, j::patch], expected[:, k])


@pytest.mark.parametrize(
    ("shape", "patch", "levels", "hint"),
    [
        ((1, 28, 28), 3, 1, "28x28 and patch=3; allowed: a divisor of both; try model.patch=1"),
        ((1, 28, 28), 8, 1, "28x28 and patch=8; allowed: a divisor of both; try model.patch=4"),
        ((1, 28, 28), 2, 3, "divisible by 8; try model.channel_multipliers=.1,2."),
        ((1, 28, 28), 0, 1, "patch=0; allowed: from 1 to 64; try model.patch=2"),
    ],
)
def test_patches_that_do_not_fit(shape: tuple[int, ...], patch: int, levels: int, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        unet(shape, patch=patch, channel_multipliers=(1,) * levels, attention_levels=(0,), padding="refuse")
