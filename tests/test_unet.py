"""The U-Net against diffusers' and torchcfm's on equal weights, and what must hold of it by itself."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from weight_maps import copy_adm, copy_diffusers

from dfm.errors import UserError
from dfm.models.blocks import BlockOptions, SelfAttention
from dfm.models.unet import UNet

Options = dict[str, Any]

SMALL: Options = {
    "channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_levels": (1,), "groups": 4,
}  # fmt: skip
# Every kind of part: three levels, both conditionings of time, heads, all ways to change resolution.
VARIANTS: dict[str, Options] = {
    "plain": {},
    "scale_shift": {"scale_shift": True, "num_heads": 2},
    "resblock": {"downsample": "resblock", "upsample": "resblock", "head_channels": 4},
    "unlearned": {"downsample": "pool", "upsample": "nearest", "mid_attention": False},
    "asymmetric": {"downsample_padding": 0, "mid_attention_groups": 0, "mid_scale_factor": 1.5},
    "three_levels": {
        "channel_multipliers": (1, 1.5, 2),
        "attention_levels": (0, 2),
        "downsample": ("conv", "resblock"),
    },
    "no_mid": {"mid_block": False, "up_attention_levels": (0,), "time_channels": 20, "flip_sin_to_cos": True},
}


def unet(shape: tuple[int, ...] = (2, 8, 12), num_classes: int = 0, **options: Any) -> UNet:
    return UNet(shape=shape, num_classes=num_classes, **{**SMALL, "zero_init": False, **options}).eval()


def inputs(shape: tuple[int, ...] = (2, 8, 12), batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), 14 * torch.rand(batch, generator=generator) - 7


def randomise(model: nn.Module) -> None:
    """Weights of size 1/sqrt(inputs), biases and the norms' scales well away from 0 and 1: nothing hides."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        spread = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        values = spread * torch.randn(parameter.shape, generator=generator)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(values + 1 if is_scale else values)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Greatest difference, in standard deviations of what it should be."""
    assert ours.shape == theirs.shape
    assert 0.1 < theirs.std() < 10
    return float((ours - theirs).abs().max() / theirs.std())


# What both packages share: sinusoids of a time that is not ours, cosines first.
THEIR_TIME: Options = {"time_scale": 1.0, "max_period": 10000.0, "frequency_shift": 0.0, "flip_sin_to_cos": True}

DOWN, ATTN_DOWN, RES_DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
UP, ATTN_UP, RES_UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"
DIFFUSERS_CASES: dict[str, tuple[tuple[int, ...], Options, Options]] = {
    # name: (shape, diffusers' options, ours)
    "plain": ((3, 8, 8), {"layers_per_block": 2, "attention_head_dim": None}, {"blocks_per_level": 2}),
    "ddpm": (
        (1, 8, 12),
        {
            "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
            "attention_head_dim": None, "dropout": 0.1,
        },
        {"downsample_padding": 0, "flip_sin_to_cos": False, "frequency_shift": 1.0, "norm_eps": 1e-6, "dropout": 0.1},
    ),
    "heads": ((3, 12, 8), {"attention_head_dim": 4}, {"head_channels": 4}),
    "scale_shift": (
        (3, 8, 8),
        {"resnet_time_scale_shift": "scale_shift", "attention_head_dim": 8, "num_class_embeds": 5},
        {"scale_shift": True, "head_channels": 8, "mid_attention_groups": 0},
    ),
    "mid_groups": (
        (1, 8, 8),
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2, "mid_block_scale_factor": math.sqrt(2)},
        {"scale_shift": True, "mid_attention_groups": 2, "mid_scale_factor": math.sqrt(2), "head_channels": 8},
    ),
    "resnet": (
        (3, 8, 8),
        {
            "down_block_types": (RES_DOWN, ATTN_DOWN, DOWN), "up_block_types": (RES_UP, ATTN_UP, UP),
            "downsample_type": "resnet", "upsample_type": "resnet", "block_out_channels": (16, 16, 32),
        },
        {"downsample": "resblock", "upsample": "resblock", "channel_multipliers": (1, 1, 2), "head_channels": 8},
    ),
    "mixed": (  # only diffusers' blocks with attention heed downsample_type
        (1, 8, 16),
        {
            "down_block_types": (DOWN, ATTN_DOWN, DOWN), "up_block_types": (UP, ATTN_UP, UP),
            "downsample_type": "resnet", "upsample_type": "resnet", "block_out_channels": (16, 24, 32),
        },
        {
            "downsample": ("conv", "resblock"), "upsample": ("resblock", "conv"),
            "channel_multipliers": (1, 1.5, 2), "head_channels": 8,
        },
    ),
    "classes": (
        (3, 8, 8),
        {"num_class_embeds": 7, "time_embedding_dim": 24, "add_attention": False},
        {"time_channels": 24, "mid_attention": False, "head_channels": 8},
    ),
    "uneven": (
        (3, 8, 8),
        {"down_block_types": (DOWN, DOWN), "up_block_types": (UP, ATTN_UP), "mid_block_type": None},
        {"attention_levels": (), "up_attention_levels": (0,), "mid_block": False, "head_channels": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFUSERS_CASES)
def test_equals_diffusers_on_its_weights(case: str) -> None:
    shape, theirs, ours = DIFFUSERS_CASES[case]
    diffusers = pytest.importorskip("diffusers")
    standard = {
        "block_out_channels": (16, 32), "down_block_types": (DOWN, ATTN_DOWN), "up_block_types": (ATTN_UP, UP),
        "layers_per_block": 1, "norm_num_groups": 8,
    }  # fmt: skip
    reference = diffusers.UNet2DModel(in_channels=shape[0], out_channels=shape[0], **{**standard, **theirs}).eval()
    randomise(reference)
    classes = theirs.get("num_class_embeds", 0)
    model = unet(shape, classes, **{"channels": 16, "groups": 8, **THEIR_TIME, **ours})
    copy_diffusers(reference.state_dict(), model)

    x, c_time = inputs(shape)
    label = torch.tensor([0, classes - 1, 2]) if classes else None
    with torch.no_grad():
        expected = reference.double()(x.double(), c_time.double(), class_labels=label).sample
        assert error(model.double()(x.double(), c_time.double(), label), expected) < 1e-5


ADM_CASES: dict[str, tuple[tuple[int, ...], Options, Options]] = {
    # name: (shape, ADM's options, ours)
    "plain": ((3, 8, 8), {"num_res_blocks": 2}, {"blocks_per_level": 2}),
    "legacy_heads": ((1, 8, 12), {"num_heads": 4}, {"num_heads": 4}),
    "new_heads": (
        (3, 12, 8),
        {"num_head_channels": 16, "use_new_attention_order": True, "attention_resolutions": (1, 2)},
        {"head_channels": 16, "attention_levels": (0, 1)},
    ),
    "resblock_updown": (
        (1, 8, 16),
        {
            "resblock_updown": True, "use_scale_shift_norm": True, "channel_mult": (1, 2, 3), "model_channels": 32,
            "num_head_channels": 32, "attention_resolutions": (2, 4), "num_classes": 5,
        },
        {
            "downsample": "resblock", "upsample": "resblock", "scale_shift": True, "channel_multipliers": (1, 2, 3),
            "channels": 32, "head_channels": 32, "attention_levels": (1, 2),
        },
    ),
    "classes": (
        (3, 8, 8),
        {"num_classes": 7, "conv_resample": False, "dropout": 0.1},
        {"downsample": "pool", "upsample": "nearest", "dropout": 0.1},
    ),
    "narrow_start": (
        (3, 8, 8),
        {"channel_mult": (0.5, 1), "model_channels": 128, "use_scale_shift_norm": True},
        {"channel_multipliers": (0.5, 1), "channels": 128, "scale_shift": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADM_CASES)
def test_equals_adm_on_its_weights(case: str) -> None:
    shape, theirs, ours = ADM_CASES[case]
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    standard = {
        "image_size": shape[2], "model_channels": 64, "channel_mult": (1, 2), "num_res_blocks": 1,
        "attention_resolutions": (2,),
    }  # fmt: skip
    reference = adm.UNetModel(in_channels=shape[0], out_channels=shape[0], **{**standard, **theirs})
    check_adm(reference, shape, {**theirs}, {"channels": 64, "groups": 32, **ours})


def test_equals_the_wrapper_that_torchcfm_trains_on_cifar10() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    shape = (3, 32, 32)
    reference = adm.UNetModelWrapper(
        dim=shape, num_res_blocks=1, num_channels=64, channel_mult=[1, 2, 2, 2],
        num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1,
    )  # fmt: skip
    ours = {"channels": 64, "channel_multipliers": (1, 2, 2, 2), "head_channels": 64, "groups": 32, "dropout": 0.1}
    check_adm(reference, shape, {}, ours)


def check_adm(reference: nn.Module, shape: tuple[int, ...], theirs: Options, ours: Options) -> None:
    """Equal outputs in float32, which is all that ADM computes in."""
    reference.eval()
    randomise(reference)
    classes = theirs.get("num_classes", 0)
    model = unet(shape, classes, **{**THEIR_TIME, **ours})
    copy_adm(reference.state_dict(), model, new_attention_order=theirs.get("use_new_attention_order", False))
    x, c_time = inputs(shape)
    label = torch.tensor([0, classes - 1, 2]) if classes else None
    with torch.no_grad():
        assert error(model(x, c_time, label), reference(c_time, x, label)) < 1e-5


def test_the_comparison_would_notice_a_wrong_order_of_heads() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    standard = {"image_size": 8, "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}
    reference = adm.UNetModel(in_channels=1, out_channels=1, attention_resolutions=(2,), num_heads=4, **standard)
    with pytest.raises(AssertionError):
        check_adm(
            reference, (1, 8, 8), {"use_new_attention_order": True}, {"channels": 32, "groups": 32, "num_heads": 4}
        )


def test_the_preset_has_the_parameters_of_torchcfms_cifar10_network() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    with torch.device("meta"):
        theirs = adm.UNetModelWrapper(
            dim=(3, 32, 32), num_res_blocks=2, num_channels=128, channel_mult=[1, 2, 2, 2],
            num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1,
        )  # fmt: skip
    assert preset("unet", (3, 32, 32)) == sum(p.numel() for p in theirs.parameters())


def preset(name: str, shape: tuple[int, ...]) -> int:
    """How many parameters the preset has, found without allocating them."""
    from omegaconf import OmegaConf

    from dfm.config import build, config_dir

    node = OmegaConf.to_container(OmegaConf.load(Path(config_dir()) / "model" / f"{name}.yaml"))
    with torch.device("meta"):
        return sum(p.numel() for p in build(node, "model", shape=shape, num_classes=0).parameters())


PRESETS = [
    ("unet", (3, 32, 32)),
    ("unet_small", (1, 28, 28)),
    ("unet_small", (3, 32, 32)),
    ("unet_digits", (1, 8, 8)),
    ("mlp", (2,)),
]


@pytest.mark.parametrize(("name", "shape"), PRESETS)
def test_a_preset_says_how_many_parameters_it_has(name: str, shape: tuple[int, ...]) -> None:
    from dfm.config import config_dir

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
        (lambda: unet((1, 7, 8)), "7x8 and 2 levels; allowed: height and width divisible by 2; try 1 of channel_mult"),
        (lambda: unet((1, 28, 28), channel_multipliers=(1, 1, 1, 1)), "divisible by 8; try 3 of channel_multipliers"),
        (lambda: unet((2,)), "(2,); allowed: images (C, H, W); try model=mlp"),
        (lambda: unet(channel_multipliers=()), "channel_multipliers=()"),
        (lambda: unet(channels=9, groups=3), "9 sines and cosines of time"),
        (lambda: unet(groups=5), "groups=5 where levels have 8, 16 channels; allowed: a divisor of each; try groups=1"),
        (lambda: unet(groups=0), "groups=0"),
        (lambda: unet(attention_levels=(2,)), "attention_levels=[2]; allowed: levels 0 (full resolution) to 1"),
        (lambda: unet(up_attention_levels=(-1,)), "up_attention_levels=[-1]"),
        (lambda: unet(num_heads=3), "num_heads=3 where attention has 16 channels; allowed: a divisor; try 1"),
        (lambda: unet(head_channels=0), "head_channels=0"),
        (lambda: unet(num_heads=2, head_channels=4), "allowed: one of them"),
        (lambda: unet(dropout=1.0), "dropout=1; allowed: from 0 to below 1"),
        (lambda: unet(downsample="convv"), "unknown downsample 'convv'; allowed: conv, pool, resblock; did"),
        (lambda: unet(upsample=("conv", "conv")), "upsample=['conv', 'conv']; allowed: 1 kinds"),
        (lambda: unet(mid_attention_groups=3), "mid_attention_groups=3 where there are 16 channels"),
        (lambda: unet(blocks_per_level=0), "blocks_per_level=0; allowed: 1 or more"),
        (lambda: unet(time_channels=0), "time_channels=0; allowed: 1 or more"),
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
